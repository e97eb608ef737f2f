/* P-tuning's settings. */
#ifndef CYC_PEFT_P_TUNING_H
#define CYC_PEFT_P_TUNING_H
#include "peft/soft_prompt.h"

struct p_tuning {
    struct soft_prompt of;
    int64_t hidden; /* of the encoder; 0: the base's width */
    bool trains;    /* the prompt is made by its encoder; else it is there already */
};

#endif
