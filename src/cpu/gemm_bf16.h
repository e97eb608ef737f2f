/* Products in a program that computes in bf16: operands may be rounded to it, sums stay f32. Where the processor has tile products of bf16
 * (AMX) that is about twice as fast (docs/speed-log.md); elsewhere, and for anything but bf16, it is gemm_run(). */
#ifndef CYC_CPU_GEMM_BF16_H
#define CYC_CPU_GEMM_BF16_H
#include "cpu/gemm.h"

/* operands: the type that activations came in (struct run_ctx). The scratch is gemm_run()'s. */
void gemm_run_in(dtype operands, const struct gemm *g, void *scratch);

extern const struct gemm_isa gemm_amx; /* of many rows alone: it has no dot() */

#endif
