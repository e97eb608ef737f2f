/* cyclora: fine-tuning of language models in little memory. The whole public API.
 *
 * A complete program: two LoRA adapters on one frozen base, trained by cycle consistency on two piles of unpaired text.
 *
 *     #include <cyclora/cyclora.h>
 *     #include <stdio.h>
 *
 *     static void on_step(void *ctx, const cyc_step *s) {
 *         (void)ctx;
 *         printf("step %d  loss A %.3f  B %.3f\n", s->step, s->loss[0], s->loss[1]);
 *     }
 *
 *     int main(void) {
 *         cyc_config *c = cyc_config_new();
 *         if (cyc_config_set(c, "model=SmolLM2-135M-Instruct.Q4_1.gguf") || cyc_config_set(c, "A.data=a.jsonl") ||
 *             cyc_config_set(c, "B.data=b.jsonl") || cyc_config_set(c, "output_dir=run") ||
 *             cyc_train(c, 0, &(cyc_callbacks){.on_step = on_step}, NULL))
 *             fprintf(stderr, "%s\n", cyc_error());
 *         cyc_config_free(c);
 *     }
 *
 * Every function that can fail returns 0, or CYC_BAD_INPUT (what you gave it is wrong; 2) or CYC_FAILED (1), and
 * cyc_error() then says what, where and what to do. Nothing here prints or exits. Handles are used from one thread at a
 * time; different handles may be used from different threads. Strings returned through char** are freed with cyc_free(). */
#ifndef CYCLORA_H
#define CYCLORA_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { CYC_OK = 0, CYC_FAILED = 1, CYC_BAD_INPUT = 2, CYC_INTERRUPTED = 3 };

const char *cyc_version(void);
const char *cyc_error(void); /* of this thread's last failed call */
void cyc_free(void *p);
/* Warnings and notes to a person (level 0 debug, 1 note, 2 warning); none are sent by default. */
void cyc_set_log(void (*sink)(void *ctx, int level, const char *line), void *ctx);

/* --- configuration: the keys are those of the YAML file; docs/config.md lists them ---------------------------------- */
typedef struct cyc_config cyc_config;
cyc_config *cyc_config_new(void); /* defaults; NULL when out of memory */
void cyc_config_free(cyc_config *c);
int cyc_config_load(cyc_config *c, const char *yaml_path);
int cyc_config_set(cyc_config *c, const char *key_equals_value); /* "lora.r=8", "A.learning_rate=1e-4" */
int cyc_config_text(const cyc_config *c, char **yaml);           /* the resolved configuration */
typedef struct cyc_key { const char *name, *type, *fallback, *doc; int per_side; } cyc_key;
const cyc_key *cyc_config_keys(size_t *n); /* every key, for help pages */

/* Ready configurations, as a JSON list: [{"name", "about", "page", "command", "config"}]; config false: a command that needs none. */
int cyc_recipes(char **json);
typedef struct cyc_init_request {
    const char *recipe, *out;         /* a name of the list; a file that does not exist yet */
    const char *model;                /* NULL, here and below: the recipe's own */
    const char *const *data;          /* of a run of one side a list; of several each side's, in their order */
    int n_data;
    const char *eval, *test, *pairs;  /* eval.data, test.data, warmup_pairs.data; with data, what is not given is commented out */
    const char *const *sets;          /* "key=value", of keys that the recipe sets */
    int n_sets;
} cyc_init_request;
/* Writes the recipe's configuration, with its comments; it is read and checked before it is there. {"recipe", "out", "page", "command",
 * "missing": [files that it names and that are not here]}. */
int cyc_init(const cyc_init_request *q, char **json);

/* --- models, tokenizers, adapters ------------------------------------------------------------------------------------ */
typedef struct cyc_model cyc_model;     /* a frozen base, mapped; with its tokenizer */
typedef struct cyc_adapter cyc_adapter; /* a PEFT adapter bound to a model */
int cyc_model_open(const char *path, cyc_model **out); /* .gguf file or Hugging Face folder */
/* Where this model scores and generates: "cpu" (the default), "cuda", "auto"; in dtype "float32", "bfloat16" or "auto" (a card's is
 * bfloat16). Before adapters are opened on it. */
int cyc_model_device(cyc_model *m, const char *device, const char *dtype);
void cyc_model_close(cyc_model *m);
int cyc_adapter_open(cyc_model *m, const char *folder, cyc_adapter **out); /* strict: every key must match */
void cyc_adapter_close(cyc_adapter *a);
/* Several adapters on one model at once, as one: wherever an adapter is asked for. weight 1 is an adapter as it is, 0 leaves it out; what
 * each adds to the base is added up times its weight. Adapters that are low-rank products alone (LoRA) may have any weight, and each row
 * of a batch its own (cyc_generate_options.weights); others are there, with weight 1, or not, for all rows. At most CYC_MOST_MEMBERS.
 * Two adapters of one name, or two that want the same place of the base, are refused. Where all weights are 0 it is the bare base, bit
 * for bit. */
enum { CYC_MOST_MEMBERS = 32 };
typedef struct cyc_member { const char *name, *folder; float weight; } cyc_member;
int cyc_mix_open(cyc_model *m, const cyc_member *member, int n, cyc_adapter **out);
int cyc_mix_index(const cyc_adapter *mix, const char *name, int *index); /* CYC_BAD_INPUT: no member is called so */
int cyc_mix_weight(cyc_adapter *mix, int index, float weight); /* from the next call on; nothing is read or moved */
/* What a model file or folder, adapter folder, checkpoint or run folder holds, as JSON. */
int cyc_inspect(const char *path, char **json);
/* What this machine has to compute with, a line each ("card: ..."), measured where there is a card; free() the text. */
int cyc_doctor(char **text);

/* Ids of a text: special tokens in it are recognised, none is added. *ids is freed with cyc_free. */
int cyc_tokenize(const cyc_model *m, const char *text, size_t n, int32_t **ids, size_t *n_ids);
/* The same with what the model expects around a text, each once: CYC_BEFORE (BOS, [CLS]), CYC_AFTER (T5's </s>, [SEP]). */
enum { CYC_BEFORE = 1, CYC_AFTER = 2 };
int cyc_tokenize_around(const cyc_model *m, const char *text, size_t n, int around, int32_t **ids, size_t *n_ids);
int cyc_detokenize(const cyc_model *m, const int32_t *ids, size_t n, int skip_special, char **text);
/* A chat prompt (one user turn) in the model's own template, up to where the assistant speaks; with the BOS where the model
 * expects one. A prompt that holds a control token's text is refused. */
int cyc_chat_prompt(const cyc_model *m, const char *user, char **text);
/* Another template in place of the model's own: a Jinja file, or a built-in one (chatml). */
int cyc_chat_template(cyc_model *m, const char *name);
/* A tokenizer alone: from a model path or a tokenizer.json. The handle serves cyc_tokenize and cyc_detokenize only. */
int cyc_tokenizer_open(const char *path, cyc_model **out);

/* nll[i] = -log p(ids[i] | ids[0..i-1]) for i >= 1; nll[0] = 0. No token is added. adapter may be NULL. */
int cyc_score_ids(cyc_model *m, cyc_adapter *adapter, const int32_t *ids, size_t n, float *nll);

/* The rows that a model's last layer makes of a text, averaged (sentence encoders): out[cyc_width(m)]; normalize: to length 1.
 * n ids with whatever the model expects around them; none is added. Encoders (BERT) take this alone; decoders too. */
int cyc_width(const cyc_model *m);
int cyc_embed_ids(cyc_model *m, cyc_adapter *adapter, const int32_t *ids, size_t n, int normalize, float *out);

/* Texts of a file: plain lines, or a field (NULL: "text") of JSONL, a JSON array, CSV or TSV; format NULL: found by itself. */
typedef struct cyc_texts cyc_texts;
int cyc_texts_open(const char *path, const char *format, const char *field, cyc_texts **out);
/* Words: of lines, or of a field's text, what stands between white space; a list of them (NULL: "tokens", "words" or "text"); CoNLL's lines. */
int cyc_words_open(const char *path, const char *format, const char *field, cyc_texts **out);
int cyc_words_count(const cyc_texts *t, int i);
const char *cyc_word_at(const cyc_texts *t, int i, int k);
void cyc_texts_close(cyc_texts *t);
int cyc_texts_count(const cyc_texts *t);
const char *cyc_text_at(const cyc_texts *t, int i);

/* A vector for each text, out[count * cyc_width(m)]: the model's last rows of it, averaged, or the last token's, or the first's ([CLS]).
 * Each text gets what the model expects around it; one longer than max_length (0: 1024, or the model's context) loses its end, and a
 * warning says so. */
enum { CYC_POOL_MEAN, CYC_POOL_LAST, CYC_POOL_FIRST };
int cyc_embed_texts(cyc_model *m, cyc_adapter *adapter, const cyc_texts *t, int pooling, int normalize, int max_length, float *out);
/* x[rows, columns] as OUT.npy, or OUT.safetensors with the one tensor "embeddings". */
int cyc_matrix_write(const char *out, const float *x, int rows, int columns);

/* An adapter with a head (objective: classification or regression, PEFT's SEQ_CLS; token_classification, TOKEN_CLS). How many classes (of a
 * regression: numbers; 0: no head), their names ("LABEL_0" where the folder has no labels.json), and for each text their probabilities, or the
 * numbers: out[count * classes]. */
enum { CYC_HEAD_NONE, CYC_HEAD_CLASSES, CYC_HEAD_NUMBERS, CYC_HEAD_TAGS };
int cyc_head(const cyc_adapter *a);
int cyc_classes(const cyc_adapter *a);
const char *cyc_class_name(const cyc_adapter *a, int i);
int cyc_classify_texts(cyc_model *m, cyc_adapter *a, const cyc_texts *t, int max_length, float *out);
/* CYC_HEAD_TAGS: the likeliest class of each word of all texts, one after the other, and its probability; -1 and 0 of a word that has no token
 * or lies beyond max_length. t: from cyc_words_open(). */
int cyc_tag_words(cyc_model *m, cyc_adapter *a, const cyc_texts *t, int max_length, int32_t *tag, float *probability);

enum { CYC_BEAMS_HEURISTIC, CYC_BEAMS_EARLY, CYC_BEAMS_NEVER };
typedef struct cyc_generate_options {
    int max_new_tokens;          /* 0: 64 */
    float temperature, top_p;    /* temperature 0: greedy; top_p 0: 1 */
    int top_k;
    float min_p;                 /* leaves out ids less likely than this times the likeliest; 0: none */
    float repetition_penalty;    /* divides logits of ids that prompt or answer have already, multiplies negative ones; 0, 1: off */
    int min_new_tokens;          /* no EOS before so many */
    int beams;                   /* > 1: beam search (temperature 0, no on_token); 32 at most */
    float length_penalty;        /* ... its hypotheses are ranked by log-probability / length^this */
    int share_head;              /* prompts that begin with the same so many tokens or more have these computed once; 0: never */
    int early_stopping;          /* ... CYC_BEAMS_...: when a search is over, as transformers' early_stopping false, true, "never" */
    uint64_t seed;
    int ignore_eos;
    int threads;                 /* 0: all */
    const float *weights;        /* of several adapters (cyc_mix_open): [n][members], each prompt's; NULL: the members' for all */
    int int_activations;         /* decode with activations of 15 bits and a sign where the processor is faster so */
    /* Called for each new token of row `row` as it is made; return non-zero to stop that row. May be NULL. */
    int (*on_token)(void *ctx, int row, int32_t id);
    void *ctx;
    /* For an adapter that reads vectors beside each prompt (projector): those of all prompts, one after the other, and how many numbers. */
    const float *vectors;
    size_t vectors_n;
} cyc_generate_options;
/* Rows of f32 from a .npy file of float16, float32 or float64; free *x with cyc_free. */
int cyc_npy_read(const char *path, float **x, int64_t *rows, int64_t *columns);
typedef struct cyc_generation { int32_t *ids; size_t n; int stopped; /* by EOS, which is not in ids */ } cyc_generation;
/* Of the new tokens the first of each row comes of the pass over its prompt; decoded_tokens are the others. */
typedef struct cyc_generate_stats { double prefill_s, decode_s; int64_t prompt_tokens, new_tokens, decoded_tokens; } cyc_generate_stats;
/* n prompts at once; out[n] is filled, each ids freed with cyc_free. stats may be NULL. Of an encoder-decoder the prompt is what the
 * encoder reads; an EOS is put behind it where there is none. */
int cyc_generate(cyc_model *m, cyc_adapter *adapter, const int32_t *const *prompt, const size_t *prompt_n, int n,
                 const cyc_generate_options *opt, cyc_generation *out, cyc_generate_stats *stats);

/* --- tasks: what a model does as it stands, with no or few examples before it ------------------------------------------ */
/* A task of the lm-evaluation-harness over local files (.yaml, .yml), or a file of records; what is said here goes over the file. NULL, 0: nothing
 * said. text, choice, target, description: as doc_to_text, doc_to_choice, doc_to_target and description there. */
typedef struct cyc_task_options {
    const char *path, *shot_data;  /* examples are drawn from shot_data; NULL: the file's fewshot_split, or the other records */
    const char *text, *choice, *target, *description;
    const char *const *until;      /* an answer that is written ends before any of these; none: the file's, or a line's end */
    int n_until, max_new_tokens;   /* ... or after so many tokens; 0: the file's, or 64 */
    int limit;                     /* only the first so many records */
} cyc_task_options;
typedef struct cyc_task cyc_task;
int cyc_task_open(const cyc_task_options *o, cyc_task **out);
void cyc_task_close(cyc_task *t);
int cyc_task_size(const cyc_task *t);                /* records */
/* Examples are drawn once for all records; for each anew; are the first of their file; or as the task says (fewshot_config.sampler: first_n), else once. */
enum { CYC_SHOTS_TASK, CYC_SHOTS_SAME, CYC_SHOTS_EACH, CYC_SHOTS_FIRST };
typedef struct cyc_shots {
    int shots, order;
    uint64_t seed;  /* of the draw */
    int chat;       /* questions are what a user says in the model's chat template, examples' answers what the assistant says */
    int batch;      /* prompts at once; 0: 8 */
} cyc_shots;
/* {"task", "kind": "multiple_choice" or "generate_until", "shots", "records", "metrics": {name: {"value", "stderr"}}, "prompt_tokens", "option_tokens",
 * "shared_tokens", "seconds", "results": [...][, "bytes"]}; bytes: of activations and cache, with options. Metrics are 0..1: acc (the likeliest option), acc_norm (per character), acc_bytes (per
 * byte), or exact_match, squad_em and squad_f1; stderr is the sample's over the root of the records (null of one). Each result has its "at" (file:line), "prompt",
 * and "log_likelihoods" and "right", or "text" and "answers". A record is not among its own examples. The same request gives the same bytes but for the time,
 * whatever the order of the records. cyc_stop() ends it. */
int cyc_task_run(const cyc_task *t, cyc_model *m, cyc_adapter *a, const cyc_shots *how, char **json);

/* --- training -------------------------------------------------------------------------------------------------------- */
enum { CYC_SIDES = 8 };           /* at most */
typedef struct cyc_step {
    int step, max_steps, warmup;  /* warmup: this step trained on warm-up pairs (step and max_steps count those) */
    int sides;                    /* 1 (sft), or as many as go in cycles */
    double loss[CYC_SIDES], grad_norm[CYC_SIDES], learning_rate[CYC_SIDES]; /* NAN of an adapter that was idle */
    double seconds, generate_s, train_s;
    int64_t generated, trained, supervised; /* tokens of this step */
    double eta_s;
    size_t resident;              /* bytes resident now */
    int texts, dropped, idle;     /* cycles: texts made for the adapters, those of them that were not trained on, adapters that had no row left */
    int skipped;                  /* adapters that learnt nothing in this step: their gradient overflowed dtype float16 (the scale is lower now) */
} cyc_step;
typedef struct cyc_callbacks {
    void *ctx;
    void (*on_start)(void *ctx, const char *json);    /* what will run: plan, data, sides; once */
    void (*on_step)(void *ctx, const cyc_step *step);
    void (*on_eval)(void *ctx, const char *json);     /* {"step","tag","A":{...},"B":{...},"samples":[...]} */
    void (*on_save)(void *ctx, const char *path);
} cyc_callbacks;
enum { CYC_RESUME = 1, CYC_OVERWRITE = 2 };
/* Runs to the end, or until cyc_stop(): then it saves a checkpoint and returns CYC_INTERRUPTED. flags: CYC_RESUME goes on
 * from the newest checkpoint in output_dir, CYC_OVERWRITE empties it first; a non-empty output_dir without either is refused,
 * and so is one that another run is at work in.
 * report (may be NULL) receives the run's summary as JSON, the measured memory table among it. */
int cyc_train(cyc_config *c, int flags, const cyc_callbacks *cb, char **report);
void cyc_stop(void); /* async-signal-safe */

/* The memory plan of a run, before a weight is read, as JSON. `model` may be a config.json (or a folder with one, or "config.json:q4_k") without
 * weights, data may be left out (rows are then as long as max_length lets them be, and no tokenizer is needed), and `device` may name a card
 * that is not here. A plan beyond the memory limit is CYC_BAD_INPUT, with the smallest change that would fit in its message. */
int cyc_plan(cyc_config *c, char **json);
/* The same, whether or not it fits, with "solved": the most of one setting that fits the limit: "pass_tokens", "generation_batch", "max_length",
 * "rank", "checkpointing" (the least), "base" (layers of this shape). Its "value" is null where even the least does not fit. */
int cyc_plan_solve(cyc_config *c, const char *what, char **json);
/* The run's programs as text: a line for each, "train: 386 instructions", and then one for each instruction. */
int cyc_plan_dump(cyc_config *c, char **text);
/* The plan with "explain": the static sums of DMCCT and MACCT, and this run's beside them. c may be NULL: the sums alone. */
int cyc_explain(cyc_config *c, char **json);
/* The first n training rows with the supervised tokens marked, lengths and counts, as JSON. */
int cyc_preview(cyc_config *c, int n, char **json);
/* What data files hold, without a configuration. */
typedef struct cyc_data_request {
    const char *const *files;
    int n_files;
    const char *format, *field, *field2; /* NULL: found in the files */
    const char *model;  /* a model or tokenizer.json, for tokens; NULL: without */
    int max_length;     /* rows are cut to this; 0: 1024 */
    int rows;           /* of each file, the first so many as tokens (needs model) */
} cyc_data_request;
/* {"files": [{"path", "container", "shape", "packing", "rows", "bytes", "duplicates"[, "tokens", "supervised", "truncated",
 * "unlearnable", "length": {"min", "median", "p95", "max"}, "histogram": [{"from", "to", "rows"}], "cuts": [{"max_length", "rows", "tokens"}]]}],
 * "totals": {...}, "preview": [rows as of cyc_preview]}; cuts: the rows that this max_length would cut, and the tokens that it would lose. */
int cyc_data_stats(const cyc_data_request *q, char **json);
/* What it returned as a page of HTML that needs nothing else. */
int cyc_data_page(const char *stats, const char *path, int overwrite);
/* What is wrong with data files, record by record: {"files": [{"path", "container", "shape", "packing", "bytes", "rows", "fit", "fields": [{"name",
 * "rows"}], "byte_order_mark", "crlf"}], "rows", "bad", "warned", "kinds": [{"kind", "bad", "count"}], "troubles": [{"path", "line", "kind", "bad",
 * "what"}]}. Of the troubles the first `limit` are listed (0: all). Bad records are no failure of the call: "bad" counts them. */
int cyc_data_check(const cyc_data_request *q, int limit, char **json);
/* What the commands that write data files share. They refuse a file that is there already unless it may be overwritten, and write beside OUT a card,
 * OUT.card.json and OUT.card.md, which is also what they return: {"command", "cyclora", "inputs": [{"path", "container", "shape", "hash", "bytes",
 * "rows"}], "settings": {...}, "counts": {...}, "outputs": [{"path", "hash", "bytes", "rows"}]}. */
typedef struct cyc_rewrite_request {
    cyc_data_request data; /* model: for lengths in tokens; max_length and rows have no use */
    const char *out;
    int overwrite;
} cyc_rewrite_request;
/* How records are held to be near: by the Jaccard similarity of their sets of shingles, found with MinHash, verified by the texts. */
typedef struct cyc_near {
    double threshold;
    int permutations;
    int shingle, words; /* so many characters in a row, or (words) words */
    uint64_t seed;
    int exact;          /* equal ones alone; the others have no use */
} cyc_near;
/* Records without those that an earlier one equals or is near. removed: NULL, or a file that gets a line for each of those. */
int cyc_data_dedup(const cyc_rewrite_request *q, const cyc_near *near, const char *removed, char **json);
/* Test records that stand in training data: equal, near, or with n-grams of words that do. */
typedef struct cyc_overlap {
    const char *const *against; /* the test files; format and fields are as the request's */
    int n_against;
    cyc_near near;
    int ngram;          /* words; 0: none are looked for */
    double least;       /* share of a test record's n-grams that must be found; 0: one will do */
    const char *report; /* NULL, or a file that gets a line for each hit */
    int limit;          /* of the hits that are returned; 0: all */
} cyc_overlap;
/* q->data is the training data; q->out, which may be NULL, gets its records that no test record is found in. The card, with "against", "share" of the
 * test records, and "hits": [{"path", "line", "kind": "equal", "near" or "ngram", "train_path", "train_line", "jaccard", "ngrams"}]. */
int cyc_data_contamination(const cyc_rewrite_request *q, const cyc_overlap *o, char **json);
/* Records that pass every rule; what is 0 or NULL is none. Lengths in tokens need q->data.model. */
typedef struct cyc_filter {
    int min_tokens, max_tokens, min_chars, max_chars;
    double min_ratio, max_ratio; /* of the answers' characters over those of what they answer */
    double min_letters;          /* share of the characters that are not white space */
    double max_repeated;         /* share of lines that an earlier one of the record equals */
    const char *alphabet;        /* scripts, "Latin,Greek": letters of others are foreign */
    double max_foreign;          /* share of the letters */
    const char *const *keep, *const *drop; /* "FIELD=REGEX", "=REGEX": must match; may not */
    int n_keep, n_drop;
} cyc_filter;
int cyc_data_filter(const cyc_rewrite_request *q, const cyc_filter *f, char **json);
/* A folder q->out of train.jsonl, dev.jsonl and test.jsonl: shares of the records, or of the groups that the field `group` tells (NULL: none). */
int cyc_data_split(const cyc_rewrite_request *q, double dev, double test, const char *group, uint64_t seed, char **json);
int cyc_data_convert(const cyc_rewrite_request *q, const char *to, char **json); /* to: "messages", "prompt_completion" */
/* Data and a configuration of cycle training from what people have: recipe "entities", "records", "triples", "languages", "style". */
typedef struct cyc_prepare_request {
    const char *recipe;
    const char *const *files;
    int n_files;
    const char *field, *field2;  /* NULL: the recipe's own */
    const char *names[2];        /* what the sides are called in prompts; NULL: the recipe's own */
    const char *model;           /* for the configuration; "": it is left to its user */
    const char *out;             /* a folder that does not exist yet */
    uint64_t seed;
    double warm, dev, test;      /* shares of the pairs */
} cyc_prepare_request;
/* {"recipe", "out", "pairs", "duplicates", "A", "B", "warm", "dev", "test"}: how many each file has. */
int cyc_data_prepare(const cyc_prepare_request *q, char **json);
/* Instruction-output pairs in the likeness of seeds, written by a teacher: m, with an adapter or NULL. */
typedef struct cyc_synth_request {
    const char *seeds, *field, *field2;     /* a file of prompts and completions or conversations; NULL: its fields are found */
    const char *const *against;             /* evaluation sets that nothing may be of */
    int n_against;
    const char *against_field, *against_field2;
    const char *out;                        /* JSONL of {"instruction", "input", "output", "provenance"}; OUT.card.json and .md tell the rest */
    const char *adapter_name;               /* for the provenance; NULL: none */
    const char *form;                       /* with {examples} in it; NULL: the built-in one */
    int raw;                                /* not in the model's chat template, although it has one */
    int n, most;                            /* pairs wanted; texts asked for at most */
    int examples, max_new_tokens, batch;    /* seeds in a prompt; of a text; texts at once (a part of what the result depends on) */
    double temperature, top_p;
    double likeness;                        /* ROUGE-L, 0 to 1, of an instruction to another, above which it is dropped */
    int least_words, run;                   /* of an instruction; in a row that an evaluation set has too */
    uint64_t seed;
    int threads;
    void *ctx;
    void (*on_round)(void *ctx, int kept, int asked); /* may be NULL */
} cyc_synth_request;
/* The same request gives the same bytes. What was written so far lies in OUT.work: after cyc_stop() (CYC_INTERRUPTED) or a crash the same request
 * goes on there. *json is the card: that of the other data commands, with "against" and "teacher"; "counts" has "asked", "kept" and the reasons. */
int cyc_data_synth(cyc_model *m, cyc_adapter *a, const cyc_synth_request *q, char **json);
/* Evaluates a run's adapters (run_dir/A, run_dir/B; run_dir NULL: the bare base) on the configuration's eval data. */
int cyc_evaluate(cyc_config *c, const char *run_dir, char **json);

/* --- files out ------------------------------------------------------------------------------------------------------- */
enum { CYC_EXPORT_FORCE = 1, CYC_EXPORT_UNCHECKED = 2, CYC_EXPORT_UNDO = 4, CYC_EXPORT_QUANTIZE = 8, CYC_EXPORT_SINGLE_QUANT = 16 };
typedef struct cyc_export_options {
    const char *to;           /* "peft", "gguf-lora", "mlx": the adapter; "hf", "gguf": a model. NULL: "gguf" where out ends so, else "hf" */
    const char *model;        /* the base; NULL: the one that the adapter names */
    const char *model_config; /* a config.json, for the weights random:SEED of a benchmark */
    const char *type;         /* of matrices: "f16", "q8_0", ...; NULL: what loses least */
    const char *out;          /* NULL: FROM/export/TO */
    const char *side;         /* "A" or "B" of a run; NULL: all its adapters, each in a file or folder of its name */
    int64_t max_shard_bytes;  /* of safetensors; 0: 5 GB */
    int flags;                /* CYC_EXPORT_FORCE replaces what is there; CYC_EXPORT_UNCHECKED leaves the check by logits out; CYC_EXPORT_UNDO:
                                 model is a merged one, of plain types, and the adapter is taken off: W - sBA, within the types' rounding;
                                 CYC_EXPORT_QUANTIZE: type is that of the blocks' linear layers ("nf4": a folder as bitsandbytes has it;
                                 GGUF's: a file), and the rest stays; CYC_EXPORT_SINGLE_QUANT: nf4's scales are not quantised */
    const char *like;         /* with CYC_EXPORT_UNDO: the base to compare with; NULL: the one that the adapter names, where it is here */
    const char *const *modules; /* with CYC_EXPORT_QUANTIZE: n_modules of "lm_head=q8_0", "k_proj=none": other types for some */
    size_t n_modules;
    const char *data, *data_field; /* ... texts on which base and result are compared; NULL: not compared on texts */
    int64_t data_tokens;           /* so many tokens of them; 0: 4096 */
    void *ctx;
    void (*on_plan)(void *ctx, const char *json);                  /* what will be written; once for each output */
    void (*on_progress)(void *ctx, size_t done, size_t total);     /* bytes of this output */
    void (*on_done)(void *ctx, const char *json);                  /* it is in place: the plan, with times and check */
} cyc_export_options;
/* Writes the adapters of a run, checkpoint or adapter folder in another form, or merged into their base. from NULL: converts the
 * model alone. Each output appears whole and checked, or not at all: its logits on fixed tokens must be those of base and adapter, as
 * far as its type allows. cyc_stop() ends it (CYC_INTERRUPTED). *json (may be NULL): {"outputs": [...]}, plans, checks, times. */
int cyc_export(const char *from, const cyc_export_options *opt, char **json);
/* A smaller model: blocks, feed-forward channels, heads, columns between blocks left out that count least on texts. */
enum { CYC_PRUNE_TOKENS = 20000 };
typedef struct cyc_prune_options {
    const char *model, *out;
    const char *to, *type;    /* as of cyc_export_options: "hf" or "gguf" */
    int64_t layers, ffn, heads, hidden; /* so many stay; 0: all */
    const char *drop_layers;  /* in place of layers: the blocks that go, "3,7-9" */
    int contiguous;           /* with layers: the blocks that go are neighbours */
    const char *by;           /* of layers: NULL or "block-influence" (1 - cosine of input and output), "perplexity" (without each); of widths "activation" */
    const char *data, *data_field; /* texts to measure on; with drop_layers alone they may be NULL */
    int64_t tokens;           /* measured on at most so many of them, compared on a quarter as many behind those (of fewer: on the last fifth); 0: CYC_PRUNE_TOKENS */
    int64_t max_shard_bytes;  /* as of cyc_export_options, ... */
    int flags;                /* ... CYC_EXPORT_FORCE, CYC_EXPORT_UNCHECKED */
    void *ctx;
    void (*on_measured)(void *ctx, const char *json); /* each block's figure, which go, what part of the activations stays; before anything is written */
    void (*on_plan)(void *ctx, const char *json);     /* as of cyc_export_options */
    void (*on_progress)(void *ctx, size_t done, size_t total);
    void (*on_done)(void *ctx, const char *json);
} cyc_prune_options;
/* Written as cyc_export() writes: whole and checked, or not at all. *json: {"measured": ..., "output": as of cyc_export(), with "likeness", what it has
 * cost on the texts that were held out}. */
int cyc_prune(const cyc_prune_options *opt, char **json);
typedef struct cyc_rework_options {
    const char *how;       /* "resize" (of one LoRA to another rank); of several: "average", "svd", "cat", "linear", "ties", "magnitude_prune", "dare_linear", "dare_ties" */
    const double *weights; /* n_weights of them, one for each adapter; none: 1/n each, of ties and dare_ties 1 each */
    size_t n_weights;
    int rank;              /* of resize and svd; of svd 0: the greatest of the adapters' */
    double density;        /* the part of the numbers that stays, above 0 and at most 1, of ties, magnitude_prune and dare_*; else 0 */
    int sign_by_count;     /* ties, dare_ties: the sign that most have, not that of the sum */
    uint64_t seed;         /* of what dare_* leaves out, and of the new rows of a greater rank */
    const char *base;      /* one name for the base where the adapters have several for it; NULL: they must have one */
    const char *out;       /* the folder to write */
    int force;             /* replaces what is there */
} cyc_rework_options;
/* An adapter of another, or of several, from their folders alone. *json: what was made, by module, and what the rank has cost. */
int cyc_adapter_rework(const char *const *folders, size_t n, const cyc_rework_options *opt, char **json);
/* As cyc_inspect(), of an adapter folder or run against a base: whether it fits. */
int cyc_inspect_on(const char *path, const char *model, char **json);

typedef struct cyc_scores { double bleu, chrf, chrf_pp, exact; } cyc_scores; /* as sacrebleu; 0..100 */
int cyc_score_texts(const char *const *hyp, const char *const *ref, int n, cyc_scores *out);
/* The metrics there are, i from 0 on until CYC_BAD_INPUT, and any of them by name: out[n_metrics], 0..100. */
typedef struct cyc_metric { const char *name, *title, *about; int lower_is_better; } cyc_metric;
int cyc_metric_at(int i, cyc_metric *out);
int cyc_score_metrics(const char *const *metrics, int n_metrics, const char *const *hyp, const char *const *ref, int n, double *out);

#ifdef __cplusplus
}
#endif
#endif
