/* Gemma 3, its text models: Gemma's block with a norm over each head of q and k, and two RoPE tables: layers with a window turn
 * by a base of 10,000, every sixth layer sees all keys and turns by 1,000,000, which scaling stretches (4B and up). A model with
 * a vision tower ("gemma3" in config.json) is refused by its type: its text part is not all that it computes. Its config has
 * attn_logit_softcapping, which neither transformers nor llama.cpp applies. */
#include "model/gemma.h"
#include <math.h>

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    TRY(gemma_sizes(m, meta, json, 6));
    for (int l = 0; l < z->layers; l++) m->layer[l].rope = &m->rope[m->layer[l].window ? 1 : 0];
    if (meta) {
        z->attn_scale = 1 / sqrt(z->layers == 62 ? (double)z->width / (double)z->heads : (double)z->head_dim); /* 62: the 27B model */
        z->logit_softcap = real_gguf_or(m, meta, "final_logit_softcapping", 0);
        TRY(rope_gguf(m, meta, real_gguf_or(m, meta, "rope.freq_base_swa", 10000), false, &m->rope[1]));
        return rope_gguf(m, meta, real_gguf_or(m, meta, "rope.freq_base", 1000000), true, &m->rope[0]);
    }
    z->logit_softcap = real_json_or(json, "final_logit_softcapping", 0);
    TRY(rope_json(m, json, "full_attention", 1000000, &m->rope[0]));
    if (has_json(json, "rope_parameters")) return rope_json(m, json, "sliding_attention", 10000, &m->rope[1]);
    return rope_plain(m, real_json_or(json, "rope_local_base_freq", 10000), z->head_dim, &m->rope[1]);
}

static err tensors(struct model *m) { return gemma_tensors(m, true); }

static val block(const struct model *m, struct site *s, val x, int l) { /* x [N, C] */
    val q[3];
    block_qkv(m, s, block_norm(m, s, x, "attn_norm", l), l, q);
    block_head_norms(m, s, l, q);
    block_rotate(m, s, l, q);
    x = block_add(s, x, block_norm(m, s, block_after(m, s, l, AFTER_ATTENTION, x, block_attend(m, s, l, q)), "post_attention_norm", l));
    return gemma_ffn(m, s, x, l);
}

const struct family family_gemma3 = {.name = "gemma3", .hf = "gemma3_text", .sizes = sizes, .tensors = tensors, .block = block, .norms_apart = true};
