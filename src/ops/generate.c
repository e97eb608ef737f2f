/* gather, softcap, process, sample and top: what generation needs beside the model. gather picks the rows whose logits matter (the last
 * token of each prompt); softcap bounds logits (Gemma 2); process is what transformers calls logits processors, sample its warpers and the
 * choice of one id, top the choice of the best few, for beams. What process must know of a row's own ids is a STATE beside the cache of keys
 * and values (cache.c, remember), so that it costs a number for each token and none for each id of the vocabulary. */
#include "ops/ops.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static err infer_gather(struct prog *p, struct inst *i) {
    int64_t C = prog_v(p, i->in[0])->d[1];
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){SYM_N, C}));
    TRY(want(p, i, 1, DT_I32, 1, (int64_t[]){SYM_S}));
    i->out[0] = prog_act(p, prog_dt(p), 2, (int64_t[]){SYM_S, C}, "gather");
    return p->failed;
}

static err ref_gather(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    for (int64_t s = 0; s < in[1].d[0]; s++)
        memcpy(view_row(&out[0], s), view_row(&in[0], view_i32(&in[1])[s]), (size_t)in[0].d[1] * 4);
    return OK;
}

static err infer_softcap(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, DT_F32, 2, x.d));
    if (!(i->a.softcap > 0)) return prog_fail(p, E_INTERNAL, "softcap: %g is no cap", (double)i->a.softcap);
    i->out[0] = prog_act(p, DT_F32, 2, x.d, "capped logits");
    return p->failed;
}

static err ref_softcap(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    double cap = i->a.softcap;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int64_t c = 0; c < in[0].d[1]; c++) view_row(&out[0], n)[c] = (float)(cap * tanh(view_row(&in[0], n)[c] / cap));
    return OK;
}

static err infer_process(struct prog *p, struct inst *i) {
    const struct value z = *prog_v(p, i->in[PROC_Z]);
    TRY(want(p, i, PROC_Z, DT_F32, 2, z.d));
    if (has(i->in[PROC_HISTORY])) {
        TRY(want(p, i, PROC_HISTORY, DT_I32, 2, prog_v(p, i->in[PROC_HISTORY])->d));
        for (int k = PROC_SLOT; k <= PROC_POS; k++) TRY(want(p, i, k, DT_I32, 1, (int64_t[]){has(i->in[PROC_ROWS]) ? SYM_N : z.d[0]}));
    }
    for (int k = PROC_ROWS; k <= PROC_BEGIN; k++)
        if (has(i->in[k])) TRY(want(p, i, k, DT_I32, 1, z.d));
    i->out[0] = prog_act(p, DT_F32, 2, z.d, "processed logits");
    return p->failed;
}

/* Each id changes once however often it is there: its new logit comes of the old one, which lies elsewhere. */
static void penalise(const struct sampling *how, const struct process_row *r, int64_t V, const float *z, double shift, float *to) {
    for (int32_t t = 0; t < r->known && sampling_penalises(how); t++) {
        const int32_t id = r->ids[t];
        if (id < 0 || id >= V) continue; /* a virtual token */
        const double x = z[id] - shift;
        to[id] = (float)(x < 0 ? x * (double)how->penalty : x / (double)how->penalty);
    }
}

static err ref_process(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    const int64_t V = in[PROC_Z].d[1];
    const struct sampling *how = &run->sampling;
    for (int64_t s = 0; s < in[PROC_Z].d[0]; s++) {
        const float *z = view_row(&in[PROC_Z], s);
        float *to = view_row(&out[0], s);
        double top = -INFINITY, sum = 0, shift = 0;
        for (int64_t v = 0; v < V && i->a.normalise; v++) top = z[v] > top ? z[v] : top;
        for (int64_t v = 0; v < V && i->a.normalise; v++) sum += exp(z[v] - top);
        if (i->a.normalise) shift = top + log(sum);
        for (int64_t v = 0; v < V; v++) to[v] = (float)(z[v] - shift);
        if (!in[PROC_HISTORY].p) continue;
        const struct process_row r = ops_process_row(in, s);
        penalise(how, &r, V, z, shift, to);
        if (r.made < how->min_new && how->eos >= 0 && how->eos < V) to[how->eos] = -INFINITY;
    }
    return OK;
}

static err infer_sample(struct prog *p, struct inst *i) {
    int64_t rows = prog_v(p, i->in[0])->d[0];
    TRY(want(p, i, 0, DT_F32, 2, (int64_t[]){rows, prog_v(p, i->in[0])->d[1]}));
    TRY(want(p, i, 1, DT_I32, 1, &rows));
    TRY(want(p, i, 2, DT_I32, 1, &rows));
    if (has(i->in[3])) TRY(want(p, i, 3, DT_F32, 2, prog_v(p, i->in[0])->d));
    i->out[0] = prog_act(p, DT_I32, 1, &rows, "sampled");
    i->out[1] = prog_act(p, DT_F32, 1, &rows, "logprob");
    return p->failed;
}

struct choice { double z; int32_t id; };

static int by_rank(const void *a, const void *b) {
    const struct choice *x = a, *y = b;
    if (x->z != y->z) return x->z < y->z ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static size_t sample_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return (size_t)in[0].d[1] * sizeof(struct choice);
}

static double weight(const struct sampling *how, const struct choice *c, int64_t v) { return exp((c[v].z - c[0].z) / how->temperature); }

/* Sorted choices; the shortest prefix with probability >= top_p, at most top_k long; of it what weighs min_p of the first at least; then
 * the inverse of its distribution. */
static int32_t choose(const struct sampling *how, struct choice *c, int64_t V, float unit) {
    int64_t n = how->top_k > 0 && how->top_k < V ? how->top_k : V, m = 0;
    double sum = 0, mass = 0, at = 0;
    for (int64_t v = 0; v < n; v++) sum += weight(how, c, v);
    for (; m < n && (m == 0 || mass < (double)how->top_p * sum); m++) mass += weight(how, c, m);
    while (m > 1 && weight(how, c, m - 1) < (double)how->min_p) mass -= weight(how, c, --m);
    for (int64_t v = 0; v < m; v++) {
        at += weight(how, c, v);
        if (at > (double)unit * mass) return c[v].id;
    }
    return c[m - 1].id;
}

static err ref_sample(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)i;
    int64_t V = in[0].d[1];
    struct choice *c = scratch;
    for (int64_t s = 0; s < in[0].d[0]; s++) {
        const float *z = view_row(&in[0], s), *raw = in[3].p ? view_row(&in[3], s) : z;
        double top = -INFINITY, sum = 0;
        int32_t id = 0;
        for (int32_t v = 0; v < V; v++)
            if (z[v] > top) top = z[v], id = v;
        if (run->sampling.temperature > 0) {
            for (int32_t v = 0; v < V; v++) c[v] = (struct choice){z[v], v};
            qsort(c, (size_t)V, sizeof *c, by_rank);
            struct philox r = philox(philox_key(run->seed, PURPOSE_SAMPLE), (uint32_t)run->step, (uint32_t)view_i32(&in[1])[s],
                                     (uint32_t)view_i32(&in[2])[s], 0);
            id = choose(&run->sampling, c, V, philox_unit(r.v[0]));
        }
        top = -INFINITY;
        for (int64_t v = 0; v < V; v++) top = raw[v] > top ? raw[v] : top;
        for (int64_t v = 0; v < V; v++) sum += exp(raw[v] - top);
        ((int32_t *)out[0].p)[s] = id;
        view_f32(&out[1])[s] = (float)(raw[id] - top - log(sum));
    }
    return OK;
}

static err infer_top(struct prog *p, struct inst *i) {
    const struct value z = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, DT_F32, 2, z.d));
    if (i->a.n < 1 || i->a.n > TOP_MOST || i->a.n > z.d[1])
        return prog_fail(p, E_USAGE, "top: the best %d of %lld ids (1 to %d can be had)", i->a.n, (long long)z.d[1], TOP_MOST);
    i->out[0] = prog_act(p, DT_I32, 2, (int64_t[]){z.d[0], i->a.n}, "best ids");
    i->out[1] = prog_act(p, DT_F32, 2, (int64_t[]){z.d[0], i->a.n}, "their logits");
    return p->failed;
}

static err ref_top(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run;
    const int64_t V = in[0].d[1];
    struct choice *c = scratch;
    for (int64_t s = 0; s < in[0].d[0]; s++) {
        for (int32_t v = 0; v < V; v++) c[v] = (struct choice){isnan(view_row(&in[0], s)[v]) ? -INFINITY : view_row(&in[0], s)[v], v};
        qsort(c, (size_t)V, sizeof *c, by_rank);
        for (int k = 0; k < i->a.n; k++) ((int32_t *)out[0].p)[s * out[0].ld + k] = c[k].id, view_row(&out[1], s)[k] = (float)c[k].z;
    }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    const double writes = i->op == &op_process ? 2 : 1;
    (void)out;
    return (struct cost){0, 4.0 * writes * (double)in[0].d[0] * (double)in[0].d[1]};
}

const struct op_def op_gather = {.name = "gather", .n_in = 2, .n_out = 1, .infer = infer_gather, .cost = cost, .ref = ref_gather};
const struct op_def op_softcap = {.name = "softcap", .n_in = 1, .n_out = 1, .inplace = 1, .by_rows = true, .infer = infer_softcap, .cost = cost, .ref = ref_softcap};
const struct op_def op_process = {.name = "process", .n_in = PROC_IN, .n_out = 1, .by_rows = true, .infer = infer_process, .cost = cost, .ref = ref_process};
const struct op_def op_top = {
    .name = "top", .n_in = 1, .n_out = 2, .by_rows = true, .infer = infer_top, .cost = cost, .ref_scratch = sample_scratch, .ref = ref_top};
const struct op_def op_sample = {
    .name = "sample", .n_in = 4, .n_out = 2, .infer = infer_sample, .cost = cost, .ref_scratch = sample_scratch, .ref = ref_sample};
