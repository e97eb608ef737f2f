/* LoRA's orthogonal start, as PEFT has it (init_lora_weights: orthogonal): Q [r, r] is random and orthogonal; with its even rows and
 * its odd ones, A = (Z Q_even)^T / 10 and B = Y Q_odd / 10, Z [in, r/2] and Y [out, r/2] of N(0, 1). Neither is zero, so both learn from
 * the first step on, and B A = Y Q_odd Q_even^T Z^T / 100 is zero but for rounding: rows of Q are orthogonal to each other.
 *
 * A and B are filled apart, so each makes its module's Q from the module's name. */
#include "peft/lora.h"
#include "base/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STREAM_Q = 1, STREAM_A = 2, STREAM_B = 3 };

/* FNV-1a of the module's name, which ends at ".lora_A" or ".lora_B". */
static uint32_t module_number(const char *slice) {
    const char *end = strstr(slice, ".lora_");
    uint32_t h = 2166136261u;
    for (const char *c = slice; c != end && *c; c++) h = (h ^ (uint8_t)*c) * 16777619u;
    return h;
}

static double normal(uint64_t key, uint32_t module, int64_t element, uint32_t stream) {
    const struct philox r = philox(key, module, (uint32_t)element, (uint32_t)(element >> 32), stream);
    return sqrt(-2 * log((r.v[0] + 1.0) * 0x1p-32)) * cos(6.283185307179586 * (r.v[1] * 0x1p-32));
}

static double dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Rows of N(0, 1) made orthogonal one after the other, each twice, for one pass leaves what rounding has brought back. */
static double *random_rotation(uint64_t key, uint32_t module, int r) {
    double *q = malloc((size_t)r * (size_t)r * sizeof *q);
    for (int i = 0; q && i < r; i++) {
        double *row = q + (size_t)i * (size_t)r;
        for (int j = 0; j < r; j++) row[j] = normal(key, module, (int64_t)i * r + j, STREAM_Q);
        for (int k = 0; k < 2 * i; k++) {
            const double *other = q + (size_t)(k % i) * (size_t)r, along = dot(row, other, r);
            for (int j = 0; j < r; j++) row[j] -= along * other[j];
        }
        const double size = sqrt(dot(row, row, r));
        for (int j = 0; j < r; j++) row[j] /= size;
    }
    return q;
}

/* A [r, in]: column c is the c-th row of Z Q_even. */
err lora_orthogonal_a(const struct param_slice *s, int64_t columns, uint64_t key, float *rows) {
    const uint32_t module = module_number(s->name);
    const int r = (int)s->rows;
    double *q = random_rotation(key, module, r);
    if (!q) return fail(E_MEMORY, "out of memory");
    memset(rows, 0, (size_t)(r * columns) * sizeof *rows);
    for (int i = 0; i < r / 2; i++)
        for (int64_t c = 0; c < columns; c++) {
            const double z = normal(key, module, c * (r / 2) + i, STREAM_A) / 10;
            for (int j = 0; j < r; j++) rows[j * columns + c] += (float)(z * q[2 * i * r + j]);
        }
    free(q);
    return OK;
}

/* B [out, r] */
err lora_orthogonal_b(const struct param_slice *s, int64_t columns, uint64_t key, float *rows) {
    const uint32_t module = module_number(s->name);
    const int r = (int)columns;
    double *q = random_rotation(key, module, r);
    if (!q) return fail(E_MEMORY, "out of memory");
    memset(rows, 0, (size_t)(s->rows * r) * sizeof *rows);
    for (int64_t o = 0; o < s->rows; o++)
        for (int i = 0; i < r / 2; i++) {
            const double y = normal(key, module, o * (r / 2) + i, STREAM_B) / 10;
            for (int j = 0; j < r; j++) rows[o * r + j] += (float)(y * q[(2 * i + 1) * r + j]);
        }
    free(q);
    return OK;
}
