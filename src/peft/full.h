/* Full fine-tuning's settings. */
#ifndef CYC_PEFT_FULL_H
#define CYC_PEFT_FULL_H
#include "peft/targets.h"

struct full {
    struct targets targets; /* modules whose tensors are trained; TAKE_ALL: all that the family has */
};

#endif
