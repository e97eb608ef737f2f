/* See gguf.h. */
#include "support/gguf.h"
#include "support/support.h"
#include <jansson.h>

enum { ALIGN = 32, VOCAB = 48 };

static void u32(str *b, uint32_t v) { str_add(b, (const char *)&v, 4); }
static void u64(str *b, uint64_t v) { str_add(b, (const char *)&v, 8); }
static void text(str *b, const char *s) {
    u64(b, strlen(s));
    str_adds(b, s);
}
static void key(str *b, const char *name, enum gguf_type type) {
    text(b, name);
    u32(b, type);
}
static void key_u32(str *b, const char *name, json_int_t v) {
    key(b, name, GGUF_U32);
    u32(b, (uint32_t)v);
}
static void key_f32(str *b, const char *name, double v) {
    float f = (float)v;
    key(b, name, GGUF_F32);
    str_add(b, (const char *)&f, 4);
}
static void key_text(str *b, const char *name, const char *v) {
    key(b, name, GGUF_STRING);
    text(b, v);
}

static json_int_t size(const json_t *c, const char *name) { return json_integer_value(json_object_get(c, name)); }

static uint64_t put_keys(str *b, const json_t *c) {
    const json_t *rope = json_object_get(c, "rope_parameters");
    key_text(b, "general.architecture", "llama");
    key_u32(b, "general.alignment", ALIGN);
    key_u32(b, "llama.block_count", size(c, "num_hidden_layers"));
    key_u32(b, "llama.embedding_length", size(c, "hidden_size"));
    key_u32(b, "llama.attention.head_count", size(c, "num_attention_heads"));
    key_u32(b, "llama.attention.head_count_kv", size(c, "num_key_value_heads"));
    key_u32(b, "llama.feed_forward_length", size(c, "intermediate_size"));
    key_u32(b, "llama.context_length", size(c, "max_position_embeddings"));
    key_f32(b, "llama.attention.layer_norm_rms_epsilon", json_number_value(json_object_get(c, "rms_norm_eps")));
    key_f32(b, "llama.rope.freq_base", json_number_value(json_object_get(rope ? rope : c, "rope_theta")));
    return 10;
}

static uint64_t put_tokenizer(str *b) {
    json_t *file = json_load_file(GOLDEN "/cipher/tokenizer.json", 0, NULL), *id;
    const char *name, *token[VOCAB] = {"<eos>", "<pad>"};
    json_object_foreach(json_object_get(json_object_get(file, "model"), "vocab"), name, id) token[json_integer_value(id)] = name;
    key_text(b, "tokenizer.ggml.model", "gpt2");
    key_text(b, "tokenizer.ggml.pre", "gpt-2");
    key(b, "tokenizer.ggml.tokens", GGUF_ARRAY);
    u32(b, GGUF_STRING);
    u64(b, VOCAB);
    for (int i = 0; i < VOCAB; i++) text(b, token[i]);
    key(b, "tokenizer.ggml.token_type", GGUF_ARRAY);
    u32(b, GGUF_I32);
    u64(b, VOCAB);
    for (int i = 0; i < VOCAB; i++) u32(b, i < 2 ? 3 : 1);
    key(b, "tokenizer.ggml.merges", GGUF_ARRAY);
    u32(b, GGUF_STRING);
    u64(b, 0);
    key_u32(b, "tokenizer.ggml.eos_token_id", 0);
    key_u32(b, "tokenizer.ggml.padding_token_id", 1);
    json_decref(file);
    return 7;
}

/* GGUF's name for a Hugging Face one. */
static void gguf_name(const char *hf, char *out, size_t n) {
    static const char *const names[][2] = {{"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"},
                                           {"mlp.gate_proj", "ffn_gate"}, {"mlp.up_proj", "ffn_up"}, {"mlp.down_proj", "ffn_down"}, {"input_layernorm", "attn_norm"},
                                           {"post_attention_layernorm", "ffn_norm"}};
    int layer;
    snprintf(out, n, "%s", !strcmp(hf, "model.norm.weight") ? "output_norm.weight" : "token_embd.weight");
    if (sscanf(hf, "model.layers.%d.", &layer) != 1) return;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strstr(hf, names[i][0])) snprintf(out, n, "blk.%d.%s.weight", layer, names[i][1]);
}

static void pad(str *b) {
    while (b->n % ALIGN) str_addc(b, 0);
}

/* Where each row of the file comes from: of q and k, the first and second halves of a head are shuffled together. */
static void put_rows(str *b, const struct tensor *t, json_int_t heads) {
    int64_t rows = t->nd == 2 ? t->d[0] : 1, D = heads ? rows / heads : 0;
    size_t row = t->bytes / (size_t)rows;
    for (int64_t r = 0; r < rows; r++) {
        int64_t from = heads ? r / D * D + r % 2 * (D / 2) + r % D / 2 : r;
        str_add(b, (const char *)t->data + row * (size_t)from, row);
    }
}

void cipher_gguf(str *out) {
    struct tensors ts;
    json_t *c = json_load_file(GOLDEN "/cipher/config.json", 0, NULL);
    must(tensors_open(GOLDEN "/cipher", &ts));
    assert_non_null(c);
    str keys = {0}, infos = {0}, data = {0};
    uint64_t n = put_keys(&keys, c) + put_tokenizer(&keys);
    for (int i = 0; i < ts.n; i++) {
        const struct tensor *t = &ts.t[i];
        char name[64];
        gguf_name(t->name, name, sizeof name);
        text(&infos, name);
        u32(&infos, (uint32_t)t->nd);
        for (int k = t->nd - 1; k >= 0; k--) u64(&infos, (uint64_t)t->d[k]);
        u32(&infos, t->dt == DT_F16); /* GGML: 0 is f32, 1 f16 */
        pad(&data);
        u64(&infos, data.n);
        put_rows(&data, t, strstr(name, "attn_q.") ? size(c, "num_attention_heads") : strstr(name, "attn_k.") ? size(c, "num_key_value_heads") : 0);
    }
    *out = (str){0};
    str_adds(out, "GGUF");
    u32(out, 3);
    u64(out, (uint64_t)ts.n);
    u64(out, n);
    str_add(out, keys.p, keys.n);
    str_add(out, infos.p, infos.n);
    pad(out);
    str_add(out, data.p, data.n);
    assert_false(out->failed);
    str_free(&keys);
    str_free(&infos);
    str_free(&data);
    tensors_close(&ts);
    json_decref(c);
}
