/* The fused kernels with sixteen lanes. Built for another architecture it is a second generic copy, never chosen. */
#include "cpu/attention_kernel.h"
#include "cpu/elementwise_kernel.h"

const struct fused_kernels fused_avx512 = FUSED_KERNELS;
