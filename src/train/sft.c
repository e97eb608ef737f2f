/* sft: supervised fine-tuning of one adapter on prompt/completion or conversations, loss on the answer only (on every token
 * where a file is named as text). */
#include "train/one_side.h"
#include <math.h>

static err make(struct run *r, struct source *from, struct rows *to) {
    if (r->base[0].model.family->seq2seq && from->opt.learnt == LEARN_ALL)
        return fail(E_USAGE, "loss_on: all has no use with an encoder-decoder (%s): its encoder reads the prompt, and predicts nothing",
                    model_arch(&r->base[0].model));
    TRY(rows_sft(r->base[0].tok, from, (int)r->side[0].cfg->max_length, to));
    return base_split_rows(&r->base[0], to);
}

static err load(struct run *r) {
    TRY(data_open(r, r->side[0].cfg, WANT_SFT, false, &r->side[0].source));
    return one_side_load(r, &(struct row_maker){WANT_SFT, "rows", make});
}

static err evaluate(struct run *r, const struct pairs *on, json_t *out) {
    double sums[4];
    const int n = on->rows[0].n;
    if (!n) return OK;
    TRY(one_side_loss(r, &on->rows[0], sums));
    double loss = sums[0] / sums[1];
    json_object_set_new(out, "sides",
                        json_pack("[{s:s, s:f, s:f, s:f, s:i}]", "name", "", "loss", loss, "perplexity", exp(loss), "accuracy",
                                  sums[2] / sums[1], "rows", n));
    return OK;
}

const struct objective objective_sft = {.name = "sft", .sides = 1, .load = load, .step = one_side_step, .evaluate = evaluate};
