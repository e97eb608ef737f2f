/* See stats.h. */
#include "data/stats.h"
#include "data/pile.h"
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
    struct pile said; /* hashes of all files' records; their rows are the numbers of the files */
    int files;
};

err stats_open(const struct stats_options *o, struct stats **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return out_of_memory();
    (*out)->o = *o;
    return OK;
}

void stats_close(struct stats *t) {
    if (!t) return;
    pile_free(&t->said);
    free(t->all.count), free(t->one.count);
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
    TRY(pile_add(&t->said, (struct key){row->hash, 0, t->files}));
    TRY(count(&t->one, row, (size_t)t->o.max_length));
    return count(&t->all, row, (size_t)t->o.max_length);
}

/* Records that say what another of these says: of all files, the call's result, and of each file alone. */
static err duplicates(struct pile *said, int64_t *of_file, int64_t *all) {
    struct key last = {.row = -1}, k;
    bool more = true;
    *all = 0;
    TRY(pile_sort(said));
    for (;; last = k) {
        TRY(pile_next(said, &k, &more));
        if (!more) return OK;
        const bool equal = last.row >= 0 && k.low == last.low;
        *all += equal;
        of_file[k.row] += equal && k.row == last.row; /* those of one file stand side by side */
    }
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

static json_t *figures(const struct stats *t, const struct lengths *l) {
    json_t *j = json_pack("{s:I, s:n}", "rows", (json_int_t)l->n, "duplicates");
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
    uint32_t *counts = t->one.count; /* begin again, in the same memory */
    t->one = (struct lengths){.count = counts, .cap = t->one.cap};
    if (counts) memset(counts, 0, t->one.cap * sizeof *counts);
    TRY(rows_visit(t->o.tk, s, t->o.max_length, see, t));
    const struct source_part *p = s->part;
    json_t *j = figures(t, &t->one);
    json_object_update_new(j, json_pack("{s:s, s:s, s:s, s:s, s:I}", "path", p->path, "container", container_name(p->layout.container),
                                        "shape", layout_name(&p->layout), "packing", packings[p->file.packing], "bytes",
                                        (json_int_t)p->file.n));
    json_array_append_new(files, j);
    t->files++;
    return OK;
}

err stats_totals(struct stats *t, json_t *files, json_t **out) {
    int64_t *of_file = calloc((size_t)t->files + 1, sizeof *of_file), all;
    *out = of_file ? figures(t, &t->all) : NULL;
    err e = *out ? duplicates(&t->said, of_file, &all) : out_of_memory();
    for (int i = 0; i < t->files && !e; i++)
        json_object_set_new(json_array_get(files, (size_t)i), "duplicates", json_integer((json_int_t)of_file[i]));
    if (e) json_decref(*out);
    else json_object_set_new(*out, "duplicates", json_integer((json_int_t)all));
    free(of_file);
    return e;
}
