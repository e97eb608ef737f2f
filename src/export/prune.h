/* A smaller model out of a larger one (cyclora prune): blocks, feed-forward channels, heads or columns between blocks that texts make
 * least of are left out, and what stays is written as export.h writes models. Which go is measured (gen/importance.h) on the first
 * part of the texts; what it has cost, both models' perplexity and their divergence, on the rest, of the model that was written and
 * opened again. Nothing is trained: a pruned model is where distillation begins, no replacement for its base.
 *
 * Blocks go one by one, those that count least; or as one run of neighbours. Widths follow Minitron: everything is measured once, on
 * the whole model, and each block keeps its own channels and heads, all blocks the same columns. Of grouped heads a key/value head
 * goes with all the query heads that read it.
 *
 * Refused: families that model/cut.h does not know; columns of a model whose embeddings are scaled by the width (Gemma); texts too few
 * for a row and a held-out one. Called by api. */
#ifndef CYC_EXPORT_PRUNE_H
#define CYC_EXPORT_PRUNE_H
#include "export/export.h"

struct prune_request {
    struct export_request out; /* base, to, type, out, ...; cut and texts are set here */
    const struct ids *texts;   /* NULL: only of named blocks, which are left out unmeasured */
    int n_texts;
    /* Measured with at most so many of the texts' tokens; a quarter as many that follow are held out, or of fewer the last fifth. */
    int64_t tokens;
    int64_t layers, ffn, heads, width;                      /* so many stay; 0: all */
    const char *drop;                                       /* blocks by number: "3,7-9"; NULL */
    bool contiguous;                                        /* blocks that go are neighbours */
    const char *by;                                         /* "block-influence" (NULL), "perplexity"; of widths "activation" */
    void (*on_measured)(void *ctx, const json_t *measured); /* out.progress.ctx; may be NULL */
};
/* *report: {"measured": what was measured and chosen, "output": export_one()'s}; after an error as far as it came. */
err prune(const struct prune_request *r, json_t **report);

#endif
