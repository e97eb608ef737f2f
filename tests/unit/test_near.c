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

static void test_twins(void **state) {
    (void)state;
    str text[400] = {{0}};
    struct hashes set[400] = {{0}};
    const struct twin_options o = {.threshold = 0.7, .permutations = N, .shingles = {5, false}, .seed = 1};
    struct source s;
    struct twins t, again;
    int missed = 0, pairs = 0;
    make_texts(at("t.txt"), text);
    must(source_open(at("t.txt"), WANT_TEXT, NULL, NULL, &s));
    must(twins_find(&s, &o, &t));
    for (int i = 0; i < 400; i++) set_of(text[i].p, &o.shingles, &set[i]);
    for (int i = 0, near = 0; i < 400; i++) {
        if (t.of[i] >= 0) { /* what stays in its place comes before it, stays, and is near */
            assert_true(t.of[i] < i && t.of[t.of[i]] < 0);
            if (near < t.n_near && t.near[near].row == i) {
                assert_int_equal(t.near[near].of, t.of[i]);
                assert_true(fabs(sets_jaccard(&set[i], &set[t.of[i]]) - (double)t.near[near++].jaccard) < 1e-6);
                assert_true(sets_jaccard(&set[i], &set[t.of[i]]) >= 0.7);
            }
            continue;
        }
        for (int k = 0; k < i; k++) /* what stays is near nothing before it that stays, but by the bands' chance */
            if (t.of[k] < 0) missed += sets_jaccard(&set[i], &set[k]) >= 0.7;
    }
    for (int i = 0; i < 400; i++)
        for (int k = 0; k < i; k++) pairs += sets_jaccard(&set[i], &set[k]) >= 0.7;
    if (missed > 6 || t.n_near < 100 || t.n_equal < 20)
        flunk("%d equal, %d near, %d of %d pairs missed", t.n_equal, t.n_near, missed, pairs);
    must(twins_find(&s, &o, &again));
    assert_memory_equal(t.of, again.of, 400 * sizeof *t.of);
    twins_free(&again);
    struct twin_options parts = o;
    parts.part = 37; /* eleven parts of each column */
    must(twins_find(&s, &parts, &again));
    assert_true(again.n_near == t.n_near && again.n_equal == t.n_equal && again.clusters == t.clusters && again.largest == t.largest);
    assert_memory_equal(t.of, again.of, 400 * sizeof *t.of);
    twins_free(&again);
    must(twins_find(&s, &(struct twin_options){.exact = true}, &again));
    assert_true(again.n_equal == t.n_equal && !again.n_near);
    twins_free(&again);
    assert_int_equal(twins_find(&s, &(struct twin_options){.threshold = 0.01, .permutations = 16, .shingles = {5, false}}, &again),
                     E_USAGE);
    twins_free(&t);
    source_close(&s);
    for (int i = 0; i < 400; i++) str_free(&text[i]), hashes_free(&set[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_normal), cmocka_unit_test(test_estimate), cmocka_unit_test(test_bands),
                                       cmocka_unit_test(test_keys), cmocka_unit_test(test_twins)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
