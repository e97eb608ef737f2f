/* Norms, rotation, sums, gates and the sampler's two reductions: included once per instruction set (fused_*.c), written
 * against vec.h.
 *
 * All are limited by memory, so each reads its operands once and threads split the rows evenly. Rows are views: they
 * may be column slices of something wider, but the elements of a row are adjacent. An output may be the memory of an
 * input where src/ops says so: every element is read before it is written, by the same thread. Sums inside a row are
 * f32 in 2 * VW partial sums. */
#include "cpu/fused.h"
#include "cpu/vec.h"
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

FUSED_KERNEL(norm) {
    (void)scratch;
    const int64_t N = view_rows(&in[0]), C = in[0].d[1];
    const float *w = in[1].p, eps = inst->a.eps;
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t i = 0; i < N; i++) {
        const float *x = view_row(&in[0], i);
        float *y = view_row(&out[0], i), r = 1 / sqrtf(vec_dot(x, x, C) / (float)C + eps);
        EACH_VECTOR(c, n, C) store(y + c, load(x + c, n) * r * load(w + c, n), n);
        view_f32(&out[1])[i] = r;
    }
    return OK;
}

/* dw: columns are split between threads so that each has one writer and one order of rows. */
static void norm_bwd_weight(int threads, const struct view *in, const struct view *dw) {
    const int64_t N = view_rows(&in[0]), C = in[0].d[1];
    const float *r = in[2].p;
#pragma omp parallel for num_threads(threads)
    for (int64_t c = 0; c < C; c += VW) {
        int64_t n = C - c < VW ? C - c : VW;
        vf sum = {0};
        for (int64_t i = 0; i < N; i++)
            sum += load(view_row(&in[3], i) + c, n) * load(view_row(&in[0], i) + c, n) * r[i];
        store(view_f32(dw) + c, load(view_f32(dw) + c, n) + sum, n);
    }
}

FUSED_KERNEL(norm_bwd) {
    (void)inst, (void)scratch;
    const int64_t N = view_rows(&in[0]), C = in[0].d[1];
    const float *w = in[1].p;
    if (out[1].p) norm_bwd_weight(cpu_threads(run), in, &out[1]);
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t i = 0; i < N; i++) {
        const float *x = view_row(&in[0], i), *dy = view_row(&in[3], i), r = view_f32(&in[2])[i];
        float *dx = view_row(&out[0], i);
        vf sum = {0};
        EACH_VECTOR(c, n, C) sum = vf_fma(load(dy + c, n) * load(w + c, n), load(x + c, n), sum);
        vf mean = vf_set1(-vf_sum(sum) * r * r / (float)C);
        EACH_VECTOR(c, n, C) store(dx + c, r * vf_fma(load(x + c, n), mean, load(dy + c, n) * load(w + c, n)), n);
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
    const int64_t N = view_rows(&in[0]), D = inst->a.head_dim, half = D / 2;
    const float *freq = in[2].p, sign = inst->a.inverse ? -1 : 1;
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
                store(cosines + j, c, n);
            }
            for (int h = 0; h < inst->a.heads; h++)
                rotate(view_row(&in[0], i) + h * D, view_row(&out[0], i) + h * D, cosines, sines, half,
                       inst->a.interleaved);
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

FUSED_KERNEL(swiglu) {
    (void)inst, (void)scratch;
    const int64_t N = view_rows(&in[0]), F = in[0].d[1];
#pragma omp parallel for num_threads(cpu_threads_for(run, N * F))
    for (int64_t i = 0; i < N; i++) {
        const float *gate = view_row(&in[0], i), *up = view_row(&in[1], i);
        float *y = view_row(&out[0], i);
        EACH_VECTOR(c, n, F) {
            vf g = load(gate + c, n);
            store(y + c, g / (1.0f + vf_exp(-g)) * load(up + c, n), n);
        }
    }
    return OK;
}

FUSED_KERNEL(swiglu_bwd) {
    (void)inst, (void)scratch;
    const int64_t N = view_rows(&in[0]), F = in[0].d[1];
#pragma omp parallel for num_threads(cpu_threads_for(run, N * F))
    for (int64_t i = 0; i < N; i++) {
        const float *gate = view_row(&in[0], i), *up = view_row(&in[1], i), *dy = view_row(&in[2], i);
        float *dgate = view_row(&out[0], i), *dup = view_row(&out[1], i);
        EACH_VECTOR(c, n, F) {
            vf g = load(gate + c, n), d = load(dy + c, n), s = 1.0f / (1.0f + vf_exp(-g)), u = load(up + c, n);
            store(dgate + c, d * u * s * vf_fma(g, 1.0f - s, vf_set1(1)), n);
            store(dup + c, d * g * s, n);
        }
    }
    return OK;
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
