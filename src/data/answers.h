/* Whether a text that was written is an answer: the lm-evaluation-harness's exact_match, which takes texts as they are (white space too),
 * or without case and ASCII punctuation. SQuAD's ways are metrics (metrics.def: squad_em, squad_f1). Called by the api. */
#ifndef CYC_DATA_ANSWERS_H
#define CYC_DATA_ANSWERS_H
#include "base/err.h"
#include <stdbool.h>

err answer_equal(const char *text, const char *answer, bool ignore_case, bool ignore_punctuation, bool *equal);

#endif
