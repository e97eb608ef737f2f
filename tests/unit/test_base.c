/* The base room: errors, strings, UTF-8, the description arena, files that are whole or absent, hashes, and Philox's
 * published vectors. */
#define _GNU_SOURCE /* mkdtemp */
#include "base/arena.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/philox.h"
#include "base/process.h"
#include "base/str.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#undef fail /* cmocka's; here it is base/err.h's */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static char folder[] = "/tmp/cyc-test-base-XXXXXX";

static void test_err(void **state) {
    (void)state;
    assert_int_equal(fail(E_INPUT, "%s: line %d", "a.yaml", 3), E_INPUT);
    assert_string_equal(err_text(), "a.yaml: line 3");
    assert_int_equal(fail_in(E_INPUT, "reading %s", "x"), E_INPUT);
    assert_string_equal(err_text(), "reading x: a.yaml: line 3");
    fail(E_IO, "again: %s", err_text()); /* its own text as an argument */
    assert_string_equal(err_text(), "again: reading x: a.yaml: line 3");
    char big[5000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    fail(E_IO, "%s", big);
    assert_int_equal(strlen(err_text()), 2047);
    fail_in(E_IO, "%s", big);
    assert_int_equal(strlen(err_text()), 2047);
    assert_true(err_is_input(E_USAGE) && err_is_input(E_INPUT) && err_is_input(E_UNSUPPORTED));
    assert_false(err_is_input(E_IO) || err_is_input(E_NUMERIC) || err_is_input(OK));
}

static void test_str(void **state) {
    (void)state;
    str s = {0};
    str_add(&s, "", 0);
    assert_string_equal(s.p, "");
    str_adds(&s, "ab");
    str_addc(&s, 'c');
    str_addf(&s, "%d-%s", 42, "x");
    assert_string_equal(s.p, "abc42-x");
    for (int i = 0; i < 1000; i++) str_add(&s, "\0y", 2);
    assert_int_equal(s.n, 2007);
    assert_int_equal(s.p[2007], 0);
    assert_int_equal(s.p[2006], 'y');
    size_t cap = s.cap;
    str_clear(&s);
    assert_int_equal(s.n, 0);
    assert_string_equal(s.p, "");
    assert_int_equal(s.cap, cap);
    str_free(&s);
    assert_null(s.p);
    str_clear(&s);
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const names[] = {"learning_rate", "lora_rank", "lora_alpha", NULL};
    assert_int_equal(str_distance("kitten", "sitting"), 3);
    assert_int_equal(str_distance("", "abc"), 3);
    assert_int_equal(str_distance("abc", ""), 3);
    assert_int_equal(str_distance("same", "same"), 0);
    assert_string_equal(str_nearest("learning_rat", names), "learning_rate");
    assert_string_equal(str_nearest("lora_rnak", names), "lora_rank");
    assert_null(str_nearest("zzz", names));
    assert_true(str_starts("abc", "ab") && str_starts("abc", "") && !str_starts("ab", "abc"));
    assert_true(str_ends("a.gguf", ".gguf") && !str_ends("f", "gguf"));
}

static void test_utf8_every_code_point(void **state) {
    (void)state;
    for (unsigned cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp < 0xE000) continue;
        char buf[4];
        unsigned back = 0;
        int n = utf8_encode(cp, buf);
        assert_int_equal(n, cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4);
        assert_int_equal(utf8_decode(buf, (size_t)n, &back), n);
        assert_int_equal(back, cp);
        for (int k = 0; k < n; k++) assert_int_equal(utf8_decode(buf, (size_t)k, &back), 0); /* cut short */
    }
}

static void test_utf8_malformed(void **state) {
    (void)state;
    static const char *const bad[] = {"\x80",
                                      "\xBF",
                                      "\xC0\x80",
                                      "\xC1\xBF",
                                      "\xE0\x80\x80",
                                      "\xE0\x9F\xBF",
                                      "\xF0\x80\x80\x80",
                                      "\xF0\x8F\xBF\xBF",
                                      "\xED\xA0\x80",
                                      "\xED\xBF\xBF",
                                      "\xF4\x90\x80\x80",
                                      "\xF5\x80\x80\x80",
                                      "\xFF",
                                      "\xC3\x28",
                                      "\xE2\x28\xA1",
                                      "\xE2\x82\x28",
                                      "\xFE",
                                      "\xF0\x9F\x98\x28",
                                      "\xC3\xC3"};
    unsigned cp;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(utf8_decode(bad[i], strlen(bad[i]), &cp), 0);
}

/* What Python's bytes.decode("utf-8", "replace") makes of the same bytes. */
static void test_utf8_repair(void **state) {
    (void)state;
#define FFFD "\xEF\xBF\xBD"
    static const struct { const char *in, *out; } cases[] = {
        {"abc \xD7\x90 \xE2\x82\xAC", "abc \xD7\x90 \xE2\x82\xAC"}, {"abc\xD7", "abc" FFFD},
        {"\xD7\x90\xD7 x", "\xD7\x90" FFFD " x"}, {"\xE2\x82", FFFD}, {"\xE0\x80\x80", FFFD FFFD FFFD},
        {"\xED\xA0\x80", FFFD FFFD FFFD}, {"\xF0\x9F\x98", FFFD}, {"\xF0\x9F\x98z\xFF", FFFD "z" FFFD},
        {"\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD}, {"\xC0\xAF", FFFD FFFD}, {"\xF0\x9F\xE2\x82\xAC", FFFD "\xE2\x82\xAC"},
        {"\x80\x80", FFFD FFFD}, {"\xF5" "a", FFFD "a"}, {"\xE2\x28\xA1", FFFD "(" FFFD}, {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        str s = {0};
        str_adds(&s, cases[i].in);
        utf8_repair(&s);
        assert_string_equal(s.p ? s.p : "", cases[i].out);
        assert_int_equal(s.n, strlen(cases[i].out));
        str_free(&s);
    }
#undef FFFD
}

static void test_arena(void **state) {
    (void)state;
    arena a = {0};
    unsigned char *last = NULL;
    for (size_t n = 0; n < 3000; n += 7) {
        unsigned char *p = arena_alloc(&a, n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
        memset(p, 0xAB, n);
        if (last && n > 7) assert_int_equal(last[n - 8], 0xAB); /* untouched by the next */
        last = p;
    }
    unsigned char *big = arena_alloc(&a, 1 << 20);
    assert_int_equal(big[(1 << 20) - 1], 0);
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_string_equal(arena_str(&a, "name"), "name");
    assert_string_equal(arena_strn(&a, "name", 2), "na");
    assert_string_equal(arena_printf(&a, "blk.%d.%s", 3, "w"), "blk.3.w");
    arena_free(&a);
    assert_string_equal(arena_str(&a, "again"), "again");
    arena_free(&a);
    assert_int_equal(arena_used(&a), 0);
    for (int i = 0; i < 10000; i++) memset(arena_alloc(&a, 1000), i, 1000); /* blocks that grow, to what is asked for and no more */
    assert_true(arena_used(&a) >= 10000 * 1000 && arena_used(&a) < 10000 * 1024);
    arena_free(&a);
}

static void join(char out[160], const char *name) { snprintf(out, 160, "%s/%s", folder, name); }

static void holds(const char *path, const char *want) {
    str s = {0};
    assert_int_equal(file_read(path, &s), OK);
    assert_string_equal(s.p, want);
    str_free(&s);
}

/* The files in the folder: a failed write leaves none of its own. */
static void only_file(const char *sub, const char *name) {
    char cmd[400];
    snprintf(cmd, sizeof cmd, "test \"$(ls -A %s)\" = \"%s\"", sub, name);
    assert_int_equal(system(cmd), 0);
}

static void test_atomic_write(void **state) {
    (void)state;
    char sub[160], path[160];
    join(sub, "atomic");
    join(path, "atomic/f");
    assert_int_equal(dir_make(sub), OK);
    assert_int_equal(file_write(path, "old", 3), OK);
    holds(path, "old");
    struct file_out o;
    assert_int_equal(file_create(&o, path), OK);
    assert_int_equal(file_put(&o, "half", 4), OK);
    holds(path, "old"); /* until the commit */
    file_abandon(&o);
    holds(path, "old");
    only_file(sub, "f");
    assert_int_equal(file_create(&o, path), OK);
    assert_int_equal(file_put(&o, "new", 3), OK);
    assert_int_equal(file_put(&o, NULL, 0), OK);
    assert_int_equal(file_commit(&o), OK);
    holds(path, "new");
    only_file(sub, "f");
    assert_int_equal(file_write("/nonexistent/f", "x", 1), E_IO);
    assert_int_equal(file_write(sub, "x", 1), E_IO); /* a folder is in the way */
    only_file(sub, "f");
}

/* As on a full disk: the write fails half way (here by a limit on the size of files). */
static void test_failed_write_leaves_the_old_file(void **state) {
    (void)state;
    char sub[160], path[160];
    join(sub, "full");
    join(path, "full/f");
    assert_int_equal(dir_make(sub), OK);
    assert_int_equal(file_write(path, "old", 3), OK);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){.rlim_cur = 4096, .rlim_max = before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    static const char big[100000];
    err at_once = file_write(path, big, sizeof big), at_commit = file_write(path, big, 5000);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(at_once, E_IO);
    assert_int_equal(at_commit, E_IO);
    assert_non_null(strstr(err_text(), "cannot write"));
    holds(path, "old");
    only_file(sub, "f");
}

static void test_map_and_read(void **state) {
    (void)state;
    char path[160];
    struct file_map m;
    str s = {0};
    join(path, "map");
    assert_int_equal(file_map(path, &m), E_USAGE);
    assert_int_equal(file_read(path, &s), E_USAGE);
    assert_int_equal(file_map(folder, &m), E_INPUT);
    assert_int_equal(file_read(folder, &s), E_INPUT);
    assert_int_equal(file_write(path, "", 0), OK);
    assert_int_equal(file_map(path, &m), E_INPUT);
    assert_null(m.p);
    file_unmap(&m);
    assert_int_equal(file_read(path, &s), OK);
    assert_string_equal(s.p, "");
    str_free(&s);
    assert_int_equal(file_write(path, "abc", 3), OK);
    char below[176];
    snprintf(below, sizeof below, "%s/f", path); /* a file is no folder */
    assert_int_equal(file_map(below, &m), E_USAGE);
    assert_int_equal(file_read(below, &s), E_USAGE);
    assert_int_equal(file_map(path, &m), OK);
    assert_int_equal(m.n, 3);
    assert_memory_equal(m.p, "abc", 3);
    file_unmap(&m);
    assert_null(m.p);
    char part[4] = "";
    int fd;
    assert_int_equal(file_map_open(below, &m, &fd), E_USAGE);
    assert_int_equal(file_map_open(path, &m, &fd), OK);
    assert_int_equal(file_read_at(path, fd, 1, part, 2), OK);
    assert_string_equal(part, "bc");
    assert_int_equal(file_read_at(path, fd, 1, part, 3), E_IO);
    close(fd);
    file_unmap(&m);
    char hex[33], same[33];
    assert_int_equal(file_hash(path, hex), OK);
    bytes_hash("abc", 3, same);
    assert_string_equal(hex, same);
    assert_int_equal(file_hash(below, hex), E_USAGE);
    assert_int_equal(file_hash(folder, hex), E_INPUT);
}

static void test_folders(void **state) {
    (void)state;
    char deep[160], top[160], file[160], outside[160], link_[160];
    join(top, "d");
    join(deep, "d/e/f");
    join(file, "d/e/f/x");
    join(outside, "outside");
    join(link_, "d/link");
    assert_true(dir_empty(top, NULL)); /* missing */
    assert_int_equal(dir_make(deep), OK);
    assert_int_equal(dir_make(deep), OK);
    assert_true(dir_empty(deep, NULL));
    assert_int_equal(file_write(file, "x", 1), OK);
    assert_false(dir_empty(deep, NULL));
    assert_true(dir_empty(deep, "x"));
    assert_int_equal(dir_clear(deep, "x"), OK);
    assert_true(path_exists(file));
    assert_true(path_is_dir(deep) && !path_is_dir(file) && path_exists(file));
    assert_int_equal(dir_make(file), E_IO);
    assert_int_equal(dir_make(""), E_USAGE);
    assert_int_equal(dir_make(outside), OK);
    assert_int_equal(symlink(outside, link_), 0);
    assert_int_equal(dir_remove(top), OK);
    assert_false(path_exists(top));
    assert_true(path_exists(outside)); /* links are removed, not followed */
    assert_int_equal(dir_remove(top), OK);
}

/* XXH3 128 of nothing and of "abc", as `xxh128sum` prints them. */
static void test_hash(void **state) {
    (void)state;
    char hex[33], path[160];
    bytes_hash("", 0, hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
    join(path, "hash");
    assert_int_equal(file_write(path, "abc", 3), OK);
    assert_int_equal(file_hash(path, hex), OK);
    assert_string_equal(hex, "06b05ab6733a618578af5f94892f3950");
    assert_int_equal(file_hash("/nonexistent", hex), E_USAGE);
}

static void keep_line(void *ctx, enum log_level level, const char *line) { snprintf(ctx, 64, "%d %s", level, line); }

static void test_log(void **state) {
    (void)state;
    char got[64] = "";
    log_info("nobody listens");
    log_set(keep_line, got);
    log_warn("%s is %d", "x", 5);
    assert_string_equal(got, "2 x is 5");
    log_set(NULL, NULL);
    log_info("again");
    assert_string_equal(got, "2 x is 5");
}

/* The vectors of the paper's own Random123 library. */
static void test_philox(void **state) {
    (void)state;
    static const struct {
        uint64_t key;
        uint32_t c[4], v[4];
    } known[] = {
        {0, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX,
         {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        const uint32_t *c = known[i].c;
        struct philox r = philox(known[i].key, c[0], c[1], c[2], c[3]);
        assert_memory_equal(r.v, known[i].v, sizeof r.v);
    }
    assert_true(philox_unit(0) == 0);
    assert_true(philox_unit(UINT32_MAX) < 1);
    assert_true(philox_key(1, 2) != philox_key(1, 3) && philox_key(1, 2) != philox_key(2, 2));
}

/* The program is counted as it lies in memory, and brought in once. */
static void test_process(void **state) {
    (void)state;
    const size_t bytes = program_bytes();
    assert_true(bytes > 1 << 20 && bytes % 4096 == 0);
    assert_true(resident_bytes("VmRSS") > 1 << 20 && resident_bytes("VmHWM") > 1 << 20);
    assert_int_equal(resident_bytes("no such line"), 0);
    program_bring();
    assert_int_equal(program_bytes(), bytes);
#ifndef __SANITIZE_ADDRESS__ /* whose own program is larger than what is brought in */
    const size_t there = resident_bytes("RssFile");
    assert_true(there <= bytes && there > bytes - (1 << 20)); /* less what is written to */
    program_bring();
    assert_int_equal(resident_bytes("RssFile"), there);
    const size_t before = resident_bytes("RssAnon");
    heap_steady();
    volatile char *large = malloc(4 << 20);
    for (int i = 0; i < 4 << 20; i += 4096) large[i] = 1;
    assert_true(heap_bytes() >= 4 << 20 && resident_bytes("RssAnon") > before + (3 << 20));
    free((void *)large);
    assert_true(resident_bytes("RssAnon") < before + (1 << 20)); /* in pages of its own, gone at once */
#endif
}

/* What a process has of a mapping is what it has looked at, also where the file itself is in memory; bringing changes nothing else. */
static void test_resident(void **state) {
    (void)state;
    enum { PAGES = 1000, SIZE = 4096 };
    char *p = mmap(NULL, PAGES * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(resident_at(p, PAGES * SIZE), 0);
    for (int i = 0; i < 10; i++) p[i * 100 * SIZE + 7] = (char)(i + 1);
    assert_int_equal(resident_at(p, PAGES * SIZE), 10 * SIZE);
    assert_int_equal(resident_at(p + 1, 900 * SIZE + 9), 10 * SIZE - (SIZE - 10) - 1); /* of the first and last page what lies within */
    resident_bring(p + 5, 2 * SIZE);
    assert_int_equal(resident_at(p, 3 * SIZE), 3 * SIZE);
    assert_int_equal(resident_at(p, 4 * SIZE), 3 * SIZE);
    resident_bring(p, PAGES * SIZE);
    assert_int_equal(resident_at(p, PAGES * SIZE), PAGES * SIZE);
    for (int i = 0; i < 10; i++) assert_int_equal(p[i * 100 * SIZE + 7], i + 1);
    resident_bring(p, 0);
    munmap(p, PAGES * SIZE);
    assert_int_equal(resident_at(NULL, 0), 0);

    char name[96];
    snprintf(name, sizeof name, "%s/pages", folder);
    const int fd = open(name, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0 && pwrite(fd, "all of it is in memory", 22, 100 * SIZE) == 22);
    const char *file = mmap(NULL, 101 * SIZE, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(file != MAP_FAILED);
    assert_true(madvise((void *)file, 101 * SIZE, MADV_RANDOM) == 0); /* no neighbours */
    assert_int_equal(resident_at(file, 101 * SIZE), 0);
    assert_int_equal(file[100 * SIZE], 'a');
    const size_t there = resident_at(file, 101 * SIZE);
    assert_true(there >= SIZE && there <= 16 * SIZE);
    munmap((void *)file, 101 * SIZE);
    close(fd);
}

#ifndef __SANITIZE_ADDRESS__
static size_t anonymous(void) { return resident_bytes("RssAnon"); }

/* What is held is there, and what comes then lies in it: small pieces and one of half of it. */
static void test_hold(void **state) {
    (void)state;
    enum { HELD = 1 << 20, SLACK = 64 << 10, PIECES = 500 };
    char *piece[PIECES];
    heap_steady();
    heap_rest();
    const size_t before = anonymous();
    heap_hold(HELD);
    const size_t then = anonymous();
    assert_true(then > before + HELD - SLACK && then < before + HELD + SLACK);
    for (int round = 0; round < 2; round++) {
        char *large = malloc(HELD / 2 - SLACK);
        memset(large, 1, HELD / 2 - SLACK);
        for (int i = 0; i < PIECES; i++) memset(piece[i] = malloc(600), 1, 600);
        assert_true(anonymous() < then + SLACK);
        for (int i = 0; i < PIECES; i++) free(piece[i]);
        free(large);
        assert_true(anonymous() >= then - SLACK); /* freed or not, it stays */
    }
}
#endif

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return dir_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err),
        cmocka_unit_test(test_str),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_utf8_every_code_point),
        cmocka_unit_test(test_utf8_malformed),
        cmocka_unit_test(test_utf8_repair),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_atomic_write),
        cmocka_unit_test(test_failed_write_leaves_the_old_file),
        cmocka_unit_test(test_map_and_read),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_process),
        cmocka_unit_test(test_resident),
#ifndef __SANITIZE_ADDRESS__
        cmocka_unit_test(test_hold),
#endif
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
