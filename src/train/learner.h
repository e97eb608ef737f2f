/* One adapter in training: its numbers, its optimizer (optim/optim.h) and its states, and the step that turns a list of rows into one update.
 *
 * A step is split into passes of at most the plan's tokens; gradients add up unnormalised over the passes and are divided
 * once, by the loss weight of all of them, in the optimizer's launch: any split of the same rows gives the same gradient.
 * A tensor that no gradient reaches is an error (reach.h). Nothing non-finite is ever written into the weights: such a step is E_NUMERIC (in f16: left out) and leaves them as they were. */
#ifndef CYC_TRAIN_LEARNER_H
#define CYC_TRAIN_LEARNER_H
#include "data/pack.h"
#include "gen/adapter.h"
#include "gen/profile.h"
#include "optim/optim.h"
#include "train/schedule.h"
#include "train/reach.h"

struct recipe { /* how an adapter learns */
    double learning_rate, weight_decay, beta1, beta2, epsilon, max_grad_norm;
    struct curve curve;
    const struct optimizer *optim; /* NULL: AdamW */
    struct optim_settings how;     /* what is not above */
    size_t page;                   /* on a card: the optimizer's states lie on the host, and for a step come to the card those of so many bytes of the
                                    * weights at a time (paged.c); 0: they are there */
    struct optim_rounding rounding; /* of weights in bf16 */
};

/* Small gradients vanish in f16, so the loss is scaled up by a power of two that follows what they allow (Micikevicius et al. 2018,
 * "Mixed Precision Training"; growth and backoff as torch.amp.GradScaler's): a step whose gradient overflows is left out and the
 * scale halved; after so many good steps it doubles. */
struct scaler { double scale; int64_t good, skipped; }; /* scale 0: off, for every other type */

struct workbench;
struct learner {
    struct structure *st;
    const struct program *program; /* MODE_TRAIN of st */
    struct recipe recipe;
    const struct backend *backend; /* the program's */
    void *w;                       /* its arena: of param_weight_bytes(&st->params) */
    struct optim_state state[OPTIM_STATES]; /* the optimizer's */
    int states;                    /* with recipe.page on the host, else of the backend */
    size_t slots;                  /* ... and paged_room() */
    const struct optimizer *optim;
    struct optim_settings how;
    const struct fused *fused;     /* where gradients lie that are used as soon as they are whole; NULL: all to the end. Of the program; the caller's */
    float *own[MAX_STATES];        /* the method's, of st->params.trained */
    int64_t updates;               /* of this run: where the schedule stands */
    int64_t optim_steps;           /* in all: the optimizer's t; more than updates where the state came from another run */
    struct scaler scaler;
    struct reach reach;
    bool checked;                  /* by accumulation_check() */
    const char *side;              /* for messages; NULL: there is one */
};
err learner_init(struct learner *l, struct structure *st, const struct program *program, const struct recipe *r);
void learner_free(struct learner *l);
int learner_states(const struct structure *st); /* arenas that its method keeps beside the optimizer's */
/* A recipe's optimizer, and all that it is told. */
const struct optimizer *recipe_optimizer(const struct recipe *r);
struct optim_settings recipe_settings(const struct recipe *r);
/* Bytes at the end of the arena of activations in which its states pass by, of those that lie on the host: a multiple of 512. */
size_t paged_room(const struct recipe *r, const struct param_set *set);
/* The optimizer's step, whatever the weights' arena is of, and wherever its states lie; o->w is all of that arena, o->state of o->of. */
struct optim_step learner_whole(struct learner *l, const struct workbench *b, double lr, float grad_scale); /* of all, but for o->g */
struct cost learner_work(const struct learner *l, double share); /* of a share of it, and of the norm before it */
err learner_take(const struct learner *l, const struct workbench *b, const struct optim_step *o);
err learner_take_here(const struct learner *l, const struct optim_step *o); /* its states are with the weights */
err paged_take(const struct learner *l, const struct workbench *b, const struct optim_step *o); /* they are not: at the end of b's activations */
err learner_fill(struct learner *l, uint64_t key); /* fresh weights: param_fill() */
/* The adapter's files (gen/adapter.h), whatever the backend. */
err learner_write(const struct learner *l, const char *folder, const char *base_model);
/* The finished adapter, for use: as the method's hook `finished` has it. */
err learner_finish(const struct learner *l, const char *folder, const struct model *m);
err learner_load(struct learner *l, const char *folder, const struct model *m);
/* After learner_fill(): the numbers of another task's adapter over the fresh ones (adapter_transfer). */
err learner_transfer(struct learner *l, const char *folder, const struct model *m, bool *head);
/* The optimizer's states as folder/optimizer.safetensors, beside the adapter, and the method's own. Reading is strict about sizes, and refuses
 * another optimizer's; a folder without the file is found = false. The method's state is read where its schedule goes on (updates > 0); elsewhere it begins anew. */
err optimizer_write(const struct learner *l, const char *folder);
err optimizer_read(struct learner *l, const char *folder, bool *found);

/* A backward pass that updates what it has left (optimizer_in_bwd): fused.c. */
struct fusing {
    struct plan_watch watch;
    struct learner *l;
    struct workbench *b;
    double rate, squares; /* the learning rate; of the gradients so far */
    float scale;          /* 1 / the weight of the pass, known before it begins */
};

struct teacher;
/* What all learners of a process share: memory, the gradient arena, the pack. */
struct workbench {
    struct memory mem;
    float *grad;               /* of mem.backend */
    struct fusing *fusing;     /* while a pass is one that updates; else NULL */
    size_t grad_bytes;
    struct pack pack;
    struct teacher *teacher;   /* of programs with a lesson (teacher.h); NULL: none */
    int *first, first_cap;
    int passes;                /* of the last rows that were run */
    bool rows_apart;           /* every row in a pass of its own, ... */
    bool check_accumulation;   /* ... which must give the same gradient (accumulation.h) */
    int threads;
};

struct step_result {
    double loss, grad_norm, learning_rate; /* mean loss per supervised token; norm before clipping */
    bool taught;                           /* distill: what the loss is made of, each a mean */
    double ce, kd;                         /* the labels' cross-entropy; the distance from the teacher */
    double accuracy;
    double loss_scale;                     /* of this step; 0: none */
    bool skipped;                          /* its gradient overflowed f16: nothing was learnt */
    int64_t tokens, supervised;
};
/* fused.c: what an update of parameters in the backward pass goes with; E_USAGE says what it does not go with. */
err fused_allowed(const struct structure *st, const struct recipe *r, dtype compute);
void fused_begin(struct fusing *f, struct learner *l, struct workbench *b, double rate);
/* Before the one pass of a step: what it is divided by. */
err fused_pass(struct fusing *f, const struct pack *k, int passes);

/* seed and step key the dropout masks. */
err learner_step(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step,
                 struct step_result *out);
/* Its second half: what the passes added up becomes an update of l. */
struct step_sums {
    double sums[4], squares; /* head_loss's; of a gradient that is not there any more (fused) the sum of its squares */
    float *grad;             /* of l->st->params.trained */
    int64_t tokens;          /* of the rows */
    uint64_t step;           /* for messages */
};
err learner_update(struct learner *l, struct workbench *b, const struct step_sums *all, struct step_result *out);
/* The gradient alone, unnormalised, in b->grad (tests, and the first half of a step). */
err learner_gradient(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed,
                     uint64_t step, double sums[4]);
/* Rows through a train or score program, pass by pass: the four sums of head_loss for each adapter that has some of them. */
struct rows_run {
    const struct program *program;
    struct crowd of;               /* the adapters, and how many of the rows each has */
    float *grad;                   /* added to: an arena for each of them in turn; NULL of a score program */
    const struct row *const *rows;
    struct run_ctx run;
    double sums[MAX_ADAPTERS][4];
};
err rows_run(struct workbench *b, struct rows_run *x);
/* What a classify program says of each row, whatever the adapter weights (NULL: bare base): `value` is g->features or g->logits, and
 * to[n, its columns] is f32. A row's supervised position is the one that is read; of a value for each token all of them are, one after the other. */
err rows_outputs(const struct program *g, struct workbench *b, const void *weights, const struct row *const *rows, int n, val value, float *to);
/* Mean loss of rows under any adapter weights (NULL: bare base program), without gradient. */
err rows_loss(const struct program *score, struct workbench *b, const void *weights, const struct row *const *rows, int n, double sums[4]);

#endif
