/* weight_grad: the gradient of a linear's matrix that is trained (full fine-tuning, chosen layers, bottleneck adapters): dW += dY^T x, in
 * f32 whatever the program computes in, so that passes and micro-batches add up without rounding to 16 bits between them. op linear's
 * backward emits one for each such matrix of its group; dx stays linear_bwd's. W itself is an operand for its place only. */
#include "ops/ops.h"

static err infer(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]), dy = *prog_v(p, i->in[1]), w = *prog_v(p, i->in[2]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){x.d[0], x.d[1]}));
    TRY(want(p, i, 1, prog_dt(p), 2, (int64_t[]){x.d[0], dy.d[1]}));
    TRY(want(p, i, 2, prog_dt(p), 2, (int64_t[]){dy.d[1], x.d[1]}));
    if (w.role != ROLE_PARAM)
        return prog_fail(p, E_UNSUPPORTED, "weight_grad: '%s' is no trained parameter, so it has no gradient to add to", w.name);
    i->out[0] = prog_grad_of(p, i->in[2]);
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    for (int64_t o = 0; o < in[1].d[1]; o++)
        for (int64_t c = 0; c < in[0].d[1]; c++) {
            double sum = 0;
            for (int64_t n = 0; n < in[0].d[0]; n++) sum += (double)view_row(&in[1], n)[o] * view_row(&in[0], n)[c];
            view_row(&out[0], o)[c] += (float)sum;
        }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double n = (double)in[0].d[0], c = (double)in[0].d[1], o = (double)in[1].d[1];
    return (struct cost){2 * n * o * c, 4 * n * (o + c) + 8 * o * c};
}

const struct op_def op_weight_grad = {.name = "weight_grad", .n_in = 3, .n_out = 1, .by_rows = true, .infer = infer, .cost = cost, .ref = ref};
