/* See twins.h. One pass writes columns: the two halves of each record's hash, and one for each band. Then the records' hashes, and the bands one after
 * the other, are sorted part by part: equal records and candidates come to stand in runs. */
#include "data/twins.h"
#include "data/blocks.h"
#include "data/keys.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LEADERS = 32, COLUMN = 4096, TRIED = 1 << 16, PART = 1 << 21 };
enum { LOW, HIGH, BANDS }; /* columns: a band's is BANDS + which */
static const char WHAT[] = "hashes of records";

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

struct finding {
    const struct source *s;
    const struct twin_options *o;
    struct minhash hash;
    struct bands bands;
    int columns;
    int32_t *of, *like; /* like: the last leader that a record was found to be near */
    uint64_t *mine;     /* [BLOCK][columns]: of this block's records */
    int fd, written;    /* the spool: column after column, each of all records; the first `written` of each are there */
    uint64_t *column;   /* [columns][COLUMN]: what comes after those */
    int waiting;
    struct key *key; /* a part of a column */
    size_t n_keys, key_cap;
    struct set_reader sets;
    uint64_t *tried; /* [TRIED]: pairs that were compared and are not near */
    struct twin *pair;
    int n_pairs, pair_cap, equal;
    int64_t verified, left_out;
};

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
    uint64_t *mine = f->mine + (size_t)v->k * (size_t)f->columns;
    str normal = {0};
    err e = said(v->r, &normal);
    if (!e) {
        const struct key k = key_of(normal.p, normal.n, v->i);
        mine[LOW] = k.low, mine[HIGH] = k.high;
    }
    if (!e && !f->o->exact) e = sign(f, &normal, mine + BANDS);
    str_free(&normal);
    return e;
}

static uint64_t place_of(const struct finding *f, int column, int row) {
    return ((uint64_t)column * (uint64_t)f->s->n + (uint64_t)row) * sizeof(uint64_t);
}

static err write_columns(struct finding *f) {
    for (int c = 0; c < f->columns; c++)
        TRY(spool_write(WHAT, f->fd, place_of(f, c, f->written), f->column + (size_t)c * COLUMN, (size_t)f->waiting * sizeof *f->column));
    f->written += f->waiting;
    f->waiting = 0;
    return OK;
}

static err keep_hashes(void *ctx, const struct visited *v) {
    struct finding *f = ctx;
    const uint64_t *mine = f->mine + (size_t)v->k * (size_t)f->columns;
    for (int c = 0; c < f->columns; c++) f->column[(size_t)c * COLUMN + (size_t)f->waiting] = mine[c];
    return ++f->waiting == COLUMN ? write_columns(f) : OK;
}

static err make_columns(struct finding *f) {
    TRY(spool_open(WHAT, &f->fd));
    TRY(records_pass(&(struct record_pass){f->s, hash_record, keep_hashes, f}));
    return write_columns(f);
}

static err put_key(struct finding *f, struct key k) {
    if (f->n_keys == f->key_cap) {
        const size_t cap = f->key_cap + f->key_cap / 2 + 1024;
        struct key *key = realloc(f->key, cap * sizeof *key);
        if (!key) return out_of_memory();
        f->key = key, f->key_cap = cap;
    }
    f->key[f->n_keys++] = k;
    return OK;
}

/* The keys of a column (LOW: with HIGH) that are in this part of `parts`, of records that stay so far, sorted. */
static err read_part(struct finding *f, int column, int part, int parts) {
    uint64_t *low = f->column, *high = f->column + COLUMN; /* written by now */
    f->n_keys = 0;
    for (int from = 0, rows; from < f->s->n; from += rows) {
        rows = f->s->n - from < COLUMN ? f->s->n - from : COLUMN;
        TRY(spool_read(WHAT, f->fd, place_of(f, column, from), low, (size_t)rows * sizeof *low));
        if (column == LOW) TRY(spool_read(WHAT, f->fd, place_of(f, HIGH, from), high, (size_t)rows * sizeof *high));
        for (int i = 0; i < rows; i++)
            if (f->of[from + i] < 0 && low[i] % (uint64_t)parts == (uint64_t)part)
                TRY(put_key(f, (struct key){low[i], column == LOW ? (uint32_t)high[i] : 0, from + i}));
    }
    keys_sort(f->key, f->n_keys);
    return OK;
}

/* Calls `take` for each run of equal keys of a column. */
static err each_run(struct finding *f, int column, err (*take)(struct finding *f, const struct key *k, size_t n)) {
    const int most = f->o->part ? f->o->part : PART, parts = f->s->n / most + 1;
    for (int part = 0; part < parts; part++) {
        TRY(read_part(f, column, part, parts));
        for (size_t i = 0, end; i < f->n_keys; i = end) {
            end = keys_run(f->key, f->n_keys, i);
            if (end - i > 1) TRY(take(f, f->key + i, end - i));
        }
    }
    return OK;
}

static err take_equal(struct finding *f, const struct key *k, size_t n) {
    for (size_t i = 1; i < n; i++, f->equal++) f->of[k[i].row] = k->row;
    return OK;
}

/* --- sets ------------------------------------------------------------------------------------------------------------ */
static err read_set(struct set_reader *r, int32_t row, struct hashes *set) {
    struct record record;
    str normal = {0};
    r->f.window = 1 << 16;
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
static err keep_pair(struct finding *f, int32_t row, int32_t of, double jaccard) {
    if (f->n_pairs == f->pair_cap) {
        const int cap = 2 * f->pair_cap + 256;
        struct twin *pair = realloc(f->pair, (size_t)cap * sizeof *pair);
        if (!pair) return out_of_memory();
        f->pair = pair, f->pair_cap = cap;
    }
    f->pair[f->n_pairs++] = (struct twin){row, of, (float)jaccard};
    f->like[row] = of;
    return OK;
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

/* Is `row` near the leader? Pairs that are known not to be are not compared in every band. */
static err is_near(struct finding *f, int32_t leader, int32_t row, bool *near) {
    const uint64_t pair = (uint64_t)leader << 32 | (uint32_t)row, at = (pair * 0x9E3779B97F4A7C15u) >> 48;
    double jaccard;
    if ((*near = f->like[row] == leader)) return OK;
    if (f->tried[at] == pair) return OK;
    TRY(compare(f, leader, row, &jaccard));
    *near = jaccard >= f->o->threshold;
    if (*near) return keep_pair(f, row, leader, jaccard);
    f->tried[at] = pair;
    return OK;
}

/* Records with one band in common, in order: each is compared with those before it that were near none. */
static err take_run(struct finding *f, const struct key *k, size_t n) {
    int32_t leader[LEADERS];
    int leaders = 0;
    int64_t others = 0; /* that would have been leaders too */
    for (size_t i = 0; i < n; i++) {
        bool near = false;
        for (int l = 0; l < leaders && !near; l++) TRY(is_near(f, leader[l], k[i].row, &near));
        if (near) continue;
        f->left_out += others;
        if (leaders < LEADERS) leader[leaders++] = k[i].row;
        else others++;
    }
    return OK;
}

static int by_row(const void *a, const void *b) {
    const struct twin *x = a, *y = b;
    return x->row != y->row ? (x->row > y->row) - (x->row < y->row) : (x->of > y->of) - (x->of < y->of);
}

/* In the order of the records: one goes if a leader of its own stays, or if it is near what stays in that leader's place. */
static err decide(struct finding *f, struct twins *out) {
    if (f->n_pairs) qsort(f->pair, (size_t)f->n_pairs, sizeof *f->pair, by_row);
    int n = 0;
    for (int i = 0; i < f->n_pairs; i++) {
        struct twin t = f->pair[i];
        double jaccard = t.jaccard;
        if (f->of[t.row] >= 0) continue;
        if (f->of[t.of] >= 0) {
            t.of = f->of[t.of];
            TRY(compare(f, t.of, t.row, &jaccard));
        }
        if (jaccard < f->o->threshold) continue;
        f->of[t.row] = t.of;
        t.jaccard = (float)jaccard;
        f->pair[n++] = t;
    }
    out->near = f->pair, out->n_near = n;
    f->pair = NULL;
    return OK;
}

/* A record that is equal to one that went by likeness stands for what stayed in that one's place. Takes `like` for how many each stands for. */
static void count(struct finding *f, struct twins *out) {
    int32_t *stands = f->like;
    memset(stands, 0, (size_t)f->s->n * sizeof *stands);
    for (int i = 0; i < f->s->n; i++) {
        const int32_t of = f->of[i];
        if (of < 0) continue;
        if (f->of[of] >= 0) f->of[i] = f->of[of];
        const int n = ++stands[f->of[i]];
        out->clusters += n == 1;
        if (n + 1 > out->largest) out->largest = n + 1;
    }
}

static err find_near(struct finding *f, struct twins *out) {
    for (int b = 0; b < f->bands.n; b++) TRY(each_run(f, BANDS + b, take_run));
    return decide(f, out);
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
    const size_t n = (size_t)f->s->n;
    if (!o->exact) f->bands = bands_for(o->threshold, o->permutations);
    f->columns = BANDS + f->bands.n;
    f->of = malloc(n * sizeof *f->of);
    f->like = malloc(n * sizeof *f->like);
    f->mine = malloc(BLOCK * (size_t)f->columns * sizeof *f->mine);
    f->column = malloc(COLUMN * (size_t)f->columns * sizeof *f->column);
    f->tried = calloc(TRIED, sizeof *f->tried);
    if (!f->of || !f->like || !f->mine || !f->column || !f->tried) return out_of_memory();
    for (size_t i = 0; i < n; i++) f->of[i] = f->like[i] = -1;
    return o->exact ? OK : minhash_init(&f->hash, o->permutations, o->seed);
}

static void finish(struct finding *f) {
    set_reader_free(&f->sets);
    minhash_free(&f->hash);
    if (f->fd >= 0) close(f->fd);
    free(f->key), free(f->of), free(f->like), free(f->mine), free(f->column), free(f->tried), free(f->pair);
}

err twins_find(const struct source *s, const struct twin_options *o, struct twins *out) {
    struct finding f = {.s = s, .o = o, .fd = -1, .sets = {.s = s, .k = &o->shingles}};
    *out = (struct twins){0};
    TRY(twins_check(o));
    err e = begin(&f, o);
    if (!e) e = make_columns(&f);
    if (!e) e = each_run(&f, LOW, take_equal);
    if (!e && !o->exact) e = find_near(&f, out);
    if (!e) {
        count(&f, out);
        out->of = f.of, f.of = NULL;
        out->n_equal = f.equal;
        out->bands = f.bands, out->verified = f.verified, out->left_out = f.left_out;
    }
    finish(&f);
    if (e) twins_free(out);
    return e;
}

void twins_free(struct twins *t) {
    free(t->of);
    free(t->near);
    *t = (struct twins){0};
}
