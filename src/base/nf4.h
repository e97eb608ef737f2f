/* The second quantisation of NF4 (QLoRA, Dettmers et al. 2023, section 3: "double quantization"), as bitsandbytes does it: the absmax of
 * every block of 64 weights becomes a byte.
 *
 * All blocks of a matrix, row after row, lose their mean (`offset`); of each 256 of them the largest magnitude is a scale, and what a
 * block is of its scale is the nearest of 256 numbers, the signed dynamic map (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
 * Quantization", section 1.3; bitsandbytes functional.py, create_dynamic_map). 8 + 32 / 256 bits for 64 weights in place of 32.
 *
 * The mean is the one number that bitsandbytes' machines do not agree on: it is a float sum in an order of theirs. Here it is the exact sum,
 * rounded once; given the same mean every other number is the same to the last bit (tests/unit/test_nf4.c). Its library for the
 * processor looks codes up in a table of 65,536 places, which takes a neighbour about twice in a thousand; here, as on its GPUs, the
 * nearest is taken, of two equally near ones the smaller.
 *
 * Callers: io/packed.c reads it, model/quantised.c and export/nf4_out.c make it. */
#ifndef CYC_BASE_NF4_H
#define CYC_BASE_NF4_H
#include <stdint.h>

enum { NF4_BLOCK = 64, NF4_BYTES = 36 /* a block as base/dtype.h has it: absmax first */, NF4_NEST = 256 };

const float *nf4_absmax_code(void); /* [256], rising */
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

#endif
