/* See check.h. One pass over each file, record by record; with a tokenizer beside the pass that makes rows of them, so that a record's troubles and its
 * row's come together. */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include "data/check.h"
#include "data/rows.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum kind { RECORD, ROLES, CONTROL, ROW, LONG, CUT, SYMBOLS, KINDS };
static const struct {
    const char *name;
    bool bad;
} kinds[KINDS] = {{"record", true}, {"roles", true}, {"control", true}, {"row", true}, {"long", false}, {"cut", false}, {"symbols", false}};

struct trouble {
    enum kind kind;
    int file, line;
    char *what;
};
enum { FIELDS = 64 };
struct census { /* which fields there are, and of how many records */
    char *name[FIELDS];
    int64_t rows[FIELDS];
    int n;
    int64_t fit, crlf;
};
struct checking {
    const struct check_options *o;
    const struct source *s; /* the file that is looked at, and its number */
    int file, at;           /* at: the record that is read next */
    struct fetcher f;
    struct census census;
    bool is_bad, is_warned; /* the record that is looked at */
    struct trouble *v;
    int n, cap;
    int64_t count[KINDS], rows, bad, warned;
};

static err add(struct checking *c, int line, enum kind kind, const char *what) {
    c->count[kind]++;
    if (kinds[kind].bad) c->is_bad = true;
    else c->is_warned = true;
    if (c->o->limit && c->n == c->o->limit) return OK;
    if (c->n == c->cap) {
        const int cap = 2 * c->cap + 64;
        struct trouble *v = realloc(c->v, (size_t)cap * sizeof *v);
        if (!v) return fail(E_MEMORY, "out of memory");
        c->v = v, c->cap = cap;
    }
    str text = {0};
    str_adds(&text, what);
    utf8_repair(&text); /* it may quote the record */
    c->v[c->n] = (struct trouble){kind, c->file, line, text.p};
    c->n++;
    return text.failed ? fail(E_MEMORY, "out of memory") : OK;
}

/* --- texts ---------------------------------------------------------------------------------------------------------- */
/* What common models read as the end of a turn, or of everything. */
static const char *control_in(const char *text) {
    static const char *const marks[] = {"<|im_start|>",
                                        "<|im_end|>",
                                        "<|endoftext|>",
                                        "<|eot_id|>",
                                        "<|start_header_id|>",
                                        "<|end|>",
                                        "<|user|>",
                                        "<|assistant|>",
                                        "<start_of_turn>",
                                        "<end_of_turn>",
                                        "[INST]",
                                        "[/INST]",
                                        "<bos>",
                                        "<eos>",
                                        "<s>",
                                        "</s>",
                                        "<|end_of_text|>",
                                        "<|begin_of_text|>"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (strstr(text, marks[i])) return marks[i];
    return NULL;
}

/* Where an answer plainly was not finished: what it stops behind, NULL where it was. */
static const char *unfinished(const char *text) {
    static const char stops[] = ",:;([{";
    static const char *const names[] = {"a comma",           "a colon", "a semicolon", "an opening bracket", "an opening bracket",
                                        "an opening bracket"};
    int fences = 0;
    size_t n = strlen(text);
    for (const char *p = text; (p = strstr(p, "```")); p += 3) fences++;
    if (fences % 2) return "a code fence that is never closed";
    while (n && bytes_are_blank(text + n - 1, 1)) n--;
    const char *at = n ? strchr(stops, text[n - 1]) : NULL;
    return at ? names[at - stops] : NULL;
}

static err check_text(struct checking *c, const struct record *r, const char *where, const char *text) {
    char what[200];
    const char *mark = control_in(text), *lost = strstr(text, "\xEF\xBF\xBD");
    if (mark && !(r->n_turns && c->o->tk)) { /* with a tokenizer its own tokens decide */
        snprintf(what, sizeof what, "%s holds %s, which models read as a control token: remove it, or write it otherwise", where, mark);
        TRY(add(c, r->line, r->n_turns ? CONTROL : SYMBOLS, what));
    }
    if (lost) {
        snprintf(what, sizeof what, "%s holds U+FFFD (byte %zu): it was decoded wrongly before; go back to where it is from", where,
                 (size_t)(lost - text));
        TRY(add(c, r->line, SYMBOLS, what));
    }
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if ((*p >= 0x20 && *p != 0x7F) || strchr("\t\n\r", *p)) continue;
        snprintf(what, sizeof what, "%s holds the control character 0x%02x (byte %zu): remove it", where, *p,
                 (size_t)((const char *)p - text));
        return add(c, r->line, SYMBOLS, what);
    }
    return OK;
}

static err check_answer(struct checking *c, const struct record *r, const char *answer) {
    char what[120];
    const char *stop = unfinished(answer);
    if (!stop) return OK;
    snprintf(what, sizeof what, "the last answer stops behind %s: was it cut?", stop);
    return add(c, r->line, CUT, what);
}

/* What is out of order at turn i, NULL: nothing. */
static const char *disorder(const struct chat_message *t, int i, int n) {
    const bool assistant = !strcmp(t[i].role, "assistant"), system = !strcmp(t[i].role, "system"), tool = !strcmp(t[i].role, "tool");
    if (system) return i ? "a system turn belongs to the beginning" : NULL;
    if (i + 1 == n && !assistant) return "no answer follows it, so it teaches nothing: remove it, or add the answer";
    if (assistant && (!i || !strcmp(t[i - 1].role, "system"))) return "an answer without a question before it";
    return i && !tool && !strcmp(t[i].role, t[i - 1].role) ? "two turns of one speaker in a row: make them one" : NULL;
}

static err check_turns(struct checking *c, const struct record *r) {
    char where[64], what[200];
    for (int i = 0; i < r->n_turns; i++) {
        const struct chat_message *t = &r->turns[i];
        const char *wrong = disorder(r->turns, i, r->n_turns);
        snprintf(where, sizeof where, "turn %d (%s)", i + 1, t->role);
        snprintf(what, sizeof what, "%s: %s", where, wrong ? wrong : "");
        if (wrong) TRY(add(c, r->line, ROLES, what));
        TRY(check_text(c, r, where, t->content));
        if (i + 1 == r->n_turns && !strcmp(t->role, "assistant")) TRY(check_answer(c, r, t->content));
    }
    return OK;
}

static err check_record(struct checking *c, const struct record *r) {
    if (r->n_turns) return check_turns(c, r);
    if (r->text) return check_text(c, r, "the text", r->text);
    TRY(check_text(c, r, "the prompt", r->prompt));
    TRY(check_text(c, r, "the completion", r->completion));
    return check_answer(c, r, r->completion);
}

/* --- a file --------------------------------------------------------------------------------------------------------- */
static err count_fields(const struct layout *l, const struct extent *x, struct census *f) {
    json_t *o, *v;
    const char *key;
    if (l->container == IN_LINES || record_object(l, x, &o)) return OK; /* what is wrong with it is said by who reads it */
    json_object_foreach(o, key, v) {
        int i = 0;
        while (i < f->n && strcmp(f->name[i], key) != 0) i++;
        if (i == FIELDS) continue;
        if (i == f->n && !(f->name[f->n++] = strdup(key))) return json_decref(o), fail(E_MEMORY, "out of memory");
        f->rows[i]++;
    }
    json_decref(o);
    return OK;
}

static err read_record(struct checking *c, const struct source_part *p, const struct extent *x, arena *mem) {
    struct record r;
    struct census *f = &c->census;
    struct layout l = p->layout; /* none could be told: then why not, of this record */
    TRY(count_fields(&p->layout, x, f));
    f->crlf += p->layout.container != IN_ARRAY && x->n && x->p[x->n - 1] == '\r';
    err e = l.shape == SHAPE_UNKNOWN ? layout_find(&l, x, WANT_ANY) : OK;
    if (!e) e = record_parse(&l, x, mem, &r);
    if (e == E_MEMORY) return e;
    if (e) return add(c, x->line, RECORD, err_text());
    f->fit++;
    return check_record(c, &r);
}

/* The next record. */
static err look_at(struct checking *c) {
    const struct source_part *p;
    struct extent x;
    arena mem = {0};
    c->is_bad = c->is_warned = false;
    err e = source_scan(c->s, c->at++, &c->f, &x, &p);
    if (!e) e = read_record(c, p, &x, &mem);
    arena_free(&mem);
    return e;
}

static void count_record(struct checking *c) {
    c->bad += c->is_bad;
    c->warned += c->is_warned && !c->is_bad;
}

static err look_at_row(struct checking *c, const struct row_seen *row) {
    const size_t most = (size_t)c->o->max_length;
    char what[200];
    if (row->e == E_MEMORY) return fail(row->e, "%s", row->wrong);
    if (row->e && c->is_bad) return OK;
    if (row->e) { /* the message begins with file:line, which a trouble has apart */
        const size_t path = strlen(row->path), colon = path + 1 + strcspn(row->wrong + path + 1, ":");
        return add(c, row->line, ROW, row->wrong + colon + 2);
    }
    if (row->tokens > most) {
        snprintf(what, sizeof what, "%zu tokens, and max_length is %zu: the last %zu are lost; shorten it, split it, or raise max_length",
                 row->tokens, most, row->tokens - most);
        TRY(add(c, row->line, LONG, what));
    }
    return row->supervised ? OK : add(c, row->line, ROW, "nothing of an answer is left within max_length, so there is nothing to learn");
}

static err see_row(void *ctx, const struct row_seen *row) {
    struct checking *c = ctx;
    TRY(look_at(c));
    TRY(look_at_row(c, row));
    return count_record(c), OK;
}

static err look_at_all(struct checking *c) {
    err e = OK;
    if (c->o->tk && c->s->part->layout.shape != SHAPE_UNKNOWN) return rows_visit(c->o->tk, c->s, c->o->max_length, see_row, c);
    while (c->at < c->s->n && !e)
        if (!(e = look_at(c))) count_record(c);
    return e;
}

static json_t *file_json(const struct source *s, const struct census *f) {
    static const char *const packings[] = {"none", "gzip", "zstd"};
    const struct source_part *p = s->part;
    char first[3] = {0};
    size_t got = 0;
    json_t *fields = json_array();
    for (int i = 0; i < f->n; i++)
        json_array_append_new(fields, json_pack("{s:s, s:I}", "name", f->name[i], "rows", (json_int_t)f->rows[i]));
    if (text_file_read(&p->file, 0, first, 3, &got)) got = 0;
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:i, s:I, s:o, s:b, s:I}", "path", p->path, "container",
                     container_name(p->layout.container), "shape", layout_name(&p->layout), "packing", packings[p->file.packing], "bytes",
                     (json_int_t)p->file.n, "rows", s->n, "fit", (json_int_t)f->fit, "fields", fields, "byte_order_mark",
                     got == 3 && !memcmp(first, "\xEF\xBB\xBF", 3), "crlf", (json_int_t)f->crlf);
}

static err check_file(struct checking *c, const struct source_file *file, json_t *files) {
    struct source s;
    TRY(source_open_files(file, 1, &(struct source_options){.want = WANT_ANY, .vote = true}, &s));
    c->s = &s, c->at = 0;
    err e = look_at_all(c);
    c->rows += s.n;
    if (!e) json_array_append_new(files, file_json(&s, &c->census));
    for (int i = 0; i < c->census.n; i++) free(c->census.name[i]);
    c->census = (struct census){0};
    fetcher_free(&c->f);
    source_close(&s);
    return e;
}

/* --- all of them ---------------------------------------------------------------------------------------------------- */
static void report(const struct checking *c, const struct source_file *files, json_t *out) {
    json_t *list = json_array(), *counts = json_array();
    for (int i = 0; i < c->n; i++)
        json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:b, s:s}", "path", files[c->v[i].file].path, "line", c->v[i].line, "kind",
                                              kinds[c->v[i].kind].name, "bad", kinds[c->v[i].kind].bad, "what", c->v[i].what));
    for (int k = 0; k < KINDS; k++)
        if (c->count[k])
            json_array_append_new(
                counts, json_pack("{s:s, s:b, s:I}", "kind", kinds[k].name, "bad", kinds[k].bad, "count", (json_int_t)c->count[k]));
    json_object_update_new(out, json_pack("{s:I, s:I, s:I, s:o, s:o}", "rows", (json_int_t)c->rows, "bad", (json_int_t)c->bad, "warned",
                                          (json_int_t)c->warned, "kinds", counts, "troubles", list));
}

err data_check(const struct source_file *files, int n, const struct check_options *o, json_t *out) {
    struct checking c = {.o = o};
    json_t *list = json_array();
    err e = OK;
    for (c.file = 0; c.file < n && !e; c.file++) e = check_file(&c, &files[c.file], list);
    json_object_set_new(out, "files", list);
    if (!e) report(&c, files, out);
    for (int i = 0; i < c.n; i++) free(c.v[i].what);
    free(c.v);
    return e;
}
