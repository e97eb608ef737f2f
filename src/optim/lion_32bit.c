/* Lion (Chen et al. 2023): the sign of a momentum, one f32 state. Its betas are AdamW's keys, as in transformers; the paper's are 0.9 and 0.99, its
 * learning rate a third to a tenth of AdamW's, its decay so many times more. Called through its row of optimizers.def. */
#include "optim/optim.h"

static int states(const struct optim_settings *how, const struct optim_part *of, struct optim_state *out) {
    (void)how;
    return optim_list(out, 0, "exp_avg", DT_F32, of->end - of->first);
}

static err step(const struct optim_step *o) {
    float *m = o->state[0].p;
    struct optim_stretch s;
    for (size_t at = 0; optim_stretch(o, &at, &s);) {
        const struct lion k = {
            .lr = s.lr, .beta1 = o->how->beta1, .beta2 = o->how->beta2, .weight_decay = s.weight_decay, .grad_scale = o->grad_scale};
        TRY(o->backend->flat->lion(&k, &(struct momentum_state){s.w, m + s.at, s.g}, s.n, o->threads));
    }
    return OK;
}

static void describe(const struct optim_settings *how, str *out) { (void)how, str_adds(out, "Lion, one f32 state"); }

const struct optimizer optimizer_lion_32bit = {
    .name = "lion_32bit", .states = states, .step = step, .describe = describe, .elementwise = true};
