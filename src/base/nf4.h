/* The second quantisation of NF4 (QLoRA, Dettmers et al. 2023, section 3: "double quantization"), as bitsandbytes does it: the absmax of
 * every block of 64 weights becomes a byte.
 *
 * All blocks of a matrix, row after row, lose their mean (`offset`); of each 256 of them the largest magnitude is a scale, and what a
 * block is of its scale is the nearest of 256 numbers, the signed dynamic map (nf4_map.def). 8 + 32 / 256 bits for 64 weights in place of
 * 32.
 *
 * The mean is the one number that bitsandbytes' machines do not agree on: it is a float sum in an order of theirs. Here it is the exact sum,
 * rounded once; given the same mean every other number is the same to the last bit (tests/unit/test_nf4.c). Its library for the
 * processor looks codes up in a table of 65,536 places, which takes a neighbour about twice in a thousand; here, as on its GPUs, the
 * nearest is taken, of two equally near ones the smaller.
 *
 * In memory a matrix keeps them as bytes where its rows are whole blocks of 512 weights (DT_NF4_DQ, base/dtype.h); else it has them as they
 * come back, in DT_NF4: its numbers are the same to the last bit either way.
 *
 * Callers: io/packed.c reads it, model/quantised.c and export/nf4_out.c make it. */
#ifndef CYC_BASE_NF4_H
#define CYC_BASE_NF4_H
#include "base/dtype.h"

enum { NF4_BLOCK = 64, NF4_BYTES = 36 /* a block as base/dtype.h has it: absmax first */, NF4_NEST = 256 };
enum { NF4_DQ_SCALES = 8 /* of a block of DT_NF4_DQ */ };

float nf4_offset(const float *absmax, int64_t n);
/* code [n], scale [n / 256, rounded up] */
void nf4_nest(const float *absmax, int64_t n, float offset, uint8_t *code, float *scale);
/* code: its value, of whatever map. Two roundings, as bitsandbytes has them: no multiply-add. */
static inline float nf4_unnest(float code, float scale, float offset) {
    const float part = code * scale;
    return part + offset;
}

/* The absmax of n blocks of a matrix, put apart and back. */
void nf4_take_absmax(const void *blocks, int64_t n, float *absmax);
void nf4_put_absmax(void *blocks, int64_t n, const float *absmax);
/* What is left of them after double quantisation, in place. */
void nf4_round_absmax(float *absmax, int64_t n);

/* What a matrix of rows of `cols` that is to be `to` is kept as; nested: with double quantisation. */
dtype nf4_kept(dtype to, bool nested, int64_t cols);
/* n weights, whole blocks of DT_NF4_DQ, but for their scales, whose second quantisation needs the whole matrix's: absmax [n / 64] apart. */
void nf4_dq_codes(const float *x, int64_t n, void *blocks, float *absmax);
void nf4_dq_scales(void *blocks, int64_t n, const float *absmax); /* the matrix's n scales, and so all of its blocks' */
void nf4_dq_put(void *block, float scale, float offset, const uint8_t *index); /* one block's; index [8] */

#endif
