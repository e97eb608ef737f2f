/* What options cost behind prompts: of each the sum of its tokens' log-probabilities, given the prompt (and the options before it not).
 *
 * A prompt is read once, whatever the number of its options, and what all prompts begin with (the examples of a few-shot task) once for
 * all of them: it goes through MODE_PREFILL into one slot of the cache and is copied to the others, where it stays. A batch of prompts,
 * one to a slot, goes on from there (MODE_EXTEND); then round k takes option k of each (MODE_CONTINUE): its tokens stand behind the prompt
 * at the places where those of round k - 1 stood, so options never see each other, and a batch takes no more memory than its longest
 * option. The last token of a prompt is computed again in each round: it predicts an option's first.
 *
 * The same prompts in the same order give the same bits. Batches are as the caller orders the prompts: those of like lengths should be
 * neighbours. Sums are of f32 figures in double, from the first token on.
 *
 * Refused: encoder-decoders (a prompt is not what stands before an answer there), methods that read vectors beside a prompt, prompts
 * beyond the context. Called by the api. */
#ifndef CYC_GEN_OPTIONS_H
#define CYC_GEN_OPTIONS_H
#include "gen/program.h"
#include "io/tokenizer.h"

struct option_list {
    struct ids prompt; /* at least one */
    int n;
    struct ids *option; /* [n], each at least one */
    double *logprob;    /* [n]: what options_score() fills */
};
struct options_request {
    const struct model *model;
    struct structure *st; /* NULL: the bare base */
    const void *weights;  /* of st, an arena of the backend */
    const struct backend *backend;
    dtype compute;
    struct option_list *v; /* [n] */
    const int *order;      /* [n]: which goes first, ... */
    int n;
    int batch; /* prompts at once */
    int threads;
    volatile int *stop; /* E_INTERRUPTED when it becomes non-zero; may be NULL */
};
struct options_stats {
    int64_t prompt_tokens, option_tokens; /* as they were asked */
    int64_t shared;                       /* tokens that all prompts begin with, computed once */
    size_t bytes;                         /* of activations, cache and scratch */
};
err options_score(const struct options_request *rq, struct options_stats *stats);

#endif
