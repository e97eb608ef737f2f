/* The handles of the public API. Only this room turns them into structs. */
#ifndef CYC_API_API_H
#define CYC_API_API_H
#include "cyclora/cyclora.h"
#include "gen/adapter.h"
#include "gen/generate.h"
#include "train/config.h"

struct cyc_config { struct config c; };

struct cyc_model {
    struct model m;   /* not open for a tokenizer alone */
    tokenizer *tok;
    bool weights;
    const struct backend *backend; /* NULL: the processor */
    dtype compute;                 /* DT_NONE: the backend's own */
};

struct cyc_adapter {
    cyc_model *model;
    arena mem;
    struct structure st;
    float *w; /* an arena of the model's backend */
    struct mixed *mix; /* of several (mix.c); NULL: one from a folder */
};

/* A folder's structure and numbers, which are an arena_f32 of the structure's bytes; what lives on is in mem. What there is after an error
 * is the caller's to free too. */
err api_adapter_read(cyc_model *m, const char *folder, arena *mem, struct structure *st, float **numbers);
/* a->w of these numbers of a->st, which are taken over. */
err api_adapter_place(cyc_adapter *a, float *numbers);
/* Before a run: several adapters as they are to be now; *a becomes NULL where none is on for any row. weight: NULL, or [n][parts] of n rows, as
 * cyc_generate_options has it; *rows are then those of the members that the structure has now, and freed by the caller. */
err api_adapter_ready(cyc_adapter **a, const float *weight, int n, float **rows);
void api_mixed_free(struct mixed *x);

const struct backend *api_backend(const cyc_model *m); /* where it computes */
/* The mean of rows [n, C], of length 1 if wanted. */
void api_mean(const float *rows, int n, int64_t C, bool normalize, float *out);

/* Of options with data: its texts, tokenised, up to data_tokens; n of them in *list, which the caller frees either way. */
err api_read_texts(const cyc_export_options *o, struct ids **list, int *n);

int api_code(err e); /* a library error as the API's return value */
volatile int *api_stop(void); /* what cyc_stop() sets; who saw it sets it back */
struct json_t;
struct row;
/* A row's tokens as JSON: {"from": "file:line", "pieces": [{"text", "id", "supervised"}]}, appended to rows. */
err api_row_json(const tokenizer *tk, const struct row *row, struct json_t *rows);
/* A run's plan with what is asked of the rooms that train does not know: who serves its adapters, what merging them takes. */
struct run;
struct json_t *api_plan_json(struct run *r);
/* Where the adapters of a run or a checkpoint lie: A, B, ... and (of one side) adapter. */
enum { API_FOLDERS = CONFIG_SIDES + 1 };
static inline const char *api_folder(int i) { return i < CONFIG_SIDES ? config_side_name(i) : "adapter"; }
/* A JSON value as an owned string; releases j. */
int api_json(struct json_t *j, char **out);

#endif
