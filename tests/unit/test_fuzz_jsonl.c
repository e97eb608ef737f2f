/* Replays the fuzz corpora of data/source.c and data/unpack.c, each file whole and cut at every length: the target aborts on a broken
 * promise. */
#define _GNU_SOURCE
#include "fuzz/fuzz_jsonl.c"
#define LLVMFuzzerTestOneInput fuzz_unpack
#include "fuzz/fuzz_unpack.c"
#undef LLVMFuzzerTestOneInput
#include "base/file.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void replay(const char *folder, int (*entry)(const uint8_t *, size_t)) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    int files = 0;
    for (struct dirent *ent; (ent = readdir(d));) {
        if (ent->d_name[0] == '.') continue;
        str path = {0};
        struct file_map m;
        str_addf(&path, "%s/%s", folder, ent->d_name);
        assert_int_equal(file_map(path.p, &m), OK);
        for (size_t n = 0; n <= m.n; n++) {
            uint8_t *exact = malloc(n ? n : 1); /* so that the sanitizer sees a read past the end */
            memcpy(exact, m.p, n);
            entry(exact, n);
            free(exact);
        }
        file_unmap(&m);
        str_free(&path);
        files++;
    }
    closedir(d);
    assert_true(files >= 4);
}

static void files(void **state) {
    (void)state;
    replay("tests/fuzz/corpus/jsonl", LLVMFuzzerTestOneInput);
}

static void streams(void **state) {
    (void)state;
    replay("tests/fuzz/corpus/unpack", fuzz_unpack);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(files), cmocka_unit_test(streams)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
