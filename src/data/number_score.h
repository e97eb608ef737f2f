/* Figures of predicted numbers, as scikit-learn and SciPy have them: root mean squared error, mean absolute error, Pearson's correlation,
 * Spearman's (Pearson's of the ranks, equals share the mean of theirs). A correlation with what does not vary is 0 here. */
#ifndef CYC_DATA_NUMBER_SCORE_H
#define CYC_DATA_NUMBER_SCORE_H
#include "base/err.h"

struct number_score { double rmse, mae, pearson, spearman; };
err number_scores(const float *said, const float *truth, int n, struct number_score *out);

#endif
