/* RoPE's frequency tables: the plain one, base^(-2j/R), and the ways of stretching it to a longer context that files name.
 *
 *   linear    every frequency divided by a factor (Chen et al. 2023)
 *   llama3    long waves divided, short ones kept, a ramp between (Llama 3.1)
 *   yarn      the same by a ramp over the index, and sine and cosine times 0.1 ln(factor) + 1 (Peng et al. 2023)
 *   longrope  a factor for each frequency, one list for short and one for long contexts (Ding et al. 2024; Phi-3). The reference
 *             picks the list by the length of the sequence at hand; sequences here are packed, so the short list it is, and the
 *             model's context ends where the long one would begin
 *   dynamic   depends on the running length: refused
 * GGUF files have llama3's divisors as a tensor, rope_freqs, and LongRoPE's lists as rope_factors_short and _long. */
#include "model/family.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

struct stretch {
    const char *type; /* NULL: none */
    double factor, original, attention_factor, low, high, beta_fast, beta_slow, mscale, mscale_all;
    bool truncate;
    float *divide, *divide_long; /* longrope's lists */
};

static err frequencies(struct model *m, double base, int64_t dims, struct rope_table *out) {
    if (!(base > 1)) return fail(E_INPUT, "%s: RoPE base %g is out of range", m->path, base);
    if (dims < 2 || dims % 2 || dims > m->shape.head_dim)
        return fail(E_INPUT, "%s: RoPE cannot rotate %lld of a head's %lld columns", m->path, (long long)dims,
                    (long long)m->shape.head_dim);
    *out = (struct rope_table){.base = base, .dims = dims, .scale = 1, .inv_freq = arena_alloc(&m->mem, (size_t)dims / 2 * sizeof(float))};
    return out->inv_freq ? OK : fail(E_MEMORY, "out of memory");
}

static double yarn_scale(double factor, double by) { return factor > 1 ? 0.1 * by * log(factor) + 1 : 1; }

/* The index at which a frequency turns `rotations` times within the original context. */
static double yarn_index(const struct stretch *s, double rotations, int64_t dims, double base) {
    return (double)dims * log(s->original / (rotations * 6.283185307179586)) / (2 * log(base));
}

static void yarn(const struct stretch *s, double base, struct rope_table *t) {
    double low = yarn_index(s, s->beta_fast, t->dims, base), high = yarn_index(s, s->beta_slow, t->dims, base);
    if (s->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, (double)t->dims - 1);
    if (low == high) high += 0.001;
    for (int64_t j = 0; j < t->dims / 2; j++) {
        double ramp = fmin(fmax(((double)j - low) / (high - low), 0), 1), f = pow(base, -2.0 * (double)j / (double)t->dims);
        t->inv_freq[j] = (float)(f / s->factor * ramp + f * (1 - ramp));
    }
    t->scale = s->attention_factor > 0              ? s->attention_factor
               : s->mscale > 0 && s->mscale_all > 0 ? yarn_scale(s->factor, s->mscale) / yarn_scale(s->factor, s->mscale_all)
                                                    : yarn_scale(s->factor, 1);
}

static double llama3(const struct stretch *s, double f) {
    double wave = 6.283185307179586 / f, smooth = (s->original / wave - s->low) / (s->high - s->low);
    if (wave < s->original / s->high) return f;
    if (wave > s->original / s->low) return f / s->factor;
    return (1 - smooth) * f / s->factor + smooth * f;
}

/* What was asked for, for those who write another format. */
static err remember(struct model *m, const struct stretch *s, struct rope_table *out) {
    if (!s->type) return OK;
    out->scaling = (struct rope_scaling){.type = arena_str(&m->mem, s->type), .factor = s->factor, .original = s->original, .beta_fast = s->beta_fast,
                                         .beta_slow = s->beta_slow, .context = m->shape.context, .divide = s->divide, .divide_long = s->divide_long};
    return out->scaling.type ? OK : fail(E_MEMORY, "out of memory");
}

static err stretched(struct model *m, const struct stretch *s, double base, int64_t dims, struct rope_table *out) {
    TRY(frequencies(m, base, dims, out));
    TRY(remember(m, s, out));
    const char *type = s->type ? s->type : "default";
    static const char *const with_factor[] = {"linear", "llama3", "yarn"};
    for (size_t i = 0; i < sizeof with_factor / sizeof *with_factor; i++)
        if (!strcmp(type, with_factor[i]) && !(s->factor >= 1))
            return fail(E_INPUT, "%s: RoPE scaling '%s' with the factor %g", m->path, type, s->factor);
    if ((!strcmp(type, "llama3") || !strcmp(type, "yarn") || !strcmp(type, "longrope")) && !(s->original >= 2))
        return fail(E_INPUT, "%s: RoPE scaling '%s' without original_max_position_embeddings", m->path, type);
    if (!strcmp(type, "llama3") && !(s->low > 0 && s->high > s->low))
        return fail(E_INPUT, "%s: RoPE scaling 'llama3': low_freq_factor %g, high_freq_factor %g", m->path, s->low, s->high);
    bool plain = !strcmp(type, "default") || !strcmp(type, "linear"), by_list = !strcmp(type, "longrope");
    for (int64_t j = 0; j < dims / 2; j++) {
        double f = pow(base, -2.0 * (double)j / (double)dims);
        out->inv_freq[j] = (float)(plain     ? f / (s->type && s->factor > 0 && *type == 'l' ? s->factor : 1)
                                   : by_list ? f / (double)s->divide[j]
                                             : llama3(s, f));
    }
    if (!strcmp(type, "yarn")) yarn(s, base, out);
    else if (by_list) {
        double factor = s->factor > 0 ? s->factor : (double)m->shape.context / s->original;
        out->scale = s->attention_factor > 0 ? s->attention_factor : factor > 1 ? sqrt(1 + log(factor) / log(s->original)) : 1;
        if ((double)m->shape.context > s->original) m->shape.context = (int64_t)s->original, m->shape.hard_context = true;
    } else if (!plain && strcmp(type, "llama3"))
        return fail(E_UNSUPPORTED, "%s: RoPE scaling '%s' is not supported (supported: linear, llama3, yarn, longrope)", m->path, type);
    return OK;
}

err rope_plain(struct model *m, double base, int64_t dims, struct rope_table *out) { return stretched(m, &(struct stretch){0}, base, dims, out); }

/* --- config.json ---------------------------------------------------------------------------------------------------- */
static err list_json(struct model *m, const json_t *p, const char *key, int64_t n, float **out) {
    const json_t *list = json_object_get(p, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        return fail(E_INPUT, "%s: config.json: %s must be a list of %lld numbers", m->path, key, (long long)n);
    *out = arena_alloc(&m->mem, (size_t)n * sizeof **out);
    if (!*out) return fail(E_MEMORY, "out of memory");
    for (int64_t j = 0; j < n; j++)
        if (!(((*out)[j] = (float)json_number_value(json_array_get(list, (size_t)j))) > 0))
            return fail(E_INPUT, "%s: config.json: %s[%lld] is not a positive number", m->path, key, (long long)j);
    return OK;
}

err rope_json(struct model *m, const void *json, const char *layer_type, double base, struct rope_table *out) {
    const json_t *p = json_object_get(json, "rope_parameters"), *of_type = layer_type && json_is_object(p) ? json_object_get(p, layer_type) : NULL;
    if (json_is_object(of_type)) p = of_type;
    if (!json_is_object(p)) p = json_object_get(json, "rope_scaling");
    base = real_json_or(json, "rope_theta", base);
    base = real_json_or(p, "rope_theta", base);
    double partial = real_json_or(p, "partial_rotary_factor", real_json_or(json, "partial_rotary_factor", 1));
    if (!(partial > 0 && partial <= 1)) return fail(E_INPUT, "%s: config.json: partial_rotary_factor %g", m->path, partial);
    const int64_t dims = (int64_t)((double)m->shape.head_dim * partial);
    struct stretch s = {.type = json_string_value(json_object_get(p, "rope_type")),
                        .factor = real_json_or(p, "factor", 0),
                        .attention_factor = real_json_or(p, "attention_factor", 0),
                        .original =
                            real_json_or(p, "original_max_position_embeddings", real_json_or(json, "original_max_position_embeddings", 0)),
                        .low = real_json_or(p, "low_freq_factor", 0),
                        .high = real_json_or(p, "high_freq_factor", 0),
                        .beta_fast = real_json_or(p, "beta_fast", 32),
                        .beta_slow = real_json_or(p, "beta_slow", 1),
                        .mscale = real_json_or(p, "mscale", 0),
                        .mscale_all = real_json_or(p, "mscale_all_dim", 0),
                        .truncate = bool_json_or(p, "truncate", true)};
    if (!s.type) s.type = json_string_value(json_object_get(p, "type"));
    if (s.type && !strcmp(s.type, "su")) s.type = "longrope"; /* its first name */
    if (s.type && !strcmp(s.type, "longrope")) {
        TRY(list_json(m, p, "short_factor", dims / 2, &s.divide));
        if (json_object_get(p, "long_factor")) TRY(list_json(m, p, "long_factor", dims / 2, &s.divide_long));
    }
    if (s.type && !strcmp(s.type, "default")) s.type = NULL;
    return stretched(m, &s, base, dims, out);
}

/* --- GGUF ----------------------------------------------------------------------------------------------------------- */
static err list_gguf(struct model *m, const char *name, int64_t n, float **out) {
    const struct tensor *t = tensors_find(&m->files, name);
    if (!t || t->nd != 1 || t->d[0] != n) return fail(E_INPUT, "tensor %s is missing or does not have %lld numbers", name, (long long)n);
    *out = arena_alloc(&m->mem, (size_t)n * sizeof **out);
    if (!*out) return fail(E_MEMORY, "out of memory");
    dequantise_row(t->dt, t->data, *out, n);
    for (int64_t j = 0; j < n; j++)
        if (!((*out)[j] > 0)) return fail(E_INPUT, "tensor %s holds %g", name, (double)(*out)[j]);
    return OK;
}

err rope_gguf(struct model *m, const struct gguf_meta *meta, double base, bool scaled, struct rope_table *out) {
    const int64_t dims = size_gguf_or(m, meta, "rope.dimension_count", m->shape.head_dim);
    char key[96];
    snprintf(key, sizeof key, "%s.rope.scaling.type", m->family->name);
    struct stretch s = {.type = gguf_str(meta, key),
                        .factor = real_gguf_or(m, meta, "rope.scaling.factor", real_gguf_or(m, meta, "rope.scale_linear", 0)),
                        .original = (double)size_gguf_or(m, meta, "rope.scaling.original_context_length", 0),
                        .attention_factor = real_gguf_or(m, meta, "rope.scaling.attn_factor", 0),
                        .beta_fast = real_gguf_or(m, meta, "rope.scaling.yarn_beta_fast", 32),
                        .beta_slow = real_gguf_or(m, meta, "rope.scaling.yarn_beta_slow", 1),
                        .truncate = true};
    if (!scaled || (s.type && !strcmp(s.type, "none"))) return rope_plain(m, base, dims, out);
    if (!s.type && s.factor > 0) s.type = "linear";
    if (s.type && !strcmp(s.type, "yarn") && s.attention_factor > 0) s.attention_factor *= yarn_scale(s.factor, 1); /* there it is a factor beside YaRN's own */
    bool lists = tensors_find(&m->files, "rope_factors_short.weight") != NULL;
    if (lists) {
        s.type = "longrope";
        TRY(list_gguf(m, "rope_factors_short.weight", dims / 2, &s.divide));
        if (tensors_find(&m->files, "rope_factors_long.weight")) TRY(list_gguf(m, "rope_factors_long.weight", dims / 2, &s.divide_long));
    } else if (s.type && !strcmp(s.type, "longrope")) return fail(E_INPUT, "tensor rope_factors_short.weight is missing");
    TRY(stretched(m, &s, base, dims, out));
    if (!tensors_find(&m->files, "rope_freqs.weight")) return OK;
    float *divide;
    TRY(list_gguf(m, "rope_freqs.weight", dims / 2, &divide));
    double most = 1;
    for (int64_t j = 0; j < dims / 2; j++) {
        out->inv_freq[j] /= divide[j];
        if (divide[j] > most) most = divide[j];
    }
    if (!s.type) out->scaling = (struct rope_scaling){.type = "llama3", .factor = most};
    return OK;
}
