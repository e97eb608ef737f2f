/* See soft_prompt.h. */
#include "peft/soft_prompt.h"
#include "ops/ops.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>

err soft_prompt_check(const struct soft_prompt *p, const char *method) {
    if (p->tokens >= 1 && p->tokens <= MOST_VIRTUAL_TOKENS) return OK;
    return fail(E_USAGE, "%s.num_virtual_tokens is %d; it must be 1 to %d", method, p->tokens, MOST_VIRTUAL_TOKENS);
}

static err read_size(const json_t *j, const char *key, const char *where, int64_t *out) {
    const json_t *v = json_object_get(j, key);
    if (!v || json_is_null(v)) return *out = 0, OK;
    *out = json_integer_value(v);
    return json_is_integer(v) && *out > 0 && *out < 1 << 30 ? OK : fail(E_INPUT, "%s: '%s' is no size", where, key);
}

err soft_prompt_read(const void *json, const char *where, struct soft_prompt *p) {
    int64_t tokens, submodules;
    *p = (struct soft_prompt){0};
    TRY(read_size(json, "num_virtual_tokens", where, &tokens));
    if (!tokens) return fail(E_INPUT, "%s: 'num_virtual_tokens' is missing", where);
    p->tokens = (int)tokens;
    TRY(read_size(json, "num_transformer_submodules", where, &submodules));
    if (submodules > 1)
        return fail(E_UNSUPPORTED, "%s: num_transformer_submodules %d: virtual tokens for encoder and decoder are not supported yet", where,
                    (int)submodules);
    TRY(read_size(json, "token_dim", where, &p->width));
    TRY(read_size(json, "num_layers", where, &p->layers));
    return read_size(json, "num_attention_heads", where, &p->heads);
}

err soft_prompt_write(const struct soft_prompt *p, void *json) {
    int bad = json_object_set_new(json, "num_virtual_tokens", json_integer(p->tokens)) |
              json_object_set_new(json, "num_transformer_submodules", json_integer(1)) |
              json_object_set_new(json, "token_dim", json_integer((json_int_t)p->width)) |
              json_object_set_new(json, "num_layers", json_integer((json_int_t)p->layers)) |
              json_object_set_new(json, "num_attention_heads", json_integer((json_int_t)p->heads)) |
              json_object_set_new(json, "modules_to_save", json_null());
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

err soft_prompt_fit(struct soft_prompt *p, const char *method, const struct base_sizes *base, int64_t width, int64_t heads) {
    if (base->seq2seq)
        return fail(E_UNSUPPORTED,
                    "%s of an encoder-decoder is not supported yet: its virtual tokens belong before the encoder's text and before the "
                    "decoder's (PEFT's num_transformer_submodules 2), and rows are made for the decoder's alone",
                    method);
    if (p->width && p->width != width)
        return fail(E_USAGE, "the adapter was made for a base with token_dim %lld, this one has %lld", (long long)p->width,
                    (long long)width);
    if (p->layers && p->layers != base->layers)
        return fail(E_USAGE, "the adapter was made for a base of %lld layers, this one has %lld", (long long)p->layers,
                    (long long)base->layers);
    p->width = width;
    p->layers = base->layers;
    p->heads = heads;
    p->first = base->vocab;
    return OK;
}

err soft_prompt_agrees(const struct soft_prompt *have, const struct soft_prompt *want, const char *method, const char *folder) {
    if (have->tokens != want->tokens)
        return fail(E_USAGE, "%s was made with %s.num_virtual_tokens %d, the configuration says %d", folder, method, have->tokens,
                    want->tokens);
    if (have->width && have->width != want->width)
        return fail(E_USAGE, "%s was made for a base with token_dim %lld, this one has %lld", folder, (long long)have->width,
                    (long long)want->width);
    return OK;
}

int soft_prompt_tokens(const void *settings) { return ((const struct soft_prompt *)settings)->tokens; }

/* For as long as the process lives: programs keep the place. */
static const int32_t *row_numbers(void) {
    static int32_t number[MOST_VIRTUAL_TOKENS];
    for (int i = 0; i < MOST_VIRTUAL_TOKENS; i++) number[i] = i;
    return number;
}

val soft_prompt_rows(struct site *s, int rows, val table) {
    const int64_t n = rows;
    const val ids = prog_base(s->p, DT_I32, 1, &n, row_numbers(), "virtual tokens");
    return emit1(s->p, &op_embed, (val[]){ids, table}, 2, &(struct op_attr){.scale = 1});
}

/* Both uniform within 1 / sqrt(in). */
val soft_prompt_linear(struct site *s, val x, const char *name, int64_t in, int64_t out) {
    char weight[96], bias[96];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    const float bound = (float)(1 / sqrt((double)in));
    const struct param_slice of_weight = {.name = weight, .rows = out}, of_bias = {.name = bias, .rows = out};
    const struct linear w = {
        .w = prog_param(s->p, s->params, param_get(s->params, weight, 2, (int64_t[]){out, in}, INIT_UNIFORM, bound, &of_weight, 1)),
        .bias = prog_param(s->p, s->params, param_get(s->params, bias, 1, &out, INIT_UNIFORM, bound, &of_bias, 1)),
        .in = in,
        .out = out};
    val y = {0};
    site_emit_linear(s, x, 1, &w, NULL, NULL, &y);
    return y;
}

val soft_prompt_lay(struct site *s, const struct soft_prompt *p, val x, val table) {
    return emit1(s->p, &op_overlay, (val[]){x, s->ids, table}, 3, &(struct op_attr){.first = (int)p->first});
}
