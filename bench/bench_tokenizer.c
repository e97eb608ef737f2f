/* Tokenisation: MB of text a second on one core, a line a call. One line of JSON comes out.
 *
 *   bench_tokenizer TOKENIZER TEXT [SECONDS]       TOKENIZER: a tokenizer.json or a .gguf; best of the passes in
 * SECONDS (1)
 *
 * Processor time, which other programs on the machine do not stretch. bench/peers/bench_tokenizer.py runs it in turn
 * with Hugging Face's library on the same text. */
#define _GNU_SOURCE
#include "base/file.h"
#include "io/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Not getrusage's, which begins with that of the program that started this one. */
static double peak_mb(void) {
    char line[256];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %ld", &kb) == 1) break;
    if (f) fclose(f);
    return (double)kb / 1024;
}

static int failed(void) { return fprintf(stderr, "bench_tokenizer: %s\n", err_text()), 1; }

static err open_tokenizer(const char *path, tokenizer **t) {
    struct tensors ts;
    if (!str_ends(path, ".gguf")) return tokenizer_from_json(path, t);
    TRY(tensors_open(path, &ts));
    err e = tokenizer_from_gguf(&ts, t);
    tensors_close(&ts);
    return e;
}

/* All lines, one call each. */
static err encode(const tokenizer *t, const str *text, struct ids *ids) {
    ids->n = 0;
    for (const char *at = text->p, *end = at + text->n; at < end;) {
        const char *line = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((line ? line : end) - at);
        TRY(tokenizer_encode(t, at, n, true, ids));
        at += n + 1;
    }
    return OK;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: bench_tokenizer TOKENIZER TEXT [SECONDS]\n"), 2;
    double seconds = argc > 3 ? atof(argv[3]) : 1, start = now(), best = 1e9, first = 0;
    tokenizer *t;
    str text = {0};
    struct ids ids = {0};
    if (open_tokenizer(argv[1], &t)) return failed();
    double load = now() - start;
    double peak = peak_mb();
    if (file_read(argv[2], &text)) return failed();
    for (double until = now() + seconds; now() < until;) {
        double t0 = now();
        if (encode(t, &text, &ids)) return failed();
        double took = now() - t0;
        if (first == 0) first = took;
        if (took < best) best = took;
    }
    printf("{\"load_s\": %.4f, \"load_mb\": %.1f, \"bytes\": %zu, \"tokens\": %zu, \"first_mb_s\": %.2f, \"mb_s\": "
           "%.2f}\n",
           load, peak, text.n, ids.n, (double)text.n / first * 1e-6, (double)text.n / best * 1e-6);
    ids_free(&ids);
    str_free(&text);
    tokenizer_free(t);
    return 0;
}
