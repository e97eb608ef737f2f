/* sft: supervised fine-tuning of one adapter on prompt/completion or conversations, loss on the answer only (on every token
 * where a file is named as text). */
#include "train/one_side.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* [prompt][answer] becomes [prompt EOS][start answer]: the encoder's ids and the decoder's. */
static err split_row(const struct run *r, struct rows *all, struct row *row) {
    int first = 0, n = row->n;
    while (first < n && !row->supervised[first]) first++;
    for (int i = first; i < n; i++)
        if (!row->supervised[i])
            return fail(E_UNSUPPORTED, "%s:%d: answers between prompts; an encoder-decoder (%s) reads one prompt and writes one answer",
                        row->path, row->line, model_arch(&r->model));
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

static err make(struct run *r, struct source *from, struct rows *to) {
    TRY(rows_sft(r->tok, from, (int)r->cfg->max_length, to));
    if (to->stream && r->model.family->seq2seq)
        return fail(E_UNSUPPORTED, "%s is an encoder-decoder (%s), whose rows are not streamed yet: set streaming: false", r->cfg->model,
                    model_arch(&r->model));
    return split_rows(r, to);
}

static err load(struct run *r) {
    TRY(data_open(r, r->side[0].cfg, WANT_SFT, false, &r->side[0].source));
    return one_side_load(r, &(struct row_maker){WANT_SFT, "rows", make});
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
    json_object_set_new(out, "sides",
                        json_pack("[{s:s, s:f, s:f, s:f, s:i}]", "name", "", "loss", loss, "perplexity", exp(loss), "accuracy",
                                  sums[2] / sums[1], "rows", n));
    return OK;
}

const struct objective objective_sft = {.name = "sft", .sides = 1, .load = load, .step = one_side_step, .evaluate = evaluate};
