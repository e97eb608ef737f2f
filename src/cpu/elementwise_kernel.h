/* Norms, rotation, sums, scales, gates and the sampler's two reductions: included once per instruction set (fused_*.c), written
 * against vec.h.
 *
 * All are limited by memory, so each reads its operands once and threads split the rows evenly. Rows are views: they
 * may be column slices of something wider, but the elements of a row are adjacent. An output may be the memory of an
 * input where src/ops says so: every element is read before it is written, by the same thread. Sums inside a row are
 * f32 in 2 * VW partial sums. */
#include "cpu/fused.h"
#include "cpu/vec.h"
#include "ops/ops.h"
#include <omp.h>

/* for (c in steps of VW) with `n` = VW, then once with the rest: LOAD and STORE of the body take n. */
#define EACH_VECTOR(c, n, cols) for (int64_t c = 0, n = VW; c < (cols) && (n = (cols)-c < VW ? (cols)-c : VW); c += VW)
static inline vf load(const float *p, int64_t n) { return n == VW ? vf_load(p) : vf_load_n(p, n); }
static inline void store(float *p, vf x, int64_t n) {
    if (n == VW) vf_store(p, x);
    else vf_store_n(p, x, n);
}

#define FUSED_KERNEL(name)                                                                                             \
    static err name(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,       \
                    void *scratch)

/* sum of (x - shift)^2 */
static float squares(const float *x, float shift, int64_t cols) {
    if (shift == 0) return vec_dot(x, x, cols);
    vf sum = {0};
    EACH_VECTOR(c, n, cols) {
        vf d = load(x + c, n) - shift;
        if (n < VW) d = vf_from(n, (vf){0}, d);
        sum = vf_fma(d, d, sum);
    }
    return vf_sum(sum);
}

static float mean_of(const float *x, int64_t cols) {
    vf sum = {0};
    EACH_VECTOR(c, n, cols) sum += load(x + c, n);
    return vf_sum(sum) / (float)cols;
}

FUSED_KERNEL(norm) {
    (void)scratch;
    const int64_t N = view_rows(&in[0]), G = inst->a.heads > 1 ? inst->a.heads : 1, D = in[0].d[1] / G;
    const float *w = in[1].p, *bias = in[2].p, eps = inst->a.eps;
#pragma omp parallel for num_threads(cpu_threads_for(run, N * G * D))
    for (int64_t i = 0; i < N; i++)
        for (int64_t g = 0; g < G; g++) {
            const float *x = view_row(&in[0], i) + g * D, mean = inst->a.center ? mean_of(x, D) : 0;
            float *y = view_row(&out[0], i) + g * D, r = 1 / sqrtf(squares(x, mean, D) / (float)D + eps);
            EACH_VECTOR(c, n, D) {
                vf v = (load(x + c, n) - mean) * r * load(w + c, n);
                store(y + c, bias ? v + load(bias + c, n) : v, n);
            }
            *ops_stat(&out[1], i, g) = r;
            if (out[2].p) *ops_stat(&out[2], i, g) = mean;
        }
    return OK;
}

/* dw and dbias: columns are split between threads so that each has one writer and one order of rows. */
static void norm_bwd_weight(int threads, int64_t G, const struct view *in, const struct view *dw, const struct view *dbias) {
    const int64_t N = view_rows(&in[0]), D = in[0].d[1] / G;
#pragma omp parallel for num_threads(threads)
    for (int64_t c = 0; c < D; c += VW) {
        int64_t n = D - c < VW ? D - c : VW;
        vf sum = {0}, plain = {0};
        for (int64_t i = 0; i < N; i++)
            for (int64_t g = 0; g < G; g++) {
                const vf dy = load(view_row(&in[3], i) + g * D + c, n), x = load(view_row(&in[0], i) + g * D + c, n);
                sum += dy * (in[4].p ? x - *ops_stat(&in[4], i, g) : x) * *ops_stat(&in[2], i, g);
                plain += dy;
            }
        if (dw->p) store(view_f32(dw) + c, load(view_f32(dw) + c, n) + sum, n);
        if (dbias->p) store(view_f32(dbias) + c, load(view_f32(dbias) + c, n) + plain, n);
    }
}

FUSED_KERNEL(norm_bwd) {
    (void)scratch;
    const int64_t N = view_rows(&in[0]), G = inst->a.heads > 1 ? inst->a.heads : 1, D = in[0].d[1] / G;
    const float *w = in[1].p;
    if (out[1].p || out[2].p) norm_bwd_weight(cpu_threads(run), G, in, &out[1], &out[2]);
#pragma omp parallel for num_threads(cpu_threads_for(run, N * G * D))
    for (int64_t i = 0; i < N; i++)
        for (int64_t g = 0; g < G; g++) {
            const float *x = view_row(&in[0], i) + g * D, *dy = view_row(&in[3], i) + g * D, r = *ops_stat(&in[2], i, g);
            const float shift = in[4].p ? *ops_stat(&in[4], i, g) : 0;
            float *dx = view_row(&out[0], i) + g * D;
            vf along = {0}, all = {0};
            EACH_VECTOR(c, n, D) {
                const vf gw = load(dy + c, n) * load(w + c, n);
                along = vf_fma(gw, load(x + c, n) - shift, along);
                all += gw;
            }
            const vf mean = vf_set1(-vf_sum(along) * r * r / (float)D), level = vf_set1(in[4].p ? -vf_sum(all) / (float)D : 0);
            EACH_VECTOR(c, n, D)
            store(dx + c, r * (vf_fma(load(x + c, n) - shift, mean, load(dy + c, n) * load(w + c, n)) + level), n);
        }
    return OK;
}

/* Rotates pairs (a[j], b[j]) that lie `stride` apart from one j to the next. */
static void rotate(const float *x, float *y, const float *c, const float *s, int64_t half, bool interleaved) {
    if (interleaved) {
        for (int64_t j = 0; j < half; j++) {
            float x0 = x[2 * j], x1 = x[2 * j + 1];
            y[2 * j] = x0 * c[j] - x1 * s[j];
            y[2 * j + 1] = x0 * s[j] + x1 * c[j];
        }
        return;
    }
    EACH_VECTOR(j, n, half) {
        vf x0 = load(x + j, n), x1 = load(x + half + j, n), cj = load(c + j, n), sj = load(s + j, n);
        store(y + j, x0 * cj - x1 * sj, n);
        store(y + half + j, vf_fma(x0, sj, x1 * cj), n);
    }
}

FUSED_KERNEL(rope) {
    const int64_t N = view_rows(&in[0]), D = inst->a.head_dim, R = inst->a.rope_dims ? inst->a.rope_dims : D, half = R / 2;
    const float *freq = in[2].p, scale = inst->a.scale != 0 ? inst->a.scale : 1, sign = inst->a.inverse ? -scale : scale;
#pragma omp parallel num_threads(cpu_threads_for(run, N * in[0].d[1]))
    {
        float *cosines = (float *)scratch + (size_t)omp_get_thread_num() * 2 * (size_t)half, *sines = cosines + half;
#pragma omp for
        for (int64_t i = 0; i < N; i++) {
            float pos = (float)view_i32(&in[1])[i];
            EACH_VECTOR(j, n, half) {
                vf s, c;
                vf_sincos(load(freq + j, n) * pos, &s, &c);
                store(sines + j, s * sign, n);
                store(cosines + j, c * scale, n);
            }
            for (int h = 0; h < inst->a.heads; h++) {
                const float *x = view_row(&in[0], i) + h * D;
                float *y = view_row(&out[0], i) + h * D;
                rotate(x, y, cosines, sines, half, inst->a.interleaved);
                if (R < D && x != y) memcpy(y + R, x + R, (size_t)(D - R) * sizeof *y);
            }
        }
    }
    return OK;
}

FUSED_KERNEL(add) {
    (void)inst, (void)scratch;
    const int64_t N = view_rows(&in[0]), C = in[0].d[1];
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t i = 0; i < N; i++) {
        const float *a = view_row(&in[0], i), *b = view_row(&in[1], i);
        float *y = view_row(&out[0], i);
        EACH_VECTOR(c, n, C) store(y + c, load(a + c, n) + load(b + c, n), n);
    }
    return OK;
}

/* y = x * l (absent: 1) * by + bias */
static void scale_rows(const struct run_ctx *run, const struct view *x, const struct view *l, float by, const float *bias, const struct view *y) {
    const int64_t N = view_rows(x), C = x->d[1];
    const bool one = l->p && l->d[0] == 1;
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t i = 0; i < N; i++)
        EACH_VECTOR(c, n, C) {
            const vf v = load(view_row(x, i) + c, n) * (!l->p ? vf_set1(by) : one ? vf_set1(*view_f32(l) * by) : load(view_f32(l) + c, n) * by);
            store(view_row(y, i) + c, bias ? v + load(bias + c, n) : v, n);
        }
}

/* to[c] (+)= sum over the rows of dy[c], times x[c] where there is an x, times `by`. Threads split the columns, so each sum has one writer and one
 * order; SUM_VECTORS beside each other, for a row's lines are fetched in runs. */
enum { SUM_VECTORS = 8 };
static void column_sums(const struct run_ctx *run, const struct view *dy, const struct view *x, float by, float *to, bool add) {
    const int64_t N = view_rows(dy), C = dy->d[1], width = SUM_VECTORS * VW;
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t c0 = 0; c0 < C; c0 += width) {
        const int64_t cols = C - c0 < width ? C - c0 : width;
        vf sum[SUM_VECTORS] = {{0}};
        for (int64_t i = 0; i < N; i++)
            EACH_VECTOR(c, n, cols) {
                const vf d = load(view_row(dy, i) + c0 + c, n);
                sum[c / VW] = x->p ? vf_fma(d, load(view_row(x, i) + c0 + c, n), sum[c / VW]) : sum[c / VW] + d;
            }
        EACH_VECTOR(c, n, cols) store(to + c0 + c, add ? load(to + c0 + c, n) + sum[c / VW] * by : sum[c / VW] * by, n);
    }
}

/* The same over the columns too. One thread: what a gate scales is small. */
static void whole_sum(const struct view *dy, const struct view *x, float by, float *to, bool add) {
    float sum = 0;
    for (int64_t i = 0; i < view_rows(dy); i++) sum += vec_dot(view_row(dy, i), view_row(x, i), dy->d[1]);
    *to = add ? *to + sum * by : sum * by;
}

FUSED_KERNEL(scale) {
    (void)scratch;
    scale_rows(run, &in[0], &in[1], ops_scale_by(inst), in[2].p, &out[0]);
    return OK;
}

FUSED_KERNEL(scale_bwd) {
    (void)scratch;
    const float by = ops_scale_by(inst);
    for (int k = 1; k <= 2; k++) {
        if (out[k].p && in[1].d[0] == 1) whole_sum(&in[2], &in[0], by, view_f32(&out[k]), k == 1);
        else if (out[k].p) column_sums(run, &in[2], &in[0], by, view_f32(&out[k]), k == 1);
    }
    if (out[0].p) scale_rows(run, &in[2], &in[1], by, NULL, &out[0]);
    return OK;
}

FUSED_KERNEL(magnitude) {
    (void)scratch;
    const int64_t O = in[0].d[0], r = in[4].d[0];
    const float s = inst->a.scale;
#pragma omp parallel for num_threads(cpu_threads_for(run, O * r * r))
    for (int64_t o = 0; o < O; o++) {
        const float *b = view_row(&in[3], o), m = view_f32(&in[0])[o];
        float along = 0, inside = 0;
        for (int64_t j = 0; j < r; j++) {
            along += view_row(&in[2], j)[o] * b[j];
            inside += b[j] * vec_dot(view_row(&in[4], j), b, r);
        }
        const float square = view_f32(&in[1])[o] + s * (2 * along + s * inside), norm = sqrtf(square);
        view_f32(&out[0])[o] = square > 0 ? m / norm : m * (square * 0); /* NaN stays NaN */
        view_f32(&out[1])[o] = square > 0 ? 1 / norm : square * 0;
    }
    return OK;
}

FUSED_KERNEL(magnitude_bwd) {
    (void)run, (void)inst, (void)scratch;
    EACH_VECTOR(c, n, in[0].d[0])
    store(view_f32(&out[0]) + c, vf_fma(load(view_f32(&in[0]) + c, n), load(view_f32(&in[1]) + c, n), load(view_f32(&out[0]) + c, n)), n);
    return OK;
}

FUSED_KERNEL(column_sum) {
    (void)inst, (void)scratch;
    column_sums(run, &in[0], &(struct view){.p = NULL}, 1, view_f32(&out[0]), true);
    return OK;
}

/* act(g) and its slope (ops/glu.c). */
static inline __attribute__((always_inline)) vf activate(const enum activation kind, vf g, vf *slope) {
    if (kind == ACT_RELU) {
        *slope = vf_select(g > 0.0f, vf_set1(1), g * 0.0f); /* NaN stays NaN */
        return vf_max((vf){0}, g);
    }
    if (kind == ACT_GELU_ERF) {
        vf density, below = vf_normal(g, &density);
        *slope = vf_fma(g, density, below);
        return g * below;
    }
    if (kind == ACT_GELU_TANH) {
        const vf z = g * g, e = vf_exp(-vf_max(vf_set1(-87), 1.59576912f * vf_fma(g * z, vf_set1(0.044715f), g)));
        const vf s = 1.0f / (1.0f + e); /* e is finite, so that 1 - s is e s, with all its bits */
        *slope = s * vf_fma(g * (e * s), 1.59576912f * vf_fma(z, vf_set1(0.134145f), vf_set1(1)), vf_set1(1));
        return g * s;
    }
    if (kind == ACT_TANH) {
        const vf e = vf_exp(-2.0f * vf_max(g, -g)); /* 1 - tanh^2 = 4 e / (1 + e)^2, with all its bits */
        *slope = 4.0f * e / ((1.0f + e) * (1.0f + e));
        return vf_tanh(g);
    }
    const vf s = 1.0f / (1.0f + vf_exp(-g));
    *slope = s * vf_fma(g, 1.0f - s, vf_set1(1));
    return g * s;
}

/* BODY once per kind of activation, each with the kind as a constant. */
#define EACH_ACTIVATION(kind, BODY)                                                                                    \
    switch (kind) {                                                                                                    \
    case ACT_SILU: BODY(ACT_SILU); break;                                                                              \
    case ACT_GELU_TANH: BODY(ACT_GELU_TANH); break;                                                                    \
    case ACT_GELU_ERF: BODY(ACT_GELU_ERF); break;                                                                      \
    case ACT_RELU: BODY(ACT_RELU); break;                                                                              \
    case ACT_TANH: BODY(ACT_TANH); break;                                                                              \
    }

FUSED_KERNEL(glu) {
    (void)scratch;
    const int64_t N = view_rows(&in[0]), F = in[0].d[1];
#pragma omp parallel for num_threads(cpu_threads_for(run, N * F))
    for (int64_t i = 0; i < N; i++) {
        const float *gate = view_row(&in[0], i), *up = in[1].p ? view_row(&in[1], i) : NULL;
        float *y = view_row(&out[0], i);
        vf slope;
#define ROW(kind)                                                                                                      \
    EACH_VECTOR(c, n, F) {                                                                                             \
        vf v = activate(kind, load(gate + c, n), &slope);                                                              \
        store(y + c, up ? v * load(up + c, n) : v, n);                                                                 \
    }
        EACH_ACTIVATION(inst->a.act, ROW)
#undef ROW
    }
    return OK;
}

FUSED_KERNEL(glu_bwd) {
    (void)scratch;
    const int64_t N = view_rows(&in[0]), F = in[0].d[1];
#pragma omp parallel for num_threads(cpu_threads_for(run, N * F))
    for (int64_t i = 0; i < N; i++) {
        const float *gate = view_row(&in[0], i), *up = in[1].p ? view_row(&in[1], i) : NULL, *dy = view_row(&in[2], i);
        float *dgate = view_row(&out[0], i), *dup = up ? view_row(&out[1], i) : NULL;
        vf slope;
#define ROW(kind)                                                                                                      \
    EACH_VECTOR(c, n, F) {                                                                                             \
        vf d = load(dy + c, n), y = activate(kind, load(gate + c, n), &slope);                                         \
        store(dgate + c, (up ? d * load(up + c, n) : d) * slope, n);                                                   \
        if (dup) store(dup + c, d * y, n);                                                                             \
    }
        EACH_ACTIVATION(inst->a.act, ROW)
#undef ROW
    }
    return OK;
}

static void cap_row(float *x, int64_t cols, float cap) {
    EACH_VECTOR(c, n, cols) store(x + c, vf_tanh(load(x + c, n) / cap) * cap, n);
}

FUSED_KERNEL(softcap) {
    (void)scratch;
    const int64_t N = view_rows(&in[0]), V = in[0].d[1];
#pragma omp parallel for num_threads(cpu_threads_for(run, N * V))
    for (int64_t i = 0; i < N; i++) {
        float *y = view_row(&out[0], i);
        if (y != view_row(&in[0], i)) memcpy(y, view_row(&in[0], i), (size_t)V * sizeof *y);
        cap_row(y, V, inst->a.softcap);
    }
    return OK;
}

static void widen(dtype dt, const void *from, float *to, int64_t n) {
    if (dt == DT_BF16) vec_widen(DT_BF16, from, to, n);
    else vec_widen(DT_F16, from, to, n);
}

static void narrow(dtype dt, const float *from, void *to, int64_t n) {
    if (dt == DT_BF16) vec_narrow(DT_BF16, from, to, n);
    else vec_narrow(DT_F16, from, to, n);
}

static float row_max(const float *x, int64_t n) {
    vf top = vf_set1(-INFINITY);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) top = vf_max(vf_load(x + i), top);
    float m = vf_max_lane(top);
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* y[i] = exp((x[i] - shift) * factor), y may be NULL; returns their sum: f32 inside a block, double across. */
static double row_exp(const float *x, int64_t cols, float shift, float factor, float *y) {
    double total = 0;
    for (int64_t block = 0; block < cols; block += 256) {
        vf sum = {0};
        EACH_VECTOR(i, n, cols - block < 256 ? cols - block : 256) {
            vf e = vf_weight((load(x + block + i, n) - shift) * factor);
            if (y) store(y + block + i, e, n);
            sum += n < VW ? vf_from(n, (vf){0}, e) : e;
        }
        total += (double)vf_sum(sum);
    }
    return total;
}
