/* See grad.h. */
#include "core/grad.h"
#include <stdlib.h>
#include <string.h>

struct walk {
    struct prog *p;
    enum checkpoint level;
    int n_forward;      /* instructions before the backward part */
    int n_values;       /* values before it */
    int segment;        /* the segment whose instructions are being walked */
    int last_segment;   /* nothing of it has been dropped yet when its backward starts: it needs no recompute */
    const struct op_def *add;
    val *grad;          /* per forward value */
    val *again;         /* per forward value: its recomputed twin in this segment */
};

static bool dropped(const struct walk *w, val v) {
    if (!has(v) || (int)v.i >= w->n_values) return false;
    const struct value *x = prog_v(w->p, v);
    if (x->role != ROLE_ACT || x->def < 0) return false;
    if (x->again) return true;
    if (w->level == CHECKPOINT_SELECTIVE) return w->p->in[x->def].op->cheap;
    return w->level == CHECKPOINT_BLOCK && x->segment == w->segment && x->segment != w->last_segment && x->segment > 0;
}

/* The value as the backward pass may read it: itself when kept, else its recomputed twin. */
static val kept(struct walk *w, val v) {
    if (!dropped(w, v)) return v;
    if (has(w->again[v.i])) return w->again[v.i];
    struct inst from = w->p->in[prog_v(w->p, v)->def];
    for (int k = 0; k < from.op->n_in; k++) from.in[k] = kept(w, from.in[k]);
    const int piece = w->p->piece;
    w->p->piece = from.piece;
    struct inst *to = prog_emit(w->p, from.op, from.in, from.op->n_in, &from.a);
    w->p->piece = piece;
    if (!to) return (val){0};
    for (int k = 0; k < from.op->n_out; k++)
        if (has(from.out[k])) w->again[from.out[k].i] = to->out[k];
    return w->again[v.i];
}

/* First writer gives the gradient, later ones add: sums are new values, so nothing is overwritten that is still read. */
static void accumulate(struct walk *w, val v, val g) {
    if (!has(g) || !has(v) || !prog_v(w->p, v)->needs) return;
    val *have = &w->grad[v.i];
    *have = has(*have) ? emit1(w->p, w->add, (val[]){*have, g}, 2, NULL) : g;
}

static void walk_one(struct walk *w, int i) {
    struct inst from = w->p->in[i];
    val dout[MAX_OUT] = {{0}}, din[MAX_IN] = {{0}}, in[MAX_IN];
    bool reached = false, needed = false;
    for (int k = 0; k < from.op->n_out; k++)
        if (has(from.out[k]) && has(dout[k] = w->grad[from.out[k].i])) reached = true;
    for (int k = 0; k < from.op->n_in; k++) needed |= has(from.in[k]) && prog_v(w->p, from.in[k])->needs;
    if (!reached || !needed) return;
    if (!from.op->vjp) {
        prog_fail(w->p, E_UNSUPPORTED, "op %s has no gradient", from.op->name);
        return;
    }
    memcpy(in, from.in, sizeof in);
    w->p->segment = w->segment = from.segment;
    w->p->piece = from.piece;
    for (int k = 0; k < from.op->n_in; k++) from.in[k] = kept(w, from.in[k]);
    for (int k = 0; k < from.op->n_out; k++) from.out[k] = kept(w, from.out[k]);
    if (w->p->failed || from.op->vjp(w->p, &from, dout, din)) return;
    for (int k = 0; k < from.op->n_in; k++) accumulate(w, in[k], din[k]);
}

err prog_backward(struct prog *p, val loss, enum checkpoint level, const struct op_def *add) {
    if (p->failed) return p->failed;
    struct walk w = {.p = p, .level = level, .n_forward = p->ni, .n_values = p->nv, .add = add};
    w.grad = calloc((size_t)p->nv, sizeof *w.grad);
    w.again = calloc((size_t)p->nv, sizeof *w.again);
    if (!w.grad || !w.again) prog_fail(p, E_MEMORY, "out of memory while building a program");
    else {
        w.grad[loss.i] = loss; /* the root's vjp ignores it: d(loss)/d(loss) = 1 */
        for (int i = 0; i < w.n_forward; i++)
            if (p->in[i].segment > w.last_segment) w.last_segment = p->in[i].segment;
        for (int i = w.n_forward - 1; i >= 0 && !p->failed; i--) walk_one(&w, i);
        p->segment = p->piece = 0;
        prog_drop_dead(p);
    }
    free(w.grad);
    free(w.again);
    return p->failed;
}
