/* See parts.h. */
#include "data/parts.h"
#include "data/recipes.h"
#include "data/said.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TRAIN, DEV, TEST, N_PARTS };
static const char *const names[N_PARTS] = {"train", "dev", "test"};

struct dealing {
    const struct split_options *o;
    struct shares shares;
    struct output out[N_PARTS];
    arena mem;
    uint8_t part[BLOCK];
};

static bool wanted(const struct dealing *d, int part) { return part == TRAIN || (part == DEV ? d->o->dev : d->o->test) > 0; }

/* A group by its text, or its number as JSON writes it. */
static err group_of(const struct visited *v, const char *field, str *out) {
    json_t *object;
    TRY(record_object(&v->part->layout, v->x, &object));
    const json_t *g = json_object_get(object, field);
    char *own = json_is_number(g) ? json_dumps(g, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15)) : NULL;
    err e = json_is_string(g) || own ? OK
            : g                      ? fail(E_INPUT, "the group, \"%.60s\", is neither a string nor a number", field)
                                     : fail(E_INPUT, "no field \"%.60s\", which --group names", field);
    if (!e) str_adds(out, own ? own : json_string_value(g));
    free(own);
    json_decref(object);
    return e ? e : out->failed ? fail(E_MEMORY, "out of memory") : OK;
}

static err choose(void *ctx, const struct visited *v) {
    struct dealing *d = ctx;
    str key = {0};
    err e = d->o->group ? group_of(v, d->o->group, &key) : said(v->r, &key);
    if (!e) {
        const enum part part = recipe_part(key.p ? key.p : "", d->o->seed, &d->shares);
        d->part[v->k] = part == PART_TEST ? TEST : part == PART_DEV ? DEV : TRAIN;
    }
    str_free(&key);
    return e;
}

static err take(void *ctx, const struct visited *v) {
    struct dealing *d = ctx;
    return output_record(&d->out[d->part[v->k]], v);
}

static void fill_card(const struct dealing *d, json_t *card, const struct source *s) {
    card_inputs(card, "inputs", s);
    card_set(card, "dev", json_real(d->o->dev));
    card_set(card, "test", json_real(d->o->test));
    card_set(card, "group", d->o->group ? json_string(d->o->group) : json_null());
    card_set(card, "seed", json_integer((json_int_t)d->o->seed));
    card_count(card, "read", s->n);
    for (int i = 0; i < N_PARTS; i++)
        if (wanted(d, i)) card_count(card, names[i], d->out[i].rows);
}

/* Files that lie in `folder` now are named where they will be. */
static err commit_all(struct dealing *d, const struct rewriting *w, const char *folder) {
    json_t *list = json_object_get(w->card, "outputs");
    for (int i = 0; i < N_PARTS; i++) {
        if (!wanted(d, i)) continue;
        if (!d->out[i].rows)
            return fail(E_INPUT, "no record falls to %s.jsonl: %s", names[i],
                        i == TRAIN    ? "lower --test and --dev"
                        : d->o->group ? "raise its share, or take a smaller group"
                                      : "raise its share, or set it to 0");
        TRY(output_commit(&d->out[i], list));
        json_object_set_new(json_array_get(list, json_array_size(list) - 1), "path", json_sprintf("%s/%s.jsonl", w->out, names[i]));
    }
    const char *card = arena_printf(&d->mem, "%s/split", folder);
    return card ? card_write(w->card, card) : fail(E_MEMORY, "out of memory");
}

static err deal(struct dealing *d, const struct rewriting *w, const char *folder) {
    struct source s;
    err e = OK;
    for (int i = 0; i < N_PARTS && !e; i++) {
        const char *path = arena_printf(&d->mem, "%s/%s.jsonl", folder, names[i]);
        if (!path) e = fail(E_MEMORY, "out of memory");
        else if (wanted(d, i)) e = output_open(&d->out[i], path, w);
    }
    if (!e && !(e = source_open_files(w->files, w->n, &(struct source_options){.want = WANT_ANY}, &s))) {
        e = records_pass(&(struct record_pass){&s, choose, take, d});
        fill_card(d, w->card, &s);
        if (!e) e = commit_all(d, w, folder);
        source_close(&s);
    }
    for (int i = 0; i < N_PARTS; i++) output_abandon(&d->out[i]);
    return e;
}

err data_split(const struct rewriting *w, const struct split_options *o) {
    struct dealing d = {.o = o, .shares = {0, o->dev, o->test}};
    if (!(o->dev >= 0 && o->test >= 0 && o->dev + o->test < 1))
        return fail(E_USAGE, "shares of %g and %g leave nothing for train.jsonl: they must be 0 at least, and together below 1", o->dev,
                    o->test);
    if (o->dev + o->test == 0) return fail(E_USAGE, "nothing to split off: --test or --dev must be above 0");
    if (path_exists(w->out)) return fail(E_USAGE, "%s exists already: name another folder, or remove it", w->out);
    const char *folder = arena_printf(&d.mem, "%s.tmp-%ld", w->out, (long)getpid());
    err e = folder ? dir_make(folder) : fail(E_MEMORY, "out of memory");
    if (!e) e = deal(&d, w, folder);
    if (!e) e = dir_replace(folder, w->out);
    if (e && folder && path_exists(folder)) dir_remove(folder);
    arena_free(&d.mem);
    return e;
}
