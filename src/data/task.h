/* A task that a model is asked to do as it stands: records with a question, and options of which one is right (TASK_CHOICE) or answers
 * that may be written (TASK_WRITE); and how a record becomes a prompt.
 *
 * The names and their meanings are those of EleutherAI's lm-evaluation-harness (lm_eval/api/task.py), so that its YAML of a task over
 * local files serves as it is: doc_to_text, doc_to_choice, doc_to_target, description, target_delimiter, fewshot_delimiter,
 * fewshot_config.sampler, output_type (without it, a task with options is multiple_choice), generation_kwargs (until, max_gen_toks),
 * metric_list's ignore_case and ignore_punctuation, dataset_kwargs.data_files with *_split. A file of records alone is a task too: its
 * fields are then found by their usual names (task_items.c), and all can be said on the command line.
 *
 * doc_to_text and doc_to_target are a field's name or a Jinja template over the record's fields ("Q: {{question}}\nA:"; a field that a
 * record has not is refused); doc_to_choice is a list, a field that holds one, or "{{ an expression }}" that gives one. A target of
 * options is an option's number, from 0, or its text; a template's digits are a number. A target of answers may be a list, any of which is
 * right.
 *
 * Refused, with file:line where there is one: keys that would change the result and are not known (process_docs, filter_list, gen_prefix,
 * ...), Python code, no records, a record that is no object, fewer than two options, options or targets that are no text, a number beyond
 * the options, several right options.
 *
 * data/shots.c makes prompts of it; the api runs them. */
#ifndef CYC_DATA_TASK_H
#define CYC_DATA_TASK_H
#include "base/arena.h"
#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum task_kind { TASK_CHOICE, TASK_WRITE };

/* What the command line says; it goes over the file's. NULL, 0, -1: nothing said. */
struct task_ask {
    const char *path;      /* .yaml or .yml: the harness's; else records: JSONL or a JSON array, plain, .gz or .zst */
    const char *shot_data; /* records to draw examples from */
    const char *text, *choice, *target, *description;
    const char *const *until;
    int n_until, max_new;
    int limit; /* only the first so many records; 0: all */
};

struct item {
    const char *text;
    const char *description;
    const char **choice; /* [n]; of TASK_WRITE: the answers that are right */
    int n, right;        /* right: of TASK_CHOICE */
    const char *record;  /* as JSON with its keys in order: equal records are one */
    const char *path;
    int line;
};
struct items {
    int n, cap;
    struct item *v;
};

struct task {
    arena mem;
    const char *name;
    enum task_kind kind;
    const char *target_delimiter, *shot_delimiter;
    const char **until;
    int n_until, max_new;
    bool first; /* examples are the first of their file (sampler: first_n) */
    bool ignore_case, ignore_punctuation;
    struct items asked, examples; /* examples.n 0: they are drawn from those that are asked */
};
err task_open(const struct task_ask *ask, struct task *t); /* on error nothing is left to close */
void task_close(struct task *t);
static inline const struct items *task_examples(const struct task *t) { return t->examples.n ? &t->examples : &t->asked; }

/* task_items.c: how a file's records become items. */
struct task_reading {
    arena *mem;
    const json_t *text, *choice, *target, *description; /* as the file or the command line has them; NULL: the usual fields */
    bool writes;                                        /* the kind is known to be TASK_WRITE */
};
/* limit 0: all records. What there is after an error lies in mem. */
err task_items(const struct task_reading *r, const char *path, int limit, struct items *out, enum task_kind *kind);

#endif
