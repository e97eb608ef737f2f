/* P-tuning (Liu et al. 2021, "GPT Understands, Too"): the rows of P virtual tokens before every text are what an encoder makes of P rows of
 * its own: Linear, ReLU, Linear, ReLU, Linear, the MLP of PEFT's P_TUNING (peft/tuners/p_tuning/model.py). Rows and encoder are trained;
 * the encoder is a way to train, it makes the same prompt for every text.
 *
 * So an adapter that is used has the finished prompt alone, as PEFT saves it (inference_mode true): then it is prompt tuning. The encoder
 * lies beside it in prompt_encoder.safetensors, under the names of PEFT's modules, for training to go on from. PEFT's LSTM encoder is not
 * trained here; a prompt that one has made is as good as any. */
#include "peft/p_tuning.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char APART[] = "prompt_encoder.safetensors", ROWS[] = "prompt_encoder.embedding.weight";
enum { LAYERS = 3, MOST_HIDDEN = 1 << 16 };

static bool same(const void *one, const void *other) {
    const struct p_tuning *a = one, *b = other;
    return a->of.tokens == b->of.tokens && a->trains == b->trains && (!a->trains || a->hidden == b->hidden);
}

static err check(const void *settings) {
    const struct p_tuning *p = settings;
    if (p->hidden < 0 || p->hidden > MOST_HIDDEN)
        return fail(E_USAGE, "p_tuning.encoder_hidden_size is %lld; it must be 0 (the model's width) to %d", (long long)p->hidden,
                    MOST_HIDDEN);
    return soft_prompt_check(&p->of, "p_tuning");
}

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct p_tuning *p = settings;
    const char *kind = json_string_value(json_object_get(json, "encoder_reparameterization_type"));
    (void)mem;
    *p = (struct p_tuning){.hidden = json_integer_value(json_object_get(json, "encoder_hidden_size")),
                           .trains = !json_is_true(json_object_get(json, "inference_mode"))};
    TRY(soft_prompt_read(json, where, &p->of));
    if (p->trains && kind && strcmp(kind, "MLP"))
        return fail(E_UNSUPPORTED, "%s: encoder_reparameterization_type %s is not trained here, MLP is", where, kind);
    err e = check(p);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct p_tuning *p = settings;
    (void)named;
    TRY(soft_prompt_write(&p->of, json));
    int bad = json_object_set_new(json, "encoder_reparameterization_type", json_string("MLP")) |
              json_object_set_new(json, "encoder_hidden_size", json_integer((json_int_t)p->hidden)) |
              json_object_set_new(json, "encoder_num_layers", json_integer(2)) | json_object_set_new(json, "encoder_dropout", json_real(0));
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    (void)module;
    return soft_prompt_agrees(&((const struct p_tuning *)have)->of, &((const struct p_tuning *)want)->of, "p_tuning", folder);
}

static void describe(const void *settings, str *out) {
    const struct p_tuning *p = settings;
    str_addf(out, "soft prompt (%d virtual tokens", p->of.tokens);
    if (p->trains) str_addf(out, ", made by an MLP of %lld", (long long)p->hidden);
}

static err fit(void *settings, const struct base_sizes *base) {
    struct p_tuning *p = settings;
    if (!p->hidden) p->hidden = base->width;
    return soft_prompt_fit(&p->of, "p_tuning", base, base->width, base->heads);
}

/* --- in a program -------------------------------------------------------------------------------------------------------- */
static val matrix(struct site *s, const char *name, int64_t rows, int64_t columns, enum param_init init, float scale) {
    const struct param_slice whole = {.name = name, .rows = rows, .init_scale = scale};
    return prog_param(s->p, s->params, param_get(s->params, name, 2, (int64_t[]){rows, columns}, init, scale, &whole, 1));
}

static val encode(struct site *s, const struct p_tuning *p) {
    const int64_t width[LAYERS + 1] = {p->of.width, p->hidden, p->hidden, p->of.width};
    val x = soft_prompt_rows(s, p->of.tokens, matrix(s, ROWS, p->of.tokens, p->of.width, INIT_NORMAL_SLICES, 1));
    for (int k = 0; k < LAYERS; k++) {
        char name[64]; /* of PEFT's Sequential: 0, 2, 4 */
        snprintf(name, sizeof name, "prompt_encoder.mlp_head.%d", 2 * k);
        x = soft_prompt_linear(s, x, name, width[k], width[k + 1]);
        if (k + 1 < LAYERS) x = emit1(s->p, &op_glu, (val[]){x, {0}}, 2, &(struct op_attr){.act = ACT_RELU});
    }
    return x;
}

static val embed(struct site *s, const struct embedding *e, val x) {
    const struct p_tuning *p = s->settings;
    (void)e;
    if (s->mode == MODE_DECODE) return x;
    return soft_prompt_lay(s, &p->of, x,
                           p->trains ? encode(s, p) : matrix(s, "prompt_embeddings", p->of.tokens, p->of.width, INIT_NORMAL_SLICES, 1));
}

/* --- the finished prompt ------------------------------------------------------------------------------------------------- */
static const char *apart(const void *settings) { return ((const struct p_tuning *)settings)->trains ? APART : NULL; }

static const float *numbers(const struct param_set *set, const float *weights, const char *name) {
    int i = 0;
    while (strcmp(set->p[i].name, name)) i++; /* laid down by encode() */
    return weights + set->p[i].off / 4;
}

static err made(const void *settings, const struct param_set *set, const float *weights, arena *mem, struct made_matrix *out) {
    const struct p_tuning *p = settings;
    const int64_t width[LAYERS + 1] = {p->of.width, p->hidden, p->hidden, p->of.width}, tokens = p->of.tokens;
    const float *x = numbers(set, weights, ROWS);
    for (int k = 0; k < LAYERS; k++) {
        char weight[64], bias[64];
        snprintf(weight, sizeof weight, "prompt_encoder.mlp_head.%d.weight", 2 * k);
        snprintf(bias, sizeof bias, "prompt_encoder.mlp_head.%d.bias", 2 * k);
        const float *w = numbers(set, weights, weight), *b = numbers(set, weights, bias);
        float *y = arena_alloc(mem, (size_t)(tokens * width[k + 1]) * sizeof *y);
        if (!y) return fail(E_MEMORY, "out of memory");
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t o = 0; o < width[k + 1]; o++) {
                double sum = b[o];
                for (int64_t c = 0; c < width[k]; c++) sum += (double)w[o * width[k] + c] * x[t * width[k] + c];
                y[t * width[k + 1] + o] = (float)(k + 1 < LAYERS && sum < 0 ? 0 : sum);
            }
        x = y;
    }
    *out = (struct made_matrix){.name = "prompt_embeddings", .rows = tokens, .columns = p->of.width, .data = x};
    return OK;
}

const struct peft_method method_p_tuning = {.name = "p_tuning",
                                            .peft_type = "P_TUNING",
                                            .settings = sizeof(struct p_tuning),
                                            .check = check,
                                            .same = same,
                                            .read = read_json,
                                            .write = write_json,
                                            .agrees = agrees,
                                            .describe = describe,
                                            .mark = "",
                                            .bare = true,
                                            .fit = fit,
                                            .virtual_tokens = soft_prompt_tokens,
                                            .embed = embed,
                                            .apart = apart,
                                            .made = made};
