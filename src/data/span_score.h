/* Spans in sequences of tags (B-PER I-PER O; also E and S), and how many of them were found, as seqeval's default counts them, which is
 * conlleval's way: a span begins at B or S, at a change of type, and at an I that nothing led to; it is right where its beginning, its end
 * and its type are. What follows the tag's first character, less a dash, is the type. Sentences are apart. */
#ifndef CYC_DATA_SPAN_SCORE_H
#define CYC_DATA_SPAN_SCORE_H
#include <stdbool.h>
#include <stdint.h>

/* Are all of them such tags: O, or one of B I E S before a dash, and one at least that begins or goes on a span? */
bool spans_are_tagged(const char *const *names, int n);

struct span {
    const char *type;
    int from, to;
}; /* [from, to) of the words; type points into its tag */
/* The spans of a sentence of n tags: out[n], returns how many. */
int spans_find(const char *const *tags, int n, struct span *out);

struct span_counts { int64_t truth, said, right; };
/* One sentence of n tags, numbers of names. */
void spans_count(const char *const *names, const int32_t *truth, const int32_t *said, int n, struct span_counts *add);
struct span_score { double precision, recall, f1; }; /* 0 where a denominator is */
struct span_score spans_score(const struct span_counts *c);

#endif
