/* Replays the committed corpus (tests/fuzz/corpus) through the fuzz targets' own entries, so that what a fuzzer once
 * found stays found in a plain test run. Runs from the source root. */
#define _GNU_SOURCE /* mkdtemp */
#include "io/tensors.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>

#define LLVMFuzzerTestOneInput fuzz_gguf
#include "fuzz/fuzz_gguf.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "fuzz/fuzz_safetensors.c"

static void replay(const char *corpus, int (*entry)(const uint8_t *, size_t)) {
    DIR *d = opendir(corpus);
    if (!d) fail_msg("%s is missing: tests run from the source root", corpus);
    int n = 0;
    for (struct dirent *ent; (ent = readdir(d));) {
        if (ent->d_name[0] == '.') continue;
        char path[512];
        str bytes = {0};
        snprintf(path, sizeof path, "%s/%s", corpus, ent->d_name);
        assert_int_equal(file_read(path, &bytes), OK);
        entry((const uint8_t *)bytes.p, bytes.n);
        str_free(&bytes);
        n++;
    }
    closedir(d);
    assert_true(n > 0);
}

static void test_gguf(void **state) {
    (void)state;
    replay("tests/fuzz/corpus/gguf", fuzz_gguf);
}

static void test_safetensors(void **state) {
    (void)state;
    replay("tests/fuzz/corpus/safetensors", fuzz_safetensors);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gguf), cmocka_unit_test(test_safetensors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
