/* The figures of health.c on texts whose values can be counted by hand, and the sketch against lengths that are known. */
#include "support/support.h"
#include "train/health.h"

#define TEXTS(...) ((struct texts_in){(const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)})

static double figure(const json_t *j, const char *name) {
    const json_t *v = json_object_get(j, name);
    if (!json_is_number(v)) flunk("%s is not there", name);
    return json_number_value(v);
}

static void near(const json_t *j, const char *name, double want) {
    if (fabs(figure(j, name) - want) > 1e-12) flunk("%s is %.15g, not %.15g", name, figure(j, name), want);
}

static json_t *health(const struct health_ask *ask) {
    json_t *j = json_object();
    must(health_texts(ask, j));
    return j;
}

static void test_counts(void **state) {
    (void)state;
    json_t *j = health(&(struct health_ask){.in = TEXTS("the cat sat down", "one two", "x", "y"),
                                            .out = TEXTS("the cat sat up now", "one two", " \n", "one two"),
                                            .wanted = TEXTS("the cat sat up", "one two", "x", "z"),
                                            .truncated = 1});
    near(j, "copy_rate", 0.25);
    near(j, "copy_wanted", 0.5);
    near(j, "copy_ngrams", 2.0 / 5); /* "the cat sat" of three trigrams; of two words the pair: one of two */
    near(j, "length_ratio", (18 + 7 + 2 + 7) / (16 + 7 + 1 + 1.0));
    near(j, "distinct_1", 7.0 / 9); /* the cat sat up now one two one two */
    near(j, "distinct_2", 5.0 / 6);
    near(j, "distinct_3", 1);
    near(j, "entropy", 5 / 9.0 * log2(9) + 4 / 9.0 * log2(4.5));
    near(j, "empty", 0.25);
    near(j, "truncated", 0.25);
    near(j, "most_common", 0.5);
    near(j, "most_common_input", 0.25);
    assert_null(json_object_get(j, "drift")); /* no real texts to compare with */
    json_decref(j);
}

/* Words are runs of letters and digits of any script that has spaces; of others each character is one. Broken bytes count as characters. */
static void test_words(void **state) {
    (void)state;
    json_t *j = health(&(struct health_ask){.in = TEXTS("", ""), .out = TEXTS("été дом42, дом42", "中文中\xff")});
    near(j, "distinct_1", 6.0 / 8); /* été дом42 , дом42; 中 文 中 and a broken byte */
    assert_null(json_object_get(j, "length_ratio"));
    json_decref(j);
    j = health(&(struct health_ask){.in = TEXTS("a"), .out = TEXTS("")});
    assert_null(json_object_get(j, "distinct_1"));
    near(j, "empty", 1);
    near(j, "copy_rate", 0);
    json_decref(j);
}

/* A side's own texts do not drift from each other; another alphabet is all there is to drift. */
static void test_drift(void **state) {
    (void)state;
    static char text[60][40];
    const char *v[60], *capitals[20];
    static char big[20][40];
    for (int i = 0; i < 60; i++) {
        for (int k = 0; k < 30; k++) text[i][k] = "aeioustr "[(i * 7 + k * k + k * (i % 5)) % 9];
        v[i] = text[i];
        if (i >= 20) continue;
        for (int k = 0; k < 30; k++) big[i][k] = text[i][k] == ' ' ? '.' : (char)(text[i][k] - 32);
        capitals[i] = big[i];
    }
    const struct texts_in real = {v, 60};
    json_t *own = health(&(struct health_ask){.in = {v + 20, 20}, .out = {v + 40, 20}, .real = real});
    json_t *other = health(&(struct health_ask){.in = {v + 20, 20}, .out = {capitals, 20}, .real = real});
    if (figure(own, "drift") > 0.05) flunk("own texts drift by %g bits", figure(own, "drift"));
    if (figure(other, "drift") < 0.8) flunk("capitals drift by %g bits alone", figure(other, "drift"));
    json_decref(own);
    json_decref(other);
}

/* Lengths and distances within a few standard deviations of sqrt(1 / (2 * 256)), whatever parts a vector comes in. */
static void test_sketch(void **state) {
    (void)state;
    enum { N = 20000 };
    static float x[N], y[N];
    double a[SKETCH] = {0}, b[SKETCH] = {0}, parts[SKETCH] = {0}, zero[SKETCH] = {0}, length = 0, apart = 0;
    for (int i = 0; i < N; i++) {
        x[i] = 1 + sinf((float)i), y[i] = x[i] + 1e-3f * cosf(3 * (float)i);
        length += (double)x[i] * (double)x[i], apart += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    }
    sketch_add(a, x, 0, N);
    sketch_add(b, y, 0, N);
    for (int i = 0; i < N; i += 7000) sketch_add(parts, x + i, i, N - i < 7000 ? N - i : 7000);
    assert_memory_equal(a, parts, sizeof a);
    const double off[2] = {sketch_distance(a, zero) / sqrt(length) - 1, sketch_distance(a, b) / sqrt(apart) - 1};
    for (int i = 0; i < 2; i++)
        if (fabs(off[i]) > 0.15) flunk("a length is off by %.1f %%", 100 * off[i]);
    assert_true(sketch_distance(a, a) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts), cmocka_unit_test(test_words), cmocka_unit_test(test_drift),
                                       cmocka_unit_test(test_sketch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
