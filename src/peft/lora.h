/* LoRA's settings. */
#ifndef CYC_PEFT_LORA_H
#define CYC_PEFT_LORA_H
#include "peft/targets.h"

enum lora_init { LORA_KAIMING, LORA_GAUSSIAN, LORA_ORTHOGONAL, LORA_PISSA };

enum lora_bias { LORA_BIAS_NONE, LORA_BIAS_OWN /* of the modules with a delta */, LORA_BIAS_ALL };

struct lora {
    int r;
    double alpha, dropout;
    enum lora_init init;
    int pissa;   /* of LORA_PISSA: iterations, or PISSA_SETTLED */
    enum lora_bias bias;
    bool rslora; /* the delta is scaled by alpha / sqrt(r) */
    bool dora;   /* the length of each row of W + BA is trained apart */
    double plus; /* LoRA+: B and all vectors learn so many times as fast as A; 0: as fast (as 1) */
    struct targets targets;
    int n_ranks, n_alphas;
    const struct module_value *ranks, *alphas; /* r and alpha of some modules */
    struct module_list saved; /* whole modules that are trained beside: endings of their names */
};

/* -1, NaN: a pattern cannot be matched (err_text() says which). */
int lora_rank(const struct lora *l, const char *module);
double lora_scale(const struct lora *l, const char *module); /* of the product B A */
/* orthogonal.c: an A and a B whose product is zero (core/params.h, param_maker) */
err lora_orthogonal_a(const struct param_slice *s, int64_t columns, uint64_t key, float *rows);
err lora_orthogonal_b(const struct param_slice *s, int64_t columns, uint64_t key, float *rows);

#endif
