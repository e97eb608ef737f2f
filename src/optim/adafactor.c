/* Adafactor (Shazeer, Stern 2018), as transformers' Adafactor without a first moment: of each matrix a number for a row and one for a column,
 * of each vector one for an element. scale_parameter makes steps relative to the weights' own size, relative_step replaces the learning rate
 * by min(0.01, 1 / sqrt(t)). Called through its row of optimizers.def. */
#include "optim/optim.h"
#include <math.h>

static const double EPS = 1e-30, EPS_SCALE = 1e-3, CLIP = 1, DECAY = -0.8; /* transformers' defaults */

static int states(const struct optim_settings *how, const struct optim_part *of, struct optim_state *out) {
    (void)how;
    struct optim_walk w = optim_walk(of);
    struct optim_tensor t;
    int64_t rows = 0, columns = 0;
    while (optim_next(&w, &t)) rows += t.rows, columns += t.columns;
    const int n = optim_list(out, 0, "exp_avg_sq_row", DT_F32, (size_t)rows * sizeof(float));
    return optim_list(out, n, "exp_avg_sq_col", DT_F32, (size_t)columns * sizeof(float));
}

static size_t scratch(const struct param_set *set, const struct flat_ops *flat) {
    const struct optim_part all = optim_whole(set);
    struct optim_walk w = optim_walk(&all);
    struct optim_tensor t;
    size_t most = 0;
    while (optim_next(&w, &t)) {
        const size_t need = flat->adafactor_scratch(t.rows, t.columns);
        if (need > most) most = need;
    }
    return most;
}

static err step(const struct optim_step *o) {
    struct optim_state list[OPTIM_STATES];
    float *row = o->state[0].p, *column = states(o->how, &o->of, list) > 1 ? o->state[1].p : NULL;
    struct optim_walk w = optim_walk(&o->of);
    struct optim_tensor t;
    while (optim_next(&w, &t)) {
        const struct adafactor k = {.lr = o->lr * (double)t.rate,
                                    .beta2 = 1 - pow((double)o->t, DECAY),
                                    .eps = EPS,
                                    .eps_scale = EPS_SCALE,
                                    .clip = CLIP,
                                    .weight_decay = t.columns ? o->how->weight_decay : 0,
                                    .scale_parameter = o->how->scale_parameter,
                                    .grad_scale = o->grad_scale,
                                    .rows = t.rows,
                                    .columns = t.columns};
        TRY(o->backend->flat->adafactor(&k, &(struct adafactor_state){o->w + t.at, o->g + t.at, row, column}, o->scratch, o->threads));
        row += t.rows;
        if (t.columns) column += t.columns;
    }
    return OK;
}

static double rate(const struct optim_settings *how, double scheduled, int64_t t) {
    return how->relative_step ? fmin(1e-2, 1 / sqrt((double)t)) : scheduled;
}

/* A matrix's gradient is read for the rows, the columns, the length of the update and the update itself, a vector's for all but the columns;
 * weights once more where steps are relative to them. */
static struct cost beyond(const struct optim_settings *how, const struct param_set *set) {
    const struct optim_part all = optim_whole(set);
    struct optim_walk w = optim_walk(&all);
    struct optim_tensor t;
    struct cost c = {0};
    while (optim_next(&w, &t)) c.bytes += (double)t.n * sizeof(float) * ((t.columns ? 3 : 2) + (how->scale_parameter ? 1 : 0));
    return c;
}

static void describe(const struct optim_settings *how, str *out) {
    (void)how, str_adds(out, "Adafactor, an f32 number for each row and column");
}

const struct optimizer optimizer_adafactor = {
    .name = "adafactor", .states = states, .step = step, .describe = describe, .scratch = scratch, .rate = rate, .beyond = beyond};
