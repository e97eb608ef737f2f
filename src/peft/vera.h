/* VeRA's settings. */
#ifndef CYC_PEFT_VERA_H
#define CYC_PEFT_VERA_H
#include "peft/targets.h"

struct vera {
    int r;
    double d_initial, dropout;
    int64_t key; /* of the projections that a fresh adapter gets */
    struct targets targets;
};

#endif
