/* Figures of a classifier from its confusion counts, as scikit-learn has them: accuracy; of each class precision, recall and F1 (0 where
 * the denominator is); macro F1, the mean of F1 over the classes that are in the truth or were predicted. All 0..1. */
#ifndef CYC_DATA_CLASS_SCORE_H
#define CYC_DATA_CLASS_SCORE_H
#include <stdint.h>

struct class_score {
    double precision, recall, f1;
    int64_t support, predicted; /* texts of the class; texts that were said to be of it */
};
struct class_totals { double accuracy, macro_f1; };
/* counts[truth * n + predicted]; each [n]. */
struct class_totals class_scores(const int64_t *counts, int n, struct class_score *each);

#endif
