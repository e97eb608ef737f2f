/* Several adapters on one base at once, as a method: what each does at a site is asked of it there.
 *
 * Adapters whose linears are the base's and low-rank products (LoRA and its like: peft_method.summed) become ONE product beside each group of
 * linears: their A stacked, their B side by side, and a weight for each row of the batch and each adapter on what lies between (LIN_MIX,
 * ops/ops.h). So the base is read once, and to set, add, weigh, leave out or change an adapter, for a row or for all, is to write weights. One
 * that has something beside its products (biases, whole modules) is on, with weight 1, or off for every row: the rest of it has no weight.
 *
 * The others are there for every row or, left out of the members, for none. Their hooks are asked in turn: linears wrap each other in
 * the order of the members, the sum of products lies under all of them ("deltas first, then what scales them"); a vector, a matrix or a sublayer of
 * the base has one adapter that takes its place. What cannot be, two adapters for one place or low-rank products on both sides of DoRA's
 * lengths, is refused with both names; so is a method with a hook that is not handed on here.
 *
 * The parameters of a structure are those of all members that it is ever to have: who of them is on changes programs, not the arena, if those
 * that sum are among the members always (`off` where they are not on).
 *
 * Not a row of methods.def: no file holds one, and it is not trained. Its parameters begin as copies of the members' (param_fill). Called
 * by api/mix.c. */
#ifndef CYC_PEFT_MIX_H
#define CYC_PEFT_MIX_H
#include "core/site.h"

struct mix_member {
    const char *name;
    const struct peft_method *method;
    const void *settings;           /* as its own structure has them, ... */
    const struct param_set *params; /* ... its parameters, sealed, and their numbers, on the host */
    const float *numbers;           /* not read once the structure's own have been filled */
    bool off; /* of one that sums: its weight is 0 for every row; of its products the places are kept, nothing else is asked */
};

/* The settings of method_mix. All of it outlives the structure. */
struct mix {
    int n; /* 1 .. MAX_MEMBERS */
    const struct mix_member *member;
    const float *weights; /* [n] of rows of which nothing else is said; may change from run to run */
};

extern const struct peft_method method_mix;

bool mix_weighs(const struct peft_method *m, const void *settings); /* may such a member have weights, row by row? */
bool mix_sums(const struct peft_method *m, const void *settings);   /* are its linears products beside the base's? */
err mix_takes(const struct peft_method *m, const char *name);       /* E_UNSUPPORTED where it does something that is not handed on */

#endif
