/* See pairs.h. */
#include "export/pairs.h"
#include "base/str.h"
#include "peft/methods.h"
#include "peft/targets.h"
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <strings.h>

const char adapter_prefix[] = "base_model.model.";
static const char M_END[] = ".lora_magnitude_vector";
static const struct ends { const char *a, *b; } ends[] = {{".lora_A.weight", ".lora_B.weight"}, {".lora_embedding_A", ".lora_embedding_B"}};

/* --- configuration --------------------------------------------------------------------------------------------------- */
static err check_config(const json_t *j, const char *path, const struct pairs_use *use) {
    static const struct {
        const char *key, *why;
        bool beside; /* the products stay what they are */
    } refused[] = {
        {"modules_to_save", "whole modules were trained beside the LoRA; merge the adapter in PEFT (merge_and_unload) and convert the result", true},
        {"trainable_token_indices", "rows of the embedding were trained; merge the adapter in PEFT (merge_and_unload) and convert the result", true},
        {"lora_bias", "biases beside the products are not supported", true},
        {"layer_replication", "it changes the layers of the base", false},
        {"target_parameters", "adapters of bare parameters are not supported", false},
        {"megatron_config", "Megatron's layout is not supported", false},
        {"use_qalora", "QALoRA's pooled inputs are no product with the weight", false},
        {"use_bdlora", "block-diagonal LoRA is not supported", false},
        {"alora_invocation_tokens", "an adapter that works from a token on cannot be in the weights", true}};
    const char *type = json_string_value(json_object_get(j, "peft_type")), *bias = json_string_value(json_object_get(j, "bias")), *why = use->why;
    if (config_of_hub(j))
        return fail(E_UNSUPPORTED,
                    "%s: a bottleneck adapter has an activation inside, so no change of the base's weights does what it does: it cannot be "
                    "merged or written in other forms",
                    path);
    if (!type) return fail(E_INPUT, "%s: 'peft_type' is missing: not a PEFT adapter", path);
    if (strcmp(type, "LORA"))
        return fail(E_UNSUPPORTED, "%s: peft_type %s%s", path, type, why ? why : ": only LoRA adapters have a rank that can change");
    for (size_t i = use->saved; i < sizeof refused / sizeof *refused; i++) /* whole modules come first */
        if ((why || !refused[i].beside) && setting_given(json_object_get(j, refused[i].key)))
            return fail(E_UNSUPPORTED, "%s: '%s': %s", path, refused[i].key, refused[i].why);
    if (why && bias && strcmp(bias, "none")) return fail(E_UNSUPPORTED, "%s: bias '%s': trained biases are not supported", path, bias);
    const char *init = json_string_value(json_object_get(j, "init_lora_weights"));
    static const char *const changes_base[] = {"pissa", "olora", "corda", "loftq"};
    for (size_t i = 0; init && i < sizeof changes_base / sizeof *changes_base; i++)
        if (!strncasecmp(init, changes_base[i], strlen(changes_base[i])))
            return fail(E_UNSUPPORTED, "%s: init_lora_weights '%s' changed the base too; save the adapter converted to plain LoRA", path, init);
    return OK;
}

static err read_settings(struct lora_pairs *p, const json_t *config, const char *path) {
    const json_t *r = json_object_get(config, "r"), *alpha = json_object_get(config, "lora_alpha");
    if (!json_is_integer(r) || !json_is_number(alpha) || json_integer_value(r) < 1 || json_integer_value(r) > 1 << 20 ||
        !isfinite(json_number_value(alpha)))
        return fail(E_INPUT, "%s: 'r' or 'lora_alpha' is missing or no number that they can be", path);
    p->r = (int)json_integer_value(r);
    p->alpha = json_number_value(alpha);
    p->rslora = json_is_true(json_object_get(config, "use_rslora"));
    p->dora = json_is_true(json_object_get(config, "use_dora"));
    p->dropout = json_number_value(json_object_get(config, "lora_dropout"));
    return OK;
}

/* --- pairs ----------------------------------------------------------------------------------------------------------- */
/* What ranks and alphas say of modules. */
struct patterns {
    const char *path;
    const struct module_value *ranks, *alphas;
    int n_ranks, n_alphas;
};

static err said(const struct patterns *s, const char *setting, const char *module, double otherwise, double *value) {
    const bool rank = !strcmp(setting, "rank_pattern");
    err e = module_value(rank ? s->ranks : s->alphas, rank ? s->n_ranks : s->n_alphas, module, otherwise, value);
    return e ? fail_in(e, "%s: %s", s->path, setting) : OK;
}


/* The ends that a tensor's name has one of, with a module before it; NULL: none. */
static const struct ends *ends_of(const char *name, bool b) {
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const char *end = b ? ends[i].b : ends[i].a;
        if (str_starts(name, adapter_prefix) && str_ends(name, end) && strlen(name) > strlen(adapter_prefix) + strlen(end)) return &ends[i];
    }
    return NULL;
}

/* A file's name for a module's lengths: PEFT's of today, or with ".weight". */
static bool is_magnitude(const char *name) {
    const char *end = strstr(name, M_END);
    return str_starts(name, adapter_prefix) && end && (!end[strlen(M_END)] || !strcmp(end + strlen(M_END), ".weight"));
}

static err add_magnitude(const struct lora_pairs *p, const struct tensors *files, struct lora_pair *x) {
    char name[512];
    for (int k = 0; k < 2 && !x->m; k++) {
        snprintf(name, sizeof name, "%s%s%s%s", adapter_prefix, x->module, M_END, k ? ".weight" : "");
        x->m = tensors_find(files, name);
    }
    if (!x->m) return fail(E_INPUT, "%s: tensor %s%s%s is missing, which use_dora needs", p->folder, adapter_prefix, x->module, M_END);
    if (!dtype_plain(x->m->dt)) return fail(E_UNSUPPORTED, "%s: %s: lengths are f32, f16 or bf16", p->folder, x->m->name);
    if (x->m->nd == 1 && x->m->d[0] == (x->table ? x->a->d[1] : x->b->d[0])) return OK;
    return fail(E_INPUT, "%s: %s holds not one length for each of %lld rows", p->folder, x->m->name, (long long)x->b->d[0]);
}

static err add(struct lora_pairs *p, const struct tensors *files, const struct patterns *s, const struct tensor *a) {
    const struct ends *end = ends_of(a->name, false);
    const size_t before = strlen(adapter_prefix);
    struct lora_pair *x = &p->p[p->n];
    *x = (struct lora_pair){.a = a, .table = end != &ends[0], .module = arena_strn(&p->mem, a->name + before, strlen(a->name) - strlen(end->a) - before)};
    const char *b = arena_printf(&p->mem, "%s%s%s", adapter_prefix, x->module, end->b);
    if (!x->module || !b) return fail(E_MEMORY, "out of memory");
    x->b = tensors_find(files, b);
    if (!x->b) return fail(E_INPUT, "%s: tensor %s is missing", p->folder, b);
    if (!dtype_plain(a->dt) || !dtype_plain(x->b->dt))
        return fail(E_UNSUPPORTED, "%s: %s: an adapter's matrices are f32, f16 or bf16", p->folder, x->module);
    if (a->nd != 2 || x->b->nd != 2 || a->d[0] != x->b->d[1] || a->d[0] < 1 || a->d[0] > 1 << 20)
        return fail(E_INPUT, "%s: %s: lora_A [%lld, %lld] and lora_B [%lld, %lld] do not share a rank", p->folder, x->module,
                    (long long)a->d[0], (long long)a->d[1], (long long)x->b->d[0], (long long)x->b->d[1]);
    double alpha, rank;
    TRY(said(s, "alpha_pattern", x->module, p->alpha, &alpha));
    TRY(said(s, "rank_pattern", x->module, p->r, &rank));
    x->rank = (int)a->d[0];
    if (x->rank != rank)
        return fail(E_INPUT, "%s: %s has rank %d, adapter_config.json says %g: files of two adapters?", p->folder, x->module, x->rank,
                    rank);
    x->scale = alpha / (p->rslora ? sqrt((double)x->rank) : (double)x->rank);
    if (x->rank > p->max_rank) p->max_rank = x->rank;
    p->patterns |= x->rank != p->r || alpha != p->alpha;
    p->n++;
    return p->dora ? add_magnitude(p, files, x) : OK;
}

static err match(struct lora_pairs *p, const struct tensors *files, const struct patterns *s) {
    int bs = 0, lengths = 0;
    p->p = arena_alloc(&p->mem, (size_t)files->n * sizeof *p->p + 1);
    p->other = arena_alloc(&p->mem, (size_t)files->n * sizeof *p->other + 1);
    if (!p->p || !p->other) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < files->n; i++) {
        const struct tensor *t = &files->t[i];
        if (ends_of(t->name, true)) bs++;
        else if (p->dora && is_magnitude(t->name)) lengths++;
        else if (ends_of(t->name, false)) TRY(add(p, files, s, t));
        else p->other[p->n_other++] = t;
    }
    if (bs != p->n) return fail(E_INPUT, "%s: %d lora_A and %d lora_B tensors: each needs the other", p->folder, p->n, bs);
    if (p->dora && lengths != p->n)
        return fail(E_INPUT, "%s: %d lora_A and %d lora_magnitude_vector tensors: each needs the other", p->folder, p->n, lengths);
    return OK;
}

err pairs_read(const char *folder, const void *config, const char *path, const struct tensors *files, const struct pairs_use *use,
               struct lora_pairs *p) {
    struct patterns s = {.path = path};
    *p = (struct lora_pairs){0};
    err e = (p->folder = arena_str(&p->mem, folder)) ? check_config(config, path, use) : fail(E_MEMORY, "out of memory");
    if (!e) e = read_settings(p, config, path);
    if (!e) e = module_values_read(config, "rank_pattern", path, &p->mem, &s.ranks, &s.n_ranks);
    if (!e) e = module_values_read(config, "alpha_pattern", path, &p->mem, &s.alphas, &s.n_alphas);
    if (!e) e = match(p, files, &s);
    if (e) pairs_free(p);
    return e;
}

void pairs_free(struct lora_pairs *p) {
    arena_free(&p->mem);
    *p = (struct lora_pairs){0};
}
