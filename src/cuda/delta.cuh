/* The low-rank delta of element (n, o) of a linear's output (struct cuda_delta). In decoding the product W x leaves it to the kernel
 * that reads y next (spans.c), and it costs no launch of its own. */
#ifndef CYC_CUDA_DELTA_CUH
#define CYC_CUDA_DELTA_CUH
#include "cuda/spans.h"
#include "cuda/types.cuh"

template <typename T> __device__ __forceinline__ float delta_at(const struct cuda_delta &d, int64_t n, int64_t o) {
    const T *t = (const T *)d.t + n * d.ldt, *b = (const T *)d.b + o * d.ldb;
    float sum = 0;
    if (d.wide) {
        constexpr int W = 16 / sizeof(T);
        for (int r = 0; r < d.rank; r += W) {
            uint4 x = *(const uint4 *)(t + r), y = __ldg((const uint4 *)(b + r));
            const T *p = (const T *)&x, *q = (const T *)&y;
#pragma unroll
            for (int i = 0; i < W; i++) sum = fmaf(to_f32(p[i]), to_f32(q[i]), sum);
        }
    } else
        for (int r = 0; r < d.rank; r++) sum = fmaf(to_f32(t[r]), to_f32(b[r]), sum);
    return d.alpha * sum;
}

/* ... and what it is scaled by then. */
__device__ __forceinline__ float scaled(const struct cuda_delta &d, int64_t o, float x) { return d.l ? x * d.l[o] + (d.bias ? d.bias[o] : 0) : x; }

/* The common case, rank 16 of a 16-bit type, by whole warps: a warp has 32 * W neighbouring outputs, a lane W of them. Their rows of B
 * are asked for before the kernel waits for the one before it (they are nobody's output), all at once and 512 bytes an instruction, two
 * lanes a row: a chain of loads, or a row a lane, would cost more than the product itself. */
template <typename T, int W> struct delta16 {
    uint4 b[2 * W];
    /* o: the warp's first output; there are `end` of them in all. */
    __device__ __forceinline__ void ask(const struct cuda_delta &d, int64_t o, int64_t end) {
        const int lane = threadIdx.x & 31;
        o += lane >> 1;
#pragma unroll
        for (int j = 0; j < 2 * W; j++, o += 16) b[j] = o < end ? __ldg((const uint4 *)((const T *)d.b + o * d.ldb) + (lane & 1)) : make_uint4(0, 0, 0, 0);
    }
    /* The lane's half of T's row n. */
    __device__ __forceinline__ static uint4 row(const struct cuda_delta &d, int64_t n) { return ((const uint4 *)((const T *)d.t + n * d.ldt))[threadIdx.x & 1]; }
    /* x: the lane's outputs; t: row(); place: 32 * W floats of shared memory, the warp's own. */
    __device__ __forceinline__ void add(const struct cuda_delta &d, uint4 t, float x[W], float *place) const {
        const int lane = threadIdx.x & 31;
        __syncwarp(); /* what was there before has been read */
#pragma unroll
        for (int j = 0; j < 2 * W; j++) {
            float sum = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) sum = fmaf(to_f32(((const T *)&t)[i]), to_f32(((const T *)&b[j])[i]), sum);
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
            if (!(lane & 1)) place[j * 16 + (lane >> 1)] = sum;
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < W; i++) x[i] += d.alpha * place[lane * W + i];
    }
};

#endif
