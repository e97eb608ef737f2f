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

/* The common case, W neighbouring outputs of a 16-bit type at rank 16: their rows of B are asked for before the kernel waits for the
 * one before it (they are nobody's output), and all at once: a chain of loads would cost more than the product itself. */
template <typename T, int W> struct delta16 {
    uint4 b[W][2];
    __device__ __forceinline__ void ask(const struct cuda_delta &d, int64_t o) {
#pragma unroll
        for (int i = 0; i < W; i++) {
            const uint4 *row = (const uint4 *)((const T *)d.b + (o + i) * d.ldb);
            b[i][0] = __ldg(row), b[i][1] = __ldg(row + 1);
        }
    }
    __device__ __forceinline__ void add(const struct cuda_delta &d, int64_t n, float x[W]) const {
        const uint4 *t = (const uint4 *)((const T *)d.t + n * d.ldt);
        const uint4 t0 = t[0], t1 = t[1];
#pragma unroll
        for (int i = 0; i < W; i++) {
            float sum = 0;
#pragma unroll
            for (int j = 0; j < 8; j++) sum = fmaf(to_f32(((const T *)&t0)[j]), to_f32(((const T *)&b[i][0])[j]), sum);
#pragma unroll
            for (int j = 0; j < 8; j++) sum = fmaf(to_f32(((const T *)&t1)[j]), to_f32(((const T *)&b[i][1])[j]), sum);
            x[i] += d.alpha * sum;
        }
    }
};

#endif
