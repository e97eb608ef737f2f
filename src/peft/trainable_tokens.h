/* Trainable tokens' settings. */
#ifndef CYC_PEFT_TRAINABLE_TOKENS_H
#define CYC_PEFT_TRAINABLE_TOKENS_H
#include "peft/targets.h"

struct trainable_tokens {
    int n;
    const int32_t *ids;     /* in the order of the file's rows; each once */
    struct targets targets; /* the table that a file names; none: the token table, which alone is possible */
};

#endif
