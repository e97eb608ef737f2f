/* How far a model is from another one of the same vocabulary: the Kullback-Leibler divergence of its next-token distributions from the other's,
 * and both models' perplexity, on the same tokens. What quantisation costs is said so (training, `cyclora quantize`), and what an export
 * has changed (export/check.h uses the distance of one position).
 *
 * Both run as scoring programs on the processor, pass by pass in one memory: the reference's logits of a pass are kept, [PASS, V], then the
 * other's are compared. Texts are cut into rows; every position of a row counts for the divergence, all but its last for the perplexity.
 *
 * Refused: models whose logits need more than a row of ids (encoders, encoder-decoders). */
#ifndef CYC_GEN_LIKENESS_H
#define CYC_GEN_LIKENESS_H
#include "gen/program.h"
#include "io/tokenizer.h"

/* Of one position's logits q from p's, [n]. */
struct distance {
    double kl;                    /* sum of p (log p - log q), in nats */
    double worst, square, spread; /* of the differences: the greatest, squares' sum; of p about its mean: squares' sum */
    int64_t at;                   /* where the greatest is */
    double log_sum[2];            /* of the exponentials of p and of q: less a logit, what that token costs */
    bool same_top;
};
struct distance logits_distance(const float *p, const float *q, int64_t n);

struct likeness {
    int64_t tokens, predicted; /* positions compared; those whose next token is known */
    double kl, kl_worst;       /* mean over positions; the greatest of one */
    double nll[2];             /* mean, of the reference and of the other */
    int64_t same_top;          /* positions at which both have the same first choice */
};

/* Bytes that it takes, beside mapped files: of both models' it forgets each tensor as soon as it has been read. */
err likeness_bytes(const struct model *reference, const struct model *other, size_t *bytes);
/* Of up to `most` tokens of n texts. stop (may be NULL): E_INTERRUPTED when it becomes non-zero. */
err likeness_measure(const struct model *reference, const struct model *other, const struct ids *text, int n, int64_t most,
                     volatile int *stop, struct likeness *out);

#endif
