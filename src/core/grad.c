/* See grad.h. */
#include "core/grad.h"
#include <stdlib.h>
#include <string.h>

struct walk {
    struct prog *p;
    const struct checkpoints *c;
    const struct backward_ops *ops;
    int n_forward;       /* instructions before the backward part */
    int n_values;        /* values before it */
    int segment;         /* the segment whose instructions are being walked */
    int lowest;          /* of those that were entered */
    int last_segment;    /* nothing of it has been dropped yet when its backward starts: it needs no recompute */
    bool *crosses;       /* per forward value: another segment reads it */
    val *grad;           /* per forward value */
    val *again;          /* per forward value: its recomputed twin in this segment */
    val *fetched, *here; /* per forward value: on its way from the host; and when it has arrived */
};

/* --- levels ------------------------------------------------------------------------------------------------------ */
static enum checkpoint level_of(const struct walk *w, int segment) {
    const struct checkpoints *c = w->c;
    if (segment == 0) return c->blocks || c->level == CHECKPOINT_BLOCK ? c->rest : c->level;
    return c->blocks && segment > c->blocks ? c->rest : c->level;
}

/* Segments of level block that have one checkpoint together. Others stand alone. */
static int group(const struct walk *w, int segment) {
    if (segment == 0 || level_of(w, segment) != CHECKPOINT_BLOCK) return -segment;
    return w->c->every > 1 ? (segment - 1) / w->c->every + 1 : segment;
}

static bool in_last_group(const struct walk *w, int segment) { return group(w, segment) == group(w, w->last_segment); }

/* The segment whose input the values of this one are made from. */
static int source_of(const struct walk *w, int segment) {
    return group(w, segment) > 0 && w->c->every > 1 && !in_last_group(w, segment) ? (group(w, segment) - 1) * w->c->every + 1 : segment;
}

static bool dropped(const struct walk *w, val v) {
    if (!has(v) || (int)v.i >= w->n_values) return false;
    const struct value *x = prog_v(w->p, v);
    if (x->role != ROLE_ACT || x->def < 0) return false;
    if (x->again) return true;
    if (level_of(w, x->segment) == CHECKPOINT_SELECTIVE) return w->p->in[x->def].op->cheap;
    if (group(w, x->segment) <= 0 || group(w, x->segment) != group(w, w->segment)) return false;
    /* of the last group: its last block is still there, and of the others what crosses them */
    return x->segment != w->last_segment && !(w->crosses[v.i] && in_last_group(w, x->segment));
}

/* --- from the host ------------------------------------------------------------------------------------------------- */
static void fetch(struct walk *w, val v) {
    if (!has(w->fetched[v.i])) w->fetched[v.i] = emit1(w->p, w->ops->fetch, &prog_v(w->p, v)->host, 1, NULL);
}

/* The value as it has come back; the last block's is still there. */
static val arrived(struct walk *w, val v) {
    if (!has(v) || (int)v.i >= w->n_values || !has(prog_v(w->p, v)->host) || w->segment == w->last_segment) return v;
    if (has(w->here[v.i])) return w->here[v.i];
    fetch(w, v);
    const val y = w->here[v.i] = emit1(w->p, w->ops->await, &w->fetched[v.i], 1, NULL);
    if (has(y)) prog_v(w->p, y)->needs = prog_v(w->p, v)->needs;
    return y;
}

static val begun(struct walk *w, val v) { return fetch(w, v), v; }

/* What segment s reads from the host: set out, or arrived. */
static void expect(struct walk *w, int s, val (*how)(struct walk *, val)) {
    for (uint32_t i = 1; (int)i < w->n_values; i++) {
        const val host = w->p->v[i].host;
        if (has(host) && prog_v(w->p, host)->segment == s) how(w, (val){i});
    }
}

/* --- the walk ---------------------------------------------------------------------------------------------------- */
/* The value as the backward pass may read it: itself when kept (or as it has come back), else its recomputed twin. */
static val kept(struct walk *w, val v) {
    if (!dropped(w, v)) return arrived(w, v);
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

/* A new segment: what was made inside it on the way to another one's input is made again, so that it need not wait; what it reads
 * from the host is waited for, what the next one will read sets out. */
static void enter(struct walk *w, int segment) {
    w->p->segment = w->segment = segment;
    if (segment == 0 || segment >= w->lowest) return;
    w->lowest = segment;
    for (int v = 1; v < w->n_values && group(w, segment) > 0; v++)
        if (prog_v(w->p, (val){(uint32_t)v})->segment == segment && !w->crosses[v]) w->again[v] = (val){0};
    if (!w->c->offload) return;
    expect(w, source_of(w, segment), arrived);
    if (segment > 1 && source_of(w, segment - 1) != source_of(w, segment)) expect(w, source_of(w, segment - 1), begun);
}

/* First writer gives the gradient, later ones add: sums are new values, so nothing is overwritten that is still read. */
static void accumulate(struct walk *w, val v, val g) {
    if (!has(g) || !has(v) || !prog_v(w->p, v)->needs) return;
    val *have = &w->grad[v.i];
    *have = has(*have) ? emit1(w->p, w->ops->add, (val[]){*have, g}, 2, NULL) : g;
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
    enter(w, from.segment);
    w->p->piece = from.piece;
    for (int k = 0; k < from.op->n_in; k++) from.in[k] = kept(w, from.in[k]);
    for (int k = 0; k < from.op->n_out; k++) from.out[k] = kept(w, from.out[k]);
    if (w->p->failed || from.op->vjp(w->p, &from, dout, din)) return;
    for (int k = 0; k < from.op->n_in; k++) accumulate(w, in[k], din[k]);
}

int prog_blocks(const struct prog *p) {
    int n = 0;
    for (int i = 0; i < p->ni; i++)
        if (p->in[i].segment > n) n = p->in[i].segment;
    return n;
}

static err check(struct prog *p, const struct checkpoints *c, int blocks) {
    if (blocks && c->blocks > blocks)
        return prog_fail(p, E_USAGE, "gradient_checkpointing_blocks is %d, and this model has %d blocks: say at most that, or 0 for all",
                         c->blocks, blocks);
    const int of = c->blocks ? c->blocks : blocks;
    if (blocks && c->every > of)
        return prog_fail(p, E_USAGE, "gradient_checkpointing: one checkpoint for %d blocks, and %s %d blocks: say at most that", c->every,
                         c->blocks ? "it is for" : "this model has", of);
    return OK;
}

static void note_crossings(struct walk *w) {
    for (int i = 0; i < w->n_forward; i++)
        for (int k = 0; k < w->p->in[i].op->n_in; k++) {
            const val v = w->p->in[i].in[k];
            if (has(v) && prog_v(w->p, v)->segment != w->p->in[i].segment) w->crosses[v.i] = true;
        }
}

err prog_backward(struct prog *p, val loss, const struct checkpoints *c, const struct backward_ops *ops) {
    if (p->failed) return p->failed;
    struct walk w = {
        .p = p, .c = c, .ops = ops, .n_forward = p->ni, .n_values = p->nv, .last_segment = prog_blocks(p), .lowest = INT32_MAX};
    TRY(check(p, c, w.last_segment));
    const size_t n = (size_t)p->nv;
    w.grad = calloc(4 * n, sizeof *w.grad);
    w.crosses = calloc(n, sizeof *w.crosses);
    if (!w.grad || !w.crosses) prog_fail(p, E_MEMORY, "out of memory while building a program");
    else {
        w.again = w.grad + n, w.fetched = w.again + n, w.here = w.fetched + n;
        note_crossings(&w);
        w.grad[loss.i] = loss; /* the root's vjp ignores it: d(loss)/d(loss) = 1 */
        for (int i = w.n_forward - 1; i >= 0 && !p->failed; i--) walk_one(&w, i);
        p->segment = p->piece = 0;
        prog_drop_dead(p);
    }
    free(w.grad);
    free(w.crosses);
    return p->failed;
}
