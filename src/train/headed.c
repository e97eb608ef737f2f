/* See headed.h. */
#include "train/headed.h"
#include "data/class_score.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

err headed_source(struct run *r) { return data_open(r, r->side[0].cfg, r->objective->heading->rows.want, false, &r->side[0].source); }

void headed_begin(struct run *r, const struct head *h, const struct class_form *form) {
    r->head = *h;
    r->classes = *form;
    r->classes.twice = head_reads_twice(h, &r->base[0].model);
    r->classes.start = r->base[0].model.shape.start;
    r->freezes = !strcmp(r->side[0].cfg->method, "none") && r->cfg->features_once && !r->classes.twice; /* whose frozen part is two stacks: not kept */
}

err headed_load(struct run *r) { return one_side_load(r, &r->objective->heading->rows); }

err headed_figures(struct run *r, const struct rows *rows, json_t **side) {
    const struct program *g = &r->side[0].plans->score;
    const size_t n = (size_t)rows->n, outputs = (size_t)rows->supervised * (size_t)r->head.classes;
    const struct row **list = malloc(n * sizeof *list);
    float *said = malloc(outputs * sizeof *said + 1);
    err e = list && said ? OK : fail(E_MEMORY, "out of memory");
    *side = NULL;
    for (size_t i = 0; i < n && !e; i++) list[i] = &rows->r[i];
    if (!e) e = rows_outputs(g, &r->wb, r->side[0].learner.w, list, rows->n, g->logits, said);
    if (!e) e = r->objective->heading->judge(r, rows, said, side);
    if (e) json_decref(*side), *side = NULL;
    free(list);
    free(said);
    return e;
}

err headed_evaluate(struct run *r, const struct pairs *on, json_t *out) {
    json_t *side;
    if (!on->rows[0].n) return OK;
    TRY(headed_figures(r, &on->rows[0], &side));
    json_object_set_new(out, "sides", json_pack("[o]", side));
    return OK;
}

double headed_nll(const float *z, int n, int truth, int *best) {
    double sum = 0;
    *best = 0;
    for (int k = 1; k < n; k++)
        if (z[k] > z[*best]) *best = k;
    for (int k = 0; k < n; k++) sum += exp((double)z[k] - (double)z[*best]);
    return log(sum) + (double)z[*best] - (double)z[truth];
}

/* --- classes ------------------------------------------------------------------------------------------------------------- */
static json_t *classes_json(const struct run *r, const struct class_score *each) {
    json_t *list = json_array();
    for (int i = 0; i < r->labels.n; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f, s:I, s:I}", "label", r->labels.name[i], "precision", each[i].precision,
                                              "recall", each[i].recall, "f1", each[i].f1, "support", (json_int_t)each[i].support,
                                              "predicted", (json_int_t)each[i].predicted));
    return list;
}

/* The counts that are not zero off the diagonal, the largest first. */
struct mistake { int truth, said; int64_t n; };

static int by_count(const void *a, const void *b) {
    const struct mistake *x = a, *y = b;
    if (x->n != y->n) return x->n < y->n ? 1 : -1;
    return x->truth != y->truth ? x->truth - y->truth : x->said - y->said;
}

static json_t *confusions_json(const struct run *r, const int64_t *counts) {
    const int n = r->labels.n;
    int m = 0, at = 0;
    for (int i = 0; i < n * n; i++) m += counts[i] && i / n != i % n;
    struct mistake *list = malloc((size_t)m * sizeof *list + 1);
    json_t *out = json_array();
    for (int i = 0; list && i < n * n; i++)
        if (counts[i] && i / n != i % n) list[at++] = (struct mistake){i / n, i % n, counts[i]};
    if (list) qsort(list, (size_t)m, sizeof *list, by_count);
    for (int i = 0; list && i < m; i++)
        json_array_append_new(out, json_pack("{s:s, s:s, s:I}", "label", r->labels.name[list[i].truth], "predicted",
                                             r->labels.name[list[i].said], "count", (json_int_t)list[i].n));
    free(list);
    return out;
}

err headed_classes(const struct run *r, const int64_t *counts, json_t *side) {
    struct class_score *each = calloc((size_t)r->labels.n, sizeof *each);
    if (!each) return fail(E_MEMORY, "out of memory");
    const struct class_totals all = class_scores(counts, r->labels.n, each);
    json_object_set_new(side, "accuracy", json_real(all.accuracy));
    json_object_set_new(side, "macro_f1", json_real(all.macro_f1));
    json_object_set_new(side, "classes", classes_json(r, each));
    json_object_set_new(side, "confusions", confusions_json(r, counts));
    free(each);
    return OK;
}
