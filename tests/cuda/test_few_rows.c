/* Products of 1 to 16 rows with W as it is stored (cuda/matvec_quant.cu), in the shapes that the op sweep has no time for: several turns
 * of C, units of two tiles, the last unit and slice not whole, rows that start at no multiple of 16 bytes, groups of mixed types. Held
 * to the same products with x in f32, which are another kernel's and exact in the weights; twice, bit for bit. */
#include "cuda/cuda.h"
#include "support/support.h"
#include <math.h>

void random_blocks(dtype dt, void *p, int64_t n, float scale, uint32_t *rng);

enum { JOBS = 3, ROWS_MOST = 16 };
static const struct backend *card;
static int wrong;
static const dtype stored[] = {DT_Q4_0, DT_Q4_1, DT_Q5_0, DT_Q5_1, DT_Q8_0, DT_Q3_K, DT_Q4_K, DT_Q5_K, DT_Q6_K, DT_IQ4_NL, DT_IQ4_XS,
                               DT_NF4, DT_E4M3, DT_INT8, DT_NF4_DQ};
enum { STORED = sizeof stored / sizeof *stored };

/* In whole pieces of 16 bytes: of the last one the kernel copies what exists, but a memory checker counts all of it. */
static void *on_card(const void *host, size_t bytes) {
    void *p = card->mem->take((bytes + 15) / 16 * 16);
    assert_non_null(p);
    must(card->mem->upload(p, host, bytes));
    return p;
}

static uint16_t narrow(dtype dt, float v) { return dt == DT_BF16 ? f32_to_bf16(v) : f32_to_f16(v); }
static float widened(dtype dt, uint16_t v) { return dt == DT_BF16 ? bf16_to_f32(v) : f16_to_f32(v); }

static float uniform(uint32_t *s) {
    *s = *s * 1664525u + 1013904223u;
    return (float)(*s >> 8) * 0x1p-24f - 0.5f;
}

/* W [O, C] on the card: random blocks, or plain numbers of type dt. */
static void *matrix(dtype dt, int64_t O, int64_t C, uint32_t *rng) {
    const size_t row = dtype_row_bytes(dt, C);
    uint8_t *host = malloc(row * (size_t)O);
    if (dtype_quantised(dt)) {
        random_blocks(dt, host, C, 1, rng); /* random_blocks is slow: each row is the first one, turned by a few blocks */
        const size_t block = (size_t)dtype_info[dt].bytes, blocks = row / block;
        for (int64_t o = 1; o < O; o++)
            for (size_t b = 0; b < blocks; b++) memcpy(host + row * (size_t)o + b * block, host + (b * 7 + (size_t)o * 3) % blocks * block, block);
    } else
        for (int64_t i = 0; i < O * C; i++) ((uint16_t *)host)[i] = narrow(dt, uniform(rng));
    void *there = on_card(host, row * (size_t)O);
    free(host);
    return there;
}

struct group {
    dtype dt[JOBS];
    int64_t O[JOBS], C;
};

static void check(const struct group *g, dtype x_dt, int n) {
    uint32_t rng = 3;
    float *x = malloc((size_t)(n * g->C) * 4);
    uint16_t *x16 = malloc((size_t)(n * g->C) * 2);
    for (int64_t i = 0; i < n * g->C; i++) x16[i] = narrow(x_dt, uniform(&rng) + 0.25f), x[i] = widened(x_dt, x16[i]);
    void *x_card = on_card(x, (size_t)(n * g->C) * 4), *x16_card = on_card(x16, (size_t)(n * g->C) * 2);
    struct view w[JOBS];
    struct cuda_matvec m[3][JOBS]; /* exact, and twice */
    for (int k = 0; k < JOBS; k++) {
        const size_t bytes = (size_t)(n * g->O[k]) * 4;
        w[k] = (struct view){matrix(g->dt[k], g->O[k], g->C, &rng), g->dt[k], 2, {g->O[k], g->C}, g->C};
        for (int i = 0; i < 3; i++) {
            m[i][k] = (struct cuda_matvec){&w[k], NULL, i ? x16_card : x_card, i ? x_dt : DT_F32, DT_F32, n, g->C, g->O[k], card->mem->take(bytes), NULL, 0};
            assert_non_null(m[i][k].y);
        }
    }
    for (int i = 0; i < 3; i++) must(cuda_matvec(m[i], JOBS));
    for (int k = 0; k < JOBS; k++) {
        const size_t count = (size_t)(n * g->O[k]);
        float *y[3], size = 0, error = 0;
        for (int i = 0; i < 3; i++) y[i] = malloc(count * 4), must(card->mem->download(y[i], m[i][k].y, count * 4));
        assert_memory_equal(y[1], y[2], count * 4);
        for (size_t i = 0; i < count; i++) size = fmaxf(size, fabsf(y[0][i])), error = fmaxf(error, fabsf(y[1][i] - y[0][i]));
        /* NF4's codes are rounded to x's type, and bf16 has sums in excess (cuda/quants.cuh) */
        const bool nested = g->dt[k] == DT_NF4_DQ, nf4 = nested || g->dt[k] == DT_NF4;
        const float few = nested ? 2 : 1; /* with random indices a few blocks' scales are a hundred times the others': sums of few roundings */
        const float limit = x_dt == DT_BF16 ? (nf4 ? few * 4e-3f : 1e-4f) : nf4 ? few * 5e-4f : 2e-5f;
        if (!(error <= limit * size)) print_message("%s beside %s, %s, %d rows, C %lld: %g of %g apart\n", dtype_info[g->dt[k]].name, dtype_info[g->dt[0]].name, dtype_info[x_dt].name, n, (long long)g->C, error, size);
        wrong += !(error <= limit * size);
        for (int i = 0; i < 3; i++) free(y[i]), card->mem->give(m[i][k].y, count * 4);
        card->mem->give((void *)w[k].p, 0);
    }
    card->mem->give(x_card, 0), card->mem->give(x16_card, 0);
    free(x), free(x16);
}

/* A plain matrix of x's type and one of another stored type share x with each. */
static void test_shapes(void **state) {
    (void)state;
    static const int64_t C[] = {576, 2048, 4096, 4352, 8192};
    for (int i = 0; i < STORED; i++)
        for (int c = 0; c < 5; c++)
            for (int r = 0; r < 3; r++) {
                const int rows[] = {1, 5, 16}, block = dtype_info[stored[i]].block;
                const dtype x = (i + c + r) % 2 ? DT_F16 : DT_BF16, next = stored[(i + 5) % STORED];
                const dtype other = C[c] % dtype_info[next].block ? DT_Q8_0 : next;
                if (C[c] % block) continue;
                check(&(struct group){{stored[i], x, other}, {r == 1 ? 45 : 1040, 48, 24}, C[c]}, x, rows[r]);
            }
    assert_int_equal(wrong, 0);
}

/* Units of two tiles: more than a tile for each multiprocessor, of a C that takes turns. */
static void test_two_tiles(void **state) {
    (void)state;
    static const dtype types[] = {DT_Q4_K, DT_NF4, DT_Q6_K, DT_Q8_0, DT_NF4_DQ};
    for (int i = 0; i < 5; i++) check(&(struct group){{types[i], DT_BF16, DT_Q4_K}, {4056, 16, 40}, 14336}, DT_BF16, i % 2 ? 7 : 16);
    assert_int_equal(wrong, 0);
}

int main(void) {
    if (!(card = test_card())) return 77;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_two_tiles)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
