/* See targets.h. Regular expressions run on PCRE2; Python's `re`, for which they were written, agrees with it on what module names
 * need. They are compiled where they are used: a program has some hundred linears and is laid down once. */
#include "peft/targets.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <limits.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* --- words ------------------------------------------------------------------------------------------------------------- */
static const char *const words[] = {[TAKE_ALL_LINEAR] = "all-linear", [TAKE_ATTENTION] = "attention", [TAKE_MLP] = "mlp", [TAKE_NORMS] = "norms", [TAKE_ALL] = "all"};
enum { N_WORDS = sizeof words / sizeof *words };

const char *take_word(enum take take) { return words[take]; }

enum take take_of_word(const char *word) {
    for (int i = 0; i < N_WORDS; i++)
        if (words[i] && !strcmp(word, words[i])) return (enum take)i;
    return TAKE_NAMES;
}

/* --- names ------------------------------------------------------------------------------------------------------------- */
static pcre2_code *compile(const char *regex) {
    int code;
    size_t at;
    str text = {0};
    str_addf(&text, "(*LIMIT_MATCH=100000)%s", regex); /* files are hostile: no expression runs for minutes */
    pcre2_code *re = text.failed ? NULL : pcre2_compile((PCRE2_SPTR)text.p, text.n, PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &code, &at, NULL);
    str_free(&text);
    return re;
}

/* The whole of `text`, as re.fullmatch. */
static bool full_match(const char *regex, const char *text) {
    pcre2_code *re = compile(regex);
    pcre2_match_data *m = re ? pcre2_match_data_create_from_pattern(re, NULL) : NULL;
    bool yes = m && pcre2_match(re, (PCRE2_SPTR)text, strlen(text), 0, 0, m, NULL) > 0;
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    return yes;
}

/* Equal, or ends with "." + name. */
static bool names_module(const char *name, const char *module) {
    size_t n = strlen(module), m = strlen(name);
    if (n < m || strcmp(module + n - m, name)) return false;
    return n == m || module[n - m - 1] == '.';
}

bool module_list_takes(const struct module_list *l, const struct module *w) {
    /* canonical names are GGUF's: blk.3.attn_q, dec.blk.0.cross_attn_k, blk.3.ffn_up, blk.3.attn_norm, token_embd */
    const bool norm = strstr(w->name, "norm") != NULL, linear = !w->head && !norm && !strstr(w->name, "_embd");
    switch (l->take) {
    case TAKE_ALL_LINEAR: return linear;
    case TAKE_ATTENTION: return linear && strstr(w->name, "attn_");
    case TAKE_MLP: return linear && strstr(w->name, "ffn_");
    case TAKE_NORMS: return norm;
    case TAKE_ALL: return true;
    case TAKE_REGEX: return l->n && full_match(l->names[0], w->module);
    case TAKE_NAMES: break;
    }
    for (int i = 0; i < l->n; i++)
        if (names_module(l->names[i], w->module)) return true;
    return false;
}

/* The number of the module's layer: the last part that is a number and has two parts before it; -1: none. PEFT's
 * ".*\.[^.]*\.(\d+)\." and, with containers, ".*\.NAME\.(\d+)\.". */
static int layer_of(const struct targets *t, const char *module) {
    int layer = -1;
    const char *dots[3] = {NULL, NULL, NULL}; /* the three dots before p */
    for (const char *p = module; (p = strchr(p, '.')); p++) {
        dots[0] = dots[1], dots[1] = dots[2], dots[2] = p;
        if (!dots[0]) continue;
        const char *number = dots[1] + 1;
        size_t digits = strspn(number, "0123456789"), n = (size_t)(dots[1] - dots[0] - 1);
        bool held = t->n_containers == 0;
        for (int i = 0; i < t->n_containers; i++) held |= strlen(t->containers[i]) == n && !strncmp(dots[0] + 1, t->containers[i], n);
        if (digits && number + digits == p && held) layer = (int)strtol(number, NULL, 10);
    }
    return layer;
}

bool targets_take(const struct targets *t, const struct module *w) {
    if (t->except.n && module_list_takes(&t->except, w)) return false;
    if (!module_list_takes(&t->of, w)) return false;
    if (!t->n_layers) return true;
    int layer = layer_of(t, w->module);
    for (int i = 0; i < t->n_layers; i++)
        if (t->layers[i] == layer) return true;
    return false;
}

bool module_lists_same(const struct module_list *a, const struct module_list *b) {
    bool same = a->take == b->take && a->n == b->n;
    for (int i = 0; same && i < a->n; i++) same = !strcmp(a->names[i], b->names[i]);
    return same;
}

bool targets_same(const struct targets *a, const struct targets *b) {
    const struct module_list x = {TAKE_NAMES, a->n_containers, a->containers}, y = {TAKE_NAMES, b->n_containers, b->containers};
    return module_lists_same(&a->of, &b->of) && module_lists_same(&a->except, &b->except) && module_lists_same(&x, &y) &&
           a->n_layers == b->n_layers && (!a->n_layers || !memcmp(a->layers, b->layers, (size_t)a->n_layers * sizeof *a->layers));
}

static err regex_check(const char *setting, const char *regex) {
    pcre2_code *re = compile(regex);
    pcre2_code_free(re);
    return re ? OK : fail(E_USAGE, "%s: '%.80s' is no regular expression", setting, regex);
}

err module_list_check(const struct module_list *l, const char *setting) { return l->take == TAKE_REGEX ? regex_check(setting, l->names[0]) : OK; }

err targets_check(const struct targets *t, const char *method) {
    char setting[64];
    snprintf(setting, sizeof setting, "%s.target_modules", method);
    if (t->of.take <= TAKE_REGEX && t->of.n == 0) return fail(E_USAGE, "%s is empty; name modules such as q_proj, or all-linear", setting);
    TRY(module_list_check(&t->of, setting));
    snprintf(setting, sizeof setting, "%s.exclude_modules", method);
    TRY(module_list_check(&t->except, setting));
    if (t->n_layers && t->of.take == TAKE_REGEX)
        return fail(E_USAGE, "%s.layers_to_transform goes with a list of modules; a regular expression says itself which layers it means", method);
    if (t->n_containers && !t->n_layers) return fail(E_USAGE, "%s.layers_pattern has no use without layers_to_transform", method);
    return OK;
}

/* --- values by module ---------------------------------------------------------------------------------------------------- */
/* re.match(rf"(.*\.)?({key})$", module) */
static err key_matches(const char *key, const char *module, bool *yes) {
    str regex = {0};
    str_addf(&regex, "(?:.*\\.)?(?:%s)", key);
    pcre2_code *re = regex.p && !regex.failed ? compile(regex.p) : NULL;
    pcre2_match_data *m = re ? pcre2_match_data_create_from_pattern(re, NULL) : NULL;
    const int found = m ? pcre2_match(re, (PCRE2_SPTR)module, strlen(module), 0, 0, m, NULL) : 0;
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    str_free(&regex);
    *yes = found > 0;
    if (!m) return fail(E_INPUT, "'%.80s' is no regular expression", key);
    return found > 0 || found == PCRE2_ERROR_NOMATCH ? OK : fail(E_INPUT, "'%.80s' is an expression that takes too long on %s", key, module);
}

err module_value(const struct module_value *v, int n, const char *module, double otherwise, double *value) {
    *value = otherwise;
    for (int i = 0; i < n; i++) {
        bool yes;
        TRY(key_matches(v[i].key, module, &yes));
        if (yes) return *value = v[i].value, OK;
    }
    return OK;
}

bool module_values_same(const struct module_value *a, int na, const struct module_value *b, int nb) {
    bool same = na == nb;
    for (int i = 0; same && i < na; i++) same = a[i].value == b[i].value && !strcmp(a[i].key, b[i].key);
    return same;
}

err module_values_check(const struct module_value *v, int n, const char *setting) {
    for (int i = 0; i < n; i++) TRY(regex_check(setting, v[i].key));
    return OK;
}

err module_values_read(const void *json, const char *setting, const char *where, arena *mem, const struct module_value **v, int *n) {
    const json_t *j = json_object_get(json, setting);
    const char *key;
    json_t *number;
    *n = 0, *v = NULL;
    if (!j || json_is_null(j)) return OK;
    if (!json_is_object(j)) return fail(E_INPUT, "%s: '%s' wants names and numbers", where, setting);
    struct module_value *list = arena_alloc(mem, json_object_size(j) * sizeof *list + 1);
    if (!list) return fail(E_MEMORY, "out of memory");
    json_object_foreach((json_t *)j, key, number) {
        if (!json_is_number(number)) return fail(E_INPUT, "%s: '%s' says no number for '%.80s'", where, setting, key);
        list[*n] = (struct module_value){arena_str(mem, key), json_number_value(number)};
        if (!list[(*n)++].key) return fail(E_MEMORY, "out of memory");
    }
    *v = list;
    return OK;
}

err module_values_write(const struct module_value *v, int n, double times, const char *setting, void *json) {
    json_t *j = json_object();
    for (int i = 0; i < n; i++) {
        const double x = times * v[i].value;
        json_object_set_new(j, v[i].key, x == (int)x ? json_integer((int)x) : json_real(x));
    }
    return json_object_set_new(json, setting, j) ? fail(E_MEMORY, "out of memory") : OK;
}

/* --- adapter_config.json --------------------------------------------------------------------------------------------------- */
static err names_read(const json_t *v, const char *setting, const char *where, arena *mem, int *n, const char *const **out) {
    const char **names = arena_alloc(mem, json_array_size(v) * sizeof *names + 1);
    if (!names) return fail(E_MEMORY, "out of memory");
    *n = 0;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *name = json_string_value(json_array_get(v, i));
        if (!name) return fail(E_INPUT, "%s: %s holds something that is not a name", where, setting);
        if (!(names[(*n)++] = arena_str(mem, name))) return fail(E_MEMORY, "out of memory");
    }
    *out = names;
    return OK;
}

err module_list_read(const void *json, const char *setting, const char *where, arena *mem, struct module_list *l) {
    const json_t *v = json;
    const char *text = json_string_value(v);
    *l = (struct module_list){0};
    if (!v || json_is_null(v)) return OK;
    if (text && (l->take = take_of_word(text)) != TAKE_NAMES) return OK;
    if (!text && !json_is_array(v)) return fail(E_INPUT, "%s: %s must be a list of names, a regular expression or \"all-linear\"", where, setting);
    if (!text) return names_read(v, setting, where, mem, &l->n, &l->names);
    const char **one = arena_alloc(mem, sizeof *one);
    if (!one || !(*one = arena_str(mem, text))) return fail(E_MEMORY, "out of memory");
    *l = (struct module_list){TAKE_REGEX, 1, one};
    return OK;
}

static err layers_read(const json_t *v, const char *where, arena *mem, struct targets *t) {
    if (!v || json_is_null(v)) return OK;
    const bool one = json_is_integer(v);
    if (!one && !json_is_array(v)) return fail(E_INPUT, "%s: layers_to_transform must be a list of layer numbers", where);
    int *layers = arena_alloc(mem, json_array_size(v) * sizeof *layers + sizeof *layers);
    if (!layers) return fail(E_MEMORY, "out of memory");
    for (size_t i = 0; i < (one ? 1 : json_array_size(v)); i++) {
        const json_t *number = one ? v : json_array_get(v, i);
        json_int_t layer = json_is_integer(number) ? json_integer_value(number) : -1;
        if (layer < 0 || layer > INT_MAX) return fail(E_INPUT, "%s: layers_to_transform holds something that is no layer's number", where);
        layers[t->n_layers++] = (int)layer;
    }
    t->layers = layers;
    return OK;
}

err targets_read(const void *json, const char *where, arena *mem, struct targets *t) {
    const json_t *pattern = json_object_get(json, "layers_pattern");
    *t = (struct targets){0};
    TRY(module_list_read(json_object_get(json, "target_modules"), "target_modules", where, mem, &t->of));
    TRY(module_list_read(json_object_get(json, "exclude_modules"), "exclude_modules", where, mem, &t->except));
    TRY(layers_read(json_object_get(json, "layers_to_transform"), where, mem, t));
    if (!t->n_layers || !pattern || json_is_null(pattern)) return OK;
    json_t *list = json_is_string(pattern) ? json_pack("[O]", pattern) : json_incref((json_t *)pattern);
    err e = names_read(list, "layers_pattern", where, mem, &t->n_containers, &t->containers);
    json_decref(list);
    return e;
}

static json_t *names_json(int n, const char *const *names) {
    json_t *j = n ? json_array() : json_null();
    for (int i = 0; i < n; i++) json_array_append_new(j, json_string(names[i]));
    return j;
}

void *module_list_json(const struct module_list *l) { return l->take == TAKE_REGEX ? json_string(l->names[0]) : names_json(l->n, l->names); }

err targets_write(const struct targets *t, const struct module_list *named, void *json) {
    const struct module_list *of = t->of.take > TAKE_REGEX && named ? named : &t->of;
    int bad = json_object_set_new(json, "target_modules", module_list_json(of));
    /* keys that not every method's or older readers know: only where they say something */
    if (t->n_layers) {
        json_t *layers = json_array();
        for (int i = 0; i < t->n_layers; i++) json_array_append_new(layers, json_integer(t->layers[i]));
        bad |= json_object_set_new(json, "layers_to_transform", layers);
        bad |= json_object_set_new(json, "layers_pattern", names_json(t->n_containers, t->containers));
    }
    if (t->except.n)
        bad |= json_object_set_new(json, "exclude_modules", module_list_json(&t->except));
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

/* --- settings that are targets alone ----------------------------------------------------------------------------------- */
err targets_alone_read(const void *json, const char *where, arena *mem, void *settings, enum take otherwise, const char *method) {
    struct targets *t = settings;
    TRY(targets_read(json, where, mem, t));
    if (t->of.take == TAKE_NAMES && !t->of.n) t->of.take = otherwise;
    err e = targets_check(t, method);
    return e ? fail_in(e, "%s", where) : OK;
}

err targets_alone_write(const void *settings, const struct module_list *named, void *json) { return targets_write(settings, named, json); }

bool targets_alone_same(const void *a, const void *b) { return targets_same(a, b); }

const struct targets *targets_alone(const void *settings) { return settings; }
