/* Replays the fuzz corpora of data/source.c and data/unpack.c, each file whole and cut at every length: the target aborts on a broken
 * promise. */
#define _GNU_SOURCE
#include "fuzz/fuzz_jsonl.c"
#define LLVMFuzzerTestOneInput fuzz_unpack
#include "fuzz/fuzz_unpack.c"
#undef LLVMFuzzerTestOneInput
#include "fuzz/replay.h"

static void files(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/jsonl", LLVMFuzzerTestOneInput, replay_lengths, 0, NULL, 4);
}

static void streams(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/unpack", fuzz_unpack, replay_lengths, 0, NULL, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(files), cmocka_unit_test(streams)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
