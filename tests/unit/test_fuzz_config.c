/* Replays the fuzz corpus of the configuration, each file whole and cut at every length: the target aborts on a broken
 * promise. */
#define _GNU_SOURCE
#include "fuzz/fuzz_config.c"
#include "fuzz/replay.h"

static void replay(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/config", LLVMFuzzerTestOneInput, replay_lengths, 0, NULL, 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(replay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
