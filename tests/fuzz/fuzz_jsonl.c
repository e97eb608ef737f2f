/* Fuzz target for data/source.c and what is under it. The first byte picks what is wanted (its remainder by 4; with bit 7
 * also bit 5: anything; with bit 2: numbers, tags, words, tags of CoNLL) and the kind of file (bit 6: plain lines; bit 7: bits 3 and 4 pick an array, CSV, TSV or JSONL),
 * the rest is the file. gzip and zstd are recognised by themselves.
 *
 *   tools/fuzz.sh builds and runs it with libFuzzer.
 *
 * Beside not crashing: what is accepted must be what source.h promises, what is refused must say why and where, and a
 * scanner that sees the file through a small window must find the same records as one that has all of it.
 * tests/unit/test_fuzz_jsonl.c replays the corpus in every test run. */
#define _GNU_SOURCE
#include "data/said.h"
#include "data/source.h"
#include "base/str.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
    must(r->line >= after);
    must(want != WANT_NUMBERED || r->n_numbers > 0);
    for (int i = 0; i < r->n_numbers; i++) must(isfinite(r->number[i]));
    if (want == WANT_TAGGED || want == WANT_WORDS) {
        must(r->n_words > 0 && !r->tags == (want == WANT_WORDS));
        for (int i = 0; i < r->n_words; i++) must(r->words[i] && (!r->tags || r->tags[i]));
        return;
    }
    if (want == WANT_TEXT || r->text) {
        must(want == WANT_TEXT || want == WANT_ANY || want == WANT_LABELLED || want == WANT_NUMBERED || want == WANT_QUESTION);
        must(want != WANT_QUESTION || r->n_words > 0);
        for (int i = 0; i < r->n_words; i++) check_string(r->words[i]);
        check_string(r->text);
        if (want == WANT_LABELLED) check_string(r->label);
    } else if (r->n_turns) must(want >= WANT_SFT);
    else {
        check_string(r->prompt);
        check_string(r->completion);
    }
    for (int i = 0; i < r->n_turns; i++) {
        check_string(r->turns[i].role);
        check_string(r->turns[i].content);
    }
}

/* The same text on disk, seen through a window that begins with a few bytes. */
static void check_window(const struct text_file *t, enum container kind, size_t window) {
    static int fd = -1;
    struct text_file disk = *t;
    struct scanner whole, part;
    if (fd < 0) fd = memfd_create("fuzz", MFD_CLOEXEC);
    must(fd >= 0 && !ftruncate(fd, 0) && pwrite(fd, t->p, t->n, 0) == (ssize_t)t->n);
    disk.p = NULL;
    disk.fd = fd;
    scan_begin(&whole, t, kind);
    scan_begin(&part, &disk, kind);
    part.window = window;
    for (bool found = true, again; found;) {
        struct extent x, y;
        err e = scan_next(&whole, &x, &found), f = scan_next(&part, &y, &again);
        must(e == f && found == again);
        if (e) break;
        must(!found || (x.at == y.at && x.n == y.n && x.line == y.line && !memcmp(x.p, y.p, x.n)));
    }
    scan_end(&whole);
    scan_end(&part);
}

static bool same_text(const struct record *a, const struct record *b) {
    str x = {0}, y = {0};
    must(said_text(a, &x) == OK && said_text(b, &y) == OK);
    const bool same = x.n == y.n && (!x.n || !memcmp(x.p, y.p, x.n));
    str_clear(&y);
    must(said_normal(x.p ? x.p : "", x.n, &y) == OK && y.n <= 18 * x.n); /* NFKC: of one character at most 18 */
    str_free(&x);
    str_free(&y);
    return same;
}

/* Written as a line of JSONL, a record says what it said. */
static void check_line(const struct source_part *part, const struct extent *x, const struct record *r) {
    struct layout as_line = part->layout;
    struct record again;
    arena mem = {0};
    str line = {0};
    as_line.container = IN_JSONL;
    must(record_line(&part->layout, x, &line) == OK && memchr(line.p, '\n', line.n) == line.p + line.n - 1);
    must(record_parse(&as_line, &(struct extent){line.p, line.n - 1, 0, x->line}, &mem, &again) == OK);
    must(again.n_turns == r->n_turns && again.n_words == r->n_words && again.n_numbers == r->n_numbers && same_text(r, &again));
    arena_free(&mem);
    str_free(&line);
}

static void check_streamed(const struct source *s, const struct source_file *f, const uint8_t *bytes, size_t n, const struct source_options *o) {
    struct source_options on_disk = *o;
    struct source again;
    struct fetcher fetch = {0};
    struct record r;
    on_disk.in_memory = 0;
    must(source_parse_as(f, bytes, n, &on_disk, &again) == OK && again.streams && again.n == s->n);
    for (int i = s->n - 1; i >= 0; i -= 1 + s->n / 16) {
        must(source_fetch(&again, i, &fetch, &r) == OK && r.line == s->r[i].line && r.n_turns == s->r[i].n_turns && r.n_words == s->r[i].n_words && r.n_numbers == s->r[i].n_numbers);
        must(!r.text == !s->r[i].text && (!r.text || !strcmp(r.text, s->r[i].text)));
        const struct source_part *part;
        struct extent x;
        struct fetcher scan = {0};
        must(source_scan(&again, i, &scan, &x, &part) == OK);
        if (part->layout.container != IN_CONLL) check_line(part, &x, &r);
        fetcher_free(&scan);
    }
    fetcher_free(&fetch);
    source_close(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"fuzz.json", "fuzz.csv", "fuzz.tsv", "fuzz.jsonl"};
    static const enum source_want wants[] = {WANT_TEXT, WANT_PAIR, WANT_SFT, WANT_LABELLED, WANT_NUMBERED, WANT_TAGGED, WANT_WORDS, WANT_TAGGED};
    if (!size) return 0;
    uint8_t pick = data[0];
    struct source_options o = {.want = pick & 128 && pick & 32 ? pick & 64 ? WANT_QUESTION : WANT_ANY : wants[pick % 8u],
                               .in_memory = UINT64_MAX};
    struct source_file f = {.path = (pick & 7) == 7 ? "fuzz.conll" : pick & 128 ? names[pick >> 3 & 3] : pick & 64 ? "fuzz.txt" : "fuzz.jsonl"};
    struct source s;
    struct text_file t;
    if (size > 1 && size < 4096 && text_file_from(f.path, data + 1, size - 1, UINT64_MAX, &t) == OK) {
        for (int kind = IN_LINES; kind <= IN_DOCUMENT; kind++) check_window(&t, (enum container)kind, 1 + pick % 13u);
        text_file_close(&t);
    }
    err e = source_parse_as(&f, data + 1, size - 1, &o, &s);
    if (e) {
        must(strstr(err_text(), f.path) != NULL);
        must(!s.r && !s.n);
        return 0;
    }
    must(s.n > 0 && strlen(s.hash) == 32);
    for (int i = 0; i < s.n; i++) check_record(&s.r[i], o.want, i ? s.r[i - 1].line : 1);
    if (size < 65536) check_streamed(&s, &f, data + 1, size - 1, &o);
    source_close(&s);
    return 0;
}
