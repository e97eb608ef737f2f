/* The teacher of a distillation (distill.c): a model, or the student's own base with an adapter, that says of each token of the
 * student's rows what it would have written. It is frozen: no gradient, no optimizer, its weights as its files have them.
 *
 * Its forward pass is a program of its own over the same rows, run right before the student's, in the same arenas: nothing of it is
 * left when the student's begins but the rows behind its last norm, which go in as an input of the student's program (struct lesson),
 * where logits are made a chunk at a time beside the student's. With distill.top_k the rows become the best k ids of each supervised
 * position, and with distill.cache these are computed once for all rows, kept on disk (answers.c), and a run that finds them opens no
 * teacher.
 *
 * Ids are the student's. A teacher reads them if its vocabulary is the same, or begins with the student's: then its other ids are left
 * out, what it says of the student's being divided among these. Refused, before a weight is read: other vocabularies, a teacher with
 * fewer rows than the student, encoders and encoder-decoders, adapters that change the output projection or read vectors. */
#ifndef CYC_TRAIN_TEACHER_H
#define CYC_TRAIN_TEACHER_H
#include "gen/adapter.h"
#include "train/config.h"
#include "train/learner.h"

struct run;
struct base;
struct plan_ask;

/* What a teacher said of all rows of a run: its best ids of each supervised position and their log-probabilities, as a file has them. */
struct answers {
    struct tensors file;
    const float *best; /* [n, 2, k]: ids, as numbers; log-probabilities */
    struct answer_set {  /* a set of rows: training, eval, test */
        const struct rows *rows;
        int64_t *first; /* [rows->n]: where each row's begin */
    } set[3];
    int64_t n; /* positions */
    char key[33];
    bool found;     /* on disk when the run was opened */
    double seconds; /* that they took */
};

struct teacher {
    struct base *base;      /* NULL: there is none, or its answers are on disk */
    struct side_config cfg; /* its base's files */
    bool shared;            /* the base is the student's own */
    arena mem;
    struct structure st;       /* of teacher.adapter; method NULL: none */
    struct lesson lesson;      /* what the student's programs ask */
    struct program body, best; /* its rows behind the last norm; of such rows the best ids */
    void *weights;             /* of the adapter, as programs read them, on the backend */
    size_t weight_bytes;
    struct pack pack;  /* the student's rows as the teacher reads them */
    char *said, *rows; /* [tokens, its width], in the compute type: of its pass; of the student's */
    int32_t *ids;      /* [tokens, k] of the student's pass */
    float *logprob;
    float *nll;   /* [tokens]: what the student's cross-entropies were */
    size_t bytes; /* of what is here beside the base */
    struct answers answers;
    struct rows made;        /* on-policy: of the step under way, what the student wrote */
    double heard[2]; /* since somebody set them to zero: the sum of weight * cross-entropy of the student's rows, of weight */
};

/* Opens it behind the run's own bases, before structures are laid down. OK where the objective has no teacher. */
err teacher_open(struct run *r, const struct plan_ask *ask);
err teacher_reads(const struct base *b); /* is it a model that can be a teacher? */
/* After the rows are made: looks for its answers on disk, and closes it where they are there. */
err teacher_look(struct run *r, const struct plan_ask *ask);
err teacher_plan(struct run *r, int64_t pass_tokens);
enum { TEACHER_PROGRAMS = 2 };
/* Those of a phase (PHASES: whose memory is the run's): with a cache they run while loading, before the others' memory is taken. */
int teacher_programs(const struct run *r, const struct program *out[TEACHER_PROGRAMS], int phase);
err teacher_start(struct run *r);
void teacher_close(struct run *r);
struct json_t *teacher_json(const struct run *r);     /* what it is, for plan, report and audit */
void teacher_describe(const struct run *r, str *out); /* a sentence */

/* Before a pass of the student, of rows first .. last - 1: what it says of them goes into the feed. After it: what the student's
 * cross-entropy was. */
err teacher_tell(struct workbench *b, const struct row *const *rows, int first, int last, struct feed *f);
err teacher_hear(struct workbench *b, const struct program *g);
/* The best ids of each supervised place of the rows, and their log-probabilities, in t->ids and t->logprob, one place after the other;
 * *n: how many. */
err teacher_best(struct teacher *t, struct workbench *b, const struct row *const *rows, int first, int last, int *n);

/* answers.c */
err answers_look(struct run *r);  /* the file's name, and is it there */
err answers_start(struct run *r); /* makes the file where it is not there, and opens it */
void answers_tell(struct teacher *t, const struct pack *k, const struct row *const *rows,
                  int first); /* of the rows of a pass into t->ids and t->logprob */
bool answers_know(const struct answers *a, const struct rows *rows); /* are these rows' in the file? Without one the teacher is asked: true */
void answers_close(struct answers *a);

#endif
