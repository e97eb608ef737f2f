/* Attention on the card, the form that takes everything: any head size up to 256, any of the three compute types, causal
 * or not, window, softcap, grouped heads, packed sequences. The common shapes (16-bit types, head sizes 64 and 128) go first
 * to cuDNN where it is installed and pays (cudnn.h), then to flash.cu; what both refuse comes here, and here is also what
 * decoding needs: kv_append and attention_cached.
 *
 * Packed sequences. The bounds cu[] live on the device, so the grid only knows N: a block takes TILE packed rows,
 * whatever sequences they fall into, and each row finds its own range of the other side by bisection in cu (span_of). The
 * ends of these ranges grow with the row, so the union over a tile is [begin of the first row, end of the last); rows
 * mask what is not theirs. One loop therefore serves queries looking at keys (forward, dq) and keys looking at queries
 * (dk, dv): rows of a tile in one warp each ROWS, the other side in shared memory LANES at a time, a lane per entry for
 * the dot products and a lane per column for the sums.
 *
 * Backward (Dao et al. 2022): delta = rowsum(do o), p = exp(s - lse), ds = p (dp - delta). dq over query tiles, dk and dv
 * over key tiles with the loop over the group's query heads inside: every sum has one owner and one order, no atomics.
 *
 * Numerics: everything in f32, results rounded once. A row whose scores are all -inf comes out NaN, as in the reference.
 *
 * Cached (flash-decoding, Dao et al. 2023): a block has one row, one kv head and up to 8 of its query heads, so that a
 * cached key or value is read once, 16 bytes a lane. With few rows the keys are split over blocks; partial (m, l, o) go
 * to scratch, and the last block to arrive joins them. The length is on the device: splits may have nothing to do. */
#include "cuda/cudnn.h"
#include "cuda/delta.cuh"
#include "cuda/flash.cuh"

enum { WARPS = 4, ROWS = 4, TILE = WARPS * ROWS, LANES = 32, THREADS = WARPS * 32, MAX_SPLIT = 16, MIN_KEYS = 192, MAX_HEADS = 8 };
enum { Q, K, V, CU, O, LSE, DO }; /* operands of attention and attention_bwd */

struct packed {
    const void *q, *k, *v, *o, *go; /* [N, H*D] or [N, K*D] */
    int64_t ldq, ldk, ldv, ldo, ldgo, ldlse;
    const float *lse, *delta; /* backward: [N, H] with ldlse; [N, H] dense */
    const int32_t *cu;
    int S, N, H, K, D, stride, window; /* stride: floats from row to row in shared memory */
    float scale, softcap;
    bool causal;
};

/* What row i may look at: the keys of query i, or (of_key) the queries that see key i. */
__device__ int2 span_of(const struct packed &a, int i, bool of_key) {
    int lo = 0, hi = a.S; /* the last s with cu[s] <= i: empty sequences before it fall out */
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (a.cu[mid] <= i) lo = mid;
        else hi = mid;
    }
    int from = a.cu[lo], to = a.cu[lo + 1];
    if (of_key) {
        if (a.causal) from = i;
        if (a.window > 0 && a.window < to - i) to = i + a.window;
    } else {
        if (a.causal) to = i + 1;
        if (a.window > 0 && i - from >= a.window) from = i - a.window + 1;
    }
    return make_int2(from, to);
}

/* Rows [first, first + n) of x as f32 in shared memory; rows from `end` on and columns from D on become 0. */
template <typename T> __device__ void stage(const struct packed &a, float *dst, const void *x, int64_t ld, int head, int first, int n, int end) {
    const T *src = (const T *)x + (int64_t)head * a.D;
    for (int r = threadIdx.x / 32; r < n; r += WARPS)
        for (int d = threadIdx.x % 32; d < a.stride; d += 32)
            dst[r * a.stride + d] = first + r < end && d < a.D ? to_f32(src[(first + r) * ld + d]) : 0;
}

/* s[r] = rows[r] . mine. The stride is an odd number of float4: 8 lanes reading 8 rows hit all banks once. */
__device__ __forceinline__ void dots(const struct packed &a, const float *rows, const float *mine, float s[ROWS]) {
    for (int r = 0; r < ROWS; r++) s[r] = 0;
    for (int d = 0; d < a.D; d += 4) {
        float4 y = *(const float4 *)(mine + d);
        for (int r = 0; r < ROWS; r++) {
            float4 x = *(const float4 *)(rows + r * a.stride + d);
            s[r] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, s[r]))));
        }
    }
}

/* The dot product becomes the score; returns d score / d dot. */
__device__ __forceinline__ float scored(float scale, float softcap, float *s) {
    *s *= scale;
    if (!(softcap > 0)) return scale;
    float t = tanhf(*s / softcap);
    *s = softcap * t;
    return scale * (1 - t * t);
}

/* acc[r][c] += sum over lanes j of w[r] of lane j times tile[j][lane + 32 c]. Columns past D read the zeros or the next
 * row and are dropped when stored; past the tile's own floats nothing may be read, hence the test. */
template <int NC> __device__ __forceinline__ void gather_rows(const struct packed &a, const float *tile, const float w[ROWS], float acc[ROWS][NC]) {
    int lane = threadIdx.x % 32;
    for (int j = 0; j < LANES; j++) {
        float x[NC];
#pragma unroll
        for (int c = 0; c < NC; c++) x[c] = lane + 32 * c < a.D ? tile[j * a.stride + lane + 32 * c] : 0;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float p = __shfl_sync(0xFFFFFFFFu, w[r], j);
#pragma unroll
            for (int c = 0; c < NC; c++) acc[r][c] = fmaf(p, x[c], acc[r][c]);
        }
    }
}

template <typename T, int NC> __device__ void put_row(const struct packed &a, void *out, int64_t ld, int head, int row, const float acc[NC], float factor) {
    T *dst = (T *)out + row * ld + (int64_t)head * a.D;
#pragma unroll
    for (int c = 0; c < NC; c++) {
        int d = threadIdx.x % 32 + 32 * c;
        if (d < a.D) dst[d] = from_f32<T>(acc[c] * factor);
    }
}

template <typename T, int NC> __global__ void __launch_bounds__(THREADS) attend(struct packed a, void *out, int64_t ldout, float *lse) {
    extern __shared__ float4 shared[];
    float *qs = (float *)shared, *ks = qs + TILE * a.stride, *vs = ks + LANES * a.stride;
    int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * ROWS, h = blockIdx.y, kh = h / (a.H / a.K), i0 = blockIdx.x * TILE;
    int2 span[ROWS];
    float m[ROWS], l[ROWS], acc[ROWS][NC];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        span[r] = i0 + mine + r < a.N ? span_of(a, i0 + mine + r, false) : make_int2(0, 0);
        m[r] = -INFINITY, l[r] = 0;
        for (int c = 0; c < NC; c++) acc[r][c] = 0;
    }
    int begin = span_of(a, i0, false).x, end = span_of(a, min(i0 + TILE, a.N) - 1, false).y;
    stage<T>(a, qs, a.q, a.ldq, h, i0, TILE, a.N);
    for (int j0 = begin; j0 < end; j0 += LANES) {
        __syncthreads();
        stage<T>(a, ks, a.k, a.ldk, kh, j0, LANES, end);
        stage<T>(a, vs, a.v, a.ldv, kh, j0, LANES, end);
        __syncthreads();
        float s[ROWS];
        dots(a, qs + mine * a.stride, ks + lane * a.stride, s);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            scored(a.scale, a.softcap, &s[r]);
            bool seen = j0 + lane >= span[r].x && j0 + lane < span[r].y;
            float top = fmaxf(m[r], warp_max(seen ? s[r] : -INFINITY)), base = top == -INFINITY ? 0 : top, shrink = expf(m[r] - base);
            s[r] = seen ? expf(s[r] - base) : 0;
            l[r] = l[r] * shrink + warp_sum(s[r]), m[r] = top;
            for (int c = 0; c < NC; c++) acc[r][c] *= shrink;
        }
        gather_rows<NC>(a, vs, s, acc);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int i = i0 + mine + r;
        if (i >= a.N) break;
        put_row<T, NC>(a, out, ldout, h, i, acc[r], 1 / l[r]);
        if (lane == 0) lse[i * a.ldlse + h] = m[r] + logf(l[r]);
    }
}

/* delta[n, h] = sum_d do o: a warp each. */
template <typename T> __global__ void __launch_bounds__(THREADS) delta_of(struct packed a, float *delta) {
    int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (at >= (int64_t)a.N * a.H) return;
    int64_t n = at / a.H, col = at % a.H * a.D;
    float sum = 0;
    const T *go = (const T *)a.go + n * a.ldgo + col, *o = (const T *)a.o + n * a.ldo + col;
    for (int d = threadIdx.x % 32; d < a.D; d += 32) sum = fmaf(to_f32(go[d]), to_f32(o[d]), sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[at] = sum;
}

template <typename T, int NC> __global__ void __launch_bounds__(THREADS) attend_dq(struct packed a, void *out, int64_t ldout) {
    extern __shared__ float4 shared[];
    float *qs = (float *)shared, *gs = qs + TILE * a.stride, *ks = gs + TILE * a.stride, *vs = ks + LANES * a.stride;
    int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * ROWS, h = blockIdx.y, kh = h / (a.H / a.K), i0 = blockIdx.x * TILE;
    int2 span[ROWS];
    float lse[ROWS], delta[ROWS], acc[ROWS][NC];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int i = i0 + mine + r;
        bool real = i < a.N;
        span[r] = real ? span_of(a, i, false) : make_int2(0, 0);
        lse[r] = real ? a.lse[i * a.ldlse + h] : 0, delta[r] = real ? a.delta[(int64_t)i * a.H + h] : 0;
        for (int c = 0; c < NC; c++) acc[r][c] = 0;
    }
    int begin = span_of(a, i0, false).x, end = span_of(a, min(i0 + TILE, a.N) - 1, false).y;
    stage<T>(a, qs, a.q, a.ldq, h, i0, TILE, a.N);
    stage<T>(a, gs, a.go, a.ldgo, h, i0, TILE, a.N);
    for (int j0 = begin; j0 < end; j0 += LANES) {
        __syncthreads();
        stage<T>(a, ks, a.k, a.ldk, kh, j0, LANES, end);
        stage<T>(a, vs, a.v, a.ldv, kh, j0, LANES, end);
        __syncthreads();
        float s[ROWS], dp[ROWS];
        dots(a, qs + mine * a.stride, ks + lane * a.stride, s);
        dots(a, gs + mine * a.stride, vs + lane * a.stride, dp);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float slope = scored(a.scale, a.softcap, &s[r]);
            bool seen = j0 + lane >= span[r].x && j0 + lane < span[r].y;
            s[r] = seen ? expf(s[r] - lse[r]) * (dp[r] - delta[r]) * slope : 0;
        }
        gather_rows<NC>(a, ks, s, acc);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (i0 + mine + r < a.N) put_row<T, NC>(a, out, ldout, h, i0 + mine + r, acc[r], 1);
}

/* The same with the sides exchanged: rows are keys, lanes are queries, once for every query head of the group. */
template <typename T, int NC> __global__ void __launch_bounds__(THREADS) attend_dkv(struct packed a, void *dk, int64_t lddk, void *dv, int64_t lddv) {
    extern __shared__ float4 shared[];
    float *ks = (float *)shared, *vs = ks + TILE * a.stride, *qs = vs + TILE * a.stride, *gs = qs + LANES * a.stride;
    int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * ROWS, kh = blockIdx.y, group = a.H / a.K, j0 = blockIdx.x * TILE;
    int2 span[ROWS];
    float sum_k[ROWS][NC], sum_v[ROWS][NC];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        span[r] = j0 + mine + r < a.N ? span_of(a, j0 + mine + r, true) : make_int2(0, 0);
        for (int c = 0; c < NC; c++) sum_k[r][c] = sum_v[r][c] = 0;
    }
    int begin = span_of(a, j0, true).x, end = span_of(a, min(j0 + TILE, a.N) - 1, true).y;
    stage<T>(a, ks, a.k, a.ldk, kh, j0, TILE, a.N);
    stage<T>(a, vs, a.v, a.ldv, kh, j0, TILE, a.N);
    for (int h = kh * group; h < (kh + 1) * group; h++)
        for (int i0 = begin; i0 < end; i0 += LANES) {
            __syncthreads();
            stage<T>(a, qs, a.q, a.ldq, h, i0, LANES, end);
            stage<T>(a, gs, a.go, a.ldgo, h, i0, LANES, end);
            __syncthreads();
            int i = i0 + lane;
            float lse = i < end ? a.lse[i * a.ldlse + h] : 0, delta = i < end ? a.delta[(int64_t)i * a.H + h] : 0, s[ROWS], dp[ROWS];
            dots(a, ks + mine * a.stride, qs + lane * a.stride, s);
            dots(a, vs + mine * a.stride, gs + lane * a.stride, dp);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float slope = scored(a.scale, a.softcap, &s[r]);
                s[r] = i >= span[r].x && i < span[r].y ? expf(s[r] - lse) : 0; /* p; dp becomes ds */
                dp[r] = i >= span[r].x && i < span[r].y ? s[r] * (dp[r] - delta) * slope : 0;
            }
            gather_rows<NC>(a, gs, s, sum_v);
            gather_rows<NC>(a, qs, dp, sum_k);
        }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (j0 + mine + r >= a.N) break;
        put_row<T, NC>(a, dk, lddk, kh, j0 + mine + r, sum_k[r], 1);
        put_row<T, NC>(a, dv, lddv, kh, j0 + mine + r, sum_v[r], 1);
    }
}

/* --- launching the packed forms -------------------------------------------------------------------------------- */

/* Runs `...` with NC = columns of 32 that hold a head. */
#define WITH_COLUMNS(D, ...)                                                                                          \
    do {                                                                                                              \
        if ((D) <= 64) { enum { NC = 2 }; __VA_ARGS__; }                                                              \
        else if ((D) <= 128) { enum { NC = 4 }; __VA_ARGS__; }                                                        \
        else { enum { NC = 8 }; __VA_ARGS__; }                                                                        \
    } while (0)

/* More than 48 KB of shared memory has to be asked for, per kernel. */
static err allow_shared(const void *kernel, size_t bytes) {
    if (bytes <= 48 * 1024) return OK;
    return cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "attention");
}

static struct packed packed_of(const struct inst *i, const struct view *in) {
    struct packed a = {};
    a.q = in[Q].p, a.k = in[K].p, a.v = in[V].p, a.ldq = in[Q].ld, a.ldk = in[K].ld, a.ldv = in[V].ld;
    a.cu = view_i32(&in[CU]), a.S = (int)in[CU].d[0] - 1, a.N = (int)in[Q].d[0];
    a.H = i->a.heads, a.K = i->a.kv_heads, a.D = i->a.head_dim, a.window = i->a.window;
    a.stride = ((a.D + 3) & ~3) | 4;
    a.scale = i->a.scale, a.softcap = i->a.softcap, a.causal = i->a.causal;
    return a;
}

static err refuse_shape(const struct inst *i, const struct view *x) {
    if (i->a.head_dim < 1 || i->a.head_dim > 256) return fail(E_UNSUPPORTED, "CUDA attention takes head sizes up to 256, this one is %d", i->a.head_dim);
    if (x->d[0] > INT32_MAX - 4096) return fail(E_UNSUPPORTED, "CUDA attention takes fewer than 2^31 tokens");
    return OK;
}

/* --- by cuDNN ------------------------------------------------------------------------------------------------------ */
/* From how many tokens a sequence on, on average, cuDNN is faster than flash.cu (an H100, cuDNN 9.14). */
static int64_t cudnn_from(const struct inst *i) { return i->op == &op_attention_bwd ? 576 : i->a.head_dim < 128 ? 1024 : 256; }

struct bounds {
    const int32_t *cu;
    int S, padded;      /* sequences, and how many the plan has */
    int64_t row;
    int ld[CUDNN_TENSORS];
    int32_t *table;
};

/* The table of cudnn.h, a thread per boundary. Sequences past S begin at the end and are empty. */
__global__ void __launch_bounds__(128) tabulate(struct bounds b) {
    int s = blockIdx.x * 128 + threadIdx.x;
    if (s > b.padded) return;
    int from = b.cu[min(s, b.S)];
    b.table[s] = s < b.S ? b.cu[s + 1] - from : 0;
    for (int t = 0; t < CUDNN_TENSORS; t++) b.table[(1 + t) * b.row + s] = from * b.ld[t];
}

/* Is this a case for cuDNN, and which? run NULL: at plan time, of the largest run; its scratch holds that of every run that
 * is a case. */
static bool cudnn_call_of(const struct run_ctx *run, const struct inst *i, const struct view *in, const struct view *out, struct cudnn_call *call) {
    bool backward = i->op == &op_attention_bwd;
    const struct view *place[CUDNN_TENSORS] = {&in[Q], &in[K], &in[V], &out[0], &out[1]};
    const struct view *placed[CUDNN_TENSORS] = {&in[Q], &in[K], &in[V], &in[O], &in[LSE], &in[DO], &out[0], &out[1], &out[2]};
    int64_t N = in[Q].d[0], S = in[CU].d[0] - 1, longest = run && run->longest > 0 && run->longest < N ? run->longest : N;
    if ((in[Q].dt != DT_BF16 && in[Q].dt != DT_F16) || (i->a.head_dim != 64 && i->a.head_dim != 128)) return false;
    if (i->a.window > 0 || i->a.softcap > 0 || cuda_settings.deterministic || N > INT32_MAX / 2) return false;
    if (N < cudnn_from(i) * (run ? S : 1)) return false;
    memset(call, 0, sizeof *call);
    struct cudnn_case *c = &call->shape;
    for (int t = 0; t < (backward ? (int)CUDNN_TENSORS : CUDNN_LSE + 1); t++) {
        const struct view *v = backward ? placed[t] : place[t];
        if (t != CUDNN_LSE && v->dt != in[Q].dt) return false;
        call->tensor[t] = v->p, c->ld[t] = v->ld;
    }
    c->dt = in[Q].dt, c->heads = i->a.heads, c->kv_heads = i->a.kv_heads, c->head_dim = i->a.head_dim;
    c->sequences = cudnn_rung(S, 4), c->longest = cudnn_rung(longest, 2), c->backward = backward, c->causal = i->a.causal;
    call->tokens = N, call->scale = i->a.scale;
    return true;
}

static size_t cudnn_bytes(const struct inst *i, const struct view *in, const struct view *out) {
    struct cudnn_call call;
    return cudnn_call_of(NULL, i, in, out, &call) ? cudnn_scratch(&call.shape, call.tokens) : 0;
}

static err by_cudnn(const struct cudnn_call *call, const struct view *cu) {
    struct bounds b = {view_i32(cu), (int)cu->d[0] - 1, call->shape.sequences, cudnn_row(call->shape.sequences), {}, (int32_t *)call->scratch};
    for (int t = 0; t < CUDNN_TENSORS; t++) b.ld[t] = (int)call->shape.ld[t];
    tabulate<<<(unsigned)(b.padded / 128 + 1), 128, 0, cuda_stream>>>(b);
    TRY(CUDA_LAUNCHED("attention"));
    return cudnn_attention(call);
}

/* --- the ops ------------------------------------------------------------------------------------------------------- */
extern "C" size_t cuda_attention_scratch(const struct inst *i, const struct view *in, const struct view *out) { return cudnn_bytes(i, in, out); }

extern "C" err cuda_attention(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    TRY(refuse_shape(inst, &in[Q]));
    if (in[Q].d[0] < 1 || in[CU].d[0] < 2) return OK;
    struct cudnn_call call;
    if (scratch && cudnn_call_of(run, inst, in, out, &call) && (call.scratch = scratch, cudnn_takes(&call))) return by_cudnn(&call, &in[CU]);
    if (flash_takes(inst, in, 3, out, 1)) return flash_attention(inst, in, out);
    struct packed a = packed_of(inst, in);
    a.ldlse = out[1].ld;
    dim3 grid((unsigned)((a.N + TILE - 1) / TILE), (unsigned)a.H);
    size_t bytes = (size_t)(TILE + 2 * LANES) * a.stride * 4;
    WITH_TYPE(in[Q].dt, WITH_COLUMNS(a.D, {
        TRY(allow_shared((const void *)attend<T, NC>, bytes));
        attend<T, NC><<<grid, THREADS, bytes, cuda_stream>>>(a, out[0].p, out[0].ld, view_f32(&out[1]));
    }));
    return CUDA_LAUNCHED("attention");
}

static size_t delta_bytes(const struct inst *i, const struct view *in) { return ((size_t)in[Q].d[0] * i->a.heads * 4 + 63) & ~(size_t)63; }

extern "C" size_t cuda_attention_bwd_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    size_t own = delta_bytes(i, in), theirs = cudnn_bytes(i, in, out);
    return own > theirs ? own : theirs;
}

extern "C" err cuda_attention_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    TRY(refuse_shape(inst, &in[Q]));
    if (in[Q].d[0] < 1 || in[CU].d[0] < 2) return OK;
    struct cudnn_call call;
    if (cudnn_call_of(run, inst, in, out, &call) && (call.scratch = scratch, cudnn_takes(&call))) return by_cudnn(&call, &in[CU]);
    struct packed a = packed_of(inst, in);
    float *delta = (float *)scratch;
    a.o = in[O].p, a.ldo = in[O].ld, a.go = in[DO].p, a.ldgo = in[DO].ld;
    a.lse = view_f32(&in[LSE]), a.ldlse = in[LSE].ld, a.delta = delta;
    unsigned warps = (unsigned)(((int64_t)a.N * a.H + WARPS - 1) / WARPS), tiles = (unsigned)((a.N + TILE - 1) / TILE);
    WITH_TYPE(in[Q].dt, delta_of<T><<<warps, THREADS, 0, cuda_stream>>>(a, delta));
    TRY(CUDA_LAUNCHED("attention"));
    const struct view read[] = {in[Q], in[K], in[V], in[DO]};
    if (flash_takes(inst, read, 4, out, 3)) return flash_attention_bwd(inst, in, out, delta);
    size_t bytes = (size_t)(2 * TILE + 2 * LANES) * a.stride * 4;
    WITH_TYPE(in[Q].dt, WITH_COLUMNS(a.D, {
        TRY(allow_shared((const void *)attend_dq<T, NC>, bytes));
        TRY(allow_shared((const void *)attend_dkv<T, NC>, bytes));
        attend_dq<T, NC><<<dim3(tiles, (unsigned)a.H), THREADS, bytes, cuda_stream>>>(a, out[0].p, out[0].ld);
        TRY(CUDA_LAUNCHED("attention"));
        attend_dkv<T, NC><<<dim3(tiles, (unsigned)a.K), THREADS, bytes, cuda_stream>>>(a, out[1].p, out[1].ld, out[2].p, out[2].ld);
    }));
    return CUDA_LAUNCHED("attention");
}

/* --- the cache ------------------------------------------------------------------------------------------------- */

static bool aligned16(const void *p) { return (uintptr_t)p % 16 == 0; }

struct append {
    const void *k, *v;
    void *ck, *cv;
    int64_t ldk, ldv, T; /* ld in units */
    const int32_t *slot, *pos;
    int K, unit_d; /* units of a head's row */
    int64_t total; /* N * K * unit_d */
};

/* Copies as units: 16 bytes where everything is aligned, else elements. */
template <typename U> __global__ void __launch_bounds__(256) append_units(struct append a) {
    int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (at >= a.total) return;
    int width = a.K * a.unit_d, col = (int)(at % width);
    int64_t n = at / width, cell = (((int64_t)a.slot[n] * a.K + col / a.unit_d) * a.T + a.pos[n]) * a.unit_d + col % a.unit_d;
    ((U *)a.ck)[cell] = ((const U *)a.k)[n * a.ldk + col];
    ((U *)a.cv)[cell] = ((const U *)a.v)[n * a.ldv + col];
}

extern "C" err cuda_kv_append(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)out, (void)scratch;
    int64_t N = in[0].d[0], D = in[4].d[3], size = (int64_t)dtype_row_bytes(in[0].dt, 1);
    if (N < 1) return OK;
    if (in[0].dt != in[4].dt || in[1].dt != in[5].dt || in[0].dt != in[1].dt) return fail(E_INTERNAL, "kv_append: cache and keys differ in type");
    bool wide = D * size % 16 == 0 && in[0].ld * size % 16 == 0 && in[1].ld * size % 16 == 0;
    wide = wide && aligned16(in[0].p) && aligned16(in[1].p) && aligned16(in[4].p) && aligned16(in[5].p);
    int64_t unit = wide ? 16 / size : 1; /* elements */
    struct append a = {in[0].p, in[1].p, in[4].p, in[5].p, in[0].ld / unit, in[1].ld / unit, in[4].d[2], view_i32(&in[2]), view_i32(&in[3]),
                       (int)in[4].d[1], (int)(D / unit), N * in[4].d[1] * (D / unit)};
    unsigned blocks = (unsigned)((a.total + 255) / 256);
    if (wide) append_units<uint4><<<blocks, 256, 0, cuda_stream>>>(a);
    else if (size == 4) append_units<uint32_t><<<blocks, 256, 0, cuda_stream>>>(a);
    else append_units<uint16_t><<<blocks, 256, 0, cuda_stream>>>(a);
    return CUDA_LAUNCHED("kv_append");
}

/* q, k and v of the token itself, as the products have left them: without their low-rank deltas, not rotated, not in the cache. */
struct fresh {
    const void *k, *v;
    int64_t ldk, ldv;
    struct cuda_delta d[3];
    const float *inv_freq;
    bool interleaved, r16; /* r16: all three deltas are delta16's, a head's elements whole warps' */
};

struct cached {
    const void *q;
    void *k, *v, *o;
    int64_t ldq, ldo, T;
    const int32_t *slot, *pos;
    float *part; /* [N, H, splits, 2 + D]: m, l, o not yet divided by l */
    int H, K, D, window, splits, slots;
    float scale, softcap;
    bool wide; /* rows of the cache are whole, aligned 16-byte units */
    struct fresh f;
};

/* A block: as many warps as shared memory has room for their sums. */
template <int DP> struct team { enum { warps = DP > 128 ? 4 : 8, threads = warps * 32 }; };

/* The keys [from, to) of row n's split, and how many splits of the row have any: a run may be short of what was launched for. */
struct split { int from, to, live; };
__device__ __forceinline__ struct split split_of(const struct cached &a, int64_t n, int which) {
    int end = a.pos[n] + 1, begin = a.window > 0 && end > a.window ? end - a.window : 0;
    int per = max((end - begin + a.splits - 1) / a.splits, a.splits > 1 ? MIN_KEYS : 1), from = begin + which * per;
    return {from, min(from + per, end), (end - begin + per - 1) / per};
}

/* Asks L2 for the split's keys and values. Before the wait pos and slot may not be this step's yet: it is a hint, kept inside the cache. */
template <typename T> __device__ __forceinline__ void bring_keys(const struct cached &a, int64_t n, int kh, int split) {
    int64_t slot = min(max(a.slot[n], 0), a.slots - 1), row = a.D * (int64_t)sizeof(T);
    struct split span = split_of(a, n, split);
    int from = min(max(span.from, 0), (int)a.T), to = min(max(span.to, from), (int)a.T);
    int64_t at = ((slot * a.K + kh) * a.T + from) * row, bytes = (to - from) * row;
    for (int64_t i = threadIdx.x * 128; i < bytes; i += blockDim.x * 128) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)a.k + at + i));
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)a.v + at + i));
    }
}

/* VPL 16-byte vectors of a row of D elements, the lane's share: vector v holds elements (v * L + part) * EV and on. */
template <typename T, int L, int VPL> __device__ __forceinline__ void load_part(uint4 raw[VPL], const T *row, int part, int D, bool wide, bool real) {
    enum { EV = 16 / sizeof(T) };
#pragma unroll
    for (int v = 0; v < VPL; v++) {
        int d = (v * L + part) * EV;
        raw[v] = make_uint4(0, 0, 0, 0);
        if (!real || d >= D) continue;
        if (wide) raw[v] = *(const uint4 *)(row + d);
        else {
            alignas(16) T x[EV];
            for (int e = 0; e < EV; e++) x[e] = d + e < D ? row[d + e] : from_f32<T>(0);
            raw[v] = *(const uint4 *)x;
        }
    }
}

/* The same of a row that is still f32 in shared memory, rounded as the cache has it. */
template <typename T, int L, int VPL> __device__ __forceinline__ void own_part(uint4 raw[VPL], const float *row, int part, int D) {
    enum { EV = 16 / sizeof(T) };
#pragma unroll
    for (int v = 0; v < VPL; v++) {
        alignas(16) T x[EV];
        for (int e = 0; e < EV; e++) {
            int d = (v * L + part) * EV + e;
            x[e] = from_f32<T>(d < D ? row[d] : 0);
        }
        raw[v] = *(const uint4 *)x;
    }
}

template <typename T, int E> __device__ __forceinline__ void unpack(float x[E], const uint4 *raw) {
    const T *e = (const T *)raw;
#pragma unroll
    for (int i = 0; i < E; i++) x[i] = to_f32(e[i]);
}

/* Two softmax states over the same heads become one. */
template <int E> __device__ __forceinline__ void join(float *m, float *l, float acc[E], float m2, float l2, const float acc2[E]) {
    float top = fmaxf(*m, m2), base = top == -INFINITY ? 0 : top, f = expf(*m - base), f2 = expf(m2 - base);
    *m = top, *l = *l * f + l2 * f2;
#pragma unroll
    for (int e = 0; e < E; e++) acc[e] = acc[e] * f + acc2[e] * f2;
}

/* The token's own q heads, k and v in a block: element i is of row[i / D], which is a head of q, then k, then v. */
struct own { int part, row, d; int64_t o; };
__device__ __forceinline__ struct own own_of(const struct cached &a, int i, int64_t h0, int heads, int kh) {
    int row = i / a.D, d = i - row * a.D, part = row < heads ? 0 : row - heads + 1;
    return {part, row, d, (int64_t)(part == 0 ? h0 + row : kh) * a.D + d};
}

/* B's rows for them, at rank 16: asked for before the kernel waits. COUNT elements of a thread. */
template <typename T, int DP, int COUNT> __device__ __forceinline__ void ask_fresh(const struct cached &a, struct delta16<T, 1> low[COUNT], int64_t h0, int heads, int kh) {
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        int i = threadIdx.x + j * team<DP>::threads;
        if (i >= (heads + 2) * a.D) continue;
        struct own e = own_of(a, i & ~31, h0, heads, kh); /* the warp's first: a head is whole warps */
        low[j].ask(a.f.d[e.part], e.o, e.o + 32);
    }
}

/* Finishes q's heads, and k and v where this block is to see them, in shared memory: row[head][DP], f32. The key and the value go to
 * the cache by the way; blocks that share them write the same numbers. */
template <typename T, int DP, int COUNT> __device__ __forceinline__ void finish_fresh(const struct cached &a, const struct delta16<T, 1> low[COUNT], float *row, int64_t n, int64_t h0, int heads, int kh, bool newest) {
    __shared__ float places[team<DP>::threads], sine[DP / 2], cosine[DP / 2];
    int half = a.D / 2, all = (heads + (newest ? 2 : 0)) * a.D, rotated = (heads + (newest ? 1 : 0)) * half, pos = a.pos[n];
    float x[COUNT];
    uint4 t[COUNT];
#pragma unroll
    for (int j = 0; j < COUNT; j++) { /* all loads before the first is waited for */
        int i = threadIdx.x + j * team<DP>::threads;
        if (i >= all) continue;
        struct own e = own_of(a, i, h0, heads, kh);
        const T *from = (const T *)(e.part == 0 ? a.q : e.part == 1 ? a.f.k : a.f.v);
        x[j] = to_f32(from[n * (e.part == 0 ? a.ldq : e.part == 1 ? a.f.ldk : a.f.ldv) + e.o]);
        if (a.f.r16) t[j] = low[j].row(a.f.d[e.part], n);
    }
    for (int j = threadIdx.x; j < half; j += team<DP>::threads) sincosf(__fmul_rn((float)pos, a.f.inv_freq[j]), &sine[j], &cosine[j]);
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        int i = threadIdx.x + j * team<DP>::threads;
        if (i >= all) continue;
        struct own e = own_of(a, i, h0, heads, kh);
        if (a.f.r16) low[j].add(a.f.d[e.part], t[j], &x[j], places + (threadIdx.x & ~31));
        else if (a.f.d[e.part].rank) x[j] += delta_at<T>(a.f.d[e.part], n, e.o);
        row[e.row * DP + e.d] = x[j];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rotated; i += team<DP>::threads) {
        int which = i / half, j = i - which * half;
        float *u = row + which * DP + (a.f.interleaved ? 2 * j : j), *v = u + (a.f.interleaved ? 1 : half), s = sine[j], c = cosine[j], p = *u, q = *v;
        *u = p * c - q * s, *v = p * s + q * c;
    }
    __syncthreads();
    if (!newest) return;
    int64_t cell = (((int64_t)a.slot[n] * a.K + kh) * a.T + pos) * a.D;
    for (int d = threadIdx.x; d < a.D; d += team<DP>::threads) {
        ((T *)a.k)[cell + d] = from_f32<T>(row[heads * DP + d]);
        ((T *)a.v)[cell + d] = from_f32<T>(row[(heads + 1) * DP + d]);
    }
}

/* The last block of a row's splits to arrive makes one row of theirs; the order of the sum is the splits'. Counters go back to 0. */
enum { TICKETS = 65536, AT_ONCE = 4 };
static __device__ int tickets[TICKETS];
template <typename T> __device__ __forceinline__ void join_splits(const struct cached &a, int64_t n, int64_t h0, int heads, int live) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int *mine = &tickets[n * gridDim.y + blockIdx.y];
        last = atomicAdd(mine, 1) == live - 1;
        if (last) *mine = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int i = threadIdx.x; i < heads * a.D; i += blockDim.x) {
        int64_t h = h0 + i / a.D;
        int d = i % a.D;
        const float *from = a.part + (n * a.H + h) * a.splits * (a.D + 2);
        float m = -INFINITY, l = 0, o[1] = {0};
        for (int s = 0; s < live; s += AT_ONCE) {
            float m2[AT_ONCE], l2[AT_ONCE], o2[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++, from += a.D + 2)
                if (s + k < live) m2[k] = __ldcg(from), l2[k] = __ldcg(from + 1), o2[k] = __ldcg(from + 2 + d);
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++)
                if (s + k < live) join<1>(&m, &l, o, m2[k], l2[k], &o2[k]);
        }
        ((T *)a.o)[n * a.ldo + h * a.D + d] = from_f32<T>(o[0] / l);
    }
}

/* Block (row, kv head and head group, split). L lanes share a key, a warp has 32 / L keys at once, UNROLL times; each such
 * sub-warp keeps its own softmax, they meet at the end. DP: head size rounded up; G: query heads of this block. */
template <typename T, int DP, int G, bool FRESH, int COUNT>
__device__ __forceinline__ void attend_split(const struct cached &a, const struct delta16<T, 1> low[COUNT], int64_t n, int64_t h0, int heads, int kh, int which, struct split span) {
    enum { WARPS = team<DP>::warps, EV = 16 / sizeof(T), L = DP / EV < 32 ? DP / EV : 32, VPL = DP / (EV * L), E = EV * VPL, SUB = 32 / L, UNROLL = G > 4 ? 2 : 4 };
    __shared__ float all_m[WARPS][G], all_l[WARPS][G], all_o[WARPS][G][DP];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = lane % L;
    float q[G][E], acc[G][E], m[G], l[G], *row = &all_o[0][0][0]; /* row: free until the end */
    int64_t cells = ((int64_t)a.slot[n] * a.K + kh) * a.T * a.D;
    const T *k = (const T *)a.k + cells, *v = (const T *)a.v + cells;
    uint4 kr[UNROLL][VPL], vr[UNROLL][VPL];
    int base = span.from + warp * SUB, newest = FRESH && span.to == a.pos[n] + 1 ? span.to - 1 : -1; /* newest: not in the cache yet */
    auto load_keys = [&]() {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int64_t t = base + u * WARPS * SUB + lane / L;
            bool real = t < span.to && t != newest;
            load_part<T, L, VPL>(kr[u], k + t * a.D, part, a.D, a.wide, real);
            load_part<T, L, VPL>(vr[u], v + t * a.D, part, a.D, a.wide, real);
        }
    };
    load_keys();
    if (FRESH) {
        static_assert(WARPS * G >= G + 2, "room for q's heads, k and v");
        finish_fresh<T, DP, COUNT>(a, low, row, n, h0, heads, kh, newest >= 0);
#pragma unroll
        for (int g = 0; g < G; g++)
            for (int e = 0; e < E; e++) {
                int d = (e / EV * L + part) * EV + e % EV;
                q[g][e] = d < a.D ? row[min(g, heads - 1) * DP + d] : 0;
            }
    }
#pragma unroll
    for (int g = 0; g < G; g++) {
        if (!FRESH) {
            uint4 raw[VPL];
            load_part<T, L, VPL>(raw, (const T *)a.q + n * a.ldq + (h0 + min(g, heads - 1)) * a.D, part, a.D, false, true);
            unpack<T, E>(q[g], raw);
        }
        m[g] = -INFINITY, l[g] = 0;
        for (int e = 0; e < E; e++) q[g][e] *= a.scale, acc[g][e] = 0;
    }
    for (; base < span.to; base += WARPS * SUB * UNROLL, load_keys()) {
        float s[UNROLL][G], x[E];
        if (FRESH && newest >= 0) {
#pragma unroll
            for (int u = 0; u < UNROLL; u++)
                if (base + u * WARPS * SUB + lane / L == newest) {
                    own_part<T, L, VPL>(kr[u], row + heads * DP, part, a.D);
                    own_part<T, L, VPL>(vr[u], row + (heads + 1) * DP, part, a.D);
                }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            unpack<T, E>(x, kr[u]);
#pragma unroll
            for (int g = 0; g < G; g++) {
                float dot = 0;
#pragma unroll
                for (int e = 0; e < E; e++) dot = fmaf(q[g][e], x[e], dot);
#pragma unroll
                for (int d = L / 2; d; d >>= 1) dot += __shfl_xor_sync(0xFFFFFFFFu, dot, d);
                if (a.softcap > 0) dot = a.softcap * tanhf(dot / a.softcap);
                s[u][g] = base + u * WARPS * SUB + lane / L < span.to ? dot : -INFINITY;
            }
        }
#pragma unroll
        for (int g = 0; g < G; g++) {
            float top = m[g];
            for (int u = 0; u < UNROLL; u++) top = fmaxf(top, s[u][g]);
            float zero = top == -INFINITY ? 0 : top, shrink = expf(m[g] - zero);
            m[g] = top, l[g] *= shrink;
            for (int e = 0; e < E; e++) acc[g][e] *= shrink;
            for (int u = 0; u < UNROLL; u++) s[u][g] = expf(s[u][g] - zero), l[g] += s[u][g];
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            unpack<T, E>(x, vr[u]);
#pragma unroll
            for (int g = 0; g < G; g++)
#pragma unroll
                for (int e = 0; e < E; e++) acc[g][e] = fmaf(s[u][g], x[e], acc[g][e]);
        }
    }
    if (FRESH) __syncthreads(); /* row has been read */
#pragma unroll
    for (int g = 0; g < G; g++) {
        for (int d = L; d < 32; d <<= 1) {
            float m2 = __shfl_xor_sync(0xFFFFFFFFu, m[g], d), l2 = __shfl_xor_sync(0xFFFFFFFFu, l[g], d), acc2[E];
            for (int e = 0; e < E; e++) acc2[e] = __shfl_xor_sync(0xFFFFFFFFu, acc[g][e], d);
            join<E>(&m[g], &l[g], acc[g], m2, l2, acc2);
        }
        if (lane == 0) all_m[warp][g] = m[g], all_l[warp][g] = l[g];
        if (lane < L)
            for (int e = 0; e < E; e++) all_o[warp][g][(e / EV * L + part) * EV + e % EV] = acc[g][e];
    }
    __syncthreads();
    for (int at = threadIdx.x; at < heads * DP; at += team<DP>::threads) {
        int g = at / DP, d = at % DP;
        if (d >= a.D) continue;
        float mm = all_m[0][g], ll = all_l[0][g], o[1] = {all_o[0][g][d]};
        for (int w = 1; w < WARPS; w++) join<1>(&mm, &ll, o, all_m[w][g], all_l[w][g], &all_o[w][g][d]);
        if (span.live == 1) ((T *)a.o)[n * a.ldo + (h0 + g) * a.D + d] = from_f32<T>(o[0] / ll);
        else {
            float *to = a.part + ((n * a.H + h0 + g) * a.splits + which) * (a.D + 2);
            to[2 + d] = o[0];
            if (d == 0) to[0] = mm, to[1] = ll;
        }
    }
}

template <typename T, int DP, int G, bool FRESH> __global__ void __launch_bounds__(team<DP>::threads, DP > 128 || G > 4 ? 1 : 2) attend_cached(const __grid_constant__ struct cached a) {
    int group = a.H / a.K, groups = (group + G - 1) / G, kh = blockIdx.y / groups, first = blockIdx.y % groups * G, heads = min(G, group - first);
    enum { COUNT = FRESH ? ((G + 2) * DP + team<DP>::threads - 1) / team<DP>::threads : 1 };
    int64_t n = blockIdx.x, h0 = (int64_t)kh * group + first;
    struct delta16<T, 1> low[COUNT];
    if (FRESH && sizeof(T) == 2 && a.f.r16) ask_fresh<T, DP, COUNT>(a, low, h0, heads, kh);
    bring_keys<T>(a, n, kh, blockIdx.z);
    let_next_start();
    wait_for_earlier();
    struct split span = split_of(a, n, blockIdx.z);
    if ((int)blockIdx.z >= span.live) return;
    attend_split<T, DP, G, FRESH, COUNT>(a, low, n, h0, heads, kh, blockIdx.z, span);
    if (span.live > 1) join_splits<T>(a, n, h0, heads, span.live);
}

static int heads_per_block(int group) { return group > 4 ? MAX_HEADS : group > 1 ? 4 : 1; }
static int64_t blocks_per_row(const struct inst *i) {
    int group = i->a.heads / i->a.kv_heads, G = heads_per_block(group);
    return (int64_t)i->a.kv_heads * ((group + G - 1) / G);
}

/* Enough splits that about two blocks fall on every multiprocessor, none shorter than MIN_KEYS of the capacity T. */
static int splits_of(const struct inst *i, int64_t rows, int64_t T) {
    int64_t blocks = rows * blocks_per_row(i), n = (2 * (int64_t)cuda_sms + blocks - 1) / blocks, most = (T + MIN_KEYS - 1) / MIN_KEYS;
    n = n < most ? n : most;
    if (blocks > TICKETS) n = 1;
    return n > MAX_SPLIT ? (int)MAX_SPLIT : n < 1 ? 1 : (int)n;
}

/* A run may have fewer rows than the capacity and then more splits: rows * splits stays under rows + 2 sms / blocks per
 * row (the ceiling adds less than one split a row) and under MAX_SPLIT a row. */
extern "C" size_t cuda_attention_cached_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    (void)out;
    int64_t rows = in[0].d[0], parts = rows + 2 * (int64_t)cuda_sms / blocks_per_row(i) + 1;
    if (parts > rows * MAX_SPLIT) parts = rows * MAX_SPLIT;
    return (size_t)parts * i->a.heads * (i->a.head_dim + 2) * 4;
}

template <typename T, int DP, bool FRESH> static err launch_cached(dim3 grid, int G, struct cached *a) {
    const void *kernel = (const void *)attend_cached<T, DP, 8, FRESH>;
    if (G == 1) kernel = (const void *)attend_cached<T, DP, 1, FRESH>;
    else if (G == 4) kernel = (const void *)attend_cached<T, DP, 4, FRESH>;
    return cuda_launch(kernel, grid, team<DP>::threads, 0, a, "attention_cached");
}

template <bool FRESH> static err attend(const struct inst *inst, dtype dt, int64_t N, struct cached *a, void *scratch) {
    a->part = (float *)scratch;
    a->H = inst->a.heads, a->K = inst->a.kv_heads, a->D = inst->a.head_dim, a->window = inst->a.window, a->splits = splits_of(inst, N, a->T);
    a->scale = inst->a.scale, a->softcap = inst->a.softcap;
    a->wide = a->D * (int64_t)dtype_row_bytes(dt, 1) % 16 == 0 && aligned16(a->k) && aligned16(a->v);
    int G = heads_per_block(a->H / a->K);
    dim3 grid((unsigned)N, (unsigned)blocks_per_row(inst), (unsigned)a->splits);
    WITH_TYPE(dt, {
        if (a->D <= 64) return launch_cached<T, 64, FRESH>(grid, G, a);
        if (a->D <= 128) return launch_cached<T, 128, FRESH>(grid, G, a);
        return launch_cached<T, 256, FRESH>(grid, G, a);
    });
    return OK;
}

extern "C" err cuda_attention_cached(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run;
    TRY(refuse_shape(inst, &in[0]));
    if (in[0].d[0] < 1) return OK;
    if (in[0].dt != in[1].dt || in[0].dt != in[2].dt) return fail(E_INTERNAL, "attention_cached: cache and queries differ in type");
    struct cached a = {};
    a.q = in[0].p, a.k = in[1].p, a.v = in[2].p, a.o = out[0].p, a.ldq = in[0].ld, a.ldo = out[0].ld, a.T = in[1].d[2], a.slots = (int)in[1].d[0];
    a.slot = view_i32(&in[3]), a.pos = view_i32(&in[4]);
    return attend<false>(inst, in[0].dt, in[0].d[0], &a, scratch);
}

extern "C" err cuda_attend_fresh(const struct inst *inst, const struct view *in, struct view *out, const struct cuda_delta d[3], void *scratch) {
    const struct view *rope = in + MAX_IN, *cached = in + 4 * MAX_IN, *o = out + 4 * MAX_OUT;
    TRY(refuse_shape(inst + 4, &cached[0]));
    if (out[0].dt != cached[1].dt || out[0].dt != cached[2].dt) return fail(E_INTERNAL, "attention_cached: cache and queries differ in type");
    struct cached a = {};
    a.q = out[0].p, a.k = cached[1].p, a.v = cached[2].p, a.o = o->p, a.ldq = out[0].ld, a.ldo = o->ld, a.T = cached[1].d[2], a.slots = (int)cached[1].d[0];
    a.slot = view_i32(&cached[3]), a.pos = view_i32(&cached[4]);
    a.f.k = out[1].p, a.f.v = out[2].p, a.f.ldk = out[1].ld, a.f.ldv = out[2].ld, a.f.inv_freq = view_f32(&rope[2]), a.f.interleaved = inst[1].a.interleaved;
    a.f.r16 = out[0].dt != DT_F32 && inst[4].a.head_dim % 32 == 0;
    for (int k = 0; k < 3; k++) a.f.d[k] = d[k], a.f.r16 &= d[k].rank == 16 && d[k].wide;
    return attend<true>(inst + 4, out[0].dt, out[0].d[0], &a, scratch);
}
