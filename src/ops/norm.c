/* norm: RMSNorm (Zhang & Sennrich 2019), y = x / sqrt(mean(x^2) + eps) * w, and its backward.
 * With r = rstd, xh = x r, g = dy w:  dx = r (g - xh mean(g xh)),  dw = sum over rows of dy xh. */
#include "ops/ops.h"
#include <math.h>

static err infer(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){SYM_N, x.d[1]}));
    TRY(want(p, i, 1, DT_F32, 1, (int64_t[]){x.d[1]}));
    i->out[0] = prog_act(p, prog_dt(p), 2, x.d, "norm");
    i->out[1] = prog_act(p, DT_F32, 1, x.d, "rstd");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    val in[] = {i->in[0], i->in[1], i->out[1], dout[0]};
    struct inst *b = prog_emit(p, &op_norm_bwd, in, 4, &i->a);
    if (b) din[0] = b->out[0];
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 2, DT_F32, 1, x.d));
    TRY(want(p, i, 3, prog_dt(p), 2, x.d));
    i->out[0] = prog_act(p, prog_dt(p), 2, x.d, "d norm");
    if (prog_v(p, i->in[1])->role == ROLE_PARAM) i->out[1] = prog_grad_of(p, i->in[1]);
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int64_t C = in[0].d[1];
    const float *w = in[1].p;
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        const float *x = view_row(&in[0], n);
        float *y = view_row(&out[0], n);
        double ss = 0;
        for (int64_t c = 0; c < C; c++) ss += (double)x[c] * x[c];
        double r = 1 / sqrt(ss / (double)C + i->a.eps);
        for (int64_t c = 0; c < C; c++) y[c] = (float)(x[c] * r * w[c]);
        view_f32(&out[1])[n] = (float)r;
    }
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    int64_t C = in[0].d[1];
    const float *w = in[1].p;
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        const float *x = view_row(&in[0], n), *dy = view_row(&in[3], n);
        float *dx = view_row(&out[0], n);
        double r = view_f32(&in[2])[n], dot = 0;
        for (int64_t c = 0; c < C; c++) dot += (double)dy[c] * w[c] * x[c] * r;
        for (int64_t c = 0; c < C; c++) {
            double xh = x[c] * r;
            if (out[1].p) view_f32(&out[1])[c] += (float)(dy[c] * xh);
            dx[c] = (float)(r * ((double)dy[c] * w[c] - xh * dot / (double)C));
        }
    }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)view_rows(&in[0]) * (double)in[0].d[1];
    return (struct cost){4 * e, 8 * e};
}

static struct cost cost_bwd(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)view_rows(&in[0]) * (double)in[0].d[1];
    return (struct cost){8 * e, 12 * e};
}

const struct op_def op_norm = {.name = "norm", .n_in = 2, .n_out = 2, .cheap = true, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_norm_bwd = {.name = "norm_bwd", .n_in = 4, .n_out = 2, .infer = infer_bwd, .cost = cost_bwd, .ref = ref_bwd};
