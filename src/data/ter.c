/* TER (Snover et al. 2006): edits of words over words of the reference, where moving a block of words is one edit. As sacrebleu's TER
 * with its defaults, which follows Tercom: lower case, words between whitespace, a greedy search for blocks.
 *
 * A block of the hypothesis may move where the reference has the same words, if an error of the least alignment lies within it on both
 * sides. Every such move is tried, the one that saves most is taken, and the search begins again until none saves anything; then what is
 * left is edit distance. Its limits are Tercom's: blocks of 10 words, moves of 50 places, 1000 tries a line, and a beam of 25 words around
 * the diagonal of the edit distance. They decide scores of long lines, so they are kept.
 *
 * Tries differ from each other behind a common beginning, so the rows of the table that belong to it are left as they are. */
#include "data/metrics.h"
#include "data/symbols.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHIFT_SIZE = 10, SHIFT_DISTANCE = 50, TRIES = 1000, BEAM = 25, FAR = INT32_MAX / 2 };
enum op { OP_NONE, OP_KEEP, OP_SUBSTITUTE, OP_INSERT, OP_DELETE }; /* what turns the hypothesis into the reference */

struct table {
    const uint32_t *ref;
    int h, r;        /* words of hypothesis and reference */
    uint32_t *words; /* [h]: of whom the rows are */
    int rows;        /* so many of them are right */
    int32_t *cost;   /* [h + 1][r + 1] */
    uint8_t *op;
    uint32_t *now, *best, *tried; /* [h] each */
    int *align;                   /* [r]: the last word of the hypothesis that is used up with each of the reference */
    uint8_t *h_err, *r_err;
};

static void beam(const struct table *t, int i, int *from, int *to) {
    const double ratio = (double)t->r / t->h;
    const int wide = BEAM < ratio / 2 ? (int)ceil(ratio / 2 + BEAM) : BEAM, at = (int)floor(i * ratio);
    *from = at > wide ? at - wide : 0;
    *to = i == t->h || at + wide > t->r + 1 ? t->r + 1 : at + wide;
}

static void row(struct table *t, int i) {
    const int w = t->r + 1;
    int32_t *c = t->cost + (size_t)i * w, *up = c - w;
    uint8_t *op = t->op + (size_t)i * w;
    int from, to;
    for (int j = 0; j < w; j++) c[j] = FAR, op[j] = OP_NONE;
    beam(t, i, &from, &to);
    for (int j = from; j < to; j++) {
        if (!j) {
            c[0] = up[0] + 1, op[0] = OP_DELETE;
            continue;
        }
        const bool same = t->words[i - 1] == t->ref[j - 1];
        c[j] = up[j - 1] + !same, op[j] = same ? OP_KEEP : OP_SUBSTITUTE;
        if (up[j] + 1 < c[j]) c[j] = up[j] + 1, op[j] = OP_DELETE;
        if (c[j - 1] + 1 < c[j]) c[j] = c[j - 1] + 1, op[j] = OP_INSERT;
    }
}

static int distance(struct table *t, const uint32_t *words) {
    int same = 0;
    while (same < t->rows && t->words[same] == words[same]) same++;
    memcpy(t->words + same, words + same, (size_t)(t->h - same) * sizeof *words);
    for (int i = same + 1; i <= t->h; i++) row(t, i);
    t->rows = t->h;
    return t->cost[(size_t)t->h * (size_t)(t->r + 1) + (size_t)t->r];
}

/* Which words stand wrong, by the table of the last distance(). */
static void alignment(struct table *t) {
    for (int i = t->h, j = t->r; i > 0 || j > 0;) {
        const uint8_t op = t->op[(size_t)i * (size_t)(t->r + 1) + (size_t)j];
        if (op == OP_DELETE) {
            t->h_err[--i] = 1;
            continue;
        }
        j--;
        t->align[j] = i - 1;
        t->r_err[j] = op != OP_KEEP;
        if (op != OP_INSERT) t->h_err[--i] = op != OP_KEEP;
    }
}

/* `n` words from `start` go before what stands at `to`; behind themselves: after as many words as `to` says. */
static void move(const uint32_t *in, int h, int start, int n, int to, uint32_t *out) {
    int at = to <= start ? to : to > start + n ? to - n : to, k = 0;
    if (at > h - n) at = h - n;
    for (int i = 0; i < h; i++) {
        if (k == at) memcpy(out + k, in + start, (size_t)n * sizeof *in), k += n;
        if (i < start || i >= start + n) out[k++] = in[i];
    }
    if (k == at) memcpy(out + k, in + start, (size_t)n * sizeof *in);
}

static bool wrong(const uint8_t *marks, int n) { return memchr(marks, 1, (size_t)n) != NULL; }

struct found {
    int saved, length, start, to, tries;
};

/* Is the first a better move: by what it saves, then longer, from further left, to further left. */
static bool better(const struct found *a, const struct found *b) {
    if (a->saved != b->saved) return a->saved > b->saved;
    if (a->length != b->length) return a->length > b->length;
    return a->start != b->start ? a->start < b->start : a->to < b->to;
}

/* The places where a block can go: behind what each word of its counterpart, and the one before, is aligned to. */
static void try_block(struct table *t, int before, int start, int r_start, int n, struct found *best) {
    if (!wrong(t->h_err + start, n) || !wrong(t->r_err + r_start, n)) return;
    if (t->align[r_start] >= start && t->align[r_start] < start + n) return;
    for (int offset = -1, last = -1; offset < n; offset++) {
        const int to = r_start + offset < 0 ? 0 : t->align[r_start + offset] + 1;
        if (to == last) continue;
        last = to;
        move(t->now, t->h, start, n, to, t->tried);
        const struct found f = {before - distance(t, t->tried), n, start, to, 0};
        if (best->tries++ && !better(&f, best)) continue;
        *best = (struct found){f.saved, n, start, to, best->tries};
        memcpy(t->best, t->tried, (size_t)t->h * sizeof *t->best);
    }
}

/* The best move of t->now; tries: of the line so far. False: none is left that saves anything. */
static bool shift(struct table *t, int *tries) {
    struct found best = {0};
    const int before = distance(t, t->now);
    alignment(t);
    for (int i = 0; i < t->h && *tries + best.tries < TRIES; i++)
        for (int j = 0; j < t->r && *tries + best.tries < TRIES; j++) {
            if (abs(i - j) > SHIFT_DISTANCE) continue;
            for (int n = 1; n <= SHIFT_SIZE && i + n <= t->h && j + n <= t->r && t->now[i + n - 1] == t->ref[j + n - 1]; n++) {
                try_block(t, before, i, j, n, &best);
                if (*tries + best.tries >= TRIES) break;
            }
        }
    *tries += best.tries;
    return *tries < TRIES && best.tries && best.saved > 0;
}

static bool table_begin(struct line *l, struct table *t) {
    const size_t h = l->sh.n, r = l->sr.n, cells = (h + 1) * (r + 1);
    char *p = line_room(l, cells * 5 + (4 * h + r) * 4 + h + r);
    if (!p) return false;
    *t = (struct table){.ref = l->sr.v, .h = (int)h, .r = (int)r};
    t->cost = (int32_t *)p;
    t->words = (uint32_t *)(t->cost + cells);
    t->now = t->words + h, t->best = t->now + h, t->tried = t->best + h;
    t->align = (int *)(t->tried + h);
    t->op = (uint8_t *)(t->align + r);
    t->h_err = t->op + cells, t->r_err = t->h_err + h;
    for (int j = 0; j <= t->r; j++) t->cost[j] = j, t->op[j] = OP_INSERT;
    if (h) memcpy(t->now, l->sh.v, h * sizeof *t->now);
    return true;
}

static int edits(struct line *l) {
    struct table t;
    int shifts = 0, tries = 0;
    if (l->failed || !l->sr.n || !l->sh.n) return (int)(l->sh.n + l->sr.n);
    if (!table_begin(l, &t)) return 0;
    while (shift(&t, &tries)) {
        uint32_t *moved = t.best;
        t.best = t.now, t.now = moved;
        shifts++;
    }
    return shifts + distance(&t, t.now);
}

static void words_of(struct line *l, const char *s, struct text *raw, struct text *low, struct words *out) {
    line_decode(l, s, raw);
    line_lower(l, raw, low);
    line_split(l, low, false, out);
}

err score_ter(const struct scored *in, double *out) {
    struct line l = {0};
    double sum = 0, words = 0;
    for (int i = 0; i < in->n && !l.failed; i++) {
        words_of(&l, in->hyp[i], &l.h, &l.th, &l.wh);
        words_of(&l, in->ref[i], &l.r, &l.tr, &l.wr);
        line_symbols(&l);
        sum += edits(&l);
        words += (double)l.sr.n;
    }
    const bool failed = l.failed;
    line_free(&l);
    if (failed) return fail(E_MEMORY, "out of memory");
    out[0] = 100 * (words > 0 ? sum / words : sum > 0);
    return OK;
}
