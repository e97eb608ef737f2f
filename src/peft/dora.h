/* DoRA: LoRA's delta with the length of each row of the sum trained apart (dora.c). Called by lora.c. */
#ifndef CYC_PEFT_DORA_H
#define CYC_PEFT_DORA_H
#include "core/site.h"

/* The delta of one linear layer. rank 0: it has none, and nothing else is set. */
struct dora {
    int a;                /* the parameter that has A's rows, ... */
    int64_t row0, rank;   /* ... these */
    val b;
    float scale, rate;    /* of B A; of learning (core/params.h) */
};

/* y: the outputs of a group's n layers without their biases, deltas included. Those with a delta become (m / ||W + scale B A||) * y + bias. */
err dora_outputs(struct site *s, int n, const struct dora *d, const struct linear *w, val *y);

#endif
