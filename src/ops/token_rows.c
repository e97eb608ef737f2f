/* find_rows and put_columns: a few rows of a token table have replacements (trainable tokens), and the table itself stays as it is. find_rows
 * says of each id which replacement it has; what it gives are ids for embed, of the replacements and of the table, each with -1, no row,
 * where the other has it: the sum of the two is the embedding. put_columns puts the replacements' logits in the place of the table's, where
 * there are logits; in head_loss, where there are none, the same is done by chunks.
 *
 * No gradient passes here: ids have none, and logits are for generation. */
#include "ops/ops.h"
#include <string.h>

static err infer_find(struct prog *p, struct inst *i) {
    const int64_t rows = prog_v(p, i->in[0])->d[0];
    TRY(want(p, i, 0, DT_I32, 1, &rows));
    TRY(want(p, i, 1, DT_I32, 1, prog_v(p, i->in[1])->d));
    i->out[0] = prog_act(p, DT_I32, 1, &rows, "replaced");
    i->out[1] = prog_act(p, DT_I32, 1, &rows, "not replaced");
    return p->failed;
}

static err ref_find(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        const int32_t id = view_i32(&in[0])[n];
        int32_t row = -1;
        for (int64_t k = 0; k < in[1].d[0]; k++)
            if (view_i32(&in[1])[k] == id) row = (int32_t)k;
        ((int32_t *)out[0].p)[n] = row;
        ((int32_t *)out[1].p)[n] = row < 0 ? id : -1;
    }
    return OK;
}

static err infer_put(struct prog *p, struct inst *i) {
    struct value z = *prog_v(p, i->in[0]), own = *prog_v(p, i->in[1]);
    TRY(want(p, i, 0, DT_F32, 2, z.d));
    TRY(want(p, i, 1, DT_F32, 2, (int64_t[]){z.d[0], own.d[1]}));
    TRY(want(p, i, 2, DT_I32, 1, &own.d[1]));
    i->out[0] = prog_act(p, DT_F32, 2, z.d, "logits");
    return p->failed;
}

static err ref_put(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        float *y = view_row(&out[0], n);
        if (y != view_row(&in[0], n)) memcpy(y, view_row(&in[0], n), (size_t)in[0].d[1] * sizeof *y);
        for (int64_t k = 0; k < in[2].d[0]; k++) y[view_i32(&in[2])[k]] = view_row(&in[1], n)[k];
    }
    return OK;
}

const struct op_def op_find_rows = {.name = "find_rows", .n_in = 2, .n_out = 2, .infer = infer_find, .ref = ref_find};
const struct op_def op_put_columns = {.name = "put_columns", .n_in = 3, .n_out = 1, .inplace = 1, .infer = infer_put, .ref = ref_put};
