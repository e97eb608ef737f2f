/* Products of few rows with W as it is stored: the kernel of quantised matrices (matvec.cu says what is asked of all), and of plain ones
 * of x's type that share x with them (a group's A, or a bf16 matrix among Q4_K ones).
 *
 * Floor: the bytes of W; 8B in Q4_K 4.5 GB, 1.6 ms at 2.9 TB/s. That is 13 bytes a clock and multiprocessor, a tile of 512 weights
 * (32 columns of 16 rows) of 4.5 bits every 23 clocks. A multiprocessor issues 4 instructions a clock, two of integers: unpacking a
 * tile and multiplying it must stay below 60, and nothing else may be done per tile. So x does not move: a warp has 256 columns of it
 * in registers, whose products with all rows of the multiprocessor's share it adds up, and the warps' sums meet once a unit.
 *
 * All jobs of a group are one launch whatever their types: a unit is up to MT tiles of 16 rows of one job. One block a multiprocessor; its
 * warps divide C by 256 columns, and take turns where C is longer than that: then x is read again for each turn, and MT is 2 where a
 * multiprocessor has as many tiles. A warp streams its parts of W (256 columns of a tile, 128 of 8 bits, 64 plain) from unit to
 * unit without a stop through a ring of its own in shared memory.
 *
 * Integers stay integers (quants.cuh): the tensor cores add the exact products of one scale's weights in f32, then
 * acc += scale * that. What formats with an offset, or an excess, add is a matrix product too: the offsets of a row's 8 groups of 32
 * columns times x's sums over these, by tf32 in two pieces each (21 bits; the smallest product of four is left out). No weight is
 * rounded to x's type but NF4's codes. Any order of c will do if both operands have it: a lane has eight neighbours of each 32.
 *
 * Every sum has a fixed order that depends on the shape, the group's types and the card alone, so results repeat bit for bit. */
#include "cuda/quants.cuh"

enum { SLICE = 256, GROUPS = SLICE / 32, DEPTH_MOST = 4 };

/* Registers: the sums of two tiles leave room for fewer warps, in fours. */
template <int MT> struct block_size { enum { warps = MT == 1 ? 16 : 12 }; };

/* Tiles of the unit that begins at row o. */
template <int MT> __device__ __forceinline__ int tiles_of(const struct job &q, int o) { return MT > 1 && min((int)q.O - o, q.unit_rows) > ROWS ? MT : 1; }

/* Where part p of a row begins. */
static __device__ __forceinline__ int part_at(const struct job &q, int p) { return p * q.stride - (p & 1) * q.early; }

/* A warp's requests for W: what comes next, and where it goes. Four lanes share a row: lane >> 2, and the one 8 further on. */
template <int MT> struct requests {
    const struct units &all;
    const int warp, warps, lane;
    uint32_t ring;                   /* in shared memory */
    uint64_t once;                   /* cache policy: W is read once */
    int u, end, turn, m, part, slot; /* the next one's unit, .. */
    int which;                       /* u's job */
    const uint8_t *row;              /* the lane's first one in tile m */
    int last;                        /* that tile's last row that exists */

    __device__ __forceinline__ void tile(void) {
        const struct job &q = all.j[which];
        const int o = (u - all.first[which]) * q.unit_rows + m * ROWS;
        row = q.w + (int64_t)(o + (lane >> 2)) * (int)q.row_bytes, last = min((int)q.O - o, min(q.unit_rows, ROWS)) - 1;
    }
    __device__ __forceinline__ void enter(void) {
        if (u >= end) return;
        while (u >= all.first[which + 1]) which++;
        turn = m = part = 0;
        tile();
    }
    __device__ __forceinline__ void copy(uint32_t to, const uint8_t *from, int bytes) const {
        asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(from), "r"(bytes), "l"(once) : "memory");
    }
    /* Rows of whole 16-byte pieces. */
    __device__ __forceinline__ void copy_pieces(uint32_t to, int at) const {
        const struct job &q = all.j[which];
        const int r = lane >> 2, c = (lane & 3) * 16, end = q.pieces * 16, space = q.row_space;
        const uint8_t *first = row + at + c, *second = first + 8 * (int)q.row_bytes;
        to += r * space + c;
        for (int p = c; p < end; p += 64, to += 64, first += 64, second += 64) {
            if (r <= last) asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(first), "l"(once) : "memory");
            if (r + 8 <= last) asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2;" ::"r"(to + 8 * space), "l"(second), "l"(once) : "memory");
        }
    }
    /* Rows that start anywhere: the pieces that cover them. Bytes past the row's C columns become 0. */
    __device__ __forceinline__ void copy_bytes(uint32_t to, int at) const {
        const struct job &q = all.j[which];
        const int left = min(q.step_bytes, q.used - at);
        for (int r = lane >> 2; r <= min(last, (lane >> 2) + 8); r += 8) {
            const uint8_t *from = row + (r & 8) * q.row_bytes + at;
            const int skip = (int)((uintptr_t)from & 15);
            for (int p = (lane & 3) * 16; p < q.pieces * 16; p += 64) {
                const int bytes = max(0, min(16, skip + left - p));
                copy(to + r * q.row_space + p, bytes ? from - skip + p : q.w, bytes);
            }
        }
    }
    __device__ __forceinline__ void next(void) {
        if (u < end) {
            const struct job &q = all.j[which];
            const int at = part_at(q, (warp + turn * warps) * q.parts + part);
            const uint32_t to = ring + slot * all.slot_bytes;
            if (q.whole) copy_pieces(to, at);
            else copy_bytes(to, at);
            if (++part == q.parts) {
                part = 0;
                if (MT > 1 && ++m < tiles_of<MT>(q, (u - all.first[which]) * q.unit_rows)) tile();
                else if (m = 0, warp + ++turn * warps < all.slices) { if (MT > 1) tile(); }
                else u++, enter();
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        slot = slot + 1 == all.depth ? 0 : slot + 1;
    }
};

/* The oldest of `depth` parts is here, for this lane's copies. */
static __device__ __forceinline__ void wait_for_oldest(int depth) {
    if (depth == 2) asm volatile("cp.async.wait_group 1;" ::: "memory");
    else if (depth == 3) asm volatile("cp.async.wait_group 2;" ::: "memory");
    else asm volatile("cp.async.wait_group 3;" ::: "memory");
}

static __device__ __forceinline__ void mma_tf32(float c[4], const float a[4], float b0, float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

/* The part of v that tf32 holds. */
static __device__ __forceinline__ float high_bits(float v) { return __uint_as_float(__float_as_uint(v) & 0xFFFFE000u); }

/* 256 columns of x in registers, of rows g and g + 8; and their sums by groups of 32 columns as tf32's second operand. */
template <typename T, int NT> struct columns {
    int slice;
    uint4 v[GROUPS][NT];           /* of each 32 columns eight: 8t, .. */
    float high[NT][2], low[NT][2]; /* of row g: the sum over group t, and over group t + 4 */

    /* Of x as the job has it; rows past the last are that one again, their sums are not stored. */
    __device__ __forceinline__ void load(const struct job &q, int which, int g, int t) {
        slice = which;
        const int from = which * SLICE + t * 8, C = (int)q.C;
        const bool whole = q.x_aligned && which * SLICE + SLICE <= C;
#pragma unroll
        for (int i = 0; i < NT; i++) {
            const uint16_t *x = (const uint16_t *)q.x + min(g + 8 * i, q.n - 1) * q.ldx + from;
            if (whole) {
#pragma unroll
                for (int k = 0; k < GROUPS; k++) v[k][i] = *(const uint4 *)(x + k * 32);
            } else {
#pragma unroll
                for (int k = 0; k < GROUPS; k++) v[k][i] = from + k * 32 < C ? eight(x + k * 32, q.x_aligned) : make_uint4(0, 0, 0, 0); /* C is a multiple of 8 */
            }
        }
    }
    __device__ __forceinline__ static uint4 eight(const uint16_t *p, bool aligned) {
        if (aligned) return *(const uint4 *)p;
        return make_uint4(p[0] | (uint32_t)p[1] << 16, p[2] | (uint32_t)p[3] << 16, p[4] | (uint32_t)p[5] << 16, p[6] | (uint32_t)p[7] << 16);
    }
    /* By products with ones in row k of the first operand for group k: lane (g, t) gets group g's of rows 2t and 2t + 1. */
    __device__ __forceinline__ void add_up(int g, int t) {
        constexpr uint32_t one = T_is_bf16<T>::yes ? 0x3F803F80u : 0x3C003C00u;
#pragma unroll
        for (int i = 0; i < NT; i++) {
            float s[4] = {};
#pragma unroll
            for (int k = 0; k < GROUPS; k++) {
                const uint32_t ones[4] = {g == k ? one : 0, 0, g == k ? one : 0, 0};
                mma<T>(s, ones, v[k][i].x, v[k][i].y), mma<T>(s, ones, v[k][i].z, v[k][i].w);
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int from = (t + 4 * j) * 4 + (g >> 1);
                const float even = __shfl_sync(0xFFFFFFFFu, s[0], from), odd = __shfl_sync(0xFFFFFFFFu, s[1], from), sum = g & 1 ? odd : even;
                high[i][j] = high_bits(sum), low[i][j] = sum - high[i][j];
            }
        }
    }
};

/* One part of one tile: rows g and g + 8, as lane (g, t) sees it. */
struct place {
    const uint8_t *a, *b;
    int columns, t; /* of x that are left from the part's first one on */
    int half;       /* of NF4_DQ: which of a block the part is */
};

template <int NT> __device__ __forceinline__ void add_scaled(float acc[NT][4], const float p[NT][4], float a, float b) {
#pragma unroll
    for (int i = 0; i < NT; i++) {
        acc[i][0] += a * p[i][0], acc[i][1] += a * p[i][1];
        acc[i][2] += b * p[i][2], acc[i][3] += b * p[i][3];
    }
}

/* p += the eight columns a, b (of rows g and g + 8) times x's. */
template <typename T, int NT> __device__ __forceinline__ void multiply8(float p[NT][4], const uint32_t a[4], const uint32_t b[4], const uint4 x[NT]) {
    const uint32_t first[4] = {a[0], b[0], a[1], b[1]}, second[4] = {a[2], b[2], a[3], b[3]};
#pragma unroll
    for (int i = 0; i < NT; i++) mma<T>(p[i], first, x[i].x, x[i].y), mma<T>(p[i], second, x[i].z, x[i].w);
}

/* What the products are multiplied with, unpacked by the four lanes of a row together: lane t has those of scales t, t + 4, .. of the
 * part; beside them the offsets' product. */
template <int DT> struct scales {
    static constexpr int n = quant<DT>::step / quant<DT>::span;
    float a[n < 4 ? 1 : n / 4], b[n < 4 ? 1 : n / 4];
};

template <int DT, typename T, int NT> __device__ __forceinline__ struct scales<DT> unpack_scales(float acc[NT][4], const struct place &at, const struct columns<T, NT> &x) {
    struct scales<DT> s;
    if constexpr (quant<DT>::sixteenths) {
#pragma unroll
        for (int i = 0; i < s.n / 4; i++) s.a[i] = line16<DT>(at.a, 64 * i + 16 * at.t), s.b[i] = line16<DT>(at.b, 64 * i + 16 * at.t);
    } else {
        float high[4] = {}, low[4] = {};
#pragma unroll
        for (int i = 0; i < s.n / 4; i++) {
            const int j = (4 * i + at.t) * quant<DT>::span;
            const bool there = j < at.columns;
            float oa, ob;
            line32<T, DT>(at.a, at.half, j, &s.a[i], &oa), line32<T, DT>(at.b, at.half, j, &s.b[i], &ob);
            if (!there) s.a[i] = s.b[i] = oa = ob = 0;
            oa = fmaf(-excess<T, DT>(), s.a[i], oa), ob = fmaf(-excess<T, DT>(), s.b[i], ob);
            high[2 * i] = high_bits(oa), low[2 * i] = oa - high[2 * i];
            high[2 * i + 1] = high_bits(ob), low[2 * i + 1] = ob - high[2 * i + 1];
        }
        if constexpr (quant<DT>::offset || in_excess<T, DT>()) {
#pragma unroll
            for (int i = 0; i < NT; i++) {
                mma_tf32(acc[i], low, x.high[i][0], x.high[i][1]);
                mma_tf32(acc[i], high, x.low[i][0], x.low[i][1]);
                mma_tf32(acc[i], high, x.high[i][0], x.high[i][1]);
            }
        }
    }
    return s;
}

/* Scale k of the part. */
static __device__ __forceinline__ float scale_of(const float *held, int k) { return __shfl_sync(0xFFFFFFFFu, held[k >> 2], k & 3, 4); }

/* A part whose first group is x's group FIRST. Codes of integers and of tables are finite whatever is read past the row's end, where
 * their scale and x are 0; fp8 and plain values need not be. */
template <int DT, typename T, int NT, int FIRST> __device__ __forceinline__ void multiply_part(float acc[NT][4], const struct place &at, const struct columns<T, NT> &x) {
    constexpr bool any_bits = quant<DT>::plain || quant<DT>::kind == FP8;
    const uint8_t *codes_a = codes_of<DT>(at.a, at.half), *codes_b = codes_of<DT>(at.b, at.half);
    struct scales<DT> s;
    if constexpr (!quant<DT>::plain) s = unpack_scales<DT, T, NT>(acc, at, x);
#pragma unroll
    for (int k = 0; k < quant<DT>::step / 32; k++) {
        if (any_bits && k * 32 >= at.columns) break;
        uint32_t a[4], b[4];
        if constexpr (quant<DT>::plain) {
            const uint4 wa = *(const uint4 *)(at.a + k * 64 + 16 * at.t), wb = *(const uint4 *)(at.b + k * 64 + 16 * at.t);
            a[0] = wa.x, a[1] = wa.y, a[2] = wa.z, a[3] = wa.w;
            b[0] = wb.x, b[1] = wb.y, b[2] = wb.z, b[3] = wb.w;
            multiply8<T, NT>(acc, a, b, x.v[FIRST + k]);
        } else {
            float p[NT][4] = {};
            operands<T, DT>(codes8<DT>(codes_a, k * 32, at.t), a), operands<T, DT>(codes8<DT>(codes_b, k * 32, at.t), b);
            multiply8<T, NT>(p, a, b, x.v[FIRST + k]);
            if constexpr (quant<DT>::sixteenths) { /* lanes 0 and 1 have the first 16 columns: once more without the others, by the scales' difference */
                float first[NT][4] = {};
                const float sa = scale_of(s.a, 2 * k + 1), sb = scale_of(s.b, 2 * k + 1);
#pragma unroll
                for (int j = 0; j < 4; j++) a[j] = at.t < 2 ? a[j] : 0, b[j] = at.t < 2 ? b[j] : 0;
                multiply8<T, NT>(first, a, b, x.v[FIRST + k]);
                add_scaled<NT>(acc, p, sa, sb);
                add_scaled<NT>(acc, first, scale_of(s.a, 2 * k) - sa, scale_of(s.b, 2 * k) - sb);
            } else add_scaled<NT>(acc, p, scale_of(s.a, k * 32 / quant<DT>::span), scale_of(s.b, k * 32 / quant<DT>::span));
        }
    }
}

/* One slice of one tile of a job, part by part. */
struct tile {
    int which, o; /* job, first row */
    int slice, g, t;
};

template <int DT, typename T, int MT, int NT, int FIRST = 0>
__device__ __forceinline__ void multiply(float acc[NT][4], const struct tile &i, const struct columns<T, NT> &x, struct requests<MT> &w, const uint8_t *ring, int *slot) {
    constexpr int part = FIRST * 32 / quant<DT>::step, parts = SLICE / quant<DT>::step;
    const uint8_t *from = ring + *slot * w.all.slot_bytes;
    const struct job &q = w.all.j[i.which];
    struct place at = {from + i.g * q.row_space, from + (i.g + 8) * q.row_space, (int)q.C - i.slice * SLICE - FIRST * 32, i.t, i.slice & 1};
    if (!q.whole) {
        const uint32_t begin = (uint32_t)(i.o + i.g) * (uint32_t)q.row_bytes + part_at(q, i.slice * parts + part);
        at.a += begin & 15, at.b += begin + 8 * (uint32_t)q.row_bytes & 15;
    }
    wait_for_oldest(w.all.depth); /* this part is here, for this lane's copies.. */
    __syncwarp();                 /* ..and the others' */
    multiply_part<DT, T, NT, FIRST>(acc, at, x);
    __syncwarp(); /* all have read the slot */
    w.next();
    *slot = *slot + 1 == w.all.depth ? 0 : *slot + 1;
    if constexpr (part + 1 < parts) multiply<DT, T, MT, NT, FIRST + quant<DT>::step / 32>(acc, i, x, w, ring, slot);
}

template <typename T, int MT, int NT>
__device__ __forceinline__ void multiply_any(float acc[NT][4], const struct tile &i, const struct columns<T, NT> &x, struct requests<MT> &w, const uint8_t *ring, int *slot) {
    switch (w.all.j[i.which].w_dt) {
#define MULTIPLY(stored) case stored: multiply<stored, T, MT, NT>(acc, i, x, w, ring, slot); break;
        EACH_QUANT(MULTIPLY)
#undef MULTIPLY
    default: multiply<T_is_bf16<T>::yes ? DT_BF16 : DT_F16, T, MT, NT>(acc, i, x, w, ring, slot);
    }
}

template <typename T, int MT, int NT> __global__ void __launch_bounds__(block_size<MT>::warps * 32) stored_rows(const __grid_constant__ struct units all) {
    extern __shared__ __align__(16) uint8_t shared[];
    const int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int from = blockIdx.x * all.per_block, to = min(from + all.per_block, all.first[all.n]);
    const uint8_t *mine = shared + warp * all.depth * all.slot_bytes;
    float *sums = (float *)(shared + warps * all.depth * all.slot_bytes);
    struct requests<MT> w = {all, warp, warps, lane, (uint32_t)__cvta_generic_to_shared(mine), 0, from, to, 0, 0, 0, 0, job_at(all, from)};
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(w.once));
    w.enter();
    for (int d = 0; d < all.depth; d++) w.next(); /* W is nobody's output: it can be asked for early */
    for (int i = 0; i < all.n; i++) bring_soon(all.j[i]);
    let_next_start();
    wait_for_earlier();

    struct columns<T, NT> x;
    x.slice = -1;
    int slot = 0, which = job_at(all, from);
    for (int u = from; u < to; u++) {
        while (u >= all.first[which + 1]) which++;
        const int o = (u - all.first[which]) * all.j[which].unit_rows;
        struct tile i = {which, o, warp, g, t};
        float acc[MT][NT][4] = {};
        for (; i.slice < all.slices; i.slice += warps) {
            if (x.slice != i.slice) x.load(all.j[0], i.slice, g, t), x.add_up(g, t);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                if (m >= tiles_of<MT>(all.j[which], o)) break;
                i.o = o + m * ROWS;
                multiply_any<T, MT, NT>(acc[m], i, x, w, mine, &slot);
            }
        }
        finish_unit<MT, NT>(all.j[which], u, o, sums, acc, warps, warp, lane);
    }
}

/* How a job's rows go through the ring. */
static void measure(struct job *q) {
    const int block = dtype_info[q->w_dt].block, bytes = dtype_info[q->w_dt].bytes;
    int step = quant<DT_BF16>::step;
    switch (q->w_dt) {
#define STEP(stored) case stored: step = quant<stored>::step; break;
        EACH_QUANT(STEP)
#undef STEP
    default: break;
    }
    q->parts = SLICE / step, q->step_bytes = q->stride = step * bytes / block, q->used = (int)(q->C / block * bytes);
    if (q->w_dt == DT_NF4_DQ) q->early = 8, q->step_bytes += 8;
    q->whole = !(q->row_bytes % 16 || q->step_bytes % 16 || q->C % SLICE); /* else a part starts at most 14 bytes into its first piece */
    q->pieces = q->whole ? q->step_bytes / 16 : (q->step_bytes + 14 + 15) / 16;
    q->row_space = (q->pieces | 1) * 16; /* odd: 8 rows' words fall into 32 different banks */
    if (q->w_dt == DT_Q4_K || q->w_dt == DT_Q5_K) q->row_space = (q->pieces + 1) / 4 * 64 + 32; /* .. and pairs of words of 4 rows */
}

/* The rows of a group's A are several times as long as those of a quantised W: units of fewer of them go to more multiprocessors, where
 * that leaves none with more units. */
static void spread_small(struct units *all) {
    const struct units before = *all;
    for (int i = 0; i < all->n; i++)
        if (!dtype_quantised(all->j[i].w_dt) && all->j[i].O <= 4 * ROWS) all->j[i].unit_rows = ROWS / 4;
    number_units(all);
    if (all->per_block > before.per_block) *all = before;
}

template <typename T, int MT, int NT> static err launch_stored(const struct job *q, int n) {
    enum { SUMS = 2 * NT * 8 * sums_of<MT>::ld * (int)sizeof(float) };
    struct units all = {};
    static int shared_most, allowed; /* per instantiation: one card */
    if (!shared_most) TRY(cuda_check(cudaDeviceGetAttribute(&shared_most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "matvec"));
    count_units(&all, q, n, MT * ROWS);
    for (int i = 0; i < n; i++) {
        measure(&all.j[i]);
        if (all.j[i].row_space * ROWS > all.slot_bytes) all.slot_bytes = all.j[i].row_space * ROWS;
    }
    spread_small(&all);
    all.slices = (int)((q->C + SLICE - 1) / SLICE);
    const int turns = (all.slices + block_size<MT>::warps - 1) / block_size<MT>::warps;
    int warps = (all.slices + turns - 1) / turns; /* as many as take the fewest turns */
    for (all.depth = DEPTH_MOST; all.depth > 2 && warps * (all.depth * all.slot_bytes + SUMS) > shared_most;) all.depth--;
    const int fit = shared_most / (all.depth * all.slot_bytes + SUMS);
    if (warps > fit) warps = fit;
    const int bytes = warps * (all.depth * all.slot_bytes + SUMS);
    if (bytes > allowed) TRY(cuda_check(cudaFuncSetAttribute(stored_rows<T, MT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "matvec"));
    if (bytes > allowed) allowed = bytes;
    return cuda_launch((const void *)stored_rows<T, MT, NT>, dim3((unsigned)((all.first[n] + all.per_block - 1) / all.per_block)), warps * 32, bytes, &all, "matvec");
}

/* Units of two tiles where x is read again for each, and a multiprocessor has as many. */
template <typename T, int NT> static err stored_units(const struct job *q, int n) {
    return q->C > block_size<1>::warps * SLICE && tiles_each(q, n) > 1 ? launch_stored<T, 2, NT>(q, n) : launch_stored<T, 1, NT>(q, n);
}

template <typename T> static err stored_n(const struct job *q, int n) { return q->n <= 8 ? stored_units<T, 1>(q, n) : stored_units<T, 2>(q, n); }

err cuda_matvec_stored(dtype x_dt, const struct job *q, int n) { return x_dt == DT_BF16 ? stored_n<bf16>(q, n) : stored_n<f16>(q, n); }
