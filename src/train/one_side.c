/* See one_side.h. */
#include "train/one_side.h"
#include "base/log.h"
#include <stdlib.h>

static err held_out_rows(struct run *r, const struct row_maker *k, int64_t limit, struct pairs *out) {
    if (limit > 0 && limit < out->source.n) out->source.n = (int)limit;
    TRY((k->make_held_out ? k->make_held_out : k->make)(r, &out->source, &out->rows[0]));
    if (out->rows[0].longest > r->side[0].longest) r->side[0].longest = out->rows[0].longest;
    source_drop_texts(&out->source);
    return OK;
}

struct held_out { const char *path, *vectors; struct npy *open; int64_t limit; };

static err load_held_out(struct run *r, const struct row_maker *k, const struct held_out *h, struct pairs *out) {
    struct source_file file = {.path = h->path, .format = k->want == WANT_TEXT ? r->cfg->side[0].format : NULL};
    struct source_options o = {.want = k->want, .in_memory = UINT64_MAX, .learnt = data_learnt(r)};
    const int64_t limit = h->limit;
    if (!*h->path) return OK;
    data_fields(r, &r->cfg->side[0], k->want, &file.field, &file.field2);
    TRY(data_given(r->side[0].cfg, h->vectors, h->open, &o.given));
    TRY(source_open_files(&file, 1, &o, &out->source));
    return held_out_rows(r, k, limit, out);
}

err one_side_load(struct run *r, const struct row_maker *k) {
    struct side *s = &r->side[0];
    TRY(k->make(r, &s->source, &s->rows));
    source_drop_texts(&s->source);
    s->longest = s->rows.longest;
    if (s->rows.truncated)
        log_warn("%s: %d of %d %s were cut to max_length %lld", s->source.path, s->rows.truncated, s->rows.n, k->name,
                 (long long)r->side[0].cfg->max_length);
    if (r->cfg->eval_split > 0) {
        TRY(data_open(r, s->cfg, k->want, true, &r->eval.source));
        TRY(held_out_rows(r, k, r->cfg->eval_limit, &r->eval));
    }
    TRY(load_held_out(r, k, &(struct held_out){r->cfg->eval_data, r->cfg->eval_vectors, &r->given[1], r->cfg->eval_limit}, &r->eval));
    TRY(load_held_out(r, k, &(struct held_out){r->cfg->test_data, r->cfg->test_vectors, &r->given[2], r->cfg->test_limit}, &r->test));
    return data_order(r, s, 0);
}

err one_side_step(struct run *r, struct step_info *info) { return one_side_step_on(r, info, NULL); }

err one_side_step_on(struct run *r, struct step_info *info,
                     err (*replace)(struct run *r, const struct row **rows, int n, struct step_info *info)) {
    struct side *s = &r->side[0];
    const int n = (int)(s->cfg->batch * s->cfg->accumulation);
    const struct row **rows = malloc((size_t)n * sizeof *rows);
    if (!rows) return fail(E_MEMORY, "out of memory");
    const double t0 = seconds_now();
    err e = data_draw(s, n, rows);
    if (!e && replace) e = replace(r, rows, n, info);
    if (!e) e = learner_step(&s->learner, &r->wb, rows, n, (uint64_t)r->cfg->seed, (uint64_t)r->step, &info->side[0]);
    info->train_s = seconds_now() - t0 - info->generate_s;
    free(rows);
    return e;
}

err one_side_evaluate(struct run *r, const struct pairs *on, json_t *out) {
    if (!on->rows[0].n) return OK;
    json_t *one = json_pack("{s:s}", "name", "");
    json_object_set_new(out, "sides", json_pack("[o]", one));
    return rows_figures(r, &r->side[0], &on->rows[0], one);
}
