/* Test records that stand in the training data (`cyclora data contamination`): what a score on them does not measure.
 *
 *   equal   a training record's normal form (said.h) equals the test record's
 *   near    one has a Jaccard similarity of the threshold at least (twins.h), verified by both texts
 *   ngram   so many words in a row of the test record stand in training records, wherever (13 by default, as Brown et al. 2020, appendix C); the share
 *           of the record's n-grams that do is told, and `least` of them must. A record with fewer words has none: it is counted as short, and only
 *           the other two can find it.
 *
 * The test records are indexed in memory: 16 bytes for each, for each of its bands and for each of its words. The training data streams by, so its size
 * costs no memory. Called by api. */
#ifndef CYC_DATA_OVERLAP_H
#define CYC_DATA_OVERLAP_H
#include "data/rewrite.h"
#include "data/twins.h"

struct overlap_options {
    struct twin_options near; /* exact: neither near records nor n-grams are looked for */
    int ngram;                /* 0: none are looked for */
    double least;             /* share of a record's n-grams, 0: one will do */
    const char *report;       /* NULL, or gets every hit as a line */
    int limit;                /* of the hits in the card; 0: all */
};
/* w->files are the training data. w->out, NULL: none, gets the training records that are equal to no test record, near none and share no n-gram with
 * any; then the card is written too. Adds to the card "against" (inputs), counts, "share" and "hits": [{"path", "line", "kind", "train_path",
 * "train_line", "jaccard", "ngrams"}], test records in order, each with the first training record of its strongest kind. */
err data_overlap(const struct rewriting *w, const struct source_file *tests, int n_tests, const struct overlap_options *o);

#endif
