/* The order of samples: epoch e is a permutation of 0..n-1 that depends on (seed, stream, e) alone. Where training
 * stands is two integers, epoch and index of the next sample, so that resume needs no replay and no stored list.
 *
 * The two sides of a cycle have different streams, so that equal lengths do not pair their lines. shuffle = false: the
 * file's order in every epoch.
 *
 * Parts (files) may have weights: of a part of n samples, `take` are in each epoch. Take 2n, and each is seen twice; take
 * n / 2, and half of them are, spread over the part, the other half in the next epoch: over any n of its turns each sample
 * of a part comes once. That too depends on the epoch alone, so the cursor stays two integers.
 *
 * Called by train; the cursor goes into checkpoints. */
#ifndef CYC_DATA_ORDER_H
#define CYC_DATA_ORDER_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct order_part {
    int first, n; /* samples first .. first + n - 1 */
    int take;     /* turns in an epoch, at least 1 */
};
struct order {
    uint64_t seed;
    uint32_t stream;
    bool shuffle;
    int n; /* turns in an epoch: samples, where no part has a weight */
    int64_t epoch, index; /* the next sample is perm[index] of this epoch; index = n: the first of the next epoch */
    int32_t *perm;
    struct order_part *part; /* NULL: turn k is sample k */
    int n_parts;
};
err order_init(struct order *o, int n, uint64_t seed, uint32_t stream, bool shuffle); /* E_INPUT when n < 1 */
/* Parts one after the other; the same as above where each takes its n. The list is copied. */
err order_init_parts(struct order *o, const struct order_part *part, int n_parts, uint64_t seed, uint32_t stream, bool shuffle);
/* Refuses (E_INPUT) a cursor that does not fit n: the data changed since the checkpoint was written. */
err order_seek(struct order *o, int64_t epoch, int64_t index);
int order_next(struct order *o); /* a sample's index; starts the next epoch by itself */
void order_free(struct order *o);

#endif
