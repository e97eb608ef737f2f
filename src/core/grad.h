/* Reverse-mode differentiation of a program: walks the forward instructions backwards, each op's vjp appends its backward
 * instructions to the same list. Frozen weights never get a gradient instruction; below the lowest trained value nothing
 * is emitted at all.
 *
 * Checkpointing is one mechanism at three levels: a backward instruction asks for a forward value; when the level says it
 * was not kept, the forward instruction is emitted again right there (and, recursively, what it needs).
 *   none       every value is kept
 *   selective  outputs of cheap ops (norms, activations) are recomputed, products and attention are kept
 *   block      inside a segment (a transformer block) everything is recomputed; only what crosses segments is kept
 * Dropout masks are functions of position, so a recomputed value is bit-equal. */
#ifndef CYC_CORE_GRAD_H
#define CYC_CORE_GRAD_H
#include "core/prog.h"

enum checkpoint { CHECKPOINT_NONE, CHECKPOINT_SELECTIVE, CHECKPOINT_BLOCK };

/* `loss` is an output of an op that starts the backward pass by itself (head_loss). Call once, after the forward part is
 * complete; drops dead instructions afterwards. `add` is the op that sums two gradients (core knows no op by name). */
err prog_backward(struct prog *p, val loss, enum checkpoint level, const struct op_def *add);

#endif
