/* Builds a tokenizer from what a reader finds in a file, and checks it: every id set exactly once, every text once,
 * every merge between known tokens and giving a known one. See tokenizer_internal.h for the order of calls.
 *
 * Counts come from a file that is already in memory, so they are bounded by its size; ids are bounded by the count. */
#define XXH_INLINE_ALL
#include "io/tokenizer_internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static size_t table_size(size_t entries) {
    size_t n = 16;
    while (n < 2 * entries) n *= 2;
    return n;
}

enum { TOKENS_MAX = 1 << 26 };

err tok_create(const char *name, size_t n_tokens, tokenizer **out) {
    *out = NULL;
    if (n_tokens == 0) return fail(E_INPUT, "%s: the vocabulary is empty", name);
    if (n_tokens > TOKENS_MAX)
        return fail(E_UNSUPPORTED, "%s: %zu tokens; at most %d are supported", name, n_tokens, TOKENS_MAX);
    tokenizer *t = calloc(1, sizeof *t);
    if (!t) return fail(E_MEMORY, "out of memory");
    pthread_mutex_init(&t->lock, NULL);
    t->bos = t->eos = t->pad = t->unk = -1;
    t->n = (int32_t)n_tokens;
    t->index_mask = table_size(n_tokens) - 1;
    t->name = arena_str(&t->mem, name);
    t->tokens = arena_alloc(&t->mem, n_tokens * sizeof *t->tokens);
    t->index = arena_alloc(&t->mem, (t->index_mask + 1) * sizeof *t->index);
    t->hashing = XXH3_createState();
    if (!t->name || !t->tokens || !t->index || !t->hashing) {
        tokenizer_free(t);
        return fail(E_MEMORY, "%s: out of memory for %zu tokens", name, n_tokens);
    }
    XXH3_128bits_reset(t->hashing);
    for (size_t i = 0; i <= t->index_mask; i++) t->index[i].id = -1;
    *out = t;
    return OK;
}

void tokenizer_free(tokenizer *t) {
    if (!t) return;
    while (t->idle) {
        struct scratch *s = t->idle;
        t->idle = s->next;
        scratch_free(s);
    }
    pthread_mutex_destroy(&t->lock);
    norm_free(&t->norm);
    pre_free(&t->pre);
    free(t->raw.v);
    free(t->normalised.v);
    ids_free(&t->prefix);
    ids_free(&t->suffix);
    XXH3_freeState(t->hashing);
    arena_free(&t->mem);
    free(t);
}

/* The entry that holds this text, or the free one where it belongs. */
static struct index_entry *index_slot(const tokenizer *t, const char *text, size_t n, uint32_t *hash) {
    uint64_t h = XXH3_64bits(text, n);
    *hash = (uint32_t)(h >> 32);
    for (size_t i = h & t->index_mask;; i = (i + 1) & t->index_mask) {
        struct index_entry *k = &t->index[i];
        if (k->id < 0) return k;
        if (k->hash == *hash && t->tokens[k->id].n_text == n && !memcmp(t->tokens[k->id].text, text, n)) return k;
    }
}

int32_t tok_find(const tokenizer *t, const char *text, size_t n) {
    uint32_t hash;
    return index_slot(t, text, n, &hash)->id;
}

/* The bytes that a text in GPT-2's alphabet stands for; a text with other characters stands for itself. */
static err set_bytes(tokenizer *t, struct token *k) {
    k->bytes = k->text;
    k->n_bytes = k->n_text;
    if (!k->in_model || !t->byte_level) return OK;
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
    uint32_t hash;
    struct index_entry *slot = index_slot(t, text, n, &hash);
    if (slot->id >= 0)
        return fail(E_INPUT, "%s: token \"%.*s\" is there twice, with ids %d and %lld", t->name, shown, text, slot->id,
                    (long long)id);
    k->text = arena_strn(&t->mem, text, n);
    if (!k->text) return fail(E_MEMORY, "%s: out of memory", t->name);
    k->n_text = (uint32_t)n;
    k->in_model = in_model;
    *slot = (struct index_entry){hash, (int32_t)id};
    t->n_put++;
    return set_bytes(t, k);
}

static void hash_more(tokenizer *t, const void *p, size_t n) { XXH3_128bits_update(t->hashing, p, n); }

/* The id of a text in the model's own vocabulary. */
static int32_t model_id(const tokenizer *t, const char *text, size_t n) {
    int32_t id = tok_find(t, text, n);
    return id >= 0 && t->tokens[id].in_model ? id : -1;
}

err tok_vocabulary_done(tokenizer *t) {
    t->n = t->n_put;
    for (int32_t i = 0; i < t->n; i++)
        if (!t->tokens[i].text) return fail(E_INPUT, "%s: no token has id %d: the vocabulary has a hole", t->name, i);
    int found = 0;
    for (int b = 0; b < 256; b++) {
        char text[8];
        int n =
            t->byte_level ? utf8_encode(byte_to_char((uint8_t)b), text) : snprintf(text, sizeof text, "<0x%02X>", b);
        /* byte tokens of a GGUF file are none of the merges' */
        t->byte_id[b] = t->byte_level ? model_id(t, text, (size_t)n) : tok_find(t, text, (size_t)n);
        found += t->byte_id[b] >= 0;
        if (b < 128) t->ascii_id[b] = model_id(t, (char[]){(char)b}, 1);
    }
    if (t->byte_level && found == 0) /* a trained vocabulary may lack bytes that its text lacked */
        return fail(E_UNSUPPORTED, "%s: no byte has a token: not a byte-level BPE vocabulary", t->name);
    for (int32_t i = 0; i < t->n; i++) {
        uint32_t n = t->tokens[i].n_text;
        hash_more(t, &n, sizeof n);
        hash_more(t, t->tokens[i].text, n);
    }
    return OK;
}

/* ---- merges ---- */

err tok_merges_begin(tokenizer *t, size_t n_merges) {
    if (n_merges > TOKENS_MAX)
        return fail(E_UNSUPPORTED, "%s: %zu merges; at most %d are supported", t->name, n_merges, TOKENS_MAX);
    t->merges_max = n_merges;
    t->merge_mask = table_size(n_merges) - 1;
    t->merges = arena_alloc(&t->mem, (t->merge_mask + 1) * sizeof *t->merges);
    if (!t->merges) return fail(E_MEMORY, "%s: out of memory for %zu merges", t->name, n_merges);
    memset(t->merges, 0xFF, (t->merge_mask + 1) * sizeof *t->merges); /* MERGE_FREE is all ones */
    return OK;
}

static err part_of_merge(const tokenizer *t, size_t rank, const char *text, size_t n, int32_t *id) {
    *id = model_id(t, text, n);
    if (*id >= 0) return OK;
    return fail(E_INPUT, "%s: merge %zu: \"%.*s\" is not in the vocabulary", t->name, rank, (int)(n < 80 ? n : 80),
                text);
}

err tok_merge(tokenizer *t, size_t rank, const char *left, size_t n_left, const char *right, size_t n_right) {
    int32_t ids[2], whole;
    char small[128];
    if (rank >= t->merges_max) /* the table has room for no more */
        return fail(E_INPUT, "%s: merge %zu: \"a b\" and [\"a\", \"b\"] are mixed", t->name, rank);
    TRY(part_of_merge(t, rank, left, n_left, &ids[0]));
    TRY(part_of_merge(t, rank, right, n_right, &ids[1]));
    char *both = n_left + n_right <= sizeof small ? small : malloc(n_left + n_right);
    if (!both) return fail(E_MEMORY, "%s: out of memory", t->name);
    memcpy(both, left, n_left);
    memcpy(both + n_left, right, n_right);
    err e = part_of_merge(t, rank, both, n_left + n_right, &whole);
    if (both != small) free(both);
    TRY(e);
    merge_put(t, ids[0], ids[1], (struct merge){.rank = (uint32_t)rank, .id = whole});
    hash_more(t, ids, sizeof ids);
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

/* ---- scores ---- */

static err check_scores(tokenizer *t, const double *score) {
    for (int32_t i = 0; i < t->n; i++)
        if (!isfinite(score[i])) return fail(E_INPUT, "%s: the score of token %d is not a finite number", t->name, i);
    hash_more(t, score, (size_t)t->n * sizeof *score);
    return OK;
}

struct scored {
    double score;
    int32_t id;
};
static int by_score(const void *x, const void *y) {
    const struct scored *a = x, *b = y;
    return (a->score < b->score) - (a->score > b->score);
}

err tok_ranks(tokenizer *t, const double *score) {
    TRY(check_scores(t, score));
    t->rank = arena_alloc(&t->mem, (size_t)t->n * sizeof *t->rank);
    struct scored *s = malloc((size_t)t->n * sizeof *s);
    if (!t->rank || !s) return free(s), fail(E_MEMORY, "%s: out of memory", t->name);
    for (int32_t i = 0; i < t->n; i++) s[i] = (struct scored){score[i], i};
    qsort(s, (size_t)t->n, sizeof *s, by_score);
    uint32_t rank = 0;
    for (int32_t i = 0; i < t->n; i++) {
        rank += i > 0 && s[i].score != s[i - 1].score;
        t->rank[s[i].id] = t->tokens[s[i].id].in_model ? rank : UINT32_MAX;
    }
    free(s);
    return OK;
}

/* Tokens as keys of a trie: all of the model's, or those that begin with a prefix, without it. */
static err build_trie(tokenizer *t, struct trie *trie, const char *prefix) {
    size_t n_prefix = strlen(prefix), n = 0;
    struct trie_key *keys = malloc((size_t)t->n * sizeof *keys);
    if (!keys) return fail(E_MEMORY, "%s: out of memory", t->name);
    for (int32_t i = 0; i < t->n; i++) {
        const struct token *k = &t->tokens[i];
        if (k->in_model && k->n_text >= n_prefix && !memcmp(k->text, prefix, n_prefix))
            keys[n++] = (struct trie_key){k->text + n_prefix, k->n_text - n_prefix, i};
    }
    err e = trie_build(trie, &t->mem, keys, n);
    free(keys);
    return e ? fail_in(e, "%s", t->name) : OK;
}

err tok_unigram(tokenizer *t, double *score) {
    enum { UNKNOWN_PENALTY = 10 };
    double least = INFINITY;
    TRY(check_scores(t, score));
    for (int32_t i = 0; i < t->n; i++)
        if (t->tokens[i].in_model && score[i] < least) least = score[i];
    t->kind = MODEL_UNIGRAM;
    t->word = unigram_word;
    t->score = score;
    t->unk_score = least - UNKNOWN_PENALTY;
    return build_trie(t, &t->whole, "");
}

err tok_wordpiece(tokenizer *t, const char *prefix, size_t max_chars) {
    t->kind = MODEL_WORDPIECE;
    t->word = wordpiece_word;
    t->max_chars = max_chars < SIZE_MAX ? max_chars : SIZE_MAX - 1;
    hash_more(t, prefix, strlen(prefix));
    TRY(build_trie(t, &t->whole, ""));
    return build_trie(t, &t->parts, prefix);
}

/* ---- around the model ---- */

err tok_add(tokenizer *t, struct added a, bool normalised) {
    struct token *k = &t->tokens[a.id];
    k->special = a.special;
    k->added = true;
    k->bytes = k->text; /* the text is what it stands for, whatever the byte alphabet would make of it */
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
    list->begins[(uint8_t)a.text[0]] = true;
    list->v[list->n++] = a;
    return OK;
}

err tok_around(const tokenizer *t, struct ids *list, int64_t id) {
    if (id < 0 || id >= t->n)
        return fail(E_INPUT, "%s: the id %lld that is put around a text is outside the vocabulary of %d", t->name,
                    (long long)id, t->n);
    return ids_push(list, (int32_t)id);
}

err tok_ends(tokenizer *t, int adds_bos, int adds_eos) {
    struct ids *p = &t->prefix, *s = &t->suffix;
    bool has_bos = p->n && p->v[0] == t->bos, has_eos = s->n && s->v[s->n - 1] == t->eos;
    if (adds_bos == 1 && t->bos >= 0 && !has_bos) {
        TRY(ids_push(p, t->bos));
        memmove(p->v + 1, p->v, (p->n - 1) * sizeof *p->v);
        p->v[0] = t->bos;
    } else if (adds_bos == 0 && has_bos) memmove(p->v, p->v + 1, --p->n * sizeof *p->v);
    if (adds_eos == 1 && t->eos >= 0 && !has_eos) TRY(ids_push(s, t->eos));
    if (adds_eos == 0 && has_eos) s->n--;
    return OK;
}

static int by_text(const void *x, const void *y) {
    const struct added *a = x, *b = y;
    int c = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

/* Whole texts of SentencePiece's BPE can be cut into words first, which are short and come again: no merge crosses the
 * place between a byte and a space's sign that no token has inside it. */
static void find_cuts(tokenizer *t) {
    t->cut_spaces = t->word == bpe_chars && !t->ignore_merges && model_id(t, SPACE_SIGN, SPACE_SIGN_BYTES) >= 0;
    for (int32_t i = 0; i < t->n && t->cut_spaces; i++) {
        const struct token *k = &t->tokens[i];
        for (uint32_t at = 1; k->in_model && at + SPACE_SIGN_BYTES <= k->n_text; at++)
            if (!memcmp(k->text + at, SPACE_SIGN, SPACE_SIGN_BYTES)) t->joined[(uint8_t)k->text[at - 1]] = true;
    }
}

err tok_finish(tokenizer *t) {
    if (t->raw.n) qsort(t->raw.v, t->raw.n, sizeof *t->raw.v, by_text);
    if (t->normalised.n) qsort(t->normalised.v, t->normalised.n, sizeof *t->normalised.v, by_text);
    const int32_t ends[] = {t->bos, t->eos, t->pad};
    for (int i = 0; i < 3; i++)
        if (ends[i] < -1 || ends[i] >= t->n)
            return fail(E_INPUT, "%s: %s token id %d is outside the vocabulary of %d", t->name,
                        (const char *[]){"bos", "eos", "padding"}[i], ends[i], t->n);
    find_cuts(t);
    XXH128_hash_t h = XXH3_128bits_digest(t->hashing);
    snprintf(t->hash, sizeof t->hash, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
    XXH3_freeState(t->hashing);
    t->hashing = NULL;
    return OK;
}
