/* Replays the fuzz corpus of the configuration, each file whole and cut at every length: the target aborts on a broken
 * promise. */
#define _GNU_SOURCE
#include "fuzz/fuzz_config.c"
#include "base/file.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void replay(void **state) {
    (void)state;
    const char *folder = "tests/fuzz/corpus/config";
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
            LLVMFuzzerTestOneInput(exact, n);
            free(exact);
        }
        file_unmap(&m);
        str_free(&path);
        files++;
    }
    closedir(d);
    assert_true(files >= 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(replay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
