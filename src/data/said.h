/* What a record says, in the form in which texts are compared, and its pieces as hashes.
 *
 * The normal form is Unicode's NFKC with case folded, white space as single spaces, none at the ends: "Ｔｗｏ  cats" and "two cats" are one text,
 * "2+2" and "2-2" are two. A shingle is so many characters of it in a row, spaces and signs too; or so many words in a row, where a word is a run
 * of letters, marks and digits (each ideograph and kana for itself), so that signs between words do not count: that is how GPT-3's authors looked
 * for test sets in their training text. A text that is shorter than a shingle is one shingle. Called by twins.c, overlap.c, parts.c. */
#ifndef CYC_DATA_SAID_H
#define CYC_DATA_SAID_H
#include "data/shapes.h"

struct hashes { /* zeroed: empty; owned */
    uint64_t *v;
    size_t n, cap;
};
struct shingles {
    int size;
    bool words;
};

/* Appends the record's texts, with a line end between: the text, prompt and completion, or the turns without their roles. */
err said_text(const struct record *r, str *out);
/* Appends the normal form of n bytes of valid UTF-8. */
err said_normal(const char *text, size_t n, str *out);
/* Of a record: both in one. */
err said(const struct record *r, str *out);
/* A hash for each shingle of a normal form, in their order; none where there is no word. */
err shingle_hashes(const struct shingles *k, const char *normal, size_t n, struct hashes *out);
/* How many words a normal form has. */
size_t word_count(const char *normal, size_t n);
err hashes_add(struct hashes *h, uint64_t x);
void hashes_to_set(struct hashes *h);                                /* in ascending order, each once */
double sets_jaccard(const struct hashes *a, const struct hashes *b); /* of sets: shared over all; 0 where both are empty */
void hashes_free(struct hashes *h);

#endif
