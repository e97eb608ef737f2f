/* Vectors that come with records (data/shapes.h): out of a field or a .npy file, into rows, in memory and streamed, and into packs; every
 * refusal. The tokenizer is tests/golden/cipher's. */
#define _GNU_SOURCE
#include "data/pack.h"
#include "io/npy.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static tokenizer *tok;

static int open_tokenizer(void **state) {
    (void)state;
    return tokenizer_from_json("tests/golden/cipher/tokenizer.json", &tok) ? -1 : 0;
}

static int close_tokenizer(void **state) {
    (void)state;
    tokenizer_free(tok);
    return 0;
}

static err rows_of(const char *text, const struct given_form *given, uint64_t in_memory, struct source *s, struct rows *rows) {
    const struct source_file f = {.path = "d.jsonl"};
    const struct source_options o = {.want = WANT_SFT, .in_memory = in_memory, .given = *given};
    *rows = (struct rows){0};
    TRY(source_parse_as(&f, text, strlen(text), &o, s));
    err e = rows_sft(tok, s, 64, rows);
    if (e) source_close(s);
    return e;
}

#define RECORD(vectors) "{\"prompt\": \"sle\", \"completion\": \"els\", \"vectors\": " vectors "}\n"

static void test_field(void **state) {
    (void)state;
    static const float want[] = {1, 2, 3, -4.5f, 0.5f, 1e-3f, 7, 8};
    static const char text[] = RECORD("[1, 2, 3, -4.5]") RECORD("[[0.5, 1e-3], [7, 8]]");
    const struct given_form g = {.field = "vectors", .each = 2, .width = 2};
    for (int streamed = 0; streamed < 2; streamed++) {
        struct source s;
        struct rows rows;
        const struct row *list[3];
        if (rows_of(text, &g, streamed ? 0 : UINT64_MAX, &s, &rows)) fail_msg("%s", err_text());
        assert_int_equal(s.streams, streamed);
        assert_int_equal(rows_draw(&rows, (const int[]){1, 0, 1}, 3, list), OK);
        for (int i = 0; i < 3; i++) assert_memory_equal(list[i]->given, want + (i != 1) * 4, 4 * sizeof *want);
        rows_free(&rows);
        source_close(&s);
    }
}

static void test_file(void **state) {
    (void)state;
    struct npy a;
    static const float want[] = {0, 0.25f, 0.5f, 0.75f, 1, 1.25f};
    assert_int_equal(npy_open("tests/fuzz/corpus/npy/f4.npy", &a), OK);
    const struct given_form g = {.file = &a, .each = 3, .width = 1};
    for (int streamed = 0; streamed < 2; streamed++) {
        struct source s;
        struct rows rows;
        const struct row *list[2];
        if (rows_of(RECORD("1") RECORD("2"), &g, streamed ? 0 : UINT64_MAX, &s, &rows)) fail_msg("%s", err_text());
        assert_int_equal(rows_draw(&rows, (const int[]){0, 1}, 2, list), OK);
        for (int i = 0; i < 2; i++) assert_memory_equal(list[i]->given, want + 3 * i, 3 * sizeof *want);
        rows_free(&rows);
        source_close(&s);
    }
    npy_close(&a);
}

static void refused(const char *text, const struct given_form *g, const char *why) {
    struct source s;
    struct rows rows;
    assert_int_equal(rows_of(text, g, UINT64_MAX, &s, &rows), E_INPUT);
    if (strcmp(err_text(), why) != 0) fail_msg("\"%s\" is not \"%s\"", err_text(), why);
}

static void test_refusals(void **state) {
    (void)state;
    const struct given_form g = {.field = "vectors", .each = 2, .width = 2}, one = {.field = "x", .each = 1, .width = 3};
    refused(RECORD("[1, 2, 3, 4]") RECORD("[1, 2, 3]"), &g, "d.jsonl:2: \"vectors\" has 3 numbers, wanted are 4 (2 vectors of 2)");
    refused(RECORD("[1, 2, 3, 4, 5]"), &g, "d.jsonl:1: \"vectors\" has 5 numbers, wanted are 4 (2 vectors of 2)");
    refused(RECORD("[[1, 2], [3, 4, 5]]"), &g, "d.jsonl:1: \"vectors\"[1] has 3 numbers, a vector has 2");
    refused(RECORD("[1, \"2\", 3, 4]"), &g, "d.jsonl:1: \"vectors\"[1]: a string where a number is wanted");
    refused(RECORD("[1, 2, 3, null]"), &g, "d.jsonl:1: \"vectors\"[3]: null where a number is wanted");
    refused(RECORD("[[1, 2], [3, [4]]]"), &g, "d.jsonl:1: \"vectors\"[1]: an array where a number is wanted");
    refused(RECORD("[1, 2, 3, 1e39]"), &g, "d.jsonl:1: \"vectors\"[3]: 1e+39 is beyond the numbers of 32 bits");
    refused(RECORD("{\"a\": 1}"), &g, "d.jsonl:1: \"vectors\" is an object, not an array");
    refused(RECORD("[1]"), &one, "d.jsonl:1: no field \"x\" (the line has \"prompt\", \"completion\", \"vectors\")");
    struct npy a;
    assert_int_equal(npy_open("tests/fuzz/corpus/npy/f4.npy", &a), OK);
    refused(RECORD("1"), &(struct given_form){.file = &a, .each = 2, .width = 2}, "tests/fuzz/corpus/npy/f4.npy: rows of 3 numbers, wanted are 4 (2 vectors of 2)");
    refused(RECORD("1") RECORD("1") RECORD("1"), &(struct given_form){.file = &a, .each = 1, .width = 3},
            "tests/fuzz/corpus/npy/f4.npy: 2 rows, but d.jsonl has 3 records: one is wanted for each");
    npy_close(&a);
    assert_int_equal(npy_open("tests/fuzz/corpus/npy/nan.npy", &a), OK);
    refused(RECORD("1"), &(struct given_form){.file = &a, .each = 1, .width = 2}, "d.jsonl:1: tests/fuzz/corpus/npy/nan.npy: row 1, column 2 is not a finite number of 32 bits");
    npy_close(&a);
}

/* Virtual ids go on from row to row, as the vectors do; a row without is noted. */
static void test_pack(void **state) {
    (void)state;
    int32_t ids[] = {5, 6};
    uint8_t on[] = {0, 1};
    const float x[] = {1, 2, 3, 4, 5, 6}, y[] = {7, 8, 9, 10, 11, 12};
    struct pack k;
    assert_int_equal(pack_init(&k, 10, 2), OK);
    assert_int_equal(pack_given(&k, 2, 3), OK);
    k.virtual_tokens = 2, k.virtual_first = 100;
    for (int round = 0; round < 2; round++) {
        pack_clear(&k);
        assert_true(pack_row(&k, &(struct row){.ids = ids, .supervised = on, .n = 2, .given = x}, 0));
        assert_true(pack_row(&k, &(struct row){.ids = ids, .supervised = on, .n = 2, .given = round ? NULL : y}, 1));
        assert_memory_equal(k.ids, ((const int32_t[]){100, 101, 5, 6, 102, 103, 5, 6}), 32);
        assert_memory_equal(k.pos, ((const int32_t[]){0, 1, 2, 3, 0, 1, 2, 3}), 32);
        assert_memory_equal(k.weight, ((const float[]){0, 0, 1, 0, 0, 0, 1, 0}), 32);
        assert_int_equal(k.m, 4);
        assert_memory_equal(k.x, x, sizeof x);
        assert_int_equal(pack_vectors(&k) == NULL, round);
        if (!round) assert_memory_equal(pack_vectors(&k) + 6, y, sizeof y);
        for (int i = 0; i < 4; i++) assert_int_equal(k.x_rows[i], i);
    }
    assert_int_equal(pack_given(&k, 0, 0), OK);
    assert_null(pack_vectors(&k));
    pack_free(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_field), cmocka_unit_test(test_file), cmocka_unit_test(test_refusals), cmocka_unit_test(test_pack)};
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
