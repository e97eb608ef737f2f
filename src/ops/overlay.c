/* overlay: rows of virtual tokens laid over the rows of a text. Ids from `first` on name rows of a table of its own, as prompt
 * tuning (Lester et al. 2021), P-tuning (Liu et al. 2021) and LLaMA-Adapter add them; all other rows stay what they are. Laid over
 * the hidden state between blocks the same op makes deep prompts. The table is a parameter (its gradient is added to) or what other
 * ops made of parameters (then it gets one of its own). An id beyond the table gives zeros.
 *
 * Backward: the rows that were laid over send nothing on to x, they are the table's. Below a frozen embedding nothing is emitted. */
#include "ops/ops.h"
#include <string.h>

static err infer(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]), table = *prog_v(p, i->in[2]);
    TRY(want(p, i, 0, prog_dt(p), 2, x.d));
    TRY(want(p, i, 1, DT_I32, 1, x.d));
    TRY(want(p, i, 2, prog_dt(p), 2, (int64_t[]){table.d[0], x.d[1]}));
    i->out[0] = prog_like(p, i->in[0], "overlay");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    struct op_attr a = i->a;
    a.backward = prog_v(p, i->in[0])->needs;
    struct inst *b = prog_emit(p, &op_overlay_bwd, (val[]){dout[0], i->in[1], i->in[2]}, 3, &a);
    if (b) din[0] = b->out[0], din[2] = b->out[2];
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    struct value dy = *prog_v(p, i->in[0]), table = *prog_v(p, i->in[2]);
    TRY(want(p, i, 0, prog_dt(p), 2, dy.d));
    TRY(want(p, i, 1, DT_I32, 1, dy.d));
    TRY(want(p, i, 2, prog_dt(p), 2, (int64_t[]){table.d[0], dy.d[1]}));
    if (i->a.backward) i->out[0] = prog_like(p, i->in[0], "d overlay");
    if (table.needs && table.role == ROLE_PARAM) i->out[1] = prog_grad_of(p, i->in[2]);
    else if (table.needs) i->out[2] = prog_like(p, i->in[2], "d table");
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    const size_t bytes = (size_t)in[0].d[1] * 4;
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        const int64_t row = (int64_t)view_i32(&in[1])[n] - i->a.first;
        if (row >= in[2].d[0]) memset(view_row(&out[0], n), 0, bytes);
        else memmove(view_row(&out[0], n), row < 0 ? view_row(&in[0], n) : view_row(&in[2], row), bytes);
    }
    return OK;
}

/* The table first: dx may be dy's memory. */
static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    const int64_t N = in[0].d[0], C = in[0].d[1];
    for (int64_t row = 0; row < in[2].d[0]; row++)
        for (int64_t c = 0; c < C && (out[1].p || out[2].p); c++) {
            double sum = 0;
            for (int64_t n = 0; n < N; n++) sum += view_i32(&in[1])[n] - (int64_t)i->a.first == row ? view_row(&in[0], n)[c] : 0;
            if (out[1].p) view_row(&out[1], row)[c] += (float)sum;
            else view_row(&out[2], row)[c] = (float)sum;
        }
    for (int64_t n = 0; n < N && out[0].p; n++) {
        if (view_i32(&in[1])[n] >= i->a.first) memset(view_row(&out[0], n), 0, (size_t)C * 4);
        else memmove(view_row(&out[0], n), view_row(&in[0], n), (size_t)C * 4);
    }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){0, 8 * e};
}

const struct op_def op_overlay = {.name = "overlay", .n_in = 3, .n_out = 1, .inplace = 1, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_overlay_bwd = {.name = "overlay_bwd", .n_in = 3, .n_out = 3, .inplace = 1, .infer = infer_bwd, .cost = cost, .ref = ref_bwd};
