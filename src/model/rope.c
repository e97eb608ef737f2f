/* RoPE's frequency tables: the plain one, base^(-2j/R), and the ways of stretching it to a longer context that files name or a run asks for
 * (stretch.c). original: the context that the model was trained for.
 *
 *   linear    every frequency divided by a factor (Chen et al. 2023)
 *   ntk       the base times factor^(R / (R - 2)): the slowest wave is divided by the factor, the fastest is kept (bloc97 2023)
 *   dynamic   the same by factor * longest / original - (factor - 1), nothing up to the original context (transformers'
 *             _compute_dynamic_ntk_parameters). There `longest` is the sequence at hand; sequences here are packed and share one table, so it
 *             is the longest that the run is planned for
 *   llama3    long waves divided, short ones kept, a ramp between (Llama 3.1)
 *   yarn      the same by a ramp over the index, and sine and cosine times 0.1 ln(factor) + 1 (Peng et al. 2023)
 *   longrope  a factor for each frequency, one list for short and one for long contexts (Ding et al. 2024; Phi-3). The reference picks the
 *             list by the sequence at hand, we by `longest`; with the short list the model's context ends where the long one would begin
 * GGUF files have llama3's divisors as a tensor, rope_freqs, and LongRoPE's lists as rope_factors_short and _long. */
#include "model/family.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

static double yarn_scale(double factor, double by) { return factor > 1 ? 0.1 * by * log(factor) + 1 : 1; }

/* The index at which a frequency turns `rotations` times within the original context. */
static double yarn_index(const struct rope_scaling *s, double rotations, int64_t dims, double base) {
    return (double)dims * log(s->original / (rotations * 6.283185307179586)) / (2 * log(base));
}

static void yarn(struct rope_table *t) {
    const struct rope_scaling *s = &t->scaling;
    double low = yarn_index(s, s->beta_fast, t->dims, t->base), high = yarn_index(s, s->beta_slow, t->dims, t->base);
    if (!s->unrounded) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, (double)t->dims - 1);
    if (low == high) high += 0.001;
    for (int64_t j = 0; j < t->dims / 2; j++) {
        double ramp = fmin(fmax(((double)j - low) / (high - low), 0), 1), f = pow(t->base, -2.0 * (double)j / (double)t->dims);
        t->inv_freq[j] = (float)(f / s->factor * ramp + f * (1 - ramp));
    }
    t->scale = s->attention_factor > 0              ? s->attention_factor
               : s->mscale > 0 && s->mscale_all > 0 ? yarn_scale(s->factor, s->mscale) / yarn_scale(s->factor, s->mscale_all)
                                                    : yarn_scale(s->factor, 1);
}

static double llama3(const struct rope_scaling *s, double f) {
    double wave = 6.283185307179586 / f, smooth = (s->original / wave - s->low) / (s->high - s->low);
    if (wave < s->original / s->high) return f;
    if (wave > s->original / s->low) return f / s->factor;
    return (1 - smooth) * f / s->factor + smooth * f;
}

static bool is(const struct rope_scaling *s, const char *type) { return s->type && !strcmp(s->type, type); }
static bool by_tensor(const struct rope_scaling *s) { return is(s, "llama3") && s->freqs; }

static err check(const struct rope_table *t, const char *where) {
    const struct rope_scaling *s = &t->scaling;
    static const char *const with_factor[] = {"linear", "ntk", "dynamic", "llama3", "yarn", NULL}, *const with_original[] = {
                                                                                                       "dynamic", "llama3", "yarn",
                                                                                                       "longrope", NULL};
    bool known = !s->type || is(s, "longrope");
    for (int i = 0; with_factor[i]; i++) {
        known |= is(s, with_factor[i]);
        if (is(s, with_factor[i]) && !(s->factor >= 1))
            return fail(E_INPUT, "%s: RoPE scaling '%s' with the factor %g", where, s->type, s->factor);
    }
    if (!known)
        return fail(E_UNSUPPORTED, "%s: RoPE scaling '%s' is not supported (supported: linear, ntk, dynamic, llama3, yarn, longrope)",
                    where, s->type);
    for (int i = 0; with_original[i]; i++)
        if (is(s, with_original[i]) && !by_tensor(s) && !(s->original >= 2))
            return fail(E_INPUT, "%s: RoPE scaling '%s' without original_max_position_embeddings", where, s->type);
    if (is(s, "llama3") && !by_tensor(s) && !(s->low > 0 && s->high > s->low))
        return fail(E_INPUT, "%s: RoPE scaling 'llama3': low_freq_factor %g, high_freq_factor %g", where, s->low, s->high);
    if ((is(s, "ntk") || is(s, "dynamic")) && t->dims < 4)
        return fail(E_INPUT, "%s: RoPE scaling '%s' of two rotated columns", where, s->type);
    return OK;
}

/* The factor that ntk and dynamic change the base for. */
static double base_factor(const struct rope_scaling *s, int64_t longest) {
    if (is(s, "ntk")) return s->factor;
    return is(s, "dynamic") ? s->factor * fmax((double)longest, s->original) / s->original - (s->factor - 1) : 1;
}

static void longrope(struct model *m, int64_t longest, struct rope_table *t) {
    const struct rope_scaling *s = &t->scaling;
    const bool lengthy = (double)longest > s->original && s->divide_long, bound = (double)s->context > s->original && !lengthy;
    const double factor = s->factor > 0 ? s->factor : (double)s->context / s->original;
    for (int64_t j = 0; j < t->dims / 2; j++)
        t->inv_freq[j] = (float)(pow(t->base, -2.0 * (double)j / (double)t->dims) / (double)(lengthy ? s->divide_long : s->divide)[j]);
    t->scale = s->attention_factor > 0 ? s->attention_factor : factor > 1 ? sqrt(1 + log(factor) / log(s->original)) : 1;
    m->shape.context = bound ? (int64_t)s->original : s->context;
    m->shape.hard_context = bound;
}

err rope_make(struct model *m, const char *where, int64_t longest, struct rope_table *t) {
    const struct rope_scaling *s = &t->scaling;
    TRY(check(t, where));
    const double dims = (double)t->dims, widen = base_factor(s, longest);
    t->base = widen == 1 ? t->own_base : t->own_base * pow(widen, dims / (dims - 2));
    t->scale = 1;
    t->inv_freq = arena_alloc(&m->mem, (size_t)t->dims / 2 * sizeof(float)); /* anew: programs and cards know tables by their place */
    if (!t->inv_freq) return fail(E_MEMORY, "out of memory");
    for (int64_t j = 0; j < t->dims / 2; j++) {
        const double f = pow(t->base, -2.0 * (double)j / dims);
        t->inv_freq[j] = (float)(is(s, "linear") ? f / s->factor : is(s, "llama3") && !by_tensor(s) ? llama3(s, f) : f);
    }
    if (is(s, "yarn")) yarn(t);
    if (is(s, "longrope")) longrope(m, longest, t);
    for (int64_t j = 0; j < t->dims / 2 && s->freqs; j++) t->inv_freq[j] /= s->freqs[j];
    return OK;
}

static err stretched(struct model *m, const struct rope_scaling *s, double base, int64_t dims, struct rope_table *out) {
    if (!(base > 1)) return fail(E_INPUT, "%s: RoPE base %g is out of range", m->path, base);
    if (dims < 2 || dims % 2 || dims > m->shape.head_dim)
        return fail(E_INPUT, "%s: RoPE cannot rotate %lld of a head's %lld columns", m->path, (long long)dims,
                    (long long)m->shape.head_dim);
    *out = (struct rope_table){.own_base = base, .dims = dims, .scaling = *s};
    out->scaling.context = m->shape.context;
    return rope_make(m, m->path, 0, out);
}

err rope_plain(struct model *m, double base, int64_t dims, struct rope_table *out) {
    TRY(stretched(m, &(struct rope_scaling){0}, base, dims, out));
    return out->local = true, OK;
}

/* --- config.json ---------------------------------------------------------------------------------------------------- */
static err list_json(struct model *m, const json_t *p, const char *where, const char *key, int64_t n, const float **out) {
    const json_t *list = json_object_get(p, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        return fail(E_INPUT, "%s: %s must be a list of %lld numbers", where, key, (long long)n);
    float *f = arena_alloc(&m->mem, (size_t)n * sizeof *f);
    if (!f) return fail(E_MEMORY, "out of memory");
    for (int64_t j = 0; j < n; j++)
        if (!((f[j] = (float)json_number_value(json_array_get(list, (size_t)j))) > 0))
            return fail(E_INPUT, "%s: %s[%lld] is not a positive number", where, key, (long long)j);
    return *out = f, OK;
}

err rope_scaling_read(struct model *m, const void *p, const char *where, int64_t dims, struct rope_scaling *s) {
    const char *type = json_string_value(json_object_get(p, "rope_type"));
    if (!type) type = json_string_value(json_object_get(p, "type"));
    if (type && !strcmp(type, "su")) type = "longrope"; /* its first name */
    *s = (struct rope_scaling){.factor = real_json_or(p, "factor", 0),
                               .attention_factor = real_json_or(p, "attention_factor", 0),
                               .original = real_json_or(p, "original_max_position_embeddings", 0),
                               .low = real_json_or(p, "low_freq_factor", 0),
                               .high = real_json_or(p, "high_freq_factor", 0),
                               .beta_fast = real_json_or(p, "beta_fast", 32),
                               .beta_slow = real_json_or(p, "beta_slow", 1),
                               .mscale = real_json_or(p, "mscale", 0),
                               .mscale_all = real_json_or(p, "mscale_all_dim", 0),
                               .unrounded = !bool_json_or(p, "truncate", true)};
    if (!type || !strcmp(type, "default")) return OK;
    if (!strcmp(type, "longrope")) {
        TRY(list_json(m, p, where, "short_factor", dims / 2, &s->divide));
        if (json_object_get(p, "long_factor")) TRY(list_json(m, p, where, "long_factor", dims / 2, &s->divide_long));
    }
    s->type = arena_str(&m->mem, type);
    return s->type ? OK : fail(E_MEMORY, "out of memory");
}

err rope_json(struct model *m, const void *json, const char *layer_type, double base, struct rope_table *out) {
    const json_t *p = json_object_get(json, "rope_parameters"),
                 *of_type = layer_type && json_is_object(p) ? json_object_get(p, layer_type) : NULL;
    if (json_is_object(of_type)) p = of_type;
    if (!json_is_object(p)) p = json_object_get(json, "rope_scaling");
    base = real_json_or(json, "rope_theta", base);
    base = real_json_or(p, "rope_theta", base);
    double partial = real_json_or(p, "partial_rotary_factor", real_json_or(json, "partial_rotary_factor", 1));
    if (!(partial > 0 && partial <= 1)) return fail(E_INPUT, "%s: config.json: partial_rotary_factor %g", m->path, partial);
    const int64_t dims = (int64_t)((double)m->shape.head_dim * partial);
    struct rope_scaling s;
    char *where = arena_printf(&m->mem, "%s: config.json", m->path);
    if (!where) return fail(E_MEMORY, "out of memory");
    TRY(rope_scaling_read(m, p, where, dims, &s));
    if (!(s.original > 0)) s.original = real_json_or(json, "original_max_position_embeddings", 0);
    if (is(&s, "dynamic")) s.original = (double)m->shape.context; /* whatever else is said: so does the reference */
    TRY(stretched(m, &s, base, dims, out));
    out->local = layer_type && !strcmp(layer_type, "sliding_attention");
    return OK;
}

/* --- GGUF ----------------------------------------------------------------------------------------------------------- */
static err list_gguf(struct model *m, const char *name, int64_t n, const float **out) {
    const struct tensor *t = tensors_find(&m->files, name);
    if (!t || t->nd != 1 || t->d[0] != n) return fail(E_INPUT, "tensor %s is missing or does not have %lld numbers", name, (long long)n);
    float *f = arena_alloc(&m->mem, (size_t)n * sizeof *f);
    if (!f) return fail(E_MEMORY, "out of memory");
    dequantise_row(t->dt, t->data, f, n);
    for (int64_t j = 0; j < n; j++)
        if (!(f[j] > 0)) return fail(E_INPUT, "tensor %s holds %g", name, (double)f[j]);
    return *out = f, OK;
}

/* What tensors of the file say beside its keys. */
static err scaling_tensors(struct model *m, int64_t dims, struct rope_scaling *s) {
    if (tensors_find(&m->files, "rope_factors_short.weight")) {
        s->type = "longrope";
        TRY(list_gguf(m, "rope_factors_short.weight", dims / 2, &s->divide));
        if (tensors_find(&m->files, "rope_factors_long.weight")) TRY(list_gguf(m, "rope_factors_long.weight", dims / 2, &s->divide_long));
    } else if (is(s, "longrope")) return fail(E_INPUT, "tensor rope_factors_short.weight is missing");
    if (!tensors_find(&m->files, "rope_freqs.weight")) return OK;
    TRY(list_gguf(m, "rope_freqs.weight", dims / 2, &s->freqs));
    if (s->type) return OK;
    s->type = "llama3";
    s->factor = 1;
    for (int64_t j = 0; j < dims / 2; j++)
        if (s->freqs[j] > s->factor) s->factor = s->freqs[j];
    return OK;
}

err rope_gguf(struct model *m, const struct gguf_meta *meta, double base, bool scaled, struct rope_table *out) {
    const int64_t dims = size_gguf_or(m, meta, "rope.dimension_count", m->shape.head_dim);
    char key[96];
    snprintf(key, sizeof key, "%s.rope.scaling.type", m->family->name);
    const char *type = gguf_str(meta, key);
    if (!scaled) return rope_plain(m, base, dims, out);
    if (type && !strcmp(type, "none")) return stretched(m, &(struct rope_scaling){0}, base, dims, out);
    struct rope_scaling s = {.factor = real_gguf_or(m, meta, "rope.scaling.factor", real_gguf_or(m, meta, "rope.scale_linear", 0)),
                             .original = (double)size_gguf_or(m, meta, "rope.scaling.original_context_length", 0),
                             .attention_factor = real_gguf_or(m, meta, "rope.scaling.attn_factor", 0),
                             .beta_fast = real_gguf_or(m, meta, "rope.scaling.yarn_beta_fast", 32),
                             .beta_slow = real_gguf_or(m, meta, "rope.scaling.yarn_beta_slow", 1)};
    if (type && !(s.type = arena_str(&m->mem, type))) return fail(E_MEMORY, "out of memory");
    if (!type && s.factor > 0) s.type = "linear";
    if (is(&s, "yarn") && s.attention_factor > 0)
        s.attention_factor *= yarn_scale(s.factor, 1); /* there it is a factor beside YaRN's own */
    TRY(scaling_tensors(m, dims, &s));
    return stretched(m, &s, base, dims, out);
}
