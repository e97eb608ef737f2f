/* Replays the fuzz corpus of tokenizer.json files, and each file cut short and with bytes changed: no input may do more
 * than fail. */
#include "../fuzz/fuzz_tokenizer.c"
#include "base/file.h"
#include "fuzz/replay.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define CORPUS "tests/fuzz/corpus/tokenizer"

static void corpus_is_harmless(void **state) {
    (void)state;
    DIR *dir = opendir(CORPUS);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.') continue;
        str path = {0}, file = {0};
        str_addf(&path, CORPUS "/%s", entry->d_name);
        assert_int_equal(file_read(path.p, &file), OK);
        replay(&file, LLVMFuzzerTestOneInput, 97);
        str_free(&path);
        str_free(&file);
        n++;
    }
    closedir(dir);
    assert_true(n >= 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(corpus_is_harmless)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
