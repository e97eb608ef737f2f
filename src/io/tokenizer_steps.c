/* Reads the steps around the model. See tokenizer_steps.h. Each reader has a table of what it knows; a Sequence is
 * read in place, whatever its depth up to a limit. */
#include "io/tokenizer_steps.h"
#include <stdlib.h>
#include <string.h>

/* ---- fields ---- */

enum { DEPTH_MAX = 8 };

struct place place_in(const struct place *at, const char *key, int index) {
    struct place inner = {.name = at->name};
    const char *dot = *at->path ? "." : "";
    if (index < 0) snprintf(inner.path, sizeof inner.path, "%.60s%s%.24s", at->path, dot, key);
    else snprintf(inner.path, sizeof inner.path, "%.60s%s%.20s[%d]", at->path, dot, key, index);
    return inner;
}

bool field_null(const json_t *v) { return !v || json_is_null(v); }

static const char *type_name(const json_t *v) {
    static const char *const names[] = {"an object", "an array", "a string", "a number",
                                        "a number",  "true",     "false",    "null"};
    return v ? names[json_typeof(v)] : "absent";
}

err field_wrong(const struct place *at, const char *key, const json_t *v, const char *wanted) {
    const char *dot = *at->path && *key ? "." : "";
    return fail(E_INPUT, "%s: %s%s%s is %s, not %s", at->name, at->path, dot, key, type_name(v), wanted);
}

err field_bool(const struct place *at, const json_t *o, const char *key, bool fallback, bool *out) {
    const json_t *v = json_object_get(o, key);
    if (!field_null(v) && !json_is_boolean(v)) return field_wrong(at, key, v, "true or false");
    *out = field_null(v) ? fallback : json_is_true(v);
    return OK;
}

err field_text(const struct place *at, const json_t *o, const char *key, bool needed, const char **out, size_t *n) {
    const json_t *v = json_object_get(o, key);
    if (!needed && field_null(v)) return OK;
    if (!json_is_string(v)) return field_wrong(at, key, v, "a string");
    *out = json_string_value(v);
    *n = json_string_length(v);
    return OK;
}

err field_count(const struct place *at, const json_t *o, const char *key, size_t fallback, size_t *out) {
    const json_t *v = json_object_get(o, key);
    *out = fallback;
    if (field_null(v)) return OK;
    if (!json_is_integer(v) || json_integer_value(v) < 0) return field_wrong(at, key, v, "a count");
    *out = (size_t)json_integer_value(v);
    return OK;
}

/* ---- steps of any kind ---- */

struct reader {
    const char *what;  /* "normalizer" */
    const char *list;  /* a Sequence's key: "normalizers" */
    const char *known; /* what is supported, for the message */
    err (*step)(tokenizer *t, const struct place *at, const json_t *step, const char *type, bool *taken);
};

static err read_step(tokenizer *t, const struct reader *r, const struct place *at, const json_t *step, int depth) {
    if (!json_is_object(step)) return field_wrong(at, "", step, "an object");
    const char *type = json_string_value(json_object_get(step, "type"));
    if (!type) return fail(E_INPUT, "%s: %s has no \"type\"", at->name, at->path);
    if (!strcmp(type, "Sequence") && depth < DEPTH_MAX) {
        const json_t *list = json_object_get(step, r->list), *v;
        size_t i;
        if (!json_is_array(list)) return field_wrong(at, r->list, list, "an array");
        json_array_foreach(list, i, v) {
            struct place inner = place_in(at, r->list, (int)i);
            TRY(read_step(t, r, &inner, v, depth + 1));
        }
        return OK;
    }
    bool taken = true;
    TRY(r->step(t, at, step, type, &taken));
    return taken ? OK
                 : fail(E_UNSUPPORTED, "%s: %s: the %s \"%.80s\" is not supported (supported: %s, Sequence)", at->name,
                        at->path, r->what, type, r->known);
}

static err read_steps(tokenizer *t, const struct reader *r, const json_t *step) {
    struct place at = {.name = t->name};
    snprintf(at.path, sizeof at.path, "%s", r->what);
    return field_null(step) ? OK : read_step(t, r, &at, step, 0);
}

/* {"Regex": ...} or {"String": ...}. */
static err read_pattern(const struct place *at, const json_t *step, const char **text, size_t *n, bool *literal) {
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *string = json_object_get(pattern, "String");
    const json_t *v = regex ? regex : string;
    if (!json_is_string(v)) return field_wrong(at, "pattern", v, "{\"Regex\": ...} or {\"String\": ...}");
    *text = json_string_value(v);
    *n = json_string_length(v);
    *literal = !regex;
    return OK;
}

/* ---- normalizer ---- */

static int base64_digit(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static err read_charsmap(tokenizer *t, const struct place *at, const json_t *step) {
    const char *text = NULL;
    size_t n = 0, out = 0;
    char where[200];
    TRY(field_text(at, step, "precompiled_charsmap", false, &text, &n));
    if (n == 0) return OK; /* nothing to replace */
    uint8_t *bytes = malloc(n);
    if (!bytes) return fail(E_MEMORY, "%s: out of memory", t->name);
    uint32_t bits = 0;
    int have = 0;
    for (size_t i = 0; i < n && text[i] != '='; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0) {
            free(bytes);
            return fail(E_INPUT, "%s: %s.precompiled_charsmap is not base64 at character %zu", t->name, at->path, i);
        }
        bits = bits << 6 | (uint32_t)digit;
        if ((have += 6) >= 8) bytes[out++] = (uint8_t)(bits >> (have -= 8));
    }
    snprintf(where, sizeof where, "%.90s: %s", t->name, at->path);
    err e = norm_add_charsmap(&t->norm, &t->mem, where, bytes, out);
    free(bytes);
    return e;
}

static err read_bert(tokenizer *t, const struct place *at, const json_t *step) {
    struct norm_step st = {.kind = NORM_BERT};
    TRY(field_bool(at, step, "clean_text", true, &st.clean_text));
    TRY(field_bool(at, step, "handle_chinese_chars", true, &st.handle_chinese));
    TRY(field_bool(at, step, "lowercase", true, &st.lowercase));
    TRY(field_bool(at, step, "strip_accents", st.lowercase, &st.strip_accents));
    return norm_add(&t->norm, t->name, st);
}

static err read_replace(tokenizer *t, const struct place *at, const json_t *step) {
    struct norm_step st = {0};
    const char *pattern;
    size_t n;
    bool literal;
    TRY(read_pattern(at, step, &pattern, &n, &literal));
    TRY(field_text(at, step, "content", true, &st.content, &st.n_content));
    return norm_add_replace(&t->norm, &t->mem, t->name, st, literal, pattern, n);
}

static err read_prepend(tokenizer *t, const struct place *at, const json_t *step) {
    struct norm_step st = {.kind = NORM_PREPEND};
    TRY(field_text(at, step, "prepend", true, &st.content, &st.n_content));
    st.content = arena_strn(&t->mem, st.content, st.n_content);
    return st.content ? norm_add(&t->norm, t->name, st) : fail(E_MEMORY, "%s: out of memory", t->name);
}

static err read_normalizer(tokenizer *t, const struct place *at, const json_t *step, const char *type, bool *taken) {
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    struct norm_step st = {0};
    for (int i = 0; i < 4; i++) {
        st = (struct norm_step){.kind = NORM_FORM, .form = (enum normal_form)i};
        if (!strcmp(type, forms[i])) return norm_add(&t->norm, t->name, st);
    }
    if (!strcmp(type, "Lowercase")) st.kind = NORM_LOWERCASE;
    else if (!strcmp(type, "StripAccents")) st.kind = NORM_STRIP_ACCENTS;
    else if (!strcmp(type, "Nmt")) st.kind = NORM_NMT;
    else if (!strcmp(type, "Strip")) {
        st.kind = NORM_STRIP;
        TRY(field_bool(at, step, "strip_left", true, &st.left));
        TRY(field_bool(at, step, "strip_right", true, &st.right));
    } else if (!strcmp(type, "Prepend")) return read_prepend(t, at, step);
    else if (!strcmp(type, "Replace")) return read_replace(t, at, step);
    else if (!strcmp(type, "BertNormalizer")) return read_bert(t, at, step);
    else if (!strcmp(type, "Precompiled")) return read_charsmap(t, at, step);
    else return *taken = false, OK;
    return norm_add(&t->norm, t->name, st);
}

err steps_normalizer(tokenizer *t, const json_t *step) {
    static const struct reader r = {"normalizer", "normalizers",
                                    "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Nmt, Prepend, Replace, "
                                    "BertNormalizer, Precompiled",
                                    read_normalizer};
    return read_steps(t, &r, step);
}

/* ---- pre_tokenizer ---- */

static err read_behavior(const struct place *at, const json_t *step, const char *fallback, enum split_kind *kind) {
    static const char *const kinds[] = {[SPLIT_ISOLATED] = "Isolated",
                                        [SPLIT_REMOVED] = "Removed",
                                        [SPLIT_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SPLIT_WITH_NEXT] = "MergedWithNext",
                                        [SPLIT_CONTIGUOUS] = "Contiguous"};
    const char *behavior = fallback;
    size_t n;
    TRY(field_text(at, step, "behavior", fallback == NULL, &behavior, &n));
    for (int k = SPLIT_ISOLATED; k <= SPLIT_CONTIGUOUS; k++)
        if (!strcmp(behavior, kinds[k])) return *kind = (enum split_kind)k, OK;
    return fail(E_INPUT, "%s: %s.behavior \"%.40s\" is unknown", at->name, at->path, behavior);
}

static err read_split(tokenizer *t, const struct place *at, const json_t *step) {
    const char *pattern;
    size_t n;
    bool literal, invert;
    enum split_kind kind;
    TRY(read_pattern(at, step, &pattern, &n, &literal));
    TRY(read_behavior(at, step, NULL, &kind));
    TRY(field_bool(at, step, "invert", false, &invert));
    return pre_add_split(&t->pre, t->name, pattern, n, literal, kind, invert);
}

static err read_byte_level(tokenizer *t, const struct place *at, const json_t *step) {
    bool prefix, regex;
    TRY(field_bool(at, step, "add_prefix_space", true, &prefix));
    TRY(field_bool(at, step, "use_regex", true, &regex));
    if (prefix) TRY(pre_add(&t->pre, t->name, (struct stage){.kind = STAGE_PREFIX_SPACE}));
    if (!regex) return OK;
    return pre_add_split(&t->pre, t->name, PATTERN_BYTE_LEVEL, strlen(PATTERN_BYTE_LEVEL), false, SPLIT_ISOLATED,
                         false);
}

/* The sign and scheme of a Metaspace, as pre_tokenizer and as decoder. Older files have add_prefix_space. */
static err read_metaspace(const struct place *at, const json_t *step, struct stage *st) {
    static const char *const schemes[] = {
        [PREPEND_ALWAYS] = "always", [PREPEND_FIRST] = "first", [PREPEND_NEVER] = "never"};
    const char *sign = SPACE_SIGN, *scheme = NULL;
    size_t n = SPACE_SIGN_BYTES, n_scheme;
    bool prefix;
    *st = (struct stage){.kind = STAGE_METASPACE};
    TRY(field_text(at, step, "replacement", false, &sign, &n));
    if (n == 0 || !*sign || (size_t)utf8_len(sign) != n)
        return fail(E_INPUT, "%s: %s.replacement \"%.20s\" is not one character", at->name, at->path, sign);
    memcpy(st->sign, sign, n);
    TRY(field_bool(at, step, "split", true, &st->cut));
    TRY(field_bool(at, step, "add_prefix_space", true, &prefix));
    TRY(field_text(at, step, "prepend_scheme", false, &scheme, &n_scheme));
    st->prepend = prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    for (int i = 0; scheme && i < 3; i++)
        if (!strcmp(scheme, schemes[i])) return st->prepend = (enum prepend)i, OK;
    return scheme ? fail(E_INPUT, "%s: %s.prepend_scheme \"%.40s\" is none of always, first, never", at->name, at->path,
                         scheme)
                  : OK;
}

static err read_pre_tokenizer(tokenizer *t, const struct place *at, const json_t *step, const char *type, bool *taken) {
    struct stage st = {.kind = STAGE_CHARS};
    if (!strcmp(type, "Split")) return read_split(t, at, step);
    if (!strcmp(type, "ByteLevel")) return read_byte_level(t, at, step);
    if (!strcmp(type, "Digits")) {
        bool each;
        TRY(field_bool(at, step, "individual_digits", false, &each));
        st.set = CHARS_NUMERIC;
        st.split = each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    } else if (!strcmp(type, "WhitespaceSplit")) {
        st.set = CHARS_SPACE;
        st.split = SPLIT_REMOVED;
    } else if (!strcmp(type, "Whitespace")) st.kind = STAGE_WORDS;
    else if (!strcmp(type, "Punctuation")) {
        st.set = CHARS_PUNCT;
        TRY(read_behavior(at, step, "Isolated", &st.split));
    } else if (!strcmp(type, "BertPreTokenizer")) {
        TRY(pre_add(&t->pre, t->name, (struct stage){.kind = STAGE_CHARS, .set = CHARS_SPACE, .split = SPLIT_REMOVED}));
        st.set = CHARS_PUNCT;
        st.split = SPLIT_ISOLATED;
    } else if (!strcmp(type, "Metaspace")) TRY(read_metaspace(at, step, &st));
    else return *taken = false, OK;
    return pre_add(&t->pre, t->name, st);
}

/* ByteLevel respells the text, so it must come last. */
static err check_byte_level_last(const tokenizer *t, const json_t *step) {
    const json_t *list = json_object_get(step, "pretokenizers");
    for (size_t i = 0; i + 1 < json_array_size(list); i++)
        if (steps_byte_level(json_array_get(list, i)))
            return fail(E_UNSUPPORTED, "%s: pre_tokenizer.pretokenizers[%zu]: a step after ByteLevel is not supported",
                        t->name, i + 1);
    return OK;
}

bool steps_byte_level(const json_t *step) {
    const char *type = json_string_value(json_object_get(step, "type"));
    const json_t *list = json_object_get(step, "pretokenizers"), *v;
    size_t i;
    if (type && !strcmp(type, "ByteLevel")) return true;
    json_array_foreach(list, i, v) {
        const char *inner = json_string_value(json_object_get(v, "type"));
        if (inner && !strcmp(inner, "ByteLevel")) return true;
    }
    return false;
}

err steps_pre_tokenizer(tokenizer *t, const json_t *step) {
    static const struct reader r = {"pre_tokenizer", "pretokenizers",
                                    "ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, Punctuation, "
                                    "BertPreTokenizer, Metaspace",
                                    read_pre_tokenizer};
    TRY(check_byte_level_last(t, step));
    return read_steps(t, &r, step);
}

/* ---- post_processor ---- */

/* ["[CLS]", 101] of BertProcessing and RobertaProcessing. */
static err read_end(tokenizer *t, const struct place *at, const json_t *step, const char *key, struct ids *list) {
    const json_t *pair = json_object_get(step, key), *id = json_array_get(pair, 1);
    if (!json_is_integer(id)) return field_wrong(at, key, id, "a token and its id");
    return tok_around(t, list, json_integer_value(id));
}

static err read_template(tokenizer *t, const struct place *at, const json_t *step, struct ids *before,
                         struct ids *after) {
    const json_t *single = json_object_get(step, "single"), *tokens = json_object_get(step, "special_tokens"), *v, *id;
    struct ids *list = before;
    size_t i, k;
    if (!json_is_array(single)) return field_wrong(at, "single", single, "an array");
    json_array_foreach(single, i, v) {
        const char *name = json_string_value(json_object_get(json_object_get(v, "SpecialToken"), "id"));
        if (json_object_get(v, "Sequence")) list = after;
        else if (!name) return field_wrong(at, "single", v, "a list of SpecialToken and Sequence");
        if (!name) continue;
        const json_t *ids = json_object_get(json_object_get(tokens, name), "ids");
        if (!json_is_array(ids))
            return fail(E_INPUT, "%s: %s.special_tokens does not know \"%.80s\"", t->name, at->path, name);
        json_array_foreach(ids, k, id) {
            if (!json_is_integer(id)) return field_wrong(at, "special_tokens", id, "a list of ids");
            TRY(tok_around(t, list, json_integer_value(id)));
        }
    }
    return OK;
}

/* Puts what one processor adds around what those before it added. */
static err wrap(tokenizer *t, const struct ids *before, const struct ids *after) {
    for (size_t i = before->n; i-- > 0;) {
        TRY(ids_push(&t->prefix, 0));
        memmove(t->prefix.v + 1, t->prefix.v, (t->prefix.n - 1) * sizeof *t->prefix.v);
        t->prefix.v[0] = before->v[i];
    }
    for (size_t i = 0; i < after->n; i++) TRY(ids_push(&t->suffix, after->v[i]));
    return OK;
}

static err read_processor(tokenizer *t, const struct place *at, const json_t *step, const char *type, bool *taken) {
    struct ids before = {0}, after = {0};
    err e = OK;
    if (!strcmp(type, "TemplateProcessing")) e = read_template(t, at, step, &before, &after);
    else if (!strcmp(type, "BertProcessing") || !strcmp(type, "RobertaProcessing")) {
        e = read_end(t, at, step, "cls", &before);
        if (!e) e = read_end(t, at, step, "sep", &after);
    } else *taken = !strcmp(type, "ByteLevel"); /* offsets only */
    if (!e) e = wrap(t, &before, &after);
    ids_free(&before);
    ids_free(&after);
    return e;
}

err steps_post_processor(tokenizer *t, const json_t *step) {
    static const struct reader r = {"post_processor", "processors",
                                    "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel", read_processor};
    return read_steps(t, &r, step);
}

/* ---- decoder ---- */

static err read_decode_replace(tokenizer *t, const struct place *at, const json_t *step, struct decode_step *d) {
    bool literal;
    d->kind = DECODE_REPLACE;
    TRY(read_pattern(at, step, &d->from, &d->n_from, &literal));
    if (!literal)
        return fail(E_UNSUPPORTED, "%s: %s: the decoder Replace with a regex is not supported (a String is)", t->name,
                    at->path);
    return field_text(at, step, "content", true, &d->to, &d->n_to);
}

static err read_decode_strip(const struct place *at, const json_t *step, struct decode_step *d) {
    d->kind = DECODE_STRIP;
    TRY(field_text(at, step, "content", true, &d->from, &d->n_from));
    if (d->n_from == 0 || (size_t)utf8_len(d->from) != d->n_from)
        return fail(E_INPUT, "%s: %s.content is not one character", at->name, at->path);
    TRY(field_count(at, step, "start", 0, &d->left));
    return field_count(at, step, "stop", 0, &d->right);
}

static err read_decode_metaspace(tokenizer *t, const struct place *at, const json_t *step) {
    struct stage st;
    TRY(read_metaspace(at, step, &st));
    return decoder_add(t, (struct decode_step){.kind = DECODE_METASPACE,
                                               .from = st.sign,
                                               .n_from = strlen(st.sign),
                                               .prepends = st.prepend != PREPEND_NEVER});
}

static err read_decoder(tokenizer *t, const struct place *at, const json_t *step, const char *type, bool *taken) {
    struct decode_step d = {0};
    if (!strcmp(type, "ByteFallback")) d.kind = DECODE_BYTE_FALLBACK;
    else if (!strcmp(type, "Fuse")) d.kind = DECODE_FUSE;
    else if (!strcmp(type, "Strip")) TRY(read_decode_strip(at, step, &d));
    else if (!strcmp(type, "Replace")) TRY(read_decode_replace(t, at, step, &d));
    else if (!strcmp(type, "Metaspace")) return read_decode_metaspace(t, at, step);
    else if (!strcmp(type, "WordPiece")) {
        d.kind = DECODE_WORDPIECE;
        d.from = "##";
        d.n_from = 2;
        TRY(field_text(at, step, "prefix", false, &d.from, &d.n_from));
        TRY(field_bool(at, step, "cleanup", true, &d.cleanup));
    } else return *taken = false, OK;
    return decoder_add(t, d);
}

err steps_decoder(tokenizer *t, const json_t *step) {
    static const struct reader r = {
        "decoder", "decoders", "ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece", read_decoder};
    const json_t *list = json_object_get(step, "decoders");
    const json_t *only = json_array_size(list) == 1 ? json_array_get(list, 0) : step;
    const char *type = json_string_value(json_object_get(only, "type"));
    if (t->byte_level && (field_null(step) || (type && !strcmp(type, "ByteLevel")))) return t->decoder.bytes = true, OK;
    return read_steps(t, &r, step);
}
