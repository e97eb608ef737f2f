/* What objectives that train a head share (classification, regression, token_classification; gen/head.h): with method none nothing else is
 * trained, and the base's rows are made once (features.c), unless features.once is false; an evaluation asks the head about all held-out
 * rows and leaves it to the objective to judge.
 *
 * The head is known before the adapter's structure is (run.h, open): its rows are the structure's. */
#ifndef CYC_TRAIN_HEADED_H
#define CYC_TRAIN_HEADED_H
#include "train/one_side.h"

/* What such an objective makes of records, and of what the head says of their rows: `out`, its outputs for each supervised position one
 * after the other, becomes "loss" and the rest of a side's figures. */
struct heading {
    struct row_maker rows;
    err (*judge)(const struct run *r, const struct rows *rows, const float *out, json_t **side);
};

/* The side's source, whose records decide what the head is. */
err headed_source(struct run *r);
/* The head is `h`, its rows are made as `form` says. */
void headed_begin(struct run *r, const struct head *h, const struct class_form *form);
err headed_load(struct run *r);
/* What the objective says of rows, of which there are some; *side is the caller's. */
err headed_figures(struct run *r, const struct rows *rows, json_t **side);
err headed_evaluate(struct run *r, const struct pairs *on, json_t *out);
/* What their rows of the table of objectives have in common. */
#define HEADED .sides = 1, .load = headed_load, .step = one_side_step, .evaluate = headed_evaluate

/* -log p(truth) of n logits, and which class is the likeliest (the first of equals). */
double headed_nll(const float *z, int n, int truth, int *best);
/* Of counts[truth * n + said] the figures of each class, and the confusions, the commonest first, into side; and its accuracy and macro F1. */
err headed_classes(const struct run *r, const int64_t *counts, json_t *side);

#endif
