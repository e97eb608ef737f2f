/* Is what was written the model that was trained? A few fixed rows of tokens run through the training graph (base and adapter, f32)
 * before anything is written, and through what was written, reopened from its bytes; the logits of every position are compared.
 *
 * Reported: the worst difference and its place, the mean Kullback-Leibler divergence in nats from the trained model's distribution to the
 * written one's, and how far the adapter moves the base by the same measure: what a type's rounding costs is to be seen against it.
 *
 * Two things fail it. Weights: some rows of every tensor are decoded from what was written, put into one order by what each model says
 * of its own, and compared with base + scale * BA; the error must be one that the type's blocks can make (a wrong order, scale or
 * transposition makes about 1.4 times the row). Logits: rms(written - trained) / rms of the trained logits about their mean must be
 * below check_bound(type), which holds for types of 8 bits and more; below those, rounding alone can change a small model's logits as
 * much as a wrong order does (measured: SmolLM2-135M in Q4_0 0.85, with its heads' rows in the wrong order 1.3). */
#ifndef CYC_EXPORT_CHECK_H
#define CYC_EXPORT_CHECK_H
#include "export/deltas.h"
#include "io/tokenizer.h"
#include <jansson.h>

struct check {
    int32_t *ids, *pos, *cu, *sample;
    int n, s; /* tokens, rows */
    int64_t vocab;
    float *logits;   /* [n, vocab]: the trained model's */
    bool moved;      /* there is an adapter */
    double moved_kl; /* mean, from the trained model's distribution to the bare base's */
    const tokenizer *tok;
    bool runs; /* there is a graph from rows of ids, and nothing else, to logits; known after check_bytes() */
};

/* tok may be NULL: then rows are of ids alone. */
err check_open(struct check *c, const struct model *m, const tokenizer *tok);
void check_close(struct check *c);
/* Bytes that a pass takes, and the logits that are kept. */
err check_bytes(struct check *c, const struct model *m, struct structure *st, size_t *bytes);
/* The reference: base and adapter (st NULL: the base alone). */
err check_reference(struct check *c, const struct model *m, struct structure *st, const float *weights);
/* The same of what was written; E_NUMERIC beyond the bound of type. *report is filled either way. */
err check_written(const struct check *c, const struct model *m, struct structure *st, const float *weights, dtype type, json_t *report);
double check_bound(dtype type); /* HUGE_VAL: none */
/* Every tensor of a written model against the base's with the adapter's delta. d may be NULL. */
err check_weights(const struct model *base, const struct deltas *d, const struct model *written, json_t *report);
err check_head(const struct deltas *d, const struct model *written); /* the head's tensors, beside the model's */
err check_alike(const struct model *like, const struct deltas *d); /* has it the matrices that the adapter changes? */
/* How far what was written, of the same shapes, is from such a model in the matrices that the adapter changes: the worst difference, the differences' size
 * beside the matrices', and how many numbers are the same. Nothing fails it. */
err check_same(const struct model *like, const struct deltas *d, const struct model *written, json_t *report);

#endif
