/* Byte-pair merges of one piece of text: of all neighbours that merge, the pair of lowest rank and then the leftmost
 * goes first, until none merges. A heap orders the pairs, so that n symbols cost n log n.
 *
 * Symbols begin as bytes (GPT-2's kind) or as characters (SentencePiece's). Which neighbours merge is a table of pairs
 * (tokenizer.json), or, for GGUF files with scores, every two whose joined text is a token, ordered by its score.
 *
 * What has no token: a byte is dropped or becomes the unknown token; a character becomes its bytes' tokens where the
 * model has byte fallback, else the unknown token, several in a row one where it fuses them. Its neighbours become
 * neighbours: that is what the reference does. */
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

static inline const struct merge *merge_find(const tokenizer *t, int32_t left, int32_t right) {
    uint64_t pair = pair_of(left, right);
    for (size_t i = pair_slot(t, pair);; i = (i + 1) & t->merge_mask) {
        if (t->merges[i].pair == pair) return &t->merges[i];
        if (t->merges[i].pair == MERGE_FREE) return NULL;
    }
}

const struct merge *merge_of(const tokenizer *t, int32_t left, int32_t right) { return merge_find(t, left, right); }

void merge_put(tokenizer *t, int32_t left, int32_t right, struct merge m) {
    m.pair = pair_of(left, right);
    size_t i = pair_slot(t, m.pair);
    while (t->merges[i].pair != MERGE_FREE && t->merges[i].pair != m.pair) i = (i + 1) & t->merge_mask;
    t->merges[i] = m;
}

/* ---- the heap ---- */

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

/* ---- merging ---- */

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
static inline void pair_up(const tokenizer *t, struct scratch *s, const char *word, int32_t i) {
    struct symbol *a = &s->symbols[i];
    a->rank = UINT32_MAX;
    if (a->next < 0) return;
    const struct symbol *b = &s->symbols[a->next];
    if (t->merges) {
        const struct merge *m = merge_find(t, a->id, b->id);
        if (!m) return;
        a->rank = m->rank;
        a->into = m->id;
    } else {
        int32_t id = tok_find(t, word + a->start, a->len + b->len);
        if (id < 0 || t->rank[id] == UINT32_MAX) return;
        a->rank = t->rank[id];
        a->into = id;
    }
    heap_push(s, (uint64_t)a->rank << 32 | (uint32_t)i);
}

/* Merges the first m symbols; what is left are their ids and, for symbols without one, the bytes. */
static void merge_all(const tokenizer *t, struct scratch *s, const char *word, int32_t m) {
    s->n_heap = 0;
    for (int32_t i = 0; i < m; i++) {
        s->symbols[i].prev = i - 1;
        s->symbols[i].next = i + 1 < m ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < m; i++) pair_up(t, s, word, i);
    while (s->n_heap) {
        uint64_t key = heap_pop(s);
        int32_t i = (int32_t)(uint32_t)key;
        struct symbol *a = &s->symbols[i];
        if (a->id == SYMBOL_MERGED || a->rank != key >> 32 || a->next < 0) continue; /* the pair is no more */
        struct symbol *b = &s->symbols[a->next];
        a->id = a->into;
        a->len += b->len;
        a->next = b->next;
        b->id = SYMBOL_MERGED;
        if (a->next >= 0) s->symbols[a->next].prev = i;
        pair_up(t, s, word, i);
        if (a->prev >= 0) pair_up(t, s, word, a->prev);
    }
}

/* ---- bytes ---- */

/* The word's bytes as symbols; returns how many. */
static int32_t spell_bytes(const tokenizer *t, struct scratch *s, const char *word, size_t n) {
    int32_t m = 0;
    bool after_unk = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_id[(uint8_t)word[i]];
        bool unk = id < 0;
        if (unk && (t->unk < 0 || (t->fuse_unk && after_unk))) continue;
        after_unk = unk;
        s->symbols[m++] = (struct symbol){.id = unk ? t->unk : id};
    }
    return m;
}

/* Some vocabularies take a word that is a token whole, whatever the merges say. */
static int32_t whole_word(const tokenizer *t, struct scratch *s, const char *word, size_t n) {
    if (t->byte_level) {
        str_clear(&s->word);
        for (size_t i = 0; i < n; i++) {
            char utf8[4];
            str_add(&s->word, utf8, (size_t)utf8_encode(byte_to_char((uint8_t)word[i]), utf8));
        }
        if (s->word.failed) return -1;
        word = s->word.p;
        n = s->word.n;
    }
    int32_t id = tok_find(t, word, n);
    return id >= 0 && t->tokens[id].in_model ? id : -1;
}

err bpe_bytes(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out) {
    int32_t whole = t->ignore_merges ? whole_word(t, s, word, n) : -1;
    if (whole >= 0) return ids_push(out, whole);
    TRY(reserve(s, n));
    int32_t m = spell_bytes(t, s, word, n);
    merge_all(t, s, word, m);
    for (int32_t i = m ? 0 : -1; i >= 0; i = s->symbols[i].next) TRY(ids_push(out, s->symbols[i].id));
    return OK;
}

/* ---- characters ---- */

static bool has_bytes(const tokenizer *t, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[(uint8_t)text[i]] < 0) return false;
    return true;
}

static int32_t char_id(const tokenizer *t, const char *text, size_t n) {
    if (n == 1) return t->ascii_id[(uint8_t)*text];
    int32_t id = tok_find(t, text, n);
    return id >= 0 && t->tokens[id].in_model ? id : -1;
}

/* The word's characters as symbols; returns how many. Where merges go by text (no table), a character without a token
 * stays a symbol of its own, for it may be part of one. An unknown token that waits to be fused is written when the
 * next known character comes, behind byte tokens in between: the reference does so. */
static int32_t spell_chars(const tokenizer *t, struct scratch *s, const char *word, size_t n) {
    int32_t m = 0;
    bool waiting = false;
    for (size_t i = 0, len; i < n; i += len) {
        len = (size_t)utf8_len(word + i);
        struct symbol symbol = {.id = char_id(t, word + i, len), .start = (uint32_t)i, .len = (uint32_t)len};
        if (symbol.id < 0 && !t->merges) symbol.id = SYMBOL_UNKNOWN;
        if (symbol.id != -1) {
            if (waiting) s->symbols[m++] = (struct symbol){.id = t->unk};
            waiting = false;
            s->symbols[m++] = symbol;
        } else if (t->byte_fallback && has_bytes(t, word + i, len))
            for (size_t k = 0; k < len; k++) s->symbols[m++] = (struct symbol){.id = t->byte_id[(uint8_t)word[i + k]]};
        else if (t->unk >= 0) {
            if (waiting && !t->fuse_unk) s->symbols[m++] = (struct symbol){.id = t->unk};
            waiting = true;
        }
    }
    if (waiting) s->symbols[m++] = (struct symbol){.id = t->unk};
    return m;
}

/* What is left of a symbol that is no token: its bytes, else the unknown token. */
static err push_unknown(const tokenizer *t, const char *text, size_t n, bool *after_unk, struct ids *out) {
    if (t->byte_fallback && has_bytes(t, text, n)) {
        *after_unk = false;
        for (size_t i = 0; i < n; i++) TRY(ids_push(out, t->byte_id[(uint8_t)text[i]]));
        return OK;
    }
    bool again = *after_unk && t->fuse_unk;
    *after_unk = true;
    return t->unk < 0 || again ? OK : ids_push(out, t->unk);
}

err bpe_chars(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out) {
    int32_t whole = t->ignore_merges ? whole_word(t, s, word, n) : -1;
    if (whole >= 0) return ids_push(out, whole);
    TRY(reserve(s, n + 1));
    int32_t m = spell_chars(t, s, word, n);
    bool after_unk = false;
    merge_all(t, s, word, m);
    for (int32_t i = m ? 0 : -1; i >= 0; i = s->symbols[i].next) {
        const struct symbol *a = &s->symbols[i];
        if (a->id == SYMBOL_UNKNOWN) TRY(push_unknown(t, word + a->start, a->len, &after_unk, out));
        else {
            after_unk = false;
            TRY(ids_push(out, a->id));
        }
    }
    return OK;
}
