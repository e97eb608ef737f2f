/* column_sum: the gradient of a bias that is trained (BitFit, Ben Zaken et al. 2022; LoRA with `bias: all`): each column of dy summed
 * over the rows, added to it. op linear's backward emits it beside linear_bwd; there is nothing further down to go to. */
#include "ops/ops.h"

static err infer(struct prog *p, struct inst *i) {
    struct value dy = *prog_v(p, i->in[0]), b = *prog_v(p, i->in[1]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){dy.d[0], dy.d[1]}));
    TRY(want(p, i, 1, DT_F32, 1, &dy.d[1]));
    if (b.role != ROLE_PARAM) return prog_fail(p, E_UNSUPPORTED, "column_sum: '%s' is no trained parameter, so it has no gradient to add to", b.name);
    i->out[0] = prog_grad_of(p, i->in[1]);
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    for (int64_t c = 0; c < in[0].d[1]; c++) {
        double sum = 0;
        for (int64_t n = 0; n < in[0].d[0]; n++) sum += view_row(&in[0], n)[c];
        view_f32(&out[0])[c] += (float)sum;
    }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){e, 4 * e};
}

const struct op_def op_column_sum = {.name = "column_sum", .n_in = 2, .n_out = 1, .by_rows = true, .infer = infer, .cost = cost, .ref = ref};
