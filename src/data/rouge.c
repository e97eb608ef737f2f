/* ROUGE-L (Lin 2004) as the package rouge-score computes `rougeL` without a stemmer: F1 of the longest common subsequence of words,
 * where a word is a run of a-z and 0-9 in lower case and everything else separates; a text without a word scores 0. The mean over the
 * lines, 0..100. */
#include "data/metrics.h"
#include "data/symbols.h"

static bool is_word(uint32_t c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

static void words_of(struct line *l, const char *s, struct text *raw, struct text *low, struct words *out) {
    line_decode(l, s, raw);
    line_lower(l, raw, low);
    for (size_t i = 0; i < low->n; i++)
        if (!is_word(low->v[i])) low->v[i] = ' ';
    line_split(l, low, false, out);
}

err score_rouge_l(const struct scored *in, double *out) {
    struct line l = {0};
    double sum = 0;
    for (int i = 0; i < in->n && !l.failed; i++) {
        words_of(&l, in->hyp[i], &l.h, &l.th, &l.wh);
        words_of(&l, in->ref[i], &l.r, &l.tr, &l.wr);
        line_symbols(&l);
        const double common = l.failed ? 0 : (double)line_common(&l, &l.sh, &l.sr);
        if (common > 0) sum += 2 * common / (double)(l.sh.n + l.sr.n);
    }
    const bool failed = l.failed;
    line_free(&l);
    if (failed) return fail(E_MEMORY, "out of memory");
    out[0] = 100 * sum / in->n;
    return OK;
}
