/* Ops that move rows: embed (by token id, dequantised), overlay, gather, kv_append, store, split, and their backwards; and the noise that is laid
 * over embedded rows. No other arithmetic but embed's scale and the sums of a table's gradient. */
#include "cpu/fused.h"
#include "ops/ops.h"
#include <string.h>

err cpu_embed(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
              void *scratch) {
    (void)scratch;
    const struct view *table = &in[1];
    const int64_t N = view_rows(&in[0]), C = table->d[1];
    const size_t row = dtype_row_bytes(table->dt, C);
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t i = 0; i < N; i++) {
        const int32_t id = view_i32(&in[0])[i];
        float *x = view_row(&out[0], i);
        if (id < 0 || id >= table->d[0]) {
            memset(x, 0, (size_t)C * sizeof *x);
            continue;
        }
        dequantise_row(table->dt, (const char *)table->p + row * (size_t)id, x, C);
        for (int64_t c = 0; c < C && inst->a.scale != 1; c++) x[c] *= inst->a.scale;
    }
    return OK;
}

err cpu_noise(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    const int64_t N = view_rows(&in[0]), C = in[0].d[1];
#pragma omp parallel for num_threads(cpu_threads_for(run, 16 * N * C))
    for (int64_t i = 0; i < N; i++) {
        const float *x = view_row(&in[0], i), most = ops_noise_most(&inst->a, view_i32(&in[1]), in[1].d[0] - 1, i, C);
        float *y = view_row(&out[0], i);
        for (int64_t c = 0; c < C; c += 4) {
            const struct philox bits = ops_noise_bits(run->seed, run->step, view_i32(&in[2])[i], view_i32(&in[3])[i], c);
            for (int64_t j = c; j < c + 4 && j < C; j++) y[j] = x[j] + most * (2 * philox_unit(bits.v[j - c]) - 1);
        }
    }
    return OK;
}

/* to[ids[i] - first] += scale * dy[i], where that is a row of it. Columns are split between threads, so that each element has one
 * writer and one order of rows; a stripe of a row is four cache lines. */
static void add_rows(const struct run_ctx *run, const struct view *dy, const int32_t *ids, int64_t first, float scale,
                     const struct view *to) {
    enum { STRIPE = 64 };
    const int64_t N = view_rows(dy), C = dy->d[1];
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t from = 0; from < C; from += STRIPE) {
        const int64_t n = C - from < STRIPE ? C - from : STRIPE;
        for (int64_t i = 0; i < N; i++) {
            const int64_t row = ids[i] - first;
            if (row < 0 || row >= to->d[0]) continue;
            const float *x = view_row(dy, i) + from;
            float *y = view_row(to, row) + from;
            for (int64_t c = 0; c < n; c++) y[c] += scale * x[c];
        }
    }
}

err cpu_embed_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    add_rows(run, &in[0], view_i32(&in[1]), 0, inst->a.scale, &out[0]);
    return OK;
}

/* y = ids < first ? x : the table's row, or zeros where it has none (table NULL: never). */
static void lay_over(const struct run_ctx *run, int64_t first, const struct view *x, const int32_t *ids, const struct view *table,
                     const struct view *y) {
    const int64_t N = view_rows(x), C = x->d[1], rows = table ? table->d[0] : 0;
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t i = 0; i < N; i++) {
        const int64_t row = ids[i] - first;
        const float *from = row < 0 ? view_row(x, i) : row < rows ? view_row(table, row) : NULL;
        float *to = view_row(y, i);
        if (!from) memset(to, 0, (size_t)C * sizeof *to);
        else if (from != to) memcpy(to, from, (size_t)C * sizeof *to);
    }
}

err cpu_overlay(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    lay_over(run, inst->a.first, &in[0], view_i32(&in[1]), &in[2], &out[0]);
    return OK;
}

/* The table first: dx may be dy's memory. */
err cpu_overlay_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    for (int64_t p = 0; p < out[2].d[0] && out[2].p; p++) memset(view_row(&out[2], p), 0, (size_t)out[2].d[1] * sizeof(float));
    if (out[1].p || out[2].p) add_rows(run, &in[0], view_i32(&in[1]), inst->a.first, 1, out[1].p ? &out[1] : &out[2]);
    if (out[0].p) lay_over(run, inst->a.first, &in[0], view_i32(&in[1]), NULL, &out[0]);
    return OK;
}

static size_t row_bytes(const struct view *v) { return dtype_row_bytes(v->dt, v->d[1]); }
static char *row_at(const struct view *v, int64_t i) { return (char *)v->p + (size_t)i * dtype_row_bytes(v->dt, v->ld); }

/* Rows of any plain type. */
err cpu_gather(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
               void *scratch) {
    (void)run, (void)inst, (void)scratch;
    for (int64_t s = 0; s < view_rows(&in[1]); s++) memcpy(row_at(&out[0], s), row_at(&in[0], view_i32(&in[1])[s]), row_bytes(&in[0]));
    return OK;
}

/* D numbers into a cell of a cache, whatever types the two have. */
static void put_cell(const struct view *cache, int64_t cell, const struct view *x, int64_t row, int64_t column, int64_t D) {
    const char *from = row_at(x, row) + dtype_row_bytes(x->dt, column);
    char *to = (char *)cache->p + dtype_row_bytes(cache->dt, cell);
    float wide[64];
    if (x->dt == cache->dt) {
        memcpy(to, from, dtype_row_bytes(x->dt, D));
        return;
    }
    for (int64_t d = 0, n; d < D; d += n, from += dtype_row_bytes(x->dt, n), to += dtype_row_bytes(cache->dt, n)) {
        n = D - d < 64 ? D - d : 64;
        float *as = cache->dt == DT_F32 ? (float *)to : wide;
        if (x->dt != DT_F32) fused()->widen(x->dt, from, as, n);
        if (cache->dt != DT_F32) fused()->narrow(cache->dt, x->dt == DT_F32 ? (const float *)from : wide, to, n);
    }
}

/* Two rows of one call never name the same cell. */
err cpu_kv_append(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                  void *scratch) {
    (void)inst, (void)out, (void)scratch;
    const int64_t N = view_rows(&in[0]), K = in[4].d[1], T = in[4].d[2], D = in[4].d[3];
    const int32_t *slot = view_i32(&in[2]), *pos = view_i32(&in[3]);
#pragma omp parallel for num_threads(cpu_threads_for(run, 2 * N * K * D))
    for (int64_t i = 0; i < N; i++)
        for (int64_t h = 0; h < K; h++)
            for (int k = 0; k < 2; k++) put_cell(&in[4 + k], ((slot[i] * K + h) * T + pos[i]) * D, &in[k], i, h * D, D);
    return OK;
}

err cpu_store(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)out, (void)scratch;
    for (int64_t r = 0; r < view_rows(&in[0]); r++) memcpy(row_at(&in[1], r), row_at(&in[0], r), row_bytes(&in[0]));
    return OK;
}

/* wide's row i and the slices' rows, either way; a slice that is not there is zeros. */
static void columns(const struct run_ctx *run, const struct op_attr *a, const struct view *wide, const struct view *slice, bool apart) {
    const int64_t N = view_rows(wide);
#pragma omp parallel for num_threads(cpu_threads_for(run, N * wide->d[1]))
    for (int64_t i = 0; i < N; i++) {
        float *x = view_row(wide, i);
        for (int k = 0; k < a->n; x += a->width[k++]) {
            float *y = slice[k].p ? view_row(&slice[k], i) : NULL;
            if (!y && !apart) memset(x, 0, (size_t)a->width[k] * sizeof(float));
            else if (y) memcpy(apart ? y : x, apart ? x : y, (size_t)a->width[k] * sizeof(float));
        }
    }
}

err cpu_split(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    columns(run, &inst->a, &in[0], out, true);
    return OK;
}

err cpu_split_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    columns(run, &inst->a, &out[0], in, false);
    return OK;
}
