/* LLaMA-Adapter's settings. */
#ifndef CYC_PEFT_ADAPTION_PROMPT_H
#define CYC_PEFT_ADAPTION_PROMPT_H
#include "core/site.h"

struct adaption_prompt {
    int len;            /* rows of a prompt */
    int64_t layers;     /* the topmost so many have one; 0, until the base is known: all */
    int64_t first;      /* ... which are those from here on */
    bool behind;        /* what the prompt gives is added behind the output projection, not before it (GPT-2) */
};

#endif
