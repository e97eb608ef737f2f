/* Replays the fuzz corpus of tokenizer.json files, and each file cut short and with bytes changed: no input may do more
 * than fail. */
#include "../fuzz/fuzz_tokenizer.c"
#include "fuzz/replay.h"

static void corpus_is_harmless(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/tokenizer", LLVMFuzzerTestOneInput, replay_changed, 97, NULL, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(corpus_is_harmless)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
