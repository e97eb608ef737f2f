/* MinHash (Broder, "On the resemblance and containment of documents", 1997): a set as n numbers, of which a share near the sets' Jaccard similarity
 * is equal between two. With n of them the estimate is off by sqrt(J (1 - J) / n) in the mean: 0.035 at 0.8 with 128.
 *
 * And bands (locality-sensitive hashing, Indyk and Motwani 1998): the n numbers are cut into `bands` of `rows`; two sets with one band in common are
 * candidates, which happens with the chance 1 - (1 - J^rows)^bands. `bands_for` takes the most rows a band, so the fewest false candidates, with
 * which a pair at the threshold is still found in 95 of 100 cases; candidates are meant to be verified. Called by twins.c and overlap.c. */
#ifndef CYC_DATA_MINHASH_H
#define CYC_DATA_MINHASH_H
#include "data/said.h"

enum { PERMUTATIONS_MOST = 1024 };
struct minhash {
    int n;
    uint32_t *mix, *times; /* [n]: a permutation of 32 bits is x -> (x ^ mix) * times, times odd */
};
err minhash_init(struct minhash *m, int n, uint64_t seed); /* n: 16 to PERMUTATIONS_MOST */
void minhash_free(struct minhash *m);
void minhash_sign(const struct minhash *m, const struct hashes *set, uint32_t *signature); /* [n]; the hashes need not be a set */
double minhash_estimate(const uint32_t *a, const uint32_t *b, int n);

struct bands {
    int n, rows;
};
struct bands bands_for(double threshold, int permutations);
double bands_chance(struct bands b, double jaccard); /* that two sets are candidates */
uint64_t band_hash(struct bands b, const uint32_t *signature, int band);

#endif
