/* classification: a head that tells the class of a text (gen/head.h), with any method beside it, on texts with labels. The loss is the
 * cross-entropy of the classes at the one row of each text that the head reads.
 *
 * With method none nothing but the head is trained. Then the base's rows are made once and the head trains on those (features.c), unless
 * features.once is false.
 *
 * The classes are known before the adapter's structure is (run.h, open): the head's rows are theirs. */
#include "train/run.h"
#include "base/log.h"
#include "data/class_score.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static err open(struct run *r) {
    struct side *s = &r->side[0];
    const struct strs *given = &r->cfg->labels;
    if (r->model.family->seq2seq) return fail(E_UNSUPPORTED, "%s is an encoder-decoder (%s): classification takes decoders and encoders", r->cfg->model, model_arch(&r->model));
    TRY(data_open(r, s->cfg, WANT_LABELLED, false, &s->source));
    TRY(given->n ? labels_of(given->v, given->n, &r->labels) : labels_collect(&s->source, &r->labels));
    r->head = (struct head){.classes = r->labels.n, .names = r->labels.name};
    r->classes = (struct class_form){&r->labels, head_reads_first(&r->model)};
    r->freezes = !strcmp(s->cfg->method, "none") && r->cfg->features_once;
    return OK;
}

static err held_out_rows(struct run *r, int64_t limit, struct pairs *out) {
    if (limit > 0 && limit < out->source.n) out->source.n = (int)limit;
    TRY(rows_labelled(r->tok, &r->classes, &out->source, (int)r->cfg->max_length, &out->rows[0]));
    if (out->rows[0].longest > r->side[0].longest) r->side[0].longest = out->rows[0].longest;
    source_drop_texts(&out->source);
    return OK;
}

static err load_held_out(struct run *r, const char *path, int64_t limit, struct pairs *out) {
    if (!*path) return OK;
    TRY(source_open(path, WANT_LABELLED, r->cfg->side[0].field, r->cfg->label_field, &out->source));
    return held_out_rows(r, limit, out);
}

static err load(struct run *r) {
    struct side *s = &r->side[0];
    TRY(rows_labelled(r->tok, &r->classes, &s->source, (int)r->cfg->max_length, &s->rows));
    source_drop_texts(&s->source);
    s->longest = s->rows.longest;
    if (s->rows.truncated) log_warn("%s: %d of %d texts were cut to max_length %lld", s->source.path, s->rows.truncated, s->rows.n, (long long)r->cfg->max_length);
    if (r->cfg->eval_split > 0) {
        TRY(data_open(r, s->cfg, WANT_LABELLED, true, &r->eval.source));
        TRY(held_out_rows(r, r->cfg->eval_limit, &r->eval));
    }
    TRY(load_held_out(r, r->cfg->eval_data, r->cfg->eval_limit, &r->eval));
    TRY(load_held_out(r, r->cfg->test_data, r->cfg->test_limit, &r->test));
    if (r->freezes) {
        TRY(features_plan(r));
        s->plans->st.head.features = &r->frozen.table;
    }
    return data_order(r, s, 0);
}

static err step(struct run *r, struct step_info *info) {
    struct side *s = &r->side[0];
    const int n = (int)(s->cfg->batch * s->cfg->accumulation);
    const struct row **rows = malloc((size_t)n * sizeof *rows);
    if (!rows) return fail(E_MEMORY, "out of memory");
    const double t0 = seconds_now();
    err e = data_draw(s, n, rows);
    if (!e) e = learner_step(&s->learner, &r->wb, rows, n, (uint64_t)r->cfg->seed, (uint64_t)r->step, &info->side[0]);
    info->train_s = seconds_now() - t0;
    free(rows);
    return e;
}

/* --- evaluation ---------------------------------------------------------------------------------------------------------- */
/* -log p(truth), and which class is the likeliest (the first of equals). */
static double judge(const float *z, int n, int truth, int *best) {
    double sum = 0;
    *best = 0;
    for (int k = 1; k < n; k++)
        if (z[k] > z[*best]) *best = k;
    for (int k = 0; k < n; k++) sum += exp((double)z[k] - (double)z[*best]);
    return log(sum) + (double)z[*best] - (double)z[truth];
}

static json_t *classes_json(const struct run *r, const struct class_score *each) {
    json_t *list = json_array();
    for (int i = 0; i < r->labels.n; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f, s:I, s:I}", "label", r->labels.name[i], "precision", each[i].precision, "recall", each[i].recall, "f1", each[i].f1,
                                              "support", (json_int_t)each[i].support, "predicted", (json_int_t)each[i].predicted));
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
        json_array_append_new(out, json_pack("{s:s, s:s, s:I}", "label", r->labels.name[list[i].truth], "predicted", r->labels.name[list[i].said], "count", (json_int_t)list[i].n));
    free(list);
    return out;
}

static json_t *side_json(const struct run *r, const struct rows *rows, const float *logits, int64_t *counts, struct class_score *each) {
    const int n = r->labels.n;
    double loss = 0;
    for (int i = 0; i < rows->n; i++) {
        int best;
        const int truth = rows->r[i].label - 1;
        loss += judge(logits + (int64_t)i * n, n, truth, &best);
        counts[(int64_t)truth * n + best]++;
    }
    const struct class_totals all = class_scores(counts, n, each);
    return json_pack("{s:s, s:f, s:f, s:f, s:i, s:o, s:o}", "name", "", "loss", loss / rows->n, "accuracy", all.accuracy, "macro_f1", all.macro_f1, "rows", rows->n, "classes", classes_json(r, each),
                     "confusions", confusions_json(r, counts));
}

static err evaluate(struct run *r, const struct pairs *on, json_t *out) {
    const struct rows *rows = &on->rows[0];
    const struct program *g = &r->side[0].plans->score;
    const size_t n = (size_t)rows->n, classes = (size_t)r->labels.n;
    if (!n) return OK;
    const struct row **list = malloc(n * sizeof *list);
    float *logits = malloc(n * classes * sizeof *logits);
    int64_t *counts = calloc(classes * classes, sizeof *counts);
    struct class_score *each = calloc(classes, sizeof *each);
    err e = list && logits && counts && each ? OK : fail(E_MEMORY, "out of memory");
    for (size_t i = 0; i < n && !e; i++) list[i] = &rows->r[i];
    if (!e) e = rows_outputs(g, &r->wb, r->side[0].learner.w, list, rows->n, g->logits, logits);
    if (!e) json_object_set_new(out, "sides", json_pack("[o]", side_json(r, rows, logits, counts, each)));
    free(list);
    free(logits);
    free(counts);
    free(each);
    return e;
}

const struct objective objective_classification = {.name = "classification", .sides = 1, .classifies = true, .open = open, .load = load, .step = step, .evaluate = evaluate};
