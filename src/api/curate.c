/* Data files looked at and rewritten: a thin way to data/check.h and its kin. Called by `cyclora data`. */
#include "api/api.h"
#include "data/check.h"
#include <jansson.h>
#include <stdlib.h>

/* --- what they share ------------------------------------------------------------------------------------------------ */
struct asked { /* a request's files, and the tokenizer where it names one */
    struct source_file *files;
    int n;
    cyc_model *model;
    const tokenizer *tk;
};

static void asked_close(struct asked *a) {
    if (a->model) cyc_model_close(a->model);
    free(a->files);
}

/* Returns the API's code; asked_close() follows either way. */
static int asked_open(const cyc_data_request *q, struct asked *a) {
    *a = (struct asked){.n = q->n_files};
    a->files = calloc((size_t)q->n_files + 1, sizeof *a->files);
    if (!a->files) return api_code(fail(E_MEMORY, "out of memory"));
    for (int i = 0; i < a->n; i++)
        a->files[i] = (struct source_file){.path = q->files[i], .format = q->format, .field = q->field, .field2 = q->field2};
    const int code = q->model ? cyc_tokenizer_open(q->model, &a->model) : CYC_OK;
    a->tk = a->model ? a->model->tok : NULL;
    return code;
}

/* --- check ---------------------------------------------------------------------------------------------------------- */
int cyc_data_check(const cyc_data_request *q, int limit, char **json) {
    struct asked a;
    *json = NULL;
    int code = asked_open(q, &a);
    if (!code) {
        json_t *o = json_object();
        const struct check_options options = {a.tk, q->max_length > 0 ? q->max_length : 1024, limit};
        err e = data_check(a.files, a.n, &options, o);
        if (e) json_decref(o);
        code = e ? api_code(e) : api_json(o, json);
    }
    asked_close(&a);
    return code;
}
