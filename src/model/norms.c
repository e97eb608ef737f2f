/* See norms.h. */
#include "model/norms.h"
#include <stdio.h>

struct norms_of {
    struct norms_of *next;
    const struct weight *w;
    float *squares;
    bool there;
};

static struct norms_of *find_or_add(struct norms *n, const struct weight *w) {
    for (struct norms_of *r = n->first; r; r = r->next)
        if (r->w == w) return r;
    struct norms_of *r = arena_alloc(&n->mem, sizeof *r);
    float *squares = arena_alloc(&n->mem, (size_t)w->d[0] * sizeof *squares);
    if (!r || !squares) return NULL;
    *r = (struct norms_of){n->first, w, squares, false};
    n->bytes += (size_t)w->d[0] * sizeof *squares;
    return n->first = r;
}

val norms_of_rows(struct site *s, const struct linear *w) {
    const struct model *m = s->model;
    char name[96];
    snprintf(name, sizeof name, "%s.weight", w->of.name);
    const struct weight *matrix = model_weight(m, name);
    if (!matrix) return prog_fail(s->p, E_INTERNAL, "tensor %s is missing", name), (val){0};
    struct norms_of *r = find_or_add(m->norms, matrix);
    if (!r) return prog_fail(s->p, E_MEMORY, "out of memory while building a program"), (val){0};
    snprintf(name, sizeof name, "%s rows squared", w->of.name);
    return prog_base(s->p, DT_F32, 1, &w->out, r->squares, name);
}

/* Of a row, a block at a time; in double, eight sums side by side. */
static float row_squared(const struct weight *w, int64_t row) {
    const char *from = (const char *)w->data + dtype_row_bytes(w->dt, w->d[1]) * (size_t)row;
    float x[DTYPE_BLOCK_MAX]; /* a multiple of every block size */
    double sum[8] = {0}, all = 0;
    for (int64_t c0 = 0; c0 < w->d[1]; c0 += DTYPE_BLOCK_MAX) {
        const int64_t n = w->d[1] - c0 < DTYPE_BLOCK_MAX ? w->d[1] - c0 : DTYPE_BLOCK_MAX;
        dequantise_row(w->dt, from + dtype_row_bytes(w->dt, c0), x, n);
        for (int64_t c = 0; c < n; c++) sum[c % 8] += (double)x[c] * x[c];
    }
    for (int k = 0; k < 8; k++) all += sum[k];
    return (float)all;
}

static void fill(struct norms_of *r) {
#pragma omp parallel for
    for (int64_t o = 0; o < r->w->d[0]; o++) r->squares[o] = row_squared(r->w, o);
    r->there = true;
}

void norms_fill(struct norms *n) {
    for (struct norms_of *r = n->first; r; r = r->next)
        if (!r->there) fill(r);
}

void norms_free(struct norms *n) {
    arena_free(&n->mem);
    *n = (struct norms){0};
}
