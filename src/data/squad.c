/* How answers in words are told right or wrong. SQuAD's own way (Rajpurkar et al. 2016, the official evaluation script): both texts in
 * lower case, without ASCII punctuation and the articles a, an, the, words parted by one space; then equal or not, and the F1 of the words
 * as a bag. And the plain equality of the lm-evaluation-harness's exact_match, with or without case and punctuation. */
#include "data/answers.h"
#include "data/metrics.h"
#include "data/symbols.h"
#include "io/unicode.h"
#include <string.h>

static bool is_word(uint32_t c) { return chars_has(CHARS_WORD, c); }

static void without_punct(struct text *t) {
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        if (!char_is_punct(t->v[i])) t->v[n++] = t->v[i];
    t->n = n;
}

/* Letters of the article that begins at i and ends there as a word; 0: none does. */
static size_t article(const struct text *t, size_t i) {
    static const char *const words[] = {"a", "an", "the"};
    if (i && is_word(t->v[i - 1])) return 0;
    for (int w = 0; w < 3; w++) {
        const size_t n = strlen(words[w]);
        size_t k = 0;
        while (k < n && i + k < t->n && t->v[i + k] == (uint32_t)words[w][k]) k++;
        if (k == n && (i + n == t->n || !is_word(t->v[i + n]))) return n;
    }
    return 0;
}

static void words_of(struct line *l, const char *s, struct text *raw, struct text *low, struct words *out) {
    line_decode(l, s, raw);
    line_lower(l, raw, low);
    without_punct(low);
    for (size_t i = 0, n; i < low->n; i += n ? n : 1) {
        n = article(low, i);
        for (size_t k = 0; k < n; k++) low->v[i + k] = ' ';
    }
    line_split(l, low, false, out);
}

/* Words that both have, each as often as it is in both. */
static size_t common(struct line *l) {
    const struct text *h = &l->sh, *r = &l->sr;
    char *used = line_room(l, r->n);
    size_t n = 0;
    if (!used) return 0;
    memset(used, 0, r->n);
    for (size_t i = 0; i < h->n; i++)
        for (size_t j = 0; j < r->n; j++)
            if (!used[j] && h->v[i] == r->v[j]) {
                used[j] = 1, n++;
                break;
            }
    return n;
}

err score_squad(const struct scored *in, double *out) {
    struct line l = {0};
    double equal = 0, f1 = 0;
    for (int i = 0; i < in->n && !l.failed; i++) {
        words_of(&l, in->hyp[i], &l.h, &l.th, &l.wh);
        words_of(&l, in->ref[i], &l.r, &l.tr, &l.wr);
        line_symbols(&l);
        if (l.failed) break;
        const size_t both = common(&l);
        const bool same = l.sh.n == l.sr.n && (!l.sh.n || !memcmp(l.sh.v, l.sr.v, l.sh.n * sizeof *l.sh.v));
        equal += same;
        f1 += !l.sh.n || !l.sr.n ? same : 2.0 * (double)both / (double)(l.sh.n + l.sr.n);
    }
    const bool failed = l.failed;
    line_free(&l);
    if (failed) return fail(E_MEMORY, "out of memory");
    out[0] = 100 * equal / in->n;
    out[1] = 100 * f1 / in->n;
    return OK;
}

err answer_equal(const char *text, const char *answer, bool ignore_case, bool ignore_punctuation, bool *equal) {
    struct line l = {0};
    const struct {
        const char *s;
        struct text *raw, *low;
    } both[2] = {{text, &l.h, &l.th}, {answer, &l.r, &l.tr}};
    struct text *t[2];
    for (int i = 0; i < 2; i++) {
        line_decode(&l, both[i].s, t[i] = both[i].raw);
        if (ignore_case) line_lower(&l, both[i].raw, t[i] = both[i].low);
        if (ignore_punctuation) without_punct(t[i]);
    }
    *equal = t[0]->n == t[1]->n && (!t[0]->n || !memcmp(t[0]->v, t[1]->v, t[0]->n * sizeof *t[0]->v));
    const bool failed = l.failed;
    line_free(&l);
    return failed ? fail(E_MEMORY, "out of memory") : OK;
}
