/* Kernels that know f32 alone, in programs that compute in 16 bits: operands of bf16 or f16 are widened into scratch, the kernel runs,
 * what it made is narrowed (nearest even). That is the definition of an op in 16 bits: computed and accumulated as in f32, rounded once, at the store.
 *
 * Where an op's rows are tokens they are taken some at a time, so that the copies stay in the processor's cache and scratch does not grow
 * with the tokens; parameter gradients are f32 and added to, so blocks of rows add up. Refused: nothing; what an op may not be given in
 * blocks (rows_in empty) runs whole. Called by the CPU's table for its kernels, by plan.c for definitions. */
#ifndef CYC_CORE_WIDE_H
#define CYC_CORE_WIDE_H
#include "core/prog.h"

struct wide {
    kernel run;
    size_t (*scratch)(const struct inst *, const struct view *in, const struct view *out); /* its own; NULL: none */
    uint32_t as_stored;         /* bit k: in[k] is taken in any type (a matrix, a cache) */
    uint32_t rows_in, rows_out; /* operands whose rows are tokens; 0: the op runs whole */
    int rows;                   /* ... so many of them at a time */
    void (*widen)(dtype dt, const void *from, float *to, int64_t n);
    void (*narrow)(dtype dt, const float *from, void *to, int64_t n);
};

/* Has the instruction an operand that has to be widened or narrowed? */
bool wide_needed(const struct wide *w, const struct inst *inst, const struct view *in, const struct view *out);
/* Bytes of the copies and of the kernel's own scratch, at these sizes. */
size_t wide_scratch(const struct wide *w, const struct inst *inst, const struct view *in, const struct view *out);
err wide_run(const struct wide *w, const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
             void *scratch);

/* The definition of inst's op on operands of these types, and its scratch. */
kernel wide_reference(const struct inst *inst, const struct view *in, const struct view *out, size_t *scratch);

#endif
