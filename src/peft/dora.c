/* DoRA (Liu et al. 2024): y = (m / ||W + s B A||) * (W x + s B A x) + bias, norms of rows, m [out] trained. m begins as ||W||, so that
 * step 0 is the base: exactly, but for the bias, which is added after the product and not in it.
 *
 * W + B A is never formed (ops/magnitude.c). Its cross term P = A W^T reads W once more in each pass, for as many rows as the rank; A goes
 * into it as rows that no gradient flows to, for the norm is a constant to the gradient (section 4.3; PEFT). Decoding reads what prefill
 * has computed, so a token costs no more than with LoRA and a multiplication.
 *
 * Dropout is on the input of the delta alone, as in LoRA. PEFT, while it trains with dropout, also drops the input of the part of W x by
 * which the factor differs from 1; without dropout, and whenever nothing is trained, both are the same. */
#include "peft/dora.h"
#include "ops/ops.h"
#include <math.h>
#include <stdio.h>

/* m begins as ||W||: the roots of the rows' squares, which are there when an arena is filled. */
static err lengths(const struct param_slice *s, int64_t columns, uint64_t key, float *to) {
    const float *squares = s->how;
    (void)columns, (void)key;
    for (int64_t o = 0; o < s->rows; o++) to[o] = sqrtf(squares[o]);
    return OK;
}

/* Of a row, a block at a time; in double, eight sums side by side. */
static float row_squared(const struct matrix *w, int64_t row) {
    const char *from = (const char *)w->data + dtype_row_bytes(w->dt, w->columns) * (size_t)row;
    float x[DTYPE_BLOCK_MAX]; /* a multiple of every block size */
    double sum[8] = {0}, all = 0;
    for (int64_t c0 = 0; c0 < w->columns; c0 += DTYPE_BLOCK_MAX) {
        const int64_t n = w->columns - c0 < DTYPE_BLOCK_MAX ? w->columns - c0 : DTYPE_BLOCK_MAX;
        dequantise_row(w->dt, from + dtype_row_bytes(w->dt, c0), x, n);
        for (int64_t c = 0; c < n; c++) sum[c % 8] += (double)x[c] * x[c];
    }
    for (int k = 0; k < 8; k++) all += sum[k];
    return (float)all;
}

static err squares_of_rows(const struct matrix *w, const struct derivation *d, float *out) {
    (void)d;
#pragma omp parallel for
    for (int64_t o = 0; o < w->rows; o++) out[o] = row_squared(w, o);
    return OK;
}

/* [out] f32; PEFT's files of today have no ".weight" behind the name. */
static int magnitude_param(struct site *s, const struct dora *d, const struct linear *w, val squares) {
    char name[256], file[256], also[264];
    snprintf(name, sizeof name, "%s.lora_magnitude", w->of.name);
    snprintf(file, sizeof file, "%s.lora_magnitude_vector", w->of.module);
    snprintf(also, sizeof also, "%s.weight", file);
    const struct param_slice slice = {.name = file, .also = also, .rows = w->out, .rope_heads = w->rope_heads, .make = lengths, .how = prog_v(s->p, squares)->data};
    const int p = param_get(s->params, name, 1, &w->out, INIT_MADE, 0, &slice, 1);
    param_rate(s->params, p, d->rate);
    param_keep(s->params, p, 0, 0);
    return p;
}

/* x A^T for A's rows of this delta as x, or as the matrix: f32. */
static val product(struct site *s, val x, val matrix) {
    val in[LIN_IN] = {[LIN_X] = x, [LIN_W] = matrix};
    return emit1(s->p, &op_linear, in, LIN_IN, &(struct op_attr){.n = 1, .wide = true});
}

/* m / norm. These are small and no part of a block: recomputing a block does not compute them again. */
static val factor(struct site *s, const struct dora *d, const struct linear *w, val squares, int m) {
    const int segment = s->p->segment;
    s->p->segment = 0;
    val a = prog_param_rows(s->p, s->params, d->a, d->row0, d->rank);
    val in[] = {prog_param(s->p, s->params, m), squares, product(s, a, w->w), d->b, product(s, a, a), s->kept ? s->kept[m] : (val){0}};
    val l = emit1(s->p, &op_magnitude, in, 6, &(struct op_attr){.scale = d->scale});
    s->p->segment = segment;
    return l;
}

val dora_output(struct site *s, const struct dora *d, const struct linear *w, val y) {
    char name[96];
    const float *of_rows = s->derived(s, w, &(struct derivation){.make = squares_of_rows, .floats = (size_t)w->out});
    snprintf(name, sizeof name, "%s rows squared", w->of.name);
    val squares = prog_base(s->p, DT_F32, 1, &w->out, of_rows, name);
    if (s->p->failed) return (val){0};
    const int m = magnitude_param(s, d, w, squares);
    if (m < 0) return prog_fail(s->p, E_MEMORY, "out of memory while building a program"), (val){0};
    val l = s->mode == MODE_DECODE ? s->kept[m] : factor(s, d, w, squares, m);
    return emit1(s->p, &op_scale, (val[]){y, l, w->bias}, 3, NULL);
}
