/* See class_score.h. */
#include "data/class_score.h"

static double ratio(int64_t part, int64_t whole) { return whole ? (double)part / (double)whole : 0; }

struct class_totals class_scores(const int64_t *counts, int n, struct class_score *each) {
    int64_t right = 0, all = 0;
    double f1 = 0;
    int seen = 0;
    for (int i = 0; i < n; i++) {
        struct class_score *s = &each[i];
        *s = (struct class_score){0};
        for (int k = 0; k < n; k++) s->support += counts[(int64_t)i * n + k], s->predicted += counts[(int64_t)k * n + i];
        const int64_t hits = counts[(int64_t)i * n + i];
        s->precision = ratio(hits, s->predicted);
        s->recall = ratio(hits, s->support);
        s->f1 = ratio(2 * hits, s->support + s->predicted);
        seen += s->support || s->predicted;
        f1 += s->f1;
        right += hits;
        all += s->support;
    }
    return (struct class_totals){ratio(right, all), seen ? f1 / seen : 0};
}
