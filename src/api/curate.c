/* Data files looked at and rewritten: a thin way to data/check.h and its kin. Called by `cyclora data`. */
#include "api/api.h"
#include "data/check.h"
#include "data/convert.h"
#include "data/dedup.h"
#include "data/filter.h"
#include "data/overlap.h"
#include "data/parts.h"
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

/* --- commands that write -------------------------------------------------------------------------------------------- */
/* Opens what is asked for and begins the card. The API's code; asked_close() follows either way. */
static int writing_open(const cyc_rewrite_request *q, const char *command, struct asked *a, struct rewriting *w) {
    const int code = asked_open(&q->data, a);
    *w = (struct rewriting){a->files, a->n, q->out, q->overwrite, card_begin(command, cyc_version())};
    return code ? code : w->card ? CYC_OK : api_code(fail(E_MEMORY, "out of memory"));
}

/* The card as the call's result, or what went wrong. */
static int writing_done(struct asked *a, struct rewriting *w, int code, err e, char **json) {
    if (code || e) json_decref(w->card);
    asked_close(a);
    return code ? code : e ? api_code(e) : api_json(w->card, json);
}

static struct twin_options twin_options(const cyc_near *n) {
    return (struct twin_options){.exact = n->exact,
                                 .threshold = n->threshold,
                                 .permutations = n->permutations,
                                 .shingles = {n->shingle, n->words},
                                 .seed = n->seed};
}

int cyc_data_dedup(const cyc_rewrite_request *q, const cyc_near *near, const char *removed, char **json) {
    struct asked a;
    struct rewriting w;
    const struct twin_options o = twin_options(near);
    int code = writing_open(q, "dedup", &a, &w);
    err e = code ? OK : data_dedup(&w, &o, removed);
    *json = NULL;
    return writing_done(&a, &w, code, e, json);
}

int cyc_data_contamination(const cyc_rewrite_request *q, const cyc_overlap *o, char **json) {
    struct asked a, against = {0};
    struct rewriting w;
    cyc_data_request tests = q->data;
    const struct overlap_options options = {twin_options(&o->near), o->ngram, o->least, o->report, o->limit};
    tests.files = o->against, tests.n_files = o->n_against, tests.model = NULL;
    int code = writing_open(q, "contamination", &a, &w);
    if (!code) code = asked_open(&tests, &against);
    err e = code ? OK : data_overlap(&w, against.files, against.n, &options);
    asked_close(&against);
    *json = NULL;
    return writing_done(&a, &w, code, e, json);
}

int cyc_data_filter(const cyc_rewrite_request *q, const cyc_filter *f, char **json) {
    struct asked a;
    struct rewriting w;
    int code = writing_open(q, "filter", &a, &w);
    const struct filter_options o = {.tk = a.tk,
                                     .min_tokens = f->min_tokens,
                                     .max_tokens = f->max_tokens,
                                     .min_chars = f->min_chars,
                                     .max_chars = f->max_chars,
                                     .min_ratio = f->min_ratio,
                                     .max_ratio = f->max_ratio,
                                     .min_letters = f->min_letters,
                                     .max_repeated = f->max_repeated,
                                     .alphabet = f->alphabet,
                                     .max_foreign = f->max_foreign,
                                     .keep = f->keep,
                                     .n_keep = f->n_keep,
                                     .drop = f->drop,
                                     .n_drop = f->n_drop};
    err e = code ? OK : data_filter(&w, &o);
    *json = NULL;
    return writing_done(&a, &w, code, e, json);
}

int cyc_data_split(const cyc_rewrite_request *q, double dev, double test, const char *group, uint64_t seed, char **json) {
    struct asked a;
    struct rewriting w;
    const struct split_options o = {dev, test, group, seed};
    int code = writing_open(q, "split", &a, &w);
    err e = code ? OK : data_split(&w, &o);
    *json = NULL;
    return writing_done(&a, &w, code, e, json);
}

int cyc_data_convert(const cyc_rewrite_request *q, const char *to, char **json) {
    struct asked a;
    struct rewriting w;
    int code = writing_open(q, "convert", &a, &w);
    err e = code ? OK : data_convert(&w, to);
    *json = NULL;
    return writing_done(&a, &w, code, e, json);
}
