/* sft: supervised fine-tuning of one adapter on prompt/completion or conversations, loss on the answer only (on every token
 * where a file is named as text). */
#include "train/one_side.h"

static err make(struct run *r, struct source *from, struct rows *to) {
    if (r->base[0].model.family->seq2seq && from->opt.learnt == LEARN_ALL)
        return fail(E_USAGE, "loss_on: all has no use with an encoder-decoder (%s): its encoder reads the prompt, and predicts nothing",
                    model_arch(&r->base[0].model));
    TRY(rows_sft(r->base[0].tok, from, (int)r->side[0].cfg->max_length, to));
    return base_split_rows(&r->base[0], to);
}

static err load(struct run *r) {
    TRY(data_open(r, r->side[0].cfg, WANT_SFT, false, &r->side[0].source));
    return one_side_load(r, &(struct row_maker){WANT_SFT, "rows", make, NULL});
}

const struct objective objective_sft = {.name = "sft", .sides = 1, .load = load, .step = one_side_step, .evaluate = one_side_evaluate};
