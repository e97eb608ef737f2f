/* Packing: rows laid end to end as one [N] list of tokens with sequence bounds; nothing is padded, samples never see
 * each other, positions restart. One pack is what one pass of a program takes. Virtual tokens of a method (core/site.h) come in here:
 * they stand before a row, take its first positions and carry no weight.
 *
 * label[i] is the token that position i must predict (the next one of the same row), weight[i] its loss weight; the
 * last position of a row predicts nothing (label 0, weight 0). A row's own weight (rows.h) goes to all its positions that have one. Of a row with a class (rows.h) label is the class and weight 1 at its
 * one supervised position; likewise of one with a class for some of its tokens. Of one with targets label is the row's place in `target`. Invariants: cu[0] = 0, cu[s] = n, last[k] = cu[k+1] - 1,
 * supervised = the sum of weight. Called by train, evaluation and generation (prompts are rows too). */
#ifndef CYC_DATA_PACK_H
#define CYC_DATA_PACK_H
#include "data/rows.h"

struct pack {
    int32_t *ids, *pos, *label, *sample; /* [n] */
    float *weight;                       /* [n] */
    float *target;                       /* [s, targets]: where rows have some, of a pack that pack_targets() gave room for them */
    int targets;
    int32_t *cu;                         /* [s+1] */
    int32_t *last;                       /* [s]: index of each sequence's last token */
    int32_t *src_ids, *src_pos, *src_sample; /* [m]: the encoder's ids of rows that have some (rows.h, source) */
    int32_t *src_cu;                     /* [s+1] */
    int n, s, m;
    int cap_n, cap_s;
    int virtual_tokens; /* before each row, of ids virtual_first, virtual_first + 1, ...: the caller sets them, for the program that takes the pack */
    int32_t virtual_first;
    int given, given_width; /* vectors that come with each row (pack_given); their virtual tokens' ids go on from row to row */
    float *x;               /* [m, given_width] */
    int32_t *x_rows;        /* 0, 1, ... */
    bool lacks;             /* a row had none */
    double supervised; /* sum of weight */
};
err pack_init(struct pack *p, int cap_n, int cap_s);
/* Room for so many vectors a row, of so many numbers: for the program that takes the pack. 0: none. */
err pack_given(struct pack *p, int each, int width);
static inline const float *pack_vectors(const struct pack *p) { return p->lacks ? NULL : p->x; }
err pack_targets(struct pack *p, int targets); /* an empty pack's rows may have so many targets */
void pack_free(struct pack *p);
void pack_clear(struct pack *p);
/* Appends a row if it fits; returns false, having changed nothing, when it does not. A row has at least one token.
 * sample: the row's identity for dropout keys. */
bool pack_row(struct pack *p, const struct row *r, int32_t sample);

/* Slack: tokens up to n as one more sequence that nothing is learnt from, then empty sequences up to s. n and s are at most the
 * capacities; where there is slack in n, s is more than the sequences that are there. */
void pack_pad(struct pack *p, int n, int s);

/* Splits rows, each with virtual_tokens before it, into passes of at most cap_n tokens and cap_s rows, in order: first[i] .. first[i+1]-1
 * are the rows of pass i. Greedy in order (deterministic); a row longer than cap_n is the caller's bug. Returns the number of passes;
 * first has room for n+1. */
int pack_plan(const struct row *const *rows, int n, int virtual_tokens, int cap_n, int cap_s, int *first);

#endif
