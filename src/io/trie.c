/* Building the trie of trie.h: level by level from the sorted keys, so that a node's children lie side by side and end
 * where those of the next node begin. */
#include "io/trie.h"
#include <stdlib.h>
#include <string.h>

static int by_text(const void *x, const void *y) {
    const struct trie_key *a = x, *b = y;
    int c = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    if (c) return c;
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static size_t common(const struct trie_key *a, const struct trie_key *b) {
    size_t n = a->n < b->n ? a->n : b->n, i = 0;
    while (i < n && a->text[i] == b->text[i]) i++;
    return i;
}

/* The keys below a node, by place in the sorted list. */
struct below {
    uint32_t lo, hi, depth;
};

/* Appends the children of node i, whose keys agree in their first `depth` bytes. */
static uint32_t add_children(struct trie *t, struct below *below, uint32_t i, uint32_t n, const struct trie_key *keys) {
    struct below b = below[i];
    t->node[i].first = n;
    t->node[i].id = -1;
    while (b.lo < b.hi && keys[b.lo].n == b.depth) {
        if (t->node[i].id < 0) t->node[i].id = keys[b.lo].id;
        b.lo++;
    }
    while (b.lo < b.hi) {
        uint32_t end = b.lo;
        char c = keys[b.lo].text[b.depth];
        while (end < b.hi && keys[end].text[b.depth] == c) end++;
        t->byte[n] = (uint8_t)c;
        below[n++] = (struct below){b.lo, end, b.depth + 1};
        b.lo = end;
    }
    return n;
}

err trie_build(struct trie *t, arena *mem, struct trie_key *keys, size_t n) {
    size_t nodes = 1, kept = 0;
    for (size_t i = 0; i < n; i++)
        if (keys[i].n) keys[kept++] = keys[i];
    if (kept) qsort(keys, kept, sizeof *keys, by_text);
    for (size_t i = 0; i < kept; i++) nodes += keys[i].n - (i ? common(&keys[i - 1], &keys[i]) : 0);
    if (nodes >= UINT32_MAX || kept >= UINT32_MAX) return fail(E_UNSUPPORTED, "a vocabulary of %zu bytes", nodes);
    t->node = arena_alloc(mem, (nodes + 1) * sizeof *t->node);
    t->byte = arena_alloc(mem, nodes);
    struct below *below = malloc(nodes * sizeof *below);
    if (!t->node || !t->byte || !below)
        return free(below), fail(E_MEMORY, "out of memory for a trie of %zu nodes", nodes);
    below[0] = (struct below){0, (uint32_t)kept, 0};
    uint32_t made = 1;
    for (uint32_t i = 0; i < made; i++) made = add_children(t, below, i, made, keys);
    t->n = made;
    t->node[made].first = made;
    for (uint32_t i = t->node[0].first; made > 1 && i < t->node[1].first; i++) t->root[t->byte[i]] = i;
    free(below);
    return OK;
}
