/* See importance.h. */
#include "gen/importance.h"
#include "gen/passes.h"
#include "ops/ops.h"
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

/* What an instruction's first operand is, by the tensor of the base that the instruction reads. */
enum caught { NOTHING, BLOCKS, CHANNELS, HEADS, COLUMNS };

static const struct {
    const char *name;
    enum caught what;
    int norm;                                     /* of columns: a block's first or second */
} readers[] = {{"attn_norm.weight", BLOCKS, 0},   /* a block's input ... */
               {"output_norm.weight", BLOCKS, 0}, /* ... and the last one's output */
               {"attn_q.weight", COLUMNS, 0},     /* a norm's output */
               {"ffn_gate.weight", COLUMNS, 1},   {"ffn_down.weight", CHANNELS, 0}, {"attn_output.weight", HEADS, 0}};

struct watching {
    const struct model *m;
    struct program g;
    struct memory mem;
    struct text_pass pass;
    const struct text_pass *now;
    struct importances *out;
    struct seen {
        enum caught what;
        int at;
    } * of;            /* [instructions]; at: the block, of columns the norm */
    float *held;       /* [span + 1, tokens of a pass, C]: inputs of the last blocks */
    double *norm;      /* [norms, C]: of each norm's columns the sum of squares */
    double *mean;      /* of one row */
    double *angle;     /* [runs]: sums over tokens */
    double nll;        /* nll_measure()'s, ... */
    int64_t predicted; /* ... of so many tokens */
};

static int64_t norms(const struct model *m) { return 2 * m->shape.layers; }

static size_t held_bytes(const struct model *m, int64_t span) {
    return (size_t)((span + 1) * pass_tokens(m) * m->shape.width) * sizeof(float);
}

/* --- looking on ------------------------------------------------------------------------------------------------------ */
static struct seen seen_by(const struct model *m, const struct prog *p, const struct inst *s) {
    for (int k = 0; k < s->op->n_in; k++) {
        const struct value *v = has(s->in[k]) ? prog_v(p, s->in[k]) : NULL;
        int layer = (int)m->shape.layers, n = 0; /* what is in no block stands behind the last */
        if (!v || v->role != ROLE_BASE || !v->name) continue;
        sscanf(v->name, "blk.%d.%n", &layer, &n);
        for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
            if (!strcmp(v->name + n, readers[i].name))
                return (struct seen){readers[i].what, readers[i].what == COLUMNS ? 2 * layer + readers[i].norm : layer};
    }
    return (struct seen){0};
}

/* Of each row the mean over its positions of each unit's magnitude; the mean's square joins the sum. A unit is `each` numbers side by
 * side. */
static void add_means(struct watching *w, const struct view *x, double *sum, int64_t units) {
    const struct text_pass *p = w->now;
    const int64_t each = x->d[1] / units;
    for (int s = 0; s < p->s; s++) {
        memset(w->mean, 0, (size_t)units * sizeof *w->mean);
        for (int i = p->cu[s]; i < p->cu[s + 1]; i++)
            for (int64_t u = 0; u < units; u++) {
                const float *v = view_row(x, i) + u * each;
                double square = 0;
                for (int64_t c = 0; c < each && each > 1; c++) square += (double)v[c] * v[c];
                w->mean[u] += each > 1 ? sqrt(square) : fabs((double)*v);
            }
        const double positions = p->cu[s + 1] - p->cu[s];
        for (int64_t u = 0; u < units; u++) sum[u] += w->mean[u] / positions * (w->mean[u] / positions);
    }
}

static double less_cosine(const float *a, const float *b, int64_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) ab += (double)a[i] * b[i], aa += (double)a[i] * a[i], bb += (double)b[i] * b[i];
    return aa > 0 && bb > 0 ? 1 - ab / sqrt(aa * bb) : 0;
}

/* The input of block `layer` (or what the last one made), beside that of the block where a run up to here begins. */
static void add_blocks(struct watching *w, const struct view *x, int64_t layer) {
    const int64_t C = x->d[1], size = (int64_t)w->pass.cap * C, slots = w->out->span + 1;
    float *to = w->held + layer % slots * size;
    for (int i = 0; i < w->now->n; i++) memcpy(to + i * C, view_row(x, i), (size_t)C * sizeof *to);
    const int64_t first = layer - w->out->span;
    const float *from = w->held + (first % slots) * size;
    for (int i = 0; i < w->now->n && first >= 0; i++) w->angle[first] += less_cosine(from + i * C, to + i * C, C);
}

static err before(void *ctx, int from, int to) {
    struct watching *w = ctx;
    const struct shape *z = &w->m->shape;
    for (int i = from; i < to; i++) {
        const struct seen s = w->of[i];
        if (!s.what) continue;
        const struct view x = program_out(&w->g, &w->mem, w->g.p.in[i].in[0], w->now->n, w->now->s);
        if (s.what == BLOCKS) add_blocks(w, &x, s.at);
        else if (s.what == CHANNELS) add_means(w, &x, w->out->channel + s.at * z->ffn, z->ffn);
        else if (s.what == HEADS) add_means(w, &x, w->out->head + s.at * z->kv_heads, z->kv_heads);
        else add_means(w, &x, w->norm + s.at * z->width, z->width);
    }
    return OK;
}

/* --- passes ---------------------------------------------------------------------------------------------------------- */
static err run_pass(void *ctx, const struct text_pass *p) {
    struct watching *w = ctx;
    const struct run_ctx run = {.threads = omp_get_max_threads()};
    const struct plan_watch watch = {.ctx = w, .before = before};
    struct feed f = pass_feed(p);
    w->now = p;
    if (w->of) f.watch = &watch, w->out->tokens += p->n, w->out->rows += p->s;
    TRY(program_run(&w->g, &w->mem, NULL, NULL, &f, &run, false));
    const float *nll = w->of ? NULL : program_out(&w->g, &w->mem, w->g.nll, p->n, p->s).p;
    for (int i = 0; i < p->n && nll; i++)
        if (p->weight[i] != 0) w->nll += nll[i], w->predicted++;
    return OK;
}

static void close_watching(struct watching *w) {
    if (w->held) pages_give(w->held, held_bytes(w->m, w->out->span));
    pass_close(&w->pass);
    memory_free(&w->mem);
    program_free(&w->g);
}

static err open_program(struct watching *w, enum mode mode) {
    TRY(program_build(&w->g, w->m, mode, NULL, pass_capacity(w->m), CHECKPOINT_NONE, &backend_cpu, false));
    TRY(pass_open(&w->pass, pass_tokens(w->m)));
    return memory_for(&w->mem, (struct program *const[]){&w->g}, 1);
}

/* All that is added up lives in the result's arena. */
static err open_sums(struct watching *w) {
    const struct shape *z = &w->m->shape;
    struct importances *x = w->out;
    const int64_t widest = z->ffn > z->width ? z->ffn : z->width;
    x->block = w->angle = arena_alloc(&x->mem, (size_t)x->runs * sizeof *x->block);
    x->channel = arena_alloc(&x->mem, (size_t)(z->layers * z->ffn) * sizeof *x->channel);
    x->head = arena_alloc(&x->mem, (size_t)(z->layers * z->kv_heads) * sizeof *x->head);
    x->column = arena_alloc(&x->mem, (size_t)z->width * sizeof *x->column);
    w->norm = arena_alloc(&x->mem, (size_t)(norms(w->m) * z->width) * sizeof *w->norm);
    w->mean = arena_alloc(&x->mem, (size_t)(widest > z->kv_heads ? widest : z->kv_heads) * sizeof *w->mean);
    w->of = arena_alloc(&x->mem, (size_t)w->g.p.ni * sizeof *w->of);
    w->held = pages_take(held_bytes(w->m, x->span));
    if (!x->block || !x->channel || !x->head || !x->column || !w->norm || !w->mean || !w->of || !w->held)
        return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < w->g.p.ni; i++) w->of[i] = seen_by(w->m, &w->g.p, &w->g.p.in[i]);
    return OK;
}

static void finish(struct watching *w) {
    const struct shape *z = &w->m->shape;
    struct importances *x = w->out;
    for (int64_t r = 0; r < x->runs; r++) x->block[r] /= (double)x->tokens;
    for (int64_t i = 0; i < z->layers * z->ffn; i++) x->channel[i] = sqrt(x->channel[i]);
    for (int64_t i = 0; i < z->layers * z->kv_heads; i++) x->head[i] = sqrt(x->head[i]);
    for (int64_t i = 0; i < norms(w->m) * z->width; i++) x->column[i % z->width] += sqrt(w->norm[i]);
}

err importance_measure(const struct model *m, int64_t span, const struct ids *text, int n, int64_t most, volatile int *stop,
                       struct importances *out) {
    struct watching w = {.m = m, .out = out};
    *out = (struct importances){.span = span, .runs = m->shape.layers - span + 1};
    err e = open_program(&w, MODE_FEATURES);
    if (!e) e = open_sums(&w);
    if (!e) e = passes_run(&w.pass, text, n, most, &(struct pass_run){run_pass, &w, stop, "blocks and channels were measured"});
    if (!e && !out->tokens) e = fail(E_INPUT, "there are no two tokens to measure with");
    if (!e) finish(&w);
    close_watching(&w);
    if (e) importance_free(out);
    return e;
}

void importance_free(struct importances *x) {
    arena_free(&x->mem);
    *x = (struct importances){0};
}

err nll_measure(const struct model *m, const struct ids *text, int n, int64_t most, volatile int *stop, double *nll) {
    struct watching w = {.m = m};
    err e = open_program(&w, MODE_SCORE);
    if (!e) e = passes_run(&w.pass, text, n, most, &(struct pass_run){run_pass, &w, stop, "perplexity was measured"});
    if (!e && !w.predicted) e = fail(E_INPUT, "there are no two tokens to measure with");
    if (!e) *nll = w.nll / (double)w.predicted;
    close_watching(&w);
    return e;
}

err importance_bytes(const struct model *m, int64_t span, size_t *bytes) {
    const struct shape *z = &m->shape;
    const enum mode modes[] = {MODE_FEATURES, MODE_SCORE};
    const int64_t sums = z->layers * (z->ffn + z->kv_heads + 1) + (norms(m) + 2) * z->width + z->ffn;
    *bytes = 0;
    for (int i = 0; i < 2; i++) {
        struct program g;
        struct memory mem;
        TRY(program_build(&g, m, modes[i], NULL, pass_capacity(m), CHECKPOINT_NONE, &backend_cpu, false));
        memory_sizes(&mem, (const struct program *const[]){&g}, 1);
        if (mem.act_bytes + mem.scratch_bytes > *bytes) *bytes = mem.act_bytes + mem.scratch_bytes;
        program_free(&g);
    }
    *bytes += held_bytes(m, span) + (size_t)sums * sizeof(double);
    return OK;
}
