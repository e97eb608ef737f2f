/* What attention.cu and attention_cached.cu share. */
#ifndef CYC_CUDA_ATTENTION_CUH
#define CYC_CUDA_ATTENTION_CUH
#include "cuda/types.cuh"

static inline err refuse_shape(const struct inst *i, const struct view *x) {
    if (i->a.head_dim < 1 || i->a.head_dim > 256) return fail(E_UNSUPPORTED, "CUDA attention takes head sizes up to 256, this one is %d", i->a.head_dim);
    if (x->d[0] > INT32_MAX - 4096) return fail(E_UNSUPPORTED, "CUDA attention takes fewer than 2^31 tokens");
    return OK;
}

#endif
