/* See profile.h. */
#include "gen/profile.h"
#include "gen/generate.h"
#include "ops/ops.h"
#include <math.h>
#include <string.h>

/* What the ops' formulas say of capacities is brought to this pass. */
struct cost work_at(const struct program *g, const struct inst *s, const struct pass *p) {
    const int64_t n = (int64_t)ceil(p->tokens), rows = (int64_t)ceil(p->rows),
                  size[SYM_COUNT] = {0, n, rows, rows + 1, (int64_t)ceil(p->sources)};
    struct view in[MAX_IN], out[MAX_OUT];
    if (!s->op->cost) return (struct cost){0, 0};
    for (int k = 0; k < s->op->n_in; k++) in[k] = prog_view(&g->p, s->in[k], size);
    for (int k = 0; k < s->op->n_out; k++) out[k] = prog_view(&g->p, s->out[k], size);
    struct cost c = s->op->cost(s, in, out);
    if (s->op == &op_attention || s->op == &op_attention_bwd)
        c.flops /= rows > 1 ? (double)rows : 1; /* it counts one sequence of all tokens */
    if (s->op == &op_attention_cached) c.flops *= p->length / (double)in[1].d[2], c.bytes *= p->length / (double)in[1].d[2];
    if (s->op == &op_head_loss) c.flops *= p->supervised;
    return c;
}

/* Now, when all that was launched is done. */
static double now(const struct memory *mem) {
    char byte;
    if (!mem->backend->mem->host) mem->backend->mem->download(&byte, mem->act, sizeof byte); /* an error comes again with the next launch */
    return seconds_now();
}

static void add(struct profile *p, enum profile_phase phase, const char *what, double seconds, double bound) {
    int i = 0;
    while (i < p->n && (p->row[i].phase != phase || strcmp(p->row[i].what, what) != 0)) i++;
    if (i == (int)(sizeof p->row / sizeof *p->row)) return;
    if (i == p->n) p->row[p->n++] = (struct profile_row){.phase = phase, .what = what};
    p->row[i].launches++;
    p->row[i].seconds += seconds;
    p->row[i].bound += bound;
}

/* 0: the machine's rates are not known. */
static double bound_of(const struct profile *p, struct cost c) { return p->flops > 0 ? fmax(c.flops / p->flops, c.bytes / p->bytes) : 0; }

/* Of a training program all is backward behind the loss, what is computed again too. */
static enum profile_phase phase_of(const struct program *g, int i) {
    if (g->plan.state) return PROFILE_GENERATE; /* a cache is only there for writing */
    int loss = g->mode == MODE_TRAIN ? 0 : g->p.ni;
    while (loss < g->p.ni && g->p.in[loss].op != &op_head_loss) loss++;
    return i <= loss ? PROFILE_FORWARD : PROFILE_BACKWARD;
}

static err before(void *ctx, int from, int to) {
    struct profiling *p = ctx;
    if (p->inner && p->inner->before) TRY(p->inner->before(p->inner->ctx, from, to));
    p->began = now(p->mem);
    return OK;
}

static err after(void *ctx, int from, int to) {
    const struct profiling *p = ctx;
    const struct inst *first = &p->g->p.in[from];
    const double seconds = now(p->mem) - p->began;
    double bound = 0;
    for (int i = from; i < to; i++) bound += bound_of(p->mem->profile, work_at(p->g, &p->g->p.in[i], &p->pass));
    add(p->mem->profile, phase_of(p->g, from), first->piece ? "in pieces" : first->op->name, seconds, bound);
    return p->inner && p->inner->after ? p->inner->after(p->inner->ctx, from, to) : OK;
}

void profile_run(struct profiling *p, const struct memory *mem, const struct program *g, const struct feed *f) {
    struct profile *of = mem->profile;
    double supervised = 0, keys = 0;
    for (int i = 0; i < f->n && f->weight; i++) supervised += f->weight[i] != 0;
    for (int i = 0; i < f->n && f->pos; i++) keys += f->pos[i] + 1;
    of->length = f->pos ? keys / f->n : of->length + 1; /* a run that goes on where the last one was */
    *p = (struct profiling){.watch = {p, before, after},
                            .inner = f->watch,
                            .mem = mem,
                            .g = g,
                            .pass = {.tokens = f->n,
                                     .rows = g->mode == MODE_DECODE ? f->n : f->s,
                                     .supervised = f->weight ? supervised / f->n : 1,
                                     .length = of->length,
                                     .sources = f->m}};
}

double profile_begin(const struct memory *mem) { return mem->profile ? now(mem) : 0; }

void profile_end(const struct memory *mem, enum profile_phase phase, const char *what, struct cost work, double began) {
    if (mem->profile) add(mem->profile, phase, what, now(mem) - began, bound_of(mem->profile, work));
}
