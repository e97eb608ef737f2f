/* Words with tags and texts with numbers: their shapes in JSONL, CSV and CoNLL files, what is refused, and the rows and packs made of them.
 * The tokenizer is test_rows.c's of bytes (tests/golden/rows/bos). */
#define _GNU_SOURCE
#include "data/pack.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { BOS = 261 };

static err open_as(const char *path, const char *text, enum source_want want, struct source *s) {
    const struct source_file f = {.path = path};
    return source_parse_as(&f, text, strlen(text), &(struct source_options){.want = want, .in_memory = UINT64_MAX}, s);
}

static void parse(const char *path, const char *text, enum source_want want, struct source *s) {
    if (open_as(path, text, want, s)) fail_msg("%s", err_text());
}

static void refuses(const char *path, const char *text, enum source_want want, const char *why) {
    struct source s;
    assert_true(open_as(path, text, want, &s) != OK);
    if (!strstr(err_text(), why)) fail_msg("'%s' is not in: %s", why, err_text());
}

/* "a/B-x b/O" */
static void says(const struct record *r, const char *want) {
    char have[256] = "";
    for (int i = 0; i < r->n_words; i++) snprintf(have + strlen(have), sizeof have - strlen(have), "%s%s%s%s", i ? " " : "", r->words[i], r->tags ? "/" : "", r->tags ? r->tags[i] : "");
    assert_string_equal(have, want);
}

static void one(const char *path, const char *text, enum source_want want, const char *said) {
    struct source s;
    parse(path, text, want, &s);
    assert_int_equal(s.n, 1);
    says(&s.r[0], said);
    source_close(&s);
}

static void test_words(void **state) {
    (void)state;
    one("d.jsonl", "{\"tokens\": [\"a\", \"b c\"], \"ner_tags\": [1, 0]}\n", WANT_TAGGED, "a/1 b c/0");
    one("d.jsonl", "{\"words\": [\"a\"], \"labels\": [\"B-x\"], \"id\": 7}\n", WANT_TAGGED, "a/B-x");
    one("d.json", "[{\"tokens\": \"a  b\", \"tags\": \"B-x O\"}]", WANT_TAGGED, "a/B-x b/O");
    one("d.csv", "tokens,tags\n\"a b\",O O\n", WANT_TAGGED, "a/O b/O");
    one("d.jsonl", "{\"text\": \"a\\tb\"}\n", WANT_WORDS, "a b");
    one("d.jsonl", "{\"tokens\": [\"a\", \"\"]}\n", WANT_WORDS, "a ");
    one("d.txt", " a b\r\n", WANT_WORDS, "a b");
    refuses("d.jsonl", "{\"tokens\": [\"a\"], \"tags\": [\"O\", \"O\"]}\n", WANT_TAGGED, "d.jsonl:1: \"tokens\" has 1 words, \"tags\" 2 tags: each word wants one");
    refuses("d.jsonl", "{\"tokens\": [\"a\"]}\n", WANT_TAGGED, "no field \"tags\" (the line has \"tokens\")");
    refuses("d.jsonl", "{\"tags\": [\"a\"]}\n", WANT_TAGGED, "no field \"tokens\" (the line has \"tags\")");
    refuses("d.jsonl", "{\"tokens\": [1], \"tags\": [1]}\n", WANT_TAGGED, "\"tokens\"[0] is a number, not a word");
    refuses("d.jsonl", "{\"tokens\": [\"a\"], \"tags\": [1.5]}\n", WANT_TAGGED, "\"tags\"[0] is a number, not a tag (a name or an integer)");
    refuses("d.jsonl", "{\"tokens\": 3, \"tags\": [1]}\n", WANT_TAGGED, "\"tokens\" is a number, not a list of words");
    refuses("d.jsonl", "{\"tokens\": [], \"tags\": []}\n", WANT_TAGGED, "\"tokens\" holds no word");
    refuses("d.txt", "a O\n", WANT_TAGGED, "tags and conversations need a .jsonl file");
}

static void test_conll(void **state) {
    (void)state;
    struct source s;
    static const char file[] = "-DOCSTART- -X- O\n\nEU NNP B-ORG\r\nrejects VBZ O\n\n\n-DOCSTART- -X- O\nPeter\tB-PER\n";
    parse("d.conll", file, WANT_TAGGED, &s);
    assert_int_equal(s.n, 2);
    says(&s.r[0], "EU/B-ORG rejects/O");
    says(&s.r[1], "Peter/B-PER");
    assert_int_equal(s.r[0].line, 3);
    assert_int_equal(s.r[1].line, 8);
    source_close(&s);
    one("d.conll", "a\nb", WANT_WORDS, "a b");
    refuses("d.conll", "\na O\nb\n", WANT_TAGGED, "d.conll:2: the word 'b' has no tag beside it (line 3)");
    refuses("d.conll", "\n\n-DOCSTART- O\n", WANT_TAGGED, "d.conll");
    refuses("d.conll", "a O\n\xff O\n", WANT_TAGGED, "d.conll:1: not UTF-8 text (byte 0xff)");
    refuses("d.conll", "a O\n", WANT_SFT, "a CoNLL file holds words and tags, but here pairs or conversations are wanted");
    refuses("d.conll", "a O\n", WANT_LABELLED, "a CoNLL file holds words and tags, but here a text and its label are wanted");
}

static void test_numbers(void **state) {
    (void)state;
    struct source s;
    parse("d.jsonl", "{\"text\": \"t\", \"label\": 2}\n{\"text\": \"t\", \"label\": [-1.5, 3]}\n", WANT_NUMBERED, &s);
    assert_int_equal(s.r[0].n_numbers, 1);
    assert_true(s.r[0].number[0] == 2);
    assert_int_equal(s.r[1].n_numbers, 2);
    assert_true(s.r[1].number[0] == -1.5f && s.r[1].number[1] == 3);
    source_close(&s);
    parse("d.csv", "text,label\nt, 1e-2\n", WANT_NUMBERED, &s);
    assert_true(s.r[0].number[0] == 0.01f);
    source_close(&s);
    refuses("d.csv", "text,label\nt,1x\n", WANT_NUMBERED, "\"label\" is '1x', not a number");
    refuses("d.csv", "text,label\nt,nan\n", WANT_NUMBERED, "a target must be a finite number");
    refuses("d.jsonl", "{\"text\": \"t\", \"label\": 1e60}\n", WANT_NUMBERED, "\"label\" is 1e+60: a target must be a finite number");
    refuses("d.jsonl", "{\"text\": \"t\", \"label\": [1, null]}\n", WANT_NUMBERED, "\"label\" is null, not a number");
    refuses("d.jsonl", "{\"text\": \"t\", \"label\": []}\n", WANT_NUMBERED, "\"label\" has 0 numbers");
    refuses("d.jsonl", "{\"text\": \"t\"}\n", WANT_NUMBERED, "no field \"label\" (the line has \"text\")");
}

static void open_tokenizer(tokenizer **tk) {
    if (tokenizer_from_json("tests/golden/rows/bos/tokenizer.json", tk)) fail_msg("%s", err_text());
}

/* The first token of each word tells; what is cut tells nothing. */
static void test_rows_tagged(void **state) {
    (void)state;
    struct source s;
    struct labels l;
    struct rows r;
    struct pack p;
    tokenizer *tk;
    const struct class_form form = {.labels = &l};
    open_tokenizer(&tk);
    parse("d.jsonl", "{\"tokens\": [\"xy\", \"\", \"z\", \"xx\"], \"tags\": [\"B\", \"A\", \"A\", 1]}\n", WANT_TAGGED, &s);
    assert_int_equal(labels_of((const char *const[]){"A", "B"}, 2, &l), OK);
    assert_int_equal(rows_tagged(tk, &form, &s, 8, &r), OK);
    assert_int_equal(r.r[0].n, 8);
    assert_memory_equal(r.r[0].ids, ((int32_t[]){BOS, 'x', 'y', ' ', 'z', ' ', 'x', 'x'}), 32);
    assert_memory_equal(r.r[0].supervised, ((uint8_t[]){0, 1, 0, 1, 0, 1, 0, 0}), 8);
    assert_memory_equal(r.r[0].labels, ((int32_t[]){0, 2, 0, 1, 0, 2, 0, 0}), 32);
    assert_int_equal(r.supervised, 3);
    assert_int_equal(r.truncated, 0);
    assert_int_equal(pack_init(&p, 16, 2), OK);
    assert_true(pack_row(&p, &r.r[0], 0));
    assert_true(p.supervised == 3);
    for (int i = 0; i < 8; i++) assert_true(p.weight[i] == r.r[0].supervised[i] && p.label[i] == (p.weight[i] ? r.r[0].labels[i] - 1 : 0));
    pack_free(&p);
    rows_free(&r);
    assert_int_equal(rows_tagged(tk, &form, &s, 4, &r), OK);
    assert_int_equal(r.supervised, 2);
    assert_int_equal(r.truncated, 1);
    rows_free(&r);
    assert_int_equal(rows_tagged(tk, &(struct class_form){0}, &s, 8, &r), OK); /* without tags: the words' numbers */
    assert_memory_equal(r.r[0].labels, ((int32_t[]){0, 1, 0, 3, 0, 4, 0, 0}), 32);
    rows_free(&r);
    source_close(&s);
    parse("d.jsonl", "{\"tokens\": [\"x\"], \"tags\": [2]}\n", WANT_TAGGED, &s);
    assert_int_equal(rows_tagged(tk, &form, &s, 8, &r), E_INPUT);
    assert_non_null(strstr(err_text(), "d.jsonl:1: label '2' is none of the 2 classes (A, B)"));
    source_close(&s);
    parse("d.jsonl", "{\"tokens\": [\"\"], \"tags\": [0]}\n", WANT_TAGGED, &s);
    assert_int_equal(rows_tagged(tk, &form, &s, 8, &r), E_INPUT);
    assert_non_null(strstr(err_text(), "no word with a token within max_length"));
    source_close(&s);
    labels_free(&l);
    tokenizer_free(tk);
}

static void test_rows_numbered(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    struct pack p;
    tokenizer *tk;
    const struct class_form form = {.numbers = 2};
    open_tokenizer(&tk);
    parse("d.jsonl", "{\"text\": \"x\", \"label\": [1, 2]}\n{\"text\": \"yz\", \"label\": [3, 4]}\n", WANT_NUMBERED, &s);
    assert_int_equal(rows_labelled(tk, &form, &s, 8, &r), OK);
    assert_int_equal(pack_init(&p, 16, 4), OK);
    assert_int_equal(pack_targets(&p, 2), OK);
    for (int i = 0; i < 2; i++) assert_true(pack_row(&p, &r.r[i], i));
    assert_memory_equal(p.target, ((float[]){1, 2, 3, 4}), 16);
    for (int i = 0; i < p.n; i++) assert_true(p.weight[i] == (i == 1 || i == 4));
    assert_int_equal(p.label[1], 0);
    assert_int_equal(p.label[4], 1);
    pack_free(&p);
    rows_free(&r);
    source_close(&s);
    parse("d.jsonl", "{\"text\": \"x\", \"label\": [1, 2]}\n{\"text\": \"x\", \"label\": 1}\n", WANT_NUMBERED, &s);
    assert_int_equal(rows_labelled(tk, &form, &s, 8, &r), E_INPUT);
    assert_non_null(strstr(err_text(), "d.jsonl:2: 1 number, but the first record has 2"));
    source_close(&s);
    tokenizer_free(tk);
}

/* An encoder-decoder reads a text twice: whole, and behind its start token without its end; within half of max_length. */
static void test_rows_twice(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    struct pack p;
    tokenizer *tk;
    open_tokenizer(&tk);
    const int32_t eos = tokenizer_eos(tk);
    const struct class_form form = {.twice = true, .numbers = 1, .start = 7};
    parse("d.jsonl", "{\"text\": \"xy\", \"label\": 1}\n{\"text\": \"xyzxyz\", \"label\": 2}\n", WANT_NUMBERED, &s);
    assert_int_equal(rows_labelled(tk, &form, &s, 8, &r), OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r.r[i].n, 8);
        assert_int_equal(r.r[i].source, 4);
        assert_memory_equal(r.r[i].ids, ((int32_t[]){BOS, 'x', 'y', eos, 7, BOS, 'x', 'y'}), 32); /* the second is cut: its end is an EOS */
        assert_memory_equal(r.r[i].supervised, ((uint8_t[]){0, 0, 0, 0, 0, 0, 0, 1}), 8);
    }
    assert_int_equal(r.truncated, 1);
    assert_int_equal(pack_init(&p, 16, 2), OK);
    assert_int_equal(pack_targets(&p, 1), OK);
    for (int i = 0; i < 2; i++) assert_true(pack_row(&p, &r.r[i], i));
    assert_int_equal(p.n, 8);
    assert_int_equal(p.m, 8);
    for (int i = 0; i < 8; i++) assert_true(p.weight[i] == (i % 4 == 3));
    assert_int_equal(p.label[7], 1);
    pack_free(&p);
    rows_free(&r);
    source_close(&s);
    tokenizer_free(tk);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows_twice), cmocka_unit_test(test_words), cmocka_unit_test(test_conll), cmocka_unit_test(test_numbers), cmocka_unit_test(test_rows_tagged), cmocka_unit_test(test_rows_numbered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
