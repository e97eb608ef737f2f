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
                           "{\"role\": \"assistant\", \"content\": \"hello\", \"weight\": 1}]}\n",
                           WANT_SFT, &s),
                     OK);
    assert_int_equal(s.n, 1);
    assert_int_equal(s.r[0].n_turns, 3);
    assert_string_equal(s.r[0].turns[2].role, "assistant");
    assert_string_equal(s.r[0].turns[2].content, "hello");
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

/* --- other shapes and containers ------------------------------------------------------------------------------------- */
static void is_turns(const struct source *s, int i, int line, ...) {
    va_list ap;
    va_start(ap, line);
    assert_int_equal(s->r[i].line, line);
    for (int k = 0; k < s->r[i].n_turns; k++) {
        assert_string_equal(s->r[i].turns[k].role, va_arg(ap, const char *));
        assert_string_equal(s->r[i].turns[k].content, va_arg(ap, const char *));
    }
    assert_null(va_arg(ap, const char *));
    va_end(ap);
}

static void alpaca(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(parse("d.json",
                           " [\n {\"instruction\": \"add\", \"input\": \"1 2\", \"output\": \"3\"},\n"
                           "{\"instruction\": \"go }],[\", \"input\": \"\", \"output\": \"ok\", \"system\": \"S\",\n\"history\": [[\"q\", \"a\"], [\"r\", \"b\"]]} ]\n",
                           WANT_SFT, &s),
                     OK);
    assert_int_equal(s.n, 2);
    is_turns(&s, 0, 2, "user", "add\n1 2", "assistant", "3", NULL);
    is_turns(&s, 1, 3, "system", "S", "user", "q", "assistant", "a", "user", "r", "assistant", "b", "user", "go }],[", "assistant", "ok", NULL);
    assert_true(source_has_turns(&s));
    source_close(&s);
    REFUSED(WANT_SFT, "{\"instruction\": \"a\"}\n", "d.jsonl:1: no field \"output\"", "\"instruction\"");
    REFUSED(WANT_SFT, "{\"instruction\": \"a\", \"output\": \" \"}\n", "d.jsonl:1: \"output\" holds no text");
    REFUSED(WANT_SFT, "{\"instruction\": \"a\", \"input\": 3, \"output\": \"b\"}\n", "\"input\" is a number, not a string");
    REFUSED(WANT_SFT, "{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"q\"]]}\n", "\"history\"[0]: wants a question and its answer");
    REFUSED(WANT_SFT, "{\"instruction\": \"a\", \"output\": \"b\", \"history\": 3}\n", "\"history\" is a number, not an array");
}

static void sharegpt(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(parse("d.jsonl",
                           "{\"system\": \"S\", \"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", \"value\": \"b\"}]}\n"
                           "{\"conversations\": [{\"from\": \"system\", \"value\": \"T\"}, {\"from\": \"user\", \"value\": \"c\"}, {\"from\": \"assistant\", \"value\": \"d\"}]}\n",
                           WANT_SFT, &s),
                     OK);
    is_turns(&s, 0, 1, "system", "S", "user", "a", "assistant", "b", NULL);
    is_turns(&s, 1, 2, "system", "T", "user", "c", "assistant", "d", NULL);
    source_close(&s);
    REFUSED(WANT_SFT, "{\"conversations\": [{\"from\": \"observation\", \"value\": \"a\"}]}\n",
            "d.jsonl:1: \"conversations\"[0]: unknown role \"observation\"", "human, gpt");
    REFUSED(WANT_SFT, "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}]}\n", "d.jsonl:1: \"conversations\" has no assistant's turn");
    REFUSED(WANT_SFT, "{\"conversations\": [{\"role\": \"user\", \"value\": \"a\"}]}\n", "\"conversations\"[0]: no field \"from\"", "\"role\"");
}

static void prompts_as_lists(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(parse("d.jsonl",
                           "{\"prompt\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"a\"}], "
                           "\"completion\": [{\"role\": \"assistant\", \"content\": \"b\"}]}\n",
                           WANT_SFT, &s),
                     OK);
    is_turns(&s, 0, 1, "system", "S", "user", "a", "assistant", "b", NULL);
    source_close(&s);
    refused("d.jsonl",
            "{\"prompt\": [{\"role\": \"assistant\", \"content\": \"a\"}], \"completion\": [{\"role\": \"assistant\", \"content\": \"b\"}]}\n", 108, WANT_SFT,
            E_UNSUPPORTED, "d.jsonl:1: \"prompt\"[0] is an assistant's turn", "messages", NULL);
}

static void one_shape_a_file(void **state) {
    (void)state;
#define MESSAGES "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n"
    REFUSED(WANT_SFT, MESSAGES "{\"prompt\": \"p\", \"completion\": \"c\"}\n", "d.jsonl:2: is of shape prompt_completion", "began (line 1) with messages");
    REFUSED(WANT_SFT, "\n{\"instruction\": \"p\", \"output\": \"c\"}\n" MESSAGES, "d.jsonl:3: is of shape messages", "began (line 2) with alpaca");
    REFUSED(WANT_SFT, "{\"prompt\": \"p\", \"completion\": \"c\"}\n{\"prompt\": [], \"completion\": []}\n", "d.jsonl:2: is of shape prompt_completion of messages");
    REFUSED(WANT_SFT, "{\"prompt\": \"p\", \"completion\": \"c\"}\n{\"prompt\": \"p\"}\n", "d.jsonl:2: no field \"completion\"");
    REFUSED(WANT_SFT, "{\"question\": \"p\", \"answer\": \"c\"}\n", "d.jsonl:1: no \"messages\"", "\"question\", \"answer\"", "known shapes", "alpaca", "sharegpt");
}

static err parse_as(const char *path, const char *format, const char *text, enum source_want want, struct source *s) {
    return source_parse_as(&(struct source_file){.path = path, .format = format}, text, strlen(text), &(struct source_options){.want = want, .in_memory = UINT64_MAX}, s);
}

static void named_formats(void **state) {
    (void)state;
    struct source s;
    const char *both = "{\"messages\": [], \"instruction\": \"a\", \"output\": \"b\"}\n";
    assert_int_equal(parse_as("d", "alpaca", both, WANT_SFT, &s), OK); /* a name without an ending: JSONL */
    is_turns(&s, 0, 1, "user", "a", "assistant", "b", NULL);
    source_close(&s);
    assert_int_equal(parse_as("d", "csv", "text\nab\n", WANT_TEXT, &s), OK);
    assert_string_equal(s.r[0].text, "ab");
    source_close(&s);
    assert_int_equal(parse_as("d.jsonl", "lines", "{\"text\": 1}\n", WANT_TEXT, &s), OK);
    assert_string_equal(s.r[0].text, "{\"text\": 1}");
    source_close(&s);
    assert_int_equal(parse_as("d.md", "document", "\xEF\xBB\xBF\n# a\r\n\nb\r\n", WANT_TEXT, &s), OK);
    assert_int_equal(s.n, 1);
    assert_string_equal(s.r[0].text, "\n# a\r\n\nb\r\n");
    source_close(&s);
    assert_int_equal(parse_as("d.md", "document", " \n", WANT_TEXT, &s), E_INPUT);
    assert_non_null(strstr(err_text(), "d.md: holds no records"));
    assert_int_equal(parse_as("d.md", "document", "ab\n\xFF", WANT_TEXT, &s), E_INPUT);
    assert_non_null(strstr(err_text(), "d.md:1: invalid UTF-8 (byte 0xff at byte 4)"));
    assert_int_equal(parse_as("d.md", "document", "ab", WANT_PAIR, &s), E_USAGE);
    assert_int_equal(parse_as("d.jsonl", "text", "{\"text\": \"ab\"}\n", WANT_SFT, &s), OK);
    assert_string_equal(s.r[0].text, "ab");
    source_close(&s);
    assert_int_equal(parse_as("d.jsonl", "parquet", "", WANT_SFT, &s), E_USAGE);
    assert_non_null(strstr(err_text(), "d.jsonl: format 'parquet' is not known"));
    assert_int_equal(parse_as("d.jsonl", "alpaca", both, WANT_TEXT, &s), E_USAGE);
    assert_non_null(strstr(err_text(), "a text is wanted"));
    assert_int_equal(parse_as("d.jsonl", "text", both, WANT_PAIR, &s), E_USAGE);
    assert_non_null(strstr(err_text(), "two texts are wanted"));
    assert_int_equal(parse_as("d.jsonl", "messages", "{\"prompt\": \"a\"}\n", WANT_SFT, &s), E_INPUT);
    assert_non_null(strstr(err_text(), "d.jsonl:1: no field \"messages\" (the line has \"prompt\")"));
}

static void tables(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(parse("d.csv",
                           "\xEF\xBB\xBFid,prompt,completion\r\n1,\"say \"\"x\"\", \nor not\",yes\r\n\r\n2, a\"b\"\"c ,\"no\"", WANT_PAIR, &s),
                     OK);
    assert_int_equal(s.n, 2);
    assert_string_equal(s.r[0].prompt, "say \"x\", \nor not");
    assert_string_equal(s.r[0].completion, "yes");
    assert_int_equal(s.r[0].line, 2);
    assert_string_equal(s.r[1].prompt, " a\"b\"\"c ");
    assert_string_equal(s.r[1].completion, "no");
    assert_int_equal(s.r[1].line, 5);
    source_close(&s);
    assert_int_equal(parse("d.tsv", "instruction\tinput\toutput\nadd, all\t\t3\n", WANT_SFT, &s), OK);
    is_turns(&s, 0, 2, "user", "add, all", "assistant", "3", NULL);
    source_close(&s);
    static const struct { const char *text, *part; } bad[] = {
        {"", "holds no records"},
        {"text\n", "holds no records"},
        {"text,b\nx\n", "d.csv:2: 1 fields, but the header has 2"},
        {"text\nx\nx,y\n", "d.csv:3: 2 fields, but the header has 1"},
        {"text\nx\n\n\"y\n\nz\n", "d.csv:4: a quote is opened in this record and never closed"},
        {"text,b\n\"x\"y,1\n", "d.csv:2: column 1: text after a closing quote"},
        {"text,text\nx,y\n", "d.csv:1: two columns of the header are named \"text\""},
        {"text,\nx,y\n", "d.csv:1: column 2 of the header has no name"},
        {"t\xFF,text\nx,y\n", "d.csv:1: column 1 of the header is not UTF-8"},
        {"text\na\xFF\n", "d.csv:2: column \"text\": invalid UTF-8"},
        {"body\nx\n", "d.csv:2: no field \"text\" (the line has \"body\")"},
        {"text,b\n\"\",1\n", "d.csv:2: \"text\" holds no text"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused("d.csv", bad[i].text, strlen(bad[i].text), WANT_TEXT, E_INPUT, bad[i].part, NULL);
    refused("d.csv", "text\na\0b\n", 9, WANT_TEXT, E_INPUT, "d.csv:2: column \"text\": a NUL", NULL);
}

static void arrays(void **state) {
    (void)state;
    struct source s;
    assert_int_equal(parse("d.json", "\xEF\xBB\xBF[{\"text\": \"a\\\"}{\"},{\"text\": \"b\"}\n,{\"text\": \"c\"}]", WANT_TEXT, &s), OK);
    assert_int_equal(s.n, 3);
    assert_string_equal(s.r[0].text, "a\"}{");
    assert_int_equal(s.r[2].line, 2);
    source_close(&s);
    static const struct { const char *text, *part; } bad[] = {
        {"[]", "holds no records"},
        {"[\n{\"text\": \"a\"},\n3]", "d.json:3: not a JSON array of objects: an object expected, found '3'"},
        {"[{\"text\": \"a\"} {\"text\": \"b\"}]", "d.json:1: not a JSON array of objects: ',' or ']' expected, found '{'"},
        {"[{\"text\": \"a\"},]", "an object expected, found ']'"},
        {"[{\"text\": \"a\"}", "d.json:1: the JSON array is cut off"},
        {"[{\"text\": \"a", "d.json:1: the JSON array is cut off"},
        {"[{\"text\": \"a\"}]\n[", "d.json:2: not a JSON array of objects: the end of the file expected, found '['"},
        {"[{\"text\" \"a\"}]", "d.json:1: the array's object that begins here is not JSON"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused("d.json", bad[i].text, strlen(bad[i].text), WANT_TEXT, E_INPUT, bad[i].part, NULL);
}

/* --- several files, limits, streaming, splits ------------------------------------------------------------------------ */
static void several_files(void **state) {
    (void)state;
    char path[3][32] = {"/tmp/test_source_XXXXXX.jsonl", "/tmp/test_source_XXXXXX.csv", "/tmp/test_source_XXXXXX.txt"};
    static const int ending[] = {6, 4, 4};
    struct source_file f[3];
    for (int k = 0; k < 3; k++) {
        FILE *out = fdopen(mkstemps(path[k], ending[k]), "w");
        if (k == 1) fputs("text\n", out);
        for (int i = 0; i < 100; i++) fprintf(out, k == 0 ? "{\"text\": \"%d:%d\"}\n\n" : k == 1 ? "\"%d:%d\"\n" : "%d:%d\n", k, i);
        fclose(out);
        f[k] = (struct source_file){.path = path[k], .limit = k == 1 ? 40 : 0, .weight = k == 2 ? 2 : 0};
    }
    struct source parsed, streamed, thin, other;
    struct source_options o = {.want = WANT_TEXT, .in_memory = UINT64_MAX};
    assert_int_equal(source_open_files(f, 3, &o, &parsed), OK);
    o.in_memory = 100;
    assert_int_equal(source_open_files(f, 3, &o, &streamed), OK);
    assert_true(streamed.streams && !parsed.streams && !streamed.r);
    assert_int_equal(parsed.n, 240);
    assert_int_equal(streamed.n, 240);
    assert_string_equal(parsed.hash, streamed.hash);
    assert_non_null(strstr(parsed.path, "and 2 more"));
    o.marks = 7; /* 240 records would have 16: every other one goes, twice */
    assert_int_equal(source_open_files(f, 3, &o, &thin), OK);
    assert_true(thin.stride == 64 && thin.marks <= 7 && thin.bytes < streamed.bytes);
    o.marks = 0;
    for (int i = 0; i < 4000; i++) { /* in order, then anywhere */
        static struct fetcher fetch[2];
        const int k = i < 480 ? i / 2 : (i * 7919) % 240;
        struct record r;
        assert_int_equal(source_fetch(i % 2 ? &thin : &streamed, k, &fetch[i % 2], &r), OK);
        assert_string_equal(r.text, parsed.r[k].text);
        assert_int_equal(r.line, parsed.r[k].line);
        assert_int_equal(r.part, parsed.r[k].part);
        if (i >= 3998) fetcher_free(&fetch[i % 2]);
    }
    source_close(&thin);
    f[2].weight = 3;
    assert_int_equal(source_open_files(f, 3, &o, &other), OK);
    assert_string_not_equal(parsed.hash, other.hash); /* another run: resume must see it */
    source_close(&other);
    source_close(&parsed);
    source_close(&streamed);
    for (int k = 0; k < 3; k++) unlink(path[k]);
}

static void splits(void **state) {
    (void)state;
    str text = {0};
    for (int i = 0; i < 2000; i++) str_addf(&text, "line %d\r\n", i % 1000);
    struct source side[2];
    int seen[1000] = {0};
    for (int k = 0; k < 2; k++) {
        struct source_options o = {.want = WANT_TEXT, .in_memory = UINT64_MAX, .split = 0.1, .held_out = k};
        assert_int_equal(source_parse_as(&(struct source_file){.path = "d.txt"}, text.p, text.n, &o, &side[k]), OK);
        for (int i = 0; i < side[k].n; i++) seen[atoi(side[k].r[i].text + 5)] |= 1 << k;
    }
    assert_int_equal(side[0].n + side[1].n, 2000);
    assert_in_range(side[1].n, 130, 270); /* 200, five standard deviations of 1,000 different ones each way */
    for (int i = 0; i < 1000; i++) assert_true(seen[i] == 1 || seen[i] == 2); /* equal records on one side */
    source_close(&side[0]);
    source_close(&side[1]);
    struct source_options o = {.want = WANT_TEXT, .in_memory = UINT64_MAX, .split = 1e-9, .held_out = true};
    assert_int_equal(source_parse_as(&(struct source_file){.path = "d.txt"}, text.p, text.n, &o, &side[0]), E_INPUT);
    assert_non_null(strstr(err_text(), "d.txt: no record falls on the held-out side"));
    str_free(&text);
}

static void a_file_that_changes(void **state) {
    (void)state;
    char path[] = "/tmp/test_source_XXXXXX.txt";
    FILE *out = fdopen(mkstemps(path, 4), "w");
    for (int i = 0; i < 3000; i++) fprintf(out, "line %d of the file\n", i);
    fclose(out);
    struct source s;
    struct fetcher fetch = {0};
    struct record r;
    assert_int_equal(source_open_files(&(struct source_file){.path = path}, 1, &(struct source_options){.want = WANT_TEXT}, &s), OK);
    assert_int_equal(truncate(path, 1000), 0);
    assert_int_equal(source_fetch(&s, 2500, &fetch, &r), E_INPUT);
    assert_non_null(strstr(err_text(), path));
    assert_non_null(strstr(err_text(), "did it change?"));
    fetcher_free(&fetch);
    source_close(&s);
    unlink(path);
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
        cmocka_unit_test(alpaca),          cmocka_unit_test(sharegpt),
        cmocka_unit_test(prompts_as_lists), cmocka_unit_test(one_shape_a_file),
        cmocka_unit_test(named_formats),   cmocka_unit_test(tables),
        cmocka_unit_test(arrays),          cmocka_unit_test(several_files),
        cmocka_unit_test(splits),          cmocka_unit_test(a_file_that_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
