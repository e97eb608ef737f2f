/* Mistral: Llama with a window over the keys of every layer (Jiang et al. 2023); later ones have none. Only Hugging Face's
 * folders come here: its GGUF files have the architecture "llama". */
#include "model/family.h"

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    (void)meta; /* families.def: "llama" is llama.c's */
    TRY(decoder_sizes_json(m, json));
    for (int l = 0; l < m->shape.layers; l++) m->layer[l].window = size_json_or(json, "sliding_window", 0);
    TRY(layer_types_json(m, json, size_json_or(json, "sliding_window", 0)));
    TRY(want_json(m, json, "hidden_act", "silu"));
    return rope_json(m, json, NULL, 10000, &m->rope[0]);
}

const struct family family_mistral = {.name = "llama", .hf = "mistral", .sizes = sizes, .tensors = llama_tensors, .block = block_llama};
