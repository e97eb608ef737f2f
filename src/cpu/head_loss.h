/* What head_loss.c does with a row of logits (loss_rows.c), and the kernels of that, one set per instruction set.
 *
 * stats: the maximum of z and sum exp(z - max). Lanes are summed in f32 over HEAD_FLUSH vectors, then in double.
 * grad: z = exp(z - max) * scale in place. A NaN anywhere in z makes the sum NaN (the maximum may miss it). */
#ifndef CYC_CPU_HEAD_LOSS_H
#define CYC_CPU_HEAD_LOSS_H
#include "ops/ops.h"

enum { HEAD_FLUSH = 64 };

struct head_rows {
    void (*stats)(const float *z, int64_t n, float *max, double *sum);
    void (*grad)(float *z, int64_t n, float max, float scale);
};
extern const struct head_rows head_generic, head_avx2, head_avx512;
const struct head_rows *head_isa(void);

/* loss_rows.c: one row. */
struct loss_row {
    int32_t label;
    float weight, cap; /* weight: of the gradient */
    bool gradient;
    const struct loss_terms *terms;
    const float *target; /* [V]: of squares; NULL: cross-entropy */
    float *teacher;      /* [V]: its logits, which are used up; NULL */
    const int32_t *top;  /* [k] remembered ids and their log-probabilities; NULL */
    const float *logp;
    int64_t k;
    float *outcomes; /* [2, k + 1]: room */
};
struct row_loss {
    float loss, nll, correct;
};
/* z: its logits, of which the gradient takes the place where one is wanted. */
struct row_loss head_row(const struct loss_row *r, float *z, int64_t v);

#endif
