/* LoRA's settings and what surrounds them: which modules it takes, its adapter_config.json. */
#ifndef CYC_PEFT_LORA_H
#define CYC_PEFT_LORA_H
#include "core/site.h"

enum lora_init { LORA_KAIMING, LORA_GAUSSIAN };

struct lora {
    int r;
    double alpha, dropout;
    enum lora_init init;
    bool all_linear;
    int n_targets;
    const char *const *targets; /* module names or suffixes ("q_proj"); unused when all_linear */
};

/* Does the setting take this linear? PEFT's rule: equal, or ends with "." + target. */
bool lora_targets(const struct lora *l, const struct linear *w);
/* Two adapters share plans and arenas when their structures are equal. */
bool lora_same_structure(const struct lora *a, const struct lora *b);
err lora_check(const struct lora *l);

#endif
