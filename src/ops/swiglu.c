/* swiglu: silu(gate) * up (Shazeer 2020). With s = sigmoid(gate): d gate = dy up s (1 + gate (1 - s)), d up = dy gate s. */
#include "ops/ops.h"
#include <math.h>

static err infer(struct prog *p, struct inst *i) {
    TRY(want(p, i, 1, prog_dt(p), 2, prog_v(p, i->in[0])->d));
    i->out[0] = prog_like(p, i->in[0], "swiglu");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    struct inst *b = prog_emit(p, &op_swiglu_bwd, (val[]){i->in[0], i->in[1], dout[0]}, 3, &i->a);
    for (int k = 0; b && k < 2; k++) din[k] = b->out[k];
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    TRY(want(p, i, 2, prog_dt(p), 2, prog_v(p, i->in[0])->d));
    i->out[0] = prog_like(p, i->in[0], "d gate");
    i->out[1] = prog_like(p, i->in[1], "d up");
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int64_t c = 0; c < in[0].d[1]; c++) {
            double g = view_row(&in[0], n)[c], u = view_row(&in[1], n)[c];
            view_row(&out[0], n)[c] = (float)(g / (1 + exp(-g)) * u);
        }
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int64_t c = 0; c < in[0].d[1]; c++) {
            double g = view_row(&in[0], n)[c], u = view_row(&in[1], n)[c], dy = view_row(&in[2], n)[c], s = 1 / (1 + exp(-g));
            view_row(&out[0], n)[c] = (float)(dy * u * s * (1 + g * (1 - s)));
            view_row(&out[1], n)[c] = (float)(dy * g * s);
        }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){10 * e, 12 * e};
}

static struct cost cost_bwd(const struct inst *i, const struct view *in, const struct view *out) {
    struct cost c = cost(i, in, out);
    return (struct cost){1.5 * c.flops, 5 * c.bytes / 3};
}

const struct op_def op_swiglu = {.name = "swiglu", .n_in = 2, .n_out = 1, .inplace = 3, .cheap = true, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_swiglu_bwd = {.name = "swiglu_bwd", .n_in = 3, .n_out = 2, .infer = infer_bwd, .cost = cost_bwd, .ref = ref_bwd};
