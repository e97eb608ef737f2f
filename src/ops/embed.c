/* embed: rows of a table by token id. The table is frozen here; training it is a method of its own. */
#include "ops/ops.h"

static err infer(struct prog *p, struct inst *i) {
    const int64_t rows = prog_v(p, i->in[0])->d[0];
    TRY(want(p, i, 0, DT_I32, 1, &rows));
    struct value table = *prog_v(p, i->in[1]);
    TRY(want(p, i, 1, DT_NONE, 2, (int64_t[]){table.d[0], table.d[1]}));
    i->out[0] = prog_act(p, prog_dt(p), 2, (int64_t[]){rows, table.d[1]}, "embed");
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int64_t C = in[1].d[1];
    size_t row = dtype_row_bytes(in[1].dt, C);
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        float *x = view_row(&out[0], n);
        dequantise_row(in[1].dt, (const char *)in[1].p + row * (size_t)view_i32(&in[0])[n], x, C);
        for (int64_t c = 0; c < C && i->a.scale != 1; c++) x[c] *= i->a.scale;
    }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i;
    double n = (double)in[0].d[0], c = (double)out[0].d[1];
    return (struct cost){0, n * ((double)dtype_row_bytes(in[1].dt, in[1].d[1]) + 4 * c)};
}

const struct op_def op_embed = {.name = "embed", .n_in = 2, .n_out = 1, .infer = infer, .cost = cost, .ref = ref};
