/* embed: rows of a table by token id, and the gradient of the table where it is trained (the whole input embedding, full
 * fine-tuning). An id that the table does not have gives zeros and takes no gradient: rows of virtual tokens have such ids and get
 * their contents from op overlay. That ids from outside are in the vocabulary is checked where they come in.
 *
 * A tied table is one parameter with two writers of its gradient, embed_bwd and head_loss; both add. */
#include "ops/ops.h"
#include <string.h>

static err infer(struct prog *p, struct inst *i) {
    const int64_t rows = prog_v(p, i->in[0])->d[0];
    TRY(want(p, i, 0, DT_I32, 1, &rows));
    struct value table = *prog_v(p, i->in[1]);
    TRY(want(p, i, 1, DT_NONE, 2, (int64_t[]){table.d[0], table.d[1]}));
    i->out[0] = prog_act(p, prog_dt(p), 2, (int64_t[]){rows, table.d[1]}, "embed");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    (void)din;
    prog_emit(p, &op_embed_bwd, (val[]){dout[0], i->in[0], i->in[1]}, 3, &i->a);
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    struct value dy = *prog_v(p, i->in[0]), table = *prog_v(p, i->in[2]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){dy.d[0], table.d[1]}));
    TRY(want(p, i, 1, DT_I32, 1, dy.d));
    if (table.role != ROLE_PARAM) return prog_fail(p, E_UNSUPPORTED, "embed: a gradient of '%s', which is no parameter", table.name);
    i->out[0] = prog_grad_of(p, i->in[2]);
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int64_t C = in[1].d[1];
    size_t row = dtype_row_bytes(in[1].dt, C);
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        const int32_t id = view_i32(&in[0])[n];
        float *x = view_row(&out[0], n);
        memset(x, 0, (size_t)C * 4);
        if (id < 0 || id >= in[1].d[0]) continue;
        dequantise_row(in[1].dt, (const char *)in[1].p + row * (size_t)id, x, C);
        for (int64_t c = 0; c < C && i->a.scale != 1; c++) x[c] *= i->a.scale;
    }
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        const int32_t id = view_i32(&in[1])[n];
        for (int64_t c = 0; c < out[0].d[1] && id >= 0 && id < out[0].d[0]; c++)
            view_row(&out[0], id)[c] += i->a.scale * view_row(&in[0], n)[c];
    }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i;
    double n = (double)in[0].d[0], c = (double)out[0].d[1];
    return (struct cost){0, n * ((double)dtype_row_bytes(in[1].dt, in[1].d[1]) + 4 * c)};
}

static struct cost cost_bwd(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){2 * e, 12 * e};
}

const struct op_def op_embed = {.name = "embed", .n_in = 2, .n_out = 1, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_embed_bwd = {.name = "embed_bwd", .n_in = 3, .n_out = 1, .infer = infer_bwd, .cost = cost_bwd, .ref = ref_bwd};
