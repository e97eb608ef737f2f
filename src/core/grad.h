/* Reverse-mode differentiation of a program: walks the forward instructions backwards, each op's vjp appends its backward
 * instructions to the same list. Frozen weights never get a gradient instruction; below the lowest trained value nothing
 * is emitted at all.
 *
 * Checkpointing is one mechanism: a backward instruction asks for a forward value; when the level of the block (segment) that
 * made it says that it was not kept, the forward instruction is emitted again right there (and, recursively, what it needs).
 *   none       every value is kept
 *   selective  outputs of cheap ops (norms, activations) are recomputed, products and attention are kept
 *   block      inside a block everything is recomputed; only what crosses blocks is kept
 *   every n    of n blocks only the first one's input is kept (sqrt(L) checkpoints for L blocks: Chen et al. 2016, "Training deep
 *              nets with sublinear memory cost"). The inputs between are made from it when the last of the n is reached, by running
 *              the others again and keeping nothing else of them: a block runs up to three times, and never more than one block's
 *              values are there at once
 * Blocks may differ: `level` is that of the first `blocks`, whose values wait longest, `rest` that of the others. What is computed
 * again lies where the others' values were: those are used up by then.
 *
 * A value that has a copy on the host (struct value, host) is read from there: the copy is on its way back while the block before
 * is still at work (prog_backward emits `fetch` when it enters that one).
 * Dropout masks are functions of position, so a recomputed value is bit-equal. */
#ifndef CYC_CORE_GRAD_H
#define CYC_CORE_GRAD_H
#include "core/prog.h"

enum checkpoint { CHECKPOINT_NONE, CHECKPOINT_SELECTIVE, CHECKPOINT_BLOCK };

struct checkpoints {
    enum checkpoint level, rest; /* rest: none or selective */
    int blocks;                  /* that `level` is for, in the order of the program; 0: all */
    int every;                   /* level block: one checkpoint for so many; 0: 1 */
    bool offload;                /* what the blocks read waits on the host (core/site.h, site_block) */
};

/* The ops that a backward pass needs beside those of the vjps; core knows no op by name. */
struct backward_ops {
    const struct op_def *add, *fetch, *await;
};

/* `loss` is an output of an op that starts the backward pass by itself (head_loss). Call once, after the forward part is
 * complete; drops dead instructions afterwards. Refuses numbers of blocks that the program does not have. */
err prog_backward(struct prog *p, val loss, const struct checkpoints *c, const struct backward_ops *ops);
/* The last segment of the program: how many blocks it has. */
int prog_blocks(const struct prog *p);

#endif
