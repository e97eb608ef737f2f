/* What the dot products for few rows (few_*.c, dot_vnni.c) leave over. */
#ifndef CYC_CPU_DOT_REST_H
#define CYC_CPU_DOT_REST_H
#include "cpu/gemm.h"

/* What a row of W does not fill whole vectors with: its last k % 32 elements, and the bias. */
static __attribute__((noinline)) float dot_rest(const struct gemm_dot *d, const uint8_t *row, int64_t o, int i) {
    float tmp[32], sum = d->bias ? d->bias[o] : 0;
    int64_t whole = d->k & ~(int64_t)31, n = d->k - whole;
    if (n) {
        const float *x = d->x + i * d->ldx + whole;
        dequantise_row(d->dt, row + dtype_row_bytes(d->dt, whole), tmp, n);
        for (int64_t j = 0; j < n; j++) sum += x[j] * tmp[j];
    }
    return sum;
}

#endif
