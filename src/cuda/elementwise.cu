/* Rows and elements on the card: embed, RMSNorm (other norms: norm.cu), rope, add, glu, gather, split, softcap and their backwards
 * (scale and sums over the rows: columns.cu).
 *
 * All are limited by memory: every operand is read once, 16 bytes a thread where pointers, strides and widths are multiples
 * of 16 bytes, element by element where not (W below: elements of a load; 1 is the plain path). norm keeps a row in
 * registers up to KEEP * 1024 loads and reads what is beyond a second time. Views may be column slices; where none of an
 * elementwise op is, it runs over one long row. An output may be the memory of an input where src/ops says so: a thread
 * reads all its elements before it writes them, and no pointer of these kernels is __restrict__.
 *
 * Numerics: f32 inside, rounded once at the store; exp, sin and cos are CUDA's accurate ones (no fast math). A sum has one
 * owner and one order that depends on shapes alone: norm_bwd sums dw over PARTS pieces of the rows into scratch, then over
 * the pieces. Non-finite values come through.
 *
 * Refused: compute types other than f32, bf16, f16; tables of a type that dtype.h cannot decode. Row numbers are not checked here (the
 * caller did), ids that are no row of the table give zeros; no launch for empty inputs. */
#include "cuda/blocks.cuh"
#include "cuda/delta.cuh"
#include "cuda/wide.cuh"

enum { KEEP = 2, PARTS = 64, TILE_X = 32, TILE_Y = 8, MAX_PARTS = 4 };

/* --- add, glu, glu_bwd ---------------------------------------------------------------------------------------- */
enum map_op { ADD, GLU, GLU_BWD };
struct operands {
    const void *in[3]; /* glu's second may be absent: 1 */
    void *out[2];      /* and then glu_bwd's second is */
    int64_t ld_in[3], ld_out[2], rows, cols;
    enum activation act;
};

/* act(g) and its derivative, as ops/glu.c defines them. */
__device__ __forceinline__ float activate(enum activation kind, float g, float *slope) {
    const float root = 0.797884560802865f, cubic = 0.044715f;
    float s, u, e;
    switch (kind) {
    case ACT_SILU:
        s = 1.0f / (1.0f + expf(-g));
        *slope = s * (1.0f + g * (1.0f - s));
        return g * s;
    case ACT_GELU_TANH:
        u = 2.0f * root * (g + cubic * g * g * g);
        e = expf(-fabsf(u)); /* s (1 - s) = e / (1 + e)^2: for s near 1 the difference would be all rounding, times g^3 */
        s = (u >= 0 ? 1.0f : e) / (1.0f + e);
        *slope = s + g * (e / ((1.0f + e) * (1.0f + e))) * 2.0f * root * (1.0f + 3.0f * cubic * g * g);
        return g * s;
    case ACT_GELU_ERF: /* erfc(x) = erfcx(x) exp(-x^2): far below 0 the rounding of x^2 would otherwise be the result's, times x^2 */
        u = g * g;
        u = expf(-0.5f * u) * (isinf(u) ? 1.0f : 1.0f - 0.5f * fmaf(g, g, -u));
        s = g >= 0 ? 0.5f * erfcf(-g * 0.707106781186548f) : 0.5f * erfcxf(-g * 0.707106781186548f) * u;
        *slope = s + g * u * root * 0.5f;
        return g * s;
    case ACT_TANH:
        e = expf(-2.0f * fabsf(g)); /* 1 - tanh^2 = 4 e / (1 + e)^2, with all its bits */
        *slope = 4.0f * e / ((1.0f + e) * (1.0f + e));
        return tanhf(g);
    default:
        *slope = g > 0 ? 1.0f : isnan(g) ? g : 0.0f;
        return g > 0 || isnan(g) ? g : 0.0f;
    }
}

template <int OP> __device__ __forceinline__ void apply(enum activation act, float a, float b, float d, float *y, float *z) {
    float slope, v;
    if constexpr (OP == ADD) *y = a + b;
    else {
        v = activate(act, a, &slope);
        if constexpr (OP == GLU) *y = v * b;
        else *y = d * b * slope, *z = d * v;
    }
}

template <typename T, int W, int OP> __global__ void map_kernel(struct operands o) {
    for (int64_t r = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; r < o.rows; r += (int64_t)gridDim.y * blockDim.y)
        for (int64_t c = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W; c < o.cols; c += (int64_t)gridDim.x * blockDim.x * W) {
            float a[W], b[W], d[W] = {}, y[W], z[W];
            load<T, W>((const T *)o.in[0] + r * o.ld_in[0] + c, a);
            if (o.in[1]) load<T, W>((const T *)o.in[1] + r * o.ld_in[1] + c, b);
            if constexpr (OP == GLU_BWD) load<T, W>((const T *)o.in[2] + r * o.ld_in[2] + c, d);
#pragma unroll
            for (int i = 0; i < W; i++) apply<OP>(o.act, a[i], o.in[1] ? b[i] : 1.0f, d[i], &y[i], &z[i]);
            store<T, W>((T *)o.out[0] + r * o.ld_out[0] + c, y);
            if (OP == GLU_BWD && o.out[1]) store<T, W>((T *)o.out[1] + r * o.ld_out[1] + c, z);
        }
}

template <int OP> static err map(enum activation act, const struct view *in, const struct view *out, const char *what) {
    const int n_in = OP == GLU_BWD ? 3 : 2, n_out = OP == GLU_BWD ? 2 : 1;
    const int w = in[0].dt == DT_F32 ? 4 : 8;
    struct operands o = {};
    o.act = act, o.rows = view_rows(&in[0]), o.cols = view_cols(&in[0]);
    if (!o.rows || !o.cols) return OK;
    bool fast = true, dense = true;
    for (int i = 0; i < n_in + n_out; i++) {
        const struct view *v = i < n_in ? &in[i] : &out[i - n_in];
        if (!v->p) continue;
        if (i < n_in) o.in[i] = v->p, o.ld_in[i] = v->ld;
        else o.out[i - n_in] = v->p, o.ld_out[i - n_in] = v->ld;
        fast = fast && rows_aligned(v, w);
        dense = dense && v->ld == o.cols;
    }
    if (dense) o.cols *= o.rows, o.rows = 1;
    fast = fast && o.cols % w == 0;
    struct shape s = shape_of(o.rows, fast ? o.cols / w : o.cols);
    if (fast) WITH_TYPE(in[0].dt, map_kernel<T, wide<T>::n, OP><<<s.grid, s.block, 0, cuda_stream>>>(o));
    else WITH_TYPE(in[0].dt, map_kernel<T, 1, OP><<<s.grid, s.block, 0, cuda_stream>>>(o));
    return CUDA_LAUNCHED(what);
}

extern "C" err cuda_add(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)scratch;
    return map<ADD>(ACT_SILU, in, out, "add");
}
extern "C" err cuda_glu(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return map<GLU>(inst->a.act, in, out, "glu");
}
extern "C" err cuda_glu_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return map<GLU_BWD>(inst->a.act, in, out, "glu_bwd");
}

/* A gated unit whose inputs lack their deltas: a thread W columns of ROWS rows. */
enum { ROWS = 4, NARROW = 128 };
struct glu {
    const void *gate, *up;
    void *y;
    struct cuda_delta d[2];
    int64_t N, ldg, ldu, ldy;
    int F;
    enum activation act;
};

template <typename T, int W, bool R16, bool SCALED, bool SILU> __global__ void __launch_bounds__(NARROW) glu_kernel(const __grid_constant__ struct glu a) {
    const int c = (int)(blockIdx.x * NARROW + threadIdx.x) * W;
    const bool real = c < a.F;
    struct delta16<T, W> low[2];
    __shared__ float places[R16 ? NARROW * W : 1];
    float *place = places + (R16 ? threadIdx.x / 32 * 32 * W : 0);
    if (R16)
        for (int i = 0; i < 2; i++) low[i].ask(a.d[i], c - (int)(threadIdx.x % 32) * W, a.F);
    let_next_start();
    wait_for_earlier();
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int64_t n = (int64_t)blockIdx.y * ROWS + i;
        if (n >= a.N) break;
        float g[W] = {}, u[W] = {}, y[W];
        if (real) load<T, W>((const T *)a.gate + n * a.ldg + c, g), load<T, W>((const T *)a.up + n * a.ldu + c, u);
        if (R16) {
            const uint4 tg = low[0].row(a.d[0], n), tu = low[1].row(a.d[1], n);
            low[0].add(a.d[0], tg, g, place), low[1].add(a.d[1], tu, u, place);
        }
        if (!real) continue;
#pragma unroll
        for (int j = 0; j < W; j++) {
            if (!R16 && a.d[0].rank) g[j] += delta_at<T>(a.d[0], n, c + j);
            if (!R16 && a.d[1].rank) u[j] += delta_at<T>(a.d[1], n, c + j);
            if (SCALED) g[j] = scaled(a.d[0], c + j, g[j]), u[j] = scaled(a.d[1], c + j, u[j]);
            apply<GLU>(SILU ? ACT_SILU : a.act, g[j], u[j], 0, &y[j], NULL);
        }
        store<T, W>((T *)a.y + n * a.ldy + c, y);
    }
}

extern "C" err cuda_glu_delta(enum activation act, const struct view *in, struct view *out, const struct cuda_delta d[2]) {
    struct glu a = {in[0].p, in[1].p, out[0].p, {d[0], d[1]}, view_rows(&in[0]), in[0].ld, in[1].ld, out[0].ld, (int)in[0].d[1], act};
    if (!a.N || !a.F) return OK;
    const bool pairs = a.F % 2 == 0 && rows_aligned(&in[0], 2) && rows_aligned(&in[1], 2) && rows_aligned(&out[0], 2);
    const bool r16 = pairs && in[0].dt != DT_F32 && d[0].rank == 16 && d[1].rank == 16 && d[0].wide && d[1].wide;
    const dim3 grid((unsigned)blocks_for(a.F, NARROW * (pairs ? 2 : 1)), (unsigned)blocks_for(a.N, ROWS));
    const void *kernel = NULL;
    WITH_TYPE(in[0].dt, {
        if (r16 && d->l) kernel = act == ACT_SILU ? (const void *)glu_kernel<T, 2, true, true, true> : (const void *)glu_kernel<T, 2, true, true, false>;
        else if (r16) kernel = act == ACT_SILU ? (const void *)glu_kernel<T, 2, true, false, true> : (const void *)glu_kernel<T, 2, true, false, false>;
        else kernel = pairs ? (const void *)glu_kernel<T, 2, false, true, false> : (const void *)glu_kernel<T, 1, false, true, false>;
    });
    return cuda_launch(kernel, grid, NARROW, 0, &a, "glu");
}

/* --- embed and gather ----------------------------------------------------------------------------------------- */
/* One plain element: rows whose width is no multiple of 4, and tables that lie at odd places. */
template <int DT> __device__ __forceinline__ float plain(const uint8_t *table, int64_t e) {
    if constexpr (DT == DT_F32) return ((const float *)table)[e];
    else if constexpr (DT == DT_F16) return to_f32(((const f16 *)table)[e]);
    else return to_f32(((const bf16 *)table)[e]);
}

/* W: 1 (plain tables only) or a multiple of 4, which C is a multiple of. Rows follow each other without gaps. */
template <typename T, int W, int DT>
__global__ void embed_kernel(const int32_t *ids, const uint8_t *table, T *x, int64_t N, int64_t V, int64_t C, int64_t ld, float scale) {
    for (int64_t r = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; r < N; r += (int64_t)gridDim.y * blockDim.y)
        for (int64_t c = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W; c < C; c += (int64_t)gridDim.x * blockDim.x * W) {
            float w[W] = {};
            const int32_t id = ids[r];
            const bool there = id >= 0 && id < V;
            int64_t e = (int64_t)id * C + c;
            if constexpr (W == 1) w[0] = there ? plain<DT>(table, e) : 0.0f;
            else if (there) {
#pragma unroll
                for (int i = 0; i < W; i += 4) block4<DT>(table, e + i, w + i);
            }
#pragma unroll
            for (int i = 0; i < W; i++) w[i] *= scale;
            store<T, W>(x + r * ld + c, w);
        }
}

template <typename T, int DT> static err embed(float scale, const struct view *in, const struct view *out) {
    const int64_t N = view_rows(&in[0]), V = in[1].d[0], C = in[1].d[1], w = wide<T>::n;
    const bool fast = aligned(in[1].p) && rows_aligned(&out[0], (int)w) && C % w == 0;
    const int32_t *ids = view_i32(&in[0]);
    const uint8_t *table = (const uint8_t *)in[1].p;
    struct shape s = shape_of(N, fast ? C / w : C);
    if (fast) embed_kernel<T, wide<T>::n, DT><<<s.grid, s.block, 0, cuda_stream>>>(ids, table, (T *)out[0].p, N, V, C, out[0].ld, scale);
    else if constexpr (block_of<DT>::weights == 1)
        embed_kernel<T, 1, DT><<<s.grid, s.block, 0, cuda_stream>>>(ids, table, (T *)out[0].p, N, V, C, out[0].ld, scale);
    else return fail(E_INTERNAL, "embed: a quantised table and its output must start at a multiple of 16 bytes");
    return CUDA_LAUNCHED("embed");
}

#define EMBED(stored) case stored: return embed<T, stored>(scale, in, out);
extern "C" err cuda_embed(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    if (!view_rows(&in[0])) return OK;
    const float scale = inst->a.scale;
    WITH_TYPE(out[0].dt, switch (in[1].dt) {
        EACH_STORED(EMBED)
        default: return fail(E_INTERNAL, "embed: no CUDA kernel for a table of this type");
    });
    return OK;
}

/* Copies bits: U is a piece of a row, lengths and strides count pieces. */
template <typename U> __global__ void gather_kernel(const U *x, const int32_t *rows, U *y, int64_t S, int64_t C, int64_t ldx, int64_t ldy) {
    for (int64_t s = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; s < S; s += (int64_t)gridDim.y * blockDim.y)
        for (int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; c < C; c += (int64_t)gridDim.x * blockDim.x)
            y[s * ldy + c] = x[rows[s] * ldx + c];
}

template <typename U> static err gather(const struct view *in, const struct view *out, int64_t per) {
    const int64_t S = view_rows(&in[1]), C = in[0].d[1] / per, ldx = in[0].ld / per, ldy = out[0].ld / per;
    struct shape s = shape_of(S, C);
    gather_kernel<U><<<s.grid, s.block, 0, cuda_stream>>>((const U *)in[0].p, view_i32(&in[1]), (U *)out[0].p, S, C, ldx, ldy);
    return CUDA_LAUNCHED("gather");
}

extern "C" err cuda_gather(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)scratch;
    const int w = in[0].dt == DT_F32 ? 4 : 8;
    if (!view_rows(&in[1]) || !in[0].d[1]) return OK;
    if (rows_aligned(&in[0], w) && rows_aligned(&out[0], w) && in[0].d[1] % w == 0) return gather<uint4>(in, out, w);
    WITH_TYPE(in[0].dt, return gather<T>(in, out, 1));
    return OK;
}

/* --- norm ----------------------------------------------------------------------------------------------------- */
/* Over all threads of a block (whole warps); everyone gets it. */
__device__ static float block_sum(float x) {
    __shared__ float part[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_sum(x);
    __syncthreads(); /* the row before has been read */
    if (lane == 0) part[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? part[lane] : 0.0f);
}

/* Over the blocks of a cluster, in their order: each tells all others, once all have started (cluster_arrive() at the beginning).
 * turn: two places, so that one row's numbers are still there while the next one's come. */
__device__ static void cluster_arrive(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ static float cluster_sum(float x, int parts, int turn) {
#if __CUDA_ARCH__ >= 900
    __shared__ float told[2][MAX_PARTS];
    uint32_t mine = (uint32_t)__cvta_generic_to_shared(&told[turn & 1][blockIdx.x % parts]), at;
    if (turn == 0) asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
    if ((int)threadIdx.x < parts) {
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(mine), "r"(threadIdx.x));
        asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(x) : "memory");
    }
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    x = 0;
    for (int i = 0; i < parts; i++) x += told[turn & 1][i];
#else
    (void)parts, (void)turn;
#endif
    return x;
}

struct norm {
    const void *x, *o; /* o: added to x first, NULL where there is nothing to add */
    void *sum, *y;     /* x + o, rounded as the backward will read it; what is normed */
    const float *w;
    float *rstd;
    struct cuda_delta d; /* what o lacks */
    int64_t N, ldx, ldo, lds, ldy;
    int C;
    float eps;
    int parts; /* blocks of a row (LACKS16), a cluster: one multiprocessor alone is slow to read all of B */
};

enum low { COMPLETE, LACKS, LACKS16, LACKS16_SCALED }; /* o: all there; without its delta (and scale); without one of rank 16, and W columns a thread at most; the same with a scale */

/* A block (or a.parts of them) per row. Columns of a thread: threadIdx.x * W, then every blockDim.x * W; the first KEEP of them stay in v. */
template <typename T, int W, int LOW> __global__ void __launch_bounds__(1024) norm_kernel(const __grid_constant__ struct norm a) {
    constexpr bool R16 = LOW >= LACKS16;
    const int parts = R16 ? a.parts : 1, step = blockDim.x * W, first = (blockIdx.x % parts * blockDim.x + threadIdx.x) * W;
    int turn = 0;
    if (parts > 1) cluster_arrive();
    struct delta16<T, W> low;
    __shared__ float places[R16 ? 1024 * W : 1]; /* of the block's own columns */
    float *place = places + (R16 ? threadIdx.x / 32 * 32 * W : 0);
    if (R16) low.ask(a.d, first - (int)(threadIdx.x % 32) * W, a.C);
    let_next_start();
    wait_for_earlier();
    auto value = [&](int64_t n, int c, float v[W]) {
        const bool real = !R16 || c < a.C; /* the delta is the whole warp's work */
        float u[W] = {};
        if (real) load<T, W>((const T *)a.x + n * a.ldx + c, v);
        if (!a.o) return;
        if (real) load<T, W>((const T *)a.o + n * a.ldo + c, u);
        if (R16) low.add(a.d, low.row(a.d, n), u, place);
        if (!real) return;
#pragma unroll
        for (int i = 0; i < W; i++) {
            if (LOW == LACKS) u[i] += delta_at<T>(a.d, n, c + i);
            v[i] = to_f32(from_f32<T>(v[i] + (LOW == LACKS || LOW == LACKS16_SCALED ? scaled(a.d, c + i, u[i]) : u[i])));
        }
        store<T, W>((T *)a.sum + n * a.lds + c, v);
    };
    for (int64_t n = blockIdx.x / parts; n < a.N; n += gridDim.x / parts) {
        float v[KEEP][W], u[W], g[W], sum = 0;
#pragma unroll
        for (int k = 0; k < (R16 ? 1 : KEEP); k++) {
            int c = first + k * step;
            if (!R16 && c >= a.C) continue;
            value(n, c, v[k]);
            if (c >= a.C) continue;
#pragma unroll
            for (int i = 0; i < W; i++) sum += v[k][i] * v[k][i];
        }
        for (int c = first + KEEP * step; !R16 && c < a.C; c += step) {
            value(n, c, u);
#pragma unroll
            for (int i = 0; i < W; i++) sum += u[i] * u[i];
        }
        sum = block_sum(sum);
        if (parts > 1) sum = cluster_sum(sum, parts, turn++);
        const float r = 1.0f / sqrtf(sum / (float)a.C + a.eps);
        T *y = (T *)a.y + n * a.ldy;
#pragma unroll
        for (int k = 0; k < (R16 ? 1 : KEEP); k++) {
            int c = first + k * step;
            if (c >= a.C) continue;
            load<float, W>(a.w + c, g);
#pragma unroll
            for (int i = 0; i < W; i++) u[i] = v[k][i] * r * g[i];
            store<T, W>(y + c, u);
        }
        for (int c = first + KEEP * step; !R16 && c < a.C; c += step) { /* the thread's own, a second time */
            load<T, W>(a.o ? (const T *)a.sum + n * a.lds + c : (const T *)a.x + n * a.ldx + c, u);
            load<float, W>(a.w + c, g);
#pragma unroll
            for (int i = 0; i < W; i++) u[i] = u[i] * r * g[i];
            store<T, W>(y + c, u);
        }
        if (a.rstd && threadIdx.x == 0 && blockIdx.x % parts == 0) a.rstd[n] = r;
    }
}

/* Threads of a row: as few as keep it in registers. */
static int norm_threads(int64_t loads) { return (int)least(whole_warps(blocks_for(loads, KEEP)), 1024); }

static err norm(struct norm *a, dtype dt, bool fast) {
    enum { NEAR = 4 }; /* columns of a thread where a delta makes each of them long */
    const int grid = (int)least(a->N, (int64_t)cuda_sms * 32), w = dt == DT_F32 ? 4 : 8;
    const int low = !a->d.rank && !a->d.l ? COMPLETE : fast && a->d.rank == 16 && a->d.wide && dt != DT_F32 && a->C <= NEAR * 1024 ? a->d.l ? LACKS16_SCALED : LACKS16 : LACKS;
    const int each = low >= LACKS16 ? NEAR : low == LACKS || !fast ? 1 : w;
    a->parts = low >= LACKS16 && cuda_is_hopper() && a->C >= 2048 && a->N * MAX_PARTS <= cuda_sms ? MAX_PARTS : 1;
    const int block = low >= LACKS16 ? whole_warps(blocks_for(a->C, NEAR * a->parts)) : norm_threads(blocks_for(a->C, each));
    const void *kernel = NULL;
    WITH_TYPE(dt, {
        if (low == LACKS16) kernel = (const void *)norm_kernel<T, NEAR, LACKS16>;
        else if (low == LACKS16_SCALED) kernel = (const void *)norm_kernel<T, NEAR, LACKS16_SCALED>;
        else if (low == LACKS) kernel = (const void *)norm_kernel<T, 1, LACKS>;
        else kernel = fast ? (const void *)norm_kernel<T, wide<T>::n, COMPLETE> : (const void *)norm_kernel<T, 1, COMPLETE>;
    });
    return a->parts > 1 ? cuda_launch_clusters(kernel, grid * a->parts, a->parts, block, a, "norm") : cuda_launch(kernel, dim3((unsigned)grid), block, 0, a, "norm");
}

extern "C" err cuda_norm(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    if (!cuda_plain_norm(inst)) return cuda_vector_norm(inst, in, out);
    const int w = in[0].dt == DT_F32 ? 4 : 8;
    struct norm a = {in[0].p, NULL, NULL, out[0].p, view_f32(&in[1]), view_f32(&out[1]), {}, view_rows(&in[0]), in[0].ld, 0, 0, out[0].ld, (int)in[0].d[1], inst->a.eps};
    if (!a.N || !a.C) return OK;
    return norm(&a, in[0].dt, a.C % w == 0 && aligned(in[1].p) && rows_aligned(&in[0], w) && rows_aligned(&out[0], w));
}

extern "C" err cuda_add_norm(const struct inst *add, const struct view *in, struct view *out, int which, const struct cuda_delta *d) {
    const struct view *x = &in[!which], *o = &in[which], *sum = &out[0], *w = &in[MAX_IN + 1], *y = &out[MAX_OUT], *rstd = &out[MAX_OUT + 1];
    const int wide = x->dt == DT_F32 ? 4 : 8;
    struct norm a = {x->p, o->p, sum->p, y->p, view_f32(w), view_f32(rstd), *d, view_rows(x), x->ld, o->ld, sum->ld, y->ld, (int)x->d[1], add[1].a.eps};
    if (!a.N || !a.C) return OK;
    return norm(&a, x->dt, a.C % wide == 0 && aligned(w->p) && rows_aligned(x, wide) && rows_aligned(o, wide) && rows_aligned(sum, wide) && rows_aligned(y, wide));
}

/* --- norm_bwd ------------------------------------------------------------------------------------------------- */
struct norm_bwd {
    const void *x, *dy;
    void *dx;
    const float *w, *r;
    float *part; /* [PARTS, C] */
    int64_t N, ldx, lddy, lddx, each; /* each: rows of a part */
    int C;
};

/* dx = r (g - x (r^2 sum(g x) / C)), g = dy w: columns of a thread as in norm_kernel, x and g of the first KEEP kept. */
template <typename T, int W> __global__ void __launch_bounds__(1024) norm_bwd_kernel(struct norm_bwd a) {
    const int step = blockDim.x * W, first = threadIdx.x * W;
    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x) {
        const T *x = (const T *)a.x + n * a.ldx, *dy = (const T *)a.dy + n * a.lddy;
        T *dx = (T *)a.dx + n * a.lddx;
        float v[KEEP][W], g[KEEP][W], u[W], h[W], w[W], sum = 0;
        const float r = a.r[n];
#pragma unroll
        for (int k = 0; k < KEEP; k++) {
            int c = first + k * step;
            if (c >= a.C) continue;
            load<T, W>(x + c, v[k]);
            load<T, W>(dy + c, g[k]);
            load<float, W>(a.w + c, w);
#pragma unroll
            for (int i = 0; i < W; i++) g[k][i] *= w[i], sum += g[k][i] * v[k][i];
        }
        for (int c = first + KEEP * step; c < a.C; c += step) {
            load<T, W>(x + c, u);
            load<T, W>(dy + c, h);
            load<float, W>(a.w + c, w);
#pragma unroll
            for (int i = 0; i < W; i++) sum += h[i] * w[i] * u[i];
        }
        const float m = block_sum(sum) * r * r / (float)a.C;
#pragma unroll
        for (int k = 0; k < KEEP; k++) {
            int c = first + k * step;
            if (c >= a.C) continue;
#pragma unroll
            for (int i = 0; i < W; i++) u[i] = r * (g[k][i] - v[k][i] * m);
            store<T, W>(dx + c, u);
        }
        for (int c = first + KEEP * step; c < a.C; c += step) {
            load<T, W>(x + c, u);
            load<T, W>(dy + c, h);
            load<float, W>(a.w + c, w);
#pragma unroll
            for (int i = 0; i < W; i++) u[i] = r * (h[i] * w[i] - u[i] * m);
            store<T, W>(dx + c, u);
        }
    }
}

/* part[p, c] = sum over the part's rows of dy x r. Block: TILE_X columns, TILE_Y rows at a time. */
template <typename T> __global__ void norm_dw_kernel(struct norm_bwd a) {
    __shared__ float rows[TILE_Y][TILE_X];
    const int c = blockIdx.x * TILE_X + threadIdx.x;
    const int64_t begin = blockIdx.y * a.each, end = begin + a.each < a.N ? begin + a.each : a.N;
    float sum = 0;
    for (int64_t n = begin + threadIdx.y; c < a.C && n < end; n += TILE_Y)
        sum += to_f32(((const T *)a.dy)[n * a.lddy + c]) * (to_f32(((const T *)a.x)[n * a.ldx + c]) * a.r[n]);
    rows[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || c >= a.C) return;
    for (int i = 1; i < TILE_Y; i++) sum += rows[i][threadIdx.x];
    a.part[(int64_t)blockIdx.y * a.C + c] = sum;
}

__global__ void norm_dw_join_kernel(const float *part, float *dw, int C) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float sum = 0;
#pragma unroll 8
    for (int p = 0; p < PARTS; p++) sum += part[(int64_t)p * C + c];
    dw[c] += sum;
}

extern "C" size_t cuda_norm_bwd_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    return !cuda_plain_norm(inst) ? cuda_vector_norm_bwd_scratch(in, out) : out[1].dt == DT_NONE ? 0 : (size_t)PARTS * (size_t)in[0].d[1] * sizeof(float);
}

extern "C" err cuda_norm_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run;
    if (!cuda_plain_norm(inst)) return cuda_vector_norm_bwd(inst, in, out, scratch);
    const int64_t N = view_rows(&in[0]), C = in[0].d[1];
    const int w = in[0].dt == DT_F32 ? 4 : 8;
    if (!N || !C) return OK;
    struct norm_bwd a = {in[0].p, in[3].p, out[0].p, view_f32(&in[1]), view_f32(&in[2]), (float *)scratch,
                         N, in[0].ld, in[3].ld, out[0].ld, blocks_for(N, PARTS), (int)C};
    const bool fast = C % w == 0 && aligned(in[1].p) && rows_aligned(&in[0], w) && rows_aligned(&in[3], w) && rows_aligned(&out[0], w);
    const int grid = (int)least(N, (int64_t)cuda_sms * 32), block = norm_threads(fast ? C / w : C);
    if (fast) WITH_TYPE(in[0].dt, norm_bwd_kernel<T, wide<T>::n><<<grid, block, 0, cuda_stream>>>(a));
    else WITH_TYPE(in[0].dt, norm_bwd_kernel<T, 1><<<grid, block, 0, cuda_stream>>>(a));
    TRY(CUDA_LAUNCHED("norm_bwd"));
    if (!out[1].p) return OK;
    dim3 tiles((unsigned)blocks_for(C, TILE_X), PARTS), tile(TILE_X, TILE_Y);
    WITH_TYPE(in[0].dt, norm_dw_kernel<T><<<tiles, tile, 0, cuda_stream>>>(a));
    TRY(CUDA_LAUNCHED("norm_bwd, dw"));
    const int blocks = (int)blocks_for(C, THREADS);
    norm_dw_join_kernel<<<blocks, THREADS, 0, cuda_stream>>>(a.part, view_f32(&out[1]), (int)C);
    return CUDA_LAUNCHED("norm_bwd, sum of dw");
}

/* --- rope ----------------------------------------------------------------------------------------------------- */
struct rope {
    const void *x;
    void *y;
    const int32_t *pos;
    const float *freq;
    int64_t N, ldx, ldy;
    int heads, D, R; /* R: a head's columns that are rotated, the first ones */
    float sign, scale;
};
struct ropes { struct rope r[2]; }; /* one or both rotations of a layer: blockIdx.y */

/* A block per row: the row's sines and cosines once into shared memory, then all its pairs. A unit is W elements of the
 * first half of a head and the W beside them in the second, or W elements that are W / 2 interleaved pairs. */
template <typename T, int W, bool INTERLEAVED> __global__ void rope_kernel(const __grid_constant__ struct ropes both) {
    const struct rope a = both.r[blockIdx.y];
    extern __shared__ float trig[]; /* cos[half], sin[half] */
    const int half = a.R / 2, per_head = INTERLEAVED ? a.R / W : half / W, units = a.heads * per_head, rest = a.D - a.R;
    float *cosine = trig, *sine = trig + half;
    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x) {
        const T *x = (const T *)a.x + n * a.ldx;
        T *y = (T *)a.y + n * a.ldy;
        __syncthreads(); /* the row before has been rotated */
        for (int j = threadIdx.x; j < half; j += blockDim.x) {
            float s, c;
            sincosf(mul_rn((float)a.pos[n], a.freq[j]), &s, &c); /* the angle is rounded to f32, as everywhere */
            cosine[j] = a.scale * c, sine[j] = a.scale * a.sign * s;
        }
        for (int i = threadIdx.x; a.x != a.y && i < a.heads * rest; i += blockDim.x) {
            const int64_t at = (int64_t)(i / rest) * a.D + a.R + i % rest;
            y[at] = x[at];
        }
        __syncthreads();
        for (int u = threadIdx.x; u < units; u += blockDim.x) {
            const int h = u / per_head, e = (u - h * per_head) * W;
            const int64_t at = (int64_t)h * a.D + e;
            float p[W], q[W];
            load<T, W>(x + at, p);
            if constexpr (INTERLEAVED) {
#pragma unroll
                for (int i = 0; i < W; i += 2) {
                    float c = cosine[(e + i) / 2], s = sine[(e + i) / 2];
                    q[i] = p[i] * c - p[i + 1] * s, q[i + 1] = p[i] * s + p[i + 1] * c;
                }
                store<T, W>(y + at, q);
            } else {
                load<T, W>(x + at + half, q);
#pragma unroll
                for (int i = 0; i < W; i++) {
                    float c = cosine[e + i], s = sine[e + i], x0 = p[i], x1 = q[i];
                    p[i] = x0 * c - x1 * s, q[i] = x0 * s + x1 * c;
                }
                store<T, W>(y + at, p);
                store<T, W>(y + at + half, q);
            }
        }
    }
}

static bool rope_of(const struct inst *inst, const struct view *in, const struct view *out, struct rope *a) {
    const struct op_attr *at = &inst->a;
    const int w = in[0].dt == DT_F32 ? 4 : 8;
    *a = {in[0].p, out[0].p, view_i32(&in[1]), view_f32(&in[2]), view_rows(&in[0]), in[0].ld, out[0].ld, at->heads, at->head_dim, at->rope_dims ? at->rope_dims : at->head_dim, at->inverse ? -1.0f : 1.0f, at->scale != 0 ? at->scale : 1.0f};
    return rows_aligned(&in[0], w) && rows_aligned(&out[0], w) && (at->interleaved ? a->R : a->R / 2) % w == 0 && a->D % w == 0;
}

static err rotate(const struct ropes &both, int n, dtype dt, bool interleaved, bool fast) {
    const struct rope &a = both.r[0]; /* the one with more heads */
    const int half = a.R / 2, w = dt == DT_F32 ? 4 : 8;
    if (!a.N || !half || !a.heads) return OK;
    const int64_t units = (int64_t)a.heads * half / (!fast ? 1 : interleaved ? w / 2 : w);
    const dim3 grid((unsigned)least(a.N, (int64_t)cuda_sms * 32), (unsigned)n);
    const int block = (int)least(whole_warps(units > half ? units : half), THREADS);
    const size_t shared = (size_t)half * 2 * sizeof(float);
    if (interleaved && fast) WITH_TYPE(dt, rope_kernel<T, wide<T>::n, true><<<grid, block, shared, cuda_stream>>>(both));
    else if (interleaved) WITH_TYPE(dt, rope_kernel<T, 2, true><<<grid, block, shared, cuda_stream>>>(both));
    else if (fast) WITH_TYPE(dt, rope_kernel<T, wide<T>::n, false><<<grid, block, shared, cuda_stream>>>(both));
    else WITH_TYPE(dt, rope_kernel<T, 1, false><<<grid, block, shared, cuda_stream>>>(both));
    return CUDA_LAUNCHED("rope");
}

extern "C" err cuda_rope(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    struct ropes one = {};
    const bool fast = rope_of(inst, in, out, &one.r[0]);
    return rotate(one, 1, in[0].dt, inst->a.interleaved, fast);
}

extern "C" err cuda_rope_pair(const struct inst *inst, const struct view *in, struct view *out) {
    struct ropes both = {};
    const int first = inst[0].a.heads < inst[1].a.heads;
    bool fast = true;
    for (int i = 0; i < 2; i++) {
        const int j = i ? !first : first;
        fast &= rope_of(&inst[j], in + j * MAX_IN, out + j * MAX_OUT, &both.r[i]);
    }
    return rotate(both, 2, in[0].dt, inst->a.interleaved, fast);
}

/* --- split and softcap ---------------------------------------------------------------------------------------- */
static err columns(const struct view *to, int64_t to_col, const struct view *from, int64_t from_col, int64_t width) {
    const size_t size = dtype_row_bytes(from->dt, 1);
    char *a = (char *)to->p + to_col * size;
    const char *b = (const char *)from->p + from_col * size;
    if (!view_rows(from) || !width) return OK;
    return cuda_check(cudaMemcpy2DAsync(a, to->ld * size, b, from->ld * size, width * size, (size_t)view_rows(from), cudaMemcpyDeviceToDevice, cuda_stream), "split");
}

extern "C" err cuda_split(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int64_t at = 0;
    for (int k = 0; k < inst->a.n; at += inst->a.width[k++]) TRY(columns(&out[k], 0, &in[0], at, inst->a.width[k]));
    return OK;
}

extern "C" err cuda_split_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    int64_t at = 0;
    for (int k = 0; k < inst->a.n; at += inst->a.width[k++]) {
        const size_t size = dtype_row_bytes(out[0].dt, 1);
        if (in[k].p) TRY(columns(&out[0], at, &in[k], 0, inst->a.width[k]));
        else TRY(cuda_check(cudaMemset2DAsync((char *)out[0].p + at * size, out[0].ld * size, 0, inst->a.width[k] * size, (size_t)view_rows(&out[0]), cuda_stream), "split"));
    }
    return OK;
}

__global__ void softcap_kernel(const float *x, float *y, int64_t rows, int64_t cols, int64_t ldx, int64_t ldy, float cap) {
    for (int64_t r = blockIdx.y; r < rows; r += gridDim.y)
        for (int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; c < cols; c += (int64_t)gridDim.x * blockDim.x) y[r * ldy + c] = cap * tanhf(x[r * ldx + c] / cap);
}

extern "C" err cuda_softcap(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    const int64_t rows = view_rows(&in[0]), cols = view_cols(&in[0]);
    if (!rows || !cols) return OK;
    const dim3 grid((unsigned)least(blocks_for(cols, THREADS), (int64_t)cuda_sms * 8), (unsigned)least(rows, MAX_Y));
    softcap_kernel<<<grid, THREADS, 0, cuda_stream>>>((const float *)in[0].p, (float *)out[0].p, rows, cols, in[0].ld, out[0].ld, inst->a.softcap);
    return CUDA_LAUNCHED("softcap");
}
