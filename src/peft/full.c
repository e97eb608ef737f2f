/* Full fine-tuning, of everything or of a part: chosen tensors of the base are copied into the arena and trained there, in place of the
 * base's; the rest stays frozen. They begin as the base's own numbers in f32, so step 0 is the base (bit for bit where the base is f32; a
 * quantised base's products round differently, and the copies are what its blocks decode to).
 *
 * What is trained is a question of targets.h: matrices, norms, biases, the token table, the head; by module or by layer. A tied table is
 * one parameter with two users. Below the lowest trained value there is no backward at all, so the last k layers cost the backward of
 * those k. Not trainable: T5's tables of biases by distance, for which attention has no gradient, and BERT's token types (the row that is
 * used has been added to the positions, which are trainable).
 *
 * PEFT has no such method: the adapter's folder has its layout with a peft_type of our own, and in the file each trained tensor whole,
 * under the base's name and in the form of the base's Hugging Face files ("base_model.model.MODULE.weight"). */
#include "peft/methods.h"
#include "peft/targets.h"
#include "peft/vectors.h"
#include <jansson.h>

static err check(const void *settings) { return targets_check(settings, "full"); }

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    return targets_alone_read(json, where, mem, settings, TAKE_ALL, "full");
}

/* Words are written as they are: nobody else reads these files, and of one base they always mean the same. */
static err write_json(const void *settings, const struct module_list *named, void *json) {
    (void)named;
    const struct targets *t = settings;
    TRY(targets_write(t, NULL, json));
    const char *word = take_word(t->of.take);
    return word && json_object_set_new(json, "target_modules", json_string(word)) ? fail(E_MEMORY, "out of memory") : OK;
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "full fine-tuning (whole tensors of the base");
}

static val vector(struct site *s, const struct base_vector *v) {
    return targets_take(s->settings, &v->of) ? vector_copy(s, v, "") : (val){0};
}

static val matrix(struct site *s, const struct base_matrix *m) {
    return targets_take(s->settings, &m->of) ? matrix_copy(s, m, &m->of, false) : (val){0};
}

const struct peft_method method_full = {.name = "full",
                                        .peft_type = "FULL",
                                        .settings = sizeof(struct targets),
                                        .check = check,
                                        .same = targets_alone_same,
                                        .read = read_json,
                                        .write = write_json,
                                        .describe = describe,
                                        .targets = targets_alone,
                                        .mark = ".weight",
                                        .vector = vector,
                                        .matrix = matrix,
                                        .whole = "",
                                        .ours = true};
