/* head_loss (ops/head_loss.c): the output projection and cross-entropy (or squared error), in chunks of rows whose logits fit CHUNK bytes, so that
 * the [N, V] logits never exist. Rows without weight are left out of the products: the first kernel lists the others. The host
 * knows no more than a bound of their number (run_ctx.weighted) and waits for nothing; between the two lie rows of zeros.
 *
 * A chunk: gathered x [r, C] -> logits f32 [r, V] -> one block a row: max and sum of exponentials in one reading, nll, and the
 * gradient g = loss_scale * weight * (softmax - onehot) in the compute type -> dx rows [r, C] -> scattered; dW += g^T x, and dbias +=
 * the columns' sums of g, in f32: rows without weight are zeros in both. Rows of W that have replacements: a product beside the large
 * one gives their logits, which overwrite W's; their g is taken aside, zero for W, and gives drows and what is added to dx. A low-rank delta is a product t B^T that is
 * added to the logits before anything is read off them, and two of g for dt and dB. Rows whose loss has other terms than the label's go through loss_rows.cu, a
 * teacher's logits beside theirs. Sums are made in the end from per-row figures, in row order,
 * in double: the same bits in every run. */
#include "cuda/gemm.h"
#include "cuda/loss.cuh"

enum { CHUNK = 256 << 20, MANY = 1024 };

static size_t aligned(size_t n) { return (n + 255) / 256 * 256; }
static size_t size_of(dtype dt) { return dtype_row_bytes(dt, 1); }

static int64_t chunk_rows(const struct view *in) {
    const int64_t N = in[0].d[0], V = in[1].d[0];
    int64_t r = CHUNK / (V * (in[HEAD_TX].nd ? 8 : 4));
    r = r < 64 ? 64 : r / 64 * 64;
    return N < r ? N : r;
}

/* Scratch, in this order. */
struct places { size_t index, row, weights, x, t, dt, logits, grad, own, own_grad, dx, tx, teacher, teacher_w, outcomes, total; };

/* Which gradients are made; g is what all of them are made of. */
struct wanted { bool dx, dw, dbias, drows, dt, db, g; };
static struct wanted wanted_of(const struct view *out) {
    struct wanted w = {out[2].nd != 0, out[3].nd != 0, out[4].nd != 0, out[5].nd != 0, out[HEAD_DT].nd != 0, out[HEAD_DB].nd != 0, false};
    w.g = w.dx || w.dw || w.dbias || w.drows || w.dt || w.db;
    return w;
}

/* Elements from row to row of the replacements' logits and their gradient, and of t and dt: products want whole 16 bytes. */
static int64_t own_ld(const struct view *in) { return in[5].nd ? (in[5].d[0] + 7) / 8 * 8 : 0; }
static int64_t low_ld(const struct view *in) { return in[HEAD_T].nd ? (in[HEAD_T].d[1] + 7) / 8 * 8 : 0; }

static struct places places_of(const struct view *in, struct wanted make) {
    int64_t N = in[0].d[0], C = in[0].d[1], V = in[1].d[0], r = chunk_rows(in);
    const int64_t D = in[HEAD_TX].nd ? in[HEAD_TX].d[1] : 0, k = in[HEAD_TOP].nd ? in[HEAD_TOP].d[1] + 1 : 0;
    dtype dt = in[0].dt;
    struct places p = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    p.row = aligned((size_t)(N + 1) * 4);
    p.weights = p.row + aligned((size_t)N * 8); /* nll and correct of each listed row */
    p.x = p.weights + (in[1].dt == dt ? 0 : aligned((size_t)(V * C) * size_of(dt)));
    p.t = p.x + aligned((size_t)(r * C) * size_of(dt));
    p.dt = p.t + aligned((size_t)(r * low_ld(in)) * size_of(dt));
    p.logits = p.dt + (make.dt ? aligned((size_t)(r * low_ld(in)) * size_of(dt)) : 0);
    p.grad = p.logits + aligned((size_t)(r * V) * 4);
    p.own = p.grad + (make.g && dt != DT_F32 ? aligned((size_t)(r * V) * size_of(dt)) : 0);
    p.own_grad = p.own + aligned((size_t)(r * own_ld(in)) * 4);
    p.dx = p.own_grad + (make.g ? aligned((size_t)(r * own_ld(in)) * size_of(dt)) : 0);
    p.tx = p.dx + (make.dx ? aligned((size_t)(r * C) * size_of(dt)) : 0);
    p.teacher = p.tx + aligned((size_t)(r * D) * size_of(dt));
    p.teacher_w = p.teacher + (D ? aligned((size_t)(r * V) * 4) : 0);
    p.outcomes = p.teacher_w + (!D || in[HEAD_TW].dt == dt ? 0 : aligned((size_t)(V * D) * size_of(dt)));
    p.total = p.outcomes + aligned((size_t)(r * 2 * k) * 4);
    return p;
}

extern "C" size_t cuda_head_loss_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i;
    return places_of(in, wanted_of(out)).total;
}

/* index[0] = how many, index[1..bound]: the rows with weight, in order, then NOBODY. One block. */
__global__ static void list_kernel(const float *weight, int n, int bound, int *index) {
    __shared__ int part[MANY];
    int each = (n + MANY - 1) / MANY, from = threadIdx.x * each, to = min(n, from + each), mine = 0;
    for (int i = from; i < to; i++) mine += weight[i] != 0;
    part[threadIdx.x] = mine;
    __syncthreads();
    for (int d = 1; d < MANY; d *= 2) {
        int add = (int)threadIdx.x >= d ? part[threadIdx.x - d] : 0;
        __syncthreads();
        part[threadIdx.x] += add;
        __syncthreads();
    }
    int at = part[threadIdx.x] - mine;
    for (int i = from; i < to; i++)
        if (weight[i] != 0) index[1 + at++] = i;
    if (threadIdx.x == MANY - 1) index[0] = part[MANY - 1];
    for (int i = part[MANY - 1] + (int)threadIdx.x; i < bound; i += MANY) index[1 + i] = NOBODY;
}

/* gather: to[r] = from[index[r]], or zeros; scatter: to[index[r]] = from[r]. Rows are of `units` units of U. */
template <typename U> __global__ void move_kernel(const U *from, int64_t ld_from, U *to, int64_t ld_to, const int *index, int units, bool scatter) {
    int64_t r = blockIdx.x, other = index[r];
    if (other == NOBODY && scatter) return;
    const U *a = from + (scatter ? r : other) * ld_from;
    U *b = to + (scatter ? other : r) * ld_to;
    for (int c = threadIdx.x; c < units; c += blockDim.x) b[c] = other == NOBODY ? U{} : a[c];
}

/* Rows of `bytes` bytes, ld in bytes: by 16 where everything is a multiple of that, else by 2. */
static void move(const void *from, size_t ld_from, void *to, size_t ld_to, const int *index, int64_t rows, size_t bytes, bool scatter) {
    if ((((uintptr_t)from | (uintptr_t)to | ld_from | ld_to | bytes) & 15) == 0)
        move_kernel<uint4><<<(unsigned)rows, 128, 0, cuda_stream>>>((const uint4 *)from, (int64_t)ld_from / 16, (uint4 *)to, (int64_t)ld_to / 16, index, (int)(bytes / 16), scatter);
    else
        move_kernel<uint16_t><<<(unsigned)rows, 128, 0, cuda_stream>>>((const uint16_t *)from, (int64_t)ld_from / 2, (uint16_t *)to, (int64_t)ld_to / 2, index, (int)(bytes / 2), scatter);
}

/* A block a row. grad may be the logits themselves (f32): each element is read before it is written, by its own thread. W: elements a
 * load; 4 where V is a multiple of it. */
template <typename T, int W>
__global__ void __launch_bounds__(THREADS) loss_kernel(const float *logits, T *grad, int64_t V, const int *index, const int32_t *label, const float *weight, float *nll, float *row, const struct cuda_keys *keys, float cap) {
    __shared__ struct soft parts[THREADS / 32];
    __shared__ float wanted;
    int64_t r = blockIdx.x, n = index[r];
    const float *z = logits + r * V;
    if (n == NOBODY) {
        for (int64_t v = threadIdx.x; v < V && grad; v += THREADS) grad[r * V + v] = from_f32<T>(0);
        return;
    }
    int32_t want = label[n];
    if (threadIdx.x == 0) wanted = want >= 0 && want < V ? capped(z[want], cap) : NAN; /* a label out of range makes the step E_NUMERIC */
    struct soft s = {-INFINITY, 0, 0x7FFFFFFF};
    for (int64_t v = threadIdx.x * W; v < V; v += THREADS * W) {
        float x[4] = {z[v], -INFINITY, -INFINITY, -INFINITY};
        if (W == 4) *(float4 *)x = *(const float4 *)(z + v);
        for (int i = 0; i < W; i++) x[i] = capped(x[i], cap);
        see(&s, x, (int)v);
    }
    s = block_soft(s, parts);
    if (threadIdx.x == 0) {
        nll[n] = row[2 * r] = s.top + logf(s.sum) - wanted;
        row[2 * r + 1] = s.at == want;
    }
    if (!grad) return;
    float w = weight[n] * keys->loss_scale, inv = 1 / s.sum;
    for (int64_t v = threadIdx.x * W; v < V; v += THREADS * W) {
        float x[4] = {z[v]};
        if (W == 4) *(float4 *)x = *(const float4 *)(z + v);
        alignas(16) T g[4];
        for (int i = 0; i < W; i++) {
            const float y = capped(x[i], cap), slope = cap > 0 ? 1 - y / cap * (y / cap) : 1;
            g[i] = from_f32<T>(w * (expf(y - s.top) * inv - (v + i == want)) * slope);
        }
        if (W == 1) grad[r * V + v] = g[0];
        else if (sizeof(T) == 4) *(uint4 *)(grad + r * V + v) = *(uint4 *)g;
        else *(uint2 *)(grad + r * V + v) = *(uint2 *)g;
    }
}

/* A block a row: squared errors from row label[n] of `target`, their mean and its gradient. A label out of range is a NaN. */
template <typename T>
__global__ void __launch_bounds__(THREADS) square_kernel(const float *logits, T *grad, int64_t V, const int *index, const int32_t *label, const float *weight, struct view target, float *nll, float *row, const struct cuda_keys *keys) {
    __shared__ double parts[THREADS];
    const int64_t r = blockIdx.x, n = index[r];
    const int32_t want = n == NOBODY ? 0 : label[n];
    const bool known = want >= 0 && want < target.d[0];
    const float *y = (const float *)target.p + (known ? want : 0) * target.ld, w = n == NOBODY ? 0 : weight[n] * keys->loss_scale * 2 / (float)V;
    double sum = 0;
    for (int64_t v = threadIdx.x; v < V; v += THREADS) {
        const float off = n == NOBODY ? 0 : known ? logits[r * V + v] - y[v] : NAN;
        sum += (double)off * off;
        if (grad) grad[r * V + v] = from_f32<T>(w * off);
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int d = THREADS / 2; d; d /= 2) {
        if ((int)threadIdx.x < d) parts[threadIdx.x] += parts[threadIdx.x + d];
        __syncthreads();
    }
    if (threadIdx.x || n == NOBODY) return;
    nll[n] = row[2 * r] = (float)(parts[0] / (double)V);
    row[2 * r + 1] = 0;
}

/* A block a row: own's column k into column which[k] of the logits, with its bias. */
__global__ static void put_kernel(const float *own, int64_t ld, const int32_t *which, int R, const float *bias, float *logits, int64_t V) {
    for (int k = threadIdx.x; k < R; k += blockDim.x) {
        const int32_t at = which[k];
        if (at >= 0 && at < V) logits[blockIdx.x * V + at] = own[blockIdx.x * ld + k] + (bias ? bias[at] : 0.0f);
    }
}

/* The way back: column which[k] of g into own's column k, and zero in its place. */
template <typename T> __global__ void take_kernel(T *own, int64_t ld, const int32_t *which, int R, T *g, int64_t V) {
    for (int k = threadIdx.x; k < R; k += blockDim.x) {
        const int32_t at = which[k];
        own[blockIdx.x * ld + k] = at >= 0 && at < V ? g[blockIdx.x * V + at] : from_f32<T>(0);
        if (at >= 0 && at < V) g[blockIdx.x * V + at] = from_f32<T>(0);
    }
}

/* to[v] += the sum of column v over the rows of g. A block has 32 columns: each warp adds up every 32nd row, then one the warps' sums. */
template <typename T> __global__ void __launch_bounds__(MANY) columns_kernel(const T *g, int64_t rows, int64_t V, float *to) {
    __shared__ float part[32][32];
    const int x = threadIdx.x % 32, y = threadIdx.x / 32;
    const int64_t v = (int64_t)blockIdx.x * 32 + x;
    float sum = 0;
    for (int64_t r = y; r < rows && v < V; r += 32) sum += to_f32(g[r * V + v]);
    part[y][x] = sum;
    __syncthreads();
    if (y || v >= V) return;
    for (int k = 1; k < 32; k++) sum += part[k][x];
    to[v] += sum;
}

/* Of the rows first .. last - 1. */
__global__ static void sums_kernel(const int *index, const float *row, const float *weight, int64_t first, int64_t last, float *out) {
    __shared__ double part[4][256];
    int n = index[0], each = (n + 255) / 256, from = threadIdx.x * each, to = min(n, from + each);
    double a = 0, b = 0, c = 0, d = 0;
    for (int r = from; r < to; r++) {
        if (index[1 + r] < first || index[1 + r] >= last) continue;
        double w = weight[index[1 + r]];
        a += w * row[2 * r];
        b += w;
        c += w * row[2 * r + 1];
        d += 1;
    }
    part[0][threadIdx.x] = a, part[1][threadIdx.x] = b, part[2][threadIdx.x] = c, part[3][threadIdx.x] = d;
    __syncthreads();
    if (threadIdx.x < 4) {
        double sum = 0;
        for (int k = 0; k < 256; k++) sum += part[threadIdx.x][k];
        out[threadIdx.x] = (float)sum;
    }
}

struct head {
    const struct view *in;
    struct view *out;
    const void *w, *teacher_w; /* in the compute type */
    char *scratch;
    struct places at;
    struct wanted make;
    float cap, alpha;
    struct loss_terms terms;
};

/* The delta's part of the logits, from the rows of t. */
static err add_low(const struct head *h, const int *index, float *logits, int64_t rows) {
    const struct view *t = &h->in[HEAD_T], *b = &h->in[HEAD_B];
    const int64_t R = t->d[1], V = b->d[0], ld = low_ld(h->in);
    const size_t each = size_of(t->dt);
    move(t->p, t->ld * each, h->scratch + h->at.t, ld * each, index, rows, R * each, false);
    struct cuda_gemm g = {rows, V, R, h->scratch + h->at.t, b->p, logits, ld, b->ld, V, false, true, t->dt, DT_F32, h->alpha, 1};
    return cuda_gemm(&g);
}

/* Its gradients: dB += alpha g^T t, and rows of dt = alpha g B. */
static err low_gradients(const struct head *h, const int *index, const void *grad, int64_t rows) {
    const struct view *t = &h->in[HEAD_T], *b = &h->in[HEAD_B], *dt = &h->out[HEAD_DT], *db = &h->out[HEAD_DB];
    const int64_t R = t->d[1], V = b->d[0], ld = low_ld(h->in);
    const size_t each = size_of(t->dt);
    if (h->make.db) {
        struct cuda_gemm g = {V, R, rows, grad, h->scratch + h->at.t, db->p, V, ld, db->ld, true, false, t->dt, DT_F32, h->alpha, 1};
        TRY(cuda_gemm(&g));
    }
    if (!h->make.dt) return OK;
    struct cuda_gemm g = {rows, R, V, grad, b->p, h->scratch + h->at.dt, V, b->ld, ld, false, false, t->dt, t->dt, h->alpha, 0};
    TRY(cuda_gemm(&g));
    move(h->scratch + h->at.dt, ld * each, dt->p, dt->ld * each, index, rows, R * each, true);
    return OK;
}

/* The replaced rows' logits. */
template <typename T> static err put_own(const struct head *h, const T *xs, float *logits, int64_t rows) {
    const struct view *own = &h->in[5];
    const int64_t C = own->d[1], R = own->d[0], V = h->in[1].d[0], ld = own_ld(h->in);
    float *to = (float *)(h->scratch + h->at.own);
    struct cuda_gemm g = {rows, R, C, xs, own->p, to, C, own->ld, ld, false, true, h->in[0].dt, DT_F32, 1, 0};
    TRY(cuda_gemm(&g));
    put_kernel<<<(unsigned)rows, 128, 0, cuda_stream>>>(to, ld, (const int32_t *)h->in[6].p, (int)R, (const float *)h->in[4].p, logits, V);
    return CUDA_LAUNCHED("head_loss");
}

/* Their gradient: into drows, and out of what W sees. */
template <typename T> static err take_own(const struct head *h, const T *xs, T *grad, int64_t rows) {
    const struct view *own = &h->in[5];
    const int64_t C = own->d[1], R = own->d[0], V = h->in[1].d[0], ld = own_ld(h->in);
    T *to = (T *)(h->scratch + h->at.own_grad);
    take_kernel<T><<<(unsigned)rows, 128, 0, cuda_stream>>>(to, ld, (const int32_t *)h->in[6].p, (int)R, grad, V);
    TRY(CUDA_LAUNCHED("head_loss"));
    if (!h->make.drows) return OK;
    struct cuda_gemm g = {R, C, rows, to, xs, h->out[5].p, ld, C, h->out[5].ld, true, false, h->in[0].dt, DT_F32, 1, 1};
    return cuda_gemm(&g);
}

/* ... and what they add to dx. */
template <typename T> static err add_own(const struct head *h, T *dx, int64_t rows) {
    const struct view *own = &h->in[5];
    const int64_t C = own->d[1], R = own->d[0];
    struct cuda_gemm g = {rows, C, R, h->scratch + h->at.own_grad, own->p, dx, own_ld(h->in), own->ld, C, false, false, h->in[0].dt, h->in[0].dt, 1, 1};
    return cuda_gemm(&g);
}

/* A block a row: how far it is from the teacher's, into its loss, and dx where that is wanted. */
template <typename T>
__global__ void __launch_bounds__(THREADS) match_kernel(const T *x, const T *t, T *dx, int64_t C, const int *index, const float *weight, float by, float *row, const struct cuda_keys *keys) {
    __shared__ double parts[THREADS];
    const int64_t r = blockIdx.x, n = index[r];
    const float g = n == NOBODY ? 0 : 2 * by * weight[n] * keys->loss_scale;
    double sum = 0;
    for (int64_t c = threadIdx.x; c < C && n != NOBODY; c += THREADS) {
        const float off = to_f32(x[r * C + c]) - to_f32(t[r * C + c]);
        sum += (double)off * off;
        if (dx) dx[r * C + c] = from_f32<T>(to_f32(dx[r * C + c]) + g * off);
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int d = THREADS / 2; d; d /= 2) {
        if ((int)threadIdx.x < d) parts[threadIdx.x] += parts[threadIdx.x + d];
        __syncthreads();
    }
    if (!threadIdx.x && n != NOBODY) row[2 * r] += (float)((double)by * parts[0]);
}

/* The chunk's rows with other terms: the teacher's logits, where there is one, and then the loss. */
template <typename T> static err mixed_rows(const struct head *h, const struct mixing *plain, int64_t rows, T *grad) {
    const struct view *x = &h->in[HEAD_TX];
    const int64_t D = x->d[1], V = plain->V;
    struct mixing m = *plain;
    if (x->p) {
        m.teacher = (float *)(h->scratch + h->at.teacher);
        move(x->p, x->ld * sizeof(T), h->scratch + h->at.tx, D * sizeof(T), m.index, rows, D * sizeof(T), false);
        struct cuda_gemm g = {rows, V, D, h->scratch + h->at.tx, h->teacher_w, m.teacher, D, D, V, false, true, x->dt, DT_F32, 1, 0};
        TRY(cuda_gemm(&g));
    }
    return cuda_mixed_rows(&m, rows, grad, h->in[0].dt);
}

template <typename T> static err chunk(const struct head *h, int64_t from, int64_t rows) {
    const struct view *x = &h->in[0];
    int64_t C = x->d[1], V = h->in[1].d[0];
    const int *index = (const int *)(h->scratch + h->at.index) + 1 + from;
    T *xs = (T *)(h->scratch + h->at.x), *dx = (T *)(h->scratch + h->at.dx);
    float *logits = (float *)(h->scratch + h->at.logits), *row = (float *)(h->scratch + h->at.row) + 2 * from;
    T *grad = !h->make.g ? NULL : sizeof(T) == 4 ? (T *)logits : (T *)(h->scratch + h->at.grad);
    move(x->p, x->ld * sizeof(T), xs, C * sizeof(T), index, rows, C * sizeof(T), false);
    struct cuda_gemm g = {rows, V, C, xs, h->w, logits, C, C, V, false, true, x->dt, DT_F32, 1, 0};
    TRY(cuda_gemm(&g));
    if (h->in[4].p) TRY(cuda_add_bias(logits, DT_F32, rows, V, V, view_f32(&h->in[4])));
    if (h->in[5].p) TRY(put_own<T>(h, xs, logits, rows));
    if (h->in[HEAD_T].p) TRY(add_low(h, index, logits, rows));
    auto loss = V % 4 ? loss_kernel<T, 1> : loss_kernel<T, 4>;
    const int32_t *label = (const int32_t *)h->in[2].p;
    const float *weight = (const float *)h->in[3].p;
    float *nll = (float *)h->out[1].p;
    const struct mixing m = {logits, NULL, V, index, label, weight, nll, row, cuda_keys, h->cap, h->terms, h->in[HEAD_TOP], h->in[HEAD_LOGP], (float *)(h->scratch + h->at.outcomes)};
    if (ops_mixes(&h->terms)) TRY(mixed_rows<T>(h, &m, rows, grad));
    else if (h->in[7].p) square_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream>>>(logits, grad, V, index, label, weight, h->in[7], nll, row, cuda_keys);
    else loss<<<(unsigned)rows, THREADS, 0, cuda_stream>>>(logits, grad, V, index, label, weight, nll, row, cuda_keys, h->cap);
    TRY(CUDA_LAUNCHED("head_loss"));
    if (h->make.dbias) columns_kernel<T><<<(unsigned)((V + 31) / 32), MANY, 0, cuda_stream>>>(grad, rows, V, view_f32(&h->out[4]));
    if (h->in[5].p && h->make.g) TRY(take_own<T>(h, xs, grad, rows));
    if (h->make.dw) {
        struct cuda_gemm w = {V, C, rows, grad, xs, h->out[3].p, V, C, h->out[3].ld, true, false, x->dt, DT_F32, 1, 1};
        TRY(cuda_gemm(&w));
    }
    if (h->make.db || h->make.dt) TRY(low_gradients(h, index, grad, rows));
    if (h->make.dx) {
        struct cuda_gemm d = {rows, C, V, grad, h->w, dx, V, C, C, false, false, x->dt, x->dt, 1, 0};
        TRY(cuda_gemm(&d));
    }
    if (h->in[5].p && h->make.dx) TRY(add_own<T>(h, dx, rows));
    const float by = h->terms.share * h->terms.hidden / (float)C;
    if (by > 0)
        match_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream>>>(xs, (const T *)(h->scratch + h->at.tx), h->make.dx ? dx : NULL, C, index, weight, by, row, cuda_keys);
    if (!h->make.dx) return CUDA_LAUNCHED("head_loss");
    move(dx, C * sizeof(T), h->out[2].p, h->out[2].ld * sizeof(T), index, rows, C * sizeof(T), true);
    return CUDA_LAUNCHED("head_loss");
}

extern "C" err cuda_head_loss(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    int64_t N = in[0].d[0], C = in[0].d[1], V = in[1].d[0], bound = run->weighted && run->weighted < N ? run->weighted : N;
    struct head h = {in, out, in[1].p, in[HEAD_TW].p, (char *)scratch, places_of(in, wanted_of(out)), wanted_of(out), i->a.softcap, i->a.alpha[0], i->a.loss};
    int *index = (int *)(h.scratch + h.at.index);
    TRY(cuda_check(cudaMemsetAsync(out[0].p, 0, 16 * (size_t)adapters_in(run->adapters), cuda_stream), "head_loss"));
    if (!N) return OK;
    TRY(cuda_check(cudaMemsetAsync(out[1].p, 0, (size_t)N * 4, cuda_stream), "head_loss"));
    if (h.make.dx) TRY(cuda_check(cudaMemset2DAsync(out[2].p, (size_t)out[2].ld * size_of(out[2].dt), 0, (size_t)C * size_of(out[2].dt), (size_t)N, cuda_stream), "head_loss"));
    if (h.make.dt) {
        const struct view *dt = &out[HEAD_DT];
        TRY(cuda_check(cudaMemset2DAsync(dt->p, (size_t)dt->ld * size_of(dt->dt), 0, (size_t)dt->d[1] * size_of(dt->dt), (size_t)N, cuda_stream), "head_loss"));
    }
    list_kernel<<<1, MANY, 0, cuda_stream>>>((const float *)in[3].p, (int)N, (int)bound, index);
    if (in[1].dt != in[0].dt) {
        TRY(cuda_dequantise(in[1].dt, in[1].p, V, C, in[0].dt, h.scratch + h.at.weights));
        h.w = h.scratch + h.at.weights;
    }
    if (in[HEAD_TW].p && in[HEAD_TW].dt != in[0].dt) {
        TRY(cuda_dequantise(in[HEAD_TW].dt, in[HEAD_TW].p, V, in[HEAD_TW].d[1], in[0].dt, h.scratch + h.at.teacher_w));
        h.teacher_w = h.scratch + h.at.teacher_w;
    }
    int64_t most = chunk_rows(in);
    for (int64_t from = 0; from < bound; from += most) {
        int64_t rows = bound - from < most ? bound - from : most;
        WITH_TYPE(in[0].dt, TRY(chunk<T>(&h, from, rows)));
    }
    for (int k = 0; k < adapters_in(run->adapters); k++)
        sums_kernel<<<1, 256, 0, cuda_stream>>>(index, (const float *)(h.scratch + h.at.row), (const float *)in[3].p,
                                                run->adapters && k ? run->adapters->of[k - 1].end : 0, run->adapters ? run->adapters->of[k].end : N,
                                                (float *)out[0].p + 4 * k);
    return CUDA_LAUNCHED("head_loss");
}
