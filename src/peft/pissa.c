/* PiSSA (Meng et al. 2024, "PiSSA: Principal Singular Values and Singular Vectors Adaptation"): A and B begin at W's greatest singular
 * vectors, with the roots of the singular values in each, and what is frozen is W less their product. The base stays as it is here, also
 * quantised: the product is taken off as a second, frozen delta, y = W x - B0 A0 x + B A x, two skinny products more.
 *
 * A finished adapter is one for the base as it is: LoRA of twice the rank, [A; A0] and [B, -B0], what PEFT writes when it converts PiSSA
 * (path_initial_model_for_weight_conversion). Any loader of LoRA takes it.
 *
 * The vectors are found by subspace iteration (Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1) with eight columns to spare, as PEFT's
 * pissa_niter_[n] does with torch.svd_lowrank; `pissa` goes on until the space that they span stands still, 64 times at most (where the
 * spectrum is flat; which of nearly equal directions are taken then matters little). They are a function of the matrix
 * alone: A0 and B0 of a resumed run are those of the run. Each pair has the sign that makes the greatest number of its row of A positive. */
#include "peft/pissa.h"
#include "base/philox.h"
#include "ops/ops.h"
#include "peft/jacobi.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPARE = 8, MOST_ITERATIONS = 64 };

struct subspace {
    const struct matrix *w;
    int q;          /* columns */
    float *x, *y;   /* [columns of W, q], [rows of W, q] */
    float *last;    /* [rows of W, rank]: the left vectors of the iteration before */
    double *gram, *vectors, *values; /* [q, q], [q, q], [q]; values descend */
};

/* --- products with W, read as it is stored --------------------------------------------------------------------------------- */
static void read_part(const struct matrix *w, int64_t row, int64_t c0, int64_t n, float *to) {
    dequantise_row(w->dt, (const char *)w->data + dtype_row_bytes(w->dt, w->columns) * (size_t)row + dtype_row_bytes(w->dt, c0), to, n);
}

static int64_t part(const struct matrix *w, int64_t c0) { return w->columns - c0 < DTYPE_BLOCK_MAX ? w->columns - c0 : DTYPE_BLOCK_MAX; }

/* y = W x */
static void times(const struct subspace *s) {
    const struct matrix *w = s->w;
#pragma omp parallel for
    for (int64_t o = 0; o < w->rows; o++) {
        float row[DTYPE_BLOCK_MAX], *y = s->y + o * s->q;
        memset(y, 0, (size_t)s->q * sizeof *y);
        for (int64_t c0 = 0; c0 < w->columns; c0 += DTYPE_BLOCK_MAX) {
            read_part(w, o, c0, part(w, c0), row);
            for (int64_t c = 0; c < part(w, c0); c++)
                for (int k = 0; k < s->q; k++) y[k] += row[c] * s->x[(c0 + c) * s->q + k];
        }
    }
}

/* x = W^T y: a thread has columns, and so one order of the rows. */
static void times_turned(const struct subspace *s) {
    const struct matrix *w = s->w;
#pragma omp parallel for
    for (int64_t c0 = 0; c0 < w->columns; c0 += DTYPE_BLOCK_MAX) {
        float row[DTYPE_BLOCK_MAX];
        memset(s->x + c0 * s->q, 0, (size_t)(part(w, c0) * s->q) * sizeof *s->x);
        for (int64_t o = 0; o < w->rows; o++) {
            read_part(w, o, c0, part(w, c0), row);
            for (int64_t c = 0; c < part(w, c0); c++)
                for (int k = 0; k < s->q; k++) s->x[(c0 + c) * s->q + k] += row[c] * s->y[o * s->q + k];
        }
    }
}

/* --- small matrices -------------------------------------------------------------------------------------------------------- */
static double column_dot(const float *x, int64_t n, int q, int a, int b) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i * q + a] * x[i * q + b];
    return sum;
}

/* Columns made orthonormal one after the other, each twice, for one pass leaves what rounding has brought back; one that is nothing but the
 * others becomes zero. */
static void orthonormal(float *x, int64_t n, int q) {
    for (int k = 0; k < q; k++) {
        const double size = sqrt(column_dot(x, n, q, k, k));
        for (int j = 0; j < 2 * k; j++) {
            const double along = column_dot(x, n, q, k, j % k);
            for (int64_t i = 0; i < n; i++) x[i * q + k] -= (float)along * x[i * q + j % k];
        }
        const double left = sqrt(column_dot(x, n, q, k, k)), by = left > 1e-6 * size ? 1 / left : 0;
        for (int64_t i = 0; i < n; i++) x[i * q + k] = (float)(x[i * q + k] * by);
    }
}

/* The eigenvectors of x^T x, the greatest eigenvalue first: y is orthonormal, so they turn y into W's left singular vectors. */
static void eigenvectors(const struct subspace *s) {
    const int q = s->q;
#pragma omp parallel for
    for (int a = 0; a < q; a++)
        for (int b = 0; b < q; b++) s->gram[a * q + b] = column_dot(s->x, s->w->columns, q, a < b ? a : b, a < b ? b : a);
    jacobi(s->gram, s->vectors, q, s->values);
}

/* Row i of x, or y, times the k-th eigenvector. */
static double turned(const struct subspace *s, const float *x, int64_t i, int k) {
    double sum = 0;
    for (int j = 0; j < s->q; j++) sum += x[i * s->q + j] * s->vectors[k * s->q + j];
    return sum;
}

/* How far the first `rank` left vectors lie outside of what the ones before spanned; they take their place. */
static double moved(const struct subspace *s, int rank) {
    const int64_t rows = s->w->rows;
    double far = 0;
    for (int k = 0; k < rank; k++) {
        double *along = s->gram; /* free since the eigenvectors were found */
        for (int j = 0; j < rank; j++) along[j] = 0;
        for (int64_t o = 0; o < rows; o++) {
            const double u = turned(s, s->y, o, k);
            for (int j = 0; j < rank; j++) along[j] += u * s->last[o * rank + j];
        }
        for (int64_t o = 0; o < rows; o++) {
            double left = turned(s, s->y, o, k);
            for (int j = 0; j < rank; j++) left -= along[j] * s->last[o * rank + j];
            far += left * left;
        }
    }
    for (int64_t o = 0; o < rows; o++)
        for (int k = 0; k < rank; k++) s->last[o * rank + k] = (float)turned(s, s->y, o, k);
    return sqrt(far);
}

/* --- the factors ----------------------------------------------------------------------------------------------------------- */
static void begin(const struct subspace *s) {
    for (int64_t i = 0; i < s->w->columns * s->q; i++) {
        const struct philox r = philox(0x5069535341, (uint32_t)i, (uint32_t)(i >> 32), 0, 0);
        s->x[i] = philox_unit(r.v[0]) + philox_unit(r.v[1]) + philox_unit(r.v[2]) + philox_unit(r.v[3]) - 2;
    }
}

/* After it y [rows, q] is orthonormal, x = W^T y. */
static void iterate(const struct subspace *s, const struct derivation *d) {
    const int most = d->iterations == PISSA_SETTLED ? MOST_ITERATIONS : d->iterations;
    begin(s);
    for (int i = 0; i <= most; i++) {
        if (i) orthonormal(s->x, s->w->columns, s->q);
        times(s);
        orthonormal(s->y, s->w->rows, s->q);
        times_turned(s);
        if (i < most && d->iterations != PISSA_SETTLED) continue;
        eigenvectors(s);
        if (d->iterations == PISSA_SETTLED && moved(s, d->rank) <= 1e-6 * sqrt(d->rank)) return;
    }
}

static void write_factors(const struct subspace *s, int rank, float *a, float *less_b) {
#pragma omp parallel for
    for (int k = 0; k < rank; k++) {
        const double sigma = sqrt(s->values[k]), root = sqrt(sigma);
        float *row = a + k * s->w->columns, most = 0;
        for (int64_t c = 0; c < s->w->columns; c++) {
            row[c] = (float)(sigma > 0 ? turned(s, s->x, c, k) / root : 0);
            if (fabsf(row[c]) > fabsf(most)) most = row[c];
        }
        const double sign = most < 0 ? -1 : 1;
        for (int64_t c = 0; c < s->w->columns; c++) row[c] *= (float)sign;
        for (int64_t o = 0; o < s->w->rows; o++) less_b[o * rank + k] = (float)(-sign * root * turned(s, s->y, o, k));
    }
}

static err make(const struct matrix *w, const struct derivation *d, float *out) {
    const int64_t least = w->rows < w->columns ? w->rows : w->columns;
    struct subspace s = {.w = w, .q = d->rank + SPARE < least ? d->rank + SPARE : (int)least};
    const size_t q = (size_t)s.q;
    s.x = malloc((size_t)w->columns * q * sizeof *s.x), s.y = malloc((size_t)w->rows * q * sizeof *s.y);
    s.last = calloc((size_t)w->rows * (size_t)d->rank, sizeof *s.last);
    s.gram = malloc(q * q * sizeof *s.gram), s.vectors = malloc(q * q * sizeof *s.vectors), s.values = malloc(q * sizeof *s.values);
    const bool room = s.x && s.y && s.last && s.gram && s.vectors && s.values;
    if (room) {
        iterate(&s, d);
        write_factors(&s, d->rank, out, out + d->rank * w->columns);
    }
    free(s.x), free(s.y), free(s.last), free(s.gram), free(s.vectors), free(s.values);
    return room ? OK : fail(E_MEMORY, "no memory for the singular vectors of %s", w->name);
}

/* --- in a program ----------------------------------------------------------------------------------------------------------- */
const float *pissa_factors(struct site *s, const struct linear *w, int rank, int iterations) {
    if (rank > w->in || rank > w->out)
        return prog_fail(s->p, E_USAGE,
                         "lora.init_lora_weights: pissa: the rank of %s is %d, and the matrix has only %lld singular vectors", w->of.module,
                         rank, (long long)(w->in < w->out ? w->in : w->out)),
               NULL;
    return s->derived(s, w, &(struct derivation){.make = make, .floats = (size_t)rank * (size_t)(w->in + w->out), .rank = rank, .iterations = iterations});
}

static val product(struct site *s, val x, int64_t rows, int64_t columns, const float *data, const struct linear *w, const char *what) {
    char name[96];
    snprintf(name, sizeof name, "%s %s", w->of.name, what);
    val in[LIN_IN] = {[LIN_X] = x, [LIN_W] = prog_base(s->p, DT_F32, 2, (int64_t[]){rows, columns}, data, name)};
    return emit1(s->p, &op_linear, in, LIN_IN, &(struct op_attr){.n = 1});
}

val pissa_less(struct site *s, const struct linear *w, const float *factors, int rank, val x, val y) {
    val t = product(s, x, rank, w->in, factors, w, "A0");
    return emit1(s->p, &op_add, (val[]){y, product(s, t, w->out, rank, factors + rank * w->in, w, "-B0")}, 2, NULL);
}
