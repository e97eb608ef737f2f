/* Loops over arenas on the card: what flat.cu, optim.cu and muon.cu share. */
#ifndef CYC_CUDA_FLAT_CUH
#define CYC_CUDA_FLAT_CUH
#include "cuda/types.cuh"

enum { THREADS = 256, WARPS = THREADS / 32 };

static inline int blocks_for(int64_t items, int64_t each, int64_t most) {
    int64_t n = (items + each - 1) / each;
    return (int)(n < 1 ? 1 : n < most ? n : most);
}

/* For elementwise loops: enough to fill the card a few times. */
static inline int grid_for(int64_t items) { return blocks_for(items, THREADS, (int64_t)cuda_sms * 32); }

#define EACH_ITEM(i, n) for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (int64_t)gridDim.x * blockDim.x)

__device__ static inline double square(float x) { return (double)x * (double)x; }

/* The sum of a block's threads, in one order; thread 0 has it. */
__device__ static inline double block_sum(double sum) {
    __shared__ double warps[WARPS];
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
    if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = sum;
    __syncthreads();
    for (int w = 1; w < WARPS && !threadIdx.x; w++) sum += warps[w];
    return sum;
}

/* Sums of many blocks: each leaves its own in part[], which one block adds up. The pieces hang on the length alone, so the card does not show. */
enum { SUM_PIECES = 1024, SUM_EACH = THREADS * 16 };
static inline int sum_pieces(int64_t n) { return blocks_for(n, SUM_EACH, SUM_PIECES); }
__global__ static void total_kernel(const double *part, int n, double *out) {
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) sum += part[i];
    sum = block_sum(sum);
    if (!threadIdx.x) *out = sum;
}

#endif
