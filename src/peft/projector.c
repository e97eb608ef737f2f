/* A projector: vectors that come in with each text (what an encoder made of an image, a sound, another text) become the rows of virtual tokens
 * before it, and a frozen model reads them as it reads words. What is trained is the map from one space into the other, that of LLaVA (Liu et
 * al. 2023, "Visual Instruction Tuning", whose `linear`, and 2024, "Improved Baselines with Visual Instruction Tuning", whose `mlp2x_gelu`):
 *
 *   linear      y = W x + b                             mlp2x_gelu   y = W2 gelu(W0 x + b0) + b2        x [E], y [C], W2 [C, C]
 *
 * T vectors of E numbers stand before each text, at positions 0 to T - 1. They are an input of the programs (site.given): nobody trains what
 * made them. Where a model scales its embedding (Gemma) the rows are laid over the scaled ones, as soft prompts are.
 *
 * Files are our own folder layout (PEFT has no such method) with LLaVA's names of tensors, so that its mm_projector.bin, saved as safetensors,
 * and ours are the same numbers. Decoding needs nothing of it: the vectors' keys and values lie in the cache. */
#include "peft/projector.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include <jansson.h>
#include <string.h>

enum { MOST_WIDTH = 1 << 20 };

static bool same(const void *one, const void *other) {
    const struct projector *a = one, *b = other;
    return a->of.tokens == b->of.tokens && a->width == b->width && a->mlp == b->mlp;
}

static err check(const void *settings) {
    const struct projector *p = settings;
    if (p->width < 1 || p->width > MOST_WIDTH)
        return fail(E_USAGE, "projector.mm_hidden_size is %d; it must be the numbers of a vector, 1 to %d", p->width, MOST_WIDTH);
    return soft_prompt_check(&p->of, "projector");
}

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct projector *p = settings;
    const char *type = json_string_value(json_object_get(json, "mm_projector_type"));
    const json_t *width = json_object_get(json, "mm_hidden_size");
    (void)mem;
    *p = (struct projector){.mlp = !type || !strcmp(type, "mlp2x_gelu")};
    if (type && !p->mlp && strcmp(type, "linear") != 0)
        return fail(E_UNSUPPORTED, "%s: mm_projector_type %.40s; supported: linear, mlp2x_gelu", where, type);
    TRY(soft_prompt_read(json, where, &p->of));
    if (json_is_integer(width) && json_integer_value(width) <= MOST_WIDTH) p->width = (int)json_integer_value(width);
    err e = check(p);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct projector *p = settings;
    (void)named;
    TRY(soft_prompt_write(&p->of, json));
    int bad = json_object_set_new(json, "mm_projector_type", json_string(p->mlp ? "mlp2x_gelu" : "linear")) |
              json_object_set_new(json, "mm_hidden_size", json_integer(p->width));
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    const struct projector *a = have, *b = want;
    (void)module;
    if (a->mlp != b->mlp || a->width != b->width)
        return fail(E_USAGE, "%s holds a projector %s of vectors of %d numbers, the configuration says %s and %d", folder,
                    a->mlp ? "mlp2x_gelu" : "linear", a->width, b->mlp ? "mlp2x_gelu" : "linear", b->width);
    return soft_prompt_agrees(&a->of, &b->of, "projector", folder);
}

static void describe(const void *settings, str *out) {
    const struct projector *p = settings;
    str_addf(out, "projector (%s, %d vector%s of %d numbers before each text", p->mlp ? "MLP" : "linear", p->of.tokens,
             p->of.tokens > 1 ? "s" : "", p->width);
}

static err fit(void *settings, const struct base_sizes *base) {
    struct projector *p = settings;
    return soft_prompt_fit(&p->of, "projector", base, base->width, base->heads);
}

static int given(const void *settings, int *width) {
    const struct projector *p = settings;
    *width = p->width;
    return p->of.tokens;
}

static val embed(struct site *s, const struct embedding *e, val x) {
    const struct projector *p = s->settings;
    const int64_t C = p->of.width;
    (void)e;
    if (s->mode == MODE_DECODE) return x;
    val y = emit1(s->p, &op_embed, (val[]){s->given_rows, s->given}, 2, &(struct op_attr){.scale = 1}); /* in the program's type */
    y = soft_prompt_linear(s, y, p->mlp ? "mm_projector.0" : "mm_projector", p->width, C);
    if (p->mlp) {
        y = emit1(s->p, &op_glu, (val[]){y, {0}}, 2, &(struct op_attr){.act = ACT_GELU_ERF});
        y = soft_prompt_linear(s, y, "mm_projector.2", C, C);
    }
    return soft_prompt_lay(s, &p->of, x, y);
}

const struct peft_method method_projector = {.name = "projector",
                                             .peft_type = "PROJECTOR",
                                             .settings = sizeof(struct projector),
                                             .check = check,
                                             .same = same,
                                             .read = read_json,
                                             .write = write_json,
                                             .agrees = agrees,
                                             .describe = describe,
                                             .mark = "",
                                             .bare = true,
                                             .ours = true,
                                             .fit = fit,
                                             .virtual_tokens = soft_prompt_tokens,
                                             .given = given,
                                             .embed = embed};
