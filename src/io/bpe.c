/* Byte-pair merges of one word: of all neighbours that merge, the pair of lowest rank and then the leftmost goes first,
 * until none merges. A heap orders the pairs, so that a word of n bytes costs n log n; short words are remembered.
 *
 * Called by tokenizer.c for each piece that the pre-tokeniser leaves. A byte without a token of its own is dropped or
 * becomes the unknown token, and its neighbours become neighbours: that is what the reference does. */
#define XXH_INLINE_ALL
#include "io/tokenizer_internal.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static inline uint64_t pair_of(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }
static inline size_t pair_slot(const tokenizer *t, uint64_t pair) {
    pair *= 0x9E3779B97F4A7C15ull;
    return (size_t)(pair ^ pair >> 32) & t->merge_mask;
}

const struct merge *merge_find(const tokenizer *t, int32_t left, int32_t right) {
    uint64_t pair = pair_of(left, right);
    for (size_t i = pair_slot(t, pair);; i = (i + 1) & t->merge_mask) {
        if (t->merges[i].pair == pair) return &t->merges[i];
        if (t->merges[i].pair == MERGE_FREE) return NULL;
    }
}

void merge_put(tokenizer *t, int32_t left, int32_t right, struct merge m) {
    m.pair = pair_of(left, right);
    size_t i = pair_slot(t, m.pair);
    while (t->merges[i].pair != MERGE_FREE && t->merges[i].pair != m.pair) i = (i + 1) & t->merge_mask;
    t->merges[i] = m;
}

static void heap_push(struct scratch *s, uint64_t key) {
    size_t i = s->n_heap++;
    for (size_t up; i > 0 && s->heap[up = (i - 1) / 2] > key; i = up) s->heap[i] = s->heap[up];
    s->heap[i] = key;
}

static uint64_t heap_pop(struct scratch *s) {
    uint64_t least = s->heap[0], key = s->heap[--s->n_heap];
    size_t i = 0;
    for (size_t down; (down = 2 * i + 1) < s->n_heap; i = down) {
        if (down + 1 < s->n_heap && s->heap[down + 1] < s->heap[down]) down++;
        if (s->heap[down] >= key) break;
        s->heap[i] = s->heap[down];
    }
    s->heap[i] = key;
    return least;
}

static err reserve(struct scratch *s, size_t n) {
    if (n <= s->cap) return OK;
    size_t cap = n < 256 ? 256 : n;
    struct symbol *symbols = realloc(s->symbols, cap * sizeof *symbols);
    if (symbols) s->symbols = symbols;
    uint64_t *heap = realloc(s->heap, 3 * cap * sizeof *heap); /* n - 1 pairs at first, two more for each merge */
    if (heap) s->heap = heap;
    if (!symbols || !heap) return fail(E_MEMORY, "out of memory for a word of %zu bytes", n);
    s->cap = cap;
    return OK;
}

/* Finds how symbol i merges with the next one. */
static inline void pair_up(const tokenizer *t, struct scratch *s, int32_t i) {
    struct symbol *a = &s->symbols[i];
    a->merge = a->next < 0 ? NULL : merge_find(t, a->id, s->symbols[a->next].id);
    if (a->merge) heap_push(s, (uint64_t)a->merge->rank << 32 | (uint32_t)i);
}

/* The word's bytes as symbols; returns how many. */
static int32_t spell(const tokenizer *t, struct scratch *s, const char *word, size_t n) {
    int32_t m = 0;
    bool after_unk = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_id[(uint8_t)word[i]];
        bool unk = id < 0;
        if (unk && (t->unk < 0 || (t->fuse_unk && after_unk))) continue;
        after_unk = unk;
        s->symbols[m] = (struct symbol){unk ? t->unk : id, m - 1, m + 1, NULL};
        m++;
    }
    if (m) s->symbols[m - 1].next = -1;
    return m;
}

static err merge_word(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out) {
    TRY(reserve(s, n));
    int32_t m = spell(t, s, word, n);
    s->n_heap = 0;
    for (int32_t i = 0; i + 1 < m; i++) pair_up(t, s, i);
    while (s->n_heap) {
        uint64_t key = heap_pop(s);
        int32_t i = (int32_t)(uint32_t)key;
        struct symbol *a = &s->symbols[i];
        if (a->id < 0 || !a->merge || a->merge->rank != key >> 32) continue; /* the pair is no more */
        struct symbol *b = &s->symbols[a->next];
        a->id = a->merge->id;
        a->next = b->next;
        b->id = -1;
        if (a->next >= 0) s->symbols[a->next].prev = i;
        pair_up(t, s, i);
        if (a->prev >= 0) pair_up(t, s, a->prev);
    }
    for (int32_t i = m ? 0 : -1; i >= 0; i = s->symbols[i].next) TRY(ids_push(out, s->symbols[i].id));
    return OK;
}

/* Some vocabularies take a word that is a token whole, whatever the merges say. */
static int32_t whole_word(const tokenizer *t, struct scratch *s, const char *word, size_t n) {
    str_clear(&s->word);
    for (size_t i = 0; i < n; i++) {
        char utf8[4];
        str_add(&s->word, utf8, (size_t)utf8_encode(byte_to_char((uint8_t)word[i]), utf8));
    }
    int32_t id = s->word.failed ? -1 : tok_find(t, s->word.p, s->word.n);
    return id >= 0 && t->tokens[id].in_model ? id : -1;
}

static err word_ids(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out) {
    int32_t whole = t->ignore_merges ? whole_word(t, s, word, n) : -1;
    return whole >= 0 ? ids_push(out, whole) : merge_word(t, s, word, n, out);
}

err bpe_word(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out) {
    if (n > CACHE_BYTES) return word_ids(t, s, word, n, out);
    struct cached_word *c = &s->cache[XXH3_64bits(word, n) % CACHE_WORDS];
    if (c->n_bytes == n && !memcmp(c->bytes, word, n)) {
        for (int i = 0; i < c->n_ids; i++) TRY(ids_push(out, c->ids[i]));
        return OK;
    }
    size_t first = out->n;
    TRY(word_ids(t, s, word, n, out));
    if (out->n - first > CACHE_IDS) return OK;
    c->n_bytes = (uint8_t)n;
    c->n_ids = (uint8_t)(out->n - first);
    memcpy(c->bytes, word, n);
    if (c->n_ids) memcpy(c->ids, out->v + first, c->n_ids * sizeof *c->ids);
    return OK;
}
