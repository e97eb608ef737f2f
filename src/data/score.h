/* Scores of texts against references, equal to sacrebleu 2.x with its defaults and one reference per line:
 *   bleu     corpus BLEU, 13a tokenisation, exponential smoothing, 0..100
 *   chrf     chrF2 (character 6-grams, beta 2, whitespace removed), 0..100
 *   chrf_pp  chrF2++: the same with word 2-grams
 *   exact    percentage of lines equal byte for byte
 *
 * A model can write bytes that are not UTF-8: each such byte counts as U+FFFD, so no text is refused. n must be
 * positive. Called by evaluation (train) and by the command line's `score`. */
#ifndef CYC_DATA_SCORE_H
#define CYC_DATA_SCORE_H
#include "base/err.h"

struct scores {
    double bleu, chrf, chrf_pp, exact;
};
err score_texts(const char *const *hyp, const char *const *ref, int n, struct scores *out);

#endif
