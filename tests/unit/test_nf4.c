/* NF4 and int8 against bitsandbytes, bit for bit (tests/golden/make/quantised.py): codes, scales, their second quantisation, and the numbers that
 * come back. Of blocks of zeros and of numbers too small for a reciprocal too. */
#include "support/support.h"
#include "base/dynamic_map.h"
#include "base/nf4.h"

static struct tensors ts;

static int open_fixture(void **state) {
    (void)state;
    return tensors_open(GOLDEN "/quantised/quantised.safetensors", &ts);
}

static int close_fixture(void **state) {
    (void)state;
    tensors_close(&ts);
    return 0;
}

static const struct tensor *of(const char *name, const char *part) {
    char full[64];
    snprintf(full, sizeof full, "%s.%s", name, part);
    return fixture(&ts, full);
}

/* The matrix in our blocks. */
static uint8_t *encode(const char *name, dtype dt, int64_t *rows, int64_t *cols) {
    const struct tensor *w = of(name, "weight");
    *rows = w->d[0], *cols = w->d[1];
    uint8_t *b = malloc((size_t)*rows * dtype_row_bytes(dt, *cols));
    float *row = malloc((size_t)*cols * sizeof *row);
    for (int64_t r = 0; r < *rows; r++) {
        dequantise_row(w->dt, (const char *)w->data + dtype_row_bytes(w->dt, *cols) * (size_t)r, row, *cols);
        quantise_row(dt, row, b + dtype_row_bytes(dt, *cols) * (size_t)r, *cols);
    }
    free(row);
    return b;
}

/* Code i of a run of blocks. */
static int code_at(const uint8_t *b, int64_t i) {
    const uint8_t *block = b + i / 64 * NF4_BYTES;
    return block[4 + i % 64 / 32 * 16 + i % 16] >> (i % 32 / 16 * 4) & 15;
}

static void same_numbers(const char *name, const char *part, dtype dt, const uint8_t *b, int64_t cols, int step) {
    const struct tensor *want = of(name, part);
    float *row = malloc((size_t)cols * sizeof *row);
    for (int64_t r = 0; r < want->d[0]; r++) {
        dequantise_row(dt, b + dtype_row_bytes(dt, cols) * (size_t)(r * step), row, cols);
        for (int64_t c = 0; c < cols; c++)
            if (row[c] != f32_of(want)[r * cols + c])
                flunk("%s.%s row %lld, %lld: %a, bitsandbytes has %a", name, part, (long long)r, (long long)c, (double)row[c],
                      (double)f32_of(want)[r * cols + c]);
    }
    free(row);
}

static void test_codes(void **state) {
    (void)state;
    static const char *const names[] = {"exact", "bell"};
    for (int k = 0; k < 2; k++) {
        int64_t rows, cols;
        uint8_t *b = encode(names[k], DT_NF4, &rows, &cols);
        const uint8_t *packed = of(names[k], "codes")->data;
        for (int64_t i = 0; i < rows * cols; i++)
            if (code_at(b, i) != (packed[i / 2] >> (i % 2 ? 0 : 4) & 15))
                flunk("%s: weight %lld is code %d, bitsandbytes' %d", names[k], (long long)i, code_at(b, i),
                      packed[i / 2] >> (i % 2 ? 0 : 4) & 15);
        const int64_t n = rows * cols / 64;
        float *absmax = malloc((size_t)n * sizeof *absmax);
        nf4_take_absmax(b, n, absmax);
        assert_memory_equal(absmax, f32_of(of(names[k], "absmax")), (size_t)n * sizeof *absmax);
        same_numbers(names[k], "single", DT_NF4, b, cols, 1);
        free(absmax);
        free(b);
    }
}

/* Given the mean of the scales everything is the same; the mean is where every order of adding up gives one number, else within the error
 * of torch's sum, n eps. */
static void test_second(void **state) {
    (void)state;
    static const char *const names[] = {"exact", "bell"};
    float map[DYNAMIC_CODES];
    dynamic_map(true, map);
    assert_memory_equal(nf4_map, map, sizeof nf4_map);
    assert_memory_equal(nf4_map, of("exact", "map")->data, sizeof nf4_map);
    for (int k = 0; k < 2; k++) {
        const struct tensor *a = of(names[k], "absmax"), *nested = of(names[k], "nested"), *scales = of(names[k], "scale");
        const int64_t n = a->d[0];
        const float *absmax = f32_of(a), theirs = f32_of(of(names[k], "offset"))[0], ours = nf4_offset(absmax, n);
        uint8_t *code = malloc((size_t)n);
        float *scale = malloc((size_t)scales->d[0] * sizeof *scale);
        assert_true(k ? fabs((double)ours - theirs) <= (double)n * 0x1p-24 * theirs : ours == theirs);
        nf4_nest(absmax, n, theirs, code, scale);
        assert_memory_equal(code, nested->data, (size_t)n);
        assert_memory_equal(scale, scales->data, (size_t)scales->d[0] * sizeof *scale);
        free(code);
        free(scale);
    }
}

static void test_numbers(void **state) {
    (void)state;
    int64_t rows, cols;
    uint8_t *b = encode("exact", DT_NF4, &rows, &cols);
    const int64_t n = rows * cols / 64;
    float *absmax = malloc((size_t)n * sizeof *absmax);
    nf4_take_absmax(b, n, absmax);
    nf4_round_absmax(absmax, n);
    nf4_put_absmax(b, n, absmax);
    same_numbers("exact", "double", DT_NF4, b, cols, 7);
    free(absmax);
    free(b);
}

/* Blocks that keep the scales in 8 bits: the same numbers in 272 bytes where NF4 has 288. */
static void test_kept(void **state) {
    (void)state;
    const struct tensor *w = of("exact", "weight");
    const int64_t rows = w->d[0], cols = w->d[1], n = rows * cols / 64;
    const size_t bytes = (size_t)rows * dtype_row_bytes(DT_NF4_DQ, cols);
    uint8_t *b = malloc(bytes);
    float *x = malloc((size_t)(rows * cols) * sizeof *x), *absmax = malloc((size_t)n * sizeof *absmax);
    dequantise_row(w->dt, w->data, x, rows * cols);
    nf4_dq_codes(x, rows * cols, b, absmax);
    assert_memory_equal(absmax, f32_of(of("exact", "absmax")), (size_t)n * sizeof *absmax);
    nf4_dq_scales(b, n, absmax);
    same_numbers("exact", "double", DT_NF4_DQ, b, cols, 7);
    assert_int_equal(bytes, rows * cols / 512 * 272);
    assert_true(dtype_bits(DT_NF4_DQ) == 4.25);
    assert_int_equal(nf4_kept(DT_NF4, true, 1536), DT_NF4_DQ);
    assert_int_equal(nf4_kept(DT_NF4, true, 576), DT_NF4);
    assert_int_equal(nf4_kept(DT_NF4, false, 1536), DT_NF4);
    assert_int_equal(nf4_kept(DT_Q4_K, true, 1536), DT_Q4_K);
    free(b), free(x), free(absmax);
}

static void test_int8(void **state) {
    (void)state;
    int64_t rows, cols;
    uint8_t *b = encode("int8", DT_INT8, &rows, &cols);
    const int8_t *codes = of("int8", "codes")->data;
    for (int64_t i = 0; i < rows * cols; i++) {
        const uint8_t *block = b + i / 64 * 68;
        float scale;
        memcpy(&scale, block, 4);
        assert_int_equal((int8_t)block[4 + i % 64], codes[i]);
        assert_true(scale == f32_of(of("int8", "absmax"))[i / cols] * (1.0f / 127));
    }
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_codes), cmocka_unit_test(test_second), cmocka_unit_test(test_numbers),
                                       cmocka_unit_test(test_kept),
                                       cmocka_unit_test(test_int8)};
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
