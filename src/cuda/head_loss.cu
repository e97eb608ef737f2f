/* head_loss (ops/head_loss.c): the output projection and cross-entropy, in chunks of rows whose logits fit CHUNK bytes, so that
 * the [N, V] logits never exist. Rows without weight are left out of the products: the first kernel lists the others, and
 * the host waits once for their number.
 *
 * A chunk: gathered x [r, C] -> logits f32 [r, V] -> one block a row: max, sum of exponentials, nll, and the gradient
 * loss_scale * weight * (softmax - onehot) in the compute type -> dx rows [r, C] -> scattered. Sums are made in the end from per-row figures, in
 * row order, in double: the same bits in every run. */
#include "cuda/gemm.h"
#include "cuda/types.cuh"

enum { CHUNK = 256 << 20, THREADS = 512, MANY = 1024, NOBODY = -1 };

static size_t aligned(size_t n) { return (n + 255) / 256 * 256; }
static size_t size_of(dtype dt) { return dtype_row_bytes(dt, 1); }

static int64_t chunk_rows(int64_t N, int64_t V) {
    int64_t r = CHUNK / (V * 4);
    r = r < 64 ? 64 : r / 64 * 64;
    return N < r ? N : r;
}

/* Scratch, in this order. */
struct places { size_t index, row, weights, x, logits, grad, dx, total; };

static struct places places_of(const struct view *in, bool grads) {
    int64_t N = in[0].d[0], C = in[0].d[1], V = in[1].d[0], r = chunk_rows(N, V);
    dtype dt = in[0].dt;
    struct places p = {0, 0, 0, 0, 0, 0, 0, 0};
    p.row = aligned((size_t)(N + 1) * 4);
    p.weights = p.row + aligned((size_t)N * 8); /* nll and correct of each listed row */
    p.x = p.weights + (in[1].dt == dt ? 0 : aligned((size_t)(V * C) * size_of(dt)));
    p.logits = p.x + aligned((size_t)(r * C) * size_of(dt));
    p.grad = p.logits + aligned((size_t)(r * V) * 4);
    p.dx = p.grad + (grads && dt != DT_F32 ? aligned((size_t)(r * V) * size_of(dt)) : 0);
    p.total = p.dx + (grads ? aligned((size_t)(r * C) * size_of(dt)) : 0);
    return p;
}

extern "C" size_t cuda_head_loss_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i;
    return places_of(in, out[2].nd != 0).total;
}

/* index[0] = how many, index[1..bound]: the rows with weight, in order, then NOBODY. One block. */
__global__ static void list_kernel(const float *weight, int n, int bound, int *index) {
    __shared__ int part[MANY];
    int each = (n + MANY - 1) / MANY, from = threadIdx.x * each, to = min(n, from + each), mine = 0;
    for (int i = from; i < to; i++) mine += weight[i] != 0;
    part[threadIdx.x] = mine;
    __syncthreads();
    for (int d = 1; d < MANY; d *= 2) {
        int add = (int)threadIdx.x >= d ? part[threadIdx.x - d] : 0;
        __syncthreads();
        part[threadIdx.x] += add;
        __syncthreads();
    }
    int at = part[threadIdx.x] - mine;
    for (int i = from; i < to; i++)
        if (weight[i] != 0) index[1 + at++] = i;
    if (threadIdx.x == MANY - 1) index[0] = part[MANY - 1];
    for (int i = part[MANY - 1] + (int)threadIdx.x; i < bound; i += MANY) index[1 + i] = NOBODY;
}

/* gather: to[r] = from[index[r]], or zeros; scatter: to[index[r]] = from[r]. */
template <typename T> __global__ void move_kernel(const T *from, int64_t ld_from, T *to, int64_t ld_to, const int *index, int64_t C, bool scatter) {
    int64_t r = blockIdx.x, other = index[r];
    if (other == NOBODY) {
        for (int64_t c = threadIdx.x; c < C && !scatter; c += blockDim.x) to[r * ld_to + c] = from_f32<T>(0);
        return;
    }
    const T *a = from + (scatter ? r : other) * ld_from;
    T *b = to + (scatter ? other : r) * ld_to;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) b[c] = a[c];
}

__device__ static float block_sum(float x, float *shared) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x < THREADS / 32 ? shared[threadIdx.x] : 0;
    x = warp_sum(x);
    if (threadIdx.x == 0) shared[0] = x;
    __syncthreads();
    return shared[0];
}

struct top { float z; int v; };
__device__ static struct top better(struct top a, struct top b) { /* NaN wins, then the larger, then the lower id */
    bool na = a.z != a.z, nb = b.z != b.z;
    if (na || nb) return na ? a : b;
    return b.z > a.z || (b.z == a.z && b.v < a.v) ? b : a;
}

__device__ static struct top block_top(struct top t, struct top *shared) {
    for (int d = 16; d; d >>= 1) {
        struct top o = {__shfl_xor_sync(~0u, t.z, d), __shfl_xor_sync(~0u, t.v, d)};
        t = better(t, o);
    }
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = t;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i < THREADS / 32; i++) shared[0] = better(shared[0], shared[i]);
    __syncthreads();
    return shared[0];
}

/* A block a row. grad may be the logits themselves (f32): each element is read before it is written, by its own thread. */
template <typename T>
__global__ void loss_kernel(const float *logits, T *grad, int64_t V, const int *index, const int32_t *label, const float *weight, float *nll, float *row, const struct cuda_keys *keys) {
    __shared__ float sums[THREADS / 32];
    __shared__ struct top tops[THREADS / 32];
    int64_t r = blockIdx.x, n = index[r];
    const float *z = logits + r * V;
    if (n == NOBODY) {
        for (int64_t v = threadIdx.x; v < V && grad; v += THREADS) grad[r * V + v] = from_f32<T>(0);
        return;
    }
    int32_t want = label[n];
    struct top t = {-INFINITY, 0x7FFFFFFF};
    for (int64_t v = threadIdx.x; v < V; v += THREADS) t = better(t, (struct top){z[v], (int)v});
    t = block_top(t, tops);
    float s = 0;
    for (int64_t v = threadIdx.x; v < V; v += THREADS) s += expf(z[v] - t.z);
    s = block_sum(s, sums);
    if (threadIdx.x == 0) {
        float loss = want >= 0 && want < V ? t.z + logf(s) - z[want] : NAN; /* a label out of range makes the step E_NUMERIC */
        nll[n] = loss;
        row[2 * r] = loss;
        row[2 * r + 1] = t.v == want;
    }
    if (!grad) return;
    __syncthreads(); /* z[want] has been read */
    float w = weight[n] * keys->loss_scale, inv = 1 / s;
    for (int64_t v = threadIdx.x; v < V; v += THREADS) grad[r * V + v] = from_f32<T>(w * (expf(z[v] - t.z) * inv - (v == want)));
}

__global__ static void sums_kernel(const int *index, const float *row, const float *weight, float *out) {
    __shared__ double part[3][256];
    int n = index[0], each = (n + 255) / 256, from = threadIdx.x * each, to = min(n, from + each);
    double a = 0, b = 0, c = 0;
    for (int r = from; r < to; r++) {
        double w = weight[index[1 + r]];
        a += w * row[2 * r];
        b += w;
        c += w * row[2 * r + 1];
    }
    part[0][threadIdx.x] = a, part[1][threadIdx.x] = b, part[2][threadIdx.x] = c;
    __syncthreads();
    if (threadIdx.x < 3) {
        double sum = 0;
        for (int k = 0; k < 256; k++) sum += part[threadIdx.x][k];
        out[threadIdx.x] = (float)sum;
    }
    if (threadIdx.x == 3) out[3] = (float)n;
}

struct head {
    const struct view *in;
    struct view *out;
    const void *w; /* in the compute type */
    char *scratch;
    struct places at;
    bool grads;
};

template <typename T> static err chunk(const struct head *h, int64_t from, int64_t rows) {
    const struct view *x = &h->in[0];
    int64_t C = x->d[1], V = h->in[1].d[0];
    const int *index = (const int *)(h->scratch + h->at.index) + 1 + from;
    T *xs = (T *)(h->scratch + h->at.x), *dx = (T *)(h->scratch + h->at.dx);
    float *logits = (float *)(h->scratch + h->at.logits), *row = (float *)(h->scratch + h->at.row) + 2 * from;
    T *grad = !h->grads ? NULL : sizeof(T) == 4 ? (T *)logits : (T *)(h->scratch + h->at.grad);
    move_kernel<T><<<rows, 128, 0, cuda_stream>>>((const T *)x->p, x->ld, xs, C, index, C, false);
    struct cuda_gemm g = {rows, V, C, xs, h->w, logits, C, C, V, false, true, x->dt, DT_F32, 1, 0};
    TRY(cuda_gemm(&g));
    loss_kernel<T><<<rows, THREADS, 0, cuda_stream>>>(logits, grad, V, index, (const int32_t *)h->in[2].p, (const float *)h->in[3].p, (float *)h->out[1].p, row, cuda_keys);
    TRY(CUDA_LAUNCHED("head_loss"));
    if (!grad) return OK;
    struct cuda_gemm d = {rows, C, V, grad, h->w, dx, V, C, C, false, false, x->dt, x->dt, 1, 0};
    TRY(cuda_gemm(&d));
    move_kernel<T><<<rows, 128, 0, cuda_stream>>>(dx, C, (T *)h->out[2].p, h->out[2].ld, index, C, true);
    return CUDA_LAUNCHED("head_loss");
}

extern "C" err cuda_head_loss(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)i;
    int64_t N = in[0].d[0], C = in[0].d[1], V = in[1].d[0], bound = run->weighted && run->weighted < N ? run->weighted : N;
    struct head h = {in, out, in[1].p, (char *)scratch, places_of(in, out[2].p != NULL), out[2].p != NULL};
    int *index = (int *)(h.scratch + h.at.index);
    TRY(cuda_check(cudaMemsetAsync(out[0].p, 0, 16, cuda_stream), "head_loss"));
    if (!N) return OK;
    TRY(cuda_check(cudaMemsetAsync(out[1].p, 0, (size_t)N * 4, cuda_stream), "head_loss"));
    if (h.grads) TRY(cuda_check(cudaMemset2DAsync(out[2].p, (size_t)out[2].ld * size_of(out[2].dt), 0, (size_t)C * size_of(out[2].dt), (size_t)N, cuda_stream), "head_loss"));
    list_kernel<<<1, MANY, 0, cuda_stream>>>((const float *)in[3].p, (int)N, (int)bound, index);
    if (in[1].dt != in[0].dt) {
        TRY(cuda_dequantise(in[1].dt, in[1].p, V, C, in[0].dt, h.scratch + h.at.weights));
        h.w = h.scratch + h.at.weights;
    }
    int64_t most = chunk_rows(N, V);
    for (int64_t from = 0; from < bound; from += most) {
        int64_t rows = bound - from < most ? bound - from : most;
        WITH_TYPE(in[0].dt, TRY(chunk<T>(&h, from, rows)));
    }
    sums_kernel<<<1, 256, 0, cuda_stream>>>(index, (const float *)(h.scratch + h.at.row), (const float *)in[3].p, (float *)out[0].p);
    return CUDA_LAUNCHED("head_loss");
}
