/* classification: a head that tells the class of a text (gen/head.h), with any method beside it, on texts with labels. The loss is the
 * cross-entropy of the classes at the one row of each text that the head reads. The classes are the configuration's, or those of the data. */
#include "train/headed.h"
#include <stdlib.h>

static err open(struct run *r) {
    const struct strs *given = &r->cfg->labels;
    TRY(headed_source(r));
    TRY(given->n ? labels_of(given->v, given->n, &r->labels) : labels_collect(&r->side[0].source, &r->labels));
    headed_begin(r, &(struct head){.kind = HEAD_CLASSES, .classes = r->labels.n, .names = r->labels.name}, &(struct class_form){.labels = &r->labels, .first = head_reads_first(&r->base[0].model)});
    return OK;
}

static err make(struct run *r, struct source *from, struct rows *to) { return rows_labelled(r->base[0].tok, &r->classes, from, (int)r->side[0].cfg->max_length, to); }

static err judge(const struct run *r, const struct rows *rows, const float *logits, json_t **side) {
    const int n = r->labels.n;
    int64_t *counts = calloc((size_t)n * (size_t)n, sizeof *counts);
    double loss = 0;
    if (!counts) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < rows->n; i++) {
        int best;
        const int truth = rows->r[i].label - 1;
        loss += headed_nll(logits + (int64_t)i * n, n, truth, &best);
        counts[(int64_t)truth * n + best]++;
    }
    *side = json_pack("{s:s, s:f, s:i}", "name", "", "loss", loss / rows->n, "rows", rows->n);
    err e = headed_classes(r, counts, *side);
    free(counts);
    return e;
}

static const struct heading heading = {{WANT_LABELLED, "texts", make, NULL}, judge};
const struct objective objective_classification = {.name = "classification", HEADED, .open = open, .heading = &heading};
