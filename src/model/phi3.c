/* Phi-3 (and Phi-3.5, Phi-4, Phi-4-mini): Llama with q, k and v in one matrix, gate and up in another, a window over every
 * layer's keys, LongRoPE and rotation of a part of each head. Adapters target the fused matrices, as PEFT's do. The dropouts of
 * its config are a full fine-tuning's and not applied. */
#include "model/family.h"

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    TRY(meta ? decoder_sizes_gguf(m, meta) : decoder_sizes_json(m, json));
    const int64_t window = meta ? size_gguf_or(m, meta, "attention.sliding_window", 0) : size_json_or(json, "sliding_window", 0);
    for (int l = 0; l < z->layers; l++) m->layer[l].window = window;
    if (meta) return rope_gguf(m, meta, real_gguf_or(m, meta, "rope.freq_base", 10000), true, &m->rope[0]);
    TRY(want_json_bool(m, json, "attention_bias", false));
    TRY(want_json(m, json, "hidden_act", "silu"));
    return rope_json(m, json, NULL, 10000, &m->rope[0]);
}

static err tensors(struct model *m) {
    const struct shape *z = &m->shape;
    const int64_t C = z->width, q = z->heads * z->head_dim, kv = z->kv_heads * z->head_dim, F = z->ffn;
    const struct part whole[] = {MATRIX("token_embd", "model.embed_tokens", z->vocab, C), VECTOR("output_norm", "model.norm", C), MATRIX("output", "lm_head", z->vocab, C)};
    const struct part layer[] = {
        VECTOR("attn_norm", "input_layernorm", C),
        MATRIX("attn_qkv", "self_attn.qkv_proj", q + 2 * kv, C),
        MATRIX("attn_output", "self_attn.o_proj", C, q),
        VECTOR("ffn_norm", "post_attention_layernorm", C),
        MATRIX("ffn_up", "mlp.gate_up_proj", 2 * F, C),
        MATRIX("ffn_down", "mlp.down_proj", C, F),
    };
    TRY(model_parts(m, NULL, -1, whole, z->tied ? 2 : 3));
    for (int l = 0; l < z->layers; l++) TRY(model_parts(m, "model.layers", l, layer, sizeof layer / sizeof *layer));
    return OK;
}

static val block(const struct model *m, struct site *s, val x, int l) { /* x [N, C] */
    val q[3];
    block_qkv_fused(m, s, block_norm(m, s, x, "attn_norm", l), l, q);
    block_rotate(m, s, l, q);
    x = block_join(m, s, l, AFTER_ATTENTION, x, block_attend(m, s, l, q));
    return block_join(m, s, l, AFTER_FFN, x, block_gated_fused(m, s, block_norm(m, s, x, "ffn_norm", l), l, ACT_SILU));
}

const struct family family_phi3 = {.name = "phi3", .hf = "phi3", .sizes = sizes, .tensors = tensors, .block = block};
