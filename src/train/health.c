/* Is what an adapter writes healthy? Figures of texts alone, so that they are cheap and mean the same for every model and tokenizer:
 *
 *   copy_rate         share of outputs that equal their input
 *   copy_wanted       the same of the references: what copying is right
 *   copy_ngrams       share of the outputs' word trigrams (of shorter texts: of all their words) that stand in the input
 *   length_ratio      characters written for each that was read
 *   distinct_1,2,3    different word n-grams for each n-gram of all outputs
 *   empty, truncated  share of outputs that are nothing but space, and that max_new_tokens ended
 *   most_common       share of the most frequent output; most_common_input: of the most frequent input
 *   entropy           bits for each word of all outputs, by their own frequencies
 *   drift             Jensen-Shannon divergence in bits (0..1) of the outputs' character pairs from those of real texts of the side, less what
 *                     as many other real texts of it have: 0 is a side's own language, about 0.3 another one in the same script
 *
 * A word is a run of letters and digits; any other character, and each one of scripts that write no spaces (from U+2E80 on), is a word of its own.
 * Called by alarms.c for objectives that generate; the alarms over these figures are in alarms.c. */
#define _POSIX_C_SOURCE 200809L
#include "train/health.h"
#include "base/str.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- words ----------------------------------------------------------------------------------------------------------- */
static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

struct hashes {
    uint64_t *v;
    size_t n;
};

/* Of text s; v has room for one per byte. */
static size_t words_of(const char *s, uint64_t *v) {
    size_t n = 0, left = strlen(s);
    bool inside = false;
    while (left) {
        unsigned cp;
        int k = utf8_decode(s, left, &cp);
        if (!k) k = 1, cp = 0xfffd;
        const bool space = cp < 128 && isspace((int)cp),
                   joins = cp < 128 ? isalnum((int)cp) != 0 : cp >= 0xc0 && cp < 0x2e80 && !(cp >= 0x2000 && cp < 0x2070);
        if (!space && !(joins && inside)) v[n++] = 0;
        if (!space) v[n - 1] = mix(v[n - 1] + 1, cp);
        inside = joins;
        s += k;
        left -= (size_t)k;
    }
    return n;
}

/* Word n-grams in place of words; shorter texts have none. */
static size_t grams_of(uint64_t *v, size_t n, int order) {
    if (n < (size_t)order) return 0;
    for (size_t i = 0; i + (size_t)order <= n; i++) {
        uint64_t h = v[i];
        for (int k = 1; k < order; k++) h = mix(h, v[i + (size_t)k]);
        v[i] = h;
    }
    return n - (size_t)order + 1;
}

static int by_value(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static size_t total_bytes(struct texts_in t) {
    size_t n = 0;
    for (int i = 0; i < t.n; i++) n += strlen(t.v[i]);
    return n;
}

/* All n-grams of an order, sorted; those of one text are not joined with the next one's. */
static err all_grams(struct texts_in t, int order, struct hashes *out) {
    *out = (struct hashes){malloc((total_bytes(t) + 1) * sizeof *out->v), 0};
    if (!out->v) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < t.n; i++) {
        uint64_t *at = out->v + out->n;
        out->n += grams_of(at, words_of(t.v[i], at), order);
    }
    qsort(out->v, out->n, sizeof *out->v, by_value);
    return OK;
}

/* Of sorted hashes: how many differ, and the bits for each by their frequencies. */
static double different(const struct hashes *h, double *bits) {
    double kinds = 0, sum = 0;
    for (size_t i = 0, k; i < h->n; i = k, kinds++) {
        for (k = i; k < h->n && h->v[k] == h->v[i];) k++;
        const double p = (double)(k - i) / (double)h->n;
        sum -= p * log2(p);
    }
    *bits = sum;
    return kinds;
}

static err add_distinct(struct texts_in out, json_t *to) {
    for (int order = 1; order <= 3; order++) {
        struct hashes h;
        double bits;
        char name[16];
        TRY(all_grams(out, order, &h));
        const double kinds = different(&h, &bits);
        snprintf(name, sizeof name, "distinct_%d", order);
        if (h.n) json_object_set_new(to, name, json_real(kinds / (double)h.n)); /* texts that are too short have none */
        if (order == 1) json_object_set_new(to, "entropy", json_real(bits));
        free(h.v);
    }
    return OK;
}

/* --- copies ---------------------------------------------------------------------------------------------------------- */
static bool is_empty(const char *s) { return bytes_are_blank(s, strlen(s)); }

static double equal_share(struct texts_in a, struct texts_in b) {
    int n = 0;
    for (int i = 0; i < a.n; i++) n += !is_empty(a.v[i]) && !strcmp(a.v[i], b.v[i]);
    return (double)n / a.n;
}

static err add_copied_grams(struct texts_in in, struct texts_in out, json_t *to) {
    uint64_t *v = malloc((total_bytes(in) + total_bytes(out) + 1) * sizeof *v);
    double copied = 0, all = 0;
    if (!v) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < out.n; i++) {
        size_t n = words_of(out.v[i], v);
        const int order = n < 3 ? (int)n : 3;
        if (!order) continue;
        n = grams_of(v, n, order);
        uint64_t *read = v + n;
        const size_t m = grams_of(read, words_of(in.v[i], read), order);
        qsort(read, m, sizeof *read, by_value);
        for (size_t k = 0; k < n; k++) copied += bsearch(&v[k], read, m, sizeof *v, by_value) != NULL;
        all += (double)n;
    }
    free(v);
    json_object_set_new(to, "copy_ngrams", json_real(all > 0 ? copied / all : 0));
    return OK;
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static err most_common(struct texts_in t, const char *name, json_t *to) {
    const char **v = malloc((size_t)t.n * sizeof *v);
    int most = 0;
    if (!v) return fail(E_MEMORY, "out of memory");
    memcpy(v, t.v, (size_t)t.n * sizeof *v);
    qsort(v, (size_t)t.n, sizeof *v, by_text);
    for (int i = 0, k; i < t.n; i = k) {
        for (k = i; k < t.n && !strcmp(v[k], v[i]);) k++;
        if (k - i > most) most = k - i;
    }
    free(v);
    json_object_set_new(to, name, json_real((double)most / t.n));
    return OK;
}

/* --- drift ----------------------------------------------------------------------------------------------------------- */
enum { PAIRS = 4096 }; /* kinds of character pairs, by a hash */

static double characters(struct texts_in t) {
    double n = 0;
    for (int i = 0; i < t.n; i++)
        for (const char *s = t.v[i]; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

/* Each text begins and ends with a space. */
static void count_pairs(struct texts_in t, double count[PAIRS]) {
    memset(count, 0, PAIRS * sizeof *count);
    for (int i = 0; i < t.n; i++) {
        const char *s = t.v[i];
        unsigned before = ' ', cp;
        for (size_t left = strlen(s) + 1; left; left -= (size_t)1) {
            int k = left > 1 ? utf8_decode(s, left - 1, &cp) : 0;
            if (!k) k = 1, cp = left > 1 ? 0xfffd : ' ';
            count[mix(mix(1, before), cp) % PAIRS]++;
            before = cp;
            s += k;
            left -= (size_t)(k - 1);
        }
    }
}

static double divergence(const double a[PAIRS], const double b[PAIRS]) {
    double na = 0, nb = 0, sum = 0;
    for (int i = 0; i < PAIRS; i++) na += a[i], nb += b[i];
    for (int i = 0; i < PAIRS; i++) {
        const double p = a[i] / na, q = b[i] / nb, m = (p + q) / 2;
        if (p > 0) sum += p / 2 * log2(p / m);
        if (q > 0) sum += q / 2 * log2(q / m);
    }
    return sum;
}

/* Few texts diverge from any: so much as real ones do is taken off. The real texts are cut in two, a part of about the outputs' size first. */
static err add_drift(struct texts_in out, struct texts_in real, json_t *to) {
    if (real.n < 2 || characters(out) == 0) return OK;
    double *a = malloc(3 * PAIRS * sizeof *a), *b = a + PAIRS, *c = b + PAIRS;
    if (!a) return fail(E_MEMORY, "out of memory");
    const int some = out.n < real.n / 2 ? out.n : real.n / 2;
    count_pairs(out, a);
    count_pairs((struct texts_in){real.v, some}, b);
    count_pairs((struct texts_in){real.v + some, real.n - some}, c);
    const double far = divergence(a, c) - divergence(b, c);
    free(a);
    json_object_set_new(to, "drift", json_real(far > 0 ? far : 0));
    return OK;
}

err health_texts(const struct health_ask *ask, json_t *to) {
    int empty = 0;
    for (int i = 0; i < ask->out.n; i++) empty += is_empty(ask->out.v[i]);
    const double read = characters(ask->in);
    json_object_set_new(to, "copy_rate", json_real(equal_share(ask->out, ask->in)));
    if (ask->wanted.n) json_object_set_new(to, "copy_wanted", json_real(equal_share(ask->wanted, ask->in)));
    TRY(add_copied_grams(ask->in, ask->out, to));
    if (read > 0) json_object_set_new(to, "length_ratio", json_real(characters(ask->out) / read));
    TRY(add_distinct(ask->out, to));
    json_object_set_new(to, "empty", json_real((double)empty / ask->out.n));
    json_object_set_new(to, "truncated", json_real((double)ask->truncated / ask->out.n));
    TRY(most_common(ask->out, "most_common", to));
    TRY(most_common(ask->in, "most_common_input", to));
    return add_drift(ask->out, ask->real, to);
}

/* --- movement -------------------------------------------------------------------------------------------------------- */
void sketch_add(double sketch[SKETCH], const float *x, int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint64_t h = mix(mix(3, (uint64_t)(first + i)), 5);
        sketch[h >> 56] += h >> 55 & 1 ? (double)x[i] : -(double)x[i];
    }
}

double sketch_distance(const double a[SKETCH], const double b[SKETCH]) {
    double sum = 0;
    for (int i = 0; i < SKETCH; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sqrt(sum);
}
