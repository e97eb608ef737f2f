/* SmolLM3: Llama in which every fourth layer rotates nothing (NoPE); where use_sliding_window says so, those layers have a
 * window. GGUF files hold q and k rows interleaved as Llama's do, and leave the fourth layers to the reader's knowledge. */
#include "model/family.h"

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    bool found, rotates[1024]; /* decoder_sizes have checked the number of layers */
    TRY(meta ? decoder_sizes_gguf(m, meta) : decoder_sizes_json(m, json));
    const int64_t interval = meta ? 4 : size_json_or(json, "no_rope_layer_interval", 4);
    for (int l = 0; l < z->layers; l++) rotates[l] = (l + 1) % interval != 0;
    if (json) TRY(layer_flags_json(m, json, "no_rope_layers", rotates, &found));
    for (int l = 0; l < z->layers; l++)
        if (!rotates[l]) m->layer[l].rope = NULL;
    if (meta) {
        z->interleaved = true;
        return rope_gguf(m, meta, real_gguf_or(m, meta, "rope.freq_base", 10000), true, &m->rope[0]);
    }
    z->tied = bool_json_or(json, "tie_word_embeddings", true);
    z->qkv_bias = z->out_bias = bool_json_or(json, "attention_bias", false);
    z->mlp_bias = bool_json_or(json, "mlp_bias", false);
    const int64_t window = bool_json_or(json, "use_sliding_window", false) ? size_json_or(json, "sliding_window", 0) : 0;
    for (int l = 0; l < z->layers; l++) m->layer[l].window = rotates[l] ? 0 : window;
    TRY(layer_types_json(m, json, window));
    TRY(want_json(m, json, "hidden_act", "silu"));
    return rope_json(m, json, NULL, 2000000, &m->rope[0]);
}

const struct family family_smollm3 = {.name = "smollm3", .hf = "smollm3", .sizes = sizes, .tensors = llama_tensors, .block = block_llama};
