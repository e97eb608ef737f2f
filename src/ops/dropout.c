/* dropout: each number of x is kept with probability 1 - p and then divided by it, or is zero (Srivastava et al. 2014, inverted). The mask is a
 * function of (seed, step, sample, position, channel, site), as linear's own before its low-rank product is, so nothing is remembered and the backward is
 * the same op on dy: y = m x, dx = m dy. For adapters whose products are no part of a linear; programs that only generate or score have none. */
#include "ops/ops.h"

static err infer(struct prog *p, struct inst *i) {
    const struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){x.d[0], x.d[1]}));
    TRY(want(p, i, 1, DT_I32, 1, x.d));
    TRY(want(p, i, 2, DT_I32, 1, x.d));
    if (!(i->a.dropout > 0 && i->a.dropout < 1)) return prog_fail(p, E_INTERNAL, "dropout: of %g", (double)i->a.dropout);
    i->out[0] = prog_act(p, prog_dt(p), 2, x.d, "dropout");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    din[0] = emit1(p, &op_dropout, (val[]){dout[0], i->in[1], i->in[2]}, 3, &i->a);
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    const float p = i->a.dropout;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int64_t c = 0; c < in[0].d[1]; c++) {
            const struct philox bits = ops_drop_bits(run, i->a.site, 0, view_i32(&in[1])[n], view_i32(&in[2])[n], c & ~(int64_t)3);
            view_row(&out[0], n)[c] = ops_drop_keep(bits.v[c & 3], p) ? view_row(&in[0], n)[c] / (1 - p) : 0;
        }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    const double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){2 * e, 8 * e};
}

const struct op_def op_dropout = {.name = "dropout", .n_in = 3, .n_out = 1, .inplace = 1, .cheap = true, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
