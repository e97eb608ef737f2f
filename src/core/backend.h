/* A backend: where a plan's instructions run. The executor asks it once, at plan time, for a kernel per instruction;
 * what it does not have falls back to the op's slow reference (CPU) or is an error naming the op.
 *
 * Memory is the caller's: a backend only says how many bytes of scratch an instruction needs (a formula of its
 * shapes with a hard cap that the kernel keeps) and gets that many, 64-byte aligned. */
#ifndef CYC_CORE_BACKEND_H
#define CYC_CORE_BACKEND_H
#include "base/err.h"
#include "core/view.h"

struct inst;

/* Scalars of one run that are not tensors. */
struct run_ctx {
    uint64_t seed;      /* dropout and sampling: philox keys come from it */
    uint64_t step;      /* optimizer step: masks differ from step to step */
    float temperature;  /* sampling; 0 = greedy */
    float top_p;        /* nucleus; 1 = off */
    int top_k;          /* 0 = off */
    int threads;        /* OpenMP threads to use */
    bool int_activations; /* products of few rows may round activations to integers where that is faster */
};

/* in/out: one view per operand of the instruction, absent operands have p = NULL. Kernels never allocate. */
typedef err (*kernel)(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                      void *scratch);

struct backend {
    const char *name;
    /* in/out carry capacity shapes and types, p = NULL (absent operands: dt = DT_NONE). NULL: "not mine". */
    kernel (*find)(const struct inst *inst, const struct view *in, const struct view *out);
    size_t (*scratch)(const struct inst *inst, const struct view *in, const struct view *out);
    bool computes; /* false: counts only (null); such a plan cannot be run */
};
extern const struct backend backend_cpu, backend_reference, backend_null;

#endif
