/* linear and linear_bwd: a group of linear layers that share their input, with their low-rank deltas; and the gradient of a
 * matrix that is trained (weight_grad). Operands are in ops/ops.h. The products are gemm.h's; here it is decided which of them run together.
 *
 * Forward, one run: x is packed once for all W_i and for A; T = x A^T is an output like the Y_i, and becomes the last
 * piece of their long K.
 * Backward, one run: the group's dY_i are one long K for dx, packed once; dT_i = alpha_i dY_i B_i are outputs on the
 * way, dT the last piece against A. Then dA = dT^T x and dB_i = alpha_i dY_i^T T_i, which read their operands where
 * they lie. Few rows (gemm_isa.dot_rows: 32 on AVX-512, 8 on AVX2, else 4; decoding) forward takes dot products:
 * nothing is packed. So a row's result depends on the number of rows beside it only by that: the two ways differ in
 * rounding. With run_ctx.int_activations few rows take x as integers, made beside T; T and the deltas stay f32. Dropout
 * gives each output its own input to A, so those products run apart, on DROP_ROWS masked rows at a time: they are under
 * a tenth of the work, and generation and evaluation never drop. Several adapters' T is weighed row by row (LIN_MIX) before the deltas read
 * it, so with many rows it is a run of its own: x is packed twice.
 * Rows that are several adapters' (run_ctx.adapters): few of them meet a weight's rows one adapter after the other while those are in L1, so the
 * base is read once; many are a run for each adapter, where the weights' unpacking is next to nothing. */
#include "cpu/cpu.h"
#include "cpu/gemm_bf16.h"
#include "ops/ops.h"

#include <omp.h>
#include <string.h>

enum { DROP_ROWS = 64 };

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
static size_t round64(size_t n) { return (n + 63) / 64 * 64; }
static size_t floats(int64_t n) { return round64((size_t)n * sizeof(float)); }

static struct gemm_w weight(const struct view *v, bool t, float scale) {
    return (struct gemm_w){v->p, v->dt, v->ld, t, scale};
}

/* Rows r_0 .. of the stacked A (columns of T) that come before output i. */
static int64_t rank_before(const struct op_attr *a, int i) {
    int64_t n = 0;
    for (int j = 0; j < i; j++) n += a->rank[j];
    return n;
}

/* --- dropout --------------------------------------------------------------------------------------------------- */

struct drop {
    const struct run_ctx *run;
    float p;
    int site, output;
    const int32_t *sample, *pos;
};

/* y = drop(x), or with `add` y += drop(x), for one token. */
static void drop_row(const struct drop *d, int64_t token, const float *x, float *y, int64_t c, bool add) {
    const float keep = 1 / (1 - d->p);
    for (int64_t j = 0; j < c; j += 4) {
        struct philox r = ops_drop_bits(d->run, d->site, d->output, d->sample[token], d->pos[token], j);
        for (int64_t i = 0; i < 4 && j + i < c; i++) {
            float v = ops_drop_keep(r.v[i], d->p) ? x[j + i] * keep : 0;
            y[j + i] = add ? y[j + i] + v : v;
        }
    }
}

static void drop_rows(const struct drop *d, int64_t token, int64_t rows, const float *x, int64_t ldx, float *y,
                      int64_t ldy, int64_t c, bool add) {
#pragma omp parallel for num_threads(cpu_threads(d->run))
    for (int64_t i = 0; i < rows; i++) drop_row(d, token + i, x + i * ldx, y + i * ldy, c, add);
}

err cpu_dropout(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    const struct drop d = {run, inst->a.dropout, inst->a.site, 0, in[1].p, in[2].p};
    drop_rows(&d, 0, in[0].d[0], in[0].p, in[0].ld, out[0].p, out[0].ld, in[0].d[1], false);
    return OK;
}

/* --- forward --------------------------------------------------------------------------------------------------- */

/* T_i = drop_i(x) A_i^T for every output, DROP_ROWS tokens at a time. */
static void dropped_t(const struct run_ctx *run, const struct op_attr *a, const struct view *in, const struct view *t,
                      float *masked, void *scratch) {
    const struct view *x = &in[LIN_X];
    int64_t rows = x->d[0], c = x->d[1];
    for (int i = 0; i < a->n; i++) {
        struct drop d = {run, a->dropout, a->site, i, in[LIN_SAMPLE].p, in[LIN_POS].p};
        int64_t r0 = rank_before(a, i);
        for (int64_t n = 0; a->rank[i] && n < rows; n += DROP_ROWS) {
            int64_t m = rows - n < DROP_ROWS ? rows - n : DROP_ROWS;
            drop_rows(&d, n, m, view_row(x, n), x->ld, masked, c, c, false);
            struct gemm g = {.m = m, .pieces = 1, .outs = 1, .threads = cpu_threads(run)};
            g.piece[0] = (struct gemm_piece){masked, c, c, false};
            g.out[0] = (struct gemm_out){.y = view_row(t, n) + r0, .ld = t->ld, .n = a->rank[i]};
            g.out[0].w[0] = (struct gemm_w){view_row(&in[LIN_A], r0), DT_F32, in[LIN_A].ld, true, 1};
            gemm_run_in(run->operands, &g, scratch);
        }
    }
}

/* T = x A^T, and each member's columns times the row's weight for it. */
static void weighed_t(const struct run_ctx *run, const struct op_attr *a, const struct view *in, const struct view *t, void *scratch) {
    const struct view *x = &in[LIN_X];
    struct gemm g = {.m = x->d[0], .pieces = 1, .outs = 1, .threads = cpu_threads(run)};
    g.piece[0] = (struct gemm_piece){x->p, x->ld, x->d[1], false};
    g.out[0] = (struct gemm_out){.y = t->p, .ld = t->ld, .n = t->d[1]};
    g.out[0].w[0] = weight(&in[LIN_A], true, 1);
    gemm_run_in(run->operands, &g, scratch);
#pragma omp parallel for num_threads(cpu_threads(run))
    for (int64_t n = 0; n < t->d[0]; n++) {
        float *to = view_row(t, n);
        for (int k = 0; k < a->n; k++)
            for (int m = 0; m < a->members; m++)
                for (int j = 0; j < a->member_rank[k][m]; j++, to++) *to = ops_weigh(*to, view_row(&in[LIN_MIX], n)[m]);
    }
}

static void many_rows(const struct run_ctx *run, const struct op_attr *a, const struct view *in, struct view *out,
                      char *scratch) {
    const struct view *x = &in[LIN_X], *t = &out[LIN_T];
    bool low = in[LIN_A].p != NULL, drop = low && a->dropout > 0, apart = drop || in[LIN_MIX].p;
    if (drop) {
        size_t masked = floats(DROP_ROWS * x->d[1]);
        dropped_t(run, a, in, t, (float *)scratch, scratch + masked);
        scratch += masked;
    } else if (apart) weighed_t(run, a, in, t, scratch);
    struct gemm g = {.m = x->d[0], .pieces = 1, .outs = out[0].p ? a->n : 0, .threads = cpu_threads(run)};
    g.piece[0] = (struct gemm_piece){x->p, x->ld, x->d[1], false};
    for (int i = 0; out[0].p && i < a->n; i++) {
        struct gemm_out *o = &g.out[i];
        *o = (struct gemm_out){.y = out[i].p, .ld = out[i].ld, .n = out[i].d[1], .bias = in[LIN_BIAS + i].p};
        o->w[0] = weight(&in[LIN_W + i], true, 1);
        if (!low || !a->rank[i]) continue;
        o->w[g.pieces] = weight(&in[LIN_B + i], true, a->alpha[i]);
        g.piece[g.pieces] = (struct gemm_piece){view_f32(t) + rank_before(a, i), t->ld, a->rank[i], !apart && g.pieces == 1};
        g.pieces++;
    }
    if (low && !apart) {
        g.out[g.outs] = (struct gemm_out){.y = t->p, .ld = t->ld, .n = t->d[1]};
        g.out[g.outs++].w[0] = weight(&in[LIN_A], true, 1);
    }
    if (g.outs) gemm_run_in(run->operands, &g, scratch);
}

/* What few rows go through: each adapter's operands where they are several's (one part: all rows), and its first row. */
struct few {
    const struct op_attr *a;
    int parts;
    int64_t first[MAX_ADAPTERS];
    struct view in[MAX_ADAPTERS][LIN_IN], out[MAX_ADAPTERS][MAX_OUT];
    float *scaled;                /* the copy of T, times alpha, that the deltas read */
    const struct gemm_ints *ints; /* NULL: x as it is */
};

static void few_parts(const struct run_ctx *run, const struct inst *inst, const struct view *in, const struct view *out, struct few *f) {
    f->parts = 0;
    for (int k = 0; run->adapters && k < run->adapters->n && inst->op->part(run->adapters, k, inst, in, out, f->in[k], f->out[k]); k++) {
        f->first[k] = k ? run->adapters->of[k - 1].end : 0;
        f->parts++;
    }
    if (f->parts) return;
    memcpy(f->in[0], in, sizeof f->in[0]);
    memcpy(f->out[0], out, (LIN_T + 1) * sizeof *out);
    f->first[0] = 0, f->parts = 1;
}

/* Rows o0 .. o1 of A, weighed where they are several adapters' together, and the scaled copy of T. */
static void few_t(const struct few *f, int part, int64_t o0, int64_t o1) {
    const struct op_attr *a = f->a;
    const struct view *in = f->in[part], *t = &f->out[part][LIN_T], *x = &in[LIN_X], *A = &in[LIN_A];
    float *scaled = f->scaled + f->first[part] * t->d[1];
    struct gemm_dot d = {.x = x->p,
                         .w = A->p,
                         .y = t->p,
                         .dt = A->dt,
                         .rows = (int)x->d[0],
                         .k = x->d[1],
                         .ldx = x->ld,
                         .ldw = A->ld,
                         .ldy = t->ld,
                         .o0 = o0,
                         .o1 = o1};
    gemm_dots(&d);
    int i = 0;
    int64_t end = a->rank[0];
    for (int64_t o = o0; o < o1; o++) {
        while (o >= end) end += a->rank[++i];
        const int member = in[LIN_MIX].p ? ops_member(a, i, o - (end - a->rank[i])) : 0;
        for (int64_t n = 0; n < x->d[0]; n++) {
            float *to = view_row(t, n) + o;
            if (in[LIN_MIX].p) *to = ops_weigh(*to, view_row(&in[LIN_MIX], n)[member]);
            scaled[n * t->d[1] + o] = a->alpha[i] * *to;
        }
    }
}

/* Rows o0 .. o1 of output i, for the rows of one part. */
static void few_dots(const struct few *f, int part, int i, int64_t o0, int64_t o1) {
    const struct view *in = f->in[part], *y = &f->out[part][i], *x = &in[LIN_X], *w = &in[LIN_W + i], *b = &in[LIN_B + i];
    const int64_t first = f->first[part], k = x->d[1], rank = in[LIN_A].d[0];
    struct gemm_dot d = {.x = x->p,
                         .bias = in[LIN_BIAS + i].p,
                         .w = w->p,
                         .y = y->p,
                         .dt = w->dt,
                         .rows = (int)x->d[0],
                         .k = k,
                         .ldx = x->ld,
                         .ldw = w->ld,
                         .ldy = y->ld,
                         .o0 = o0,
                         .o1 = o1};
    if (f->ints && gemm_takes_ints(d.dt, k)) d.ints = (struct gemm_ints){f->ints->q + first * k, f->ints->sums + first * (k / 32), f->ints->steps + first};
    if (in[LIN_A].p && f->a->rank[i]) {
        d.t = f->scaled + first * rank + rank_before(f->a, i);
        d.ldt = rank;
        d.b = b->p;
        d.ldb = b->ld;
        d.r = f->a->rank[i];
    }
    gemm_dots(&d);
}

/* Rows `first` .. `last` of the group's outputs, counted one output after the other. Rows of W meet one part after the other while they are near. */
static void few_y(const struct few *f, int64_t first, int64_t last) {
    const struct view *out = f->out[0];
    for (int i = 0; i < f->a->n; first -= out[i].d[1], last -= out[i].d[1], i++) {
        const int64_t o0 = first > 0 ? first : 0, o1 = last < out[i].d[1] ? last : out[i].d[1];
        for (int64_t o = o0; o < o1; o += GEMM_DOT_SPAN)
            for (int part = 0; part < f->parts; part++) few_dots(f, part, i, o, o + GEMM_DOT_SPAN < o1 ? o + GEMM_DOT_SPAN : o1);
    }
}

/* Scratch of few_rows(): the scaled T, then x as integers. */
static size_t few_scaled(const struct view *A) { return A->dt != DT_NONE ? floats(GEMM_DOT_ROWS * A->d[0]) : 0; }
static size_t ints_q(int64_t k) { return round64((size_t)(GEMM_DOT_ROWS * k) * sizeof(int16_t)); }
static size_t ints_sums(int64_t k) { return floats(GEMM_DOT_ROWS * (k / 32)); }
static size_t ints_all(int64_t k) { return ints_q(k) + ints_sums(k) + floats(GEMM_DOT_ROWS); }

static struct gemm_ints ints_in(char *p, int64_t k) {
    return (struct gemm_ints){(int16_t *)p, (float *)(p + ints_q(k)), (float *)(p + ints_q(k) + ints_sums(k))};
}

static void few_ints(const struct view *x, int64_t first, int64_t last, const struct gemm_ints *to) {
    for (int64_t n = first, k = x->d[1]; n < last; n++)
        gemm_int_isa()->round(view_row(x, n), k, to->q + n * k, to->sums + n * (k / 32), to->steps + n);
}

static void few_rows(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, char *scratch) {
    const struct op_attr *a = &inst->a;
    const struct view *x = &in[LIN_X];
    int64_t total = 0, rank = in[LIN_A].p ? in[LIN_A].d[0] : 0;
    struct gemm_ints ints = ints_in(scratch + few_scaled(&in[LIN_A]), x->d[1]);
    bool integer = false;
    for (int i = 0; i < a->n; i++) {
        total += out[i].d[1];
        integer |= run->int_activations && gemm_takes_ints(in[LIN_W + i].dt, x->d[1]);
    }
    struct few f;
    f.a = a, f.scaled = (float *)scratch, f.ints = integer ? &ints : NULL;
    few_parts(run, inst, in, out, &f);
#pragma omp parallel num_threads(cpu_threads(run))
    {
        int64_t t = omp_get_thread_num(), threads = omp_get_num_threads();
        for (int part = 0; rank && part < f.parts; part++) few_t(&f, part, rank * t / threads, rank * (t + 1) / threads);
        if (integer) few_ints(x, x->d[0] * t / threads, x->d[0] * (t + 1) / threads, &ints);
        if (rank || integer) {
#pragma omp barrier
        }
        few_y(&f, total * t / threads, total * (t + 1) / threads);
    }
}

size_t cpu_linear_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)out;
    bool low = in[LIN_A].dt != DT_NONE;
    size_t few = few_scaled(&in[LIN_A]) + ints_all(in[LIN_X].d[1]);
    size_t drop = low && inst->a.dropout > 0 ? floats(DROP_ROWS * in[LIN_X].d[1]) : 0;
    return max_size(few, drop + gemm_scratch());
}

err cpu_linear(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
               void *scratch) {
    const struct op_attr *a = &inst->a;
    const int64_t rows = in[LIN_X].d[0];
    err e = OK;
    if (rows == 0) return OK;
    if (rows <= gemm_isa()->dot_rows && !(in[LIN_A].p && a->dropout > 0)) few_rows(run, inst, in, out, scratch);
    else if (!ops_by_adapter(cpu_linear, run, inst, in, out, scratch, &e)) many_rows(run, a, in, out, scratch);
    return e;
}

/* --- backward -------------------------------------------------------------------------------------------------- */

/* dx = sum_i dY_i W_i (+ dT A), and dT_i = alpha_i dY_i B_i into dt[N, R]. */
static void input_gradients(const struct run_ctx *run, const struct op_attr *a, const struct view *in,
                            const struct view *out, float *dt, bool with_low, void *scratch) {
    const struct view *dx = &out[LB_DX], *A = &in[LB_A];
    struct gemm g = {.m = ops_like_x(in, out)->d[0], .threads = cpu_threads(run)};
    struct gemm_out *to = dx->p ? &g.out[g.outs++] : NULL;
    if (to) *to = (struct gemm_out){.y = dx->p, .ld = dx->ld, .n = dx->d[1]};
    for (int i = 0; i < a->n; i++) {
        const struct view *dy = &in[LB_DY + i];
        struct gemm_out *low = dt && a->rank[i] ? &g.out[g.outs++] : NULL;
        if (low) *low = (struct gemm_out){.y = dt + rank_before(a, i), .ld = A->d[0], .n = a->rank[i]};
        if (!dy->p) continue;
        if (to) to->w[g.pieces] = weight(&in[LB_W + i], false, 1);
        if (low) low->w[g.pieces] = weight(&in[LB_B + i], false, a->alpha[i]);
        g.piece[g.pieces++] = (struct gemm_piece){dy->p, dy->ld, dy->d[1], false};
    }
    if (to && dt && with_low) {
        to->w[g.pieces] = weight(A, false, 1);
        g.piece[g.pieces++] = (struct gemm_piece){dt, A->d[0], A->d[0], true};
    }
    if (g.outs) gemm_run_in(run->operands, &g, scratch);
}

/* The parts of dx and dA that go through a dropped input. */
static void dropped_gradients(const struct run_ctx *run, const struct op_attr *a, const struct view *in,
                              const struct view *out, const float *dt, float *rows, void *scratch) {
    const struct view *x = &in[LB_X], *A = &in[LB_A], *dx = &out[LB_DX], *da = &out[LB_DA];
    int64_t tokens = ops_like_x(in, out)->d[0], c = A->d[1], ldt = A->d[0];
    for (int i = 0; i < a->n; i++) {
        struct drop d = {run, a->dropout, a->site, i, in[LB_SAMPLE].p, in[LB_POS].p};
        int64_t r0 = rank_before(a, i);
        for (int64_t n = 0; a->rank[i] && in[LB_DY + i].p && n < tokens; n += DROP_ROWS) {
            int64_t m = tokens - n < DROP_ROWS ? tokens - n : DROP_ROWS;
            const float *dt_i = dt + n * ldt + r0;
            if (dx->p) {
                struct gemm g = {.m = m, .pieces = 1, .outs = 1, .threads = cpu_threads(run)};
                g.piece[0] = (struct gemm_piece){dt_i, ldt, a->rank[i], false};
                g.out[0] = (struct gemm_out){.y = rows, .ld = c, .n = c};
                g.out[0].w[0] = (struct gemm_w){view_row(A, r0), DT_F32, A->ld, false, 1};
                gemm_run_in(run->operands, &g, scratch);
                drop_rows(&d, n, m, rows, c, view_row(dx, n), dx->ld, c, true);
            }
            if (da->p) {
                drop_rows(&d, n, m, view_row(x, n), x->ld, rows, c, c, false);
                struct gemm_outer o = {dt_i, rows, view_row(da, r0), m, a->rank[i], c, ldt, c, da->ld, false, 1};
                gemm_outers(&o, 1, cpu_threads(run), scratch);
            }
        }
    }
}

/* dB_i += alpha_i dY_i^T T_i, and without dropout dA += dT^T x: its A blocks are adjacent, so one product. */
static void parameter_gradients(const struct run_ctx *run, const struct op_attr *a, const struct view *in,
                                const struct view *out, const float *dt, bool with_a, void *scratch) {
    const struct view *x = &in[LB_X], *t = &in[LB_T], *da = &out[LB_DA];
    struct gemm_outer list[MAX_GROUP + 1];
    int count = 0;
    int64_t tokens = t->d[0], rank = in[LB_A].d[0];
    if (with_a && da->p)
        list[count++] = (struct gemm_outer){dt, x->p, da->p, tokens, rank, x->d[1], rank, x->ld, da->ld, false, 1};
    for (int i = 0; i < a->n; i++) {
        const struct view *dy = &in[LB_DY + i], *db = &out[LB_DB + i];
        if (!db->p || !dy->p || !a->rank[i]) continue;
        list[count++] = (struct gemm_outer){view_f32(t) + rank_before(a, i),
                                            dy->p,
                                            db->p,
                                            tokens,
                                            a->rank[i],
                                            dy->d[1],
                                            t->ld,
                                            dy->ld,
                                            db->ld,
                                            true,
                                            a->alpha[i]};
    }
    if (count) gemm_outers(list, count, cpu_threads(run), scratch);
}

size_t cpu_linear_bwd_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    bool low = in[LB_A].dt != DT_NONE;
    const struct view *x = ops_like_x(in, out);
    int64_t tokens = x->d[0], rank = low ? in[LB_A].d[0] : 0;
    size_t dt = floats(tokens * rank), drop = low && inst->a.dropout > 0 ? floats(DROP_ROWS * x->d[1]) : 0;
    return dt + drop + max_size(gemm_scratch(), gemm_outers_scratch(rank));
}

err cpu_linear_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                   void *scratch) {
    const struct op_attr *a = &inst->a;
    int64_t tokens = ops_like_x(in, out)->d[0], c = ops_like_x(in, out)->d[1];
    err e = OK;
    if (tokens == 0 || ops_by_adapter(cpu_linear_bwd, run, inst, in, out, scratch, &e)) return e;
    bool low = in[LB_A].p != NULL, drop = low && a->dropout > 0;
    float *dt = low ? scratch : NULL;
    char *rest = (char *)scratch + (low ? floats(tokens * in[LB_A].d[0]) : 0);
    float *masked = (float *)rest;
    if (drop) rest += floats(DROP_ROWS * c);
    input_gradients(run, a, in, out, dt, !drop, rest);
    if (low) parameter_gradients(run, a, in, out, dt, !drop, rest);
    if (drop) dropped_gradients(run, a, in, out, dt, masked, rest);
    return OK;
}

/* --- a trained matrix ------------------------------------------------------------------------------------------ */

size_t cpu_weight_grad_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)in, (void)out;
    return gemm_scratch();
}

err cpu_weight_grad(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                    void *scratch) {
    (void)inst;
    const struct view *x = &in[0], *dy = &in[1], *dw = &out[0];
    struct gemm g = {.m = dy->d[1], .pieces = 1, .outs = 1, .threads = cpu_threads(run), .turned = true};
    g.piece[0] = (struct gemm_piece){dy->p, dy->ld, dy->d[0], false};
    g.out[0] = (struct gemm_out){.y = dw->p, .ld = dw->ld, .n = dw->d[1], .add = true};
    g.out[0].w[0] = weight(x, false, 1);
    gemm_run_in(run->operands, &g, scratch);
    return OK;
}
