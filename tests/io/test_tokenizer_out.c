/* Tokenizers that go to the other format and back: the ids of all 12,000 lines of test_tokenizer_families.c must be those of the source,
 * which is held to its reference there. And what a format cannot say is refused by name, or warned of where it is about special tokens
 * alone. */
#define _GNU_SOURCE
#include "io/tokenizer.h"
#include "io/tokenizer_out.h"
#include "base/log.h"
#include "lines.h"
#include "support/support.h"
#include <unistd.h>

#define FAMILIES GOLDEN "/tokenizer_families/"

static char folder[] = "/tmp/cyc-tokenizer-out-XXXXXX";
static str warnings;

static void keep_warning(void *ctx, enum log_level level, const char *line) {
    (void)ctx, (void)level;
    str_adds(&warnings, line);
    str_addc(&warnings, '\n');
}

static int begin(void **state) {
    (void)state;
    log_set(keep_warning, NULL);
    return mkdtemp(folder) && !lines_add(GOLDEN "/tokenizer/lines.txt") && !lines_add(FAMILIES "more.txt") ? 0 : -1;
}

static int end(void **state) {
    char line[128];
    snprintf(line, sizeof line, "rm -r %s", folder);
    str_free(&warnings);
    return free_lines(state) || system(line);
}

/* --- holding two against each other ---------------------------------------------------------------------------------- */
static void encoded(const tokenizer *t, const json_t *line, unsigned flags, struct ids *out) {
    out->n = 0;
    must(tokenizer_encode(t, json_string_value(line), json_string_length(line), flags, out));
}

static void same_list(const struct ids *a, const struct ids *b) {
    assert_int_equal(a->n, b->n);
    if (a->n) assert_memory_equal(a->v, b->v, a->n * sizeof *a->v);
}

static void same_lines(const char *name, const tokenizer *a, const tokenizer *b, unsigned flags) {
    struct ids x = {0}, y = {0};
    str s = {0}, u = {0};
    assert_true(lines.n > 12000);
    for (size_t i = 0; i < lines.n; i++) {
        encoded(a, lines.v[i], flags, &x);
        encoded(b, lines.v[i], flags, &y);
        if (x.n != y.n || (x.n && memcmp(x.v, y.v, x.n * sizeof *x.v)))
            flunk("%s, flags %u: other ids of \"%s\"", name, flags, json_string_value(lines.v[i]));
        str_clear(&s);
        str_clear(&u);
        must(tokenizer_decode(a, x.v, x.n, 0, &s));
        must(tokenizer_decode(b, x.v, x.n, 0, &u));
        if (s.n != u.n || (s.n && memcmp(s.p, u.p, s.n))) flunk("%s: another text of \"%s\"", name, json_string_value(lines.v[i]));
    }
    str_free(&s);
    str_free(&u);
    ids_free(&x);
    ids_free(&y);
}

static void same_tokenizers(const char *name, const tokenizer *a, const tokenizer *b, unsigned flags) {
    same_lines(name, a, b, 0);
    if (flags) same_lines(name, a, b, flags);
    same_list(tokenizer_prefix(a), tokenizer_prefix(b));
    same_list(tokenizer_suffix(a), tokenizer_suffix(b));
    assert_int_equal(tokenizer_pad(a), tokenizer_pad(b));
}

/* --- the two ways ---------------------------------------------------------------------------------------------------- */
static tokenizer *in_folder(void) {
    char path[128];
    tokenizer *t;
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    must(tokenizer_from_json(path, &t));
    return t;
}

/* Removes what a case left. */
static void clear_folder(void) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"};
    char path[128];
    for (int i = 0; i < 3; i++) snprintf(path, sizeof path, "%s/%s", folder, names[i]), unlink(path);
    str_clear(&warnings);
}

static tokenizer *from_keys(const struct gguf_keys *keys, str *file, struct tensors *ts) {
    tokenizer *t;
    must(gguf_keys_open(keys, file, ts));
    must(tokenizer_from_gguf(ts, &t));
    return t;
}

/* The folder's tokenizer as metadata, and back into the folder; each must be as the folder's. flags: of the second comparison. */
static void folder_crosses(const char *name, const char *family, int more_ids, unsigned flags) {
    struct gguf_keys keys = {0};
    str file = {0};
    struct tensors ts;
    tokenizer *t = in_folder();
    gguf_key_str(&keys, "general.architecture", family);
    must(tokenizer_to_gguf(folder, tokenizer_vocab(t) + more_ids, &keys));
    tokenizer *made = from_keys(&keys, &file, &ts);
    assert_int_equal(tokenizer_vocab(made), tokenizer_vocab(t) + more_ids);
    same_tokenizers(name, t, made, flags);
    clear_folder();
    must(tokenizer_to_hf(&ts, folder));
    tokenizer *again = in_folder();
    same_tokenizers(name, made, again, ENCODE_SPECIAL);
    assert_string_equal(warnings.p && warnings.n ? warnings.p : "", "");
    tokenizer_free(again);
    tokenizer_free(made);
    tokenizer_free(t);
    tensors_close(&ts);
    str_free(&file);
    gguf_keys_free(&keys);
}

/* Files whose ids SentencePiece itself gave. */
static void sentencepiece_crosses(void **state) {
    (void)state;
    static const char *const files[] = {"spm_llama.gguf", "spm_gemma.gguf"};
    for (int i = 0; i < 2; i++) {
        char path[128];
        struct tensors ts;
        tokenizer *t;
        snprintf(path, sizeof path, FAMILIES "%s", files[i]);
        must(tensors_open(path, &ts));
        must(tokenizer_from_gguf(&ts, &t));
        clear_folder();
        must(tokenizer_to_hf_known(&ts));
        must(tokenizer_to_hf(&ts, folder));
        tokenizer *made = in_folder();
        same_tokenizers(files[i], t, made, ENCODE_SPECIAL);
        assert_int_equal(tokenizer_bos(made), 1);
        assert_int_equal(tokenizer_eos(made), 2);
        folder_crosses(files[i], "llama", 24, ENCODE_SPECIAL);
        tokenizer_free(made);
        tokenizer_free(t);
        tensors_close(&ts);
    }
}

/* --- families of tokenizer.json -------------------------------------------------------------------------------------- */
/* A family of families.json as a JSON tree. */
static json_t *family(const char *name) {
    json_t *list = json_load_file(FAMILIES "families.json", 0, NULL), *row, *value, *root = NULL;
    const char *key;
    size_t i;
    json_array_foreach(list, i, row) {
        char path[128];
        if (strcmp(json_string_value(json_object_get(row, "name")), name)) continue;
        const char *base = json_string_value(json_object_get(row, "base"));
        snprintf(path, sizeof path, strcmp(base, "small") ? FAMILIES "base_%s.json" : GOLDEN "/tokenizer/small.json", base);
        root = json_load_file(path, 0, NULL);
        json_object_foreach(json_object_get(row, "patch"), key, value) {
            if (!strcmp(key, "model")) json_object_update(json_object_get(root, "model"), value);
            else json_object_set(root, key, value);
        }
    }
    json_decref(list);
    if (!root) flunk("no family %s", name);
    return root;
}

/* Writes it as the folder's, with the table of replacements where it is named. Takes the tree. */
static void into_folder(json_t *root) {
    char path[128], *text = json_dumps(root, 0), *at = strstr(text, "charsmap.txt");
    str whole = {0}, table = {0};
    if (at) {
        must(file_read(FAMILIES "charsmap.txt", &table));
        str_add(&whole, text, (size_t)(at - text));
        str_add(&whole, table.p, table.n);
        str_adds(&whole, at + strlen("charsmap.txt"));
    } else str_adds(&whole, text);
    clear_folder();
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    must(file_write(path, whole.p, whole.n));
    free(text);
    str_free(&whole);
    str_free(&table);
    json_decref(root);
}

/* GGUF tells an uncased BERT by a vocabulary without capitals. */
static void without_capitals(json_t *root) {
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab"), *id, *low = json_object();
    const char *token;
    json_object_foreach(vocab, token, id) {
        char other[32];
        bool capital = *token != '[' && strpbrk(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
        snprintf(other, sizeof other, "%s\xC2\xA1%lld", strncmp(token, "##", 2) ? "" : "##", (long long)json_integer_value(id));
        json_object_set(low, capital ? other : token, id);
    }
    json_object_set_new(model, "vocab", low);
}

static void families_cross(void **state) {
    (void)state;
    static const char *const names[] = {"t5", "t5 with extras", "bert cased", "bert uncased", "llama3", "qwen2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *root = family(names[i]);
        if (!strcmp(names[i], "bert uncased")) without_capitals(root);
        into_folder(root);
        folder_crosses(names[i], "x", 7, ENCODE_SPECIAL);
    }
}

/* SentencePiece's model of Llama's shape as tokenizer.json, a tree. */
static json_t *sentencepiece_json(void) {
    struct tensors ts;
    char path[128];
    must(tensors_open(FAMILIES "spm_llama.gguf", &ts));
    clear_folder();
    must(tokenizer_to_hf(&ts, folder));
    tensors_close(&ts);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    return json_load_file(path, 0, NULL);
}

/* It crosses, with a warning that says so of other texts than those that `alike` tells. */
static void crosses_with_a_warning(json_t *root, const char *warning, bool (*alike)(const char *line)) {
    struct gguf_keys keys = {0};
    str file = {0};
    struct tensors ts;
    struct ids x = {0}, y = {0};
    size_t compared = 0;
    into_folder(root);
    tokenizer *t = in_folder();
    must(tokenizer_to_gguf(folder, tokenizer_vocab(t), &keys));
    assert_true(warnings.n && strstr(warnings.p, warning));
    tokenizer *made = from_keys(&keys, &file, &ts);
    for (size_t i = 0; i < lines.n; i++) {
        if (!alike(json_string_value(lines.v[i]))) continue;
        encoded(t, lines.v[i], 0, &x);
        encoded(made, lines.v[i], 0, &y);
        same_list(&x, &y);
        compared++;
    }
    assert_true(compared > 11000);
    ids_free(&x);
    ids_free(&y);
    tokenizer_free(made);
    tokenizer_free(t);
    tensors_close(&ts);
    str_free(&file);
    gguf_keys_free(&keys);
}

static bool any_line(const char *line) { return (void)line, true; }
static bool no_space_first(const char *line) { return *line != ' ' && strncmp(line, "\xE2\x96\x81", 3); }

static void tokens_that_take_spaces_are_warned_of(void **state) {
    (void)state;
    json_t *root = sentencepiece_json();
    json_object_set_new(json_array_get(json_object_get(root, "added_tokens"), 2), "rstrip", json_true());
    crosses_with_a_warning(root, "cut what stands beside \"</s>\" otherwise", any_line);
}

static json_t *added(int id, const char *text, bool special, bool rstrip) {
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text, "single_word", 0, "lstrip", 0, "rstrip", rstrip,
                     "normalized", 0, "special", special);
}

/* GGUF readers know Phi-3's tokens by the family's name, and they take spaces along. */
static void phi3_crosses(void **state) {
    (void)state;
    json_t *root = sentencepiece_json();
    json_object_set_new(root, "added_tokens",
                        json_pack("[o, o, o, o, o]", added(0, "<unk>", true, false), added(1, "<s>", true, false),
                                  added(2, "</s>", false, true), added(1000, "<|user|>", true, true), added(1001, "<|end|>", true, true)));
    into_folder(root);
    folder_crosses("phi3", "phi3", 10, ENCODE_SPECIAL);
}

/* SentencePiece's model as newer files have it: a space before the first word of a text alone, and only where none is. */
static void newer_spelling_of_the_space(void **state) {
    (void)state;
    json_t *root = sentencepiece_json(), *pre = json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", "\xE2\x96\x81",
                                                          "prepend_scheme", "first", "split", 0);
    json_object_set_new(root, "normalizer", json_null());
    json_object_set_new(root, "pre_tokenizer", pre);
    crosses_with_a_warning(root, "cut a text that begins with a space otherwise", no_space_first);
}

/* --- refusals -------------------------------------------------------------------------------------------------------- */
static void is_refused(json_t *root, err code, const char *part) {
    struct gguf_keys keys = {0};
    into_folder(root);
    err e = tokenizer_to_gguf(folder, 2000, &keys);
    if (e != code || !strstr(err_text(), part)) flunk("%d, \"%s\": wanted \"%s\"", e, e ? err_text() : "", part);
    gguf_keys_free(&keys);
}

static json_t *patched(const char *name, const char *key, json_t *value) {
    json_t *root = family(name);
    json_object_set_new(root, key, value);
    return root;
}

static json_t *model_patched(const char *name, const char *key, json_t *value) {
    json_t *root = family(name);
    json_object_set_new(json_object_get(root, "model"), key, value);
    return root;
}

static void what_gguf_cannot_say_is_named(void **state) {
    (void)state;
    is_refused(family("llama2"), E_UNSUPPORTED,
               "and GGUF's kind llama (SentencePiece's BPE) would merge them"); /* another trainer's merges */
    is_refused(family("whole words"), E_UNSUPPORTED, "model.ignore_merges");
    is_refused(model_patched("llama2", "byte_fallback", json_false()), E_UNSUPPORTED, "tokens for bytes without model.byte_fallback");
    is_refused(family("with bytes"), E_UNSUPPORTED, "model.byte_fallback: GGUF has no word for it in a Unigram model");
    is_refused(family("xlm-r"), E_UNSUPPORTED, "kind t5 means SentencePiece's Unigram");
    is_refused(family("albert"), E_UNSUPPORTED, "kind t5 means SentencePiece's Unigram");
    is_refused(family("accents kept"), E_UNSUPPORTED, "kind bert means BERT's own steps");
    is_refused(family("marks Removed"), E_UNSUPPORTED, "kind bert means BERT's own steps");
    is_refused(patched("llama3", "pre_tokenizer", json_pack("{s:s}", "type", "ByteLevel")), E_UNSUPPORTED,
               "none of the pre-tokenisers that GGUF files can name");
    json_t *twice = family("llama3"),
           *single = json_object_get(json_array_get(json_object_get(json_object_get(twice, "post_processor"), "processors"), 1), "single");
    json_array_insert(single, 0, json_array_get(single, 0)); /* BOS, BOS */
    is_refused(twice, E_UNSUPPORTED, "what it puts around a text");
}

static void too_small_a_model_is_named(void **state) {
    (void)state;
    struct gguf_keys keys = {0};
    into_folder(family("bert cased"));
    assert_int_equal(tokenizer_to_gguf(folder, 999, &keys), E_INPUT);
    assert_non_null(strstr(err_text(), "1000 tokens, the model has only 999"));
    gguf_keys_free(&keys);
}

/* A character that is no token merges by its text in SentencePiece; tokenizer.json has pairs of tokens alone. */
static void what_tokenizer_json_cannot_say_is_named(void **state) {
    (void)state;
    static const char *const tokens[] = {"<unk>", "a", "ab"};
    struct gguf_keys keys = {0};
    str file = {0};
    struct tensors ts;
    gguf_key_str(&keys, "tokenizer.ggml.model", "llama");
    gguf_key_array(&keys, "tokenizer.ggml.tokens", GGUF_STRING, 3);
    for (int i = 0; i < 3; i++) gguf_array_add_str(&keys, tokens[i], strlen(tokens[i]));
    gguf_key_array(&keys, "tokenizer.ggml.scores", GGUF_F32, 3);
    for (int i = 0; i < 3; i++) gguf_array_add_f32(&keys, -i);
    must(gguf_keys_open(&keys, &file, &ts));
    assert_int_equal(tokenizer_to_hf_known(&ts), E_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "token \"ab\" has a character that is no token of its own"));
    assert_int_equal(tokenizer_to_hf(&ts, folder), E_UNSUPPORTED);
    tensors_close(&ts);
    str_free(&file);
    gguf_keys_free(&keys);
}

/* Looking for the halves of a token of a megabyte would take for ever. */
static void huge_tokens_are_refused(void **state) {
    (void)state;
    enum { BYTES = 1025 };
    char long_token[BYTES];
    struct gguf_keys keys = {0};
    str file = {0};
    struct tensors ts;
    memset(long_token, 'a', BYTES);
    gguf_key_str(&keys, "tokenizer.ggml.model", "llama");
    gguf_key_array(&keys, "tokenizer.ggml.tokens", GGUF_STRING, 2);
    gguf_array_add_str(&keys, "a", 1);
    gguf_array_add_str(&keys, long_token, BYTES);
    gguf_key_array(&keys, "tokenizer.ggml.scores", GGUF_F32, 2);
    for (int i = 0; i < 2; i++) gguf_array_add_f32(&keys, -i);
    must(gguf_keys_open(&keys, &file, &ts));
    assert_int_equal(tokenizer_to_hf_known(&ts), E_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "token 1 has 1025 bytes"));
    tensors_close(&ts);
    str_free(&file);
    gguf_keys_free(&keys);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sentencepiece_crosses),
                                       cmocka_unit_test(families_cross),
                                       cmocka_unit_test(tokens_that_take_spaces_are_warned_of),
                                       cmocka_unit_test(phi3_crosses),
                                       cmocka_unit_test(newer_spelling_of_the_space),
                                       cmocka_unit_test(what_gguf_cannot_say_is_named),
                                       cmocka_unit_test(too_small_a_model_is_named),
                                       cmocka_unit_test(what_tokenizer_json_cannot_say_is_named),
                                       cmocka_unit_test(huge_tokens_are_refused)};
    return cmocka_run_group_tests(tests, begin, end);
}
