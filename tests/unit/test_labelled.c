/* Texts with labels: the classes and their order, rows and packs of them, and the figures of a classifier against scikit-learn's. The
 * tokenizers are test_rows.c's (tests/golden/rows) and one of WordPiece's kind. */
#define _GNU_SOURCE
#include "data/class_score.h"
#include "data/pack.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static void parse(const char *text, struct source *s) {
    const struct source_file f = {.path = "d.jsonl"};
    if (source_parse_as(&f, text, strlen(text), &(struct source_options){.want = WANT_LABELLED, .in_memory = UINT64_MAX}, s)) fail_msg("%s", err_text());
}

static void are(const struct labels *l, int n, const char *const *want) {
    assert_int_equal(l->n, n);
    for (int i = 0; i < n; i++) {
        assert_string_equal(l->name[i], want[i]);
        assert_int_equal(labels_find(l, want[i]), i);
    }
}

static void collected(const char *text, int n, const char *const *want) {
    struct source s;
    struct labels l;
    parse(text, &s);
    assert_int_equal(labels_collect(&s, &l), OK);
    are(&l, n, want);
    labels_free(&l);
    source_close(&s);
}

static void test_collect(void **state) {
    (void)state;
    collected("{\"text\": \"t\", \"label\": \"b\"}\n{\"text\": \"t\", \"label\": \"\xc3\xa9\"}\n{\"text\": \"t\", \"label\": \"B\"}\n{\"text\": \"t\", \"label\": \"b\"}\n", 3, (const char *const[]){"B", "b", "\xc3\xa9"});
    collected("{\"text\": \"t\", \"label\": 10}\n{\"text\": \"t\", \"label\": 9}\n{\"text\": \"t\", \"label\": -1}\n{\"text\": \"t\", \"label\": \"0\"}\n", 4, (const char *const[]){"-1", "0", "9", "10"});
    /* one that is no number: names all of them */
    collected("{\"text\": \"t\", \"label\": 10}\n{\"text\": \"t\", \"label\": 9}\n{\"text\": \"t\", \"label\": \"09\"}\n", 3, (const char *const[]){"09", "10", "9"});
}

static void test_given(void **state) {
    (void)state;
    struct labels l;
    const char *const names[] = {"z", "a", "m"}, *const twice[] = {"z", "a", "z"};
    assert_int_equal(labels_of(names, 3, &l), OK);
    are(&l, 3, names);
    assert_int_equal(labels_find(&l, "b"), -1);
    assert_int_equal(labels_find(&l, ""), -1);
    assert_int_equal(labels_find(&l, "zz"), -1);
    assert_int_equal(labels_unknown(&l, "b"), E_INPUT);
    assert_string_equal(err_text(), "label 'b' is none of the 3 classes (z, a, m)");
    labels_free(&l);
    assert_int_equal(labels_of(twice, 3, &l), E_USAGE);
    assert_string_equal(err_text(), "the label 'z' is there twice");
    assert_int_equal(labels_of(names, 1, &l), E_USAGE);
    assert_string_equal(err_text(), "1 label ('z'): a classifier needs two classes at least");
    assert_int_equal(labels_of(names, 0, &l), E_USAGE);
    assert_string_equal(err_text(), "0 labels: a classifier needs two classes at least");
}

static void rows_of(const char *tokenizer_path, bool first, int max_length, const char *text, struct rows *r, tokenizer **tk) {
    static struct labels l;
    static struct class_form form;
    struct source s;
    parse(text, &s);
    if (!l.n) assert_int_equal(labels_of((const char *const[]){"x", "y"}, 2, &l), OK);
    form = (struct class_form){.labels = &l, .first = first};
    if (tokenizer_from_json(tokenizer_path, tk)) fail_msg("%s", err_text());
    if (rows_labelled(*tk, &form, &s, max_length, r)) fail_msg("%s", err_text());
    source_close(&s);
}

/* A decoder's: with a BOS, the class at the last token; a control token's text is text. */
static void test_rows_last(void **state) {
    (void)state;
    enum { BOS = 261 };
    struct rows r;
    struct pack p;
    tokenizer *tk;
    rows_of("tests/golden/rows/bos/tokenizer.json", false, 5, "{\"text\": \"xyz\", \"label\": \"y\"}\n{\"text\": \"<s>xy\", \"label\": \"x\"}\n", &r, &tk);
    assert_int_equal(r.n, 2);
    assert_int_equal(r.truncated, 1);
    assert_int_equal(r.supervised, 2);
    assert_memory_equal(r.r[0].ids, ((int32_t[]){BOS, 'x', 'y', 'z'}), 16);
    assert_memory_equal(r.r[0].supervised, ((uint8_t[]){0, 0, 0, 1}), 4);
    assert_int_equal(r.r[0].label, 2);
    assert_memory_equal(r.r[1].ids, ((int32_t[]){BOS, '<', 's', '>', 'x'}), 20);
    assert_memory_equal(r.r[1].supervised, ((uint8_t[]){0, 0, 0, 0, 1}), 5);
    assert_int_equal(r.r[1].label, 1);

    assert_int_equal(pack_init(&p, 16, 4), OK);
    for (int i = 0; i < 2; i++) assert_true(pack_row(&p, &r.r[i], i));
    assert_true(p.supervised == 2);
    for (int i = 0; i < p.n; i++) assert_true(p.weight[i] == (i == 3 || i == 8));
    assert_int_equal(p.label[3], 1);
    assert_int_equal(p.label[8], 0);
    pack_free(&p);
    rows_free(&r);
    tokenizer_free(tk);
}

static const char wordpiece[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 1, \"content\": \"[CLS]\", \"special\": true, \"normalized\": false, \"lstrip\": false, \"rstrip\": false, "
    "\"single_word\": false}, {\"id\": 2, \"content\": \"[SEP]\", \"special\": true, \"normalized\": false, \"lstrip\": false, \"rstrip\": false, \"single_word\": false}], "
    "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}, \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
    "{\"id\": \"[CLS]\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"[SEP]\", \"type_id\": 0}}], \"pair\": [], "
    "\"special_tokens\": {\"[CLS]\": {\"id\": \"[CLS]\", \"ids\": [1], \"tokens\": [\"[CLS]\"]}, \"[SEP]\": {\"id\": \"[SEP]\", \"ids\": [2], \"tokens\": [\"[SEP]\"]}}}, "
    "\"decoder\": null, \"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", \"continuing_subword_prefix\": \"##\", \"max_input_chars_per_word\": 100, "
    "\"vocab\": {\"[UNK]\": 0, \"[CLS]\": 1, \"[SEP]\": 2, \"a\": 3}}}";

/* BERT's: at the first token; a text that is cut keeps its [SEP]. */
static void test_rows_first(void **state) {
    (void)state;
    struct rows r;
    tokenizer *tk;
    char path[] = "/tmp/cyclora-labelled-XXXXXX.json";
    const int fd = mkstemps(path, 5);
    assert_true(fd >= 0 && write(fd, wordpiece, sizeof wordpiece - 1) == (ssize_t)sizeof wordpiece - 1 && !close(fd));
    rows_of(path, true, 6, "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"a a a a a a a a a a\", \"label\": \"y\"}\n", &r, &tk);
    const int32_t cls = tokenizer_id(tk, "[CLS]"), sep = tokenizer_id(tk, "[SEP]");
    assert_int_equal(r.n, 2);
    assert_int_equal(r.truncated, 1);
    for (int i = 0; i < 2; i++) {
        const struct row *w = &r.r[i];
        assert_int_equal(w->ids[0], cls);
        assert_int_equal(w->ids[w->n - 1], sep);
        assert_int_equal(w->supervised[0], 1);
        for (int k = 1; k < w->n; k++) assert_int_equal(w->supervised[k], 0);
    }
    assert_int_equal(r.r[1].n, 6);
    rows_free(&r);
    tokenizer_free(tk);
    unlink(path);
}

static void near(double have, double want) {
    if (fabs(have - want) > 1e-12) fail_msg("%.15g is not %.15g", have, want);
}

/* truth 0 0 0 0 1 1 2 2 2 4, said 0 0 1 2 1 0 2 2 3 4 of six classes: sklearn.metrics' precision_recall_fscore_support(zero_division=0),
 * accuracy_score, f1_score(average="macro"); class 5 is in neither. */
static void test_scores(void **state) {
    (void)state;
    static const int truth[] = {0, 0, 0, 0, 1, 1, 2, 2, 2, 4}, said[] = {0, 0, 1, 2, 1, 0, 2, 2, 3, 4};
    static const double want[6][3] = {{2.0 / 3, 0.5, 4.0 / 7}, {0.5, 0.5, 0.5}, {2.0 / 3, 2.0 / 3, 2.0 / 3}, {0, 0, 0}, {1, 1, 1}, {0, 0, 0}};
    int64_t counts[36] = {0};
    struct class_score each[6];
    for (int i = 0; i < 10; i++) counts[truth[i] * 6 + said[i]]++;
    const struct class_totals all = class_scores(counts, 6, each);
    near(all.accuracy, 0.6);
    near(all.macro_f1, (4.0 / 7 + 0.5 + 2.0 / 3 + 0 + 1) / 5);
    for (int i = 0; i < 6; i++) {
        near(each[i].precision, want[i][0]);
        near(each[i].recall, want[i][1]);
        near(each[i].f1, want[i][2]);
    }
    assert_int_equal(each[3].predicted, 1);
    assert_int_equal(each[3].support, 0);
    const struct class_totals none = class_scores((int64_t[]){0, 0, 0, 0}, 2, each);
    near(none.accuracy + none.macro_f1, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_collect),   cmocka_unit_test(test_given), cmocka_unit_test(test_rows_last),
                                       cmocka_unit_test(test_rows_first), cmocka_unit_test(test_scores)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
