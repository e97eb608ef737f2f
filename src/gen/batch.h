/* What generate.c and beams.c share: one batch's lines on their way through prefill and decode. Nobody else includes this. */
#ifndef CYC_GEN_BATCH_H
#define CYC_GEN_BATCH_H
#include "gen/generate.h"

/* One generation: what it runs on, and what is asked. Rows of the request go through in `order`, those at from .. to - 1 of it at once; the
 * row at place k has the slots from (k - from) * beams on. */
struct generating {
    const struct generator *g;
    const struct memory *mem;
    void *param;
    const struct generate_request *rq;
    const int *order; /* [rq->n] */
    int from, to;
    int shared; /* ids that all its prompts begin with and that are there already */
    struct batch *b;
    struct generation *out;
    struct generate_stats *stats;
};

/* The inputs of one run and the rows behind them. One allocation serves prefill and decode. */
struct batch {
    int32_t *ids, *pos, *slot, *cu, *rows, *sample, *last_pos, *begin, *copied_from;
    int32_t *next; /* what a run gave: of each line ids, then the bits of their log-probabilities */
    int32_t *src_ids, *src_pos, *src_slot, *src_sample, *src_cu, *src_last; /* encoder-decoders */
    float *given; /* vectors beside the prompts, and 0, 1, ... */
    int32_t *given_rows;
    int *live; /* decode: place in the order of each live line */
    float *mix, *src_mix; /* where a request has weights of its own */
    int members;
    struct adapters adapters; /* where the request is several's: whose the rows of the next run are */
    int copies; /* positions in copied_from, slot, pos that are to be copied */
    void *all;
};

int generate_beams(const struct generator *g); /* slots of one row; 1: no beams */
/* Adds the prompts at `place` and behind it, as many as fit a pass, and runs generate_opens(): what it gives is one line for each. *s: how many. */
const struct program *generate_opens(const struct generating *w);
err generate_pass(const struct generating *w, int place, int *n, int *s);
/* Line i of the next decode run: the row at `place`, whose token number `made` (from 1) is id, in this slot. */
void generate_line(const struct generating *w, int i, int place, int32_t id, int made, int slot);
/* Lines beyond the n that are filled, up to a size that has been recorded, repeat the last and are not listened to. Returns that size. */
int generate_lines(const struct generating *w, int n);
struct feed generate_feed(const struct batch *b, int lines); /* of decode */
int generate_begins(const struct generating *w, int row);    /* the position of its answer's first token */

/* Positions pos .. end - 1 of slot `from` are to be slot `to`'s too; they are when the others have run. Uses the lines of the next pass. */
err generate_copy(const struct generating *w, int from, int to, int pos, int end);
err generate_copies(const struct generating *w);

/* beams.c: the rows from .. to, by beams. */
err beams_run(const struct generating *w);

#endif
