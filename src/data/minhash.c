/* See minhash.h. */
#define XXH_INLINE_ALL
#include "data/minhash.h"
#include "base/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { PURPOSE_MINHASH = 41 };

err minhash_init(struct minhash *m, int n, uint64_t seed) {
    *m = (struct minhash){.n = n};
    if (n < 16 || n > PERMUTATIONS_MOST) return fail(E_USAGE, "%d permutations: 16 to %d are possible", n, PERMUTATIONS_MOST);
    m->mix = malloc(2 * (size_t)n * sizeof *m->mix);
    if (!m->mix) return fail(E_MEMORY, "out of memory");
    m->times = m->mix + n;
    for (int i = 0; i < n; i++) {
        const struct philox r = philox(philox_key(seed, PURPOSE_MINHASH), (uint32_t)i, 0, 0, 0);
        m->mix[i] = r.v[0];
        m->times[i] = r.v[1] | 1;
    }
    return OK;
}

void minhash_free(struct minhash *m) {
    free(m->mix);
    *m = (struct minhash){0};
}

void minhash_sign(const struct minhash *m, const struct hashes *set, uint32_t *restrict signature) {
    const uint32_t *restrict mix = m->mix, *restrict times = m->times;
    const int n = m->n;
    for (int i = 0; i < n; i++) signature[i] = UINT32_MAX;
    for (size_t k = 0; k < set->n; k++) {
        const uint32_t x = (uint32_t)(set->v[k] ^ set->v[k] >> 32);
        for (int i = 0; i < n; i++) {
            const uint32_t y = (x ^ mix[i]) * times[i];
            signature[i] = y < signature[i] ? y : signature[i];
        }
    }
}

double minhash_estimate(const uint32_t *a, const uint32_t *b, int n) {
    int same = 0;
    for (int i = 0; i < n; i++) same += a[i] == b[i];
    return (double)same / n;
}

double bands_chance(struct bands b, double jaccard) { return 1 - pow(1 - pow(jaccard, b.rows), b.n); }

struct bands bands_for(double threshold, int permutations) {
    struct bands best = {permutations, 1};
    for (int rows = 2; rows <= permutations; rows++) {
        const struct bands b = {permutations / rows, rows};
        if (bands_chance(b, threshold) >= 0.95) best = b;
    }
    return best;
}

uint64_t band_hash(struct bands b, const uint32_t *signature, int band) {
    return XXH3_64bits_withSeed(signature + (size_t)band * (size_t)b.rows, (size_t)b.rows * sizeof *signature, (uint64_t)band);
}
