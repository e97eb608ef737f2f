/* Several tensors of one shape made one, number by number: what PEFT's add_weighted_adapter does to a pair's A and to its B (peft/utils/
 * merge_utils.py), in f32 as there. A tensor may be thinned first: its smallest numbers left out (TIES: Yadav et al. 2023), or random ones,
 * the others divided by the part that stays (DARE: Yu et al. 2024). The sum is of all, or of those of the sign that is elected. */
#ifndef CYC_EXPORT_COMBINE_H
#define CYC_EXPORT_COMBINE_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct combining {
    enum { THIN_NONE, THIN_SMALLEST, THIN_RANDOM } thin;
    double density;    /* the part that stays, (0, 1] */
    uint64_t key;      /* of THIN_RANDOM; philox(key, tensor, element, input) */
    bool elect;        /* TIES' sign: that of the sum, or (by_count) of most */
    bool by_count;
};

/* x: n inputs [count], which are overwritten; weights [n]; room [count] where the smallest are left out. */
void combine(const struct combining *c, float *const *x, const float *weights, int n, int64_t count, uint32_t tensor, float *room, float *out);
/* Does the element stay? What random thinning goes by; for all tensors of one name. */
bool combine_keeps(const struct combining *c, uint32_t tensor, int input, int64_t element);

#endif
