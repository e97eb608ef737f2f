/* Hashes of records with their numbers, 16 bytes each, sorted where they lie: equal records come to stand beside each other. Called by pile.c and
 * overlap.c. */
#ifndef CYC_DATA_KEYS_H
#define CYC_DATA_KEYS_H
#include <stddef.h>
#include <stdint.h>

struct key { /* 96 bits of hash: among a thousand million records two different ones are equal once in 10^11 sets */
    uint64_t low;
    uint32_t high;
    int32_t row;
};
struct key key_of(const void *bytes, size_t n, int32_t row);
/* By hash, equal ones by row; as qsort wants it. */
static inline int key_compare(const struct key *a, const struct key *b) {
    if (a->low != b->low) return a->low < b->low ? -1 : 1;
    if (a->high != b->high) return a->high < b->high ? -1 : 1;
    return (a->row > b->row) - (a->row < b->row);
}
void keys_sort(struct key *k, size_t n);
/* Where the run of hashes equal to k[i]'s ends. */
size_t keys_run(const struct key *k, size_t n, size_t i);
/* The first of sorted keys that is equal, or n. */
size_t keys_find(const struct key *k, size_t n, uint64_t low, uint32_t high);

#endif
