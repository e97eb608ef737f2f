/* The products of low-rank deltas that only memory bounds, each large matrix read once (low_rank.cu). Leading dimensions in
 * elements; everything 16-bit is of one type. Scratch: what the functions named _scratch say for the capacities of a plan is
 * enough for any fewer rows and any absent outputs. */
#ifndef CYC_CUDA_LOW_RANK_H
#define CYC_CUDA_LOW_RANK_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* T [rows, R] = x [rows, C] A^T; A [R, C]. One launch. */
struct cuda_low_rank_down {
    dtype dt;
    int64_t rows, C, R;
    const void *x, *a;
    void *t;
    int64_t ldx, lda, ldt;
    void *scratch;
};
bool cuda_low_rank_down_takes(const struct cuda_low_rank_down *d);
err cuda_low_rank_down(const struct cuda_low_rank_down *d);
size_t cuda_low_rank_down_scratch(int64_t rows, int64_t R);

/* For each output k of a group, of dY_k [rows, O_k]: dT_k [rows, rank_k] = alpha_k dY_k B_k; B_k [O_k, rank_k]; and if db_k is there
 * dB_k [O_k, rank_k] (f32) += alpha_k dY_k^T T_k. T_k, dT_k: rank_k columns of T and dT, one after the other. dY_k NULL: dT_k is
 * zeros and dB_k left alone. Two launches. */
struct cuda_low_rank_up_bwd {
    dtype dt;
    int n;
    int64_t rows, O[MAX_GROUP];
    int rank[MAX_GROUP];
    const void *dy[MAX_GROUP], *b[MAX_GROUP], *t;
    float alpha[MAX_GROUP];
    void *dt_low;
    float *db[MAX_GROUP];
    int64_t lddy[MAX_GROUP], ldb[MAX_GROUP], ldt, lddt, lddb[MAX_GROUP];
    void *scratch;
};
bool cuda_low_rank_up_bwd_takes(const struct cuda_low_rank_up_bwd *u);
err cuda_low_rank_up_bwd(const struct cuda_low_rank_up_bwd *u);
size_t cuda_low_rank_up_bwd_scratch(int n, int64_t rows, const int64_t *O, const int *rank);

/* dA [R, C] (f32) += dT^T x; dT [rows, R], x [rows, C]. Two launches. */
struct cuda_low_rank_down_bwd {
    dtype dt;
    int64_t rows, C, R;
    const void *x, *dt_low;
    float *da;
    int64_t ldx, lddt, ldda;
    void *scratch;
};
bool cuda_low_rank_down_bwd_takes(const struct cuda_low_rank_down_bwd *d);
err cuda_low_rank_down_bwd(const struct cuda_low_rank_down_bwd *d);
size_t cuda_low_rank_down_bwd_scratch(int64_t C, int64_t R);

#ifdef __cplusplus
}
#endif
#endif
