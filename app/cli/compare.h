/* The parts of `cyclora compare CONFIG`: which runs there are (compare_cells.c), how they are run and read (compare_run.c), what their
 * completions score (compare_score.c), and what is made of it: the table, Markdown, JSON (compare_out.c) and the plot (plot.c).
 *
 * A cell is one row of the table: the configuration with some settings over it, run once for each seed, each run in a folder and a process
 * of its own. So its peak memory is its own, one that fails is a line of the table, and what is finished is not run again. */
#ifndef CYC_CLI_COMPARE_H
#define CYC_CLI_COMPARE_H
#include "args.h"
#include "base/arena.h"
#include <jansson.h>

enum { MOST_SETS = 16 };

struct cell {
    const char *name;           /* "lora", "full learning_rate=1e-4", "lora r=4 target_modules=mlp" */
    const char *method;         /* as it was named: "dora" */
    const char *set[MOST_SETS]; /* "method=lora", "lora.r=4", ... over the configuration and what --set says */
    int sets;
    double rate;
    const char *rate_from;      /* "usual", "--lr", "own", "configuration" */
    bool swept;                 /* a point of a grid */
    json_t *result;             /* compare_run.c: {"trained", "planned", "measured", "seconds_per_step", "metrics", "runs"[, "error"]} */
};

/* What completions are made with, from the configuration. */
struct scored { const char *data, *model, *device, *dtype, *max_new; };

/* What a metric is called, and which way it is better. */
struct metric { const char *key, *head, *format; double scale; bool lower; };
enum { MOST_SCORES = 16 };

struct comparison {
    arena mem;
    const char *config, *out;  /* the file; the folder that all of it goes to */
    struct arg_list *sets;     /* --set, --device, --dtype: hold for all cells */
    const char *methods;       /* --methods */
    struct arg_list sweeps, rates;
    struct scored scored;
    int seeds, score;          /* score: so many held-out rows are completed, of sft; 0: none */
    bool json;
    long long first_seed;      /* the configuration's */
    bool keeps_features;       /* the configuration names no features.cache: the heads share one here */
    struct cell *cell;
    int n;
    struct metric metric[MOST_SCORES]; /* what any cell has: the usual ones first, then those that only its runs know (compare_out.c) */
    int metrics;
};

/* The cells that the arguments ask for, each checked against the configuration. Returns STATUS_OK, or says what is wrong. */
int cells_make(struct comparison *c);
int words_print(void); /* the names, what they stand for, their learning rates and where those come from */

/* Runs what is not finished, one after the other; fills each cell's result. STATUS_OK also where cells failed. */
int cells_run(struct comparison *c);

/* This program once more; standard output goes to each(ctx, line), standard error to the file `log`. Its exit status;
 * 128 + the signal that ended it. */
int child_run(const char **argv, const char *log, void (*each)(void *ctx, const char *line), void *ctx);

/* Lets the run in `folder` complete held-out prompts greedily, and scores them: {"bleu", "chrf", "exact"}. NULL
 * where there are no prompts with a completion, or the program that writes failed. */
json_t *completions_score(const struct comparison *c, const char *folder);

json_t *comparison_json(const struct comparison *c);
void comparison_print(const struct comparison *c);
int comparison_write(struct comparison *c); /* OUT/compare.md, compare.json, compare.svg */

/* --- plot.c: points with a spread over a logarithmic axis --------------------------------------------------------------- */
struct plot_point { const char *label; double x, y, low, high; int group; bool small; };
struct plot { const char *title, *x_label, *y_label, *note; bool lower; struct plot_point *point; int n; };
void plot_svg(const struct plot *p, str *out);
#endif
