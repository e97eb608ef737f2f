/* See tokenizer_out.h: what both ways share, and the files of the folder. The halves are tokenizer_out_gguf.c and
 * tokenizer_out_json.c; each makes its form from the tokenizer as it was read, and here both are held against each other. */
#include "io/tokenizer_out.h"
#include "io/tokenizer_out_parts.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* --- the same ids? --------------------------------------------------------------------------------------------------- */
/* Contractions in both cases, runs of digits, mixed case, code, white space of all kinds, scripts, a decomposed letter, symbols: known
 * pipelines differ somewhere in it. */
static const char probe[] =
    "Hello WORLD, don't DON'T I'LL we'll  1 12 123 1234 1234567 x=3.14; foo_bar(baz)  //comment/\n\n\t  indented\r\n  HTTPResponseCode "
    "camelCase "
    "\xC3\x80\xC3\x89\xC3\x8E Cafe\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD \xE3\x81\x93\xE3\x82\x93 \xEC\x95\x88\xEB\x85\x95 "
    "\xD0\xBF\xD1\x80\xD0\xB8 "
    "\xD9\x85\xD8\xB1 \xF0\x9F\x9A\x80\xF0\x9F\x8E\x89 \xC2\xB2\xC2\xBD \xD9\xA3\xD9\xA4 ... !!!--- $5+<=>^~|\n \n  trailing   "
    "a     b \xEF\xBC\xA1\xEF\xAC\x81\xC2\xAD\xE2\x80\x8B\xE3\x80\x80 \xE2\x96\x81\xE2\x96\x81 end";

static bool same_ids(const tokenizer *a, const tokenizer *b, const char *text, size_t n, unsigned flags) {
    struct ids x = {0}, y = {0};
    bool same = !tokenizer_encode(a, text, n, flags, &x) && !tokenizer_encode(b, text, n, flags, &y) && x.n == y.n &&
                (x.n == 0 || !memcmp(x.v, y.v, x.n * sizeof *x.v));
    ids_free(&x);
    ids_free(&y);
    return same;
}

static bool is_text(const struct token *k) {
    unsigned cp;
    for (size_t i = 0, len; i < k->n_bytes; i += len)
        if ((len = (size_t)utf8_decode(k->bytes + i, k->n_bytes - i, &cp)) == 0) return false;
    return true;
}

void out_spaced(const char *text, size_t n, str *out) {
    for (size_t at = 0; at < n; at++) {
        bool sign = at + SPACE_SIGN_BYTES <= n && !memcmp(text + at, SPACE_SIGN, SPACE_SIGN_BYTES);
        str_addc(out, sign ? ' ' : text[at]);
        if (sign) at += SPACE_SIGN_BYTES - 1;
    }
}

/* Tokens from all over the vocabulary, some with a space between: every merge, path and word of it is as likely to be in this. */
static void vocabulary_text(const tokenizer *t, str *out) {
    enum { TOKENS = 4096, STRIDE = 2654435761u % (1u << 31) };
    str_addc(out, 'x');
    for (uint64_t i = 1; i <= TOKENS; i++) {
        const struct token *k = &t->tokens[i * STRIDE % (uint64_t)t->n];
        if (k->added || !is_text(k)) continue;
        if (i % 3 == 0) str_addc(out, ' ');
        out_spaced(k->bytes, k->n_bytes, out);
    }
}

bool out_same_text(const tokenizer *a, const tokenizer *b) {
    str own = {0};
    vocabulary_text(a, &own);
    bool same = !own.failed && same_ids(a, b, probe, sizeof probe - 1, 0) && same_ids(a, b, own.p, own.n, 0);
    str_free(&own);
    return same;
}

static bool same_beside(const tokenizer *a, const tokenizer *b, const struct added *k) {
    str text = {0};
    for (int i = 0; i < 3; i++) {
        str_adds(&text, (const char *[]){"a", " b ", "c\n"}[i]);
        str_add(&text, k->text, k->n);
    }
    str_adds(&text, "d");
    bool same = !text.failed && same_ids(a, b, text.p, text.n, ENCODE_SPECIAL);
    str_free(&text);
    return same;
}

bool out_same_added(const tokenizer *a, const tokenizer *b, char *what, size_t room) {
    const struct added_list *lists[] = {&a->raw, &a->normalised};
    snprintf(what, room, "a text that begins with a space");
    if (!same_ids(a, b, " a", 2, 0)) return false;
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < lists[k]->n; i++) {
            if (same_beside(a, b, &lists[k]->v[i])) continue;
            snprintf(what, room, "what stands beside \"%.60s\"", a->tokens[lists[k]->v[i].id].text);
            return false;
        }
    return true;
}

static bool same_list(const struct ids *a, const struct ids *b) {
    return a->n == b->n && (a->n == 0 || !memcmp(a->v, b->v, a->n * sizeof *a->v));
}

bool out_same_around(const tokenizer *a, const tokenizer *b) {
    return same_list(&a->prefix, &b->prefix) && same_list(&a->suffix, &b->suffix);
}

/* --- what GGUF knows of tokens --------------------------------------------------------------------------------------- */
static bool is_byte(const tokenizer *t, int32_t id) {
    const struct token *k = &t->tokens[id];
    if (t->byte_level || !t->byte_fallback || k->n_text != 6 || k->text[0] != '<') return false;
    long b = strtol(k->text + 1, NULL, 16);
    return b >= 0 && b < 256 && t->byte_id[b] == id;
}

enum gguf_token out_type(const tokenizer *t, int32_t id) {
    const struct token *k = &t->tokens[id];
    if (id == t->unk && !t->byte_level && t->kind != MODEL_WORDPIECE) return TOKEN_UNKNOWN;
    if (k->special) return TOKEN_CONTROL;
    if (k->added) return TOKEN_USER_DEFINED;
    return is_byte(t, id) ? TOKEN_BYTE : TOKEN_NORMAL;
}

static bool merges_of(const tokenizer *t, int32_t id) { return id >= 0 && t->tokens[id].in_model && out_type(t, id) == TOKEN_NORMAL; }

/* The symbol with this text: its id, -1 for a character without one; false: no symbol at all. */
static bool symbol_of(const tokenizer *t, const char *text, size_t n, int32_t *id) {
    unsigned cp;
    *id = tok_find(t, text, n);
    if (merges_of(t, *id)) return true;
    *id = -1;
    return (size_t)utf8_decode(text, n, &cp) == n;
}

err each_halves(const tokenizer *t, halves_fn fn, void *ctx) {
    enum { LONGEST = 1024 }; /* each cut looks at all bytes: a file of few huge tokens would take for ever */
    int32_t half[2];
    for (int32_t id = 0; id < t->n; id++) {
        const struct token *k = &t->tokens[id];
        if (!merges_of(t, id)) continue;
        if (k->n_text > LONGEST)
            return fail(E_UNSUPPORTED, "%s: token %d has %u bytes; tokens of merges cross formats up to %d", t->name, id, k->n_text,
                        LONGEST);
        for (uint32_t at = 1; at < k->n_text; at++) {
            if (((uint8_t)k->text[at] & 0xC0) == 0x80 || !symbol_of(t, k->text, at, &half[0])) continue;
            if (symbol_of(t, k->text + at, k->n_text - at, &half[1])) TRY(fn(ctx, id, half[0], half[1]));
        }
    }
    return OK;
}

/* --- to GGUF --------------------------------------------------------------------------------------------------------- */
err tokenizer_to_gguf(const char *folder, int64_t vocab, struct gguf_keys *out) {
    str path = {0};
    tokenizer *t = NULL;
    str_addf(&path, "%s/tokenizer.json", folder);
    err e = path.failed ? out_of_memory() : tokenizer_from_json(path.p, &t);
    if (!e && !tokenizer_fit(t, vocab))
        e = fail(E_INPUT, "%s: %d tokens, the model has only %lld", path.p, tokenizer_vocab(t), (long long)vocab);
    if (!e) e = tokenizer_keys(t, vocab, out);
    if (t) tokenizer_free(t);
    str_free(&path);
    return e;
}

/* --- to Hugging Face ------------------------------------------------------------------------------------------------- */
static bool pre_of(const struct gguf_meta *meta, struct gguf_pre *out) {
    const char *name = gguf_str(meta, "tokenizer.ggml.pre");
    for (int i = 0; gguf_pre_at(i, out); i++)
        if (!strcmp(out->name, name ? name : "default")) return true;
    return false;
}

static err write_text(const char *folder, const char *name, const char *text, size_t n) {
    str path = {0};
    str_addf(&path, "%s/%s", folder, name);
    err e = text && !path.failed ? file_write(path.p, text, n) : out_of_memory();
    str_free(&path);
    return e;
}

static err write_json(const char *folder, const char *name, json_t *j) {
    char *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    err e = write_text(folder, name, text, text ? strlen(text) : 0);
    free(text);
    json_decref(j);
    return e;
}

static void set_token(json_t *j, const char *key, const tokenizer *t, int32_t id) {
    const char *s = id >= 0 ? tokenizer_token(t, id) : NULL;
    if (s) json_object_set_new(j, key, json_string(s));
}

/* A key of the model's architecture. */
static bool arch_u64(const struct gguf_meta *meta, const char *name, uint64_t *out) {
    char key[160];
    const char *arch = gguf_str(meta, "general.architecture");
    snprintf(key, sizeof key, "%.100s.%s", arch ? arch : "", name);
    return gguf_u64(meta, key, out);
}

static json_t *config_json(const struct gguf_meta *meta, const tokenizer *t) {
    uint64_t context = 0;
    const bool bert = t->kind == MODEL_WORDPIECE;
    json_t *j = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", bert);
    set_token(j, bert ? "cls_token" : "bos_token", t, tokenizer_bos(t));
    set_token(j, bert ? "sep_token" : "eos_token", t, tokenizer_eos(t));
    set_token(j, "pad_token", t, tokenizer_pad(t));
    if (!t->byte_level) set_token(j, "unk_token", t, t->unk);
    if (bert) set_token(j, "mask_token", t, tokenizer_id(t, "[MASK]"));
    if (t->kind == MODEL_BPE) json_object_set_new(j, "add_bos_token", json_boolean(t->prefix.n > 0));
    if (t->kind == MODEL_BPE && t->suffix.n) json_object_set_new(j, "add_eos_token", json_true());
    if (arch_u64(meta, "context_length", &context)) json_object_set_new(j, "model_max_length", json_integer((json_int_t)context));
    if (tokenizer_template(t)) json_object_set_new(j, "chat_template", json_string(tokenizer_template(t)));
    return j;
}

static json_t *generation_json(const struct gguf_meta *meta, const tokenizer *t) {
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"bos_token_id", tokenizer_bos(t)}, {"eos_token_id", tokenizer_eos(t)}, {"pad_token_id", tokenizer_pad(t)}};
    uint64_t start;
    json_t *j = json_object();
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id >= 0) json_object_set_new(j, ids[i].key, json_integer(ids[i].id));
    if (arch_u64(meta, "decoder_start_token_id", &start)) json_object_set_new(j, "decoder_start_token_id", json_integer((json_int_t)start));
    return j;
}

static err other_ids(const tokenizer *t, const char *what) {
    return fail(E_UNSUPPORTED, "%s: tokenizer.json cannot say this tokenizer: it would give other ids for %s; stay in GGUF", t->name, what);
}

static err read_back(const char *folder, const tokenizer *t) {
    str path = {0};
    tokenizer *again = NULL;
    char what[128];
    str_addf(&path, "%s/tokenizer.json", folder);
    err e = path.failed ? out_of_memory() : tokenizer_from_json(path.p, &again);
    if (e) e = fail_in(e, "what was made of %s", t->name);
    else if (!out_same_text(t, again)) e = other_ids(t, "texts of its own tokens");
    else if (!out_same_added(t, again, what, sizeof what) || !out_same_added(again, t, what, sizeof what)) e = other_ids(t, what);
    else if (!out_same_around(t, again)) e = other_ids(t, "what goes around a text");
    if (again) tokenizer_free(again);
    str_free(&path);
    return e;
}

/* pre: NULL but for BPE on bytes. */
static err readable(const struct tensors *gguf, struct gguf_pre *pre, const struct gguf_pre **out, tokenizer **t) {
    const char *model = gguf_str(gguf->meta, "tokenizer.ggml.model");
    *out = model && !strcmp(model, "gpt2") ? pre : NULL;
    TRY(tokenizer_from_gguf(gguf, t)); /* refuses kinds and pre-tokenisers that it does not know */
    if (*out) pre_of(gguf->meta, pre);
    return OK;
}

err tokenizer_to_hf_known(const struct tensors *gguf) {
    struct gguf_pre pre;
    const struct gguf_pre *used;
    tokenizer *t;
    TRY(readable(gguf, &pre, &used, &t));
    err e = tokenizer_json_can(t);
    tokenizer_free(t);
    return e;
}

err tokenizer_to_hf(const struct tensors *gguf, const char *folder) {
    struct gguf_pre pre;
    const struct gguf_pre *used;
    tokenizer *t;
    str text = {0};
    TRY(readable(gguf, &pre, &used, &t));
    err e = tokenizer_json_can(t);
    if (!e) e = tokenizer_json(t, used, &text);
    if (!e) e = write_text(folder, "tokenizer.json", text.p, text.n);
    if (!e) e = write_json(folder, "tokenizer_config.json", config_json(gguf->meta, t));
    if (!e && t->kind != MODEL_WORDPIECE) e = write_json(folder, "generation_config.json", generation_json(gguf->meta, t));
    if (!e) e = read_back(folder, t);
    str_free(&text);
    tokenizer_free(t);
    return e;
}
