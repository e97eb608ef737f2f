/* (IA)^3's settings. */
#ifndef CYC_PEFT_IA3_H
#define CYC_PEFT_IA3_H
#include "peft/targets.h"

struct ia3 {
    struct targets targets;
    struct module_list inputs; /* of them, those whose input is scaled: PEFT's feedforward_modules */
};

#endif
