/* A frozen base in fp8 (e4m3): its matrices, and the rows that are multiplied with them (gemm.h has the products). Hopper only.
 *
 * W [O, C] is kept as e4m3 numbers q with one scale a row, W[o, c] ~ scale[o] * q[o, c], scale = the row's largest / 448, rounded
 * up to bf16. The tensor cores take both operands with the summed axis innermost, so the numbers lie there twice: [O, C] for
 * the forward, [C, O] for the gradient. They are the same numbers: both directions see one rounded base. In the gradient W's
 * scales lie on the summed axis: they go into dY before that is rounded. Activations and gradients are rounded row by row
 * with a scale of their own.
 *
 * One matrix at a time: dX of a group as one product over all its outputs was measured, and is no faster. */
#ifndef CYC_CUDA_FP8_H
#define CYC_CUDA_FP8_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Can this card and its cuBLASLt do it? A matrix must have sizes that are multiples of 16, up to 65536. */
bool cuda_fp8_available(void);
bool cuda_fp8_takes(int64_t O, int64_t C);

/* Where the parts of a matrix of type F8 lie (base/dtype.h): 2 O C + 6 O bytes, 16-byte aligned. */
struct cuda_fp8_matrix {
    int64_t O, C;
    void *q, *qt;  /* [O, C], [C, O] */
    float *scale;  /* [O] */
    void *factor;  /* [O]: the scales as bf16 */
};
struct cuda_fp8_matrix cuda_fp8_matrix(const struct view *w);
/* Fills one from its values, dense (f32, bf16, f16; device memory, 16-byte aligned). */
err cuda_fp8_weights(const struct cuda_fp8_matrix *m, const void *w, dtype dt);

/* Row n of q is x's row n * factor (NULL: 1) / scale[n]; scale[n] = the row's largest / 448 rounded up to bf16, 2^-100 for a row of
 * zeros. A NaN stays one; a row with an infinity has an infinite scale and a NaN. */
struct cuda_fp8_rows {
    dtype dt;           /* of x: f32, bf16, f16 */
    int64_t rows, cols; /* cols a multiple of 16 */
    const void *x;      /* 16-byte aligned as ld is */
    int64_t ld;
    const void *factor; /* [cols] of bf16, 16-byte aligned, or NULL */
    void *q;            /* [rows, cols], dense */
    float *scale;
};
err cuda_fp8_rows(const struct cuda_fp8_rows *r);

#ifdef __cplusplus
}
#endif
#endif
