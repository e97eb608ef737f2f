/* Normalisation: what happens to a text before it is split, as a list of steps. Private to src/io.
 *
 * Read-only once built; threads share it, each with a norm_scratch of its own. */
#ifndef CYC_IO_NORMALISER_H
#define CYC_IO_NORMALISER_H
#include "base/arena.h"
#include "io/pattern.h"

/* Where a text stands, which decides whether a space (or its sign) is put before it. */
enum lead {
    LEAD_TEXT,        /* it is the beginning */
    LEAD_AFTER_TOKEN, /* it follows an added token */
    LEAD_MIDDLE       /* it goes on after other text: nothing is put before it */
};

enum normal_form { NORMAL_NFC, NORMAL_NFD, NORMAL_NFKC, NORMAL_NFKD };
enum norm_kind {
    NORM_FORM,
    NORM_LOWERCASE,
    NORM_STRIP_ACCENTS,
    NORM_PREPEND,
    NORM_REPLACE,
    NORM_STRIP,
    NORM_NMT,
    NORM_BERT,
    NORM_CHARSMAP
};

/* SentencePiece's compiled table of replacements: a double-array trie of what is replaced, and the replacements. */
struct charsmap {
    const uint32_t *unit;
    size_t n_units;
    const char *text; /* texts one after another, each ended by a zero */
    size_t n_text;
};

struct norm_step {
    enum norm_kind kind;
    enum normal_form form;
    bool left, right;                                          /* STRIP */
    bool clean_text, handle_chinese, strip_accents, lowercase; /* BERT */
    struct pattern pattern;                                    /* REPLACE */
    const char *literal, *content;                             /* REPLACE (literal NULL: a regex), PREPEND: content */
    size_t n_literal, n_content;
    struct charsmap map;
};

enum { NORM_STEPS_MAX = 16 };
struct normaliser {
    struct norm_step step[NORM_STEPS_MAX];
    int n;
};

struct norm_scratch {
    struct matcher matcher;
    str now, next;
};

/* What a normalisation made of a text. */
struct normal {
    const char *text; /* the text itself where nothing changed, else in the scratch */
    size_t n;
    bool cut; /* its beginning was stripped */
};

/* `where` is put before messages; texts are copied into `mem`. */
err norm_add(struct normaliser *z, const char *where, struct norm_step step);
err norm_add_replace(struct normaliser *z, arena *mem, const char *where, struct norm_step step, bool literal,
                     const char *pattern, size_t n);
/* Checks the table's layout; every walk in it is checked again. */
err norm_add_charsmap(struct normaliser *z, arena *mem, const char *where, const uint8_t *bytes, size_t n);
void norm_free(struct normaliser *z);

err norm_apply(const struct normaliser *z, struct norm_scratch *s, const char *text, size_t n, enum lead lead,
               struct normal *out);
/* The charsmap step (charsmap.c). */
err charsmap_apply(const struct charsmap *map, const char *text, size_t n, str *out);

#endif
