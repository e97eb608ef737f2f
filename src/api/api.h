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
};

const struct backend *api_backend(const cyc_model *m); /* where it computes */

int api_code(err e); /* a library error as the API's return value */
volatile int *api_stop(void); /* what cyc_stop() sets; who saw it sets it back */
struct json_t;
struct row;
/* A row's tokens as JSON: {"from": "file:line", "pieces": [{"text", "id", "supervised"}]}, appended to rows. */
err api_row_json(const tokenizer *tk, const struct row *row, struct json_t *rows);
/* A JSON value as an owned string; releases j. */
int api_json(struct json_t *j, char **out);

#endif
