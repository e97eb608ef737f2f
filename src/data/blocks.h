/* The records of a source by the block, for passes that are shared among threads: a block's records are worked on by any of them and then
 * taken in order, so that nothing depends on how many there are. Memory is a block's, whatever the size of the files.
 *
 * Called by data/rows.c, and by what reads whole files record by record (twins.c, overlap.c, filter.c, parts.c, convert.c). */
#ifndef CYC_DATA_BLOCKS_H
#define CYC_DATA_BLOCKS_H
#include "data/source.h"

enum { BLOCK = 512, BLOCK_BYTES = 4 << 20 };
struct block { /* begins as {.s = source} */
    const struct source *s;
    int from, n;            /* the source's records from .. from + n - 1 */
    struct extent x[BLOCK]; /* line; of a streamed source the bytes too, copied out of the reader's window */
    int part[BLOCK];
    str bytes;
    struct fetcher f;
};
err block_next(struct block *b); /* the next one; n is 0 at the end */
/* Its k-th record: *r is own, filled from the bytes, or the source's. Complaints say file:line. */
err block_record(const struct block *b, int k, arena *mem, struct record *own, const struct record **r);
void block_free(struct block *b);

struct visited { /* record i, the k-th (below BLOCK) of its block */
    int i, k;
    const struct source_part *part;
    const struct extent *x; /* its bytes, of a streamed source */
    const struct record *r; /* NULL where it is taken */
};
/* One pass: work on each record, by any thread; then take, in order. Either may be NULL. The first failure in the order of the records ends it. */
struct record_pass {
    const struct source *s;
    err (*work)(void *ctx, const struct visited *v);
    err (*take)(void *ctx, const struct visited *v);
    void *ctx;
};
err records_pass(const struct record_pass *p);

#endif
