/* The permutation of an epoch: Fisher-Yates with Philox as the dice. See order.h.
 *
 * Draw i of an epoch is philox(key(seed, shuffle), i, epoch, stream): no state is carried from epoch to epoch, so any
 * epoch can be made alone. A draw below k is the high half of 64 random bits times k; it favours no number by more than
 * k / 2^64. */
#include "data/order.h"
#include "base/philox.h"
#include <assert.h>
#include <stdlib.h>

enum { PURPOSE_SHUFFLE = 3 };

static uint32_t below(uint32_t k, struct philox r) {
    uint64_t low = (uint64_t)r.v[0] * k, high = (uint64_t)r.v[1] * k;
    return (uint32_t)((high + (low >> 32)) >> 32);
}

static void permute(struct order *o) {
    uint64_t key = philox_key(o->seed, PURPOSE_SHUFFLE), epoch = (uint64_t)o->epoch;
    for (int i = 0; i < o->n; i++) o->perm[i] = i;
    for (int i = o->n - 1; i > 0 && o->shuffle; i--) {
        struct philox r = philox(key, (uint32_t)i, (uint32_t)epoch, o->stream, (uint32_t)(epoch >> 32));
        uint32_t j = below((uint32_t)i + 1, r);
        int32_t keep = o->perm[i];
        o->perm[i] = o->perm[j];
        o->perm[j] = keep;
    }
}

err order_init(struct order *o, int n, uint64_t seed, uint32_t stream, bool shuffle) {
    *o = (struct order){.seed = seed, .stream = stream, .shuffle = shuffle, .n = n};
    if (n < 1) return fail(E_INPUT, "no samples to take an order of");
    o->perm = malloc((size_t)n * sizeof *o->perm);
    if (!o->perm) return fail(E_MEMORY, "out of memory (the order of %d samples)", n);
    permute(o);
    return OK;
}

err order_seek(struct order *o, int64_t epoch, int64_t index) {
    if (epoch < 0 || index < 0 || index > o->n)
        return fail(E_INPUT,
                    "cannot go on at epoch %lld, sample %lld: the data now has %d samples; did the file change?",
                    (long long)epoch, (long long)index, o->n);
    o->epoch = epoch;
    o->index = index;
    permute(o);
    return OK;
}

int order_next(struct order *o) {
    assert(o->perm);
    if (o->index == o->n) {
        o->epoch++;
        o->index = 0;
        permute(o);
    }
    return o->perm[o->index++];
}

void order_free(struct order *o) {
    free(o->perm);
    *o = (struct order){0};
}
