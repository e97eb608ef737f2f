/* See dedup.h. */
#include "data/dedup.h"
#include <string.h>

struct writing {
    const struct source *s;
    struct twins *t;
    struct output out, removed;
    bool list; /* removed is open */
    struct fetcher f;
    struct twin next; /* the next record that goes */
};

static err add_removed(struct writing *w, const struct visited *v) {
    const struct source_part *kept_part;
    struct extent kept;
    w->f.window = 1 << 14;
    TRY(source_scan(w->s, w->next.of, &w->f, &kept, &kept_part));
    json_t *line = json_pack("{s:s, s:i, s:s, s:i, s:f}", "path", v->part->path, "line", v->x->line, "kept_path", kept_part->path,
                             "kept_line", kept.line, "jaccard", (double)w->next.jaccard);
    return output_line(&w->removed, line);
}

static err write_record(void *ctx, const struct visited *v) {
    struct writing *w = ctx;
    if (w->next.row != v->i) return output_record(&w->out, v);
    if (w->list) TRY(add_removed(w, v));
    return twins_next(w->t, &w->next);
}

static void fill_card(json_t *card, const struct source *s, const struct twin_options *o, const struct twins *t) {
    card_inputs(card, "inputs", s);
    card_set(card, "exact", json_boolean(o->exact));
    if (!o->exact) {
        card_set(card, "threshold", json_real(o->threshold));
        card_set(card, "permutations", json_integer(o->permutations));
        card_set(card, "shingle", json_integer(o->shingles.size));
        card_set(card, "of", json_string(o->shingles.words ? "words" : "characters"));
        card_set(card, "seed", json_integer((json_int_t)o->seed));
        card_set(card, "bands", json_integer(t->bands.n));
        card_set(card, "rows_a_band", json_integer(t->bands.rows));
    }
    card_count(card, "read", s->n);
    card_count(card, "removed_equal", t->n_equal);
    if (!o->exact) card_count(card, "removed_near", t->n_near);
    card_count(card, "kept", s->n - t->n_equal - t->n_near);
    card_count(card, "clusters", t->clusters);
    card_count(card, "largest_cluster", t->largest);
    if (!o->exact) card_count(card, "comparisons", t->verified), card_count(card, "comparisons_left_out", t->left_out);
}

static err write_all(struct writing *w, json_t *card) {
    json_t *list = json_object_get(card, "outputs");
    TRY(twins_next(w->t, &w->next));
    TRY(records_pass(&(struct record_pass){w->s, NULL, write_record, w}));
    TRY(output_commit(&w->out, list));
    return w->list ? output_commit(&w->removed, list) : OK;
}

err data_dedup(const struct rewriting *w, const struct twin_options *o, const char *removed) {
    struct source s;
    struct twins t = {0};
    struct writing to = {.s = &s, .t = &t, .list = removed != NULL};
    TRY(twins_check(o));
    if (removed && !strcmp(removed, w->out)) return fail(E_USAGE, "%s cannot be both the output and the list of what was removed", removed);
    TRY(output_open(&to.out, w->out, w));
    err e = removed ? output_open(&to.removed, removed, w) : OK;
    if (e) return output_abandon(&to.out), e;
    e = source_open_files(w->files, w->n, &(struct source_options){.want = WANT_ANY}, &s);
    if (!e) {
        e = twins_find(&s, o, &t);
        if (!e) fill_card(w->card, &s, o, &t);
        if (!e) e = write_all(&to, w->card);
        if (!e) e = card_write(w->card, w->out);
        fetcher_free(&to.f);
        twins_free(&t);
        source_close(&s);
    }
    output_abandon(&to.out);
    output_abandon(&to.removed);
    return e;
}
