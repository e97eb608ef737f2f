/* What an evaluation says of texts that an adapter wrote, and how far an adapter has moved. See health.c and docs/health.md. */
#ifndef CYC_TRAIN_HEALTH_H
#define CYC_TRAIN_HEALTH_H
#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct texts_in {
    const char *const *v;
    int n;
};
struct health_ask {
    struct texts_in in, out; /* what was read and what was written for it: as many of one as of the other, at least one */
    struct texts_in wanted;  /* references of them; n 0: there are none */
    struct texts_in real;    /* texts that people wrote, of the side that is written; n < 2: drift is not known */
    int truncated;           /* outputs that ended because max_new_tokens did */
};
/* Numbers by name into `to`: shares are 0..1, entropy and drift are bits. */
err health_texts(const struct health_ask *ask, json_t *to);

/* A sketch of a vector, 2 kB for any length: bucket h(i) takes s(i) x[i], with h and s hashes of i. The squared length of a sketch (and so of
 * a difference of two) is without bias that of the vector, within some 9 % (Charikar, Chen and Farach-Colton 2002: count sketch). */
enum { SKETCH = 256 };
void sketch_add(double sketch[SKETCH], const float *x, int64_t first, int64_t n); /* elements first .. first + n - 1 of the vector */
double sketch_distance(const double a[SKETCH], const double b[SKETCH]);

#endif
