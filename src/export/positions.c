/* See positions.h. The names are those that llama.cpp's converter writes (its base class, LlamaModel and Phi3MiniModel). */
#include "export/positions.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is(const struct rope_table *t, const char *type) { return t->scaling.type && !strcmp(t->scaling.type, type); }
static bool rotates(const struct model *m) { return m->rope[0].dims > 0; }
static bool two_tables(const struct model *m) { return m->rope[1].dims > 0; }

static double yarn_scale(const struct rope_table *t) { return t->scaling.factor > 1 ? 0.1 * log(t->scaling.factor) + 1 : 1; }
/* YaRN with another factor of sine and cosine than the paper's. */
static bool own_scale(const struct rope_table *t) { return fabs(t->scale / yarn_scale(t) - 1) > 1e-6; }

/* --- GGUF ------------------------------------------------------------------------------------------------------------ */
struct names {
    const char *arch;
    char key[128];
};

static const char *key(struct names *n, const char *rest) {
    snprintf(n->key, sizeof n->key, "%s.rope.%s", n->arch, rest);
    return n->key;
}

void positions_keys(const struct model *m, const char *arch, struct gguf_keys *out) {
    const struct rope_table *t = &m->rope[0];
    struct names n = {.arch = arch};
    if (!rotates(m)) return;
    gguf_key_u32(out, key(&n, "dimension_count"), (uint32_t)t->dims);
    gguf_key_f32(out, key(&n, "freq_base"), t->base);
    if (two_tables(m)) gguf_key_f32(out, key(&n, "freq_base_swa"), m->rope[1].base);
    if (is(t, "linear") || is(t, "yarn")) {
        gguf_key_str(out, key(&n, "scaling.type"), t->scaling.type);
        gguf_key_f32(out, key(&n, "scaling.factor"), t->scaling.factor);
    }
    if (is(t, "longrope")) gguf_key_f32(out, key(&n, "scaling.attn_factor"), t->scale);
    if (is(t, "yarn") && own_scale(t)) gguf_key_f32(out, key(&n, "scaling.attn_factor"), t->scale / yarn_scale(t));
    if (is(t, "yarn") || is(t, "longrope")) gguf_key_u32(out, key(&n, "scaling.original_context_length"), (uint32_t)t->scaling.original);
}

bool positions_key(const struct model *m, const char *name) {
    const size_t n = strlen(m->family->name);
    return !strncmp(name, m->family->name, n) && (str_starts(name + n, ".rope.") || !strcmp(name + n, ".context_length"));
}

/* llama3's divisors; short waves have 1 and long ones the factor exactly. */
static const float *divisors(const struct rope_table *t, arena *mem) {
    float *d = arena_alloc(mem, (size_t)t->dims / 2 * sizeof *d);
    for (int64_t j = 0; d && j < t->dims / 2; j++) {
        double by = pow(t->base, -2.0 * (double)j / (double)t->dims) / t->inv_freq[j];
        d[j] = (float)(fabs(by - 1) < 1e-6 ? 1 : fabs(by / t->scaling.factor - 1) < 1e-6 ? t->scaling.factor : by);
    }
    return d;
}

static struct tensor vector(const char *name, const float *data, int64_t n) {
    return (struct tensor){.name = name, .dt = DT_F32, .nd = 1, .d = {n}, .data = data, .bytes = (size_t)n * 4};
}

err positions_tensors(const struct model *m, arena *mem, struct tensor out[POSITION_TENSORS], int *n) {
    const struct rope_table *t = &m->rope[0];
    *n = 0;
    if (is(t, "llama3")) {
        const float *d = divisors(t, mem);
        if (!d) return fail(E_MEMORY, "out of memory");
        out[(*n)++] = vector("rope_freqs.weight", d, t->dims / 2);
    }
    if (is(t, "longrope")) {
        if (!t->scaling.divide_long)
            return fail(E_UNSUPPORTED, "%s: LongRoPE without its long list (long_factor) cannot be written as GGUF", m->path);
        out[(*n)++] = vector("rope_factors_short.weight", t->scaling.divide, t->dims / 2);
        out[(*n)++] = vector("rope_factors_long.weight", t->scaling.divide_long, t->dims / 2);
    }
    return OK;
}

bool positions_tensor(const char *name) {
    return !strcmp(name, "rope_freqs.weight") || !strcmp(name, "rope_factors_short.weight") || !strcmp(name, "rope_factors_long.weight");
}

/* --- config.json ----------------------------------------------------------------------------------------------------- */
json_t *short_real(double v) {
    char text[40];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v) break;
    }
    return json_real(strtod(text, NULL));
}

static json_t *list(const float *v, int64_t n) {
    json_t *j = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(j, short_real(v[i]));
    return j;
}

static err longrope_config(const struct model *m, json_t *config, json_t *scaling) {
    const struct rope_table *t = &m->rope[0];
    if (!t->scaling.divide_long)
        return fail(E_UNSUPPORTED, "%s: LongRoPE without rope_factors_long cannot be written as config.json", m->path);
    json_object_set_new(scaling, "short_factor", list(t->scaling.divide, t->dims / 2));
    json_object_set_new(scaling, "long_factor", list(t->scaling.divide_long, t->dims / 2));
    json_object_set_new(scaling, "attention_factor", short_real(t->scale));
    json_object_set_new(config, "original_max_position_embeddings", json_integer((json_int_t)t->scaling.original));
    json_object_set_new(config, "max_position_embeddings", json_integer(t->scaling.context));
    return OK;
}

/* What transformers 4 wrote and 5 reads; both of a type's keys, since either is looked for. */
err positions_config(const struct model *m, double original, json_t *config) {
    const struct rope_table *t = &m->rope[0];
    const struct rope_scaling *s = &t->scaling;
    if (!rotates(m)) return OK;
    json_object_set_new(config, "rope_theta", short_real(t->base));
    if (two_tables(m)) json_object_set_new(config, "rope_local_base_freq", short_real(m->rope[1].base));
    if (t->dims != m->shape.head_dim)
        json_object_set_new(config, "partial_rotary_factor", json_real((double)t->dims / (double)m->shape.head_dim));
    if (!s->type || is(t, "ntk") || is(t, "dynamic")) return OK; /* the base says it all: of dynamic the table that is computed with */
    json_t *j = json_pack("{s:s, s:s}", "rope_type", s->type, "type", s->type);
    err e = OK;
    if (is(t, "longrope")) e = longrope_config(m, config, j);
    else json_object_set_new(j, "factor", short_real(s->factor));
    if (is(t, "llama3"))
        json_object_update_new(j, json_pack("{s:f, s:f}", "low_freq_factor", s->low > 0 ? s->low : 1.0, "high_freq_factor",
                                            s->high > 0 ? s->high : 4.0));
    if (is(t, "yarn") && own_scale(t)) json_object_set_new(j, "attention_factor", short_real(t->scale));
    if (is(t, "yarn") && s->unrounded) json_object_set_new(j, "truncate", json_false());
    if (is(t, "yarn"))
        json_object_update_new(j, json_pack("{s:o, s:o}", "beta_fast", short_real(s->beta_fast), "beta_slow", short_real(s->beta_slow)));
    if (is(t, "llama3") || is(t, "yarn"))
        json_object_set_new(j, "original_max_position_embeddings", json_integer((json_int_t)(is(t, "yarn") ? s->original : original)));
    json_object_set_new(config, "rope_scaling", j);
    return e;
}
