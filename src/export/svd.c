/* See svd.h. The core's singular vectors are found by one-sided Jacobi (Hestenes 1958; Demmel and Veselic 1992 on its accuracy): pairs of
 * columns are rotated until all are orthogonal; their lengths are the singular values then. It needs no factorisation before it and gets
 * small singular values right too. */
#include "export/svd.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SWEEPS = 60 };

static double dot(const double *x, const double *y, int64_t n) {
    double sum[4] = {0};
    for (int64_t i = 0; i < n; i++) sum[i & 3] += x[i] * y[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static void add_times(double *y, double by, const double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += by * x[i];
}

/* x's rows into q, made orthonormal one after the other, each twice, for one pass leaves what rounding has brought back; one that is
 * nothing but the others becomes zero. x[k] = sum_j t[k, j] q[j]. */
static void orthonormal(const double *x, int r, int64_t n, double *q, double *t) {
    memset(t, 0, (size_t)r * (size_t)r * sizeof *t);
    for (int k = 0; k < r; k++) {
        double *row = q + k * n;
        memcpy(row, x + k * n, (size_t)n * sizeof *row);
        const double size = sqrt(dot(row, row, n));
        for (int j = 0; j < 2 * k; j++) {
            const double along = dot(row, q + (j % k) * n, n);
            add_times(row, -along, q + (j % k) * n, n);
            t[k * r + j % k] += along;
        }
        const double left = sqrt(dot(row, row, n));
        const bool stays = left > 1e-13 * size;
        for (int64_t i = 0; i < n; i++) row[i] = stays ? row[i] / left : 0;
        t[k * r + k] = stays ? left : 0;
    }
}

/* Rows p and q of g made orthogonal, and the same turn of v's rows; were they it already, as far as rounding of such sums, or of a matrix
 * of this size (its square), lets one say? */
static bool turn(double *g, double *v, int r, int p, int q, double squares) {
    double *x = g + p * r, *y = g + q * r, *u = v + p * r, *w = v + q * r;
    const double xx = dot(x, x, r), yy = dot(y, y, r), xy = dot(x, y, r);
    if (fabs(xy) <= 1e-15 * sqrt(r * xx * yy) || fabs(xy) <= 1e-32 * squares) return true;
    const double z = (yy - xx) / (2 * xy), t = (z < 0 ? -1 : 1) / (fabs(z) + sqrt(z * z + 1)), c = 1 / sqrt(t * t + 1), s = c * t;
    for (int i = 0; i < r; i++) {
        const double a = x[i], b = y[i], d = u[i], e = w[i];
        x[i] = c * a - s * b, y[i] = s * a + c * b;
        u[i] = c * d - s * e, w[i] = s * d + c * e;
    }
    return false;
}

static void swap_rows(double *x, int r, int p, int q) {
    for (int i = 0; i < r; i++) {
        const double y = x[p * r + i];
        x[p * r + i] = x[q * r + i], x[q * r + i] = y;
    }
}

/* g's rows become orthogonal, v the turns that made them so, [r, r] both; the longest first. */
static void jacobi(double *g, double *v, int r, double *sizes) {
    memset(v, 0, (size_t)r * (size_t)r * sizeof *v);
    for (int k = 0; k < r; k++) v[k * r + k] = 1;
    const double squares = dot(g, g, (int64_t)r * r);
    bool settled = false;
    for (int sweep = 0; sweep < MOST_SWEEPS && !settled; sweep++) {
        settled = true;
        for (int p = 0; p < r; p++)
            for (int q = p + 1; q < r; q++) settled &= turn(g, v, r, p, q, squares);
    }
    for (int k = 0; k < r; k++) sizes[k] = sqrt(dot(g + k * r, g + k * r, r));
    for (int p = 0; p < r; p++) {
        int most = p;
        for (int q = p + 1; q < r; q++)
            if (sizes[q] > sizes[most]) most = q;
        const double size = sizes[p];
        sizes[p] = sizes[most], sizes[most] = size;
        swap_rows(g, r, p, most), swap_rows(v, r, p, most);
    }
}

/* to = sum_j by[j] q[j] */
static void sum_of(const double *by, const double *q, int r, int64_t n, double *to) {
    memset(to, 0, (size_t)n * sizeof *to);
    for (int j = 0; j < r; j++) add_times(to, by[j], q + j * n, n);
}

static void turn_sign(double *a, double *b, const struct product *p) {
    double most = 0;
    for (int64_t i = 0; i < p->in; i++)
        if (fabs(a[i]) > fabs(most)) most = a[i];
    for (int64_t i = 0; i < p->in && most < 0; i++) a[i] = -a[i];
    for (int64_t i = 0; i < p->out && most < 0; i++) b[i] = -b[i];
}

/* B A = sum_k b_k a_k^T = Qb (Tb^T Ta) Qa^T; the core's columns, turned, are g's rows. */
err product_svd(const struct product *p, int rank, double *a, double *b, double *sizes) {
    const int r = p->r;
    const size_t square = (size_t)r * (size_t)r;
    double *qa = malloc((size_t)r * (size_t)(p->in + p->out) * sizeof *qa + 1), *ta = malloc(4 * square * sizeof *ta + 1);
    if (!qa || !ta) return free(qa), free(ta), fail(E_MEMORY, "out of memory");
    double *qb = qa + r * p->in, *tb = ta + square, *g = tb + square, *v = g + square;
    orthonormal(p->a, r, p->in, qa, ta);
    orthonormal(p->b, r, p->out, qb, tb);
    memset(g, 0, square * sizeof *g);
    for (int k = 0; k < r; k++)
        for (int j = 0; j < r; j++) add_times(g + j * r, ta[k * r + j], tb + k * r, r);
    jacobi(g, v, r, sizes);
    for (int k = 0; k < rank; k++) {
        sum_of(v + k * r, qa, r, p->in, a + k * p->in);
        sum_of(g + k * r, qb, r, p->out, b + k * p->out);
        turn_sign(a + k * p->in, b + k * p->out, p);
    }
    free(qa);
    free(ta);
    return OK;
}
