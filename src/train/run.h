/* A training run: everything between a configuration and a run folder.
 *
 * run_open() reads the data and the model's sizes, builds the programs and the memory plan, and refuses what cannot work;
 * no weight has been read by then. run_start() takes the memory and the weights. Objectives (objectives.def) say what a
 * step is; the loop, saving, resuming, evaluation and reporting are the same for all of them. */
#ifndef CYC_TRAIN_RUN_H
#define CYC_TRAIN_RUN_H
#include "base/lock.h"
#include "core/rates.h"
#include "data/command.h"
#include "data/order.h"
#include "gen/generate.h"
#include "gen/likeness.h"
#include "io/npy.h"
#include "train/config.h"
#include "train/health.h"
#include "train/learner.h"
#include "train/rollout.h"
#include "train/teacher.h"
#include <jansson.h>

/* What one model brings to a run. Adapters share it, but for those of dmcct, where each side has a model of its own. base.c */
struct base {
    const char *name;          /* the side that it belongs to, for messages; "": it is the run's */
    const struct side_config *cfg; /* which files: model, model_config, tokenizer, chat_template */
    struct model model;
    tokenizer *tok;
    char tok_hash[33], hash[33]; /* tok_hash: of vocabulary and merges; hash: base_hash() */
    int32_t eos;
    struct likeness likeness;  /* of the quantised base to the file's; tokens 0: not measured */
    struct program bare;       /* its loss without an adapter (alarms.c); where nobody generates, or a copy of a tensor is trained, none */
    size_t check_bytes;        /* that measuring it takes, on the processor */
    char *quantised;           /* what it was quantised to, for people; NULL: it was not */
};

/* An adapter's plans: shared by sides whose structures are equal, on one base. */
struct plans {
    struct structure st;
    struct base *base;
    int modules;
    struct program train, score; /* score: the loss alone; of a head what it says of each text */
    struct program beneath;      /* the loss of the language model that a head stands on, the method on it (run.beneath) */
    struct program body;         /* a frozen base under a head: its rows of the texts (features.c) */
    struct fused fused;   /* with optimizer_in_bwd: where train's gradients lie, and when */
    struct generator gen; /* built only for objectives that generate */
    struct generator beam; /* ... with eval.num_beams, in whose memory it is */
    bool generates;
};

struct side {
    const char *name;          /* "A", "B", ...; "" where there is one */
    const struct side_config *cfg;
    struct base *base;
    struct plans *plans;
    struct side *next, *from;  /* cycles: the side whose text its adapter writes, and the one that writes its own */
    struct learner learner;
    struct order order;        /* over this side's own data */
    struct source source;
    struct prompt_form form;   /* cycles: a text of this side as a prompt for the next */
    struct ids *texts;         /* cycles: this side's data, tokenised; NULL when streamed. cap 0: the ids lie in rows */
    int n_texts, longest, truncated;
    struct rows rows;          /* sft: what is trained on; cycles: the texts as rows */
    struct rows answers;       /* cycles: the same as `from`'s tokenizer has them, where that is another */
    struct command processor;  /* cycles: of texts that are written for this side; line NULL: none */
    bool by_text;              /* cycles: what comes to this side was written with other ids, or for a prompt that leads texts in differently */
    struct rollout_pool rollouts; /* cycles: texts that were made for this adapter */
    double sketch[SKETCH];     /* of its adapter at the last evaluation (health.h) */
    bool sketched;
};

struct pairs {                 /* supervised: warm-up and evaluation of cycles; what is held out of one side's data */
    struct source source;      /* of one side's text and the next's; of the first two sides in cycles */
    struct source more[CONFIG_SIDES]; /* cycles of several: side i's and the next's, where `source` does not have them */
    struct rows rows[CONFIG_SIDES]; /* [i] trains side i's adapter */
};

struct guard { /* what is not to be lost (guard.c) */
    const char *name;
    enum guard_kind kind;
    struct source source;
    struct npy given;               /* its file of vectors */
    struct rows rows[CONFIG_SIDES]; /* [i]: as base i's tokenizer has them; of questions what goes into the form */
    struct prompt_form form[CONFIG_SIDES];
};

struct step_info {
    int64_t step, total;
    bool warmup;
    struct step_result side[CONFIG_SIDES];
    struct rollout_stats rollouts[CONFIG_SIDES]; /* cycles: of the texts that were made for this adapter */
    double seconds, generate_s, train_s;
    int64_t generated;
};

struct run;
struct heading;
struct objective {
    const char *name;
    int sides;                                          /* at least */
    bool generates;
    bool own_bases;                                     /* each side has a model of its own */
    err (*load)(struct run *r);                         /* data; before any weight */
    err (*step)(struct run *r, struct step_info *info); /* one optimizer step of each side */
    err (*evaluate)(struct run *r, const struct pairs *on, json_t *out); /* adds "sides", "round_trip", "samples" */
    err (*open)(struct run *r);                         /* before load: what the adapters' structure depends on; NULL: nothing */
    const struct heading *heading; /* it trains a head (headed.h): its score program is MODE_CLASSIFY. NULL: it does not */
};

struct footprint { /* bytes */
    size_t weights, derived, adapters, gradients, optimizer, activations, cache, scratch, data, runtime;
    size_t offloaded; /* on the host, of a run on a card: in neither total */
    size_t working; /* inside adapters: the copy in the compute type, of the largest */
    size_t checks;  /* check_accumulation's copies of the gradient */
    size_t finished; /* ... and a finished adapter, where that is another (core/site.h), of the largest */
    size_t away; /* of a card: states of optimizers that lie in the host's memory; in none of the others */
    size_t check; /* that quantization_check takes, of the base that needs most for it; of a card nothing, it runs on the processor */
    size_t teacher; /* its base where that is its own, its adapter, what it says of a pass */
    size_t reading; /* buffers while data are read, of the host; gone before the check */
    size_t beginning; /* what the larger of these two takes beyond all that the run takes later */
    size_t total, resident; /* resident: without the file-backed weights */
};

/* What goes on one after the other while a run lasts, and after it. */
enum phase { PHASE_LOAD, PHASE_GENERATE, PHASE_TRAIN, PHASE_EVALUATE, PHASE_SAVE, PHASES };

/* How a run is opened that will not be started. */
struct plan_ask {
    bool unlimited;            /* a plan beyond the memory limit is no error */
    int64_t layers;            /* of a model without weights: so many in place of its own; 0: its own */
    const struct run *like;    /* one that is open: its data are not read again, its lengths count, its tokenizer is used. NULL: data are read where there are any */
};

/* A frozen base's rows for a head, in place of the texts (features.c). */
struct frozen {
    struct features table;
    float *row;                /* the table's */
    size_t bytes;
    struct rows *texts; /* [sets]: training, eval, test, each guard */
    int sets;
    char key[33];
    bool found;                /* on disk */
    double seconds;            /* that they took */
};

struct run_events {
    void *ctx;
    void (*step)(void *ctx, const struct run *r, const struct step_info *info);
    void (*eval)(void *ctx, const json_t *eval);
    void (*save)(void *ctx, const char *path);
};

enum { SPARE_PAGES = 16 }; /* of 2 MiB: a plan's room for kernels and cuDNN's handle is 22 MiB at most */

struct run {
    struct config *cfg;
    const struct objective *objective;
    struct base base[CONFIG_SIDES + 1]; /* a teacher's own is the last */
    int n_bases;
    struct teacher teacher;    /* distill */
    const struct backend *backend;
    const struct rates *card;  /* planned for by name; NULL: for this machine */
    bool plans_only;           /* it will not be started: run_plan() */
    bool assumes;              /* ... and has no data: rows are as long as max_length lets them be */
    dtype compute;             /* of activations */
    dtype cache;               /* of keys and values that generation keeps */
    bool narrow;               /* trained_dtype: the trained tensors are kept in bf16 */
    bool sets_aside;           /* room for recorded runs (replay_ops): given back at the end */
    void *spare[SPARE_PAGES];  /* pages of a card that are held for what comes late */
    int n_spare;
    int threads;
    struct plans plans[CONFIG_SIDES];
    int n_plans;
    struct side side[CONFIG_SIDES];
    int n_sides;
    struct pairs warm, eval, test;
    struct guard *guard; /* [n_guards] */
    int n_guards;
    bool generates;            /* the objective does, or evaluation for a guard of questions, or a student for its teacher */
    bool beneath;              /* it trains a head, and guards are read by the language model beneath */
    struct npy given[3];       /* files of vectors: training, eval, test */
    struct labels labels;      /* classification, of texts or tokens */
    struct head head;
    struct class_form classes;
    bool freezes;              /* nothing but the head is trained, on features that are made once */
    struct frozen frozen;
    struct order warm_order;
    struct workbench wb;
    struct capacity cap;
    struct checkpoints levels; /* what the training programs recompute */
    bool picks_levels;         /* auto */
    struct footprint foot;
    size_t limit;              /* what foot.total must not exceed */
    int64_t pass_tokens;       /* asked of the programs; run_pass() is what they have room for */
    size_t read_bytes;         /* while data were read: what was there then and is not any more */
    size_t data_lent;          /* of a plan like another run: what that has read */
    size_t data_there;         /* what is left of it: given out by the heap while data were read */
    size_t seen[PHASES];       /* the peak so far when such a phase first ended; 0: it has not been */
    int64_t warm_steps, step;  /* steps done, warm-up included */
    struct command metric;     /* eval.metric_command; line NULL: none */
    int64_t rolled_back;       /* the step of the rollback; 0: there was none */
    volatile int *stop;        /* set from a signal handler */
    bool resumed, evaluating;
    struct lock lock;          /* on output_dir, while this run may write there */
    json_t *evals;
    json_t *report;            /* AT_END, once it was asked for */
    char *events;              /* TensorBoard's file; NULL: none */
    double page_made, page_took; /* report.html: when it was there last, and the seconds that it took */
    double elapsed;            /* seconds of training before this process (resume) */
    double generate_s, train_s, step_s; /* of the steps after the warm-up, in this process */
    int64_t timed_steps;       /* how many those are */
    struct profile profile;    /* of profile_steps */
    double spent[PHASES];      /* seconds in each, all steps and processes of the run */
    double flops_rate, bytes_rate; /* of the processor, once measured (forecast.c) */
};

err run_open(struct run *r, struct config *cfg);
/* The same for a plan alone: the model may be a config.json, data may be missing, the device may be a card that is not here. */
err run_plan(struct run *r, struct config *cfg, const struct plan_ask *ask);
/* A side's method and its settings, in mem (method.c). */
err side_method(const struct side *s, const struct run *r, arena *mem, const struct peft_method **method, const void **settings);
void method_heed_ranks(const struct structure *st); /* warns of low-rank factors that are wider than their matrix */
err run_start(struct run *r);                       /* memory, weights, fresh adapters */
err run_loop(struct run *r, const struct run_events *ev); /* to the last step, or E_INTERRUPTED with a checkpoint saved */
/* Vectors that come with each record of a side's data, by its method (method.c); false: none. */
bool side_given(const struct side_config *c, struct given_form *given);
void run_close(struct run *r);
int64_t run_total(const struct run *r);             /* warm-up steps + max_steps */
int run_pass(const struct run *r);                  /* tokens that a training pass has room for */
json_t *times_json(const struct run *r);            /* seconds of each phase that repeats */
/* PLANNED: before anything runs. SO_FAR: with what is measured now; the machine's speed is not. AT_END: that too, which takes memory of its own: a report
 * at the end is made once, and the same afterwards. */
enum telling { PLANNED, SO_FAR, AT_END };
json_t *run_plan_json(struct run *r, enum telling when);
void run_dump(const struct run *r, str *out);       /* its programs, an instruction a line */
json_t *run_report_json(struct run *r, enum telling when); /* steps, evaluations, times, plan with measured memory */
json_t *explain_json(const struct run *r);          /* the static sums; r NULL: without this run's */
size_t run_memory(const struct run *r);             /* taken now: of the card, or resident */
size_t run_beside(const struct run *r);             /* ... and of that what is not arenas, weights or data */
enum { RUN_PROGRAMS = CONFIG_SIDES * (4 + 2 * GENERATOR_PROGRAMS) + TEACHER_PROGRAMS };
int run_programs(const struct run *r, const struct program *out[RUN_PROGRAMS], int phase); /* those that a phase runs; PHASES: all */
int run_most_rows(const struct run *r);             /* that are ever generated for at once, as far as the data go */
const char *size_text(size_t bytes);                /* "1.25 GB", "340.0 MB"; the last four stay valid */

/* begin.c: side i's weights as the run begins with them: fresh, of an adapter that goes on, or of another task's */
err side_begin(struct run *r, int i);

/* context.c */
err base_stretch(const struct run *r, struct base *b);  /* RoPE as the configuration asks for it */
json_t *base_positions_json(const struct run *r, const struct base *b); /* ... and what came of it; of a model that is stretched */
err run_within_context(const struct run *r, int longest, int virtual_tokens); /* are there positions for so many tokens? */
void base_heed_adapter(const struct base *b, const char *folder); /* warns of one that was trained with RoPE stretched otherwise */

/* base.c: models, tokenizers and what runs read of them */
/* The bases that the sides need. layers: of models without weights, so many in place of their own; like: a run whose tokenizers are lent. */
err bases_open(struct run *r, const struct plan_ask *ask);
err base_open(const struct run *r, struct base *b, const struct plan_ask *ask, const struct base *like);
int bases_trained(const struct run *r);             /* those that are no teacher's */
void base_close(struct base *b);
const char *base_hash(struct base *b);              /* model_hash(), which reads the whole base, once a run */
/* Is it a matrix in whose place every side on this base has a trained copy? No plan reads it then. */
bool base_replaces(const struct run *r, const struct base *b, const struct weight *w);
bool base_forgets(const struct run *r, const struct base *b); /* has it any of these, or quantised ones: matrices of its files that nothing but a hash reads? */
void bases_forget(const struct run *r);             /* of such a base the files' pages leave the process: what is still read comes back */
err base_bytes(const struct run *r, const struct base *b, size_t *bytes, size_t *held); /* of its weights in the plan; held: what of these is not the mapped file */
bool base_same_ids(const struct base *a, const struct base *b); /* the same vocabulary and merges */
/* Of an encoder-decoder: [prompt][answer] becomes [prompt EOS][start answer], the encoder's ids and the decoder's. Others: nothing. */
err base_split_rows(const struct base *b, struct rows *all);

/* phases.c: the memory of each phase */
void phase_seen(struct run *r, enum phase phase);   /* it has just ended: notes the peak, the first time */
json_t *phases_json(const struct run *r);

/* forecast.c: the time of a step, by the ops' work and the machine's rates */
void forecast_rates(struct run *r, struct profile *p); /* the machine's into a profile */
json_t *forecast_json(struct run *r);         /* NULL: the machine's rates are not known */

/* budget.c */
err budget_refuse(struct run *r);                   /* E_USAGE: what the plan needs, the limit, and the smallest change that would fit */
/* The most of one setting that fits the limit: pass_tokens, generation_batch, max_length, rank, checkpointing (the least), base (layers). */
err budget_solve(const struct run *r, const char *what, json_t **out);

/* levels.c */
err levels_parse(struct run *r);                    /* r->levels, r->picks_levels */
/* auto: plan() makes the plans of r->levels and adds up r->foot; afterwards they are those of the least recomputation that fits the
 * limit, or of what takes least. */
err levels_pick(struct run *r, size_t limit, err (*plan)(struct run *r, int64_t pass_tokens, void *ctx), void *ctx);
/* The ladder that auto goes down, and whoever looks for more recomputation: how many rungs it has for a model of so many blocks, which one a
 * run stands on (what is only of some blocks counts as of all), and the setting's word for one ("block:2"). */
enum { LEVEL_WORD = 16 };
int levels_rungs(int blocks);
int levels_at(const struct checkpoints *l);
const char *levels_word(int rung, char word[LEVEL_WORD]);
char *levels_text(const struct run *r);             /* "recomputes whole blocks in the first 12 of 30 blocks ..."; the caller frees */
json_t *levels_json(const struct run *r);

/* data.c: a side's files as one source, in an order with weights; rows and texts in memory or made when drawn */
err data_open(struct run *r, const struct side_config *c, enum source_want want, bool held_out, struct source *s);
/* Where the vectors of records are; file: a .npy, opened once in `open`, or "": in a field of theirs. */
err data_given(const struct side_config *c, const char *file, struct npy *open, struct given_form *given);
/* The fields of a record that a source is asked for; NULL: it knows itself. */
void data_fields(const struct run *r, const struct side_config *c, enum source_want want, const char **field, const char **label);
err data_order(const struct run *r, struct side *s, uint32_t stream);
enum learnt data_learnt(const struct run *r);
err data_draw(struct side *s, int n, const struct row **list);    /* the next n rows; they stay until the next draw */
/* The same of a side's texts, in ids of its own tokenizer and (answers) of `from`'s; not owned. */
err data_draw_texts(struct side *s, int n, struct ids *texts, struct ids *answers);
/* The first n texts of a side, as its files have them, in mem. */
err data_texts(const struct side *s, int n, arena *mem, const char **text);
size_t data_bytes(const struct run *r);
bool data_streams(const struct run *r);

/* quantise.c: `quantization` */
err quantise_open(const struct run *r, struct base *b); /* right after the model is opened: its types */
err quantise_allowed(const struct run *r);          /* after the adapters' structures are laid down */
err quantise_check(struct run *r);                  /* quantization_check; the weights are there */
json_t *quantise_json(const struct run *r, const struct base *b); /* of one that is quantised */

/* features.c, for runs that freeze the base */
err features_plan(struct run *r);                   /* after the rows are made, guards' too: what will be computed, and the memory for it */
err features_start(struct run *r);                  /* finds them on disk, or computes them */
err features_keep(struct run *r, const struct run_events *ev); /* on disk, where they are not yet */
void features_free(struct frozen *f);
json_t *features_json(const struct run *r);

/* recipe.c */
struct recipe run_recipe(const struct run *r, const struct side_config *c);
/* Bytes of a side's states, its method's own among them: on the backend, and (offload) on the host; and what a step needs of the arenas of
 * activations and scratch. */
struct needs { size_t here, away, act, scratch; };
struct needs recipe_needs(const struct run *r, const struct side *s);
enum { RECIPE_ARENAS = OPTIM_STATES + MAX_STATES };
int recipe_arenas(const struct run *r, const struct side *s, size_t out[RECIPE_ARENAS]); /* the bytes of each state's that is here; how many */
/* What goes with weights in bf16: E_USAGE says what does not. */
err recipe_narrow(const struct structure *st, const struct recipe *q, dtype compute);
void recipe_widen(const struct run *r, size_t *act, size_t *scratch); /* to what the steps of all sides need */
void recipe_describe(const struct run *r, str *out); /* the optimizers' line of the plan */

/* judge.c: the texts that a cycle's adapters write */
err judge_open(struct run *r); /* the configuration's commands, tried once */
void judge_close(struct run *r);
/* Text of a base's ids, with U+FFFD for what is none; trimmed: without the white space around it, the caller frees it. */
err base_text(const struct base *b, const int32_t *ids, size_t n, str *text);
err base_text_trimmed(const struct base *b, const int32_t *ids, size_t n, char **text);
/* Appends ids of a base as side `to` has them once they went through text: decoded, without the space before them, and read behind its prompt's lead. */
err ids_reread(const struct side *to, const struct base *b, const int32_t *ids, size_t n, struct ids *out);
/* How many of n texts in b's ids have other ids then. */
err ids_changed(const struct side *to, const struct base *b, const struct generation *made, int n, int *changed);
/* Texts that were written for side `to` go through its processor, where it has one; source: what they were made from. */
err process_texts(struct side *to, char **text, const char *const *source, int n);
err process_made(const struct side *by, const struct ids *prompt, int n, struct generation *made); /* ... and ids, in by's tokenizer */
/* Can the references of side s's direction be read by its metrics? E_INPUT otherwise. */
err judge_readable(const struct side *s, const struct source *from, bool swap);
/* The scores of a direction, those of copying the source ("copy") and "rows", into an object. */
err judge_direction(struct run *r, const struct side *s, const struct command_rows *rows, json_t *into);

/* evaluate.c */
err run_evaluate(struct run *r, const struct pairs *on, const char *tag, json_t **out);
/* What a side's adapter makes of rows: loss in nats for each token, perplexity, accuracy of the likeliest token, "rows"; of documents bits_per_byte too,
 * which does not depend on how a tokenizer cuts: nats of a token / ln 2 * the text's tokens / its bytes. */
err rows_figures(struct run *r, const struct side *s, const struct rows *rows, json_t *to);
const struct program *rows_scorer(const struct run *r, const struct side *s); /* the program that says so */
struct sampling side_sampling(const struct side_config *c, double temperature);
err generate_texts(struct run *r, int side, const struct ids *prompts, int n, int max_new, double temperature, uint64_t key,
                   struct generation *out, struct generate_stats *stats);

/* The same by several adapters of one structure in one batch, each the prompts that are its own, as the configuration says. */
err generate_texts_of_all(struct run *r, const struct ids *prompts, const struct crowd *of, uint64_t key, struct generation *out);

/* joint.c: schedule: joint */
bool run_joins(const struct run *r);
err joint_open(const struct run *r);                /* E_USAGE, E_UNSUPPORTED: what it does not go with; before and ... */
err joint_allowed(const struct run *r);             /* ... after the programs are built */
struct crowd joint_crowd(const struct run *r);      /* the sides' adapters; of no rows yet */
/* One optimizer step of every side, on the rows of all in one pass: those of side k end before of->end[k]. */
err joint_step(struct run *r, const struct crowd *of, const struct row *const *rows, uint64_t step, struct step_result *out);
/* Its first half: gradients in wb.grad, side after side. */
err joint_gradient(struct run *r, const struct crowd *of, const struct row *const *rows, uint64_t step, double sums[][4]);

/* guard.c: guard.data */
err guards_open(struct run *r); /* after the objective's data; widens r->cap.tokens to their rows */
void guards_close(struct run *r);
size_t guards_bytes(const struct run *r);
const struct rows *guard_rows(const struct run *r, const struct guard *g, const struct side *s); /* as a side's adapter reads them */
err guards_evaluate(struct run *r, json_t *eval); /* adds "guard", an entry for each guard and side, where there are any */

/* alarms.c: what evaluations say of a run's health, and what follows */
struct wrote {                 /* texts of one direction */
    int writer, side;          /* whose adapter wrote; the side whose language it is */
    const char *direction;
    struct texts_in in, out, wanted; /* wanted: references; n 0: none */
    const struct ids *prompt;  /* what it was given, [out.n] */
    const struct generation *made;
    int changed; /* of these, by ids_changed(); -1: the sides have different tokenizers */
};
err health_direction(struct run *r, const struct wrote *w, json_t *list); /* appends an object with its figures */
err health_moved(struct run *r, json_t *eval);      /* since it was called last; into eval's "health" */
void alarms_judge(const struct run *r, json_t *eval); /* adds "alarms" where there are any, and warns */
err alarms_act(struct run *r);                      /* on_alarm, of the last evaluation; E_NUMERIC: the run is to end */
double eval_metric(const struct run *r, const json_t *eval); /* metric_for_best_model; higher is better, -HUGE_VAL: none */
err eval_has_metric(const struct run *r, const json_t *eval); /* E_USAGE: its dotted name leads nowhere */
const json_t *eval_best(const struct run *r);       /* NULL: none yet */
bool eval_patience_is_over(const struct run *r);

/* checkpoint.c: run folders and checkpoints */
err folder_check(struct run *r, int flags);         /* 1 resume, 2 overwrite; refuses a folder that is not empty or in use; locks one that exists */
err folder_begin(struct run *r, int flags);         /* after all that can refuse: makes, locks, empties (2), sweeps, opens the record */
err checkpoint_save(struct run *r, char **path_out);
err checkpoint_resume(struct run *r, bool *found);  /* the newest whole checkpoint of output_dir */
err folder_finish(struct run *r);                   /* output_dir/A, output_dir/B; of a random base a warning */
err folder_report(struct run *r);                   /* output_dir/report.json and report.html */
err folder_page(struct run *r, enum telling when);  /* output_dir/report.html; SO_FAR: where that takes less than a fiftieth of the time */
err best_save(struct run *r);                       /* output_dir/best/{A,B}: kept while training */
err best_load(struct run *r, bool optimizers);      /* back into the learners, where there is one */
err metrics_append(const struct run *r, json_t *line);
err adapters_load(struct run *r, const char *folder); /* folder/A, folder/B, ..., or folder/adapter */
const char *adapter_folder(const struct run *r, int side, const char *root, arena *mem);

#define OBJECTIVE(name) extern const struct objective objective_##name;
#include "train/objectives.def"
#undef OBJECTIVE

#endif
