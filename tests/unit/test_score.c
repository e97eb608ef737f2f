/* Scores against sacrebleu's, over lines that it wrote down (tests/golden/make/score.py): awkward single lines, small
 * corpora and the whole. Then what sacrebleu cannot be asked: bytes that are not UTF-8, and no lines at all. */
#include "data/score.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MAX_LINES = 1000 };
static const char *hyp[MAX_LINES], *ref[MAX_LINES];
static json_t *lines[MAX_LINES];

static void close_to(const char *what, int first, int n, double got, double want) {
    if (fabs(got - want) <= 1e-9 * (1 + fabs(want))) return;
    fail_msg("%s of %d lines from %d: %.12f, sacrebleu says %.12f", what, n, first, got, want);
}

static void same_as_sacrebleu(void **state) {
    (void)state;
    FILE *f = fopen("tests/golden/score/lines.jsonl", "r");
    assert_non_null(f);
    int n = 0;
    for (; n < MAX_LINES && (lines[n] = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL)); n++) {
        hyp[n] = json_string_value(json_object_get(lines[n], "hyp"));
        ref[n] = json_string_value(json_object_get(lines[n], "ref"));
    }
    fclose(f);
    json_t *all = json_load_file("tests/golden/score/expected.json", 0, NULL), *c;
    assert_int_equal(n, json_integer_value(json_object_get(all, "lines")));
    assert_true(n >= 200);
    size_t i;
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        int first = (int)json_integer_value(json_object_get(c, "first"));
        int many = (int)json_integer_value(json_object_get(c, "n"));
        struct scores s;
        assert_int_equal(score_texts(hyp + first, ref + first, many, &s), OK);
        close_to("bleu", first, many, s.bleu, json_number_value(json_object_get(c, "bleu")));
        close_to("chrf", first, many, s.chrf, json_number_value(json_object_get(c, "chrf")));
        close_to("chrf++", first, many, s.chrf_pp, json_number_value(json_object_get(c, "chrf_pp")));
        close_to("exact", first, many, s.exact, json_number_value(json_object_get(c, "exact")));
    }
    assert_true(i > 50);
    json_decref(all);
    for (i = 0; i < (size_t)n; i++) json_decref(lines[i]);
}

static void malformed_bytes_count_as_replacement(void **state) {
    (void)state;
    const char *h[] = {"caf\xC3", "\xFF\xFE ok"}, *r[] = {"caf\xEF\xBF\xBD", "\xEF\xBF\xBD\xEF\xBF\xBD ok"};
    struct scores s;
    assert_int_equal(score_texts(h, r, 2, &s), OK);
    assert_float_equal(s.chrf, 100, 1e-9);
    assert_float_equal(s.exact, 0, 0);
}

static void no_lines(void **state) {
    (void)state;
    struct scores s;
    assert_int_equal(score_texts(hyp, ref, 0, &s), E_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_sacrebleu),
                                       cmocka_unit_test(malformed_bytes_count_as_replacement),
                                       cmocka_unit_test(no_lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
