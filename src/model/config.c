/* Reading a model's sizes from GGUF metadata or config.json: readers that complain by name, and what decoders name alike. */
#include "model/family.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LAYERS = 1024 };

/* --- one key -------------------------------------------------------------------------------------------------------- */
static const char *full_key(const struct model *m, const char *key, char name[96]) {
    snprintf(name, 96, "%s.%s", m->family->name, key);
    return name;
}

err size_gguf(const struct model *m, const struct gguf_meta *meta, const char *key, int64_t *out) {
    char name[96];
    uint64_t u;
    if (!gguf_u64(meta, full_key(m, key, name), &u)) return fail(E_INPUT, "metadata key %s is missing or not an integer", name);
    if (u == 0 || u > 1u << 30) return fail(E_INPUT, "metadata key %s is %llu, which is not a size", name, (unsigned long long)u);
    *out = (int64_t)u;
    return OK;
}

int64_t size_gguf_or(const struct model *m, const struct gguf_meta *meta, const char *key, int64_t fallback) {
    char name[96];
    uint64_t u;
    return gguf_u64(meta, full_key(m, key, name), &u) && u && u <= 1u << 30 ? (int64_t)u : fallback;
}

double real_gguf_or(const struct model *m, const struct gguf_meta *meta, const char *key, double fallback) {
    char name[96];
    double f;
    return gguf_f64(meta, full_key(m, key, name), &f) ? f : fallback;
}

err size_json(const struct model *m, const void *json, const char *key, int64_t *out) {
    const json_t *v = json_object_get(json, key);
    if (!json_is_integer(v)) return fail(E_INPUT, "%s: config.json: '%s' is missing or not an integer", m->path, key);
    *out = json_integer_value(v);
    if (*out < 1 || *out > 1 << 30) return fail(E_INPUT, "%s: config.json: '%s' is %lld, which is not a size", m->path, key, (long long)*out);
    return OK;
}

int64_t size_json_or(const void *json, const char *key, int64_t fallback) {
    const json_t *v = json_object_get(json, key);
    return json_is_integer(v) && json_integer_value(v) > 0 ? json_integer_value(v) : fallback;
}

double real_json_or(const void *json, const char *key, double fallback) {
    const json_t *v = json_object_get(json, key);
    return json_is_number(v) ? json_number_value(v) : fallback;
}

bool bool_json_or(const void *json, const char *key, bool fallback) {
    const json_t *v = json_object_get(json, key);
    return json_is_boolean(v) ? json_is_true(v) : fallback;
}

bool text_json_is(const void *json, const char *key, const char *value) {
    const char *s = json_string_value(json_object_get(json, key));
    return s && !strcmp(s, value);
}

bool has_json(const void *json, const char *key) { return json_object_get(json, key) != NULL; }

bool null_json(const void *json, const char *key) { return json_is_null(json_object_get(json, key)); }

err want_json(const struct model *m, const void *json, const char *key, const char *value) {
    const char *s = json_string_value(json_object_get(json, key));
    if (!s || !strcmp(s, value)) return OK;
    return fail(E_UNSUPPORTED, "%s: config.json: %s '%s' is not supported (supported: %s)", m->path, key, s, value);
}

err want_json_bool(const struct model *m, const void *json, const char *key, bool value) {
    if (bool_json_or(json, key, value) == value) return OK;
    return fail(E_UNSUPPORTED, "%s: config.json: %s %s is not supported", m->path, key, value ? "false" : "true");
}

/* --- what families share -------------------------------------------------------------------------------------------- */
err sizes_done(struct model *m) {
    const struct shape *z = &m->shape;
    if (z->heads < 1 || z->kv_heads < 1 || z->heads % z->kv_heads)
        return fail(E_INPUT, "%s: %lld heads do not share %lld key/value heads", m->path, (long long)z->heads, (long long)z->kv_heads);
    if (z->head_dim < 2 || z->head_dim % 2 || z->head_dim > 512)
        return fail(E_INPUT, "%s: a head size of %lld is not possible (even, 2 to 512)", m->path, (long long)z->head_dim);
    if (!(z->norm_eps > 0 && z->norm_eps < 1)) return fail(E_INPUT, "%s: norm epsilon %g is out of range", m->path, z->norm_eps);
    if (!(z->attn_scale >= 0) || !(z->attn_softcap >= 0) || !(z->logit_softcap >= 0))
        return fail(E_INPUT, "%s: an attention scale or soft-cap is not positive", m->path);
    if (z->layers > MAX_LAYERS) return fail(E_INPUT, "%s: %lld layers", m->path, (long long)z->layers);
    m->layer = arena_alloc(&m->mem, (size_t)z->layers * sizeof *m->layer);
    if (!m->layer) return fail(E_MEMORY, "out of memory");
    for (int l = 0; l < z->layers; l++) m->layer[l] = (struct layer){0, &m->rope[0]};
    return OK;
}

err decoder_sizes_gguf(struct model *m, const struct gguf_meta *meta) {
    struct shape *z = &m->shape;
    char key[96];
    TRY(size_gguf(m, meta, "block_count", &z->layers));
    TRY(size_gguf(m, meta, "embedding_length", &z->width));
    TRY(size_gguf(m, meta, "attention.head_count", &z->heads));
    TRY(size_gguf(m, meta, "feed_forward_length", &z->ffn));
    if (gguf_find(meta, full_key(m, "attention.head_count_kv", key))) TRY(size_gguf(m, meta, "attention.head_count_kv", &z->kv_heads));
    else z->kv_heads = z->heads;
    z->head_dim = size_gguf_or(m, meta, "attention.key_length", z->width / z->heads);
    if (size_gguf_or(m, meta, "attention.value_length", z->head_dim) != z->head_dim)
        return fail(E_UNSUPPORTED, "keys and values of different lengths (%s.attention.value_length)", m->family->name);
    z->context = size_gguf_or(m, meta, "context_length", 2048);
    z->norm_eps = real_gguf_or(m, meta, "attention.layer_norm_rms_epsilon", real_gguf_or(m, meta, "attention.layer_norm_epsilon", 1e-5));
    const struct tensor *e = tensors_find(&m->files, "token_embd.weight");
    if (!e || e->nd != 2) return fail(E_INPUT, "tensor token_embd.weight is missing");
    z->vocab = e->d[0];
    z->tied = !tensors_find(&m->files, "output.weight");
    z->qkv_bias = tensors_find(&m->files, "blk.0.attn_q.bias") != NULL;
    z->out_bias = tensors_find(&m->files, "blk.0.attn_output.bias") != NULL;
    z->mlp_bias = tensors_find(&m->files, "blk.0.ffn_up.bias") != NULL;
    return sizes_done(m);
}

err decoder_sizes_json(struct model *m, const void *json) {
    struct shape *z = &m->shape;
    TRY(size_json(m, json, "num_hidden_layers", &z->layers));
    TRY(size_json(m, json, "hidden_size", &z->width));
    TRY(size_json(m, json, "num_attention_heads", &z->heads));
    TRY(size_json(m, json, "intermediate_size", &z->ffn));
    TRY(size_json(m, json, "vocab_size", &z->vocab));
    z->kv_heads = size_json_or(json, "num_key_value_heads", z->heads);
    z->head_dim = size_json_or(json, "head_dim", z->width / z->heads);
    z->context = size_json_or(json, "max_position_embeddings", 2048);
    z->norm_eps = real_json_or(json, "rms_norm_eps", 1e-6);
    z->tied = bool_json_or(json, "tie_word_embeddings", false);
    return sizes_done(m);
}

err layer_types_json(struct model *m, const void *json, int64_t window) {
    const json_t *list = json_object_get(json, "layer_types");
    if (!json_is_array(list)) return OK;
    if (json_array_size(list) != (size_t)m->shape.layers)
        return fail(E_INPUT, "%s: config.json: layer_types names %zu layers, there are %lld", m->path, json_array_size(list),
                    (long long)m->shape.layers);
    for (int l = 0; l < m->shape.layers; l++) {
        const char *type = json_string_value(json_array_get(list, (size_t)l));
        if (!type || (strcmp(type, "full_attention") && strcmp(type, "sliding_attention")))
            return fail(E_UNSUPPORTED, "%s: config.json: layer_types '%s' is not supported (supported: full_attention, sliding_attention)",
                        m->path, type ? type : "?");
        m->layer[l].window = *type == 's' ? window : 0;
        if (*type == 's' && window < 1)
            return fail(E_INPUT, "%s: config.json: layer_types has sliding_attention, but there is no sliding_window", m->path);
    }
    return OK;
}

err layer_flags_json(const struct model *m, const void *json, const char *key, bool *flag, bool *found) {
    const json_t *list = json_object_get(json, key);
    *found = json_is_array(list);
    if (!*found) return OK;
    if (json_array_size(list) != (size_t)m->shape.layers)
        return fail(E_INPUT, "%s: config.json: %s has %zu entries for %lld layers", m->path, key, json_array_size(list),
                    (long long)m->shape.layers);
    for (int l = 0; l < m->shape.layers; l++) flag[l] = json_integer_value(json_array_get(list, (size_t)l)) != 0;
    return OK;
}
