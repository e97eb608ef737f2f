/* See adapter.h. */
#define _DEFAULT_SOURCE
#include "gen/adapter.h"
#include "core/rope_rows.h"
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char PREFIX[] = "base_model.model.";

float *arena_f32(size_t bytes) { return pages_take(bytes); }

void arena_f32_free(float *p, size_t bytes) { pages_give(p, bytes); }

/* --- structure --------------------------------------------------------------------------------------------------- */
static err no_match(const struct model *m, const struct lora *l) {
    str names = {0};
    for (int i = 0; i < l->n_targets; i++) str_addf(&names, "%s%s", i ? ", " : "", l->targets[i]);
    str known = {0};
    for (int i = 0; i < m->n; i++) { /* the last name parts of layer 0's matrices */
        if (m->w[i].nd != 2 || !strstr(m->w[i].module, ".layers.0.")) continue;
        str_addf(&known, "%s%s", known.n ? ", " : "", strrchr(m->w[i].module, '.') + 1);
    }
    err e = fail(E_USAGE, "lora.target_modules (%s) match no module of this model; it has %s, or use all-linear", names.p ? names.p : "", known.p ? known.p : "none");
    str_free(&names);
    str_free(&known);
    return e;
}

err structure_init(struct structure *st, const struct model *m, const struct peft_method *method, const struct lora *lora, int *modules) {
    *st = (struct structure){.method = method};
    if (!method) return OK;
    st->lora = *lora;
    st->fan_in_fan_out = m->shape.conv1d;
    st->seq2seq = m->family->seq2seq;
    TRY(lora_check(lora));
    struct program probe; /* emitting the forward lays down the parameters */
    TRY(program_build(&probe, m, MODE_SCORE, st, (struct capacity){1, 1, 1, 1, DT_F32}, CHECKPOINT_NONE, &backend_null, false));
    program_free(&probe);
    int n = 0;
    for (int i = 0; i < st->params.n; i++)
        for (int k = 0; k < st->params.p[i].n_slices; k++) n += str_ends(st->params.p[i].slice[k].name, ".lora_A.weight");
    if (modules) *modules = n;
    if (n) return OK;
    structure_free(st);
    return no_match(m, lora);
}

void structure_free(struct structure *st) { param_free(&st->params); }

/* --- configuration ----------------------------------------------------------------------------------------------- */
static bool truthy(const json_t *v) {
    if (!v || json_is_null(v) || json_is_false(v)) return false;
    if (json_is_object(v)) return json_object_size(v) > 0;
    if (json_is_array(v)) return json_array_size(v) > 0;
    return true;
}

static err read_targets(const json_t *v, const char *path, arena *mem, struct lora *out) {
    if (json_is_string(v) && !strcmp(json_string_value(v), "all-linear")) return out->all_linear = true, OK;
    if (!json_is_array(v)) return fail(E_UNSUPPORTED, "%s: target_modules must be a list of names or \"all-linear\"", path);
    const char **t = arena_alloc(mem, json_array_size(v) * sizeof *t + 1);
    size_t i;
    json_t *item;
    json_array_foreach(v, i, item) {
        if (!json_is_string(item) || !t) return fail(E_INPUT, "%s: target_modules holds something that is not a name", path);
        t[out->n_targets++] = arena_str(mem, json_string_value(item));
    }
    out->targets = t;
    return OK;
}

static err read_config(const json_t *j, const char *path, arena *mem, struct lora *out) {
    const char *type = json_string_value(json_object_get(j, "peft_type"));
    if (!type) return fail(E_INPUT, "%s: 'peft_type' is missing: not a PEFT adapter", path);
    if (!method_of_type(type)) {
        str known = {0};
        method_types(&known);
        err e = fail(E_UNSUPPORTED, "%s: peft_type %s is not supported (supported: %s)", path, type, known.p);
        str_free(&known);
        return e;
    }
    static const char *const refused[] = {"use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform",
                                          "trainable_token_indices", "lora_bias", "exclude_modules", "layer_replication", "megatron_config", "target_parameters",
                                          "alora_invocation_tokens", "use_qalora", "use_bdlora"}; /* fan_in_fan_out says how the base is stored, which the model knows */
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (truthy(json_object_get(j, refused[i]))) return fail(E_UNSUPPORTED, "%s: '%s' is not supported yet", path, refused[i]);
    const char *init = json_string_value(json_object_get(j, "init_lora_weights"));
    static const char *const changes_base[] = {"pissa", "olora", "corda", "loftq"};
    for (size_t i = 0; init && i < sizeof changes_base / sizeof *changes_base; i++)
        if (!strncasecmp(init, changes_base[i], strlen(changes_base[i]))) return fail(E_UNSUPPORTED, "%s: init_lora_weights '%s' changed the base model too; save the adapter converted to plain LoRA", path, init);
    const char *bias = json_string_value(json_object_get(j, "bias"));
    if (bias && strcmp(bias, "none")) return fail(E_UNSUPPORTED, "%s: bias '%s' is not supported yet", path, bias);
    const json_t *r = json_object_get(j, "r"), *alpha = json_object_get(j, "lora_alpha"), *drop = json_object_get(j, "lora_dropout");
    if (!json_is_integer(r) || !json_is_number(alpha)) return fail(E_INPUT, "%s: 'r' or 'lora_alpha' is missing", path);
    json_int_t rank = json_integer_value(r);
    *out = (struct lora){.r = rank < 0 || rank > INT_MAX ? 0 : (int)rank, .alpha = json_number_value(alpha), .dropout = json_number_value(drop)};
    TRY(read_targets(json_object_get(j, "target_modules"), path, mem, out));
    err e = lora_check(out);
    return e ? fail_in(e, "%s", path) : OK;
}

static err load_config(const char *folder, arena *mem, const char **path, json_t **out) {
    json_error_t je;
    *path = arena_printf(mem, "%s/adapter_config.json", folder);
    if (!*path) return fail(E_MEMORY, "out of memory");
    *out = json_load_file(*path, JSON_REJECT_DUPLICATES, &je);
    return *out ? OK : fail(path_exists(*path) ? E_INPUT : E_USAGE, "%s: %s", *path, je.text);
}

err adapter_read_config(const char *folder, arena *mem, struct lora *out) {
    const char *path;
    json_t *j;
    TRY(load_config(folder, mem, &path, &j));
    err e = read_config(j, path, mem, out);
    json_decref(j);
    return e;
}

err adapter_check_base(const char *folder, const struct model *m) {
    const char *path;
    json_t *j;
    arena mem = {0};
    err e = load_config(folder, &mem, &path, &j);
    if (!e) {
        const char *base = json_string_value(json_object_get(j, "base_model_name_or_path"));
        if (base && str_starts(base, "random:") && strcmp(base, m->path))
            e = fail(E_USAGE, "%s was trained on the random weights %s, for a benchmark: on %s it means nothing", folder, base, m->path);
        json_decref(j);
    }
    arena_free(&mem);
    return e;
}

/* --- tensors ----------------------------------------------------------------------------------------------------- */
/* Where file row `row` lies in memory. Files have RoPE pairs half a head apart, GGUF's order has them side by side. */
static int64_t memory_row(const struct param_slice *s, int64_t row) {
    return s->row0 + (s->rope_heads ? rope_row_in_pairs(row, s->rows / s->rope_heads) : row);
}

float *adapter_row(const struct param *p, const struct param_slice *s, const float *weights, int64_t row) {
    return (float *)weights + p->off / 4 + memory_row(s, row) * p->d[1];
}

static err read_slice(const struct tensors *ts, const struct param *p, const struct param_slice *s, float *weights) {
    char name[512];
    snprintf(name, sizeof name, "%s%s", PREFIX, s->name);
    const struct tensor *t = tensors_find(ts, name);
    if (!t) return fail(E_INPUT, "%s: tensor %s is missing", ts->path, name);
    if (t->nd != 2 || t->d[0] != s->rows || t->d[1] != p->d[1])
        return fail(E_INPUT, "%s: tensor %s has another shape than [%lld, %lld]: was it made for another model or rank?", ts->path, name, (long long)s->rows, (long long)p->d[1]);
    TRY(tensor_readable(ts, t));
    size_t bytes = dtype_row_bytes(t->dt, t->d[1]);
    for (int64_t r = 0; r < s->rows; r++) dequantise_row(t->dt, (const char *)t->data + bytes * (size_t)r, adapter_row(p, s, weights, r), p->d[1]);
    return OK;
}

err adapter_read(const char *folder, const struct structure *st, float *weights) {
    char path[4096];
    struct tensors ts;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    TRY(tensors_open(path, &ts));
    err e = OK;
    int n = 0;
    for (int i = 0; i < st->params.n && !e; i++)
        for (int k = 0; k < st->params.p[i].n_slices && !e; k++, n++) e = read_slice(&ts, &st->params.p[i], &st->params.p[i].slice[k], weights);
    if (!e && ts.n != n) e = fail(E_INPUT, "%s holds %d tensors, this adapter's settings use %d", path, ts.n, n);
    tensors_close(&ts);
    return e;
}

err adapter_load(const char *folder, const struct model *m, const struct structure *st, float *weights) {
    TRY(adapter_check_base(folder, m));
    struct lora have = {0};
    const struct lora *want = &st->lora;
    arena mem = {0};
    err e = adapter_read_config(folder, &mem, &have);
    arena_free(&mem);
    TRY(e);
    if (have.r != want->r) return fail(E_USAGE, "%s was made with lora.r %d, the configuration says %d", folder, have.r, want->r);
    if (fabs(have.alpha - want->alpha) > 1e-6 * fabs(want->alpha))
        return fail(E_USAGE, "%s was made with lora.lora_alpha %g, the configuration says %g", folder, have.alpha, want->alpha);
    return adapter_read(folder, st, weights);
}

static json_t *config_json(const struct lora *l, const char *base_model) {
    json_t *targets = json_array();
    for (int i = 0; i < l->n_targets; i++) json_array_append_new(targets, json_string(l->targets[i]));
    return json_pack("{s:s, s:n, s:s, s:n, s:s, s:b, s:i, s:f, s:f, s:o, s:n, s:s, s:b, s:b, s:n, s:o, s:o, s:n}", "peft_type", method_lora.peft_type, "auto_mapping",
                     "base_model_name_or_path", base_model, "revision", "task_type", "CAUSAL_LM", "inference_mode", 1, "r", l->r,
                     "lora_alpha", l->alpha, "lora_dropout", l->dropout, "target_modules", targets, "modules_to_save", "bias", "none", "use_rslora", 0,
                     "use_dora", 0, "layers_to_transform", "rank_pattern", json_object(), "alpha_pattern", json_object(), "layers_pattern");
}

/* all-linear is written as the list of name endings that it took, as PEFT does. */
static void expand_targets(json_t *config, const struct structure *st) {
    json_t *list = json_object_get(config, "target_modules");
    for (int i = 0; i < st->params.n; i++)
        for (int k = 0; k < st->params.p[i].n_slices; k++) {
            char name[256];
            snprintf(name, sizeof name, "%s", st->params.p[i].slice[k].name);
            char *end = strstr(name, ".lora_A.weight");
            if (!end) continue;
            *end = 0;
            const char *last = strrchr(name, '.') ? strrchr(name, '.') + 1 : name;
            bool seen = false;
            for (size_t t = 0; t < json_array_size(list); t++) seen |= !strcmp(json_string_value(json_array_get(list, t)), last);
            if (!seen) json_array_append_new(list, json_string(last));
        }
}

static err write_config(const char *path, const struct structure *st, const char *base_model) {
    json_t *j = config_json(&st->lora, base_model);
    if (!j) return fail(E_MEMORY, "out of memory");
    json_object_set_new(j, "fan_in_fan_out", json_boolean(st->fan_in_fan_out));
    if (st->seq2seq) json_object_set_new(j, "task_type", json_string("SEQ_2_SEQ_LM"));
    if (st->lora.all_linear) expand_targets(j, st);
    if (st->lora.alpha == (int)st->lora.alpha) json_object_set_new(j, "lora_alpha", json_integer((int)st->lora.alpha));
    json_object_set_new(j, "init_lora_weights", st->lora.init == LORA_GAUSSIAN ? json_string("gaussian") : json_true());
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(9));
    json_decref(j);
    if (!text) return fail(E_MEMORY, "out of memory");
    err e = file_write(path, text, strlen(text));
    free(text);
    return e;
}

/* A slice as the file has it: where it lies, or, where RoPE's rows change places, a copy in mem. */
static const float *file_rows(const struct param *p, const struct param_slice *s, const float *weights, arena *mem) {
    if (!s->rope_heads) return adapter_row(p, s, weights, 0);
    size_t row = (size_t)p->d[1] * 4;
    float *copy = arena_alloc(mem, row * (size_t)s->rows + 1);
    for (int64_t r = 0; copy && r < s->rows; r++) memcpy(copy + r * p->d[1], adapter_row(p, s, weights, r), row);
    return copy;
}

err adapter_write(const char *folder, const struct structure *st, const float *weights, const char *base_model) {
    arena mem = {0};
    err e = OK;
    int n = 0, at = 0;
    for (int i = 0; i < st->params.n; i++) n += st->params.p[i].n_slices;
    struct tensor *t = arena_alloc(&mem, (size_t)n * sizeof *t + 1);
    if (!t) e = fail(E_MEMORY, "out of memory");
    for (int i = 0; i < st->params.n && !e; i++)
        for (int k = 0; k < st->params.p[i].n_slices && !e; k++, at++) {
            const struct param *p = &st->params.p[i];
            const struct param_slice *s = &p->slice[k];
            const float *rows = file_rows(p, s, weights, &mem);
            t[at] = (struct tensor){.name = arena_printf(&mem, "%s%s", PREFIX, s->name), .dt = DT_F32, .nd = 2, .d = {s->rows, p->d[1]}, .data = rows, .bytes = (size_t)(s->rows * p->d[1]) * 4};
            if (!rows || !t[at].name) e = fail(E_MEMORY, "out of memory");
        }
    if (!e) e = dir_make(folder);
    if (!e) e = safetensors_write(arena_printf(&mem, "%s/adapter_model.safetensors", folder), t, n);
    if (!e) e = write_config(arena_printf(&mem, "%s/adapter_config.json", folder), st, base_model);
    arena_free(&mem);
    return e;
}
