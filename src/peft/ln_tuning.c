/* Norm tuning (Qi et al. 2022, "Parameter-efficient tuning on layer normalization"): the weights of the norms, and their biases where
 * they have any, are trained in place of the base's; they begin as copies of them, so step 0 is the base bit for bit. Some 2 C numbers a
 * layer. PEFT's LN_TUNING: the file holds the new vectors whole. */
#include "peft/ln_tuning.h"
#include "peft/methods.h"
#include "peft/vectors.h"

static bool same(const void *a, const void *b) { return targets_same(&((const struct ln_tuning *)a)->targets, &((const struct ln_tuning *)b)->targets); }

static err check(const void *settings) { return targets_check(&((const struct ln_tuning *)settings)->targets, "ln_tuning"); }

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct ln_tuning *l = settings;
    TRY(targets_read(json, where, mem, &l->targets));
    if (l->targets.of.take == TAKE_NAMES && !l->targets.of.n) l->targets.of.take = TAKE_NORMS;
    err e = check(l);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    return targets_write(&((const struct ln_tuning *)settings)->targets, named, json);
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "norm-tuning adapter (vectors");
}

static const struct targets *targets_of(const void *settings) { return &((const struct ln_tuning *)settings)->targets; }

static val vector(struct site *s, const struct base_vector *v) {
    const struct ln_tuning *l = s->settings;
    return vector_of_norm(v) && targets_take(&l->targets, &v->of) ? vector_copy(s, v, "ln_tuning_layers.") : (val){0};
}

const struct peft_method method_ln_tuning = {.name = "ln_tuning", .peft_type = "LN_TUNING", .settings = sizeof(struct ln_tuning), .check = check, .same = same, .read = read_json,
                                             .write = write_json, .describe = describe, .targets = targets_of, .mark = ".ln_tuning_layers.weight", .vector = vector, .whole = "ln_tuning_layers."};
