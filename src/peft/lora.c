/* LoRA (Hu et al. 2021): y = W x + (alpha / r) B A x, with A [r, in] random and B [out, r] zero at the start, so that step 0
 * is the base. All targets that share an input are one instruction: their A matrices are one parameter, rows stacked in the
 * order of the group; adapter files see the named slices (core/params.h).
 *
 * Rank and scale may differ from module to module (rank_pattern, alpha_pattern). rsLoRA (Kalajdzievski 2023) divides alpha by the
 * root of r. `modules_to_save` trains whole modules of the base beside the deltas, in PEFT's way: each user of a tied table has a copy of its
 * own, so an embedding that is saved leaves the head as it was. LoRA+ (Hayou et al. 2024) lets B learn faster than A: a setting of the optimizer, which adapter files do not have (PEFT:
 * create_loraplus_optimizer). `bias` trains biases of the base beside the deltas, of the modules that have one (lora_only) or all there are,
 * norms' too (all). DoRA is dora.c's, the starts other than PEFT's
 * default orthogonal.c's and pissa.c's. Of adapter_config.json everything is read that changes the computation; what we do not compute is
 * refused by name. */
#include "peft/lora.h"
#include "ops/ops.h"
#include "peft/dora.h"
#include "peft/methods.h"
#include "peft/pissa.h"
#include "peft/vectors.h"
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MOST_R = 4096, MOST_RATIO = 1000000, MOST_ITERATIONS = 999 };

int lora_rank(const struct lora *l, const char *module) {
    double r;
    return module_value(l->ranks, l->n_ranks, module, l->r, &r) ? -1 : (int)r;
}

static double alpha_of(const struct lora *l, const char *module) {
    double alpha;
    return module_value(l->alphas, l->n_alphas, module, l->alpha, &alpha) ? NAN : alpha;
}

double lora_scale(const struct lora *l, const char *module) {
    const int r = lora_rank(l, module);
    return r < 0 ? NAN : alpha_of(l, module) / (l->rslora ? sqrt(r) : r);
}

static err unmatched(const char *module) { return fail_in(E_INPUT, "lora.rank_pattern or alpha_pattern, for %s", module); }

/* --- settings ------------------------------------------------------------------------------------------------------------ */
static bool same(const void *one, const void *other) {
    const struct lora *a = one, *b = other;
    return a->r == b->r && a->bias == b->bias && a->alpha == b->alpha && a->dropout == b->dropout && a->rslora == b->rslora &&
           a->dora == b->dora && (a->init == LORA_PISSA) == (b->init == LORA_PISSA) && a->pissa == b->pissa && a->plus == b->plus &&
           targets_same(&a->targets, &b->targets) && module_lists_same(&a->saved, &b->saved) &&
           module_values_same(a->ranks, a->n_ranks, b->ranks, b->n_ranks) &&
           module_values_same(a->alphas, a->n_alphas, b->alphas, b->n_alphas);
}

static const char *const inits[] = {[LORA_GAUSSIAN] = "gaussian", [LORA_ORTHOGONAL] = "orthogonal", [LORA_PISSA] = NULL}; /* init_lora_weights; NULL: true */

static err needs_even(const struct lora *l, double r, const char *what, const char *of) {
    if (l->init != LORA_ORTHOGONAL || fmod(r, 2) == 0) return OK;
    return fail(E_USAGE, "lora.init_lora_weights: orthogonal halves the rank, so ranks must be even; %s%s is %g", what, of, r);
}

/* In a list of modules this name would be passed over in silence where others match. */
static err no_positions(const struct module_list *of) {
    for (int i = 0; i < of->n && of->take == TAKE_NAMES; i++)
        if (str_ends(of->names[i], "wpe"))
            return fail(E_UNSUPPORTED, "lora.target_modules: low-rank deltas on %s are not supported; train it whole (lora.modules_to_save)",
                        of->names[i]);
    return OK;
}

/* Of a list that names neither a table nor the head: an expression might. */
static bool layers_alone(const struct module_list *of) {
    static const char *const others[] = {"embed_tokens", "wte", "shared", "word_embeddings", "lm_head"};
    bool any = of->take == TAKE_REGEX;
    for (int i = 0; i < of->n && of->take == TAKE_NAMES; i++)
        for (size_t k = 0; k < sizeof others / sizeof *others; k++) any |= str_ends(of->names[i], others[k]);
    return !any;
}

static err check(const void *settings) {
    const struct lora *l = settings;
    TRY(no_positions(&l->targets.of));
    if (l->r < 1 || l->r > MOST_R) return fail(E_USAGE, "lora.r is %d; it must be 1 to %d", l->r, MOST_R);
    if (!isfinite(l->alpha)) return fail(E_USAGE, "lora.lora_alpha is not a number");
    if (!(l->dropout >= 0 && l->dropout < 1)) return fail(E_USAGE, "lora.lora_dropout is %g; it must be at least 0 and below 1", l->dropout);
    if (l->init == LORA_PISSA && l->dora)
        return fail(E_USAGE, "lora.use_dora does not go with init_lora_weights: pissa: the finished adapter could not say so");
    if (l->init == LORA_PISSA && !(l->alpha > 0)) return fail(E_USAGE, "lora.init_lora_weights: pissa wants a lora_alpha above 0");
    if (!(l->plus >= 0 && l->plus <= MOST_RATIO))
        return fail(E_USAGE, "lora.loraplus_lr_ratio is %g; it must be above 0 and at most %d", l->plus, MOST_RATIO);
    for (int i = 0; i < l->n_ranks; i++)
        if (!(l->ranks[i].value >= 1 && l->ranks[i].value <= MOST_R) || l->ranks[i].value != floor(l->ranks[i].value))
            return fail(E_USAGE, "lora.rank_pattern: the rank of '%.80s' is %g; it must be an integer of 1 to %d", l->ranks[i].key,
                        l->ranks[i].value, MOST_R);
    TRY(module_values_check(l->ranks, l->n_ranks, "lora.rank_pattern"));
    TRY(needs_even(l, l->r, "lora.r", ""));
    for (int i = 0; i < l->n_ranks; i++) TRY(needs_even(l, l->ranks[i].value, "lora.rank_pattern's of ", l->ranks[i].key));
    TRY(module_values_check(l->alphas, l->n_alphas, "lora.alpha_pattern"));
    return targets_check(&l->targets, "lora");
}

static const char *const biases[] = {[LORA_BIAS_NONE] = "none", [LORA_BIAS_OWN] = "lora_only", [LORA_BIAS_ALL] = "all"};

static err read_bias(const json_t *j, const char *where, enum lora_bias *out) {
    const char *bias = json_string_value(json_object_get(j, "bias"));
    *out = LORA_BIAS_NONE;
    while (bias && strcmp(bias, biases[*out]))
        if (++*out > LORA_BIAS_ALL) return fail(E_INPUT, "%s: bias is '%.40s'; it may be none, lora_only or all", where, bias);
    return OK;
}

static err refuse_others(const json_t *j, const char *where) {
    static const char *const refused[] = {"trainable_token_indices", "lora_bias", "layer_replication", "megatron_config", "target_parameters",
                                          "alora_invocation_tokens", "use_qalora", "use_bdlora"}; /* fan_in_fan_out says how the base is stored, which the model knows */
    static const char *const changes_base[] = {"pissa", "olora", "corda", "loftq"};
    const char *init = json_string_value(json_object_get(j, "init_lora_weights"));
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (setting_given(json_object_get(j, refused[i]))) return fail(E_UNSUPPORTED, "%s: '%s' is not supported yet", where, refused[i]);
    for (size_t i = 0; init && i < sizeof changes_base / sizeof *changes_base; i++)
        if (!strncasecmp(init, changes_base[i], strlen(changes_base[i])))
            return fail(E_UNSUPPORTED, "%s: init_lora_weights '%s' changed the base model too; save the adapter converted to plain LoRA",
                        where, init);
    return OK;
}

/* PEFT's list of modules_to_save, without a head's names: that is not LoRA's (gen/head.h). */
static err read_saved(const json_t *j, const char *where, arena *mem, struct module_list *out) {
    const json_t *list = json_object_get(j, "modules_to_save");
    const size_t n = json_array_size(list);
    const char **names = arena_alloc(mem, n * sizeof *names + 1);
    if (!names) return fail(E_MEMORY, "out of memory");
    *out = (struct module_list){.names = names};
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || !*name) return fail(E_INPUT, "%s: modules_to_save[%zu] is no module's name", where, i);
        if (!strcmp(name, "score") || !strcmp(name, "classifier") || !strcmp(name, "classification_head")) continue;
        if (!(names[out->n++] = arena_str(mem, name))) return fail(E_MEMORY, "out of memory");
    }
    return OK;
}

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct lora *l = settings;
    const json_t *r = json_object_get(json, "r"), *alpha = json_object_get(json, "lora_alpha"), *plus = json_object_get(json, "loraplus_lr_ratio");
    const char *init = json_string_value(json_object_get(json, "init_lora_weights"));
    TRY(refuse_others(json, where));
    if (!json_is_integer(r) || !json_is_number(alpha)) return fail(E_INPUT, "%s: 'r' or 'lora_alpha' is missing", where);
    json_int_t rank = json_integer_value(r);
    *l = (struct lora){.r = rank < 0 || rank > INT_MAX ? 0 : (int)rank,
                       .alpha = json_number_value(alpha),
                       .dropout = json_number_value(json_object_get(json, "lora_dropout")),
                       .rslora = json_is_true(json_object_get(json, "use_rslora")),
                       .dora = json_is_true(json_object_get(json, "use_dora")),
                       .plus = json_number_value(plus) == 1 ? 0 : json_number_value(plus)};
    const json_t *pissa = json_object_get(json, "pissa"); /* the configuration's: an adapter of PEFT's that says pissa changed its base */
    if (json_is_integer(pissa) && json_integer_value(pissa) <= MOST_ITERATIONS)
        l->init = LORA_PISSA, l->pissa = json_integer_value(pissa) < 0 ? PISSA_SETTLED : (int)json_integer_value(pissa);
    for (size_t i = 0; init && i < sizeof inits / sizeof *inits; i++)
        if (inits[i] && !strcmp(init, inits[i])) l->init = (enum lora_init)i;
    TRY(read_bias(json, where, &l->bias));
    TRY(read_saved(json, where, mem, &l->saved));
    TRY(targets_read(json, where, mem, &l->targets));
    if ((l->saved.n || !layers_alone(&l->targets.of)) && json_is_true(json_object_get(json, "ensure_weight_tying")))
        return fail(E_UNSUPPORTED,
                    "%s: 'ensure_weight_tying' is not supported: a table and its tied head are trained apart, as PEFT does without it",
                    where);
    TRY(module_values_read(json, "rank_pattern", where, mem, &l->ranks, &l->n_ranks));
    TRY(module_values_read(json, "alpha_pattern", where, mem, &l->alphas, &l->n_alphas));
    err e = check(l);
    return e ? fail_in(e, "%s", where) : OK;
}

static json_t *number(double x) { return x == (int)x ? json_integer((int)x) : json_real(x); }

/* The keys that every PEFT since 0.4 reads. */
static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct lora *l = settings;
    const int twice = l->init == LORA_PISSA ? 2 : 1; /* the rank of what files have */
    const double grown = l->init == LORA_PISSA ? l->rslora ? sqrt(2) : 2 : 1; /* and its alpha, for the same scale */
    int bad =
        json_object_set_new(json, "r", json_integer(twice * l->r)) | json_object_set_new(json, "lora_alpha", number(grown * l->alpha)) |
        json_object_set_new(json, "lora_dropout", json_real(l->dropout)) | json_object_set_new(json, "bias", json_string(biases[l->bias])) |
        json_object_set_new(json, "modules_to_save", l->saved.n ? module_list_json(&l->saved) : json_null()) |
        json_object_set_new(json, "use_rslora", json_boolean(l->rslora)) | json_object_set_new(json, "use_dora", json_boolean(l->dora)) |
        json_object_set_new(json, "init_lora_weights", inits[l->init] ? json_string(inits[l->init]) : json_true());
    if (bad) return fail(E_MEMORY, "out of memory");
    TRY(module_values_write(l->ranks, l->n_ranks, twice, "rank_pattern", json));
    TRY(module_values_write(l->alphas, l->n_alphas, grown, "alpha_pattern", json));
    return targets_write(&l->targets, named, json);
}

/* Would the numbers of `have` mean the same under `want`? */
static err agrees(const void *one, const void *other, const char *module, const char *folder) {
    const struct lora *have = one, *want = other;
    const int r = lora_rank(have, module), wanted = lora_rank(want, module) * (want->init == LORA_PISSA && have->init != LORA_PISSA ? 2 : 1);
    const double scale = lora_scale(have, module), wanted_scale = lora_scale(want, module);
    if (isnan(scale) || isnan(wanted_scale)) return unmatched(module);
    if (have->dora != want->dora)
        return fail(E_USAGE, "%s was made with%s lora.use_dora, the configuration says with%s", folder, have->dora ? "" : "out",
                    want->dora ? "" : "out");
    if (r != wanted) return fail(E_USAGE, "%s was made with lora.r %d for %s, the configuration says %d", folder, r, module, wanted);
    if (fabs(scale - wanted_scale) > 1e-6 * fabs(wanted_scale))
        return fail(E_USAGE, "%s was made with lora.lora_alpha %g%s for %s, the configuration says %g%s", folder, alpha_of(have, module),
                    have->rslora ? " and use_rslora" : "", module, alpha_of(want, module), want->rslora ? " and use_rslora" : "");
    return OK;
}

static void describe(const void *settings, str *out) {
    const struct lora *l = settings;
    str_addf(out, "%s adapter (r %d", l->dora ? "DoRA" : "LoRA", l->r);
    if (l->n_ranks) str_addf(out, ", of some modules another");
    if (l->rslora) str_addf(out, ", rank-stabilised");
    if (l->init == LORA_PISSA) str_addf(out, ", from singular vectors");
    if (l->plus > 0) str_addf(out, ", B learns %g times as fast", l->plus);
    for (int i = 0; i < l->saved.n; i++) str_addf(out, "%s%s", i ? ", " : " and whole: ", l->saved.names[i]);
    if (l->bias) str_addf(out, l->bias == LORA_BIAS_ALL ? ", all biases" : ", their biases");
}

static const struct module_list *saved_of(const void *settings) { return &((const struct lora *)settings)->saved; }

static const struct targets *targets_of(const void *settings) { return &((const struct lora *)settings)->targets; }

/* --- in a program -------------------------------------------------------------------------------------------------------- */
/* A [R, in]: PEFT's default is kaiming_uniform(a = sqrt 5), whose bound is 1 / sqrt(in); gaussian is N(0, 1/r^2); orthogonal is orthogonal.c's. */
static int a_param(struct site *s, const struct lora *l, int n, const struct linear *w, const int *rank, const float *const *factors) {
    struct param_slice slice[MAX_GROUP] = {{0}};
    char names[MAX_GROUP][256], name[256];
    int slices = 0;
    int64_t rows = 0;
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        if (!rank[i]) continue;
        snprintf(names[slices], sizeof names[0], "%s.lora_A.weight", w[i].of.module);
        slice[slices] = (struct param_slice){.name = names[slices], .row0 = rows, .rows = rank[i], .init_scale = 1.0f / (float)rank[i], .make = lora_orthogonal_a};
        if (factors[i])
            slice[slices].from = factors[i], slice[slices].stored = DT_F32,
            slice[slices].times = (float)(1 / sqrt(lora_scale(l, w[i].of.module))), slice[slices].beside = BESIDE_BELOW;
        rows += rank[i];
        at += (size_t)snprintf(name + at, sizeof name - at, "%s%s", slices ? "+" : "", w[i].of.name);
        if (at > sizeof name - 16) at = sizeof name - 16;
        slices++;
    }
    snprintf(name + at, sizeof name - at, ".lora_A");
    static const enum param_init how[] = {INIT_UNIFORM, INIT_NORMAL_SLICES, INIT_MADE, INIT_COPY};
    return param_get(s->params, name, 2, (int64_t[]){rows, w[0].in}, how[l->init], (float)(1 / sqrt((double)w[0].in)), slice, slices);
}

static int b_param(struct site *s, const struct lora *l, int r, const struct linear *w, const float *factors) {
    char name[256], file[256];
    snprintf(name, sizeof name, "%s.lora_B", w->of.name);
    snprintf(file, sizeof file, "%s.lora_B.weight", w->of.module);
    struct param_slice slice = {.name = file, .rows = w->out, .rope_heads = w->rope_heads, .make = lora_orthogonal_b};
    if (factors)
        slice.from = factors + r * w->in, slice.stored = DT_F32, slice.times = (float)(-1 / sqrt(lora_scale(l, w->of.module))),
        slice.beside = BESIDE_NEGATED;
    static const enum param_init how[] = {INIT_ZERO, INIT_ZERO, INIT_MADE, INIT_COPY};
    const int p = param_get(s->params, name, 2, (int64_t[]){w->out, r}, how[l->init], 0, &slice, 1);
    if (l->plus > 0) param_rate(s->params, p, (float)l->plus);
    return p;
}

static bool ranks_of(const struct lora *l, int n, const struct linear *w, int *rank) {
    int any = 0;
    for (int i = 0; i < n; i++) any |= rank[i] = targets_take(&l->targets, &w[i].of) ? lora_rank(l, w[i].of.module) : 0;
    return any != 0;
}

/* The group's parameters; factors: what they begin at, by output. */
static void deltas_of(struct site *s, int n, const struct linear *w, const float *const *factors, struct group_delta *d) {
    const struct lora *l = s->settings;
    if (!ranks_of(l, n, w, d->rank)) return;
    d->a = a_param(s, l, n, w, d->rank, factors);
    for (int i = 0; i < n; i++)
        if (d->rank[i]) d->scale[i] = (float)lora_scale(l, w[i].of.module), d->b[i] = b_param(s, l, d->rank[i], &w[i], factors[i]);
}

static enum summed summed(const void *settings) {
    const struct lora *l = settings;
    if (l->dora || l->init == LORA_PISSA) return SUMMED_NOT;
    return l->bias || l->saved.n || !layers_alone(&l->targets.of) ? SUMMED_LINEARS : SUMMED_ALL;
}

static err deltas(struct site *s, int n, const struct linear *w, struct group_delta *d) {
    static const float *const nowhere[MAX_GROUP];
    deltas_of(s, n, w, nowhere, d);
    return s->p->failed;
}

/* PEFT's rule: the module's name ends so, be it amid a word (norm: input_layernorm too). */
static bool saves(const struct lora *l, const char *module) {
    for (int i = 0; i < l->saved.n; i++)
        if (str_ends(module, l->saved.names[i])) return true;
    return false;
}

static err linears(struct site *s, val x, int n, const struct linear *w, val *out) {
    const struct lora *l = s->settings;
    for (int i = 0; i < n; i++)
        if (saves(l, w[i].of.module) && targets_take(&l->targets, &w[i].of))
            return prog_fail(s->p, E_USAGE,
                             "%s is in lora.target_modules and in lora.modules_to_save: it can have a delta or be trained whole",
                             w[i].of.module);
    struct low_rank low = {0};
    struct op_attr a = {.dropout = (float)l->dropout};
    for (int i = 0; i < n; i++)
        if (targets_take(&l->targets, &w[i].of) && isnan(lora_scale(l, w[i].of.module)))
            return prog_fail(s->p, unmatched(w[i].of.module), "%s", err_text());
    if (!ranks_of(l, n, w, a.rank)) return site_emit_linear(s, x, n, w, NULL, NULL, out);
    const float *factors[MAX_GROUP] = {NULL};
    for (int i = 0; i < n && l->init == LORA_PISSA; i++)
        if (a.rank[i] && !(factors[i] = pissa_factors(s, &w[i], a.rank[i], l->pissa))) return s->p->failed;
    struct group_delta of;
    deltas_of(s, n, w, factors, &of);
    struct linear plain[MAX_GROUP];
    low.a = prog_param(s->p, s->params, of.a);
    for (int i = 0; i < n; i++) {
        plain[i] = w[i];
        if (!a.rank[i]) continue;
        a.alpha[i] = of.scale[i];
        low.b[i] = prog_param(s->p, s->params, of.b[i]);
        if (l->dora) plain[i].bias = (val){0}; /* it is added to what has been scaled */
    }
    TRY(site_emit_linear(s, x, n, plain, &a, &low, out));
    for (int i = 0; i < n; i++)
        if (factors[i]) out[i] = pissa_less(s, &w[i], factors[i], a.rank[i], x, out[i]);
    struct dora d[MAX_GROUP];
    int64_t row0 = 0;
    for (int i = 0; i < n; row0 += a.rank[i++]) d[i] = (struct dora){of.a, row0, a.rank[i], low.b[i], a.alpha[i], l->plus > 0 ? (float)l->plus : 1};
    return l->dora ? dora_outputs(s, n, d, w, out) : s->p->failed;
}

/* PEFT wraps a module that has a delta, so its own bias is "base_layer.bias" there. */
static val vector(struct site *s, const struct base_vector *v) {
    const struct lora *l = s->settings;
    if (saves(l, v->of.module)) {
        const int p = vector_param(s, v, "");
        if (l->plus > 0) param_rate(s->params, p, (float)l->plus);
        return prog_param(s->p, s->params, p);
    }
    if (!l->bias || !vector_is_bias(v)) return (val){0};
    const bool own = !vector_of_norm(v) && targets_take(&l->targets, &v->of);
    if (!own && l->bias != LORA_BIAS_ALL) return (val){0};
    const int p = vector_param(s, v, own ? "base_layer." : "");
    if (l->plus > 0) param_rate(s->params, p, (float)l->plus);
    return prog_param(s->p, s->params, p);
}

/* Of a tied table each user asks for itself. */
static val matrix(struct site *s, const struct base_matrix *m) {
    const struct lora *l = s->settings;
    const struct module head = {.name = "output", .module = "lm_head", .head = true}, *of = m->as_head ? &head : &m->of;
    if (!saves(l, of->module)) return (val){0};
    return matrix_copy(s, m, of, m->tied && !(saves(l, head.module) && saves(l, m->of.module)));
}

/* --- the token table and the head ------------------------------------------------------------------------------------------ */
/* Words (all-linear, ...) do not mean them. False too where the program has failed. */
static bool takes_end(struct site *s, const struct module *of, double *scale) {
    const struct lora *l = s->settings;
    if (l->targets.of.take > TAKE_REGEX || !targets_take(&l->targets, of)) return false;
    *scale = lora_scale(l, of->module);
    if (isnan(*scale)) return prog_fail(s->p, unmatched(of->module), "%s", err_text()), false;
    if (l->dora || l->init == LORA_PISSA)
        return prog_fail(s->p, E_UNSUPPORTED, "%s: %s is for matrices of the layers; leave the token table and the head out of lora.target_modules",
                         of->module, l->dora ? "lora.use_dora" : "lora.init_lora_weights: pissa"),
               false;
    if (saves(l, of->module))
        return prog_fail(s->p, E_USAGE, "%s is in lora.target_modules and in lora.modules_to_save: it can have a delta or be trained whole",
                         of->module),
               false;
    return true;
}

/* Beside the logits alone: where the head is the token table (tied) that stays the base's for whoever looks tokens up, as in PEFT. */
static struct head_delta head(struct site *s, const struct linear *w) {
    const struct lora *l = s->settings;
    static const float *const nowhere[MAX_GROUP];
    double scale;
    if (!takes_end(s, &w->of, &scale)) return (struct head_delta){.scale = 0};
    const int r = lora_rank(l, w->of.module), a = a_param(s, l, 1, w, &r, nowhere), b = b_param(s, l, r, w, NULL);
    return (struct head_delta){prog_param(s->p, s->params, a), prog_param(s->p, s->params, b), (float)scale, (float)l->dropout};
}

/* A [V, r] (files: [r, V]) begins at zero, B [C, r] as N(0, 1): PEFT's, whatever the start of the others is. */
static val table_param(struct site *s, const struct embedding *e, bool b, int64_t rows, int r) {
    const struct lora *l = s->settings;
    char name[256], file[256];
    snprintf(name, sizeof name, "%s.lora_embedding_%c", e->of.name, b ? 'B' : 'A');
    snprintf(file, sizeof file, "%s.lora_embedding_%c", e->of.module, b ? 'B' : 'A');
    const struct param_slice slice = {.name = file, .rows = rows, .init_scale = 1, .turned = !b};
    const int p = param_get(s->params, name, 2, (int64_t[]){rows, r}, b ? INIT_NORMAL_SLICES : INIT_ZERO, 0, &slice, 1);
    if (b && l->plus > 0) param_rate(s->params, p, (float)l->plus);
    return prog_param(s->p, s->params, p);
}

/* x + s B A[ids]: the rows of A are looked up as the table's are, and scaled as they are. A tied head stays the base's, and dropout is not on ids (PEFT). */
static val embed(struct site *s, const struct embedding *e, val x) {
    double scale;
    if (!takes_end(s, &e->of, &scale)) return x;
    const int r = lora_rank(s->settings, e->of.module);
    const struct linear up = {.w = table_param(s, e, true, e->width, r), .in = r, .out = e->width};
    val t = emit1(s->p, &op_embed, (val[]){s->ids, table_param(s, e, false, e->rows, r)}, 2, &(struct op_attr){.scale = (float)(scale * e->scale)}), y = {0};
    site_emit_linear(s, t, 1, &up, NULL, NULL, &y);
    return emit1(s->p, &op_add, (val[]){x, y}, 2, NULL);
}

const struct peft_method method_lora = {.name = "lora",
                                        .peft_type = "LORA",
                                        .settings = sizeof(struct lora),
                                        .check = check,
                                        .same = same,
                                        .read = read_json,
                                        .write = write_json,
                                        .agrees = agrees,
                                        .describe = describe,
                                        .targets = targets_of,
                                        .mark = ".lora_A.weight",
                                        .table_mark = ".lora_embedding_A",
                                        .saved = saved_of,
                                        .linears = linears,
                                        .head = head,
                                        .summed = summed,
                                        .deltas = deltas,
                                        .vector = vector,
                                        .matrix = matrix,
                                        .embed = embed};
