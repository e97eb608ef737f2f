/* dT = alpha dY B and dB += alpha dY^T T of a group of linears (low_rank.h), the two products of low-rank deltas that read the same large
 * matrix: each dY is read once, in 16-byte pieces that go to shared memory several stages ahead (cp.async), and there serves both:
 * row by row as the left operand of dY B, and transposed by ldmatrix as that of dY^T T. Arithmetic is mma m16n8k16, sums in f32.
 * (T = x A^T and dA = dT^T x have one large operand each and nothing to share: cuBLASLt's.)
 *
 * sweep_kernel: the large matrices are cut into strips of columns, and the tiles of all strips, from the top row to the bottom one,
 * strip after strip, are dealt out evenly. A block keeps a strip's sums over rows (dB) in registers until it leaves the strip; sums over
 * columns (dT) end with each tile: warps have columns each, their parts are added through shared memory. Both go to scratch, the
 * first a slot for each (block, strip), the second one for each (strip, tile); sum_kernel adds the slots in order, and to the gradients.
 *
 * Every sum has an order that depends on the shapes and the number of multiprocessors only. Refused: f32, odd alignments, ranks that
 * are no multiple of 8 or above 64, one small output (two products by cuBLASLt are faster): linear.c, the caller, has cuBLASLt do those. */
#include "cuda/low_rank.h"
#include "cuda/types.cuh"

enum {
    WARPS = 8, THREADS = WARPS * 32, MOST_RANK = 64, LINE = 64, /* columns that strips are cut by */
    MOST_STAGES = 8,
    FLAT_BYTES = 24 << 20 /* of dT's sums in scratch: more rows go in several rounds */
};

/* --- the instructions ------------------------------------------------------------------------------------------- */
/* 16 bytes to shared memory, of which those past the first `bytes` are zeros. */
__device__ __forceinline__ void copy16(uint32_t to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copies_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void copies_wait(void) { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
__device__ __forceinline__ void ldm4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void ldm4_trans(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
#define MMA(type)                                                                                                     \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
__device__ __forceinline__ void mma(bf16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { MMA("bf16"); }
__device__ __forceinline__ void mma(f16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { MMA("f16"); }
__device__ __forceinline__ void put2(bf16 *to, float lo, float hi) { *(__nv_bfloat162 *)to = __floats2bfloat162_rn(lo, hi); }
__device__ __forceinline__ void put2(f16 *to, float lo, float hi) { *(__half2 *)to = __floats2half2_rn(lo, hi); }
/* --- end of the instructions ------------------------------------------------------------------------------------ */

/* Until all but the last stages - 2 commits have arrived. */
__device__ __forceinline__ void wait_for_stage(int stages) {
    switch (stages) {
    case 2: copies_wait<0>(); break;
    case 3: copies_wait<1>(); break;
    case 4: copies_wait<2>(); break;
    case 5: copies_wait<3>(); break;
    case 6: copies_wait<4>(); break;
    case 7: copies_wait<5>(); break;
    default: copies_wait<MOST_STAGES - 2>(); break;
    }
}

__device__ __forceinline__ void add4(float4 &to, float4 x) { to.x += x.x, to.y += x.y, to.z += x.z, to.w += x.w; }

/* Rows of 16-byte pieces in shared memory: a piece's number is exclusive-ored with its row's, so that 8 rows of one column of
 * pieces are on different banks. */
__device__ __forceinline__ uint32_t piece(int row, int p, int line_bytes) { return (uint32_t)(row * line_bytes + (p ^ (row & 7)) * 16); }

/* The first thing that block b of `blocks` does of `work`, and the block that does the thing at `place`. */
__host__ __device__ static inline int64_t share(int64_t work, int blocks, int b) { return work * b / blocks; }
__host__ __device__ static inline int sharer(int64_t work, int blocks, int64_t place) { return (int)(((place + 1) * blocks - 1) / work); }

/* --- the sweep ------------------------------------------------------------------------------------------------------ */
/* Large matrices Y_k [rows, cols_k] against the columns from r0_k on of Z [rows, R]: tall sums Y_k^T Z_k, and flat ones Y_k B_k. */
struct sweep {
    const void *y[MAX_GROUP], *b[MAX_GROUP], *z;
    int64_t ldy[MAX_GROUP], ldb[MAX_GROUP], ldz;
    float alpha[MAX_GROUP];
    float *grad[MAX_GROUP]; /* gets the tall sums, [cols, rank]; NULL: nobody wants them */
    int64_t ldg[MAX_GROUP];
    void *low;              /* gets the flat sums: [rows, R] */
    int64_t ldlow;
    float4 *tall, *flat;    /* scratch */
    int64_t work;           /* tiles times lines of 64 columns */
    int cols[MAX_GROUP], rank[MAX_GROUP], r0[MAX_GROUP]; /* cols 0: absent */
    int first[MAX_GROUP + 1], line[MAX_GROUP + 1];       /* an output's first strip and its first line */
    int n, strips, rows, tiles, stages, blocks, mt, nt, mr;
};

/* A tile: MR times 16 rows, WARPS times MT times 16 columns; NT: 8 columns of Z each, even. */
template <int MT_, int NT_, int MR_> struct sweep_shape {
    enum {
        MT = MT_, NT = NT_, MR = MR_, ROWS = MR * 16, LINE_BYTES = MT * WARPS * 32, Y_BYTES = ROWS * LINE_BYTES,
        Z_LINE = NT * 16 + 16, STAGE = Y_BYTES + ROWS * Z_LINE, /* an odd number of pieces a line of Z: 8 lines on different banks */
        QUADS = NT * 32, SUMS = 2 * MR * WARPS * QUADS * 16
    };
};

struct strip { int k, col, width, before, lines; }; /* of output k; before: lines of the strips before it */
__host__ __device__ static inline strip strip_of(const sweep &g, int s) {
    int k = 0;
    while (s >= g.first[k + 1]) k++;
    int j = s - g.first[k], n = g.first[k + 1] - g.first[k], lines = g.line[k + 1] - g.line[k], l0 = j * lines / n, l1 = (j + 1) * lines / n;
    int end = l1 * LINE < g.cols[k] ? l1 * LINE : g.cols[k];
    return {k, l0 * LINE, end - l0 * LINE, g.line[k] + l0, l1 - l0};
}
/* The strip that something at `place` of the work belongs to, and how many of a strip's tiles begin before `place`. */
__host__ __device__ static inline int strip_at(const sweep &g, int64_t place) {
    int line = (int)(place / g.tiles), k = 0;
    while (line >= g.line[k + 1]) k++;
    int n = g.first[k + 1] - g.first[k], lines = g.line[k + 1] - g.line[k];
    return g.first[k] + ((line - g.line[k] + 1) * n - 1) / lines;
}
__host__ __device__ static inline int tiles_before(const sweep &g, const strip &p, int64_t place) {
    int64_t d = place - (int64_t)p.before * g.tiles;
    return d <= 0 ? 0 : d >= (int64_t)p.lines * g.tiles ? g.tiles : (int)((d + p.lines - 1) / p.lines);
}

/* A block's way: the tiles from `tile` to `end` of strip s, then the next strip's. At its end s is the number of strips. */
struct cursor { strip p; int s, tile, end; };
__device__ __forceinline__ void enter(const sweep &g, cursor &c) {
    c.p = strip_of(g, c.s);
    c.tile = tiles_before(g, c.p, share(g.work, g.blocks, blockIdx.x));
    c.end = tiles_before(g, c.p, share(g.work, g.blocks, blockIdx.x + 1));
}
__device__ __forceinline__ void settle(const sweep &g, cursor &c) {
    while (c.tile == c.end && c.s < g.strips) {
        if (c.end < g.tiles) c.s = g.strips;
        else if (++c.s < g.strips) enter(g, c);
    }
}

template <typename T, class S> __device__ __forceinline__ void sweep_fetch(const sweep &g, const cursor &c, uint32_t to) {
    enum { PIECES = S::LINE_BYTES / 16, STEP = THREADS / PIECES };
    int k = c.p.k, p = threadIdx.x % PIECES, row = threadIdx.x / PIECES, top = c.tile * S::ROWS;
    const T *y = (const T *)g.y[k], *z = (const T *)g.z + g.r0[k];
    const T *mine = y + (top + row) * g.ldy[k] + c.p.col + p * 8;
    bool real = p * 8 < c.p.width;
#pragma unroll
    for (int i = 0; i < S::ROWS / STEP; i++) {
        bool there = real && top + row + i * STEP < g.rows;
        copy16(to + piece(row + i * STEP, p, S::LINE_BYTES), there ? mine + i * STEP * g.ldy[k] : y, there ? 16 : 0);
    }
    for (int i = threadIdx.x; i < S::ROWS * S::NT; i += THREADS) {
        int r = i / S::NT, n = i % S::NT;
        bool there = n * 8 < g.rank[k] && top + r < g.rows;
        copy16(to + S::Y_BYTES + r * S::Z_LINE + n * 16, there ? z + (top + r) * g.ldz + n * 8 : z, there ? 16 : 0);
    }
}

/* A warp's columns of a strip: the 16 from (m * WARPS + warp) * 16 on. Their rows of B, as right operands. */
template <typename T, class S> __device__ __forceinline__ void load_b(const sweep &g, const cursor &c, uint32_t (&b)[S::MT][S::NT][2]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k = c.p.k;
    const uint16_t *from = (const uint16_t *)g.b[k] + c.p.col * g.ldb[k];
#pragma unroll
    for (int m = 0; m < S::MT; m++)
#pragma unroll
        for (int n = 0; n < S::NT; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int col = (m * WARPS + warp) * 16 + h * 8 + lane % 4 * 2, r = n * 8 + lane / 4;
                bool there = col < c.p.width && r < g.rank[k]; /* widths are even */
                const uint16_t *p = from + col * g.ldb[k] + r;
                b[m][n][h] = there ? (uint32_t)p[0] | (uint32_t)p[g.ldb[k]] << 16 : 0;
            }
}

/* One tile: tall sums go on, flat ones of the warp's columns to `sums`. */
template <typename T, class S>
__device__ __forceinline__ void sweep_tile(float (&tall)[S::MT][S::NT][4], const uint32_t (&b)[S::MT][S::NT][2], uint32_t stage, float4 *sums) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row = lane & 15, half = lane >> 4, row_t = (lane >> 4) * 8 + (lane & 7), half_t = lane >> 3 & 1;
#pragma unroll
    for (int r = 0; r < S::MR; r++) {
        uint32_t z[S::NT / 2][4], y[4];
        float flat[S::NT][4] = {};
#pragma unroll
        for (int n = 0; n < S::NT / 2; n++) ldm4_trans(z[n], stage + S::Y_BYTES + (r * 16 + row) * S::Z_LINE + (2 * n + half) * 16);
#pragma unroll
        for (int m = 0; m < S::MT; m++) {
            int p = (m * WARPS + warp) * 2;
            ldm4(y, stage + piece(r * 16 + row, p + half, S::LINE_BYTES));
#pragma unroll
            for (int n = 0; n < S::NT; n++) mma(T(), flat[n], y, b[m][n][0], b[m][n][1]);
            ldm4_trans(y, stage + piece(r * 16 + row_t, p + half_t, S::LINE_BYTES));
#pragma unroll
            for (int n = 0; n < S::NT; n++) mma(T(), tall[m][n], y, z[n / 2][n % 2 * 2], z[n / 2][n % 2 * 2 + 1]);
        }
#pragma unroll
        for (int n = 0; n < S::NT; n++) sums[(r * WARPS + warp) * S::QUADS + n * 32 + lane] = make_float4(flat[n][0], flat[n][1], flat[n][2], flat[n][3]);
    }
}

/* A tile's flat sums of all warps to scratch. */
template <class S> __device__ __forceinline__ void put_flat(const float *sums, float *to) {
    for (int i = threadIdx.x; i < S::MR * S::QUADS * 4; i += THREADS) {
        const float *p = sums + i / (S::QUADS * 4) * WARPS * S::QUADS * 4 + i % (S::QUADS * 4);
        float sum = p[0];
#pragma unroll
        for (int w = 1; w < WARPS; w++) sum += p[w * S::QUADS * 4];
        to[i] = sum;
    }
}

/* The block's tall sums of a strip to its slot: quad ((m * NT + n) * WARPS + warp) * 32 + lane. */
template <class S> __device__ __forceinline__ void put_tall(const sweep &g, const cursor &c, float (&tall)[S::MT][S::NT][4]) {
    float4 *to = g.tall + (int64_t)(blockIdx.x + c.s) * (S::MT * S::NT * THREADS) + threadIdx.x;
    int warp = threadIdx.x / 32;
#pragma unroll
    for (int m = 0; m < S::MT; m++)
#pragma unroll
        for (int n = 0; n < S::NT; n++) {
            float *v = tall[m][n];
            if ((m * WARPS + warp) * 16 < c.p.width && n * 8 < g.rank[c.p.k]) to[(m * S::NT + n) * THREADS] = make_float4(v[0], v[1], v[2], v[3]);
            v[0] = v[1] = v[2] = v[3] = 0;
        }
}

template <typename T, class S> __global__ void __launch_bounds__(THREADS, 1) sweep_kernel(const __grid_constant__ sweep g) {
    extern __shared__ __align__(1024) unsigned char shared[];
    let_next_start();
    wait_for_earlier();
    uint32_t smem = (uint32_t)__cvta_generic_to_shared(shared);
    float *sums = (float *)(shared + g.stages * S::STAGE), *due = NULL; /* due: where the last tile's flat sums belong */
    float tall[S::MT][S::NT][4] = {};
    uint32_t b[S::MT][S::NT][2];
    cursor at, ahead;
    at.s = strip_at(g, share(g.work, g.blocks, blockIdx.x));
    enter(g, at);
    settle(g, at);
    ahead = at;
    int to = 0, from = 0, turn = 0;
    for (int i = 0; at.s < g.strips; i++) { /* fetches run stages - 1 ahead of products */
        if (i >= g.stages - 1) {
            wait_for_stage(g.stages);
            __syncthreads();
        }
        if (ahead.s < g.strips) {
            sweep_fetch<T, S>(g, ahead, smem + to * S::STAGE);
            ahead.tile++;
            settle(g, ahead);
        }
        copies_commit();
        if (++to == g.stages) to = 0;
        if (i == 0) load_b<T, S>(g, at, b);
        if (i < g.stages - 1) continue;
        enum { TURN = S::SUMS / 8 }; /* floats */
        if (due) put_flat<S>(sums + (turn ^ 1) * TURN, due);
        sweep_tile<T, S>(tall, b, smem + from * S::STAGE, (float4 *)(sums + turn * TURN));
        due = (float *)(g.flat + ((int64_t)at.s * g.tiles + at.tile) * (S::MR * S::QUADS));
        turn ^= 1;
        if (++from == g.stages) from = 0;
        if (++at.tile < at.end) continue;
        put_tall<S>(g, at, tall);
        settle(g, at);
        if (at.s < g.strips) load_b<T, S>(g, at, b);
    }
    if (!due) return;
    __syncthreads();
    put_flat<S>(sums + (turn ^ 1) * (S::SUMS / 8), due);
}

/* --- the second stage of the sweep --------------------------------------------------------------------------------- */
__device__ __forceinline__ float4 sum_of(const float4 *p, int n, int64_t apart) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = 0; i < n; i++) add4(sum, __ldcg(p + i * apart));
    return sum;
}

/* The blocks that have a slot for strip s: of those that its work is dealt out to the last may have found no tile beginning there; a
 * share is no less than a tile, so all the others did. */
struct blocks { int first, last; };
__host__ __device__ static inline blocks blocks_of(const sweep &g, const strip &p) {
    int64_t from = (int64_t)p.before * g.tiles, end = from + (int64_t)p.lines * g.tiles;
    blocks b = {sharer(g.work, g.blocks, from), sharer(g.work, g.blocks, end - 1)};
    if (b.last > b.first && tiles_before(g, p, share(g.work, g.blocks, b.last)) == g.tiles) b.last--;
    return b;
}

/* Page `page` of the tall sums: a strip, one m, one n. */
__device__ __forceinline__ void sum_tall(const sweep &g, int page) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pages = g.mt * g.nt, s = page / pages, m = page % pages / g.nt, n = page % g.nt;
    strip p = strip_of(g, s);
    int col = (m * WARPS + warp) * 16 + lane / 4, r = n * 8 + lane % 4 * 2;
    float *grad = g.grad[p.k], alpha = g.alpha[p.k];
    if (!grad || col >= p.width || n * 8 >= g.rank[p.k]) return;
    blocks b = blocks_of(g, p);
    int64_t slot = (int64_t)pages * THREADS;
    float4 sum = sum_of(g.tall + (b.first + s) * slot + (m * g.nt + n) * THREADS + threadIdx.x, b.last - b.first + 1, slot);
    bool both = col + 8 < p.width;
    int64_t ld = g.ldg[p.k];
    float2 *to = (float2 *)(grad + (p.col + col) * ld + r), v = to[0];
    to[0] = make_float2(v.x + alpha * sum.x, v.y + alpha * sum.y);
    if (!both) return;
    to += 4 * ld; /* 8 rows of ld / 2 */
    v = to[0];
    to[0] = make_float2(v.x + alpha * sum.z, v.y + alpha * sum.w);
}

/* Item `item` of the flat sums: 16 rows of an output, one n. */
template <typename T> __device__ __forceinline__ void sum_flat(const sweep &g, int item) {
    int lane = threadIdx.x % 32, rows16 = g.tiles * g.mr, each = rows16 * g.nt, k = item / each, row16 = item % each / g.nt, n = item % g.nt;
    if (k >= g.n || n * 8 >= g.rank[k]) return;
    int64_t strip = (int64_t)each * 32;
    float4 sum = sum_of(g.flat + g.first[k] * strip + (row16 * g.nt + n) * 32 + lane, g.first[k + 1] - g.first[k], strip);
    float alpha = g.alpha[k];
    int row = row16 * 16 + lane / 4;
    T *to = (T *)g.low + row * g.ldlow + g.r0[k] + n * 8 + lane % 4 * 2;
    if (row < g.rows) put2(to, alpha * sum.x, alpha * sum.y);
    if (row + 8 < g.rows) put2(to + 8 * g.ldlow, alpha * sum.z, alpha * sum.w);
}

template <typename T> __global__ void __launch_bounds__(THREADS) sum_kernel(const __grid_constant__ sweep g) {
    let_next_start();
    wait_for_earlier();
    int pages = g.strips * g.mt * g.nt, page = blockIdx.x;
    if (page < pages) sum_tall(g, page);
    else sum_flat<T>(g, (page - pages) * WARPS + threadIdx.x / 32);
}

/* --- the host's side --------------------------------------------------------------------------------------------- */
static int ceil_of(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }
static int64_t at_most(int64_t x, int64_t most) { return x < most ? x : most; }
static bool aligned(const void *p, int64_t ld) { return (uintptr_t)p % 16 == 0 && ld % 8 == 0; }
static bool narrow(dtype dt) { return dt == DT_BF16 || dt == DT_F16; }
static bool size_is_ours(int64_t size) { return size > 0 && size % 8 == 0 && size < 1 << 24; }
static bool rank_is_ours(int64_t rank) { return rank > 0 && rank % 8 == 0 && rank <= MOST_RANK; }
static const void *row_of(const void *p, int64_t row, int64_t ld) { return (const char *)p + row * ld * 2; }

/* Stages that a block has room for, `rest` bytes left out. */
static int stages_of(int stage, int rest) {
    static int room;
    if (!room && cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) != cudaSuccess) cudaGetLastError(), room = 99 << 10;
    return (int)at_most((room - rest) / stage, MOST_STAGES);
}

/* A card with less shared memory (8.6, 8.9: 99 KiB) may have no room for two stages: such a shape is cuBLASLt's. */
static bool has_room(int stage, int rest) { return stages_of(stage, rest) >= 2; }

template <typename A> static err launch(void (*kernel)(A), int grid, int bytes, A *a) {
    if (bytes > 48 << 10) TRY(cuda_check(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "a low-rank product"));
    return cuda_launch((const void *)kernel, dim3((unsigned)grid), THREADS, bytes, (void *)a, "a low-rank product");
}

/* The shapes of a sweep. Wide strips leave fewer flat sums and more tall ones, which also take registers. */
struct sweep_kind {
    int mt, nt, mr, stage, sums;
    void (*kernel[2])(const sweep); /* bf16, f16 */
};
#define KIND(...)                                                                                                     \
    {                                                                                                                 \
        sweep_shape<__VA_ARGS__>::MT, sweep_shape<__VA_ARGS__>::NT, sweep_shape<__VA_ARGS__>::MR, sweep_shape<__VA_ARGS__>::STAGE, sweep_shape<__VA_ARGS__>::SUMS, { \
            sweep_kernel<bf16, sweep_shape<__VA_ARGS__>>, sweep_kernel<f16, sweep_shape<__VA_ARGS__>>                 \
        }                                                                                                             \
    }
static const struct sweep_kind kinds[] = {KIND(2, 2, 4), KIND(4, 2, 2), KIND(8, 2, 1), KIND(2, 4, 2), KIND(4, 4, 2), KIND(2, 8, 1)};

static const struct sweep_kind *kind_of(int n, const int64_t *O, const int *rank) {
    int64_t wide = 0;
    int most = 0;
    for (int k = 0; k < n; k++) {
        if (rank[k]) wide += O[k];
        if (rank[k] > most) most = rank[k];
    }
    return &kinds[most <= 16 ? (wide < 2048 ? 0 : wide < 16384 ? 1 : 2) : most <= 32 ? (wide < 2048 ? 3 : 4) : 5];
}

static int strips_of(const struct sweep_kind *t, int64_t cols) { return ceil_of(cols, t->mt * WARPS * 16); }
static size_t tall_bytes(const struct sweep_kind *t, int strips) { return (size_t)(cuda_sms + strips) * (size_t)(t->mt * t->nt * THREADS) * sizeof(float4); }
static size_t flat_tile_bytes(const struct sweep_kind *t, int strips) { return (size_t)strips * (size_t)(t->mr * t->nt) * 32 * sizeof(float4); }

/* Tiles that a round sweeps. */
static int64_t round_of(const struct sweep_kind *t, int strips) {
    int64_t tiles = (int64_t)(FLAT_BYTES / flat_tile_bytes(t, strips));
    return tiles < 1 ? 1 : tiles;
}

/* Deals out the strips of the outputs that are there, and runs both stages. */
static err sweep_run(sweep *g, const struct sweep_kind *t, dtype dt) {
    enum { TILES = 2 }; /* no fewer a block: each leaves a slot that has to be added up */
    int most = 0;
    g->mt = t->mt, g->nt = t->nt, g->mr = t->mr;
    g->tiles = ceil_of(g->rows, t->mr * 16);
    for (int k = 0; k < g->n; k++) {
        int strips = strips_of(t, g->cols[k]), lines = ceil_of(g->cols[k], LINE);
        g->first[k + 1] = g->first[k] + strips, g->line[k + 1] = g->line[k] + lines;
        if (strips && ceil_of(lines, strips) > most) most = ceil_of(lines, strips);
    }
    for (int k = g->n; k < MAX_GROUP; k++) g->first[k + 1] = g->first[g->n], g->line[k + 1] = g->line[g->n];
    g->strips = g->first[g->n];
    g->work = (int64_t)g->line[g->n] * g->tiles;
    if (g->strips) {
        int64_t shares = g->work / (most * TILES);
        g->blocks = (int)at_most(shares < 1 ? 1 : shares, cuda_sms);
        g->stages = stages_of(t->stage, t->sums);
        TRY(launch(t->kernel[dt == DT_F16], g->blocks, g->stages * t->stage + t->sums, g));
    }
    int pages = g->strips * t->mt * t->nt + ceil_of((int64_t)g->n * g->tiles * t->mr * t->nt, WARPS);
    return launch(dt == DT_BF16 ? sum_kernel<bf16> : sum_kernel<f16>, pages, 0, g);
}

extern "C" bool cuda_low_rank_up_bwd_takes(const struct cuda_low_rank_up_bwd *u) {
    bool ok = narrow(u->dt) && u->rows > 0 && u->rows < 1 << 24 && aligned(u->t, u->ldt) && aligned(u->dt_low, u->lddt);
    for (int k = 0; ok && k < u->n; k++) {
        if (!u->rank[k]) continue;
        ok = rank_is_ours(u->rank[k]) && size_is_ours(u->O[k]);
        if (ok && u->dy[k]) ok = aligned(u->dy[k], u->lddy[k]) && u->b[k] && (!u->db[k] || aligned(u->db[k], u->lddb[k]));
    }
    enum { SMALL = 8 << 20 }; /* elements of dY; measured on an H100: 1024 x 576 10 us against 7, 2048 x 4096 equal, 8192 x 4096 44 against 53 */
    if (!ok || (u->n == 1 && u->rows * u->O[0] < SMALL)) return false;
    const struct sweep_kind *t = kind_of(u->n, u->O, u->rank);
    return has_room(t->stage, t->sums);
}

extern "C" size_t cuda_low_rank_up_bwd_scratch(int n, int64_t rows, const int64_t *O, const int *rank) {
    const struct sweep_kind *t = kind_of(n, O, rank);
    int strips = 0;
    for (int k = 0; k < n; k++) strips += rank[k] ? strips_of(t, O[k]) : 0;
    return strips ? tall_bytes(t, strips) + (size_t)at_most(ceil_of(rows, t->mr * 16), round_of(t, strips)) * flat_tile_bytes(t, strips) : 0;
}

extern "C" err cuda_low_rank_up_bwd(const struct cuda_low_rank_up_bwd *u) {
    const struct sweep_kind *t = kind_of(u->n, u->O, u->rank);
    int strips = 0, r0 = 0;
    for (int k = 0; k < u->n; k++) strips += u->rank[k] ? strips_of(t, u->O[k]) : 0;
    if (!strips) return OK;
    int64_t most = round_of(t, strips) * t->mr * 16;
    for (int64_t row = 0; row < u->rows; row += most, r0 = 0) {
        sweep g = {};
        g.n = u->n, g.rows = (int)at_most(u->rows - row, most);
        g.z = row_of(u->t, row, u->ldt), g.ldz = u->ldt, g.low = (void *)row_of(u->dt_low, row, u->lddt), g.ldlow = u->lddt;
        g.tall = (float4 *)u->scratch, g.flat = (float4 *)((char *)u->scratch + tall_bytes(t, strips));
        for (int k = 0; k < u->n; r0 += u->rank[k++]) {
            g.rank[k] = u->rank[k], g.r0[k] = r0, g.cols[k] = u->rank[k] && u->dy[k] ? (int)u->O[k] : 0;
            g.y[k] = u->dy[k] ? row_of(u->dy[k], row, u->lddy[k]) : NULL, g.ldy[k] = u->lddy[k], g.b[k] = u->b[k], g.ldb[k] = u->ldb[k];
            g.grad[k] = u->db[k], g.ldg[k] = u->lddb[k], g.alpha[k] = u->alpha[k];
        }
        TRY(sweep_run(&g, t, u->dt));
    }
    return OK;
}
