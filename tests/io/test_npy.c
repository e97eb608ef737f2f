/* .npy files: what NumPy wrote (tests/fuzz/corpus/npy) as it meant it, our own writer's, every refusal; the corpus whole and cut at every length. */
#define _GNU_SOURCE
#include "fuzz/fuzz_npy.c"
#include "fuzz/replay.h"
#include "io/matrix_out.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#define CORPUS "tests/fuzz/corpus/npy/"

static void holds(const char *name, int64_t rows, int64_t columns, const float *want) {
    char path[128];
    struct npy a;
    float row[8];
    snprintf(path, sizeof path, CORPUS "%s.npy", name);
    if (npy_open(path, &a)) fail_msg("%s", err_text());
    assert_int_equal(a.rows, rows);
    assert_int_equal(a.columns, columns);
    for (int64_t i = 0; i < rows; i++) {
        if (npy_row(&a, i, row)) fail_msg("%s", err_text());
        assert_memory_equal(row, want + i * columns, (size_t)columns * sizeof *row);
    }
    npy_close(&a);
}

static void test_reads(void **state) {
    (void)state;
    holds("f4", 2, 3, (const float[]){0, 0.25f, 0.5f, 0.75f, 1, 1.25f});
    holds("f2", 2, 2, (const float[]){1.5f, -2, 65504, 0x1p-24f});
    holds("f8", 2, 2, (const float[]){0.1f, 1e-40f, 3.0e38f, -0.0f});
    holds("one", 3, 1, (const float[]){1, 2, 3});
    holds("v2", 1, 2, (const float[]){1, 1});
    holds("none", 0, 4, NULL);
}

static void test_own(void **state) {
    (void)state;
    char path[64];
    const float x[] = {1, -2, 3.5f, 4, 5, 6e-20f};
    float row[3];
    struct npy a;
    snprintf(path, sizeof path, "/tmp/cyc_npy_%d.npy", (int)getpid());
    assert_int_equal(matrix_write(path, "x", x, 2, 3), OK);
    assert_int_equal(npy_open(path, &a), OK);
    assert_int_equal(npy_row(&a, 1, row), OK);
    assert_memory_equal(row, x + 3, sizeof row);
    npy_close(&a);
    assert_int_equal(remove(path), 0);
}

static void refused(err code, const char *why) {
    if (!strstr(err_text(), why)) fail_msg("\"%s\" does not say \"%s\"", err_text(), why);
    assert_int_equal(code != OK, 1);
}

/* version, header, and so many bytes of data. */
static void not(err code, int version, const char *header, size_t data, const char *why) {
    uint8_t bytes[512] = {0x93, 'N', 'U', 'M', 'P', 'Y', (uint8_t)version, 0, (uint8_t)strlen(header), 0};
    struct npy a;
    const size_t before = version == 1 ? 10 : 12;
    memcpy(bytes + before, header, strlen(header));
    assert_int_equal(npy_from("x.npy", bytes, before + strlen(header) + data, &a), code);
    refused(code, why);
}

static void test_refusals(void **state) {
    (void)state;
    struct npy a;
    float row[4];
    assert_int_equal(npy_from("x.npy", "PK\003\004 a zip archive", 18, &a), E_INPUT);
    refused(E_INPUT, "x.npy: not a .npy file");
    assert_int_equal(npy_from("x.npy", "\x93NUMPY\1\0\377\377{'descr'", 19, &a), E_INPUT);
    refused(E_INPUT, "cut off in its header (65535 bytes, the file has 19)");
    assert_int_equal(npy_from("x.npy", "\x93NUMPY\3\0\1\0", 10, &a), E_INPUT);
    refused(E_INPUT, "cut off in its header");
    not(E_UNSUPPORTED, 4, "{}", 0, ".npy format 4.0; supported: 1.0 to 3.0");
    not(E_INPUT, 1, "{'descr': '<f4', 'fortran_order': False}", 0, "a header that is no dictionary of descr, fortran_order and shape");
    not(E_INPUT, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1}", 24, "a header that is no dictionary");
    not(E_INPUT, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}", 24, "a header that is no dictionary");
    not(E_INPUT, 1, "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,)}", 8, "a header that is no dictionary");
    not(E_INPUT, 1, "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 8, "a header that is no dictionary");
    not(E_INPUT, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 8, "a header that is no dictionary");
    not(E_UNSUPPORTED, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': ()}", 4, "a single number, not an array of rows");
    not(E_INPUT, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4294967296, 4294967296)}", 4, "a shape beyond all memory");
    not(E_INPUT, 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967295)}", 8, "4294967296 rows of 4294967295 numbers are announced, and 8 bytes of data are there");
    not(E_INPUT, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", 23, "2 rows of 3 numbers are announced, and 23 bytes of data are there");
    not(E_INPUT, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", 25, "and 25 bytes of data are there");
    assert_int_equal(npy_open(CORPUS "int.npy", &a), E_UNSUPPORTED);
    refused(E_UNSUPPORTED, "numbers of type '<i8'; supported: little-endian float16, float32, float64");
    assert_int_equal(npy_open(CORPUS "big.npy", &a), E_UNSUPPORTED);
    refused(E_UNSUPPORTED, "numbers of type '>f4'");
    assert_int_equal(npy_open(CORPUS "fortran.npy", &a), E_UNSUPPORTED);
    refused(E_UNSUPPORTED, "in Fortran order");
    assert_int_equal(npy_open(CORPUS "absent.npy", &a) != OK, 1);
    refused(E_INPUT, "absent.npy");
    assert_int_equal(npy_open(CORPUS "nan.npy", &a), OK);
    assert_int_equal(npy_row(&a, 0, row), E_INPUT);
    refused(E_INPUT, "nan.npy: row 1, column 2 is not a finite number of 32 bits");
    assert_int_equal(npy_row(&a, 1, row), E_INPUT); /* 1e300 */
    refused(E_INPUT, "row 2, column 1 is not a finite number");
    npy_close(&a);
}

static void test_corpus(void **state) {
    (void)state;
    replay_folder(CORPUS, LLVMFuzzerTestOneInput, replay_lengths, 0, NULL, 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reads), cmocka_unit_test(test_own), cmocka_unit_test(test_refusals), cmocka_unit_test(test_corpus)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
