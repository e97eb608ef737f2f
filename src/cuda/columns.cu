/* Columns on the card: scale, each of them by its own number, its backward, and column_sum (ops/scale.c, ops/column_sum.c).
 *
 * Sums over the rows: the rows are cut in PARTS pieces; a block sums the columns it has of one of them into scratch, then the pieces are
 * summed in their order. So a sum has one order, which depends on the number of rows alone, and the bits repeat. All sums are f32. Without
 * rows there is nothing to add, but a vector that is to be written becomes zeros.
 *
 * The linears of a group are scaled in one launch, and so are their gradients, with magnitude_bwd at the end (spans.c): DoRA has these
 * at every linear, and of a short pass their launches would be most of what it costs. */
#include "cuda/spans.h"
#include "cuda/wide.cuh"

enum { PARTS = 64, TILE_X = 32, TILE_Y = 8 };

struct column_job {
    const void *x, *dy;         /* [N, C] */
    void *y;                    /* x scaled; backward: dy scaled. NULL: not wanted */
    const float *l, *bias;      /* [C], l also [1]; NULL: 1, 0 */
    bool one, multiplied, add;  /* l is one number; dy times x is summed, not dy; the sum is added to what is there */
    float by, *to, *part;       /* a factor of l and of the sum; the sum; [PARTS, C] */
    const float *inverse;       /* the sum is dl of a magnitude: dm += dl * inverse goes to dm, the sum nowhere */
    float *dm;
    int64_t ldx, lddy, ldy;
    int C;
};
struct column_jobs {
    struct column_job j[MAX_SCALES];
    int64_t N;
};

/* What W columns from c on are multiplied with. */
template <int W> __device__ __forceinline__ void factors(const struct column_job &q, int64_t c, float by[W]) {
#pragma unroll
    for (int i = 0; i < W; i++) by[i] = q.one ? *q.l : 1;
    if (q.l && !q.one) load<float, W>(q.l + c, by);
#pragma unroll
    for (int i = 0; i < W; i++) by[i] *= q.by;
}

/* A thread W columns of as many rows as come to it: their numbers are loaded once. */
template <typename T, int W> __global__ void scale_kernel(const __grid_constant__ struct column_jobs a) {
    const struct column_job &q = a.j[blockIdx.z];
    for (int64_t c = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W; c < q.C; c += (int64_t)gridDim.x * blockDim.x * W) {
        float by[W], more[W] = {}, v[W];
        factors<W>(q, c, by);
        if (q.bias) load<float, W>(q.bias + c, more);
        for (int64_t r = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; r < a.N; r += (int64_t)gridDim.y * blockDim.y) {
            load<T, W>((const T *)q.x + r * q.ldx + c, v);
#pragma unroll
            for (int i = 0; i < W; i++) v[i] = v[i] * by[i] + more[i];
            store<T, W>((T *)q.y + r * q.ldy + c, v);
        }
    }
}

/* part[p, c] = sum over the part's rows of dy (times x), and y = dy scaled on the way: it may lie in x or dy. Block: TILE_X * W columns,
 * TILE_Y rows at a time. */
template <typename T, int W> __global__ void __launch_bounds__(THREADS) part_sums_kernel(const __grid_constant__ struct column_jobs a) {
    __shared__ float rows[TILE_Y][TILE_X * W];
    const struct column_job &q = a.j[blockIdx.z];
    const int first = blockIdx.x * TILE_X * W, c = first + threadIdx.x * W;
    const int64_t each = (a.N + PARTS - 1) / PARTS, begin = blockIdx.y * each, end = begin + each < a.N ? begin + each : a.N;
    float sum[W] = {}, by[W], d[W], x[W];
    if (q.y && c < q.C) factors<W>(q, c, by);
    for (int64_t n = begin + threadIdx.y; c < q.C && n < end; n += TILE_Y) {
        load<T, W>((const T *)q.dy + n * q.lddy + c, d);
        if (q.multiplied) load<T, W>((const T *)q.x + n * q.ldx + c, x);
#pragma unroll
        for (int i = 0; i < W; i++) sum[i] = q.multiplied ? fmaf(d[i], x[i], sum[i]) : sum[i] + d[i];
        if (!q.y) continue;
#pragma unroll
        for (int i = 0; i < W; i++) d[i] *= by[i];
        store<T, W>((T *)q.y + n * q.ldy + c, d);
    }
#pragma unroll
    for (int i = 0; i < W; i++) rows[threadIdx.y][threadIdx.x * W + i] = sum[i];
    __syncthreads();
    for (int k = threadIdx.y * TILE_X + threadIdx.x; k < TILE_X * W && first + k < q.C; k += THREADS) {
        float all = 0;
        for (int i = 0; i < TILE_Y; i++) all += rows[i][k];
        q.part[(int64_t)blockIdx.y * q.C + first + k] = all;
    }
}

__global__ void join_parts_kernel(const __grid_constant__ struct column_jobs a) {
    const struct column_job &q = a.j[blockIdx.z];
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= q.C) return;
    float sum = 0;
    for (int p = 0; p < PARTS; p++) sum += q.part[(int64_t)p * q.C + c];
    sum *= q.by;
    if (q.dm) q.dm[c] = fmaf(sum, q.inverse[c], q.dm[c]);
    else q.to[c] = q.add ? q.to[c] + sum : sum;
}

/* The same over the columns too: a block, whose threads take parts and columns in turn. */
__global__ void join_all_kernel(const __grid_constant__ struct column_job q) {
    __shared__ float mine[THREADS];
    float sum = 0;
    for (int64_t i = threadIdx.x; i < (int64_t)PARTS * q.C; i += THREADS) sum += q.part[i];
    mine[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < THREADS; i++) sum += mine[i];
    *q.to = q.add ? *q.to + sum * q.by : sum * q.by;
}

/* Are all rows whole pieces of 16 bytes? */
static bool in_pieces(const struct column_job *q, int w) {
    const bool x = !q->x || (aligned(q->x) && q->ldx % w == 0), dy = !q->dy || (aligned(q->dy) && q->lddy % w == 0), y = !q->y || (aligned(q->y) && q->ldy % w == 0);
    return x && dy && y && q->C % w == 0 && (q->one || aligned(q->l)) && aligned(q->bias);
}

static int widest(const struct column_jobs *a, int n, dtype dt, bool *fast) {
    int most = 0;
    *fast = true;
    for (int k = 0; k < n; k++) {
        if (a->j[k].C > most) most = a->j[k].C;
        *fast = *fast && in_pieces(&a->j[k], dt == DT_F32 ? 4 : 8);
    }
    return most;
}

static err scale_all(const struct column_jobs *a, int n, dtype dt) {
    bool fast;
    const int w = dt == DT_F32 ? 4 : 8, C = widest(a, n, dt, &fast);
    if (!a->N || !C) return OK;
    struct shape s = shape_of(a->N, fast ? C / w : C);
    s.grid.z = (unsigned)n;
    if (fast) WITH_TYPE(dt, scale_kernel<T, wide<T>::n><<<s.grid, s.block, 0, cuda_stream>>>(*a));
    else WITH_TYPE(dt, scale_kernel<T, 1><<<s.grid, s.block, 0, cuda_stream>>>(*a));
    return CUDA_LAUNCHED("scale");
}

static size_t parts_bytes(int64_t C) { return (size_t)PARTS * (size_t)C * sizeof(float); }

static err sum_all(struct column_jobs *a, int n, dtype dt, void *scratch) {
    bool fast;
    const int C = widest(a, n, dt, &fast), w = !fast ? 1 : dt == DT_F32 ? 4 : 8;
    if (!C) return OK;
    for (int k = 0; k < n; k++) a->j[k].part = (float *)scratch, scratch = (char *)scratch + parts_bytes(a->j[k].C);
    const dim3 tiles((unsigned)((C + TILE_X * w - 1) / (TILE_X * w)), PARTS, (unsigned)n), tile(TILE_X, TILE_Y);
    if (fast) WITH_TYPE(dt, part_sums_kernel<T, wide<T>::n><<<tiles, tile, 0, cuda_stream>>>(*a));
    else WITH_TYPE(dt, part_sums_kernel<T, 1><<<tiles, tile, 0, cuda_stream>>>(*a));
    TRY(CUDA_LAUNCHED("sums of columns"));
    if (a->j[0].one) join_all_kernel<<<1, THREADS, 0, cuda_stream>>>(a->j[0]);
    else join_parts_kernel<<<dim3((unsigned)((C + THREADS - 1) / THREADS), 1, (unsigned)n), THREADS, 0, cuda_stream>>>(*a);
    return CUDA_LAUNCHED("sums of columns, joined");
}

extern "C" size_t cuda_column_sum_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)out;
    return parts_bytes(in[0].d[1]);
}

extern "C" err cuda_column_sum(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst;
    struct column_jobs a = {};
    struct column_job *q = a.j;
    a.N = view_rows(&in[0]);
    q->dy = in[0].p, q->lddy = in[0].ld, q->C = (int)in[0].d[1], q->by = 1, q->to = view_f32(&out[0]), q->add = true;
    return a.N ? sum_all(&a, 1, in[0].dt, scratch) : OK;
}

extern "C" err cuda_scales(const struct inst *inst, const struct view *in, struct view *out, int n) {
    struct column_jobs a = {};
    a.N = view_rows(&in[0]);
    for (int k = 0; k < n; k++, in += MAX_IN, out += MAX_OUT) {
        struct column_job *q = &a.j[k];
        q->x = in[0].p, q->ldx = in[0].ld, q->C = (int)in[0].d[1], q->y = out[0].p, q->ldy = out[0].ld;
        q->l = view_f32(&in[1]), q->one = q->l && in[1].d[0] == 1, q->bias = view_f32(&in[2]), q->by = ops_scale_by(&inst[k]);
    }
    return scale_all(&a, n, in[-MAX_IN].dt);
}

extern "C" err cuda_scale(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return cuda_scales(inst, in, out, 1);
}

/* So many may run as one. */
extern "C" size_t cuda_scale_bwd_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)out;
    return in[0].dt == DT_NONE ? 0 : MAX_SCALES * parts_bytes(in[0].d[1]);
}

extern "C" err cuda_scales_bwd(const struct inst *inst, const struct view *in, struct view *out, int n, bool magnitudes, void *scratch) {
    struct column_jobs a = {};
    const dtype dt = in[2].dt;
    bool sums = false;
    a.N = view_rows(&in[2]);
    for (int k = 0; k < n; k++) {
        const struct view *i = in + k * MAX_IN, *o = out + k * MAX_OUT, *m = in + (n + k) * MAX_IN;
        struct column_job *q = &a.j[k];
        q->dy = i[2].p, q->lddy = i[2].ld, q->C = (int)i[2].d[1], q->y = o[0].p, q->ldy = o[0].ld, q->l = view_f32(&i[1]), q->one = q->l && i[1].d[0] == 1, q->by = ops_scale_by(&inst[k]);
        q->x = i[0].p, q->ldx = i[0].ld, q->multiplied = true, q->add = o[1].p != NULL, q->to = view_f32(&o[q->add ? 1 : 2]);
        if (magnitudes) q->inverse = view_f32(&m[1]), q->dm = view_f32(&out[(n + k) * MAX_OUT]);
        sums |= q->to || q->dm;
    }
    if (sums) return a.N || !a.j[0].add ? sum_all(&a, n, dt, scratch) : OK;
    for (int k = 0; k < n; k++) a.j[k].x = a.j[k].dy, a.j[k].ldx = a.j[k].lddy;
    return scale_all(&a, n, dt);
}

extern "C" err cuda_scale_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run;
    return cuda_scales_bwd(inst, in, out, 1, false, scratch);
}
