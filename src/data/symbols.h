/* Two texts as lists of symbols, for scores: a text becomes code points, and a list of words becomes symbols by giving equal words equal
 * numbers, so that whoever compares never compares strings. What is no UTF-8 is U+FFFD, a byte at a time.
 *
 * A `struct line` is the room for one text and its reference, reused for the next; a failed allocation sets `failed`, which its owner looks
 * at once in the end. Called by the scores of src/data (score.c, ter.c, rouge.c, squad.c), shots.c and sieve.c. */
#ifndef CYC_DATA_SYMBOLS_H
#define CYC_DATA_SYMBOLS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text { /* code points, or any other symbols */
    uint32_t *v;
    size_t n, cap;
};
struct word {
    const uint32_t *v;
    size_t n;
};
struct words {
    struct word *v;
    size_t n, cap;
};
struct line {
    struct text h, r, th, tr; /* hypothesis and reference, and what was made of them */
    struct words wh, wr, sorted;
    struct text sh, sr; /* line_symbols() of wh and wr */
    void *room;         /* of whoever compares: line_room() */
    size_t cap;
    bool failed;
};
void *line_grow(void *p, size_t *cap, size_t need, size_t size); /* NULL: out of memory, and p is as it was */
void line_put(struct line *l, struct text *t, uint32_t c);
void line_decode(struct line *l, const char *s, struct text *t);
void line_lower(struct line *l, const struct text *t, struct text *out); /* as Python's str.lower() */
/* The words of t between whitespace; with `punct`, one punctuation mark is split off each as chrF++ does. They point into t. */
void line_split(struct line *l, const struct text *t, bool punct, struct words *out);
/* Equal words of l->wh and l->wr get equal symbols in l->sh and l->sr. */
void line_symbols(struct line *l);
/* The length of the longest common subsequence; 0 where there is no memory, and `failed` is set. */
size_t line_common(struct line *l, const struct text *a, const struct text *b);
void *line_room(struct line *l, size_t bytes); /* what it held is lost; NULL: out of memory, and `failed` is set */
void line_free(struct line *l);

bool char_is_space(uint32_t c); /* what Python's str.split() and str.rstrip() call whitespace */
bool char_is_punct(uint32_t c); /* ASCII punctuation, all 32 signs */

#endif
