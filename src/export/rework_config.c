/* See rework_config.h. */
#include "export/rework_config.h"
#include "base/file.h"
#include "gen/adapter.h"
#include "peft/methods.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

static const char *text_of(const struct adapter_in *a, const char *key) { return json_string_value(json_object_get(a->config, key)); }

err adapter_in_open(const char *folder, struct adapter_in *a) {
    json_error_t je;
    *a = (struct adapter_in){0};
    a->folder = arena_str(&a->mem, folder);
    a->path = arena_printf(&a->mem, "%s/adapter_config.json", folder);
    const char *file = arena_printf(&a->mem, "%s/adapter_model.safetensors", folder);
    if (!a->folder || !a->path || !file) return out_of_memory();
    if (!path_is_dir(folder))
        return fail(E_USAGE, "%s: %s", folder, path_exists(folder) ? "a file, where an adapter's folder is wanted" : "no such folder");
    a->config = json_load_file(a->path, JSON_REJECT_DUPLICATES, &je);
    if (!a->config) return fail(path_exists(a->path) ? E_INPUT : E_USAGE, "%s: %s", a->path, je.text);
    if (config_of_hub(a->config))
        return fail(E_UNSUPPORTED, "%s: an adapter of AdapterHub's: those of PEFT's layout alone are made others of", a->path);
    if (!(a->type = text_of(a, "peft_type"))) return fail(E_INPUT, "%s: 'peft_type' is missing: not a PEFT adapter", a->path);
    return tensors_open(file, &a->files);
}

void adapter_in_close(struct adapter_in *a) {
    pairs_free(&a->pairs);
    tensors_close(&a->files);
    json_decref(a->config);
    arena_free(&a->mem);
    *a = (struct adapter_in){0};
}

/* --- do they belong together? -------------------------------------------------------------------------------------------- */
/* What lies beside an adapter that not all have: its classes, and how its base's RoPE is stretched. */
static const struct beside {
    const char *file, *differs;
} labels = {"labels.json", "have other classes, or in another order"},
  stretched = {"rope_scaling.json", "were trained with RoPE stretched otherwise"};

static err beside_of(const struct adapter_in *a, const struct beside *what, str *text) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", a->folder, what->file);
    return path_exists(path) ? file_read(path, text) : OK;
}

static err same_beside(const struct adapter_in *a, const struct adapter_in *b, const struct beside *what) {
    str x = {0}, y = {0};
    err e = beside_of(a, what, &x);
    if (!e) e = beside_of(b, what, &y);
    if (!e && (x.n != y.n || (x.n && memcmp(x.p, y.p, x.n))))
        e = fail(E_USAGE, "%s and %s %s (%s)", a->folder, b->folder, what->differs, what->file);
    str_free(&x);
    str_free(&y);
    return e;
}

err adapters_agree(const struct adapter_in *a, int n, const char *base) {
    for (int i = 1; i < n; i++) {
        const char *first = text_of(&a[0], "base_model_name_or_path"), *other = text_of(&a[i], "base_model_name_or_path");
        if (strcmp(a[0].type, a[i].type))
            return fail(E_USAGE, "%s is a %s adapter and %s a %s adapter: they cannot be made one", a[0].folder, a[0].type, a[i].folder,
                        a[i].type);
        if (!base && first && other && *first && *other && strcmp(first, other))
            return fail(E_USAGE,
                        "%s is for the base %s and %s for %s: adapters of different bases cannot be made one (if these are two names of "
                        "one base, --base gives it one)",
                        a[0].folder, first, a[i].folder, other);
        TRY(same_beside(&a[0], &a[i], &stretched));
    }
    return OK;
}

static err same_tensors(const struct adapter_in *a, const struct adapter_in *b) {
    for (int i = 0; i < a->files.n; i++) {
        const struct tensor *t = &a->files.t[i], *u = tensors_find(&b->files, t->name);
        if (!u) return fail(E_USAGE, "%s has a tensor %s, %s has none", a->folder, t->name, b->folder);
        bool same = t->nd == u->nd;
        for (int k = 0; k < t->nd && same; k++) same = t->d[k] == u->d[k];
        if (!same) return fail(E_USAGE, "tensor %s has another shape in %s than in %s", t->name, a->folder, b->folder);
        if (!dtype_plain(t->dt) || !dtype_plain(u->dt))
            return fail(E_UNSUPPORTED, "%s: tensor %s is not of f32, f16 or bf16", dtype_plain(t->dt) ? b->folder : a->folder, t->name);
    }
    return a->files.n == b->files.n ? OK : fail(E_USAGE, "%s has %d tensors, %s %d", a->folder, a->files.n, b->folder, b->files.n);
}

static err same_settings(const struct adapter_in *a, const struct adapter_in *b, arena *mem) {
    const struct peft_method *method[2];
    const void *settings[2];
    TRY(adapter_read_config(a->folder, mem, &method[0], &settings[0]));
    TRY(adapter_read_config(b->folder, mem, &method[1], &settings[1]));
    if (method[0] != method[1]) return fail(E_USAGE, "%s trains with %s and %s with %s", a->folder, method[0]->name, b->folder, method[1]->name);
    if (method[0]->apart && (method[0]->apart(settings[0]) || method[1]->apart(settings[1])))
        return fail(E_UNSUPPORTED, "%s: a %s adapter's tensors are made by a network that was trained: their mean has none to go on from",
                    a->folder, method[0]->name);
    return !method[0]->same || method[0]->same(settings[0], settings[1])
               ? OK
               : fail(E_USAGE, "%s and %s have other settings of %s (adapter_config.json)", a->folder, b->folder, method[0]->name);
}

/* "model.layers.0.self_attn.q_proj." of its tensor: how long. */
static size_t owner_of(const char *name) {
    const size_t n = strlen(name) - (str_ends(name, ".weight") ? strlen(".weight") : 0);
    size_t at = n;
    while (at && name[at - 1] != '.') at--;
    return at;
}

/* Two tensors of one module that are not the base's own (AdaLoRA's A, E and B; VeRA's two vectors) are multiplied with each other, and the mean of factors
 * is not the mean of what they make. */
static err no_factors(const struct adapter_in *a, arena *mem) {
    const struct peft_method *method;
    const void *settings;
    TRY(adapter_read_config(a->folder, mem, &method, &settings));
    for (int i = 0; i < a->files.n && !method->whole; i++)
        for (int k = 0; k < i; k++) {
            const char *x = a->files.t[i].name, *y = a->files.t[k].name;
            const size_t n = owner_of(x);
            if (n && n == owner_of(y) && !strncmp(x, y, n))
                return fail(E_UNSUPPORTED,
                            "%s: %s and %s are factors of one change, and the mean of factors is not the mean of what they make", a->folder,
                            y, x);
        }
    return OK;
}

err adapters_alike(const struct adapter_in *a, int n) {
    arena mem = {0};
    err e = no_factors(&a[0], &mem);
    for (int i = n > 1; i < n && !e; i++) { /* one alone is held against itself: it must be of a method that is known */
        e = same_settings(&a[0], &a[i], &mem);
        if (!e) e = same_tensors(&a[0], &a[i]);
        if (!e) e = same_beside(&a[0], &a[i], &labels);
    }
    arena_free(&mem);
    return e;
}

/* --- the configuration ---------------------------------------------------------------------------------------------------- */
static int by_text(const void *x, const void *y) {
    const char *a = json_string_value(*(json_t *const *)x), *b = json_string_value(*(json_t *const *)y);
    return a && b ? strcmp(a, b) : (a != NULL) - (b != NULL);
}

/* Lists of names are sets: PEFT writes them in any order. Absent and null are one. */
static json_t *sorted(const json_t *v, arena *mem) {
    const size_t n = json_array_size(v);
    json_t **list = arena_alloc(mem, n * sizeof *list + 1), *out = json_array();
    if (!json_is_array(v) || !list) return json_decref(out), v ? json_incref((json_t *)v) : json_null();
    for (size_t i = 0; i < n; i++) list[i] = json_array_get(v, i);
    qsort(list, n, sizeof *list, by_text);
    for (size_t i = 0; i < n; i++) json_array_append(out, list[i]);
    return out;
}

static bool same_choice(const struct adapter_in *a, const struct adapter_in *b, const char *key, arena *mem) {
    json_t *x = sorted(json_object_get(a->config, key), mem), *y = sorted(json_object_get(b->config, key), mem);
    const bool same = json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return same;
}

static const char *const choices[] = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"};
enum { N_CHOICES = sizeof choices / sizeof *choices };

/* Do the first adapter's settings choose all that the result has? */
static bool choose_alike(const struct adapter_in *a, int n, const struct config_change *c) {
    arena mem = {0};
    bool same = true;
    for (int i = 0; i < n; i++) {
        same &= a[i].pairs.n == c->n;
        for (int k = 0; k < N_CHOICES; k++) same &= same_choice(&a[0], &a[i], choices[k], &mem);
    }
    arena_free(&mem);
    return same;
}

static json_t *number(double x) { return fabs(x) < 1e9 && x == (int)x ? json_integer((int)x) : json_real(x); }

/* The greatest rank is everybody's r, the first module's scale everybody's alpha; modules that differ are named. */
static err set_sizes(json_t *j, const struct config_change *c) {
    int r = 0;
    for (int i = 0; i < c->n; i++) r = c->modules[i].rank > r ? c->modules[i].rank : r;
    const double alpha = c->modules[0].scale * r;
    json_t *ranks = json_object(), *alphas = json_object();
    for (int i = 0; i < c->n; i++) {
        const struct module_size *m = &c->modules[i];
        if (m->rank != r) json_object_set_new(ranks, m->module, json_integer(m->rank));
        if (m->scale * m->rank != alpha) json_object_set_new(alphas, m->module, number(m->scale * m->rank));
    }
    const int bad = json_object_set_new(j, "r", json_integer(r)) | json_object_set_new(j, "lora_alpha", number(alpha)) |
                    json_object_set_new(j, "use_rslora", json_false()) | json_object_set_new(j, "init_lora_weights", json_true()) |
                    json_object_set_new(j, "rank_pattern", ranks) | json_object_set_new(j, "alpha_pattern", alphas);
    return bad ? out_of_memory() : OK;
}

static err name_modules(json_t *j, const struct config_change *c) {
    json_t *names = json_array();
    for (int i = 0; i < c->n; i++) json_array_append_new(names, json_string(c->modules[i].module));
    for (int k = 1; k < N_CHOICES; k++)
        if (json_object_set_new(j, choices[k], json_null())) return json_decref(names), out_of_memory();
    return json_object_set_new(j, choices[0], names) ? out_of_memory() : OK;
}

static err write_json(const json_t *j, const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    err e = text ? file_write(path, text, strlen(text)) : out_of_memory();
    free(text);
    return e;
}

static err write_beside(const struct adapter_in *a, const struct beside *what, const char *folder) {
    char path[4096];
    str text = {0};
    snprintf(path, sizeof path, "%s/%s", folder, what->file);
    err e = beside_of(a, what, &text);
    if (!e && text.n) e = file_write(path, text.p, text.n);
    str_free(&text);
    return e;
}

err rework_config_write(const struct adapter_in *a, int n, const struct config_change *c, const char *folder) {
    json_t *j = json_deep_copy(a[0].config);
    if (!j) return out_of_memory();
    err e = c->base && json_object_set_new(j, "base_model_name_or_path", json_string(c->base)) ? out_of_memory() : OK;
    if (!e && json_object_set_new(j, "inference_mode", json_true())) e = out_of_memory();
    if (!e && c->n) e = set_sizes(j, c);
    if (!e && c->n && !choose_alike(a, n, c)) e = name_modules(j, c);
    if (!e) e = write_json(j, folder);
    json_decref(j);
    if (!e) e = write_beside(&a[0], &labels, folder);
    return e ? e : write_beside(&a[0], &stretched, folder);
}
