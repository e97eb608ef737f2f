/* See stats.h. */
#include "data/stats.h"
#include "data/keys.h"
#include "data/rows.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

struct lengths {     /* of one file, or of all */
    uint32_t *count; /* [cap]: records of that many tokens */
    size_t cap;
    int64_t n, tokens, kept, supervised, truncated, unlearnable;
};
struct stats {
    struct stats_options o;
    struct lengths all, one;
    struct key *key; /* of all files' records */
    size_t n, cap;
};

err stats_open(const struct stats_options *o, struct stats **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return out_of_memory();
    (*out)->o = *o;
    return OK;
}

void stats_close(struct stats *t) {
    if (!t) return;
    free(t->all.count), free(t->one.count), free(t->key);
    free(t);
}

/* --- counting -------------------------------------------------------------------------------------------------------- */
static err count(struct lengths *l, const struct row_seen *row, size_t most) {
    if (row->tokens >= l->cap) {
        const size_t cap = row->tokens + row->tokens / 2 + 256;
        uint32_t *p = realloc(l->count, cap * sizeof *p);
        if (!p) return out_of_memory();
        memset(p + l->cap, 0, (cap - l->cap) * sizeof *p);
        l->count = p, l->cap = cap;
    }
    l->count[row->tokens]++;
    l->n++;
    l->tokens += (int64_t)row->tokens;
    l->kept += (int64_t)(row->tokens < most ? row->tokens : most);
    l->supervised += (int64_t)row->supervised;
    l->truncated += row->tokens > most;
    l->unlearnable += !row->supervised;
    return OK;
}

static err see(void *ctx, const struct row_seen *row) {
    struct stats *t = ctx;
    if (row->e) return fail(row->e, "%s", row->wrong);
    if (t->n == t->cap) {
        const size_t cap = 2 * t->cap + 1024;
        struct key *p = realloc(t->key, cap * sizeof *p);
        if (!p) return out_of_memory();
        t->key = p, t->cap = cap;
    }
    t->key[t->n++] = key_of(&row->hash, sizeof row->hash, 0);
    TRY(count(&t->one, row, (size_t)t->o.max_length));
    return count(&t->all, row, (size_t)t->o.max_length);
}

/* Records that say what another of these says. Sorts. */
static json_int_t duplicates(struct key *k, size_t n) {
    json_int_t equal = 0;
    keys_sort(k, n);
    for (size_t i = 0, end; i < n; i = end) end = keys_run(k, n, i), equal += (json_int_t)(end - i) - 1;
    return equal;
}

/* --- figures --------------------------------------------------------------------------------------------------------- */
/* The length of the record that `rank` records are shorter than, or as long as, in order. */
static int at_rank(const struct lengths *l, int64_t rank) {
    size_t i = 0;
    for (int64_t before = 0; i < l->cap; i++)
        if ((before += l->count[i]) > rank) break;
    return (int)i;
}

/* Bins whose bounds are 1, 2, 3, 4, 6, 8, 12, ...: two for each doubling, so that short and long rows are both seen. */
static json_t *histogram(const struct lengths *l) {
    json_t *bins = json_array();
    size_t longest = (size_t)at_rank(l, l->n - 1);
    for (size_t from = 1, to = 1; from <= longest; from = to + 1, to = (to & (to - 1)) ? to / 3 * 4 : to < 2 ? 2 : to / 2 * 3) {
        json_int_t rows = from == 1 && l->cap ? l->count[0] : 0;
        for (size_t i = from; i <= to && i < l->cap; i++) rows += l->count[i];
        if (rows || json_array_size(bins))
            json_array_append_new(bins, json_pack("{s:I, s:I, s:I}", "from", (json_int_t)from, "to", (json_int_t)to, "rows", rows));
    }
    return bins;
}

/* What the usual values of max_length would cut, the longest apart. */
static json_t *cuts(const struct lengths *l) {
    json_t *list = json_array();
    const int longest = at_rank(l, l->n - 1);
    for (int most = 64; most < longest && most < 1 << 20; most *= 2) {
        json_int_t rows = 0, tokens = 0;
        for (size_t i = (size_t)most + 1; i < l->cap; i++)
            rows += l->count[i], tokens += (json_int_t)l->count[i] * (json_int_t)(i - (size_t)most);
        json_array_append_new(list, json_pack("{s:i, s:I, s:I}", "max_length", most, "rows", rows, "tokens", tokens));
    }
    return list;
}

static json_t *figures(const struct stats *t, const struct lengths *l, json_int_t equal) {
    json_t *j = json_pack("{s:I, s:I}", "rows", (json_int_t)l->n, "duplicates", equal);
    if (!t->o.tk || !j) return j;
    json_object_update_new(j, json_pack("{s:I, s:I, s:I, s:I, s:I, s:{s:i, s:i, s:i, s:i}, s:o, s:o}", "tokens", (json_int_t)l->tokens,
                                        "kept", (json_int_t)l->kept, "supervised", (json_int_t)l->supervised, "truncated",
                                        (json_int_t)l->truncated, "unlearnable", (json_int_t)l->unlearnable, "length", "min", at_rank(l, 0),
                                        "median", at_rank(l, (l->n - 1) / 2), "p95", at_rank(l, (l->n - 1) * 95 / 100), "max",
                                        at_rank(l, l->n - 1), "histogram", histogram(l), "cuts", cuts(l)));
    return j;
}

err stats_add(struct stats *t, const struct source *s, json_t *files) {
    static const char *const packings[] = {"none", "gzip", "zstd"};
    const size_t before = t->n;
    uint32_t *counts = t->one.count; /* begin again, in the same memory */
    t->one = (struct lengths){.count = counts, .cap = t->one.cap};
    if (counts) memset(counts, 0, t->one.cap * sizeof *counts);
    TRY(rows_visit(t->o.tk, s, t->o.max_length, see, t));
    const struct source_part *p = s->part;
    json_t *j = figures(t, &t->one, duplicates(t->key + before, t->n - before));
    json_object_update_new(j, json_pack("{s:s, s:s, s:s, s:s, s:I}", "path", p->path, "container", container_name(p->layout.container),
                                        "shape", layout_name(&p->layout), "packing", packings[p->file.packing], "bytes",
                                        (json_int_t)p->file.n));
    json_array_append_new(files, j);
    return OK;
}

err stats_totals(struct stats *t, json_t **out) {
    *out = figures(t, &t->all, duplicates(t->key, t->n));
    return *out ? OK : out_of_memory();
}
