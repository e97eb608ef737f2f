/* Batched generation: prompts of any lengths, packed prefill, then one token per live row and step; rows that have ended
 * leave the batch. Greedy or sampled; no dropout exists in these programs. */
#ifndef CYC_GEN_GENERATE_H
#define CYC_GEN_GENERATE_H
#include "gen/program.h"
#include "io/tokenizer.h"

struct generator {
    struct program prefill, decode;
    struct capacity cap;
    int32_t start; /* encoder-decoders: what the decoder begins with */
};
err generator_build(struct generator *g, const struct model *m, struct structure *st, struct capacity cap,
                    const struct backend *backend);
void generator_free(struct generator *g);

struct generation {
    int32_t *ids;   /* without the EOS */
    int n;
    bool stopped;   /* EOS came */
    double logprob; /* of all of them, the EOS too: the sum of their log-probabilities under the model's own distribution */
};
struct generate_request {
    const struct ids *prompt;     /* [n]; each 1..cap.length - max_new tokens */
    const float *given;           /* [n, given * given_width]: of a program with given vectors, else NULL */
    int n;
    int max_new;
    int32_t eos;                  /* -1: never stop */
    const struct crowd *crowd;    /* the rows are several adapters', in their order; then generate()'s weights are NULL. NULL: one's */
    const float *mix;             /* of a structure with members: [n][members], each row's weights; NULL: the structure's */
    int32_t first_sample;         /* identity of row 0 for the sampler's keys */
    struct run_ctx run;
    int (*on_token)(void *ctx, int row, int32_t id); /* non-zero stops the row; may be NULL */
    void *ctx;
    volatile int *stop;           /* E_INTERRUPTED when it becomes non-zero; may be NULL */
};
struct generate_stats { double prefill_s, decode_s; int64_t prompt_tokens, new_tokens, decoded_tokens; };
/* weights: the adapter's f32 arena (NULL: the bare base). out[n]: ids are owned by the caller (free). */
err generate(const struct generator *g, const struct memory *mem, const float *weights, const struct generate_request *rq,
             struct generation *out, struct generate_stats *stats);

double seconds_now(void); /* monotonic */

#endif
