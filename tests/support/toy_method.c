/* A method to read: docs/adding-a-method.md goes through this file line by line, tests/model/test_toy_method.c trains it, decodes with it,
 * saves and loads it. Each module that it takes gets two vectors,
 *
 *     y = l * (W x + b) + o          l [out] begins at 1, o [out] at 0
 *
 * so step 0 is the base. What it refuses is refused by what it calls. */
#include "ops/ops.h"
#include "peft/methods.h"
#include "peft/targets.h"
#include <stdio.h>

extern const struct peft_method method_toy; /* of a method of the library methods.h says so */

/* --- settings: which modules, nothing else ------------------------------------------------------------------------------- */
static err check(const void *settings) { return targets_check(settings, "toy"); }

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    return targets_alone_read(json, where, mem, settings, TAKE_ALL_LINEAR, "toy");
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "toy adapter (a scale and an offset");
}

/* --- in a program ---------------------------------------------------------------------------------------------------------- */
static val vector_of(struct site *s, const struct linear *w, const char *part, enum param_init begins) {
    char name[256], file[256];
    snprintf(name, sizeof name, "%s.toy_%s", w->of.name, part);
    snprintf(file, sizeof file, "%s.toy_%s", w->of.module, part);
    const struct param_slice whole = {.name = file, .rows = w->out, .rope_heads = w->rope_heads};
    return prog_param(s->p, s->params, param_get(s->params, name, 1, &w->out, begins, 0, &whole, 1));
}

static err linears(struct site *s, val x, int n, const struct linear *w, val *out) {
    TRY(site_emit_linear(s, x, n, w, NULL, NULL, out));
    for (int i = 0; i < n; i++) {
        if (!targets_take(s->settings, &w[i].of)) continue;
        const val l = vector_of(s, &w[i], "l", INIT_ONE), o = vector_of(s, &w[i], "o", INIT_ZERO);
        out[i] = emit1(s->p, &op_scale, (val[]){out[i], l, o}, 3, NULL);
    }
    return s->p->failed;
}

const struct peft_method method_toy = {.name = "toy",
                                       .peft_type = "TOY",
                                       .settings = sizeof(struct targets),
                                       .check = check,
                                       .same = targets_alone_same,
                                       .read = read_json,
                                       .write = targets_alone_write,
                                       .describe = describe,
                                       .targets = targets_alone,
                                       .mark = ".toy_l",
                                       .linears = linears,
                                       .ours = true};
