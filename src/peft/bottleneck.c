/* Bottleneck adapters: a small network behind a sublayer, or beside it, whose output is added. With h what the sublayer gives and x what the
 * block gave it (before its norm), act between two matrices and D = C / reduction_factor:
 *
 *   y = h + s (W_up act(W_down u + b_down) + b_up)
 *     Houlsby et al. 2019 (double_seq_bn): behind attention and feed-forward, u = h
 *     Pfeiffer et al. 2021 (seq_bn): behind the feed-forward, u = x + h (original_ln_before), of BERT that sum's norm
 *     He et al. 2022 (par_bn): beside the feed-forward, u = x, s = 4
 *
 * AdapterHub's, in its files (adapters/methods/modeling.py, bottleneck.py). Two things there differ from the papers' pictures: the parallel
 * form reads the block's rows before the norm in front of the sublayer, and original_ln_before in models without a norm of the sum takes
 * the sum alone. With W_up = 0 (mam_adapter) step 0 is the base bit for bit; AdapterHub's own start (bert) is N(0, 0.02^2) and is not.
 *
 * Refused by name: norms of the adapter's own, gates, invertible adapters, Compacter (phm), dropout, stochastic depth, a trained scaling;
 * and original_ln_before where sublayers have norms of their own (Gemma): AdapterHub's hook takes the last layer's for all layers there. */
#include "peft/bottleneck.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct { const char *name; enum activation act; } activations[] = { /* transformers' names (activations.py) */
    {"relu", ACT_RELU}, {"gelu", ACT_GELU_ERF}, {"gelu_new", ACT_GELU_TANH}, {"gelu_pytorch_tanh", ACT_GELU_TANH}, {"swish", ACT_SILU}, {"silu", ACT_SILU}, {"tanh", ACT_TANH}};
enum { ACTIVATIONS = sizeof activations / sizeof *activations, MOST_NAME = 64 };
static const char *const inits[] = {"mam_adapter", "bert", "houlsby"};
static const float BERT_STD = 0.02f;

static int activation_of(const char *name) {
    int i = 0;
    while (i < ACTIVATIONS && strcmp(activations[i].name, name)) i++;
    return i;
}

static enum activation act_of(const struct bottleneck *b) { return activations[activation_of(b->activation)].act; }

static bool same(const void *one, const void *other) {
    const struct bottleneck *a = one, *b = other;
    return !strcmp(a->name, b->name) && a->attention == b->attention && a->cross == b->cross && a->ffn == b->ffn &&
           a->parallel == b->parallel && a->sum_first == b->sum_first && !strcmp(a->activation, b->activation) && a->factor == b->factor &&
           module_values_same(a->factors, a->n_factors, b->factors, b->n_factors) && a->scaling == b->scaling && a->init == b->init &&
           a->n_left_out == b->n_left_out &&
           (!a->n_left_out || !memcmp(a->left_out, b->left_out, (size_t)a->n_left_out * sizeof *a->left_out));
}

static err check_factor(double factor) {
    return factor > 0 ? OK : fail(E_USAGE, "bottleneck.reduction_factor is %g; it must be above 0", factor);
}

static err check(const void *settings) {
    const struct bottleneck *b = settings;
    if (!b->attention && !b->cross && !b->ffn)
        return fail(E_USAGE, "bottleneck: an adapter behind no sublayer (mh_adapter, output_adapter and cross_adapter are false)");
    if (!b->n_factors) TRY(check_factor(b->factor));
    for (int i = 0; i < b->n_factors; i++) TRY(check_factor(b->factors[i].value));
    if (!isfinite(b->scaling) || b->scaling == 0) return fail(E_USAGE, "bottleneck.scaling is %g: nothing would be added", b->scaling);
    return OK;
}

/* --- adapter_config.json --------------------------------------------------------------------------------------------------- */
static err read_flag(const json_t *c, const char *key, const char *where, bool *out) {
    const json_t *v = json_object_get(c, key);
    if (v && json_is_boolean(v)) *out = json_is_true(v);
    else if (v && !json_is_null(v)) return fail(E_INPUT, "%s: '%s' is neither true nor false", where, key);
    return OK;
}

static bool off(const json_t *v) { return !v || json_is_null(v) || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0); }

static err refuse(const json_t *c, const char *where) {
    static const struct { const char *key, *what; } unknown[] = {
        {"ln_before", "a norm of the adapter's own"}, {"ln_after", "a norm of the adapter's own"}, {"use_gating", "a gate"}, {"inv_adapter", "an invertible adapter"}, {"invertible_adapter", "an invertible adapter"},
        {"phm_layer", "a sum of Kronecker products (Compacter)"}, {"dropout", "dropout inside the adapter"}, {"stochastic_depth", "adapters left out at random"}};
    const char *architecture = json_string_value(json_object_get(c, "architecture"));
    if (architecture)
        return fail(E_UNSUPPORTED, "%s: AdapterHub's architecture %.40s is not supported, bottleneck adapters are", where, architecture);
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        if (!off(json_object_get(c, unknown[i].key)))
            return fail(E_UNSUPPORTED, "%s: '%s': %s is not supported", where, unknown[i].key, unknown[i].what);
    if (json_is_false(json_object_get(c, "original_ln_after")))
        return fail(E_UNSUPPORTED, "%s: original_ln_after false leaves out the base's own residual, which is not supported", where);
    const json_t *residual = json_object_get(c, "residual_before_ln");
    if (residual && !json_is_true(residual) && json_is_true(json_object_get(c, "original_ln_before")) &&
        !json_is_true(json_object_get(c, "is_parallel")))
        return fail(E_UNSUPPORTED, "%s: residual_before_ln other than true is not supported", where);
    return OK;
}

/* Without a version AdapterHub takes gelu for the one by tanh (loading.py, ACTIVATION_RENAME). */
static err read_activation(const json_t *json, const json_t *c, const char *where, struct bottleneck *b) {
    const char *name = json_string_value(json_object_get(c, "non_linearity"));
    if (!name) return fail(E_INPUT, "%s: 'non_linearity' is missing", where);
    if (!json_object_get(json, "version") && !strcmp(name, "gelu")) name = "gelu_new";
    const int i = activation_of(name);
    if (i == ACTIVATIONS) return fail(E_UNSUPPORTED, "%s: non_linearity %.40s is not supported (relu, gelu, gelu_new, swish, tanh are)", where, name);
    b->activation = activations[i].name;
    return OK;
}

static err read_numbers(const json_t *c, const char *where, arena *mem, struct bottleneck *b) {
    const json_t *factor = json_object_get(c, "reduction_factor"), *scaling = json_object_get(c, "scaling"), *out = json_object_get(c, "leave_out");
    if (json_is_number(factor)) b->factor = json_number_value(factor);
    else if (json_is_object(factor) && json_object_size(factor))
        TRY(module_values_read(c, "reduction_factor", where, mem, &b->factors, &b->n_factors));
    else return fail(E_INPUT, "%s: 'reduction_factor' is neither a number nor one for each layer", where);
    if (json_is_string(scaling))
        return fail(E_UNSUPPORTED, "%s: scaling '%.40s': a trained scaling is not supported, a number is", where,
                    json_string_value(scaling));
    b->scaling = json_is_number(scaling) ? json_number_value(scaling) : 1;
    if (out && !json_is_null(out) && !json_is_array(out)) return fail(E_INPUT, "%s: 'leave_out' is no list of layers", where);
    int *layers = arena_alloc(mem, (json_array_size(out) + 1) * sizeof *layers);
    if (!layers) return fail(E_MEMORY, "out of memory");
    for (size_t i = 0; i < json_array_size(out); i++) {
        const json_int_t l = json_is_integer(json_array_get(out, i)) ? json_integer_value(json_array_get(out, i)) : -1;
        if (l < 0 || l > 1 << 20) return fail(E_INPUT, "%s: 'leave_out' holds something that is no layer", where);
        layers[b->n_left_out++] = (int)l;
    }
    b->left_out = layers;
    return OK;
}

static err read_names(const json_t *json, const json_t *c, const char *where, arena *mem, struct bottleneck *b) {
    const char *name = json_string_value(json_object_get(json, "name")), *init = json_string_value(json_object_get(c, "init_weights"));
    if (!name || !*name || strlen(name) > MOST_NAME || strpbrk(name, "./"))
        return fail(E_INPUT, "%s: 'name' is no name of an adapter (without dots, %d letters at most)", where, MOST_NAME);
    if (!(b->name = arena_str(mem, name))) return fail(E_MEMORY, "out of memory");
    int i = 2;
    while (init && i && strcmp(inits[i], init)) i--;
    if (init && strcmp(inits[i], init)) return fail(E_UNSUPPORTED, "%s: init_weights %.40s is not supported (mam_adapter and bert are)", where, init);
    b->init = init ? (enum bottleneck_init)i : BOTTLENECK_BERT;
    return OK;
}

/* Of a configuration, which need not know the base. */
static bool by_base(const json_t *v) { return json_is_string(v) && !strcmp(json_string_value(v), "by base"); }

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct bottleneck *b = settings;
    const json_t *c = json_object_get(json, "config");
    bool sum = false;
    *b = (struct bottleneck){0};
    TRY(refuse(c, where));
    if (!json_is_boolean(json_object_get(c, "mh_adapter")) || !json_is_boolean(json_object_get(c, "output_adapter")))
        return fail(E_INPUT, "%s: 'mh_adapter' and 'output_adapter' must say where the adapters are", where);
    TRY(read_flag(c, "mh_adapter", where, &b->attention));
    TRY(read_flag(c, "output_adapter", where, &b->ffn));
    TRY(read_flag(c, "cross_adapter", where, &b->cross));
    TRY(read_flag(c, "is_parallel", where, &b->parallel));
    const bool open = by_base(json_object_get(c, "original_ln_before"));
    if (!open) TRY(read_flag(c, "original_ln_before", where, &sum));
    b->sum_first = open ? SUM_BY_BASE : sum && !b->parallel ? SUM_YES : SUM_NO;
    TRY(read_activation(json, c, where, b));
    TRY(read_numbers(c, where, mem, b));
    TRY(read_names(json, c, where, mem, b));
    err e = check(b);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    (void)named;
    const struct bottleneck *b = settings;
    json_t *out = json_array(),
           *c = json_pack("{s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:s, s:f, s:f, s:s, s:o}", "mh_adapter", (int)b->attention, "output_adapter",
                          (int)b->ffn, "cross_adapter", (int)b->cross, "is_parallel", (int)b->parallel, "original_ln_before",
                          b->sum_first == SUM_YES, "original_ln_after", 1, "residual_before_ln", 1, "non_linearity", b->activation,
                          "reduction_factor", b->factor, "scaling", b->scaling, "init_weights", inits[b->init], "leave_out", out);
    if (!c) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < b->n_left_out; i++) json_array_append_new(out, json_integer(b->left_out[i]));
    err e = b->n_factors ? module_values_write(b->factors, b->n_factors, 1, "reduction_factor", c) : OK;
    /* a version at all: see read_activation */
    int bad = json_object_set_new(json, "config", c) | json_object_set_new(json, "name", json_string(b->name)) |
              json_object_set_new(json, "version", json_string("cyclora")) |
              json_object_set_new(json, "hidden_size", json_integer((json_int_t)b->width));
    return e ? e : bad ? fail(E_MEMORY, "out of memory") : OK;
}

/* What has the same shapes and computes something else. */
static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    const struct bottleneck *a = have, *b = want;
    (void)module;
    const char *differs = a->parallel != b->parallel        ? "config (is_parallel)"
                          : a->sum_first != b->sum_first    ? "config (original_ln_before)"
                          : act_of(a) != act_of(b)          ? "non_linearity"
                          : a->scaling != b->scaling        ? "scaling"
                                                            : NULL;
    return differs ? fail(E_USAGE, "%s and the configuration differ on bottleneck.%s", folder, differs) : OK;
}

static const char *called(const void *settings) { return ((const struct bottleneck *)settings)->name; }

static void describe(const void *settings, str *out) {
    const struct bottleneck *b = settings;
    str_addf(out, "bottleneck adapter (%s%s%s%s", b->parallel ? "beside " : "after ", b->attention ? "attention" : "",
             b->attention && b->ffn ? " and " : "", b->ffn ? "feed-forward" : "");
    if (b->cross) str_adds(out, b->attention || b->ffn ? " and cross-attention" : "cross-attention");
    if (!b->n_factors) str_addf(out, ", width / %g", b->factor);
}

/* --- of a base ------------------------------------------------------------------------------------------------------------- */
static bool left_out(const struct bottleneck *b, int64_t layer) {
    bool is = false;
    for (int i = 0; i < b->n_left_out; i++) is |= b->left_out[i] == layer;
    return is;
}

static double factor_of(const struct bottleneck *b, int64_t layer) {
    char number[24];
    double other = 0;
    snprintf(number, sizeof number, "%lld", (long long)layer);
    for (int i = 0; i < b->n_factors; i++) {
        if (!strcmp(b->factors[i].key, number)) return b->factors[i].value;
        if (!strcmp(b->factors[i].key, "default")) other = b->factors[i].value;
    }
    return b->n_factors ? other : b->factor;
}

/* Python's int(C // factor), at least 1. */
static int64_t inner_width(const struct bottleneck *b, int64_t width, int64_t layer) {
    const double factor = factor_of(b, layer), exact = ((double)width - fmod((double)width, factor)) / factor, below = floor(exact);
    const int64_t d = (int64_t)(below + (exact - below > 0.5));
    return d > 1 ? d : 1;
}

static err fit(void *settings, const struct base_sizes *base) {
    struct bottleneck *b = settings;
    int64_t taken = 0;
    b->width = base->width;
    b->layers = base->layers + base->encoder_layers;
    if (b->sum_first == SUM_BY_BASE) b->sum_first = base->norms_apart ? SUM_NO : SUM_YES;
    if (b->sum_first == SUM_YES && base->norms_apart)
        return fail(E_UNSUPPORTED,
                    "original_ln_before (seq_bn) of a base whose sublayers have norms of their own is not supported: AdapterHub takes the "
                    "last layer's norm for every layer there; use double_seq_bn or par_bn, or original_ln_before false");
    if (b->cross && !base->seq2seq) return fail(E_USAGE, "bottleneck.cross_adapter: this base has no cross-attention");
    for (int i = 0; i < b->n_left_out; i++)
        if (b->left_out[i] >= b->layers)
            return fail(E_USAGE, "bottleneck.leave_out: %d goes beyond the model's last layer, %d", b->left_out[i], (int)b->layers - 1);
    for (int64_t l = 0; l < b->layers; l++) {
        if (left_out(b, l)) continue;
        taken++;
        if (factor_of(b, l) == 0) return fail(E_USAGE, "bottleneck.reduction_factor says nothing of layer %d, and has no default", (int)l);
        if (inner_width(b, b->width, l) > 1 << 20)
            return fail(E_USAGE, "bottleneck.reduction_factor %g makes adapters of %lld columns", factor_of(b, l),
                        (long long)inner_width(b, b->width, l));
    }
    return taken ? OK : fail(E_USAGE, "bottleneck.leave_out leaves out all %d layers: nothing would be trained", (int)b->layers);
}

/* --- in a program ---------------------------------------------------------------------------------------------------------- */
/* AdapterHub's Linear `part` of the adapter: "adapter_down.0" (in a Sequential) or "adapter_up". */
static val layer(struct site *s, const struct sublayer *at, const char *part, val x, const int64_t d[2]) {
    const struct bottleneck *b = s->settings;
    const bool up = !strcmp(part, "adapter_up");
    const enum param_init init = b->init == BOTTLENECK_BERT ? INIT_NORMAL_SLICES : up || b->init == BOTTLENECK_HOULSBY ? INIT_ZERO : INIT_UNIFORM; /* Houlsby's start: of read adapters alone */
    char name[2][256], file[2][256];
    for (int i = 0; i < 2; i++) {
        snprintf(name[i], sizeof name[i], "%s.%s.%s", at->of.name, part, i ? "bias" : "weight");
        snprintf(file[i], sizeof file[i], "%s.adapters.%s.%s", at->of.module, part, i ? "bias" : "weight");
    }
    const struct param_slice matrix = {.name = file[0], .rows = d[0], .init_scale = BERT_STD}, vector = {.name = file[1], .rows = d[0]};
    const struct linear w = {
        .of = {.name = name[0], .module = file[0]},
        .w = prog_param(s->p, s->params, param_get(s->params, name[0], 2, d, init, (float)(1 / sqrt((double)d[1])), &matrix, 1)),
        .bias = prog_param(s->p, s->params, param_get(s->params, name[1], 1, d, INIT_ZERO, 0, &vector, 1)),
        .in = d[1],
        .out = d[0]};
    val y = {0};
    site_emit_linear(s, x, 1, &w, NULL, NULL, &y);
    return y;
}

static val sum_of(struct site *s, const struct sublayer *at) {
    const val sum = emit1(s->p, &op_add, (val[]){at->made, at->read}, 2, NULL);
    return at->norm ? at->norm(s, at, sum) : sum;
}

static val sublayer(struct site *s, const struct sublayer *at) {
    const struct bottleneck *b = s->settings;
    const bool takes = at->place == AFTER_FFN ? b->ffn : at->place == AFTER_CROSS ? b->cross : b->attention;
    if (s->p->failed || !takes || left_out(b, at->layer)) return (val){0};
    const int64_t C = b->width, D = inner_width(b, C, at->layer);
    const val u = b->parallel ? at->read : b->sum_first == SUM_YES ? sum_of(s, at) : at->made;
    val y = layer(s, at, "adapter_down.0", u, (int64_t[]){D, C});
    y = emit1(s->p, &op_glu, (val[]){y, {0}}, 2, &(struct op_attr){.act = act_of(b)});
    y = layer(s, at, "adapter_up", y, (int64_t[]){C, D});
    if (b->scaling != 1) y = emit1(s->p, &op_scale, (val[]){y, {0}, {0}}, 3, &(struct op_attr){.scale = (float)b->scaling});
    return emit1(s->p, &op_add, (val[]){y, at->made}, 2, NULL);
}

const struct peft_method method_bottleneck = {.name = "bottleneck", .settings = sizeof(struct bottleneck), .check = check, .same = same, .read = read_json, .write = write_json, .agrees = agrees,
                                              .called = called, .describe = describe, .fit = fit, .mark = ".adapter_up.weight", .sublayer = sublayer};
