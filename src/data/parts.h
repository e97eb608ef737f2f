/* Records dealt to train, dev and test (`cyclora data split`).
 *
 * Where a record goes is decided by the hash of what it says in its normal form (said.h), or of its group, and by the seed, as in recipes.h; by nothing
 * else, so it stays there when the files grow, equal records are never in two parts, and no group is cut. The folder appears whole or not at all, with
 * train.jsonl, dev.jsonl, test.jsonl (each of those whose share is not 0) and the card, split.card.json and split.card.md. A part that would be empty is
 * refused. Called by api. */
#ifndef CYC_DATA_PARTS_H
#define CYC_DATA_PARTS_H
#include "data/rewrite.h"

struct split_options {
    double dev, test;  /* shares of the records, or of the groups; 0: no such part */
    const char *group; /* NULL, or the field whose value keeps records together */
    uint64_t seed;
};
err data_split(const struct rewriting *w, const struct split_options *o); /* w->out: a folder that does not exist */

#endif
