/* Replays the committed corpus (tests/fuzz/corpus) through the fuzz targets' own entries, so that what a fuzzer once
 * found stays found in a plain test run. Runs from the source root. */
#define _GNU_SOURCE /* mkdtemp */
#include "io/tensors.h"

#define LLVMFuzzerTestOneInput fuzz_gguf
#include "fuzz/fuzz_gguf.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "fuzz/fuzz_safetensors.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_yaml
#include "fuzz/fuzz_yaml.c"
#include "fuzz/replay.h"

static void test_gguf(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/gguf", fuzz_gguf, replay_whole, 0, NULL, 1);
}

static void test_safetensors(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/safetensors", fuzz_safetensors, replay_whole, 0, NULL, 1);
}

static void test_yaml(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/yaml", fuzz_yaml, replay_changed, 97, NULL, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gguf), cmocka_unit_test(test_safetensors), cmocka_unit_test(test_yaml)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
