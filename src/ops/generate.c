/* gather, softcap and sample: what generation needs beside the model. gather picks the rows whose logits matter (the last token of
 * each prompt); softcap bounds logits (Gemma 2);
 * sample turns them into ids. */
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

static err infer_sample(struct prog *p, struct inst *i) {
    int64_t rows = prog_v(p, i->in[0])->d[0];
    TRY(want(p, i, 0, DT_F32, 2, (int64_t[]){rows, prog_v(p, i->in[0])->d[1]}));
    TRY(want(p, i, 1, DT_I32, 1, &rows));
    TRY(want(p, i, 2, DT_I32, 1, &rows));
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

/* Sorted choices; the shortest prefix with probability >= top_p, at most top_k long; then the inverse of its distribution. */
static int32_t choose(const struct run_ctx *run, struct choice *c, int64_t V, float unit) {
    int64_t n = run->top_k > 0 && run->top_k < V ? run->top_k : V, m = 0;
    double sum = 0, mass = 0, at = 0;
    for (int64_t v = 0; v < n; v++) sum += exp((c[v].z - c[0].z) / run->temperature);
    for (; m < n && (m == 0 || mass < (double)run->top_p * sum); m++) mass += exp((c[m].z - c[0].z) / run->temperature);
    for (int64_t v = 0; v < m; v++) {
        at += exp((c[v].z - c[0].z) / run->temperature);
        if (at > (double)unit * mass) return c[v].id;
    }
    return c[m - 1].id;
}

static err ref_sample(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)i;
    int64_t V = in[0].d[1];
    struct choice *c = scratch;
    for (int64_t s = 0; s < in[0].d[0]; s++) {
        const float *z = view_row(&in[0], s);
        double top = -INFINITY, sum = 0;
        int32_t id = 0;
        for (int32_t v = 0; v < V; v++)
            if (z[v] > top) top = z[v], id = v;
        for (int64_t v = 0; v < V; v++) sum += exp(z[v] - top);
        if (run->temperature > 0) {
            for (int32_t v = 0; v < V; v++) c[v] = (struct choice){z[v], v};
            qsort(c, (size_t)V, sizeof *c, by_rank);
            struct philox r = philox(philox_key(run->seed, PURPOSE_SAMPLE), (uint32_t)run->step, (uint32_t)view_i32(&in[1])[s],
                                     (uint32_t)view_i32(&in[2])[s], 0);
            id = choose(run, c, V, philox_unit(r.v[0]));
        }
        ((int32_t *)out[0].p)[s] = id;
        view_f32(&out[1])[s] = (float)(z[id] - top - log(sum));
    }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return (struct cost){0, 4.0 * (double)in[0].d[0] * (double)in[0].d[1]};
}

const struct op_def op_gather = {.name = "gather", .n_in = 2, .n_out = 1, .infer = infer_gather, .cost = cost, .ref = ref_gather};
const struct op_def op_softcap = {.name = "softcap", .n_in = 1, .n_out = 1, .inplace = 1, .infer = infer_softcap, .cost = cost, .ref = ref_softcap};
const struct op_def op_sample = {.name = "sample", .n_in = 3, .n_out = 2, .infer = infer_sample, .cost = cost, .ref_scratch = sample_scratch, .ref = ref_sample};
