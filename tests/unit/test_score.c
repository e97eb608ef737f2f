/* Scores against those of sacrebleu, rouge-score, seqeval and nervaluate, over lines that they wrote down (tests/golden/make/score.py):
 * awkward single lines, small corpora and the whole. Lists of items are read as they were written, whatever they hold. Then what the
 * packages cannot be asked: bytes that are not UTF-8, references that are no lists, no lines at all. */
#include "base/philox.h"
#include "data/listing.h"
#include "data/metrics.h"
#include "data/questions.h"
#include "data/score.h"
#include "fuzz/fuzz_listing.c"
#include "fuzz/replay.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { MAX_LINES = 1000 };
static const char *hyp[MAX_LINES], *ref[MAX_LINES];
static json_t *lines[MAX_LINES];

/* Every score of a case that has a metric's name. */
static int check_case(const json_t *c, const char *const *names, const char *const *keys, int n_names) {
    const int first = (int)json_integer_value(json_object_get(c, "first")), n = (int)json_integer_value(json_object_get(c, "n"));
    const struct scored in = {hyp + first, ref + first, n};
    double got[8];
    assert_int_equal(metrics_score(names, n_names, &in, got), OK);
    for (int i = 0; i < n_names; i++) {
        const double want = json_number_value(json_object_get(c, keys[i]));
        if (!(fabs(got[i] - want) <= 1e-9 * (1 + fabs(want))))
            fail_msg("%s of %d lines from %d: %.12f, not %.12f", names[i], n, first, got[i], want);
    }
    return n_names;
}

static void take(const json_t *o, int i) {
    hyp[i] = json_string_value(json_object_get(o, "hyp"));
    ref[i] = json_string_value(json_object_get(o, "ref"));
}

static void same_as_sacrebleu_and_rouge_score(void **state) {
    (void)state;
    static const char *const names[] = {"ter", "bleu", "exact", "chrf++", "rougeL", "chrf"}, *const keys[] = {"ter",     "bleu",   "exact",
                                                                                                              "chrf_pp", "rougeL", "chrf"};
    FILE *f = fopen("tests/golden/score/lines.jsonl", "r");
    assert_non_null(f);
    int n = 0;
    for (; n < MAX_LINES && (lines[n] = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL)); n++) take(lines[n], n);
    fclose(f);
    json_t *all = json_load_file("tests/golden/score/expected.json", 0, NULL), *c;
    assert_int_equal(n, json_integer_value(json_object_get(all, "lines")));
    assert_true(n >= 300);
    size_t i;
    json_array_foreach(json_object_get(all, "cases"), i, c) check_case(c, names, keys, 6);
    assert_true(i > 100);
    json_decref(all);
    for (i = 0; i < (size_t)n; i++) json_decref(lines[i]);
}

static void same_as_seqeval_and_nervaluate(void **state) {
    (void)state;
    static const char *const names[] = {"entity_f1", "entity_f1_partial"};
    json_t *all = json_load_file("tests/golden/score/items.json", 0, NULL), *o;
    size_t i;
    json_array_foreach(json_object_get(all, "rows"), i, o) take(o, (int)i);
    json_array_foreach(json_object_get(all, "cases"), i, o) check_case(o, names, names, 2);
    assert_true(i > 20);
    json_decref(all);
}

static double one(const char *name, const char *h, const char *r) {
    double got = -1;
    assert_int_equal(metrics_score(&name, 1, &(struct scored){&h, &r, 1}, &got), OK);
    return got;
}

/* By hand: sets, a part that differs, items that cannot be read, and a mention said as often as it is. */
static void items_by_hand(void **state) {
    (void)state;
    assert_float_equal(one("triple_f1", "a | b | c && a | b | c", "a | b | c"), 100, 1e-9);
    assert_float_equal(one("triple_f1", "a | b | d && x | y | z", "x | y | z && a | b | c"), 50, 1e-9);
    assert_float_equal(one("triple_f1", "a | b", "a | b | c"), 0, 0);
    assert_float_equal(one("triple_f1", "", "a | b | c"), 0, 0);
    assert_float_equal(one("entity_f1", "LOC: x | LOC: x", "LOC: x"), 200 / 3.0, 1e-9);
    assert_float_equal(one("entity_f1", "LOC: x | and so on", "LOC: x"), 200 / 3.0, 1e-9);
    assert_float_equal(one("entity_f1_partial", "PER: x y", "LOC: y z | LOC: x y"), 200 / 3.0, 1e-9);
    assert_float_equal(one("entity_f1", "none", "none"), 0, 0);
}

/* Fields of what separators, escapes and white space are made of, and of what lies beside them. */
static void add_hostile_item(struct listing *l, const struct listing_form *form, uint64_t seed) {
    static const char *const bits[] = {"|",  ":",  "&",  "&&",   " ",    " ",  "\\",  "n",    "s",        "e", "x41",          "\n",
                                       "\t", "\r", "\v", "\x7f", "none", ": ", " | ", " && ", "\xC3\xA9", "a", "\xE2\x80\xA8", "\""};
    struct item item = {form->fields, {0}};
    char text[ITEM_FIELDS][64] = {""};
    for (int k = 0; k < form->fields; k++) {
        const struct philox r = philox(seed, (uint32_t)k, 0, 0, 0);
        for (uint32_t n = r.v[0] % 6, at = r.v[1]; n; n--, at = at * 1664525u + 1013904223u)
            strcat(text[k], bits[(at >> 8) % (sizeof bits / sizeof *bits)]);
        item.field[k] = text[k];
    }
    assert_int_equal(listing_add(l, &item), OK);
}

static void lists_are_read_as_they_were_written(void **state) {
    (void)state;
    const struct listing_form *const forms[] = {&listing_entities, &listing_triples};
    for (uint64_t i = 0; i < 40000; i++) {
        const struct listing_form *form = forms[i & 1];
        struct listing l = {0}, back = {0};
        str text = {0};
        for (uint64_t k = 0; k < i / 2 % 4; k++) add_hostile_item(&l, form, 8 * i + k);
        listing_render(form, &l, &text);
        assert_null(strpbrk(text.p, "\n\r\t"));
        assert_true(text.p[0] != ' ' && text.p[text.n - 1] != ' ');
        assert_int_equal(listing_parse(form, text.p, &back), OK);
        bool same = back.n == l.n;
        for (int k = 0; k < l.n && same; k++) same = item_equal(&l.v[k], &back.v[k]);
        if (!same) fail_msg("read otherwise than it was written: <%s>", text.p);
        str_free(&text);
        listing_free(&l);
        listing_free(&back);
    }
}

/* Whatever a model writes can be read, and is itself again when it is written and read once more (fuzz_listing.c). */
static void any_text_is_a_list(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/listing", LLVMFuzzerTestOneInput, replay_changed, 200, NULL, 3);
    for (uint64_t i = 0; i < 20000; i++) {
        struct listing raw = {0};
        str garbage = {0};
        add_hostile_item(&raw, &listing_triples, 5 * i + 3);
        str_addc(&garbage, i & 1 ? 'e' : 't');
        for (int k = 0; k < 3; k++) str_addf(&garbage, "%s%s", raw.v[0].field[k], k == 1 ? i & 1 ? ": " : " | " : "");
        LLVMFuzzerTestOneInput((const uint8_t *)garbage.p, garbage.n);
        str_free(&garbage);
        listing_free(&raw);
    }
}

static void plain_texts_stay_as_they_are(void **state) {
    (void)state;
    struct listing l = {0};
    str text = {0};
    assert_int_equal(listing_parse(&listing_entities, "  ORG: AT&T|x  |TIME: 12:30 | WORK:  Star Wars: A New Hope |  ", &l), OK);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.v[0].field[1], "AT&T|x  |TIME: 12:30");
    assert_string_equal(l.v[1].field[1], "Star Wars: A New Hope");
    listing_render(&listing_entities, &l, &text);
    assert_string_equal(text.p, "ORG: AT&T|x  |TIME: 12:30 | WORK: Star Wars: A New Hope");
    str_free(&text);
    listing_free(&l);
}

static void malformed_bytes_count_as_replacement(void **state) {
    (void)state;
    const char *h[] = {"caf\xC3", "\xFF\xFE ok"}, *r[] = {"caf\xEF\xBF\xBD", "\xEF\xBF\xBD\xEF\xBF\xBD ok"};
    struct scores s;
    assert_int_equal(score_texts(h, r, 2, &s), OK);
    assert_float_equal(s.chrf, 100, 1e-9);
    assert_float_equal(s.exact, 0, 0);
    assert_float_equal(one("ter", h[0], r[0]), 0, 0);
}

static void refused(void **state) {
    (void)state;
    struct scores s;
    double got;
    const char *name = "chrff", *h = "a | b | c", *bad = "a | b";
    assert_int_equal(score_texts(hyp, ref, 0, &s), E_USAGE);
    assert_int_equal(metrics_score(&name, 1, &(struct scored){&h, &h, 1}, &got), E_USAGE);
    assert_non_null(strstr(err_text(), "did you mean 'chrf'"));
    name = "triple_f1";
    assert_int_equal(metrics_score(&name, 1, &(struct scored){&h, &h, 0}, &got), E_USAGE);
    assert_int_equal(metrics_score(&name, 1, &(struct scored){&h, &bad, 1}, &got), E_INPUT);
    assert_non_null(strstr(err_text(), "reference 1 is no list of triples (\"a | b\")"));
}

/* By hand: words in a row, without case, punctuation and articles; what abstains; a right answer goes before it. */
static void answers(void **state) {
    (void)state;
    static const char *const wanted[] = {"The Blue Nile", "Nil Bl\xC3\xA4u"}, *const abstains[] = {"I don't know", "cannot answer"};
    static const struct {
        const char *said;
        enum answered is;
    } cases[] = {{"It is the blue nile.", ANSWERED_RIGHT},
                 {"BLUE, a NILE!", ANSWERED_RIGHT},
                 {"nil-BL\xC3\x84U", ANSWERED_RIGHT},
                 {"I don\xE2\x80\x99t know; perhaps the Blue Nile", ANSWERED_RIGHT},
                 {"Well, i DONT know.", ANSWERED_NOT},
                 {"I cannot answer that.", ANSWERED_NOT},
                 {"The Blue Niles", ANSWERED_WRONG},
                 {"blue white nile", ANSWERED_WRONG},
                 {"I do know: an answer", ANSWERED_WRONG},
                 {"", ANSWERED_WRONG},
                 {"\xFF a", ANSWERED_WRONG}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum answered got;
        assert_int_equal(answer_judge(cases[i].said, (struct phrases){wanted, 2}, (struct phrases){abstains, 2}, &got), OK);
        if (got != cases[i].is) fail_msg("\"%s\" is %d, not %d", cases[i].said, got, cases[i].is);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_sacrebleu_and_rouge_score),
                                       cmocka_unit_test(answers),
                                       cmocka_unit_test(same_as_seqeval_and_nervaluate),
                                       cmocka_unit_test(items_by_hand),
                                       cmocka_unit_test(lists_are_read_as_they_were_written),
                                       cmocka_unit_test(any_text_is_a_list),
                                       cmocka_unit_test(plain_texts_stay_as_they_are),
                                       cmocka_unit_test(malformed_bytes_count_as_replacement),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
