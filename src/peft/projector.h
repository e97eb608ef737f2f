/* The projector's settings. */
#ifndef CYC_PEFT_PROJECTOR_H
#define CYC_PEFT_PROJECTOR_H
#include "peft/soft_prompt.h"

struct projector {
    struct soft_prompt of; /* a virtual token for each vector */
    int width;             /* numbers of a vector */
    bool mlp;              /* Linear, GELU, Linear; else Linear alone */
};

#endif
