/* Reads Hugging Face's tokenizer.json, and what its neighbours say of bos, eos, padding and the chat template.
 *
 * Here is the model: BPE, Unigram or WordPiece, its vocabulary, and the added tokens; tokenizer_steps.c reads the steps
 * around it. What is not known is E_UNSUPPORTED by its name, for to skip it would give other ids; fields of the wrong
 * type are E_INPUT. Vocabulary and merges, nearly all of a file, are read where they lie (json_scan.h).
 *
 * Neighbours, the first that says something wins: tokenizer_config.json, special_tokens_map.json,
 * generation_config.json, config.json; for the template chat_template.jinja, then tokenizer_config.json. */
#define _GNU_SOURCE /* strndup */
#include "base/file.h"
#include "io/json_scan.h"
#include "io/tokenizer_steps.h"
#include <stdlib.h>
#include <string.h>

enum { VOCAB, MERGES, N_LONG }; /* the long values of "model" */
static const char *const long_keys[] = {[VOCAB] = "vocab", [MERGES] = "merges", [N_LONG] = NULL};

struct file {
    const char *name, *bytes;
    struct scan_span span[N_LONG];
    const json_t *root, *model, *added;
    const char *type; /* the model's */
};

static const struct place in_model = {.path = "model"};
static struct place model_place(const struct file *f) {
    struct place at = in_model;
    at.name = f->name;
    return at;
}

static err open_cursor(const struct file *f, int key, char open, const char *wanted, struct scan_cursor *c) {
    scan_open(c, f->name, f->bytes, f->span[key]);
    if (scan_peek(c) == open) return c->at++, OK;
    return fail(E_INPUT, "%s: model.%s is %s, not %s", f->name, long_keys[key], scan_kind(c), wanted);
}

/* ---- model ---- */

/* One entry of a vocabulary: {"text": id, ...} or [["text", score], ...], whose ids count up. */
struct entry {
    const char *text;
    size_t n;
    double value;
    bool integer;
};

static err next_entry(struct scan_cursor *c, bool list, struct entry *e) {
    if (list) TRY(scan_take(c, '['));
    TRY(scan_string(c, &e->text, &e->n));
    TRY(scan_take(c, list ? ',' : ':'));
    char next = scan_peek(c);
    e->integer = false;
    if (next == '-' || (next >= '0' && next <= '9')) TRY(scan_number(c, &e->value, &e->integer));
    if (!list && !e->integer)
        return fail(E_INPUT, "%s: model.vocab[\"%.*s\"] is %s, not an id", c->name, (int)(e->n < 80 ? e->n : 80),
                    e->text, next == '-' || (next >= '0' && next <= '9') ? "a number" : scan_kind(c));
    return list ? scan_take(c, ']') : OK;
}

typedef err (*entry_fn)(void *ctx, int64_t id, const struct entry *e);
static err each_entry(const struct file *f, entry_fn fn, void *ctx) {
    bool list = !strcmp(f->type, "Unigram"), first = true, more;
    struct scan_cursor c;
    struct entry entry;
    err e = open_cursor(f, VOCAB, list ? '[' : '{', list ? "an array" : "an object", &c);
    for (int64_t i = 0; !e; i++) {
        e = scan_more(&c, list ? ']' : '}', &first, &more);
        if (e || !more) break;
        e = next_entry(&c, list, &entry);
        if (!e && list) e = fn(ctx, i, &entry);
        else if (!e)
            e = fn(ctx, entry.value >= -1 && entry.value < INT32_MAX ? (int64_t)entry.value : INT32_MAX, &entry);
    }
    scan_close(&c);
    return e;
}

static err count_entry(void *ctx, int64_t id, const struct entry *e) {
    (void)id, (void)e;
    ++*(size_t *)ctx;
    return OK;
}

struct filling {
    tokenizer *t;
    double *score;
};
static err put_entry(void *ctx, int64_t id, const struct entry *e) {
    struct filling *f = ctx;
    if (f->score) f->score[id] = e->value;
    return tok_put(f->t, id, e->text, e->n, true);
}

static err next_merge(tokenizer *t, struct scan_cursor *c, size_t rank) {
    const char *left, *right;
    size_t n_left, n_right;
    if (scan_peek(c) == '"') {
        TRY(scan_string(c, &left, &n_left));
        return tok_merge_line(t, rank, left, n_left);
    }
    if (scan_peek(c) != '[')
        return fail(E_INPUT, "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", t->name, rank);
    TRY(scan_take(c, '['));
    TRY(scan_string(c, &left, &n_left));
    char *copy = left == c->text.p ? strndup(left, n_left) : NULL; /* the next string may overwrite it */
    if (left == c->text.p && !copy) return fail(E_MEMORY, "%s: out of memory", t->name);
    err e = scan_take(c, ',');
    if (!e) e = scan_string(c, &right, &n_right);
    if (!e) e = scan_take(c, ']');
    if (!e) e = tok_merge(t, rank, copy ? copy : left, n_left, right, n_right);
    else e = fail_in(e, "model.merges[%zu]", rank);
    free(copy);
    return e;
}

static err read_merges(tokenizer *t, const struct file *f) {
    struct scan_cursor c;
    bool first = true, more;
    size_t n = 1;
    err e = open_cursor(f, MERGES, '[', "an array", &c);
    for (size_t i = f->span[MERGES].start; i < f->span[MERGES].end; i++) n += f->bytes[i] == ',';
    if (scan_peek(&c) == '[') n = n / 2 + 1; /* at most so many: each pair has a comma inside */
    if (!e) e = tok_merges_begin(t, n);
    for (size_t rank = 0; !e; rank++) {
        e = scan_more(&c, ']', &first, &more);
        if (e || !more) break;
        e = next_merge(t, &c, rank);
    }
    scan_close(&c);
    return e;
}

static err read_unk(tokenizer *t, const struct file *f) {
    const char *unk = NULL;
    size_t n;
    struct place at = model_place(f);
    TRY(field_text(&at, f->model, "unk_token", false, &unk, &n));
    if (unk) t->unk = tok_find(t, unk, n);
    return OK;
}

/* An option that must be absent, null, false, zero or empty, because we do not do what it asks for. */
static err must_be_off(const struct file *f, const char *key) {
    const json_t *v = json_object_get(f->model, key);
    bool off = field_null(v) || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
               (json_is_string(v) && json_string_length(v) == 0);
    return off ? OK : fail(E_UNSUPPORTED, "%s: model.%s is set, which is not supported", f->name, key);
}

static err finish_bpe(tokenizer *t, const struct file *f) {
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    struct place at = model_place(f);
    t->kind = MODEL_BPE;
    t->word = t->byte_level ? bpe_bytes : bpe_chars;
    for (int i = 0; i < 3; i++) TRY(must_be_off(f, off[i]));
    TRY(read_unk(t, f));
    TRY(field_bool(&at, f->model, "fuse_unk", false, &t->fuse_unk));
    TRY(field_bool(&at, f->model, "ignore_merges", false, &t->ignore_merges));
    TRY(field_bool(&at, f->model, "byte_fallback", false, &t->byte_fallback));
    for (int b = 0; b < 256 && t->byte_level && t->byte_fallback; b++)
        if (t->byte_id[b] < 0)
            return fail(E_UNSUPPORTED, "%s: model.byte_fallback with a byte-level vocabulary that lacks byte 0x%02X",
                        f->name, (unsigned)b);
    return read_merges(t, f);
}

static err finish_unigram(tokenizer *t, const struct file *f, double *score) {
    struct place at = model_place(f);
    const json_t *unk = json_object_get(f->model, "unk_id");
    TRY(field_bool(&at, f->model, "byte_fallback", false, &t->byte_fallback));
    if (!field_null(unk)) {
        json_int_t id = json_is_integer(unk) ? json_integer_value(unk) : -1;
        if (id < 0 || id >= t->n || !t->tokens[id].in_model)
            return fail(E_INPUT, "%s: model.unk_id is no id of the vocabulary", f->name);
        t->unk = (int32_t)id;
    }
    return tok_unigram(t, score);
}

static err finish_wordpiece(tokenizer *t, const struct file *f) {
    struct place at = model_place(f);
    const char *prefix = "##";
    size_t n = 2, max_chars;
    TRY(field_text(&at, f->model, "continuing_subword_prefix", false, &prefix, &n));
    TRY(field_count(&at, f->model, "max_input_chars_per_word", 100, &max_chars));
    TRY(read_unk(t, f));
    return tok_wordpiece(t, prefix, max_chars);
}

/* ---- added tokens ---- */

static err check_added(const struct file *f) {
    size_t i;
    const json_t *a;
    if (!field_null(f->added) && !json_is_array(f->added))
        return field_wrong(&(struct place){.name = f->name}, "added_tokens", f->added, "an array");
    json_array_foreach(
        f->added, i,
        a) if (!json_is_string(json_object_get(a, "content")) ||
               !json_is_integer(json_object_get(
                   a, "id"))) return fail(E_INPUT,
                                          "%s: added_tokens[%zu] needs a string \"content\" and a number \"id\"",
                                          f->name, i);
    return OK;
}

/* Those that the model's vocabulary lacks get their ids; the others must agree with it. */
static err put_added(tokenizer *t, const struct file *f) {
    size_t i;
    const json_t *a;
    json_array_foreach(f->added, i, a) {
        const json_t *content = json_object_get(a, "content");
        const char *text = json_string_value(content);
        json_int_t id = json_integer_value(json_object_get(a, "id"));
        int32_t known = tok_find(t, text, json_string_length(content));
        if (known < 0 || !t->tokens[known].in_model) TRY(tok_put(t, id, text, json_string_length(content), false));
        else if (known != id)
            return fail(E_INPUT, "%s: added token \"%.80s\" has id %lld, but model.vocab gives it %d", f->name, text,
                        (long long)id, known);
    }
    return OK;
}

static err read_added(tokenizer *t, const struct file *f) {
    size_t i;
    json_t *v;
    struct norm_scratch s = {0};
    err e = matcher_init(&s.matcher);
    json_array_foreach(f->added, i, v) {
        if (e) break;
        const json_t *content = json_object_get(v, "content");
        struct added a = {.id = (int32_t)json_integer_value(json_object_get(v, "id"))};
        struct normal normal = {json_string_value(content), json_string_length(content), false};
        struct place at = place_in(&(struct place){.name = f->name}, "added_tokens", (int)i);
        bool normalised = false;
        e = field_bool(&at, v, "special", false, &a.special);
        if (!e) e = field_bool(&at, v, "lstrip", false, &a.lstrip);
        if (!e) e = field_bool(&at, v, "rstrip", false, &a.rstrip);
        if (!e) e = field_bool(&at, v, "single_word", false, &a.single_word);
        if (!e) e = field_bool(&at, v, "normalized", !a.special, &normalised);
        if (!e && normalised) e = norm_apply(&t->norm, &s, normal.text, normal.n, LEAD_TEXT, &normal);
        a.text = normal.text;
        a.n = normal.n;
        if (!e) e = tok_add(t, a, normalised);
    }
    matcher_free(&s.matcher);
    str_free(&s.now);
    str_free(&s.next);
    return e;
}

/* ---- the whole file ---- */

/* Files older than "type" tell their model by its fields. */
static err find_type(struct file *f) {
    struct place at = {.name = f->name};
    if (!json_is_object(f->model)) return field_wrong(&at, "model", f->model, "an object");
    f->type = json_string_value(json_object_get(f->model, "type"));
    if (!f->type && f->span[MERGES].end) f->type = "BPE";
    if (!f->type && json_object_get(f->model, "max_input_chars_per_word")) f->type = "WordPiece";
    if (!f->type && json_object_get(f->model, "unk_id")) f->type = "Unigram";
    if (!f->type) return fail(E_INPUT, "%s: model has no \"type\"", f->name);
    if (!strcmp(f->type, "BPE") || !strcmp(f->type, "Unigram") || !strcmp(f->type, "WordPiece")) return OK;
    return fail(E_UNSUPPORTED, "%s: model.type \"%.80s\" is not supported (supported: BPE, Unigram, WordPiece)",
                f->name, f->type);
}

static err fill(tokenizer *t, const struct file *f) {
    struct filling filling = {.t = t};
    const json_t *pre = json_object_get(f->root, "pre_tokenizer");
    bool unigram = !strcmp(f->type, "Unigram"), bpe = !strcmp(f->type, "BPE");
    t->byte_level = steps_byte_level(pre);
    if (unigram && !(filling.score = arena_alloc(&t->mem, (size_t)t->n * sizeof *filling.score)))
        return fail(E_MEMORY, "%s: out of memory", f->name);
    TRY(steps_normalizer(t, json_object_get(f->root, "normalizer")));
    TRY(steps_pre_tokenizer(t, pre));
    TRY(steps_decoder(t, json_object_get(f->root, "decoder")));
    TRY(each_entry(f, put_entry, &filling));
    TRY(put_added(t, f));
    TRY(tok_vocabulary_done(t));
    TRY(bpe ? finish_bpe(t, f) : unigram ? finish_unigram(t, f, filling.score) : finish_wordpiece(t, f));
    TRY(read_added(t, f));
    TRY(steps_post_processor(t, json_object_get(f->root, "post_processor")));
    if (t->prefix.n) t->bos = t->prefix.v[0];
    return tok_finish(t);
}

static err build(struct file *f, tokenizer **out) {
    size_t n_tokens = 0;
    f->model = json_object_get(f->root, "model");
    f->added = json_object_get(f->root, "added_tokens");
    TRY(find_type(f));
    if (strcmp(f->type, "BPE") && steps_byte_level(json_object_get(f->root, "pre_tokenizer")))
        return fail(E_UNSUPPORTED, "%s: a ByteLevel pre_tokenizer before a %s model is not supported", f->name,
                    f->type);
    TRY(check_added(f));
    TRY(each_entry(f, count_entry, &n_tokens));
    TRY(tok_create(f->name, n_tokens + json_array_size(f->added), out));
    return fill(*out, f);
}

err tokenizer_json_parse(const char *name, const char *bytes, size_t n, tokenizer **out) {
    json_error_t where;
    struct file f = {.name = name, .bytes = bytes};
    str rest = {0};
    json_t *root = NULL;
    *out = NULL;
    err e = scan_outline(name, bytes, n, "model", long_keys, f.span, &rest);
    if (!e && !(f.root = root = json_loadb(rest.p ? rest.p : "", rest.n, JSON_REJECT_DUPLICATES, &where)))
        e = fail(E_INPUT, "%s:%d:%d: not JSON: %s", name, where.line, where.column, where.text);
    if (!e) e = build(&f, out);
    json_decref(root);
    str_free(&rest);
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
    if (n < 0 || n >= t->n) return fail(E_INPUT, "%s: %s is %.0f, outside the vocabulary of %d", file, id_key, n, t->n);
    *id = (int32_t)n;
    return OK;
}

/* A template out of a file in the folder of `path`; a key's value has lines of its own. */
static err set_template(tokenizer *t, const char *path, const char *file, const char *source) {
    const char *slash = strrchr(path, '/');
    str name = {0};
    if (!str_ends(file, ".jinja")) str_adds(&name, "chat_template of ");
    str_add(&name, path, slash ? (size_t)(slash + 1 - path) : 0);
    str_adds(&name, file);
    err e = name.failed ? fail(E_MEMORY, "out of memory") : tokenizer_set_template(t, source, name.p);
    str_free(&name);
    return e;
}

/* "chat_template": a text, or a list of {name, template} of which "default" counts. */
static err take_template(tokenizer *t, const char *path, const char *file, const json_t *root) {
    const json_t *v = json_object_get(root, "chat_template"), *choice;
    const char *text = json_string_value(v);
    size_t i;
    json_array_foreach(v, i, choice) {
        const char *name = json_string_value(json_object_get(choice, "name"));
        if (name && !strcmp(name, "default")) text = json_string_value(json_object_get(choice, "template"));
    }
    if (t->chat_template || !text) return OK;
    return set_template(t, path, file, text);
}

/* adds: BOS, EOS; -1 as long as no file says. */
static err take_config(tokenizer *t, const char *path, const char *file, const str *text, int adds[2]) {
    json_error_t where;
    /* integers as reals: Hugging Face writes 1000000000000000019884624838656 for "no limit" */
    json_t *root = json_loadb(text->p, text->n, JSON_DECODE_INT_AS_REAL, &where);
    if (!root) return fail(E_INPUT, "%s:%d:%d: not JSON: %s", file, where.line, where.column, where.text);
    err e = take_token(t, file, root, "bos_token", &t->bos);
    if (!e) e = take_token(t, file, root, "eos_token", &t->eos);
    if (!e) e = take_token(t, file, root, "pad_token", &t->pad);
    if (!e) e = take_template(t, path, file, root);
    const json_t *bos = json_object_get(root, "add_bos_token"), *eos = json_object_get(root, "add_eos_token");
    if (json_is_boolean(bos)) adds[0] = json_is_true(bos);
    if (json_is_boolean(eos)) adds[1] = json_is_true(eos);
    json_decref(root);
    return e;
}

static err read_neighbours(tokenizer *t, const char *path) {
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
                                        "config.json"};
    str text = {0};
    bool found;
    int adds[2] = {-1, -1};
    int32_t first = t->bos; /* what the post-processor puts before a text: BOS, unless a file names another */
    t->bos = -1;
    err e = read_beside(path, "chat_template.jinja", &text, &found);
    if (!e && found) e = set_template(t, path, "chat_template.jinja", text.p ? text.p : "");
    for (int i = 0; i < 4 && !e; i++) {
        str_clear(&text);
        e = read_beside(path, files[i], &text, &found);
        if (!e && found) e = take_config(t, path, files[i], &text, adds);
        if (e) e = fail_in(e, "%s", path);
    }
    if (t->bos < 0) t->bos = first;
    if (!e) e = tok_ends(t, adds[0], adds[1]);
    str_free(&text);
    return e;
}

/* Older models have their tokenizer in another form beside where tokenizer.json would be: says so, and the way out. */
static err other_form(const char *path) {
    static const char *const forms[] = {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt",
                                        "merges.txt"};
    const char *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash - path) : 1;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        str beside = {0};
        str_addf(&beside, "%.*s/%s", dir, slash ? path : ".", forms[i]);
        bool there = !beside.failed && path_exists(beside.p);
        err e =
            there ? fail(E_UNSUPPORTED,
                         "%s is not there, and %s is not read: make the one from the other with Python's transformers, "
                         "AutoTokenizer.from_pretrained(\"%.*s\").save_pretrained(\"%.*s\")",
                         path, beside.p, dir, slash ? path : ".", dir, slash ? path : ".")
                  : OK;
        str_free(&beside);
        TRY(e);
    }
    return OK;
}

err tokenizer_from_json(const char *path, tokenizer **out) {
    struct file_map map;
    *out = NULL;
    if (!path_exists(path)) TRY(other_form(path));
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
