/* Qwen2 and Qwen2.5: Llama with biases on q, k and v; where use_sliding_window says so, the layers from max_window_layers on
 * have a window. GGUF's rows are in Hugging Face's order, and its files do not say windows. */
#include "model/family.h"

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    if (meta) {
        TRY(decoder_sizes_gguf(m, meta));
        return rope_gguf(m, meta, real_gguf_or(m, meta, "rope.freq_base", 10000), true, &m->rope[0]);
    }
    TRY(decoder_sizes_json(m, json));
    z->qkv_bias = true;
    TRY(want_json(m, json, "hidden_act", "silu"));
    TRY(qwen_windows(m, json));
    return rope_json(m, json, NULL, 10000, &m->rope[0]);
}

err qwen_windows(struct model *m, const void *json) {
    const int64_t window = bool_json_or(json, "use_sliding_window", false) ? size_json_or(json, "sliding_window", 4096) : 0;
    for (int64_t l = size_json_or(json, "max_window_layers", 28); l < m->shape.layers; l++) m->layer[l].window = window;
    return layer_types_json(m, json, window);
}

const struct family family_qwen2 = {.name = "qwen2", .hf = "qwen2", .sizes = sizes, .tensors = llama_tensors, .block = block_llama};
