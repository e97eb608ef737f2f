/* Batched generation: prompts of any lengths, packed prefill, then one token per live row and step; rows that have ended
 * leave the batch, and a batch whose rows have all ended is over. More prompts than slots go in batches of like lengths, since texts that are
 * long together mostly end together. Greedy or sampled (struct sampling), or by beams (beams.c); no dropout exists in these programs. */
#ifndef CYC_GEN_GENERATE_H
#define CYC_GEN_GENERATE_H
#include "base/clock.h"
#include "gen/program.h"
#include "ops/ops.h"
#include "io/tokenizer.h"

struct generator {
    struct program prefill, decode;
    struct program extend, copy; /* where prompts may share a head; with that, or beams */
    struct choosing choosing;
    struct capacity cap;
    int32_t start; /* encoder-decoders: what the decoder begins with */
};
err generator_build(struct generator *g, const struct model *m, struct structure *st, struct capacity cap,
                    const struct backend *backend);
/* How: rules where sampling_processes(); beams, cap.slots at most. A head is shared by decoders without virtual tokens, of rows that have the
 * same weights; what follows it attends to cached keys, so that its numbers are other roundings. */
err generator_choosing(struct generator *g, const struct model *m, struct structure *st, struct capacity cap, const struct choosing *how,
                       const struct backend *backend);
void generator_free(struct generator *g);
enum { GENERATOR_PROGRAMS = 4 };
int generator_programs(const struct generator *g, const struct program *out[GENERATOR_PROGRAMS]); /* those that it has */

enum { MOST_BEAMS = 32 };
/* When a prompt's search is over: its beams cannot become better than those that have ended (BEAM_HEURISTIC: if they end here, as
 * transformers' early_stopping false; BEAM_NEVER: however long they get), or as many have ended as there are beams. */
enum early_stopping { BEAM_HEURISTIC, BEAM_EARLY, BEAM_NEVER };
struct beaming {
    float length_penalty; /* a hypothesis is as good as its log-probability over its length to the power of this */
    enum early_stopping stopping;
};

struct generation {
    int32_t *ids;   /* without the EOS */
    int n;
    bool stopped;   /* EOS came */
    double logprob; /* of all of them, the EOS too: the sum of their log-probabilities under the model's own distribution; of beams as the search adds them up (by its rules) */
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
    struct run_ctx run;           /* sampling.eos is set here */
    struct beaming beaming;       /* of a generator with beams */
    int (*on_token)(void *ctx, int row, int32_t id); /* non-zero stops the row; may be NULL. Not called of beams */
    void *ctx;
    volatile int *stop;           /* E_INTERRUPTED when it becomes non-zero; may be NULL */
};
struct generate_stats {
    double prefill_s, decode_s;
    int64_t prompt_tokens, new_tokens, decoded_tokens;
    int64_t runs;          /* of decode */
    int64_t shared_tokens; /* of prompts, copied from another's */
};
/* weights: the adapter's f32 arena (NULL: the bare base). out[n]: ids are owned by the caller (free). */
err generate(const struct generator *g, const struct memory *mem, const float *weights, const struct generate_request *rq,
             struct generation *out, struct generate_stats *stats);

#endif
