/* See likeness.h. */
#include "gen/likeness.h"
#include "gen/generate.h"
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
enum { INPUTS = 4 /* ids, pos, cu, sample */, FEWEST = 2 /* tokens of a row */ };

struct work {
    struct program g[2];
    struct memory mem;
    float *logits;                    /* the reference's [rows of a pass, V] */
    int32_t *ids, *pos, *sample, *cu; /* of the pass */
    int n, s, cap;
    int64_t vocab;
};

static err build(struct work *w, const struct model *const m[2]) {
    w->vocab = m[0]->shape.vocab;
    w->cap = m[0]->shape.context < LIKENESS_ROW ? (int)m[0]->shape.context : LIKENESS_ROW;
    for (int i = 0; i < 2; i++) {
        const struct capacity cap = {w->cap, w->cap / FEWEST + 1, 0, 0, DT_F32, DT_NONE};
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
    free(w->ids);
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

static err run_one(struct work *w, int which, const float **logits) {
    const struct run_ctx run = {.threads = omp_get_max_threads()};
    const struct feed f = {.ids = w->ids, .pos = w->pos, .cu = w->cu, .sample = w->sample, .n = w->n, .s = w->s};
    void *param = NULL;
    TRY(memory_bind(&w->mem, &w->g[which], NULL, run.threads, &param));
    TRY(program_run(&w->g[which], &w->mem, param, NULL, &f, &run, false));
    *logits = program_out(&w->g[which], &w->mem, w->g[which].logits, w->n, w->s).p;
    return OK;
}

/* Position i of the pass; nll: what each model says of the token that follows it there, if one does. */
static void add_position(const struct work *w, int i, const float *q, struct likeness *sum) {
    const float *a = w->logits + i * w->vocab, *b = q + i * w->vocab;
    const struct distance d = logits_distance(a, b, w->vocab);
    const bool follows = i + 1 < w->n && w->sample[i + 1] == w->sample[i];
    sum->tokens++;
    sum->kl += d.kl;
    sum->same_top += d.same_top;
    if (!(d.kl <= sum->kl_worst)) sum->kl_worst = d.kl;
    if (!follows) return;
    sum->predicted++;
    sum->nll[REFERENCE] += d.log_sum[0] - a[w->ids[i + 1]];
    sum->nll[OTHER] += d.log_sum[1] - b[w->ids[i + 1]];
}

/* Sums in the order of positions, whatever the threads. */
static err run_pass(struct work *w, struct likeness *out) {
    struct likeness each[LIKENESS_ROW] = {{0}};
    const float *p, *q;
    TRY(run_one(w, REFERENCE, &p));
    memcpy(w->logits, p, (size_t)w->n * (size_t)w->vocab * sizeof *p);
    TRY(run_one(w, OTHER, &q));
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < w->n; i++) add_position(w, i, q, &each[i]);
    for (int i = 0; i < w->n; i++) {
        out->tokens += each[i].tokens, out->predicted += each[i].predicted, out->same_top += each[i].same_top;
        out->kl += each[i].kl;
        for (int k = 0; k < 2; k++) out->nll[k] += each[i].nll[k];
        if (!(each[i].kl <= out->kl_worst)) out->kl_worst = each[i].kl;
    }
    w->n = w->s = 0;
    return OK;
}

static void add_row(struct work *w, const int32_t *ids, int n) {
    for (int i = 0; i < n; i++) {
        w->ids[w->n] = ids[i];
        w->pos[w->n] = i;
        w->sample[w->n++] = w->s;
    }
    w->cu[++w->s] = w->n;
}

static err all_passes(struct work *w, const struct ids *text, int n, int64_t most, volatile int *stop, struct likeness *out) {
    for (int k = 0; k < n; k++)
        for (int64_t at = 0, rest; (rest = (int64_t)text[k].n - at) >= FEWEST && most >= FEWEST;) {
            int take = (int)(rest < w->cap ? rest : w->cap);
            if (take > most) take = (int)most;
            if (w->n + take > w->cap) TRY(run_pass(w, out));
            add_row(w, text[k].v + at, take);
            at += take, most -= take;
            if (stop && *stop) return fail(E_INTERRUPTED, "interrupted while the models were compared");
        }
    return w->n ? run_pass(w, out) : OK;
}

err likeness_measure(const struct model *reference, const struct model *other, const struct ids *text, int n, int64_t most,
                     volatile int *stop, struct likeness *out) {
    struct work w = {0};
    *out = (struct likeness){0};
    if (reference->shape.vocab != other->shape.vocab)
        return fail(E_USAGE, "%s and %s have vocabularies of different sizes", reference->path, other->path);
    err e = build(&w, (const struct model *const[]){reference, other});
    const size_t each = (size_t)(w.cap + 1);
    if (!e) {
        w.ids = calloc(4 * each, sizeof *w.ids);
        w.logits = pages_take(logits_bytes(&w));
        if (!w.ids || !w.logits) e = fail(E_MEMORY, "out of memory");
        else w.pos = w.ids + each, w.sample = w.pos + each, w.cu = w.sample + each;
    }
    if (!e) e = memory_for(&w.mem, (struct program *const[]){&w.g[0], &w.g[1]}, 2);
    if (!e) e = all_passes(&w, text, n, most, stop, out);
    if (!e && !out->tokens) e = fail(E_INPUT, "there are no two tokens to compare the models on");
    if (!e) out->kl /= (double)out->tokens;
    for (int k = 0; k < 2 && !e; k++) out->nll[k] /= (double)out->predicted;
    close_work(&w);
    return e;
}
