/* Qwen3: Llama with a norm over each head of q and k before the rotation; windows as in Qwen2. */
#include "model/family.h"

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    if (meta) {
        TRY(decoder_sizes_gguf(m, meta));
        return rope_gguf(m, meta, real_gguf_or(m, meta, "rope.freq_base", 10000), true, &m->rope[0]);
    }
    TRY(decoder_sizes_json(m, json));
    if (!size_json_or(json, "head_dim", 0)) return fail(E_INPUT, "%s: config.json: 'head_dim' is missing", m->path);
    z->qkv_bias = z->out_bias = bool_json_or(json, "attention_bias", false);
    TRY(want_json(m, json, "hidden_act", "silu"));
    TRY(qwen_windows(m, json));
    return rope_json(m, json, NULL, 10000, &m->rope[0]);
}

static err tensors(struct model *m) {
    const struct part norms[] = {VECTOR("attn_q_norm", "self_attn.q_norm", m->shape.head_dim), VECTOR("attn_k_norm", "self_attn.k_norm", m->shape.head_dim)};
    TRY(llama_tensors(m));
    for (int l = 0; l < m->shape.layers; l++) TRY(model_parts(m, "model.layers", l, norms, 2));
    return OK;
}

static val block(const struct model *m, struct site *s, val x, int l) { /* x [N, C] */
    val q[3];
    block_qkv(m, s, block_norm(m, s, x, "attn_norm", l), l, q);
    block_head_norms(m, s, l, q);
    block_rotate(m, s, l, q);
    x = block_join(m, s, l, AFTER_ATTENTION, x, block_attend(m, s, l, q));
    return block_join(m, s, l, AFTER_FFN, x, block_gated(m, s, block_norm(m, s, x, "ffn_norm", l), l, ACT_SILU));
}

const struct family family_qwen3 = {.name = "qwen3", .hf = "qwen3", .sizes = sizes, .tensors = tensors, .block = block};
