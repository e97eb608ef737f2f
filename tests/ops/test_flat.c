/* Flat arenas: sums that do not depend on the number of threads, finding non-finite values, and AdamW against 100 steps
 * of torch.optim.AdamW (fixture and its maker: tests/golden/make/adamw.py). */
#include "core/backend.h"
#include "ops/adamw_fixture.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { ELEMS = 5, BIG = 1000003 };

/* adamw.py's gradient() */
static float gradient(int step, int i) {
    static const float scale[ELEMS] = {1, 0x1p-7f, 0x1p-24f, 16, 0};
    return (float)((step * 37 + i * 11) % 128 - 64) / 64 * scale[i];
}

static void near(const char *what, int step, const float *got, const float *want) {
    for (int i = 0; i < ELEMS; i++)
        if (!(fabs((double)got[i] - want[i]) <= 1e-6 * fabs((double)want[i])))
            fail_msg("%s[%d] after step %d: %.9g, torch has %.9g", what, i, step, (double)got[i], (double)want[i]);
}

/* grad_scale must act as if the gradient had been multiplied: the test halves the gradient and doubles it back. */
static void adamw_is_torchs(void **state) {
    (void)state;
    float p[ELEMS] = {1.0f, -0.5f, 0.25f, 2.0f, 0.75f}, m[ELEMS] = {0}, v[ELEMS] = {0}, g[ELEMS];
    struct adamw o = {.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .grad_scale = 2};
    struct adamw_state s = {p, m, v, g};
    size_t at = 0, rows = sizeof adamw_golden / sizeof *adamw_golden;
    for (o.t = 1; o.t <= 100; o.t++) {
        for (int i = 0; i < ELEMS; i++) g[i] = gradient((int)o.t, i) / 2;
        flat_adamw(&o, &s, ELEMS, 2);
        if (at == rows || adamw_golden[at].step != o.t) continue;
        near("p", (int)o.t, p, adamw_golden[at++].x);
        near("m", (int)o.t, m, adamw_golden[at++].x);
        near("v", (int)o.t, v, adamw_golden[at++].x);
    }
    assert_int_equal(at, rows);
}

static float *numbers(int64_t n) {
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)((i * 7919) % 2003 - 1001) / 512;
    return x;
}

static void sums_do_not_depend_on_threads(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 15, 16384, 16385, BIG};
    float *x = numbers(BIG);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        double plain = 0, one = flat_sumsq(x, sizes[k], 1);
        for (int64_t i = 0; i < sizes[k]; i++) plain += (double)x[i] * x[i]; /* exact: multiples of 2^-18 */
        assert_true(one == plain);
        for (int threads = 2; threads < 5; threads++) assert_true(flat_sumsq(x, sizes[k], threads) == one);
    }
    free(x);
}

static void adamw_does_not_depend_on_threads(void **state) {
    (void)state;
    float *x[2][4];
    for (int k = 0; k < 8; k++) x[k / 4][k % 4] = numbers(BIG);
    struct adamw o = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .t = 3, .grad_scale = 0.5f};
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < BIG; i++) x[k][2][i] *= x[k][2][i]; /* v is not negative */
        flat_adamw(&o, &(struct adamw_state){x[k][0], x[k][1], x[k][2], x[k][3]}, BIG, 1 + 2 * k);
    }
    for (int k = 0; k < 3; k++) assert_memory_equal(x[0][k], x[1][k], BIG * sizeof(float));
    for (int k = 0; k < 8; k++) free(x[k / 4][k % 4]);
}

static void non_finite_values_are_found(void **state) {
    (void)state;
    float *x = numbers(BIG);
    static const int64_t places[] = {0, 1, 16383, 16384, BIG - 1};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    assert_true(flat_finite(x, BIG, 2));
    assert_true(flat_finite(x, 0, 2));
    for (size_t k = 0; k < sizeof places / sizeof *places; k++)
        for (int b = 0; b < 3; b++) {
            float keep = x[places[k]];
            x[places[k]] = bad[b];
            assert_false(flat_finite(x, BIG, 2));
            x[places[k]] = keep;
        }
    x[5] = 3.4e38f;
    x[6] = 1e-45f;
    assert_true(flat_finite(x, BIG, 1));
    x[5] = NAN;
    assert_true(isnan(flat_sumsq(x, BIG, 2)));
    free(x);
}

/* Two steps of AdaLoRA's importance, told anew, whatever the threads. */
static void importance(void **state) {
    (void)state;
    enum { N = BIG - 1 };
    float *p = calloc(N, 4), *g = calloc(N, 4), *mean = calloc(N, 4), *spread = calloc(N, 4);
    const struct importance o = {.beta1 = 0.75, .beta2 = 0.5, .grad_scale = 0.25f};
    for (int i = 0; i < N; i++) p[i] = (float)(i % 7 - 3), g[i] = (float)(i % 5 - 2);
    for (int step = 1; step <= 2; step++) flat_importance(&o, &(struct importance_state){p, g, mean, spread}, N, step);
    for (int i = 0; i < N; i++) {
        const double c = fabs(p[i] * 0.25 * g[i]), m1 = 0.25 * c, m2 = 0.75 * m1 + 0.25 * c, s1 = 0.5 * fabs(c - m1), s2 = 0.5 * s1 + 0.5 * fabs(c - m2);
        assert_true(fabs(mean[i] - m2) <= 1e-6 * m2 && fabs(spread[i] - s2) <= 1e-6 * s2);
    }
    free(p), free(g), free(mean), free(spread);
}

static double orthogonality(const struct orthogonal *o, const float *v) {
    double squares = 0;
    for (int i = 0; i < o->n; i++)
        for (int j = 0; j < o->n; j++) {
            double sum = -(i == j);
            for (int64_t l = 0; l < o->length; l++) sum += (double)v[i * o->across + l * o->along] * v[j * o->across + l * o->along];
            squares += sum * sum;
        }
    return o->weight * sqrt(squares);
}

/* Rows, then columns: finite differences; added to what is there; and nothing where all is orthonormal already. */
static void orthogonal(void **state) {
    (void)state;
    for (int columns = 0; columns < 2; columns++) {
        const struct orthogonal o = {3, 5, columns ? 1 : 5, columns ? 3 : 1, 0.7};
        float v[15], grad[15], unit[15] = {0};
        for (int i = 0; i < 15; i++) v[i] = (float)((i * 11) % 13 - 6) / 8, grad[i] = 2;
        assert_int_equal(flat_orthogonal(&o, v, grad, 2), OK);
        for (int i = 0; i < 15; i++) {
            const float kept = v[i], h = 1e-3f;
            v[i] = kept + h;
            const double up = orthogonality(&o, v);
            v[i] = kept - h;
            const double slope = (up - orthogonality(&o, v)) / (2 * (double)h);
            v[i] = kept;
            assert_true(fabs(grad[i] - 2 - slope) < 1e-3);
        }
        for (int i = 0; i < 3; i++) unit[i * o.across + i * o.along] = 1;
        memset(grad, 0, sizeof grad);
        assert_int_equal(flat_orthogonal(&o, unit, grad, 1), OK);
        for (int i = 0; i < 15; i++) assert_true(grad[i] == 0);
    }
}

/* Which way is a function of key, step and place, and of nothing else; the mean of many roundings is the number; what bf16 holds stays, and so
 * does what is not finite. */
static void at_random(void **state) {
    (void)state;
    enum { N = 40000, STEPS = 64 };
    const struct flat_ops *flat = backend_cpu.flat;
    static const float list[] = {1 + 0x1p-10f, -3.14159f, 1e-3f, 3.3e-20f, 1, -0.5f, 0, INFINITY, -INFINITY, NAN};
    enum { KINDS = sizeof list / sizeof *list, EXACT = 4, FINITE = 7 };
    float *x = malloc(N * sizeof *x), *back = malloc(N * sizeof *back);
    uint16_t *to = malloc(N * sizeof *to), *again = malloc(N * sizeof *again);
    double sum[KINDS] = {0}, other = 0;
    for (int i = 0; i < N; i++) x[i] = list[i % KINDS];
    for (uint64_t step = 0; step < STEPS; step++) {
        assert_int_equal(flat->round(&(struct rounding){7, step, 16}, x, to, N, 2), OK);
        assert_int_equal(flat->widen(to, back, N, 2), OK);
        for (int i = 0; i < N; i++) {
            const int k = i % KINDS;
            if (k < EXACT) sum[k] += (double)back[i];
            else if (k < FINITE) assert_true(back[i] == x[i]);
            else assert_true(k == KINDS - 1 ? isnan(back[i]) : back[i] == x[i]);
        }
        for (int from = 0; from < N; from += 16 * 131) { /* in pieces, on one thread */
            const int n = N - from < 16 * 131 ? N - from : 16 * 131;
            assert_int_equal(flat->round(&(struct rounding){7, step, (uint64_t)(16 + from)}, x + from, again + from, n, 1), OK);
        }
        assert_memory_equal(to, again, N * sizeof *to);
        assert_int_equal(flat->round(&(struct rounding){7, step + 1, 16}, x, again, N, 2), OK);
        for (int i = 0; i < N; i++) other += to[i] != again[i];
    }
    for (int k = 0; k < EXACT; k++) { /* a rounding is off by less than 2^-7 of the number: five standard deviations of the mean */
        const double n = (double)N / KINDS * STEPS, off = fabs(sum[k] / n - (double)list[k]);
        assert_true(off <= 5 * 0.5 * 0x1p-7 * fabs((double)list[k]) / sqrt(n));
    }
    assert_true(other > 0.03 * N * STEPS);
    free(x), free(back), free(to), free(again);
}

static void scale_and_zero(void **state) {
    (void)state;
    float *x = numbers(BIG), *y = numbers(BIG);
    flat_scale(x, 3, BIG - 1, 2);
    for (int64_t i = 0; i < BIG - 1; i++) assert_true(x[i] == 3 * y[i]);
    assert_true(x[BIG - 1] == y[BIG - 1]);
    flat_zero(x, BIG - 1, 2);
    for (int64_t i = 0; i < BIG - 1; i++) assert_true(x[i] == 0);
    assert_true(x[BIG - 1] == y[BIG - 1]);
    free(x);
    free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_is_torchs),
        cmocka_unit_test(adamw_does_not_depend_on_threads),
        cmocka_unit_test(sums_do_not_depend_on_threads),
        cmocka_unit_test(non_finite_values_are_found),
        cmocka_unit_test(at_random),
        cmocka_unit_test(scale_and_zero), cmocka_unit_test(importance), cmocka_unit_test(orthogonal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
