/* Muon (Jordan et al. 2024), as torch.optim.Muon, for the matrices of the base's blocks, and AdamW for the rest: vectors, embeddings, heads. One
 * f32 state of the former, two of the latter. A matrix is one of the files' tensors, so that LoRA's A of q, k and v are three. Its step is
 * learning_rate times sqrt(max(1, rows / columns)) (Jordan's), or with match_rms 0.2 sqrt(max(rows, columns)), which moves weights about as far as
 * AdamW does (Liu et al. 2025, "Muon is scalable for LLM training"): one learning rate then serves both. Called through its row of optimizers.def. */
#include "optim/adamw.h"
#include <math.h>

static bool whole(const struct optim_tensor *t) { return t->columns && t->of_layer; } /* Muon's own */

static int states(const struct optim_settings *how, const struct optim_part *of, struct optim_state *out) {
    (void)how;
    struct optim_walk w = optim_walk(of);
    struct optim_tensor t;
    size_t own = 0, rest = 0;
    while (optim_next(&w, &t)) *(whole(&t) ? &own : &rest) += (size_t)t.n * sizeof(float);
    int n = optim_list(out, 0, "momentum_buffer", DT_F32, own);
    n = optim_list(out, n, "exp_avg", DT_F32, rest);
    return optim_list(out, n, "exp_avg_sq", DT_F32, rest);
}

static size_t scratch(const struct param_set *set, const struct flat_ops *flat) {
    const struct optim_part all = optim_whole(set);
    struct optim_walk w = optim_walk(&all);
    struct optim_tensor t;
    size_t most = 0;
    while (optim_next(&w, &t)) {
        const size_t need = whole(&t) ? flat->muon_scratch(t.rows, t.columns) : 0;
        if (need > most) most = need;
    }
    return most;
}

static double step_of(const struct optim_settings *how, const struct optim_tensor *t) {
    const double rows = (double)(t->turned ? t->columns : t->rows), columns = (double)(t->turned ? t->rows : t->columns);
    return how->match_rms ? 0.2 * sqrt(fmax(rows, columns)) : sqrt(fmax(1, rows / columns));
}

static err step(const struct optim_step *o) {
    struct optim_state list[OPTIM_STATES];
    const int n = states(o->how, &o->of, list), own = n == 1 || n == 3; /* is there a matrix? is there anything else? */
    float *buffer = own ? o->state[0].p : NULL, *m = n > 1 ? o->state[own].p : NULL, *v = n > 1 ? o->state[own + 1].p : NULL;
    struct optim_walk w = optim_walk(&o->of);
    struct optim_tensor t;
    while (optim_next(&w, &t)) {
        const double lr = o->lr * (double)t.rate, decay = t.columns ? o->how->weight_decay : 0;
        if (whole(&t)) {
            const struct muon k = {.lr = lr,
                                   .step = lr * step_of(o->how, &t),
                                   .momentum = o->how->momentum,
                                   .weight_decay = decay,
                                   .grad_scale = o->grad_scale,
                                   .rows = t.rows,
                                   .columns = t.columns};
            TRY(o->backend->flat->muon(&k, &(struct momentum_state){o->w + t.at, buffer, o->g + t.at}, o->scratch, o->threads));
            buffer += t.n;
            continue;
        }
        const struct adamw k = adamw_of_step(o, lr, decay);
        TRY(o->backend->flat->adamw(&k, &(struct adamw_state){o->w + t.at, m, v, o->g + t.at}, t.n, o->threads));
        m += t.n, v += t.n;
    }
    return OK;
}

/* The products of an iteration, with the shorter side s and the longer l: XX' [s, s], its square, and that times X. */
static struct cost beyond(const struct optim_settings *how, const struct param_set *set) {
    (void)how;
    const struct optim_part all = optim_whole(set);
    struct optim_walk w = optim_walk(&all);
    struct optim_tensor t;
    struct cost c = {0};
    while (optim_next(&w, &t)) {
        const double s = fmin((double)t.rows, (double)t.columns), l = fmax((double)t.rows, (double)t.columns);
        if (whole(&t)) c.flops += MUON_ITERATIONS * (4 * s * s * l + 2 * s * s * s);
    }
    return c;
}

static void describe(const struct optim_settings *how, str *out) {
    (void)how, str_adds(out, "Muon for matrices of layers, one f32 state; AdamW for the rest, two");
}

const struct optimizer optimizer_muon = {
    .name = "muon", .states = states, .step = step, .describe = describe, .scratch = scratch, .beyond = beyond};
