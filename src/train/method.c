/* A side's method and its settings. The keys of the configuration have PEFT's names and become what adapter_config.json would say, which
 * the method reads: one reader, one set of rules for both. */
#include "train/run.h"
#include <jansson.h>
#include <string.h>

/* A word, a regular expression (module names have none of its characters) or a list of names. */
static json_t *modules_json(const struct strs *l) {
    if (l->n == 1 && (strpbrk(l->v[0], "*\\()[]|^$+?{}") || take_of_word(l->v[0]) != TAKE_NAMES)) return json_string(l->v[0]);
    json_t *j = l->n ? json_array() : json_null();
    for (int i = 0; i < l->n; i++) json_array_append_new(j, json_string(l->v[i]));
    return j;
}

/* "3", "8-15" */
static err layers_json(const struct strs *l, json_t *j) {
    for (int i = 0; i < l->n; i++) {
        int first, last, end = 0;
        int n = sscanf(l->v[i], "%d%n-%d%n", &first, &end, &last, &end);
        if (n == 1) last = first;
        if (n < 1 || l->v[i][end] || first < 0 || last < first || last > 9999) return fail(E_USAGE, "'lora.layers_to_transform' wants layers such as 3 or 8-15, found '%.40s'", l->v[i]);
        for (int k = first; k <= last; k++) json_array_append_new(j, json_integer(k));
    }
    return OK;
}

/* "down_proj=32" */
static err pattern_json(const struct strs *l, const char *key, json_t *j) {
    for (int i = 0; i < l->n; i++) {
        const char *value = strrchr(l->v[i], '=');
        char name[256], *end;
        double x = value ? strtod(value + 1, &end) : 0;
        if (!value || value == l->v[i] || end == value + 1 || *end || (size_t)snprintf(name, sizeof name, "%.*s", (int)(value - l->v[i]), l->v[i]) >= sizeof name)
            return fail(E_USAGE, "'lora.%s' wants a module and a number such as down_proj=32, found '%.60s'", key, l->v[i]);
        json_object_set_new(j, name, json_real(x));
    }
    return OK;
}

static err lora_json(const struct side_config *c, const tokenizer *tok, json_t **out) {
    (void)tok;
    json_t *layers = json_array(), *ranks = json_object(), *alphas = json_object();
    *out = json_pack("{s:I, s:f, s:f, s:b, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "r", (json_int_t)c->lora_r, "lora_alpha", c->lora_alpha, "lora_dropout", c->lora_dropout, "use_rslora", (int)c->lora_rslora,
                          "bias", c->lora_bias, "init_lora_weights", c->lora_init, "target_modules", modules_json(&c->lora_targets), "exclude_modules", modules_json(&c->lora_excluded),
                          "layers_to_transform", layers, "rank_pattern", ranks, "alpha_pattern", alphas);
    if (!*out) return fail(E_MEMORY, "out of memory");
    TRY(layers_json(&c->lora_layers, layers));
    TRY(pattern_json(&c->lora_ranks, "rank_pattern", ranks));
    return pattern_json(&c->lora_alphas, "alpha_pattern", alphas);
}

static err ln_tuning_json(const struct side_config *c, const tokenizer *tok, json_t **out) {
    (void)tok;
    *out = json_pack("{s:o}", "target_modules", modules_json(&c->ln_targets));
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err bitfit_json(const struct side_config *c, const tokenizer *tok, json_t **out) {
    (void)tok;
    *out = json_pack("{s:o}", "target_modules", modules_json(&c->bitfit_targets));
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err ia3_json(const struct side_config *c, const tokenizer *tok, json_t **out) {
    (void)tok;
    *out = json_pack("{s:o, s:o}", "target_modules", modules_json(&c->ia3_targets), "feedforward_modules", modules_json(&c->ia3_inputs));
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

/* A text is settled as ids here, where its tokenizer is: with what the tokenizer puts around a text, as PEFT does it. */
static err text_ids(const char *text, const tokenizer *tok, json_t *list) {
    struct ids ids = {0};
    err e = tokenizer_encode(tok, text, strlen(text), ENCODE_SPECIAL, &ids);
    if (!e) e = tokenizer_surround(tok, true, true, &ids);
    for (size_t i = 0; i < ids.n && !e; i++) json_array_append_new(list, json_integer(ids.v[i]));
    ids_free(&ids);
    return e ? fail_in(e, "prompt_tuning.prompt_tuning_init_text") : OK;
}

static err prompt_tuning_json(const struct side_config *c, const tokenizer *tok, json_t **out) {
    json_t *ids = json_array();
    *out = json_pack("{s:I, s:s, s:s, s:o}", "num_virtual_tokens", (json_int_t)c->prompt_tokens, "prompt_tuning_init", c->prompt_init, "prompt_tuning_init_text", c->prompt_text, "prompt_tuning_init_ids", ids);
    if (!*out) return fail(E_MEMORY, "out of memory");
    return !strcmp(c->prompt_init, "TEXT") ? text_ids(c->prompt_text, tok, ids) : OK;
}

static err p_tuning_json(const struct side_config *c, const tokenizer *tok, json_t **out) {
    (void)tok;
    *out = json_pack("{s:I, s:I}", "num_virtual_tokens", (json_int_t)c->p_tokens, "encoder_hidden_size", (json_int_t)c->p_hidden);
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err prefix_tuning_json(const struct side_config *c, const tokenizer *tok, json_t **out) {
    (void)tok;
    *out = json_pack("{s:I, s:s}", "num_virtual_tokens", (json_int_t)c->prefix_tokens, "init_weights", c->prefix_init);
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

err side_method(const struct side_config *c, const tokenizer *tok, arena *mem, const struct peft_method **method, const void **settings) {
    static const struct {
        const struct peft_method *method;
        err (*json)(const struct side_config *, const tokenizer *, json_t **);
    } ways[] = {{&method_lora, lora_json}, {&method_ln_tuning, ln_tuning_json}, {&method_bitfit, bitfit_json}, {&method_ia3, ia3_json},
                {&method_prompt_tuning, prompt_tuning_json}, {&method_p_tuning, p_tuning_json}, {&method_prefix_tuning, prefix_tuning_json}};
    size_t i = 0;
    while (strcmp(ways[i].method->name, c->method)) i++; /* one of those, or the key would have been refused */
    json_t *j = NULL;
    void *s = arena_alloc(mem, ways[i].method->settings);
    err e = s ? ways[i].json(c, tok, &j) : fail(E_MEMORY, "out of memory");
    if (!e) e = ways[i].method->read(j, "configuration", mem, s);
    json_decref(j);
    *method = ways[i].method;
    *settings = s;
    return e;
}
