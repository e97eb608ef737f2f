/* BLEU (Papineni et al. 2002) and chrF (Popovic 2015, 2017) as sacrebleu computes them. See score.h.
 *
 * Everything is counted on symbols (symbols.h): chrF's are code points, those of a list of words are numbers. One function counts
 * the n-grams that two lists share, for characters and words alike: an n-gram's class is the pair (class of its first n-1
 * symbols, last symbol), numbered anew at each order by sorting, so that no n-gram is ever built as a string.
 *
 * sacrebleu's details that a textbook leaves out, kept because scores are compared with its:
 *   - chrF ignores a line's hypothesis n-grams of an order that its reference has none of;
 *   - orders are averaged only where both sides have n-grams over the whole corpus;
 *   - chrF++ splits one punctuation mark off a word's end, else off its start, never both;
 *   - BLEU is 0 when some order has no n-gram at all, and unmatched orders are halved again each time;
 *   - 13a's rules replace left to right without overlap, so in "a.." the second dot is still unsplit after rule 2.
 *
 * Called for a few hundred lines at a time; memory is per line and freed at the end. */
#include "data/score.h"
#include "data/symbols.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLEU_ORDER = 4, CHAR_ORDER = 6, WORD_ORDER = 2 };

struct gram {
    uint64_t key; /* class of the first n-1 symbols << 32 | last symbol */
    uint32_t at;
};
struct counts {
    int64_t hyp, ref, match;
};

static bool is_digit(uint32_t c) { return c >= '0' && c <= '9'; }
static bool is_stop(uint32_t c) { return c == '.' || c == ','; }
/* 13a sets these apart wherever they stand: all punctuation but ' , - . */
static bool is_split(uint32_t c) { return char_is_punct(c) && c != '\'' && c != '-' && !is_stop(c); }

/* The number of code points of t at i that spell the ASCII string s, or 0. */
static size_t spells(const struct text *t, size_t i, const char *s) {
    size_t n = strlen(s);
    if (t->n - i < n) return 0;
    for (size_t k = 0; k < n; k++)
        if (t->v[i + k] != (unsigned char)s[k]) return 0;
    return n;
}

/* Replaces every `from` of t, in place (no replacement is longer than what it replaces). to = 0: removes it. */
static void replace(struct text *t, const char *from, uint32_t to) {
    size_t n = 0;
    for (size_t i = 0; i < t->n;) {
        size_t k = spells(t, i, from);
        if (!k || to) t->v[n++] = k ? to : t->v[i];
        i += k ? k : 1;
    }
    t->n = n;
}

/* mteval-v13a's tokenisation of t, as text with spaces between the tokens; tmp is overwritten too. */
static void tokenise_13a(struct line *l, struct text *t, struct text *tmp) {
    static const struct {
        const char *from;
        uint32_t to;
    } plain[] = {{"<skipped>", 0}, {"-\n", 0}, {"\n", ' '}, {"&quot;", '"'}, {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}};
    while (t->n && char_is_space(t->v[t->n - 1])) t->n--;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) replace(t, plain[i].from, plain[i].to);
    tmp->n = 0;
    line_put(l, tmp, ' ');
    for (size_t i = 0; i < t->n; i++) {
        bool apart = is_split(t->v[i]);
        if (apart) line_put(l, tmp, ' ');
        line_put(l, tmp, t->v[i]);
        if (apart) line_put(l, tmp, ' ');
    }
    line_put(l, tmp, ' ');
    t->n = 0;
    for (size_t i = 0; i < tmp->n; i++) { /* a period or comma that follows no digit */
        line_put(l, t, tmp->v[i]);
        if (is_digit(tmp->v[i]) || i + 1 == tmp->n || !is_stop(tmp->v[i + 1])) continue;
        line_put(l, t, ' ');
        line_put(l, t, tmp->v[++i]);
        line_put(l, t, ' ');
    }
    tmp->n = 0;
    for (size_t i = 0; i < t->n; i++) { /* a period or comma that no digit follows */
        bool apart = is_stop(t->v[i]) && i + 1 < t->n && !is_digit(t->v[i + 1]);
        if (apart) line_put(l, tmp, ' ');
        line_put(l, tmp, t->v[i]);
        if (!apart) continue;
        line_put(l, tmp, ' ');
        line_put(l, tmp, t->v[++i]);
    }
    t->n = 0;
    for (size_t i = 0; i < tmp->n; i++) { /* a dash after a digit */
        bool apart = tmp->v[i] == '-' && i && is_digit(tmp->v[i - 1]);
        if (apart) line_put(l, t, ' ');
        line_put(l, t, tmp->v[i]);
        if (apart) line_put(l, t, ' ');
    }
}

static void remove_spaces(struct text *t) {
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        if (!char_is_space(t->v[i])) t->v[n++] = t->v[i];
    t->n = n;
}

static int gram_order(const void *a, const void *b) {
    uint64_t x = ((const struct gram *)a)->key, y = ((const struct gram *)b)->key;
    return (x > y) - (x < y);
}

/* Numbers of n-grams of orders 1..orders in h, in r, and in both (each as often as in the poorer one). */
static void count(struct line *l, const struct text *h, const struct text *r, int orders, struct counts *out) {
    size_t all = h->n + r->n;
    struct gram *g = line_room(l, all * (sizeof *g + sizeof(uint32_t)));
    uint32_t *class = (uint32_t *)(g + all);
    memset(out, 0, (size_t)orders * sizeof *out);
    if (l->failed) return;
    for (size_t i = 0; i < all; i++) class[i] = 0;
    for (size_t n = 1; n <= (size_t)orders; n++) {
        struct counts *c = &out[n - 1];
        size_t k = 0;
        for (size_t i = 0; i < all; i++) {
            bool mine = i < h->n;
            size_t j = mine ? i : i - h->n;
            const struct text *t = mine ? h : r;
            if (j + n > t->n) continue;
            g[k++] = (struct gram){(uint64_t) class[i] << 32 | t->v[j + n - 1], (uint32_t)i};
            if (mine) c->hyp++;
            else c->ref++;
        }
        if (k) qsort(g, k, sizeof *g, gram_order);
        for (size_t i = 0, j; i < k; i = j) {
            int64_t in_h = 0, in_r = 0;
            for (j = i; j < k && g[j].key == g[i].key; j++) {
                class[g[j].at] = (uint32_t)i;
                if (g[j].at < h->n) in_h++;
                else in_r++;
            }
            c->match += in_h < in_r ? in_h : in_r;
        }
    }
}

static double bleu_of(const struct counts c[BLEU_ORDER]) {
    double logs = 0, halve = 1;
    bool any = false;
    for (int i = 0; i < BLEU_ORDER; i++) {
        if (!c[i].hyp) return 0;
        any |= c[i].match > 0;
        if (!c[i].match) halve *= 2;
        logs += log(100.0 * (c[i].match ? (double)c[i].match : 1 / halve) / (double)c[i].hyp);
    }
    double h = (double)c[0].hyp, r = (double)c[0].ref;
    return any ? (h < r ? exp(1 - r / h) : 1) * exp(logs / BLEU_ORDER) : 0;
}

static double chrf_of(const struct counts *c, int orders) {
    double prec = 0, rec = 0;
    int used = 0;
    for (int i = 0; i < orders; i++) {
        if (!c[i].hyp || !c[i].ref) continue;
        prec += (double)c[i].match / (double)c[i].hyp;
        rec += (double)c[i].match / (double)c[i].ref;
        used++;
    }
    if (prec + rec == 0) return 0;
    prec /= used;
    rec /= used;
    return 100 * 5 * prec * rec / (4 * prec + rec); /* beta = 2: recall counts four times */
}

static void add_chrf(struct counts *sum, const struct counts *c, int orders) {
    for (int i = 0; i < orders; i++) {
        sum[i].hyp += c[i].ref ? c[i].hyp : 0;
        sum[i].ref += c[i].ref;
        sum[i].match += c[i].match;
    }
}

/* Adds one line's counts to the corpus'. chrf: characters, then words. */
static void score_line(struct line *l, const char *hyp, const char *ref, struct counts *bleu, struct counts *chrf) {
    struct counts c[CHAR_ORDER];
    line_decode(l, hyp, &l->h);
    line_decode(l, ref, &l->r);
    line_split(l, &l->h, true, &l->wh);
    line_split(l, &l->r, true, &l->wr);
    line_symbols(l);
    count(l, &l->sh, &l->sr, WORD_ORDER, c);
    add_chrf(chrf + CHAR_ORDER, c, WORD_ORDER);
    line_decode(l, hyp, &l->th);
    line_decode(l, ref, &l->tr);
    remove_spaces(&l->th);
    remove_spaces(&l->tr);
    count(l, &l->th, &l->tr, CHAR_ORDER, c);
    add_chrf(chrf, c, CHAR_ORDER);
    tokenise_13a(l, &l->h, &l->th);
    tokenise_13a(l, &l->r, &l->tr);
    line_split(l, &l->h, false, &l->wh);
    line_split(l, &l->r, false, &l->wr);
    line_symbols(l);
    count(l, &l->sh, &l->sr, BLEU_ORDER, c);
    for (int i = 0; i < BLEU_ORDER; i++) {
        bleu[i].hyp += c[i].hyp;
        bleu[i].ref += c[i].ref;
        bleu[i].match += c[i].match;
    }
}

err score_texts(const char *const *hyp, const char *const *ref, int n, struct scores *out) {
    *out = (struct scores){0};
    if (n <= 0) return fail(E_USAGE, "no texts to score");
    struct line l = {0};
    struct counts bleu[BLEU_ORDER] = {{0}}, chrf[CHAR_ORDER + WORD_ORDER] = {{0}};
    int equal = 0;
    for (int i = 0; i < n && !l.failed; i++) {
        score_line(&l, hyp[i], ref[i], bleu, chrf);
        equal += !strcmp(hyp[i], ref[i]);
    }
    const bool failed = l.failed;
    line_free(&l);
    if (failed) return fail(E_MEMORY, "out of memory");
    *out = (struct scores){bleu_of(bleu), chrf_of(chrf, CHAR_ORDER), chrf_of(chrf, CHAR_ORDER + WORD_ORDER), 100.0 * equal / n};
    return OK;
}
