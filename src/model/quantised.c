/* See quantised.h. */
#define _DEFAULT_SOURCE
#include "model/quantised.h"
#include "base/nf4.h"
#include "model/family.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 64 };
static size_t placed(const struct weight *w) { return (weight_bytes(w) + ALIGN - 1) & ~(size_t)(ALIGN - 1); }

static int64_t rows_of(const struct weight *w) { return w->nd == 2 ? w->d[0] : 1; }
static int64_t cols_of(const struct weight *w) { return w->d[w->nd - 1]; }

/* Row r; absmax: of DT_NF4_DQ, all rows'. */
static void encode(const struct weight *w, const float *row, int64_t r, void *to, float *absmax) {
    char *at = (char *)to + dtype_row_bytes(w->dt, cols_of(w)) * (size_t)r;
    if (w->dt == DT_NF4_DQ) nf4_dq_codes(row, cols_of(w), at, absmax + r * (cols_of(w) / NF4_BLOCK));
    else quantise_row(w->dt, row, at, cols_of(w));
}

err quantise_rows(const struct weight *w, bool nested, row_source *source, const void *ctx, void *to) {
    const bool second = (nested && w->dt == DT_NF4) || w->dt == DT_NF4_DQ;
    const int64_t n = second ? rows_of(w) * (cols_of(w) / NF4_BLOCK) : 0;
    float *absmax = malloc((size_t)n * sizeof *absmax + 1);
    int64_t bad = -1;
    bool room = absmax != NULL;
    if (!room) return fail(E_MEMORY, "out of memory");
#pragma omp parallel reduction(max : bad) reduction(&& : room)
    {
        float *row = malloc((size_t)cols_of(w) * sizeof *row);
        room = row != NULL;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows_of(w); r++) {
            float sum = 0;
            if (!row) continue;
            source(ctx, r, row);
            for (int64_t c = 0; c < cols_of(w); c++) sum += row[c] * 0;
            if (sum != 0) bad = r;
            encode(w, row, r, to, absmax);
        }
        free(row);
    }
    if (room && bad < 0 && w->dt == DT_NF4_DQ) nf4_dq_scales(to, n, absmax);
    else if (room && bad < 0 && second) nf4_take_absmax(to, n, absmax), nf4_round_absmax(absmax, n), nf4_put_absmax(to, n, absmax);
    free(absmax);
    if (!room) return fail(E_MEMORY, "out of memory");
    if (bad < 0) return OK;
    return fail(E_NUMERIC, "tensor %s is not finite (NaN or infinity) in row %lld: it cannot be quantised", w->name, (long long)bad);
}

/* Of the file's matrix. */
static void stored_row(const void *ctx, int64_t r, float *row) {
    const struct weight *w = ctx;
    dequantise_row(w->from, (const char *)w->source + dtype_row_bytes(w->from, cols_of(w)) * (size_t)r, row, cols_of(w));
}

static err make(struct model *m, struct weight *w) {
    if (w->made || !w->source) return OK;
    err e = quantise_rows(w, m->nested, stored_row, w, (void *)(uintptr_t)w->data);
    if (e) return fail_in(e, "%s", m->path);
    w->made = true;
    model_forget(m, w);
    return OK;
}

static struct weight *weight_at(struct model *m, const void *data) {
    for (int i = 0; i < m->n; i++)
        if (m->w[i].data == data) return &m->w[i];
    return NULL;
}

static err make_for(void *ctx, const void *host) {
    struct weight *w = weight_at(ctx, host);
    return w ? make(ctx, w) : OK;
}

/* The card has it. */
static void drop_for(void *ctx, const void *host) {
    struct weight *w = weight_at(ctx, host);
    if (!w || !w->made || !strstr(w->name, "blk.")) return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = ((uintptr_t)w->data + page - 1) / page * page, to = ((uintptr_t)w->data + weight_bytes(w)) / page * page;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED); /* zeros, until it is made again */
    w->made = false;
}

err quantised_fill(struct model *m) {
    for (int i = 0; i < m->n; i++) TRY(make(m, &m->w[i]));
    return OK;
}

err quantised_open(struct model *m, const dtype *to, bool nested) {
    size_t total = 0;
    m->nested = nested;
    if (m->random || m->sizes_only) return model_retype(m, to);
    for (int i = 0; i < m->n; i++) {
        struct weight *w = &m->w[i];
        if (!to[i]) continue;
        if (model_maps(m, w)) m->bytes -= weight_bytes(w); /* a copy of the file's stays */
        w->from = w->dt, w->source = w->data, w->dt = nf4_kept(to[i], nested, w->d[1]);
        m->bytes += weight_bytes(w);
        m->files.copied += weight_bytes(w);
        m->elsewhere += weight_bytes(w);
        total += placed(w);
    }
    if (!total) return OK;
    char *at = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                    0); /* addresses: a plan needs no memory */
    if (at == MAP_FAILED)
        return fail(E_MEMORY, "%s: cannot reserve %zu bytes for its quantised matrices: %s", m->path, total, strerror(errno));
    m->quantised = at, m->quantised_bytes = total;
    for (int i = 0; i < m->n; i++) {
        if (!to[i]) continue;
        m->w[i].data = at;
        at += placed(&m->w[i]);
    }
    m->residents->make = make_for, m->residents->drop = drop_for, m->residents->ctx = m;
    return OK;
}

void quantised_close(struct model *m) {
    if (m->quantised) munmap(m->quantised, m->quantised_bytes);
    m->quantised = NULL;
}
