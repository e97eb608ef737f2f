/* Scores of lists of items (listing.h): entities and triples.
 *
 * Of entities a list says type and mention but no place, so a right one is one that the reference has too, as often as it has it. Where no
 * two mentions of a sentence are alike that is what seqeval counts (type and both ends), and `partial` is SemEval-2013's as nervaluate has
 * it: in the order of the text a said mention takes the first of the right ones with the same words, whatever the type, or else half
 * a point for the first that shares a word with it. Precision and recall are over all lines, their harmonic mean is the score.
 *
 * Triples are a set: twice the same in one line counts once. An item that cannot be read is said and wrong; in a reference it is an error. */
#include "data/listing.h"
#include "data/metrics.h"
#include <stdlib.h>
#include <string.h>

struct tally {
    double said, truth, right, points;
};

static bool has_word(const char *text, const char *word, size_t n) {
    for (size_t m; text += strspn(text, " "), (m = strcspn(text, " ")); text += m)
        if (n == m && !strncmp(text, word, n)) return true;
    return false;
}

static bool shares_word(const char *a, const char *b) {
    for (size_t n; a += strspn(a, " "), (n = strcspn(a, " ")); a += n)
        if (has_word(b, a, n)) return true;
    return false;
}

static const char *mention(const struct item *i) { return i->n == 2 ? i->field[1] : ""; }

/* One line's points of `partial`. */
static double partial(const struct listing *said, const struct listing *truth, bool *used) {
    double points = 0;
    memset(used, 0, (size_t)truth->n);
    for (int i = 0; i < said->n; i++) {
        const char *m = mention(&said->v[i]);
        int half = -1, whole = -1;
        for (int k = 0; k < truth->n && whole < 0; k++) {
            if (used[k]) continue;
            if (*m && !strcmp(m, truth->v[k].field[1])) whole = k;
            else if (half < 0 && shares_word(m, truth->v[k].field[1])) half = k;
        }
        if (whole < 0 && half < 0) continue;
        used[whole < 0 ? half : whole] = true;
        points += whole < 0 ? 0.5 : 1;
    }
    return points;
}

/* How many of `said` the truth has too. */
static int right(const struct listing *said, const struct listing *truth, bool *used) {
    int n = 0;
    memset(used, 0, (size_t)truth->n);
    for (int i = 0; i < said->n; i++)
        for (int k = 0; k < truth->n; k++) {
            if (used[k] || !item_equal(&said->v[i], &truth->v[k])) continue;
            used[k] = true;
            n++;
            break;
        }
    return n;
}

static void make_set(struct listing *l) {
    int n = 0;
    for (int i = 0; i < l->n; i++) {
        bool there = false;
        for (int k = 0; k < n && !there; k++) there = item_equal(&l->v[i], &l->v[k]);
        if (!there) l->v[n++] = l->v[i];
    }
    l->n = n;
}

static err readable(const struct listing_form *f, const struct listing *l, int row, const char *text) {
    for (int i = 0; i < l->n; i++)
        if (l->v[i].n != f->fields)
            return fail(E_INPUT, "reference %d is no list of %s (\"%.80s\"): an item has %d of the %d parts that \"%s\" separates", row + 1,
                        f->name, text, l->v[i].n, f->fields, f->within);
    return OK;
}

static err tally_line(const struct listing_form *f, const struct scored *in, int i, struct listing *said, struct listing *truth,
                      struct tally *t) {
    TRY(listing_parse(f, in->hyp[i], said));
    TRY(listing_parse(f, in->ref[i], truth));
    TRY(readable(f, truth, i, in->ref[i]));
    if (f == &listing_triples) make_set(said), make_set(truth);
    bool *used = malloc((size_t)truth->n + 1);
    if (!used) return fail(E_MEMORY, "out of memory");
    t->said += said->n;
    t->truth += truth->n;
    t->right += right(said, truth, used);
    if (f == &listing_entities) t->points += partial(said, truth, used);
    free(used);
    return OK;
}

static double f1(double points, const struct tally *t) { return t->said + t->truth > 0 ? 200 * points / (t->said + t->truth) : 0; }

static err score_items(const struct listing_form *f, const struct scored *in, double *out) {
    struct listing said = {0}, truth = {0};
    struct tally t = {0};
    err e = OK;
    for (int i = 0; i < in->n && !e; i++) e = tally_line(f, in, i, &said, &truth, &t);
    listing_free(&said);
    listing_free(&truth);
    out[0] = f1(t.right, &t);
    out[1] = f1(t.points, &t);
    return e;
}

err score_entities(const struct scored *in, double *out) { return score_items(&listing_entities, in, out); }
err score_triples(const struct scored *in, double *out) { return score_items(&listing_triples, in, out); }
