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

static err lora_json(const struct side_config *c, json_t **out) {
    json_t *layers = json_array(), *ranks = json_object(), *alphas = json_object();
    *out = json_pack("{s:I, s:f, s:f, s:b, s:s, s:o, s:o, s:o, s:o, s:o}", "r", (json_int_t)c->lora_r, "lora_alpha", c->lora_alpha, "lora_dropout", c->lora_dropout, "use_rslora", (int)c->lora_rslora,
                          "init_lora_weights", c->lora_init, "target_modules", modules_json(&c->lora_targets), "exclude_modules", modules_json(&c->lora_excluded),
                          "layers_to_transform", layers, "rank_pattern", ranks, "alpha_pattern", alphas);
    if (!*out) return fail(E_MEMORY, "out of memory");
    TRY(layers_json(&c->lora_layers, layers));
    TRY(pattern_json(&c->lora_ranks, "rank_pattern", ranks));
    return pattern_json(&c->lora_alphas, "alpha_pattern", alphas);
}

static err ln_tuning_json(const struct side_config *c, json_t **out) {
    *out = json_pack("{s:o}", "target_modules", modules_json(&c->ln_targets));
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err none_json(const struct side_config *c, json_t **out) {
    (void)c;
    *out = json_object();
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

err side_method(const struct side_config *c, arena *mem, const struct peft_method **method, const void **settings) {
    static const struct {
        const struct peft_method *method;
        err (*json)(const struct side_config *, json_t **);
    } ways[] = {{&method_lora, lora_json}, {&method_ln_tuning, ln_tuning_json}, {&method_none, none_json}};
    size_t i = 0;
    while (strcmp(ways[i].method->name, c->method)) i++; /* one of those, or the key would have been refused */
    json_t *j = NULL;
    void *s = arena_alloc(mem, ways[i].method->settings);
    err e = s ? ways[i].json(c, &j) : fail(E_MEMORY, "out of memory");
    if (!e) e = ways[i].method->read(j, "configuration", mem, s);
    json_decref(j);
    *method = ways[i].method;
    *settings = s;
    return e;
}
