/* kv_append and attention_cached: the key/value cache of generation; store: what else prefill leaves for decoding; remember: the ids themselves, for
 * what asks which are there already; cache_copy: positions that another sequence begins with too (beams). STATE [slots, K, T, D]: a slot is one
 * running sequence, T its capacity. Prefill writes many positions of many slots, decode one position per live row.
 *
 * A cache is f32, bf16 or f16 whatever the program computes in: keys and values are rounded (nearest even) when they are written and read as
 * what they then are. So these definitions take each operand in its own type. */
#include "ops/ops.h"
#include <math.h>
#include <string.h>

/* Elements of a plain type. */
static float get(const struct view *v, int64_t i) {
    const uint16_t *half = v->p;
    return v->dt == DT_F32 ? view_f32(v)[i] : v->dt == DT_BF16 ? bf16_to_f32(half[i]) : f16_to_f32(half[i]);
}

static void put(const struct view *v, int64_t i, float x) {
    uint16_t *half = v->p;
    if (v->dt == DT_F32) view_f32(v)[i] = x;
    else half[i] = v->dt == DT_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
}

/* Operands k and k + 1 are a cache's halves: of one type and shape. */
static err want_cache(struct prog *p, const struct inst *i, int k, const int64_t *d) {
    const struct value *c = prog_v(p, i->in[k]);
    if (!dtype_plain(c->dt))
        return prog_fail(p, E_INTERNAL, "%s: a cache of type %s", i->op->name, dtype_info[c->dt].name);
    TRY(want(p, i, k, c->dt, 4, d));
    return want(p, i, k + 1, c->dt, 4, d);
}

static err infer_append(struct prog *p, struct inst *i) {
    struct value c = *prog_v(p, i->in[4]);
    const int64_t rows = prog_v(p, i->in[0])->d[0]; /* of the decoder, or of the encoder for the keys of cross-attention */
    for (int k = 0; k < 2; k++) {
        TRY(want(p, i, k, prog_dt(p), 2, (int64_t[]){rows, c.d[1] * c.d[3]}));
        TRY(want(p, i, 2 + k, DT_I32, 1, &rows));
    }
    return want_cache(p, i, 4, c.d);
}

static int64_t cell(const struct view *cache, int64_t slot, int64_t head, int64_t pos) {
    return ((slot * cache->d[1] + head) * cache->d[2] + pos) * cache->d[3];
}

static err ref_append(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)out, (void)scratch;
    int64_t K = in[4].d[1], D = in[4].d[3];
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int64_t h = 0; h < K; h++)
            for (int k = 0; k < 2; k++)
                for (int64_t d = 0, to = cell(&in[4 + k], view_i32(&in[2])[n], h, view_i32(&in[3])[n]); d < D; d++)
                    put(&in[4 + k], to + d, get(&in[k], n * in[k].ld + h * D + d));
    return OK;
}

static err infer_store(struct prog *p, struct inst *i) {
    const struct value to = *prog_v(p, i->in[1]);
    if (to.role != ROLE_STATE) return prog_fail(p, E_INTERNAL, "store: '%s' is no state", to.name);
    return want(p, i, 0, to.dt, 2, to.d);
}

static err ref_store(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)out, (void)scratch;
    for (int64_t r = 0; r < in[0].d[0]; r++)
        for (int64_t c = 0; c < in[0].d[1]; c++) put(&in[1], r * in[1].ld + c, get(&in[0], r * in[0].ld + c));
    return OK;
}

static err infer_remember(struct prog *p, struct inst *i) {
    const struct value ids = *prog_v(p, i->in[0]), to = *prog_v(p, i->in[3]);
    if (to.role != ROLE_STATE) return prog_fail(p, E_INTERNAL, "remember: '%s' is no state", to.name);
    for (int k = 0; k < 3; k++) TRY(want(p, i, k, DT_I32, 1, ids.d));
    return want(p, i, 3, DT_I32, 2, to.d);
}

static err ref_remember(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)out, (void)scratch;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        ((int32_t *)in[3].p)[view_i32(&in[1])[n] * in[3].ld + view_i32(&in[2])[n]] = view_i32(&in[0])[n];
    return OK;
}

static err infer_copy(struct prog *p, struct inst *i) {
    const struct value c = *prog_v(p, i->in[0]), from = *prog_v(p, i->in[1]);
    if (c.role != ROLE_STATE || (c.nd != 4 && c.nd != 2)) return prog_fail(p, E_INTERNAL, "cache_copy: '%s' is no cache", c.name);
    for (int k = 1; k < 4; k++) TRY(want(p, i, k, DT_I32, 1, from.d));
    return p->failed;
}

/* Bytes, whatever the type. */
static err ref_copy(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)out, (void)scratch;
    const struct view *c = &in[0];
    const int64_t K = c->nd == 4 ? c->d[1] : 1, T = c->nd == 4 ? c->d[2] : c->ld, D = c->nd == 4 ? c->d[3] : 1;
    const size_t cell = dtype_row_bytes(c->dt, D);
    for (int64_t n = 0; n < in[1].d[0]; n++)
        for (int64_t h = 0; h < K; h++) {
            const int64_t from = (view_i32(&in[1])[n] * K + h) * T, to = (view_i32(&in[2])[n] * K + h) * T, pos = view_i32(&in[3])[n];
            memcpy((char *)c->p + (size_t)(to + pos) * cell, (char *)c->p + (size_t)(from + pos) * cell, cell);
        }
    return OK;
}

static double bytes_of(const struct view *v) { return dtype_info[v->dt].bytes; }

static struct cost cost_store(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return (struct cost){0, 2 * bytes_of(&in[0]) * (double)in[0].d[0] * (double)in[0].d[1]};
}

static err infer_cached(struct prog *p, struct inst *i) {
    struct value c = *prog_v(p, i->in[1]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){SYM_N, (int64_t)i->a.heads * i->a.head_dim}));
    TRY(want_cache(p, i, 1, (int64_t[]){c.d[0], i->a.kv_heads, c.d[2], i->a.head_dim}));
    TRY(want(p, i, 3, DT_I32, 1, (int64_t[]){SYM_N}));
    TRY(want(p, i, 4, DT_I32, 1, (int64_t[]){SYM_N}));
    if (has(i->in[5])) TRY(want(p, i, 5, DT_F32, 2, (int64_t[]){i->a.buckets, i->a.heads}));
    i->out[0] = prog_like(p, i->in[0], "attention");
    return p->failed;
}

static err ref_cached(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int D = i->a.head_dim;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int h = 0; h < i->a.heads; h++) {
            int64_t slot = view_i32(&in[3])[n], last = view_i32(&in[4])[n], kh = (int64_t)h * i->a.kv_heads / i->a.heads;
            int64_t from = i->a.window > 0 && last + 1 > i->a.window ? last + 1 - i->a.window : 0;
            const int64_t q = n * in[0].ld + h * D;
            double top = -INFINITY, sum = 0, y[512] = {0};
            for (int pass = 0; pass < 2; pass++)
                for (int64_t t = from; t <= last; t++) {
                    const int64_t at = cell(&in[1], slot, kh, t);
                    double s = 0;
                    for (int d = 0; d < D; d++) s += (double)get(&in[0], q + d) * get(&in[1], at + d);
                    s *= i->a.scale;
                    if (i->a.softcap > 0) s = i->a.softcap * tanh(s / i->a.softcap);
                    if (in[5].p) s += view_row(&in[5], ops_bucket(&i->a, t - last))[h];
                    if (!pass) top = s > top || isnan(s) ? s : top;
                    else {
                        double e = exp(s - top);
                        sum += e;
                        for (int d = 0; d < D; d++) y[d] += e * get(&in[2], at + d);
                    }
                }
            for (int d = 0; d < D; d++) put(&out[0], n * out[0].ld + h * D + d, (float)(y[d] / sum));
        }
    return OK;
}

static struct cost cost_append(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return (struct cost){0, 2 * (bytes_of(&in[0]) + bytes_of(&in[4])) * (double)in[0].d[0] * (double)in[0].d[1]};
}

static struct cost cost_remember(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return (struct cost){0, 16.0 * (double)in[0].d[0]};
}

static struct cost cost_copy(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    const double cell = in[0].nd == 4 ? (double)in[0].d[1] * (double)in[0].d[3] : 1;
    return (struct cost){0, 2 * bytes_of(&in[0]) * cell * (double)in[1].d[0]};
}

static struct cost cost_cached(const struct inst *i, const struct view *in, const struct view *out) {
    (void)out;
    double rows = (double)in[0].d[0], t = (double)in[1].d[2], d = i->a.head_dim;
    return (struct cost){4 * rows * t * i->a.heads * d, 2 * bytes_of(&in[1]) * rows * t * i->a.kv_heads * d};
}

const struct op_def op_kv_append = {.name = "kv_append", .n_in = 6, .n_out = 0, .effect = true, .any_type = true, .infer = infer_append, .cost = cost_append, .ref = ref_append};
const struct op_def op_remember = {.name = "remember",
                                   .n_in = 4,
                                   .n_out = 0,
                                   .effect = true,
                                   .any_type = true,
                                   .infer = infer_remember,
                                   .cost = cost_remember,
                                   .ref = ref_remember};
const struct op_def op_cache_copy = {
    .name = "cache_copy", .n_in = 4, .n_out = 0, .effect = true, .any_type = true, .infer = infer_copy, .cost = cost_copy, .ref = ref_copy};
const struct op_def op_store = {.name = "store", .n_in = 2, .n_out = 0, .effect = true, .any_type = true, .infer = infer_store, .cost = cost_store, .ref = ref_store};
const struct op_def op_attention_cached = {.name = "attention_cached", .n_in = 6, .n_out = 1, .any_type = true, .infer = infer_cached, .cost = cost_cached, .ref = ref_cached};
