/* See overlap.h. */
#include "data/overlap.h"
#include "data/keys.h"
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 64, FILTER_BITS = 1 << 24 };
enum kind { EQUAL, NEAR, NGRAM, KINDS };
static const char *const kind_names[KINDS] = {"equal", "near", "ngram"};

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

struct hit { /* of a test record; of each kind the first training record, line 0: none */
    int part[KINDS], line[KINDS];
    float jaccard;
    int grams, found; /* its n-grams, and how many of them were seen */
};
struct key_list {
    struct key *v;
    size_t n, cap;
};
struct work {      /* what a thread finds out about a training record, for take() */
    int32_t equal; /* the first test record that is, -1 */
    int32_t candidate[CANDIDATES];
    int n;
    struct hashes set;   /* its shingles, where there are candidates */
    struct hashes grams; /* which keys of its n-grams were found */
};
struct index {
    const struct overlap_options *o;
    struct source test;
    const struct source *train;
    struct minhash hash;
    struct bands bands;
    struct key *whole, *band; /* [tests]; [bands][tests], each sorted */
    struct key_list gram;
    uint64_t *filter; /* a bit for each 24 of an n-gram's: most of what is asked for is not there */
    uint8_t *seen;    /* of each n-gram key */
    struct hit *hit;
    struct work *work; /* [BLOCK] */
    struct set_reader sets;
    struct output out, report;
    int dropped, is_short;
};

/* --- the index ------------------------------------------------------------------------------------------------------- */
static err put_key(struct key_list *l, struct key k) {
    if (l->n == l->cap) {
        const size_t cap = 2 * l->cap + 1024;
        struct key *v = realloc(l->v, cap * sizeof *v);
        if (!v) return out_of_memory();
        l->v = v, l->cap = cap;
    }
    l->v[l->n++] = k;
    return OK;
}

/* The n-grams of a text, none where it has fewer words. */
static err grams_of(const struct index *x, const str *normal, struct hashes *out) {
    const struct shingles k = {x->o->ngram, true};
    TRY(shingle_hashes(&k, normal->p, normal->n, out));
    if (out->n == 1 && word_count(normal->p, normal->n) < (size_t)x->o->ngram) out->n = 0;
    return OK;
}

static err index_record(struct index *x, int i, const str *normal) {
    struct hashes set = {0};
    uint32_t signature[PERMUTATIONS_MOST];
    x->whole[i] = key_of(normal->p, normal->n, i);
    if (x->o->near.exact) return OK;
    err e = shingle_hashes(&x->o->near.shingles, normal->p, normal->n, &set);
    if (!e) minhash_sign(&x->hash, &set, signature);
    for (int b = 0; !e && b < x->bands.n; b++)
        x->band[(size_t)b * (size_t)x->test.n + (size_t)i] = (struct key){band_hash(x->bands, signature, b), 0, i};
    if (!e && x->o->ngram) e = grams_of(x, normal, &set);
    if (!e && x->o->ngram) {
        hashes_to_set(&set);
        x->hit[i].grams = (int)set.n;
        x->is_short += !set.n;
        for (size_t k = 0; k < set.n && !e; k++) e = put_key(&x->gram, (struct key){set.v[k], 0, i});
    }
    hashes_free(&set);
    return e;
}

static err index_all(struct index *x) {
    struct fetcher f = {0};
    err e = OK;
    for (int i = 0; i < x->test.n && !e; i++) {
        struct record r;
        str normal = {0};
        e = source_fetch(&x->test, i, &f, &r);
        if (!e) e = said(&r, &normal);
        if (!e) e = index_record(x, i, &normal);
        str_free(&normal);
    }
    fetcher_free(&f);
    if (e) return e;
    keys_sort(x->whole, (size_t)x->test.n);
    for (int b = 0; b < x->bands.n; b++) keys_sort(x->band + (size_t)b * (size_t)x->test.n, (size_t)x->test.n);
    keys_sort(x->gram.v, x->gram.n);
    x->seen = calloc(x->gram.n + 1, 1);
    for (size_t i = 0; i < x->gram.n; i++) x->filter[x->gram.v[i].low % FILTER_BITS / 64] |= 1ull << x->gram.v[i].low % 64;
    return x->seen ? OK : out_of_memory();
}

static err index_open(struct index *x, const struct source_file *tests, int n) {
    TRY(source_open_files(tests, n, &(struct source_options){.want = WANT_ANY}, &x->test));
    const size_t rows = (size_t)x->test.n;
    if (!x->o->near.exact) x->bands = bands_for(x->o->near.threshold, x->o->near.permutations);
    x->whole = malloc(rows * sizeof *x->whole);
    x->band = malloc(rows * (size_t)x->bands.n * sizeof *x->band + 1);
    x->hit = calloc(rows, sizeof *x->hit);
    x->work = calloc(BLOCK, sizeof *x->work);
    x->filter = calloc(FILTER_BITS / 64, sizeof *x->filter);
    if (!x->whole || !x->band || !x->hit || !x->work || !x->filter) return out_of_memory();
    x->sets = (struct set_reader){.s = &x->test, .k = &x->o->near.shingles};
    if (!x->o->near.exact) TRY(minhash_init(&x->hash, x->o->near.permutations, x->o->near.seed));
    return index_all(x);
}

static void index_close(struct index *x) {
    for (int k = 0; x->work && k < BLOCK; k++) hashes_free(&x->work[k].set), hashes_free(&x->work[k].grams);
    set_reader_free(&x->sets);
    minhash_free(&x->hash);
    free(x->whole), free(x->band), free(x->hit), free(x->work), free(x->filter), free(x->seen), free(x->gram.v);
    source_close(&x->test);
}

/* --- the training data ------------------------------------------------------------------------------------------------ */
static void add_candidates(const struct index *x, const uint32_t *signature, struct work *w) {
    const size_t tests = (size_t)x->test.n;
    for (int b = 0; b < x->bands.n; b++) {
        const struct key *band = x->band + (size_t)b * tests;
        const uint64_t h = band_hash(x->bands, signature, b);
        for (size_t i = keys_find(band, tests, h, 0); i < tests && band[i].low == h && w->n < CANDIDATES; i++) {
            int k = 0;
            while (k < w->n && w->candidate[k] != band[i].row) k++;
            if (k == w->n) w->candidate[w->n++] = band[i].row;
        }
    }
}

/* Keys of the n-grams that are there, in place of the n-grams. */
static void find_grams(const struct index *x, struct hashes *grams) {
    size_t n = 0;
    for (size_t i = 0; i < grams->n; i++) {
        const uint64_t h = grams->v[i];
        if (!(x->filter[h % FILTER_BITS / 64] >> h % 64 & 1)) continue;
        const size_t at = keys_find(x->gram.v, x->gram.n, h, 0);
        if (at < x->gram.n) grams->v[n++] = at;
    }
    grams->n = n;
}

static err look_up(void *ctx, const struct visited *v) {
    struct index *x = ctx;
    struct work *w = &x->work[v->k];
    str normal = {0};
    uint32_t signature[PERMUTATIONS_MOST];
    w->equal = -1, w->n = 0, w->grams.n = 0;
    err e = said(v->r, &normal);
    if (!e) {
        const struct key key = key_of(normal.p, normal.n, v->i);
        const size_t at = keys_find(x->whole, (size_t)x->test.n, key.low, key.high);
        if (at < (size_t)x->test.n) w->equal = (int32_t)at;
    }
    if (!e && !x->o->near.exact) e = shingle_hashes(&x->o->near.shingles, normal.p, normal.n, &w->set);
    if (!e && !x->o->near.exact) minhash_sign(&x->hash, &w->set, signature), add_candidates(x, signature, w);
    if (w->n) hashes_to_set(&w->set);
    else hashes_free(&w->set); /* so that a block of long records is not kept */
    if (!e && !x->o->near.exact && x->o->ngram) e = grams_of(x, &normal, &w->grams);
    find_grams(x, &w->grams);
    if (!w->grams.n) hashes_free(&w->grams);
    str_free(&normal);
    return e;
}

static void tell(struct hit *h, enum kind kind, const struct index *x, const struct visited *v) {
    if (h->line[kind]) return;
    h->part[kind] = (int)(v->part - x->train->part);
    h->line[kind] = v->x->line;
}

static err tell_near(struct index *x, const struct work *w, const struct visited *v, bool *near) {
    for (int c = 0; c < w->n; c++) {
        const struct hashes *set;
        struct hit *h = &x->hit[w->candidate[c]];
        TRY(set_read(&x->sets, w->candidate[c], &set));
        const double jaccard = sets_jaccard(&w->set, set);
        if (jaccard < x->o->near.threshold) continue;
        *near = true;
        if (!h->line[NEAR]) h->jaccard = (float)jaccard;
        tell(h, NEAR, x, v);
    }
    return OK;
}

static err take_record(void *ctx, const struct visited *v) {
    struct index *x = ctx;
    const struct work *w = &x->work[v->k];
    const size_t tests = (size_t)x->test.n;
    bool near = false;
    if (w->equal >= 0)
        for (size_t e = (size_t)w->equal, end = keys_run(x->whole, tests, e); e < end; e++) tell(&x->hit[x->whole[e].row], EQUAL, x, v);
    TRY(tell_near(x, w, v, &near));
    for (size_t g = 0; g < w->grams.n; g++)
        for (size_t key = w->grams.v[g], end = keys_run(x->gram.v, x->gram.n, key); key < end && !x->seen[key]; key++) {
            struct hit *h = &x->hit[x->gram.v[key].row];
            x->seen[key] = 1;
            h->found++;
            tell(h, NGRAM, x, v);
        }
    const bool dirty = w->equal >= 0 || near || w->grams.n;
    x->dropped += dirty;
    return dirty || !x->out.f.f ? OK : output_record(&x->out, v);
}

/* --- what it comes to -------------------------------------------------------------------------------------------------- */
static bool is_hit(const struct index *x, const struct hit *h, enum kind *kind) {
    for (*kind = EQUAL; *kind < KINDS; ++*kind)
        if (h->line[*kind] && (*kind != NGRAM || h->found >= x->o->least * h->grams)) return true;
    return false;
}

static json_t *hit_json(const struct index *x, int i, enum kind kind, int line, const struct source_part *part) {
    const struct hit *h = &x->hit[i];
    json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:i}", "path", part->path, "line", line, "kind", kind_names[kind], "train_path",
                          x->train->part[h->part[kind]].path, "train_line", h->line[kind]);
    json_object_set_new(o, "jaccard", kind < NGRAM ? json_real(kind == EQUAL ? 1 : (double)h->jaccard) : json_null());
    json_object_set_new(o, "ngrams", h->grams ? json_real((double)h->found / h->grams) : json_null());
    return o;
}

static err tell_all(struct index *x, json_t *card) {
    struct fetcher f = {0};
    json_t *hits = json_array();
    int n[KINDS] = {0}, all = 0;
    err e = OK;
    for (int i = 0; i < x->test.n && !e; i++) {
        enum kind kind;
        struct extent at;
        const struct source_part *part;
        if (!is_hit(x, &x->hit[i], &kind)) continue;
        n[kind]++, all++;
        e = source_scan(&x->test, i, &f, &at, &part);
        if (e) break;
        json_t *hit = hit_json(x, i, kind, at.line, part);
        if (!x->o->limit || all <= x->o->limit) json_array_append(hits, hit);
        if (x->report.f.f) e = output_line(&x->report, hit);
        else json_decref(hit);
    }
    fetcher_free(&f);
    card_count(card, "train", x->train->n);
    card_count(card, "test", x->test.n);
    card_count(card, "contaminated", all);
    for (int k = 0; k < KINDS; k++) card_count(card, kind_names[k], n[k]);
    card_count(card, "short", x->is_short);
    card_count(card, "train_records_concerned", x->dropped);
    json_object_set_new(card, "share", json_real((double)all / x->test.n));
    json_object_set_new(card, "hits", hits);
    return e;
}

static void fill_settings(json_t *card, const struct overlap_options *o) {
    card_set(card, "exact", json_boolean(o->near.exact));
    if (o->near.exact) return;
    card_set(card, "threshold", json_real(o->near.threshold));
    card_set(card, "permutations", json_integer(o->near.permutations));
    card_set(card, "shingle", json_integer(o->near.shingles.size));
    card_set(card, "of", json_string(o->near.shingles.words ? "words" : "characters"));
    card_set(card, "seed", json_integer((json_int_t)o->near.seed));
    card_set(card, "ngram", json_integer(o->ngram));
    card_set(card, "least", json_real(o->least));
}

static err go_through(struct index *x, const struct rewriting *w) {
    struct source train;
    TRY(source_open_files(w->files, w->n, &(struct source_options){.want = WANT_ANY}, &train));
    x->train = &train;
    err e = records_pass(&(struct record_pass){&train, look_up, take_record, x});
    card_inputs(w->card, "inputs", &train);
    card_inputs(w->card, "against", &x->test);
    fill_settings(w->card, x->o);
    if (!e) e = tell_all(x, w->card);
    if (!e && w->out && !x->out.rows) e = fail(E_INPUT, "every training record is in the test data: %s would be empty", w->out);
    if (!e && x->report.f.f) e = output_commit(&x->report, json_object_get(w->card, "outputs"));
    if (!e && w->out) e = output_commit(&x->out, json_object_get(w->card, "outputs"));
    if (!e && w->out) e = card_write(w->card, w->out);
    source_close(&train);
    return e;
}

err data_overlap(const struct rewriting *w, const struct source_file *tests, int n_tests, const struct overlap_options *o) {
    struct index x = {.o = o};
    TRY(twins_check(&o->near));
    if (o->ngram < 0 || o->ngram > 100) return fail(E_USAGE, "n-grams of %d words: 1 to 100 are possible, and 0 for none", o->ngram);
    if (!(o->least >= 0 && o->least <= 1)) return fail(E_USAGE, "a share of %g: 0 to 1 are possible", o->least);
    if (o->report && w->out && !strcmp(o->report, w->out)) return fail(E_USAGE, "%s cannot be both the output and the report", w->out);
    err e = w->out ? output_open(&x.out, w->out, w) : OK;
    if (!e && o->report) e = output_open(&x.report, o->report, w);
    if (!e) {
        e = index_open(&x, tests, n_tests);
        if (!e) e = go_through(&x, w);
        index_close(&x);
    }
    output_abandon(&x.out);
    output_abandon(&x.report);
    return e;
}
