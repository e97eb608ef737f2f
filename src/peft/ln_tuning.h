/* Norm tuning's settings. */
#ifndef CYC_PEFT_LN_TUNING_H
#define CYC_PEFT_LN_TUNING_H
#include "peft/targets.h"

struct ln_tuning {
    struct targets targets; /* modules of norms; TAKE_NORMS: all */
};

#endif
