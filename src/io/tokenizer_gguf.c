/* Reads a tokenizer from GGUF metadata: gpt2 (BPE on bytes), llama (SentencePiece's BPE, merges by score), t5
 * (Unigram), bert (WordPiece).
 *
 * Of a byte-level pre-tokeniser GGUF keeps only a name. The names below are those whose pipeline in the models' own
 * tokenizer.json is known; ids then equal the original tokenizer's, normal form included. Another name is
 * E_UNSUPPORTED: a guess would give ids that are almost right. The other kinds need no name.
 *
 * Their ids equal those of the SentencePiece model, or of BERT's tokenizer.json, that the file was made from. */
#include "io/tokenizer_internal.h"
#include <math.h>
#include <stdlib.h>
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
/* DeepSeek's first models list the letters of their time, alphabet by alphabet */
#define DEEPSEEK_LETTERS                                                                                               \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-"           \
    "\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}"              \
    "\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}"         \
    "\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}"         \
    "-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-"                 \
    "\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-"          \
    "\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-"         \
    "\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-"          \
    "\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}"           \
    "\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}"          \
    "\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-"         \
    "\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}"         \
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-"                  \
    "\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
#define DEEPSEEK_MARKS "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"
#define DEEPSEEK_HAN   "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define PATTERN_DEEPSEEK3                                                                                              \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "                \
    "?[\\p{P}\\p{S}]+[\r\n]*|"                                                                                         \
    "\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
#define PATTERN_GPT4O CASED(CONTRACTIONS "?") "|\\p{N}{1,3}|" MARKS_SLASH "|" SPACES

/* A pattern that stands for a stage by character, whose digits are Rust's. */
#define EACH_DIGIT "\\d"

enum { PATTERNS_MAX = 6 };
static const struct pre_name {
    const char *name;
    bool nfc, ignore_merges, adds_bos;
    const char *pattern[PATTERNS_MAX];
} pre_names[] = {
    /* what llama.cpp does with files that name none */
    {"default", 0, 0, 0, {"[\\p{P}\\$\\+<=>\\^~\\|]+", PATTERN_BYTE_LEVEL, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"gpt-2", 0, 0, 0, {PATTERN_BYTE_LEVEL}},
    {"phi-2", 0, 0, 0, {PATTERN_BYTE_LEVEL}},
    {"olmo", 0, 0, 0, {PATTERN_BYTE_LEVEL}},
    {"smollm", 0, 0, 0, {EACH_DIGIT, PATTERN_BYTE_LEVEL}},
    {"starcoder", 0, 0, 0, {EACH_DIGIT, PATTERN_BYTE_LEVEL}},
    {"refact", 0, 0, 0, {EACH_DIGIT, PATTERN_BYTE_LEVEL}},
    {"command-r", 1, 0, 1, {EACH_DIGIT, PATTERN_BYTE_LEVEL}},
    {"llama-bpe", 0, 1, 1, {PATTERN_LLAMA3}},
    {"llama3", 0, 1, 1, {PATTERN_LLAMA3}},
    {"llama-v3", 0, 1, 1, {PATTERN_LLAMA3}},
    {"dbrx", 0, 0, 0, {PATTERN_LLAMA3}},
    {"smaug-bpe", 0, 0, 0, {PATTERN_LLAMA3}},
    {"qwen2", 1, 0, 0, {PATTERN_QWEN2}},
    {"deepseek-r1-qwen", 1, 0, 0, {PATTERN_QWEN2}},
    {"deepseek-llm",
     0,
     0,
     0,
     {"[\r\n]", "\\s?[" DEEPSEEK_LETTERS "]+", DEEPSEEK_MARKS, "\\s+$", DEEPSEEK_HAN, EACH_DIGIT}},
    {"deepseek-coder", 0, 0, 0, {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_HAN, EACH_DIGIT}},
    {"deepseek-v3",
     0,
     0,
     0,
     {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", PATTERN_DEEPSEEK3}},
    {"tekken", 0, 1, 1, {PATTERN_TEKKEN}},
    {"gpt-4o", 0, 0, 0, {PATTERN_GPT4O}},
    {"llama4", 0, 0, 0, {PATTERN_GPT4O}},
};
enum { N_PRE_NAMES = sizeof pre_names / sizeof *pre_names };

enum token_type {
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER_DEFINED = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6
};

/* The arrays that every kind has. */
struct lists {
    const struct gguf_kv *tokens, *types, *scores; /* types and scores may be NULL */
    bool phi3;
};

/* ---- arrays ---- */

static err get_array(const struct tensors *ts, const char *key, enum gguf_type elem, const struct gguf_kv **out) {
    const struct gguf_kv *kv = *out = gguf_find(ts->meta, key);
    if (!kv) return fail(E_INPUT, "%s: the file has no %s", ts->path, key);
    const char *what = elem == GGUF_STRING ? "strings" : elem == GGUF_F32 ? "32-bit floats" : "32-bit integers";
    if (kv->type != GGUF_ARRAY || kv->elem != elem)
        return fail(E_INPUT, "%s: %s is not an array of %s", ts->path, key, what);
    return OK;
}

static err get_lists(const struct tensors *ts, struct lists *l) {
    const char *family = gguf_str(ts->meta, "general.architecture");
    *l = (struct lists){.phi3 = family && !strcmp(family, "phi3")};
    TRY(get_array(ts, "tokenizer.ggml.tokens", GGUF_STRING, &l->tokens));
    if (gguf_find(ts->meta, "tokenizer.ggml.token_type"))
        TRY(get_array(ts, "tokenizer.ggml.token_type", GGUF_I32, &l->types));
    if (gguf_find(ts->meta, "tokenizer.ggml.scores")) TRY(get_array(ts, "tokenizer.ggml.scores", GGUF_F32, &l->scores));
    if (l->types && l->types->n != l->tokens->n)
        return fail(E_INPUT, "%s: %llu token types for %llu tokens", ts->path, (unsigned long long)l->types->n,
                    (unsigned long long)l->tokens->n);
    if (l->scores && l->scores->n != l->tokens->n)
        return fail(E_INPUT, "%s: %llu scores for %llu tokens", ts->path, (unsigned long long)l->scores->n,
                    (unsigned long long)l->tokens->n);
    return OK;
}

/* A token's type; files without types have normal tokens only. */
static enum token_type type_at(const struct lists *l, uint64_t i) {
    int32_t type = TYPE_NORMAL;
    if (l->types) memcpy(&type, l->types->raw + i * sizeof type, sizeof type);
    return (enum token_type)type;
}

static err read_scores(const tokenizer *t, const struct lists *l, double *score) {
    if (!l->scores) return fail(E_INPUT, "%s: the file has no tokenizer.ggml.scores", t->name);
    for (int32_t i = 0; i < t->n; i++) {
        float x;
        memcpy(&x, l->scores->raw + (size_t)i * sizeof x, sizeof x);
        score[i] = x;
    }
    return OK;
}

/* Puts all tokens; `in_model`: those of which type merges, paths and words may use. */
static err put_tokens(tokenizer *t, const struct lists *l, bool (*in_model)(enum token_type)) {
    const uint8_t *at = l->tokens->raw;
    uint64_t n;
    for (uint64_t i = 0; i < l->tokens->n; i++) {
        const char *text = gguf_array_str(&at, &n);
        TRY(tok_put(t, (int64_t)i, text, n, in_model(type_at(l, i))));
    }
    return tok_vocabulary_done(t);
}

static bool is_text(const char *want, const char *text, uint64_t n) {
    return strlen(want) == n && !memcmp(want, text, n);
}

/* GGUF has no word for tokens that take the white space behind them along. Phi-3's own tokenizer.json says that its
 * control tokens and </s> do, all but these. */
static bool takes_spaces(const struct lists *l, bool special, const char *text, uint64_t n) {
    static const char *const not[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (int i = 0; i < 3; i++)
        if (is_text(not[i], text, n)) return false;
    return l->phi3 && (special || is_text("</s>", text, n));
}

/* Tokens of type control, unknown and user-defined are recognised in the text; the first two are special. User-defined
 * ones of SentencePiece's models belong to the normalised text (`spelt`), where a space is its sign: but where a space
 * is put before texts, also before those behind them, as llama.cpp and the models' own tokenizer.json have it. */
static err add_tokens(tokenizer *t, const struct lists *l, bool spelt) {
    const uint8_t *at = l->tokens->raw;
    uint64_t n;
    str text = {0};
    err e = OK;
    for (uint64_t i = 0; i < l->tokens->n && !e; i++) {
        const char *as = gguf_array_str(&at, &n);
        enum token_type type = type_at(l, i);
        if (type != TYPE_CONTROL && type != TYPE_UNKNOWN && type != TYPE_USER_DEFINED) continue;
        struct added a = {.text = as, .n = n, .id = (int32_t)i, .special = type != TYPE_USER_DEFINED};
        bool normalised = spelt && type == TYPE_USER_DEFINED;
        a.rstrip = takes_spaces(l, a.special, as, n);
        if (normalised) {
            str_clear(&text);
            for (uint64_t k = 0; k < n; k++) {
                if (as[k] == ' ') str_adds(&text, SPACE_SIGN);
                else str_addc(&text, as[k]);
            }
            a.text = text.p ? text.p : "";
            a.n = text.n;
        }
        e = text.failed ? fail(E_MEMORY, "%s: out of memory", t->name) : tok_add(t, a, normalised);
    }
    str_free(&text);
    return e;
}

static bool any_type(enum token_type type) { return (void)type, true; }
static bool word_type(enum token_type type) {
    return type == TYPE_NORMAL || type == TYPE_USER_DEFINED || type == TYPE_UNUSED;
}

/* ---- gpt2: BPE on bytes ---- */

static err add_pattern(tokenizer *t, const char *pattern) {
    if (!strcmp(pattern, EACH_DIGIT))
        return pre_add(&t->pre, t->name,
                       (struct stage){.kind = STAGE_CHARS, .set = CHARS_NUMERIC, .split = SPLIT_ISOLATED});
    return pre_add_split(&t->pre, t->name, pattern, strlen(pattern), false, SPLIT_ISOLATED, false);
}

static err read_pre(tokenizer *t, const struct gguf_meta *meta, int *adds_bos) {
    const char *name = gguf_str(meta, "tokenizer.ggml.pre");
    if (!name) name = "default";
    for (int i = 0; i < N_PRE_NAMES; i++) {
        const struct pre_name *p = &pre_names[i];
        if (strcmp(p->name, name)) continue;
        t->ignore_merges = p->ignore_merges;
        *adds_bos = p->adds_bos;
        if (p->nfc) TRY(norm_add(&t->norm, t->name, (struct norm_step){.kind = NORM_FORM, .form = NORMAL_NFC}));
        for (int k = 0; k < PATTERNS_MAX && p->pattern[k]; k++) TRY(add_pattern(t, p->pattern[k]));
        return OK;
    }
    str known = {0};
    for (int i = 0; i < N_PRE_NAMES; i++) str_addf(&known, "%s%s", i ? ", " : "", pre_names[i].name);
    err e = fail(E_UNSUPPORTED, "%s: tokenizer.ggml.pre \"%.80s\" is not supported (supported: %s)", t->name, name,
                 known.p ? known.p : "");
    str_free(&known);
    return e;
}

static err read_gpt2(tokenizer *t, const struct tensors *ts, const struct lists *l, int adds[2]) {
    const struct gguf_kv *merges;
    uint64_t n;
    TRY(get_array(ts, "tokenizer.ggml.merges", GGUF_STRING, &merges));
    t->byte_level = t->decoder.bytes = true;
    t->word = bpe_bytes;
    TRY(read_pre(t, ts->meta, &adds[0]));
    TRY(put_tokens(t, l, any_type));
    TRY(tok_merges_begin(t, merges->n));
    const uint8_t *at = merges->raw;
    for (uint64_t i = 0; i < merges->n; i++) {
        const char *line = gguf_array_str(&at, &n);
        TRY(tok_merge_line(t, i, line, n));
    }
    return add_tokens(t, l, false);
}

/* ---- llama: SentencePiece's BPE ---- */

static bool flag(const struct gguf_meta *meta, const char *key, bool fallback) {
    uint64_t v;
    return gguf_u64(meta, key, &v) ? v != 0 : fallback;
}

static err read_llama(tokenizer *t, const struct tensors *ts, const struct lists *l, int adds[2]) {
    bool prefix = flag(ts->meta, "tokenizer.ggml.add_space_prefix", true);
    struct norm_step prepend = {.kind = NORM_PREPEND, .content = SPACE_SIGN, .n_content = SPACE_SIGN_BYTES};
    struct norm_step replace = {.content = SPACE_SIGN, .n_content = SPACE_SIGN_BYTES};
    adds[0] = 1;
    t->word = bpe_chars;
    t->byte_fallback = t->fuse_unk = true;
    if (prefix) TRY(norm_add(&t->norm, t->name, prepend));
    TRY(norm_add_replace(&t->norm, &t->mem, t->name, replace, true, " ", 1));
    TRY(put_tokens(t, l, word_type));
    double *score = malloc((size_t)t->n * sizeof *score);
    err e = score ? read_scores(t, l, score) : fail(E_MEMORY, "%s: out of memory", t->name);
    if (!e) e = tok_ranks(t, score);
    free(score);
    if (!e) e = add_tokens(t, l, !prefix);
    struct decode_step space = {
        .kind = DECODE_REPLACE, .from = SPACE_SIGN, .n_from = SPACE_SIGN_BYTES, .to = " ", .n_to = 1};
    if (!e) e = decoder_add(t, space);
    if (!e) e = decoder_add(t, (struct decode_step){.kind = DECODE_BYTE_FALLBACK});
    if (!e) e = decoder_add(t, (struct decode_step){.kind = DECODE_FUSE});
    if (!e && prefix)
        e = decoder_add(t, (struct decode_step){.kind = DECODE_STRIP, .from = " ", .n_from = 1, .left = 1});
    return e;
}

/* ---- t5: Unigram ---- */

static err read_charsmap(tokenizer *t, const struct gguf_meta *meta) {
    const struct gguf_kv *kv = gguf_find(meta, "tokenizer.ggml.precompiled_charsmap");
    if (!kv || kv->n == 0) return OK;
    if (kv->type != GGUF_ARRAY || (kv->elem != GGUF_U8 && kv->elem != GGUF_I8))
        return fail(E_INPUT, "%s: tokenizer.ggml.precompiled_charsmap is not an array of bytes", t->name);
    return norm_add_charsmap(&t->norm, &t->mem, t->name, kv->raw, kv->n);
}

/* The model's own tokens are those that a path may use. Converters give to what the model lacks (special tokens that
 * were added to it, ids that only fill the table) scores far below all of its own; else a text that spells such a token
 * would become it, and the unknown token's score, which hangs on the least one, would be another. */
static void leave_out_strangers(tokenizer *t, const struct lists *l, const double *score) {
    double least = INFINITY;
    for (int32_t i = 0; i < t->n; i++)
        if (type_at(l, (uint64_t)i) == TYPE_NORMAL && score[i] < least) least = score[i];
    for (int32_t i = 0; i < t->n && isfinite(least); i++)
        t->tokens[i].in_model = type_at(l, (uint64_t)i) != TYPE_UNUSED && score[i] >= least;
}

static err read_t5(tokenizer *t, const struct tensors *ts, const struct lists *l, int adds[2]) {
    bool prefix = flag(ts->meta, "tokenizer.ggml.add_space_prefix", true);
    struct stage words = {.kind = STAGE_CHARS, .set = CHARS_SPACE, .split = SPLIT_REMOVED};
    struct stage spaces = {.kind = STAGE_METASPACE, .cut = true, .sign = SPACE_SIGN};
    spaces.prepend = prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    adds[1] = 1;
    TRY(read_charsmap(t, ts->meta));
    if (flag(ts->meta, "tokenizer.ggml.remove_extra_whitespaces", true)) TRY(pre_add(&t->pre, t->name, words));
    TRY(pre_add(&t->pre, t->name, spaces));
    TRY(put_tokens(t, l, any_type));
    double *score = arena_alloc(&t->mem, (size_t)t->n * sizeof *score);
    if (!score) return fail(E_MEMORY, "%s: out of memory", t->name);
    TRY(read_scores(t, l, score));
    leave_out_strangers(t, l, score);
    TRY(tok_unigram(t, score));
    TRY(add_tokens(t, l, false));
    return decoder_add(
        t, (struct decode_step){
               .kind = DECODE_METASPACE, .from = SPACE_SIGN, .n_from = SPACE_SIGN_BYTES, .prepends = prefix});
}

/* ---- bert: WordPiece ---- */

/* GGUF writes a word's beginning as the sign of a space and what goes on a word bare; back to BERT's own spelling.
 * Capitals anywhere tell a cased vocabulary: the file has no word for it. */
static err put_wordpieces(tokenizer *t, const struct lists *l, bool *cased) {
    const uint8_t *at = l->tokens->raw;
    uint64_t n;
    str text = {0};
    err e = OK;
    for (uint64_t i = 0; i < l->tokens->n && !e; i++) {
        const char *as = gguf_array_str(&at, &n);
        bool begins = n >= SPACE_SIGN_BYTES && !memcmp(as, SPACE_SIGN, SPACE_SIGN_BYTES);
        bool whole = type_at(l, i) == TYPE_CONTROL || (n > 2 && as[0] == '[' && as[n - 1] == ']');
        str_clear(&text);
        if (!begins && !whole) str_adds(&text, "##");
        if (begins) str_add(&text, as + SPACE_SIGN_BYTES, n - SPACE_SIGN_BYTES);
        else str_add(&text, as, n);
        bool bracketed = text.n > 2 && text.p[0] == '[' && text.p[text.n - 1] == ']';
        for (size_t k = 0; k < text.n && !whole && !bracketed; k++) *cased |= text.p[k] >= 'A' && text.p[k] <= 'Z';
        e = text.failed ? fail(E_MEMORY, "%s: out of memory", t->name)
                        : tok_put(t, (int64_t)i, text.p ? text.p : "", text.n, true);
    }
    str_free(&text);
    return e ? e : tok_vocabulary_done(t);
}

static err read_bert(tokenizer *t, const struct tensors *ts, const struct lists *l, int adds[2]) {
    struct norm_step clean = {.kind = NORM_BERT, .clean_text = true, .handle_chinese = true};
    bool cased = false;
    (void)ts;
    adds[0] = adds[1] = 1;
    TRY(put_wordpieces(t, l, &cased));
    clean.lowercase = clean.strip_accents = !cased;
    TRY(norm_add(&t->norm, t->name, clean));
    TRY(pre_add(&t->pre, t->name, (struct stage){.kind = STAGE_CHARS, .set = CHARS_SPACE, .split = SPLIT_REMOVED}));
    TRY(pre_add(&t->pre, t->name, (struct stage){.kind = STAGE_CHARS, .set = CHARS_PUNCT, .split = SPLIT_ISOLATED}));
    TRY(tok_wordpiece(t, "##", 100));
    TRY(add_tokens(t, l, false));
    if (t->unk < 0) t->unk = tok_find(t, "[UNK]", 5);
    return decoder_add(t, (struct decode_step){.kind = DECODE_WORDPIECE, .from = "##", .n_from = 2, .cleanup = true});
}

/* ---- ids and flags ---- */

static err read_id(const tokenizer *t, const struct gguf_meta *meta, const char *key, int32_t *id) {
    uint64_t v;
    if (!gguf_u64(meta, key, &v)) return OK;
    if (v >= (uint64_t)t->n)
        return fail(E_INPUT, "%s: %s is %llu, outside the vocabulary of %d", t->name, key, (unsigned long long)v, t->n);
    *id = (int32_t)v;
    return OK;
}

static err read_settings(tokenizer *t, const struct gguf_meta *meta, int adds[2]) {
    int32_t cls = -1, sep = -1;
    TRY(read_id(t, meta, "tokenizer.ggml.bos_token_id", &t->bos));
    TRY(read_id(t, meta, "tokenizer.ggml.eos_token_id", &t->eos));
    TRY(read_id(t, meta, "tokenizer.ggml.padding_token_id", &t->pad));
    TRY(read_id(t, meta, "tokenizer.ggml.cls_token_id", &cls));
    TRY(read_id(t, meta, "tokenizer.ggml.seperator_token_id", &sep)); /* the format's own spelling */
    if (t->word == wordpiece_word) {
        adds[1] = flag(meta, "tokenizer.ggml.add_sep_token", true);
        if (cls < 0) cls = tok_find(t, "[CLS]", 5);
        if (sep < 0) sep = tok_find(t, "[SEP]", 5);
        if (t->bos < 0) t->bos = cls;
        if (t->eos < 0) t->eos = sep;
    }
    adds[0] = flag(meta, "tokenizer.ggml.add_bos_token", adds[0] == 1);
    adds[1] = flag(meta, "tokenizer.ggml.add_eos_token", adds[1] == 1);
    TRY(tok_ends(t, adds[0], adds[1]));
    const char *chat = gguf_str(meta, "tokenizer.chat_template");
    if (!chat) return OK;
    str name = {0};
    str_addf(&name, "tokenizer.chat_template of %s", t->name);
    err e = name.failed ? fail(E_MEMORY, "%s: out of memory", t->name) : tokenizer_set_template(t, chat, name.p);
    str_free(&name);
    return e;
}

static const struct model_name {
    const char *name;
    enum model_kind kind;
    err (*read)(tokenizer *t, const struct tensors *ts, const struct lists *l, int adds[2]);
} model_names[] = {
    {"gpt2", MODEL_BPE, read_gpt2},
    {"llama", MODEL_BPE, read_llama},
    {"t5", MODEL_UNIGRAM, read_t5},
    {"bert", MODEL_WORDPIECE, read_bert},
};

/* The unknown token: the one that is named, else SentencePiece's 0 where its type says so. */
static err read_unknown(tokenizer *t, const struct gguf_meta *meta, const struct lists *l) {
    for (uint64_t i = 0; i < l->tokens->n && t->unk < 0 && l->types; i++)
        if (type_at(l, i) == TYPE_UNKNOWN) t->unk = (int32_t)i;
    return read_id(t, meta, "tokenizer.ggml.unknown_token_id", &t->unk);
}

static err build(tokenizer *t, const struct tensors *gguf, const struct model_name *m, const struct lists *l) {
    int adds[2] = {0, 0};
    t->kind = m->kind;
    t->n = (int32_t)l->tokens->n;
    if (m->read != read_gpt2) TRY(read_unknown(t, gguf->meta, l));
    TRY(m->read(t, gguf, l, adds));
    TRY(read_settings(t, gguf->meta, adds));
    return tok_finish(t);
}

err tokenizer_from_gguf(const struct tensors *gguf, tokenizer **out) {
    enum { N_MODELS = sizeof model_names / sizeof *model_names };
    struct lists l;
    *out = NULL;
    if (!gguf->meta) return fail(E_USAGE, "%s: not a GGUF file, so it holds no tokenizer", gguf->path);
    const char *model = gguf_str(gguf->meta, "tokenizer.ggml.model");
    if (!model) return fail(E_INPUT, "%s: the file has no tokenizer.ggml.model", gguf->path);
    int i = 0;
    while (i < N_MODELS && strcmp(model_names[i].name, model)) i++;
    if (i == N_MODELS)
        return fail(E_UNSUPPORTED,
                    "%s: tokenizer.ggml.model \"%.80s\" is not supported (supported: gpt2, llama, t5, bert)",
                    gguf->path, model);
    TRY(get_lists(gguf, &l));
    tokenizer *t;
    TRY(tok_create(gguf->path, l.tokens->n, &t));
    err e = build(t, gguf, &model_names[i], &l);
    if (e) return tokenizer_free(t), e;
    *out = t;
    return OK;
}

bool gguf_pre_at(int i, struct gguf_pre *out) {
    if (i >= N_PRE_NAMES) return false;
    *out = (struct gguf_pre){
        .name = pre_names[i].name, .nfc = pre_names[i].nfc, .ignore_merges = pre_names[i].ignore_merges};
    for (int k = 0; k < PATTERNS_MAX && pre_names[i].pattern[k]; k++) {
        out->pattern[k] = pre_names[i].pattern[k];
        out->digits[k] = out->pattern[k] && !strcmp(out->pattern[k], EACH_DIGIT);
    }
    return true;
}
