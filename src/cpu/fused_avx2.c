/* The fused kernels with eight lanes and fused multiply-add. Built for another architecture it is a second generic
 * copy, never chosen. */
#include "cpu/attention_kernel.h"
#include "cpu/elementwise_kernel.h"

const struct fused_kernels fused_avx2 = FUSED_KERNELS;
