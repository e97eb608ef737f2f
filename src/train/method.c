/* A side's method and its settings. The keys of the configuration have PEFT's names and become what adapter_config.json would say, which
 * the method reads: one reader, one set of rules for both. */
#include "train/run.h"
#include "base/log.h"
#include "peft/pissa.h"
#include <jansson.h>
#include <string.h>

/* A word, a regular expression (module names have none of its characters) or a list of names. */
static json_t *modules_json(const struct strs *l) {
    if (l->n == 1 && (strpbrk(l->v[0], "*\\()[]|^$+?{}") || take_of_word(l->v[0]) != TAKE_NAMES)) return json_string(l->v[0]);
    json_t *j = l->n ? json_array() : json_null();
    for (int i = 0; i < l->n; i++) json_array_append_new(j, json_string(l->v[i]));
    return j;
}

/* The layers of a model, of both stacks where there are two; equal: these have as many. */
struct depth { int layers; bool equal; };

static struct depth depth_of(const struct model *m) {
    const int64_t source = m->shape.encoder_layers, own = m->shape.layers;
    return (struct depth){(int)(source > own ? source : own), !source || source == own};
}

/* What a method's settings may hang on. */
struct known {
    struct depth depth;
    int all_layers; /* of both stacks */
    const tokenizer *tok;
    int64_t steps; /* of the run, at most */
};

/* first, first + step, ... to last. "3", "8-15", and relative to how many there are: "first-2", "last-4", "every-2" (0, 2, 4, ...). */
static bool layers_of(const char *text, int layers, int *first, int *last, int *step) {
    static const char *const words[] = {"first-", "last-", "every-"};
    int end = 0, n;
    *step = 1;
    for (int w = 0; w < 3; w++) {
        if (!str_starts(text, words[w])) continue;
        const char *number = text + strlen(words[w]);
        if (sscanf(number, "%d%n", &n, &end) != 1 || number[end] || n < 1) return false;
        *first = w == 1 ? layers - n : 0;
        *last = w == 0 ? n - 1 : layers - 1;
        *step = w == 2 ? n : 1;
        return *first >= 0;
    }
    n = sscanf(text, "%d%n-%d%n", first, &end, last, &end);
    if (n == 1) *last = *first;
    return n >= 1 && !text[end] && *first >= 0 && *last >= *first;
}

/* As numbers, which is what files have. key: for messages. */
static err layers_json(const struct strs *l, const char *key, struct depth depth, json_t **out) {
    json_t *j = *out = json_array();
    if (!j) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < l->n; i++) {
        int first, last, step;
        if (!layers_of(l->v[i], depth.layers, &first, &last, &step))
            return fail(E_USAGE, "'%s' wants layers such as 3, 8-15, first-2, last-4 or every-2 of the model's %d, found '%.40s'", key,
                        depth.layers, l->v[i]);
        if (last >= depth.layers) return fail(E_USAGE, "'%s': '%.40s' goes beyond the model's last layer, %d", key, l->v[i], depth.layers - 1);
        const bool relative = *l->v[i] > '9';
        if (!depth.equal && relative)
            return fail(E_USAGE, "'%s': '%.40s' means two things in stacks of different depth; write numbers", key, l->v[i]);
        for (int k = first; k <= last; k += step) json_array_append_new(j, json_integer(k));
    }
    return OK;
}

/* "down_proj=32" */
static err pattern_json(const struct strs *l, const char *key, json_t *j) {
    for (int i = 0; i < l->n; i++) {
        const char *value = strrchr(l->v[i], '=');
        char name[256], *end;
        double x = value ? strtod(value + 1, &end) : 0;
        if (!value || value == l->v[i] || end == value + 1 || *end ||
            (size_t)snprintf(name, sizeof name, "%.*s", (int)(value - l->v[i]), l->v[i]) >= sizeof name)
            return fail(E_USAGE, "'lora.%s' wants a module and a number such as down_proj=32, found '%.60s'", key, l->v[i]);
        json_object_set_new(j, name, json_real(x));
    }
    return OK;
}

/* pissa, pissa_niter_4: as a setting of its own, for an adapter of PEFT's that says so in init_lora_weights changed its base. */
static void start_json(const char *init, json_t *j) {
    int n = PISSA_SETTLED;
    const bool pissa = !strncmp(init, "pissa", 5);
    sscanf(init, "pissa_niter_%d", &n);
    json_object_set_new(j, "init_lora_weights", pissa ? json_true() : json_string(init));
    if (pissa) json_object_set_new(j, "pissa", json_integer(n));
}

static err lora_json(const struct side_config *c, const struct known *base, json_t **out) {
    json_t *layers, *ranks = json_object(), *alphas = json_object();
    err e = layers_json(&c->lora_layers, "lora.layers_to_transform", base->depth, &layers);
    *out = json_pack("{s:I, s:f, s:f, s:b, s:b, s:f, s:s, s:o, s:o, s:o, s:o, s:o}", "r", (json_int_t)c->lora_r, "lora_alpha", c->lora_alpha, "lora_dropout", c->lora_dropout, "use_rslora", (int)c->lora_rslora,
                          "use_dora", (int)c->lora_dora, "loraplus_lr_ratio", c->lora_plus, "bias", c->lora_bias, "target_modules", modules_json(&c->lora_targets), "exclude_modules", modules_json(&c->lora_excluded),
                          "layers_to_transform", layers, "rank_pattern", ranks, "alpha_pattern", alphas);
    if (!*out) return fail(E_MEMORY, "out of memory");
    start_json(c->lora_init, *out);
    json_t *saved = json_array();
    for (int i = 0; i < c->lora_saved.n; i++) json_array_append_new(saved, json_string(c->lora_saved.v[i]));
    json_object_set_new(*out, "modules_to_save", saved);
    TRY(e);
    TRY(pattern_json(&c->lora_ranks, "rank_pattern", ranks));
    return pattern_json(&c->lora_alphas, "alpha_pattern", alphas);
}

static err adalora_json(const struct side_config *c, const struct known *base, json_t **out) {
    json_t *layers;
    err e = layers_json(&c->ada_layers, "adalora.layers_to_transform", base->depth, &layers);
    *out = json_pack("{s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:o}", "init_r", (json_int_t)c->ada_init, "target_r",
                     (json_int_t)c->ada_target, "lora_alpha", c->ada_alpha, "lora_dropout", c->ada_dropout, "tinit", (json_int_t)c->ada_tinit, "tfinal",
                     (json_int_t)c->ada_tfinal, "deltaT", (json_int_t)c->ada_delta, "total_step",
                     (json_int_t)(c->ada_total ? c->ada_total : base->steps), "beta1", c->ada_beta1, "beta2", c->ada_beta2,
                     "orth_reg_weight", c->ada_orthogonal, "target_modules", modules_json(&c->ada_targets), "exclude_modules",
                     modules_json(&c->ada_excluded), "layers_to_transform", layers);
    return e ? e : *out ? OK : fail(E_MEMORY, "out of memory");
}

static err vera_json(const struct side_config *c, const struct known *base, json_t **out) {
    json_t *layers;
    err e = layers_json(&c->vera_layers, "vera.layers_to_transform", base->depth, &layers);
    *out = json_pack("{s:I, s:f, s:f, s:I, s:o, s:o}", "r", (json_int_t)c->vera_r, "d_initial", c->vera_d, "vera_dropout", c->vera_dropout, "projection_prng_key",
                     (json_int_t)c->vera_key, "target_modules", modules_json(&c->vera_targets), "layers_to_transform", layers);
    return e ? e : *out ? OK : fail(E_MEMORY, "out of memory");
}

static err ln_tuning_json(const struct side_config *c, const struct known *base, json_t **out) {
    (void)base;
    *out = json_pack("{s:o}", "target_modules", modules_json(&c->ln_targets));
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err bitfit_json(const struct side_config *c, const struct known *base, json_t **out) {
    (void)base;
    *out = json_pack("{s:o}", "target_modules", modules_json(&c->bitfit_targets));
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err ia3_json(const struct side_config *c, const struct known *base, json_t **out) {
    (void)base;
    *out = json_pack("{s:o, s:o}", "target_modules", modules_json(&c->ia3_targets), "feedforward_modules", modules_json(&c->ia3_inputs));
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err full_json(const struct side_config *c, const struct known *base, json_t **out) {
    json_t *layers;
    err e = layers_json(&c->full_layers, "full.layers", base->depth, &layers);
    *out = json_pack("{s:o, s:o, s:o}", "target_modules", modules_json(&c->full_targets), "exclude_modules", modules_json(&c->full_excluded), "layers_to_transform", layers);
    return e ? e : *out ? OK : fail(E_MEMORY, "out of memory");
}

/* "5", "49140-49151", or a token as the vocabulary has it: "<|im_start|>" */
static err tokens_json(const struct side_config *c, const struct known *base, json_t **out) {
    json_t *ids = json_array();
    *out = json_pack("{s:o}", "token_indices", ids);
    if (!*out) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < c->token_indices.n; i++) {
        int first, last, end = 0;
        const char *text = c->token_indices.v[i];
        int n = sscanf(text, "%d%n-%d%n", &first, &end, &last, &end);
        if (n == 1) last = first;
        if (n < 1 && !base->tok)
            return fail(E_USAGE, "'trainable_tokens.token_indices': '%.40s' is looked up in a tokenizer, and there is none", text);
        if (n < 1 && (first = last = tokenizer_id(base->tok, text)) >= 0) n = 1, end = (int)strlen(text);
        if (n < 1 || text[end] || first < 0 || last < first || last - first > 1 << 20)
            return fail(
                E_USAGE,
                "'trainable_tokens.token_indices' wants ids such as 49150 or 49140-49151, or tokens of the vocabulary, found '%.40s'",
                text);
        for (int k = first; k <= last; k++) json_array_append_new(ids, json_integer(k));
    }
    return OK;
}

/* A text is settled as ids here, where its tokenizer is: with what the tokenizer puts around a text, as PEFT does it. */
static err text_ids(const char *text, const tokenizer *tok, json_t *list) {
    struct ids ids = {0};
    if (!tok) return fail(E_USAGE, "prompt_tuning.prompt_tuning_init_text is read by a tokenizer, and there is none");
    err e = tokenizer_encode(tok, text, strlen(text), ENCODE_SPECIAL, &ids);
    if (!e) e = tokenizer_surround(tok, true, true, &ids);
    for (size_t i = 0; i < ids.n && !e; i++) json_array_append_new(list, json_integer(ids.v[i]));
    ids_free(&ids);
    return e ? fail_in(e, "prompt_tuning.prompt_tuning_init_text") : OK;
}

static err prompt_tuning_json(const struct side_config *c, const struct known *base, json_t **out) {
    json_t *ids = json_array();
    *out = json_pack("{s:I, s:s, s:s, s:o}", "num_virtual_tokens", (json_int_t)c->prompt_tokens, "prompt_tuning_init", c->prompt_init, "prompt_tuning_init_text", c->prompt_text, "prompt_tuning_init_ids", ids);
    if (!*out) return fail(E_MEMORY, "out of memory");
    return !strcmp(c->prompt_init, "TEXT") ? text_ids(c->prompt_text, base->tok, ids) : OK;
}

static err p_tuning_json(const struct side_config *c, const struct known *base, json_t **out) {
    (void)base;
    *out = json_pack("{s:I, s:I}", "num_virtual_tokens", (json_int_t)c->p_tokens, "encoder_hidden_size", (json_int_t)c->p_hidden);
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err prefix_tuning_json(const struct side_config *c, const struct known *base, json_t **out) {
    (void)base;
    *out = json_pack("{s:I, s:s}", "num_virtual_tokens", (json_int_t)c->prefix_tokens, "init_weights", c->prefix_init);
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err adaption_prompt_json(const struct side_config *c, const struct known *base, json_t **out) {
    (void)base;
    *out = json_pack("{s:I, s:I}", "adapter_len", (json_int_t)c->adaption_len, "adapter_layers", (json_int_t)c->adaption_layers);
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

static err projector_json(const struct side_config *c, const struct known *base, json_t **out) {
    (void)base;
    *out = json_pack("{s:I, s:s, s:I}", "num_virtual_tokens", (json_int_t)c->projector_tokens, "mm_projector_type", c->projector_type, "mm_hidden_size", (json_int_t)c->projector_width);
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

bool side_given(const struct side_config *c, struct given_form *given) {
    *given = (struct given_form){0};
    if (strcmp(c->method, method_projector.name) != 0) return false;
    *given = (struct given_form){.field = c->projector_field, .each = (int)c->projector_tokens, .width = (int)c->projector_width};
    return true;
}

/* AdapterHub's three; what they leave open is theirs too. */
static err bottleneck_json(const struct side_config *c, const struct known *base, json_t **out) {
    const bool two = !strcmp(c->bottleneck_config, "double_seq_bn"), parallel = !strcmp(c->bottleneck_config, "par_bn");
    const char *act = strcmp(c->bottleneck_act, "auto") ? c->bottleneck_act : two ? "swish" : "relu";
    json_t *left_out;
    err e = layers_json(&c->bottleneck_left_out, "bottleneck.leave_out", (struct depth){base->all_layers, true}, &left_out);
    *out =
        json_pack("{s:s, s:s, s:{s:b, s:b, s:b, s:b, s:o, s:s, s:f, s:f, s:s, s:o}}", "name", "default", "version", "cyclora", "config",
                  "mh_adapter", (int)two, "output_adapter", 1, "cross_adapter", (int)c->bottleneck_cross, "is_parallel", (int)parallel,
                  "original_ln_before", two || parallel ? json_false() : json_string("by base"), "non_linearity", act, "reduction_factor",
                  c->bottleneck_factor > 0 ? c->bottleneck_factor
                  : parallel               ? 2.0
                                           : 16.0,
                  "scaling",
                  c->bottleneck_scaling > 0 ? c->bottleneck_scaling
                  : parallel                ? 4.0
                                            : 1.0,
                  "init_weights", c->bottleneck_init, "leave_out", left_out);
    return e ? e : *out ? OK : fail(E_MEMORY, "out of memory");
}

static err none_json(const struct side_config *c, const struct known *base, json_t **out) {
    (void)c, (void)base;
    *out = json_object();
    return *out ? OK : fail(E_MEMORY, "out of memory");
}

err side_method(const struct side *side, const struct run *r, arena *mem, const struct peft_method **method, const void **settings) {
    static const struct {
        const struct peft_method *method;
        err (*json)(const struct side_config *, const struct known *, json_t **);
    } ways[] = {{&method_lora, lora_json}, {&method_adalora, adalora_json}, {&method_vera, vera_json}, {&method_ln_tuning, ln_tuning_json}, {&method_bitfit, bitfit_json}, {&method_ia3, ia3_json}, {&method_full, full_json}, {&method_trainable_tokens, tokens_json},
                {&method_prompt_tuning, prompt_tuning_json}, {&method_p_tuning, p_tuning_json}, {&method_prefix_tuning, prefix_tuning_json}, {&method_bottleneck, bottleneck_json}, {&method_adaption_prompt, adaption_prompt_json}, {&method_projector, projector_json}, {&method_none, none_json}};
    const struct side_config *c = side->cfg;
    const struct model *m = &side->base->model;
    const struct known base = {depth_of(m), (int)(m->shape.encoder_layers + m->shape.layers), side->base->tok, r->cfg->max_steps};
    size_t i = 0;
    while (strcmp(ways[i].method->name, c->method)) i++; /* one of those, or the key would have been refused */
    json_t *j = NULL;
    void *s = arena_alloc(mem, ways[i].method->settings);
    err e = s ? ways[i].json(c, &base, &j) : fail(E_MEMORY, "out of memory");
    if (!e) e = ways[i].method->read(j, "configuration", mem, s);
    json_decref(j);
    *method = ways[i].method;
    *settings = s;
    return e;
}

void method_heed_ranks(const struct structure *st) {
    const char *first = NULL;
    int64_t rank = 0, side = 0, n = 0;
    for (int i = 0; i < st->params.n; i++) {
        const struct param *p = &st->params.p[i];
        for (int k = 0; k < p->n_slices; k++) {
            const char *name = p->slice[k].name;
            const bool a = str_ends(name, "lora_A.weight");
            if (!a && !str_ends(name, "lora_B.weight")) continue;
            const int64_t r = a ? p->slice[k].rows : p->d[1], other = a ? p->d[1] : p->d[0];
            if (r <= other) continue;
            n++;
            if (!first) first = name, rank = r, side = other;
        }
    }
    if (first)
        log_warn("%s has rank %lld, but its matrix has a side of %lld, and no delta of it has a higher rank: what is beyond takes memory and time "
                 "alone (%lld such factors; rank_pattern gives modules a rank of their own)",
                 first, (long long)rank, (long long)side, (long long)n);
}
