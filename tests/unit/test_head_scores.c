/* Figures of heads: spans of tags against seqeval, predicted numbers against SciPy and scikit-learn (tests/golden/make/head_scores.py). */
#define _GNU_SOURCE
#include "data/number_score.h"
#include "data/span_score.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MOST = 64 };

static json_t *cases(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "tests/golden/head_scores/%s.json", name);
    json_t *j = json_load_file(path, 0, NULL);
    assert_true(json_array_size(j) > 3);
    return j;
}

static double number(const json_t *j, const char *key) { return json_number_value(json_object_get(j, key)); }

static int tags_of(const json_t *list, int32_t *to) {
    const int n = (int)json_array_size(list);
    assert_true(n <= MOST);
    for (int i = 0; i < n; i++) to[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return n;
}

static void test_spans(void **state) {
    (void)state;
    size_t c, i;
    json_t *all = cases("spans"), *j, *tag;
    json_array_foreach(all, c, j) {
        const char *names[MOST];
        struct span_counts counts = {0};
        const json_t *truth = json_object_get(j, "truth"), *said = json_object_get(j, "said"), *list = json_object_get(j, "names");
        json_array_foreach(list, i, tag) names[i] = json_string_value(tag);
        assert_true(spans_are_tagged(names, (int)json_array_size(list)));
        for (i = 0; i < json_array_size(truth); i++) {
            int32_t a[MOST], b[MOST];
            const int n = tags_of(json_array_get(truth, i), a);
            assert_int_equal(tags_of(json_array_get(said, i), b), n);
            spans_count(names, a, b, n, &counts);
        }
        const struct span_score s = spans_score(&counts);
        assert_int_equal(counts.truth, (int64_t)number(j, "spans"));
        assert_int_equal(counts.right, (int64_t)number(j, "right"));
        assert_true(fabs(s.precision - number(j, "precision")) < 1e-12);
        assert_true(fabs(s.recall - number(j, "recall")) < 1e-12);
        assert_true(fabs(s.f1 - number(j, "f1")) < 1e-12);
    }
    json_decref(all);
}

static void test_tags(void **state) {
    (void)state;
    assert_true(spans_are_tagged((const char *const[]){"O", "B-a"}, 2));
    assert_false(spans_are_tagged((const char *const[]){"O", "O"}, 1)); /* nothing to span */
    assert_false(spans_are_tagged((const char *const[]){"O", "B-"}, 2));
    assert_false(spans_are_tagged((const char *const[]){"NOUN", "VERB"}, 2));
    assert_false(spans_are_tagged((const char *const[]){"B-a", "Ob"}, 2));
    assert_false(spans_are_tagged((const char *const[]){"B-a", ""}, 2));
    struct span_counts none = {0};
    spans_count(NULL, NULL, NULL, 0, &none);
    assert_true(spans_score(&none).f1 == 0 && spans_score(&none).precision == 0);
}

static void test_numbers(void **state) {
    (void)state;
    size_t c, i;
    json_t *all = cases("numbers"), *j, *x;
    json_array_foreach(all, c, j) {
        float said[MOST], truth[MOST];
        struct number_score s;
        json_array_foreach(json_object_get(j, "said"), i, x) said[i] = (float)json_number_value(x);
        json_array_foreach(json_object_get(j, "truth"), i, x) truth[i] = (float)json_number_value(x);
        assert_int_equal(number_scores(said, truth, (int)i, &s), OK);
        assert_true(fabs(s.rmse - number(j, "rmse")) < 1e-9 && fabs(s.mae - number(j, "mae")) < 1e-9);
        assert_true(fabs(s.pearson - number(j, "pearson")) < 1e-9 && fabs(s.spearman - number(j, "spearman")) < 1e-9);
    }
    json_decref(all);
    struct number_score s;
    assert_int_equal(number_scores((float[]){1, 1, 1}, (float[]){1, 2, 3}, 3, &s), OK); /* what does not vary goes with nothing */
    assert_true(s.pearson == 0 && s.spearman == 0 && fabs(s.mae - 1) < 1e-12);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_spans), cmocka_unit_test(test_tags), cmocka_unit_test(test_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
