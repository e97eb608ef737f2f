/* How many records data files have, how long they are as training's rows, and how many say what another says (`cyclora data stats`).
 *
 * One pass over each file, streamed. Kept are a count for each length that occurs, so percentiles and what a max_length would cut are exact, and the
 * records' hashes, for the duplicates, which are sorted in 16 MiB whatever their number (pile.h: 16 bytes each of temporary disk). Duplicates are records that say the same, in whatever file and notation; those that are equal but for case and
 * white space, or nearly, are data/twins.h's matter. Called by api. */
#ifndef CYC_DATA_STATS_H
#define CYC_DATA_STATS_H
#include "data/source.h"
#include "io/tokenizer.h"

struct stats_options {
    const tokenizer *tk; /* NULL: without tokens */
    int max_length;
};
struct stats;
err stats_open(const struct stats_options *o, struct stats **out);
/* Counts a source of one file, and adds to the array `files`: {"path", "container", "shape", "packing", "bytes", "rows", "duplicates"[, "tokens",
 * "kept", "supervised", "truncated", "unlearnable", "length": {"min", "median", "p95", "max"}, "histogram": [{"from", "to", "rows"}], "cuts":
 * [{"max_length", "rows", "tokens"}]]}: rows that would be cut, and the tokens that are lost. Duplicates are null until stats_totals(). */
err stats_add(struct stats *t, const struct source *s, struct json_t *files);
/* All files' figures, as above, and the duplicates of each in `files`. */
err stats_totals(struct stats *t, struct json_t *files, struct json_t **out);
void stats_close(struct stats *t);

#endif
