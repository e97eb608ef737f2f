/* See tokenizer_out.h. */
#include "io/tokenizer_out.h"
#include "io/tokenizer_internal.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Contractions in both cases, runs of digits, mixed case, code, white space of all kinds, scripts, a decomposed letter, symbols: known
 * pre-tokenisers differ somewhere in it. */
static const char probe[] =
    "Hello WORLD, don't DON'T I'LL we'll  1 12 123 1234 1234567 x=3.14; foo_bar(baz)  //comment/\n\n\t  indented\r\n  HTTPResponseCode "
    "camelCase "
    "\xC3\x80\xC3\x89\xC3\x8E Cafe\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD \xE3\x81\x93\xE3\x82\x93 \xEC\x95\x88\xEB\x85\x95 "
    "\xD0\xBF\xD1\x80\xD0\xB8 "
    "\xD9\x85\xD8\xB1 \xF0\x9F\x9A\x80\xF0\x9F\x8E\x89 \xC2\xB2\xC2\xBD \xD9\xA3\xD9\xA4 ... !!!--- $5+<=>^~|\n \n  trailing   ";

/* tokenizer.ggml.token_type */
enum { GGUF_TOKEN_NORMAL = 1, GGUF_TOKEN_CONTROL = 3, GGUF_TOKEN_USER_DEFINED = 4, GGUF_TOKEN_UNUSED = 5 };

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

static bool same_ids(const tokenizer *a, const tokenizer *b) {
    struct ids x = {0}, y = {0};
    bool same = !tokenizer_encode(a, probe, sizeof probe - 1, true, &x) && !tokenizer_encode(b, probe, sizeof probe - 1, true, &y) &&
                x.n == y.n && !memcmp(x.v, y.v, x.n * sizeof *x.v);
    ids_free(&x);
    ids_free(&y);
    return same;
}

/* --- to GGUF --------------------------------------------------------------------------------------------------------- */
static err check_kind(const char *path, const json_t *root) {
    const json_t *model = json_object_get(root, "model");
    const char *type = json_string_value(json_object_get(model, "type")),
               *decoder = json_string_value(json_object_get(json_object_get(root, "decoder"), "type"));
    if ((type && strcmp(type, "BPE")) || json_is_true(json_object_get(model, "byte_fallback")) || (decoder && strcmp(decoder, "ByteLevel")))
        return fail(E_UNSUPPORTED, "%s: only byte-level BPE tokenizers can be written into GGUF metadata; this one is %s%s", path,
                    type ? type : "BPE",
                    json_is_true(json_object_get(model, "byte_fallback")) ? " with byte fallback (SentencePiece)" : "");
    return json_is_object(json_object_get(model, "vocab")) ? OK : fail(E_INPUT, "%s: model.vocab is missing", path);
}

static err put_tokens(const json_t *root, const tokenizer *t, int64_t vocab, struct gguf_keys *out) {
    int32_t *type = calloc((size_t)vocab, sizeof *type);
    if (!type) return out_of_memory();
    for (int64_t i = 0; i < vocab; i++) type[i] = i < tokenizer_vocab(t) ? GGUF_TOKEN_NORMAL : GGUF_TOKEN_UNUSED;
    size_t k;
    const json_t *a;
    json_array_foreach(json_object_get(root, "added_tokens"), k, a) {
        json_int_t id = json_integer_value(json_object_get(a, "id"));
        if (id >= 0 && id < vocab) type[id] = json_is_true(json_object_get(a, "special")) ? GGUF_TOKEN_CONTROL : GGUF_TOKEN_USER_DEFINED;
    }
    gguf_key_array(out, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)vocab);
    for (int64_t i = 0; i < vocab; i++) {
        char unused[32];
        const char *text = i < tokenizer_vocab(t) ? tokenizer_token(t, (int32_t)i) : NULL;
        snprintf(unused, sizeof unused, "[PAD%lld]", (long long)i);
        gguf_array_add_str(out, text ? text : unused, strlen(text ? text : unused));
    }
    gguf_key_array(out, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)vocab);
    for (int64_t i = 0; i < vocab; i++) gguf_array_add_i32(out, type[i]);
    free(type);
    return OK;
}

static void put_merges(const json_t *root, struct gguf_keys *out) {
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges"), *m;
    size_t i;
    gguf_key_array(out, "tokenizer.ggml.merges", GGUF_STRING, json_array_size(merges));
    json_array_foreach(merges, i, m) {
        str line = {0};
        if (json_is_string(m)) str_add(&line, json_string_value(m), json_string_length(m));
        else {
            const json_t *l = json_array_get(m, 0), *r = json_array_get(m, 1);
            str_add(&line, json_string_value(l), json_string_length(l));
            str_addc(&line, ' ');
            str_add(&line, json_string_value(r), json_string_length(r));
        }
        gguf_array_add_str(out, line.p ? line.p : "", line.n);
        str_free(&line);
    }
}

static void put_settings(const tokenizer *t, struct gguf_keys *out) {
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", tokenizer_bos(t)},
               {"tokenizer.ggml.eos_token_id", tokenizer_eos(t)},
               {"tokenizer.ggml.padding_token_id", tokenizer_pad(t)}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id >= 0) gguf_key_u32(out, ids[i].key, (uint32_t)ids[i].id);
    gguf_key_bool(out, "tokenizer.ggml.add_bos_token", tokenizer_adds_bos(t));
    if (tokenizer_template(t)) gguf_key_str(out, "tokenizer.chat_template", tokenizer_template(t));
}

/* Does a file with these keys and this name for the pre-tokeniser give the ids of t? */
static err try_pre(const struct gguf_keys *keys, const char *pre, const tokenizer *t, bool *same) {
    struct gguf_keys with = {.n = keys->n};
    str bytes = {0};
    struct tensors ts;
    tokenizer *made = NULL;
    str_add(&with.bytes, keys->bytes.p, keys->bytes.n);
    gguf_key_str(&with, "tokenizer.ggml.pre", pre);
    err e = gguf_keys_open(&with, &bytes, &ts);
    if (!e) {
        e = tokenizer_from_gguf(&ts, &made);
        *same = !e && same_ids(t, made);
        if (made) tokenizer_free(made);
        tensors_close(&ts);
    }
    str_free(&bytes);
    gguf_keys_free(&with);
    return e;
}

static err put_pre(const char *path, const tokenizer *t, struct gguf_keys *out) {
    struct gguf_pre pre;
    for (int i = 0; gguf_pre_at(i, &pre); i++) {
        bool same = false;
        if (!strcmp(pre.name, "default")) continue; /* what readers make of no name: never written */
        TRY(try_pre(out, pre.name, t, &same));
        if (same) return gguf_key_str(out, "tokenizer.ggml.pre", pre.name), OK;
    }
    return fail(E_UNSUPPORTED, "%s: none of the pre-tokenisers that GGUF files can name splits text as this one does", path);
}

static err to_gguf(const char *path, const json_t *root, const tokenizer *t, int64_t vocab, struct gguf_keys *out) {
    TRY(check_kind(path, root));
    if (tokenizer_vocab(t) > vocab)
        return fail(E_INPUT, "%s: %d tokens, the model has only %lld", path, tokenizer_vocab(t), (long long)vocab);
    gguf_key_str(out, "tokenizer.ggml.model", "gpt2");
    TRY(put_tokens(root, t, vocab, out));
    put_merges(root, out);
    put_settings(t, out);
    return put_pre(path, t, out);
}

err tokenizer_to_gguf(const char *folder, int64_t vocab, struct gguf_keys *out) {
    str path = {0};
    json_error_t je;
    tokenizer *t = NULL;
    str_addf(&path, "%s/tokenizer.json", folder);
    if (path.failed) return out_of_memory();
    err e = tokenizer_from_json(path.p, &t);
    json_t *root = e ? NULL : json_load_file(path.p, JSON_REJECT_DUPLICATES, &je);
    if (!e) e = root ? to_gguf(path.p, root, t, vocab, out) : fail(E_INPUT, "%s: %s", path.p, je.text);
    json_decref(root);
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

static json_t *step(const char *pattern, bool digits) {
    if (digits) return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1);
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern, "behavior", "Isolated", "invert", 0);
}

/* The stages that the name stands for; the last is always ByteLevel, which has the byte-level pattern where that came last. */
static json_t *pre_json(const struct gguf_pre *pre) {
    json_t *list = json_array();
    bool pattern = false;
    for (int i = 0; i < GGUF_PRE_PATTERNS && pre->pattern[i]; i++) {
        bool last = i + 1 == GGUF_PRE_PATTERNS || !pre->pattern[i + 1];
        pattern = last && !strcmp(pre->pattern[i], PATTERN_BYTE_LEVEL);
        if (!pattern) json_array_append_new(list, step(pre->pattern[i], pre->digits[i]));
    }
    json_array_append_new(
        list, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", pattern));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static json_t *text_of(const tokenizer *t, int32_t id) {
    const char *s = id >= 0 ? tokenizer_token(t, id) : NULL;
    return s ? json_string(s) : json_null();
}

static json_t *post_json(const tokenizer *t) {
    json_t *byte_level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 0, "use_regex", 1);
    if (!tokenizer_adds_bos(t) || tokenizer_bos(t) < 0) return byte_level;
    json_t *bos = text_of(t, tokenizer_bos(t));
    json_t *special = json_pack("{s:O, s:[i], s:[O]}", "id", bos, "ids", tokenizer_bos(t), "tokens", bos);
    json_t *both = json_object();
    json_object_set_new(both, json_string_value(bos), special);
    json_t *text[2];
    for (int i = 0; i < 2; i++) text[i] = json_pack("{s:{s:s, s:i}}", "Sequence", "id", i ? "B" : "A", "type_id", i);
    json_t *first = json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", bos, "type_id", 0);
    json_t *template = json_pack("{s:s, s:[O, O], s:[O, O, O], s:o}", "type", "TemplateProcessing", "single", first, text[0], "pair", first,
                                 text[0], text[1], "special_tokens", both);
    for (int i = 0; i < 2; i++) json_decref(text[i]);
    json_decref(first);
    json_decref(bos);
    return json_pack("{s:s, s:[o, o]}", "type", "Sequence", "processors", byte_level, template);
}

static int32_t type_at(const struct gguf_kv *types, uint64_t i) {
    int32_t type = GGUF_TOKEN_NORMAL;
    if (types && i < types->n) memcpy(&type, types->raw + 4 * i, 4);
    return type;
}

static void vocabulary(const struct gguf_meta *meta, json_t *vocab, json_t *added) {
    const struct gguf_kv *tokens = gguf_find(meta, "tokenizer.ggml.tokens"), *types = gguf_find(meta, "tokenizer.ggml.token_type");
    const uint8_t *at = tokens->raw;
    uint64_t n;
    for (uint64_t i = 0; i < tokens->n; i++) {
        const char *text = gguf_array_str(&at, &n);
        int32_t type = type_at(types, i);
        json_t *name = json_stringn(text, n);
        json_object_set_new(vocab, json_string_value(name), json_integer((json_int_t)i));
        if (type == GGUF_TOKEN_CONTROL || type == GGUF_TOKEN_USER_DEFINED)
            json_array_append_new(added,
                                  json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content", name, "single_word", 0,
                                            "lstrip", 0, "rstrip", 0, "normalized", 0, "special", type == GGUF_TOKEN_CONTROL));
        json_decref(name);
    }
}

static json_t *tokenizer_json(const struct gguf_meta *meta, const struct gguf_pre *pre, const tokenizer *t) {
    json_t *vocab = json_object(), *added = json_array(), *merges = json_array();
    const struct gguf_kv *lines = gguf_find(meta, "tokenizer.ggml.merges");
    const uint8_t *at = lines->raw;
    uint64_t n;
    vocabulary(meta, vocab, added);
    for (uint64_t i = 0; i < lines->n; i++) {
        const char *line = gguf_array_str(&at, &n);
        json_array_append_new(merges, json_stringn(line, n));
    }
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                              "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges",
                              pre->ignore_merges, "vocab", vocab, "merges", merges);
    json_t *decoder = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1);
    return json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens", added,
                     "normalizer", pre->nfc ? json_pack("{s:s}", "type", "NFC") : json_null(), "pre_tokenizer", pre_json(pre),
                     "post_processor", post_json(t), "decoder", decoder, "model", model);
}

static err write_json(const char *folder, const char *name, json_t *j) {
    str path = {0};
    str_addf(&path, "%s/%s", folder, name);
    char *text = j && !path.failed ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    err e = text ? file_write(path.p, text, strlen(text)) : out_of_memory();
    free(text);
    str_free(&path);
    json_decref(j);
    return e;
}

static json_t *config_json(const struct gguf_meta *meta, const tokenizer *t) {
    uint64_t context = 0;
    char key[128];
    const char *arch = gguf_str(meta, "general.architecture");
    snprintf(key, sizeof key, "%.100s.context_length", arch ? arch : "");
    json_t *j = json_pack("{s:s, s:o, s:o, s:o, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "bos_token",
                          text_of(t, tokenizer_bos(t)), "eos_token", text_of(t, tokenizer_eos(t)), "pad_token",
                          text_of(t, tokenizer_pad(t)), "add_bos_token", tokenizer_adds_bos(t), "clean_up_tokenization_spaces", 0);
    if (gguf_u64(meta, key, &context)) json_object_set_new(j, "model_max_length", json_integer((json_int_t)context));
    if (tokenizer_template(t)) json_object_set_new(j, "chat_template", json_string(tokenizer_template(t)));
    return j;
}

static json_t *generation_json(const tokenizer *t) {
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"bos_token_id", tokenizer_bos(t)}, {"eos_token_id", tokenizer_eos(t)}, {"pad_token_id", tokenizer_pad(t)}};
    json_t *j = json_object();
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id >= 0) json_object_set_new(j, ids[i].key, json_integer(ids[i].id));
    return j;
}

static err read_back(const char *folder, const tokenizer *t) {
    str path = {0};
    tokenizer *again = NULL;
    str_addf(&path, "%s/tokenizer.json", folder);
    err e = path.failed ? out_of_memory() : tokenizer_from_json(path.p, &again);
    if (!e && !same_ids(t, again)) e = fail(E_INTERNAL, "%s gives other ids than the metadata it was made from", path.p);
    if (again) tokenizer_free(again);
    str_free(&path);
    return e;
}

err tokenizer_to_hf_known(const struct tensors *gguf) {
    struct gguf_pre pre;
    const char *model = gguf_str(gguf->meta, "tokenizer.ggml.model");
    if (model && !strcmp(model, "gpt2") && pre_of(gguf->meta, &pre)) return OK;
    return fail(E_UNSUPPORTED,
                "%s: tokenizer.json can be made from byte-level BPE metadata alone; this file's tokenizer is '%.80s', pre-tokeniser '%.80s'",
                gguf->path, model ? model : "none",
                gguf_str(gguf->meta, "tokenizer.ggml.pre") ? gguf_str(gguf->meta, "tokenizer.ggml.pre") : "default");
}

err tokenizer_to_hf(const struct tensors *gguf, const char *folder) {
    tokenizer *t;
    struct gguf_pre pre;
    TRY(tokenizer_to_hf_known(gguf));
    pre_of(gguf->meta, &pre);
    TRY(tokenizer_from_gguf(gguf, &t));
    err e = write_json(folder, "tokenizer.json", tokenizer_json(gguf->meta, &pre, t));
    if (!e) e = write_json(folder, "tokenizer_config.json", config_json(gguf->meta, t));
    if (!e) e = write_json(folder, "generation_config.json", generation_json(t));
    if (!e) e = read_back(folder, t);
    tokenizer_free(t);
    return e;
}
