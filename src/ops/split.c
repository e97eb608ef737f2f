/* split: the column slices of a fused product as values of their own (Phi-3's qkv_proj and gate_up_proj, GPT-2's c_attn), and its
 * backward, which lays the slices' gradients side by side, zeros where a slice has none. Copies: what reads a slice wants whole rows, and a fused product's
 * gradient is one operand of linear_bwd. */
#include "ops/ops.h"
#include <string.h>

static err infer(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]);
    int64_t sum = 0;
    if (i->a.n < 1 || i->a.n > MAX_GROUP) return prog_fail(p, E_INTERNAL, "split: %d slices", i->a.n);
    for (int k = 0; k < i->a.n; k++) {
        sum += i->a.width[k];
        i->out[k] = prog_act(p, prog_dt(p), 2, (int64_t[]){x.d[0], i->a.width[k]}, "split");
    }
    return p->failed ? p->failed : want(p, i, 0, prog_dt(p), 2, (int64_t[]){x.d[0], sum});
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    val in[MAX_GROUP] = {{0}};
    for (int k = 0; k < i->a.n; k++) in[k] = dout[k];
    din[0] = emit1(p, &op_split_bwd, in, MAX_GROUP, &i->a);
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    int64_t sum = 0, rows = 0;
    for (int k = 0; k < i->a.n; k++) {
        sum += i->a.width[k];
        if (!has(i->in[k])) continue;
        if (!rows) rows = prog_v(p, i->in[k])->d[0];
        TRY(want(p, i, k, prog_dt(p), 2, (int64_t[]){rows, i->a.width[k]}));
    }
    i->out[0] = prog_act(p, prog_dt(p), 2, (int64_t[]){rows, sum}, "d split");
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    for (int64_t n = 0, at = 0; n < in[0].d[0]; n++, at = 0)
        for (int k = 0; k < i->a.n; at += i->a.width[k++])
            memcpy(view_row(&out[k], n), view_row(&in[0], n) + at, (size_t)i->a.width[k] * sizeof(float));
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    for (int64_t n = 0, at = 0; n < out[0].d[0]; n++, at = 0)
        for (int k = 0; k < i->a.n; at += i->a.width[k++]) {
            if (in[k].p) memcpy(view_row(&out[0], n) + at, view_row(&in[k], n), (size_t)i->a.width[k] * sizeof(float));
            else memset(view_row(&out[0], n) + at, 0, (size_t)i->a.width[k] * sizeof(float));
        }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)out;
    double columns = 0;
    int some = 0;
    for (int k = 0; k < i->a.n; k++) columns += i->a.width[k];
    while (!has(i->in[some])) some++;
    return (struct cost){0, 8 * (double)in[some].d[0] * columns};
}

const struct op_def op_split = {.name = "split", .n_in = 1, .n_out = MAX_GROUP, .cheap = true, .by_rows = true, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_split_bwd = {.name = "split_bwd", .n_in = MAX_GROUP, .n_out = 1, .by_rows = true, .infer = infer_bwd, .cost = cost, .ref = ref_bwd};
