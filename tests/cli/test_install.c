/* The installed library as a stranger meets it: `cmake --install` into an empty prefix, examples/api/macct.c compiled outside
 * the tree with what pkg-config says and nothing else, run on the cipher base; then the installed command. */
#define _GNU_SOURCE
#include "support/support.h"
#include "base/file.h"
#include <unistd.h>

static char dir[] = "/tmp/cyclora_install_XXXXXX";
static str build; /* the build folder */

/* Runs a shell line: $D the test's folder, $P the prefix; the test ends with the output where it fails. */
static void sh(const char *fmt, ...) {
    char line[3000], path[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    str cmd = {0}, out = {0};
    str_addf(&cmd, "D='%s' P='%s/prefix'; { %s; } > %s/output 2>&1 </dev/null", dir, dir, line, dir);
    int status = system(cmd.p);
    str_free(&cmd);
    snprintf(path, sizeof path, "%s/output", dir);
    must(file_read(path, &out));
    if (status) flunk("%s\n%s", line, out.p ? out.p : "");
    str_free(&out);
}

/* A line of the build's CMakeCache.txt: "CMAKE_C_COMPILER:FILEPATH=". */
static const char *cached(const char *key, char *out, size_t n) {
    str cache = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/CMakeCache.txt", build.p);
    must(file_read(path, &cache));
    const char *line = strstr(cache.p, key);
    if (!line) flunk("%s has no %s", path, key);
    line = strchr(line, '=') + 1;
    snprintf(out, n, "%.*s", (int)strcspn(line, "\n"), line);
    str_free(&cache);
    return out;
}

static int make_folder(void **state) {
    (void)state;
    char *real = realpath(CYC_CLI, NULL);
    if (!mkdtemp(dir) || !real) return -1;
    str_add(&build, real, (size_t)(strrchr(real, '/') - real));
    free(real);
    return 0;
}
static int remove_folder(void **state) {
    (void)state;
    str_free(&build);
    return dir_remove(dir) != OK;
}

static void test_example(void **state) {
    (void)state;
    char cc[256], sanitize[16];
    cached("CMAKE_C_COMPILER:", cc, sizeof cc);
    bool asan = !strcmp(cached("CYC_SANITIZE:", sanitize, sizeof sanitize), "ON");
    sh("cmake --install '%s' --prefix $P", build.p);
    sh("test -f $P/include/cyclora/cyclora.h -a -x $P/bin/cyclora && test $(find $P/include -type f | wc -l) = 1");
    sh("cp examples/api/macct.c $D/ && cd $D && export PKG_CONFIG_PATH=$(dirname $(find $P -name cyclora.pc)) && "
       "'%s' -Wall -Wextra -Werror macct.c %s $(pkg-config --cflags --libs --static cyclora) -o macct",
       cc, asan ? "-fsanitize=address,undefined" : "");
    sh("OMP_NUM_THREADS=1 $D/macct " GOLDEN "/cipher " GOLDEN "/cipher/a.jsonl " GOLDEN "/cipher/b.jsonl $D/run max_steps=3 max_new_tokens=8 max_length=48 "
       "per_device_train_batch_size=4 lora.r=4 > $D/said && grep -q '^step 3/3 ' $D/said && grep -q '^A: abc' $D/said");
    sh("for s in A B; do test -s $D/run/$s/adapter_model.safetensors -a -s $D/run/$s/adapter_config.json || exit 1; done");
    sh("$P/bin/cyclora inspect $D/run/B && $P/bin/cyclora --version");
    sh("! $D/macct " GOLDEN "/cipher $D/nowhere.jsonl " GOLDEN "/cipher/b.jsonl $D/run2 2> $D/said && grep -q nowhere.jsonl $D/said && test ! -e $D/run2");
    sh("! $D/macct " GOLDEN "/cipher " GOLDEN "/cipher/a.jsonl " GOLDEN "/cipher/b.jsonl $D/run2 lora.rank=4 2> $D/said && grep -q lora.rank $D/said");
}

/* The header alone, in C++ too: a program includes nothing else of ours. */
static void test_header(void **state) {
    (void)state;
    sh("echo '#include <cyclora/cyclora.h>' > $D/h.cc && echo 'int main() { return cyc_version() == 0; }' >> $D/h.cc && "
       "if command -v c++ > /dev/null; then c++ -Wall -Wextra -Werror -pedantic -fsyntax-only -Iinclude $D/h.cc; fi");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_example), cmocka_unit_test(test_header)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
