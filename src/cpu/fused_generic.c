/* The fused kernels for any machine: four lanes, lowered by the compiler. */
#include "cpu/attention_kernel.h"
#include "cpu/elementwise_kernel.h"

const struct fused_kernels fused_generic = FUSED_KERNELS;
