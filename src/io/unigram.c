/* The Unigram model: of all ways to write a piece of text as tokens, the one with the greatest sum of scores (log
 * probabilities). Viterbi from left to right: at each place the trie gives the tokens that begin there.
 *
 * As the reference does it: a place where no token spans just the next character may also take that character as
 * unknown, at the lowest score of all less 10; of equal sums the first found stays; neighbouring unknowns are one
 * unknown text. That text becomes byte tokens where the model falls back to bytes and has them all. */
#include "io/tokenizer_internal.h"
#include <stdlib.h>

static err reserve(struct scratch *s, size_t n) {
    if (n <= s->path_cap) return OK;
    size_t cap = n < 256 ? 256 : n;
    struct path_node *path = realloc(s->path, cap * sizeof *path);
    if (!path) return fail(E_MEMORY, "out of memory for %zu bytes of text", n);
    s->path = path;
    s->path_cap = cap;
    return OK;
}

static inline void offer(struct path_node *end, double score, size_t start, int32_t id) {
    if (end->start < 0 || score > end->score) *end = (struct path_node){score, (int32_t)start, id};
}

static err find_path(const tokenizer *t, struct scratch *s, const char *text, size_t n) {
    TRY(reserve(s, n + 1));
    struct path_node *path = s->path;
    for (size_t i = 0; i <= n; i++) path[i].start = -1;
    path[0].score = 0;
    for (size_t i = 0, len; i < n; i += len) {
        double so_far = path[i].score;
        bool single = false;
        uint32_t at = 0;
        len = (size_t)utf8_len(text + i);
        for (size_t k = i; k < n && (at = trie_child(&t->whole, at, (uint8_t)text[k]));) {
            int32_t id = t->whole.node[at].id;
            k++;
            if (id < 0) continue;
            offer(&path[k], so_far + t->score[id], i, id);
            single |= k == i + len;
        }
        if (single) continue;
        if (t->unk < 0)
            return fail(E_INPUT, "%s: no token for \"%.*s\", and the model has no unknown token", t->name, (int)len,
                        text + i);
        offer(&path[i + len], so_far + t->unk_score, i, t->unk);
    }
    return OK;
}

/* A run of unknowns: a token whose text it happens to be, its bytes, or the unknown token. */
static err push_unknown(const tokenizer *t, const char *text, size_t n, struct ids *out) {
    int32_t id = tok_find(t, text, n);
    if (id >= 0 && t->tokens[id].in_model) return ids_push(out, id);
    bool bytes = t->byte_fallback;
    for (size_t i = 0; i < n && bytes; i++) bytes = t->byte_id[(uint8_t)text[i]] >= 0;
    if (!bytes) return ids_push(out, t->unk);
    for (size_t i = 0; i < n; i++) TRY(ids_push(out, t->byte_id[(uint8_t)text[i]]));
    return OK;
}

err unigram_word(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out) {
    TRY(find_path(t, s, word, n));
    struct path_node *path = s->path;
    size_t first = n; /* turn the links around: path[i].start becomes where the token that begins at i ends */
    int32_t next = (int32_t)n, next_id = -1;
    for (int32_t at = (int32_t)n; at >= 0;) {
        struct path_node here = path[at];
        path[at].start = next;
        path[at].id = next_id;
        next = at;
        next_id = here.id;
        first = (size_t)at;
        if (at == 0) break;
        at = here.start;
    }
    for (size_t i = first; i < n;) {
        size_t end = (size_t)path[i].start;
        if (path[i].id != t->unk) TRY(ids_push(out, path[i].id));
        else {
            while (end < n && path[end].id == t->unk) end = (size_t)path[end].start;
            TRY(push_unknown(t, word + i, end - i, out));
        }
        i = end;
    }
    return OK;
}
