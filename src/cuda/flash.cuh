/* What attention.cu asks of flash.cu. */
#ifndef CYC_CUDA_FLASH_CUH
#define CYC_CUDA_FLASH_CUH
#include "cuda/types.cuh"

/* Is this case flash.cu's: 16-bit type, head size 64 or 128, no window, softcap, bias or keys of another text, scale > 0, rows and pointers on 16 bytes?
 * read, written: the 2-D views of activations that it will touch. */
bool flash_takes(const struct inst *inst, const struct view *read, int n_read, const struct view *written, int n_written);
err flash_attention(const struct inst *inst, const struct view *in, struct view *out);
/* delta[N, H] = rowsum(do o), dense */
err flash_attention_bwd(const struct inst *inst, const struct view *in, struct view *out, const float *delta);

#endif
