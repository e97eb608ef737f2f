/* Answers to questions that have no text beside them: right, abstained from, or wrong. See questions.c. */
#ifndef CYC_DATA_QUESTIONS_H
#define CYC_DATA_QUESTIONS_H
#include "base/err.h"

enum answered { ANSWERED_RIGHT, ANSWERED_NOT, ANSWERED_WRONG };
struct phrases {
    const char *const *v;
    int n;
};
/* said: what was written; wanted: any of these makes it right; abstains: any of these, where none of those is there, means that no answer was given. */
err answer_judge(const char *said, struct phrases wanted, struct phrases abstains, enum answered *out);
#endif
