/* Gemma 2: Gemma's block with soft-capped scores and logits; every other layer, from the first on, has a window. */
#include "model/gemma.h"
#include <math.h>

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    TRY(gemma_sizes(m, meta, json, 2));
    z->attn_softcap = meta ? real_gguf_or(m, meta, "attn_logit_softcapping", 50) : real_json_or(json, "attn_logit_softcapping", 50);
    z->logit_softcap = meta ? real_gguf_or(m, meta, "final_logit_softcapping", 30) : real_json_or(json, "final_logit_softcapping", 30);
    if (json && null_json(json, "attn_logit_softcapping")) z->attn_softcap = 0;
    if (json && null_json(json, "final_logit_softcapping")) z->logit_softcap = 0;
    if (!meta) return rope_json(m, json, NULL, 10000, &m->rope[0]);
    /* GGUF does not say the scale; llama.cpp knows the 27B model by its layers */
    z->attn_scale = 1 / sqrt(z->layers == 46 ? (double)z->width / (double)z->heads : (double)z->head_dim);
    return rope_gguf(m, meta, real_gguf_or(m, meta, "rope.freq_base", 10000), true, &m->rope[0]);
}

static err tensors(struct model *m) { return gemma_tensors(m, false); }

static val block(const struct model *m, struct site *s, val x, int l) { /* x [N, C] */
    val q[3];
    block_qkv(m, s, block_norm(m, s, x, "attn_norm", l), l, q);
    block_rotate(m, s, l, q);
    x = block_add(s, x, block_norm(m, s, block_after(m, s, l, AFTER_ATTENTION, x, block_attend(m, s, l, q)), "post_attention_norm", l));
    return gemma_ffn(m, s, x, l);
}

const struct family family_gemma2 = {.name = "gemma2", .hf = "gemma2", .sizes = sizes, .tensors = tensors, .block = block, .norms_apart = true};
