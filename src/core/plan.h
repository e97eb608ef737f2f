/* The plan of a program: where every value lies and which kernel runs each instruction, decided before a weight is read.
 * The memory estimate shown to users is this plan itself; the null backend makes it where nothing is to be run.
 *
 * One ACT arena placed by liveness (a value's bytes are free again after its last use; an in-place op takes over its
 * input's), one SCRATCH of the largest single request, one STATE arena that lives on between runs. */
#ifndef CYC_CORE_PLAN_H
#define CYC_CORE_PLAN_H
#include "core/prog.h"

struct plan {
    struct prog *p;      /* owned by the caller, must outlive the plan */
    const struct backend *backend;
    kernel *run;         /* one per instruction */
    size_t act, scratch, state;
    double flops, bytes; /* of one run at capacity */
};

/* `backend`: instructions it lacks take the op's reference kernel. */
err plan_make(struct plan *pl, struct prog *p, const struct backend *backend);
void plan_free(struct plan *pl);

/* What a run needs beside the plan. Arenas may be larger than the plan asks and are shared between plans. */
struct binding {
    void *act, *scratch, *state;
    float *param, *grad;         /* the adapter's arenas; NULL when the program has none */
    void *const *input;          /* one pointer per prog_input, in their order */
    int64_t size[SYM_COUNT];     /* actual sizes, by -symbol; at most the capacities */
    bool poison;                 /* tests: fill ACT and SCRATCH with NaN first */
};
err plan_run(const struct plan *pl, const struct binding *b, const struct run_ctx *run);

/* Where an activation lies after a run (a kept value, typically an output). */
struct view plan_view(const struct plan *pl, const struct binding *b, val v);

#endif
