/* See metrics.h. */
#include "data/metrics.h"
#include "base/str.h"
#include "data/score.h"
#include <string.h>

static const struct metric table[] = {
#define METRIC(name, title, family, slot, lower, doc) {name, title, doc, score_##family, slot, lower},
#include "data/metrics.def"
#undef METRIC
};
enum { N_METRICS = sizeof table / sizeof *table };
static const char *const known[] = {
#define METRIC(name, title, family, slot, lower, doc) name,
#include "data/metrics.def"
#undef METRIC
    NULL};

const struct metric *metrics_all(int *n) {
    *n = N_METRICS;
    return table;
}

const struct metric *metric_find(const char *name) {
    for (int i = 0; i < N_METRICS; i++)
        if (!strcmp(name, known[i])) return &table[i];
    return NULL;
}

err metric_unknown(const char *name) {
    const char *near = strlen(name) < 64 ? str_nearest(name, known) : NULL;
    str all = {0};
    for (int i = 0; i < N_METRICS; i++) str_addf(&all, "%s%s", i ? ", " : "", known[i]);
    err e = near ? fail(E_USAGE, "there is no metric '%s'; did you mean '%s'? (%s)", name, near, all.p ? all.p : "")
                 : fail(E_USAGE, "there is no metric '%.60s' (%s)", name, all.p ? all.p : "");
    str_free(&all);
    return e;
}

err score_ngrams(const struct scored *in, double *out) {
    struct scores s;
    TRY(score_texts(in->hyp, in->ref, in->n, &s));
    out[0] = s.bleu, out[1] = s.chrf, out[2] = s.chrf_pp, out[3] = s.exact;
    return OK;
}

err metrics_score(const char *const *names, int n_names, const struct scored *in, double *out) {
    if (in->n <= 0) return fail(E_USAGE, "no texts to score");
    for (int i = 0; i < n_names; i++)
        if (!metric_find(names[i])) return metric_unknown(names[i]);
    for (int i = 0; i < n_names; i++) {
        const struct metric *m = metric_find(names[i]);
        double got[FAMILY_SLOTS] = {0};
        bool had = false;
        for (int k = 0; k < i && !had; k++) had = metric_find(names[k])->family == m->family;
        if (had) continue;
        TRY(m->family(in, got));
        for (int k = i; k < n_names; k++) {
            const struct metric *other = metric_find(names[k]);
            if (other->family == m->family) out[k] = got[other->slot];
        }
    }
    return OK;
}
