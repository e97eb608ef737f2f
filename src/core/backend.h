/* A backend: where a plan's instructions run. The executor asks it once, at plan time, for a kernel per instruction;
 * what it does not have falls back to the op's slow reference (where memory is the host's) or is an error naming the op.
 *
 * Kernels never allocate: a backend says how many bytes of scratch an instruction needs (a formula of its shapes with a
 * hard cap that the kernel keeps) and gets that many, 64-byte aligned. Arenas are taken from the backend's memory by
 * whoever runs a plan (gen/program.h); on the host they are its own pages, and weights and inputs are read where they lie. */
#ifndef CYC_CORE_BACKEND_H
#define CYC_CORE_BACKEND_H
#include "base/err.h"
#include "base/str.h"
#include "core/flat.h"
#include "core/view.h"
#include <stddef.h>

struct inst;

/* Of a run whose rows are several adapters' of one structure, one after the other: where adapter k's rows end, and how many bytes its weights
 * (the working copy) and its gradients lie behind those that the program is bound to. Only the low-rank products of op linear know of it, and
 * head_loss, which adds up each one's sums: train/joint.c says which methods that is enough for. */
enum { MAX_ADAPTERS = 8 };
struct adapters {
    int n;
    struct { int64_t end; ptrdiff_t weights, grads; } of[MAX_ADAPTERS];
};
/* The same of `rows` of its rows, from `first` on. */
static inline struct adapters adapters_of_rows(const struct adapters *all, int64_t first, int64_t rows) {
    struct adapters some = *all;
    for (int k = 0; k < some.n; k++) {
        const int64_t end = some.of[k].end - first;
        some.of[k].end = end < 0 ? 0 : end < rows ? end : rows;
    }
    return some;
}
static inline int adapters_in(const struct adapters *all) { return all ? all->n : 1; } /* a run */
/* Whose a row is. */
static inline int adapters_whose(const struct adapters *all, int64_t row) {
    int k = 0;
    while (k < all->n - 1 && row >= all->of[k].end) k++;
    return k;
}

/* How a token is chosen from logits: transformers' processors, in their order. All zeros: greedy. */
struct sampling {
    float penalty;     /* repetition: logits of ids that are there already are divided by it, negative ones multiplied; 1 or 0 = off */
    int min_new, eos;  /* eos (-1: none) cannot come before so many new tokens */
    float temperature; /* 0 = greedy: what follows is of no use */
    int top_k;         /* of the likeliest so many; 0 = off */
    float top_p;       /* of the likeliest that hold so much of what is left; 1 = off */
    float min_p;       /* of those at least so likely in proportion to the likeliest; 0 = off */
};
static inline bool sampling_penalises(const struct sampling *s) { return s->penalty > 0 && s->penalty != 1; }
static inline bool sampling_processes(const struct sampling *s) { return sampling_penalises(s) || s->min_new > 0; } /* by rules */

/* Scalars of one run that are not tensors. */
struct run_ctx {
    uint64_t seed;      /* dropout and sampling: philox keys come from it */
    uint64_t step;      /* optimizer step: masks differ from step to step */
    struct sampling sampling;
    int threads;        /* OpenMP threads to use */
    bool int_activations; /* products of few rows may round activations to integers where that is faster */
    int longest;        /* no sequence of this run has more rows; 0: not known */
    int weighted;       /* no more rows of this run have a loss weight other than 0; 0: not known */
    float loss_scale;   /* gradients are those of the loss times this (train/learner.h); 0: 1 */
    const struct adapters *adapters; /* NULL: all rows are one adapter's */
    dtype operands;     /* of a kernel's f32 operands: what they were widened from (core/wide.h); DT_NONE: nothing */
};

/* Of a whole process. What a backend has no choice about it ignores. */
struct settings {
    bool deterministic; /* the same run gives the same bytes: nothing is chosen by the clock, no sum in an order of arrival */
    bool tf32;          /* f32 products may round their inputs to 10 bits (NVIDIA's TF32) */
};

/* in/out: one view per operand of the instruction, absent operands have p = NULL. Kernels never allocate. */
typedef err (*kernel)(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                      void *scratch);

/* The two ways of copies that run beside the work. */
enum copy_way { WAY_HERE /* from the host */, WAY_HOST };

/* Where a backend's arenas lie. */
struct mem_ops {
    bool host;                     /* its pointers are the host's: nothing needs copying */
    size_t page;                   /* of at least half of it, what is taken is whole pages; smaller pieces share them. 0: that is not counted */
    void *(*take)(size_t bytes);   /* zeroed, whole pages; NULL when there is no room. 0 bytes is one page */
    void (*give)(void *p, size_t bytes);
    err (*upload)(void *to, const void *from, size_t bytes);   /* host to here */
    err (*download)(void *to, const void *from, size_t bytes); /* here to host; waits for all that runs before it */
    err (*fill)(void *p, int byte, size_t bytes);
    size_t (*left)(void);          /* bytes that a run may plan for: free, or taken by the backend itself when it was opened; 0: not known */
    size_t (*taken)(void);         /* bytes that are gone since it was opened, all but the driver's own; NULL: the host's, whose kernel knows */
    /* Of the host, for what goes back and forth beside the work: zeroed, and (pinned) copied at full speed; NULL when there is no room. */
    void *(*take_host)(size_t bytes);
    void (*give_host)(void *p, size_t bytes);
    /* A copy between here and such memory that sets out behind all that was launched before it, and runs beside what is launched after it, but
     * behind those of its own way. await: what is launched from then on comes behind those of that way. download() waits for all of them. */
    err (*set_out)(enum copy_way way, void *to, const void *from, size_t bytes);
    err (*await)(enum copy_way way);
};
extern const struct mem_ops mem_host;

/* core/flat.h on this backend's arenas. */
struct flat_ops {
    err (*sumsq)(const float *x, int64_t n, int threads, double *out);
    err (*adamw)(const struct adamw *o, const struct adamw_state *s, int64_t n, int threads);
    err (*cast)(const float *x, void *to, dtype dt, int64_t n, int threads); /* to bf16 or f16, nearest even; to f32, a copy */
    err (*widen)(const uint16_t *x, float *to, int64_t n, int threads); /* bf16 to f32 */
    err (*round)(const struct rounding *o, const float *x, uint16_t *to, int64_t n, int threads);
    err (*importance)(const struct importance *o, const struct importance_state *s, int64_t n, int threads);
    err (*orthogonal)(const struct orthogonal *o, const float *v, float *grad, int threads);
    /* One token on: ids[i] = log[i] = next[i], log[n + i] = the bits of logprob[i], pos[i] += 1. NULL where memory is the host's. */
    err (*advance)(int32_t *ids, int32_t *pos, const int32_t *next, const float *logprob, int32_t *log, int n);
    /* The other optimizers (optim/optimizers.def). The last two take one tensor at a time, and scratch: so many bytes, 64-byte aligned. */
    err (*adamw_8bit)(const struct adamw *o, const struct adamw_8bit_state *s, int64_t n, int threads);
    err (*lion)(const struct lion *o, const struct momentum_state *s, int64_t n, int threads);
    err (*sgd)(const struct sgd *o, const struct momentum_state *s, int64_t n, int threads);
    err (*adafactor)(const struct adafactor *o, const struct adafactor_state *s, void *scratch, int threads);
    err (*muon)(const struct muon *o, const struct momentum_state *s, void *scratch, int threads);
    size_t (*adafactor_scratch)(int64_t rows, int64_t columns);
    size_t (*muon_scratch)(int64_t rows, int64_t columns);
};

/* Runs that come again and again with the same kernels, places and sizes (decoding, token by token; short training passes)
 * can be recorded and replayed as one launch. key: everything that a recorded run depends on; it starts with the plan's
 * address. Seed, step and loss_scale are not part of it: kernels read them where begin_run() has put them. */
struct replay_ops {
    err (*begin)(const void *key, size_t bytes, bool *replayed); /* true: it has run; else launch the kernels, then end() */
    err (*end)(err launched);
    void (*forget)(const void *plan);
    /* Sets room aside for all that recordings may come to hold, from which each then takes; false: gives back what is left of it. */
    err (*set_aside)(bool);
};

struct prog;

struct backend {
    const char *name;
    /* in/out carry capacity shapes and types, p = NULL (absent operands: dt = DT_NONE). NULL: "not mine". */
    kernel (*find)(const struct inst *inst, const struct view *in, const struct view *out);
    size_t (*scratch)(const struct inst *inst, const struct view *in, const struct view *out);
    /* How many instructions from `first` on one kernel takes over; 0: none, each has its own. The kernel gets the first one's
     * address (the others follow it) and their operands' views, inst j's at in + j * MAX_IN and out + j * MAX_OUT. The values
     * of a span lie apart, and one that dies inside it (value.last) need not be written. NULL: no spans. */
    int (*span)(const struct prog *p, int first, kernel *run);
    /* Base matrices as another type than they are stored in (value.dt, value.stored): is that type to be had here, and the conversion,
     * between two places of the backend. NULL: none. */
    bool (*keeps)(dtype as);
    err (*keep)(const void *from, dtype stored, void *to, const struct view *as);
    /* Scratch that threads own is counted for so many from now on, by this thread; 0: for as many as the machine may run. NULL: there are none. */
    void (*count_threads)(int n);
    err (*begin_run)(const struct run_ctx *run); /* before the kernels of each run; NULL: nothing to do */
    bool computes; /* false: counts only (null); such a plan cannot be run */
    const struct mem_ops *mem;
    const struct flat_ops *flat;
    const struct replay_ops *replay; /* NULL: every run is launched kernel by kernel */
    /* Bytes of its memory that it takes itself to run p, beside the arenas, where so many bytes of the host's are page-locked for it; NULL where memory
     * is the host's. */
    size_t (*own)(const struct prog *p, size_t locked);
    dtype compute;       /* what programs compute in unless told otherwise */
    const char *(*card)(void); /* what the driver calls the card; NULL, as the hook is on the host: there is none */
    void (*describe)(str *out); /* what was found and what is missing: lines "name: what"; NULL: nothing to say */
    void (*configure)(const struct settings *s); /* NULL: nothing to choose */
    err (*open)(void);   /* before the first memory is taken; NULL: nothing to do. May be called again */
};
extern const struct backend backend_cpu, backend_reference, backend_null;
extern const struct flat_ops flat_cpu;

/* device: "auto" (the first card where there is one, else the processor), "cpu", "cuda". A card that is asked for by name is not
 * opened here, so that a run on it can be planned where there is none; open() says what is missing. */
err backend_pick(const char *device, const struct backend **out);
/* The compute type that `name` ("auto", "float32", "bfloat16", "float16") means on a backend. */
err backend_compute(const struct backend *b, const char *name, dtype *out);
/* The same of "kv_cache_dtype"; auto: what is computed in. */
err backend_cache(const struct backend *b, const char *name, dtype compute, dtype *out);
/* What this machine has for each backend of this build: lines "name: what". */
void backend_describe(str *out);

#endif
