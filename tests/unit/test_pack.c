/* Packs laid out by hand: the shift of weights, restarting positions, bounds, refusals, and how rows split into passes.
 */
#include "data/pack.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

/* Row k: prompt 10k, 10k+1, ...; answer 100k, 100k+1, ... */
static void add(struct rows *r, int np, int na) {
    int32_t p[16], a[16];
    for (int i = 0; i < 16; i++) p[i] = 10 * r->n + i, a[i] = 100 * r->n + i;
    assert_int_equal(rows_add(r, p, (size_t)np, a, (size_t)na), OK);
}

#define SAME(got, ...) assert_memory_equal(got, ((int32_t[]){__VA_ARGS__}), sizeof((int32_t[]){__VA_ARGS__}))

static void three_rows(void **state) {
    (void)state;
    struct rows r = {0};
    struct pack p;
    add(&r, 1, 1);
    add(&r, 2, 3);
    add(&r, 1, 0);
    assert_int_equal(pack_init(&p, 8, 3), OK);
    for (int turn = 0; turn < 2; turn++) { /* a cleared pack is as good as a new one */
        for (int i = 0; i < 3; i++) assert_true(pack_row(&p, &r.r[i], 70 + i));
        assert_int_equal(p.n, 8);
        assert_int_equal(p.s, 3);
        SAME(p.ids, 0, 0, 10, 11, 100, 101, 102, 20);
        SAME(p.pos, 0, 1, 0, 1, 2, 3, 4, 0);
        SAME(p.label, 0, 0, 11, 100, 101, 102, 0, 0);
        SAME(p.sample, 70, 70, 71, 71, 71, 71, 71, 72);
        SAME(p.cu, 0, 2, 7, 8);
        SAME(p.last, 1, 6, 7);
        assert_memory_equal(p.weight, ((float[]){1, 0, 0, 1, 1, 1, 0, 0}), 8 * sizeof(float));
        assert_true(p.supervised == 4);
        pack_clear(&p);
        assert_true(p.n == 0 && p.s == 0 && p.supervised == 0);
    }
    pack_free(&p);
    rows_free(&r);
}

static void what_does_not_fit_changes_nothing(void **state) {
    (void)state;
    struct rows r = {0};
    struct pack p;
    add(&r, 2, 2);
    add(&r, 2, 3);
    assert_int_equal(pack_init(&p, 8, 9), OK);
    assert_true(pack_row(&p, &r.r[0], 0));
    assert_false(pack_row(&p, &r.r[1], 1)); /* nine tokens */
    assert_true(p.n == 4 && p.s == 1 && p.cu[1] == 4 && p.supervised == 2);
    assert_true(pack_row(&p, &r.r[0], 1));
    pack_free(&p);
    assert_int_equal(pack_init(&p, 100, 1), OK);
    assert_true(pack_row(&p, &r.r[0], 0));
    assert_false(pack_row(&p, &r.r[0], 1)); /* two sequences */
    assert_true(p.n == 4 && p.s == 1);
    pack_free(&p);
    rows_free(&r);
}

static void slack_is_a_sequence_of_no_weight(void **state) {
    (void)state;
    struct rows r = {0};
    struct pack p;
    add(&r, 1, 2);
    assert_int_equal(pack_init(&p, 8, 5), OK);
    assert_true(pack_row(&p, &r.r[0], 9));
    pack_pad(&p, 5, 4);
    assert_int_equal(p.n, 5);
    assert_int_equal(p.s, 4);
    SAME(p.pos, 0, 1, 2, 0, 1);
    SAME(p.cu, 0, 3, 5, 5, 5);
    SAME(p.last, 2, 4, 4, 4);
    assert_memory_equal(p.weight, ((float[]){1, 1, 0, 0, 0}), 5 * sizeof(float));
    assert_true(p.supervised == 2);
    pack_free(&p);
    rows_free(&r);
}

/* Before each row, at its first positions, without a weight; the rows' own labels and weights are what they were. */
static void virtual_tokens(void **state) {
    (void)state;
    struct rows r = {0};
    struct pack p;
    const struct row *row[2];
    int first[3];
    add(&r, 1, 2);
    add(&r, 1, 1);
    assert_int_equal(pack_init(&p, 9, 2), OK);
    p.virtual_tokens = 2;
    p.virtual_first = 500;
    assert_true(pack_row(&p, &r.r[0], 70));
    assert_true(pack_row(&p, &r.r[1], 71));
    SAME(p.ids, 500, 501, 0, 0, 1, 500, 501, 10, 100);
    SAME(p.pos, 0, 1, 2, 3, 4, 0, 1, 2, 3);
    SAME(p.label, 0, 0, 0, 1, 0, 0, 0, 100, 0);
    SAME(p.sample, 70, 70, 70, 70, 70, 71, 71, 71, 71);
    SAME(p.cu, 0, 5, 9);
    SAME(p.last, 4, 8);
    assert_memory_equal(p.weight, ((float[]){0, 0, 1, 1, 0, 0, 0, 1, 0}), 9 * sizeof(float));
    assert_true(p.supervised == 3);
    pack_clear(&p);
    assert_true(pack_row(&p, &r.r[0], 0));
    p.virtual_tokens = 3;
    assert_false(pack_row(&p, &r.r[1], 0)); /* two tokens, but ten with what stands before them */
    for (int i = 0; i < 2; i++) row[i] = &r.r[i];
    assert_int_equal(pack_plan(row, 2, 2, 9, 2, first), 1);
    assert_int_equal(pack_plan(row, 2, 3, 9, 2, first), 2);
    pack_free(&p);
    rows_free(&r);
}

static void passes(void **state) {
    (void)state;
    struct rows r = {0};
    static const int length[] = {3, 4, 1, 8, 2, 2, 2, 2};
    const struct row *row[8];
    int first[9];
    for (int i = 0; i < 8; i++) add(&r, 1, length[i] - 1);
    for (int i = 0; i < 8; i++) row[i] = &r.r[i];
    assert_int_equal(pack_plan(row, 8, 0, 8, 8, first), 3);
    SAME(first, 0, 3, 4, 8);
    assert_int_equal(pack_plan(row, 8, 0, 8, 3, first), 4);
    SAME(first, 0, 3, 4, 7, 8);
    assert_int_equal(pack_plan(row, 8, 0, 8, 1, first), 8);
    SAME(first, 0, 1, 2, 3, 4, 5, 6, 7, 8);
    assert_int_equal(pack_plan(row, 8, 0, 1000, 1000, first), 1);
    SAME(first, 0, 8);
    assert_int_equal(pack_plan(row, 0, 0, 8, 8, first), 0);
    SAME(first, 0);
    rows_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(three_rows),
                                       cmocka_unit_test(what_does_not_fit_changes_nothing),
                                       cmocka_unit_test(slack_is_a_sequence_of_no_weight), cmocka_unit_test(passes), cmocka_unit_test(virtual_tokens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
