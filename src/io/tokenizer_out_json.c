/* A tokenizer that GGUF metadata gave, as Hugging Face's tokenizer.json. That format says everything that a GGUF file can, with two
 * exceptions in SentencePiece's BPE, which merges by the scores of tokens where tokenizer.json has pairs in an order: a character without a
 * token cannot be a half of a pair (refused by the token), and of equal scores the leftmost would merge first (held against the
 * vocabulary's own texts by the caller). Pairs are in the order in which Hugging Face's own converter puts them.
 *
 * Vocabulary and merges are written as text at once: a tree of the JSON would take ten times their size. */
#include "io/tokenizer_out_parts.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* --- the steps around the model -------------------------------------------------------------------------------------- */
static json_t *replace(const char *from, const char *to) {
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content", to);
}

static json_t *metaspace(bool prepends) {
    return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", SPACE_SIGN, "prepend_scheme",
                     prepends ? "always" : "never", "split", 1);
}

static json_t *base64(const struct charsmap *map) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t size = (uint32_t)(map->n_units * sizeof *map->unit);
    str bytes = {0}, out = {0};
    str_add(&bytes, (const char *)&size, sizeof size);
    str_add(&bytes, (const char *)map->unit, size);
    str_add(&bytes, map->text, map->n_text);
    for (size_t i = 0; i < bytes.n && !bytes.failed; i += 3) {
        uint32_t three = 0;
        for (size_t k = 0; k < 3; k++) three = three << 8 | (i + k < bytes.n ? (uint8_t)bytes.p[i + k] : 0);
        for (size_t k = 0; k < 4; k++) str_addc(&out, i + k <= bytes.n ? digits[three >> (18 - 6 * k) & 63] : '=');
    }
    json_t *text = bytes.failed || out.failed ? NULL : json_stringn(out.p, out.n);
    str_free(&bytes);
    str_free(&out);
    return text;
}

static json_t *norm_step_json(const struct norm_step *st) {
    if (st->kind == NORM_FORM) return json_pack("{s:s}", "type", "NFC"); /* the only one that GGUF's names stand for */
    if (st->kind == NORM_PREPEND) return json_pack("{s:s, s:s}", "type", "Prepend", "prepend", SPACE_SIGN);
    if (st->kind == NORM_REPLACE) return replace(" ", SPACE_SIGN);
    if (st->kind == NORM_CHARSMAP) return json_pack("{s:s, s:o}", "type", "Precompiled", "precompiled_charsmap", base64(&st->map));
    return json_pack("{s:s, s:b, s:b, s:b, s:b}", "type", "BertNormalizer", "clean_text", st->clean_text, "handle_chinese_chars",
                     st->handle_chinese, "strip_accents", st->strip_accents, "lowercase", st->lowercase);
}

/* A list of steps: none, one, a Sequence. */
static json_t *sequence(json_t *list, const char *key) {
    json_t *out = json_array_size(list) == 0   ? json_null()
                  : json_array_size(list) == 1 ? json_incref(json_array_get(list, 0))
                                               : json_pack("{s:s, s:O}", "type", "Sequence", key, list);
    json_decref(list);
    return out;
}

static json_t *norm_json(const tokenizer *t) {
    json_t *list = json_array();
    for (int i = 0; i < t->norm.n; i++) json_array_append_new(list, norm_step_json(&t->norm.step[i]));
    return sequence(list, "normalizers");
}

static json_t *split(const char *pattern, bool digits) {
    if (digits) return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1);
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern, "behavior", "Isolated", "invert", 0);
}

/* The stages that the name stands for; the last is always ByteLevel, which has the byte-level pattern where that came last. */
static json_t *bytes_pre_json(const struct gguf_pre *pre) {
    json_t *list = json_array();
    bool pattern = false;
    for (int i = 0; i < GGUF_PRE_PATTERNS && pre->pattern[i]; i++) {
        bool last = i + 1 == GGUF_PRE_PATTERNS || !pre->pattern[i + 1];
        pattern = last && !strcmp(pre->pattern[i], PATTERN_BYTE_LEVEL);
        if (!pattern) json_array_append_new(list, split(pre->pattern[i], pre->digits[i]));
    }
    json_array_append_new(
        list, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", pattern));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static json_t *pre_json(const tokenizer *t, const struct gguf_pre *pre) {
    if (pre) return bytes_pre_json(pre);
    if (t->kind == MODEL_WORDPIECE) return json_pack("{s:s}", "type", "BertPreTokenizer");
    json_t *list = json_array();
    for (int i = 0; i < t->pre.n; i++) {
        const struct stage *st = &t->pre.stage[i];
        json_array_append_new(list, st->kind == STAGE_METASPACE ? metaspace(st->prepend != PREPEND_NEVER)
                                                                : json_pack("{s:s}", "type", "WhitespaceSplit"));
    }
    return sequence(list, "pretokenizers");
}

static json_t *bytes_decoder_json(void) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1);
}

static json_t *decode_step_json(const struct decode_step *d) {
    switch (d->kind) {
    case DECODE_REPLACE: return replace(d->from, d->to);
    case DECODE_BYTE_FALLBACK: return json_pack("{s:s}", "type", "ByteFallback");
    case DECODE_FUSE: return json_pack("{s:s}", "type", "Fuse");
    case DECODE_STRIP:
        return json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", (int)d->left, "stop", (int)d->right);
    case DECODE_METASPACE: return metaspace(d->prepends);
    default: return json_pack("{s:s, s:s, s:b}", "type", "WordPiece", "prefix", "##", "cleanup", d->cleanup);
    }
}

static json_t *decoder_json(const tokenizer *t) {
    json_t *list = json_array();
    if (t->decoder.bytes) return json_decref(list), bytes_decoder_json();
    for (int i = 0; i < t->decoder.n; i++) json_array_append_new(list, decode_step_json(&t->decoder.step[i]));
    return sequence(list, "decoders");
}

/* Special tokens of a template, for one half; their ids go to `known`. */
static void add_specials(const tokenizer *t, const struct ids *ids, int type, json_t *list, json_t *known) {
    for (size_t i = 0; i < ids->n; i++) {
        const char *text = t->tokens[ids->v[i]].text;
        json_array_append_new(list, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", text, "type_id", type));
        json_object_set_new(known, text, json_pack("{s:s, s:[i], s:[s]}", "id", text, "ids", ids->v[i], "tokens", text));
    }
}

static json_t *template_json(const tokenizer *t) {
    json_t *single = json_array(), *pair = json_array(), *known = json_object();
    for (int half = 0; half < 2; half++) {
        json_t *text = json_pack("{s:{s:s, s:i}}", "Sequence", "id", half ? "B" : "A", "type_id", half);
        if (!half) add_specials(t, &t->prefix, 0, single, known);
        if (!half) json_array_append(single, text), add_specials(t, &t->suffix, 0, single, known);
        if (!half) add_specials(t, &t->prefix, 0, pair, known);
        json_array_append_new(pair, text);
        add_specials(t, &t->suffix, half, pair, known);
    }
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", pair, "special_tokens", known);
}

static json_t *post_json(const tokenizer *t) {
    json_t *list = json_array();
    if (t->byte_level)
        json_array_append_new(
            list, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 0, "use_regex", 1));
    if (t->prefix.n || t->suffix.n) json_array_append_new(list, template_json(t));
    return sequence(list, "processors");
}

/* --- tokens ---------------------------------------------------------------------------------------------------------- */
/* A token as the vocabulary has it: those that are looked for in the normalised text are spelt as they are there. */
struct spelt {
    const char *text;
    size_t n;
    const struct added *added; /* NULL: none */
    bool normalised;
};

/* One for each id; free() it. */
static struct spelt *spelling(const tokenizer *t) {
    struct spelt *v = calloc((size_t)t->n, sizeof *v);
    const struct added_list *lists[] = {&t->raw, &t->normalised};
    if (!v) return NULL;
    for (int32_t i = 0; i < t->n; i++) v[i].text = t->tokens[i].text, v[i].n = t->tokens[i].n_text;
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < lists[k]->n; i++) {
            const struct added *a = &lists[k]->v[i];
            v[a->id] = (struct spelt){a->text, a->n, a, k == 1};
        }
    return v;
}

static json_t *added_json(const tokenizer *t, const struct spelt *spelt) {
    json_t *list = json_array();
    for (int32_t i = 0; i < t->n; i++) {
        const struct added *a = spelt[i].added;
        if (!a) continue;
        json_array_append_new(list, json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", i, "content", json_stringn(a->text, a->n),
                                              "single_word", a->single_word, "lstrip", a->lstrip, "rstrip", a->rstrip, "normalized",
                                              spelt[i].normalised, "special", a->special));
    }
    return list;
}

static void add_quoted(str *out, const char *s, size_t n) {
    str_addc(out, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < 0x20) str_addf(out, "\\u%04x", c);
        else if (c == '"' || c == '\\') str_addc(out, '\\'), str_addc(out, s[i]);
        else str_addc(out, s[i]);
    }
    str_addc(out, '"');
}

/* A Unigram vocabulary ends with the model's last own token: what follows are added tokens and ids that only fill the table. A stranger
 * before that gets the least score there is. */
static void add_scored(const tokenizer *t, const struct spelt *spelt, str *out) {
    double least = 0;
    int32_t n = 0;
    for (int32_t i = 0; i < t->n; i++) {
        if (!t->tokens[i].in_model) continue;
        if (t->score[i] < least) least = t->score[i];
        n = i + 1;
    }
    for (int32_t i = 0; i < n; i++) {
        str_adds(out, i ? ",\n      [" : "\n      [");
        add_quoted(out, spelt[i].text, spelt[i].n);
        str_addf(out, ", %.9g]", t->tokens[i].in_model ? t->score[i] : least);
    }
}

static void add_vocabulary(const tokenizer *t, const struct spelt *spelt, str *out) {
    if (t->kind == MODEL_UNIGRAM) return add_scored(t, spelt, out);
    for (int32_t i = 0; i < t->n; i++) {
        str_adds(out, i ? ",\n      " : "\n      ");
        add_quoted(out, spelt[i].text, spelt[i].n);
        str_addf(out, ": %d", i);
    }
}

/* --- merges ---------------------------------------------------------------------------------------------------------- */
struct pair {
    uint32_t rank, left_chars, right_chars;
    int32_t left, right;
};
struct pairs {
    const tokenizer *t;
    struct pair *v;
    size_t n, cap;
};

static uint32_t chars(const struct token *k) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->n_text; i++) n += ((uint8_t)k->text[i] & 0xC0) != 0x80;
    return n;
}

static err has_token(void *ctx, int32_t whole, int32_t left, int32_t right) {
    const tokenizer *t = ctx;
    if (left >= 0 && right >= 0) return OK;
    return fail(E_UNSUPPORTED,
                "%s: token \"%.80s\" has a character that is no token of its own: SentencePiece merges such a character by its text, and "
                "tokenizer.json has merges of tokens alone",
                t->name, t->tokens[whole].text);
}

static err push_pair(struct pairs *p, uint32_t rank, int32_t left, int32_t right) {
    const struct token *tokens = p->t->tokens;
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 4096;
        struct pair *v = realloc(p->v, cap * sizeof *v);
        if (!v) return out_of_memory();
        p->v = v;
        p->cap = cap;
    }
    p->v[p->n++] = (struct pair){rank, chars(&tokens[left]), chars(&tokens[right]), left, right};
    return OK;
}

static err scored_pair(void *ctx, int32_t whole, int32_t left, int32_t right) {
    struct pairs *p = ctx;
    return push_pair(p, p->t->rank[whole], left, right);
}

/* By score; of one score the longer halves first, then by id: what sorted(..., reverse=True) makes of the pairs in Hugging Face's
 * converter. */
static int by_place(const void *a, const void *b) {
    const struct pair *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    if (x->left_chars != y->left_chars) return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars) return x->right_chars > y->right_chars ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

/* Pairs of a table, in its order. */
static err table_pairs(struct pairs *p) {
    const tokenizer *t = p->t;
    for (size_t i = 0; t->merges && i <= t->merge_mask; i++) {
        const struct merge *m = &t->merges[i];
        if (m->pair == MERGE_FREE) continue;
        TRY(push_pair(p, m->rank, (int32_t)(m->pair >> 32), (int32_t)(uint32_t)m->pair));
    }
    return OK;
}

static err add_merges(const tokenizer *t, str *out) {
    struct pairs p = {.t = t};
    err e = t->merges ? table_pairs(&p) : each_halves(t, scored_pair, &p);
    if (p.n) qsort(p.v, p.n, sizeof *p.v, by_place);
    for (size_t i = 0; i < p.n && !e; i++) {
        const struct token *l = &t->tokens[p.v[i].left], *r = &t->tokens[p.v[i].right];
        str_adds(out, i ? ",\n      [" : "\n      [");
        add_quoted(out, l->text, l->n_text);
        str_adds(out, ", ");
        add_quoted(out, r->text, r->n_text);
        str_addc(out, ']');
    }
    free(p.v);
    return e;
}

/* --- the whole file -------------------------------------------------------------------------------------------------- */
static json_t *unknown(const tokenizer *t) { return t->unk < 0 || t->byte_level ? json_null() : json_string(t->tokens[t->unk].text); }

/* The model but for its vocabulary and merges. */
static json_t *model_json(const tokenizer *t) {
    if (t->kind == MODEL_UNIGRAM)
        return json_pack("{s:s, s:o, s:b}", "type", "Unigram", "unk_id", t->unk < 0 ? json_null() : json_integer(t->unk), "byte_fallback",
                         0);
    if (t->kind == MODEL_WORDPIECE)
        return json_pack("{s:s, s:o, s:s, s:I}", "type", "WordPiece", "unk_token", unknown(t), "continuing_subword_prefix", "##",
                         "max_input_chars_per_word", (json_int_t)t->max_chars);
    return json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b}", "type", "BPE", "dropout", "unk_token", unknown(t),
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", t->fuse_unk, "byte_fallback", t->byte_fallback,
                     "ignore_merges", t->ignore_merges);
}

err tokenizer_json_can(const tokenizer *t) { return t->kind == MODEL_BPE && !t->byte_level ? each_halves(t, has_token, (void *)t) : OK; }

err tokenizer_json(const tokenizer *t, const struct gguf_pre *pre, str *out) {
    static const char end[] = "\n  }\n}"; /* of the object and of the model in it, which comes last */
    struct spelt *spelt = spelling(t);
    if (!spelt) return out_of_memory();
    json_t *j = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens",
                          added_json(t, spelt), "normalizer", norm_json(t), "pre_tokenizer", pre_json(t, pre), "post_processor",
                          post_json(t), "decoder", decoder_json(t), "model", model_json(t));
    char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    err e = text && str_ends(text, end) ? OK : out_of_memory();
    if (!e) {
        const bool list = t->kind == MODEL_UNIGRAM;
        str_add(out, text, strlen(text) - strlen(end));
        str_adds(out, list ? ",\n    \"vocab\": [" : ",\n    \"vocab\": {");
        add_vocabulary(t, spelt, out);
        str_adds(out, list ? "\n    ]" : "\n    }");
        if (t->kind == MODEL_BPE) {
            str_adds(out, ",\n    \"merges\": [");
            e = add_merges(t, out);
            str_adds(out, "\n    ]");
        }
        str_adds(out, end);
        str_addc(out, '\n');
    }
    free(text);
    free(spelt);
    json_decref(j);
    return e ? e : out->failed ? out_of_memory() : OK;
}
