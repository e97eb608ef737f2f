/* See labels.h. */
#define _GNU_SOURCE
#include "data/labels.h"
#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 16 };

static int by_bytes(const void *a, const void *b, void *names) {
    const char *const *name = names;
    return strcmp(name[*(const int *)a], name[*(const int *)b]);
}

static err index_names(struct labels *l) {
    l->by_name = arena_alloc(&l->mem, (size_t)l->n * sizeof *l->by_name);
    if (!l->by_name) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < l->n; i++) l->by_name[i] = i;
    qsort_r(l->by_name, (size_t)l->n, sizeof *l->by_name, by_bytes, l->name);
    for (int i = 1; i < l->n; i++)
        if (!strcmp(l->name[l->by_name[i - 1]], l->name[l->by_name[i]]))
            return fail(E_USAGE, "the label '%.60s' is there twice", l->name[l->by_name[i]]);
    return OK;
}

static err copy_names(const char *const *name, int n, struct labels *l) {
    if (n < 2)
        return fail(E_USAGE, "%d label%s%s%.60s%s: a classifier needs two classes at least", n, n == 1 ? "" : "s", n == 1 ? " ('" : "",
                    n == 1 ? name[0] : "", n == 1 ? "')" : "");
    l->name = arena_alloc(&l->mem, (size_t)n * sizeof *l->name);
    for (int i = 0; i < n; i++)
        if (!l->name || !(l->name[i] = arena_str(&l->mem, name[i]))) return fail(E_MEMORY, "out of memory");
    l->n = n;
    return index_names(l);
}

err labels_of(const char *const *name, int n, struct labels *out) {
    *out = (struct labels){0};
    err e = copy_names(name, n, out);
    if (e) labels_free(out);
    return e;
}

void labels_free(struct labels *l) {
    arena_free(&l->mem);
    *l = (struct labels){0};
}

/* Where `name` is, or would be, among n in the order of their bytes. */
static int place_of(const char *const *name, const int *order, int n, const char *what) {
    int low = 0;
    while (low < n) {
        const int mid = low + (n - low) / 2;
        if (strcmp(name[order ? order[mid] : mid], what) < 0) low = mid + 1;
        else n = mid;
    }
    return low;
}

int labels_find(const struct labels *l, const char *name) {
    const int at = place_of(l->name, l->by_name, l->n, name);
    return at < l->n && !strcmp(l->name[l->by_name[at]], name) ? l->by_name[at] : -1;
}

err labels_unknown(const struct labels *l, const char *name) {
    str list = {0};
    for (int i = 0; i < l->n && i < 12; i++) str_addf(&list, "%s%.40s", i ? ", " : "", l->name[i]);
    err e = fail(E_INPUT, "label '%.60s' is none of the %d classes (%s%s)", name, l->n, list.p ? list.p : "", l->n > 12 ? ", ..." : "");
    str_free(&list);
    return e;
}

/* --- from the data --------------------------------------------------------------------------------------------------- */
/* As a record's integer label is written: no sign but a minus, no zero in front. */
static bool is_number(const char *s) {
    const char *digits = s + (*s == '-');
    const size_t n = strspn(digits, "0123456789");
    return n && n < 17 && !digits[n] && (*digits != '0' || (n == 1 && digits == s));
}

static int by_number(const void *a, const void *b) {
    const long long x = atoll(*(const char *const *)a), y = atoll(*(const char *const *)b);
    return (x > y) - (x < y);
}

struct found {
    arena mem;
    const char **name; /* in the order of their bytes */
    int n, cap;
};

static err found_add(struct found *f, const char *name) {
    const int at = place_of(f->name, NULL, f->n, name);
    if (at < f->n && !strcmp(f->name[at], name)) return OK;
    if (f->n == MOST) return fail(E_INPUT, "more than %d different labels: is the label's field the right one?", MOST);
    if (f->n == f->cap) {
        const int cap = 2 * f->cap + 16;
        const char **more = realloc(f->name, (size_t)cap * sizeof *more);
        if (!more) return fail(E_MEMORY, "out of memory");
        f->name = more;
        f->cap = cap;
    }
    memmove(f->name + at + 1, f->name + at, (size_t)(f->n - at) * sizeof *f->name);
    f->name[at] = arena_str(&f->mem, name);
    f->n++;
    return f->name[at] ? OK : fail(E_MEMORY, "out of memory");
}

err labels_collect(const struct source *s, struct labels *out) {
    struct found all = {0};
    struct fetcher f = {0};
    struct record r;
    bool numbers = true;
    err e = OK;
    *out = (struct labels){0};
    for (int i = 0; i < s->n && !e; i++) {
        e = source_fetch(s, i, &f, &r);
        for (int k = 0; k < (r.label ? 1 : r.n_words) && !e; k++) e = found_add(&all, r.label ? r.label : r.tags[k]);
    }
    for (int i = 0; i < all.n && !e; i++) numbers &= is_number(all.name[i]);
    if (!e && numbers) qsort(all.name, (size_t)all.n, sizeof *all.name, by_number);
    if (!e) e = labels_of(all.name, all.n, out);
    fetcher_free(&f);
    arena_free(&all.mem);
    free(all.name);
    return e ? fail_in(e, "%s", s->path) : OK;
}
