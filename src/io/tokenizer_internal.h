/* What a tokenizer is made of, and how the readers of tokenizer.json and GGUF build one. Private to src/io.
 *
 * Building: tok_create, tok_put for every id, tok_vocabulary_done, then what the model needs (merges in order of rank,
 * or scores), tok_add for added tokens, the steps around the model, tok_finish. After that nothing changes but the
 * list of idle scratches, under a lock, so that threads share one tokenizer.
 *
 * The kinds of model differ in one function, `word`: a piece of text to ids. The rest is shared. */
#ifndef CYC_IO_TOKENIZER_INTERNAL_H
#define CYC_IO_TOKENIZER_INTERNAL_H
#include "base/arena.h"
#include "io/pretokenizer.h"
#include "io/tokenizer.h"
#include "io/trie.h"
#include <pthread.h>

enum model_kind { MODEL_BPE, MODEL_UNIGRAM, MODEL_WORDPIECE };

struct token {
    const char *text;  /* as the file has it, terminated; NULL while unset */
    const char *bytes; /* the text it stands for; a byte-level token is spelt in GPT-2's alphabet */
    uint32_t n_text, n_bytes;
    bool in_model; /* in the model's vocabulary; an added token need not be */
    bool special, added;
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
    bool begins[256]; /* the bytes that one begins with */
};

/* Two neighbours that become one: an open-addressing table, keyed by both ids; MERGE_FREE marks a free entry. */
struct merge {
    uint64_t pair;
    uint32_t rank;
    int32_t id;
};
#define MERGE_FREE UINT64_MAX

/* The ids of a short piece: one cache line. n_bytes = 0 is a free entry. */
enum { CACHE_BYTES = 30, CACHE_IDS = 8, CACHE_WORDS = 1 << 13 };
struct cached_word {
    uint8_t n_bytes, n_ids;
    char bytes[CACHE_BYTES];
    int32_t ids[CACHE_IDS];
};

enum { SYMBOL_MERGED = -1, SYMBOL_UNKNOWN = -2 };
struct symbol {
    int32_t id; /* or one of the above */
    int32_t prev, next;
    uint32_t rank;       /* of its merge with next; UINT32_MAX when they do not merge */
    int32_t into;        /* what they merge to */
    uint32_t start, len; /* its bytes in the word */
};

/* Where the best path to a place in the text came from. */
struct path_node {
    double score;
    int32_t start, id; /* start -1: no path ends here */
};

/* What one call of encode needs; kept for the next call. */
struct scratch {
    struct scratch *next;
    struct norm_scratch norm;
    struct pre_scratch pre;
    struct cached_word *cache;
    struct symbol *symbols;
    uint64_t *heap; /* rank << 32 | position, smallest first */
    size_t n_heap, cap;
    struct path_node *path;
    size_t path_cap;
    str word; /* a word in the vocabulary's spelling */
};

enum decode_kind {
    DECODE_BYTE_FALLBACK,
    DECODE_FUSE,
    DECODE_STRIP,
    DECODE_REPLACE,
    DECODE_METASPACE,
    DECODE_WORDPIECE
};
struct decode_step {
    enum decode_kind kind;
    const char *from, *to; /* REPLACE; METASPACE: the sign; WORDPIECE: the prefix; STRIP: the character */
    size_t n_from, n_to;
    size_t left, right; /* STRIP: how many at most */
    bool prepends;      /* METASPACE: the first token lost its space */
    bool cleanup;       /* WORDPIECE */
};
enum { DECODE_STEPS_MAX = 12 };
struct decoder {
    struct decode_step step[DECODE_STEPS_MAX];
    int n;
    bool bytes; /* the tokens' bytes, one after another, are the text */
};

/* The index of texts: 32 bits of a text's hash beside its id, so that most misses touch no token. */
struct index_entry {
    uint32_t hash;
    int32_t id; /* -1 free */
};

struct tokenizer {
    arena mem;
    const char *name; /* the file, for messages */
    struct token *tokens;
    int32_t n, n_put; /* while building, n is how many there may be */
    struct index_entry *index;
    size_t index_mask;

    enum model_kind kind;
    err (*word)(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out);
    int32_t unk; /* -1: none */
    bool byte_level;
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t byte_id[256];          /* BPE on bytes, or the byte tokens <0x00>...; -1: none */
    int32_t ascii_id[128];         /* BPE on characters: the ASCII ones' own tokens; -1: none */
    struct merge *merges;          /* BPE by pairs; NULL: any two neighbours whose text is a token merge, by its rank */
    size_t merge_mask, merges_max; /* how many there may be */
    uint32_t *rank;                /* of each token, equal for equal scores; UINT32_MAX: is not merged to */
    bool cut_spaces;               /* BPE on whole texts: words may be cut before a space's sign ... */
    bool joined[256];              /* ... but behind these bytes */
    double *score;                 /* UNIGRAM, of each token */
    double unk_score;
    struct trie whole, parts; /* UNIGRAM: whole; WORDPIECE: those that begin a word, those that go on, without prefix */
    size_t max_chars;         /* WORDPIECE */

    struct added_list raw, normalised; /* looked for before and after normalisation */
    struct normaliser norm;
    struct pretokenizer pre;
    struct decoder decoder;
    struct ids prefix, suffix; /* what the model expects around a text */
    int32_t bos, eos, pad;
    const char *chat_template, *template_name;

    void *hashing; /* while building: the state of the hash */
    char hash[33];
    pthread_mutex_t lock;
    struct scratch *idle;
};

/* ---- building (tokenizer_build.c) ---- */
err tok_create(const char *name, size_t n_tokens, tokenizer **out); /* n_tokens: at most so many */
/* Token `id`. Ids twice, out of range, texts twice, not UTF-8: E_INPUT. t->byte_level must be set before. */
err tok_put(tokenizer *t, int64_t id, const char *text, size_t n, bool in_model);
err tok_vocabulary_done(tokenizer *t); /* after the last tok_put: no holes; the bytes' own tokens are found */
err tok_merges_begin(tokenizer *t, size_t n_merges);
err tok_merge(tokenizer *t, size_t rank, const char *left, size_t n_left, const char *right, size_t n_right);
/* One string "left right", as older files and GGUF have it. */
err tok_merge_line(tokenizer *t, size_t rank, const char *line, size_t n);
/* SentencePiece's BPE: scores order the merges. The array, one per token, is read and may be freed. */
err tok_ranks(tokenizer *t, const double *score);
err tok_unigram(tokenizer *t, double *score); /* takes the array over (arena) */
err tok_wordpiece(tokenizer *t, const char *prefix, size_t max_chars);
err tok_add(tokenizer *t, struct added a, bool normalised);       /* a.text is copied */
err tok_around(const tokenizer *t, struct ids *list, int64_t id); /* appends to a prefix or suffix, checked */
/* BOS and EOS go around every text (1), do not (0), or as the prefix and suffix have it already (-1). */
err tok_ends(tokenizer *t, int adds_bos, int adds_eos);
err tok_finish(tokenizer *t);
/* The id of a text among all tokens, -1 when absent. */
int32_t tok_find(const tokenizer *t, const char *text, size_t n);

/* From memory, for the fuzz target; `name` stands for the file in messages. */
err tokenizer_json_parse(const char *name, const char *bytes, size_t n, tokenizer **out);

void scratch_free(struct scratch *s); /* tokenizer.c */

/* ---- the models ---- */
err bpe_bytes(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out);
err bpe_chars(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out);
err unigram_word(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out);
err wordpiece_word(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out);
void merge_put(tokenizer *t, int32_t left, int32_t right, struct merge m);
const struct merge *merge_of(const tokenizer *t, int32_t left, int32_t right); /* NULL: they do not merge */

/* ---- decoding (decoder.c) ---- */
err decoder_add(tokenizer *t, struct decode_step step); /* texts are copied */
err decoder_run(const tokenizer *t, const int32_t *ids, size_t n, unsigned flags, str *out);

/* The sign that SentencePiece writes for a space, U+2581. */
#define SPACE_SIGN "\xE2\x96\x81"
enum { SPACE_SIGN_BYTES = 3 };

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
