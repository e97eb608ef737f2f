/* Stochastic gradient descent as torch.optim.SGD, with momentum (one f32 state) or without (none). Its decay is added to the gradient, not
 * decoupled. Called through its row of optimizers.def. */
#include "optim/optim.h"

static int states(const struct optim_settings *how, const struct optim_part *of, struct optim_state *out) {
    return optim_list(out, 0, "momentum_buffer", DT_F32, how->momentum > 0 ? of->end - of->first : 0);
}

static err step(const struct optim_step *o) {
    float *m = o->how->momentum > 0 ? o->state[0].p : NULL;
    struct optim_stretch s;
    for (size_t at = 0; optim_stretch(o, &at, &s);) {
        const struct sgd k = {.lr = s.lr,
                              .momentum = o->how->momentum,
                              .weight_decay = s.weight_decay,
                              .nesterov = o->how->nesterov,
                              .grad_scale = o->grad_scale};
        TRY(o->backend->flat->sgd(&k, &(struct momentum_state){s.w, m ? m + s.at : NULL, s.g}, s.n, o->threads));
    }
    return OK;
}

static void describe(const struct optim_settings *how, str *out) {
    str_adds(out, how->momentum > 0 ? "SGD, its momentum in f32" : "SGD without momentum: no state");
}

const struct optimizer optimizer_sgd = {.name = "sgd", .states = states, .step = step, .describe = describe, .elementwise = true};
