/* Scores by name: the table of metrics.def, and any list of them computed for texts against references.
 *
 * A family of metrics is one function that reads the same thing of the texts and fills its slots; it runs once however many of them are
 * asked for. To add a metric is a row, or a row and a family. Refused: unknown names (with the nearest), no texts, and references that a
 * metric of structured texts cannot read (the row is named); what cannot be read of a hypothesis counts as wrong.
 *
 * Called by evaluation (train) and by api for `cyclora score`. */
#ifndef CYC_DATA_METRICS_H
#define CYC_DATA_METRICS_H
#include "base/err.h"
#include <stdbool.h>

struct scored { /* n lines, terminated strings */
    const char *const *hyp, *const *ref;
    int n;
};
enum { FAMILY_SLOTS = 4 };
struct metric {
    const char *name, *title, *doc;
    err (*family)(const struct scored *in, double *out); /* out[FAMILY_SLOTS] */
    int slot;
    bool lower_is_better;
};
const struct metric *metrics_all(int *n);
const struct metric *metric_find(const char *name); /* NULL: there is none */
err metric_unknown(const char *name);               /* E_USAGE: which there are, and which was meant */
/* out[n_names] in the order of the names; in->n > 0. */
err metrics_score(const char *const *names, int n_names, const struct scored *in, double *out);

err score_ngrams(const struct scored *in, double *out);
err score_ter(const struct scored *in, double *out);
err score_rouge_l(const struct scored *in, double *out);
err score_entities(const struct scored *in, double *out);
err score_triples(const struct scored *in, double *out);
err score_squad(const struct scored *in, double *out);

#endif
