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
#include "peft/full.h"
#include "peft/methods.h"
#include "peft/vectors.h"
#include <jansson.h>
#include <stdio.h>

static bool same(const void *a, const void *b) { return targets_same(&((const struct full *)a)->targets, &((const struct full *)b)->targets); }

static err check(const void *settings) { return targets_check(&((const struct full *)settings)->targets, "full"); }

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct full *f = settings;
    TRY(targets_read(json, where, mem, &f->targets));
    if (f->targets.of.take == TAKE_NAMES && !f->targets.of.n) f->targets.of.take = TAKE_ALL;
    err e = check(f);
    return e ? fail_in(e, "%s", where) : OK;
}

/* Words are written as they are: nobody else reads these files, and of one base they always mean the same. */
static err write_json(const void *settings, const struct module_list *named, void *json) {
    (void)named;
    const struct targets *t = &((const struct full *)settings)->targets;
    TRY(targets_write(t, NULL, json));
    const char *word = take_word(t->of.take);
    return word && json_object_set_new(json, "target_modules", json_string(word)) ? fail(E_MEMORY, "out of memory") : OK;
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "full fine-tuning (whole tensors of the base");
}

static const struct targets *targets_of(const void *settings) { return &((const struct full *)settings)->targets; }

static val vector(struct site *s, const struct base_vector *v) {
    const struct full *f = s->settings;
    return targets_take(&f->targets, &v->of) ? vector_copy(s, v, "") : (val){0};
}

static val matrix(struct site *s, const struct base_matrix *m) {
    const struct full *f = s->settings;
    if (!targets_take(&f->targets, &m->of)) return (val){0};
    char name[256], file[256];
    snprintf(name, sizeof name, "%s.weight", m->of.name);
    snprintf(file, sizeof file, "%s.weight", m->of.module);
    const struct param_slice whole = {.name = file, .rows = m->rows, .rope_heads = m->rope_heads, .from = m->data, .stored = m->stored, .turned = m->turned, .form = m->form};
    return prog_param(s->p, s->params, param_get(s->params, name, 2, (int64_t[]){m->rows, m->cols}, INIT_COPY, 0, &whole, 1));
}

const struct peft_method method_full = {.name = "full", .peft_type = "FULL", .settings = sizeof(struct full), .check = check, .same = same, .read = read_json, .write = write_json,
                                        .describe = describe, .targets = targets_of, .mark = ".weight", .vector = vector, .matrix = matrix, .whole = "", .ours = true};
