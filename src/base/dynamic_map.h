/* The 256 numbers that 8-bit optimizer states are codes of: dynamic (tree) quantisation (Dettmers et al. 2022, "8-bit Optimizers via
 * Block-wise Quantization", section 1.3). A code has a sign (where there is one), as many zeros as the power of ten says, a one, and a linear
 * fraction in the bits that are left: seven decades, each with twice the steps of the one below. Ascending, from -1 or 0 to 1, the same bits as
 * bitsandbytes.functional.create_dynamic_map(signed). Called by the optimizers' kernels of every backend. */
#ifndef CYC_BASE_DYNAMIC_MAP_H
#define CYC_BASE_DYNAMIC_MAP_H
#include <stdbool.h>

enum { DYNAMIC_CODES = 256 };
void dynamic_map(bool with_sign, float map[DYNAMIC_CODES]);
/* Between neighbouring numbers of a map: what lies above middle[c] and up to middle[c + 1] is nearest to c. */
void dynamic_middles(const float map[DYNAMIC_CODES], float middle[DYNAMIC_CODES]);

#endif
