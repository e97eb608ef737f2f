/* See pile.h. */
#include "data/pile.h"
#include "base/file.h"
#include <stdlib.h>
#include <unistd.h>

static const char WHAT[] = "hashes of records";

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

static size_t most_of(const struct pile *p) { return p->most ? p->most : PILE_KEYS; }

/* --- writing --------------------------------------------------------------------------------------------------------- */
static err reserve(struct pile *p, size_t cap) {
    struct key *key = realloc(p->key, cap * sizeof *key);
    if (!key) return out_of_memory();
    p->key = key, p->cap = cap;
    return OK;
}

/* The keys in memory become a run. */
static err spill(struct pile *p) {
    if (p->runs == p->cap_runs) {
        const int cap = 2 * p->cap_runs + 16;
        struct pile_run *run = realloc(p->run, (size_t)cap * sizeof *run);
        if (!run) return out_of_memory();
        p->run = run, p->cap_runs = cap;
    }
    if (!p->on_disk) TRY(spool_open(WHAT, &p->fd));
    keys_sort(p->key, p->n);
    p->run[p->runs++] = (struct pile_run){.at = p->on_disk, .left = (int64_t)p->n};
    p->on_disk += (int64_t)p->n;
    TRY(spool_write(WHAT, p->fd, (uint64_t)(p->on_disk - (int64_t)p->n) * sizeof *p->key, p->key, p->n * sizeof *p->key));
    p->n = 0;
    return OK;
}

err pile_add(struct pile *p, struct key k) {
    const size_t most = most_of(p), more = 2 * p->cap + 1024;
    if (p->n == most) TRY(spill(p));
    if (p->n == p->cap) TRY(reserve(p, more < most ? more : most));
    p->key[p->n++] = k;
    return OK;
}

/* --- reading --------------------------------------------------------------------------------------------------------- */
static const struct key *first_of(const struct pile *p, int at) {
    const struct pile_run *r = &p->run[p->heap[at]];
    return &r->window[r->from];
}

/* The entry at `at` goes down to where none below it is less. */
static void sink(struct pile *p, int at) {
    for (int least = at;; at = least) {
        for (int below = 2 * at + 1; below <= 2 * at + 2 && below < p->in_heap; below++)
            if (key_compare(first_of(p, below), first_of(p, least)) < 0) least = below;
        if (least == at) return;
        const int run = p->heap[at];
        p->heap[at] = p->heap[least], p->heap[least] = run;
    }
}

static err refill(struct pile *p, struct pile_run *r) {
    const size_t room = p->cap / (size_t)p->runs, n = r->left < (int64_t)room ? (size_t)r->left : room;
    TRY(spool_read(WHAT, p->fd, (uint64_t)r->at * sizeof *r->window, r->window, n * sizeof *r->window));
    r->at += (int64_t)n, r->left -= (int64_t)n;
    r->from = 0, r->to = n;
    return OK;
}

err pile_sort(struct pile *p) {
    if (!p->runs) return keys_sort(p->key, p->n), OK;
    if (p->n) TRY(spill(p));
    if (p->cap < (size_t)p->runs) TRY(reserve(p, (size_t)p->runs));
    p->heap = malloc((size_t)p->runs * sizeof *p->heap);
    if (!p->heap) return out_of_memory();
    for (int i = 0; i < p->runs; i++) {
        p->run[i].window = p->key + (size_t)i * (p->cap / (size_t)p->runs);
        TRY(refill(p, &p->run[i]));
        p->heap[i] = i;
    }
    p->in_heap = p->runs;
    for (int i = p->runs / 2; i-- > 0;) sink(p, i);
    return OK;
}

err pile_next(struct pile *p, struct key *k, bool *more) {
    *more = p->runs ? p->in_heap > 0 : p->next < p->n;
    if (!*more) return OK;
    if (!p->runs) return *k = p->key[p->next++], OK;
    struct pile_run *r = &p->run[p->heap[0]];
    *k = r->window[r->from++];
    if (r->from == r->to && r->left) TRY(refill(p, r));
    if (r->from == r->to) p->heap[0] = p->heap[--p->in_heap];
    sink(p, 0);
    return OK;
}

void pile_free(struct pile *p) {
    if (p->on_disk) close(p->fd);
    free(p->key), free(p->run), free(p->heap);
    *p = (struct pile){.most = p->most};
}
