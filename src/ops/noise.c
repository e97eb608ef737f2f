/* noise: NEFTune (Jain et al. 2023). To the rows of a text's tokens uniform noise is added, of at most alpha / sqrt(L C): L is how many tokens that text has,
 * C how wide a row is, so that the noise of a whole text has about the same length whatever it is. As dropout's, it is a function of (seed, step,
 * sample, position, channel): a text has the same noise however it is packed, in whichever pass it comes, and when it is computed again. Transformers' L is
 * that of the padded batch; here there is no padding. Virtual tokens (attr n: the first so many of each sequence) are no part of it. To the backward it is nothing:
 * dx = dy. Emitted by site_noise(), in training alone. */
#include "ops/ops.h"

static err infer(struct prog *p, struct inst *i) {
    const struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, prog_dt(p), 2, x.d));
    TRY(want(p, i, 1, DT_I32, 1, prog_v(p, i->in[1])->d));
    TRY(want(p, i, 2, DT_I32, 1, x.d));
    TRY(want(p, i, 3, DT_I32, 1, x.d));
    i->out[0] = prog_like(p, i->in[0], "noise");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    (void)p, (void)i;
    din[0] = dout[0];
    return OK;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    const int64_t C = in[0].d[1];
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        const float most = ops_noise_most(&i->a, view_i32(&in[1]), in[1].d[0] - 1, n, C);
        for (int64_t c = 0; c < C; c++) {
            const struct philox bits = ops_noise_bits(run->seed, run->step, view_i32(&in[2])[n], view_i32(&in[3])[n], c & ~(int64_t)3);
            view_row(&out[0], n)[c] = view_row(&in[0], n)[c] + most * (2 * philox_unit(bits.v[c & 3]) - 1);
        }
    }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    const double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){3 * e, 8 * e};
}

const struct op_def op_noise = {
    .name = "noise", .n_in = 4, .n_out = 1, .inplace = 1, .cheap = true, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
