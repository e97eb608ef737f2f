/* Closed-book questions: is what a model wrote the answer, an admission that it does not know, or something made up?
 *
 * An answer is right where its words, one after the other, stand in what was written, as PopQA counts (Mallen et al. 2023, "When Not to Trust
 * Language Models"): people and models answer in sentences. Words are compared as SQuAD's script has them: in lower case, without
 * punctuation, without a, an and the. Phrases that abstain are found the same way. So "I don't know, perhaps Paris" is right where Paris is.
 *
 * A model that names every city is right too: keep max_new_tokens short. Called by guard.c (train). */
#include "data/questions.h"
#include "data/symbols.h"
#include <string.h>

static bool is_article(const uint32_t *v, size_t n) {
    return (n == 1 && v[0] == 'a') || (n == 2 && v[0] == 'a' && v[1] == 'n') || (n == 3 && v[0] == 't' && v[1] == 'h' && v[2] == 'e');
}

static bool is_apostrophe(uint32_t c) { return c == '\'' || c == 0x2019; }

static bool parts(uint32_t c) { return char_is_space(c) || char_is_punct(c) || (c >= 0x2010 && c < 0x2070) || c == 0xAB || c == 0xBB; }

/* " who wrote it ", in t: words with a space around each. */
static void fold(struct line *l, const char *s, struct text *t) {
    line_decode(l, s, &l->h);
    line_lower(l, &l->h, &l->th);
    t->n = 0;
    line_put(l, t, ' ');
    for (size_t i = 0, from = t->n; i <= l->th.n && !l->failed; i++) {
        const uint32_t c = i < l->th.n ? l->th.v[i] : ' ';
        if (is_apostrophe(c)) continue;
        if (!parts(c)) line_put(l, t, c);
        else if (t->n > from && is_article(t->v + from, t->n - from)) t->n = from;
        else if (t->n > from) line_put(l, t, ' '), from = t->n;
    }
}

/* Does one of the phrases stand in l->r? */
static bool stands(struct line *l, struct phrases list) {
    for (int i = 0; i < list.n; i++) {
        fold(l, list.v[i], &l->tr);
        for (size_t at = 0; l->tr.n > 1 && at + l->tr.n <= l->r.n; at++)
            if (!memcmp(l->r.v + at, l->tr.v, l->tr.n * sizeof *l->tr.v)) return true;
    }
    return false;
}

err answer_judge(const char *said, struct phrases wanted, struct phrases abstains, enum answered *out) {
    struct line l = {0};
    fold(&l, said, &l.r);
    *out = stands(&l, wanted) ? ANSWERED_RIGHT : stands(&l, abstains) ? ANSWERED_NOT : ANSWERED_WRONG;
    const bool failed = l.failed;
    line_free(&l);
    return failed ? fail(E_MEMORY, "out of memory") : OK;
}
