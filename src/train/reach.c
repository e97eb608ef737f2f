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

err reach_see(struct reach *w, const struct reaching *on, int param, const float *grad) {
    const struct param_set *set = on->set;
    const struct param *p = &set->p[param];
    const int64_t columns = p->nd > 1 ? p->d[1] : 1;
    if (w->done) return OK;
    if (!w->seen && !(w->seen = calloc((size_t)count_slices(set) + 1, sizeof *w->seen))) return fail(E_MEMORY, "out of memory");
    bool *seen = w->seen;
    for (int i = 0; i < param; i++) seen += set->p[i].n_slices;
    for (int k = 0; k < p->n_slices; k++) {
        double squares = 1;
        if (!seen[k]) TRY(on->backend->flat->sumsq(grad + p->slice[k].row0 * columns, p->slice[k].rows * columns, on->threads, &squares));
        seen[k] |= squares != 0; /* not a number is not zero */
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

err reach_judge(struct reach *w, const struct reaching *on) {
    int zero = 0, all = 0;
    if (w->done || !w->seen) return OK;
    for (int i = 0; i < on->set->n; i++)
        for (int k = 0; k < on->set->p[i].n_slices; k++, all++) {
            w->seen[all] |= on->set->p[i].frozen; /* it has no gradient */
            zero += !w->seen[all];
        }
    w->steps++;
    if (zero && zero < all && !w->moved) return OK;
    w->done = true;
    return zero ? judge(w, on) : OK;
}

err reach_check(struct reach *w, const struct reaching *on, const float *grad) {
    for (int i = 0; i < on->set->n; i++)
        if (!on->set->p[i].frozen) TRY(reach_see(w, on, i, grad + on->set->p[i].off / sizeof(float)));
    return reach_judge(w, on);
}

void reach_free(struct reach *w) {
    free(w->seen);
    *w = (struct reach){0};
}
