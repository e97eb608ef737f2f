/* token_classification: a head that tells the class of each word of a text (names, parts of speech), with any method beside it, on words
 * with tags: transformers' token classifier. The loss is the cross-entropy at each word's first token, the mean over all words of a step;
 * other tokens carry none, as in transformers' run_ner. The classes are the configuration's, or those of the data.
 *
 * Evaluation: accuracy over words and, where the classes are tags of spans (B-PER, I-PER, O), precision, recall and F1 of spans
 * (data/span_score.h). Words that have no token or lie beyond max_length are in neither. */
#include "train/headed.h"
#include "data/span_score.h"
#include <stdlib.h>

static err open(struct run *r) {
    const struct strs *given = &r->cfg->labels;
    TRY(headed_source(r));
    TRY(given->n ? labels_of(given->v, given->n, &r->labels) : labels_collect(&r->side[0].source, &r->labels));
    headed_begin(r, &(struct head){.kind = HEAD_TAGS, .classes = r->labels.n, .names = r->labels.name}, &(struct class_form){.labels = &r->labels});
    return OK;
}

static err make(struct run *r, struct source *from, struct rows *to) { return rows_tagged(r->base[0].tok, &r->classes, from, (int)r->side[0].cfg->max_length, to); }

struct tally {
    int64_t *counts; /* [truth * n + said] */
    double loss;
    struct span_counts spans;
};

/* One row's words: how many there are. truth, said: room for as many as the row has tokens. */
static int judge_row(const struct run *r, const struct row *row, const float *logits, int32_t *truth, int32_t *said, struct tally *t) {
    const int classes = r->labels.n;
    int n = 0;
    for (int i = 0; i < row->n; i++) {
        int best;
        if (!row->supervised[i]) continue;
        truth[n] = row->labels[i] - 1;
        t->loss += headed_nll(logits + (int64_t)n * classes, classes, truth[n], &best);
        said[n] = best;
        t->counts[(int64_t)truth[n] * classes + best]++;
        n++;
    }
    spans_count(r->labels.name, truth, said, n, &t->spans);
    return n;
}

static json_t *side_of(const struct run *r, const struct rows *rows, const struct tally *t) {
    json_t *j = json_pack("{s:s, s:f, s:i, s:I}", "name", "", "loss", t->loss / (double)rows->supervised, "rows", rows->n, "words",
                          (json_int_t)rows->supervised);
    const struct span_score s = spans_score(&t->spans);
    if (spans_are_tagged(r->labels.name, r->labels.n))
        json_object_update_new(j, json_pack("{s:f, s:f, s:f, s:I}", "span_precision", s.precision, "span_recall", s.recall, "span_f1", s.f1,
                                            "spans", (json_int_t)t->spans.truth));
    return j;
}

static err judge(const struct run *r, const struct rows *rows, const float *logits, json_t **side) {
    const size_t classes = (size_t)r->labels.n, longest = (size_t)rows->longest;
    struct tally t = {.counts = calloc(classes * classes, sizeof *t.counts)};
    int32_t *tags = malloc(2 * longest * sizeof *tags + 1);
    err e = t.counts && tags ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < rows->n && !e; i++) logits += (size_t)judge_row(r, &rows->r[i], logits, tags, tags + longest, &t) * classes;
    if (!e) e = (*side = side_of(r, rows, &t)) ? headed_classes(r, t.counts, *side) : fail(E_MEMORY, "out of memory");
    free(t.counts);
    free(tags);
    return e;
}

static const struct heading heading = {{WANT_TAGGED, "texts", make, NULL}, judge};
const struct objective objective_token_classification = {.name = "token_classification", HEADED, .open = open, .heading = &heading};
