/* The programs that a model runs as: training, scoring, prefill, one-token decode, features, classification, built from the same family text by
 * mode (extending and continuing, with many tokens of a slot, are decoding to the family's text), and the copying of cached positions between slots; compiled
 * to a plan on a backend. Inputs are bound by name through struct feed, in one fixed order per mode. */
#ifndef CYC_GEN_PROGRAM_H
#define CYC_GEN_PROGRAM_H
#include "core/grad.h"
#include "core/plan.h"
#include "gen/head.h"
#include "model/model.h"
#include "peft/methods.h"
#include "peft/targets.h"

/* What the loss of a structure's programs asks of a teacher beside the labels (op head_loss): the rows behind its last norm, with each run, and its head,
 * of whose ids the student's are the first; or its best ids and their log-probabilities. */
struct lesson {
    const struct model *teacher; /* NULL: it is not here; then top > 0 */
    int top;                     /* ids of a row; 0: its rows */
    struct loss_terms train, score; /* hidden goes with its rows alone */
};

/* What an adapter is, before its numbers: method, settings, parameters. Adapters of equal structure share plans. */
struct structure {
    const struct peft_method *method; /* NULL: the bare base */
    const void *settings;             /* the method's; a copy in mem, but for the texts */
    struct module_list named;         /* what adapter_config.json says for a word such as all-linear */
    struct head head;    /* beside the method */
    const char *head_module;
    const char *inside;  /* before the names of the base's modules, in files; "" */
    arena mem;
    int virtual_tokens;  /* before every text (core/site.h) */
    int given, given_width; /* vectors beside every text, of so many numbers */
    const char *stretched; /* the base's RoPE (model_stretch), the model's text; NULL: as its files say */
    bool seq2seq;        /* ... and its task type */
    bool fan_in_fan_out; /* adapter_config.json says so of a base with Conv1D matrices */
    struct param_set params;
    const struct lesson *lesson; /* NULL: the labels alone. The caller's */
    struct loss_terms terms; /* of training, beside the labels' cross-entropy */
    float noise;             /* of training: NEFTune's alpha */
    int adapters;        /* of this structure, whose rows a run of its programs may have side by side; 0: one */
};

/* In tokens of texts: programs add the room for what a method puts before one. */
struct capacity {
    int tokens;        /* of one pass */
    int sequences;     /* S of one pass */
    int slots, length; /* KV cache: running sequences, tokens each */
    dtype compute;     /* of activations; DT_NONE: the backend's own */
    dtype cache;       /* of keys and values that generation keeps; DT_NONE: as computed */
    int threads;       /* of each run, at most; 0: as many as the machine may run */
};
/* How prefill and decode choose tokens, as far as it changes programs. All zeros: one id a row, of the logits as they are. */
struct choosing {
    bool rules; /* ids are remembered, for what sampling_processes() */
    int beams;  /* > 1: the best 2 * beams ids of each row and their log-probabilities */
    int head;   /* the ids that all prompts of a batch begin with are computed once, where they are so many or more; 0: never */
};

struct program {
    enum mode mode;
    struct prog p;
    struct plan plan;
    val loss, nll;        /* train, score, continue: sums[4], nll[N] */
    val next, logprob;    /* prefill, decode: sampled ids and their log-probabilities; with beams [S, 2 * beams] of each; top: [N, k] */
    struct choosing choosing;
    val features;         /* features: the last rows [N, C]; classify without a head: those of each text that a head would read [S, C] */
    val logits;           /* prefill, decode: kept where asked for; classify: of the classes [S, classes], f32; of a head of tokens [N, classes] */
    bool seq2seq;         /* the model reads prompts with an encoder, and writes */
    bool targets;         /* train: the head is a regression */
    const struct lesson *lesson; /* train, score: a run takes what it asks for; NULL: nothing */
    bool gathers;         /* classify: a row of each text is read */
    int virtual_tokens;   /* before every text, of ids virtual_first, virtual_first + 1, ... */
    int32_t virtual_first;
    int given, given_width; /* vectors beside every text, of so many numbers (core/site.h); decode: 0 */
    val ids, pos;         /* the inputs that program_advance() writes */
    int members;          /* adapters that each row has a weight for, ... */
    const float *member_weights; /* ... [members] where a run says nothing of rows, ... */
    float *mix, *src_mix; /* ... and room for these, row by row */
    const int32_t *own_ids; /* an input of its own: tokens whose rows are the method's; NULL: none */
    struct residents *base; /* the model's, on the backend */
    struct derived *derived; /* the model's */
    const struct param_set *params; /* NULL: none */
};

/* keep_logits: for tests; of MODE_SCORE the logits of every position [N, V] in place of the loss, for exports (inputs: ids pos cu sample). */
err program_build(struct program *g, const struct model *m, enum mode mode, struct structure *st, struct capacity cap,
                  enum checkpoint level, const struct backend *backend, bool keep_logits);
/* MODE_TRAIN, with levels that differ from block to block, or what waits on the host. */
err program_train(struct program *g, const struct model *m, struct structure *st, struct capacity cap, const struct checkpoints *c,
                  const struct backend *backend);
/* MODE_PREFILL, MODE_DECODE and MODE_EXTEND (tokens behind those that their slots have) that choose so; MODE_CONTINUE: what such tokens cost; MODE_COPY: positions of their slots, of all that they keep for each (not the encoder's keys). */
err program_generates(struct program *g, const struct model *m, enum mode mode, struct structure *st, struct capacity cap,
                      const struct choosing *how, const struct backend *backend);
/* MODE_TOP: rows behind the last norm in (`taught`), the best k of their first `vocab` ids and the log-probabilities of these among them out; logits exist
 * for some rows at a time. */
err program_top(struct program *g, const struct model *m, struct capacity cap, int64_t vocab, int k, const struct backend *backend);
/* Is the output projection the base's own, with nothing of the adapter's in it? */
bool program_head_is_base(const struct model *m, struct structure *st);
void program_free(struct program *g);

/* One pass's inputs; those that the mode does not use are ignored.
 * An encoder-decoder's programs take src_ids src_pos src_cu src_sample beside these (prefill: and src_slot; decode: src_last and src_slot alone).
 * train, score: ids pos cu sample label weight (and target); features: ids pos cu; classify: ids pos cu (and rows); prefill: ids pos cu slot rows sample last_pos; extend: the same without cu; continue: ids pos slot label weight; decode: ids pos slot sample (and begin);
 * copy: from slot pos, for each position of a slot that goes to another. */
struct feed {
    const int32_t *ids, *pos, *cu, *sample, *label, *slot, *rows, *last_pos;
    const int32_t *begin; /* programs with rules: the position at which each row's answer begins */
    const int32_t *from;
    const float *weight, *target; /* target: of a regression, [s, numbers] */
    const float *mix, *src_mix; /* with members: each row's weights of them [n, members], the encoder's rows' [m, members]; NULL: the structure's for all */
    const float *given; const int32_t *given_rows; /* programs with given vectors: m of them */
    const void *taught;            /* with a lesson, and top: the teacher's rows [n, its width], in the compute type; ... */
    const int32_t *top;            /* ... or its best ids [n, k] ... */
    const float *top_logprob;      /* ... and their log-probabilities */
    const int32_t *src_ids, *src_pos, *src_cu, *src_sample, *src_slot, *src_last; /* encoder-decoders: the encoder's rows; decode: each row's last */
    int n, s, m;
    bool repeats; /* sizes are a ladder's: worth recording (program_rungs) */
    const struct plan_watch *watch; /* NULL: nobody looks on; else not `repeats` */
};
/* Memory for the plans of one session: each arena as large as the largest plan asks. */
struct profile;
struct memory {
    const struct backend *backend;
    struct profile *profile; /* each launch is timed (profile.h); NULL: none is */
    dtype compute;
    char *act, *scratch;   /* the KV cache lies in act, behind the generation plans' activations */
    char *host;            /* copies of activations while they wait */
    size_t act_bytes, scratch_bytes, state_off, host_bytes;
    void *work;            /* the adapter in the compute type, where that is not f32 */
    char *stage, *stage_host; /* inputs on their way, where the backend's memory is its own */
    int32_t *log;          /* behind them: what up to LOG_LINES decode runs sampled */
    size_t work_bytes, stage_bytes, log_off;
};
/* The sizes alone, with nothing taken. */
void memory_sizes(struct memory *mem, const struct program *const *programs, int n);
/* Takes the memory, computes what programs want of the base beside its tensors, and brings both to the backend. All programs are of one backend and compute type. */
err memory_for(struct memory *mem, struct program *const *programs, int n);
/* Both arenas are to have so many bytes at least: of those who use them between runs (optimizers). Before anything is in them. */
err memory_grow(struct memory *mem, size_t act, size_t scratch);
void memory_free(struct memory *mem);

/* Makes an adapter's f32 weights (an arena of the backend; NULL: the bare base) the ones that programs read from now on: *param
 * is what program_run() takes. Again after each change of the weights. */
err memory_bind(const struct memory *mem, const struct program *g, const void *weights, int threads, void **param);
/* Adapters of one structure, and a list's rows by them: those of adapter k end before row end[k]. */
struct crowd {
    int n;
    const void *weights[MAX_ADAPTERS];
    int end[MAX_ADAPTERS];
};
/* The same of all of them, for a program of so many (struct structure). *all: where each one's weights and gradients lie; the caller adds where its
 * rows of a run end, and hands it over in the run's run_ctx. */
err memory_bind_all(const struct memory *mem, const struct program *g, const struct crowd *c, int threads, void **param, struct adapters *all);
/* param: from memory_bind(); grad: an arena of the backend (NULL without an adapter). */
err program_run(const struct program *g, const struct memory *mem, void *param, float *grad, const struct feed *feed,
                const struct run_ctx *run, bool poison);
/* Sizes of a run on the ladder: where the backend can record runs and this one is short enough to be bound by its launches, n and s
 * are raised to the next rung (n by at most 6 %, slack for pack_pad() to fill) and the result is true. */
bool program_rungs(const struct program *g, int *n, int *s);
int program_lines(const struct program *g, int n); /* decode: the same for its rows, by up to a third */
/* After a decode run of n rows: the ids it sampled become the next run's, on the backend, and are noted in line `line` of the log.
 * program_again() runs it; program_log() brings `lines` lines to the host, each n ids and then the bits of their n log-probabilities. Where memory is the host's there is no log. */
enum { LOG_LINES = 4 };
err program_advance(const struct program *g, const struct memory *mem, int n, int line);
err program_again(const struct program *g, const struct memory *mem, void *param, int n, const struct run_ctx *run);
err program_log(const struct memory *mem, int n, int lines, int32_t *to);
/* The first `bytes` of an output of the last run, on the host. */
err program_read(const struct program *g, const struct memory *mem, val v, int n, int s, void *to, size_t bytes);
/* Where an output of the last run lies, until the next one (on the backend). */
struct view program_out(const struct program *g, const struct memory *mem, val v, int n, int s);

#endif
