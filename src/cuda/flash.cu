/* Attention on the tensor cores, after FlashAttention (Dao et al. 2022) and FlashAttention-2 (Dao 2023): scores live in
 * registers only, a tile of rows passes over the tiles of the other side with a running softmax. For bf16 and f16, head
 * sizes 64 and 128, causal or not, grouped heads, packed sequences; refuses window, softcap, bias, keys of another text,
 * scale <= 0, rows or pointers off 16 bytes (attention.cu has the form for those). mma.sync, ldmatrix and cp.async: sm_80 and later.
 *
 * Tiles. A tile of rows never crosses a sequence. Where sequences begin is known on the device only: each warp counts the
 * tiles of the sequences before its own (tile_of), and the grid is their upper bound, ceil(N / tile) + S; blocks left over leave.
 *
 * Three kernels of one shape: 4 warps, each owning 16 * MT rows; the other side comes in tiles of B rows by cp.async, one
 * tile ahead. Forward: rows are queries, S = q k^T, o = P v. dq: rows are queries, S and dP = do v^T, dq = dS k. dk and dv:
 * rows are keys and the scores are computed transposed, S^T = k q^T and dP^T = v do^T, so that P^T and dS^T are already
 * in the registers from which dv = P^T do and dk = dS^T q multiply; all query heads of the group pass by one after the
 * other. Scores are computed twice in the backward, and in exchange every sum has one owner and one order: no atomics.
 *
 * Fragments of mma.m16n8k16, lane = 4 g + t (each register two neighbouring elements, lower column in the lower half):
 *   A 16x16  a0 (g, 2t) a1 (g+8, 2t) a2 (g, 2t+8) a3 (g+8, 2t+8)      C 16x8  c0 c1 (g, 2t) (g, 2t+1)  c2 c3 (g+8, ..)
 *   B 16x8   b0 (k = 2t, n = g) b1 (k = 2t+8, n = g)
 * So two neighbouring C tiles, rounded, are one A tile: a0 = (c0 c1), a1 = (c2 c3) of the left one, a2, a3 of the right.
 * ldmatrix.x4 reads four 8x8 matrices, lane l giving the address of row l % 8 of matrix l / 8; register i of lane (g, t)
 * gets row g, columns 2t, 2t+1 of matrix i, with .trans column g, rows 2t, 2t+1. Hence for a row-major tile X[row][col]
 *   A = X          row l % 16, column half l / 16                      (a0..a3)
 *   B = X^T        row l % 8 + 8 (l / 16), column half l / 8 % 2       (b0 b1 of rows 0..7, then of rows 8..15)
 *   B = X, .trans  row l % 16, column half l / 16                      (b0 b1 of columns 0..7, then of columns 8..15)
 * Rows in shared memory are D * 2 bytes without padding; the 16-byte chunk c of row r lies at c ^ (r % 8), which puts the
 * eight rows of a matrix in different banks. Tiles start on 256 bytes, so going two chunks on is an exclusive or with 32 in
 * the address itself (chunk_at(r, c + 2 k) = chunk_at(r, c) ^ 32 k for c < 2).
 *
 * Numerics: products of 16-bit operands with f32 sums; P and dS are rounded to the compute type before they multiply, l is
 * summed from P before rounding; exponentials base 2 by ex2.approx; lse in natural log. */
#include "cuda/attention.cuh"
#include "cuda/flash.cuh"

/* --- the instructions ------------------------------------------------------------------------------------------- */
__device__ __forceinline__ uint32_t shared_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void ldm4(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void ldm4t(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
#define MMA(type)                                                                                                     \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
template <typename T> __device__ __forceinline__ void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
template <> __device__ __forceinline__ void mma<bf16>(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { MMA("bf16"); }
template <> __device__ __forceinline__ void mma<f16>(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { MMA("f16"); }
#undef MMA
/* 16 or 4 bytes from global to shared memory in the background; zeros when not real (nothing is read then, the address may be any). */
__device__ __forceinline__ void copy16(uint32_t dst, const void *src, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(__cvta_generic_to_global(src)), "r"(real ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy4(uint32_t dst, const void *src, bool real) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(dst), "l"(__cvta_generic_to_global(src)), "r"(real ? 4 : 0) : "memory");
}
/* One batch of copies is under way at a time: it is waited for where its tile is needed. */
__device__ __forceinline__ void copies_done(void) { asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory"); }
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* --- end of the instructions ------------------------------------------------------------------------------------ */

enum { WARPS = 4, THREADS = WARPS * 32 };
enum { Q, K, V, CU, O, LSE, DO }; /* operands */
#define LOG2E 1.4426950408889634f

struct flash {
    const void *q, *k, *v, *go;
    int64_t ldq, ldk, ldv, ldgo, ldlse;
    const float *delta;
    float *lse; /* written by the forward, read by the backward */
    const int32_t *cu;
    int S, H, group;
    float scale;
    bool causal;
};

__device__ __forceinline__ uint32_t pack(bf16, float lo, float hi) {
    __nv_bfloat162 x = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&x;
}
__device__ __forceinline__ uint32_t pack(f16, float lo, float hi) {
    __half2 x = __floats2half2_rn(lo, hi);
    return *(uint32_t *)&x;
}

/* Byte of chunk c (8 elements) of row r in a tile of D columns. */
template <int D> __device__ __forceinline__ uint32_t chunk_at(int r, int c) { return (uint32_t)(r * D * 2 + ((c ^ (r & 7)) << 4)); }

/* Asks for rows [first, first + R) of head `head`; rows from `end` on become zeros, so that no garbage meets a p of 0. */
template <typename T, int D, int R> __device__ __forceinline__ void fetch(uint32_t dst, const void *x, int64_t ld, int head, int first, int end) {
    enum { C = D / 8, STEP = THREADS / C }; /* STEP is a multiple of 8: the place of a chunk in its row stays */
    int r = threadIdx.x / C, c = threadIdx.x % C;
    const T *src = (const T *)x + (first + r) * ld + (int64_t)head * D + c * 8;
    dst += chunk_at<D>(r, c);
#pragma unroll
    for (int r0 = 0; r0 < R; r0 += STEP, src += STEP * ld) copy16(dst + r0 * D * 2, src, first + r + r0 < end);
}

/* c += A B^T: 16 MT rows of one tile (a_at: the first of them, a multiple of 16) against the B rows of another. */
template <typename T, int D, int MT, int B> __device__ __forceinline__ void rows_by_rows(float c[MT][B / 8][4], uint32_t a_at, uint32_t b_at) {
    int lane = threadIdx.x % 32;
    a_at += chunk_at<D>(lane & 15, lane >> 4), b_at += chunk_at<D>((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[MT][4], b[4];
#pragma unroll
        for (int m = 0; m < MT; m++) ldm4(a[m], (a_at ^ (k << 5)) + m * 16 * D * 2);
#pragma unroll
        for (int n = 0; n < B / 16; n++) {
            ldm4(b, (b_at ^ (k << 5)) + n * 16 * D * 2);
#pragma unroll
            for (int m = 0; m < MT; m++) mma<T>(c[m][2 * n], a[m], b[0], b[1]), mma<T>(c[m][2 * n + 1], a[m], b[2], b[3]);
        }
    }
}

/* acc += W X: W [16 MT, B] in C fragments, X the B rows of a tile. */
template <typename T, int D, int MT, int B>
__device__ __forceinline__ void weights_by_tile(float acc[MT][D / 8][4], const float w[MT][B / 8][4], uint32_t x_at) {
    int lane = threadIdx.x % 32;
    x_at += chunk_at<D>(lane & 15, lane >> 4);
#pragma unroll
    for (int k = 0; k < B / 16; k++) {
        uint32_t a[MT][4], b[4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) a[m][i] = pack(T(), w[m][2 * k + i / 2][i % 2 * 2], w[m][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            ldm4t(b, (x_at ^ (n << 5)) + k * 16 * D * 2);
#pragma unroll
            for (int m = 0; m < MT; m++) mma<T>(acc[m][2 * n], a[m], b[0], b[1]), mma<T>(acc[m][2 * n + 1], a[m], b[2], b[3]);
        }
    }
}

template <int MT, int NT> __device__ __forceinline__ void clear(float c[MT][NT][4]) {
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) c[i / 4 / NT][i / 4 % NT][i % 4] = 0;
}

/* The warp's rows, times `factor` per row half, through its own rows of a tile nobody else reads any more (`stage`), so
 * that they leave in 16-byte stores. first: the warp's first row; rows from `end` on are not written. */
template <typename T, int D, int MT>
__device__ __forceinline__ void put_rows(char *stage, const float acc[MT][D / 8][4], const float factor[MT][2], void *out,
                                         int64_t ld, int head, int first, int end) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *(uint32_t *)(stage + chunk_at<D>(m * 16 + half * 8 + g, n) + 4 * t) =
                    pack(T(), acc[m][n][2 * half] * factor[m][half], acc[m][n][2 * half + 1] * factor[m][half]);
    __syncwarp();
    for (int i = lane; i < 16 * MT * (D / 8); i += 32) {
        int r = i / (D / 8), c = i % (D / 8);
        if (first + r < end) *(uint4 *)((T *)out + (first + r) * ld + (int64_t)head * D + c * 8) = *(const uint4 *)(stage + chunk_at<D>(r, c));
    }
}

/* --- forward ---------------------------------------------------------------------------------------------------- */

/* One tile of scores enters the running softmax: s becomes p, m and l move on, o shrinks. m: the largest unscaled score. */
template <int MT, int NT, int OT>
__device__ __forceinline__ void soften(float s[MT][NT][4], float m[MT][2], float l[MT][2], float o[MT][OT][4], float scale2) {
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = m[i][half], sum = 0;
#pragma unroll
            for (int n = 0; n < NT; n++) top = fmaxf(top, fmaxf(s[i][n][2 * half], s[i][n][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 2));
            float top2 = top * scale2, shrink = exp2_fast(m[i][half] * scale2 - top2);
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) s[i][n][e] = exp2_fast(s[i][n][e] * scale2 - top2), sum += s[i][n][e];
            m[i][half] = top, l[i][half] = l[i][half] * shrink + sum; /* l: this lane's columns; the quad's are added at the end */
#pragma unroll
            for (int n = 0; n < OT; n++) o[i][n][2 * half] *= shrink, o[i][n][2 * half + 1] *= shrink;
        }
}

/* Tile `index` of the list of all sequences' tiles: first row, its sequence's begin and end; -1 past the list. Whole warps call it. */
__device__ __forceinline__ int3 tile_of(const struct flash &a, int rows, int index) {
    int lane = threadIdx.x % 32, before = 0;
    for (int s0 = 0; s0 < a.S; s0 += 32) {
        int s = s0 + lane, from = s < a.S ? a.cu[s] : 0, to = s < a.S ? a.cu[s + 1] : 0, mine = (to - from + rows - 1) / rows, sum = mine;
#pragma unroll
        for (int d = 1; d < 32; d <<= 1) {
            int x = __shfl_up_sync(0xFFFFFFFFu, sum, d);
            if (lane >= d) sum += x;
        }
        unsigned beyond = __ballot_sync(0xFFFFFFFFu, before + sum > index); /* the first of them has the tile: it has some of its own */
        if (beyond) {
            int who = __ffs((int)beyond) - 1, first = before + __shfl_sync(0xFFFFFFFFu, sum - mine, who);
            from = __shfl_sync(0xFFFFFFFFu, from, who), to = __shfl_sync(0xFFFFFFFFu, to, who);
            return make_int3(from + (index - first) * rows, from, to);
        }
        before += __shfl_sync(0xFFFFFFFFu, sum, 31);
    }
    return make_int3(-1, 0, 0);
}

template <typename T, int D, int MT, int B> __global__ void __launch_bounds__(THREADS) flash_forward(struct flash a, void *out, int64_t ldo) {
    enum { ROWS = WARPS * 16 * MT, RB = D * 2 };
    extern __shared__ __align__(256) char shared[]; /* q, then per stage k and v */
    int3 tile = tile_of(a, ROWS, (int)(gridDim.y - 1 - blockIdx.y)); /* the last tiles of a causal sequence have most to do: they start first */
    if (tile.x < 0) return;
    int h = blockIdx.x, kh = h / a.group, lane = threadIdx.x % 32, warp = threadIdx.x / 32, from = tile.y, to = tile.z;
    int row0 = tile.x + warp * 16 * MT, end = a.causal ? min(to, tile.x + ROWS) : to;
    uint32_t q_at = shared_at(shared), k_at = q_at + ROWS * RB;
    float o[MT][D / 8][4], m[MT][2], l[MT][2], scale2 = a.scale * LOG2E;
    clear<MT, D / 8>(o);
    for (int i = 0; i < MT * 2; i++) m[i / 2][i % 2] = -INFINITY, l[i / 2][i % 2] = 0;
    fetch<T, D, ROWS>(q_at, a.q, a.ldq, h, tile.x, to);
    fetch<T, D, B>(k_at, a.k, a.ldk, kh, from, to);
    fetch<T, D, B>(k_at + B * RB, a.v, a.ldv, kh, from, to);
    for (int j0 = from, stage = 0; j0 < end; j0 += B, stage ^= 1) {
        copies_done();
        __syncthreads(); /* this tile is there for all, and nobody reads the other stage any more */
        uint32_t at = k_at + stage * 2 * B * RB, next = k_at + (stage ^ 1) * 2 * B * RB;
        if (j0 + B < end) {
            fetch<T, D, B>(next, a.k, a.ldk, kh, j0 + B, to);
            fetch<T, D, B>(next + B * RB, a.v, a.ldv, kh, j0 + B, to);
        }
        if (row0 >= to || (a.causal && j0 > row0 + 16 * MT - 1)) continue; /* nothing of this tile is seen by this warp */
        float s[MT][B / 8][4];
        clear<MT, B / 8>(s);
        rows_by_rows<T, D, MT, B>(s, q_at + warp * 16 * MT * RB, at);
        if (j0 + B > to || (a.causal && j0 + B - 1 > row0))
#pragma unroll
            for (int i = 0; i < MT * (B / 8) * 4; i++) {
                int e = i % 4, n = i / 4 % (B / 8), mt = i / 4 / (B / 8), key = j0 + n * 8 + lane % 4 * 2 + e % 2;
                if (key >= to || (a.causal && key > row0 + mt * 16 + e / 2 * 8 + lane / 4)) s[mt][n][e] = -INFINITY;
            }
        soften<MT, B / 8, D / 8>(s, m, l, o, scale2);
        weights_by_tile<T, D, MT, B>(o, s, at + B * RB);
    }
    float inverse[MT][2];
#pragma unroll
    for (int i = 0; i < MT * 2; i++) {
        float sum = l[i / 2][i % 2];
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
        inverse[i / 2][i % 2] = 1 / sum;
        int row = row0 + i / 2 * 16 + i % 2 * 8 + lane / 4;
        if (lane % 4 == 0 && row < to) a.lse[row * a.ldlse + h] = m[i / 2][i % 2] * a.scale + logf(sum);
    }
    put_rows<T, D, MT>(shared + warp * 16 * MT * RB, o, inverse, out, ldo, h, row0, to);
}

/* --- backward --------------------------------------------------------------------------------------------------- */

template <typename T, int D, int MT, int B> __global__ void __launch_bounds__(THREADS) flash_dq(struct flash a, void *dq, int64_t lddq) {
    enum { ROWS = WARPS * 16 * MT, RB = D * 2 };
    extern __shared__ __align__(256) char shared[]; /* q, do, then per stage k and v */
    int3 tile = tile_of(a, ROWS, (int)(gridDim.y - 1 - blockIdx.y));
    if (tile.x < 0) return;
    int h = blockIdx.x, kh = h / a.group, lane = threadIdx.x % 32, warp = threadIdx.x / 32, from = tile.y, to = tile.z;
    int row0 = tile.x + warp * 16 * MT, end = a.causal ? min(to, tile.x + ROWS) : to;
    uint32_t q_at = shared_at(shared), g_at = q_at + ROWS * RB, k_at = g_at + ROWS * RB, mine = warp * 16 * MT * RB;
    float acc[MT][D / 8][4], lse2[MT][2], delta[MT][2], factor[MT][2], scale2 = a.scale * LOG2E;
    clear<MT, D / 8>(acc);
#pragma unroll
    for (int i = 0; i < MT * 2; i++) {
        int row = row0 + i / 2 * 16 + i % 2 * 8 + lane / 4;
        lse2[i / 2][i % 2] = row < to ? a.lse[row * a.ldlse + h] * LOG2E : 0;
        delta[i / 2][i % 2] = row < to ? a.delta[(int64_t)row * a.H + h] : 0;
        factor[i / 2][i % 2] = a.scale;
    }
    fetch<T, D, ROWS>(q_at, a.q, a.ldq, h, tile.x, to);
    fetch<T, D, ROWS>(g_at, a.go, a.ldgo, h, tile.x, to);
    fetch<T, D, B>(k_at, a.k, a.ldk, kh, from, to);
    fetch<T, D, B>(k_at + B * RB, a.v, a.ldv, kh, from, to);
    for (int j0 = from, stage = 0; j0 < end; j0 += B, stage ^= 1) {
        copies_done();
        __syncthreads();
        uint32_t at = k_at + stage * 2 * B * RB, next = k_at + (stage ^ 1) * 2 * B * RB;
        if (j0 + B < end) {
            fetch<T, D, B>(next, a.k, a.ldk, kh, j0 + B, to);
            fetch<T, D, B>(next + B * RB, a.v, a.ldv, kh, j0 + B, to);
        }
        if (row0 >= to || (a.causal && j0 > row0 + 16 * MT - 1)) continue;
        float s[MT][B / 8][4], dp[MT][B / 8][4];
        clear<MT, B / 8>(s), clear<MT, B / 8>(dp);
        rows_by_rows<T, D, MT, B>(s, q_at + mine, at);
        rows_by_rows<T, D, MT, B>(dp, g_at + mine, at + B * RB);
        bool mask = j0 + B > to || (a.causal && j0 + B - 1 > row0);
#pragma unroll
        for (int i = 0; i < MT * (B / 8) * 4; i++) {
            int e = i % 4, n = i / 4 % (B / 8), mt = i / 4 / (B / 8), key = j0 + n * 8 + lane % 4 * 2 + e % 2;
            float ds = exp2_fast(s[mt][n][e] * scale2 - lse2[mt][e / 2]) * (dp[mt][n][e] - delta[mt][e / 2]);
            s[mt][n][e] = mask && (key >= to || (a.causal && key > row0 + mt * 16 + e / 2 * 8 + lane / 4)) ? 0 : ds;
        }
        weights_by_tile<T, D, MT, B>(acc, s, at);
    }
    put_rows<T, D, MT>(shared + mine, acc, factor, dq, lddq, h, row0, to);
}

/* Rows are keys. The loop runs over (query head of the group, tile of queries); lse and delta of a tile travel with it.
 * Queries past the end: q, do, lse and delta are zeros there, so p = 1 and dp = 0 meet zero rows and add nothing. */
template <typename T, int D, int MT, int B>
__global__ void __launch_bounds__(THREADS) flash_dkv(struct flash a, void *dk, int64_t lddk, void *dv, int64_t lddv) {
    enum { ROWS = WARPS * 16 * MT, RB = D * 2, STAGE = 2 * B * RB + 2 * B * 4 };
    extern __shared__ __align__(256) char shared[]; /* k, v, then per stage q, do, lse, delta */
    int3 tile = tile_of(a, ROWS, (int)blockIdx.y); /* here the first tiles have most to do */
    if (tile.x < 0) return;
    int kh = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, to = tile.z;
    int row0 = tile.x + warp * 16 * MT, begin = a.causal ? tile.x : tile.y, tiles = (to - begin + B - 1) / B, steps = tiles * a.group;
    uint32_t k_at = shared_at(shared), v_at = k_at + ROWS * RB, q_at = v_at + ROWS * RB, mine = warp * 16 * MT * RB;
    float sum_k[MT][D / 8][4], sum_v[MT][D / 8][4], scale2 = a.scale * LOG2E;
    clear<MT, D / 8>(sum_k), clear<MT, D / 8>(sum_v);
    fetch<T, D, ROWS>(k_at, a.k, a.ldk, kh, tile.x, to);
    fetch<T, D, ROWS>(v_at, a.v, a.ldv, kh, tile.x, to);
    for (int step = -1, h = kh * a.group, i0 = begin - B, stage = 1; step < steps; step++, stage ^= 1) {
        int next_h = h, next_i = i0 + B; /* step -1 only asks for the first tile */
        if (next_i >= to) next_h++, next_i = begin;
        copies_done();
        __syncthreads();
        uint32_t at = q_at + stage * STAGE, next = q_at + (stage ^ 1) * STAGE;
        if (step + 1 < steps) {
            fetch<T, D, B>(next, a.q, a.ldq, next_h, next_i, to);
            fetch<T, D, B>(next + B * RB, a.go, a.ldgo, next_h, next_i, to);
            for (int i = threadIdx.x; i < 2 * B; i += THREADS) {
                int row = min(next_i + i % B, to - 1);
                const float *src = i < B ? a.lse + row * a.ldlse + next_h : a.delta + (int64_t)row * a.H + next_h;
                copy4(next + 2 * B * RB + i * 4, src, next_i + i % B < to);
            }
        }
        int first = i0; /* the tile of this step */
        h = next_h, i0 = next_i;
        if (step < 0 || row0 >= to || (a.causal && first + B - 1 < row0)) continue;
        const float *lse = (const float *)(shared + (at - k_at) + 2 * B * RB), *delta = lse + B;
        float p[MT][B / 8][4], ds[MT][B / 8][4];
        clear<MT, B / 8>(p), clear<MT, B / 8>(ds);
        rows_by_rows<T, D, MT, B>(p, k_at + mine, at);
        rows_by_rows<T, D, MT, B>(ds, v_at + mine, at + B * RB);
        bool mask = a.causal && first < row0 + 16 * MT - 1;
#pragma unroll
        for (int n = 0; n < B / 8; n++) {
            float2 ls = *(const float2 *)(lse + n * 8 + lane % 4 * 2), de = *(const float2 *)(delta + n * 8 + lane % 4 * 2);
#pragma unroll
            for (int i = 0; i < MT * 4; i++) {
                int e = i % 4, mt = i / 4, query = first + n * 8 + lane % 4 * 2 + e % 2;
                float w = exp2_fast(p[mt][n][e] * scale2 - (e % 2 ? ls.y : ls.x) * LOG2E);
                if (mask && query < row0 + mt * 16 + e / 2 * 8 + lane / 4) w = 0;
                p[mt][n][e] = w, ds[mt][n][e] = w > 0 ? w * (ds[mt][n][e] - (e % 2 ? de.y : de.x)) : w;
            }
        }
        weights_by_tile<T, D, MT, B>(sum_v, p, at + B * RB);
        weights_by_tile<T, D, MT, B>(sum_k, ds, at);
    }
    float by_scale[MT][2], by_one[MT][2];
    for (int i = 0; i < MT * 2; i++) by_scale[i / 2][i % 2] = a.scale, by_one[i / 2][i % 2] = 1;
    put_rows<T, D, MT>(shared + mine, sum_k, by_scale, dk, lddk, kh, row0, to);
    put_rows<T, D, MT>(shared + ROWS * RB + mine, sum_v, by_one, dv, lddv, kh, row0, to);
}

/* --- launching -------------------------------------------------------------------------------------------------- */
static int64_t most_tiles(int64_t tokens, int64_t sequences, int rows) { return (tokens + rows - 1) / rows + sequences; }

bool flash_takes(const struct inst *inst, const struct view *read, int n_read, const struct view *written, int n_written) {
    const struct op_attr *a = &inst->a;
    dtype dt = read[0].dt;
    if (!attention_plain(inst) || (dt != DT_BF16 && dt != DT_F16) || (a->head_dim != 64 && a->head_dim != 128)) return false;
    if (a->window > 0 || a->softcap > 0 || !(a->scale > 0) || read[0].d[0] > 2000000) return false; /* grid.y ends at 65535 */
    for (int i = 0; i < n_read + n_written; i++) {
        const struct view *x = i < n_read ? &read[i] : &written[i - n_read];
        if (x->dt != dt || x->ld % 8 || (uintptr_t)x->p % 16) return false;
    }
    return true;
}

static struct flash flash_of(const struct inst *i, const struct view *in) {
    struct flash a = {};
    a.q = in[Q].p, a.k = in[K].p, a.v = in[V].p, a.ldq = in[Q].ld, a.ldk = in[K].ld, a.ldv = in[V].ld;
    a.cu = view_i32(&in[CU]), a.S = (int)in[CU].d[0] - 1, a.H = i->a.heads, a.group = i->a.heads / i->a.kv_heads, a.scale = i->a.scale, a.causal = i->a.causal;
    return a;
}

/* How the shared memory of the three kernels adds up: rows owned, and two stages of the other side. */
#define OWNED(n, MT, D) ((n) * WARPS * 16 * (MT) * (D) * 2)
#define STAGES(B, D) (2 * 2 * (B) * (D) * 2)

/* Runs `...` with T and D of a case that flash_takes() took. */
#define WITH_CASE(dt, head, ...)                                                                                      \
    do {                                                                                                              \
        if ((dt) == DT_BF16 && (head) == 64) { typedef bf16 T; enum { D = 64 }; __VA_ARGS__; }                        \
        else if ((dt) == DT_BF16) { typedef bf16 T; enum { D = 128 }; __VA_ARGS__; }                                  \
        else if ((head) == 64) { typedef f16 T; enum { D = 64 }; __VA_ARGS__; }                                       \
        else { typedef f16 T; enum { D = 128 }; __VA_ARGS__; }                                                        \
    } while (0)

static err allow_shared(const void *kernel, int bytes) {
    return cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention");
}

static dim3 grid_of(int heads, const struct view *in, int rows) { return dim3((unsigned)heads, (unsigned)most_tiles(in[Q].d[0], in[CU].d[0] - 1, rows)); }

err flash_attention(const struct inst *inst, const struct view *in, struct view *out) {
    struct flash a = flash_of(inst, in);
    a.lse = view_f32(&out[1]), a.ldlse = out[1].ld;
    WITH_CASE(in[Q].dt, inst->a.head_dim, {
        enum { MT = 2, B = D == 128 ? 32 : 64, ROWS = WARPS * 16 * MT, BYTES = OWNED(1, MT, D) + STAGES(B, D) };
        TRY(allow_shared((const void *)flash_forward<T, D, MT, B>, BYTES));
        flash_forward<T, D, MT, B><<<grid_of(a.H, in, ROWS), THREADS, BYTES, cuda_stream>>>(a, out[0].p, out[0].ld);
    });
    return CUDA_LAUNCHED("attention");
}

err flash_attention_bwd(const struct inst *inst, const struct view *in, struct view *out, const float *delta) {
    struct flash a = flash_of(inst, in);
    a.go = in[DO].p, a.ldgo = in[DO].ld, a.lse = view_f32(&in[LSE]), a.ldlse = in[LSE].ld, a.delta = delta;
    WITH_CASE(in[Q].dt, inst->a.head_dim, {
        enum { MT = 1, B = 64, ROWS = WARPS * 16 * MT, BYTES = OWNED(2, MT, D) + STAGES(B, D), FLOATS = 2 * 2 * B * 4 };
        TRY(allow_shared((const void *)flash_dq<T, D, MT, B>, BYTES));
        flash_dq<T, D, MT, B><<<grid_of(a.H, in, ROWS), THREADS, BYTES, cuda_stream>>>(a, out[0].p, out[0].ld);
        TRY(CUDA_LAUNCHED("attention"));
        TRY(allow_shared((const void *)flash_dkv<T, D, MT, B>, BYTES + FLOATS));
        flash_dkv<T, D, MT, B><<<grid_of(inst->a.kv_heads, in, ROWS), THREADS, BYTES + FLOATS, cuda_stream>>>(a, out[1].p, out[1].ld, out[2].p, out[2].ld);
    });
    return CUDA_LAUNCHED("attention");
}
