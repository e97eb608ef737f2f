/* Replays the committed corpus (tests/fuzz/corpus) through the fuzz targets' own entries, so that what a fuzzer once
 * found stays found in a plain test run. Runs from the source root. */
#define _GNU_SOURCE /* mkdtemp */
#include "io/tensors.h"

#define LLVMFuzzerTestOneInput fuzz_gguf
#include "fuzz/fuzz_gguf.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "fuzz/fuzz_safetensors.c"
#include "fuzz/replay.h"

static void test_gguf(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/gguf", fuzz_gguf, replay_whole, 0, NULL, 1);
}

static void test_safetensors(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/safetensors", fuzz_safetensors, replay_whole, 0, NULL, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gguf), cmocka_unit_test(test_safetensors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
