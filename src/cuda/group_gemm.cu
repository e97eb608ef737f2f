/* Products of a group of linears on Hopper's own instructions (group_gemm.h): wgmma out of shared memory, filled by TMA, the two kept
 * apart by mbarriers.
 *
 * A block stays on its multiprocessor and takes one tile of an output after the other: one warp asks for the operands' stages,
 * DEPTH of K each, as fast as the ring has room (produce); one to three warpgroups multiply and store (consume). Tiles of all
 * outputs are one list, walked so that neighbours in time share operands in L2; the tiles of a cluster share one of them by multicast.
 * The low-rank part is a few more steps of K in the same sums: in the forward the first ones, so that the sums can be scaled by
 * alpha before the large product adds to them; in the backward the last, after the dY_k W_k of all outputs, one after the other.
 *
 * Operands lie in shared memory in rows of 128 bytes with TMA's 128-byte swizzle. x, dY, T, dT, and in the forward W and B, have K
 * innermost; in the backward W and A have it outermost, which wgmma takes by its transpose bit (PTX ISA, "Matrix descriptor").
 *
 * The tile's shape comes from a formula of the sizes (cycles_of), so a sum's order depends on them alone. Refused: other cards,
 * types other than bf16 and f16, rows that are not on 16 bytes. Called by linear.c. */
#include <cuda.h>
#include <string.h>
#include "cuda/group_gemm.h"
#include "cuda/types.cuh"

enum { DEPTH = 64, ROW_BYTES = 128, LINE = 64 }; /* K of a stage; bytes of a row in shared memory; columns of a block of it */

/* A tile's shape: WGS warpgroups of consumers, each MT times 64 rows, BN columns; STAGES in the ring; BOXES of 2 KiB for each
 * warp's output; clusters of CM times CN tiles: those one above the other share B, those beside each other A; PER_SM such
 * blocks on a multiprocessor. */
template <int WGS_, int MT_, int BN_, int STAGES_, int BOXES_, int CM_, int CN_, int PER_SM_> struct tile_shape {
    enum {
        WGS = WGS_, MT = MT_, BN = BN_, STAGES = STAGES_, BOXES = BOXES_, CM = CM_, CN = CN_, CL = CM * CN, PER_SM = PER_SM_,
        BM = WGS * MT * 64, WARPS = WGS * 4, THREADS = WARPS * 32 + 32,
        A_BYTES = BM * ROW_BYTES, B_BYTES = BN * ROW_BYTES, STAGE = A_BYTES + B_BYTES,
        BOX = 16 * ROW_BYTES, BOXES_AT = STAGES * STAGE, FULL = BOXES_AT + WARPS * BOXES * BOX, EMPTY = FULL + STAGES * 8, BYTES = EMPTY + STAGES * 8
    };
};

/* What a launch knows. big: x or dY_k against W_k, low: T_k against B_k or dT against A. */
struct group_args {
    CUtensorMap big_a[MAX_GROUP], big_b[MAX_GROUP], low_a[MAX_GROUP], low_b[MAX_GROUP], out[MAX_GROUP];
    const float *bias[MAX_GROUP];
    float alpha[MAX_GROUP];
    int depth[MAX_GROUP], low[MAX_GROUP];          /* K of the products */
    int width[MAX_GROUP], first[MAX_GROUP];        /* columns of an output; its first column of tiles */
    int n, outs, cols, rows, super, tiles;         /* summands of a tile, outputs, columns of tiles, rows of (clusters of) tiles */
    int stagger;                                   /* cycles by which a warpgroup starts after the one before it */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* --- the instructions ------------------------------------------------------------------------------------------- */
#define D10(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define C1(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define C8(j) C1(j), C1(j + 1), C1(j + 2), C1(j + 3), C1(j + 4), C1(j + 5), C1(j + 6), C1(j + 7)
#define D32 D10() D10(1) D10(2) "%30, %31"
#define D64 D10() D10(1) D10(2) D10(3) D10(4) D10(5) "%60, %61, %62, %63"
#define D96 D10() D10(1) D10(2) D10(3) D10(4) D10(5) D10(6) D10(7) D10(8) "%90, %91, %92, %93, %94, %95"
#define D128 D10() D10(1) D10(2) D10(3) D10(4) D10(5) D10(6) D10(7) D10(8) D10(9) D10(10) D10(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA(n, type, regs, da, db, s, tb, ...)                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" s ", 0;\n"                                                      \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" regs "}, %" da ", %" db ", p, 1, 1, 0, %" tb ";\n}" \
                 : __VA_ARGS__ : "l"(a), "l"(b), "r"(add), "n"(TB))
#define WGMMA_EITHER(...)                                                                                             \
    do {                                                                                                              \
        if constexpr (sizeof(is_bf16(T())) == 1) WGMMA_BF16(__VA_ARGS__);                                             \
        else WGMMA_F16(__VA_ARGS__);                                                                                  \
    } while (0)
#define WGMMA_BF16(n, ...) WGMMA(n, "bf16", __VA_ARGS__)
#define WGMMA_F16(n, ...) WGMMA(n, "f16", __VA_ARGS__)
char is_bf16(bf16);
short is_bf16(f16);

/* c (+)= A B, 64 x N x 16; TB: B lies in rows of K (TB 0: of columns) */
template <typename T, int N, int TB> __device__ __forceinline__ void wgmma(float (&c)[N / 8][4], uint64_t a, uint64_t b, int add) {
    if constexpr (N == 64) WGMMA_EITHER("64", D32, "32", "33", "34", "35", C8(0));
    else if constexpr (N == 128) WGMMA_EITHER("128", D64, "64", "65", "66", "67", C8(0), C8(8));
    else if constexpr (N == 192) WGMMA_EITHER("192", D96, "96", "97", "98", "99", C8(0), C8(8), C8(16));
    else WGMMA_EITHER("256", D128, "128", "129", "130", "131", C8(0), C8(8), C8(16), C8(24));
}
__device__ __forceinline__ void wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit(void) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wgmma_wait(void) { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }

__device__ __forceinline__ void barrier_init(uint32_t bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory"); }
__device__ __forceinline__ void barrier_expect(uint32_t bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
/* At another block of the cluster. Without .release.cluster, which would wait for all memory of the GPU: the stage was only read. */
__device__ __forceinline__ void barrier_arrive_at(uint32_t bar, int cta) {
    asm volatile("{\n.reg .b32 at;\nmapa.shared::cluster.u32 at, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [at];\n}" ::"r"(bar), "r"(cta) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity) {
    asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}" ::"r"(bar), "r"(parity) : "memory");
}
__device__ __forceinline__ void cluster_sync(void) { asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ uint32_t cluster_rank(void) {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
/* A box, to the same place of each block of the cluster that is in `to` (a bit each) if there are several. */
template <bool SEVERAL> __device__ __forceinline__ void tma_load(uint32_t dst, const CUtensorMap *m, uint32_t bar, int col, int row, int to) {
    if constexpr (SEVERAL)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst), "l"(m), "r"(bar), "r"(col),
                     "r"(row), "h"((short)to)
                     : "memory");
    else asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(dst), "l"(m), "r"(bar), "r"(col), "r"(row) : "memory");
}
__device__ __forceinline__ void tma_store(const CUtensorMap *m, uint32_t src, int col, int row) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];\ncp.async.bulk.commit_group;" ::"l"(m), "r"(src), "r"(col), "r"(row) : "memory");
}
template <int LEFT> __device__ __forceinline__ void stores_read(void) { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory"); }
__device__ __forceinline__ void stm4(uint32_t at, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap *m) { asm volatile("prefetch.tensormap [%0];" ::"l"(m) : "memory"); }
__device__ __forceinline__ uint32_t pack(bf16, float lo, float hi) {
    __nv_bfloat162 x = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&x;
}
__device__ __forceinline__ uint32_t pack(f16, float lo, float hi) {
    __half2 x = __floats2half2_rn(lo, hi);
    return *(uint32_t *)&x;
}
/* --- end of the instructions ------------------------------------------------------------------------------------ */

struct ring { int stage; uint32_t phase; };
template <class S> __device__ __forceinline__ void advance(ring &r) {
    if (++r.stage == S::STAGES) r.stage = 0, r.phase ^= 1;
}

struct place { int row, col, k; };
/* Tile t: rows of tiles in groups of `super`, within a group column by column, so that neighbours in time share operands in L2. */
template <class S> __device__ __forceinline__ place place_of(const group_args &g, int t) {
    int per = g.super * g.cols, s = t / per, rest = t - s * per, high = min(g.super, g.rows - s * g.super), col = rest / high, k = 0;
    while (k + 1 < g.outs && col >= g.first[k + 1]) k++;
    int row = (s * g.super + rest - col * high) * S::CM, rank = S::CL > 1 ? (int)cluster_rank() : 0;
    return {(row + rank / S::CN) * S::BM, ((col - g.first[k]) * S::CN + rank % S::CN) * S::BN, k};
}
template <class S> __device__ __forceinline__ int first_tile(void) { return blockIdx.x / S::CL; }
template <class S> __device__ __forceinline__ int tile_step(void) { return gridDim.x / S::CL; }

/* --- the producer ------------------------------------------------------------------------------------------------ */
/* Of a shared operand each block fetches an equal part for all: rows, or columns of a B in rows of K, or else rows of its K. */
template <bool BACK, class S>
__device__ __forceinline__ void fetch(const CUtensorMap *a, const CUtensorMap *b, int depth, place p, ring &r, uint32_t smem) {
    constexpr bool BY_K = BACK && S::BN / S::CM % LINE != 0;
    enum { A_ROWS = S::BM / S::CN, B_COLS = BY_K ? S::BN : S::BN / S::CM };
    int rank = S::CL > 1 ? (int)cluster_rank() : 0, m = rank / S::CN, n = rank % S::CN;
    int a0 = n * A_ROWS, b0 = BY_K ? 0 : m * B_COLS, k0 = BY_K ? m * (DEPTH / S::CM) : 0;
    int a_to = ((1 << S::CN) - 1) << m * S::CN, b_to = (S::CM == 1 ? 1 : S::CM == 2 ? 1 | 1 << S::CN : 1 | 1 << S::CN | 1 << 2 * S::CN | 1 << 3 * S::CN) << n;
    for (int k = 0; k < depth; k += DEPTH) {
        uint32_t full = smem + S::FULL + r.stage * 8, to = smem + r.stage * S::STAGE;
        barrier_wait(smem + S::EMPTY + r.stage * 8, r.phase ^ 1);
        barrier_expect(full, S::STAGE);
        tma_load<(S::CN > 1)>(to + a0 * ROW_BYTES, a, full, k, p.row + a0, a_to);
        to += S::A_BYTES + b0 * ROW_BYTES;
        if (BACK)
            for (int j = 0; j < B_COLS; j += LINE) tma_load<(S::CM > 1)>(to + (j + k0) * ROW_BYTES, b, full, p.col + b0 + j, k + k0, b_to);
        else tma_load<(S::CM > 1)>(to, b, full, k, p.col + b0, b_to);
        advance<S>(r);
    }
}

/* Asks for the descriptors before they are needed: a lane each. */
template <bool BACK> __device__ __forceinline__ void prefetch_maps(const group_args &g) {
    int lane = threadIdx.x % 32, k = lane % MAX_GROUP, what = lane / MAX_GROUP;
    if (what == 0 && k < g.n) prefetch_map(&g.big_a[k]);
    if (what == 1 && k < (BACK ? g.n : g.outs)) prefetch_map(&g.big_b[k]);
    if (what == 2 && k < g.outs && g.low[k]) prefetch_map(&g.low_a[k]);
    if (what == 3 && k < g.outs && g.low[k]) prefetch_map(&g.low_b[k]);
    if (what == 4 && k < g.outs) prefetch_map(&g.out[k]);
}

template <bool BACK, class S> __device__ __forceinline__ void produce(const group_args &g, uint32_t smem) {
    ring r = {0, 0};
    for (int t = first_tile<S>(); t < g.tiles; t += tile_step<S>()) {
        place p = place_of<S>(g, t);
        if (BACK) {
            for (int k = 0; k < g.n; k++) fetch<BACK, S>(&g.big_a[k], &g.big_b[k], g.depth[k], p, r, smem);
            fetch<BACK, S>(&g.low_a[0], &g.low_b[0], g.low[0], p, r, smem);
        } else {
            bool scaled = g.alpha[p.k] != 1;
            for (int i = 0; i < 2; i++) /* the low-rank product first where it has to be scaled, else last: consume() */
                if ((i == 0) == scaled) fetch<BACK, S>(&g.low_a[p.k], &g.low_b[p.k], g.low[p.k], p, r, smem);
                else fetch<BACK, S>(&g.big_a[0], &g.big_b[p.k], g.depth[0], p, r, smem);
        }
    }
}

/* --- the consumers ----------------------------------------------------------------------------------------------- */
/* A stage's rows of 128 bytes, 16-byte chunks exclusive-ored with the row's number. Groups of 8 rows are 1024 bytes apart (stride
 * offset); blocks of 64 columns of a B in rows of K are DEPTH rows apart (leading offset; unused otherwise). */
__device__ __forceinline__ uint64_t descriptor(uint32_t at) {
    return (uint64_t)((at & 0x3FFFF) >> 4) | (uint64_t)(DEPTH * ROW_BYTES >> 4) << 16 | (uint64_t)(8 * ROW_BYTES >> 4) << 32 | (uint64_t)1 << 62;
}

/* Where a warpgroup of consumers stands. */
struct consumer {
    uint32_t smem, rows; /* shared memory; bytes from a stage's beginning to the group's rows of A */
    ring at;
    int add, prev; /* 0: the next product overwrites the sums; the stage of the product under way, -1: none */
    int giver;     /* the block whose stages this lane gives back: those that the block shares with; -1: none */
};

template <class S> __device__ __forceinline__ int giver_of(void) {
    int lane = threadIdx.x % 32, rank = S::CL > 1 ? (int)cluster_rank() : 0;
    return lane < S::CL && (lane / S::CN == rank / S::CN || lane % S::CN == rank % S::CN) ? lane : -1;
}
template <class S> __device__ __forceinline__ void release(const consumer &c) {
    uint32_t bar = c.smem + S::EMPTY + c.prev * 8;
    if (c.giver < 0) return;
    if (S::CL == 1) barrier_arrive(bar);
    else barrier_arrive_at(bar, c.giver);
}

/* One stage, the first k16 times 16 of its K. The product before is done with then, and its stage given back. */
template <typename T, bool BACK, class S> __device__ __forceinline__ void multiply(float (&acc)[S::MT][S::BN / 8][4], int k16, consumer &c) {
    barrier_wait(c.smem + S::FULL + c.at.stage * 8, c.at.phase);
    uint32_t stage = c.smem + c.at.stage * S::STAGE;
    uint64_t a = descriptor(stage + c.rows), b = descriptor(stage + S::A_BYTES);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
        if (k && k >= k16) break;
#pragma unroll
        for (int m = 0; m < S::MT; m++) wgmma<T, S::BN, BACK>(acc[m], a + (m * 64 * ROW_BYTES >> 4) + k * 2, b + k * (BACK ? 16 * ROW_BYTES >> 4 : 2), c.add);
        c.add = 1;
    }
    wgmma_commit();
    if (c.prev >= 0) {
        wgmma_wait<1>();
        release<S>(c);
    }
    c.prev = c.at.stage;
    advance<S>(c.at);
}
/* The low-rank product, `low` of K: whole stages and a shorter one. */
template <typename T, bool BACK, class S> __device__ __forceinline__ void multiply_low(float (&acc)[S::MT][S::BN / 8][4], int low, consumer &c) {
#pragma unroll 1
    for (; low > 32; low -= DEPTH) multiply<T, BACK, S>(acc, 4, c);
    if (low > 16) multiply<T, BACK, S>(acc, 2, c);
    else if (low > 0) multiply<T, BACK, S>(acc, 1, c);
}

template <class S> __device__ __forceinline__ void drain(float (&acc)[S::MT][S::BN / 8][4], consumer &c) {
    wgmma_wait<0>();
#pragma unroll
    for (int m = 0; m < S::MT; m++)
#pragma unroll
        for (int j = 0; j < S::BN / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) asm volatile("" : "+f"(acc[m][j][i])::"memory"); /* not to be read before */
    release<S>(c);
    c.prev = -1;
}

template <class S> __device__ __forceinline__ void scale(float (&acc)[S::MT][S::BN / 8][4], float by) {
#pragma unroll
    for (int m = 0; m < S::MT; m++)
#pragma unroll
        for (int j = 0; j < S::BN / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[m][j][i] *= by;
}

template <class S> __device__ __forceinline__ void add_bias(float (&acc)[S::MT][S::BN / 8][4], const float *bias, int col, int width) {
    col += threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < S::BN / 8; j++) {
        bool real = col + 8 * j < width;
        float b0 = real ? bias[col + 8 * j] : 0, b1 = real ? bias[col + 8 * j + 1] : 0;
#pragma unroll
        for (int m = 0; m < S::MT; m++) acc[m][j][0] += b0, acc[m][j][1] += b1, acc[m][j][2] += b0, acc[m][j][3] += b1;
    }
}

/* The tile to global memory, each warp its 16 rows (of each 64), 64 columns at a time through one of its boxes. */
template <typename T, class S> __device__ __forceinline__ void store(const group_args &g, const float (&acc)[S::MT][S::BN / 8][4], place p, int &box, uint32_t smem) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, width = g.width[p.k];
    uint32_t boxes = smem + S::BOXES_AT + warp * S::BOXES * S::BOX;
#pragma unroll
    for (int m = 0; m < S::MT; m++)
#pragma unroll
        for (int b = 0; b < S::BN / LINE; b++) {
            if (p.col + b * LINE >= width) continue;
            uint32_t at = boxes + box * S::BOX, row = at + lane % 16 * ROW_BYTES;
            if (lane == 0) stores_read<S::BOXES - 1>();
            __syncwarp();
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float *l = acc[m][b * 8 + 2 * j], *h = acc[m][b * 8 + 2 * j + 1];
                stm4(row + ((2 * j + lane / 16) ^ lane % 8) * 16, pack(T(), l[0], l[1]), pack(T(), l[2], l[3]), pack(T(), h[0], h[1]), pack(T(), h[2], h[3]));
            }
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            __syncwarp();
            if (lane == 0) tma_store(&g.out[p.k], at, p.col + b * LINE, p.row + (warp / 4 * S::MT + m) * 64 + warp % 4 * 16);
            box = box + 1 == S::BOXES ? 0 : box + 1;
        }
}

/* Warpgroups that run a while apart do their scaling and storing while another multiplies; the distance lasts, since each has
 * the matrix units to itself for as long as the other does without. */
template <class S> __device__ __forceinline__ void wait_turn(uint32_t smem, uint32_t cycles) {
    barrier_wait(smem + S::FULL, 0);
    uint32_t begin = clock();
    while ((uint32_t)clock() - begin < cycles) {}
}

template <typename T, bool BACK, class S> __device__ __forceinline__ void consume(const group_args &g, uint32_t smem, int warp) {
    float acc[S::MT][S::BN / 8][4];
    consumer c = {smem, (uint32_t)(warp / 4 * S::MT * 64 * ROW_BYTES), {0, 0}, 0, -1, giver_of<S>()};
    int box = 0, steps = 0;
    for (int k = 0; k < (BACK ? g.n : 1); k++) steps += (g.depth[k] + DEPTH - 1) / DEPTH;
    if (g.stagger) wait_turn<S>(smem, warp / 4 * g.stagger);
    for (int t = first_tile<S>(); t < g.tiles; t += tile_step<S>()) {
        place p = place_of<S>(g, t);
        int low = g.low[p.k];
        bool scaled = !BACK && g.alpha[p.k] != 1;
        c.add = 0;
        if (scaled && low) {
            multiply_low<T, BACK, S>(acc, low, c);
            drain<S>(acc, c);
            scale<S>(acc, g.alpha[p.k]);
        }
        for (int i = 0; i < steps; i++) multiply<T, BACK, S>(acc, DEPTH / 16, c);
        if (!scaled) multiply_low<T, BACK, S>(acc, low, c);
        drain<S>(acc, c);
        if (g.bias[p.k]) add_bias<S>(acc, g.bias[p.k], p.col, g.width[p.k]);
        store<T, S>(g, acc, p, box, smem);
    }
    if (threadIdx.x % 32 == 0) stores_read<0>();
}
#endif

template <typename T, bool BACK, class S> __global__ void __launch_bounds__(S::THREADS, S::PER_SM) group_kernel(const __grid_constant__ group_args g) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) unsigned char shared[];
    uint32_t smem = __shfl_sync(0xFFFFFFFFu, (uint32_t)__cvta_generic_to_shared(shared), 0); /* a register, not computed anew at each use */
    int warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0);
    if (warp == S::WARPS) prefetch_maps<BACK>(g);
    if (threadIdx.x == 0) {
        if (smem % 1024) __trap(); /* what the swizzle is reckoned from */
        for (int s = 0; s < S::STAGES; s++) {
            barrier_init(smem + S::FULL + s * 8, 1);
            barrier_init(smem + S::EMPTY + s * 8, S::WARPS * (S::CM + S::CN - 1));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (S::CL > 1) cluster_sync();
    else __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    if (warp == S::WARPS) {
        if (threadIdx.x % 32 == 0) produce<BACK, S>(g, smem);
        __syncwarp();
    } else consume<T, BACK, S>(g, smem, warp);
    if (S::CL > 1) cluster_sync(); /* the neighbour's loads and arrivals come here too */
#else
    __trap();
#endif
}

/* --- the host's side --------------------------------------------------------------------------------------------- */
struct tiling {
    const void *kernel[2][2]; /* [f16][backward] */
    int bm, bn, cm, cn, per_sm, threads, bytes;
};
#define TILING(...)                                                                                                   \
    {                                                                                                                 \
        {{(const void *)group_kernel<bf16, false, tile_shape<__VA_ARGS__>>, (const void *)group_kernel<bf16, true, tile_shape<__VA_ARGS__>>}, \
         {(const void *)group_kernel<f16, false, tile_shape<__VA_ARGS__>>, (const void *)group_kernel<f16, true, tile_shape<__VA_ARGS__>>}}, \
            tile_shape<__VA_ARGS__>::BM, tile_shape<__VA_ARGS__>::BN, tile_shape<__VA_ARGS__>::CM, tile_shape<__VA_ARGS__>::CN, tile_shape<__VA_ARGS__>::PER_SM, tile_shape<__VA_ARGS__>::THREADS, \
            tile_shape<__VA_ARGS__>::BYTES                                                                            \
    }
/* Large tiles for large products; of small ones the smaller tiles fill the card. */
static const struct tiling tilings[] = {
    TILING(2, 1, 256, 4, 2, 2, 1, 1), TILING(3, 1, 192, 4, 1, 1, 1, 1), TILING(2, 1, 192, 5, 1, 1, 1, 1),
    TILING(2, 1, 128, 6, 2, 1, 1, 1), TILING(2, 1, 64, 8, 1, 1, 1, 1),  TILING(1, 1, 64, 8, 1, 1, 1, 1),
};
enum { TILINGS = sizeof tilings / sizeof *tilings };
/* Rows of K in a box of a B in rows of K. */
static int box_of_k(const struct tiling *t) { return t->bn / t->cm % LINE ? DEPTH / t->cm : DEPTH; }

static __typeof__(&cuTensorMapEncodeTiled) encode;

/* Is there a Hopper card, and a driver with tensor maps? Asked once. */
static bool ready(void) {
    static int state; /* 0 unknown, 1 yes, -1 no */
    if (state) return state > 0;
    int major = 0, minor = 0;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    bool can = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
               cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) == cudaSuccess && major == 9 && minor == 0 &&
               cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode, 12000, cudaEnableDefault, &found) == cudaSuccess && found == cudaDriverEntryPointSuccess;
    if (!can) cudaGetLastError();
    state = can ? 1 : -1;
    return can;
}

/* A 16-bit matrix as a tensor map: boxes of 64 columns and box_rows rows; zeros outside, nothing written there. */
struct matrix { const void *p; int64_t rows, cols, ld; };
static err map_of(CUtensorMap *m, dtype dt, struct matrix x, int box_rows) {
    cuuint64_t size[2] = {(cuuint64_t)x.cols, (cuuint64_t)x.rows}, stride[1] = {(cuuint64_t)x.ld * 2};
    cuuint32_t box[2] = {LINE, (cuuint32_t)box_rows}, step[2] = {1, 1};
    if (!ready()) return fail(E_INTERNAL, "a group of products in one launch needs a Hopper card");
    CUresult r = encode(m, dt == DT_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, (void *)x.p, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? OK : fail(E_INTERNAL, "describing a matrix of %lld x %lld to the card failed (CUDA error %d)", (long long)x.rows, (long long)x.cols, (int)r);
}

static bool aligned(const void *p, int64_t ld) { return (uintptr_t)p % 16 == 0 && ld % 8 == 0; }
static const void *past(const void *p, int64_t elements) { return (const char *)p + elements * 2; }
static int ceil_of(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

/* Fills in what follows from the tiling. */
static void lay_out(struct group_args *a, const struct tiling *t, int64_t rows) {
    a->cols = 0;
    for (int k = 0; k < a->outs; k++) a->first[k] = a->cols, a->cols += ceil_of(a->width[k], t->bn * t->cn);
    a->rows = ceil_of(rows, t->bm * t->cm);
    a->super = 16 / t->cm;
    if (a->super > a->rows) a->super = a->rows;
    a->tiles = a->rows * a->cols;
}

/* Cycles: so many tiles one after the other, each its stages of the matrix units (2048 products a cycle; one or three warpgroups
 * leave gaps) and what no stage hides. Fitted to an H100; a function of the shape alone, so that results repeat. */
static double cycles_of(const struct group_args *a, const struct tiling *t, int64_t rows) {
    struct group_args l = *a;
    int stages = ceil_of(a->low[0], DEPTH);
    for (int k = 0; k < a->n; k++) stages += ceil_of(a->depth[k], DEPTH);
    lay_out(&l, t, rows);
    int at_once = cuda_sms / (t->cm * t->cn) * t->per_sm;
    return (double)ceil_of(l.tiles, at_once) * (stages * (t->bm * t->bn / 32 + (t->threads / 128 == 2 ? 30 : 140)) + 2500.0);
}

static const struct tiling *choose(const struct group_args *a, int64_t rows) {
    const struct tiling *best = NULL;
    double least = 0;
    for (int i = 0; i < TILINGS; i++) {
        if (tilings[i].bm > 64 && tilings[i].bm * tilings[i].cm >= 2 * rows) continue; /* half empty */
        double c = cycles_of(a, &tilings[i], rows);
        if (!best || c < least) best = &tilings[i], least = c;
    }
    return best;
}

static err launch(struct group_args *a, const struct tiling *t, dtype dt, bool back) {
    const void *kernel = t->kernel[dt == DT_F16][back];
    TRY(cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, t->bytes), "a group of products"));
    int size = t->cm * t->cn, clusters = cuda_sms / size * t->per_sm;
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute together = {};
    together.id = cudaLaunchAttributeClusterDimension;
    together.val.clusterDim = {(unsigned)size, 1, 1};
    c.gridDim = dim3((unsigned)((a->tiles < clusters ? a->tiles : clusters) * size));
    c.blockDim = dim3((unsigned)t->threads);
    c.dynamicSmemBytes = (size_t)t->bytes;
    c.stream = cuda_stream;
    c.attrs = &together;
    c.numAttrs = size > 1;
    void *params[] = {a};
    return cuda_check(cudaLaunchKernelExC(&c, kernel, params), "a group of products");
}

extern "C" bool cuda_group_forward_takes(const struct cuda_group_forward *g) {
    bool ok = (g->dt == DT_BF16 || g->dt == DT_F16) && g->rows > 0 && g->rows < 1 << 24 && g->C > 0 && g->C < 1 << 24 && g->C % 8 == 0 && aligned(g->x, g->ldx);
    int64_t r0 = 0;
    for (int k = 0; ok && k < g->n; r0 += g->rank[k++]) {
        ok = g->O[k] > 0 && g->O[k] < 1 << 24 && g->O[k] % 8 == 0 && aligned(g->w[k], 0) && aligned(g->y[k], g->ldy[k]);
        if (ok && g->rank[k]) ok = g->rank[k] % 8 == 0 && aligned(past(g->t, r0), g->ldt) && aligned(g->b[k], g->ldb[k]);
    }
    return ok && ready();
}

extern "C" err cuda_group_forward(const struct cuda_group_forward *g) {
    struct group_args a = {};
    int64_t r0 = 0;
    a.n = 1, a.outs = g->n, a.depth[0] = (int)g->C;
    for (int k = 0; k < g->n; k++) a.width[k] = (int)g->O[k], a.low[k] = g->rank[k], a.alpha[k] = g->alpha[k], a.bias[k] = g->bias[k];
    const struct tiling *t = choose(&a, g->rows);
    lay_out(&a, t, g->rows);
    TRY(map_of(&a.big_a[0], g->dt, {g->x, g->rows, g->C, g->ldx}, t->bm / t->cn));
    for (int k = 0; k < g->n; r0 += g->rank[k++]) {
        TRY(map_of(&a.big_b[k], g->dt, {g->w[k], g->O[k], g->C, g->C}, t->bn / t->cm));
        TRY(map_of(&a.out[k], g->dt, {g->y[k], g->rows, g->O[k], g->ldy[k]}, 16));
        if (!g->rank[k]) continue;
        TRY(map_of(&a.low_a[k], g->dt, {past(g->t, r0), g->rows, g->rank[k], g->ldt}, t->bm / t->cn));
        TRY(map_of(&a.low_b[k], g->dt, {g->b[k], g->O[k], g->rank[k], g->ldb[k]}, t->bn / t->cm));
    }
    return launch(&a, t, g->dt, false);
}

extern "C" bool cuda_group_backward_takes(const struct cuda_group_backward *g) {
    bool ok = (g->dt == DT_BF16 || g->dt == DT_F16) && g->rows > 0 && g->rows < 1 << 24 && g->C > 0 && g->C < 1 << 24 && g->C % 8 == 0 && aligned(g->dx, g->lddx);
    for (int k = 0; ok && k < g->n; k++) ok = g->O[k] > 0 && g->O[k] < 1 << 24 && g->O[k] % 8 == 0 && aligned(g->dy[k], g->lddy[k]) && aligned(g->w[k], 0);
    if (ok && g->R) ok = g->R % 8 == 0 && aligned(g->dt_low, g->lddt) && aligned(g->a, g->lda);
    return ok && ready();
}

extern "C" err cuda_group_backward(const struct cuda_group_backward *g) {
    struct group_args a = {};
    a.n = g->n, a.outs = 1, a.width[0] = (int)g->C, a.low[0] = (int)g->R;
    for (int k = 0; k < g->n; k++) a.depth[k] = (int)g->O[k];
    const struct tiling *t = choose(&a, g->rows);
    lay_out(&a, t, g->rows);
    for (int k = 0; k < g->n; k++) {
        TRY(map_of(&a.big_a[k], g->dt, {g->dy[k], g->rows, g->O[k], g->lddy[k]}, t->bm / t->cn));
        TRY(map_of(&a.big_b[k], g->dt, {g->w[k], g->O[k], g->C, g->C}, box_of_k(t)));
    }
    if (g->R) TRY(map_of(&a.low_a[0], g->dt, {g->dt_low, g->rows, g->R, g->lddt}, t->bm / t->cn));
    if (g->R) TRY(map_of(&a.low_b[0], g->dt, {g->a, g->R, g->C, g->lda}, box_of_k(t)));
    TRY(map_of(&a.out[0], g->dt, {g->dx, g->rows, g->C, g->lddx}, 16));
    return launch(&a, t, g->dt, true);
}
