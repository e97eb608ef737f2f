/* attention: softmax(scale q k^T) v inside each packed sequence, with grouped key/value heads; its backward; and the
 * one-token form over a cache. lse (log of the sum of exponentials) is kept so that the backward recomputes the
 * probabilities instead of keeping them (Dao et al. 2022):  p = exp(s - lse), dp = do v^T, ds = p (dp - sum(do o)). */
#include "ops/ops.h"
#include <math.h>
#include <string.h>

enum { Q, K, V, CU, O, LSE, DO, BWD_CU_K, BWD_BIAS };
enum { CU_K = 4, BIAS = 5 }; /* forward */

static err infer(struct prog *p, struct inst *i) {
    int64_t qw = (int64_t)i->a.heads * i->a.head_dim, kw = (int64_t)i->a.kv_heads * i->a.head_dim;
    const bool one = !has(i->in[CU]); /* sequence of all queries, and all keys */
    const int64_t rows = prog_v(p, i->in[Q])->d[0], keys = one || has(i->in[CU_K]) ? prog_v(p, i->in[K])->d[0] : rows;
    TRY(want(p, i, Q, prog_dt(p), 2, (int64_t[]){rows, qw}));
    TRY(want(p, i, K, prog_dt(p), 2, (int64_t[]){keys, kw}));
    TRY(want(p, i, V, prog_dt(p), 2, (int64_t[]){keys, kw}));
    if (has(i->in[CU_K])) TRY(want(p, i, CU_K, DT_I32, 1, (int64_t[]){SYM_S1}));
    if (one && has(i->in[CU_K])) return prog_fail(p, E_INPUT, "attention: bounds of the keys without those of the queries");
    if ((one || has(i->in[CU_K])) && (i->a.causal || has(i->in[BIAS])))
        return prog_fail(p, E_UNSUPPORTED, "attention to another text's keys has neither a mask nor a bias by distance");
    if (has(i->in[BIAS])) TRY(want(p, i, BIAS, DT_F32, 2, (int64_t[]){i->a.buckets, i->a.heads}));
    if (has(i->in[BIAS]) && (i->a.buckets < 4 || i->a.buckets % 4 || i->a.distance <= i->a.buckets))
        return prog_fail(p, E_INPUT, "attention: %d buckets for distances up to %d", i->a.buckets, i->a.distance);
    if (!one) TRY(want(p, i, CU, DT_I32, 1, (int64_t[]){SYM_S1}));
    if (i->a.kv_heads < 1 || i->a.heads % i->a.kv_heads)
        return prog_fail(p, E_INPUT, "attention: %d heads do not share %d key/value heads", i->a.heads, i->a.kv_heads);
    if (has(i->in[BIAS]) && i->a.softcap > 0) return prog_fail(p, E_UNSUPPORTED, "attention: a soft-cap beside a bias");
    if (i->a.window > 0 && !i->a.causal) return prog_fail(p, E_UNSUPPORTED, "attention: a window of %d without the causal mask", i->a.window);
    i->out[0] = prog_act(p, prog_dt(p), 2, (int64_t[]){rows, qw}, "attention");
    i->out[1] = prog_act(p, DT_F32, 2, (int64_t[]){rows, i->a.heads}, "lse");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    if (has(i->in[BIAS]) && prog_v(p, i->in[BIAS])->needs)
        return prog_fail(p, E_UNSUPPORTED, "attention: training the bias '%s' is not possible yet", prog_v(p, i->in[BIAS])->name);
    val in[] = {i->in[Q], i->in[K], i->in[V], i->in[CU], i->out[0], i->out[1], dout[0], i->in[CU_K], i->in[BIAS]};
    struct inst *b = prog_emit(p, &op_attention_bwd, in, 9, &i->a);
    for (int k = 0; b && k < 3; k++) din[k] = b->out[k];
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    static const char *const names[] = {"d q", "d k", "d v"};
    for (int k = 0; k < 3; k++) i->out[k] = prog_like(p, i->in[k], names[k]);
    return p->failed ? p->failed : want(p, i, DO, prog_dt(p), 2, prog_v(p, i->in[Q])->d);
}

/* The scaled (and capped, and biased) score and d score / d (q.k) for query i, key j of head h; false when masked. */
static bool score(const struct op_attr *a, const struct view *in, const struct view *bias, int64_t i, int64_t j, int h, double *s, double *slope) {
    if ((a->causal && j > i) || (a->window > 0 && i - j >= a->window)) return false;
    int D = a->head_dim;
    const float *q = view_row(&in[Q], i) + h * D, *k = view_row(&in[K], j) + h * a->kv_heads / a->heads * D;
    double dot = 0;
    for (int d = 0; d < D; d++) dot += (double)q[d] * k[d];
    *s = dot * a->scale;
    *slope = a->scale;
    if (a->softcap > 0) {
        double t = tanh(*s / a->softcap);
        *s = a->softcap * t;
        *slope *= 1 - t * t;
    }
    if (bias->p) *s += view_row(bias, ops_bucket(a, j - i))[h];
    return true;
}

/* The bounds of queries and keys; one sequence of all where there are none. Returns how many sequences. */
static int64_t bounds(const struct view *in, const struct view *of_keys, int32_t whole[2][2], const int32_t **cu, const int32_t **keys) {
    whole[0][1] = (int32_t)in[Q].d[0], whole[1][1] = (int32_t)in[K].d[0];
    *cu = in[CU].p ? view_i32(&in[CU]) : whole[0];
    *keys = of_keys->p ? view_i32(of_keys) : in[CU].p ? *cu : whole[1];
    return in[CU].p ? in[CU].d[0] - 1 : 1;
}

/* from, to: the keys. y: head_dim sums. */
static void attend(const struct op_attr *a, const struct view *in, struct view *out, int64_t i, int64_t from, int64_t to, int h, double *y) {
    const struct view *bias = &in[BIAS];
    int D = a->head_dim;
    double top = -INFINITY, sum = 0, s, slope;
    float *o = view_row(&out[0], i) + h * D;
    for (int64_t j = from; j < to; j++)
        if (score(a, in, bias, i, j, h, &s, &slope) && s > top) top = s;
    for (int64_t j = from; j < to; j++)
        if (score(a, in, bias, i, j, h, &s, &slope)) sum += exp(s - top);
    for (int d = 0; d < D; d++) y[d] = 0;
    for (int64_t j = from; j < to; j++) {
        if (!score(a, in, bias, i, j, h, &s, &slope)) continue;
        const float *v = view_row(&in[V], j) + h * a->kv_heads / a->heads * D;
        const double p = exp(s - top) / sum;
        for (int d = 0; d < D; d++) y[d] += p * v[d];
    }
    for (int d = 0; d < D; d++) o[d] = (float)y[d];
    view_row(&out[1], i)[h] = from < to ? (float)(top + log(sum)) : 0; /* no key: o and lse are 0 */
}

static size_t ref_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    (void)in, (void)out;
    return (size_t)i->a.head_dim * sizeof(double);
}

static err ref(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run;
    int32_t whole[2][2] = {{0}};
    const int32_t *cu, *keys;
    const int64_t S = bounds(in, &in[CU_K], whole, &cu, &keys);
    for (int64_t s = 0; s < S; s++)
        for (int32_t i = cu[s]; i < cu[s + 1]; i++)
            for (int h = 0; h < inst->a.heads; h++) attend(&inst->a, in, out, i, keys[s], keys[s + 1], h, scratch);
    return OK;
}

static void attend_bwd(const struct op_attr *a, const struct view *in, struct view *out, int64_t i, int64_t from, int64_t to, int h) {
    const struct view *bias = &in[BWD_BIAS];
    int D = a->head_dim, kh = h * a->kv_heads / a->heads * D;
    const float *go = view_row(&in[DO], i) + h * D, *o = view_row(&in[O], i) + h * D, *q = view_row(&in[Q], i) + h * D;
    double delta = 0, s, slope;
    for (int d = 0; d < D; d++) delta += (double)go[d] * o[d];
    for (int64_t j = from; j < to; j++) {
        if (!score(a, in, bias, i, j, h, &s, &slope)) continue;
        const float *k = view_row(&in[K], j) + kh, *v = view_row(&in[V], j) + kh;
        double p = exp(s - view_row(&in[LSE], i)[h]), dp = 0;
        for (int d = 0; d < D; d++) dp += (double)go[d] * v[d];
        double ds = p * (dp - delta) * slope;
        for (int d = 0; d < D; d++) {
            view_row(&out[0], i)[h * D + d] += (float)(ds * k[d]);
            view_row(&out[1], j)[kh + d] += (float)(ds * q[d]);
            view_row(&out[2], j)[kh + d] += (float)(p * go[d]);
        }
    }
}

static err ref_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    for (int k = 0; k < 3; k++)
        for (int64_t n = 0; n < out[k].d[0]; n++) memset(view_row(&out[k], n), 0, (size_t)out[k].d[1] * 4);
    int32_t whole[2][2] = {{0}};
    const int32_t *cu, *keys;
    const int64_t S = bounds(in, &in[BWD_CU_K], whole, &cu, &keys);
    for (int64_t s = 0; s < S; s++)
        for (int32_t i = cu[s]; i < cu[s + 1]; i++)
            for (int h = 0; h < inst->a.heads; h++) attend_bwd(&inst->a, in, out, i, keys[s], keys[s + 1], h);
    return OK;
}

/* At capacity all tokens may be one sequence: half of the square, or all keys for every query. */
static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)out;
    double n = (double)in[Q].d[0], w = (double)i->a.heads * i->a.head_dim;
    return (struct cost){has(i->in[CU]) ? 2 * n * n * w : 4 * n * (double)in[K].d[0] * w, 4 * n * (2 * w + 2 * (double)in[K].d[1])};
}

static struct cost cost_bwd(const struct inst *i, const struct view *in, const struct view *out) {
    struct cost c = cost(i, in, out);
    return (struct cost){2.5 * c.flops, 2 * c.bytes};
}

const struct op_def op_attention = {.name = "attention", .n_in = 6, .n_out = 2, .infer = infer, .vjp = vjp, .cost = cost, .ref_scratch = ref_scratch, .ref = ref};
const struct op_def op_attention_bwd = {.name = "attention_bwd", .n_in = 9, .n_out = 3, .infer = infer_bwd, .cost = cost_bwd, .ref = ref_bwd};
