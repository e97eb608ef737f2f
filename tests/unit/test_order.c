/* Orders: permutations, different per epoch, seed and stream, unbiased, resumable at any cursor. */
#include "data/order.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void take(struct order *o, int *out, int n) {
    for (int i = 0; i < n; i++) out[i] = order_next(o);
}

static void each_epoch_is_a_permutation(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 3, 7, 64, 1009};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct order o;
        assert_int_equal(order_init(&o, sizes[k], 7, 0, true), OK);
        for (int e = 0; e < 3; e++) {
            char seen[1009] = {0};
            for (int i = 0; i < o.n; i++) {
                int at = order_next(&o);
                assert_in_range(at, 0, o.n - 1);
                assert_int_equal(seen[at]++, 0);
            }
            assert_int_equal(o.epoch, e);
            assert_int_equal(o.index, o.n);
        }
        order_free(&o);
    }
}

static void depends_on_seed_stream_and_epoch(void **state) {
    (void)state;
    struct order a, b;
    int x[50], y[50];
    const struct {
        uint64_t seed;
        uint32_t stream;
        int64_t epoch;
    } other[] = {{8, 0, 0}, {7, 1, 0}, {7, 0, 1}, {7, 0, (int64_t)1 << 32}, {7 + ((uint64_t)1 << 32), 0, 0}};
    assert_int_equal(order_init(&a, 50, 7, 0, true), OK);
    take(&a, x, 50);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        assert_int_equal(order_init(&b, 50, other[i].seed, other[i].stream, true), OK);
        assert_int_equal(order_seek(&b, other[i].epoch, 0), OK);
        take(&b, y, 50);
        assert_memory_not_equal(x, y, sizeof x);
        order_free(&b);
    }
    assert_int_equal(order_init(&b, 50, 7, 0, true), OK);
    take(&b, y, 50);
    assert_memory_equal(x, y, sizeof x);
    order_free(&b);
    order_free(&a);
}

static void resumes_at_every_cursor(void **state) {
    (void)state;
    struct order a, b;
    int x[35], y;
    assert_int_equal(order_init(&a, 11, 3, 1, true), OK);
    take(&a, x, 35);
    assert_int_equal(order_seek(&a, 0, 0), OK);
    for (int i = 0; i < 34; i++) {
        assert_int_equal(order_next(&a), x[i]);
        assert_int_equal(order_init(&b, 11, 3, 1, true), OK);
        assert_int_equal(order_seek(&b, a.epoch, a.index), OK);
        y = order_next(&b);
        assert_int_equal(y, x[i + 1]);
        order_free(&b);
    }
    order_free(&a);
}

static void unshuffled_is_file_order(void **state) {
    (void)state;
    struct order o;
    assert_int_equal(order_init(&o, 4, 9, 0, false), OK);
    for (int i = 0; i < 12; i++) assert_int_equal(order_next(&o), i % 4);
    order_free(&o);
}

/* All 24 orders of four samples over 24,000 epochs: chi-square with 23 degrees of freedom, 99.999 % quantile 63.6. */
static void every_order_is_equally_likely(void **state) {
    (void)state;
    enum { EPOCHS = 24000 };
    struct order o;
    int count[256] = {0};
    double chi = 0;
    assert_int_equal(order_init(&o, 4, 1, 0, true), OK);
    for (int e = 0; e < EPOCHS; e++) {
        int p[4];
        take(&o, p, 4);
        count[p[0] << 6 | p[1] << 4 | p[2] << 2 | p[3]]++;
    }
    int kinds = 0;
    for (int i = 0; i < 256; i++) {
        if (!count[i]) continue;
        double d = count[i] - EPOCHS / 24.0;
        chi += d * d / (EPOCHS / 24.0);
        kinds++;
    }
    assert_int_equal(kinds, 24);
    assert_true(chi < 63.6);
    order_free(&o);
}

/* Weights 1, 2 and 0.4: in every epoch each sample of the first once, of the second twice; of the third 4 of 10, and in
 * five epochs each of them twice. The parts' own samples, and any cursor resumes. */
static void parts_have_weights(void **state) {
    (void)state;
    const struct order_part parts[] = {{0, 7, 7}, {7, 5, 10}, {12, 10, 4}};
    struct order o, b;
    int count[22] = {0};
    assert_int_equal(order_init_parts(&o, parts, 3, 5, 0, true), OK);
    assert_int_equal(o.n, 21);
    for (int e = 0; e < 5; e++) {
        int here[22] = {0};
        for (int i = 0; i < 21; i++) {
            assert_int_equal(order_init_parts(&b, parts, 3, 5, 0, true), OK);
            assert_int_equal(order_seek(&b, o.epoch, o.index), OK);
            int k = order_next(&o);
            assert_int_equal(order_next(&b), k);
            order_free(&b);
            assert_in_range(k, 0, 21);
            here[k]++;
            count[k]++;
        }
        for (int k = 0; k < 12; k++) assert_int_equal(here[k], k < 7 ? 1 : 2);
        for (int k = 12; k < 22; k++) assert_true(here[k] < 2);
    }
    for (int k = 12; k < 22; k++) assert_int_equal(count[k], 2);
    order_free(&o);
}

static void parts_without_weights_are_one(void **state) {
    (void)state;
    const struct order_part parts[] = {{0, 7, 7}, {7, 5, 5}};
    struct order a, b;
    assert_int_equal(order_init_parts(&a, parts, 2, 5, 3, true), OK);
    assert_int_equal(order_init(&b, 12, 5, 3, true), OK);
    for (int i = 0; i < 40; i++) assert_int_equal(order_next(&a), order_next(&b));
    order_free(&a);
    order_free(&b);
    assert_int_equal(order_init_parts(&a, (const struct order_part[]){{0, 5, 2000000000}, {5, 5, 2000000000}}, 2, 1, 0, true), E_INPUT);
    assert_non_null(strstr(err_text(), "4000000000 samples"));
}

static void refuses_what_does_not_fit(void **state) {
    (void)state;
    struct order o;
    assert_int_equal(order_init(&o, 0, 1, 0, true), E_INPUT);
    assert_int_equal(order_init(&o, 5, 1, 0, true), OK);
    assert_int_equal(order_seek(&o, 2, 5), OK);
    assert_int_equal(order_seek(&o, 0, 6), E_INPUT);
    assert_non_null(strstr(err_text(), "5 samples"));
    assert_int_equal(order_seek(&o, -1, 0), E_INPUT);
    assert_int_equal(order_seek(&o, 0, -1), E_INPUT);
    order_next(&o); /* a refused cursor leaves the old one */
    assert_int_equal(o.epoch, 3);
    order_free(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_epoch_is_a_permutation),   cmocka_unit_test(depends_on_seed_stream_and_epoch),
        cmocka_unit_test(resumes_at_every_cursor),       cmocka_unit_test(unshuffled_is_file_order),
        cmocka_unit_test(every_order_is_equally_likely), cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(parts_have_weights),            cmocka_unit_test(parts_without_weights_are_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
