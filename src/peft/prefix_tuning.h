/* Prefix tuning's settings. */
#ifndef CYC_PEFT_PREFIX_TUNING_H
#define CYC_PEFT_PREFIX_TUNING_H
#include "peft/soft_prompt.h"

struct prefix_tuning {
    struct soft_prompt of;
    bool zero;  /* begins with zeros in place of N(0, 1) */
    bool pairs; /* the base keeps the columns of keys in GGUF's RoPE order */
};

#endif
