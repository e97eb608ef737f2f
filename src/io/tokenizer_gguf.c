/* Reads a byte-level BPE tokenizer from GGUF metadata.
 *
 * GGUF keeps the vocabulary and the merges, but of the pre-tokeniser only a name. The names below are those whose
 * pipeline in the models' own tokenizer.json is known; ids then equal the original tokenizer's, normal form included.
 * Another name is E_UNSUPPORTED: a guess would give ids that are almost right.
 *
 * Tokens of type control and user-defined are recognised in the text, control ones are special. */
#include "io/tokenizer_internal.h"
#include <string.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS        "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define UPPER        "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER        "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define SPACES       "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define MARKS        " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define CASED(after)                                                                                                   \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" after "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" after
#define MARKS_SLASH " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"

#define PATTERN_LLAMA3 CONTRACTIONS "|" WORDS "|\\p{N}{1,3}|" MARKS "|" SPACES
#define PATTERN_QWEN2  CONTRACTIONS "|" WORDS "|\\p{N}|" MARKS "|" SPACES
#define PATTERN_TEKKEN CASED("") "|\\p{N}|" MARKS_SLASH "|" SPACES
#define PATTERN_GPT4O  CASED(CONTRACTIONS "?") "|\\p{N}{1,3}|" MARKS_SLASH "|" SPACES

enum { PATTERNS_MAX = 4 };
static const struct pre_name {
    const char *name;
    bool nfc, ignore_merges, adds_bos;
    const char *pattern[PATTERNS_MAX];
} pre_names[] = {
    /* what llama.cpp does with files that name none */
    {"default", 0, 0, 0, {"[\\p{P}\\$\\+<=>\\^~\\|]+", PATTERN_BYTE_LEVEL, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"gpt-2", 0, 0, 0, {PATTERN_BYTE_LEVEL}},
    {"phi-2", 0, 0, 0, {PATTERN_BYTE_LEVEL}},
    {"smollm", 0, 0, 0, {PATTERN_DIGIT, PATTERN_BYTE_LEVEL}},
    {"starcoder", 0, 0, 0, {PATTERN_DIGIT, PATTERN_BYTE_LEVEL}},
    {"refact", 0, 0, 0, {PATTERN_DIGIT, PATTERN_BYTE_LEVEL}},
    {"llama-bpe", 0, 1, 1, {PATTERN_LLAMA3}},
    {"llama3", 0, 1, 1, {PATTERN_LLAMA3}},
    {"llama-v3", 0, 1, 1, {PATTERN_LLAMA3}},
    {"qwen2", 1, 0, 0, {PATTERN_QWEN2}},
    {"deepseek-r1-qwen", 1, 0, 0, {PATTERN_QWEN2}},
    {"tekken", 0, 1, 1, {PATTERN_TEKKEN}},
    {"gpt-4o", 0, 0, 0, {PATTERN_GPT4O}},
    {"llama4", 0, 0, 0, {PATTERN_GPT4O}},
};
enum { N_PRE_NAMES = sizeof pre_names / sizeof *pre_names };

enum token_type { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };

static err read_pre(tokenizer *t, const struct gguf_meta *meta) {
    const char *name = gguf_str(meta, "tokenizer.ggml.pre");
    if (!name) name = "default";
    for (int i = 0; i < N_PRE_NAMES; i++) {
        const struct pre_name *p = &pre_names[i];
        if (strcmp(p->name, name)) continue;
        t->ignore_merges = p->ignore_merges;
        t->adds_bos = p->adds_bos;
        if (p->nfc) TRY(pre_add_form(&t->pre, t->name, NORMAL_NFC));
        for (int k = 0; k < PATTERNS_MAX && p->pattern[k]; k++)
            TRY(pre_add_split(&t->pre, t->name, p->pattern[k], strlen(p->pattern[k]), false, SPLIT_ISOLATED, false));
        return OK;
    }
    str known = {0};
    for (int i = 0; i < N_PRE_NAMES; i++) str_addf(&known, "%s%s", i ? ", " : "", pre_names[i].name);
    err e = fail(E_UNSUPPORTED, "%s: tokenizer.ggml.pre \"%.80s\" is not supported (supported: %s)", t->name, name,
                 known.p ? known.p : "");
    str_free(&known);
    return e;
}

static err get_array(const struct tensors *ts, const char *key, enum gguf_type elem, const struct gguf_kv **out) {
    const struct gguf_kv *kv = *out = gguf_find(ts->meta, key);
    if (!kv) return fail(E_INPUT, "%s: the file has no %s", ts->path, key);
    if (kv->type != GGUF_ARRAY || kv->elem != elem)
        return fail(E_INPUT, "%s: %s is not an array of %s", ts->path, key,
                    elem == GGUF_STRING ? "strings" : "32-bit integers");
    return OK;
}

/* A token's type; files without types have normal tokens only. */
static enum token_type type_at(const struct gguf_kv *types, uint64_t i) {
    int32_t type = TYPE_NORMAL;
    if (types) memcpy(&type, types->raw + i * sizeof type, sizeof type);
    return (enum token_type)type;
}

static err read_tokens(tokenizer *t, const struct gguf_kv *tokens, const struct gguf_kv *types) {
    const uint8_t *at = tokens->raw;
    uint64_t n;
    for (uint64_t i = 0; i < tokens->n; i++) {
        const char *text = gguf_array_str(&at, &n);
        TRY(tok_put(t, (int64_t)i, text, n, true));
    }
    TRY(tok_vocabulary_done(t));
    at = tokens->raw;
    for (uint64_t i = 0; i < tokens->n; i++) {
        const char *text = gguf_array_str(&at, &n);
        enum token_type type = type_at(types, i);
        if (type != TYPE_CONTROL && type != TYPE_USER_DEFINED) continue;
        TRY(tok_add(t, (struct added){.text = text, .n = n, .id = (int32_t)i, .special = type == TYPE_CONTROL}, false));
    }
    return OK;
}

static err read_merges(tokenizer *t, const struct gguf_kv *merges) {
    const uint8_t *at = merges->raw;
    uint64_t n;
    for (uint64_t i = 0; i < merges->n; i++) {
        const char *line = gguf_array_str(&at, &n);
        TRY(tok_merge_line(t, i, line, n));
    }
    return OK;
}

static err read_id(const tokenizer *t, const struct gguf_meta *meta, const char *key, int32_t *id) {
    uint64_t v;
    if (!gguf_u64(meta, key, &v)) return OK;
    if (v >= (uint64_t)t->n)
        return fail(E_INPUT, "%s: %s is %llu, outside the vocabulary of %d", t->name, key, (unsigned long long)v, t->n);
    *id = (int32_t)v;
    return OK;
}

static err read_settings(tokenizer *t, const struct gguf_meta *meta) {
    uint64_t adds;
    TRY(read_id(t, meta, "tokenizer.ggml.bos_token_id", &t->bos));
    TRY(read_id(t, meta, "tokenizer.ggml.eos_token_id", &t->eos));
    TRY(read_id(t, meta, "tokenizer.ggml.padding_token_id", &t->pad));
    if (gguf_u64(meta, "tokenizer.ggml.add_bos_token", &adds)) t->adds_bos = adds != 0;
    const char *chat = gguf_str(meta, "tokenizer.chat_template");
    if (chat && !(t->chat_template = arena_str(&t->mem, chat))) return fail(E_MEMORY, "%s: out of memory", t->name);
    return OK;
}

err tokenizer_from_gguf(const struct tensors *gguf, tokenizer **out) {
    const struct gguf_kv *tokens, *merges, *types = NULL;
    *out = NULL;
    if (!gguf->meta) return fail(E_USAGE, "%s: not a GGUF file, so it holds no tokenizer", gguf->path);
    const char *model = gguf_str(gguf->meta, "tokenizer.ggml.model");
    if (!model) return fail(E_INPUT, "%s: the file has no tokenizer.ggml.model", gguf->path);
    if (strcmp(model, "gpt2"))
        return fail(E_UNSUPPORTED, "%s: tokenizer.ggml.model \"%.80s\" is not supported (gpt2 is)", gguf->path, model);
    TRY(get_array(gguf, "tokenizer.ggml.tokens", GGUF_STRING, &tokens));
    TRY(get_array(gguf, "tokenizer.ggml.merges", GGUF_STRING, &merges));
    if (gguf_find(gguf->meta, "tokenizer.ggml.token_type"))
        TRY(get_array(gguf, "tokenizer.ggml.token_type", GGUF_I32, &types));
    if (types && types->n != tokens->n)
        return fail(E_INPUT, "%s: %llu token types for %llu tokens", gguf->path, (unsigned long long)types->n,
                    (unsigned long long)tokens->n);
    tokenizer *t;
    TRY(tok_create(gguf->path, tokens->n, merges->n, &t));
    err e = read_pre(t, gguf->meta);
    if (!e) e = read_tokens(t, tokens, types);
    if (!e) e = read_merges(t, merges);
    if (!e) e = read_settings(t, gguf->meta);
    if (!e) e = tok_finish(t);
    if (e) return tokenizer_free(t), e;
    *out = t;
    return OK;
}

bool gguf_pre_at(int i, struct gguf_pre *out) {
    if (i >= N_PRE_NAMES) return false;
    *out = (struct gguf_pre){.name = pre_names[i].name, .nfc = pre_names[i].nfc, .ignore_merges = pre_names[i].ignore_merges};
    for (int k = 0; k < PATTERNS_MAX && pre_names[i].pattern[k]; k++) {
        out->pattern[k] = pre_names[i].pattern[k];
        out->digits[k] = !strcmp(out->pattern[k], PATTERN_DIGIT);
    }
    return true;
}
