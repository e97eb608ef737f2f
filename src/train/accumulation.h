/* The proof of gradient accumulation on a user's own rows (check_accumulation): the gradient of one step is made twice, in the passes that the
 * plan has and with every row in a pass of its own, and the two are compared, tensor by tensor. They differ by the rounding of sums in another
 * order and by nothing else: padding, a loss that is averaged over each pass instead of over the step, or masks of dropout that hang on where a
 * row lies would all show as whole percents.
 *
 * Called by learner_step() at the first step of each adapter. The step goes on as if nothing had been, with the planned passes' gradient. */
#ifndef CYC_TRAIN_ACCUMULATION_H
#define CYC_TRAIN_ACCUMULATION_H
#include "train/learner.h"

/* The step whose gradient is in b->grad and whose sums are `sums`: says how far apart the two are. E_NUMERIC beyond what rounding explains;
 * b->grad is left as it was. */
err accumulation_check(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step,
                       const double sums[4]);

#endif
