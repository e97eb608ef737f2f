/* BitFit (Ben Zaken et al. 2022): the biases are trained, of linear layers and of norms, and nothing else; they begin as copies of the
 * base's. Models without biases (Llama, Mistral, Gemma) have nothing for it; norm tuning is what comes near there.
 *
 * PEFT has no such method: the adapter's folder has its layout with a peft_type of our own, and in the file each bias whole, under the
 * base's name ("base_model.model.MODULE.bias"). */
#include "peft/bitfit.h"
#include "peft/methods.h"
#include "peft/vectors.h"

static bool same(const void *a, const void *b) { return targets_same(&((const struct bitfit *)a)->targets, &((const struct bitfit *)b)->targets); }

static err check(const void *settings) { return targets_check(&((const struct bitfit *)settings)->targets, "bitfit"); }

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct bitfit *b = settings;
    TRY(targets_read(json, where, mem, &b->targets));
    if (b->targets.of.take == TAKE_NAMES && !b->targets.of.n) b->targets.of.take = TAKE_ALL;
    err e = check(b);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    return targets_write(&((const struct bitfit *)settings)->targets, named, json);
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "BitFit adapter (biases");
}

static const struct targets *targets_of(const void *settings) { return &((const struct bitfit *)settings)->targets; }

static val vector(struct site *s, const struct base_vector *v) {
    const struct bitfit *b = s->settings;
    return vector_is_bias(v) && targets_take(&b->targets, &v->of) ? vector_copy(s, v, "") : (val){0};
}

const struct peft_method method_bitfit = {.name = "bitfit", .peft_type = "BITFIT", .settings = sizeof(struct bitfit), .check = check, .same = same, .read = read_json,
                                          .write = write_json, .describe = describe, .targets = targets_of, .mark = ".bias", .vector = vector, .whole = "", .ours = true};
