/* The plan of a program: where every value lies and which kernel runs each instruction, decided before a weight is read.
 * The memory estimate shown to users is this plan itself; the null backend makes it where nothing is to be run.
 *
 * Instructions that run in pieces (inst.piece) are a loop over rows: what one leaves for the next alone has room for a piece, whatever else they
 * read or write lies whole until the last piece is through. Pieces are about equal, so that none is short of rows.
 *
 * One ACT arena placed by liveness (a value's bytes are free again after its last use; an in-place op takes over its
 * input's), one SCRATCH of the largest single request, one STATE arena that lives on between runs, one HOST arena of copies that
 * wait there (all of them at once, so they lie one after the other). */
#ifndef CYC_CORE_PLAN_H
#define CYC_CORE_PLAN_H
#include "core/params.h"

enum { MAX_SPAN = 8 };

struct plan {
    struct prog *p;      /* owned by the caller, must outlive the plan */
    const struct backend *backend;
    kernel *run;         /* one per instruction; NULL: an earlier one's kernel does it too (struct backend, span) */
    size_t act, scratch, state, host;
    size_t input;        /* bytes of all inputs at capacity, where they have to be copied to the backend */
    size_t param;        /* bytes of the adapter's working copy */
    double flops, bytes; /* of one run at capacity */
};

/* `backend`: instructions it lacks take the op's reference kernel. */
err plan_make(struct plan *pl, struct prog *p, const struct backend *backend);

/* Where each parameter's gradient is whole as soon as the backward pass has left it, and used there and then (LOMO, Lv et al. 2023), gradients need no
 * arena of their own length: plan_fuse() gives each a place by its lifetime, from the first instruction that adds to it to the last that
 * touches it or reads the parameter. The program's gradients lie there from now on, in an arena of `bytes`. */
struct span_of_life { int first, last; size_t off, bytes, at; }; /* instructions; of the parameter's arena; in this one */
struct fused { int n; struct span_of_life *p; size_t bytes; };
err plan_fuse(struct plan *pl, const struct param_set *set, struct fused *out);
void fused_free(struct fused *f);
void plan_free(struct plan *pl);

/* The base weights where a backend has them: one copy of each tensor for all plans, known by where the host has it. On a
 * backend with the host's memory there is nothing to copy and this stays empty. */
struct residents {
    const struct mem_ops *mem;
    const struct residents *beside; /* another base's, of which programs read some tensors (a teacher's): looked into too; NULL: none */
    int n, cap;
    struct resident { const void *host; void *at; } *r;
    int n_slabs;
    struct slab { void *at; size_t bytes; } *slab; /* what one plan brought lies in one piece: a card rounds each up to 2 MB */
    size_t bytes;                                  /* of all tensors, with what is between them */
    /* Tensors that are made on the host when they are wanted, and may go again when the backend has them; NULL: all are there. */
    err (*make)(void *ctx, const void *host);
    void (*drop)(void *ctx, const void *host);
    void *ctx;
};
/* On paper: notes the plan's base weights that are not there yet, in no place, and counts them as plan_place() will take them. */
err plan_weigh(const struct plan *pl, struct residents *rs);
/* Brings the plan's base weights to its backend: those that are not there yet. */
err plan_place(struct plan *pl, struct residents *rs);
void residents_free(struct residents *rs);

/* Told of each launch, by the instructions that it covers; either may be NULL. */
struct plan_watch {
    void *ctx;
    err (*before)(void *ctx, int from, int to);
    err (*after)(void *ctx, int from, int to);
};

/* What a run needs beside the plan. Arenas may be larger than the plan asks and are shared between plans. */
struct binding {
    void *act, *scratch, *state, *host;
    void *param;                 /* the adapter's working copy, in the program's compute type; NULL when it has none */
    float *grad;
    void *const *input;          /* one host pointer per prog_input, in their order */
    char *stage, *stage_host;    /* plan.input bytes, on the backend and here; unused where memory is the host's */
    int64_t size[SYM_COUNT];     /* actual sizes, by -symbol; at most the capacities */
    int64_t first[SYM_COUNT];    /* of a piece: the row that it begins at; plan_run's own */
    bool repeats;                /* many runs with this binding and these sizes will follow */
    const struct plan_watch *watch;   /* NULL: nobody; else not `repeats` */
    bool staged;                 /* the inputs are in `stage` already */
    bool poison;                 /* tests: fill ACT and SCRATCH with NaN first */
};
err plan_run(const struct plan *pl, const struct binding *b, const struct run_ctx *run);
/* Launches the kernel of instruction i alone (and what it spans; no more rows than a piece has); *next is the first one after it. For measuring. */
err plan_launch(const struct plan *pl, const struct binding *b, const struct run_ctx *run, int i, int *next);

/* Where an activation lies after a run (a kept value, typically an output). */
struct view plan_view(const struct plan *pl, const struct binding *b, val v);

#endif
