/* What decoding needs of attention on the card: kv_append and attention_cached, for any head size up to 256 and any of the three
 * compute types, with window, softcap, grouped heads and a bias by distance (attend_biased); the cache may be of another text's keys
 * (T5's cross-attention): pos is then that text's last. A layer's q, k and v may come unfinished, as a span of spans.c leaves them
 * (cuda_attend_fresh): then deltas, rotation and kv_append happen here by the way.
 *
 * Flash-decoding (Dao et al. 2023): a block has one row, one kv head and up to 8 of its query heads, so that a cached key or
 * value is read once, 16 bytes a lane. With few rows the keys are split over blocks; partial (m, l, o) go to scratch, and the
 * last block to arrive joins them. The length is on the device: splits may have nothing to do. */
#include "cuda/attention.cuh"
#include "cuda/delta.cuh"

enum { MAX_SPLIT = 16, MIN_KEYS = 192, MAX_HEADS = 8 };

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

extern "C" err cuda_store(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)out, (void)scratch;
    const size_t size = dtype_row_bytes(in[0].dt, 1), width = (size_t)in[0].d[1] * size;
    if (in[0].dt != in[1].dt) return fail(E_INTERNAL, "store: the state has another type");
    return cuda_check(cudaMemcpy2DAsync(in[1].p, in[1].ld * size, in[0].p, in[0].ld * size, width, (size_t)in[0].d[0], cudaMemcpyDeviceToDevice, cuda_stream), "store");
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
        row[e.row * DP + e.d] = scaled(a.f.d[e.part], e.o, x[j]);
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
__device__ __forceinline__ void attend_split(const struct cached &a, const struct by_distance *bias, const struct delta16<T, 1> low[COUNT], int64_t n, int64_t h0, int heads, int kh, int which, struct split span) {
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
                if (bias) dot += bias_at(*bias, base + u * WARPS * SUB + lane / L - a.pos[n], (int)h0 + min(g, heads - 1));
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

template <typename T, int DP, int G, bool FRESH> __device__ __forceinline__ void attend_row(const struct cached &a, const struct by_distance *bias) {
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
    attend_split<T, DP, G, FRESH, COUNT>(a, bias, low, n, h0, heads, kh, blockIdx.z, span);
    if (span.live > 1) join_splits<T>(a, n, h0, heads, span.live);
}

template <typename T, int DP, int G, bool FRESH> __global__ void __launch_bounds__(team<DP>::threads, DP > 128 || G > 4 ? 1 : 2) attend_cached(const __grid_constant__ struct cached a) {
    attend_row<T, DP, G, FRESH>(a, NULL);
}

/* Apart from the others, which would carry the table in every launch. */
struct biased { struct cached a; struct by_distance by; };
template <typename T, int DP, int G> __global__ void __launch_bounds__(team<DP>::threads, DP > 128 || G > 4 ? 1 : 2) attend_biased(const __grid_constant__ struct biased b) {
    attend_row<T, DP, G, false>(b.a, &b.by);
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

template <typename T, int DP, bool FRESH> static const void *cached_kernel(int G) {
    return G == 1 ? (const void *)attend_cached<T, DP, 1, FRESH> : G == 4 ? (const void *)attend_cached<T, DP, 4, FRESH> : (const void *)attend_cached<T, DP, 8, FRESH>;
}

template <typename T, int DP> static const void *biased_kernel(int G) {
    return G == 1 ? (const void *)attend_biased<T, DP, 1> : G == 4 ? (const void *)attend_biased<T, DP, 4> : (const void *)attend_biased<T, DP, 8>;
}

/* How a row is attended to: finished or fresh, with a bias or without. */
enum kind { FINISHED, FRESH_ROW, WITH_BIAS };
template <typename T, int DP> static const void *kernel_of(enum kind kind, int G) {
    return kind == FRESH_ROW ? cached_kernel<T, DP, true>(G) : kind == WITH_BIAS ? biased_kernel<T, DP>(G) : cached_kernel<T, DP, false>(G);
}

/* b->by is read WITH_BIAS only; the other kernels' argument is b->a, which comes first. */
static err attend(const struct inst *inst, dtype dt, int64_t N, enum kind kind, struct biased *b, void *scratch) {
    struct cached *a = &b->a;
    a->part = (float *)scratch;
    a->H = inst->a.heads, a->K = inst->a.kv_heads, a->D = inst->a.head_dim, a->window = inst->a.window, a->splits = splits_of(inst, N, a->T);
    a->scale = inst->a.scale, a->softcap = inst->a.softcap;
    a->wide = a->D * (int64_t)dtype_row_bytes(dt, 1) % 16 == 0 && aligned16(a->k) && aligned16(a->v);
    int G = heads_per_block(a->H / a->K);
    dim3 grid((unsigned)N, (unsigned)blocks_per_row(inst), (unsigned)a->splits);
    WITH_TYPE(dt, {
        if (a->D <= 64) return cuda_launch(kernel_of<T, 64>(kind, G), grid, team<64>::threads, 0, b, "attention_cached");
        if (a->D <= 128) return cuda_launch(kernel_of<T, 128>(kind, G), grid, team<128>::threads, 0, b, "attention_cached");
        return cuda_launch(kernel_of<T, 256>(kind, G), grid, team<256>::threads, 0, b, "attention_cached");
    });
    return OK;
}

extern "C" err cuda_attention_cached(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run;
    TRY(refuse_shape(inst, &in[0]));
    if (in[0].d[0] < 1) return OK;
    if (in[0].dt != in[1].dt || in[0].dt != in[2].dt) return fail(E_INTERNAL, "attention_cached: cache and queries differ in type");
    struct biased b = {};
    struct cached &a = b.a;
    a.q = in[0].p, a.k = in[1].p, a.v = in[2].p, a.o = out[0].p, a.ldq = in[0].ld, a.ldo = out[0].ld, a.T = in[1].d[2], a.slots = (int)in[1].d[0];
    a.slot = view_i32(&in[3]), a.pos = view_i32(&in[4]);
    if (in[5].p) TRY(by_distance_of(inst, &in[5], &b.by));
    return attend(inst, in[0].dt, in[0].d[0], in[5].p ? WITH_BIAS : FINISHED, &b, scratch);
}

extern "C" err cuda_attend_fresh(const struct inst *inst, const struct view y[3], const struct view *in, struct view *out, const struct cuda_delta d[3], void *scratch) {
    const struct view *rope = in, *cached = in + 3 * MAX_IN, *o = out + 3 * MAX_OUT;
    TRY(refuse_shape(inst + 3, &cached[0]));
    if (y[0].dt != cached[1].dt || y[0].dt != cached[2].dt) return fail(E_INTERNAL, "attention_cached: cache and queries differ in type");
    struct biased b = {};
    struct cached &a = b.a;
    a.q = y[0].p, a.k = cached[1].p, a.v = cached[2].p, a.o = o->p, a.ldq = y[0].ld, a.ldo = o->ld, a.T = cached[1].d[2], a.slots = (int)cached[1].d[0];
    a.slot = view_i32(&cached[3]), a.pos = view_i32(&cached[4]);
    a.f.k = y[1].p, a.f.v = y[2].p, a.f.ldk = y[1].ld, a.f.ldv = y[2].ld, a.f.inv_freq = view_f32(&rope[2]), a.f.interleaved = inst->a.interleaved;
    a.f.r16 = y[0].dt != DT_F32 && inst[3].a.head_dim % 32 == 0;
    for (int k = 0; k < 3; k++) a.f.d[k] = d[k], a.f.r16 &= d[k].rank == 16 && d[k].wide;
    return attend(inst + 3, y[0].dt, y[0].d[0], FRESH_ROW, &b, scratch);
}
