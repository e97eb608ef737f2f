/* stash, fetch, await: an activation leaves for the host and comes back, beside the work in between.
 *
 * stash begins to copy x into host memory (a value of ROLE_HOST), fetch begins to copy it back; await is where the program needs
 * the copy to be whole: before x's own memory is given to others, and before what came back is read. Neither has a gradient: to the
 * backward pass what came back is x (core/grad.c). A backend whose memory is the host's may copy at once and wait for nothing, as
 * the definitions here do; on a card the copies have a stream of their own (cuda/carry.c).
 *
 * Who emits them: site_block() (site.c) at the beginning of each block, and prog_backward(). */
#include "ops/ops.h"
#include <string.h>

static err infer_stash(struct prog *p, struct inst *i) {
    const struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){x.d[0], x.d[1]}));
    i->out[0] = prog_value(p, ROLE_HOST, x.dt, 2, x.d, "stash");
    return p->failed;
}

static err infer_fetch(struct prog *p, struct inst *i) {
    const struct value h = *prog_v(p, i->in[0]);
    if (h.role != ROLE_HOST) return prog_fail(p, E_INTERNAL, "fetch: '%s' is not on the host", h.name);
    i->out[0] = prog_act(p, h.dt, 2, h.d, "fetch");
    return p->failed;
}

static err infer_await(struct prog *p, struct inst *i) {
    const struct value v = *prog_v(p, i->in[0]);
    if (has(i->in[1])) TRY(want(p, i, 1, v.dt, 2, v.d));
    i->out[0] = prog_value(p, v.role, v.dt, 2, v.d, v.name);
    if (v.role == ROLE_HOST && has(i->out[0])) prog_v(p, i->out[0])->alias = i->in[0];
    return p->failed;
}

static void copy_rows(const struct view *from, const struct view *to) {
    const size_t row = dtype_row_bytes(from->dt, from->d[1]), from_ld = dtype_row_bytes(from->dt, from->ld),
                 to_ld = dtype_row_bytes(to->dt, to->ld);
    for (int64_t n = 0; n < from->d[0]; n++) memcpy((char *)to->p + (size_t)n * to_ld, (const char *)from->p + (size_t)n * from_ld, row);
}

static err ref_copy(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    copy_rows(&in[0], &out[0]);
    return OK;
}

static err ref_await(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    if (out[0].p != in[0].p) copy_rows(&in[0], &out[0]);
    return OK;
}

static struct cost cost_copy(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return (struct cost){0, 4 * (double)in[0].d[0] * (double)in[0].d[1]};
}

const struct op_def op_stash = {.name = "stash", .n_in = 1, .n_out = 1, .infer = infer_stash, .cost = cost_copy, .ref = ref_copy};
const struct op_def op_fetch = {.name = "fetch", .n_in = 1, .n_out = 1, .infer = infer_fetch, .cost = cost_copy, .ref = ref_copy};
const struct op_def op_await = {.name = "await", .n_in = 2, .n_out = 1, .inplace = 1, .infer = infer_await, .ref = ref_await};
const struct backward_ops ops_backward = {&op_add, &op_fetch, &op_await};
