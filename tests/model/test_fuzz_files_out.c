/* Replays the corpora of the fuzz targets of files out, each file also cut short and with bytes changed: no input may do more than be
 * refused. */
#define _GNU_SOURCE
#define LLVMFuzzerTestOneInput fuzz_tokenizer_out
#include "fuzz/fuzz_tokenizer_out.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_adapter
#include "fuzz/fuzz_adapter.c"
#include "fuzz/replay.h"
#include "support/support.h"

static void test_tokenizer_out(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/tokenizer_out", fuzz_tokenizer_out, replay_changed, 23, NULL, 11);
}

static void test_adapter(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/adapter", fuzz_adapter, replay_changed, 23, NULL, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tokenizer_out), cmocka_unit_test(test_adapter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
