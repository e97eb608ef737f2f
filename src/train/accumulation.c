/* See accumulation.h. */
#include "train/accumulation.h"
#include "base/arena.h"
#include "base/log.h"
#include <math.h>
#include <string.h>

/* How far the two are apart: the worst of all tensors, each against its own largest element. */
struct apart {
    double worst;
    const char *name;
};

static void look(const struct param *p, const float *one, const float *other, struct apart *out) {
    size_t n = 1;
    double top = 0, off = 0;
    for (int i = 0; i < p->nd; i++) n *= (size_t)p->d[i];
    for (size_t i = 0; i < n; i++) {
        top = fmax(top, fabs((double)one[i]));
        off = fmax(off, fabs((double)one[i] - (double)other[i]));
    }
    if (top > 0) off /= top;
    if (!(off <= out->worst)) *out = (struct apart){off, p->name};
}

/* Each number is a sum over the step's tokens of terms that were rounded to the compute type, at each instruction on their way; and rounding errors add up
 * as a random walk does: 8 eps sqrt(N + instructions) of the largest element. */
static double bound(const struct learner *l, int64_t tokens) {
    const dtype dt = prog_dt(&l->program->p);
    const double eps = dt == DT_F32 ? 0x1p-24 : dt == DT_F16 ? 0x1p-11 : 0x1p-8;
    return 8 * eps * sqrt((double)tokens + l->program->p.ni);
}

static err compare(const struct learner *l, const float *planned, const float *single, int rows, int passes, int64_t tokens,
                   double losses) {
    struct apart a = {0, ""};
    for (int i = 0; i < l->st->params.n; i++) {
        const struct param *p = &l->st->params.p[i];
        if (!p->frozen) look(p, planned + p->off / sizeof *planned, single + p->off / sizeof *single, &a);
    }
    const double limit = bound(l, tokens);
    const bool side = l->side && *l->side;
    log_info("accumulation%s%s: %d rows, %lld tokens, in %d pass%s and in %d of one row each: gradients differ by at most %.2g of a "
             "tensor's largest "
             "element (%s), losses by %.2g; rounding explains %.2g",
             side ? " of side " : "", side ? l->side : "", rows, (long long)tokens, passes, passes == 1 ? "" : "es", rows, a.worst, a.name,
             losses, limit);
    if (a.worst <= limit) return OK;
    return fail(
        E_NUMERIC,
        "check_accumulation: the gradient of %d rows at once and one by one differ by %.3g of the largest element of %s, and rounding "
        "explains %.2g: the split of a step changes what is learnt",
        rows, a.worst, a.name, limit);
}

/* `to` gets b->grad. */
static err keep(const struct learner *l, const struct workbench *b, float *to) {
    return l->backend->mem->download(to, b->grad, l->st->params.trained);
}

err accumulation_check(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step,
                       const double sums[4]) {
    const size_t bytes = l->st->params.trained;
    float *planned = pages_take(bytes), *single = pages_take(bytes);
    double again[4];
    int64_t tokens = 0;
    const int passes = b->passes;
    err e = planned && single ? keep(l, b, planned) : fail(E_MEMORY, "out of memory: check_accumulation keeps two copies of the gradient");
    for (int i = 0; i < n; i++) tokens += rows[i]->n;
    b->rows_apart = true;
    if (!e) e = learner_gradient(l, b, rows, n, seed, step, again);
    b->rows_apart = false;
    if (!e) e = keep(l, b, single);
    if (!e) e = compare(l, planned, single, n, passes, tokens, fabs(again[0] - sums[0]) / fmax(fabs(sums[0]), 1e-30));
    if (!e) e = l->backend->mem->upload(b->grad, planned, bytes);
    if (planned) pages_give(planned, bytes);
    if (single) pages_give(single, bytes);
    return e;
}
