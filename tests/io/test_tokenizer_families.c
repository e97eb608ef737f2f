/* Tokenizers of every kind against the reference: tests/golden/make/tokenizer_families.py trained the vocabularies,
 * laid pipelines over them and took sums of what `tokenizers` and SentencePiece make of some 12,000 lines. Each
 * pipeline that has a GGUF spelling is written as such a file too and must give the same ids.
 *
 * The real tokenizers (Gemma 3, MiniLM) are looked for in cache/ and skipped where they are not. */
#define _GNU_SOURCE
#include "io/tokenizer_steps.h"
#include "base/file.h"
#include "lines.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define GOLDEN "tests/golden/tokenizer_families/"

static void check_ok(err e) {
    if (e) fail_msg("%s", err_text());
}

static int load_lines(void **state) {
    (void)state;
    return lines_add("tests/golden/tokenizer/lines.txt") || lines_add(GOLDEN "more.txt") ? -1 : 0;
}

/* ---- sums ---- */

static uint64_t fnv64(uint64_t h, const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)p)[i]) * 0x100000001B3ull;
    return h;
}

static uint32_t fnv32(const struct ids *ids) {
    uint32_t h = 0x811C9DC5;
    const uint8_t *p = (const uint8_t *)ids->v;
    for (size_t i = 0; i < 4 * ids->n; i++) h = (h ^ p[i]) * 0x01000193;
    return h;
}

/* What the reference writes as U+FFFD. */
static bool is_text(const str *s) {
    unsigned cp;
    for (size_t i = 0, len; i < s->n; i += len)
        if ((len = (size_t)utf8_decode(s->p + i, s->n - i, &cp)) == 0 || cp == 0xFFFD) return false;
    return true;
}

struct sums {
    uint64_t all, decoded;
    uint32_t some[200];
    size_t n;
};

static void take_sums(const tokenizer *t, bool special, bool both, struct sums *s) {
    struct ids ids = {0};
    str text = {0};
    *s = (struct sums){0xCBF29CE484222325ull, 0xCBF29CE484222325ull, {0}, 0};
    for (size_t i = 0; i < lines.n; i++) {
        ids.n = 0;
        check_ok(tokenizer_encode(t, json_string_value(lines.v[i]), json_string_length(lines.v[i]), special, &ids));
        uint32_t n = (uint32_t)ids.n;
        s->all = fnv64(fnv64(s->all, &n, 4), ids.v, 4 * ids.n);
        if (i % 96 == 0) s->some[s->n++] = fnv32(&ids);
        for (int skip = 0; skip < 1 + both; skip++) {
            str_clear(&text);
            check_ok(tokenizer_decode(t, ids.v, ids.n, skip, &text));
            if (is_text(&text)) s->decoded = fnv64(s->decoded, text.p, text.n);
        }
    }
    ids_free(&ids);
    str_free(&text);
}

/* Compares with a row of sums; says which lines differ. True when all agree. */
static bool agrees(const tokenizer *t, const json_t *row, const char *kind, bool both) {
    const char *name = json_string_value(json_object_get(row, "name")),
               *some = json_string_value(json_object_get(row, "some"));
    struct sums s;
    take_sums(t, json_is_true(json_object_get(row, "special")), both, &s);
    bool ids = s.all == strtoull(json_string_value(json_object_get(row, "all")), NULL, 16);
    const char *decoded = json_string_value(json_object_get(row, "decoded"));
    bool text = !decoded || s.decoded == strtoull(decoded, NULL, 16);
    if (!ids) print_error("%s (%s): the ids differ; of every 96th line:", name, kind);
    for (size_t i = 0; i < s.n && !ids; i++) {
        char *end;
        if (s.some[i] != (uint32_t)strtoul(some, &end, 16)) print_error(" %zu", 96 * i);
        some = end;
    }
    if (!ids) print_error("\n");
    if (!text) print_error("%s (%s): decoded text differs\n", name, kind);
    return ids && text;
}

static bool same_ids(const struct ids *ids, const json_t *list) {
    bool same = ids->n == json_array_size(list);
    for (size_t i = 0; i < ids->n && same; i++) same = ids->v[i] == json_integer_value(json_array_get(list, i));
    return same;
}

/* ---- tokenizer.json ---- */

/* The text of a value with "charsmap.txt" replaced by that file's text; free() it. */
static char *with_charsmap(const json_t *value) {
    char *text = json_dumps(value, 0), *at = strstr(text, "charsmap.txt");
    if (!at) return text;
    str whole = {0}, table = {0};
    check_ok(file_read(GOLDEN "charsmap.txt", &table));
    str_add(&whole, text, (size_t)(at - text));
    str_add(&whole, table.p, table.n);
    str_adds(&whole, at + strlen("charsmap.txt"));
    str_free(&table);
    free(text);
    return whole.p;
}

/* The text of a family's tokenizer.json; free() it. */
static char *family_json(const json_t *row) {
    char path[128];
    const char *base = json_string_value(json_object_get(row, "base")), *key;
    snprintf(path, sizeof path, strcmp(base, "small") ? GOLDEN "base_%s.json" : "tests/golden/tokenizer/small.json",
             base);
    json_t *root = json_load_file(path, 0, NULL), *value;
    assert_non_null(root);
    json_object_foreach(json_object_get(row, "patch"), key, value) {
        if (!strcmp(key, "model")) json_object_update(json_object_get(root, "model"), value);
        else json_object_set(root, key, value);
    }
    char *text = with_charsmap(root);
    json_decref(root);
    return text;
}

static void families_equal_the_reference(void **state) {
    (void)state;
    json_t *list = json_load_file(GOLDEN "families.json", 0, NULL), *row;
    size_t i, wrong = 0;
    assert_true(lines.n > 12000 && json_array_size(list) >= 30);
    json_array_foreach(list, i, row) {
        const json_t *around = json_object_get(row, "around");
        char *text = family_json(row);
        tokenizer *t;
        check_ok(tokenizer_json_parse(json_string_value(json_object_get(row, "name")), text, strlen(text), &t));
        wrong += !agrees(t, row, "json", true);
        assert_true(same_ids(tokenizer_prefix(t), json_array_get(around, 0)));
        assert_true(same_ids(tokenizer_suffix(t), json_array_get(around, 1)));
        tokenizer_free(t);
        free(text);
    }
    json_decref(list);
    assert_int_equal(wrong, 0);
}

/* ---- normalizers ---- */

static void every_character_is_normalised_alike(void **state) {
    (void)state;
    json_t *list = json_load_file(GOLDEN "norms.json", 0, NULL), *row;
    size_t i, wrong = 0;
    assert_true(json_array_size(list) >= 12);
    json_array_foreach(list, i, row) {
        char *step = with_charsmap(json_object_get(row, "normalizer"));
        json_t *parsed = json_loads(step, 0, NULL);
        tokenizer *t;
        struct norm_scratch s = {0};
        uint64_t all = 0xCBF29CE484222325ull;
        check_ok(tok_create("norms.json", 1, &t));
        check_ok(steps_normalizer(t, parsed));
        check_ok(matcher_init(&s.matcher));
        for (unsigned cp = 0; cp < 0x110000; cp++) {
            char utf8[4];
            struct normal made;
            if (cp >= 0xD800 && cp < 0xE000) continue;
            check_ok(norm_apply(&t->norm, &s, utf8, (size_t)utf8_encode(cp, utf8), LEAD_TEXT, &made));
            all = fnv64(all, made.text, made.n);
        }
        bool same = all == strtoull(json_string_value(json_object_get(row, "all")), NULL, 16);
        if (!same) print_error("differs: %.100s\n", step);
        wrong += !same;
        matcher_free(&s.matcher);
        str_free(&s.now);
        str_free(&s.next);
        tokenizer_free(t);
        json_decref(parsed);
        free(step);
    }
    json_decref(list);
    assert_int_equal(wrong, 0);
}

/* ---- GGUF ---- */

static void u32(str *b, uint32_t v) { str_add(b, (const char *)&v, 4); }
static void u64(str *b, uint64_t v) { str_add(b, (const char *)&v, 8); }
static void put_text(str *b, const char *s, size_t n) {
    u64(b, n);
    str_add(b, s, n);
}
static void put_key(str *b, const char *name, enum gguf_type type) {
    put_text(b, name, strlen(name));
    u32(b, type);
}
static void put_array(str *b, const char *name, enum gguf_type elem, uint64_t n) {
    put_key(b, name, GGUF_ARRAY);
    u32(b, elem);
    u64(b, n);
}
static void put_string(str *b, const char *name, const char *v) {
    put_key(b, name, GGUF_STRING);
    put_text(b, v, strlen(v));
}

/* BERT's tokens as llama.cpp's converter spells them. */
static void put_token(str *b, const tokenizer *t, int32_t id, bool bert) {
    const struct token *k = &t->tokens[id];
    str text = {0};
    if (bert && !k->special && !strncmp(k->text, "##", 2)) str_adds(&text, k->text + 2);
    else if (bert && !k->special) str_addf(&text, SPACE_SIGN "%s", k->text);
    else str_add(&text, k->text, k->n_text);
    put_text(b, text.p ? text.p : "", text.n);
    str_free(&text);
}

static uint64_t put_arrays(str *b, const tokenizer *t, const json_t *root, bool bert) {
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges"), *m;
    size_t i;
    put_array(b, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)t->n);
    for (int32_t k = 0; k < t->n; k++) put_token(b, t, k, bert);
    put_array(b, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)t->n);
    for (int32_t k = 0; k < t->n; k++) u32(b, t->tokens[k].special ? 3 : t->tokens[k].added ? 4 : 1);
    if (t->score) {
        put_array(b, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)t->n);
        for (int32_t k = 0; k < t->n; k++) str_add(b, (const char *)&(float){(float)t->score[k]}, 4);
        return 3;
    }
    if (!merges) return 2;
    put_array(b, "tokenizer.ggml.merges", GGUF_STRING, json_array_size(merges));
    json_array_foreach(merges, i, m) {
        str line = {0};
        str_addf(&line, "%s %s", json_string_value(json_array_get(m, 0)), json_string_value(json_array_get(m, 1)));
        put_text(b, line.p, line.n);
        str_free(&line);
    }
    return 3;
}

static uint64_t put_charsmap(str *b, const tokenizer *t) {
    const struct charsmap *map = &t->norm.step[0].map;
    uint32_t bytes = (uint32_t)map->n_units * 4;
    put_array(b, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, 4 + bytes + map->n_text);
    u32(b, bytes);
    str_add(b, (const char *)map->unit, bytes);
    str_add(b, map->text, map->n_text);
    return 1;
}

/* A family as a GGUF file without tensors. */
static void family_gguf(const json_t *row, const tokenizer *t, const json_t *root, str *out) {
    const char *name = json_string_value(json_object_get(row, "gguf"));
    bool bert = !strcmp(name, "bert"), t5 = !strcmp(name, "t5");
    str keys = {0};
    uint64_t n = put_arrays(&keys, t, root, bert) + 1;
    put_string(&keys, "tokenizer.ggml.model", bert ? "bert" : t5 ? "t5" : "gpt2");
    if (!bert && !t5) put_string(&keys, "tokenizer.ggml.pre", name), n++;
    if (t5) {
        n += put_charsmap(&keys, t) + 2;
        put_key(&keys, "tokenizer.ggml.eos_token_id", GGUF_U32), u32(&keys, 1);
        put_key(&keys, "tokenizer.ggml.unknown_token_id", GGUF_U32), u32(&keys, 2);
    }
    str_adds(out, "GGUF");
    u32(out, 3);
    u64(out, 0);
    u64(out, n);
    str_add(out, keys.p, keys.n);
    while (out->n % 32) str_addc(out, 0);
    str_free(&keys);
}

static void read_gguf(const char *path, tokenizer **t) {
    struct tensors ts;
    check_ok(tensors_open(path, &ts));
    check_ok(tokenizer_from_gguf(&ts, t));
    tensors_close(&ts);
}

static void gguf_gives_the_same(void **state) {
    (void)state;
    char path[] = "/tmp/cyc-families-XXXXXX.gguf";
    json_t *list = json_load_file(GOLDEN "families.json", 0, NULL), *row;
    size_t i, wrong = 0, tried = 0;
    close(mkstemps(path, 5));
    json_array_foreach(list, i, row) {
        if (!json_is_string(json_object_get(row, "gguf"))) continue;
        char *text = family_json(row);
        json_t *root = json_loads(text, 0, NULL);
        str file = {0};
        tokenizer *t, *u;
        json_t *old = json_copy(row); /* added tokens with flags have no GGUF spelling */
        json_object_del(root, "post_processor");
        char *plain = json_dumps(root, 0);
        check_ok(tokenizer_json_parse("plain", plain, strlen(plain), &t));
        family_gguf(row, t, root, &file);
        check_ok(file_write(path, file.p, file.n));
        read_gguf(path, &u);
        wrong += !agrees(u, old, "gguf", true);
        tried++;
        tokenizer_free(t);
        tokenizer_free(u);
        json_decref(root);
        json_decref(old);
        str_free(&file);
        free(plain);
        free(text);
    }
    json_decref(list);
    unlink(path);
    assert_true(tried >= 9);
    assert_int_equal(wrong, 0);
}

/* A GGUF file of a few tokens, all of them with score 0. */
static void small_gguf(const char *path, const char *family, const char *model, const char *const *tokens,
                       const int *types, int n) {
    str out = {0};
    str_adds(&out, "GGUF");
    u32(&out, 3);
    u64(&out, 0);
    u64(&out, 5);
    put_string(&out, "general.architecture", family);
    put_string(&out, "tokenizer.ggml.model", model);
    put_array(&out, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)n);
    for (int i = 0; i < n; i++) put_text(&out, tokens[i], strlen(tokens[i]));
    put_array(&out, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)n);
    for (int i = 0; i < n; i++) u32(&out, (uint32_t)types[i]);
    put_array(&out, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)n);
    for (int i = 0; i < n; i++) u32(&out, 0);
    while (out.n % 32) str_addc(&out, 0);
    check_ok(file_write(path, out.p, out.n));
    str_free(&out);
}

static void is_encoded(const tokenizer *t, const char *text, unsigned flags, const char *want) {
    struct ids ids = {0};
    str shown = {0};
    check_ok(tokenizer_encode(t, text, strlen(text), flags, &ids));
    for (size_t i = 0; i < ids.n; i++) str_addf(&shown, i ? " %d" : "%d", ids.v[i]);
    assert_string_equal(shown.p ? shown.p : "", want);
    str_free(&shown);
    ids_free(&ids);
}

/* What a GGUF file does not say: Phi-3's control tokens take the spaces behind them along. */
static void phi3_tokens_take_spaces(void **state) {
    (void)state;
    char path[] = "/tmp/cyc-phi3-XXXXXX.gguf";
    static const char *const tokens[] = {"<unk>", "<s>", "<|end|>", "a", SPACE_SIGN, SPACE_SIGN "a"};
    static const int types[] = {2, 3, 3, 1, 1, 1};
    tokenizer *t;
    close(mkstemps(path, 5));
    small_gguf(path, "phi3", "llama", tokens, types, 6);
    read_gguf(path, &t);
    is_encoded(t, "a<|end|>  a<s> a", 1, "5 2 5 1 4 5");
    is_encoded(t, "a", ENCODE_GOES_ON, "3"); /* in the middle of a text nothing is put before a word */
    tokenizer_free(t);
    small_gguf(path, "llama", "llama", tokens, types, 6);
    read_gguf(path, &t);
    is_encoded(t, "a<|end|>  a", 1, "5 2 4 4 5");
    is_encoded(t, "b", 1, "4 0");
    tokenizer_free(t);
    unlink(path);
}

/* The ids of a middle keep the space that a beginning loses, for each decoder that takes one away. */
static void a_middle_keeps_its_space(void **state) {
    (void)state;
    static const char *const chosen[] = {"llama2", "t5", "bert cased"}, *const texts[] = {" the", " the", " the"};
    json_t *list = json_load_file(GOLDEN "families.json", 0, NULL), *row;
    size_t i, tried = 0;
    json_array_foreach(list, i, row) for (int k = 0; k < 3; k++) {
        if (strcmp(json_string_value(json_object_get(row, "name")), chosen[k])) continue;
        char *text = family_json(row);
        struct ids ids = {0};
        str whole = {0}, middle = {0};
        tokenizer *t;
        check_ok(tokenizer_json_parse(chosen[k], text, strlen(text), &t));
        check_ok(tokenizer_encode(t, "the", 3, 0, &ids));
        check_ok(tokenizer_decode(t, ids.v, ids.n, 0, &whole));
        check_ok(tokenizer_decode(t, ids.v, ids.n, DECODE_GOES_ON, &middle));
        assert_string_equal(whole.p, "the");
        assert_string_equal(middle.p, texts[k]);
        ids_free(&ids);
        str_free(&whole);
        str_free(&middle);
        tokenizer_free(t);
        free(text);
        tried++;
    }
    json_decref(list);
    assert_int_equal(tried, 3);
}

static void check_err(err got, err want, const char *part) {
    if (got != want) fail_msg("\"%s\" is %d, not %d; wanted \"%s\"", got ? err_text() : "", got, want, part);
    if (!strstr(err_text(), part)) fail_msg("\"%s\" does not say \"%s\"", err_text(), part);
}

static void bad_gguf_files_are_named(void **state) {
    (void)state;
    char path[] = "/tmp/cyc-bad-XXXXXX.gguf";
    static const char *const tokens[] = {"<unk>", "a", "a"};
    static const int types[] = {2, 1, 1};
    struct tensors ts;
    tokenizer *t;
    close(mkstemps(path, 5));
    static const struct {
        const char *model;
        err code;
        const char *part;
    } bad[] = {{"wordlevel", E_UNSUPPORTED, "\"wordlevel\" is not supported (supported: gpt2, llama, t5, bert)"},
               {"gpt2", E_INPUT, "no tokenizer.ggml.merges"},
               {"llama", E_INPUT, "\"a\" is there twice"},
               {"t5", E_INPUT, "\"a\" is there twice"},
               {"bert", E_INPUT, "\"##a\" is there twice"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        small_gguf(path, "llama", bad[i].model, tokens, types, 3);
        check_ok(tensors_open(path, &ts));
        check_err(tokenizer_from_gguf(&ts, &t), bad[i].code, bad[i].part);
        tensors_close(&ts);
    }
    unlink(path);
}

static void sentencepiece_bpe_equals_its_own(void **state) {
    (void)state;
    json_t *list = json_load_file(GOLDEN "spm.json", 0, NULL), *row;
    size_t i, wrong = 0;
    assert_int_equal(json_array_size(list), 2);
    json_array_foreach(list, i, row) {
        char path[128];
        tokenizer *t;
        snprintf(path, sizeof path, GOLDEN "%s", json_string_value(json_object_get(row, "file")));
        read_gguf(path, &t);
        wrong += !agrees(t, row, "SentencePiece", false);
        assert_true(same_ids(tokenizer_prefix(t), json_array_get(json_object_get(row, "around"), 0)));
        tokenizer_free(t);
    }
    json_decref(list);
    assert_int_equal(wrong, 0);
}

/* Models of their makers, too large to keep here. */
static void real_ones_equal_the_reference(void **state) {
    (void)state;
    json_t *list = json_load_file(GOLDEN "real.json", 0, NULL), *row;
    size_t i, wrong = 0, tried = 0;
    json_array_foreach(list, i, row) {
        const char *path = json_string_value(json_object_get(row, "file"));
        const json_t *around = json_object_get(row, "around");
        struct tensors ts;
        tokenizer *t;
        if (!path_exists(path)) continue;
        if (str_ends(path, ".gguf")) {
            err e = tensors_open(path, &ts);
            if (e == E_UNSUPPORTED) { /* a type of its weights: its tokenizer cannot be asked for */
                print_message("%s\n", err_text());
                continue;
            }
            check_ok(e);
            check_ok(tokenizer_from_gguf(&ts, &t));
            tensors_close(&ts);
        } else check_ok(tokenizer_from_json(path, &t));
        wrong += !agrees(t, row, path, json_is_true(json_object_get(row, "both")));
        assert_true(same_ids(tokenizer_prefix(t), json_array_get(around, 0)));
        assert_true(same_ids(tokenizer_suffix(t), json_array_get(around, 1)));
        tokenizer_free(t);
        tried++;
    }
    json_decref(list);
    assert_int_equal(wrong, 0);
    if (!tried) skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_equal_the_reference),  cmocka_unit_test(every_character_is_normalised_alike),
        cmocka_unit_test(gguf_gives_the_same),           cmocka_unit_test(phi3_tokens_take_spaces),
        cmocka_unit_test(a_middle_keeps_its_space),
        cmocka_unit_test(bad_gguf_files_are_named),
        cmocka_unit_test(sentencepiece_bpe_equals_its_own),
        cmocka_unit_test(real_ones_equal_the_reference),
    };
    return cmocka_run_group_tests(tests, load_lines, free_lines);
}
