/* Ops that move rows: embed (by token id, dequantised), gather, kv_append, split and its backward. No arithmetic but embed's scale. */
#include "cpu/fused.h"
#include <string.h>

err cpu_embed(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
              void *scratch) {
    (void)scratch;
    const struct view *table = &in[1];
    const int64_t N = view_rows(&in[0]), C = table->d[1];
    const size_t row = dtype_row_bytes(table->dt, C);
    for (int64_t i = 0; i < N; i++)
        if (view_i32(&in[0])[i] < 0 || view_i32(&in[0])[i] >= table->d[0])
            return fail(E_INPUT, "embed: row %lld asks for %d of a table of %lld", (long long)i, (int)view_i32(&in[0])[i], (long long)table->d[0]);
#pragma omp parallel for num_threads(cpu_threads_for(run, N * C))
    for (int64_t i = 0; i < N; i++) {
        float *x = view_row(&out[0], i);
        dequantise_row(table->dt, (const char *)table->p + row * (size_t)view_i32(&in[0])[i], x, C);
        for (int64_t c = 0; c < C && inst->a.scale != 1; c++) x[c] *= inst->a.scale;
    }
    return OK;
}

err cpu_gather(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
               void *scratch) {
    (void)run, (void)inst, (void)scratch;
    for (int64_t s = 0; s < view_rows(&in[1]); s++)
        memcpy(view_row(&out[0], s), view_row(&in[0], view_i32(&in[1])[s]), (size_t)in[0].d[1] * sizeof(float));
    return OK;
}

/* Two rows of one call never name the same cell. */
err cpu_kv_append(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                  void *scratch) {
    (void)inst, (void)out, (void)scratch;
    const int64_t N = view_rows(&in[0]), K = in[4].d[1], T = in[4].d[2], D = in[4].d[3];
    const int32_t *slot = view_i32(&in[2]), *pos = view_i32(&in[3]);
#pragma omp parallel for num_threads(cpu_threads_for(run, 2 * N * K * D))
    for (int64_t i = 0; i < N; i++)
        for (int64_t h = 0; h < K; h++) {
            int64_t cell = ((slot[i] * K + h) * T + pos[i]) * D;
            memcpy(view_f32(&in[4]) + cell, view_row(&in[0], i) + h * D, (size_t)D * sizeof(float));
            memcpy(view_f32(&in[5]) + cell, view_row(&in[1], i) + h * D, (size_t)D * sizeof(float));
        }
    return OK;
}

/* wide's row i and the slices' rows, either way. */
static void columns(const struct run_ctx *run, const struct op_attr *a, const struct view *wide, const struct view *slice, bool apart) {
    const int64_t N = view_rows(wide);
#pragma omp parallel for num_threads(cpu_threads_for(run, N * wide->d[1]))
    for (int64_t i = 0; i < N; i++) {
        float *x = view_row(wide, i);
        for (int k = 0; k < a->n; x += a->width[k++]) {
            float *y = view_row(&slice[k], i);
            memcpy(apart ? y : x, apart ? x : y, (size_t)a->width[k] * sizeof(float));
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
