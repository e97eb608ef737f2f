/* Llama: RMSNorm, rotary positions, grouped key/value heads, SwiGLU; tied or untied head, optional biases, the RoPE scalings of
 * Llama 3.1 and others. SmolLM2, Llama 2/3 and many others are this family.
 *
 * GGUF files of "llama" architecture hold the rows of q and k in an order where RoPE's pairs are neighbours (llama.cpp's
 * converter permutes them); Hugging Face's pairs are half a head apart. The program follows the file (shape.interleaved),
 * adapters are written in Hugging Face's order (core/params.h, rope_heads). Mistral's GGUF files are "llama" too; they do not
 * say its window. */
#include "model/family.h"

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    if (meta) {
        TRY(decoder_sizes_gguf(m, meta));
        z->interleaved = true;
        for (int l = 0; l < z->layers; l++) m->layer[l].window = size_gguf_or(m, meta, "attention.sliding_window", 0);
        return rope_gguf(m, meta, real_gguf_or(m, meta, "rope.freq_base", 10000), true, &m->rope[0]);
    }
    TRY(decoder_sizes_json(m, json));
    z->qkv_bias = z->out_bias = bool_json_or(json, "attention_bias", false);
    z->mlp_bias = bool_json_or(json, "mlp_bias", false);
    TRY(want_json(m, json, "hidden_act", "silu"));
    return rope_json(m, json, NULL, 10000, &m->rope[0]);
}

const struct family family_llama = {.name = "llama", .hf = "llama", .sizes = sizes, .tensors = llama_tensors, .block = block_llama};
