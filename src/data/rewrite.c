/* See rewrite.h. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "data/rewrite.h"
#include "io/jsonl_out.h"
#include <stdlib.h>
#include <string.h>

/* --- files ----------------------------------------------------------------------------------------------------------- */
static bool same_file(const char *a, const char *b) {
    char *x = realpath(a, NULL), *y = realpath(b, NULL);
    const bool same = x && y && !strcmp(x, y);
    free(x);
    free(y);
    return same;
}

err output_open(struct output *o, const char *path, const struct rewriting *w) {
    *o = (struct output){.path = path};
    for (int i = 0; i < w->n; i++)
        if (same_file(path, w->files[i].path)) return fail(E_USAGE, "%s is what is read: it cannot be written over", path);
    if (path_is_dir(path)) return fail(E_USAGE, "%s is a folder, and a file would be written", path);
    if (!w->overwrite && path_exists(path)) return fail(E_USAGE, "%s exists already; --overwrite replaces it", path);
    return file_create(&o->f, path);
}

static err put(struct output *o, str *line, err e) {
    if (!e && line->failed) e = fail(E_MEMORY, "out of memory");
    if (!e) e = file_put(&o->f, line->p, line->n);
    o->rows += !e;
    o->bytes += line->n;
    str_free(line);
    return e;
}

err output_record(struct output *o, const struct visited *v) {
    str line = {0};
    err e = record_line(&v->part->layout, v->x, &line);
    return put(o, &line, e ? fail_in(e, "%s:%d", v->part->path, v->x->line) : OK);
}

err output_line(struct output *o, json_t *object) {
    str line = {0};
    jsonl_add(&line, object);
    return put(o, &line, OK);
}

err output_commit(struct output *o, json_t *list) {
    char hash[33];
    TRY(file_commit(&o->f));
    if (o->bytes) TRY(file_hash(o->path, hash));
    else bytes_hash("", 0, hash);
    json_array_append_new(list,
                          json_pack("{s:s, s:s, s:I, s:i}", "path", o->path, "hash", hash, "bytes", (json_int_t)o->bytes, "rows", o->rows));
    return OK;
}

void output_abandon(struct output *o) { file_abandon(&o->f); }

/* --- cards ----------------------------------------------------------------------------------------------------------- */
json_t *card_begin(const char *command, const char *version) {
    return json_pack("{s:s, s:s, s:[], s:{}, s:{}, s:[]}", "command", command, "cyclora", version, "inputs", "settings", "counts",
                     "outputs");
}

void card_inputs(json_t *card, const char *key, const struct source *s) {
    json_t *list = json_array();
    for (int i = 0; i < s->n_parts; i++) {
        const struct source_part *p = &s->part[i];
        json_t *one = json_pack("{s:s, s:s, s:s, s:s}", "path", p->path, "container", container_name(p->layout.container), "shape",
                                layout_name(&p->layout), "hash", p->hash);
        if (s->streams) json_object_set_new(one, "bytes", json_integer((json_int_t)p->file.n)); /* a file in memory is closed */
        json_object_set_new(one, "rows", json_integer(p->n));
        json_array_append_new(list, one);
    }
    json_object_set_new(card, key, list);
}

void card_count(json_t *card, const char *name, int64_t n) {
    json_object_set_new(json_object_get(card, "counts"), name, json_integer((json_int_t)n));
}

void card_set(json_t *card, const char *name, json_t *value) { json_object_set_new(json_object_get(card, "settings"), name, value); }

static void add_cell(str *out, const json_t *v) {
    char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
    for (const char *p = json_is_string(v) ? json_string_value(v) : text ? text : ""; *p; p++) {
        if (*p == '|') str_addc(out, '\\');
        str_addc(out, *p == '\n' ? ' ' : *p);
    }
    free(text);
}

/* A list of objects with the same keys as a table. */
static void add_table(str *out, const char *title, const json_t *list) {
    const json_t *row, *v;
    const char *key;
    size_t i;
    if (!json_array_size(list)) return;
    str_addf(out, "\n## %s\n\n|", title);
    json_object_foreach(json_array_get(list, 0), key, v) str_addf(out, " %s |", key);
    str_adds(out, "\n|");
    for (i = 0; i < json_object_size(json_array_get(list, 0)); i++) str_adds(out, "---|");
    json_array_foreach(list, i, row) {
        str_adds(out, "\n|");
        json_object_foreach((json_t *)row, key, v) str_addc(out, ' '), add_cell(out, v), str_adds(out, " |");
    }
    str_addc(out, '\n');
}

static void add_names(str *out, const char *title, const json_t *object) {
    const char *key;
    json_t *v;
    if (!json_object_size(object)) return;
    str_addf(out, "\n## %s\n\n| | |\n|---|---|\n", title);
    json_object_foreach((json_t *)object, key, v) str_addf(out, "| %s | ", key), add_cell(out, v), str_adds(out, " |\n");
}

static void add_card(str *out, const json_t *card) {
    const char *key;
    json_t *v;
    str_addf(out, "# cyclora data %s\n\nWritten by cyclora %s; the same command on the same files writes the same bytes.\n",
             json_string_value(json_object_get(card, "command")), json_string_value(json_object_get(card, "cyclora")));
    json_object_foreach((json_t *)card, key, v) {
        if (json_is_array(v)) add_table(out, key, v);
        else if (json_is_object(v)) add_names(out, key, v);
    }
}

err card_write(const json_t *card, const char *path) {
    char name[4200];
    str text = {0};
    char *json = json_dumps(card, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    if (!json) return fail(E_MEMORY, "out of memory");
    str_addf(&text, "%s\n", json);
    free(json);
    snprintf(name, sizeof name, "%s.card.json", path);
    err e = text.failed ? fail(E_MEMORY, "out of memory") : file_write(name, text.p, text.n);
    str_clear(&text);
    if (!e) add_card(&text, card);
    snprintf(name, sizeof name, "%s.card.md", path);
    if (!e) e = text.failed ? fail(E_MEMORY, "out of memory") : file_write(name, text.p, text.n);
    str_free(&text);
    return e;
}
