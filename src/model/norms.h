/* Sums of squares of a base's rows, one f32 for each: what DoRA divides by. A program that asks for a matrix's gets them as one more tensor of
 * the base, [O]; asking reads no weight. They are computed once, when the weights are first read (norms_fill), and shared by all
 * programs of the model; a backend brings them over like any other tensor. */
#ifndef CYC_MODEL_NORMS_H
#define CYC_MODEL_NORMS_H
#include "model/model.h"

struct norms {
    arena mem;
    struct norms_of *first;
    size_t bytes; /* of all that were asked for */
};

val norms_of_rows(struct site *s, const struct linear *w); /* struct site, row_norms; s->model has the tensor */
void norms_fill(struct norms *n);                          /* those that were asked for and are not there yet */
void norms_free(struct norms *n);

#endif
