/* Attention on the card, the form that takes everything: any head size up to 256, any of the three compute types, causal
 * or not, window, softcap, grouped heads, packed sequences. The common shapes (16-bit types, head sizes 64 and 128) go first
 * to cuDNN where it is installed and pays (cudnn.h), then to flash.cu; what both refuse comes here. Over a cache:
 * attention_cached.cu.
 *
 * Packed sequences. The bounds cu[] live on the device, so the grid only knows N: a block takes TILE packed rows,
 * whatever sequences they fall into, and each row finds its own range of the other side by bisection in cu (span_of). The
 * ends of these ranges grow with the row, so the union over a tile is [begin of the first row, end of the last); rows
 * mask what is not theirs. One loop therefore serves queries looking at keys (forward, dq) and keys looking at queries
 * (dk, dv): rows of a tile in one warp each ROWS, the other side in shared memory LANES at a time, a lane per entry for
 * the dot products and a lane per column for the sums.
 *
 * Keys of another text (T5's cross-attention) are the same but for the bounds: cu_k of the keys, cu of the queries, and as many
 * rows of each as there are; without bounds (LLaMA-Adapter's prompt) every row meets every key. A row whose other text is empty has o = lse = 0, a key that nobody asks for dk = dv = 0. A bias by
 * distance (T5) is added to the scores from its table (attention.cuh). Both are kernels of their own by template (enum form):
 * cuDNN (cudnn_call_of) and flash.cu (flash_takes) refuse them.
 *
 * Backward (Dao et al. 2022): delta = rowsum(do o), p = exp(s - lse), ds = p (dp - delta). dq over query tiles, dk and dv
 * over key tiles with the loop over the group's query heads inside: every sum has one owner and one order, no atomics.
 *
 * Numerics: everything in f32, results rounded once. A row whose scores are all -inf comes out NaN, as in the reference. */
#include "cuda/attention.cuh"
#include "cuda/cudnn.h"
#include "cuda/flash.cuh"

enum { WARPS = 4, ROWS = 4, TILE = WARPS * ROWS, LANES = 32, THREADS = WARPS * 32 };
enum { Q, K, V, CU, O, LSE, DO, BWD_CU_K, BWD_BIAS }; /* operands of attention_bwd and, up to CU, of attention */
enum { CU_K = 4, BIAS = 5 };                           /* ... and what else attention has */
/* Where the keys are: a query's own sequence, ... with a bias by distance, or another text's sequence. The last two do not meet. */
enum form { PLAIN, BIASED, CROSS };

struct packed {
    const void *q, *k, *v, *o, *go; /* [N, H*D] or [N, K*D] */
    int64_t ldq, ldk, ldv, ldo, ldgo, ldlse;
    const float *lse, *delta; /* backward: [N, H] with ldlse; [N, H] dense */
    const int32_t *cu;
    int S, N, H, K, D, stride, window; /* stride: floats from row to row in shared memory */
    float scale, softcap;
    bool causal;
    int M;                 /* keys; N but in CROSS. This and what follows lie last: ptxas gives other kernels for other offsets */
    const int32_t *cu_k;   /* CROSS: the keys' bounds */
    struct by_distance by; /* BIASED */
};

/* The last s with cu[s] <= i: empty sequences before it fall out. */
__device__ __forceinline__ int sequence_of(const int32_t *cu, int S, int i) {
    int lo = 0, hi = S;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (cu[mid] <= i) lo = mid;
        else hi = mid;
    }
    return lo;
}

/* What row i may look at: the keys of query i, or (of_key) the queries that see key i. */
__device__ int2 span_within(const struct packed &a, int i, bool of_key) {
    int s = sequence_of(a.cu, a.S, i), from = a.cu[s], to = a.cu[s + 1];
    if (of_key) {
        if (a.causal) from = i;
        if (a.window > 0 && a.window < to - i) to = i + a.window;
    } else {
        if (a.causal) to = i + 1;
        if (a.window > 0 && i - from >= a.window) from = i - a.window + 1;
    }
    return make_int2(from, to);
}

template <enum form F> __device__ __forceinline__ int2 span_of(const struct packed &a, int i, bool of_key) {
    if (F != CROSS) return span_within(a, i, of_key);
    if (!a.cu) return make_int2(0, of_key ? a.N : a.M); /* one sequence of all */
    const int32_t *other = of_key ? a.cu : a.cu_k; /* no mask between texts */
    int s = sequence_of(of_key ? a.cu_k : a.cu, a.S, i);
    return make_int2(other[s], other[s + 1]);
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

template <typename T, int NC, enum form F> __global__ void __launch_bounds__(THREADS) attend(struct packed a, void *out, int64_t ldout, float *lse) {
    extern __shared__ float4 shared[];
    float *qs = (float *)shared, *ks = qs + TILE * a.stride, *vs = ks + LANES * a.stride;
    int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * ROWS, h = blockIdx.y, kh = h / (a.H / a.K), i0 = blockIdx.x * TILE;
    int2 span[ROWS];
    float m[ROWS], l[ROWS], acc[ROWS][NC];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        span[r] = i0 + mine + r < a.N ? span_of<F>(a, i0 + mine + r, false) : make_int2(0, 0);
        m[r] = -INFINITY, l[r] = 0;
        for (int c = 0; c < NC; c++) acc[r][c] = 0;
    }
    int begin = span_of<F>(a, i0, false).x, end = span_of<F>(a, min(i0 + TILE, a.N) - 1, false).y;
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
            if (F == BIASED) s[r] += bias_at(a.by, j0 + lane - i0 - mine - r, h);
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
        bool alone = F == CROSS && span[r].x >= span[r].y; /* the other text is empty: o and lse are 0 */
        put_row<T, NC>(a, out, ldout, h, i, acc[r], alone ? 0 : 1 / l[r]);
        if (lane == 0) lse[i * a.ldlse + h] = alone ? 0 : m[r] + logf(l[r]);
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

template <typename T, int NC, enum form F> __global__ void __launch_bounds__(THREADS) attend_dq(struct packed a, void *out, int64_t ldout) {
    extern __shared__ float4 shared[];
    float *qs = (float *)shared, *gs = qs + TILE * a.stride, *ks = gs + TILE * a.stride, *vs = ks + LANES * a.stride;
    int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * ROWS, h = blockIdx.y, kh = h / (a.H / a.K), i0 = blockIdx.x * TILE;
    int2 span[ROWS];
    float lse[ROWS], delta[ROWS], acc[ROWS][NC];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int i = i0 + mine + r;
        bool real = i < a.N;
        span[r] = real ? span_of<F>(a, i, false) : make_int2(0, 0);
        lse[r] = real ? a.lse[i * a.ldlse + h] : 0, delta[r] = real ? a.delta[(int64_t)i * a.H + h] : 0;
        for (int c = 0; c < NC; c++) acc[r][c] = 0;
    }
    int begin = span_of<F>(a, i0, false).x, end = span_of<F>(a, min(i0 + TILE, a.N) - 1, false).y;
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
            if (F == BIASED) s[r] += bias_at(a.by, j0 + lane - i0 - mine - r, h);
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
template <typename T, int NC, enum form F> __global__ void __launch_bounds__(THREADS) attend_dkv(struct packed a, void *dk, int64_t lddk, void *dv, int64_t lddv) {
    extern __shared__ float4 shared[];
    float *ks = (float *)shared, *vs = ks + TILE * a.stride, *qs = vs + TILE * a.stride, *gs = qs + LANES * a.stride;
    int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * ROWS, kh = blockIdx.y, group = a.H / a.K, j0 = blockIdx.x * TILE;
    int2 span[ROWS];
    float sum_k[ROWS][NC], sum_v[ROWS][NC];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        span[r] = j0 + mine + r < a.M ? span_of<F>(a, j0 + mine + r, true) : make_int2(0, 0);
        for (int c = 0; c < NC; c++) sum_k[r][c] = sum_v[r][c] = 0;
    }
    int begin = span_of<F>(a, j0, true).x, end = span_of<F>(a, min(j0 + TILE, a.M) - 1, true).y;
    stage<T>(a, ks, a.k, a.ldk, kh, j0, TILE, a.M);
    stage<T>(a, vs, a.v, a.ldv, kh, j0, TILE, a.M);
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
                if (F == BIASED) s[r] += bias_at(a.by, j0 + mine + r - i, h);
                s[r] = i >= span[r].x && i < span[r].y ? expf(s[r] - lse) : 0; /* p; dp becomes ds */
                dp[r] = i >= span[r].x && i < span[r].y ? s[r] * (dp[r] - delta) * slope : 0;
            }
            gather_rows<NC>(a, gs, s, sum_v);
            gather_rows<NC>(a, qs, dp, sum_k);
        }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (j0 + mine + r >= a.M) break;
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

/* Runs `...` with F = where the keys are. */
#define WITH_FORM(form, ...)                                                                                          \
    do {                                                                                                              \
        if ((form) == PLAIN) { enum { F = PLAIN }; __VA_ARGS__; }                                                     \
        else if ((form) == BIASED) { enum { F = BIASED }; __VA_ARGS__; }                                              \
        else { enum { F = CROSS }; __VA_ARGS__; }                                                                     \
    } while (0)

/* More than 48 KB of shared memory has to be asked for, per kernel. */
static err allow_shared(const void *kernel, size_t bytes) {
    if (bytes <= 48 * 1024) return OK;
    return cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "attention");
}

/* cu_k, bias: the operands, which may be absent. */
static err packed_of(const struct inst *i, const struct view *in, const struct view *cu_k, const struct view *bias, struct packed *to, enum form *form) {
    struct packed a = {};
    a.q = in[Q].p, a.k = in[K].p, a.v = in[V].p, a.ldq = in[Q].ld, a.ldk = in[K].ld, a.ldv = in[V].ld;
    a.cu = view_i32(&in[CU]), a.cu_k = view_i32(cu_k), a.S = in[CU].p ? (int)in[CU].d[0] - 1 : 1, a.N = (int)in[Q].d[0], a.M = (int)in[K].d[0];
    a.H = i->a.heads, a.K = i->a.kv_heads, a.D = i->a.head_dim, a.window = i->a.window;
    a.stride = ((a.D + 3) & ~3) | 4;
    a.scale = i->a.scale, a.softcap = i->a.softcap, a.causal = i->a.causal;
    *form = cu_k->p || !a.cu ? CROSS : bias->p ? BIASED : PLAIN;
    if (*form == BIASED) TRY(by_distance_of(i, bias, &a.by));
    *to = a;
    return OK;
}

/* --- by cuDNN ------------------------------------------------------------------------------------------------------ */
/* From how many tokens a sequence on, on average, cuDNN is faster than flash.cu (an H100, cuDNN 9.14). */
static int64_t cudnn_from(const struct inst *i) { return i->op == &op_attention_bwd ? 576 : i->a.head_dim < 128 ? 1024 : 256; }

/* Does cuDNN have attention of this kind? */
static bool cudnn_knows(const struct inst *i, dtype dt) {
    if (!attention_plain(i) || (dt != DT_BF16 && dt != DT_F16) || (i->a.head_dim != 64 && i->a.head_dim != 128)) return false;
    return i->a.window <= 0 && i->a.softcap <= 0 && !cuda_settings.deterministic;
}

extern "C" bool cuda_attention_by_cudnn(const struct inst *i, dtype dt) { return cudnn_knows(i, dt); }

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
    int64_t N = in[Q].d[0], S = has(i->in[CU]) ? in[CU].d[0] - 1 : 1, longest = run && run->longest > 0 && run->longest < N ? run->longest : N;
    if (!cudnn_knows(i, in[Q].dt) || N > INT32_MAX / 2) return false;
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
    if (in[Q].d[0] < 1 || (in[CU].p && in[CU].d[0] < 2)) return OK;
    struct cudnn_call call;
    if (scratch && cudnn_call_of(run, inst, in, out, &call) && (call.scratch = scratch, cudnn_takes(&call))) return by_cudnn(&call, &in[CU]);
    if (flash_takes(inst, in, 3, out, 1)) return flash_attention(inst, in, out);
    struct packed a;
    enum form form;
    TRY(refuse_shape(inst, &in[K]));
    TRY(packed_of(inst, in, &in[CU_K], &in[BIAS], &a, &form));
    a.ldlse = out[1].ld;
    dim3 grid((unsigned)((a.N + TILE - 1) / TILE), (unsigned)a.H);
    size_t bytes = (size_t)(TILE + 2 * LANES) * a.stride * 4;
    WITH_TYPE(in[Q].dt, WITH_COLUMNS(a.D, WITH_FORM(form, {
        TRY(allow_shared((const void *)attend<T, NC, (enum form)F>, bytes));
        attend<T, NC, (enum form)F><<<grid, THREADS, bytes, cuda_stream>>>(a, out[0].p, out[0].ld, view_f32(&out[1]));
    })));
    return CUDA_LAUNCHED("attention");
}

static size_t delta_bytes(const struct inst *i, const struct view *in) { return ((size_t)in[Q].d[0] * i->a.heads * 4 + 63) & ~(size_t)63; }

extern "C" size_t cuda_attention_bwd_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    size_t own = delta_bytes(i, in), theirs = cudnn_bytes(i, in, out);
    return own > theirs ? own : theirs;
}

/* dq over tiles of queries, dk and dv over tiles of keys; either side may have no rows where the keys are another text's. */
template <typename T, int NC, enum form F> static err general_bwd(const struct packed &a, struct view *out) {
    size_t bytes = (size_t)(2 * TILE + 2 * LANES) * a.stride * 4;
    unsigned queries = (unsigned)((a.N + TILE - 1) / TILE), keys = (unsigned)((a.M + TILE - 1) / TILE);
    TRY(allow_shared((const void *)attend_dq<T, NC, F>, bytes));
    TRY(allow_shared((const void *)attend_dkv<T, NC, F>, bytes));
    if (queries) attend_dq<T, NC, F><<<dim3(queries, (unsigned)a.H), THREADS, bytes, cuda_stream>>>(a, out[0].p, out[0].ld);
    TRY(CUDA_LAUNCHED("attention"));
    if (keys) attend_dkv<T, NC, F><<<dim3(keys, (unsigned)a.K), THREADS, bytes, cuda_stream>>>(a, out[1].p, out[1].ld, out[2].p, out[2].ld);
    return CUDA_LAUNCHED("attention");
}

extern "C" err cuda_attention_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    TRY(refuse_shape(inst, &in[Q]));
    TRY(refuse_shape(inst, &in[K]));
    if ((in[Q].d[0] < 1 && in[K].d[0] < 1) || (in[CU].p && in[CU].d[0] < 2)) return OK;
    struct cudnn_call call;
    if (cudnn_call_of(run, inst, in, out, &call) && (call.scratch = scratch, cudnn_takes(&call))) return by_cudnn(&call, &in[CU]);
    struct packed a;
    enum form form;
    TRY(packed_of(inst, in, &in[BWD_CU_K], &in[BWD_BIAS], &a, &form));
    float *delta = (float *)scratch;
    a.o = in[O].p, a.ldo = in[O].ld, a.go = in[DO].p, a.ldgo = in[DO].ld;
    a.lse = view_f32(&in[LSE]), a.ldlse = in[LSE].ld, a.delta = delta;
    unsigned warps = (unsigned)(((int64_t)a.N * a.H + WARPS - 1) / WARPS);
    if (warps) WITH_TYPE(in[Q].dt, delta_of<T><<<warps, THREADS, 0, cuda_stream>>>(a, delta));
    TRY(CUDA_LAUNCHED("attention"));
    const struct view read[] = {in[Q], in[K], in[V], in[DO]};
    if (flash_takes(inst, read, 4, out, 3)) return flash_attention_bwd(inst, in, out, delta);
    WITH_TYPE(in[Q].dt, WITH_COLUMNS(a.D, WITH_FORM(form, return (general_bwd<T, NC, (enum form)F>(a, out)))));
    return OK;
}
