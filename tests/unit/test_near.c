/* Texts that say the same, or nearly: the normal form and shingles against Python's sets, MinHash against both and within its error, bands, keys, and
 * what dedup leaves of a made file against a comparison of all with all. */
#include "support/support.h"
#include "base/file.h"
#include "base/philox.h"
#include "data/keys.h"
#include "data/twins.h"
#include "support/folder.h"
#include <jansson.h>

enum { N = 128 };

static void set_of(const char *text, const struct shingles *k, struct hashes *set) {
    str normal = {0};
    must(said_normal(text, strlen(text), &normal));
    must(shingle_hashes(k, normal.p, normal.n, set));
    hashes_to_set(set);
    str_free(&normal);
}

static void test_normal(void **state) {
    (void)state;
    static const char *const same[][2] = {{" Two \t\n cats ", "two cats"},
                                          {"\xEF\xBC\xB4\xEF\xBD\x97\xEF\xBD\x8F\xE3\x80\x80"
                                           "cats",
                                           "two cats"}, /* full width letters and space */
                                          {"STRA\xC3\x9F"
                                           "E",
                                           "strasse"},
                                          {"caf\x65\xCC\x81", "caf\xC3\xA9"},
                                          {"2+2", "2+2"}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        str s = {0};
        must(said_normal(same[i][0], strlen(same[i][0]), &s));
        assert_string_equal(s.p, same[i][1]);
        str_free(&s);
    }
    const struct shingles words = {2, true}, letters = {5, false};
    struct hashes a = {0}, b = {0};
    set_of("one, two -- three!", &words, &a), set_of("One two; THREE", &words, &b);
    assert_true(a.n == 2 && sets_jaccard(&a, &b) == 1);
    set_of("2+2", &letters, &a), set_of("2-2", &letters, &b);
    assert_true(a.n == 1 && sets_jaccard(&a, &b) == 0);
    set_of("?!", &words, &a);
    assert_int_equal(a.n, 0);
    assert_int_equal(word_count("\xE6\x9D\xB1\xE4\xBA\xAC x1 y", 11), 4); /* two ideographs, two words */
    hashes_free(&a);
    hashes_free(&b);
}

/* Of the fixture's pairs the similarity is Python's; the estimate is off by no more than chance has it, and datasketch's no less. */
static void test_estimate(void **state) {
    (void)state;
    json_t *pairs = json_load_file(GOLDEN "/near/pairs.json", 0, NULL), *p;
    const struct shingles k = {5, false};
    struct minhash m;
    struct hashes a = {0}, b = {0};
    size_t i;
    double ours = 0, theirs = 0, allowed = 0;
    must(minhash_init(&m, N, 3));
    assert_int_equal(json_array_size(pairs), 40);
    json_array_foreach(pairs, i, p) {
        uint32_t x[N], y[N];
        const double j = json_number_value(json_object_get(p, "jaccard"));
        set_of(json_string_value(json_object_get(p, "a")), &k, &a);
        set_of(json_string_value(json_object_get(p, "b")), &k, &b);
        if (fabs(sets_jaccard(&a, &b) - j) > 1e-12) flunk("pair %zu: %g, Python has %g", i, sets_jaccard(&a, &b), j);
        minhash_sign(&m, &a, x), minhash_sign(&m, &b, y);
        const double off = minhash_estimate(x, y, N) - j, bound = sqrt(j * (1 - j) / N);
        if (fabs(off) > 4 * bound + 1e-9) flunk("pair %zu: the estimate is off by %g, chance has %g", i, off, bound);
        ours += off * off, allowed += bound * bound;
        theirs += pow(json_number_value(json_object_get(p, "datasketch")) - j, 2);
    }
    assert_true(ours < 2 * allowed && ours > allowed / 3 && theirs < 2 * allowed);
    json_decref(pairs);
    minhash_free(&m);
    hashes_free(&a);
    hashes_free(&b);
}

/* Made sets with a known similarity: the mean estimate is it, and bands find what their chance says. */
static void test_bands(void **state) {
    (void)state;
    static const double similar[] = {0.3, 0.8, 0.9};
    const struct bands b = bands_for(0.8, N);
    enum { SETS = 300, SIZE = 100 };
    assert_true(b.n == 18 && b.rows == 7);
    assert_true(bands_chance(b, 0.8) >= 0.95 && bands_chance(b, 0.3) < 0.01);
    for (int t = 0; t < 3; t++) {
        struct minhash m;
        int found = 0;
        double mean = 0;
        must(minhash_init(&m, N, (uint64_t)t));
        for (int i = 0; i < SETS; i++) { /* of SIZE numbers each `both` are shared: J = both / (2 SIZE - both) */
            uint64_t v[2][SIZE];
            uint32_t sign[2][N];
            const int both = (int)lround(2 * SIZE * similar[t] / (1 + similar[t]));
            bool candidate = false;
            for (int s = 0; s < 2; s++)
                for (int n = 0; n < SIZE; n++) {
                    const struct philox r = philox(11, (uint32_t)i, (uint32_t)n, n < both ? 0 : 1 + (uint32_t)s, (uint32_t)t);
                    v[s][n] = (uint64_t)r.v[0] << 32 | r.v[1];
                }
            for (int s = 0; s < 2; s++) minhash_sign(&m, &(struct hashes){v[s], SIZE, SIZE}, sign[s]);
            for (int band = 0; band < b.n; band++) candidate |= band_hash(b, sign[0], band) == band_hash(b, sign[1], band);
            found += candidate;
            mean += minhash_estimate(sign[0], sign[1], N) / SETS;
        }
        const double j = similar[t], chance = bands_chance(b, j);
        if (fabs(mean - j) > 0.012) flunk("sets of similarity %g are estimated at %g in the mean", j, mean);
        if (fabs(found / (double)SETS - chance) > 0.035)
            flunk("of sets of similarity %g bands find %d of %d, chance has %g", j, found, SETS, chance);
        minhash_free(&m);
    }
}

static void test_keys(void **state) {
    (void)state;
    enum { KEYS = 5000 };
    static struct key k[KEYS];
    for (int kinds = 1; kinds <= KEYS; kinds *= 70) {
        for (int i = 0; i < KEYS; i++) k[i] = (struct key){philox(5, (uint32_t)(i * 7919 % kinds), 0, 0, 0).v[0], 0, KEYS - i};
        keys_sort(k, KEYS);
        for (int i = 1; i < KEYS; i++) assert_true(k[i - 1].low < k[i].low || (k[i - 1].low == k[i].low && k[i - 1].row < k[i].row));
        size_t runs = 0;
        for (size_t i = 0; i < KEYS; i = keys_run(k, KEYS, i), runs++) assert_int_equal(keys_find(k, KEYS, k[i].low, 0), i);
        assert_int_equal(runs, kinds);
        assert_int_equal(keys_find(k, KEYS, k[KEYS - 1].low, 1), KEYS);
    }
}

/* However many there are, so many are in memory: given in disorder, they come back as one sort has them. */
static void test_pile(void **state) {
    (void)state;
    enum { KEYS = 20000 };
    static struct key want[KEYS];
    for (size_t most = 37; most <= 32768; most *= most == 37 ? 27 : 33) { /* 541 runs, 21, none */
        struct pile p = {.most = most};
        struct key k;
        bool more;
        for (int again = 0; again < 2; again++) {
            for (int i = 0; i < KEYS; i++) {
                want[i] = (struct key){philox(6, (uint32_t)i % 7000, 0, 0, 0).v[0], (uint32_t)i % 2, KEYS - i};
                must(pile_add(&p, want[i]));
                assert_true(p.cap <= most);
            }
            must(pile_sort(&p));
            assert_true(p.cap <= (most > 541 ? most : 541) && (p.runs > 0) == (most < KEYS));
            keys_sort(want, KEYS);
            for (int i = 0; i < KEYS; i++) {
                must(pile_next(&p, &k, &more));
                assert_true(more && !key_compare(&k, &want[i]));
            }
            must(pile_next(&p, &k, &more));
            assert_false(more);
            pile_free(&p);
        }
    }
}

/* 400 texts, most of them made of earlier ones by a few changed words or by case alone. */
static void make_texts(const char *path, str text[400]) {
    static const char *const words[] = {"turn",   "the", "light", "in",     "kitchen", "bedroom", "off",
                                        "please", "now", "lamp",  "garden", "blue",    "two",     "up"};
    str file = {0};
    for (uint32_t i = 0; i < 400; i++) {
        const struct philox p = philox(9, i, 0, 0, 0);
        if (i < 20 || p.v[0] % 8 == 0)
            for (uint32_t w = 0; w < 12 + p.v[1] % 12; w++)
                str_addf(&text[i], "%s%s", w ? " " : "", words[philox(9, i, w, 1, 0).v[0] % 14]);
        else {
            str_adds(&text[i], text[p.v[1] % i].p);
            for (uint32_t c = 0; c < p.v[2] % 4; c++) text[i].p[philox(9, i, c, 2, 0).v[0] % text[i].n] = "xyzq"[c];
            if (p.v[2] % 5 == 0) text[i].p[0] = 'T';
        }
        str_addf(&file, "%s\n", text[i].p);
    }
    must(file_write(path, file.p, file.n));
    str_free(&file);
}

struct found {
    struct twins t;
    int of[400]; /* what stays in a record's place; -1: it stays */
    float jaccard[400];
};
/* What goes comes by row, each once. */
static void find(const struct source *s, const struct twin_options *o, struct found *f) {
    struct twin next;
    must(twins_find(s, o, &f->t));
    for (int i = 0; i < 400; i++) f->of[i] = -1, f->jaccard[i] = 0;
    for (int last = -1, n = 0;; last = next.row, n++) {
        must(twins_next(&f->t, &next));
        if (next.row < 0) assert_int_equal(n, f->t.n_equal + f->t.n_near);
        if (next.row < 0 && o->part) assert_true(f->t.gone.runs > 9 && f->t.gone.cap <= (size_t)f->t.gone.runs); /* the rest is on disk */
        if (next.row < 0) return pile_free(&f->t.gone);
        assert_true(next.row > last);
        f->of[next.row] = next.of, f->jaccard[next.row] = next.jaccard;
    }
}

static void test_twins(void **state) {
    (void)state;
    str text[400] = {{0}};
    struct hashes set[400] = {{0}};
    const struct twin_options o = {.threshold = 0.7, .permutations = N, .shingles = {5, false}, .seed = 1};
    struct source s;
    static struct found f, again;
    struct twins none;
    int missed = 0, pairs = 0, stands[400] = {0}, clusters = 0, largest = 0;
    make_texts(at("t.txt"), text);
    must(source_open(at("t.txt"), WANT_TEXT, NULL, NULL, &s));
    find(&s, &o, &f);
    for (int i = 0; i < 400; i++) set_of(text[i].p, &o.shingles, &set[i]);
    for (int i = 0; i < 400; i++) {
        if (f.of[i] >= 0) { /* what stays in its place comes before it, stays, and is near, or is equal to one that is */
            assert_true(f.of[i] < i && f.of[f.of[i]] < 0);
            const double jaccard = sets_jaccard(&set[i], &set[f.of[i]]);
            assert_true(jaccard >= 0.7 && (f.jaccard[i] == 1 || fabs(jaccard - (double)f.jaccard[i]) < 1e-6));
            clusters += !stands[f.of[i]]++;
            if (stands[f.of[i]] >= largest) largest = stands[f.of[i]] + 1;
            continue;
        }
        for (int k = 0; k < i; k++) /* what stays is near nothing before it that stays, but by the bands' chance */
            if (f.of[k] < 0) missed += sets_jaccard(&set[i], &set[k]) >= 0.7;
    }
    for (int i = 0; i < 400; i++)
        for (int k = 0; k < i; k++) pairs += sets_jaccard(&set[i], &set[k]) >= 0.7;
    if (missed > 6 || f.t.n_near < 100 || f.t.n_equal < 20)
        flunk("%d equal, %d near, %d of %d pairs missed", f.t.n_equal, f.t.n_near, missed, pairs);
    assert_true(f.t.clusters == clusters && f.t.largest == largest);
    find(&s, &o, &again);
    assert_memory_equal(f.of, again.of, sizeof f.of);
    assert_int_equal(f.t.verified, again.t.verified);
    struct twin_options parts = o;
    parts.part = 37; /* eleven parts of each column; five records that are remembered */
    find(&s, &parts, &again);
    assert_true(again.t.n_near == f.t.n_near && again.t.n_equal == f.t.n_equal && again.t.clusters == clusters &&
                again.t.largest == largest);
    assert_memory_equal(f.of, again.of, sizeof f.of);
    assert_memory_equal(f.jaccard, again.jaccard, sizeof f.jaccard);
    assert_true(again.t.verified > f.t.verified);
    find(&s, &(struct twin_options){.exact = true}, &again);
    assert_true(again.t.n_equal == f.t.n_equal && !again.t.n_near);
    assert_int_equal(twins_find(&s, &(struct twin_options){.threshold = 0.01, .permutations = 16, .shingles = {5, false}}, &none), E_USAGE);
    source_close(&s);
    for (int i = 0; i < 400; i++) str_free(&text[i]), hashes_free(&set[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_normal), cmocka_unit_test(test_estimate), cmocka_unit_test(test_bands),
                                       cmocka_unit_test(test_keys),   cmocka_unit_test(test_pile),     cmocka_unit_test(test_twins)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
