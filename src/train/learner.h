/* One adapter in training: its numbers, its optimizer, and the step that turns a list of rows into one AdamW update.
 *
 * A step is split into passes of at most the plan's tokens; gradients add up unnormalised over the passes and are divided
 * once, by the loss weight of all of them, in the optimizer's launch: any split of the same rows gives the same gradient.
 * A tensor that no gradient reaches is an error (reach.h). Nothing non-finite is ever written into the weights: such a step is E_NUMERIC (in f16: left out) and leaves them as they were. */
#ifndef CYC_TRAIN_LEARNER_H
#define CYC_TRAIN_LEARNER_H
#include "core/flat.h"
#include "data/pack.h"
#include "gen/adapter.h"
#include "train/schedule.h"
#include "train/reach.h"

struct recipe { /* how an adapter learns */
    double learning_rate, weight_decay, beta1, beta2, epsilon, max_grad_norm;
    enum schedule schedule;
    int64_t warmup_steps, total_steps;
};

/* Small gradients vanish in f16, so the loss is scaled up by a power of two that follows what they allow (Micikevicius et al. 2018,
 * "Mixed Precision Training"; growth and backoff as torch.amp.GradScaler's): a step whose gradient overflows is left out and the
 * scale halved; after so many good steps it doubles. */
struct scaler { double scale; int64_t good, skipped; }; /* scale 0: off, for every other type */

struct learner {
    struct structure *st;
    const struct program *program; /* MODE_TRAIN of st */
    struct recipe recipe;
    const struct backend *backend; /* the program's */
    float *w, *m, *v;              /* its arenas: of st->params.bytes; the states of .trained */
    float *own[MAX_STATES];        /* the method's, like the states */
    int64_t updates;               /* of this run: where the schedule stands */
    int64_t adam_steps;            /* in all: Adam's t; more than updates where the state came from another run */
    struct scaler scaler;
    struct reach reach;
    bool checked;                  /* by accumulation_check() */
    const char *side;              /* for messages; NULL: there is one */
};
err learner_init(struct learner *l, struct structure *st, const struct program *program, const struct recipe *r);
void learner_free(struct learner *l);
int learner_states(const struct structure *st); /* arenas that its method keeps beside AdamW's two */
err learner_fill(struct learner *l, uint64_t key); /* fresh weights: param_fill() */
/* The adapter's files (gen/adapter.h), whatever the backend. */
err learner_write(const struct learner *l, const char *folder, const char *base_model);
/* The finished adapter, for use: as the method's hook `finished` has it. */
err learner_finish(const struct learner *l, const char *folder, const struct model *m);
err learner_load(struct learner *l, const char *folder, const struct model *m);
/* The optimizer's state as folder/optimizer.safetensors, beside the adapter, and the method's own. Reading is strict about sizes; a folder
 * without the file is found = false. The method's state is read where its schedule goes on (updates > 0); elsewhere it begins anew. */
err optimizer_write(const struct learner *l, const char *folder);
err optimizer_read(struct learner *l, const char *folder, bool *found);

/* What all learners of a process share: memory, the gradient arena, the pack. */
struct workbench {
    struct memory mem;
    float *grad;               /* of mem.backend */
    size_t grad_bytes;
    struct pack pack;
    int *first, first_cap;
    int passes;                /* of the last rows that were run */
    bool rows_apart;           /* every row in a pass of its own, ... */
    bool check_accumulation;   /* ... which must give the same gradient (accumulation.h) */
    int threads;
};

struct step_result {
    double loss, grad_norm, learning_rate; /* mean loss per supervised token; norm before clipping */
    double accuracy;
    double loss_scale;                     /* of this step; 0: none */
    bool skipped;                          /* its gradient overflowed f16: nothing was learnt */
    int64_t tokens, supervised;
};
/* seed and step key the dropout masks. */
err learner_step(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step,
                 struct step_result *out);
/* The gradient alone, unnormalised, in b->grad (tests, and the first half of a step). */
err learner_gradient(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed,
                     uint64_t step, double sums[4]);
/* What a classify program says of each row, whatever the adapter weights (NULL: bare base): `value` is g->features or g->logits, and
 * to[n, its columns] is f32. A row's supervised position is the one that is read; of a value for each token all of them are, one after the other. */
err rows_outputs(const struct program *g, struct workbench *b, const float *weights, const struct row *const *rows, int n, val value, float *to);
/* Mean loss of rows under any adapter weights (NULL: bare base program), without gradient. */
err rows_loss(const struct program *score, struct workbench *b, const float *weights, const struct row *const *rows, int n, double sums[4]);

#endif
