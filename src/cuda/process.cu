/* What stands between logits and the choice of a token (process), the ids that it asks for (remember), and what beams need: the best few ids
 * of a row (top) and positions of a cache that go to another slot (cache_copy).
 *
 * process: a block has a row. It writes the row anew, less the logarithm of its exponentials' sum where log-probabilities are wanted, and
 * then over it, from the logits that it read, those of the ids in the row's history: equal ids write equal numbers, so nothing must be
 * counted. Sums are f32 exponentials added in double in a fixed order.
 * top: a block has a row and finds its greatest n times, each below the one before: a logit and its id as one number of 64 bits that orders
 * as both do. n passes of a row from the L2 cache: evaluation's, a few ids.
 * Logits are f32; they are so in a program of any type. No scratch. */
#include "cuda/types.cuh"
#include <math.h>

enum { THREADS = 1024, WARPS = THREADS / 32 };
struct rules {
    float penalty;
    int min_new, eos;
    bool normalise;
};

__device__ static double block_sum(double x, double *partial) {
    for (int s = 16; s; s >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, s);
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < WARPS; w++) x += partial[w];
    __syncthreads();
    return x;
}

/* NaN is passed over. */
__device__ static float block_max(float x, float *partial) {
    for (int s = 16; s; s >>= 1) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, s));
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = x;
    __syncthreads();
    x = partial[0];
    for (int w = 1; w < WARPS; w++) x = fmaxf(x, partial[w]);
    __syncthreads();
    return x;
}

/* The logarithm of the sum of a row's exponentials. */
__device__ static float log_sum(const float *z, int V) {
    __shared__ double sums[WARPS];
    __shared__ float tops[WARPS];
    float top = -INFINITY;
    for (int v = threadIdx.x; v < V; v += THREADS) top = fmaxf(top, z[v]);
    top = block_max(top, tops);
    double sum = 0;
    for (int v = threadIdx.x; v < V; v += THREADS) sum += (double)expf(z[v] - top);
    return top + (float)log(block_sum(sum, sums));
}

struct past {
    const int32_t *history;
    int64_t ld;
    const int32_t *slot, *pos, *rows, *begin;
};

__global__ void __launch_bounds__(THREADS)
    process_kernel(const float *logits, int64_t ld, int V, float *out, int64_t ld_out, struct past from, struct rules how) {
    const int s = blockIdx.x;
    const float *z = logits + s * ld;
    float *to = out + s * ld_out;
    const float shift = how.normalise ? log_sum(z, V) : 0;
    for (int v = threadIdx.x; v < V; v += THREADS) to[v] = z[v] - shift;
    if (!from.history) return;
    const int r = from.rows ? from.rows[s] : s, known = from.pos[r] + 1;
    const int32_t *ids = from.history + from.slot[r] * from.ld;
    __syncthreads();
    for (int t = threadIdx.x; t < known && how.penalty > 0 && how.penalty != 1; t += THREADS) {
        const int32_t id = ids[t];
        if (id < 0 || id >= V) continue; /* a virtual token */
        const float x = z[id] - shift;
        to[id] = x < 0 ? x * how.penalty : x / how.penalty;
    }
    __syncthreads();
    const int made = from.begin ? known - from.begin[s] : 0;
    if (!threadIdx.x && made < how.min_new && how.eos >= 0 && how.eos < V) to[how.eos] = -INFINITY;
}

extern "C" err cuda_process(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    const struct sampling *how = &run->sampling;
    const struct past from = {view_i32(&in[PROC_HISTORY]), in[PROC_HISTORY].ld,      view_i32(&in[PROC_SLOT]),
                             view_i32(&in[PROC_POS]),     view_i32(&in[PROC_ROWS]), view_i32(&in[PROC_BEGIN])};
    const struct rules rules = {how->penalty, how->min_new, how->eos, inst->a.normalise};
    if (in[PROC_Z].d[0])
        process_kernel<<<(unsigned)in[PROC_Z].d[0], THREADS, 0, cuda_stream>>>(view_f32(&in[PROC_Z]), in[PROC_Z].ld, (int)in[PROC_Z].d[1],
                                                                               view_f32(&out[0]), out[0].ld, from, rules);
    return CUDA_LAUNCHED("process");
}

/* Orders by logit, then by id, lower first; never 0. NaN is -inf. */
__device__ static uint64_t rank_of(float z, int v) {
    const uint32_t u = __float_as_uint(z == z ? z + 0.0f : -INFINITY);
    return (uint64_t)(u & 0x80000000u ? ~u : u | 0x80000000u) << 32 | (0xFFFFFFFFu - (uint32_t)v);
}

__global__ void __launch_bounds__(THREADS)
    top_kernel(const float *logits, int64_t ld, int V, int n, int32_t *id, int64_t ld_id, float *value, int64_t ld_value) {
    __shared__ uint64_t partial[WARPS];
    const float *z = logits + blockIdx.x * ld;
    for (uint64_t k = 0, last = ~0ull; k < n; k++) {
        uint64_t best = 0;
        for (int v = threadIdx.x; v < V; v += THREADS) {
            const uint64_t x = rank_of(z[v], v);
            if (x < last && x > best) best = x;
        }
        for (int s = 16; s; s >>= 1) best = max(best, __shfl_xor_sync(0xFFFFFFFFu, best, s));
        if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = best;
        __syncthreads();
        for (int w = 0; w < WARPS; w++) best = max(best, partial[w]);
        __syncthreads();
        last = best;
        if (threadIdx.x) continue;
        const int v = (int)(0xFFFFFFFFu - (uint32_t)best);
        id[blockIdx.x * ld_id + k] = v;
        value[blockIdx.x * ld_value + k] = z[v] == z[v] ? z[v] : -INFINITY;
    }
}

extern "C" err cuda_top(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    if (in[0].d[0])
        top_kernel<<<(unsigned)in[0].d[0], THREADS, 0, cuda_stream>>>(view_f32(&in[0]), in[0].ld, (int)in[0].d[1], inst->a.n,
                                                                      (int32_t *)out[0].p, out[0].ld, view_f32(&out[1]), out[1].ld);
    return CUDA_LAUNCHED("top");
}

enum { SMALL = 256 };

__global__ void remember_kernel(const int32_t *ids, const int32_t *slot, const int32_t *pos, int32_t *history, int64_t ld, int64_t n) {
    const int64_t i = blockIdx.x * (int64_t)SMALL + threadIdx.x;
    if (i < n) history[slot[i] * ld + pos[i]] = ids[i];
}

extern "C" err cuda_remember(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)out, (void)scratch;
    const int64_t n = in[0].d[0];
    if (n)
        remember_kernel<<<(unsigned)((n + SMALL - 1) / SMALL), SMALL, 0, cuda_stream>>>(view_i32(&in[0]), view_i32(&in[1]),
                                                                                        view_i32(&in[2]), (int32_t *)in[3].p, in[3].ld, n);
    return CUDA_LAUNCHED("remember");
}

/* A block a position; a cell is D elements of T. */
template <typename T>
__global__ void copy_kernel(T *cache, int64_t K, int64_t length, int64_t D, const int32_t *from, const int32_t *to, const int32_t *pos) {
    const int64_t n = blockIdx.x;
    for (int64_t i = threadIdx.x; i < K * D; i += SMALL) {
        const int64_t h = i / D, d = i % D;
        cache[((to[n] * K + h) * length + pos[n]) * D + d] = cache[((from[n] * K + h) * length + pos[n]) * D + d];
    }
}

extern "C" err cuda_cache_copy(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)out, (void)scratch;
    const struct view *c = &in[0];
    const int64_t K = c->nd == 4 ? c->d[1] : 1, length = c->nd == 4 ? c->d[2] : c->ld, D = c->nd == 4 ? c->d[3] : 1;
    const unsigned n = (unsigned)in[1].d[0];
    if (!n) return OK;
    if (dtype_info[c->dt].bytes == 2)
        copy_kernel<<<n, SMALL, 0, cuda_stream>>>((uint16_t *)c->p, K, length, D, view_i32(&in[1]), view_i32(&in[2]), view_i32(&in[3]));
    else copy_kernel<<<n, SMALL, 0, cuda_stream>>>((uint32_t *)c->p, K, length, D, view_i32(&in[1]), view_i32(&in[2]), view_i32(&in[3]));
    return CUDA_LAUNCHED("cache_copy");
}
