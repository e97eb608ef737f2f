/* magnitude: what DoRA (Liu et al. 2024) multiplies the outputs of a linear layer with, l = m / ||W + s B A||, norms of rows, without ever
 * forming the sum: ||w + s b A||^2 = ||w||^2 + 2 s <b, A w> + s^2 b (A A^T) b^T for each row w of W and b of B. ||W||^2 is computed once
 * for a base; P = A W^T and G = A A^T are products like any other (op linear), so W may be of any type.
 *
 * m alone is trained: the norm is a constant to the gradient (section 4.3 of the paper, and PEFT), so dm = dl / norm, and nothing flows to
 * B. The parts are f32 whatever the program computes in; at B = 0 with m = sqrt(||W||^2) l is 1 to the bit. A row of zeros has no
 * direction: its l is 0.
 *
 * With a STATE operand l lies there: prefill leaves it for decoding, which has no need to read W twice. */
#include "ops/ops.h"

static err infer(struct prog *p, struct inst *i) {
    const int64_t O = prog_v(p, i->in[0])->d[0], r = prog_v(p, i->in[3])->d[1];
    TRY(want(p, i, 0, DT_F32, 1, &O));
    TRY(want(p, i, 1, DT_F32, 1, &O));
    TRY(want(p, i, 2, DT_F32, 2, (int64_t[]){r, O}));
    TRY(want(p, i, 3, prog_dt(p), 2, (int64_t[]){O, r}));
    TRY(want(p, i, 4, DT_F32, 2, (int64_t[]){r, r}));
    if (has(i->in[5])) TRY(want(p, i, 5, DT_F32, 1, &O));
    i->out[0] = has(i->in[5]) ? i->in[5] : prog_act(p, DT_F32, 1, &O, "magnitude / norm");
    i->out[1] = prog_act(p, DT_F32, 1, &O, "1 / norm");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    (void)din;
    if (prog_v(p, i->in[0])->needs) prog_emit(p, &op_magnitude_bwd, (val[]){dout[0], i->out[1], i->in[0]}, 3, NULL);
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    const struct value m = *prog_v(p, i->in[2]);
    TRY(want(p, i, 0, DT_F32, 1, m.d));
    TRY(want(p, i, 1, DT_F32, 1, m.d));
    if (m.role != ROLE_PARAM)
        return prog_fail(p, E_UNSUPPORTED, "magnitude_bwd: '%s' is no trained parameter, so it has no gradient to add to", m.name);
    i->out[0] = prog_grad_of(p, i->in[2]);
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    const double s = i->a.scale;
    for (int64_t o = 0, r = in[4].d[0]; o < in[0].d[0]; o++) {
        const float *b = view_row(&in[3], o);
        double square = view_f32(&in[1])[o];
        for (int64_t j = 0; j < r; j++) {
            square += 2 * s * view_row(&in[2], j)[o] * b[j];
            for (int64_t k = 0; k < r; k++) square += s * s * b[j] * (double)view_row(&in[4], j)[k] * b[k];
        }
        const double inverse = square > 0 ? 1 / sqrt(square) : square * 0; /* NaN stays NaN */
        view_f32(&out[0])[o] = (float)(square > 0 ? view_f32(&in[0])[o] / sqrt(square) : view_f32(&in[0])[o] * inverse);
        view_f32(&out[1])[o] = (float)inverse;
    }
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    for (int64_t o = 0; o < in[0].d[0]; o++) view_f32(&out[0])[o] += view_f32(&in[0])[o] * view_f32(&in[1])[o];
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    const double o = (double)in[0].d[0], r = (double)in[4].d[0];
    return (struct cost){o * (2 * r * r + 4 * r), 4 * o * (2 * r + 4)};
}

static struct cost cost_bwd(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return (struct cost){2 * (double)in[0].d[0], 16 * (double)in[0].d[0]};
}

const struct op_def op_magnitude = {.name = "magnitude", .n_in = 6, .n_out = 2, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
const struct op_def op_magnitude_bwd = {.name = "magnitude_bwd", .n_in = 3, .n_out = 1, .infer = infer_bwd, .cost = cost_bwd, .ref = ref_bwd};
