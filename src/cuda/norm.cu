/* Norms other than RMSNorm over a whole row (elementwise.cu has that one): LayerNorm, with or without a bias (GPT-2, BERT), and a norm of
 * each head of a row with one weight (the q and k norms of Qwen3 and Gemma 3). ops/norm.c says what they are.
 *
 * A warp has a vector: it reads it twice (the mean, then the squares around it) and a third time to write y, which the caches
 * serve. dw and dbias are sums over all vectors: PARTS pieces of them into scratch, then the pieces in order, so the bits repeat.
 * Called by cuda_norm() and cuda_norm_bwd(). */
#include "cuda/types.cuh"

enum { WARPS = 8, THREADS = WARPS * 32, PARTS = 64, TILE_X = 32, TILE_Y = 8 };

struct vectors {
    const void *x, *dy;
    void *y;              /* or dx */
    const float *w, *bias;
    float *rstd, *mean;   /* mean: NULL where none is taken off */
    int64_t N, ldx, lddy, ldy, ld_rstd, ld_mean;
    int H, D;
    float eps;
};

/* Where vector k of x lies, and its statistic. */
__device__ __forceinline__ int64_t at_vector(const struct vectors &a, int64_t k, int64_t ld) { return k / a.H * ld + k % a.H * a.D; }
__device__ __forceinline__ int64_t at_stat(const struct vectors &a, int64_t k, int64_t ld) { return a.H > 1 ? k / a.H * ld + k % a.H : k; }

template <typename T> __global__ void __launch_bounds__(THREADS) vector_norm_kernel(const __grid_constant__ struct vectors a) {
    const int lane = threadIdx.x % 32;
    const float D = (float)a.D;
    for (int64_t k = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; k < a.N * a.H; k += (int64_t)gridDim.x * WARPS) {
        const T *x = (const T *)a.x + at_vector(a, k, a.ldx);
        T *y = (T *)a.y + at_vector(a, k, a.ldy);
        float mean = 0, ss = 0;
        if (a.mean) {
            for (int c = lane; c < a.D; c += 32) mean += to_f32(x[c]);
            mean = warp_sum(mean) / D;
        }
        for (int c = lane; c < a.D; c += 32) {
            const float d = to_f32(x[c]) - mean;
            ss = fmaf(d, d, ss);
        }
        const float r = 1.0f / sqrtf(warp_sum(ss) / D + a.eps);
        for (int c = lane; c < a.D; c += 32) y[c] = from_f32<T>((to_f32(x[c]) - mean) * r * a.w[c] + (a.bias ? a.bias[c] : 0.0f));
        if (lane) continue;
        if (a.rstd) a.rstd[at_stat(a, k, a.ld_rstd)] = r;
        if (a.mean) a.mean[at_stat(a, k, a.ld_mean)] = mean;
    }
}

/* dx = r (g - xh mean(g xh) - mean(g)), g = dy w; the last term where a mean was taken off. */
template <typename T> __global__ void __launch_bounds__(THREADS) vector_norm_bwd_kernel(const __grid_constant__ struct vectors a) {
    const int lane = threadIdx.x % 32;
    const float D = (float)a.D;
    for (int64_t k = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; k < a.N * a.H; k += (int64_t)gridDim.x * WARPS) {
        const T *x = (const T *)a.x + at_vector(a, k, a.ldx), *dy = (const T *)a.dy + at_vector(a, k, a.lddy);
        T *dx = (T *)a.y + at_vector(a, k, a.ldy);
        const float r = a.rstd[at_stat(a, k, a.ld_rstd)], mean = a.mean ? a.mean[at_stat(a, k, a.ld_mean)] : 0.0f;
        float dot = 0, sum = 0;
        for (int c = lane; c < a.D; c += 32) {
            const float g = to_f32(dy[c]) * a.w[c];
            dot = fmaf(g, (to_f32(x[c]) - mean) * r, dot), sum += g;
        }
        dot = warp_sum(dot) / D, sum = a.mean ? warp_sum(sum) / D : 0.0f;
        for (int c = lane; c < a.D; c += 32) dx[c] = from_f32<T>(r * (to_f32(dy[c]) * a.w[c] - (to_f32(x[c]) - mean) * r * dot - sum));
    }
}

/* part[0][p, c] = sum over a part's vectors of dy xh, part[1][p, c] = sum of dy. */
template <typename T> __global__ void vector_sums_kernel(const __grid_constant__ struct vectors a, float *part, int64_t each) {
    __shared__ float rows[2][TILE_Y][TILE_X];
    const int c = blockIdx.x * TILE_X + threadIdx.x;
    const int64_t begin = blockIdx.y * each, all = a.N * a.H, end = begin + each < all ? begin + each : all;
    float w = 0, b = 0;
    for (int64_t k = begin + threadIdx.y; c < a.D && k < end; k += TILE_Y) {
        const float g = to_f32(((const T *)a.dy)[at_vector(a, k, a.lddy) + c]), mean = a.mean ? a.mean[at_stat(a, k, a.ld_mean)] : 0.0f;
        w += g * ((to_f32(((const T *)a.x)[at_vector(a, k, a.ldx) + c]) - mean) * a.rstd[at_stat(a, k, a.ld_rstd)]), b += g;
    }
    rows[0][threadIdx.y][threadIdx.x] = w, rows[1][threadIdx.y][threadIdx.x] = b;
    __syncthreads();
    if (threadIdx.y > 1 || c >= a.D) return;
    float sum = 0;
    for (int i = 0; i < TILE_Y; i++) sum += rows[threadIdx.y][i][threadIdx.x];
    part[((int64_t)threadIdx.y * PARTS + blockIdx.y) * a.D + c] = sum;
}

__global__ void join_sums_kernel(const float *part, float *to, int D) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= D) return;
    float sum = 0;
    for (int p = 0; p < PARTS; p++) sum += part[(int64_t)p * D + c];
    to[c] += sum;
}

extern "C" bool cuda_plain_norm(const struct inst *i) { return i->a.heads <= 1 && !i->a.center && !i->in[i->op == &op_norm_bwd ? 5 : 2].i; }

static struct vectors vectors_of(const struct inst *i, const struct view *x, const struct view *rstd, const struct view *mean) {
    struct vectors a = {};
    a.x = x->p, a.ldx = x->ld, a.N = view_rows(x), a.H = i->a.heads > 1 ? i->a.heads : 1, a.D = (int)(x->d[1] / a.H), a.eps = i->a.eps;
    a.rstd = view_f32(rstd), a.ld_rstd = rstd->ld, a.mean = i->a.center ? view_f32(mean) : NULL, a.ld_mean = mean->ld;
    return a;
}

static int grid_of(const struct vectors *a) {
    const int64_t blocks = (a->N * a->H + WARPS - 1) / WARPS, most = (int64_t)cuda_sms * 16;
    return (int)(blocks < most ? blocks : most);
}

extern "C" err cuda_vector_norm(const struct inst *i, const struct view *in, struct view *out) {
    struct vectors a = vectors_of(i, &in[0], &out[1], &out[2]);
    if (!a.N || !a.D) return OK;
    a.w = view_f32(&in[1]), a.bias = view_f32(&in[2]), a.y = out[0].p, a.ldy = out[0].ld;
    WITH_TYPE(in[0].dt, vector_norm_kernel<T><<<grid_of(&a), THREADS, 0, cuda_stream>>>(a));
    return CUDA_LAUNCHED("norm");
}

extern "C" size_t cuda_vector_norm_bwd_scratch(const struct view *in, const struct view *out) {
    return out[1].dt == DT_NONE && out[2].dt == DT_NONE ? 0 : (size_t)2 * PARTS * (size_t)in[1].d[0] * sizeof(float);
}

extern "C" err cuda_vector_norm_bwd(const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    struct vectors a = vectors_of(i, &in[0], &in[2], &in[4]);
    if (!a.N || !a.D) return OK;
    a.w = view_f32(&in[1]), a.dy = in[3].p, a.lddy = in[3].ld, a.y = out[0].p, a.ldy = out[0].ld;
    WITH_TYPE(in[0].dt, vector_norm_bwd_kernel<T><<<grid_of(&a), THREADS, 0, cuda_stream>>>(a));
    TRY(CUDA_LAUNCHED("norm_bwd"));
    if (!out[1].p && !out[2].p) return OK;
    float *part = (float *)scratch;
    const dim3 tiles((unsigned)((a.D + TILE_X - 1) / TILE_X), PARTS), tile(TILE_X, TILE_Y);
    WITH_TYPE(in[0].dt, vector_sums_kernel<T><<<tiles, tile, 0, cuda_stream>>>(a, part, (a.N * a.H + PARTS - 1) / PARTS));
    TRY(CUDA_LAUNCHED("norm_bwd, dw"));
    const int blocks = (a.D + THREADS - 1) / THREADS;
    if (out[1].p) join_sums_kernel<<<blocks, THREADS, 0, cuda_stream>>>(part, view_f32(&out[1]), a.D);
    if (out[2].p) join_sums_kernel<<<blocks, THREADS, 0, cuda_stream>>>(part + (int64_t)PARTS * a.D, view_f32(&out[2]), a.D);
    return CUDA_LAUNCHED("norm_bwd, sum of dw");
}
