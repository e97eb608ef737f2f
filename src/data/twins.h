/* Records that say what an earlier one says, or nearly (`cyclora data dedup`).
 *
 * Equal are records whose normal forms (said.h) are equal. Near are two whose sets of shingles have a Jaccard similarity of `threshold` at least:
 * MinHash and bands (minhash.h) find candidates, and each candidate is verified by the real similarity of both texts, which are read again. What stays
 * is the first: a record goes if an earlier one that stays is equal or near, so everything that goes has something that stays beside it; there are no
 * chains, in which the last would be unlike the first. Candidates of one band that would be compared with more than 32 others are not compared further;
 * how many comparisons that left out is counted. A few pairs near the threshold are not found: minhash.h has the chance.
 *
 * Memory is bounded, but for a bit for each record (which goes). What is known of records lies on disk: a column for each band (spool_open, 8 bytes a
 * record), and piles of keys (pile.h, 16 bytes a record, and as much for each pair that is found), which are sorted in parts. Of pairs that are near in
 * several bands the last 4 million are remembered; others are compared anew. Called by api. */
#ifndef CYC_DATA_TWINS_H
#define CYC_DATA_TWINS_H
#include "data/minhash.h"
#include "data/pile.h"
#include "data/source.h"

struct twin_options {
    bool exact;       /* equal ones only */
    double threshold; /* in (0, 1] */
    int permutations;
    struct shingles shingles;
    uint64_t seed;
    int part; /* so many keys in memory at a time, and pairs that are remembered, 0: millions; tests make it small */
};
struct twin {
    int32_t row, of; /* row goes, of stays */
    float jaccard;   /* 1 of equal ones */
};
struct twins {
    struct pile gone; /* twins_next() */
    int n_near, n_equal;
    int clusters, largest; /* records that stay for others, and the most that one stands for, itself counted */
    struct bands bands;
    int64_t verified, left_out; /* comparisons */
};
err twins_check(const struct twin_options *o);                                           /* E_USAGE: what cannot be */
err twins_find(const struct source *s, const struct twin_options *o, struct twins *out); /* on error nothing is left to free */
/* What goes, by row, once: the next, or row -1 behind the last. */
err twins_next(struct twins *t, struct twin *next);
void twins_free(struct twins *t);

/* The sets of shingles of records read here and there, the last few kept. Begins as {.s, .k}. */
enum { SETS_KEPT = 256 };
struct set_reader {
    const struct source *s;
    const struct shingles *k;
    struct fetcher f;
    struct hashes set[SETS_KEPT], own;
    int32_t row[SETS_KEPT]; /* 1 + which */
};
err set_read(struct set_reader *r, int32_t row, const struct hashes **set); /* it stays until the next one is read */
void set_reader_free(struct set_reader *r);

#endif
