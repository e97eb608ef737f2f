/* gzip and zstd: what is in comes out, in any number of members; what is cut, damaged or a bomb is refused with the place. */
#define _GNU_SOURCE
#include "data/text_file.h"
#include "data/source.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <cmocka.h>

static void gzip_to(str *out, const char *p, size_t n) {
    z_stream z = {0};
    size_t room = n + n / 10 + 1024;
    char *buf = malloc(room);
    deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    z.next_in = (Bytef *)p, z.avail_in = (uInt)n, z.next_out = (Bytef *)buf, z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    str_add(out, buf, room - z.avail_out);
    deflateEnd(&z);
    free(buf);
}

static void zstd_to(str *out, const char *p, size_t n) {
    size_t room = ZSTD_compressBound(n);
    char *buf = malloc(room);
    size_t k = ZSTD_compress(buf, room, p, n, 3);
    assert_false(ZSTD_isError(k));
    str_add(out, buf, k);
    free(buf);
}

static void (*const packers[])(str *, const char *, size_t) = {gzip_to, zstd_to};
static const char *const packed_names[] = {"gzip", "zstd"};

static void same_text(const struct text_file *t, const char *want, size_t n) {
    size_t got;
    char *buf = malloc(n + 10);
    assert_int_equal(t->n, n);
    assert_int_equal(text_file_read(t, 0, buf, n + 10, &got), OK);
    assert_int_equal(got, n);
    assert_memory_equal(buf, want, n);
    assert_int_equal(text_file_read(t, n / 2, buf, 5, &got), OK);
    assert_memory_equal(buf, want + n / 2, got);
    free(buf);
}

static void round_trips(void **state) {
    (void)state;
    str plain = {0};
    for (int i = 0; i < 40000; i++) str_addf(&plain, "line %d of many, %d\n", i, i * 7919 % 1000);
    for (int k = 0; k < 2; k++) {
        str one = {0}, two = {0}, twice = {0};
        packers[k](&one, plain.p, plain.n);
        packers[k](&two, plain.p, plain.n);
        packers[k](&two, plain.p, plain.n); /* two members are one text */
        str_add(&twice, plain.p, plain.n);
        str_add(&twice, plain.p, plain.n);
        if (!k) str_add(&one, "\0\0\0", 3); /* gzip's padding */
        struct text_file t;
        assert_int_equal(text_file_from("x", one.p, one.n, UINT64_MAX, &t), OK);
        assert_non_null(t.p);
        same_text(&t, plain.p, plain.n);
        text_file_close(&t);
        assert_int_equal(text_file_from("x", two.p, two.n, 1000, &t), OK);
        assert_null(t.p); /* beyond the limit: on disk */
        same_text(&t, twice.p, twice.n);
        text_file_close(&t);
        str_free(&one);
        str_free(&two);
        str_free(&twice);
    }
    str_free(&plain);
}

static void refuses(const char *bytes, size_t n, const char *part, const char *more) {
    struct text_file t;
    assert_int_equal(text_file_from("d.jsonl.x", bytes, n, UINT64_MAX, &t), E_INPUT);
    if (!strstr(err_text(), "d.jsonl.x: ") || !strstr(err_text(), part) || !strstr(err_text(), more)) fail_msg("\"%s\", \"%s\" not in: %s", part, more, err_text());
}

/* Cut anywhere, a stream is refused; a byte changed is refused, or (in what no checksum covers) changes nothing. */
static void cut_and_damaged(void **state) {
    (void)state;
    str plain = {0};
    for (int i = 0; i < 300; i++) str_addf(&plain, "line %d of many, %d\n", i, i * 7919 % 1000);
    for (int k = 0; k < 2; k++) {
        str one = {0};
        char at[32];
        packers[k](&one, plain.p, plain.n);
        for (size_t n = 4; n < one.n; n++) {
            snprintf(at, sizeof at, "at byte %zu", n);
            refuses(one.p, n, packed_names[k], at);
            assert_non_null(strstr(err_text(), "ends early"));
        }
        int refused = 0;
        for (size_t i = 20; i < one.n - 8; i += 5) {
            struct text_file t;
            one.p[i] ^= 0x55;
            err e = text_file_from("d", one.p, one.n, UINT64_MAX, &t);
            if (e) assert_non_null(strstr(err_text(), "byte"));
            else text_file_close(&t);
            refused += e == E_INPUT;
            one.p[i] ^= 0x55;
        }
        assert_true(refused > 20);
        str_add(&one, "junk", 4);
        refuses(one.p, one.n, k ? "damaged zstd" : "not gzip follow", "byte");
        str_free(&one);
    }
    str_free(&plain);
}

static void bombs(void **state) {
    (void)state;
    size_t n = 200 << 20;
    char *zeros = calloc(1, n);
    for (int k = 0; k < 2; k++) {
        str one = {0};
        packers[k](&one, zeros, n);
        refuses(one.p, one.n, "decompression bomb", "200 times");
        str_free(&one);
    }
    free(zeros);
}

static void spool_folder_that_is_not_there(void **state) {
    (void)state;
    str one = {0};
    struct text_file t;
    char *old = getenv("TMPDIR") ? strdup(getenv("TMPDIR")) : NULL;
    zstd_to(&one, "{\"text\": \"a\"}\n", 14);
    setenv("TMPDIR", "/nowhere", 1);
    assert_int_equal(text_file_from("d.zst", one.p, one.n, 3, &t), E_IO);
    assert_non_null(strstr(err_text(), "/nowhere"));
    assert_non_null(strstr(err_text(), "TMPDIR"));
    old ? setenv("TMPDIR", old, 1) : unsetenv("TMPDIR");
    free(old);
    str_free(&one);
}

static void unpacks_to_nothing(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        str one = {0};
        packers[k](&one, "", 0);
        refuses(one.p, one.n, "holds no records", "nothing");
        str_free(&one);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips), cmocka_unit_test(cut_and_damaged), cmocka_unit_test(bombs),
        cmocka_unit_test(spool_folder_that_is_not_there), cmocka_unit_test(unpacks_to_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
