/* The splitting of normalised text into words, before the model sees it. Private to src/io.
 *
 * A pre-tokeniser is a list of stages; each splits every piece that the stage before left. Read-only once built:
 * threads share it, each with a pre_scratch of its own. */
#ifndef CYC_IO_PRETOKENIZER_H
#define CYC_IO_PRETOKENIZER_H
#include "io/normaliser.h"
#include "io/unicode.h"

enum split_kind { SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };
enum stage_kind {
    STAGE_PATTERN,
    STAGE_CHARS,        /* at every character of a set */
    STAGE_WORDS,        /* words and runs of other characters; white space goes */
    STAGE_PREFIX_SPACE, /* a space before each piece that does not start with one */
    STAGE_METASPACE     /* spaces become a sign; pieces begin at each */
};
enum prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct stage {
    enum stage_kind kind;
    enum split_kind split;
    bool invert;            /* PATTERN */
    struct pattern pattern; /* PATTERN */
    enum char_set set;      /* CHARS */
    enum prepend prepend;   /* METASPACE */
    bool cut;               /* METASPACE: pieces begin at each sign */
    char sign[5];           /* METASPACE: one character, terminated */
};

enum { STAGES_MAX = 16 };
struct pretokenizer {
    struct stage stage[STAGES_MAX];
    int n;
};

struct piece {
    uint32_t start, end;
};
struct pieces {
    struct piece *v;
    size_t n, cap;
};
struct pre_scratch {
    struct matcher matcher;
    struct pieces now, next;
    str text; /* the text once a stage put something in */
};

/* The `tokenizers` library's ByteLevel pattern, and what its Digits stage takes for a digit: that stage asks Rust's
 * char::is_numeric, whose Unicode is one version ahead of the regex engine's. */
#define PATTERN_BYTE_LEVEL "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* `where` is put before messages. A literal pattern is text to find, not a regex. */
err pre_add_split(struct pretokenizer *p, const char *where, const char *pattern, size_t n, bool literal,
                  enum split_kind kind, bool invert);
err pre_add(struct pretokenizer *p, const char *where, struct stage stage);
void pre_free(struct pretokenizer *p);

err pre_scratch_init(struct pre_scratch *s);
void pre_scratch_free(struct pre_scratch *s);

/* Splits n bytes of valid UTF-8 (less than 2 GiB); `first`: they are the beginning of the whole text. The pieces are
 * s->now; they index *out. */
err pre_split(const struct pretokenizer *p, struct pre_scratch *s, const char *text, size_t n, enum lead lead,
              const char **out);

#endif
