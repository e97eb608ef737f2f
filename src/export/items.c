/* Streaming a list of items: rows are read where the base has them, changed, encoded into one buffer and written; then the pages that
 * were read are given back. The one buffer and a row for each thread are all the memory there is, whatever the model's size.
 *
 * The sum is W + s·BA in f32, with DoRA each row of it brought to its length, encoded once: a tensor that nothing changes and that keeps its type is copied byte for byte. */
#define _GNU_SOURCE
#include "export/items.h"
#include "base/file.h"
#include "base/nf4.h"
#include "base/process.h"
#include "core/rope_rows.h"
#include "export/nf4_out.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK = 8 << 20 };

void progress_memory(struct progress *p) {
    size_t now = resident_bytes("RssAnon");
    if (now > p->peak) p->peak = now;
}

void pages_forget(const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)p + page - 1) / page * page,
              to = ((uintptr_t)p + n) / page * page;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED); /* a hint */
}

void items_free(struct items *l) {
    arena_free(&l->mem);
    *l = (struct items){0};
}

/* Of a row in the file. */
static size_t row_bytes(const struct item *it) { return it->t.dt == DT_NF4 ? (size_t)it->cols / 2 : dtype_row_bytes(it->t.dt, it->cols); }

static size_t chunk_bytes(const struct items *l) {
    size_t most = CHUNK;
    for (int i = 0; i < l->n; i++) {
        size_t row = row_bytes(&l->v[i]);
        if (row > most) most = row;
    }
    return most;
}

static size_t widest_a(const struct items *l) {
    size_t most = 0;
    for (int i = 0; i < l->n; i++)
        if (l->v[i].delta && (size_t)l->v[i].delta->a->d[0] * (size_t)l->v[i].cols * 4 > most)
            most = (size_t)l->v[i].delta->a->d[0] * (size_t)l->v[i].cols * 4;
    return most;
}

static size_t ranks(const struct items *l) {
    size_t most = 1;
    for (int i = 0; i < l->n; i++)
        if (l->v[i].delta && (size_t)l->v[i].delta->rank > most) most = (size_t)l->v[i].delta->rank;
    return most;
}

/* A number for each of W's rows where they are columns here (DoRA on a transposed weight). */
static size_t factors_bytes(const struct items *l) {
    size_t most = 0;
    for (int i = 0; i < l->n; i++)
        if (l->v[i].transposed && l->v[i].delta && l->v[i].delta->m && (size_t)l->v[i].cols * sizeof(double) > most)
            most = (size_t)l->v[i].cols * sizeof(double);
    return most;
}

static int64_t most_blocks(const struct items *l) {
    int64_t most = 0;
    for (int i = 0; i < l->n; i++)
        if (l->v[i].t.dt == DT_NF4 && l->v[i].rows * (l->v[i].cols / NF4_BLOCK) > most) most = l->v[i].rows * (l->v[i].cols / NF4_BLOCK);
    return most;
}

/* Floats of a thread: a row, a row of B, and of NF4 the row's blocks. */
static size_t each_floats(const struct items *l) {
    return (size_t)l->widest + ranks(l) + (most_blocks(l) ? dtype_row_bytes(DT_NF4, l->widest) / 4 + NF4_BYTES / 4 : 0);
}

/* Of each thread beside its row: what it has touched of its stack, the file's buffer. */
enum { STACK = 128 << 10 };

static size_t buffers_bytes(size_t each) { return (size_t)omp_get_max_threads() * (each * 4 + STACK); }

size_t items_write_bytes(const struct items *l) {
    return chunk_bytes(l) + widest_a(l) + factors_bytes(l) + nf4_out_bytes(most_blocks(l)) + buffers_bytes(each_floats(l));
}

size_t items_merge_bytes(const struct model *m, int64_t rank) {
    size_t chunk = CHUNK;
    int64_t widest = 1;
    for (int i = 0; i < m->n; i++) {
        const int64_t columns = m->w[i].d[m->w[i].nd - 1];
        if (columns > widest) widest = columns;
        if (dtype_row_bytes(m->w[i].dt, columns) > chunk) chunk = dtype_row_bytes(m->w[i].dt, columns);
    }
    return chunk + (size_t)(rank * widest * 4) + buffers_bytes((size_t)(widest + rank));
}

/* Memory of one items_write(). */
struct work {
    char *out;
    size_t out_bytes;
    float *a;    /* the delta's A, [rank, cols] */
    float *rows; /* of each thread: a row, then a row of B */
    size_t each;
    double *factors; /* factors_bytes() */
    struct nf4_scales scales;
    size_t blocks_at; /* floats from a thread's row to its room for NF4's blocks */
};

/* row += sum over k of b[k] * a[k], four rows of A at a time. */
static void add_products(float *restrict row, const float *restrict a, const float *b, int rank, int64_t cols) {
    int k = 0;
    for (; k + 4 <= rank; k += 4) {
        const float *a0 = a + k * cols, *a1 = a0 + cols, *a2 = a1 + cols, *a3 = a2 + cols;
        for (int64_t c = 0; c < cols; c++) row[c] += (b[k] * a0[c] + b[k + 1] * a1[c]) + (b[k + 2] * a2[c] + b[k + 3] * a3[c]);
    }
    for (; k < rank; k++)
        for (int64_t c = 0; c < cols; c++) row[c] += b[k] * a[k * cols + c];
}

/* The greatest magnitude; NaN where there is one. */
static float greatest(const float *x, int64_t n) {
    float most = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most, sum += x[i] * 0;
    return sum == 0 ? most : NAN;
}

static void read_row(const struct tensor *t, int64_t row, float *to) {
    dequantise_row(t->dt, (const char *)t->data + dtype_row_bytes(t->dt, t->d[1]) * (size_t)row, to, t->d[1]);
}

static float element(const struct tensor *t, int64_t row, int64_t col) {
    float v;
    size_t each = (size_t)dtype_info[t->dt].bytes;
    dequantise_row(t->dt, (const char *)t->data + each * (size_t)(row * t->d[1] + col), &v, 1);
    return v;
}

/* The scaled factors of a row's products: its row of B, or of a transposed weight its column of A. */
static void take_factors(const struct item *it, int64_t row, float *b) {
    if (!it->transposed) read_row(it->delta->b, row, b);
    for (int k = 0; k < it->delta->rank; k++) b[k] = (float)(it->delta->scale * (it->transposed ? element(it->delta->a, k, row) : b[k]));
}

/* What they multiply, [rank, cols]: A, or the transpose of B. */
static void take_rows(const struct item *it, float *to) {
    const struct tensor *a = it->delta->a, *b = it->delta->b;
    for (int64_t k = 0; k < a->d[0] && !it->transposed; k++) read_row(a, k, to + k * a->d[1]);
    for (int64_t o = 0; o < b->d[0] && it->transposed; o++)
        for (int k = 0; k < it->delta->rank; k++) to[k * b->d[0] + o] = element(b, o, k);
}

/* Of what data has. */
static int64_t source_cols(const struct item *it) { return it->pick.cols ? it->pick.cols : it->cols; }
static int64_t source_rows(const struct item *it) { return it->pick.rows ? it->pick.rows : it->rows; }

/* A row has room for all of the source's columns; those that are taken move to its front. */
static void source_row(const struct item *it, int64_t from, float *row) {
    const size_t each = (size_t)dtype_info[it->dt].bytes;
    const int64_t cols = source_cols(it);
    if (!it->turned) dequantise_row(it->dt, (const char *)it->data + dtype_row_bytes(it->dt, cols) * (size_t)from, row, cols);
    for (int64_t c = 0; c < it->cols && it->pick.col; c++) row[c] = row[it->pick.col[c]];
    for (int64_t c = 0; c < it->cols && it->turned; c++)
        dequantise_row(it->dt, (const char *)it->data + each * (size_t)(c * it->rows + from), row + c, 1);
    for (int64_t c = 0; c < it->cols && it->shift != 0; c++) row[c] += it->shift;
}

/* Row `half` (Hugging Face's order) of the base with its delta, not yet brought to its length. */
static void sum_row(const struct item *it, const struct work *w, int64_t from, int64_t half, float *row, float *b) {
    source_row(it, from, row);
    if (!it->delta) return;
    take_factors(it, half, b);
    add_products(row, w->a, b, it->delta->rank, it->cols);
}

/* DoRA on a transposed weight: W's rows are columns, so all of them are measured before the first is written. */
static void measure_columns(const struct item *it, const struct work *w) {
    float *row = w->rows, *b = row + it->cols;
    memset(w->factors, 0, (size_t)it->cols * sizeof *w->factors);
    for (int64_t r = 0; r < it->rows; r++) {
        sum_row(it, w, r, r, row, b);
        for (int64_t c = 0; c < it->cols; c++) w->factors[c] += (double)row[c] * row[c];
    }
    for (int64_t c = 0; c < it->cols; c++) w->factors[c] = delta_factor(it->delta, c, w->factors[c]);
}

static void set_length(const struct item *it, const struct work *w, int64_t half, float *row) {
    double squares = 0;
    for (int64_t c = 0; c < it->cols && !it->transposed; c++) squares += (double)row[c] * row[c];
    const double by = it->transposed ? 1 : delta_factor(it->delta, half, squares);
    for (int64_t c = 0; c < it->cols; c++) row[c] = (float)(row[c] * (it->transposed ? w->factors[c] : by));
}

static void make_row(const struct item *it, const struct work *w, int64_t r, char *to, float *most) {
    float *row = w->rows + (size_t)omp_get_thread_num() * w->each, *b = row + it->cols;
    int64_t half = it->head && it->to_pairs ? rope_row_in_halves(r, it->head) : r,
            from = it->head && it->from_pairs ? rope_row_in_pairs(half, it->head) : half;
    if (it->pick.row) from = it->pick.row[from]; /* whole heads: an order within them is the same here and there */
    if (it->dt == it->t.dt && !it->delta && !it->turned && !it->pick.col && it->shift == 0) {
        size_t bytes = dtype_row_bytes(it->dt, it->cols);
        memcpy(to, (const char *)it->data + bytes * (size_t)from, bytes);
        return;
    }
    sum_row(it, w, from, half, row, b);
    if (it->delta && it->delta->m) set_length(it, w, half, row);
    float big = greatest(row, it->cols);
    if (!(big <= *most)) *most = big;
    if (it->t.dt == DT_NF4) nf4_out_row(it, &w->scales, r, row, row + w->blocks_at, (uint8_t *)to);
    else quantise_row(it->t.dt, row, to, it->cols);
}

static err check_range(const struct item *it, const char *path, float most) {
    if (!isfinite(most))
        return fail(E_NUMERIC, "%s: not written: tensor '%s' is not finite (NaN or infinity) after the merge", path, it->t.name);
    float limit = it->t.dt == DT_F16                          ? 65504.0f
                  : it->t.dt == DT_F32 || it->t.dt == DT_BF16 ? 3.0e38f
                                                              : 65504.0f * 8; /* block scales are f16 */
    if (most > limit)
        return fail(E_NUMERIC, "%s: not written: tensor '%s' reaches %g, which %s cannot hold: choose --type bf16 or f32", path, it->t.name,
                    most, dtype_info[it->t.dt].name);
    return OK;
}

static err write_item(const struct item *it, bool nested, struct tensors_out *o, const struct work *w, struct progress *p) {
    size_t row = row_bytes(it);
    int64_t per_chunk = (int64_t)(w->out_bytes / row);
    if (it->delta) take_rows(it, w->a);
    if (it->delta && it->delta->m && it->transposed) measure_columns(it, w);
    for (int64_t r0 = 0; r0 < it->rows; r0 += per_chunk) {
        int64_t n = it->rows - r0 < per_chunk ? it->rows - r0 : per_chunk;
        float most = 0;
        if (p->stop && *p->stop) return fail(E_INTERRUPTED, "interrupted: nothing was left of %s", o->path);
#pragma omp parallel
        {
            float mine = 0;
#pragma omp for schedule(static) nowait
            for (int64_t r = 0; r < n; r++) make_row(it, w, r0 + r, w->out + row * (size_t)r, &mine);
#pragma omp critical(cyc_export_most)
            if (!(mine <= most)) most = mine;
        }
        TRY(check_range(it, o->path, most));
        TRY(tensors_out_put(o, w->out, row * (size_t)n));
        progress_memory(p);
        if (p->report) p->report(p->ctx, o->done, o->total);
    }
    if (it->t.dt == DT_NF4) TRY(nf4_out_rest(it, nested, &w->scales, o));
    if (it->mapped) pages_forget(it->data, dtype_row_bytes(it->dt, source_cols(it)) * (size_t)source_rows(it));
    return OK;
}

err items_write(const struct items *l, struct tensors_out *o, struct progress *p) {
    struct work w = {.out_bytes = chunk_bytes(l), .each = each_floats(l), .blocks_at = (size_t)l->widest + ranks(l)};
    const int64_t blocks = most_blocks(l);
    size_t a = widest_a(l), rows = (size_t)omp_get_max_threads() * w.each * 4;
    w.out = pages_take(w.out_bytes);
    w.a = pages_take(a);
    w.rows = pages_take(rows);
    w.factors = pages_take(factors_bytes(l));
    void *scales = pages_take(nf4_out_bytes(blocks));
    err e = w.out && w.a && w.rows && w.factors && scales ? OK : fail(E_MEMORY, "out of memory");
    w.scales = nf4_out_room(scales, blocks);
    for (int i = 0; i < l->n && !e; i++) e = write_item(&l->v[i], l->nested, o, &w, p);
    if (scales) pages_give(scales, nf4_out_bytes(blocks));
    if (w.out) pages_give(w.out, w.out_bytes);
    if (w.a) pages_give(w.a, a);
    if (w.rows) pages_give(w.rows, rows);
    if (w.factors) pages_give(w.factors, factors_bytes(l));
    return e;
}
