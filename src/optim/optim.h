/* Optimizers: a row of optimizers.def and one file each. An optimizer says which states a parameter set needs (arenas with names, which its
 * checkpoints have: optimizer.safetensors), and takes the step from a gradient; what it computes is a kernel of the backend's flat_ops, which
 * core/flat.h describes. It knows neither schedule nor clipping nor which adapter it serves: that is its caller's, train/learner.c. The plan
 * (train/run.c) asks it for bytes.
 *
 * Refused: nothing; settings have been checked when the configuration was. A step never fails half way but where a card does. */
#ifndef CYC_OPTIM_OPTIM_H
#define CYC_OPTIM_OPTIM_H
#include "core/backend.h"
#include "core/params.h"

enum { OPTIM_STATES = 8 };

/* What an optimizer may be told beside AdamW's two betas, epsilon and decay; each reads its own. */
struct optim_settings {
    double beta1, beta2, epsilon, weight_decay;
    double momentum;                     /* sgd, muon */
    bool nesterov;                       /* sgd */
    bool scale_parameter, relative_step; /* adafactor */
    bool match_rms;                      /* muon: rates as AdamW's (Moonshot AI 2025), not Jordan's own */
};

struct optim_state {
    const char *name; /* in checkpoints */
    dtype dt;         /* of file and arena: f32, or i32, which is four codes of 8 bits */
    size_t bytes;     /* never 0 */
    void *p;          /* of the backend; zero before the first step */
};

/* A part of a set's arena, in bytes of f32: from the start of a parameter to that of another, or the end. Of an elementwise optimizer any. */
struct optim_part {
    const struct param_set *set;
    size_t first, end;
};
static inline struct optim_part optim_whole(const struct param_set *set) { return (struct optim_part){set, 0, set->trained}; }

struct optim_step {
    const struct backend *backend;
    struct optim_part of;
    const struct optim_settings *how;
    float *w;                  /* of the part, ... */
    const float *g;            /* ... as this */
    struct optim_state *state; /* as states() lists them of the part, ... */
    int states;                /* ... so many */
    void *scratch;             /* of the backend, as much as scratch() says */
    double lr;                 /* of a parameter of rate 1 */
    int64_t t;                 /* this step's number; the first is 1 */
    float grad_scale;
    int threads;
};

struct optimizer {
    const char *name; /* transformers': `optim` */
    /* Those of a part: how many; without their p. A part's lie in those of a larger one behind what comes before it, without gaps. */
    int (*states)(const struct optim_settings *how, const struct optim_part *of, struct optim_state *out);
    err (*step)(const struct optim_step *o);
    void (*describe)(const struct optim_settings *how, str *out);                /* "AdamW, two f32 states" */
    size_t (*scratch)(const struct param_set *set, const struct flat_ops *flat); /* NULL: none */
    double (*rate)(const struct optim_settings *how, double scheduled,
                   int64_t t); /* the learning rate that it goes by; NULL: the scheduled */
    /* What a step reads, writes and computes beyond its weights and states there and back and the gradient once; NULL: nothing. */
    struct cost (*beyond)(const struct optim_settings *how, const struct param_set *set);
    bool elementwise; /* a part may begin and end inside a parameter */
};

const struct optimizer *optimizer_find(const char *name); /* NULL: none has it */
/* The states of a whole set, as arenas and files have them: of whole numbers of their type. */
int optim_states(const struct optimizer *z, const struct optim_settings *how, const struct param_set *set, struct optim_state *out);
/* Takes a part's states off the front of n of a larger one's, which are left with those behind it: lists them where they lie, and says how many. */
int optim_states_take(const struct optimizer *z, const struct optim_settings *how, const struct optim_part *part, struct optim_state *from,
                      int n, struct optim_state *out);
/* Where the first page of a part ends: it has at most so many bytes of weights, but a parameter at least where the optimizer wants whole ones. */
size_t optim_page(const struct optimizer *z, const struct optim_part *of, size_t most);
size_t optim_bytes(const struct optimizer *z, const struct optim_settings *how, const struct param_set *set);
/* The work of a step, in floating-point operations and bytes of memory. */
struct cost optim_cost(const struct optimizer *z, const struct optim_settings *how, const struct param_set *set);

/* narrow.c: a step on weights in bf16. o->w: the narrow arena, all of it; o->scratch: narrow_scratch() bytes. z is elementwise. */
struct optim_rounding {
    uint64_t key; /* of the weights: the other side's are rounded otherwise */
    bool nearest; /* not at random */
};
size_t narrow_scratch(const struct param_set *set);
err narrow_step(const struct optimizer *z, const struct optim_step *o, const struct optim_rounding *r);
/* Every optimizer's name, with ", " between: for messages. */
void optimizer_names(str *out);

/* --- for the optimizers' files ------------------------------------------------------------------------------------------- */
/* What an elementwise step goes over: a stretch of its part (core/params.h), from float `at` on, and its gradient. */
struct optim_stretch {
    size_t at; /* counted from the part's first, as the states are */
    int64_t n;
    float *w;
    const float *g;
    double lr, weight_decay;
};
/* The next one; *at begins at 0. false: there is none. */
bool optim_stretch(const struct optim_step *o, size_t *at, struct optim_stretch *out);

/* The tensors of a part, one after the other, as the files of the adapter have them (the A of q, k and v lie in one parameter), in the order
 * of the arena. Whoever keeps states that are smaller than a tensor lays them down in this order. */
struct optim_tensor {
    size_t at;             /* floats from the part's first */
    int64_t rows, columns; /* columns 0: a vector */
    int64_t n;
    bool turned;   /* files have it as [columns, rows] */
    bool of_layer; /* of one of the base's blocks: neither an embedding, a head nor a prompt before all layers */
    float rate;
};
struct optim_walk {
    struct optim_part of;
    struct param_stretch stretch;
    size_t from;
    int param, slice;
};
struct optim_walk optim_walk(const struct optim_part *of);
bool optim_next(struct optim_walk *w, struct optim_tensor *out);
/* Lists one more state, where it has bytes; returns the number of states. */
int optim_list(struct optim_state *out, int n, const char *name, dtype dt, size_t bytes);

#define OPTIMIZER(name) extern const struct optimizer optimizer_##name;
#include "optim/optimizers.def"
#undef OPTIMIZER

#endif
