/* The files of a corpus through their fuzz target. No input may do more than fail. */
#ifndef TESTS_FUZZ_REPLAY_H
#define TESTS_FUZZ_REPLAY_H
#include "base/file.h"
#include "base/str.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef int (*fuzz_entry)(const uint8_t *, size_t);
/* What is done with a file. */
typedef void (*replay_way)(const str *file, fuzz_entry entry, size_t cuts);

static inline void replay_whole(const str *file, fuzz_entry entry, size_t cuts) {
    (void)cuts;
    entry((const uint8_t *)file->p, file->n);
}

/* Whole, and at about `cuts` places cut short and with a bit turned over. */
static inline void replay_changed(const str *file, fuzz_entry entry, size_t cuts) {
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

/* Cut at every length. */
static inline void replay_lengths(const str *file, fuzz_entry entry, size_t cuts) {
    (void)cuts;
    for (size_t n = 0; n <= file->n; n++) {
        uint8_t *exact = malloc(n ? n : 1); /* so that the sanitizer sees a read past the end */
        assert_non_null(exact);
        if (n) memcpy(exact, file->p, n);
        entry(exact, n);
        free(exact);
    }
}

/* At least so many files must be there. takes: by name; NULL: all. */
static inline void replay_folder(const char *folder, fuzz_entry entry, replay_way way, size_t cuts, bool (*takes)(const char *name), int least) {
    DIR *d = opendir(folder);
    int n = 0;
    if (!d) fail_msg("%s is missing: tests run from the source root", folder);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' || (takes && !takes(e->d_name))) continue;
        str path = {0}, file = {0};
        str_addf(&path, "%s/%s", folder, e->d_name);
        assert_int_equal(file_read(path.p, &file), OK);
        way(&file, entry, cuts);
        str_free(&path);
        str_free(&file);
        n++;
    }
    closedir(d);
    if (n < least) fail_msg("%s: %d files, at least %d are to be there", folder, n, least);
}

#endif
