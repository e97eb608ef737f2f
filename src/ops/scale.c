/* scale: each column of x times its own number, y[n, c] = x[n, c] l[c]: the trained vectors of IA3 (Liu et al. 2022), the magnitudes
 * of DoRA (Liu et al. 2024); or all of x times one number, l[1]: the gates of LLaMA-Adapter. l is f32 whatever the program computes in.
 * Backward: dx = dy l, dl = sum over the rows of dy x. A bias of the layer that made x may come with it: it is added unscaled. A factor for all
 * columns (`scale`; AdaLoRA's, beside its singular values) is part of the product, not of l, and may be there alone.
 *
 * l is a vector of the adapter (its gradient is added to) or one that the program has computed (its gradient is a value of its own,
 * written). Where l is frozen x is not asked for, so nothing keeps it. Either direction may work in place: forward only where x dies
 * with it, which the planner knows, so never where the backward still reads x; backward sums dl before it writes dx. */
#include "ops/ops.h"

enum { DX, DL_ADDED, DL_WRITTEN };

/* l's shape: [C] or [1]. */
static err want_scales(struct prog *p, struct inst *i, int64_t columns) {
    const struct value *l = prog_v(p, i->in[1]);
    return want(p, i, 1, DT_F32, 1, (int64_t[]){l->nd == 1 && l->d[0] == 1 ? 1 : columns});
}

static err infer(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){x.d[0], x.d[1]}));
    if (has(i->in[1])) TRY(want_scales(p, i, x.d[1]));
    if (has(i->in[2])) TRY(want(p, i, 2, DT_F32, 1, &x.d[1]));
    i->out[0] = prog_act(p, prog_dt(p), 2, x.d, "scale");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    val x = has(i->in[1]) && prog_v(p, i->in[1])->needs ? i->in[0] : (val){0}, bias = i->in[2];
    if (has(bias) && prog_v(p, bias)->needs) prog_emit(p, &op_column_sum, (val[]){dout[0], bias}, 2, NULL);
    struct inst *b = prog_emit(p, &op_scale_bwd, (val[]){x, i->in[1], dout[0]}, 3, &i->a);
    if (b) din[0] = b->out[DX], din[1] = b->out[DL_WRITTEN];
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    struct value dy = *prog_v(p, i->in[2]), l = has(i->in[1]) ? *prog_v(p, i->in[1]) : (struct value){0};
    if (has(i->in[1])) TRY(want_scales(p, i, dy.d[1]));
    TRY(want(p, i, 2, prog_dt(p), 2, (int64_t[]){dy.d[0], dy.d[1]}));
    if (l.needs) TRY(want(p, i, 0, prog_dt(p), 2, dy.d));
    if (!l.needs || prog_v(p, i->in[0])->needs) i->out[DX] = prog_act(p, prog_dt(p), 2, dy.d, "d scale");
    if (!l.needs) return p->failed;
    if (l.role == ROLE_PARAM) i->out[DL_ADDED] = prog_grad_of(p, i->in[1]);
    else i->out[DL_WRITTEN] = prog_act(p, DT_F32, 1, l.d, "d scales");
    return p->failed;
}

static void scaled(const struct view *x, const struct view *l, float by, const struct view *bias, const struct view *y) {
    for (int64_t n = 0; n < x->d[0]; n++)
        for (int64_t c = 0; c < x->d[1]; c++)
            view_row(y, n)[c] =
                view_row(x, n)[c] * (l->p ? view_f32(l)[l->d[0] == 1 ? 0 : c] * by : by) + (bias && bias->p ? view_f32(bias)[c] : 0);
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    scaled(&in[0], &in[1], ops_scale_by(i), &in[2], &out[0]);
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    const struct view *x = &in[0], *dy = &in[2];
    const int64_t columns = dy->d[1], each = in[1].p && in[1].d[0] == 1 ? columns : 1;
    const float by = ops_scale_by(i);
    for (int64_t c = 0; c * each < columns && x->p; c++) {
        double sum = 0;
        for (int64_t n = 0; n < dy->d[0]; n++)
            for (int64_t k = c * each; k < (c + 1) * each; k++) sum += (double)view_row(dy, n)[k] * view_row(x, n)[k];
        sum *= by;
        if (out[DL_ADDED].p) view_f32(&out[DL_ADDED])[c] += (float)sum;
        if (out[DL_WRITTEN].p) view_f32(&out[DL_WRITTEN])[c] = (float)sum;
    }
    if (out[DX].p) scaled(dy, &in[1], by, NULL, &out[DX]);
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){e, 8 * e};
}

static struct cost cost_bwd(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i;
    double e = (double)in[2].d[0] * (double)in[2].d[1];
    bool dx = out[DX].nd, dl = in[0].nd;
    return (struct cost){(dx + 2 * dl) * e, (8 * dx + 8 * dl - 4 * (dx && dl)) * e}; /* dy is read once */
}

const struct op_def op_scale = {.name = "scale", .n_in = 3, .n_out = 1, .inplace = 1, .cheap = true, .by_rows = true, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_scale_bwd = {.name = "scale_bwd", .n_in = 3, .n_out = 3, .inplace = 1 | 1 << 2, .by_rows = true, .infer = infer_bwd, .cost = cost_bwd, .ref = ref_bwd};
