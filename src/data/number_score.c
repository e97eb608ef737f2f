/* See number_score.h. */
#define _GNU_SOURCE
#include "data/number_score.h"
#include <math.h>
#include <stdlib.h>

static double correlation(const double *a, const double *b, int n) {
    double ma = 0, mb = 0, ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) ma += a[i] / n, mb += b[i] / n;
    for (int i = 0; i < n; i++) {
        const double x = a[i] - ma, y = b[i] - mb;
        ab += x * y, aa += x * x, bb += y * y;
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa) / sqrt(bb) : 0;
}

static int by_value(const void *a, const void *b, void *values) {
    const double *v = values, x = v[*(const int *)a], y = v[*(const int *)b];
    return (x > y) - (x < y);
}

/* order: room for n numbers. */
static void ranks(const double *v, int n, int *order, double *rank) {
    for (int i = 0; i < n; i++) order[i] = i;
    qsort_r(order, (size_t)n, sizeof *order, by_value, (void *)v);
    for (int i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && v[order[end]] == v[order[i]]; end++) {}
        for (int k = i; k < end; k++) rank[order[k]] = (i + end - 1) / 2.0;
    }
}

err number_scores(const float *said, const float *truth, int n, struct number_score *out) {
    double *room = malloc(4 * (size_t)n * sizeof *room + 1), *a = room, *b = room + n;
    int *order = malloc((size_t)n * sizeof *order + 1);
    double squares = 0, absolute = 0;
    *out = (struct number_score){0};
    if (room && order && n) {
        for (int i = 0; i < n; i++) {
            a[i] = said[i], b[i] = truth[i];
            squares += (a[i] - b[i]) * (a[i] - b[i]);
            absolute += fabs(a[i] - b[i]);
        }
        ranks(a, n, order, room + 2 * n);
        ranks(b, n, order, room + 3 * n);
        *out = (struct number_score){sqrt(squares / n), absolute / n, correlation(a, b, n), correlation(room + 2 * n, room + 3 * n, n)};
    }
    err e = room && order ? OK : fail(E_MEMORY, "out of memory");
    free(room);
    free(order);
    return e;
}
