/* BitFit (Ben Zaken et al. 2022): the biases are trained, of linear layers and of norms, and nothing else; they begin as copies of the
 * base's. Models without biases (Llama, Mistral, Gemma) have nothing for it; norm tuning is what comes near there.
 *
 * PEFT has no such method: the adapter's folder has its layout with a peft_type of our own, and in the file each bias whole, under the
 * base's name ("base_model.model.MODULE.bias"). */
#include "peft/methods.h"
#include "peft/targets.h"
#include "peft/vectors.h"

static err check(const void *settings) { return targets_check(settings, "bitfit"); }

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    return targets_alone_read(json, where, mem, settings, TAKE_ALL, "bitfit");
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "BitFit adapter (biases");
}

static val vector(struct site *s, const struct base_vector *v) {
    return vector_is_bias(v) && targets_take(s->settings, &v->of) ? vector_copy(s, v, "") : (val){0};
}

const struct peft_method method_bitfit = {.name = "bitfit",
                                          .peft_type = "BITFIT",
                                          .settings = sizeof(struct targets),
                                          .check = check,
                                          .same = targets_alone_same,
                                          .read = read_json,
                                          .write = targets_alone_write,
                                          .describe = describe,
                                          .targets = targets_alone,
                                          .mark = ".bias",
                                          .vector = vector,
                                          .whole = "",
                                          .ours = true};
