/* rope: rotary position embedding (Su et al. 2021). A rotation, so its backward is the rotation by the negative angle.
 * Pairs are (j, j + D/2) in Hugging Face's layout, (2j, 2j + 1) in GGUF's "llama" layout (interleaved). Partial rotation (Phi)
 * takes a head's first rope_dims columns; `scale` is YaRN's and LongRoPE's factor on sine and cosine, so it is in the backward too. */
#include "ops/ops.h"
#include <math.h>

static int rotated(const struct inst *i) { return i->a.rope_dims ? i->a.rope_dims : i->a.head_dim; }

static err infer(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]);
    TRY(want(p, i, 0, prog_dt(p), 2, (int64_t[]){SYM_N, (int64_t)i->a.heads * i->a.head_dim}));
    TRY(want(p, i, 1, DT_I32, 1, (int64_t[]){SYM_N}));
    TRY(want(p, i, 2, DT_F32, 1, (int64_t[]){rotated(i) / 2}));
    i->out[0] = prog_act(p, prog_dt(p), 2, x.d, "rope");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    struct op_attr a = i->a;
    a.inverse = !a.inverse;
    din[0] = emit1(p, &op_rope, (val[]){dout[0], i->in[1], i->in[2]}, 3, &a);
    return p->failed;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int D = i->a.head_dim, R = rotated(i), half = R / 2;
    double scale = i->a.scale != 0 ? i->a.scale : 1;
    for (int64_t n = 0; n < in[0].d[0]; n++)
        for (int h = 0; h < i->a.heads; h++) {
            for (int d = R; d < D; d++) view_row(&out[0], n)[h * D + d] = view_row(&in[0], n)[h * D + d];
            for (int j = 0; j < half; j++) {
                int a = i->a.interleaved ? 2 * j : j, b = i->a.interleaved ? 2 * j + 1 : j + half;
                const float *x = view_row(&in[0], n) + h * D;
                float *y = view_row(&out[0], n) + h * D;
                double t = (float)view_i32(&in[1])[n] * view_f32(&in[2])[j]; /* the angle is rounded to f32, as everywhere */
                double c = scale * cos(t), s = scale * (i->a.inverse ? -sin(t) : sin(t)), x0 = x[a], x1 = x[b];
                y[a] = (float)(x0 * c - x1 * s);
                y[b] = (float)(x0 * s + x1 * c);
            }
        }
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    double e = (double)in[0].d[0] * (double)in[0].d[1];
    return (struct cost){3 * e, 8 * e};
}

const struct op_def op_rope = {.name = "rope", .n_in = 3, .n_out = 1, .inplace = 1, .infer = infer, .vjp = vjp, .cost = cost, .ref = ref};
