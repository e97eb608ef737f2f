/* Fuzz target for data/source.c. The first byte picks what is wanted and the format, the rest is the file.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/fuzz_jsonl.c src/data/source.c src/base/[aefs]*.c
 *         -ljansson -o fuzz_jsonl && ./fuzz_jsonl tests/fuzz/corpus/jsonl
 *
 * Beside not crashing: what is accepted must be what source.h promises, what is refused must say why and where.
 * tests/unit/test_fuzz_jsonl.c replays the corpus in every test run. */
#include "data/source.h"
#include "base/str.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void must(int truth) {
    if (!truth) abort();
}

/* A promised string: there, not empty, valid UTF-8. */
static void check_string(const char *s) {
    must(s && *s);
    unsigned cp;
    for (size_t i = 0, n = strlen(s), len; i < n; i += len) must((len = (size_t)utf8_decode(s + i, n - i, &cp)) > 0);
}

static void check_record(const struct record *r, enum source_want want, int after) {
    must(r->line > after);
    if (want == WANT_TEXT) check_string(r->text);
    else if (r->n_turns) must(want == WANT_SFT);
    else {
        check_string(r->prompt);
        check_string(r->completion);
    }
    for (int i = 0; i < r->n_turns; i++) {
        check_string(r->turns[i].role);
        check_string(r->turns[i].content);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    enum source_want want = data[0] % 3u;
    const char *path = data[0] & 64 ? "fuzz.txt" : "fuzz.jsonl";
    struct source s;
    err e = source_parse(path, data + 1, size - 1, want, NULL, NULL, &s);
    if (e) {
        must(strstr(err_text(), path) != NULL);
        must(!s.r && !s.n);
        return 0;
    }
    must(s.n > 0);
    for (int i = 0; i < s.n; i++) check_record(&s.r[i], want, i ? s.r[i - 1].line : 0);
    source_close(&s);
    return 0;
}
