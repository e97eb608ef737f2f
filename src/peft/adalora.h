/* AdaLoRA's settings. */
#ifndef CYC_PEFT_ADALORA_H
#define CYC_PEFT_ADALORA_H
#include "peft/targets.h"

/* Which of a module's triplets are left in a finished adapter (rank_pattern). */
struct kept {
    const char *module;
    const bool *yes; /* [init_r] */
    int rank;        /* how many */
};

struct adalora {
    int init_r, target_r;
    double alpha, dropout, beta1, beta2, orthogonal;
    int64_t first, last, every, total; /* tinit, tfinal, deltaT, total_step */
    struct targets targets;
    int n_kept;
    const struct kept *kept; /* by module; where a module has none all its triplets are there */
};

#endif
