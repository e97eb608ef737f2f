/* glu: a gated unit, act(gate) * up (Shazeer 2020), or act(gate) alone where there is no `up`. The activation is an attribute:
 * SiLU (Llama), GELU by tanh (Gemma, GPT-2) or by erf (BERT), ReLU, tanh (BERT's pooler). d gate = dy up act'(gate), d up = dy act(gate). */
#include "ops/ops.h"
#include <math.h>

static err infer(struct prog *p, struct inst *i) {
    if (has(i->in[1])) TRY(want(p, i, 1, prog_dt(p), 2, prog_v(p, i->in[0])->d));
    i->out[0] = prog_like(p, i->in[0], "glu");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    struct inst *b = prog_emit(p, &op_glu_bwd, (val[]){i->in[0], i->in[1], dout[0]}, 3, &i->a);
    for (int k = 0; b && k < 2; k++) din[k] = b->out[k];
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    TRY(want(p, i, 2, prog_dt(p), 2, prog_v(p, i->in[0])->d));
    i->out[0] = prog_like(p, i->in[0], "d gate");
    i->out[1] = prog_like(p, i->in[1], "d up");
    return p->failed;
}

/* act(g) and its derivative. */
static double activate(enum activation kind, double g, double *slope) {
    static const double root = 0.79788456080286535588, cubic = 0.044715; /* sqrt(2 / pi); Hendrycks & Gimpel 2016 */
    double s, u;
    switch (kind) {
    case ACT_SILU:
        s = 1 / (1 + exp(-g));
        *slope = s * (1 + g * (1 - s));
        return g * s;
    case ACT_GELU_TANH: /* (1 + tanh u) / 2 is the logistic function of 2 u */
        u = 2 * root * (g + cubic * g * g * g);
        s = 1 / (1 + exp(-u));
        *slope = s + g * s * (1 - s) * 2 * root * (1 + 3 * cubic * g * g);
        return g * s;
    case ACT_GELU_ERF:
        s = erfc(-g * 0.70710678118654752440) / 2;
        *slope = s + g * exp(-g * g / 2) * root / 2;
        return g * s;
    case ACT_TANH:
        s = exp(-2 * fabs(g));
        *slope = 4 * s / ((1 + s) * (1 + s));
        return tanh(g);
    case ACT_RELU: break;
    }
    *slope = g > 0 ? 1 : isnan(g) ? g : 0;
    return g > 0 || isnan(g) ? g : 0;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int64_t c = 0; c < in[0].d[1]; c++) {
            double slope, u = in[1].p ? view_row(&in[1], n)[c] : 1;
            view_row(&out[0], n)[c] = (float)(activate(i->a.act, view_row(&in[0], n)[c], &slope) * u);
        }
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int64_t c = 0; c < in[0].d[1]; c++) {
            double slope, u = in[1].p ? view_row(&in[1], n)[c] : 1, dy = view_row(&in[2], n)[c];
            double y = activate(i->a.act, view_row(&in[0], n)[c], &slope);
            view_row(&out[0], n)[c] = (float)(dy * u * slope);
            if (out[1].p) view_row(&out[1], n)[c] = (float)(dy * y);
        }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){10 * e, in[1].nd ? 12 * e : 8 * e};
}

static struct cost cost_bwd(const struct inst *i, const struct view *in, const struct view *out) {
    struct cost c = cost(i, in, out);
    return (struct cost){1.5 * c.flops, 5 * c.bytes / 3};
}

const struct op_def op_glu = {.name = "glu", .n_in = 2, .n_out = 1, .inplace = 3, .cheap = true, .by_rows = true, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_glu_bwd = {.name = "glu_bwd", .n_in = 3, .n_out = 2, .by_rows = true, .infer = infer_bwd, .cost = cost_bwd, .ref = ref_bwd};
