/* What methods compute of a base's matrices once and for all (core/site.h, struct derivation): lengths of rows, singular vectors. Asking for
 * it, when a program is built, reserves its place and reads no weight; it is computed when the weights are first read (derived_fill), once for
 * all programs of the model. A program that reads it does so as one more tensor of the base, which a backend brings over like any other. */
#ifndef CYC_MODEL_DERIVED_H
#define CYC_MODEL_DERIVED_H
#include "model/model.h"

struct derived {
    arena mem;
    struct derived_part *first;
    size_t bytes; /* of all that were asked for */
};

const float *derived_place(struct site *s, const struct linear *w, const struct derivation *d); /* struct site, derived; s->model has the matrix */
err derived_fill(struct derived *n, const struct residents *base);  /* what was asked for and is not there yet; base: the model's */
void derived_free(struct derived *n);

#endif
