/* AdamW (Loshchilov, Hutter 2019), as torch.optim.AdamW: two f32 states, as large as what is trained. Called through its row of optimizers.def. */
#include "optim/adamw.h"

static int states(const struct optim_settings *how, const struct optim_part *of, struct optim_state *out) {
    (void)how;
    const int n = optim_list(out, 0, "exp_avg", DT_F32, of->end - of->first);
    return optim_list(out, n, "exp_avg_sq", DT_F32, of->end - of->first);
}

struct adamw adamw_of_step(const struct optim_step *o, double lr, double weight_decay) {
    return (struct adamw){.lr = lr,
                          .beta1 = o->how->beta1,
                          .beta2 = o->how->beta2,
                          .eps = o->how->epsilon,
                          .weight_decay = weight_decay,
                          .t = o->t,
                          .grad_scale = o->grad_scale};
}

static err step(const struct optim_step *o) {
    float *m = o->state[0].p, *v = o->state[1].p;
    struct optim_stretch s;
    for (size_t at = 0; optim_stretch(o, &at, &s);) {
        const struct adamw k = adamw_of_step(o, s.lr, s.weight_decay);
        TRY(o->backend->flat->adamw(&k, &(struct adamw_state){s.w, m + s.at, v + s.at, s.g}, s.n, o->threads));
    }
    return OK;
}

static void describe(const struct optim_settings *how, str *out) { (void)how, str_adds(out, "AdamW, two f32 states"); }

const struct optimizer optimizer_adamw_torch = {
    .name = "adamw_torch", .states = states, .step = step, .describe = describe, .elementwise = true};
