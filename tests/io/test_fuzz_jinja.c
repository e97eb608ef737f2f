/* Replays the fuzz corpus of chat templates and the real ones, and each cut short and with bytes changed: no input may do
 * more than fail. */
#include "../fuzz/fuzz_jinja.c"
#include "base/file.h"
#include "fuzz/replay.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static int replay_folder(const char *folder) {
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || strstr(entry->d_name, ".json") || strstr(entry->d_name, ".md")) continue;
        str path = {0}, file = {0};
        str_addf(&path, "%s/%s", folder, entry->d_name);
        assert_int_equal(file_read(path.p, &file), OK);
        replay(&file, LLVMFuzzerTestOneInput, 97);
        str_free(&path);
        str_free(&file);
        n++;
    }
    closedir(dir);
    return n;
}

static void corpus_is_harmless(void **state) {
    (void)state;
    assert_true(replay_folder("tests/fuzz/corpus/jinja") >= 20);
    assert_true(replay_folder("tests/golden/chat") >= 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(corpus_is_harmless)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
