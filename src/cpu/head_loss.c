/* head_loss: the vocabulary projection, a row's loss (loss_rows.c) and its gradients to the hidden state, the projection and its
 * bias, without the [N, V] logits. Operands are in ops/ops.h.
 *
 * Rows with weight 0 are left out before anything is computed. The others go in chunks of equal size whose logits fit
 * HEAD_BYTES: per chunk the head is unpacked twice (logits, then dx), about 7 % of the products' time at 64 rows.
 * Rows of W that have replacements are computed with the others and overwritten by the replacements' own logits, a product beside the
 * large one; their dlogits go to the replacements and are zero for W.
 * A teacher's logits are one product more, beside the student's, and have as much room: chunks of half as many rows would read a head of 32 bits twice as often
 * (V 49,152, C 576, 128 rows, one thread: 367 ms in place of 246; cross-entropy alone takes 168).
 * A low-rank delta is a second piece of the product that makes the logits, and dt a second output of the one that makes dx.
 * dW, dbias, drows and dB take a chunk after the other, so that their bits depend on which rows have weight and on nothing else.
 * Sums: f32 products; sum exp in f32 per 64 vectors and then double; nll and the totals in double. Nothing is skipped
 * or clamped when a value is not finite: a NaN or infinite logit makes its row's nll, and so sums[0], NaN. */
#include "cpu/head_loss.h"
#include "cpu/cpu.h"
#include "cpu/fused.h"
#include "cpu/gemm.h"
#include "ops/ops.h"
#include <math.h>
#include <string.h>

enum { HEAD_BYTES = 12582912, HEAD_ROWS_MIN = 16, HEAD_ROWS_MAX = 256, HEAD_IN_CACHE = 1 << 20 };

/* --- scratch --------------------------------------------------------------------------------------------------- */

struct buffers {
    int64_t chunk;  /* most rows at once */
    float *x, *dx;  /* [chunk, C]: the chunk's rows, gathered; their gradient */
    float *t, *dt;  /* [chunk, R]: of the delta */
    float *logits;  /* [chunk, V] */
    float *tx, *teacher; /* [chunk, D], [chunk, V]: the teacher's rows, gathered; its logits */
    float *outcomes;     /* [chunk, 2, k + 1]: of remembered ids and the rest */
    float *own;     /* [chunk, R]: of the replacements */
    int32_t *rows;  /* [N]: which rows have weight */
    float *loss, *correct; /* [N]; 1 where the argmax is the label */
    void *gemm;
    size_t bytes;
};

/* Where everything lies behind `base` (0 to count). */
static struct buffers layout(uintptr_t base, const struct view *in) {
    const int64_t n = in[0].d[0], c = in[0].d[1], v = in[1].d[0], replaced = in[5].nd ? in[5].d[0] : 0, r = in[HEAD_T].nd ? in[HEAD_T].d[1] : 0;
    const int64_t d = in[HEAD_TW].nd ? in[HEAD_TW].d[1] : 0, k = in[HEAD_TOP].nd ? in[HEAD_TOP].d[1] + 1 : 0;
    struct buffers b = {.chunk = HEAD_BYTES / (v * (int64_t)sizeof(float))};
    if (b.chunk < HEAD_ROWS_MIN || v * c * (int64_t)sizeof(float) <= HEAD_IN_CACHE) b.chunk = HEAD_ROWS_MIN; /* a classifier: nothing is saved by reading it less often */
    if (b.chunk > HEAD_ROWS_MAX) b.chunk = HEAD_ROWS_MAX;
    if (b.chunk > n) b.chunk = n;
#define TAKE(field, count)                                                                                             \
    b.field = (void *)(base + b.bytes);                                                                                \
    b.bytes += ((size_t)(count)*4 + 63) / 64 * 64
    TAKE(x, b.chunk * c);
    TAKE(dx, b.chunk * c);
    TAKE(t, b.chunk * r);
    TAKE(dt, b.chunk * r);
    TAKE(logits, b.chunk * v);
    TAKE(tx, b.chunk * d);
    TAKE(teacher, d ? b.chunk * v : 0);
    TAKE(outcomes, b.chunk * 2 * k);
    TAKE(own, b.chunk * replaced);
    TAKE(rows, n);
    TAKE(loss, n);
    TAKE(correct, n);
    b.gemm = (void *)(base + b.bytes);
    b.bytes += gemm_scratch();
#undef TAKE
    return b;
}

size_t cpu_head_loss_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)out;
    return layout(0, in).bytes;
}

/* --- the kernel ------------------------------------------------------------------------------------------------ */

/* dW += scale dlogits^T x, x [m, columns of W]; of the replacements and of B likewise */
static void weight_gradient(const struct run_ctx *run, const struct view *dw, const float *dlogits, const float *x, float scale, int64_t m,
                            void *scratch) {
    const int64_t v = dw->d[0], c = dw->d[1];
    struct gemm g = {.m = v, .pieces = 1, .outs = 1, .threads = cpu_threads(run), .turned = true};
    g.piece[0] = (struct gemm_piece){dlogits, v, m, false};
    g.out[0] = (struct gemm_out){.y = dw->p, .ld = dw->ld, .n = c, .add = true};
    g.out[0].w[0] = (struct gemm_w){x, DT_F32, c, false, scale};
    gemm_run(&g, scratch);
}

/* dbias += the columns' sums: each has one writer and one order of rows. */
static void bias_gradient(const struct run_ctx *run, float *dbias, const float *dlogits, int64_t m, int64_t v) {
    enum { STRIPE = 256 };
#pragma omp parallel for num_threads(cpu_threads_for(run, m * v))
    for (int64_t from = 0; from < v; from += STRIPE) {
        const int64_t n = v - from < STRIPE ? v - from : STRIPE;
        float sum[STRIPE] = {0};
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) sum[j] += dlogits[i * v + from + j];
        for (int64_t j = 0; j < n; j++) dbias[from + j] += sum[j];
    }
}

static struct gemm product(const struct run_ctx *run, int64_t m, const float *x, int64_t k, float *y, int64_t n,
                           const struct view *w, bool t) {
    struct gemm g = {.m = m, .pieces = 1, .outs = 1, .threads = cpu_threads(run)};
    g.piece[0] = (struct gemm_piece){x, k, k, false};
    g.out[0] = (struct gemm_out){.y = y, .ld = n, .n = n};
    g.out[0].w[0] = (struct gemm_w){w->p, w->dt, w->ld, t, 1};
    return g;
}

/* The logits of replaced rows. */
static void put_own(const struct run_ctx *run, const struct view *in, const struct buffers *b, int64_t m, int64_t v) {
    const int64_t r = in[5].d[0];
    struct gemm g = product(run, m, b->x, in[5].d[1], b->own, r, &in[5], true);
    gemm_run(&g, b->gemm);
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < r; k++) {
            const int32_t at = view_i32(&in[6])[k];
            b->logits[i * v + at] = b->own[i * r + k] + (in[4].p ? view_f32(&in[4])[at] : 0);
        }
}

/* Their dlogits: kept aside, and zero in the large matrix. */
static void take_own(const struct view *which, const struct buffers *b, int64_t m, int64_t v) {
    const int64_t r = which->d[0];
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < r; k++) {
            float *at = b->logits + i * v + view_i32(which)[k];
            b->own[i * r + k] = *at;
            *at = 0;
        }
}

/* The rows of a chunk, beside each other; and back. */
static void gather_rows(const struct view *from, const int32_t *rows, int64_t m, float *to) {
    for (int64_t i = 0; i < m; i++) memcpy(to + i * from->d[1], view_row(from, rows[i]), (size_t)from->d[1] * sizeof *to);
}

static void scatter_rows(const float *from, const int32_t *rows, int64_t m, const struct view *to) {
    for (int64_t i = 0; i < m; i++) memcpy(view_row(to, rows[i]), from + i * to->d[1], (size_t)to->d[1] * sizeof *from);
}

/* z = x W^T + bias + alpha t B^T */
static void chunk_logits(const struct run_ctx *run, float alpha, const struct view *in, const struct buffers *b, int64_t m) {
    const struct view *t = &in[HEAD_T], *up = &in[HEAD_B];
    struct gemm g = product(run, m, b->x, in[0].d[1], b->logits, in[1].d[0], &in[1], true);
    g.out[0].bias = view_f32(&in[4]);
    if (t->p) {
        g.pieces = 2;
        g.piece[1] = (struct gemm_piece){b->t, t->d[1], t->d[1], false};
        g.out[0].w[1] = (struct gemm_w){up->p, up->dt, up->ld, true, alpha};
    }
    gemm_run(&g, b->gemm);
}

/* dx = dlogits W, dt = alpha dlogits B, those that are wanted: the one where the other is absent, or both at once. */
static void input_gradients(const struct run_ctx *run, float alpha, const struct view *in, const struct view *out, const struct buffers *b,
                            int64_t m) {
    const int64_t v = in[1].d[0], r = in[HEAD_T].d[1];
    struct gemm g = product(run, m, b->logits, v, b->dx, in[0].d[1], &in[1], false);
    if (out[HEAD_DT].p) {
        struct gemm_out *dt = &g.out[out[2].p ? g.outs++ : 0];
        *dt = (struct gemm_out){.y = b->dt, .ld = r, .n = r};
        dt->w[0] = (struct gemm_w){in[HEAD_B].p, in[HEAD_B].dt, in[HEAD_B].ld, false, alpha};
    }
    if (out[2].p || out[HEAD_DT].p) gemm_run(&g, b->gemm);
}

/* Of the first V ids of its own. */
static void teacher_logits(const struct run_ctx *run, const struct view *in, const struct buffers *b, const int32_t *rows, int64_t m) {
    gather_rows(&in[HEAD_TX], rows, m, b->tx);
    struct gemm g = product(run, m, b->tx, in[HEAD_TX].d[1], b->teacher, in[1].d[0], &in[HEAD_TW], true);
    gemm_run(&g, b->gemm);
}

/* How far the chunk's rows are from the teacher's: into their losses, and dx. */
static void match_rows(const struct run_ctx *run, const struct loss_terms *l, const struct view *in, const struct buffers *b, const int32_t *rows, int64_t m, bool dx) {
    const int64_t c = in[0].d[1];
    const float by = l->share * l->hidden / (float)c, scale = run->loss_scale != 0 ? run->loss_scale : 1;
#pragma omp parallel for num_threads(cpu_threads_for(run, m * c))
    for (int64_t i = 0; i < m; i++) {
        const float *x = b->x + i * c, *t = view_row(&in[HEAD_TX], rows[i]), g = 2 * by * scale * view_f32(&in[3])[rows[i]];
        double sum = 0;
        for (int64_t j = 0; j < c; j++) {
            const float off = x[j] - t[j];
            sum += (double)off * off;
            if (dx) b->dx[i * c + j] += g * off;
        }
        b->loss[rows[i]] += (float)((double)by * sum);
    }
}

static void one_chunk(const struct run_ctx *run, const struct op_attr *a, const struct view *in, struct view *out, const struct buffers *b,
                      const int32_t *rows, int64_t m) {
    const struct view *dx = &out[2];
    const int32_t *label = view_i32(&in[2]);
    const float *weight = view_f32(&in[3]);
    const float scale = run->loss_scale != 0 ? run->loss_scale : 1;
    const int64_t c = in[0].d[1], v = in[1].d[0];
    bool gradient = false;
    for (int k = 2; k < HEAD_OUT; k++) gradient |= out[k].p != NULL;
    gather_rows(&in[0], rows, m, b->x);
    if (in[HEAD_T].p) gather_rows(&in[HEAD_T], rows, m, b->t);
    chunk_logits(run, a->alpha[0], in, b, m);
    if (in[5].p) put_own(run, in, b, m, v);
    if (in[HEAD_TX].p && a->loss.share > 0) teacher_logits(run, in, b, rows, m);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(run))
    for (int64_t i = 0; i < m; i++) {
        const int32_t n = rows[i];
        const int64_t k = in[HEAD_TOP].d[1];
        struct loss_row r = {.label = label[n], .weight = scale * weight[n], .cap = a->softcap, .gradient = gradient, .terms = &a->loss};
        if (in[7].p) r.target = view_row(&in[7], label[n]);
        if (in[HEAD_TX].p && a->loss.share > 0) r.teacher = b->teacher + i * v;
        if (r.teacher && a->loss.teacher_cap > 0) fused()->cap_row(r.teacher, v, a->loss.teacher_cap);
        if (in[HEAD_TOP].p && a->loss.share > 0)
            r.top = view_i32(&in[HEAD_TOP]) + n * in[HEAD_TOP].ld, r.logp = view_row(&in[HEAD_LOGP], n), r.k = k,
            r.outcomes = b->outcomes + i * 2 * (k + 1);
        const struct row_loss of = head_row(&r, b->logits + i * v, v);
        view_f32(&out[1])[n] = of.nll, b->loss[n] = of.loss, b->correct[n] = of.correct;
    }
    if (out[4].p) bias_gradient(run, view_f32(&out[4]), b->logits, m, v);
    if (in[5].p && gradient) take_own(&in[6], b, m, v);
    if (out[3].p) weight_gradient(run, &out[3], b->logits, b->x, 1, m, b->gemm);
    if (out[5].p) weight_gradient(run, &out[5], b->own, b->x, 1, m, b->gemm);
    if (out[HEAD_DB].p) weight_gradient(run, &out[HEAD_DB], b->logits, b->t, a->alpha[0], m, b->gemm);
    input_gradients(run, a->alpha[0], in, out, b, m);
    if (in[5].p && dx->p) {
        struct gemm g = product(run, m, b->own, in[5].d[0], b->dx, c, &in[5], false);
        g.out[0].add = true;
        gemm_run(&g, b->gemm);
    }
    if (a->loss.hidden > 0) match_rows(run, &a->loss, in, b, rows, m, dx->p != NULL);
    if (dx->p) scatter_rows(b->dx, rows, m, dx);
    if (out[HEAD_DT].p) scatter_rows(b->dt, rows, m, &out[HEAD_DT]);
}

/* Lists the rows with weight and zeroes the outputs of the others. */
static err choose_rows(const struct view *in, struct view *out, int32_t *rows, int64_t *count) {
    const int64_t n = in[0].d[0], v = in[7].p ? in[7].d[0] : in[1].d[0]; /* labels there are */
    *count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (view_f32(&in[3])[i] != 0) {
            int32_t label = view_i32(&in[2])[i];
            if (label < 0 || label >= v)
                return fail(E_INPUT, "head_loss: label %d of row %lld is not in 0..%lld", (int)label, (long long)i,
                            (long long)v - 1);
            if (in[HEAD_TOP].p) TRY(ops_top_known(in, i));
            rows[(*count)++] = (int32_t)i;
            continue;
        }
        view_f32(&out[1])[i] = 0;
        if (out[2].p) memset(view_row(&out[2], i), 0, (size_t)out[2].d[1] * sizeof(float));
        if (out[HEAD_DT].p) memset(view_row(&out[HEAD_DT], i), 0, (size_t)out[HEAD_DT].d[1] * sizeof(float));
    }
    return OK;
}

err cpu_head_loss(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                  void *scratch) {
    int64_t count;
    struct buffers b = layout((uintptr_t)scratch, in);
    TRY(choose_rows(in, out, b.rows, &count));
    int64_t chunks = b.chunk ? (count + b.chunk - 1) / b.chunk : 0;
    for (int64_t i = 0; i < chunks; i++) {
        int64_t from = count * i / chunks, to = count * (i + 1) / chunks;
        one_chunk(run, &inst->a, in, out, &b, b.rows + from, to - from);
    }
    double all[4 * MAX_ADAPTERS] = {0};
    for (int64_t i = 0; i < count; i++) {
        double w = view_f32(&in[3])[b.rows[i]], *sum = all + 4 * (run->adapters ? adapters_whose(run->adapters, b.rows[i]) : 0);
        sum[0] += w * (double)b.loss[b.rows[i]];
        sum[1] += w;
        sum[2] += w * (double)b.correct[b.rows[i]];
        sum[3] += 1;
    }
    for (int i = 0; i < 4 * adapters_in(run->adapters); i++) view_f32(&out[0])[i] = (float)all[i];
    return OK;
}
