/* The order of samples: epoch e is a permutation of 0..n-1 that depends on (seed, stream, e) alone. Where training
 * stands is two integers, epoch and index of the next sample, so that resume needs no replay and no stored list.
 *
 * The two sides of a cycle have different streams, so that equal lengths do not pair their lines. shuffle = false: the
 * file's order in every epoch. Called by train; the cursor goes into checkpoints. */
#ifndef CYC_DATA_ORDER_H
#define CYC_DATA_ORDER_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct order {
    uint64_t seed;
    uint32_t stream;
    bool shuffle;
    int n;
    int64_t epoch, index; /* the next sample is perm[index] of this epoch; index = n: the first of the next epoch */
    int32_t *perm;
};
err order_init(struct order *o, int n, uint64_t seed, uint32_t stream, bool shuffle); /* E_INPUT when n < 1 */
/* Refuses (E_INPUT) a cursor that does not fit n: the data changed since the checkpoint was written. */
err order_seek(struct order *o, int64_t epoch, int64_t index);
int order_next(struct order *o); /* an index below n; starts the next epoch by itself */
void order_free(struct order *o);

#endif
