/* norm: RMSNorm (Zhang & Sennrich 2019), y = x / sqrt(mean(x^2) + eps) * w, or with `center` LayerNorm (Ba et al. 2016),
 * y = (x - mean) / sqrt(var + eps) * w + bias; and their backward. `heads` > 1: each row is that many vectors one after the
 * other, normed apart with one weight (the q and k norms of Qwen3 and Gemma 3); w and bias have the size of such a vector.
 *
 * With r = rstd, xh = (x - mean) r (mean 0 without center), g = dy w:
 *   dx = r (g - xh mean(g xh) - mean(g)), the last term with center only;  dw = sum of dy xh;  dbias = sum of dy. */
#include "ops/ops.h"
#include <math.h>

static int groups(const struct inst *i) { return i->a.heads > 1 ? i->a.heads : 1; }

static val statistic(struct prog *p, const struct inst *i, int64_t rows, const char *name) {
    int g = groups(i);
    return prog_act(p, DT_F32, g > 1 ? 2 : 1, (int64_t[]){rows, g}, name);
}

static err infer(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){x.d[0], x.d[1]}));
    if (x.d[1] % groups(i)) return prog_fail(p, E_INPUT, "norm: '%s' has %lld columns, which are not %d heads", x.name, (long long)x.d[1], groups(i));
    int64_t D = x.d[1] / groups(i);
    TRY(want(p, i, 1, DT_F32, 1, &D));
    if (has(i->in[2])) TRY(want(p, i, 2, DT_F32, 1, &D));
    i->out[0] = prog_act(p, prog_dt(p), 2, x.d, "norm");
    i->out[1] = statistic(p, i, x.d[0], "rstd");
    if (i->a.center) i->out[2] = statistic(p, i, x.d[0], "mean");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    if (has(i->in[2]) && prog_v(p, i->in[2])->needs && !i->a.center) return prog_fail(p, E_UNSUPPORTED, "norm: a bias is trained with center only");
    val in[] = {i->in[0], i->in[1], i->out[1], dout[0], i->out[2], i->in[2]};
    struct inst *b = prog_emit(p, &op_norm_bwd, in, 6, &i->a);
    if (b) din[0] = b->out[0];
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]);
    int nd = groups(i) > 1 ? 2 : 1;
    int64_t d[] = {x.d[0], groups(i)};
    TRY(want(p, i, 2, DT_F32, nd, d));
    TRY(want(p, i, 3, prog_dt(p), 2, x.d));
    if (i->a.center) TRY(want(p, i, 4, DT_F32, nd, d));
    i->out[0] = prog_act(p, prog_dt(p), 2, x.d, "d norm");
    if (prog_v(p, i->in[1])->role == ROLE_PARAM) i->out[1] = prog_grad_of(p, i->in[1]);
    if (has(i->in[5]) && prog_v(p, i->in[5])->role == ROLE_PARAM) i->out[2] = prog_grad_of(p, i->in[5]);
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int G = groups(i);
    int64_t D = in[0].d[1] / G;
    const float *w = in[1].p, *bias = in[2].p;
    for (int64_t k = 0; k < in[0].d[0] * G; k++) {
        const float *x = view_row(&in[0], k / G) + k % G * D;
        float *y = view_row(&out[0], k / G) + k % G * D;
        double mean = 0, ss = 0;
        for (int64_t c = 0; c < D && i->a.center; c++) mean += (double)x[c] / (double)D;
        for (int64_t c = 0; c < D; c++) ss += (x[c] - mean) * (x[c] - mean);
        double r = 1 / sqrt(ss / (double)D + i->a.eps);
        for (int64_t c = 0; c < D; c++) y[c] = (float)((x[c] - mean) * r * w[c] + (bias ? bias[c] : 0));
        *ops_stat(&out[1], k / G, k % G) = (float)r;
        if (out[2].p) *ops_stat(&out[2], k / G, k % G) = (float)mean;
    }
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int G = groups(i);
    int64_t D = in[0].d[1] / G;
    const float *w = in[1].p;
    for (int64_t k = 0; k < in[0].d[0] * G; k++) {
        const float *x = view_row(&in[0], k / G) + k % G * D, *dy = view_row(&in[3], k / G) + k % G * D;
        float *dx = view_row(&out[0], k / G) + k % G * D;
        double r = *ops_stat(&in[2], k / G, k % G), mean = in[4].p ? *ops_stat(&in[4], k / G, k % G) : 0, dot = 0, sum = 0;
        for (int64_t c = 0; c < D; c++) {
            dot += (double)dy[c] * w[c] * (x[c] - mean) * r / (double)D;
            sum += i->a.center ? (double)dy[c] * w[c] / (double)D : 0;
        }
        for (int64_t c = 0; c < D; c++) {
            double xh = (x[c] - mean) * r;
            if (out[1].p) view_f32(&out[1])[c] += (float)(dy[c] * xh);
            if (out[2].p) view_f32(&out[2])[c] += dy[c];
            dx[c] = (float)(r * ((double)dy[c] * w[c] - xh * dot - sum));
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

const struct op_def op_norm = {.name = "norm", .n_in = 3, .n_out = 3, .cheap = true, .by_rows = true, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_norm_bwd = {.name = "norm_bwd", .n_in = 6, .n_out = 3, .by_rows = true, .infer = infer_bwd, .cost = cost_bwd, .ref = ref_bwd};
