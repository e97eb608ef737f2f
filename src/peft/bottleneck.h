/* Bottleneck adapters' settings. */
#ifndef CYC_PEFT_BOTTLENECK_H
#define CYC_PEFT_BOTTLENECK_H
#include "peft/targets.h"

enum bottleneck_init { BOTTLENECK_MAM, BOTTLENECK_BERT, BOTTLENECK_HOULSBY };
enum bottleneck_sum { SUM_NO, SUM_YES, SUM_BY_BASE /* until the base is known: yes, but of a base whose sublayers have norms of their own */ };

/* The names in AdapterHub's files stand behind. */
struct bottleneck {
    const char *name;              /* the adapter's own, a part of its tensors' names */
    bool attention, cross, ffn;    /* mh_adapter, cross_adapter, output_adapter */
    bool parallel;                 /* is_parallel */
    enum bottleneck_sum sum_first; /* original_ln_before */
    const char *activation;        /* non_linearity */
    double factor;                 /* reduction_factor; ... */
    const struct module_value *factors; /* ... of layers of their own, by number; "default": of all others */
    int n_factors;
    double scaling;
    enum bottleneck_init init;     /* init_weights */
    const int *left_out;           /* leave_out: layers, counted through both stacks */
    int n_left_out;
    int64_t width, layers;         /* of the base */
};

#endif
