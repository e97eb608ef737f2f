/* See deltas.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "export/deltas.h"
#include "peft/lora.h"
#include <jansson.h>
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char PREFIX[] = "base_model.model.", A_END[] = ".lora_A.weight", B_END[] = ".lora_B.weight", M_END[] = ".lora_magnitude_vector";

/* --- configuration --------------------------------------------------------------------------------------------------- */
static bool truthy(const json_t *v) {
    if (!v || json_is_null(v) || json_is_false(v)) return false;
    if (json_is_object(v)) return json_object_size(v) > 0;
    return !json_is_array(v) || json_array_size(v) > 0;
}

static err check_config(const json_t *j, const char *path) {
    static const struct {
        const char *key, *why;
    } refused[] = {
        {"modules_to_save",
         "whole modules were trained beside the LoRA; merge the adapter in PEFT (merge_and_unload) and convert the result"},
        {"trainable_token_indices",
         "rows of the embedding were trained; merge the adapter in PEFT (merge_and_unload) and convert the result"},
        {"lora_bias", "biases beside the products are not supported"},
        {"layer_replication", "it changes the layers of the base"},
        {"target_parameters", "adapters of bare parameters are not supported"},
        {"megatron_config", "Megatron's layout is not supported"},
        {"use_qalora", "QALoRA's pooled inputs are no product with the weight"},
        {"use_bdlora", "block-diagonal LoRA is not supported"},
        {"alora_invocation_tokens", "an adapter that works from a token on cannot be in the weights"}};
    const char *type = json_string_value(json_object_get(j, "peft_type")), *bias = json_string_value(json_object_get(j, "bias"));
    if (!type) return fail(E_INPUT, "%s: 'peft_type' is missing: not a PEFT adapter", path);
    if (strcmp(type, "LORA"))
        return fail(E_UNSUPPORTED, "%s: peft_type %s: only LoRA adapters, and trained tensors of the base, can be merged or written in other forms",
                    path, type);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (truthy(json_object_get(j, refused[i].key))) return fail(E_UNSUPPORTED, "%s: '%s': %s", path, refused[i].key, refused[i].why);
    if (bias && strcmp(bias, "none")) return fail(E_UNSUPPORTED, "%s: bias '%s': trained biases are not supported", path, bias);
    const char *init = json_string_value(json_object_get(j, "init_lora_weights"));
    static const char *const changes_base[] = {"pissa", "olora", "corda", "loftq"};
    for (size_t i = 0; init && i < sizeof changes_base / sizeof *changes_base; i++)
        if (!strncasecmp(init, changes_base[i], strlen(changes_base[i])))
            return fail(E_UNSUPPORTED, "%s: init_lora_weights '%s' changed the base too; save the adapter converted to plain LoRA", path,
                        init);
    return OK;
}

/* PEFT's rule for a pattern's key: a regular expression that matches the module's name from a dot, or from its start, to its end. */
static err key_matches(const char *path, const char *setting, const char *key, const char *module, bool *yes) {
    str text = {0};
    int code;
    PCRE2_SIZE where;
    str_addf(&text, "^(.*\\.)?(%s)$", key);
    pcre2_code *re = text.p ? pcre2_compile((PCRE2_SPTR)text.p, text.n, 0, &code, &where, NULL) : NULL;
    str_free(&text);
    pcre2_match_data *match = re ? pcre2_match_data_create_from_pattern(re, NULL) : NULL;
    int found = match ? pcre2_match(re, (PCRE2_SPTR)module, strlen(module), 0, 0, match, NULL) : 0;
    *yes = found > 0;
    pcre2_match_data_free(match);
    pcre2_code_free(re);
    if (!re || !match) return fail(E_INPUT, "%s: %s's key '%.80s' is no regular expression", path, setting, key);
    return found < 0 && found != PCRE2_ERROR_NOMATCH ? fail(E_INPUT, "%s: %s's key '%.80s' cannot be matched", path, setting, key) : OK;
}

/* What a pattern setting says of a module, or `otherwise`. */
static err value_of(const json_t *config, const char *path, const char *setting, const char *module, double otherwise, double *value) {
    const char *key;
    json_t *v;
    *value = otherwise;
    json_object_foreach(json_object_get(config, setting), key, v) {
        bool yes;
        TRY(key_matches(path, setting, key, module, &yes));
        if (yes && json_is_number(v)) return *value = json_number_value(v), OK;
    }
    return OK;
}

/* --- tensors --------------------------------------------------------------------------------------------------------- */
static const struct weight *matrix_of(const struct model *m, const char *module) {
    for (int i = 0; i < m->n; i++)
        if (m->w[i].nd == 2 && str_ends(m->w[i].name, ".weight") && !strcmp(m->w[i].module, module)) return &m->w[i];
    return NULL;
}

/* A tensor that is neither A nor B of a linear layer. */
static err stranger(const struct deltas *d, const char *name) {
    if (strstr(name, M_END)) return fail(E_INPUT, "%s: %s: lengths of DoRA, but adapter_config.json does not say use_dora", d->folder, name);
    if (strstr(name, "lora_embedding")) return fail(E_UNSUPPORTED, "%s: %s: LoRA on embeddings is not supported", d->folder, name);
    return fail(E_INPUT, "%s: tensor %s is neither lora_A nor lora_B of a module", d->folder, name);
}

static err check_module(const struct deltas *d, const struct model *m, const char *module, const struct weight *w) {
    if (w && (!strcmp(w->name, "output.weight") || !strcmp(w->name, "token_embd.weight")))
        return fail(E_UNSUPPORTED, "%s: %s: LoRA on the embedding or the head is not supported", d->folder, module);
    if (!w && m->shape.tied && !strcmp(module, "lm_head"))
        return fail(E_UNSUPPORTED, "%s: lm_head: the head of %s is its embedding (tied): a delta on it would change the embedding too",
                    d->folder, m->path);
    if (w) return OK;
    return fail(E_USAGE, "%s: the adapter changes %s, and %s has no such module: was it made for another model?", d->folder, module,
                m->path);
}

static bool is_plain(dtype dt) { return dt == DT_F32 || dt == DT_F16 || dt == DT_BF16; }

/* A file's name for a module's lengths: PEFT's of today, or with ".weight". */
static bool is_magnitude(const char *name) {
    const char *end = strstr(name, M_END);
    return str_starts(name, PREFIX) && end && (!end[strlen(M_END)] || !strcmp(end + strlen(M_END), ".weight"));
}

static err add_magnitude(const struct deltas *d, struct delta *x) {
    char name[512];
    for (int k = 0; k < 2 && !x->m; k++) {
        snprintf(name, sizeof name, "%s%s%s%s", PREFIX, x->module, M_END, k ? ".weight" : "");
        x->m = tensors_find(&d->files, name);
    }
    if (!x->m) return fail(E_INPUT, "%s: tensor %s%s%s is missing, which use_dora needs", d->folder, PREFIX, x->module, M_END);
    if (!is_plain(x->m->dt)) return fail(E_UNSUPPORTED, "%s: %s: lengths are f32, f16 or bf16", d->folder, x->m->name);
    if (x->m->nd == 1 && x->m->d[0] == x->b->d[0]) return OK;
    return fail(E_INPUT, "%s: %s holds not one length for each of %lld rows", d->folder, x->m->name, (long long)x->b->d[0]);
}

double delta_factor(const struct delta *d, int64_t row, double squares) {
    float m;
    if (!d->m) return 1;
    dequantise_row(d->m->dt, (const char *)d->m->data + (size_t)dtype_info[d->m->dt].bytes * (size_t)row, &m, 1);
    return squares > 0 ? m / sqrt(squares) : squares * 0; /* as op magnitude has it */
}

static err add(struct deltas *d, const struct model *m, const json_t *config, const char *path, const struct tensor *a) {
    size_t n = strlen(a->name) - strlen(A_END) - strlen(PREFIX);
    struct delta *x = &d->d[d->n];
    *x = (struct delta){.a = a, .module = arena_strn(&d->mem, a->name + strlen(PREFIX), n)};
    const char *b = arena_printf(&d->mem, "%s%s%s", PREFIX, x->module, B_END);
    if (!x->module || !b) return fail(E_MEMORY, "out of memory");
    x->w = matrix_of(m, x->module);
    TRY(check_module(d, m, x->module, x->w));
    x->b = tensors_find(&d->files, b);
    if (!x->b) return fail(E_INPUT, "%s: tensor %s is missing", d->folder, b);
    if (!is_plain(a->dt) || !is_plain(x->b->dt))
        return fail(E_UNSUPPORTED, "%s: %s: an adapter's matrices are f32, f16 or bf16", d->folder, x->module);
    if (a->nd != 2 || x->b->nd != 2 || a->d[0] != x->b->d[1] || a->d[0] > 1 << 20)
        return fail(E_INPUT, "%s: %s: lora_A [%lld, %lld] and lora_B [%lld, %lld] do not share a rank", d->folder, x->module,
                    (long long)a->d[0], (long long)a->d[1], (long long)x->b->d[0], (long long)x->b->d[1]);
    if (a->d[1] != x->w->d[1] || x->b->d[0] != x->w->d[0])
        return fail(E_USAGE, "%s: %s: the adapter is for a matrix of [%lld, %lld], %s has [%lld, %lld]: another model", d->folder,
                    x->module, (long long)x->b->d[0], (long long)a->d[1], m->path, (long long)x->w->d[0], (long long)x->w->d[1]);
    double alpha, rank;
    TRY(value_of(config, path, "alpha_pattern", x->module, d->alpha, &alpha));
    TRY(value_of(config, path, "rank_pattern", x->module, d->r, &rank));
    x->rank = (int)a->d[0];
    if (x->rank != rank) return fail(E_INPUT, "%s: %s has rank %d, adapter_config.json says %g: files of two adapters?", d->folder, x->module, x->rank, rank);
    x->scale = alpha / (d->rslora ? sqrt((double)x->rank) : (double)x->rank);
    if (x->rank > d->max_rank) d->max_rank = x->rank;
    d->patterns |= x->rank != d->r || alpha != d->alpha;
    d->n++;
    return d->dora ? add_magnitude(d, x) : OK;
}

static int by_weight(const void *a, const void *b) {
    return strcmp(((const struct delta *)a)->w->name, ((const struct delta *)b)->w->name);
}

static err read_pairs(struct deltas *d, const struct model *m, const json_t *config, const char *path) {
    int pairs = 0, lengths = 0;
    d->d = arena_alloc(&d->mem, (size_t)d->files.n * sizeof *d->d + 1);
    if (!d->d) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < d->files.n; i++) {
        const struct tensor *t = &d->files.t[i];
        if (str_starts(t->name, PREFIX) && str_ends(t->name, B_END)) pairs++;
        else if (d->dora && is_magnitude(t->name)) lengths++;
        else if (!str_starts(t->name, PREFIX) || !str_ends(t->name, A_END) || strlen(t->name) < strlen(PREFIX) + strlen(A_END))
            return stranger(d, t->name);
        else TRY(add(d, m, config, path, t));
    }
    if (pairs != d->n) return fail(E_INPUT, "%s: %d lora_A and %d lora_B tensors: each needs the other", d->folder, d->n, pairs);
    if (d->dora && lengths != d->n) return fail(E_INPUT, "%s: %d lora_A and %d lora_magnitude_vector tensors: each needs the other", d->folder, d->n, lengths);
    if (!d->n) return fail(E_INPUT, "%s: the adapter holds no tensors", d->folder);
    qsort(d->d, (size_t)d->n, sizeof *d->d, by_weight);
    d->targets = arena_alloc(&d->mem, (size_t)d->n * sizeof *d->targets);
    for (int i = 0; d->targets && i < d->n; i++) d->targets[i] = d->d[i].module;
    return d->targets ? OK : fail(E_MEMORY, "out of memory");
}

static err read_settings(struct deltas *d, const json_t *config, const char *path) {
    const json_t *r = json_object_get(config, "r"), *alpha = json_object_get(config, "lora_alpha");
    if (!json_is_integer(r) || !json_is_number(alpha) || json_integer_value(r) < 1 || json_integer_value(r) > 1 << 20 ||
        !isfinite(json_number_value(alpha)))
        return fail(E_INPUT, "%s: 'r' or 'lora_alpha' is missing or no number that they can be", path);
    d->r = (int)json_integer_value(r);
    d->alpha = json_number_value(alpha);
    d->rslora = json_is_true(json_object_get(config, "use_rslora"));
    d->dora = json_is_true(json_object_get(config, "use_dora"));
    d->dropout = json_number_value(json_object_get(config, "lora_dropout"));
    return OK;
}

/* --- whole tensors --------------------------------------------------------------------------------------------------- */
/* The weight that a tensor of the file takes the place of: "base_model.model.MODULE.{whole}weight", or bias. */
static const struct weight *weight_of_whole(const struct deltas *d, const struct model *m, const char *name) {
    char want[512];
    for (int i = 0; i < m->n && str_starts(name, PREFIX); i++) {
        snprintf(want, sizeof want, "%s.%s%s", m->w[i].module, d->method->whole, str_ends(m->w[i].name, ".bias") ? "bias" : "weight");
        if (!strcmp(name + strlen(PREFIX), want)) return &m->w[i];
    }
    return NULL;
}

static err add_whole(struct deltas *d, const struct model *m, const struct tensor *t) {
    const struct weight *w = weight_of_whole(d, m, t->name);
    if (!w) return fail(E_USAGE, "%s: the adapter has %s, and %s has no such tensor: was it made for another model?", d->folder, t->name, m->path);
    if (!is_plain(t->dt)) return fail(E_UNSUPPORTED, "%s: %s: an adapter's tensors are f32, f16 or bf16", d->folder, t->name);
    if (t->nd != w->nd || t->d[0] != w->d[w->turned] || (w->nd == 2 && t->d[1] != w->d[!w->turned]))
        return fail(E_USAGE, "%s: %s: the adapter's tensor has another shape than that of %s: another model", d->folder, t->name, m->path);
    d->d[d->n++] = (struct delta){.module = w->module, .w = w, .whole = t};
    return OK;
}

static err read_whole(struct deltas *d, const struct model *m) {
    d->d = arena_alloc(&d->mem, (size_t)d->files.n * sizeof *d->d + 1);
    if (!d->d) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < d->files.n; i++) TRY(add_whole(d, m, &d->files.t[i]));
    if (!d->n) return fail(E_INPUT, "%s: the adapter holds no tensors", d->folder);
    qsort(d->d, (size_t)d->n, sizeof *d->d, by_weight);
    return OK;
}

static err open_folder(struct deltas *d, const struct model *m, const json_t *config, const char *path) {
    const char *type = json_string_value(json_object_get(config, "peft_type")),
               *file = arena_printf(&d->mem, "%s/adapter_model.safetensors", d->folder);
    const struct peft_method *method = type ? method_of_type(type) : NULL;
    if (!file) return fail(E_MEMORY, "out of memory");
    if (method && method->whole) TRY(adapter_read_config(d->folder, &d->mem, &d->method, &d->settings));
    else {
        TRY(check_config(config, path));
        TRY(read_settings(d, config, path));
    }
    TRY(tensors_open(file, &d->files));
    return d->method ? read_whole(d, m) : read_pairs(d, m, config, path);
}

err deltas_open(const char *folder, const struct model *m, struct deltas *d) {
    *d = (struct deltas){0};
    TRY(adapter_check_base(folder, m));
    d->folder = arena_str(&d->mem, folder);
    const char *path = arena_printf(&d->mem, "%s/adapter_config.json", folder);
    json_error_t je;
    json_t *config = path ? json_load_file(path, JSON_REJECT_DUPLICATES, &je) : NULL;
    err e = !d->folder || !path ? fail(E_MEMORY, "out of memory")
            : config            ? open_folder(d, m, config, path)
                                : fail(E_INPUT, "%s: %s", path, je.text);
    json_decref(config);
    if (e) deltas_close(d);
    return e;
}

void deltas_close(struct deltas *d) {
    tensors_close(&d->files);
    arena_free(&d->mem);
    *d = (struct deltas){0};
}

const struct delta *deltas_of(const struct deltas *d, const struct weight *w) {
    struct delta key = {.w = w};
    return d && d->n && w ? bsearch(&key, d->d, (size_t)d->n, sizeof key, by_weight) : NULL;
}

/* --- weights and their tensors --------------------------------------------------------------------------------------- */
/* Equal, or (prefix) one of them with something before it. */
static bool names(const char *tensor, const struct weight *w, bool prefix) {
    char hf[256];
    int n = snprintf(hf, sizeof hf, "%s%s", w->module, str_ends(w->name, ".bias") ? ".bias" : ".weight"), t = (int)strlen(tensor);
    const char *longer = t > n ? tensor : hf, *shorter = t > n ? hf : tensor;
    size_t more = strlen(longer) - strlen(shorter);
    return !strcmp(longer + more, shorter) && (more == 0 || (prefix && longer[more - 1] == '.'));
}

const struct tensor *tensor_of_weight(const struct model *m, const struct weight *w) {
    if (m->gguf) return tensors_find(&m->files, w->name);
    for (int prefix = 0; prefix < 2; prefix++)
        for (int i = 0; i < m->files.n; i++)
            if (names(m->files.t[i].name, w, prefix)) return &m->files.t[i];
    return NULL;
}

const struct weight *weight_of_tensor(const struct model *m, const struct tensor *t) {
    if (m->gguf) return model_weight(m, t->name);
    for (int prefix = 0; prefix < 2; prefix++)
        for (int i = 0; i < m->n; i++)
            if (names(t->name, &m->w[i], prefix)) return &m->w[i];
    return NULL;
}

/* --- for the graph --------------------------------------------------------------------------------------------------- */
static const struct param *param_of(const struct structure *st, const char *name, const struct param_slice **slice) {
    for (int i = 0; i < st->params.n; i++)
        for (int k = 0; k < st->params.p[i].n_slices; k++)
            if (!strcmp(st->params.p[i].slice[k].name, name)) return *slice = &st->params.p[i].slice[k], &st->params.p[i];
    return NULL;
}

static err place(const struct structure *st, const struct delta *x, const struct tensor *t, float *weights, float *row) {
    char name[512];
    const struct param_slice *s;
    const int64_t columns = t->nd > 1 ? t->d[1] : 1;
    snprintf(name, sizeof name, "%s%s", x->module, t == x->m ? M_END : t == x->b ? B_END : A_END);
    const struct param *p = param_of(st, name, &s);
    if (!p) return fail(E_UNSUPPORTED, "%s: this model's graph takes no LoRA there", x->module);
    size_t bytes = dtype_row_bytes(t->dt, columns);
    for (int64_t r = 0; r < t->d[0]; r++) {
        dequantise_row(t->dt, (const char *)t->data + bytes * (size_t)r, row, columns);
        float *to = adapter_row(p, s, weights, r);
        for (int64_t c = 0; c < columns; c++) to[c] = t == x->b ? (float)(x->scale * row[c]) : row[c];
    }
    return OK;
}

static err whole_structure(const struct deltas *d, const struct model *m, struct structure *st, float **weights) {
    TRY(structure_init(st, m, d->method, d->settings, NULL));
    *weights = arena_f32(st->params.bytes);
    err e = *weights ? adapter_read(d->folder, st, *weights) : fail(E_MEMORY, "out of memory");
    if (!e) return OK;
    if (*weights) arena_f32_free(*weights, st->params.bytes);
    *weights = NULL;
    structure_free(st);
    return e;
}

err deltas_undo(struct deltas *d, const struct model *merged) {
    if (d->method) return fail(E_UNSUPPORTED, "%s: its tensors took the place of the base's (%s), which are not in the merged model any more: go back to the base's own files", d->folder, d->method->name);
    if (d->dora) return fail(E_UNSUPPORTED, "%s: DoRA changed the lengths of rows as well, and what they were is not in the merged model: go back to the base's own files", d->folder);
    for (int i = 0; i < d->n; i++) {
        const struct tensor *t = tensor_of_weight(merged, d->d[i].w);
        if (t && !is_plain(t->dt))
            return fail(E_UNSUPPORTED, "%s: tensor %s is %s: what a merge into so few bits rounded away cannot be taken back; go back to the base's own files", merged->path, t->name, dtype_info[t->dt].name);
        d->d[i].scale = -d->d[i].scale;
    }
    return OK;
}

err deltas_structure(const struct deltas *d, const struct model *m, struct structure *st, float **weights) {
    arena mem = {0};
    int64_t widest = 1;
    *weights = NULL;
    if (d->method) return whole_structure(d, m, st, weights);
    for (int i = 0; i < d->n; i++) {
        if (d->d[i].a->d[1] > widest) widest = d->d[i].a->d[1];
        if (d->d[i].rank > widest) widest = d->d[i].rank;
    }
    float *row = arena_alloc(&mem, (size_t)widest * 4);
    struct lora l = {.r = d->max_rank, .alpha = d->max_rank, .dora = d->dora, .targets.of = {TAKE_NAMES, d->n, d->targets}};
    err e = row ? structure_init(st, m, &method_lora, &l, NULL) : fail(E_MEMORY, "out of memory");
    if (!e) {
        *weights = arena_f32(st->params.bytes);
        if (!*weights) e = fail(E_MEMORY, "out of memory");
        for (int i = 0; i < d->n && !e; i++) {
            const struct delta *x = &d->d[i];
            const struct tensor *const parts[] = {x->a, x->b, x->m};
            for (int k = 0; k < 3 && !e; k++) e = parts[k] ? place(st, x, parts[k], *weights, row) : OK;
        }
        if (e) {
            if (*weights) arena_f32_free(*weights, st->params.bytes);
            *weights = NULL;
            structure_free(st);
        }
    }
    arena_free(&mem);
    return e;
}
