/* What runs several instructions in one or two launches: spans.c finds them, elementwise.cu and attention_cached.cu run what follows a product. */
#ifndef CYC_CUDA_SPANS_H
#define CYC_CUDA_SPANS_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The low-rank delta of a linear's output where it is read: y[n, o] + alpha sum_r T[n, r] B[o, r] (delta.cuh). */
struct cuda_delta { /* rank 0: none */
    const void *t, *b; /* T's first column of this output; B [O, rank] */
    int64_t ldt, ldb;
    int rank;
    float alpha;
    bool wide; /* rows of both are whole, aligned 16-byte pieces */
};
int cuda_span(const struct prog *p, int first, kernel *run); /* struct backend, span */

/* The delta that output k of a linear (its in and out views) has left to its reader. */
void cuda_delta_of(const struct inst *linear, const struct view *in, const struct view *out, int k, bool left, struct cuda_delta *d);

/* sum = x + (o + delta), y = norm(sum): the add's and the norm's instructions. which: the add's operand that is o. */
err cuda_add_norm(const struct inst *add, const struct view *in, struct view *out, int which, const struct cuda_delta *d);
/* y = act(gate + its delta) * (up + its delta) */
err cuda_glu_delta(enum activation act, const struct view *in, struct view *out, const struct cuda_delta d[2]);
/* kv_append and attention_cached of q, k, v that are not finished: delta and rotation are theirs. in, out: views of linear, rope q,
 * rope k, kv_append, attention_cached, MAX_IN and MAX_OUT apart; inst: the first of them. */
err cuda_attend_fresh(const struct inst *inst, const struct view *in, struct view *out, const struct cuda_delta d[3], void *scratch);
/* Both rotations of a layer. */
err cuda_rope_pair(const struct inst *inst, const struct view *in, struct view *out);

#ifdef __cplusplus
}
#endif
#endif
