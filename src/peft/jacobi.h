/* Singular vectors of a small square matrix, for whoever has brought a large one down to that (pissa.c, export/svd.c). */
#ifndef CYC_PEFT_JACOBI_H
#define CYC_PEFT_JACOBI_H
#include <stdint.h>

double inner_product(const double *x, const double *y, int64_t n); /* in four sums, which are added last */

/* g [r, r] becomes V G: v [r, r] is orthogonal, the rows of V G are, too, the longest first, and sizes [r] are their lengths: the singular values.
 * Row k of v is the left singular vector; of a symmetric G without negative eigenvalues these are its eigenvectors and eigenvalues. */
void jacobi(double *g, double *v, int r, double *sizes);

#endif
