/* The per-row kernels of head_loss.c, one set per instruction set.
 *
 * stats: the maximum of z and sum exp(z - max). Lanes are summed in f32 over HEAD_FLUSH vectors, then in double.
 * grad: z = exp(z - max) * scale in place. A NaN anywhere in z makes the sum NaN (the maximum may miss it). */
#ifndef CYC_CPU_HEAD_LOSS_H
#define CYC_CPU_HEAD_LOSS_H
#include <stdint.h>

enum { HEAD_FLUSH = 64 };

struct head_rows {
    void (*stats)(const float *z, int64_t n, float *max, double *sum);
    void (*grad)(float *z, int64_t n, float max, float scale);
};
extern const struct head_rows head_generic, head_avx2, head_avx512;

#endif
