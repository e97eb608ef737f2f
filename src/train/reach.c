/* See reach.h. */
#include "train/reach.h"
#include "base/log.h"
#include "base/str.h"
#include "core/flat.h"
#include <stdlib.h>

enum { NAMED = 6 };

static int count_slices(const struct param_set *s) {
    int n = 0;
    for (int i = 0; i < s->n; i++) n += s->p[i].n_slices;
    return n;
}

/* The slice's part of an arena. */
static const float *part(const struct param *p, const struct param_slice *s, const float *all, int64_t *n) {
    const int64_t columns = p->nd > 1 ? p->d[1] : 1;
    *n = s->rows * columns;
    return all + p->off / sizeof(float) + s->row0 * columns;
}

static err look(const struct reach *w, const struct reaching *on, int *zero) {
    const struct param_set *set = on->set;
    *zero = 0;
    for (int i = 0, at = 0; i < set->n; i++)
        for (int k = 0; k < set->p[i].n_slices; k++, at++) {
            double squares = 1;
            int64_t n;
            const float *x = part(&set->p[i], &set->p[i].slice[k], on->grad, &n);
            w->seen[at] |= set->p[i].frozen; /* it has no gradient */
            if (!w->seen[at]) TRY(on->backend->flat->sumsq(x, n, on->threads, &squares));
            w->seen[at] |= squares != 0; /* not a number is not zero */
            *zero += !w->seen[at];
        }
    return OK;
}

/* Of those that are zero (occasional ones, or the others): how many, and the first names. */
static int name_zero(const struct reach *w, const struct param_set *set, bool occasional, str *names) {
    int n = 0;
    for (int i = 0, at = 0; i < set->n; i++)
        for (int k = 0; k < set->p[i].n_slices; k++, at++) {
            if (w->seen[at] || set->p[i].occasional != occasional) continue;
            const struct param_slice *s = &set->p[i].slice[k];
            if (n++ < NAMED) str_addf(names, "%s%s", n > 1 ? ", " : "", s->columns ? set->p[i].name : s->name);
        }
    if (n > NAMED) str_addf(names, " and %d more", n - NAMED);
    return n;
}

static err judge(const struct reach *w, const struct reaching *on) {
    str dead = {0}, waiting = {0};
    const bool side = on->side && *on->side;
    err e = OK;
    if (name_zero(w, on->set, false, &dead))
        e = fail(E_NUMERIC,
                 "no gradient has reached %s%s%s of the adapter in %s: it would never learn. A scale of zero (alpha_pattern) does that, "
                 "and modules "
                 "that the loss does not see: leave them out (target_modules, exclude_modules, layers_to_transform)",
                 side ? on->side : "", side ? ": " : "", dead.p ? dead.p : "", w->steps > 1 ? "the first steps" : "the first step");
    if (!e && name_zero(w, on->set, true, &waiting))
        log_warn("the rows of the first %d steps did not reach %s%s%s (none of its tokens, or none within its layer's window): it has not "
                 "learnt yet",
                 w->steps, side ? on->side : "", side ? ": " : "", waiting.p ? waiting.p : "");
    str_free(&dead);
    str_free(&waiting);
    return e;
}

err reach_check(struct reach *w, const struct reaching *on) {
    int zero;
    const int all = count_slices(on->set);
    if (w->done) return OK;
    if (!w->seen && !(w->seen = calloc((size_t)all + 1, sizeof *w->seen))) return fail(E_MEMORY, "out of memory");
    TRY(look(w, on, &zero));
    w->steps++;
    if (zero && zero < all && !w->moved) return OK;
    w->done = true;
    return zero ? judge(w, on) : OK;
}

void reach_free(struct reach *w) {
    free(w->seen);
    *w = (struct reach){0};
}
