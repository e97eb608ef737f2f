/* What the parts of a decoder are worth on texts, measured where they work. Blocks: how much a run of them turns its rows (ShortGPT's
 * block influence, Men et al., arXiv 2403.03853: the mean over tokens of 1 - cos of a block's input and output; of several blocks in a
 * row, of the first's input and the last's output, as Gromov et al., arXiv 2403.17887, compare them), or the perplexity without them.
 * Widths: the magnitude of what they carry, as Minitron (Muralidharan et al., arXiv 2407.14679) takes it from forward passes alone:
 * its mean over a row's positions, then the L2 norm over rows. That of a feed-forward's channel is |activation| before the down
 * projection; of a key/value head the L2 norm of the attention's output in all the query heads that read it; of a column between
 * blocks |output| of each norm that a block reads through, summed over them.
 *
 * All of the widths and the blocks' influence come of one pass over the texts, by looking at the operands of each instruction as it
 * runs (struct plan_watch): the program is that of features, unchanged. Called by export/prune.c. */
#ifndef CYC_GEN_IMPORTANCE_H
#define CYC_GEN_IMPORTANCE_H
#include "gen/program.h"
#include "io/tokenizer.h"

struct importances {
    arena mem;
    int64_t span, runs; /* blocks in a row, and how many such runs there are: layers - span + 1 */
    int64_t tokens, rows;
    double *block;   /* [runs] influence of the run that begins at this block; 0: it only goes on as before */
    double *channel; /* [layers, F] */
    double *head;    /* [layers, K] */
    double *column;  /* [C] */
};

/* Of up to `most` tokens of n texts. stop (may be NULL): E_INTERRUPTED when it becomes non-zero. */
err importance_measure(const struct model *m, int64_t span, const struct ids *text, int n, int64_t most, volatile int *stop,
                       struct importances *out);
void importance_free(struct importances *x);
/* Mean negative log-likelihood of a token, in nats, over the same rows. */
err nll_measure(const struct model *m, const struct ids *text, int n, int64_t most, volatile int *stop, double *nll);
/* Bytes that either takes. */
err importance_bytes(const struct model *m, int64_t span, size_t *bytes);

#endif
