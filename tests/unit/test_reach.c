/* Which tensors never learn (src/train/reach.h): a start at zero is explained until something has moved, a tensor that stays at zero is named,
 * one that waits for its ids is not an error. */
#include "support/support.h"
#include "base/log.h"
#include "train/reach.h"

static char said[512];
static void hear(void *ctx, enum log_level level, const char *line) { (void)ctx, (void)level, snprintf(said, sizeof said, "%s", line); }

/* A group's A of two files' tensors, a B, and the rows of some ids. */
struct bed {
    struct param_set set;
    float *grad;
    struct reach reach;
};

static float *at(const struct bed *b, int param, int row) { return b->grad + b->set.p[param].off / 4 + row * b->set.p[param].d[1]; }

static struct bed make_bed(void) {
    struct bed b = {0};
    const struct param_slice a[] = {{.name = "q.lora_A.weight", .rows = 2}, {.name = "k.lora_A.weight", .row0 = 2, .rows = 2}}, one[] = {{.name = "q.lora_B.weight", .rows = 5}}, rows[] = {{.name = "tokens", .rows = 3}};
    param_get(&b.set, "q+k.lora_A", 2, (int64_t[]){4, 3}, INIT_ZERO, 0, a, 2);
    param_get(&b.set, "q.lora_B", 2, (int64_t[]){5, 2}, INIT_ZERO, 0, one, 1);
    param_occasional(&b.set, param_get(&b.set, "token rows", 2, (int64_t[]){3, 3}, INIT_ZERO, 0, rows, 1));
    param_seal(&b.set);
    b.grad = calloc(b.set.bytes, 1);
    *said = 0;
    return b;
}

static void drop(struct bed *b) {
    reach_free(&b->reach);
    param_free(&b->set);
    free(b->grad);
}

static err look(struct bed *b) { return reach_check(&b->reach, &(struct reaching){&b->set, &backend_cpu, 1, "B"}, b->grad); }

/* Zero at first, not after the others moved. A step that moves nothing (a learning rate of zero) proves nothing. */
static void test_start(void **state) {
    (void)state;
    struct bed b = make_bed();
    *at(&b, 1, 4) = 1;
    must(look(&b));
    must(look(&b));
    b.reach.moved = true;
    *at(&b, 0, 1) = *at(&b, 0, 3) = -1e-30f, *at(&b, 2, 2) = 3;
    must(look(&b));
    assert_true(b.reach.done && !*said);
    memset(b.grad, 0, b.set.bytes); /* nothing is looked at any more */
    must(look(&b));
    drop(&b);
}

/* Half of a group is a tensor of its own; the other half, and what waits for its ids, are not blamed. */
static void test_dead(void **state) {
    (void)state;
    struct bed b = make_bed();
    *at(&b, 1, 0) = *at(&b, 0, 0) = 1;
    must(look(&b));
    b.reach.moved = true;
    assert_int_equal(look(&b), E_NUMERIC);
    assert_non_null(strstr(err_text(), "no gradient has reached B: k.lora_A.weight of the adapter in the first steps"));
    drop(&b);
}

/* Seen once is seen: a batch may leave a tensor out. */
static void test_seen(void **state) {
    (void)state;
    struct bed b = make_bed();
    for (int i = 0; i < 4; i++) *at(&b, 0, i) = 1;
    *at(&b, 1, 0) = NAN; /* of an overflow: no zero */
    must(look(&b));
    b.reach.moved = true;
    memset(b.grad, 0, b.set.bytes);
    log_set(hear, NULL);
    must(look(&b));
    assert_non_null(strstr(said, "the rows of the first 2 steps did not reach B: tokens ("));
    drop(&b);
}

/* Nothing at all needs no second step; but nothing of what waits is no error. */
static void test_nothing(void **state) {
    (void)state;
    struct bed b = make_bed();
    assert_int_equal(look(&b), E_NUMERIC);
    assert_non_null(strstr(err_text(), "q.lora_A.weight, k.lora_A.weight, q.lora_B.weight of the adapter in the first step:"));
    drop(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_start), cmocka_unit_test(test_dead), cmocka_unit_test(test_seen), cmocka_unit_test(test_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
