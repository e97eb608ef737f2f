/* core/flat.h on the card: the loops over whole arenas (weights, gradients, moments). One pass over memory each, 16 bytes a
 * thread where the pointers allow.
 *
 * Sums are deterministic: an arena is cut in pieces by its length (and alignment) alone, a block has one piece, a thread one
 * order of its elements, and the host adds the pieces in their order. So the card and its number of multiprocessors do not
 * show. Squares and sums are double. sumsq waits for the card, the others only launch.
 *
 * AdamW, and an importance, is src/cpu/flat.c, operation by operation: each is rounded to f32 by itself (no contracted multiply-adds), so both
 * give the same bits where the CPU's build has no FMA. Non-finite values go through.
 *
 * Refused: casts to anything but bf16, f16 and, a copy, f32. Not for two host threads at once: the sums share one
 * small buffer on the card, made at first use and kept. */
#include "base/round.h"
#include "cuda/flat.cuh"
#include <math.h>

enum { PIECES = 1024, EACH = 4 /* 16-byte loads of a thread, before pieces grow */ };

static double *parts; /* [PIECES], on the card */

static err parts_made(void) {
    if (parts) return OK;
    return cuda_check(cudaMalloc((void **)&parts, PIECES * sizeof *parts), "buffer for sums");
}

static bool aligned(const void *p) { return ((uintptr_t)p & 15) == 0; }

static int pieces_for(int64_t n) { return blocks_for(n, (int64_t)THREADS * EACH * 4, PIECES); }

/* quads: how many float4 may be read (0 when x is not aligned); the rest, from 4 * quads on, goes one by one. */
__global__ void sumsq_kernel(const float *x, int64_t quads, int64_t n, double *part) {
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    EACH_ITEM(i, quads) {
        float4 v = ((const float4 *)x)[i];
        s0 += square(v.x), s1 += square(v.y), s2 += square(v.z), s3 += square(v.w);
    }
    EACH_ITEM(i, n - 4 * quads) s0 += square(x[4 * quads + i]);
    const double sum = block_sum((s0 + s1) + (s2 + s3));
    if (!threadIdx.x) part[blockIdx.x] = sum;
}

extern "C" err cuda_flat_sumsq(const float *x, int64_t n, int threads, double *out) {
    (void)threads;
    double part[PIECES];
    *out = 0;
    if (n <= 0) return OK;
    TRY(parts_made());
    const int pieces = pieces_for(n);
    sumsq_kernel<<<pieces, THREADS, 0, cuda_stream>>>(x, aligned(x) ? n / 4 : 0, n, parts);
    TRY(CUDA_LAUNCHED("sum of squares"));
    TRY(cuda_check(cudaMemcpyAsync(part, parts, (size_t)pieces * sizeof *part, cudaMemcpyDeviceToHost, cuda_stream), "sum of squares"));
    TRY(cuda_check(cudaStreamSynchronize(cuda_stream), "sum of squares"));
    for (int i = 0; i < pieces; i++) *out += part[i];
    return OK;
}

struct step { float decay, step, root, one_b1, b2, one_b2, eps, scale; };

__device__ static void adamw_one(const struct step &o, float grad, float *p, float *m, float *v) {
    float g = __fmul_rn(o.scale, grad);
    float mi = __fadd_rn(*m, __fmul_rn(o.one_b1, __fsub_rn(g, *m)));
    float vi = __fadd_rn(__fmul_rn(o.b2, *v), __fmul_rn(o.one_b2, __fmul_rn(g, g)));
    float by = __fadd_rn(__fdiv_rn(__fsqrt_rn(vi), o.root), o.eps);
    *m = mi;
    *v = vi;
    *p = __fsub_rn(__fmul_rn(o.decay, *p), __fmul_rn(o.step, __fdiv_rn(mi, by)));
}

__global__ void adamw_kernel(struct step o, const float *grad, float *p, float *m, float *v, int64_t quads, int64_t n) {
    EACH_ITEM(i, quads) {
        float4 g = ((const float4 *)grad)[i], pi = ((float4 *)p)[i], mi = ((float4 *)m)[i], vi = ((float4 *)v)[i];
        adamw_one(o, g.x, &pi.x, &mi.x, &vi.x);
        adamw_one(o, g.y, &pi.y, &mi.y, &vi.y);
        adamw_one(o, g.z, &pi.z, &mi.z, &vi.z);
        adamw_one(o, g.w, &pi.w, &mi.w, &vi.w);
        ((float4 *)p)[i] = pi, ((float4 *)m)[i] = mi, ((float4 *)v)[i] = vi;
    }
    EACH_ITEM(i, n - 4 * quads) {
        int64_t k = 4 * quads + i;
        adamw_one(o, grad[k], p + k, m + k, v + k);
    }
}

extern "C" err cuda_flat_adamw(const struct adamw *o, const struct adamw_state *s, int64_t n, int threads) {
    (void)threads;
    if (n <= 0) return OK;
    const double bias1 = 1 - pow(o->beta1, (double)o->t), bias2 = 1 - pow(o->beta2, (double)o->t);
    struct step k = {(float)(1 - o->lr * o->weight_decay), (float)(o->lr / bias1), (float)sqrt(bias2), (float)(1 - o->beta1),
                     (float)o->beta2, (float)(1 - o->beta2), (float)o->eps, o->grad_scale};
    const int64_t quads = aligned(s->g) && aligned(s->p) && aligned(s->m) && aligned(s->v) ? n / 4 : 0;
    adamw_kernel<<<grid_for(quads ? quads : n), THREADS, 0, cuda_stream>>>(k, s->g, s->p, s->m, s->v, quads, n);
    return CUDA_LAUNCHED("adamw");
}

/* octets: how many groups of 8 may be read and written 16 bytes at a time. */
template <typename T> __global__ void cast_kernel(const float *x, T *to, int64_t octets, int64_t n) {
    EACH_ITEM(i, octets) {
        float4 a = ((const float4 *)x)[2 * i], b = ((const float4 *)x)[2 * i + 1];
        union { uint4 u; T t[8]; } v;
        v.t[0] = from_f32<T>(a.x), v.t[1] = from_f32<T>(a.y), v.t[2] = from_f32<T>(a.z), v.t[3] = from_f32<T>(a.w);
        v.t[4] = from_f32<T>(b.x), v.t[5] = from_f32<T>(b.y), v.t[6] = from_f32<T>(b.z), v.t[7] = from_f32<T>(b.w);
        ((uint4 *)to)[i] = v.u;
    }
    EACH_ITEM(i, n - 8 * octets) to[8 * octets + i] = from_f32<T>(x[8 * octets + i]);
}

extern "C" err cuda_flat_cast(const float *x, void *to, dtype dt, int64_t n, int threads) {
    (void)threads;
    if (n <= 0) return OK;
    if (dt == DT_F32) return cuda_check(cudaMemcpyAsync(to, x, (size_t)n * sizeof *x, cudaMemcpyDeviceToDevice, cuda_stream), "cast");
    const int64_t octets = aligned(x) && aligned(to) ? n / 8 : 0;
    const int grid = grid_for(octets ? octets : n);
    if (dt == DT_BF16) cast_kernel<bf16><<<grid, THREADS, 0, cuda_stream>>>(x, (bf16 *)to, octets, n);
    else if (dt == DT_F16) cast_kernel<f16><<<grid, THREADS, 0, cuda_stream>>>(x, (f16 *)to, octets, n);
    else return fail(E_INTERNAL, "cast: to bf16, f16 or f32 only");
    return CUDA_LAUNCHED("cast");
}

/* --- weights in bf16 ------------------------------------------------------------------------------------------------------- */
__global__ void widen_kernel(const uint16_t *x, float *to, int64_t n) {
    EACH_ITEM(i, n) to[i] = __uint_as_float((uint32_t)x[i] << 16);
}

extern "C" err cuda_flat_widen(const uint16_t *x, float *to, int64_t n, int threads) {
    (void)threads;
    if (n <= 0) return OK;
    widen_kernel<<<grid_for(n), THREADS, 0, cuda_stream>>>(x, to, n);
    return CUDA_LAUNCHED("widen");
}

/* A thread has the numbers of one group of random bits. */
__global__ void round_kernel(struct rounding o, const float *x, uint16_t *to, int64_t groups, int64_t n) {
    EACH_ITEM(i, groups) {
        const uint64_t group = o.first / ROUND_GROUP + (uint64_t)i;
        const struct philox random = round_group(o.key, o.step, group);
        for (int k = 0; k < ROUND_GROUP; k++) {
            const int64_t at = (int64_t)(group * ROUND_GROUP + (uint64_t)k - o.first);
            if (at >= 0 && at < n) to[at] = round_bf16(__float_as_uint(x[at]), round_bits(&random, (uint64_t)k));
        }
    }
}

extern "C" err cuda_flat_round(const struct rounding *o, const float *x, uint16_t *to, int64_t n, int threads) {
    (void)threads;
    if (n <= 0) return OK;
    const int64_t groups = (int64_t)((o->first + (uint64_t)n + ROUND_GROUP - 1) / ROUND_GROUP - o->first / ROUND_GROUP);
    round_kernel<<<grid_for(groups), THREADS, 0, cuda_stream>>>(*o, x, to, groups, n);
    return CUDA_LAUNCHED("rounding at random");
}

/* --- AdaLoRA's: importances, vectors that are to be orthonormal ------------------------------------------------------------- */
struct smooth { float b1, one_b1, b2, one_b2, scale; };

__global__ void importance_kernel(struct smooth o, const float *p, const float *g, float *mean, float *spread, int64_t n) {
    EACH_ITEM(i, n) {
        const float now = fabsf(__fmul_rn(p[i], __fmul_rn(o.scale, g[i])));
        const float m = __fadd_rn(__fmul_rn(o.b1, mean[i]), __fmul_rn(o.one_b1, now));
        mean[i] = m;
        spread[i] = __fadd_rn(__fmul_rn(o.b2, spread[i]), __fmul_rn(o.one_b2, fabsf(__fsub_rn(now, m))));
    }
}

extern "C" err cuda_flat_importance(const struct importance *o, const struct importance_state *s, int64_t n, int threads) {
    (void)threads;
    if (n <= 0) return OK;
    const struct smooth k = {(float)o->beta1, (float)(1 - o->beta1), (float)o->beta2, (float)(1 - o->beta2), o->grad_scale};
    importance_kernel<<<grid_for(n), THREADS, 0, cuda_stream>>>(k, s->p, s->g, s->mean, s->spread, n);
    return CUDA_LAUNCHED("importance");
}

static float *gram; /* [ORTHOGONAL_MOST, ORTHOGONAL_MOST] and the factor, on the card; made at first use and kept */

/* A block has one element of S. */
__global__ void gram_kernel(struct orthogonal o, const float *v, float *s) {
    const int i = blockIdx.x, j = blockIdx.y;
    const float *a = v + i * o.across, *b = v + j * o.across;
    double sum = 0;
    for (int64_t l = threadIdx.x; l < o.length; l += THREADS) sum += (double)a[l * o.along] * b[l * o.along];
    sum = block_sum(sum);
    if (!threadIdx.x) s[i * o.n + j] = (float)(sum - (i == j));
}

__global__ void norm_kernel(const float *s, int n, double weight, float *by) {
    double squares = 0;
    for (int k = threadIdx.x; k < n; k += THREADS) squares += square(s[k]);
    squares = block_sum(squares);
    if (!threadIdx.x) *by = squares > 0 ? (float)(2 * weight / sqrt(squares)) : 0;
}

/* Neighbouring threads have neighbouring elements, whichever way the vectors lie. */
__global__ void orthogonal_kernel(struct orthogonal o, const float *v, const float *s, const float *by, float *grad) {
    EACH_ITEM(k, o.n * o.length) {
        const int i = (int)(o.along == 1 ? k / o.length : k % o.n);
        const int64_t l = o.along == 1 ? k % o.length : k / o.n;
        float sum = 0;
        for (int j = 0; j < o.n; j++) sum += s[i * o.n + j] * v[j * o.across + l * o.along];
        grad[i * o.across + l * o.along] += *by * sum;
    }
}

extern "C" err cuda_flat_orthogonal(const struct orthogonal *o, const float *v, float *grad, int threads) {
    (void)threads;
    const size_t most = (size_t)ORTHOGONAL_MOST * ORTHOGONAL_MOST;
    if (!gram) TRY(cuda_check(cudaMalloc((void **)&gram, (most + 1) * sizeof *gram), "buffer for products of vectors"));
    gram_kernel<<<dim3((unsigned)o->n, (unsigned)o->n), THREADS, 0, cuda_stream>>>(*o, v, gram);
    TRY(CUDA_LAUNCHED("products of vectors"));
    norm_kernel<<<1, THREADS, 0, cuda_stream>>>(gram, o->n * o->n, o->weight, gram + most);
    TRY(CUDA_LAUNCHED("products of vectors"));
    orthogonal_kernel<<<grid_for(o->n * o->length), THREADS, 0, cuda_stream>>>(*o, v, gram, gram + most, grad);
    return CUDA_LAUNCHED("vectors made orthogonal");
}

__global__ static void advance_kernel(int32_t *ids, int32_t *pos, const int32_t *next, const float *logprob, int32_t *log, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) ids[i] = log[i] = next[i], log[n + i] = __float_as_int(logprob[i]), pos[i]++;
}

extern "C" err cuda_flat_advance(int32_t *ids, int32_t *pos, const int32_t *next, const float *logprob, int32_t *log, int n) {
    if (n > 0) advance_kernel<<<(unsigned)((n + 255) / 256), 256, 0, cuda_stream>>>(ids, pos, next, logprob, log, n);
    return CUDA_LAUNCHED("the next tokens");
}
