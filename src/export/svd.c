/* See svd.h. */
#include "export/svd.h"
#include "peft/jacobi.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

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
        const double size = sqrt(inner_product(row, row, n));
        for (int j = 0; j < 2 * k; j++) {
            const double along = inner_product(row, q + (j % k) * n, n);
            add_times(row, -along, q + (j % k) * n, n);
            t[k * r + j % k] += along;
        }
        const double left = sqrt(inner_product(row, row, n));
        const bool stays = left > 1e-13 * size;
        for (int64_t i = 0; i < n; i++) row[i] = stays ? row[i] / left : 0;
        t[k * r + k] = stays ? left : 0;
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
