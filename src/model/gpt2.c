/* GPT-2: LayerNorm, learned positions, q, k and v in one matrix, an MLP without a gate. Its matrices are [in, out] in Hugging
 * Face's files (Conv1D), so they are transposed into memory when the model is opened; adapters keep PEFT's names and
 * fan_in_fan_out. A sequence longer than the position table has no meaning and is refused where it is planned. The dropouts of
 * its config are a full fine-tuning's and not applied. */
#include "model/family.h"

static err sizes_json(struct model *m, const void *json) {
    struct shape *z = &m->shape;
    TRY(size_json(m, json, "n_layer", &z->layers));
    TRY(size_json(m, json, "n_embd", &z->width));
    TRY(size_json(m, json, "n_head", &z->heads));
    TRY(size_json(m, json, "vocab_size", &z->vocab));
    TRY(size_json(m, json, "n_positions", &z->context));
    z->kv_heads = z->heads;
    z->head_dim = z->width / z->heads;
    z->ffn = size_json_or(json, "n_inner", 4 * z->width);
    z->norm_eps = real_json_or(json, "layer_norm_epsilon", 1e-5);
    z->tied = bool_json_or(json, "tie_word_embeddings", true);
    z->conv1d = true;
    TRY(want_json(m, json, "activation_function", "gelu_new"));
    TRY(want_json_bool(m, json, "scale_attn_weights", true));
    TRY(want_json_bool(m, json, "scale_attn_by_inverse_layer_idx", false));
    TRY(want_json_bool(m, json, "add_cross_attention", false));
    return sizes_done(m);
}

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    TRY(meta ? decoder_sizes_gguf(m, meta) : sizes_json(m, json));
    z->hard_context = true;
    for (int l = 0; l < z->layers; l++) m->layer[l].rope = NULL;
    return z->heads * z->head_dim == z->width
               ? OK
               : fail(E_INPUT, "%s: a width of %lld is not %lld heads", m->path, (long long)z->width, (long long)z->heads);
}

static err tensors(struct model *m) {
    const struct shape *z = &m->shape;
    const int64_t C = z->width, F = z->ffn;
    const struct part whole[] = {
        MATRIX("token_embd", "transformer.wte", z->vocab, C),
        MATRIX("position_embd", "transformer.wpe", z->context, C),
        {.name = "output_norm", .module = "transformer.ln_f", .out = C, .bias = true},
        MATRIX("output", "lm_head", z->vocab, C),
    };
    const struct part layer[] = {
        {.name = "attn_norm", .module = "ln_1", .out = C, .bias = true},
        {.name = "attn_qkv", .module = "attn.c_attn", .out = 3 * C, .in = C, .bias = true, .transposed = true},
        {.name = "attn_output", .module = "attn.c_proj", .out = C, .in = C, .bias = true, .transposed = true},
        {.name = "ffn_norm", .module = "ln_2", .out = C, .bias = true},
        {.name = "ffn_up", .module = "mlp.c_fc", .out = F, .in = C, .bias = true, .transposed = true},
        {.name = "ffn_down", .module = "mlp.c_proj", .out = C, .in = F, .bias = true, .transposed = true},
    };
    TRY(model_parts(m, NULL, -1, whole, z->tied ? 3 : 4));
    for (int l = 0; l < z->layers; l++) TRY(model_parts(m, "transformer.h", l, layer, sizeof layer / sizeof *layer));
    return OK;
}

static val embed(const struct model *m, struct site *s) { return block_add(s, model_embed(m, s, 1), block_positions(m, s)); }

static val block(const struct model *m, struct site *s, val x, int l) { /* x [N, C] */
    val q[3];
    block_qkv_fused(m, s, block_norm(m, s, x, "attn_norm", l), l, q);
    x = block_join(m, s, l, AFTER_ATTENTION, x, block_attend(m, s, l, q));
    return block_join(m, s, l, AFTER_FFN, x, block_mlp(m, s, block_norm(m, s, x, "ffn_norm", l), l, ACT_GELU_TANH));
}

static const char *const spare[] = {".attn.bias", ".attn.masked_bias", NULL}; /* masks that old files hold */

const struct family family_gpt2 = {.name = "gpt2", .hf = "gpt2", .sizes = sizes, .tensors = tensors, .block = block, .embed = embed, .spare = spare, .tagger = "classifier"};
