/* The singular vectors of a product B A of two skinny matrices, found without forming it: orthonormal bases of B's columns and A's rows,
 * and the singular vectors of what lies between, [r, r]. All in double. Called by rework.c. */
#ifndef CYC_EXPORT_SVD_H
#define CYC_EXPORT_SVD_H
#include "base/err.h"
#include <stdint.h>

struct product {
    int64_t in, out;
    int r;
    const double *a, *b; /* [r, in]; B's columns as rows, [r, out] */
};

/* Its best approximation of rank `rank` <= r: a [rank, in], rows orthonormal (where the product has that many), times b [rank, out], B's
 * columns as rows, by descending size; signs so that the greatest number of each row of a is positive. sizes [r]: all singular values. */
err product_svd(const struct product *p, int rank, double *a, double *b, double *sizes);

#endif
