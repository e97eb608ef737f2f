/* What a tokenizer is made of, and how the readers of tokenizer.json and GGUF build one. Private to src/io.
 *
 * Building: tok_create, tok_put for every id, tok_merge in order of rank, tok_add for added tokens, the pre-tokeniser's
 * stages, tok_finish. After that nothing changes but the list of idle scratches, under a lock, so that threads share
 * one tokenizer. */
#ifndef CYC_IO_TOKENIZER_INTERNAL_H
#define CYC_IO_TOKENIZER_INTERNAL_H
#include "base/arena.h"
#include "io/pretokenizer.h"
#include "io/tokenizer.h"
#include <pthread.h>

struct token {
    const char *text;  /* as the file has it, terminated; NULL while unset */
    const char *bytes; /* the text it stands for */
    uint32_t n_text, n_bytes;
    bool in_model; /* in the BPE vocabulary; an added token need not be */
    bool special;
};

/* A token that is recognised in the text before anything else happens to it. */
struct added {
    const char *text;
    size_t n;
    int32_t id;
    bool special, lstrip, rstrip, single_word;
};
struct added_list {
    struct added *v; /* sorted by text once the tokenizer is finished */
    size_t n, cap;
};

/* Two neighbours that become one: an open-addressing table, keyed by both ids; MERGE_FREE marks a free entry. */
struct merge {
    uint64_t pair;
    uint32_t rank;
    int32_t id;
};
#define MERGE_FREE UINT64_MAX

/* The ids of a short word: one cache line. n_bytes = 0 is a free entry. */
enum { CACHE_BYTES = 30, CACHE_IDS = 8, CACHE_WORDS = 1 << 13 };
struct cached_word {
    uint8_t n_bytes, n_ids;
    char bytes[CACHE_BYTES];
    int32_t ids[CACHE_IDS];
};

struct symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t prev, next;
    const struct merge *merge; /* with next; NULL when they do not merge */
};

/* What one call of encode needs; kept for the next call. */
struct scratch {
    struct scratch *next;
    struct pre_scratch pre;
    struct cached_word *cache;
    struct symbol *symbols;
    uint64_t *heap; /* rank << 32 | position, smallest first */
    size_t n_heap, cap;
    str normal; /* normalised text */
    str word;   /* a word in the vocabulary's spelling */
};

struct tokenizer {
    arena mem;
    const char *name; /* the file, for messages */
    struct token *tokens;
    int32_t n;
    int32_t *index; /* hash of a token's text to its id, -1 free */
    size_t index_mask;
    struct merge *merges;
    size_t merge_mask;
    int32_t byte_id[256]; /* -1: the vocabulary has no token for that byte */
    int32_t unk;          /* for such bytes; -1: they are dropped, as the reference does */
    bool fuse_unk, ignore_merges;
    struct added_list raw, normalised; /* looked for before and after normalisation */
    struct pretokenizer pre;
    int32_t bos, eos, pad;
    bool adds_bos;
    const char *chat_template;
    str hashed; /* while building: what the hash covers */
    char hash[33];
    pthread_mutex_t lock;
    struct scratch *idle;
};

/* ---- building (tokenizer_build.c) ---- */
err tok_create(const char *name, size_t n_tokens, size_t n_merges, tokenizer **out);
/* Token `id`; `in_model` texts are spelt in GPT-2's byte alphabet. Ids twice, out of range, texts twice: E_INPUT. */
err tok_put(tokenizer *t, int64_t id, const char *text, size_t n, bool in_model);
err tok_vocabulary_done(tokenizer *t); /* after the last tok_put: no holes; the bytes' own tokens are found */
err tok_merge(tokenizer *t, size_t rank, const char *left, size_t n_left, const char *right, size_t n_right);
/* One string "left right", as older files and GGUF have it. */
err tok_merge_line(tokenizer *t, size_t rank, const char *line, size_t n);
err tok_add(tokenizer *t, struct added a, bool normalised); /* a.text is copied */
err tok_finish(tokenizer *t);
/* The id of a text among all tokens, -1 when absent. */
int32_t tok_find(const tokenizer *t, const char *text, size_t n);

/* From memory, for the fuzz target; `name` stands for the file in messages. */
err tokenizer_json_parse(const char *name, const char *bytes, size_t n, tokenizer **out);

/* ---- merging (bpe.c) ---- */
err bpe_word(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out);
const struct merge *merge_find(const tokenizer *t, int32_t left, int32_t right);
void merge_put(tokenizer *t, int32_t left, int32_t right, struct merge m);

/* GPT-2's byte alphabet: every byte as a printable character, those that are printable in Latin-1 as themselves. */
static inline unsigned byte_to_char(uint8_t b) {
    if (b < 33) return 256u + b;
    if (b >= 127 && b < 161) return 289u + (b - 127u);
    return b == 173 ? 323 : b;
}
/* The byte, or -1 when the character is none of the alphabet. */
static inline int char_to_byte(unsigned cp) {
    if (cp >= 256 && cp < 289) return (int)cp - 256;
    if (cp >= 289 && cp < 323) return (int)cp - 289 + 127;
    if (cp == 323) return 173;
    return cp < 256 && byte_to_char((uint8_t)cp) == cp ? (int)cp : -1;
}

/* ---- GGUF's names for pre-tokenisers (tokenizer_gguf.c), for those who write them ---- */
enum { GGUF_PRE_PATTERNS = 8 };
struct gguf_pre {
    const char *name; /* in tokenizer.ggml.pre */
    bool nfc, ignore_merges;
    const char *pattern[GGUF_PRE_PATTERNS]; /* to the first NULL */
    bool digits[GGUF_PRE_PATTERNS];         /* that one is the Digits stage, each by itself */
};
bool gguf_pre_at(int i, struct gguf_pre *out); /* the i-th that is known; false after the last */

#endif
