/* Fuzz target for the configuration. The first byte picks the road: a file, or one --set assignment.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/fuzz_config.c src/train/config*.c
 * src/base/[a-s]*.c -lyaml -lm -o fuzz_config && ./fuzz_config tests/fuzz/corpus/config
 *
 * Beside not crashing: a refusal names the place, and what is accepted is within its ranges, can be written, and reads
 * back as the same text. tests/unit/test_fuzz_config.c replays the corpus in every test run. */
#include "train/config.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void must(int truth) {
    if (!truth) abort();
}

/* Contradictions are fine here (most inputs name no model); a value out of its range is not: those say "wants". */
static void check_accepted(const struct config *c) {
    struct config again;
    str one = {0}, two = {0};
    if (config_check(c)) must(!strstr(err_text(), " wants "));
    must(config_write(c, &one) == OK);
    must(config_init(&again) == OK);
    must(config_parse(&again, "written", one.p, one.n) == OK);
    must(config_write(&again, &two) == OK);
    must(one.n == two.n && !memcmp(one.p, two.p, one.n));
    config_free(&again);
    str_free(&one);
    str_free(&two);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct config c;
    if (n < 1) return 0;
    must(config_init(&c) == OK);
    err e;
    const char *place;
    if (*bytes == 's') {
        char *assignment = calloc(1, n);
        must(assignment != NULL);
        memcpy(assignment, bytes + 1, n - 1);
        e = config_set(&c, assignment);
        free(assignment);
        place = "--set: ";
    } else {
        e = config_parse(&c, "f", bytes + 1, n - 1);
        place = "f:";
    }
    if (e) must(err_is_input(e) && str_starts(err_text(), place));
    else check_accepted(&c);
    config_free(&c);
    return 0;
}
