/* Replays the corpora of the fuzz targets of files out, each file also cut short and with bytes changed: no input may do more than be
 * refused. */
#define _GNU_SOURCE
#define LLVMFuzzerTestOneInput fuzz_tokenizer_out
#include "fuzz/fuzz_tokenizer_out.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_adapter
#include "fuzz/fuzz_adapter.c"
#include "fuzz/replay.h"
#include "support/support.h"
#include <dirent.h>

static void replay_folder(const char *folder, int (*entry)(const uint8_t *, size_t), int least) {
    DIR *d = opendir(folder);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[512];
        str file = {0};
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        must(file_read(path, &file));
        replay(&file, entry, 23);
        str_free(&file);
        n++;
    }
    closedir(d);
    assert_true(n >= least);
}

static void test_tokenizer_out(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/tokenizer_out", fuzz_tokenizer_out, 11);
}

static void test_adapter(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus/adapter", fuzz_adapter, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tokenizer_out), cmocka_unit_test(test_adapter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
