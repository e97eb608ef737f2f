/* Matrix products by cuBLASLt. Row-major: C [M, N] = alpha * op(A) op(B) + beta * C, op(A) [M, K], op(B) [K, N]; accumulated
 * in f32. The algorithm is chosen once a shape and kept. */
#ifndef CYC_CUDA_GEMM_H
#define CYC_CUDA_GEMM_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_gemm {
    int64_t m, n, k;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc; /* elements from row to row as stored: A is [M, K], or [K, M] when ta; B [K, N], or [N, K] when tb */
    bool ta, tb;
    dtype in, out;         /* of A and B; of C */
    float alpha, beta;
};
err cuda_gemm(const struct cuda_gemm *g);
err cuda_gemm_open(void);          /* loads cuBLASLt; E_USAGE with what to install */
size_t cuda_gemm_version(void);    /* 0: not loaded */

/* C [M, N] = scale_a[m] * scale_b[n] * sum_k A[m, k] B[n, k] + (adds ? C : 0); A [M, K] and B [N, K] of e4m3, A dense; C bf16, f16 or
 * f32. K and N multiples of 16, pointers and rows 16-byte aligned; compute capability 9.0, cuBLASLt 12.9 on. */
struct cuda_fp8_gemm {
    int64_t m, n, k;
    const void *a, *b;
    const float *scale_a, *scale_b;
    void *c;
    int64_t ldb, ldc;
    dtype out;
    bool adds;
};
err cuda_fp8_gemm(const struct cuda_fp8_gemm *f);

/* rows.cu: the small loops around products */
err cuda_fill_random(void *bf16, int64_t n); /* uniform in [-1, 1): for measuring */
err cuda_add_bias(void *y, dtype dt, int64_t rows, int64_t cols, int64_t ld, const float *bias);
/* T's columns times the rows' weights of the members that they are of (LIN_MIX) */
err cuda_weigh(const struct inst *inst, const struct view *weight, const struct view *t);
struct cuda_drop { /* dropout of output k of a site: ops_drop_bits() */
    const struct inst *inst;
    int k;
    const int32_t *sample, *pos;
};
/* to[n, c] = keep ? x[n, c] / (1 - p) : 0, dense */
err cuda_drop(const struct cuda_drop *d, const struct view *x, void *to);
/* dx[n, c] += keep ? g[n, c] / (1 - p) : 0, g dense */
err cuda_drop_add(const struct cuda_drop *d, const void *g, const struct view *dx);

#ifdef __cplusplus
}
#endif
#endif
