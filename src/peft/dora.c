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

/* m / norm of n layers. These are small and no part of a block: recomputing a block does not compute them again. Products first, then what
 * is made of them: a card runs neighbours of one kind as one. */
static void factors(struct site *s, int n, const struct dora *d, const struct linear *w, const val *squares, const int *m, val *l) {
    const int segment = s->p->segment;
    val p[MAX_GROUP] = {{0}}, g[MAX_GROUP] = {{0}};
    s->p->segment = 0;
    for (int i = 0; i < n; i++) {
        if (!d[i].rank) continue;
        val a = prog_param_rows(s->p, s->params, d[i].a, d[i].row0, d[i].rank);
        p[i] = product(s, a, w[i].w);
        g[i] = product(s, a, a);
    }
    for (int i = 0; i < n; i++) {
        if (!d[i].rank) continue;
        val in[] = {prog_param(s->p, s->params, m[i]), squares[i], p[i], d[i].b, g[i], s->kept ? s->kept[m[i]] : (val){0}};
        l[i] = emit1(s->p, &op_magnitude, in, 6, &(struct op_attr){.scale = d[i].scale});
    }
    s->p->segment = segment;
}

err dora_outputs(struct site *s, int n, const struct dora *d, const struct linear *w, val *y) {
    val squares[MAX_GROUP] = {{0}}, l[MAX_GROUP] = {{0}};
    int m[MAX_GROUP] = {0};
    for (int i = 0; i < n; i++) {
        char name[96];
        if (!d[i].rank) continue;
        const float *of_rows = s->derived(s, &w[i], &(struct derivation){.make = squares_of_rows, .floats = (size_t)w[i].out});
        snprintf(name, sizeof name, "%s rows squared", w[i].of.name);
        squares[i] = prog_base(s->p, DT_F32, 1, &w[i].out, of_rows, name);
        if (s->p->failed) return s->p->failed;
        m[i] = magnitude_param(s, &d[i], &w[i], squares[i]);
        if (m[i] < 0) return prog_fail(s->p, E_MEMORY, "out of memory while building a program");
        if (s->mode == MODE_DECODE) l[i] = s->kept[m[i]];
    }
    if (s->mode != MODE_DECODE) factors(s, n, d, w, squares, m, l);
    for (int i = 0; i < n; i++)
        if (d[i].rank) y[i] = emit1(s->p, &op_scale, (val[]){y[i], l[i], w[i].bias}, 3, NULL);
    return s->p->failed;
}
