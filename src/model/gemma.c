/* What Gemma 2 and 3 share: norms before and after both sublayers, GELU gates, an embedding times sqrt(C), every n-th layer
 * without a window. Hugging Face's files hold norm weights less 1, GGUF's do not. */
#include "model/gemma.h"
#include <math.h>

err gemma_sizes(struct model *m, const struct gguf_meta *meta, const void *json, int pattern) {
    struct shape *z = &m->shape;
    TRY(meta ? decoder_sizes_gguf(m, meta) : decoder_sizes_json(m, json));
    z->embed_scale = sqrt((double)z->width);
    z->norm_plus_one = true;
    int64_t window = meta ? size_gguf_or(m, meta, "attention.sliding_window", 4096) : size_json_or(json, "sliding_window", 4096);
    if (json) pattern = (int)size_json_or(json, "sliding_window_pattern", pattern);
    for (int l = 0; l < z->layers; l++) m->layer[l].window = (l + 1) % pattern ? window : 0;
    if (meta) return OK;
    z->tied = bool_json_or(json, "tie_word_embeddings", true);
    z->qkv_bias = z->out_bias = bool_json_or(json, "attention_bias", false);
    const double scalar = real_json_or(json, "query_pre_attn_scalar", 256);
    z->attn_scale = scalar > 0 ? 1 / sqrt(scalar) : -1;
    if (scalar <= 0) return fail(E_INPUT, "%s: config.json: query_pre_attn_scalar %g", m->path, scalar);
    TRY(want_json_bool(m, json, "use_bidirectional_attention", false));
    /* Gemma's first config files say hidden_act too, and do not mean it */
    TRY(want_json(m, json, "hidden_activation", "gelu_pytorch_tanh"));
    return layer_types_json(m, json, window);
}

err gemma_tensors(struct model *m, bool head_norms) {
    const struct shape *z = &m->shape;
    const int64_t C = z->width, q = z->heads * z->head_dim, kv = z->kv_heads * z->head_dim, F = z->ffn;
    const struct part whole[] = {MATRIX("token_embd", "model.embed_tokens", z->vocab, C), VECTOR("output_norm", "model.norm", C), MATRIX("output", "lm_head", z->vocab, C)};
    const struct part layer[] = {
        VECTOR("attn_norm", "input_layernorm", C),
        BIASED("attn_q", "self_attn.q_proj", q, C, z->qkv_bias),
        BIASED("attn_k", "self_attn.k_proj", kv, C, z->qkv_bias),
        BIASED("attn_v", "self_attn.v_proj", kv, C, z->qkv_bias),
        BIASED("attn_output", "self_attn.o_proj", C, q, z->out_bias),
        VECTOR("post_attention_norm", "post_attention_layernorm", C),
        VECTOR("ffn_norm", "pre_feedforward_layernorm", C),
        MATRIX("ffn_gate", "mlp.gate_proj", F, C),
        MATRIX("ffn_up", "mlp.up_proj", F, C),
        MATRIX("ffn_down", "mlp.down_proj", C, F),
        VECTOR("post_ffw_norm", "post_feedforward_layernorm", C),
        VECTOR("attn_q_norm", "self_attn.q_norm", z->head_dim),
        VECTOR("attn_k_norm", "self_attn.k_norm", z->head_dim),
    };
    TRY(model_parts(m, NULL, -1, whole, z->tied ? 2 : 3));
    for (int l = 0; l < z->layers; l++) TRY(model_parts(m, "model.layers", l, layer, sizeof layer / sizeof *layer - (head_norms ? 0 : 2)));
    return OK;
}

val gemma_ffn(const struct model *m, struct site *s, val x, int l) {
    val h = block_gated(m, s, block_norm(m, s, x, "ffn_norm", l), l, ACT_GELU_TANH);
    return block_add(s, x, block_norm(m, s, block_after(m, s, l, AFTER_FFN, x, h), "post_ffw_norm", l));
}
