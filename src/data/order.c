/* The permutation of an epoch: Fisher-Yates with Philox as the dice. See order.h.
 *
 * Draw i of an epoch is philox(key(seed, shuffle), i, epoch, stream): no state is carried from epoch to epoch, so any
 * epoch can be made alone. A draw below k is the high half of 64 random bits times k; it favours no number by more than
 * k / 2^64. Weights act behind the permutation: it orders an epoch's turns, and sample_of() says whose turn that is. */
#include "data/order.h"
#include "base/philox.h"
#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

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

err order_init_parts(struct order *o, const struct order_part *part, int n_parts, uint64_t seed, uint32_t stream, bool shuffle) {
    int64_t turns = 0;
    bool weighted = false;
    for (int i = 0; i < n_parts; i++) {
        assert(part[i].n > 0 && part[i].take > 0);
        turns += part[i].take;
        weighted |= part[i].take != part[i].n;
    }
    if (turns > INT_MAX) return fail(E_INPUT, "the weights make an epoch of %lld samples, more than can be counted: lower them", (long long)turns);
    TRY(order_init(o, (int)turns, seed, stream, shuffle));
    if (!weighted) return OK;
    o->part = malloc((size_t)n_parts * sizeof *part);
    if (!o->part) return order_free(o), fail(E_MEMORY, "out of memory");
    memcpy(o->part, part, (size_t)n_parts * sizeof *part);
    o->n_parts = n_parts;
    return OK;
}

/* The turn of a part as a sample of it. Turns are counted through the epochs; a step near the golden section of n that
 * shares no factor with it walks through all n samples in as many turns, and any stretch of them is spread evenly. */
static int sample_of(const struct order *o, int turn) {
    if (!o->part) return turn;
    const struct order_part *p = o->part;
    while (turn >= p->take) turn -= p++->take;
    if (p->take == p->n) return p->first + turn;
    int64_t g = o->epoch % p->n * p->take + turn, step = (int64_t)(0.6180339887498949 * p->n) | 1;
    for (int64_t a = p->n, b = step; ; a = p->n, b = step += 2) {
        while (b) {
            int64_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1) break;
    }
    return p->first + (int)(g % p->n * (step % p->n) % p->n);
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
    return sample_of(o, o->perm[o->index++]);
}

void order_free(struct order *o) {
    free(o->perm);
    free(o->part);
    *o = (struct order){0};
}
