/* regression: a head that tells a number of a text, or several, with any method beside it, on texts with numeric labels: transformers'
 * sequence classifier of problem_type "regression". The loss is the mean squared error. How many numbers there are the first record says;
 * all others must have as many. Numbers are learnt as they are: a target of thousands wants scaling by whoever makes the data. */
#include "train/headed.h"
#include "data/number_score.h"
#include <math.h>
#include <stdlib.h>

static err open(struct run *r) {
    struct fetcher f = {0};
    struct record first;
    TRY(headed_source(r));
    if (r->cfg->labels.n) return fail(E_USAGE, "'labels' has no use with objective regression: its labels are numbers");
    err e = source_fetch(&r->side[0].source, 0, &f, &first);
    if (!e) headed_begin(r, &(struct head){.kind = HEAD_NUMBERS, .classes = first.n_numbers}, &(struct class_form){.first = head_reads_first(&r->base[0].model), .numbers = first.n_numbers});
    fetcher_free(&f);
    return e;
}

static err make(struct run *r, struct source *from, struct rows *to) { return rows_labelled(r->base[0].tok, &r->classes, from, (int)r->side[0].cfg->max_length, to); }

static json_t *number_json(const struct number_score *s) {
    return json_pack("{s:f, s:f, s:f, s:f}", "rmse", s->rmse, "mae", s->mae, "pearson", s->pearson, "spearman", s->spearman);
}

/* Errors over all numbers; correlations of each, and their mean. */
static err judge(const struct run *r, const struct rows *rows, const float *said, json_t **side) {
    const int k = r->head.classes;
    const size_t n = (size_t)rows->n;
    float *have = malloc(n * sizeof *have), *want = malloc(n * sizeof *want);
    struct number_score mean = {0};
    json_t *each = json_array();
    double squares = 0;
    err e = have && want && each ? OK : fail(E_MEMORY, "out of memory");
    for (int c = 0; c < k && !e; c++) {
        struct number_score s;
        for (size_t i = 0; i < n; i++) have[i] = said[i * (size_t)k + (size_t)c], want[i] = rows->r[i].target[c];
        e = number_scores(have, want, rows->n, &s);
        if (e) break;
        squares += s.rmse * s.rmse / k;
        mean.mae += s.mae / k;
        mean.pearson += s.pearson / k;
        mean.spearman += s.spearman / k;
        json_array_append_new(each, number_json(&s));
    }
    mean.rmse = sqrt(squares);
    if (!e) *side = json_pack("{s:s, s:f, s:i}", "name", "", "loss", squares, "rows", rows->n);
    if (!e) json_object_update_new(*side, number_json(&mean));
    if (!e && k > 1) json_object_set(*side, "numbers", each);
    json_decref(each);
    free(have);
    free(want);
    return e;
}

static const struct heading heading = {{WANT_NUMBERED, "texts", make, NULL}, judge};
const struct objective objective_regression = {.name = "regression", HEADED, .open = open, .heading = &heading};
