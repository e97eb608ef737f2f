/* linear: a group of products that share their input, each with an optional low-rank delta (LoRA, Hu et al. 2021), as one
 * instruction: the op that decides the speed. Y_i = x W_i^T + bias_i + alpha_i (drop_i(x) A_i^T) B_i^T.
 *
 * The backward of what is frozen and of the deltas is one instruction, dx, dA and dB, so that dY is read once. A matrix or a bias that
 * is trained (a PARAM in the place of a base's) has an instruction of its own beside it: weight_grad, column_sum. Where nothing is
 * summed against x it is no operand, so a frozen linear's input is neither kept nor computed again for its backward.
 * Where only T is read (of a block that is computed again, the last product), Y is left out and no product with W is made.
 * In a run of several adapters' rows each row has its adapter's A and B, and both directions of a cycle are one pass over the base.
 * Operand and output slots: the LIN_* and LB_* enums of ops.h. */
#include "ops/ops.h"
#include <stdio.h>
#include <string.h>

static int64_t out_dim(const struct prog *p, const struct inst *i, int k) { return prog_v(p, i->in[LIN_W + k])->d[0]; }

static err check_mix(struct prog *p, const struct inst *i, int64_t rows) {
    if (!has(i->in[LIN_MIX])) return OK;
    if (i->a.members < 1 || i->a.members > MAX_MEMBERS) return prog_fail(p, E_INTERNAL, "linear: %d members", i->a.members);
    for (int k = 0; k < i->a.n; k++) {
        int r = 0;
        for (int m = 0; m < i->a.members; m++) r += i->a.member_rank[k][m];
        if (r != i->a.rank[k]) return prog_fail(p, E_INTERNAL, "linear: the members of output %d have rank %d of %d", k, r, i->a.rank[k]);
    }
    return want(p, i, LIN_MIX, DT_F32, 2, (int64_t[]){rows, i->a.members});
}

static err infer(struct prog *p, struct inst *i) {
    int64_t C = prog_v(p, i->in[LIN_X])->d[1], R = 0;
    int64_t rows = prog_v(p, i->in[LIN_X])->d[0];
    TRY(want(p, i, LIN_X, prog_dt(p), 2, (int64_t[]){rows, C}));
    if (i->a.n < 1 || i->a.n > MAX_GROUP) return prog_fail(p, E_INTERNAL, "linear: a group of %d", i->a.n);
    for (int k = 0; k < i->a.n; k++) {
        int64_t O = out_dim(p, i, k), r = i->a.rank[k];
        TRY(want(p, i, LIN_W + k, DT_NONE, 2, (int64_t[]){O, C}));
        if (has(i->in[LIN_BIAS + k])) TRY(want(p, i, LIN_BIAS + k, DT_F32, 1, (int64_t[]){O}));
        if (r) TRY(want(p, i, LIN_B + k, prog_dt(p), 2, (int64_t[]){O, r}));
        R += r;
        char name[128];
        snprintf(name, sizeof name, "%s y", prog_v(p, i->in[LIN_W + k])->name);
        i->out[k] = prog_act(p, i->a.wide ? DT_F32 : prog_dt(p), 2, (int64_t[]){rows, O}, name);
    }
    if (!R) return p->failed;
    TRY(want(p, i, LIN_A, prog_dt(p), 2, (int64_t[]){R, C}));
    if (i->a.dropout > 0) {
        TRY(want(p, i, LIN_SAMPLE, DT_I32, 1, &rows));
        TRY(want(p, i, LIN_POS, DT_I32, 1, &rows));
    }
    TRY(check_mix(p, i, rows));
    i->out[LIN_T] = prog_act(p, prog_dt(p), 2, (int64_t[]){rows, R}, "lora t");
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    val in[LB_IN] = {{0}};
    if (has(i->in[LIN_MIX])) return prog_fail(p, E_INTERNAL, "linear: several adapters at once are not trained");
    if (!prog_v(p, i->in[LIN_X])->needs || (has(i->in[LIN_A]) && prog_v(p, i->in[LIN_A])->needs)) in[LB_X] = i->in[LIN_X];
    in[LB_A] = i->in[LIN_A];
    in[LB_T] = i->out[LIN_T];
    in[LB_SAMPLE] = i->in[LIN_SAMPLE];
    in[LB_POS] = i->in[LIN_POS];
    for (int k = 0; k < i->a.n; k++) {
        in[LB_W + k] = i->in[LIN_W + k];
        in[LB_B + k] = i->in[LIN_B + k];
        in[LB_DY + k] = dout[k];
    }
    for (int k = 0; k < i->a.n && !p->failed; k++) {
        val w = i->in[LIN_W + k], bias = i->in[LIN_BIAS + k];
        if (has(dout[k]) && prog_v(p, w)->needs) prog_emit(p, &op_weight_grad, (val[]){i->in[LIN_X], dout[k], w}, 3, NULL);
        if (has(dout[k]) && has(bias) && prog_v(p, bias)->needs) prog_emit(p, &op_column_sum, (val[]){dout[k], bias}, 2, NULL);
    }
    struct inst *b = prog_emit(p, &op_linear_bwd, in, LB_IN, &i->a);
    if (b) din[LIN_X] = b->out[LB_DX];
    return p->failed;
}

static err infer_bwd(struct prog *p, struct inst *i) {
    int64_t d[] = {0, prog_v(p, i->in[LB_W])->d[1]}; /* of x */
    for (int k = i->a.n - 1; k >= 0; k--)
        if (has(i->in[LB_DY + k])) d[0] = prog_v(p, i->in[LB_DY + k])->d[0];
    for (int k = 0; k < i->a.n; k++)
        if (has(i->in[LB_DY + k])) TRY(want(p, i, LB_DY + k, prog_dt(p), 2, (int64_t[]){d[0], prog_v(p, i->in[LB_W + k])->d[0]}));
    if (has(i->in[LB_X])) TRY(want(p, i, LB_X, prog_dt(p), 2, d));
    if (!has(i->in[LB_X]) || prog_v(p, i->in[LB_X])->needs) i->out[LB_DX] = prog_act(p, prog_dt(p), 2, d, "d linear");
    if (!has(i->in[LB_A])) return p->failed;
    if (prog_v(p, i->in[LB_A])->needs) i->out[LB_DA] = prog_grad_of(p, i->in[LB_A]);
    for (int k = 0; k < i->a.n; k++)
        if (i->a.rank[k] && prog_v(p, i->in[LB_B + k])->needs) i->out[LB_DB + k] = prog_grad_of(p, i->in[LB_B + k]);
    return p->failed;
}

/* x or its dropped-out form for output k of the group, one row. */
static const float *dropped(const struct run_ctx *run, const struct inst *i, int k, const struct view *sample,
                            const struct view *pos, int64_t n, const float *x, int64_t C, float *buf) {
    float p = i->a.dropout;
    if (!(p > 0)) return x;
    for (int64_t c = 0; c < C; c += 4) {
        struct philox r = ops_drop_bits(run, i->a.site, k, view_i32(sample)[n], view_i32(pos)[n], c);
        for (int64_t j = c; j < c + 4 && j < C; j++) buf[j] = ops_drop_keep(r.v[j - c], p) ? x[j] / (1 - p) : 0;
    }
    return buf;
}

static size_t ref_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return (size_t)in[LIN_W].d[1] * 8; /* one weight row and one dropped input row (LB_W is the same slot) */
}

/* --- whose a row is ------------------------------------------------------------------------------------------------- */
/* Rows `from` .. `to` of what has tokens for rows. */
static void cut(struct view *v, int64_t from, int64_t to) {
    if (!v->nd) return;
    v->p = v->p ? (char *)v->p + dtype_row_bytes(v->dt, from * (v->nd == 1 ? 1 : v->ld)) : NULL;
    v->d[0] = to - from;
}

static void shift(struct view *v, ptrdiff_t bytes) {
    if (v->p) v->p = (char *)v->p + bytes;
}

static bool part(const struct adapters *all, int k, const struct inst *i, const struct view *in, const struct view *out, struct view *own_in,
                 struct view *own_out) {
    const bool bwd = i->op == &op_linear_bwd;
    const int a = bwd ? LB_A : LIN_A, b = bwd ? LB_B : LIN_B;
    const int64_t from = k ? all->of[k - 1].end : 0, to = all->of[k].end;
    if (!in[a].p) return false;
    memcpy(own_in, in, (size_t)i->op->n_in * sizeof *in);
    memcpy(own_out, out, (size_t)i->op->n_out * sizeof *out);
    for (int j = 0; j < i->op->n_in; j++) {
        if (j == a || (j >= b && j < b + MAX_GROUP)) shift(&own_in[j], all->of[k].weights);
        else if (j == 0 || j > a) cut(&own_in[j], from, to); /* between them: the base's */
    }
    for (int j = 0; j < i->op->n_out; j++) {
        if (bwd && j >= LB_DA) shift(&own_out[j], all->of[k].grads);
        else cut(&own_out[j], from, to);
    }
    return true;
}

bool ops_by_adapter(kernel one, const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch, err *e) {
    struct view own_in[LIN_IN], own_out[MAX_OUT];
    struct run_ctx alone = *run;
    int k = 0;
    alone.adapters = NULL;
    *e = OK;
    for (; run->adapters && k < run->adapters->n && !*e && part(run->adapters, k, i, in, out, own_in, own_out); k++)
        *e = one(&alone, i, own_in, own_out, scratch);
    return k > 0;
}

static err ref_one(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    int64_t N = in[LIN_X].d[0], C = in[LIN_X].d[1], r0 = 0;
    float *w = scratch, *buf = w + C;
    for (int k = 0; k < i->a.n; k++) {
        int64_t O = in[LIN_W + k].d[0], r = i->a.rank[k];
        size_t bytes = dtype_row_bytes(in[LIN_W + k].dt, C);
        for (int64_t n = 0; n < N && r; n++) {
            const float *x = dropped(run, i, k, &in[LIN_SAMPLE], &in[LIN_POS], n, view_row(&in[LIN_X], n), C, buf);
            for (int64_t j = 0; j < r; j++) {
                const float *a = view_row(&in[LIN_A], r0 + j);
                double t = 0;
                for (int64_t c = 0; c < C; c++) t += (double)x[c] * a[c];
                view_row(&out[LIN_T], n)[r0 + j] = in[LIN_MIX].p ? ops_weigh((float)t, view_row(&in[LIN_MIX], n)[ops_member(&i->a, k, j)]) : (float)t;
            }
        }
        for (int64_t o = 0; o < O && out[k].p; o++) {
            dequantise_row(in[LIN_W + k].dt, (const char *)in[LIN_W + k].p + bytes * (size_t)o, w, C);
            for (int64_t n = 0; n < N; n++) {
                const float *x = view_row(&in[LIN_X], n);
                double y = in[LIN_BIAS + k].p ? view_f32(&in[LIN_BIAS + k])[o] : 0;
                for (int64_t c = 0; c < C; c++) y += (double)x[c] * w[c];
                for (int64_t j = 0; j < r; j++)
                    y += (double)i->a.alpha[k] * view_row(&out[LIN_T], n)[r0 + j] * view_row(&in[LIN_B + k], o)[j];
                view_row(&out[k], n)[o] = (float)y;
            }
        }
        r0 += r;
    }
    return OK;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    err e;
    return ops_by_adapter(ref_one, run, i, in, out, scratch, &e) ? e : ref_one(run, i, in, out, scratch);
}

/* dA, dB and the low-rank part of dx for output k. */
static void ref_bwd_delta(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, int k,
                          int64_t r0, float *buf) {
    int64_t N = ops_like_x(in, out)->d[0], C = ops_like_x(in, out)->d[1], O = in[LB_W + k].d[0];
    for (int64_t n = 0; n < N; n++) {
        const float *dy = view_row(&in[LB_DY + k], n), *t = view_row(&in[LB_T], n) + r0;
        const float *x = out[LB_DA].p ? dropped(run, i, k, &in[LB_SAMPLE], &in[LB_POS], n, view_row(&in[LB_X], n), C, buf) : NULL;
        for (int64_t j = 0; j < i->a.rank[k]; j++) {
            double dt = 0;
            for (int64_t o = 0; o < O; o++) {
                dt += (double)dy[o] * view_row(&in[LB_B + k], o)[j];
                if (out[LB_DB + k].p) view_row(&out[LB_DB + k], o)[j] += i->a.alpha[k] * dy[o] * t[j];
            }
            dt *= i->a.alpha[k];
            const float *a = view_row(&in[LB_A], r0 + j);
            for (int64_t c = 0; c < C; c++) {
                if (out[LB_DA].p) view_row(&out[LB_DA], r0 + j)[c] += (float)(dt * x[c]);
                if (!out[LB_DX].p) continue;
                float keep = 1;
                if (i->a.dropout > 0) {
                    struct philox b = ops_drop_bits(run, i->a.site, k, view_i32(&in[LB_SAMPLE])[n], view_i32(&in[LB_POS])[n], c & ~3);
                    keep = ops_drop_keep(b.v[c & 3], i->a.dropout) ? 1 / (1 - i->a.dropout) : 0;
                }
                view_row(&out[LB_DX], n)[c] += (float)(dt * a[c] * keep);
            }
        }
    }
}

static err ref_bwd_one(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    int64_t N = ops_like_x(in, out)->d[0], C = ops_like_x(in, out)->d[1], r0 = 0;
    float *w = scratch, *buf = w + C;
    for (int64_t n = 0; n < N && out[LB_DX].p; n++) memset(view_row(&out[LB_DX], n), 0, (size_t)C * 4);
    for (int k = 0; k < i->a.n; k++) {
        int64_t O = in[LB_W + k].d[0];
        if (!in[LB_DY + k].p) {
            r0 += i->a.rank[k];
            continue;
        }
        for (int64_t o = 0; o < O && out[LB_DX].p; o++) {
            dequantise_row(in[LB_W + k].dt, (const char *)in[LB_W + k].p + dtype_row_bytes(in[LB_W + k].dt, C) * (size_t)o, w, C);
            for (int64_t n = 0; n < N; n++) {
                float g = view_row(&in[LB_DY + k], n)[o], *dx = view_row(&out[LB_DX], n);
                for (int64_t c = 0; c < C; c++) dx[c] += g * w[c];
            }
        }
        if (i->a.rank[k]) ref_bwd_delta(run, i, in, out, k, r0, buf);
        r0 += i->a.rank[k];
    }
    return OK;
}

static err ref_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    err e;
    return ops_by_adapter(ref_bwd_one, run, i, in, out, scratch, &e) ? e : ref_bwd_one(run, i, in, out, scratch);
}

static struct cost cost_of(const struct inst *i, const struct view *x, const struct view *w, bool bwd, bool dx) {
    const double e = (double)dtype_row_bytes(x->dt, 1);
    double n = (double)x->d[0], c = (double)x->d[1], f = 0, b = e * n * c;
    for (int k = 0; k < i->a.n; k++) {
        double o = (double)w[k].d[0], r = i->a.rank[k];
        f += (bwd ? dx : 1) * 2 * n * o * c + (bwd ? 4 : 2) * n * r * (o + c);
        b += o * (double)dtype_row_bytes(w[k].dt, w[k].d[1]) + e * n * o;
    }
    return (struct cost){f, b};
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    if (out[0].nd) return cost_of(i, &in[LIN_X], &in[LIN_W], false, true);
    const double n = (double)in[LIN_X].d[0], c = (double)in[LIN_X].d[1], r = (double)in[LIN_A].d[0];
    return (struct cost){2 * n * c * r, 4 * (n * c + c * r + n * r)};
}

static struct cost cost_bwd(const struct inst *i, const struct view *in, const struct view *out) {
    return cost_of(i, ops_like_x(in, out), &in[LB_W], true, out[LB_DX].nd != 0);
}

const struct op_def op_linear = {.name = "linear", .n_in = LIN_IN, .n_out = 5, .spare = (1 << MAX_GROUP) - 1, .by_rows = true, .infer = infer, .vjp = vjp, .cost = cost, .ref_scratch = ref_scratch, .ref = ref, .part = part};
const struct op_def op_linear_bwd = {.name = "linear_bwd", .n_in = LB_IN, .n_out = 6, .by_rows = true, .infer = infer_bwd, .cost = cost_bwd, .ref_scratch = ref_scratch, .ref = ref_bwd, .part = part};
