/* linear and its backward (ops/linear.c), and the gradient of a matrix that is trained (ops/weight_grad.c).
 *
 * On Hopper a group's products are one launch each way with the low-rank part in the same sums (group_gemm.h), over weights that are
 * stored in another type a few launches (unpacked.h); dT and dB read dY once (low_rank.h). Everything else is cuBLASLt's (gemm.h):
 * Base weights of the compute type are used where they lie; others are unpacked into scratch first, one matrix at a time.
 * Few rows (decoding) go through the matrix-vector kernels, a group in one launch, which read the weights once as they are stored. The low-rank
 * part is then its own products: T for the whole group at once, T B^T added into each output. A base kept in fp8 (fp8.h) has its
 * inputs rounded to fp8 as well, row by row: x once for the group, each dY with the weight's scales in it. */
#include "cuda/fp8.h"
#include "cuda/gemm.h"
#include "cuda/low_rank.h"
#include "cuda/unpacked.h"

/* Fewer rows leave most of the card without a tile of an output; cuBLASLt divides the sums there. */
enum { MANY = 256 };

static size_t aligned(size_t n) { return (n + 255) / 256 * 256; }
static size_t size_of(dtype dt) { return dtype_row_bytes(dt, 1); }

static int64_t rank_sum(const struct inst *i) {
    int64_t R = 0;
    for (int k = 0; k < i->a.n; k++) R += i->a.rank[k];
    return R;
}

/* Bytes of the largest matrix of the group that has to be unpacked. */
static size_t unpacked_bytes(const struct inst *i, const struct view *w, dtype compute) {
    size_t most = 0;
    for (int k = 0; k < i->a.n; k++) {
        size_t b = aligned((size_t)(w[k].d[0] * w[k].d[1]) * size_of(compute));
        if (w[k].dt != compute && w[k].dt != DT_F8 && b > most) most = b;
    }
    return most;
}

/* Bytes of the widest input of an fp8 product, and its scales: x, or in the backward (dy) each output's gradient. */
static size_t fp8_bytes(const struct inst *i, const struct view *w, int64_t rows, bool dy) {
    int64_t widest = 0;
    for (int k = 0; k < i->a.n; k++)
        if (w[k].dt == DT_F8 && w[k].d[!dy] > widest) widest = w[k].d[!dy];
    return widest ? aligned((size_t)(rows * widest)) + aligned((size_t)rows * sizeof(float)) : 0;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Scratch: [unpacked matrix, or an input in fp8][dT, backward only][dropped x, or the masked gradient][low_rank.h's] */
static size_t front_bytes(const struct inst *i, const struct view *w, const struct view *x, bool dy) {
    const size_t one = unpacked_bytes(i, w, x->dt), pieces = one && x->dt != DT_F32 ? cuda_unpacked_scratch(i->a.n, w) : 0;
    return larger(larger(one, pieces), fp8_bytes(i, w, x->d[0], dy));
}

/* x with dropout applied. */
static size_t dropped_bytes(const struct inst *i, const struct view *x) {
    return i->a.dropout > 0 ? aligned((size_t)(x->d[0] * x->d[1]) * size_of(x->dt)) : 0;
}

size_t cuda_linear_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    (void)out;
    const struct view *x = &in[LIN_X];
    return front_bytes(i, &in[LIN_W], x, false) + dropped_bytes(i, x);
}

static void outputs_of(const struct inst *i, const struct view *w, int64_t O[MAX_GROUP]) {
    for (int k = 0; k < i->a.n; k++) O[k] = w[k].d[0];
}

size_t cuda_linear_bwd_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    const struct view *x = ops_like_x(in, out);
    int64_t N = x->d[0], R = rank_sum(i), O[MAX_GROUP];
    outputs_of(i, &in[LB_W], O);
    size_t low = R ? cuda_low_rank_up_bwd_scratch(i->a.n, N, O, i->a.rank) : 0;
    return front_bytes(i, &in[LB_W], x, true) + aligned((size_t)(N * R) * size_of(x->dt)) + dropped_bytes(i, x) + low;
}

/* W as the products take it: itself, or unpacked into scratch. */
static err weight_of(const struct view *w, dtype compute, void *scratch, const void **out) {
    *out = w->dt == compute ? w->p : scratch;
    return w->dt == compute ? OK : cuda_dequantise(w->dt, w->p, w->d[0], w->d[1], compute, scratch);
}

static char *at(const struct view *v, int64_t col) { return (char *)v->p + (size_t)col * size_of(v->dt); }

/* T [N, R] = x A^T; with dropout each output of the group has its own masked x. */
static err low_rank_t(const struct inst *i, const struct view *in, const struct view *t, void *masked) {
    const struct view *x = &in[LIN_X], *a = &in[LIN_A];
    struct cuda_gemm g = {x->d[0], t->d[1], x->d[1], x->p, a->p, t->p, x->ld, a->ld, t->ld, false, true, x->dt, t->dt, 1, 0};
    if (!(i->a.dropout > 0)) return cuda_gemm(&g);
    int64_t r0 = 0;
    for (int k = 0; k < i->a.n; r0 += i->a.rank[k++]) {
        if (!i->a.rank[k]) continue;
        struct cuda_drop d = {i, k, in[LIN_SAMPLE].p, in[LIN_POS].p};
        TRY(cuda_drop(&d, x, masked));
        g.a = masked, g.lda = x->d[1], g.n = i->a.rank[k];
        g.b = (char *)a->p + (size_t)(r0 * a->ld) * size_of(a->dt);
        g.c = at(t, r0);
        TRY(cuda_gemm(&g));
    }
    return OK;
}

/* A product that nothing in this op reads. */
static err beside(const struct cuda_gemm *g) {
    TRY(cuda_beside_begin());
    err e = cuda_gemm(g);
    err ended = cuda_beside_end();
    return e ? e : ended;
}

/* Is this the matrix-vector kernel's? It takes up to 16 rows of anything that cuda_matvec_takes(). */
bool cuda_few_rows(const struct view *w, const struct view *x) { return cuda_matvec_takes(w->dt, x->dt, x->d[0], x->d[1]); }

/* --- a base in fp8 ----------------------------------------------------------------------------------------------------- */
/* x * factor (NULL: 1) in fp8 at scratch; its scales lie behind it. */
static err fp8_input(const struct view *x, const void *factor, char *scratch, const float **scales) {
    float *behind = (float *)(scratch + aligned((size_t)(x->d[0] * x->d[1])));
    *scales = behind;
    return cuda_fp8_rows(&(struct cuda_fp8_rows){x->dt, x->d[0], x->d[1], x->p, x->ld, factor, scratch, behind});
}

/* y (+)= x W^T, x in fp8 at q. */
static err fp8_forward(const void *q, const float *scales, const struct view *w, const struct view *y, bool adds) {
    struct cuda_fp8_matrix m = cuda_fp8_matrix(w);
    return cuda_fp8_gemm(&(struct cuda_fp8_gemm){y->d[0], m.O, m.C, q, m.q, scales, m.scale, y->p, m.C, y->ld, y->dt, adds});
}

/* dx (+)= dY W: W's scales lie on the summed axis, so they go into dY before that is rounded. */
static err fp8_bwd(const struct view *dy, const struct view *w, const struct view *dx, char *scratch, bool adds) {
    struct cuda_fp8_matrix m = cuda_fp8_matrix(w);
    const float *scales;
    TRY(fp8_input(dy, m.factor, scratch, &scales));
    return cuda_fp8_gemm(&(struct cuda_fp8_gemm){dx->d[0], m.C, m.O, scratch, m.qt, scales, cuda_ones, dx->p, m.O, dx->ld, dx->dt, adds});
}

/* Y_k = alpha T_k B_k^T + beta Y_k */
static err add_delta(const struct inst *i, int k, int64_t r0, const struct view *in, struct view *out, float beta) {
    const struct view *b = &in[LIN_B + k], *t = &out[LIN_T], *y = &out[k];
    return cuda_gemm(&(struct cuda_gemm){y->d[0], y->d[1], i->a.rank[k], at(t, r0), b->p, y->p, t->ld, b->ld, y->ld, false, true, t->dt, y->dt, i->a.alpha[k], beta});
}

/* --- the whole group together (group_gemm.h, unpacked.h), where the card and the types are theirs ------------------------------- */
/* *stored: some matrices have to be unpacked; they are NULL in g. */
static bool group_forward(const struct inst *i, const struct view *in, const struct view *out, struct cuda_group_forward *g, bool *stored) {
    const struct view *x = &in[LIN_X], *t = &out[LIN_T];
    *stored = false;
    *g = (struct cuda_group_forward){.dt = x->dt, .n = i->a.n, .rows = x->d[0], .C = x->d[1], .x = x->p, .ldx = x->ld, .t = t->p, .ldt = t->ld};
    for (int k = 0; k < i->a.n; k++) {
        const struct view *w = &in[LIN_W + k];
        if (w->dt == DT_F8 || out[k].dt != x->dt) return false;
        *stored |= w->dt != x->dt;
        g->O[k] = w->d[0], g->w[k] = w->dt == x->dt ? w->p : NULL, g->bias[k] = in[LIN_BIAS + k].p;
        g->rank[k] = i->a.rank[k], g->b[k] = in[LIN_B + k].p, g->ldb[k] = in[LIN_B + k].ld, g->alpha[k] = i->a.alpha[k];
        g->y[k] = out[k].p, g->ldy[k] = out[k].ld;
    }
    return cuda_group_forward_takes(g);
}

/* dx = sum of dY_k W_k + dT A; dt NULL: without the latter. */
struct group_bwd {
    struct cuda_group_backward g;
    const struct view *w[MAX_GROUP]; /* its matrices as stored */
    bool stored;                     /* as above */
};
static bool group_backward(const struct inst *i, const struct view *in, const struct view *dx, const void *dt, struct group_bwd *b) {
    struct cuda_group_backward *g = &b->g;
    b->stored = false;
    *g = (struct cuda_group_backward){.dt = dx->dt, .rows = dx->d[0], .C = dx->d[1], .R = dt ? rank_sum(i) : 0, .dt_low = dt, .lddt = rank_sum(i), .a = in[LB_A].p, .lda = in[LB_A].ld, .dx = dx->p, .lddx = dx->ld};
    for (int k = 0; k < i->a.n; k++) {
        const struct view *w = &in[LB_W + k], *dy = &in[LB_DY + k];
        if (!dy->p) continue;
        if (w->dt == DT_F8) return false;
        b->stored |= w->dt != dx->dt;
        b->w[g->n] = w, g->O[g->n] = w->d[0], g->w[g->n] = w->dt == dx->dt ? w->p : NULL, g->dy[g->n] = dy->p, g->lddy[g->n++] = dy->ld;
    }
    return g->n && g->rows >= MANY && cuda_group_backward_takes(g);
}

static err run_group_backward(const struct group_bwd *b, void *scratch) {
    return b->stored ? cuda_unpacked_backward(&b->g, b->w, scratch) : cuda_group_backward(&b->g);
}

/* --- whole instructions ------------------------------------------------------------------------------------------------------- */
/* Rows that are several adapters' (run_ctx.adapters): with few of them the base's product is one and only the low-rank ones go by adapter; with
 * many everything does, which is bound by arithmetic. */
static err low_rank_t_of(const struct run_ctx *run, const struct inst *i, const struct view *in, const struct view *out, void *masked) {
    struct view own_in[MAX_IN], own_out[MAX_OUT];
    for (int k = 0; run->adapters && k < run->adapters->n; k++) {
        i->op->part(run->adapters, k, i, in, out, own_in, own_out);
        if (own_in[LIN_X].d[0]) TRY(low_rank_t(i, own_in, &own_out[LIN_T], masked));
    }
    return run->adapters ? OK : low_rank_t(i, in, &out[LIN_T], masked);
}

static err add_delta_of(const struct run_ctx *run, const struct inst *i, int k, int64_t r0, const struct view *in, struct view *out, float beta) {
    struct view own_in[MAX_IN], own_out[MAX_OUT];
    for (int a = 0; run->adapters && a < run->adapters->n; a++) {
        i->op->part(run->adapters, a, i, in, out, own_in, own_out);
        if (own_in[LIN_X].d[0]) TRY(add_delta(i, k, r0, own_in, own_out, beta));
    }
    return run->adapters ? OK : add_delta(i, k, r0, in, out, beta);
}

static err linear(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    const struct view *x = &in[LIN_X];
    int64_t N = x->d[0], C = x->d[1], r0 = 0;
    const float *scales = NULL; /* x in fp8 has been made */
    if (!N) return OK;
    char *masked = (char *)scratch + front_bytes(i, &in[LIN_W], x, false);
    if (in[LIN_A].p) {
        const bool later = !rank_sum(i); /* whoever reads the outputs adds the deltas (spans.c) */
        if (later) TRY(cuda_beside_begin());
        err e = low_rank_t_of(run, i, in, out, masked);
        if (!e && in[LIN_MIX].p) e = cuda_weigh(i, &in[LIN_MIX], &out[LIN_T]);
        if (later) TRY(cuda_beside_end());
        if (e) return e;
    }
    if (!out[0].p) return OK; /* T alone was asked for */
    struct cuda_group_forward group;
    bool stored;
    if (N >= MANY && group_forward(i, in, out, &group, &stored))
        return stored ? cuda_unpacked_forward(&group, &in[LIN_W], scratch) : cuda_group_forward(&group);
    struct cuda_matvec few[MAX_GROUP];
    int n_few = 0;
    for (int k = 0; k < i->a.n; k++)
        if (cuda_few_rows(&in[LIN_W + k], x)) few[n_few++] = (struct cuda_matvec){&in[LIN_W + k], in[LIN_BIAS + k].p, x->p, x->dt, out[k].dt, N, x->ld, out[k].ld, out[k].p, NULL, 0};
    if (n_few) TRY(cuda_matvec(few, n_few));
    for (int k = 0; k < i->a.n; r0 += i->a.rank[k++]) {
        const struct view *w = &in[LIN_W + k], *y = &out[k];
        const float *bias = in[LIN_BIAS + k].p;
        bool delta = i->a.rank[k] > 0;
        if (cuda_few_rows(w, x)) {
            if (delta) TRY(add_delta_of(run, i, k, r0, in, out, 1));
            continue;
        }
        const void *weight;
        if (delta) TRY(add_delta_of(run, i, k, r0, in, out, 0)); /* goes first: the large product then adds to it, and reading y hides behind its arithmetic */
        if (w->dt == DT_F8) {
            if (!scales) TRY(fp8_input(x, NULL, scratch, &scales));
            TRY(fp8_forward(scratch, scales, w, y, delta));
        } else {
            TRY(weight_of(w, x->dt, scratch, &weight));
            TRY(cuda_gemm(&(struct cuda_gemm){N, w->d[0], C, x->p, weight, y->p, x->ld, C, y->ld, false, true, x->dt, y->dt, 1, delta ? 1 : 0}));
        }
        if (bias) TRY(cuda_add_bias(y->p, y->dt, N, y->d[1], y->ld, bias));
    }
    return OK;
}

err cuda_linear(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    err e;
    if (in[LIN_X].d[0] >= MANY && ops_by_adapter(cuda_linear, run, i, in, out, scratch, &e)) return e;
    e = linear(run, i, in, out, scratch);
    err joined = cuda_beside_join();
    return e ? e : joined;
}

/* Output k: dT_k = alpha dY B, dB += alpha dY^T T, dA += dT^T drop(x), dx += drop'(dT A). */
static err delta_bwd(const struct inst *i, const struct view *in, struct view *out, int k, int64_t r0, void *dt, void *masked) {
    const struct view *x = ops_like_x(in, out), *dy = &in[LB_DY + k], *b = &in[LB_B + k], *t = &in[LB_T], *a = &in[LB_A], *dx = &out[LB_DX];
    int64_t N = x->d[0], C = x->d[1], O = dy->d[1], r = i->a.rank[k], R = rank_sum(i);
    float alpha = i->a.alpha[k];
    struct cuda_drop d = {i, k, in[LB_SAMPLE].p, in[LB_POS].p};
    bool drops = i->a.dropout > 0;
    char *dt_k = (char *)dt + (size_t)r0 * size_of(x->dt);
    const char *a_k = (char *)a->p + (size_t)(r0 * a->ld) * size_of(a->dt);
    if (out[LB_DB + k].p) TRY(beside(&(struct cuda_gemm){O, r, N, dy->p, at(t, r0), out[LB_DB + k].p, dy->ld, t->ld, out[LB_DB + k].ld, true, false, x->dt, DT_F32, alpha, 1}));
    TRY(cuda_gemm(&(struct cuda_gemm){N, r, O, dy->p, b->p, dt_k, dy->ld, b->ld, R, false, false, x->dt, x->dt, alpha, 0}));
    if (drops && out[LB_DA].p) TRY(cuda_drop(&d, x, masked));
    if (out[LB_DA].p && drops)
        TRY(cuda_gemm(&(struct cuda_gemm){r, C, N, dt_k, masked, (float *)out[LB_DA].p + r0 * out[LB_DA].ld, R, C, out[LB_DA].ld, true, false, x->dt, DT_F32, 1, 1}));
    if (!dx->p || !drops) return OK; /* without dropout the group's dA and dx are one product each */
    TRY(cuda_gemm(&(struct cuda_gemm){N, C, r, dt_k, a_k, masked, R, a->ld, C, false, false, x->dt, x->dt, 1, 0}));
    return cuda_drop_add(&d, masked, dx);
}

/* dx (+)= sum of dY_k W_k over the outputs that have a gradient; false in *wrote as long as nothing is in dx. */
static err base_bwd(const struct inst *i, const struct view *in, const struct view *dx, void *scratch, bool *wrote) {
    int64_t N = dx->d[0], C = dx->d[1];
    struct group_bwd group;
    if (!*wrote && group_backward(i, in, dx, NULL, &group)) return *wrote = true, run_group_backward(&group, scratch);
    for (int k = 0; k < i->a.n; k++) {
        const struct view *w = &in[LB_W + k], *dy = &in[LB_DY + k];
        const void *weight;
        if (!dy->p) continue;
        if (w->dt == DT_F8) TRY(fp8_bwd(dy, w, dx, scratch, *wrote));
        else {
            TRY(weight_of(w, dx->dt, scratch, &weight));
            TRY(cuda_gemm(&(struct cuda_gemm){N, C, w->d[0], dy->p, weight, dx->p, dy->ld, C, dx->ld, false, false, dx->dt, dx->dt, 1, *wrote ? 1 : 0}));
        }
        *wrote = true;
    }
    return OK;
}

static err zero_columns(char *p, int64_t ld, int64_t rows, int64_t cols, dtype dt) {
    return cuda_check(cudaMemset2DAsync(p, (size_t)ld * size_of(dt), 0, (size_t)cols * size_of(dt), (size_t)rows, cuda_stream), "zeroing a gradient");
}

/* dT and dB of the whole group, each dY read once (low_rank.h). */
static bool low_rank_up(const struct inst *i, const struct view *in, const struct view *out, void *dt, void *scratch,
                        struct cuda_low_rank_up_bwd *u) {
    const struct view *x = ops_like_x(in, out);
    *u = (struct cuda_low_rank_up_bwd){.dt = x->dt, .n = i->a.n, .rows = x->d[0], .t = in[LB_T].p, .ldt = in[LB_T].ld, .dt_low = dt, .lddt = rank_sum(i), .scratch = scratch};
    for (int k = 0; k < i->a.n; k++) {
        u->O[k] = in[LB_W + k].d[0], u->rank[k] = i->a.rank[k], u->alpha[k] = i->a.alpha[k];
        u->dy[k] = in[LB_DY + k].p, u->lddy[k] = in[LB_DY + k].ld, u->b[k] = in[LB_B + k].p, u->ldb[k] = in[LB_B + k].ld;
        u->db[k] = out[LB_DB + k].p, u->lddb[k] = out[LB_DB + k].ld;
    }
    return cuda_low_rank_up_bwd_takes(u);
}

static err linear_bwd(const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    const struct view *x = ops_like_x(in, out), *dx = &out[LB_DX];
    int64_t N = x->d[0], C = x->d[1], R = rank_sum(i), r0 = 0;
    if (!N) return OK;
    char *dt = (char *)scratch + front_bytes(i, &in[LB_W], x, true);
    char *masked = dt + aligned((size_t)(N * R) * size_of(x->dt));
    bool low = in[LB_A].p != NULL, drops = i->a.dropout > 0, wrote = false;
    if (dx->p && drops) TRY(base_bwd(i, in, dx, scratch, &wrote)); /* the masked low-rank parts add to it, output by output */
    struct cuda_low_rank_up_bwd up;
    if (low && !drops && low_rank_up(i, in, out, dt, masked, &up)) TRY(cuda_low_rank_up_bwd(&up));
    else
        for (int k = 0; low && k < i->a.n; r0 += i->a.rank[k++]) {
            if (!i->a.rank[k]) continue;
            if (in[LB_DY + k].p) TRY(delta_bwd(i, in, out, k, r0, dt, masked));
            else TRY(zero_columns(dt + (size_t)r0 * size_of(x->dt), R, N, i->a.rank[k], x->dt)); /* an output that nothing reads */
        }
    if (low && !drops && out[LB_DA].p) TRY(beside(&(struct cuda_gemm){R, C, N, dt, x->p, out[LB_DA].p, R, x->ld, out[LB_DA].ld, true, false, x->dt, DT_F32, 1, 1}));
    if (!dx->p) return OK;
    struct group_bwd group;
    if (low && !drops && group_backward(i, in, dx, dt, &group)) return run_group_backward(&group, scratch);
    if (low && !drops) { /* the small product goes first, as in the forward */
        TRY(cuda_gemm(&(struct cuda_gemm){N, C, R, dt, in[LB_A].p, dx->p, R, in[LB_A].ld, dx->ld, false, false, x->dt, dx->dt, 1, 0}));
        wrote = true;
    }
    if (!drops) TRY(base_bwd(i, in, dx, scratch, &wrote));
    return wrote ? OK : zero_columns(dx->p, dx->ld, N, C, dx->dt);
}

err cuda_linear_bwd(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    err e;
    if (ops_by_adapter(cuda_linear_bwd, run, i, in, out, scratch, &e)) return e;
    e = linear_bwd(i, in, out, scratch);
    err joined = cuda_beside_join();
    return e ? e : joined;
}

err cuda_weight_grad(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    const struct view *x = &in[0], *dy = &in[1], *dw = &out[0];
    return cuda_gemm(&(struct cuda_gemm){dy->d[1], x->d[1], x->d[0], dy->p, x->p, dw->p, dy->ld, x->ld, dw->ld, true, false, x->dt, DT_F32, 1, 1});
}
