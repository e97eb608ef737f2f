/* Lines to records, and every refusal with its file:line. The parser itself is tried from memory; one case each goes
 * through a real file. */
#define _GNU_SOURCE
#include "data/source.h"
#include "base/file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static err parse(const char *path, const char *text, enum source_want want, struct source *s) {
    return source_parse(path, text, strlen(text), want, NULL, NULL, s);
}

/* The text must be refused with this code and with every one of the words (NULL-ended) in the message. */
static void refused(const char *path, const char *text, size_t n, enum source_want want, err code, ...) {
    struct source s;
    err e = source_parse(path, text, n, want, NULL, NULL, &s);
    if (e != code) fail_msg("%.60s: code %d, not %d (%s)", text, e, code, e ? err_text() : "accepted");
    assert_null(s.r);
    va_list ap;
    va_start(ap, code);
    for (const char *w; (w = va_arg(ap, const char *));)
        if (!strstr(err_text(), w)) fail_msg("\"%s\" is not in: %s", w, err_text());
    va_end(ap);
}
#define REFUSED(want, text, ...) refused("d.jsonl", text, sizeof(text) - 1, want, E_INPUT, __VA_ARGS__, NULL)

static void texts(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(
        parse("d.jsonl",
              "\xEF\xBB\xBF{\"text\": \"one\", \"ref\": \"Gen.1.1\", \"n\": 123456789012345678901234567890}\r\n"
              "\r\n  \t\n"
              "{\"text\": \"tw\\u00f6 \\ud83d\\ude00\"}",
              WANT_TEXT, &s),
        OK);
    assert_int_equal(s.n, 2);
    assert_string_equal(s.path, "d.jsonl");
    assert_string_equal(s.r[0].text, "one");
    assert_int_equal(s.r[0].line, 1);
    assert_string_equal(s.r[1].text, "tw\xC3\xB6 \xF0\x9F\x98\x80");
    assert_int_equal(s.r[1].line, 4);
    assert_null(s.r[1].prompt);
    assert_int_equal(strlen(s.hash), 32);
    source_close(&s);
}

static void plain_lines(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(parse("d.txt", "\xEF\xBB\xBF first \r\n\n{\"not\": json\n\xC3\xA9t\xC3\xA9", WANT_TEXT, &s), OK);
    assert_int_equal(s.n, 3);
    assert_string_equal(s.r[0].text, " first ");
    assert_string_equal(s.r[1].text, "{\"not\": json");
    assert_int_equal(s.r[1].line, 3);
    assert_string_equal(s.r[2].text, "\xC3\xA9t\xC3\xA9");
    source_close(&s);
    refused("d.txt", "ok\nbad \xC3(", 9, WANT_TEXT, E_INPUT, "d.txt:2: ", "UTF-8", "0xc3", "column 5", NULL);
    refused("d.txt", "ok\na\0b", 6, WANT_TEXT, E_INPUT, "d.txt:2: ", "NUL", NULL);
    refused("d.txt", "a\n", 2, WANT_PAIR, E_USAGE, "d.txt", ".jsonl", NULL);
    refused("d.txt", "a\n", 2, WANT_SFT, E_USAGE, "d.txt", ".jsonl", NULL);
    assert_int_equal(source_parse("d.txt", "a", 1, WANT_TEXT, "text", NULL, &s), OK); /* a field name is no use here */
    source_close(&s);
}

static void pairs_and_named_fields(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(parse("d.json", "{\"completion\": \"c\", \"prompt\": \"p\"}\n", WANT_PAIR, &s), OK);
    assert_string_equal(s.r[0].prompt, "p");
    assert_string_equal(s.r[0].completion, "c");
    source_close(&s);
    const char *ab = "{\"ref\": 1, \"a\": \"x\", \"b\": \"y\"}\n";
    assert_int_equal(source_parse("d.jsonl", ab, strlen(ab), WANT_PAIR, "a", "b", &s), OK);
    assert_string_equal(s.r[0].prompt, "x");
    assert_string_equal(s.r[0].completion, "y");
    source_close(&s);
    assert_int_equal(source_parse("d.jsonl", ab, strlen(ab), WANT_TEXT, "b", NULL, &s), OK);
    assert_string_equal(s.r[0].text, "y");
    source_close(&s);
}

static void conversations(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(parse("d.jsonl",
                           "{\"messages\": [{\"role\": \"system\", \"content\": \"be brief\"}, {\"role\": \"user\", "
                           "\"content\": \"hi\"},"
                           "{\"role\": \"assistant\", \"content\": \"hello\", \"weight\": 1}]}\n"
                           "{\"prompt\": \"p\", \"completion\": \"c\"}\n",
                           WANT_SFT, &s),
                     OK);
    assert_int_equal(s.n, 2);
    assert_int_equal(s.r[0].n_turns, 3);
    assert_string_equal(s.r[0].turns[2].role, "assistant");
    assert_string_equal(s.r[0].turns[2].content, "hello");
    assert_int_equal(s.r[1].n_turns, 0);
    assert_string_equal(s.r[1].prompt, "p");
    source_close(&s);
}

static void refused_lines(void **state) {
    (void)state;
    REFUSED(WANT_TEXT, "", "d.jsonl: holds no records");
    REFUSED(WANT_TEXT, "\n \r\n", "d.jsonl: holds no records");
    REFUSED(WANT_TEXT, "{\"text\": \"a\"}\n\nnot json\n", "d.jsonl:3: ", "JSON");
    REFUSED(WANT_TEXT, "{\"text\": \"a\"} {\"text\": \"b\"}\n", "d.jsonl:1: ", "column");
    REFUSED(WANT_TEXT, "{\n\"text\": \"a\"}\n", "d.jsonl:1: ", "one line");
    REFUSED(WANT_TEXT, "[{\"text\": \"a\"},\n", "d.jsonl:1: ", "one object per line");
    REFUSED(WANT_TEXT, "[{\"text\": \"a\"}]\n", "d.jsonl:1: ", "is an array, not a JSON object");
    REFUSED(WANT_TEXT, "\"text\"\n", "d.jsonl:1: ", "is a string");
    REFUSED(WANT_TEXT, "{\"text\": \"a\", \"text\": \"b\"}\n", "d.jsonl:1: ", "duplicate");
    REFUSED(WANT_TEXT, "{\"txt\": \"a\", \"id\": 1}\n", "d.jsonl:1: no field \"text\"", "\"txt\", \"id\"");
    REFUSED(WANT_TEXT, "{}\n", "d.jsonl:1: no field \"text\"");
    REFUSED(WANT_TEXT, "{\"text\": null}\n", "d.jsonl:1: ", "\"text\" is null, not a string");
    REFUSED(WANT_TEXT, "{\"text\": 3}\n", "\"text\" is a number");
    REFUSED(WANT_TEXT, "{\"text\": \" \\n\"}\n", "d.jsonl:1: \"text\" holds no text");
    REFUSED(WANT_TEXT, "{\"text\": \"a\\u0000b\"}\n", "d.jsonl:1: ", "NUL");
    REFUSED(WANT_TEXT, "{\"text\": \"a\0b\"}\n", "d.jsonl:1: ");
    REFUSED(WANT_TEXT, "{\"text\": \"a\"}\n{\"text\": \"\xC3(\"}\n", "d.jsonl:2: ");
    REFUSED(WANT_TEXT, "{\"text\": \"\\ud800\"}\n", "d.jsonl:1: ");
    REFUSED(WANT_PAIR, "{\"prompt\": \"a\", \"completion\": \"\"}\n", "d.jsonl:1: \"completion\" holds no text");
    REFUSED(WANT_PAIR, "{\"prompt\": \"a\"}\n", "no field \"completion\"");
    REFUSED(WANT_PAIR, "{\"prompt\": [], \"completion\": \"a\"}\n", "\"prompt\" is an array");
}

static void refused_conversations(void **state) {
    (void)state;
    REFUSED(WANT_SFT, "{\"text\": \"a\"}\n", "d.jsonl:1: no \"messages\" and no \"prompt\"", "\"text\"");
    REFUSED(WANT_SFT, "{\"messages\": [], \"prompt\": \"a\"}\n", "d.jsonl:1: ", "both");
    REFUSED(WANT_SFT, "{\"messages\": \"a\"}\n", "\"messages\" is a string, not an array");
    REFUSED(WANT_SFT, "{\"messages\": []}\n", "no assistant's turn");
    REFUSED(WANT_SFT, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
            "d.jsonl:1: ", "no assistant's turn");
    REFUSED(WANT_SFT, "{\"messages\": [3]}\n", "d.jsonl:1: \"messages\"[0]: is a number");
    REFUSED(WANT_SFT, "{\"messages\": [{\"role\": \"user\", \"content\": [\"a\"]}]}\n",
            "d.jsonl:1: \"messages\"[0]: \"content\" is an array");
    REFUSED(WANT_SFT, "{\"messages\": [{\"role\": \"user\"}]}\n", "no field \"content\"");
    REFUSED(WANT_SFT, "{\"messages\": [{\"content\": \"user\"}]}\n", "no field \"role\"");
    REFUSED(WANT_SFT,
            "\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"robot\", \"content\": \"a\"}]}\n",
            "d.jsonl:2: \"messages\"[1]: unknown role \"robot\"", "assistant");
}

static void very_long_lines(void **state) {
    (void)state;
    enum { N = 5 << 20 };
    char *text = malloc(N + 64);
    size_t n = (size_t)sprintf(text, "{\"text\": \"");
    memset(text + n, 'x', N);
    n += N;
    n += (size_t)sprintf(text + n, "\"}");
    struct source s;
    assert_int_equal(source_parse("d.jsonl", text, n, WANT_TEXT, NULL, NULL, &s), OK);
    assert_int_equal(strlen(s.r[0].text), N);
    source_close(&s);
    memset(text, '[', N); /* as deep as it is long */
    assert_int_equal(source_parse("d.jsonl", text, N, WANT_TEXT, NULL, NULL, &s), E_INPUT);
    free(text);
}

static void many_lines_from_a_file(void **state) {
    (void)state;
    char path[] = "/tmp/test_source_XXXXXX.jsonl", hash[33];
    int fd = mkstemps(path, 6);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    for (int i = 0; i < 1000; i++) fprintf(f, "{\"text\": \"line %d\"}\n\n", i);
    fclose(f);
    struct source s;
    assert_int_equal(source_open(path, WANT_TEXT, NULL, NULL, &s), OK);
    assert_int_equal(s.n, 1000);
    assert_string_equal(s.r[999].text, "line 999");
    assert_int_equal(s.r[999].line, 1999);
    assert_int_equal(file_hash(path, hash), OK);
    assert_string_equal(hash, s.hash);
    source_close(&s);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(source_open(path, WANT_TEXT, NULL, NULL, &s), E_INPUT);
    unlink(path);
    assert_int_equal(source_open(path, WANT_TEXT, NULL, NULL, &s), E_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),           cmocka_unit_test(plain_lines),
        cmocka_unit_test(conversations),   cmocka_unit_test(pairs_and_named_fields),
        cmocka_unit_test(refused_lines),   cmocka_unit_test(refused_conversations),
        cmocka_unit_test(very_long_lines), cmocka_unit_test(many_lines_from_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
