/* Prompt tuning (Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning"): the rows of P virtual tokens before every
 * text are trained, P C numbers, in place of what the token table would give. PEFT's PROMPT_TUNING.
 *
 * They begin as N(0, 1) (PEFT's RANDOM), as rows of tokens drawn from the vocabulary, or as those of a text, repeated or cut to P: then
 * step 0 is the base with that text before every other, bit for bit. Where a model scales its rows (Gemma) the table holds them scaled, as
 * PEFT has them: it lays its prompt over what the embedding gives.
 *
 * Decoding needs nothing of it: no virtual token comes after the prompt. */
#include "peft/prompt_tuning.h"
#include "base/philox.h"
#include "peft/methods.h"
#include <jansson.h>
#include <string.h>

static const char *const words[] = {"RANDOM", "SAMPLE_VOCAB", "TEXT"};

static bool same(const void *one, const void *other) {
    const struct prompt_tuning *a = one, *b = other;
    return a->of.tokens == b->of.tokens && a->init == b->init && (a->init != PROMPT_TEXT || !strcmp(a->text, b->text));
}

static err check(const void *settings) {
    const struct prompt_tuning *p = settings;
    TRY(soft_prompt_check(&p->of, "prompt_tuning"));
    return p->init == PROMPT_TEXT && !*p->text ? fail(E_USAGE, "prompt_tuning.prompt_tuning_init TEXT needs prompt_tuning_init_text") : OK;
}

static err read_ids(const json_t *list, arena *mem, struct prompt_tuning *p) {
    const int n = (int)json_array_size(list);
    int32_t *ids = arena_alloc(mem, (size_t)n * sizeof *ids + 1);
    if (!ids) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    p->ids = ids;
    p->n_ids = n;
    return OK;
}

/* prompt_tuning_init_ids is the configuration's way to say what the text is (train/method.c); PEFT has no such key. */
static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct prompt_tuning *p = settings;
    const char *init = json_string_value(json_object_get(json, "prompt_tuning_init")),
               *text = json_string_value(json_object_get(json, "prompt_tuning_init_text"));
    *p = (struct prompt_tuning){0};
    TRY(soft_prompt_read(json, where, &p->of));
    for (int i = 0; init && i < 3; i++)
        if (!strcmp(init, words[i])) p->init = (enum prompt_init)i;
    p->text = arena_str(mem, text ? text : "");
    if (!p->text) return fail(E_MEMORY, "out of memory");
    TRY(read_ids(json_object_get(json, "prompt_tuning_init_ids"), mem, p));
    err e = check(p);
    return e ? fail_in(e, "%s", where) : OK;
}

/* PEFT wants a tokenizer's name beside a text, though it reads it only to train on. */
static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct prompt_tuning *p = settings;
    const bool text = p->init == PROMPT_TEXT;
    const json_t *base = json_object_get(json, "base_model_name_or_path");
    (void)named;
    TRY(soft_prompt_write(&p->of, json));
    int bad = json_object_set_new(json, "prompt_tuning_init", json_string(words[p->init])) |
              json_object_set_new(json, "prompt_tuning_init_text", text ? json_string(p->text) : json_null()) |
              json_object_set_new(json, "tokenizer_name_or_path", text ? base ? json_copy((json_t *)base) : json_string("") : json_null());
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    (void)module;
    return soft_prompt_agrees(&((const struct prompt_tuning *)have)->of, &((const struct prompt_tuning *)want)->of, "prompt_tuning",
                              folder);
}

static void describe(const void *settings, str *out) {
    str_addf(out, "soft prompt (%d virtual tokens", ((const struct prompt_tuning *)settings)->of.tokens);
}

static int virtual_tokens(const void *settings) { return ((const struct prompt_tuning *)settings)->of.tokens; }

static err fit(void *settings, const struct base_sizes *base) {
    struct prompt_tuning *p = settings;
    for (int i = 0; i < p->n_ids; i++)
        if (p->ids[i] < 0 || p->ids[i] >= base->vocab)
            return fail(E_INPUT, "prompt_tuning.prompt_tuning_init_text: token id %d is not in the vocabulary of %lld", p->ids[i],
                        (long long)base->vocab);
    return soft_prompt_fit(&p->of, "prompt_tuning", base, base->width, base->heads);
}

/* --- in a program -------------------------------------------------------------------------------------------------------- */
/* Where rows begin that are rows of the vocabulary. */
struct beginning {
    const struct prompt_tuning *settings;
    struct embedding table;
};

static err token_rows(const struct param_slice *s, int64_t columns, uint64_t key, float *to) {
    const struct beginning *b = s->how;
    const struct embedding *e = &b->table;
    const size_t bytes = dtype_row_bytes(e->dt, columns);
    for (int64_t r = 0; r < s->rows; r++, to += columns) {
        int64_t id = (int64_t)((uint64_t)philox(key, (uint32_t)r, 0, 0, 0).v[0] * (uint64_t)e->rows >> 32);
        if (b->settings->n_ids) id = b->settings->ids[r % b->settings->n_ids];
        dequantise_row(e->dt, (const char *)e->data + bytes * (size_t)id, to, columns);
        for (int64_t c = 0; c < columns; c++) to[c] *= (float)e->scale;
    }
    return OK;
}

static const struct beginning *begin(struct site *s, const struct embedding *e) {
    struct beginning *b = arena_alloc(&s->params->mem, sizeof *b);
    if (b) *b = (struct beginning){s->settings, *e};
    else prog_fail(s->p, E_MEMORY, "out of memory while building a program");
    return b;
}

static val embed(struct site *s, const struct embedding *e, val x) {
    const struct prompt_tuning *p = s->settings;
    if (s->mode == MODE_DECODE) return x;
    const bool drawn = p->init == PROMPT_RANDOM;
    const struct param_slice whole = {.name = "prompt_embeddings",
                                      .rows = p->of.tokens,
                                      .init_scale = 1,
                                      .make = token_rows,
                                      .how = drawn || s->params->sealed ? NULL : begin(s, e)};
    const int table = param_get(s->params, "prompt_embeddings", 2, (int64_t[]){p->of.tokens, e->width},
                                drawn ? INIT_NORMAL_SLICES : INIT_MADE, 0, &whole, 1);
    return soft_prompt_lay(s, &p->of, x, prog_param(s->p, s->params, table));
}

const struct peft_method method_prompt_tuning = {.name = "prompt_tuning",
                                                 .peft_type = "PROMPT_TUNING",
                                                 .settings = sizeof(struct prompt_tuning),
                                                 .check = check,
                                                 .same = same,
                                                 .read = read_json,
                                                 .write = write_json,
                                                 .agrees = agrees,
                                                 .describe = describe,
                                                 .mark = "prompt_embeddings",
                                                 .bare = true,
                                                 .fit = fit,
                                                 .virtual_tokens = virtual_tokens,
                                                 .embed = embed};
