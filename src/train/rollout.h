/* Between generating and training in a cycle: which texts a step trains on, of all that there are. See rollout.c. */
#ifndef CYC_TRAIN_ROLLOUT_H
#define CYC_TRAIN_ROLLOUT_H
#include "data/rows.h"
#include "gen/generate.h"

/* A real text and what an adapter made of it. */
struct rollout {
    struct ids real, answer; /* owned, answer where the adapter that is trained has other ids for it (rollout_answer()) */
    struct generation made;  /* owned; in the ids of the adapter that wrote it */
    bool corrupted;          /* made of the answer, in its ids: nobody wrote it */
    float logprob;          /* of each token that was made, the EOS too: the mean */
    float weight;           /* of its row in the loss */
};
struct rollouts { struct rollout *v; int n, cap; };
static inline const struct ids *rollout_answer(const struct rollout *x) { return x->answer.n ? &x->answer : &x->real; }

/* What a direction keeps from step to step; in checkpoints (rollout_file.c). Named after the adapter that is trained. */
struct rollout_pool {
    struct rollouts window; /* made, and not used yet: from `used` on */
    int used;
    struct rollouts replay; /* the best so far, in no order */
    struct rollouts step;   /* what the step under way trains on; until the next one begins */
};

/* What became of a step's texts, of one direction. Means are over the texts made; of none NAN. */
struct rollout_stats {
    int texts;                          /* made for this step; `made` are those of them that were not dropped */
    int64_t tokens;                     /* that were generated in this step, maybe for later ones too */
    int dropped, empty, truncated;      /* of these; truncated: the generation came to max_new_tokens without an end */
    int replayed, denoised, supervised; /* rows beside them */
    int passed_over;                    /* real texts that the curriculum has put off */
    double logprob, copy_rate, length_ratio;
    const struct rollout *made;         /* texts - dropped of them; until the next step */
    bool idle;                          /* nothing was left to train on */
};

struct run;
struct side;
struct base;
struct side_config;

/* What the other adapters make of real texts, for `to` to be trained on: made[n], owned by the caller; *tokens grows by those generated. */
typedef err rollout_maker(struct run *r, const struct side *to, const struct ids *real, int n, struct generation *made, int64_t *tokens);

/* Fills to->rollouts.step: rows to be made of it, in this order: of this step's texts, of replayed ones, of corrupted ones.
 * key: of this step and direction, for random numbers. */
err rollout_draw(struct run *r, struct side *to, uint64_t key, rollout_maker *make, struct rollout_stats *stats);
/* Where the texts of several directions are made at once, before rollout_draw(), which then has them: if none are left, the first *n of
 * to->rollouts.window are real texts for which some are to be made, and rollout_take() has made[n] of the caller, and owns them then. */
err rollout_ask(struct run *r, struct side *to, struct rollout_stats *stats, int *n);
void rollout_take(struct side *to, struct generation *made);
/* list[n]: the rows that were made of these, and supervised pairs of this direction; freed by the caller. n 0: the step is left out,
 * which has been warned of. */
err rollout_list(struct run *r, struct side *to, const struct rows *made, struct rollout_stats *stats, const struct row ***list, int *n);
/* After the data are there: E_USAGE where they do not go with the settings. */
err rollout_check(const struct run *r, const struct side *to);
size_t rollout_bytes(const struct run *r, const struct side *to); /* that the pool may take */
void rollout_free(struct rollout_pool *p);

/* Of a text that was made of another, both as ids of one tokenizer. */
/* The share of the real text's runs of 3 tokens that are in it. */
double rollout_copy_rate(const struct ids *real, const struct generation *made);
/* Its tokens for each of the real text's. */
double rollout_length_ratio(const struct ids *real, const struct generation *made);
/* What the filter lets pass: 0: nothing, else the weight of its row. */
float rollout_weight(const struct side_config *c, const struct rollout *x);
/* A text's tokens dropped, moved, masked; to[] has room for all. Returns how many are left, at least 1. key: the seed, the step's. */
int rollout_corrupt(const struct side_config *c, int32_t mask, const uint64_t key[2], uint32_t row, const struct ids *from, int32_t *to);

err rollout_write(const struct rollout_pool *p, const char *folder); /* rollouts.safetensors, where there is something to keep */
/* vocab: sizes of the vocabularies of real, answer, made. E_INPUT: the file is damaged. */
err rollout_read(struct rollout_pool *p, const char *folder, const int vocab[3]);
err rollouts_push(struct rollouts *to, const struct rollout *x); /* a copy */
void rollouts_clear(struct rollouts *r);

#endif
