/* gemma.c: what gemma2.c and gemma3.c share. */
#ifndef CYC_MODEL_GEMMA_H
#define CYC_MODEL_GEMMA_H
#include "model/family.h"

/* Sizes but for soft-caps and RoPE tables. Every pattern-th layer has no window. From GGUF the attention scale is left open. */
err gemma_sizes(struct model *m, const struct gguf_meta *meta, const void *json, int pattern);
err gemma_tensors(struct model *m, bool head_norms);
val gemma_ffn(const struct model *m, struct site *s, val x, int l); /* the block's second half */

#endif
