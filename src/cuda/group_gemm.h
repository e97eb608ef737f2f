/* The products of a group of linears that share an input, low-rank deltas included, in one launch each way (Hopper only). */
#ifndef CYC_CUDA_GROUP_GEMM_H
#define CYC_CUDA_GROUP_GEMM_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Y_k [rows, O_k] = x [rows, C] W_k^T + alpha_k T_k B_k^T + bias_k; W_k [O_k, C] dense; T_k: rank_k columns of T [rows, sum of the
 * ranks], one after the other; B_k [O_k, rank_k]. rank_k 0: no delta; bias NULL: none. Leading dimensions in elements. */
struct cuda_group_forward {
    dtype dt; /* of everything but the biases (f32): bf16 or f16 */
    int n;
    int64_t rows, C, O[MAX_GROUP];
    int rank[MAX_GROUP];
    const void *x, *w[MAX_GROUP], *t, *b[MAX_GROUP];
    const float *bias[MAX_GROUP];
    float alpha[MAX_GROUP];
    void *y[MAX_GROUP];
    int64_t ldx, ldt, ldb[MAX_GROUP], ldy[MAX_GROUP];
};
/* dX [rows, C] = sum of dY_k [rows, O_k] W_k + dT [rows, R] A [R, C]; R 0: no delta. alpha is in dT already. */
struct cuda_group_backward {
    dtype dt;
    int n;
    int64_t rows, C, O[MAX_GROUP], R;
    const void *dy[MAX_GROUP], *w[MAX_GROUP], *dt_low, *a;
    void *dx;
    int64_t lddy[MAX_GROUP], lddt, lda, lddx;
};
/* Is this the kernel's (card, types, alignment)? The others take cuda_gemm(). */
bool cuda_group_forward_takes(const struct cuda_group_forward *g);
bool cuda_group_backward_takes(const struct cuda_group_backward *g);
err cuda_group_forward(const struct cuda_group_forward *g);
err cuda_group_backward(const struct cuda_group_backward *g);

#ifdef __cplusplus
}
#endif
#endif
