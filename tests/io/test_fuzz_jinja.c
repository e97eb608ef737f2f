/* Replays the fuzz corpus of chat templates and the real ones, and each cut short and with bytes changed: no input may do
 * more than fail. */
#include "../fuzz/fuzz_jinja.c"
#include "fuzz/replay.h"

static bool is_template(const char *name) { return !strstr(name, ".json") && !strstr(name, ".md"); }

static void corpus_is_harmless(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/jinja", LLVMFuzzerTestOneInput, replay_changed, 97, is_template, 20);
    replay_folder("tests/golden/chat", LLVMFuzzerTestOneInput, replay_changed, 97, is_template, 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(corpus_is_harmless)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
