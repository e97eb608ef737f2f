/* The update in the backward pass (LOMO, Lv et al. 2023): as soon as the backward pass has left a parameter its optimizer takes the step and the
 * gradient's memory serves the next, so that about one layer's gradients are alive at a time (core/plan.h, plan_fuse). Of a tied table, whose
 * gradient begins at the head and ends at the embedding, all the way.
 *
 * The numbers are those of a step at the end: no parameter is read again once its gradient is whole. What has to be known before the pass is
 * what gradients are divided by, the weight of all rows; so a step is one pass, and there is no norm to clip by. Refused besides: methods with a
 * hand in the gradient (AdaLoRA), float16, whose overflow is known too late. Any optimizer goes with it, since none looks beyond a parameter; states
 * that lie on the host come when their parameter's turn has come (paged.c). A gradient that is not finite ends the run like any other, but layers
 * above have been updated by then. Called by learner_step(). */
#include "train/learner.h"
#include <math.h>
#include <string.h>

err fused_allowed(const struct structure *st, const struct recipe *r, dtype compute) {
    if (r->max_grad_norm > 0)
        return fail(E_USAGE, "optimizer_in_bwd updates before the norm of all gradients is known: it goes with max_grad_norm 0");
    if (compute == DT_F16)
        return fail(E_USAGE,
                    "optimizer_in_bwd does not go with float16, whose overflows are seen when the pass is over: use bfloat16 or float32");
    if (st->method->before_step || st->method->after_step)
        return fail(E_USAGE, "optimizer_in_bwd does not go with method %s, which looks at all gradients before and after a step",
                    st->method->name);
    return OK;
}

static err before(void *ctx, int from, int to) {
    const struct fusing *f = ctx;
    const struct fused *u = f->l->fused;
    for (int i = 0; i < u->n; i++)
        if (u->p[i].first >= from && u->p[i].first < to) TRY(f->l->backend->mem->fill((char *)f->b->grad + u->p[i].at, 0, u->p[i].bytes));
    return OK;
}

static int param_at(const struct param_set *s, size_t off) {
    int i = 0;
    while (s->p[i].off != off) i++;
    return i;
}

static err update(struct fusing *f, const struct span_of_life *p) {
    struct learner *l = f->l;
    const float *g = f->b->grad + p->at / sizeof(float);
    double squares;
    const double began = profile_begin(&f->b->mem);
    const int param = param_at(&l->st->params, p->off);
    TRY(reach_see(&l->reach, &(struct reaching){&l->st->params, l->backend, f->b->threads, l->side}, param, g));
    TRY(l->backend->flat->sumsq(g, (int64_t)(p->bytes / sizeof(float)), f->b->threads, &squares));
    f->squares += squares;
    if (!isfinite(squares))
        return fail(E_NUMERIC,
                    "the gradient of %s is not finite, and what the backward pass had left before it is updated: go on from a checkpoint. "
                    "Lower learning_rate or look at the data",
                    l->st->params.p[param].name);
    struct optim_step o = learner_whole(l, f->b, f->rate, f->scale);
    struct optim_state left[OPTIM_STATES], state[OPTIM_STATES];
    memcpy(left, l->state, sizeof left);
    o.of.end = p->off;
    optim_states_take(l->optim, o.how, &o.of, left, l->states, state); /* what comes before */
    o.of.first = p->off, o.of.end = p->off + p->bytes;
    o.states = optim_states_take(l->optim, o.how, &o.of, left, l->states, state);
    o.g = g, o.state = state;
    TRY(learner_take(l, f->b, &o));
    const double share = (double)p->bytes / (double)l->st->params.trained;
    profile_end(&f->b->mem, PROFILE_OPTIMIZER, l->optim->name, learner_work(l, share), began);
    return OK;
}

static err after(void *ctx, int from, int to) {
    struct fusing *f = ctx;
    const struct fused *u = f->l->fused;
    for (int i = 0; i < u->n; i++)
        if (u->p[i].first >= 0 && u->p[i].last >= from && u->p[i].last < to) TRY(update(f, &u->p[i]));
    return OK;
}

void fused_begin(struct fusing *f, struct learner *l, struct workbench *b, double rate) {
    *f = (struct fusing){.l = l, .b = b, .rate = rate};
    f->watch = (struct plan_watch){f, before, after};
}

err fused_pass(struct fusing *f, const struct pack *k, int passes) {
    double weight = 0;
    if (passes != 1) return fail(E_INTERNAL, "an update in the backward pass wants the step's rows in one pass; they are %d", passes);
    for (int i = 0; i < k->n; i++) weight += (double)k->weight[i];
    if (!(weight > 0)) return fail(E_INPUT, "no row of the step has a supervised token");
    f->scale = (float)(1 / weight);
    return OK;
}
