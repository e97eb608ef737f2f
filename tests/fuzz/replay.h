/* A file of a corpus through its fuzz target: as it is, and at about `cuts` places cut short and with a bit turned over. No input may do
 * more than fail. */
#ifndef TESTS_FUZZ_REPLAY_H
#define TESTS_FUZZ_REPLAY_H
#include "base/str.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void replay(const str *file, int (*entry)(const uint8_t *, size_t), size_t cuts) {
    size_t step = file->n / cuts + 1;
    char *copy = malloc(file->n + 1);
    assert_non_null(copy);
    entry((const uint8_t *)file->p, file->n);
    for (size_t at = 0; at < file->n; at += step) {
        entry((const uint8_t *)file->p, at);
        memcpy(copy, file->p, file->n);
        copy[at] ^= (char)(1 << at % 8);
        entry((const uint8_t *)copy, file->n);
    }
    free(copy);
}

#endif
