/* sft: supervised fine-tuning of one adapter on prompt/completion or conversations, loss on the answer only (on every token
 * where a file is named as text). */
#include "train/run.h"
#include "base/log.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* [prompt][answer] becomes [prompt EOS][start answer]: the encoder's ids and the decoder's. */
static err split_row(const struct run *r, struct rows *all, struct row *row) {
    int first = 0, n = row->n;
    while (first < n && !row->supervised[first]) first++;
    for (int i = first; i < n; i++)
        if (!row->supervised[i]) return fail(E_UNSUPPORTED, "%s:%d: answers between prompts; an encoder-decoder (%s) reads one prompt and writes one answer", row->path, row->line, model_arch(&r->model));
    if (!first) return fail(E_INPUT, "%s:%d: an encoder-decoder (%s) needs a prompt", row->path, row->line, model_arch(&r->model));
    const bool ends = row->ids[first - 1] == r->eos;
    int32_t *ids = arena_alloc(&all->mem, (size_t)(n + 2) * sizeof *ids);
    uint8_t *supervised = arena_alloc(&all->mem, (size_t)n + 2);
    if (!ids || !supervised) return fail(E_MEMORY, "out of memory");
    memcpy(ids, row->ids, (size_t)first * sizeof *ids);
    if (!ends) ids[first] = r->eos;
    row->source = first + !ends;
    ids[row->source] = r->model.shape.start;
    memcpy(ids + row->source + 1, row->ids + first, (size_t)(n - first) * sizeof *ids);
    row->n = row->source + 1 + n - first;
    memset(supervised + row->source + 1, 1, (size_t)(n - first));
    row->ids = ids;
    row->supervised = supervised;
    if (row->n > all->longest) all->longest = row->n;
    return OK;
}

static err split_rows(const struct run *r, struct rows *all) {
    for (int i = 0; i < all->n && r->model.family->seq2seq; i++) TRY(split_row(r, all, &all->r[i]));
    return OK;
}

static err eval_rows(struct run *r, int64_t limit, struct pairs *out) {
    if (limit > 0 && limit < out->source.n) out->source.n = (int)limit;
    TRY(rows_sft(r->tok, &out->source, (int)r->cfg->max_length, &out->rows[0]));
    TRY(split_rows(r, &out->rows[0]));
    if (out->rows[0].longest > r->side[0].longest) r->side[0].longest = out->rows[0].longest;
    source_drop_texts(&out->source);
    return OK;
}

static err load_eval(struct run *r, const char *path, int64_t limit, struct pairs *out) {
    if (!*path) return OK;
    TRY(source_open(path, WANT_SFT, NULL, NULL, &out->source));
    return eval_rows(r, limit, out);
}

static err load(struct run *r) {
    struct side *s = &r->side[0];
    TRY(data_open(r, s->cfg, WANT_SFT, false, &s->source));
    TRY(rows_sft(r->tok, &s->source, (int)r->cfg->max_length, &s->rows));
    if (s->rows.stream && r->model.family->seq2seq)
        return fail(E_UNSUPPORTED, "%s is an encoder-decoder (%s), whose rows are not streamed yet: set streaming: false", r->cfg->model, model_arch(&r->model));
    TRY(split_rows(r, &s->rows));
    source_drop_texts(&s->source);
    s->longest = s->rows.longest;
    if (s->rows.truncated) log_warn("%s: %d of %d rows were cut to max_length %lld", s->source.path, s->rows.truncated, s->rows.n, (long long)r->cfg->max_length);
    if (r->cfg->eval_split > 0) {
        TRY(data_open(r, s->cfg, WANT_SFT, true, &r->eval.source));
        TRY(eval_rows(r, r->cfg->eval_limit, &r->eval));
    }
    TRY(load_eval(r, r->cfg->eval_data, r->cfg->eval_limit, &r->eval));
    TRY(load_eval(r, r->cfg->test_data, r->cfg->test_limit, &r->test));
    return data_order(r, s, 0);
}

static err step(struct run *r, struct step_info *info) {
    struct side *s = &r->side[0];
    int n = (int)(s->cfg->batch * s->cfg->accumulation);
    const struct row **rows = malloc((size_t)n * sizeof *rows);
    if (!rows) return fail(E_MEMORY, "out of memory");
    double t0 = seconds_now();
    err e = data_draw(s, n, rows);
    if (!e) e = learner_step(&s->learner, &r->wb, rows, n, (uint64_t)r->cfg->seed, (uint64_t)r->step, &info->side[0]);
    info->train_s = seconds_now() - t0;
    free(rows);
    return e;
}

static err evaluate(struct run *r, const struct pairs *on, json_t *out) {
    const struct rows *rows = &on->rows[0];
    int n = rows->n;
    if (!n) return OK;
    const struct row **list = malloc((size_t)n * sizeof *list);
    if (!list) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n; i++) list[i] = &rows->r[i];
    double sums[4];
    err e = rows_loss(&r->side[0].plans->score, &r->wb, r->side[0].learner.w, list, n, sums);
    free(list);
    if (e) return e;
    double loss = sums[0] / sums[1];
    json_object_set_new(out, "sides", json_pack("[{s:s, s:f, s:f, s:f, s:i}]", "name", "", "loss", loss, "perplexity", exp(loss), "accuracy", sums[2] / sums[1], "rows", n));
    return OK;
}

const struct objective objective_sft = {.name = "sft", .sides = 1, .load = load, .step = step, .evaluate = evaluate};
