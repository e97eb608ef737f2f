/* f32 to bf16 at random (stochastic rounding): up or down, with the probability of each that makes the mean of many roundings the number itself.
 * A step of a fraction of bf16's spacing, which rounding to the nearest loses every time, is made now and then in full; what bf16 holds exactly
 * stays. Which way is a function, philox(key, step, index): the same on the processor and on a card, whatever the launch or the number of
 * threads. Called by the backends' flat_ops.round (core/flat.h). */
#ifndef CYC_BASE_ROUND_H
#define CYC_BASE_ROUND_H
#include "base/philox.h"

enum { ROUND_GROUP = 8 }; /* numbers that one call of philox is enough for: of indices 8 k to 8 k + 7 */

PHILOX_INLINE struct philox round_group(uint64_t key, uint64_t step, uint64_t group) {
    return philox(key, (uint32_t)group, (uint32_t)(group >> 32), (uint32_t)step, (uint32_t)(step >> 32));
}

/* The 16 bits of element `index` among its group's. */
PHILOX_INLINE uint32_t round_bits(const struct philox *group, uint64_t index) {
    return group->v[index / 2 % 4] >> (index % 2 ? 16 : 0) & 0xFFFFu;
}

/* bits: the number's, as f32. Adding up to one unit of the last place that is kept, less the least: what is cut off carries as often as it is
 * large. What is not finite stays so. */
PHILOX_INLINE uint16_t round_bf16(uint32_t bits, uint32_t random) {
    const uint32_t exponent = 0x7F800000u;
    if ((bits & exponent) != exponent) return (uint16_t)((bits + random) >> 16);
    return (uint16_t)(bits >> 16 | (bits & ~exponent & 0x7FFFFFFFu ? 0x40u : 0));
}

#endif
