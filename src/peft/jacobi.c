/* See jacobi.h. One-sided Jacobi (Hestenes 1958; Demmel and Veselic 1992 on its accuracy): pairs of rows are rotated until all are orthogonal;
 * their lengths are the singular values then. It needs no factorisation before it and gets small singular values right too. */
#include "peft/jacobi.h"
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { MOST_SWEEPS = 60 };

double inner_product(const double *x, const double *y, int64_t n) {
    double sum[4] = {0};
    for (int64_t i = 0; i < n; i++) sum[i & 3] += x[i] * y[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Rows p and q of g made orthogonal, and the same turn of v's rows; were they it already, as far as rounding of such sums, or of a matrix
 * of this size (its square), lets one say? */
static bool turn(double *g, double *v, int r, int p, int q, double squares) {
    double *x = g + p * r, *y = g + q * r, *u = v + p * r, *w = v + q * r;
    const double xx = inner_product(x, x, r), yy = inner_product(y, y, r), xy = inner_product(x, y, r);
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

void jacobi(double *g, double *v, int r, double *sizes) {
    memset(v, 0, (size_t)r * (size_t)r * sizeof *v);
    for (int k = 0; k < r; k++) v[k * r + k] = 1;
    const double squares = inner_product(g, g, (int64_t)r * r);
    bool settled = false;
    for (int sweep = 0; sweep < MOST_SWEEPS && !settled; sweep++) {
        settled = true;
        for (int p = 0; p < r; p++)
            for (int q = p + 1; q < r; q++) settled &= turn(g, v, r, p, q, squares);
    }
    for (int k = 0; k < r; k++) sizes[k] = sqrt(inner_product(g + k * r, g + k * r, r));
    for (int p = 0; p < r; p++) {
        int most = p;
        for (int q = p + 1; q < r; q++)
            if (sizes[q] > sizes[most]) most = q;
        const double size = sizes[p];
        sizes[p] = sizes[most], sizes[most] = size;
        swap_rows(g, r, p, most), swap_rows(v, r, p, most);
    }
}
