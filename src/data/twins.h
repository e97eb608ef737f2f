/* Records that say what an earlier one says, or nearly (`cyclora data dedup`).
 *
 * Equal are records whose normal forms (said.h) are equal. Near are two whose sets of shingles have a Jaccard similarity of `threshold` at least:
 * MinHash and bands (minhash.h) find candidates, and each candidate is verified by the real similarity of both texts, which are read again. What stays
 * is the first: a record goes if an earlier one that stays is equal or near, so everything that goes has something that stays beside it; there are no
 * chains, in which the last would be unlike the first. Candidates of one band that would be compared with more than 32 others are not compared further;
 * how many comparisons that left out is counted. A few pairs near the threshold are not found: minhash.h has the chance.
 *
 * Memory for each record: 8 bytes (which it is like, which stays) and 1 of the source; for each near pair that was found 12. Hashes lie on disk
 * (spool_open), 16 bytes for each record and 8 for each of its bands; they are sorted in memory in parts of some 2 million, which hold whole runs since a
 * hash says which part it is in. Called by api. */
#ifndef CYC_DATA_TWINS_H
#define CYC_DATA_TWINS_H
#include "data/minhash.h"
#include "data/source.h"

struct twin_options {
    bool exact;       /* equal ones only */
    double threshold; /* in (0, 1] */
    int permutations;
    struct shingles shingles;
    uint64_t seed;
    int part; /* so many keys in memory at a time, 0: 2 million; tests make it small */
};
struct twin {
    int32_t row, of; /* row goes, of stays */
    float jaccard;
};
struct twins {
    int32_t *of;       /* [records]: which stays in its place; -1: it stays itself */
    struct twin *near; /* of those that went by likeness, by row */
    int n_near, n_equal;
    int clusters, largest; /* records that stay for others, and the most that one stands for, itself counted */
    struct bands bands;
    int64_t verified, left_out; /* comparisons */
};
err twins_check(const struct twin_options *o);                                           /* E_USAGE: what cannot be */
err twins_find(const struct source *s, const struct twin_options *o, struct twins *out); /* on error nothing is left to free */
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
