/* Builds a tokenizer from what a reader finds in a file, and checks it: every id set exactly once, every text once,
 * every merge between known tokens and giving a known one. See tokenizer_internal.h for the order of calls.
 *
 * Counts come from a file that is already in memory, so they are bounded by its size; ids are bounded by the count. */
#define XXH_INLINE_ALL
#include "io/tokenizer_internal.h"
#include "base/file.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static size_t table_size(size_t entries) {
    size_t n = 16;
    while (n < 2 * entries) n *= 2;
    return n;
}

err tok_create(const char *name, size_t n_tokens, size_t n_merges, tokenizer **out) {
    enum { TOKENS_MAX = 1 << 26 };
    *out = NULL;
    if (n_tokens == 0) return fail(E_INPUT, "%s: the vocabulary is empty", name);
    if (n_tokens > TOKENS_MAX || n_merges > TOKENS_MAX)
        return fail(E_UNSUPPORTED, "%s: %zu tokens and %zu merges; at most %d of each are supported", name, n_tokens,
                    n_merges, TOKENS_MAX);
    tokenizer *t = calloc(1, sizeof *t);
    if (!t) return fail(E_MEMORY, "out of memory");
    pthread_mutex_init(&t->lock, NULL);
    t->bos = t->eos = t->pad = t->unk = -1;
    t->n = (int32_t)n_tokens;
    t->index_mask = table_size(n_tokens) - 1;
    t->merge_mask = table_size(n_merges) - 1;
    t->name = arena_str(&t->mem, name);
    t->tokens = arena_alloc(&t->mem, n_tokens * sizeof *t->tokens);
    t->index = arena_alloc(&t->mem, (t->index_mask + 1) * sizeof *t->index);
    t->merges = arena_alloc(&t->mem, (t->merge_mask + 1) * sizeof *t->merges);
    if (!t->name || !t->tokens || !t->index || !t->merges) {
        tokenizer_free(t);
        return fail(E_MEMORY, "%s: out of memory for %zu tokens", name, n_tokens);
    }
    memset(t->index, 0xFF, (t->index_mask + 1) * sizeof *t->index); /* -1 and MERGE_FREE are all ones */
    memset(t->merges, 0xFF, (t->merge_mask + 1) * sizeof *t->merges);
    *out = t;
    return OK;
}

/* The entry that holds this text, or the free one where it belongs. */
static int32_t *index_slot(const tokenizer *t, const char *text, size_t n) {
    for (size_t i = XXH3_64bits(text, n) & t->index_mask;; i = (i + 1) & t->index_mask) {
        int32_t id = t->index[i];
        if (id < 0 || (t->tokens[id].n_text == n && !memcmp(t->tokens[id].text, text, n))) return &t->index[i];
    }
}

int32_t tok_find(const tokenizer *t, const char *text, size_t n) { return *index_slot(t, text, n); }

/* The bytes that a text in GPT-2's alphabet stands for; a text with other characters stands for itself. */
static err set_bytes(tokenizer *t, struct token *k) {
    k->bytes = k->text;
    k->n_bytes = k->n_text;
    if (!k->in_model) return OK;
    char *bytes = arena_alloc(&t->mem, k->n_text + 1);
    if (!bytes) return fail(E_MEMORY, "%s: out of memory", t->name);
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->n_text;) {
        unsigned cp;
        i += (uint32_t)utf8_decode(k->text + i, k->n_text - i, &cp);
        int b = char_to_byte(cp);
        if (b < 0) return OK;
        bytes[n++] = (char)b;
    }
    k->bytes = bytes;
    k->n_bytes = n;
    return OK;
}

static bool is_utf8(const char *s, size_t n) {
    unsigned cp;
    for (size_t i = 0, len; i < n; i += len)
        if ((len = (size_t)utf8_decode(s + i, n - i, &cp)) == 0) return false;
    return true;
}

err tok_put(tokenizer *t, int64_t id, const char *text, size_t n, bool in_model) {
    int shown = (int)(n < 80 ? n : 80);
    if (n >= UINT32_MAX || !is_utf8(text, n))
        return fail(E_INPUT, "%s: token %lld is not valid UTF-8", t->name, (long long)id);
    if (id < 0 || id >= t->n)
        return fail(E_INPUT,
                    "%s: token \"%.*s\" has id %lld, but the %d tokens have the ids 0 to %d: the vocabulary has a hole",
                    t->name, shown, text, (long long)id, t->n, t->n - 1);
    struct token *k = &t->tokens[id];
    if (k->text)
        return fail(E_INPUT, "%s: id %lld is given to both \"%.80s\" and \"%.*s\"", t->name, (long long)id, k->text,
                    shown, text);
    int32_t *slot = index_slot(t, text, n);
    if (*slot >= 0)
        return fail(E_INPUT, "%s: token \"%.*s\" is there twice, with ids %d and %lld", t->name, shown, text, *slot,
                    (long long)id);
    k->text = arena_strn(&t->mem, text, n);
    if (!k->text) return fail(E_MEMORY, "%s: out of memory", t->name);
    k->n_text = (uint32_t)n;
    k->in_model = in_model;
    *slot = (int32_t)id;
    return set_bytes(t, k);
}

err tok_vocabulary_done(tokenizer *t) {
    for (int32_t i = 0; i < t->n; i++)
        if (!t->tokens[i].text) return fail(E_INPUT, "%s: no token has id %d: the vocabulary has a hole", t->name, i);
    int found = 0;
    for (int b = 0; b < 256; b++) {
        char utf8[4];
        int32_t id = tok_find(t, utf8, (size_t)utf8_encode(byte_to_char((uint8_t)b), utf8));
        t->byte_id[b] = id >= 0 && t->tokens[id].in_model ? id : -1;
        found += t->byte_id[b] >= 0;
    }
    if (found == 0) /* a trained vocabulary may lack bytes that its text lacked; toy ones hold a few letters */
        return fail(E_UNSUPPORTED, "%s: no byte has a token: not a byte-level BPE vocabulary", t->name);
    for (int32_t i = 0; i < t->n; i++) {
        uint32_t n = t->tokens[i].n_text;
        str_add(&t->hashed, (const char *)&n, sizeof n);
        str_add(&t->hashed, t->tokens[i].text, n);
    }
    return OK;
}

static err part_of_merge(const tokenizer *t, size_t rank, const char *text, size_t n, int32_t *id) {
    *id = tok_find(t, text, n);
    if (*id >= 0 && t->tokens[*id].in_model) return OK;
    return fail(E_INPUT, "%s: merge %zu: \"%.*s\" is not in the vocabulary", t->name, rank, (int)(n < 80 ? n : 80),
                text);
}

err tok_merge(tokenizer *t, size_t rank, const char *left, size_t n_left, const char *right, size_t n_right) {
    int32_t ids[2], whole;
    TRY(part_of_merge(t, rank, left, n_left, &ids[0]));
    TRY(part_of_merge(t, rank, right, n_right, &ids[1]));
    str both = {0};
    str_add(&both, left, n_left);
    str_add(&both, right, n_right);
    err e = both.failed ? fail(E_MEMORY, "%s: out of memory", t->name) : part_of_merge(t, rank, both.p, both.n, &whole);
    str_free(&both);
    TRY(e);
    merge_put(t, ids[0], ids[1], (struct merge){.rank = (uint32_t)rank, .id = whole});
    str_add(&t->hashed, (const char *)ids, sizeof ids);
    return OK;
}

err tok_merge_line(tokenizer *t, size_t rank, const char *line, size_t n) {
    const char *space = memchr(line, ' ', n);
    size_t left = space ? (size_t)(space - line) : 0;
    if (!space || left == 0 || left + 1 == n || memchr(space + 1, ' ', n - left - 1))
        return fail(E_INPUT, "%s: merge %zu: \"%.*s\" is not two tokens with one space between", t->name, rank,
                    (int)(n < 80 ? n : 80), line);
    return tok_merge(t, rank, line, left, space + 1, n - left - 1);
}

/* The token's text is what it stands for, whatever the byte alphabet would make of it. */
err tok_add(tokenizer *t, struct added a, bool normalised) {
    struct token *k = &t->tokens[a.id];
    k->special = a.special;
    k->bytes = k->text;
    k->n_bytes = k->n_text;
    struct added_list *list = normalised ? &t->normalised : &t->raw;
    if (a.n == 0) return OK; /* never found in a text */
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 64;
        struct added *v = realloc(list->v, cap * sizeof *v);
        if (!v) return fail(E_MEMORY, "%s: out of memory", t->name);
        list->v = v;
        list->cap = cap;
    }
    if (!(a.text = arena_strn(&t->mem, a.text, a.n))) return fail(E_MEMORY, "%s: out of memory", t->name);
    list->v[list->n++] = a;
    return OK;
}

static int by_text(const void *x, const void *y) {
    const struct added *a = x, *b = y;
    int c = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

err tok_finish(tokenizer *t) {
    if (t->raw.n) qsort(t->raw.v, t->raw.n, sizeof *t->raw.v, by_text);
    if (t->normalised.n) qsort(t->normalised.v, t->normalised.n, sizeof *t->normalised.v, by_text);
    int32_t *ends[] = {&t->bos, &t->eos, &t->pad};
    for (int i = 0; i < 3; i++)
        if (*ends[i] < -1 || *ends[i] >= t->n)
            return fail(E_INPUT, "%s: %s token id %d is outside the vocabulary of %d", t->name,
                        (const char *[]){"bos", "eos", "padding"}[i], *ends[i], t->n);
    if (t->hashed.failed) return fail(E_MEMORY, "%s: out of memory", t->name);
    bytes_hash(t->hashed.p, t->hashed.n, t->hash);
    str_free(&t->hashed);
    return OK;
}
