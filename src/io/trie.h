/* A static trie over bytes: which tokens begin a text, shortest first. Private to src/io. */
#ifndef CYC_IO_TRIE_H
#define CYC_IO_TRIE_H
#include "base/arena.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct trie_node {
    uint32_t first; /* its children lie side by side, in order of their byte */
    int32_t id;     /* of the token that ends here, or -1 */
};
struct trie {
    struct trie_node *node; /* node[0] is the root; one more than n, so that node[i + 1].first ends i's children */
    uint8_t *byte;          /* of each node */
    uint32_t n;
    uint32_t root[256]; /* the root's child for a byte, 0 when there is none */
};
struct trie_key {
    const char *text;
    size_t n;
    int32_t id;
};

/* Sorts the keys. Of keys with one text the first after sorting by id counts; empty keys are left out. */
err trie_build(struct trie *t, arena *mem, struct trie_key *keys, size_t n);

/* The child of a node by a byte, 0 when there is none. */
static inline uint32_t trie_child(const struct trie *t, uint32_t at, uint8_t byte) {
    if (at == 0) return t->root[byte];
    uint32_t lo = t->node[at].first, hi = t->node[at + 1].first;
    while (hi - lo > 8) {
        uint32_t mid = (lo + hi) / 2;
        if (t->byte[mid] <= byte) lo = mid;
        else hi = mid;
    }
    for (; lo < hi; lo++)
        if (t->byte[lo] == byte) return lo;
    return 0;
}

#endif
