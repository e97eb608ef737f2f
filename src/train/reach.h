/* Tensors that never learn. A trained tensor whose gradient is exactly zero is a mistake of the run, not slow learning: a module that the
 * loss does not see, a scale of zero. (What cancels but for rounding, such as the bias of GPT-2's keys, is not exactly zero and not seen.)
 * But some are zero at the first step by their method's own start: LoRA's A, while B is zero. So a tensor is dead when its gradient has
 * been zero at every step up to and with the first one that follows an update (of a learning rate above zero; warm-up begins with one of
 * zero): then whatever stood at zero beside it has moved. Step 2 of most runs. Where all of them are zero no start explains it, and it is
 * said at step 1.
 *
 * Tensors are those of the adapter's file, not the groups that programs have them in. One that hears of an id only where it occurs
 * (param_occasional) may wait for it: a warning. On any backend: a sum of squares for each tensor, in the first steps only. */
#ifndef CYC_TRAIN_REACH_H
#define CYC_TRAIN_REACH_H
#include "core/backend.h"
#include "core/params.h"

struct reach {
    bool *seen;   /* by slice: its gradient was once not zero */
    int steps;    /* gradients that were looked at */
    bool moved;   /* an update has changed weights: the caller's to set */
    bool done;
};

struct reaching {
    const struct param_set *set;
    const struct backend *backend;
    int threads;
    const char *side;  /* "A", "B"; "" or NULL */
};
/* Before an update; grad: the whole arena, the backend's. E_NUMERIC: names what is dead. */
err reach_check(struct reach *w, const struct reaching *on, const float *grad);
/* The same in parts: the gradient of one parameter that learns, and, when all have been seen, what they come to. */
err reach_see(struct reach *w, const struct reaching *on, int param, const float *grad);
err reach_judge(struct reach *w, const struct reaching *on);
void reach_free(struct reach *w);

#endif
