/* A frozen base in fp8 (e4m3): its matrices, the rows that are multiplied with them, the products. Hopper only.
 *
 * W_k [O_k, C] of a group of linears that share their input is kept as e4m3 numbers Wq_k with one scale a row,
 * W_k[o, c] ~ scale_k[o] * Wq_k[o, c], scale = the row's largest / 448. The tensor cores take both operands with the summed
 * axis innermost, so the numbers lie there twice: [sum of O, C] for the forward, and [C, sum of O] for the gradient. They
 * are the same numbers: both directions see one rounded base, and the gradient is that of the function that was computed.
 * In the gradient W's scales lie on the summed axis: they go into dY before that is rounded. The group's dY_k lie side by side
 * then, and dX is one product, whatever n is. Activations and gradients are rounded row by row with a scale of their own. */
#ifndef CYC_CUDA_FP8_H
#define CYC_CUDA_FP8_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Can this card and its cuBLASLt do it? A matrix must have sizes that are multiples of 16, and a group at most 65536 outputs. */
bool cuda_fp8_available(void);
bool cuda_fp8_takes(int64_t O, int64_t C);

/* The matrices of a group, in one piece of device memory that belongs to whoever took it: cuda_fp8_bytes() of it, 256-byte
 * aligned, for as long as the group is used. cuda_fp8_place() sets the pointers and writes the ones. */
struct cuda_fp8_group {
    int n;
    int64_t C, O[MAX_GROUP];
    void *w, *wt;        /* [sum of O, C], [C, sum of O] */
    float *scale, *ones; /* [sum of O]; [C]: the gradient's product has no scales on that side, the library wants some */
};
size_t cuda_fp8_bytes(int n, int64_t C, const int64_t *O);
err cuda_fp8_place(struct cuda_fp8_group *g, void *memory);

/* Rows [first, first + rows) of matrix k from their values (f32, bf16, f16; device memory, dense, 16-byte aligned; first and rows
 * multiples of 16): quantised matrices come through a piece of scratch that way, however small. */
struct cuda_fp8_source {
    const void *w;
    dtype dt;
    int64_t first, rows;
};
err cuda_fp8_weights(const struct cuda_fp8_group *g, int k, const struct cuda_fp8_source *s);

/* Y_k [rows, O_k] = x W_k^T, added to Y_k where adds[k]; y NULL: not wanted. bf16 or f16.
 * scratch: cuda_fp8_forward_scratch(), 256-byte aligned. */
struct cuda_fp8_forward {
    const struct cuda_fp8_group *group;
    dtype dt;
    int64_t rows, ldx;
    const void *x;
    void *y[MAX_GROUP];
    int64_t ldy[MAX_GROUP];
    bool adds[MAX_GROUP];
    void *scratch;
};
size_t cuda_fp8_forward_scratch(int64_t rows, int64_t C);
err cuda_fp8_forward(const struct cuda_fp8_forward *f);

/* dX [rows, C] = sum of dY_k W_k, added to dX where adds; dy NULL: an output without a gradient. */
struct cuda_fp8_backward {
    const struct cuda_fp8_group *group;
    dtype dt;
    int64_t rows, lddx;
    const void *dy[MAX_GROUP];
    int64_t lddy[MAX_GROUP];
    void *dx;
    bool adds;
    void *scratch;
};
size_t cuda_fp8_backward_scratch(int64_t rows, int n, const int64_t *O);
err cuda_fp8_backward(const struct cuda_fp8_backward *b);

/* What these are made of. Row n of q is the parts' rows n one after the other, x * factor (NULL: 1) / scale[n], scale[n] = the
 * row's largest / 448, 1 for a row of zeros. A NaN stays one; a row with an infinity has an infinite scale and a NaN. */
struct cuda_fp8_part {
    const void *x;       /* [rows, cols], 16-byte aligned as ld is; cols a multiple of 16 */
    int64_t ld, cols;
    const float *factor; /* [cols] or NULL, for all parts or for none; 16-byte aligned */
};
struct cuda_fp8_rows {
    dtype dt; /* of x: f32, bf16, f16 */
    int n;
    int64_t rows;
    struct cuda_fp8_part part[MAX_GROUP];
    void *q; /* [rows, sum of cols], dense */
    float *scale;
};
err cuda_fp8_rows(const struct cuda_fp8_rows *r);

#ifdef __cplusplus
}
#endif
#endif
