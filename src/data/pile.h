/* Keys in any number, given in any order and had back sorted, in bounded memory: what data commands know of each record of a file of any length.
 *
 * Keys are kept in memory up to a number (`most`); then they are sorted and written as a run to a file without a name (spool_open). To read, the runs
 * are merged, each through a window; all windows together take what the keys took. Keys that are few never touch the disk. Whatever `most` is, the
 * order is the same: by hash, equal ones by row.
 *
 * Refused: a disk that is full, or no folder for temporary files (E_IO, which says TMPDIR). Called by twins.c and stats.c. */
#ifndef CYC_DATA_PILE_H
#define CYC_DATA_PILE_H
#include "base/err.h"
#include "data/keys.h"
#include <stdbool.h>

enum { PILE_KEYS = 1 << 20 }; /* 16 MiB */
struct pile_run {             /* sorted keys on disk; `from` .. `to` of the window are those that were read and not yet given */
    int64_t at, left;
    struct key *window;
    size_t from, to;
};
struct pile { /* begins as {.most}; zeroed: {PILE_KEYS} */
    size_t most;
    struct key *key; /* [cap]: those that came last; while it is read, the windows */
    size_t n, cap, next;
    struct pile_run *run;
    int *heap; /* of runs that have keys left, the one with the least on top */
    int runs, cap_runs, in_heap;
    int64_t on_disk;
    int fd; /* where on_disk > 0 */
};
err pile_add(struct pile *p, struct key k);
/* Behind the last key; then pile_next() gives them in order, *more = false behind the last. */
err pile_sort(struct pile *p);
err pile_next(struct pile *p, struct key *k, bool *more);
void pile_free(struct pile *p); /* it may begin again */

#endif
