/* Prompt tuning's settings. */
#ifndef CYC_PEFT_PROMPT_TUNING_H
#define CYC_PEFT_PROMPT_TUNING_H
#include "peft/soft_prompt.h"

enum prompt_init { PROMPT_RANDOM, PROMPT_VOCABULARY, PROMPT_TEXT };

struct prompt_tuning {
    struct soft_prompt of;
    enum prompt_init init;
    const char *text;   /* of PROMPT_TEXT */
    int n_ids;          /* ... and its ids, where a configuration has settled them; a folder's numbers are there already */
    const int32_t *ids;
};

#endif
