/* The products of low-rank deltas that share their large operand, which is read once (low_rank.cu). Leading dimensions in elements;
 * everything 16-bit is of one type. Scratch: what cuda_low_rank_up_bwd_scratch says for the capacities of a plan is enough for any
 * fewer rows and any absent outputs. */
#ifndef CYC_CUDA_LOW_RANK_H
#define CYC_CUDA_LOW_RANK_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

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

#ifdef __cplusplus
}
#endif
#endif
