/* BitFit's settings. */
#ifndef CYC_PEFT_BITFIT_H
#define CYC_PEFT_BITFIT_H
#include "peft/targets.h"

struct bitfit {
    struct targets targets; /* modules whose biases are trained; TAKE_ALL: of all that have one */
};

#endif
