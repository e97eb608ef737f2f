/* A group's products (group_gemm.h) over matrices that are unpacked first, a piece at a time. */
#ifndef CYC_CUDA_UNPACKED_H
#define CYC_CUDA_UNPACKED_H
#include "cuda/group_gemm.h"

/* Bytes of an unpacked piece. A test makes it small. */
extern size_t cuda_piece_bytes;

/* w: the group's matrices as stored. Of g everything but w[] is filled in, and what cuda_group_.._takes() says of it holds. Scratch:
 * for a piece. */
err cuda_unpacked_forward(const struct cuda_group_forward *g, const struct view *w, void *scratch);
err cuda_unpacked_backward(const struct cuda_group_backward *g, const struct view *const w[], void *scratch);
size_t cuda_unpacked_scratch(int n, const struct view *w);

#endif
