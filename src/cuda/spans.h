/* What runs several instructions in one or two launches: spans.c finds them; elementwise.cu, columns.cu, magnitude.cu and
 * attention_cached.cu run what is no product. */
#ifndef CYC_CUDA_SPANS_H
#define CYC_CUDA_SPANS_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a linear's output still lacks where it is read: y[n, o] + alpha sum_r T[n, r] B[o, r], scaled (delta.cuh). */
struct cuda_delta { /* rank 0: none */
    const void *t, *b; /* T's first column of this output; B [O, rank] */
    int64_t ldt, ldb;
    int rank;
    float alpha;
    bool wide; /* rows of both are whole, aligned 16-byte pieces */
    const float *l, *bias; /* DoRA: with the delta in it the output is multiplied with l[o], then bias[o] added; NULL: 1, 0 */
};
int cuda_span(const struct prog *p, int first, kernel *run); /* struct backend, span */

/* The delta that output k of a linear (its in and out views) has left to its reader. */
void cuda_delta_of(const struct inst *linear, const struct view *in, const struct view *out, int k, bool left, struct cuda_delta *d);

/* sum = x + (o + delta), y = norm(sum): the add's and the norm's instructions. which: the add's operand that is o. */
err cuda_add_norm(const struct inst *add, const struct view *in, struct view *out, int which, const struct cuda_delta *d);
/* y = act(gate + its delta) * (up + its delta) */
err cuda_glu_delta(enum activation act, const struct view *in, struct view *out, const struct cuda_delta d[2]);
/* kv_append and attention_cached of q, k, v that are not finished: delta and rotation are theirs. y: q, k, v; in, out: views of rope q,
 * rope k, kv_append, attention_cached, MAX_IN and MAX_OUT apart; inst: the first of them. */
err cuda_attend_fresh(const struct inst *inst, const struct view y[3], const struct view *in, struct view *out, const struct cuda_delta d[3], void *scratch);
/* n scales (at most MAX_SCALES), one after the other; backward, and with a magnitude_bwd of each behind them in the same order, whose dl
 * is then not written. scratch: as of one of them. */
enum { MAX_SCALES = 3 };
err cuda_scales(const struct inst *inst, const struct view *in, struct view *out, int n);
err cuda_scales_bwd(const struct inst *inst, const struct view *in, struct view *out, int n, bool magnitudes, void *scratch);
err cuda_magnitudes(const struct inst *inst, const struct view *in, struct view *out, int n);
/* Both rotations of a layer. */
err cuda_rope_pair(const struct inst *inst, const struct view *in, struct view *out);

#ifdef __cplusplus
}
#endif
#endif
