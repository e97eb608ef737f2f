/* Norm tuning (Qi et al. 2022, "Parameter-efficient tuning on layer normalization"): the weights of the norms, and their biases where
 * they have any, are trained in place of the base's; they begin as copies of them, so step 0 is the base bit for bit. Some 2 C numbers a
 * layer. PEFT's LN_TUNING: the file holds the new vectors whole. */
#include "peft/methods.h"
#include "peft/targets.h"
#include "peft/vectors.h"

static err check(const void *settings) { return targets_check(settings, "ln_tuning"); }

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    return targets_alone_read(json, where, mem, settings, TAKE_NORMS, "ln_tuning");
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "norm-tuning adapter (vectors");
}

static val vector(struct site *s, const struct base_vector *v) {
    return vector_of_norm(v) && targets_take(s->settings, &v->of) ? vector_copy(s, v, "ln_tuning_layers.") : (val){0};
}

const struct peft_method method_ln_tuning = {.name = "ln_tuning",
                                             .peft_type = "LN_TUNING",
                                             .settings = sizeof(struct targets),
                                             .check = check,
                                             .same = targets_alone_same,
                                             .read = read_json,
                                             .write = targets_alone_write,
                                             .describe = describe,
                                             .targets = targets_alone,
                                             .mark = ".ln_tuning_layers.weight",
                                             .vector = vector,
                                             .whole = "ln_tuning_layers."};
