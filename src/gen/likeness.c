/* See likeness.h. */
#include "gen/likeness.h"
#include "gen/generate.h"
#include "gen/passes.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static double log_sum(const float *x, int64_t n) {
    double most = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - most);
    return most + log(sum);
}

struct distance logits_distance(const float *p, const float *q, int64_t n) {
    struct distance d = {.worst = -1};
    double zp = log_sum(p, n), zq = log_sum(q, n), mean = 0;
    int64_t top_p = 0, top_q = 0;
    for (int64_t i = 0; i < n; i++) mean += p[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++) {
        double diff = (double)q[i] - p[i], lp = p[i] - zp, lq = q[i] - zq;
        d.kl += exp(lp) * (lp - lq);
        d.square += diff * diff;
        d.spread += (p[i] - mean) * (p[i] - mean);
        if (!(fabs(diff) <= d.worst)) d.worst = fabs(diff), d.at = i;
        if (p[i] > p[top_p]) top_p = i;
        if (q[i] > q[top_q]) top_q = i;
    }
    d.log_sum[0] = zp, d.log_sum[1] = zq;
    d.same_top = top_p == top_q;
    return d;
}

/* --- passes ---------------------------------------------------------------------------------------------------------- */
enum { REFERENCE, OTHER };
enum { INPUTS = 4 /* ids, pos, cu, sample */ };

struct work {
    const struct model *m[2];
    struct program g[2];
    int which; /* runs now */
    struct memory mem;
    float *logits; /* the reference's [rows of a pass, V] */
    struct text_pass pass;
    int cap;
    int64_t vocab;
    struct likeness *out;
};

static err build(struct work *w, const struct model *const m[2]) {
    const struct capacity cap = pass_capacity(m[0]);
    w->vocab = m[0]->shape.vocab;
    w->cap = cap.tokens;
    for (int i = 0; i < 2; i++) {
        w->m[i] = m[i];
        TRY(program_build(&w->g[i], m[i], MODE_SCORE, NULL, cap, CHECKPOINT_NONE, &backend_cpu, true));
        if (w->g[i].p.n_inputs != INPUTS) return fail(E_UNSUPPORTED, "%s gives no logits for rows of tokens alone", m[i]->path);
    }
    return OK;
}

static size_t logits_bytes(const struct work *w) { return (size_t)w->cap * (size_t)w->vocab * sizeof(float); }

static void close_work(struct work *w) {
    memory_free(&w->mem);
    for (int i = 0; i < 2; i++) program_free(&w->g[i]);
    if (w->logits) pages_give(w->logits, logits_bytes(w));
    pass_close(&w->pass);
}

err likeness_bytes(const struct model *reference, const struct model *other, size_t *bytes) {
    struct work w = {0};
    struct memory mem = {0};
    err e = build(&w, (const struct model *const[]){reference, other});
    if (!e) memory_sizes(&mem, (const struct program *const[]){&w.g[0], &w.g[1]}, 2);
    *bytes = e ? 0 : mem.act_bytes + mem.scratch_bytes + logits_bytes(&w);
    for (int i = 0; i < 2; i++) program_free(&w.g[i]);
    return e;
}

/* What instructions have read of a mapped file goes again: a whole model would stay beside the one that is compared with it. */
static err forget(void *ctx, int from, int to) {
    const struct work *w = ctx;
    const struct prog *p = &w->g[w->which].p;
    for (int i = from; i < to; i++)
        for (int k = 0; k < p->in[i].op->n_in; k++) {
            const val v = p->in[i].in[k];
            if (!has(v) || prog_v(p, v)->role != ROLE_BASE) continue;
            const struct view x = prog_view(p, v, NULL);
            tensors_forget(&w->m[w->which]->files, prog_v(p, v)->data, view_bytes(&x));
        }
    return OK;
}

static err run_one(struct work *w, int which, const struct text_pass *p, const float **logits) {
    const struct run_ctx run = {.threads = omp_get_max_threads()};
    const struct plan_watch watch = {.ctx = w, .after = forget};
    struct feed f = pass_feed(p);
    void *param = NULL;
    w->which = which, f.watch = &watch;
    TRY(memory_bind(&w->mem, &w->g[which], NULL, run.threads, &param));
    TRY(program_run(&w->g[which], &w->mem, param, NULL, &f, &run, false));
    *logits = program_out(&w->g[which], &w->mem, w->g[which].logits, p->n, p->s).p;
    return OK;
}

/* Position i of the pass; nll: what each model says of the token that follows it there, if one does. */
static void add_position(const struct work *w, const struct text_pass *p, int i, const float *q, struct likeness *sum) {
    const float *a = w->logits + i * w->vocab, *b = q + i * w->vocab;
    const struct distance d = logits_distance(a, b, w->vocab);
    sum->tokens++;
    sum->kl += d.kl;
    sum->same_top += d.same_top;
    if (!(d.kl <= sum->kl_worst)) sum->kl_worst = d.kl;
    if (p->weight[i] == 0) return;
    sum->predicted++;
    sum->nll[REFERENCE] += d.log_sum[0] - a[p->label[i]];
    sum->nll[OTHER] += d.log_sum[1] - b[p->label[i]];
}

/* Sums in the order of positions, whatever the threads. */
static err run_pass(void *ctx, const struct text_pass *pass) {
    struct work *w = ctx;
    struct likeness each[PASS_TOKENS] = {{0}}, *out = w->out;
    const float *p, *q;
    TRY(run_one(w, REFERENCE, pass, &p));
    memcpy(w->logits, p, (size_t)pass->n * (size_t)w->vocab * sizeof *p);
    TRY(run_one(w, OTHER, pass, &q));
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < pass->n; i++) add_position(w, pass, i, q, &each[i]);
    for (int i = 0; i < pass->n; i++) {
        out->tokens += each[i].tokens, out->predicted += each[i].predicted, out->same_top += each[i].same_top;
        out->kl += each[i].kl;
        for (int k = 0; k < 2; k++) out->nll[k] += each[i].nll[k];
        if (!(each[i].kl <= out->kl_worst)) out->kl_worst = each[i].kl;
    }
    return OK;
}

err likeness_measure(const struct model *reference, const struct model *other, const struct ids *text, int n, int64_t most,
                     volatile int *stop, struct likeness *out) {
    struct work w = {.out = out};
    *out = (struct likeness){0};
    if (reference->shape.vocab != other->shape.vocab)
        return fail(E_USAGE, "%s and %s have vocabularies of different sizes", reference->path, other->path);
    err e = build(&w, (const struct model *const[]){reference, other});
    if (!e) e = pass_open(&w.pass, w.cap);
    if (!e && !(w.logits = pages_take(logits_bytes(&w)))) e = fail(E_MEMORY, "out of memory");
    if (!e) e = memory_for(&w.mem, (struct program *const[]){&w.g[0], &w.g[1]}, 2);
    if (!e) e = passes_run(&w.pass, text, n, most, &(struct pass_run){run_pass, &w, stop, "the models were compared"});
    if (!e && !out->tokens) e = fail(E_INPUT, "there are no two tokens to compare the models on");
    if (!e) out->kl /= (double)out->tokens;
    for (int k = 0; k < 2 && !e; k++) out->nll[k] /= (double)out->predicted;
    close_work(&w);
    return e;
}
