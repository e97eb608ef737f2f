/* See twins.h. One pass over the records piles up their hashes and writes the bands' as columns; then the records' hashes, and those of the bands one
 * after the other, are had sorted: equal records and candidates come to stand in runs. What is found are pairs, which are sorted by the record that goes
 * (deciding needs what was decided of those before it), by what stays (joining, counting) and again by what goes (writing). */
#define _POSIX_C_SOURCE 200809L /* close */
#include "data/twins.h"
#include "base/file.h"
#include "data/bits.h"
#include "data/blocks.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LEADERS = 32, COLUMN = 4096, TRIED = 1 << 16, PART = 1 << 21, WAYS = 8, KNOWN = 1 << 22, DECIDED = 4096 };
static const char WHAT[] = "hashes of records";

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

struct decided {       /* records that go by likeness, by row: on disk but for the last ones */
    struct twin *last; /* [DECIDED] */
    int n, before;     /* in `last`, and on disk */
    int fd;
};
struct known { /* 1 + a record, and the last leader that it was found near */
    int32_t row, of;
};
struct run { /* of records with one hash in common, in order */
    uint64_t low;
    uint32_t high;
    int32_t leader[LEADERS];
    int leaders;
    int64_t others; /* that would have been leaders too */
};
struct finding {
    const struct source *s;
    const struct twin_options *o;
    struct minhash hash;
    struct bands bands;
    struct key *whole; /* [BLOCK] of this block's records */
    uint64_t *mine;    /* [BLOCK][bands] */
    int fd, written;   /* the spool: column after column, each of all records; the first `written` of each are there */
    uint64_t *column;  /* [bands][COLUMN]: what comes after those */
    int waiting;
    struct pile keys;  /* of whole records, then of a band */
    struct pile equal; /* low: pair_of(stays, goes) */
    struct pile near;  /* low: pair_of(goes, stays), high: the similarity; of pairs that are */
    struct pile gone;  /* likewise, of each record that goes, with what stays in its place */
    struct pile stays; /* likewise, but pair_of(stays, goes) */
    uint64_t *goes;    /* a bit for each record */
    struct decided by_likeness;
    struct run run;
    struct set_reader sets;
    uint64_t *tried;     /* [TRIED]: pairs that were compared and are not near */
    struct known *known; /* [buckets][WAYS]: the newest first */
    int buckets;
    int n_equal;
    int64_t verified, left_out;
};

static uint64_t pair_of(int32_t a, int32_t b) { return (uint64_t)a << 32 | (uint32_t)b; }
static int32_t first_of(struct key k) { return (int32_t)(k.low >> 32); }
static int32_t second_of(struct key k) { return (int32_t)k.low; }
static struct key key_of_pair(int32_t a, int32_t b, float jaccard) {
    struct key k = {.low = pair_of(a, b)};
    memcpy(&k.high, &jaccard, sizeof k.high);
    return k;
}
static float jaccard_of(struct key k) {
    float jaccard;
    memcpy(&jaccard, &k.high, sizeof jaccard);
    return jaccard;
}

/* --- columns ---------------------------------------------------------------------------------------------------------- */
static err sign(const struct finding *f, const str *normal, uint64_t *bands) {
    struct hashes set = {0};
    uint32_t signature[PERMUTATIONS_MOST];
    err e = shingle_hashes(&f->o->shingles, normal->p, normal->n, &set);
    if (!e) minhash_sign(&f->hash, &set, signature);
    for (int b = 0; !e && b < f->bands.n; b++) bands[b] = band_hash(f->bands, signature, b);
    hashes_free(&set);
    return e;
}

static err hash_record(void *ctx, const struct visited *v) {
    struct finding *f = ctx;
    str normal = {0};
    err e = said(v->r, &normal);
    if (!e) f->whole[v->k] = key_of(normal.p, normal.n, v->i);
    if (!e && !f->o->exact) e = sign(f, &normal, f->mine + (size_t)v->k * (size_t)f->bands.n);
    str_free(&normal);
    return e;
}

static uint64_t place_of(const struct finding *f, int band, int row) {
    return ((uint64_t)band * (uint64_t)f->s->n + (uint64_t)row) * sizeof(uint64_t);
}

static err write_columns(struct finding *f) {
    for (int b = 0; b < f->bands.n; b++)
        TRY(spool_write(WHAT, f->fd, place_of(f, b, f->written), f->column + (size_t)b * COLUMN, (size_t)f->waiting * sizeof *f->column));
    f->written += f->waiting;
    f->waiting = 0;
    return OK;
}

static err keep_hashes(void *ctx, const struct visited *v) {
    struct finding *f = ctx;
    const uint64_t *mine = f->mine + (size_t)v->k * (size_t)f->bands.n;
    for (int b = 0; b < f->bands.n; b++) f->column[(size_t)b * COLUMN + (size_t)f->waiting] = mine[b];
    TRY(pile_add(&f->keys, f->whole[v->k]));
    return ++f->waiting == COLUMN ? write_columns(f) : OK;
}

static err hash_all(struct finding *f) {
    if (!f->o->exact) TRY(spool_open(WHAT, &f->fd));
    TRY(records_pass(&(struct record_pass){f->s, hash_record, keep_hashes, f}));
    return write_columns(f);
}

/* A band's keys, of records that stay so far. */
static err pile_band(struct finding *f, int band) {
    for (int from = 0, rows; from < f->s->n; from += rows) {
        rows = f->s->n - from < COLUMN ? f->s->n - from : COLUMN;
        TRY(spool_read(WHAT, f->fd, place_of(f, band, from), f->column, (size_t)rows * sizeof *f->column)); /* written by now */
        for (int i = 0; i < rows; i++)
            if (!bit_of(f->goes, from + i)) TRY(pile_add(&f->keys, (struct key){f->column[i], 0, from + i}));
    }
    return OK;
}

/* Sorts the keys, calls `take` for each, with an empty run where another hash begins, and leaves them empty. */
static err each_run(struct finding *f, err (*take)(struct finding *f, int32_t row)) {
    struct key k;
    bool more = true;
    f->run = (struct run){0};
    TRY(pile_sort(&f->keys));
    for (;;) {
        TRY(pile_next(&f->keys, &k, &more));
        if (!more) break;
        if (k.low != f->run.low || k.high != f->run.high) f->run = (struct run){.low = k.low, .high = k.high};
        TRY(take(f, k.row));
    }
    pile_free(&f->keys);
    return OK;
}

static err take_equal(struct finding *f, int32_t row) {
    struct run *r = &f->run;
    if (!r->leaders) return r->leader[r->leaders++] = row, OK;
    bit_set(f->goes, row);
    f->n_equal++;
    return pile_add(&f->equal, key_of_pair(r->leader[0], row, 1));
}

/* --- sets ------------------------------------------------------------------------------------------------------------ */
static err read_set(struct set_reader *r, int32_t row, struct hashes *set) {
    struct record record;
    str normal = {0};
    r->f.window = 1 << 14;
    TRY(source_fetch(r->s, row, &r->f, &record));
    err e = said(&record, &normal);
    if (!e) e = shingle_hashes(r->k, normal.p, normal.n, set);
    if (!e) hashes_to_set(set);
    str_free(&normal);
    return e;
}

/* Long ones take the place of `own`, so that what is kept stays small. */
err set_read(struct set_reader *r, int32_t row, const struct hashes **set) {
    const int at = row % SETS_KEPT;
    if (r->row[at] == row + 1) return *set = &r->set[at], OK;
    TRY(read_set(r, row, &r->own));
    *set = &r->own;
    if (r->own.n > 8192) return OK;
    const struct hashes old = r->set[at];
    r->set[at] = r->own;
    r->own = old;
    r->row[at] = row + 1;
    *set = &r->set[at];
    return OK;
}

void set_reader_free(struct set_reader *r) {
    for (int i = 0; i < SETS_KEPT; i++) hashes_free(&r->set[i]);
    hashes_free(&r->own);
    fetcher_free(&r->f);
}

/* --- bands ----------------------------------------------------------------------------------------------------------- */
/* Was the record found near this leader, and no other since? */
static bool is_known(struct finding *f, int32_t row, int32_t leader) {
    struct known *bucket = f->known + (size_t)(row % f->buckets) * WAYS;
    for (int i = 0; i < WAYS; i++)
        if (bucket[i].row == row + 1) return bucket[i].of == leader;
    return false;
}

/* The place of the record, or of the oldest in its bucket, becomes this; the newest come first. */
static void know(struct finding *f, int32_t row, int32_t leader) {
    struct known *bucket = f->known + (size_t)(row % f->buckets) * WAYS;
    int i = 0;
    while (i < WAYS - 1 && bucket[i].row != row + 1) i++;
    memmove(bucket + 1, bucket, (size_t)i * sizeof *bucket);
    *bucket = (struct known){row + 1, leader};
}

/* The similarity of two records; `copy` holds the first's set, since the second may take its place. */
static err compare(struct finding *f, int32_t a, int32_t b, double *jaccard) {
    const struct hashes *x, *y;
    f->verified++;
    TRY(set_read(&f->sets, a, &x));
    struct hashes copy = {.n = x->n, .v = malloc(x->n * sizeof *x->v + 1)};
    if (!copy.v) return out_of_memory();
    if (x->n) memcpy(copy.v, x->v, x->n * sizeof *x->v);
    err e = set_read(&f->sets, b, &y);
    if (!e) *jaccard = sets_jaccard(&copy, y);
    hashes_free(&copy);
    return e;
}

/* Is `row` near the leader? Pairs of which that is known are not compared in every band. */
static err is_near(struct finding *f, int32_t leader, int32_t row, bool *near) {
    const uint64_t pair = pair_of(leader, row), at = (pair * 0x9E3779B97F4A7C15u) >> 48;
    double jaccard;
    if ((*near = is_known(f, row, leader))) return OK;
    if (f->tried[at] == pair) return OK;
    TRY(compare(f, leader, row, &jaccard));
    *near = jaccard >= f->o->threshold;
    if (!*near) return f->tried[at] = pair, OK;
    know(f, row, leader);
    return pile_add(&f->near, key_of_pair(row, leader, (float)jaccard));
}

/* Each record of a run is compared with those before it that were near none. */
static err take_candidate(struct finding *f, int32_t row) {
    struct run *r = &f->run;
    bool near = false;
    for (int l = 0; l < r->leaders && !near; l++) TRY(is_near(f, r->leader[l], row, &near));
    if (near) return OK;
    f->left_out += r->others;
    if (r->leaders < LEADERS) r->leader[r->leaders++] = row;
    else r->others++;
    return OK;
}

/* --- who goes -------------------------------------------------------------------------------------------------------- */
static err put_decided(struct decided *d, struct twin t) {
    if (d->n == DECIDED) {
        if (d->fd < 0) TRY(spool_open(WHAT, &d->fd));
        TRY(spool_write(WHAT, d->fd, (uint64_t)d->before * sizeof t, d->last, DECIDED * sizeof t));
        d->before += DECIDED, d->n = 0;
    }
    d->last[d->n++] = t;
    return OK;
}

static err get_decided(const struct decided *d, int i, struct twin *t) {
    if (i >= d->before) return *t = d->last[i - d->before], OK;
    return spool_read(WHAT, d->fd, (uint64_t)i * sizeof *t, t, sizeof *t);
}

/* What was decided of a record that goes by likeness. */
static err find_decided(const struct decided *d, int32_t row, struct twin *t) {
    int low = 0, high = d->before + d->n - 1;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        TRY(get_decided(d, middle, t));
        if (t->row < row) low = middle + 1;
        else high = middle;
    }
    return get_decided(d, low, t);
}

static err let_go(struct finding *f, struct twin t) {
    TRY(pile_add(&f->gone, key_of_pair(t.row, t.of, t.jaccard)));
    return pile_add(&f->stays, key_of_pair(t.of, t.row, 0));
}

/* In the order of the records: one goes if a leader of its own stays, or if it is near what stays in that leader's place. */
static err decide(struct finding *f) {
    struct key k;
    bool more = true;
    TRY(pile_sort(&f->near));
    for (;;) {
        TRY(pile_next(&f->near, &k, &more));
        if (!more) return OK;
        struct twin t = {first_of(k), second_of(k), jaccard_of(k)}, its;
        double jaccard = t.jaccard;
        if (bit_of(f->goes, t.row)) continue;
        if (bit_of(f->goes, t.of)) {
            TRY(find_decided(&f->by_likeness, t.of, &its));
            t.of = its.of;
            TRY(compare(f, t.of, t.row, &jaccard));
        }
        if (jaccard < f->o->threshold) continue;
        t.jaccard = (float)jaccard;
        bit_set(f->goes, t.row);
        TRY(put_decided(&f->by_likeness, t));
        TRY(let_go(f, t));
    }
}

/* Those that are equal to what stays; or to one that goes by likeness, and then it is what stays in that one's place. Both lists are in order of it. */
static err let_equal_go(struct finding *f) {
    const struct decided *d = &f->by_likeness;
    const int n = d->before + d->n;
    struct twin t = {-1, -1, 0};
    struct key k;
    bool more = true;
    TRY(pile_sort(&f->equal));
    for (int i = 0;;) {
        TRY(pile_next(&f->equal, &k, &more));
        if (!more) return OK;
        const int32_t of = first_of(k);
        while (i < n && t.row < of) TRY(get_decided(d, i++, &t));
        TRY(let_go(f, (struct twin){second_of(k), t.row == of ? t.of : of, 1}));
    }
}

static err count(struct pile *stays, struct twins *out) {
    struct key k;
    bool more = true;
    int32_t last = -1;
    TRY(pile_sort(stays));
    for (int n = 0;; last = first_of(k)) {
        TRY(pile_next(stays, &k, &more));
        if (!more) return OK;
        n = first_of(k) == last ? n + 1 : 1;
        out->clusters += n == 1;
        if (n + 1 > out->largest) out->largest = n + 1;
    }
}

err twins_next(struct twins *t, struct twin *next) {
    struct key k;
    bool more;
    TRY(pile_next(&t->gone, &k, &more));
    *next = more ? (struct twin){first_of(k), second_of(k), jaccard_of(k)} : (struct twin){-1, -1, 0};
    return OK;
}

/* --- all of it ------------------------------------------------------------------------------------------------------- */
err twins_check(const struct twin_options *o) {
    if (o->exact) return OK;
    if (!(o->threshold > 0 && o->threshold <= 1))
        return fail(E_USAGE, "a threshold of %g: a Jaccard similarity is above 0, and 1 at most", o->threshold);
    if (o->shingles.size < 1 || o->shingles.size > 100) return fail(E_USAGE, "shingles of %d: 1 to 100 are possible", o->shingles.size);
    if (o->permutations < 16 || o->permutations > PERMUTATIONS_MOST)
        return fail(E_USAGE, "%d permutations: 16 to %d are possible", o->permutations, PERMUTATIONS_MOST);
    if (bands_chance((struct bands){o->permutations, 1}, o->threshold) < 0.95)
        return fail(E_USAGE, "%d permutations are too few to find pairs with a similarity of %g", o->permutations, o->threshold);
    return OK;
}

static err begin(struct finding *f, const struct twin_options *o) {
    const size_t most = o->part ? (size_t)o->part : PART, known = o->part ? (size_t)o->part : KNOWN, n = (size_t)f->s->n;
    if (!o->exact) f->bands = bands_for(o->threshold, o->permutations);
    f->keys.most = most, f->equal.most = f->near.most = f->gone.most = f->stays.most = most / 4 + 1;
    f->buckets = (int)((n < known ? n : known) / WAYS) + 1;
    f->whole = malloc(BLOCK * sizeof *f->whole);
    f->mine = malloc(BLOCK * (size_t)f->bands.n * sizeof *f->mine + 1);
    f->column = malloc(COLUMN * (size_t)f->bands.n * sizeof *f->column + 1);
    f->goes = bits_new(f->s->n);
    f->tried = calloc(TRIED, sizeof *f->tried);
    f->known = calloc((size_t)f->buckets * WAYS, sizeof *f->known);
    f->by_likeness.last = malloc(DECIDED * sizeof *f->by_likeness.last);
    if (!f->whole || !f->mine || !f->column || !f->goes || !f->tried || !f->known || !f->by_likeness.last) return out_of_memory();
    return o->exact ? OK : minhash_init(&f->hash, o->permutations, o->seed);
}

static void finish(struct finding *f) {
    set_reader_free(&f->sets);
    minhash_free(&f->hash);
    if (f->fd >= 0) close(f->fd);
    if (f->by_likeness.fd >= 0) close(f->by_likeness.fd);
    pile_free(&f->keys), pile_free(&f->equal), pile_free(&f->near), pile_free(&f->gone), pile_free(&f->stays);
    free(f->whole), free(f->mine), free(f->column), free(f->goes), free(f->tried), free(f->known), free(f->by_likeness.last);
}

static err find(struct finding *f, struct twins *out) {
    TRY(hash_all(f));
    TRY(each_run(f, take_equal));
    for (int b = 0; b < f->bands.n; b++) {
        TRY(pile_band(f, b));
        TRY(each_run(f, take_candidate));
    }
    TRY(decide(f));
    TRY(let_equal_go(f));
    TRY(count(&f->stays, out));
    TRY(pile_sort(&f->gone));
    out->gone = f->gone, f->gone = (struct pile){0};
    out->n_equal = f->n_equal, out->n_near = f->by_likeness.before + f->by_likeness.n;
    out->bands = f->bands, out->verified = f->verified, out->left_out = f->left_out;
    return OK;
}

err twins_find(const struct source *s, const struct twin_options *o, struct twins *out) {
    struct finding f = {.s = s, .o = o, .fd = -1, .by_likeness.fd = -1, .sets = {.s = s, .k = &o->shingles}};
    *out = (struct twins){0};
    TRY(twins_check(o));
    err e = begin(&f, o);
    if (!e) e = find(&f, out);
    finish(&f);
    return e;
}

void twins_free(struct twins *t) {
    pile_free(&t->gone);
    *t = (struct twins){0};
}
