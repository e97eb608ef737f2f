/* What the kernels over rows of logits share (head_loss.cu, loss_rows.cu): a block a row. */
#ifndef CYC_CUDA_LOSS_CUH
#define CYC_CUDA_LOSS_CUH
#include "cuda/types.cuh"

enum { THREADS = 512, NOBODY = -1 /* in a list of rows: none */ };

/* What is known of the logits seen so far: the greatest and where, and the sum of exponentials below it (Milakov, Gimelshein 2018). A
 * NaN wins over everything and makes the sum NaN. */
struct soft { float top, sum; int at; };

__device__ __forceinline__ struct soft join(struct soft a, struct soft b) {
    bool first = a.top > b.top || (a.top == b.top && a.at < b.at);
    struct soft r = first ? a : b, o = first ? b : a;
    if (o.sum != 0) r.sum += o.sum * expf(o.top - r.top); /* a thread that saw nothing has top -inf, sum 0 */
    return r;
}

/* The logit that the loss is of (softcap). */
__device__ __forceinline__ float capped(float z, float cap) { return cap > 0 ? cap * tanhf(z / cap) : z; }

/* Four logits in order from v on. */
__device__ __forceinline__ void see(struct soft *s, const float z[4], int v) {
    float most = fmaxf(fmaxf(z[0], z[1]), fmaxf(z[2], z[3]));
    if (most > s->top) {
        s->sum *= expf(s->top - most);
        s->top = most;
        s->at = v + (z[0] == most ? 0 : z[1] == most ? 1 : z[2] == most ? 2 : 3);
    }
    for (int i = 0; i < 4; i++) s->sum += expf(z[i] - s->top);
}

__device__ __forceinline__ struct soft block_soft(struct soft s, struct soft *shared) {
    for (int d = 16; d; d >>= 1) s = join(s, {__shfl_xor_sync(~0u, s.top, d), __shfl_xor_sync(~0u, s.sum, d), __shfl_xor_sync(~0u, s.at, d)});
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = s;
    __syncthreads();
    s = shared[0];
    for (int i = 1; i < THREADS / 32; i++) s = join(s, shared[i]);
    return s;
}

/* What a cap does to a gradient; y: capped. */
__device__ __forceinline__ float slope_of(float y, float cap) { return cap > 0 ? 1 - y / cap * (y / cap) : 1; }

/* Rows whose loss has other terms (ops.h). The logits are used up. */
struct mixing {
    float *logits, *teacher; /* [rows, V]; the teacher's; NULL */
    int64_t V;
    const int *index;
    const int32_t *label;
    const float *weight;
    float *nll, *row;        /* [N]; loss and correct of each row listed */
    const struct cuda_keys *keys;
    float cap;
    struct loss_terms l;
    struct view top, logp;   /* [N, k]; p NULL */
    float *outcomes;         /* [rows, 2, k + 1] */
};
/* grad: of type dt, the logits themselves or apart; NULL */
err cuda_mixed_rows(const struct mixing *m, int64_t rows, void *grad, dtype dt);

#endif
