/* Files to records or to places of records. See source.h.
 *
 * A file is walked once (walk): each record that the split sends this way is parsed into memory, or, streamed, counted
 * and every 16th place kept; when there are too many places, every other one goes, of each file. Whether to stream is decided before, from the files' sizes; a compressed file shows its size
 * only while it is unpacked, so text_file_open() puts it on disk from the same bound on, and what lies there is streamed. */
#define _POSIX_C_SOURCE 200809L
#define XXH_INLINE_ALL
#include "data/source.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

enum { STRIDE = 16, MARKS = 1 << 20 };

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* --- one file ------------------------------------------------------------------------------------------------------- */
/* Is this record on the side that is wanted? */
static bool wanted(const struct source_options *o, const struct extent *x) {
    if (o->split <= 0) return true;
    size_t n = x->n;
    while (n && strchr(" \t\r\n", x->p[n - 1]) && x->p[n - 1]) n--;
    double u = (double)(XXH3_64bits(x->p, n) >> 11) * 0x1p-53;
    return (u < o->split) == o->held_out;
}

/* The next record on the side that is wanted. */
static err next_wanted(struct scanner *s, const struct source_options *o, struct extent *x, bool *found) {
    do TRY(scan_next(s, x, found));
    while (*found && !wanted(o, x));
    return OK;
}

/* Spaces at the beginning of a record that is not blank. */
static size_t spaces(const struct extent *x) {
    size_t i = 0;
    while (x->p[i] == ' ' || x->p[i] == '\t') i++;
    return i;
}

/* To the first record: past the header of a table; an array in a .json file is told by its bracket. */
static err begin(struct source_part *p, const struct source_file *f, arena *mem, struct scanner *s) {
    struct layout *l = &p->layout;
    struct extent x;
    bool found;
    if (l->container == IN_ARRAY && !(f->format && !strcmp(f->format, "json"))) {
        scan_begin(s, &p->file, IN_JSONL);
        TRY(scan_next(s, &x, &found));
        if (found && x.p[spaces(&x)] != '[') l->container = IN_JSONL;
        scan_end(s);
    }
    scan_begin(s, &p->file, l->container);
    if (l->container != IN_CSV && l->container != IN_TSV) return OK;
    TRY(scan_next(s, &x, &found));
    if (!found) return fail(E_INPUT, "%s: holds no records, and no header", p->path);
    err e = layout_columns(l, &x, mem);
    return e ? fail_in(e, "%s:%d", p->path, x.line) : OK;
}

static err grow(void **p, size_t size, int n, int *cap) {
    if (n < *cap) return OK;
    int more = *cap > INT_MAX / 2 ? INT_MAX : *cap * 2 + 64;
    void *q = n == INT_MAX ? NULL : realloc(*p, (size_t)more * size);
    if (!q) return out_of_memory();
    *p = q;
    *cap = more;
    return OK;
}

struct caps {
    int records, marks;
};

static int marks_of(const struct source *s, const struct source_part *p) { return p->n / s->stride + (p->n % s->stride != 0); }

/* Every other mark of each part up to this one goes. */
static void thin(struct source *s, const struct source_part *last) {
    s->marks = 0;
    for (struct source_part *p = s->part; p <= last; p++) {
        for (int i = 1, n = marks_of(s, p); 2 * i < n; i++) p->mark[i] = p->mark[2 * i];
    }
    s->stride *= 2;
    for (const struct source_part *p = s->part; p <= last; p++) s->marks += marks_of(s, p);
}

static err add_mark(struct source *s, struct source_part *p, const struct extent *x, struct caps *cap) {
    const int most = s->opt.marks ? s->opt.marks : MARKS;
    if (p->n % s->stride) return OK;
    if (s->marks >= most && s->stride < 1 << 20) thin(s, p);
    if (p->n % s->stride) return OK;
    TRY(grow((void **)&p->mark, sizeof *p->mark, p->n / s->stride, &cap->marks));
    p->mark[p->n / s->stride] = (struct mark){x->at, x->line};
    s->marks++;
    return OK;
}

static err add_record(struct source *s, struct source_part *p, const struct extent *x, struct caps *cap) {
    if (s->n == INT_MAX) return fail(E_INPUT, "%s: too many records", p->path);
    if (s->streams) TRY(add_mark(s, p, x, cap));
    else {
        TRY(grow((void **)&s->r, sizeof *s->r, s->n, &cap->records));
        TRY(source_read(p, x, &s->texts, &s->r[s->n]));
        s->r[s->n].part = (int)(p - s->part);
    }
    p->n++;
    s->n++;
    return OK;
}

/* The shapes that records have; `first` is the line of the first of each. */
struct votes {
    int n[N_RECORD_SHAPES], first[N_RECORD_SHAPES];
};

static void vote(const struct source *s, const struct source_part *p, const struct extent *x, struct votes *v) {
    struct layout l = p->layout;
    if (layout_find(&l, x, s->opt.want)) return;
    if (!v->n[l.shape]++) v->first[l.shape] = x->line;
}

static void elect(const struct votes *v, struct layout *l) {
    for (int i = 0, most = 0; i < N_RECORD_SHAPES; i++)
        if (v->n[i] > most) most = v->n[i], l->shape = (enum record_shape)i, l->first_line = v->first[i];
}

static err walk(struct source *s, struct source_part *p, const struct source_file *f, struct caps *cap) {
    struct scanner scan = {0};
    struct extent x;
    struct votes votes = {0};
    bool found = true;
    err e = begin(p, f, &s->mem, &scan);
    p->first = s->n;
    cap->marks = 0;
    while (!e && (!f->limit || p->n < f->limit)) {
        e = next_wanted(&scan, &s->opt, &x, &found);
        if (e || !found) break;
        if (s->opt.vote) vote(s, p, &x, &votes);
        else if (!p->n && (e = layout_find(&p->layout, &x, s->opt.want))) fail_in(e, "%s:%d", p->path, x.line);
        if (!e) e = add_record(s, p, &x, cap);
    }
    scan_end(&scan);
    if (s->opt.vote) elect(&votes, &p->layout);
    if (e || p->n) return e;
    if (s->opt.split > 0)
        return fail(E_INPUT, "%s: no record falls on the %s side of a split of %g", p->path, s->opt.held_out ? "held-out" : "training",
                    s->opt.split);
    return fail(E_INPUT, "%s: holds no records (%llu bytes)", p->path, (unsigned long long)p->file.n);
}

/* --- all of them ---------------------------------------------------------------------------------------------------- */
static err name_all(struct source *s, const struct source_file *f, int n) {
    s->path = n == 1 ? s->part[0].path : arena_printf(&s->mem, "%s and %d more", s->part[0].path, n - 1);
    if (!s->path) return out_of_memory();
    for (int i = 0; i < n; i++) memcpy(s->part[i].hash, s->part[i].file.hash, sizeof s->hash);
    if (n == 1 && f->weight == 0 && !f->limit && s->opt.split <= 0) return memcpy(s->hash, s->part[0].hash, sizeof s->hash), OK;
    str all = {0};
    str_addf(&all, "%.17g\n", s->opt.split);
    for (int i = 0; i < n; i++) str_addf(&all, "%s %.17g %lld\n", s->part[i].hash, s->part[i].weight, (long long)f[i].limit);
    if (!all.failed) bytes_hash(all.p, all.n, s->hash);
    err e = all.failed ? out_of_memory() : OK;
    str_free(&all);
    return e;
}

static err add_part(struct source *s, const struct source_file *f, struct source_part *p) {
    p->weight = f->weight > 0 ? f->weight : 1;
    p->path = arena_str(&s->mem, f->path);
    if (!p->path) return out_of_memory();
    TRY(layout_begin(p->path, f->format, s->opt.want, &p->layout));
    p->layout.field = f->field;
    p->layout.given = s->opt.given;
    if (p->layout.given.field && !(p->layout.given.field = arena_str(&s->mem, p->layout.given.field))) return out_of_memory();
    p->layout.field2 = f->field2;
    if (f->field && !(p->layout.field = arena_str(&s->mem, f->field))) return out_of_memory();
    return f->field2 && !(p->layout.field2 = arena_str(&s->mem, f->field2)) ? out_of_memory() : OK;
}

static err start(struct source *s, int n, const struct source_options *opt) {
    *s = (struct source){.opt = *opt, .stride = STRIDE};
    s->part = calloc((size_t)n, sizeof *s->part);
    if (!s->part) return out_of_memory();
    for (int i = 0; i < n; i++) s->part[i].file.fd = -1;
    s->n_parts = n;
    return OK;
}

static uint64_t size_of(const char *path) {
    struct stat st;
    return stat(path, &st) ? 0 : (uint64_t)st.st_size;
}

/* Files that are in memory as records are no longer needed; those that are streamed stay open. */
static err finish(struct source *s, const struct source_file *f, int n, err e) {
    if (!e) e = name_all(s, f, n);
    for (int i = 0; i < n; i++) {
        if (!s->streams) text_file_close(&s->part[i].file);
        s->bytes += (size_t)(s->part[i].n / s->stride + 1) * (s->streams ? sizeof(struct mark) : 0);
        if (s->streams) s->bytes += s->part[i].file.plain.cap;
    }
    struct record *fits = s->streams || !s->n ? NULL : realloc(s->r, (size_t)s->n * sizeof *s->r);
    if (fits) s->r = fits;
    s->bytes += arena_used(&s->mem) + arena_used(&s->texts) + (s->streams ? 0 : (size_t)s->n * sizeof *s->r);
    if (e) source_close(s);
    return e;
}

err source_open_files(const struct source_file *f, int n, const struct source_options *opt, struct source *s) {
    struct caps cap = {0};
    uint64_t total = 0;
    TRY(start(s, n, opt));
    err e = OK;
    for (int i = 0; i < n; i++) total += size_of(f[i].path);
    s->streams = total > opt->in_memory;
    for (int i = 0; i < n && !e; i++) {
        struct source_part *p = &s->part[i];
        e = add_part(s, &f[i], p);
        if (!e) e = text_file_open(p->path, s->streams ? 0 : opt->in_memory, &p->file);
        if (!e) s->streams |= !p->file.p;
    }
    for (int i = 0; i < n && !e; i++) e = walk(s, &s->part[i], &f[i], &cap);
    return finish(s, f, n, e);
}

err source_parse_as(const struct source_file *f, const void *bytes, size_t n, const struct source_options *opt, struct source *s) {
    struct caps cap = {0};
    TRY(start(s, 1, opt));
    err e = add_part(s, f, s->part);
    if (!e) e = text_file_from(s->part->path, bytes, n, opt->in_memory, &s->part->file);
    s->streams = n > opt->in_memory || (!e && !s->part->file.p);
    if (!e) e = walk(s, s->part, f, &cap);
    return finish(s, f, 1, e);
}

err source_parse(const char *path, const void *bytes, size_t n, enum source_want want, const char *field,
                 const char *field2, struct source *s) {
    return source_parse_as(&(struct source_file){.path = path, .field = field, .field2 = field2}, bytes, n,
                           &(struct source_options){.want = want, .in_memory = UINT64_MAX}, s);
}

err source_open(const char *path, enum source_want want, const char *field, const char *field2, struct source *s) {
    return source_open_files(&(struct source_file){.path = path, .field = field, .field2 = field2}, 1,
                             &(struct source_options){.want = want, .in_memory = UINT64_MAX}, s);
}

void source_drop_texts(struct source *s) {
    if (s->streams) return;
    free(s->r);
    s->r = NULL;
    arena_free(&s->texts);
    s->bytes = arena_used(&s->mem);
}

void source_close(struct source *s) {
    for (int i = 0; i < s->n_parts; i++) {
        text_file_close(&s->part[i].file);
        free(s->part[i].mark);
    }
    free(s->part);
    free(s->r);
    arena_free(&s->texts);
    arena_free(&s->mem);
    *s = (struct source){0};
}

bool source_has_turns(const struct source *s) {
    for (int i = 0; i < s->n_parts; i++)
        if (layout_has_turns(&s->part[i].layout)) return true;
    return false;
}

/* --- fetching ------------------------------------------------------------------------------------------------------- */
const struct source_part *source_part_of(const struct source *s, int i) {
    const struct source_part *p = s->part;
    while (i >= p->first + p->n) p++;
    return p;
}

err source_scan(const struct source *s, int i, struct fetcher *f, struct extent *x, const struct source_part **part) {
    const struct source_part *p = source_part_of(s, i);
    int k = i - p->first, which = (int)(p - s->part);
    bool found = true;
    if (!f->next || f->part != which) {
        scan_end(&f->scan);
        scan_begin(&f->scan, &p->file, p->layout.container);
        if (f->window) f->scan.window = f->window;
    }
    if (!f->next || f->part != which || f->next - 1 > k || k - (f->next - 1) >= s->stride) {
        const struct mark *m = &p->mark[k / s->stride];
        scan_seek(&f->scan, m->at, m->line, false);
        f->next = k / s->stride * s->stride + 1;
    }
    f->part = which;
    *part = p;
    for (; f->next - 1 <= k && found; f->next++) TRY(next_wanted(&f->scan, &s->opt, x, &found));
    return found ? OK : fail(E_INPUT, "%s: has fewer records than when the run began: did it change?", p->path);
}

err source_read(const struct source_part *part, const struct extent *x, arena *mem, struct record *r) {
    err e = record_parse(&part->layout, x, mem, r);
    return e ? fail_in(e, "%s:%d", part->path, x->line) : OK;
}

err source_fetch(const struct source *s, int i, struct fetcher *f, struct record *r) {
    struct extent x;
    const struct source_part *p;
    if (s->r) return *r = s->r[i], OK;
    TRY(source_scan(s, i, f, &x, &p));
    arena_free(&f->mem);
    TRY(source_read(p, &x, &f->mem, r));
    r->part = (int)(p - s->part);
    return OK;
}

void fetcher_free(struct fetcher *f) {
    scan_end(&f->scan);
    arena_free(&f->mem);
    *f = (struct fetcher){0};
}
