/* What objectives with one side share (sft, text, classification): the rows of its data and of what is held out, and a step on the
 * next of them. */
#ifndef CYC_TRAIN_ONE_SIDE_H
#define CYC_TRAIN_ONE_SIDE_H
#include "train/run.h"

/* How an objective makes rows of records. */
struct row_maker {
    enum source_want want;
    const char *name; /* of a row, in messages: "rows", "texts" */
    err (*make)(struct run *r, struct source *from, struct rows *to);
    err (*make_held_out)(struct run *r, struct source *from, struct rows *to); /* NULL: the same */
};

/* The side's source is open. Its rows, those of eval (a file, or a share of the data) and of test, and the order of its own. */
err one_side_load(struct run *r, const struct row_maker *k);
err one_side_step(struct run *r, struct step_info *info);
/* ... where `replace` may put other rows in the places of some, which stay until the next step. */
err one_side_step_on(struct run *r, struct step_info *info,
                     err (*replace)(struct run *r, const struct row **rows, int n, struct step_info *info));
err one_side_evaluate(struct run *r, const struct pairs *on, json_t *out); /* rows_figures() of a language model's rows */

#endif
