/* Prefix tuning (Li & Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation"): in every layer the keys and values of P
 * virtual tokens before the text are trained, 2 L P K D numbers. PEFT's PREFIX_TUNING with prefix_projection false: keys go in as they are,
 * without a rotation, and the text's own positions begin at P.
 *
 * The virtual tokens are rows like any other, whose keys and values are laid over (the hook `kv`) before attention reads them and the cache
 * keeps them; what else a block computes for these rows nobody reads. One parameter for each layer's keys and one for its values; the file
 * has all of them side by side, [P, (layer, keys or values, head, D)]. The keys' columns change between GGUF's and Hugging Face's order of
 * RoPE's pairs, as the queries that meet them do.
 *
 * Decoding needs nothing of it: the prefix lies in the cache. */
#include "peft/prefix_tuning.h"
#include "peft/methods.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static bool same(const void *one, const void *other) {
    const struct prefix_tuning *a = one, *b = other;
    return a->of.tokens == b->of.tokens && a->zero == b->zero;
}

static err check(const void *settings) { return soft_prompt_check(&((const struct prefix_tuning *)settings)->of, "prefix_tuning"); }

/* A projected prefix is saved as what it came to: with inference_mode there is nothing left to project. */
static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct prefix_tuning *p = settings;
    const char *init = json_string_value(json_object_get(json, "init_weights"));
    (void)mem;
    *p = (struct prefix_tuning){.zero = init && !strcmp(init, "zero")};
    TRY(soft_prompt_read(json, where, &p->of));
    if (json_is_true(json_object_get(json, "prefix_projection")) && !json_is_true(json_object_get(json, "inference_mode")))
        return fail(E_UNSUPPORTED, "%s: prefix_projection is not supported: the prefix is trained as it is", where);
    err e = check(p);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct prefix_tuning *p = settings;
    (void)named;
    TRY(soft_prompt_write(&p->of, json));
    int bad = json_object_set_new(json, "prefix_projection", json_false()) |
              json_object_set_new(json, "encoder_hidden_size", json_integer((json_int_t)p->of.width));
    if (p->zero) bad |= json_object_set_new(json, "init_weights", json_string("zero"));
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    (void)module;
    return soft_prompt_agrees(&((const struct prefix_tuning *)have)->of, &((const struct prefix_tuning *)want)->of, "prefix_tuning",
                              folder);
}

static void describe(const void *settings, str *out) {
    str_addf(out, "prefix (%d virtual tokens", ((const struct prefix_tuning *)settings)->of.tokens);
}

static err fit(void *settings, const struct base_sizes *base) {
    struct prefix_tuning *p = settings;
    p->pairs = base->pairs;
    return soft_prompt_fit(&p->of, "prefix_tuning", base, base->kv_heads * base->head_dim, base->kv_heads);
}

/* The keys (which 0) or values (1) of a layer, [P, K D]. */
static val part(struct site *s, const struct prefix_tuning *p, int layer, int which) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.prefix_%c", layer, which ? 'v' : 'k');
    const struct param_slice slice = {.name = "prompt_embeddings",
                                      .rows = p->of.tokens,
                                      .column0 = (2 * layer + which) * p->of.width,
                                      .columns = 2 * p->of.layers * p->of.width,
                                      .rope_heads = !which && p->pairs ? (int)p->of.heads : 0,
                                      .init_scale = 1};
    const int index = param_get(s->params, name, 2, (int64_t[]){p->of.tokens, p->of.width}, p->zero ? INIT_ZERO : INIT_NORMAL_SLICES, 0, &slice, 1);
    param_occasional(s->params, index); /* a local layer's window may end before the first token with a loss */
    return prog_param(s->p, s->params, index);
}

static err kv(struct site *s, int layer, val *k, val *v) {
    const struct prefix_tuning *p = s->settings;
    if (s->mode == MODE_DECODE) return OK;
    *k = soft_prompt_lay(s, &p->of, *k, part(s, p, layer, 0));
    *v = soft_prompt_lay(s, &p->of, *v, part(s, p, layer, 1));
    return s->p->failed;
}

const struct peft_method method_prefix_tuning = {.name = "prefix_tuning",
                                                 .peft_type = "PREFIX_TUNING",
                                                 .settings = sizeof(struct prefix_tuning),
                                                 .check = check,
                                                 .same = same,
                                                 .read = read_json,
                                                 .write = write_json,
                                                 .agrees = agrees,
                                                 .describe = describe,
                                                 .mark = "prompt_embeddings",
                                                 .bare = true,
                                                 .fit = fit,
                                                 .virtual_tokens = soft_prompt_tokens,
                                                 .kv = kv};
