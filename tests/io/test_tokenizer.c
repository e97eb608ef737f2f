/* The tokenizer against Hugging Face's: tests/golden/make/tokenizer.py made the lines and the hashes of their ids.
 *
 * The SmolLM2 cases want the model's GGUF, from CYC_SMOLLM2_GGUF or cache/, and are skipped without it. */
#define _GNU_SOURCE /* mkdtemp */
#include "io/chat.h"
#include "io/tokenizer_internal.h"
#include "base/file.h"
#include "lines.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define GOLDEN "tests/golden/tokenizer/"

static const char *line_text(size_t i) { return json_string_value(lines.v[i]); }
static size_t line_bytes(size_t i) { return json_string_length(lines.v[i]); }

static void check_ok(err e) {
    if (e) fail_msg("%s", err_text());
}

static int load_lines(void **state) {
    (void)state;
    return lines_add(GOLDEN "lines.txt");
}

/* FNV-1a over the ids' bytes. */
static uint32_t sum_of(const struct ids *ids) {
    uint32_t h = 0x811C9DC5;
    for (size_t i = 0; i < ids->n; i++)
        for (int k = 0; k < 32; k += 8) h = (h ^ (((uint32_t)ids->v[i] >> k) & 255)) * 0x01000193;
    return h;
}

/* Encodes every step-th line and counts those whose ids differ from the reference's; the first few are printed. */
static size_t count_different(const tokenizer *t, const char *what, const char *sums, size_t step, bool special) {
    struct ids ids = {0};
    size_t different = 0;
    for (size_t i = 0; i < lines.n; i += step) {
        char *end;
        uint32_t want = (uint32_t)strtoul(sums, &end, 16);
        assert_true(end > sums);
        sums = end;
        ids.n = 0;
        if (i % (64 * step) == 0) tokenizer_rest((tokenizer *)(uintptr_t)t); /* what it knew of words changes no id */
        check_ok(tokenizer_encode(t, line_text(i), line_bytes(i), special, &ids));
        if (sum_of(&ids) == want) continue;
        if (different++ >= 8) continue;
        char *shown = json_dumps(lines.v[i], JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        print_error("%s: line %zu differs: %.300s\n  our ids:", what, i + 1, shown);
        for (size_t k = 0; k < ids.n && k < 40; k++) print_error(" %d", ids.v[k]);
        print_error("\n");
        free(shown);
    }
    ids_free(&ids);
    return different;
}

static void check_sums(const tokenizer *t, const char *path) {
    str sums = {0};
    check_ok(file_read(path, &sums));
    assert_true(lines.n > 10000);
    assert_int_equal(count_different(t, path, sums.p, 1, true), 0);
    str_free(&sums);
}

/* Decoding gives back the text, but for bytes that the vocabulary lacks. */
static void check_round_trip(const tokenizer *t) {
    struct ids ids = {0};
    str back = {0}, want = {0};
    for (size_t i = 0; i < lines.n; i++) {
        if (strstr(line_text(i), "<tool>")) continue; /* takes the spaces around it along */
        ids.n = 0;
        str_clear(&back);
        str_clear(&want);
        for (size_t k = 0; k < line_bytes(i); k++)
            if (t->byte_id[(uint8_t)line_text(i)[k]] >= 0) str_addc(&want, line_text(i)[k]);
        check_ok(tokenizer_encode(t, line_text(i), line_bytes(i), true, &ids));
        check_ok(tokenizer_decode(t, ids.v, ids.n, false, &back));
        if (back.n != want.n || (back.n && memcmp(back.p, want.p, back.n)))
            fail_msg("line %zu does not come back", i + 1);
    }
    ids_free(&ids);
    str_free(&back);
    str_free(&want);
}

/* ---- SmolLM2, from GGUF ---- */

static void check_segment(const struct chat_text *c, size_t i, bool supervised, const char *text) {
    assert_true(i < c->n);
    assert_int_equal(c->seg[i].end - c->seg[i].start, strlen(text));
    assert_memory_equal(c->text.p + c->seg[i].start, text, strlen(text));
    assert_int_equal(c->seg[i].supervised, supervised);
}

static const char *gguf_path(void) {
    const char *path = getenv("CYC_SMOLLM2_GGUF");
    return path ? path : "cache/SmolLM2-135M-Instruct.Q4_1.gguf";
}

static void smollm2_equals_the_reference(void **state) {
    (void)state;
    if (!path_exists(gguf_path())) skip();
    struct tensors ts;
    tokenizer *t;
    check_ok(tensors_open(gguf_path(), &ts));
    check_ok(tokenizer_from_gguf(&ts, &t));
    tensors_close(&ts);
    assert_int_equal(tokenizer_vocab(t), 49152);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_pad(t), 2);
    assert_false(tokenizer_adds_bos(t));
    assert_int_equal(tokenizer_id(t, "<|im_start|>"), 1);
    assert_string_equal(tokenizer_token(t, 0), "<|endoftext|>");
    check_sums(t, GOLDEN "smollm2.sums");
    check_round_trip(t);

    struct chat *c;
    struct chat_text text = {0};
    check_ok(chat_open(t, &c));
    check_ok(chat_render(c, (const struct chat_message[]){{"user", "Hi"}, {"assistant", "Yes?"}}, 2, false, &text));
    assert_int_equal(text.n, 3);
    check_segment(&text, 0, false,
                  "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                  "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    check_segment(&text, 1, true, "Yes?<|im_end|>");
    check_segment(&text, 2, false, "\n");
    chat_text_free(&text);
    chat_close(c);
    tokenizer_free(t);
}

/* ---- the small tokenizer, from tokenizer.json ---- */

static void small_equals_the_reference(void **state) {
    (void)state;
    tokenizer *t;
    check_ok(tokenizer_from_json(GOLDEN "small.json", &t));
    assert_int_equal(tokenizer_bos(t), -1);
    assert_false(tokenizer_adds_bos(t));
    assert_null(tokenizer_template(t));
    check_sums(t, GOLDEN "small.sums");
    tokenizer_free(t);
}

static json_t *small_json(void) {
    json_t *root = json_load_file(GOLDEN "small.json", 0, NULL);
    assert_non_null(root);
    return root;
}

static err parse(const json_t *root, tokenizer **t) {
    char *text = json_dumps(root, 0);
    err e = tokenizer_json_parse("small", text, strlen(text), t);
    free(text);
    return e;
}

/* Every kind of stage, with and without special tokens, normal forms, ignore_merges. */
static void variants_equal_the_reference(void **state) {
    (void)state;
    json_t *list = json_load_file(GOLDEN "variants.json", 0, NULL), *v;
    size_t i, different = 0;
    assert_true(json_array_size(list) >= 15);
    json_array_foreach(list, i, v) {
        json_t *root = small_json();
        tokenizer *t;
        json_object_set(root, "pre_tokenizer", json_object_get(v, "pre_tokenizer"));
        json_object_set(root, "normalizer", json_object_get(v, "normalizer"));
        json_object_set(json_object_get(root, "model"), "ignore_merges", json_object_get(v, "ignore_merges"));
        check_ok(parse(root, &t));
        different += count_different(t, json_string_value(json_object_get(v, "name")),
                                     json_string_value(json_object_get(v, "sums")), 8,
                                     json_is_true(json_object_get(v, "special")));
        if (i == 0) check_round_trip(t);
        tokenizer_free(t);
        json_decref(root);
    }
    json_decref(list);
    assert_int_equal(different, 0);
}

static void *encode_all(void *arg) {
    const tokenizer *t = arg;
    struct ids ids = {0};
    for (size_t i = 0; i < lines.n; i++)
        if (tokenizer_encode(t, line_text(i), line_bytes(i), true, &ids)) break;
    size_t sum = sum_of(&ids);
    ids_free(&ids);
    return (void *)sum;
}

static void threads_share_one(void **state) {
    (void)state;
    tokenizer *t;
    pthread_t thread[4];
    check_ok(tokenizer_from_json(GOLDEN "small.json", &t));
    void *want = encode_all(t), *got;
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, encode_all, t), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], &got);
        assert_ptr_equal(got, want);
    }
    tokenizer_free(t);
}

/* A model may have no row for the last added tokens: they are not recognised then. Other tokens must have one. */
static void added_tokens_beyond_the_model(void **state) {
    (void)state;
    tokenizer *t;
    struct ids ids = {0};
    check_ok(tokenizer_from_json(GOLDEN "small.json", &t));
    int32_t n = tokenizer_vocab(t), tool = tokenizer_id(t, "<tool>");
    assert_true(tokenizer_fit(t, n) && tokenizer_fit(t, n + 64));
    assert_int_equal(tool, 2000);
    assert_false(tokenizer_fit(t, tool - 1));
    assert_int_equal(tokenizer_vocab(t), n);
    check_ok(tokenizer_encode(t, "<tool>", 6, true, &ids));
    assert_true(ids.n == 1 && ids.v[0] == tool);
    assert_true(tokenizer_fit(t, tool));
    assert_int_equal(tokenizer_vocab(t), tool);
    ids.n = 0;
    check_ok(tokenizer_encode(t, "<tool>", 6, true, &ids));
    assert_true(ids.n > 1);
    for (size_t i = 0; i < ids.n; i++) assert_true(ids.v[i] < tool);
    ids_free(&ids);
    tokenizer_free(t);
}

/* ---- what is refused ---- */

static void check_err(err got, err want, const char *part) {
    if (got != want) fail_msg("\"%s\" is %d, not %d; wanted \"%s\"", got ? err_text() : "", got, want, part);
    if (!strstr(err_text(), part)) fail_msg("\"%s\" does not say \"%s\"", err_text(), part);
}

static void bad_text_is_named(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *at;
    } bad[] = {
        {"abc\xFF", 4, "offset 3"},       {"\xC0\x80", 2, "offset 0"},         {"0123456789\xE4\xB8", 12, "offset 10"},
        {"x\xED\xA0\x80", 4, "offset 1"}, {"\xF4\x90\x80\x80", 4, "offset 0"}, {"ok\x80", 3, "offset 2"}};
    tokenizer *t;
    struct ids ids = {0};
    str out = {0};
    check_ok(tokenizer_from_json(GOLDEN "small.json", &t));
    check_ok(ids_push(&ids, 7));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_err(tokenizer_encode(t, bad[i].text, bad[i].n, true, &ids), E_INPUT, bad[i].at);
    assert_int_equal(ids.n, 1);
    ids.v[0] = tokenizer_vocab(t);
    check_err(tokenizer_decode(t, ids.v, 1, false, &out), E_INPUT, "outside the vocabulary");
    check_ok(tokenizer_encode(t, "", 0, true, &ids));
    assert_int_equal(ids.n, 1);
    ids_free(&ids);
    str_free(&out);
    tokenizer_free(t);
}

/* Sets root.path (dots between keys, numbers index arrays) to the value, or deletes it when the value is NULL. */
static void set_path(json_t *root, const char *path, const char *value) {
    char key[64];
    size_t n;
    for (; (n = strcspn(path, ".")) < strlen(path); path += n + 1) {
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        root = json_is_array(root) ? json_array_get(root, (size_t)atoi(key)) : json_object_get(root, key);
    }
    json_t *v = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    if (json_is_array(root)) json_array_set_new(root, (size_t)atoi(path), v);
    else if (v) json_object_set_new(root, path, v);
    else json_object_del(root, path);
}

static void bad_files_are_named(void **state) {
    (void)state;
    static const struct {
        const char *path, *value;
        err code;
        const char *part;
    } bad[] = {
        {"model", "3", E_INPUT, "model is a number"},
        {"model.type", "\"WordLevel\"", E_UNSUPPORTED, "\"WordLevel\""},
        {"model.type", "\"Unigram\"", E_UNSUPPORTED, "ByteLevel pre_tokenizer before a Unigram"},
        {"model.vocab", "[]", E_INPUT, "model.vocab is an array"},
        {"model.vocab", NULL, E_INPUT, "model.vocab is absent"},
        {"model.vocab", "{}", E_INPUT, "hole"},
        {"model.vocab.!", "\"x\"", E_INPUT, "not an id"},
        {"model.vocab.!", "1.5", E_INPUT, "is a number, not an id"},
        {"model.vocab.!", "4", E_INPUT, "given to both"},
        {"model.vocab.!", "70000", E_INPUT, "hole"},
        {"model.vocab.!", "-1", E_INPUT, "hole"},
        {"model.merges", "null", E_INPUT, "model.merges is null"},
        {"model.merges", "[3]", E_INPUT, "model.merges[0]"},
        {"model.merges.0", "\"ab\"", E_INPUT, "merge 0: \"ab\" is not two tokens"},
        {"model.merges.1", "[\"a\"]", E_INPUT, "model.merges[1]"},
        {"model.merges.2", "[\"a\", \"nope!\"]", E_INPUT, "merge 2: \"nope!\""},
        {"model.merges.2", "[\"~\", \"~\"]", E_INPUT, "merge 2: \"~~\""},
        {"model.dropout", "0.1", E_UNSUPPORTED, "dropout"},
        {"model.end_of_word_suffix", "\"</w>\"", E_UNSUPPORTED, "end_of_word_suffix"},
        {"model.ignore_merges", "1", E_INPUT, "ignore_merges is a number"},
        {"model.unk_token", "1", E_INPUT, "unk_token"},
        {"added_tokens", "{}", E_INPUT, "added_tokens is an object"},
        {"added_tokens.0.content", "1", E_INPUT, "added_tokens[0]"},
        {"added_tokens.0.id", "9", E_INPUT, "but model.vocab gives it"},
        {"added_tokens.3.id", "9", E_INPUT, "given to both"},
        {"added_tokens.3.lstrip", "\"\"", E_INPUT, "added_tokens[3].lstrip"},
        {"normalizer", "{\"type\": \"ByteLevel\"}", E_UNSUPPORTED, "normalizer \"ByteLevel\""},
        {"normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"X\"}]}", E_UNSUPPORTED,
         "normalizer.normalizers[1]"},
        {"normalizer", "{}", E_INPUT, "normalizer has no \"type\""},
        {"normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"A*\"}", E_INPUT, "not base64"},
        {"normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAAAAAAAAAA\"}", E_INPUT, "damaged"},
        {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}}", E_INPUT, "normalizer.content"},
        {"normalizer", "{\"type\": \"Prepend\", \"prepend\": 1}", E_INPUT, "normalizer.prepend is a number"},
        {"normalizer", "{\"type\": \"BertNormalizer\", \"lowercase\": 1}", E_INPUT, "normalizer.lowercase"},
        {"pre_tokenizer", "{\"type\": \"CharDelimiterSplit\"}", E_UNSUPPORTED, "\"CharDelimiterSplit\""},
        {"pre_tokenizer", "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": \"Whitespace\"}]}",
         E_UNSUPPORTED, "pretokenizers[1]: a step after ByteLevel"},
        {"pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"__\"}", E_INPUT, "not one character"},
        {"pre_tokenizer", "{\"type\": \"Metaspace\", \"prepend_scheme\": \"often\"}", E_INPUT, "\"often\""},
        {"pre_tokenizer.pretokenizers.0.behavior", "\"Else\"", E_INPUT, "\"Else\""},
        {"pre_tokenizer.pretokenizers.0.pattern", "{}", E_INPUT, "pretokenizers[0].pattern"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"a(\"", E_UNSUPPORTED, "does not compile"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"\\\\h\"", E_UNSUPPORTED, "escape \\h"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"[a[b]]\"", E_UNSUPPORTED, "set inside"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"[a&&b]\"", E_UNSUPPORTED, "intersection"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"a{2}+\"", E_UNSUPPORTED, "repeat of a repeat"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"a{b\"", E_UNSUPPORTED, "brace"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"(?m)a\"", E_UNSUPPORTED, "group"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"(?i:a|mess)\"", E_UNSUPPORTED, "without regard to case"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"[[:alpha:]]\"", E_UNSUPPORTED, "a set's name"},
        {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"\\\\p{Alpha}\"", E_UNSUPPORTED, "does not compile"},
        {"post_processor", "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}]}", E_INPUT,
         "does not know \"x\""},
        {"post_processor", "{\"type\": \"BertProcessing\", \"cls\": [\"a\", 70000], \"sep\": [\"b\", 1]}", E_INPUT, "70000"},
        {"post_processor", "{\"type\": \"Other\"}", E_UNSUPPORTED, "post_processor \"Other\""},
        {"decoder", "{\"type\": \"CTC\"}", E_UNSUPPORTED, "decoder \"CTC\""},
        {"decoder", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a\"}, \"content\": \"\"}", E_UNSUPPORTED, "with a regex"},
        {"decoder", "{\"type\": \"Strip\", \"content\": \"ab\"}", E_INPUT, "not one character"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *root = small_json();
        tokenizer *t;
        set_path(root, bad[i].path, bad[i].value);
        check_err(parse(root, &t), bad[i].code, bad[i].part);
        assert_null(t);
        json_decref(root);
    }
    tokenizer *t;
    check_err(tokenizer_from_json("nowhere/tokenizer.json", &t), E_USAGE, "nowhere/tokenizer.json");
    check_err(tokenizer_json_parse("f", "{\"a\":1,\"a\":2}", 13, &t), E_INPUT, "f:1:");
    check_err(tokenizer_json_parse("f", "[]", 2, &t), E_INPUT, "model is absent");
    static const struct {
        const char *text, *part;
    } damaged[] = {
        {"{\"model\": {\"type\": \"BPE\",\n \"vocab\": {\"a\": 0,}, \"merges\": []}}", "f:2:19: not JSON: '\"' expected"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\\ud800b\": 0}, \"merges\": []}}", "half a surrogate pair"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\\qb\": 0}, \"merges\": []}}", "bad escape"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []}}", "there twice"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"vocab\": {}, \"merges\": []}}", "there twice"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a", "f:1:"},
        {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 3, \"vocab\": [[\"a\", 0.5]]}}", "model.unk_id"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 1e999]]}}", "not a finite number"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}}", "',' expected"},
        {"{\"model\": {\"vocab\": {}}}", "model has no \"type\""},
    };
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++)
        check_err(tokenizer_json_parse("f", damaged[i].text, strlen(damaged[i].text), &t), E_INPUT, damaged[i].part);
}

/* A pattern that runs away on a text ends with an error, not with a hang. */
static void runaway_patterns_end(void **state) {
    (void)state;
    json_t *root = small_json();
    tokenizer *t;
    struct ids ids = {0};
    set_path(root, "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"(?:a+)+(?:a+)+(?:a+)+[xy]\"");
    check_ok(parse(root, &t));
    check_err(tokenizer_encode(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 56, true, &ids), E_INPUT,
              "pattern");
    ids_free(&ids);
    tokenizer_free(t);
    json_decref(root);
}

/* ---- neighbours, hash ---- */

static void put(const char *dir, const char *file, const char *text) {
    str path = {0};
    str_addf(&path, "%s/%s", dir, file);
    check_ok(file_write(path.p, text, strlen(text)));
    str_free(&path);
}

static void neighbours_tell_the_rest(void **state) {
    (void)state;
    char dir[] = "/tmp/cyc-tokenizer-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    str small = {0};
    tokenizer *t;
    check_ok(file_read(GOLDEN "small.json", &small));
    put(dir, "tokenizer.json", small.p);
    put(dir, "tokenizer_config.json",
        "{\"eos_token\": {\"content\": \"<|im_end|>\"}, \"add_bos_token\": true, \"pad_token\": null,"
        "\"chat_template\": [{\"name\": \"tool\", \"template\": \"no\"}, {\"name\": \"default\", \"template\": "
        "\"yes\"}]}");
    put(dir, "special_tokens_map.json", "{\"bos_token\": \"<|im_start|>\", \"eos_token\": \"<|endoftext|>\"}");
    put(dir, "generation_config.json", "{\"pad_token_id\": [0, 2], \"bos_token_id\": 0}");
    check_ok(tokenizer_from_json(path, &t));
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_pad(t), 0);
    assert_true(tokenizer_adds_bos(t));
    assert_string_equal(tokenizer_template(t), "yes");
    tokenizer_free(t);
    put(dir, "config.json", "{\"pad_token_id\": 1}");
    put(dir, "generation_config.json", "{\"pad_token_id\": 99999}");
    check_err(tokenizer_from_json(path, &t), E_INPUT, "99999");
    put(dir, "generation_config.json", "{");
    check_err(tokenizer_from_json(path, &t), E_INPUT, "generation_config.json:1:");
    put(dir, "tokenizer_config.json", "{\"bos_token\": \"<none>\"}");
    check_err(tokenizer_from_json(path, &t), E_INPUT, "\"<none>\" is not in the vocabulary");
    snprintf(path, sizeof path, "%s/none.json", dir);
    put(dir, "spiece.model", "x");
    check_err(tokenizer_from_json(path, &t), E_UNSUPPORTED, "spiece.model is not read: make the one from the other");
    str_free(&small);
    check_ok(dir_remove(dir));
}

static void hash_tells_vocabularies_apart(void **state) {
    (void)state;
    tokenizer *t;
    char a[33], b[33];
    json_t *root = small_json();
    check_ok(parse(root, &t));
    tokenizer_hash(t, a);
    tokenizer_free(t);
    json_array_remove(json_object_get(json_object_get(root, "model"), "merges"), 5);
    check_ok(parse(root, &t));
    tokenizer_hash(t, b);
    tokenizer_free(t);
    json_decref(root);
    assert_int_equal(strlen(a), 32);
    assert_string_not_equal(a, b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm2_equals_the_reference),
        cmocka_unit_test(small_equals_the_reference),
        cmocka_unit_test(variants_equal_the_reference),
        cmocka_unit_test(threads_share_one),
        cmocka_unit_test(added_tokens_beyond_the_model),
        cmocka_unit_test(bad_text_is_named),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(runaway_patterns_end),
        cmocka_unit_test(neighbours_tell_the_rest),
        cmocka_unit_test(hash_tells_vocabularies_apart),
    };
    return cmocka_run_group_tests(tests, load_lines, free_lines);
}
