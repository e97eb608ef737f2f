/* (IA)^3 (Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning"): keys, values and
 * the hidden activations of the feed-forward are multiplied by trained vectors, which begin at 1, so step 0 is the base bit for bit.
 * What goes into the second matrix of a feed-forward is its input (PEFT: feedforward_modules); elsewhere the output is scaled.
 *
 * Without target_modules the paper's are taken, by the names that our families have for them. */
#include "peft/ia3.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char *const papers_inputs[] = {"down_proj", "mlp.c_proj", "wo"};
static const char *const papers[] = {"k_proj", "v_proj", "qkv_proj", "c_attn", "k", "v", "down_proj", "mlp.c_proj", "wo"};
#define LIST(names) ((struct module_list){TAKE_NAMES, sizeof names / sizeof *names, names})

static bool same(const void *one, const void *other) {
    const struct ia3 *a = one, *b = other;
    return targets_same(&a->targets, &b->targets) && module_lists_same(&a->inputs, &b->inputs);
}

static err check(const void *settings) {
    const struct ia3 *a = settings;
    TRY(module_list_check(&a->inputs, "ia3.feedforward_modules"));
    return targets_check(&a->targets, "ia3");
}

/* Those of the paper's that are among the targets: PEFT wants a subset. */
static err default_inputs(const struct module_list *of, arena *mem, struct module_list *out) {
    const char **names = arena_alloc(mem, sizeof papers_inputs);
    if (!names) return fail(E_MEMORY, "out of memory");
    *out = (struct module_list){TAKE_NAMES, 0, names};
    for (size_t i = 0; i < sizeof papers_inputs / sizeof *papers_inputs; i++) {
        bool among = of->take != TAKE_NAMES;
        for (int k = 0; k < of->n && !among; k++) among = !strcmp(of->names[k], papers_inputs[i]);
        if (among) names[out->n++] = papers_inputs[i];
    }
    return OK;
}

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct ia3 *a = settings;
    const json_t *inputs = json_object_get(json, "feedforward_modules");
    TRY(targets_read(json, where, mem, &a->targets));
    if (a->targets.of.take == TAKE_NAMES && !a->targets.of.n) a->targets.of = LIST(papers);
    if (!inputs || json_is_null(inputs)) TRY(default_inputs(&a->targets.of, mem, &a->inputs));
    else TRY(module_list_read(inputs, "feedforward_modules", where, mem, &a->inputs));
    err e = check(a);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct ia3 *a = settings;
    json_t *inputs = module_list_json(&a->inputs);
    if (json_is_null(inputs)) json_decref(inputs), inputs = json_array(); /* null is PEFT's word for its default */
    if (json_object_set_new(json, "feedforward_modules", inputs)) return fail(E_MEMORY, "out of memory");
    return targets_write(&a->targets, named, json);
}

static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    const struct module of = {.name = "", .module = module};
    if (module_list_takes(&((const struct ia3 *)have)->inputs, &of) == module_list_takes(&((const struct ia3 *)want)->inputs, &of)) return OK;
    return fail(E_USAGE, "%s and the configuration differ on whether ia3.feedforward_modules holds %s", folder, module);
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "(IA)3 adapter (scales");
}

static const struct targets *targets_of(const void *settings) { return &((const struct ia3 *)settings)->targets; }

/* PEFT's files have a column for an output, a row for an input. */
static val scales(struct site *s, const struct linear *w, bool input) {
    char name[256], file[256];
    const int64_t n = input ? w->in : w->out;
    snprintf(name, sizeof name, "%s.ia3_l", w->of.name);
    snprintf(file, sizeof file, "%s.ia3_l", w->of.module);
    const struct param_slice whole = {.name = file, .rows = n, .rope_heads = input ? 0 : w->rope_heads, .form = {.shape = input ? FILE_ROW : FILE_COLUMN}};
    return prog_param(s->p, s->params, param_get(s->params, name, 1, &n, INIT_ONE, 0, &whole, 1));
}

static val scaled(struct site *s, val x, const struct linear *w, bool input) { return emit1(s->p, &op_scale, (val[]){x, scales(s, w, input)}, 2, NULL); }

/* A linear whose input is scaled has an input of its own; the others stay one group. */
static err linears(struct site *s, val x, int n, const struct linear *w, val *out) {
    const struct ia3 *a = s->settings;
    struct linear group[MAX_GROUP];
    int of[MAX_GROUP], m = 0;
    val y[MAX_GROUP];
    for (int i = 0; i < n; i++) {
        if (targets_take(&a->targets, &w[i].of) && module_list_takes(&a->inputs, &w[i].of))
            TRY(site_emit_linear(s, scaled(s, x, &w[i], true), 1, &w[i], NULL, NULL, &out[i]));
        else group[m] = w[i], of[m++] = i;
    }
    if (!m) return s->p->failed;
    TRY(site_emit_linear(s, x, m, group, NULL, NULL, y));
    for (int k = 0; k < m; k++) out[of[k]] = targets_take(&a->targets, &group[k].of) ? scaled(s, y[k], &group[k], false) : y[k];
    return s->p->failed;
}

const struct peft_method method_ia3 = {.name = "ia3", .peft_type = "IA3", .settings = sizeof(struct ia3), .check = check, .same = same, .read = read_json, .write = write_json,
                                       .agrees = agrees, .describe = describe, .targets = targets_of, .mark = ".ia3_l", .linears = linears};
