/* Reads Hugging Face's tokenizer.json, and what its neighbours say of bos, eos, padding and the chat template.
 *
 * A tokenizer.json names each step of its pipeline. The steps that byte-level BPE models use are taken; any other is
 * E_UNSUPPORTED by its name, for to skip a step would give other ids. The post-processor is not run (callers add what
 * a training row needs); it only tells whether the model expects a BOS. Fields of the wrong type are E_INPUT.
 *
 * Neighbours, the first that says something wins: tokenizer_config.json, special_tokens_map.json,
 * generation_config.json, config.json; for the template chat_template.jinja, then tokenizer_config.json. */
#include "base/file.h"
#include "io/tokenizer_internal.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields ---- */

static const char *type_name(const json_t *v) {
    static const char *const names[] = {"an object", "an array", "a string", "a number",
                                        "a number",  "true",     "false",    "null"};
    return v ? names[json_typeof(v)] : "absent";
}

static bool is_null(const json_t *v) { return !v || json_is_null(v); }

static err wrong(const char *name, const char *field, const json_t *v, const char *wanted) {
    return fail(E_INPUT, "%s: %s is %s, not %s", name, field, type_name(v), wanted);
}

static err get_bool(const char *name, const json_t *o, const char *key, bool fallback, bool *out) {
    const json_t *v = json_object_get(o, key);
    if (!is_null(v) && !json_is_boolean(v)) return wrong(name, key, v, "true or false");
    *out = is_null(v) ? fallback : json_is_true(v);
    return OK;
}

/* The "type" of a pipeline step. */
static err get_type(const char *name, const char *field, const json_t *step, const char **type) {
    if (!json_is_object(step)) return wrong(name, field, step, "an object");
    *type = json_string_value(json_object_get(step, "type"));
    return *type ? OK : fail(E_INPUT, "%s: %s has no \"type\"", name, field);
}

/* An option that must be absent, null, false, zero or empty, because we do not do what it asks for. */
static err must_be_off(const char *name, const char *field, const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    bool off = is_null(v) || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
               (json_is_string(v) && json_string_length(v) == 0);
    return off ? OK : fail(E_UNSUPPORTED, "%s: %s.%s is set, which is not supported", name, field, key);
}

/* ---- normaliser ---- */

static err read_normalizer(tokenizer *t, const json_t *step, int depth) {
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    const char *type;
    if (is_null(step)) return OK;
    TRY(get_type(t->name, "normalizer", step, &type));
    for (int i = 0; i < 4; i++)
        if (!strcmp(type, forms[i])) return pre_add_form(&t->pre, t->name, (enum normal_form)i);
    if (strcmp(type, "Sequence") || depth)
        return fail(E_UNSUPPORTED,
                    "%s: normalizer \"%s\" is not supported (NFC, NFD, NFKC, NFKD and a Sequence of them are)", t->name,
                    type);
    const json_t *list = json_object_get(step, "normalizers"), *v;
    size_t i;
    if (!json_is_array(list)) return wrong(t->name, "normalizer.normalizers", list, "an array");
    json_array_foreach(list, i, v) TRY(read_normalizer(t, v, depth + 1));
    return OK;
}

/* ---- pre-tokeniser ---- */

static err read_split(tokenizer *t, const json_t *step) {
    static const char *const kinds[] = {[SPLIT_ISOLATED] = "Isolated",
                                        [SPLIT_REMOVED] = "Removed",
                                        [SPLIT_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SPLIT_WITH_NEXT] = "MergedWithNext",
                                        [SPLIT_CONTIGUOUS] = "Contiguous"};
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *literal = json_object_get(pattern, "String");
    const json_t *text = regex ? regex : literal;
    if (!json_is_string(text))
        return wrong(t->name, "pre_tokenizer Split.pattern", text, "{\"Regex\": ...} or {\"String\": ...}");
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    if (!behavior) return fail(E_INPUT, "%s: pre_tokenizer Split has no \"behavior\"", t->name);
    bool invert;
    TRY(get_bool(t->name, step, "invert", false, &invert));
    for (int k = SPLIT_ISOLATED; k <= SPLIT_CONTIGUOUS; k++)
        if (!strcmp(behavior, kinds[k]))
            return pre_add_split(&t->pre, t->name, json_string_value(text), json_string_length(text), !regex,
                                 (enum split_kind)k, invert);
    return fail(E_INPUT, "%s: pre_tokenizer Split.behavior \"%s\" is unknown", t->name, behavior);
}

static err read_byte_level(tokenizer *t, const json_t *step) {
    bool prefix, regex;
    TRY(get_bool(t->name, step, "add_prefix_space", true, &prefix));
    TRY(get_bool(t->name, step, "use_regex", true, &regex));
    if (prefix) TRY(pre_add_prefix_space(&t->pre, t->name));
    if (!regex) return OK;
    return pre_add_split(&t->pre, t->name, PATTERN_BYTE_LEVEL, strlen(PATTERN_BYTE_LEVEL), false, SPLIT_ISOLATED,
                         false);
}

static err read_digits(tokenizer *t, const json_t *step) {
    bool each;
    TRY(get_bool(t->name, step, "individual_digits", false, &each));
    const char *pattern = each ? PATTERN_DIGIT : PATTERN_DIGIT "+";
    return pre_add_split(&t->pre, t->name, pattern, strlen(pattern), false, SPLIT_ISOLATED, false);
}

/* ByteLevel respells the text, so nothing may follow it. */
static err read_pre_tokenizer(tokenizer *t, const json_t *step, int depth, bool *byte_level) {
    const char *type;
    TRY(get_type(t->name, "pre_tokenizer", step, &type));
    if (*byte_level)
        return fail(E_UNSUPPORTED, "%s: pre_tokenizer \"%s\" after ByteLevel is not supported", t->name, type);
    if (!strcmp(type, "Split")) return read_split(t, step);
    if (!strcmp(type, "Digits")) return read_digits(t, step);
    if (!strcmp(type, "ByteLevel")) return *byte_level = true, read_byte_level(t, step);
    if (strcmp(type, "Sequence") || depth)
        return fail(E_UNSUPPORTED,
                    "%s: pre_tokenizer \"%s\" is not supported (ByteLevel, Split, Digits and a Sequence of them are)",
                    t->name, type);
    const json_t *list = json_object_get(step, "pretokenizers"), *v;
    size_t i;
    if (!json_is_array(list)) return wrong(t->name, "pre_tokenizer.pretokenizers", list, "an array");
    json_array_foreach(list, i, v) TRY(read_pre_tokenizer(t, v, depth + 1, byte_level));
    return OK;
}

/* ---- model ---- */

static err read_merges(tokenizer *t, const json_t *merges) {
    size_t rank;
    json_t *m;
    json_array_foreach(merges, rank, m) {
        const json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        if (json_is_string(m)) TRY(tok_merge_line(t, rank, json_string_value(m), json_string_length(m)));
        else if (json_array_size(m) == 2 && json_is_string(left) && json_is_string(right))
            TRY(tok_merge(t, rank, json_string_value(left), json_string_length(left), json_string_value(right),
                          json_string_length(right)));
        else return fail(E_INPUT, "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", t->name, rank);
    }
    return OK;
}

static err read_vocabulary(tokenizer *t, json_t *vocab, const json_t *added) {
    const char *text;
    json_t *id;
    void *at;
    for (at = json_object_iter(vocab); at; at = json_object_iter_next(vocab, at)) {
        text = json_object_iter_key(at);
        id = json_object_iter_value(at);
        if (!json_is_integer(id))
            return fail(E_INPUT, "%s: model.vocab[\"%.80s\"] is %s, not an id", t->name, text, type_name(id));
        TRY(tok_put(t, json_integer_value(id), text, strlen(text), true));
    }
    size_t i;
    json_array_foreach(added, i, id) {
        const json_t *content = json_object_get(id, "content");
        if (!json_object_get(vocab, json_string_value(content)))
            TRY(tok_put(t, json_integer_value(json_object_get(id, "id")), json_string_value(content),
                        json_string_length(content), false));
    }
    return tok_vocabulary_done(t);
}

static err read_unknown(tokenizer *t, const json_t *model) {
    const json_t *unk = json_object_get(model, "unk_token");
    if (is_null(unk)) return OK;
    if (!json_is_string(unk)) return wrong(t->name, "model.unk_token", unk, "a string");
    t->unk = tok_find(t, json_string_value(unk), json_string_length(unk));
    return get_bool(t->name, model, "fuse_unk", false, &t->fuse_unk);
}

/* Checks what is there before the tokenizer is made, and counts its tokens. */
static err check_model(const char *name, const json_t *model, const json_t *added, size_t *n_tokens) {
    static const char *const off[] = {"byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges"), *a;
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!json_is_object(model)) return wrong(name, "model", model, "an object");
    if (type && strcmp(type, "BPE"))
        return fail(E_UNSUPPORTED, "%s: model.type \"%s\" is not supported (BPE is)", name, type);
    if (!json_is_object(vocab)) return wrong(name, "model.vocab", vocab, "an object");
    if (!json_is_array(merges)) return wrong(name, "model.merges", merges, "an array");
    for (int i = 0; i < 4; i++) TRY(must_be_off(name, "model", model, off[i]));
    if (!is_null(added) && !json_is_array(added)) return wrong(name, "added_tokens", added, "an array");
    *n_tokens = json_object_size(vocab);
    size_t i;
    json_array_foreach(added, i, a) {
        const json_t *content = json_object_get(a, "content"), *id = json_object_get(a, "id");
        if (!json_is_string(content) || !json_is_integer(id))
            return fail(E_INPUT, "%s: added_tokens[%zu] needs a string \"content\" and a number \"id\"", name, i);
        const json_t *known = json_object_get(vocab, json_string_value(content));
        if (known && json_integer_value(known) != json_integer_value(id))
            return fail(E_INPUT, "%s: added token \"%.80s\" has id %lld, but model.vocab gives it %lld", name,
                        json_string_value(content), (long long)json_integer_value(id),
                        (long long)json_integer_value(known));
        *n_tokens += known == NULL;
    }
    return OK;
}

static err read_added(tokenizer *t, const json_t *list) {
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) {
        const char *content = json_string_value(json_object_get(v, "content")), *normal;
        struct added a = {.id = (int32_t)json_integer_value(json_object_get(v, "id"))};
        bool normalised;
        TRY(get_bool(t->name, v, "special", false, &a.special));
        TRY(get_bool(t->name, v, "lstrip", false, &a.lstrip));
        TRY(get_bool(t->name, v, "rstrip", false, &a.rstrip));
        TRY(get_bool(t->name, v, "single_word", false, &a.single_word));
        TRY(get_bool(t->name, v, "normalized", !a.special, &normalised));
        str buf = {0};
        err e = OK;
        if (normalised) {
            e = pre_normalise(&t->pre, content, strlen(content), &buf, &normal, &a.n);
            a.text = normal;
        } else {
            a.text = content;
            a.n = strlen(content);
        }
        if (!e) e = tok_add(t, a, normalised);
        str_free(&buf);
        TRY(e);
    }
    return OK;
}

/* ---- the rest of the file ---- */

/* The first token that the post-processor puts before a text, or -1. */
static int32_t first_added(const tokenizer *t, const json_t *post) {
    const json_t *list = json_object_get(post, "processors"), *v;
    size_t i;
    json_array_foreach(list, i, v) {
        int32_t id = first_added(t, v);
        if (id >= 0) return id;
    }
    const json_t *first = json_object_get(json_array_get(json_object_get(post, "single"), 0), "SpecialToken");
    const char *text = json_string_value(json_object_get(first, "id"));
    if (!text) text = json_string_value(json_array_get(json_object_get(post, "cls"), 0)); /* BERT's and RoBERTa's */
    return text ? tokenizer_id(t, text) : -1;
}

static err check_decoder(const tokenizer *t, const json_t *decoder) {
    const char *type;
    if (is_null(decoder)) return OK;
    TRY(get_type(t->name, "decoder", decoder, &type));
    return strcmp(type, "ByteLevel")
               ? fail(E_UNSUPPORTED, "%s: decoder \"%s\" is not supported (ByteLevel is)", t->name, type)
               : OK;
}

static err build(tokenizer *t, const json_t *root) {
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    bool byte_level = false;
    TRY(read_normalizer(t, json_object_get(root, "normalizer"), 0));
    if (!is_null(json_object_get(root, "pre_tokenizer")))
        TRY(read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), 0, &byte_level));
    if (!byte_level)
        return fail(E_UNSUPPORTED, "%s: no ByteLevel pre_tokenizer: only byte-level BPE is supported", t->name);
    TRY(check_decoder(t, json_object_get(root, "decoder")));
    TRY(read_vocabulary(t, json_object_get(model, "vocab"), added));
    TRY(read_unknown(t, model));
    TRY(get_bool(t->name, model, "ignore_merges", false, &t->ignore_merges));
    TRY(read_merges(t, json_object_get(model, "merges")));
    TRY(read_added(t, added));
    int32_t first = first_added(t, json_object_get(root, "post_processor"));
    if (first >= 0) {
        t->bos = first;
        t->adds_bos = true;
    }
    return OK;
}

err tokenizer_json_parse(const char *name, const char *bytes, size_t n, tokenizer **out) {
    json_error_t where;
    size_t n_tokens = 0;
    *out = NULL;
    json_t *root = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &where);
    if (!root) return fail(E_INPUT, "%s:%d:%d: not JSON: %s", name, where.line, where.column, where.text);
    json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    err e = check_model(name, model, added, &n_tokens);
    if (!e) e = tok_create(name, n_tokens, json_array_size(json_object_get(model, "merges")), out);
    if (!e) e = build(*out, root);
    if (!e) e = tok_finish(*out);
    json_decref(root);
    if (e) {
        tokenizer_free(*out);
        *out = NULL;
    }
    return e;
}

/* ---- neighbours ---- */

/* The text of a file beside tokenizer.json; found = false when there is none. */
static err read_beside(const char *path, const char *file, str *text, bool *found) {
    const char *slash = strrchr(path, '/');
    str beside = {0};
    str_add(&beside, path, slash ? (size_t)(slash + 1 - path) : 0);
    str_adds(&beside, file);
    err e = beside.failed ? fail(E_MEMORY, "out of memory") : OK;
    *found = !e && path_exists(beside.p);
    if (*found) e = file_read(beside.p, text);
    str_free(&beside);
    return e;
}

/* A token as text, {"content": text}, or (keys that end in _id) an id or a list of ids, whose first counts. */
static err take_token(tokenizer *t, const char *file, const json_t *root, const char *key, int32_t *id) {
    char id_key[32];
    const json_t *v = json_object_get(root, key);
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    if (*id < 0 && text && (*id = tokenizer_id(t, text)) < 0)
        return fail(E_INPUT, "%s: %s \"%.80s\" is not in the vocabulary of %s", file, key, text, t->name);
    snprintf(id_key, sizeof id_key, "%s_id", key);
    v = json_object_get(root, id_key);
    if (json_is_array(v)) v = json_array_get(v, 0);
    if (*id >= 0 || !json_is_number(v)) return OK;
    double n = json_number_value(v);
    if (n < 0 || n >= t->n)
        return fail(E_INPUT, "%s: %s is %.0f, outside the vocabulary of %d", file, id_key, n, t->n);
    *id = (int32_t)n;
    return OK;
}

/* "chat_template": a text, or a list of {name, template} of which "default" counts. */
static err take_template(tokenizer *t, const json_t *root) {
    const json_t *v = json_object_get(root, "chat_template"), *choice;
    const char *text = json_string_value(v);
    size_t i;
    json_array_foreach(v, i, choice) {
        const char *name = json_string_value(json_object_get(choice, "name"));
        if (name && !strcmp(name, "default")) text = json_string_value(json_object_get(choice, "template"));
    }
    if (t->chat_template || !text) return OK;
    t->chat_template = arena_str(&t->mem, text);
    return t->chat_template ? OK : fail(E_MEMORY, "out of memory");
}

static err take_config(tokenizer *t, const char *file, const str *text) {
    json_error_t where;
    /* integers as reals: Hugging Face writes 1000000000000000019884624838656 for "no limit" */
    json_t *root = json_loadb(text->p, text->n, JSON_DECODE_INT_AS_REAL, &where);
    if (!root) return fail(E_INPUT, "%s:%d:%d: not JSON: %s", file, where.line, where.column, where.text);
    err e = take_token(t, file, root, "bos_token", &t->bos);
    if (!e) e = take_token(t, file, root, "eos_token", &t->eos);
    if (!e) e = take_token(t, file, root, "pad_token", &t->pad);
    if (!e) e = take_template(t, root);
    const json_t *adds = json_object_get(root, "add_bos_token");
    if (json_is_boolean(adds)) t->adds_bos = json_is_true(adds);
    json_decref(root);
    return e;
}

static err read_neighbours(tokenizer *t, const char *path) {
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
                                        "config.json"};
    str text = {0};
    bool found;
    int32_t first = t->bos; /* what the post-processor puts before a text: BOS, unless a file names another */
    t->bos = -1;
    err e = read_beside(path, "chat_template.jinja", &text, &found);
    if (!e && found && !(t->chat_template = arena_strn(&t->mem, text.p, text.n))) e = fail(E_MEMORY, "out of memory");
    for (int i = 0; i < 4 && !e; i++) {
        str_clear(&text);
        e = read_beside(path, files[i], &text, &found);
        if (!e && found) e = take_config(t, files[i], &text);
        if (e) e = fail_in(e, "%s", path);
    }
    if (t->bos < 0) t->bos = first;
    str_free(&text);
    return e;
}

err tokenizer_from_json(const char *path, tokenizer **out) {
    struct file_map map;
    *out = NULL;
    TRY(file_map(path, &map));
    err e = tokenizer_json_parse(path, (const char *)map.p, map.n, out);
    file_unmap(&map);
    TRY(e);
    e = read_neighbours(*out, path);
    if (e) {
        tokenizer_free(*out);
        *out = NULL;
    }
    return e;
}
