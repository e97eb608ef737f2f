/* Texts as passes of a program that is not trained: each is cut into rows as long as a pass, rows are laid side by side as far as they
 * fit, and none sees another. In the texts' order, whatever the threads. Called by likeness.c and importance.c. */
#ifndef CYC_GEN_PASSES_H
#define CYC_GEN_PASSES_H
#include "gen/program.h"
#include "io/tokenizer.h"

enum { PASS_TOKENS = 256, PASS_FEWEST = 2 /* tokens of a row */ };

struct text_pass {
    int32_t *ids, *pos, *sample, *cu; /* [n], cu [s + 1] */
    int32_t *label;                   /* the token that follows in its row; 0 of a row's last, ... */
    float *weight;                    /* ... which has weight 0, others 1 */
    int n, s, cap;
};
/* Tokens of a pass and of the longest row: PASS_TOKENS, or the model's context where that is less. */
int pass_tokens(const struct model *m);
struct capacity pass_capacity(const struct model *m); /* in f32 */
err pass_open(struct text_pass *p, int cap);
void pass_close(struct text_pass *p);
struct feed pass_feed(const struct text_pass *p);
/* run() of each pass over up to `most` tokens of n texts; what is left of a row below PASS_FEWEST is not read. stop (may be NULL):
 * E_INTERRUPTED when it becomes non-zero; doing: at what, for that message. */
struct pass_run {
    err (*run)(void *ctx, const struct text_pass *p);
    void *ctx;
    volatile int *stop;
    const char *doing;
};
err passes_run(struct text_pass *p, const struct ids *text, int n, int64_t most, const struct pass_run *r);

#endif
