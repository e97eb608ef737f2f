/* Products of few rows with W as it is stored: the kernel of quantised matrices (matvec.cu says what is asked of all), and of plain ones
 * of x's type that share x with them (a group's A, or a bf16 matrix among Q4_K ones).
 *
 * Floor: the bytes of W; 8B in Q4_K 4.5 GB, 1.6 ms at 2.9 TB/s. That is 13 bytes a clock and multiprocessor, 23 weights of 4.5
 * bits; unpacking 512 weights (32 columns of 16 rows) and multiplying them takes a warp some 80 instructions (by the machine code: Q4_K
 * and NF4 80-90, Q4_0 65), which is 3.6 of the 4 that a multiprocessor can issue a clock: two thirds of the floor's rate is what one
 * may hope for. x is the other limit: each multiprocessor reads all of it once for every unit of rows, 128 KB for 16 rows of 4096
 * columns, from L2; hence units of 48 rows where there are as many.
 *
 * All jobs of a group are one launch whatever their types: a unit is rows of one job, and each step looks up its type. One block a
 * multiprocessor; its warps divide C, a step each in turn (256 columns, 128 of 8 bits, 64 plain), and stream their steps, from unit
 * to unit without a stop, through rings of their own in shared memory: whole 16-byte pieces that cover the rows' bytes
 * wherever they start. x's columns come through L1 into registers 64 columns ahead.
 *
 * Integers stay integers (quants.cuh): the tensor cores add the exact products of one scale's weights in f32, then
 * acc += scale * that; formats with a minimum add offset * sum x, the sum by one more product with ones. No weight is rounded to x's
 * type but NF4's codes. Any order of c will do if both operands have it: a lane takes eight neighbours, four to a product.
 *
 * Every sum has a fixed order that depends on the shape, the group's types and the card alone, so results repeat bit for bit. */
#include "cuda/quants.cuh"

/* The widest unit has fewer warps: registers. */
template <int MT> struct block_size { enum { warps = MT == 1 ? 16 : 8 }; };

/* A warp's requests for W: what comes next, and where it goes. */
template <int MT> struct requests {
    const struct units &all;
    const int warp, warps, lane;
    uint32_t ring;       /* in shared memory */
    uint64_t once;       /* cache policy: W is read once */
    int u, end, step, steps, slot; /* the next one's unit, .. */
    const struct job *q; /* unit u's */
    const uint8_t *base; /* its row 0 */
    int last, row, piece, down, right; /* its last row that exists; the lane's first piece, and from one of its pieces to the next */

    /* To the first unit from u on that has a step for this warp. */
    __device__ __forceinline__ void enter(void) {
        for (step = warp; u < end; u++) {
            const int which = job_at(all, u);
            q = &all.j[which];
            steps = (int)((q->C + q->step - 1) / q->step);
            if (step >= steps) continue;
            const int64_t o = (int64_t)(u - all.first[which]) * (MT * ROWS);
            base = q->w + o * q->row_bytes, last = (int)min(q->O - 1 - o, (int64_t)(MT * ROWS - 1));
            row = lane / q->pieces, piece = lane % q->pieces, down = 32 / q->pieces, right = 32 % q->pieces;
            return;
        }
    }
    /* Bytes past the row's C columns become 0; rows past the last are that one again, their sums are not stored. */
    __device__ __forceinline__ void next(void) {
        if (u < end) {
            const int pieces = q->pieces, at = step * q->step_bytes, left = min(q->step_bytes, q->used - at);
            const uint32_t to = ring + slot * all.slot_bytes;
            for (int r = row, p = piece; r < MT * ROWS;) {
                const uint8_t *from = base + (int64_t)min(r, last) * q->row_bytes + at;
                const int skip = (int)((uintptr_t)from & 15), bytes = max(0, min(16, skip + left - p * 16));
                from = bytes ? from - skip + p * 16 : q->w;
                asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to + r * q->row_space + p * 16), "l"(from), "r"(bytes), "l"(once) : "memory");
                r += down, p += right;
                if (p >= pieces) p -= pieces, r++;
            }
            if ((step += warps) >= steps) u++, enter();
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        slot = slot + 1 == all.depth ? 0 : slot + 1;
    }
};

/* The oldest of `depth` steps is here, for this lane's copies. */
static __device__ __forceinline__ void wait_for_oldest(int depth) {
    if (depth == 2) asm volatile("cp.async.wait_group 1;" ::: "memory");
    else asm volatile("cp.async.wait_group 2;" ::: "memory");
}

/* x's next 64 columns in registers: for this lane's row of each 8, eight columns of each 32. */
template <int NT> struct columns {
    const uint16_t *x[NT];
    int C, col; /* the first of the 64 */
    bool aligned;
    uint4 v[NT][2];

    __device__ __forceinline__ uint4 eight(const uint16_t *p) const {
        if (aligned) return *(const uint4 *)p;
        return make_uint4(p[0] | (uint32_t)p[1] << 16, p[2] | (uint32_t)p[3] << 16, p[4] | (uint32_t)p[5] << 16, p[6] | (uint32_t)p[7] << 16);
    }
    __device__ __forceinline__ void load(int from, int t) {
        col = from;
#pragma unroll
        for (int i = 0; i < NT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int c = from + h * 32 + t * 8; /* C is a multiple of 8 */
                v[i][h] = c < C ? eight(x[i] + c) : make_uint4(0, 0, 0, 0);
            }
    }
};

/* One step of one unit. */
struct place {
    const struct job *q;
    const uint8_t *slot;
    uint32_t o, last, step; /* the unit's first row, its last one, counted from there */
    int g, t, then;         /* the column that the warp begins its next step with */
};

template <int NT> __device__ __forceinline__ void add_scaled(float acc[NT][4], const float p[NT][4], float da, float db) {
#pragma unroll
    for (int i = 0; i < NT; i++) {
        acc[i][0] += da * p[i][0], acc[i][1] += da * p[i][1];
        acc[i][2] += db * p[i][2], acc[i][3] += db * p[i][3];
    }
}

/* a, b: the lane's eight values of rows g and g + 8. The products are added to p. */
template <typename T, int NT> __device__ __forceinline__ void multiply8(float p[NT][4], const uint32_t a[4], const uint32_t b[4], const uint4 x[NT]) {
    const uint32_t first[4] = {a[0], b[0], a[1], b[1]}, second[4] = {a[2], b[2], a[3], b[3]};
#pragma unroll
    for (int i = 0; i < NT; i++) mma<T>(p[i], first, x[i].x, x[i].y), mma<T>(p[i], second, x[i].z, x[i].w);
}

template <typename T, int NT> __device__ __forceinline__ void sum_x(float s[NT][4], const uint4 x[NT]) {
    constexpr uint32_t one = T_is_bf16<T>::yes ? 0x3F803F80u : 0x3C003C00u;
    const uint32_t ones[4] = {one, one, one, one};
    multiply8<T, NT>(s, ones, ones, x);
}

/* What the products of 32 columns of one row are multiplied with: line32()'s two, or of Q6_K the scales of both halves. */
struct line { float first, second; };

template <int DT, typename T> __device__ __forceinline__ struct line line_at(const uint8_t *p, int j) {
    struct line l;
    if constexpr (quant<DT>::plain) l.first = 1, l.second = 0;
    else if constexpr (quant<DT>::sixteenths) l.first = line16(p, j), l.second = line16(p, j + 16);
    else line32<T, DT>(p, j, &l.first, &l.second);
    return l;
}

/* Lane t of each 4 holds the line of the t-th 32 of 128 columns: unpacking them is a good part of the work of the K formats. */
template <int DT> __device__ __forceinline__ struct line line_of(const struct line &held, int from) {
    struct line l = {__shfl_sync(0xFFFFFFFFu, held.first, from, 4), 0};
    if constexpr (quant<DT>::sixteenths || quant<DT>::offset) l.second = __shfl_sync(0xFFFFFFFFu, held.second, from, 4);
    return l;
}

/* 32 columns from j on of rows g (at a) and g + 8 (at b); s: the sums of x over them. */
template <int DT, typename T, int NT>
__device__ __forceinline__ void tile32(float acc[NT][4], const uint8_t *a, const uint8_t *b, int j, int t, const uint4 x[NT], const float s[NT][4], const struct line held[2]) {
    uint32_t va[4], vb[4];
    if constexpr (quant<DT>::plain) {
        const uint4 wa = *(const uint4 *)(a + j * 2 + 16 * t), wb = *(const uint4 *)(b + j * 2 + 16 * t);
        va[0] = wa.x, va[1] = wa.y, va[2] = wa.z, va[3] = wa.w;
        vb[0] = wb.x, vb[1] = wb.y, vb[2] = wb.z, vb[3] = wb.w;
        multiply8<T, NT>(acc, va, vb, x);
    } else {
        const struct line la = line_of<DT>(held[0], j >> 5 & 3), lb = line_of<DT>(held[1], j >> 5 & 3);
        float p[NT][4] = {};
        operands<T, DT>(codes8<DT>(a, j, t), va), operands<T, DT>(codes8<DT>(b, j, t), vb);
        if constexpr (quant<DT>::sixteenths) {
            float p2[NT][4] = {};
            uint4 first[NT], second[NT]; /* lanes 0 and 1 have the first 16 columns: the others' x is 0, and the other way round */
            const uint4 none = make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < NT; i++) first[i] = t < 2 ? x[i] : none, second[i] = t < 2 ? none : x[i];
            multiply8<T, NT>(p, va, vb, first), multiply8<T, NT>(p2, va, vb, second);
            add_scaled<NT>(acc, p, la.first, lb.first), add_scaled<NT>(acc, p2, la.second, lb.second);
        } else {
            multiply8<T, NT>(p, va, vb, x);
            add_scaled<NT>(acc, p, la.first, lb.first);
            if constexpr (quant<DT>::offset) add_scaled<NT>(acc, s, la.second, lb.second);
        }
    }
}

template <int DT, typename T, int MT, int NT> __device__ __forceinline__ void multiply(float acc[MT][NT][4], const struct place &at, struct columns<NT> &x) {
    constexpr int K = quant<DT>::step;
    const int from = at.step * K, k0 = min(K, x.C - from);
    const uint8_t *row[MT][2]; /* g and g + 8 of each tile */
    struct line held[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t r = m * ROWS + i * 8 + at.g, skip = (at.o + min(r, at.last)) * (uint32_t)at.q->row_bytes + at.step * at.q->step_bytes & 15;
            row[m][i] = at.slot + r * at.q->row_space + (quant<DT>::plain ? 0 : skip);
        }
    if (x.col != from) x.load(from, at.t);
#pragma unroll 1
    for (int k = 0; k < k0; k += 64) {
        uint4 now[2][NT];
#pragma unroll
        for (int i = 0; i < NT; i++) now[0][i] = x.v[i][0], now[1][i] = x.v[i][1];
        x.load(k + 64 < k0 ? from + k + 64 : at.then, at.t);
        if (!(k & 64)) {
            const int j = min(k + at.t * 32, k0 - 32);
#pragma unroll
            for (int m = 0; m < MT; m++) held[m][0] = line_at<DT, T>(row[m][0], j), held[m][1] = line_at<DT, T>(row[m][1], j);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (k + h * 32 >= k0) break;
            float s[NT][4] = {};
            if (quant<DT>::offset) sum_x<T, NT>(s, now[h]);
#pragma unroll
            for (int m = 0; m < MT; m++) tile32<DT, T, NT>(acc[m], row[m][0], row[m][1], k + h * 32, at.t, now[h], s, held[m]);
        }
    }
}

template <typename T, int MT, int NT> __device__ __forceinline__ void multiply_any(float acc[MT][NT][4], const struct place &at, struct columns<NT> &x) {
    switch (at.q->w_dt) {
#define MULTIPLY(stored) case stored: multiply<stored, T, MT, NT>(acc, at, x); break;
        EACH_QUANT(MULTIPLY)
#undef MULTIPLY
    default: multiply<T_is_bf16<T>::yes ? DT_BF16 : DT_F16, T, MT, NT>(acc, at, x);
    }
}

template <typename T, int MT, int NT> __global__ void __launch_bounds__(block_size<MT>::warps * 32) stored_rows(const __grid_constant__ struct units all) {
    extern __shared__ __align__(16) uint8_t shared[];
    const int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int from = blockIdx.x * all.per_block, to = min(from + all.per_block, all.first[all.n]);
    const uint8_t *mine = shared + warp * all.depth * all.slot_bytes;
    float *sums = (float *)(shared + warps * all.depth * all.slot_bytes);
    struct requests<MT> w = {all, warp, warps, lane, (uint32_t)__cvta_generic_to_shared(mine), 0, from, to};
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(w.once));
    w.enter();
    for (int d = 0; d < all.depth; d++) w.next(); /* W is nobody's output: it can be asked for early */
    for (int i = 0; i < all.n; i++) bring_soon(all.j[i]);
    let_next_start();
    wait_for_earlier();

    struct columns<NT> x;
    x.C = (int)all.j[0].C, x.col = -1, x.aligned = all.j[0].x_aligned;
#pragma unroll
    for (int i = 0; i < NT; i++) x.x[i] = (const uint16_t *)all.j[0].x + min(g + 8 * i, all.j[0].n - 1) * all.j[0].ldx; /* columns past the last are not stored */
    int slot = 0;
    for (int u = from; u < to; u++) {
        const int which = job_at(all, u);
        const struct job *q = &all.j[which];
        const int steps = (x.C + q->step - 1) / q->step, o = (u - all.first[which]) * MT * ROWS;
        const int next_unit = u + 1 < to ? warp * all.j[job_at(all, u + 1)].step : x.C;
        float acc[MT][NT][4] = {};
        for (int s = warp; s < steps; s += warps) {
            const struct place at = {q, mine + slot * all.slot_bytes, (uint32_t)o, (uint32_t)min(q->O - 1 - o, (int64_t)(MT * ROWS - 1)), (uint32_t)s, g, t, s + warps < steps ? (s + warps) * q->step : next_unit};
            wait_for_oldest(all.depth); /* this step is here, for this lane's copies.. */
            __syncwarp();               /* ..and the others' */
            multiply_any<T, MT, NT>(acc, at, x);
            __syncwarp(); /* all have read the slot */
            w.next();
            slot = slot + 1 == all.depth ? 0 : slot + 1;
        }
        __syncthreads(); /* the sums of the unit before have been read */
        finish_unit<MT, NT>(all, u, sums, acc, warps, warp, lane);
    }
}

/* How a job's rows go through the ring. */
static void measure(struct job *q) {
    const int block = dtype_info[q->w_dt].block, bytes = dtype_info[q->w_dt].bytes;
    switch (q->w_dt) {
#define STEP(stored) case stored: q->step = quant<stored>::step; break;
        EACH_QUANT(STEP)
#undef STEP
    default: q->step = quant<DT_BF16>::step;
    }
    q->step_bytes = q->step / block * bytes, q->used = (int)(q->C / block * bytes);
    bool whole = !(q->row_bytes % 16 || q->step_bytes % 16); /* else a step starts at most 14 bytes into its first piece */
    q->pieces = whole ? q->step_bytes / 16 : (q->step_bytes + 14 + 15) / 16;
    q->row_space = (q->pieces | 1) * 16; /* odd: 8 rows' words fall into 32 different banks */
}

template <typename T, int MT, int NT> static err launch_stored(const struct job *q, int n) {
    enum { SUMS = NT * 8 * sums_of<MT>::ld * (int)sizeof(float) };
    struct units all = {};
    int most = 0;
    static int shared_most, allowed; /* per instantiation: one card */
    if (!shared_most) TRY(cuda_check(cudaDeviceGetAttribute(&shared_most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "matvec"));
    count_units(&all, q, n, MT * ROWS);
    for (int i = 0; i < n; i++) {
        struct job *j = &all.j[i];
        measure(j);
        if (j->row_space * MT * ROWS > all.slot_bytes) all.slot_bytes = j->row_space * MT * ROWS;
        if (j->step > most) most = j->step;
    }
    /* as many warps as take the fewest turns at the longest steps */
    const int steps = (int)((q->C + most - 1) / most), turns = (steps + block_size<MT>::warps - 1) / block_size<MT>::warps;
    int warps = (steps + turns - 1) / turns;
    all.depth = warps * (3 * all.slot_bytes + SUMS) <= shared_most ? 3 : 2;
    const int fit = shared_most / (all.depth * all.slot_bytes + SUMS);
    if (warps > fit) warps = fit;
    const int bytes = warps * (all.depth * all.slot_bytes + SUMS);
    if (bytes > allowed) TRY(cuda_check(cudaFuncSetAttribute(stored_rows<T, MT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "matvec"));
    if (bytes > allowed) allowed = bytes;
    return cuda_launch((const void *)stored_rows<T, MT, NT>, dim3((unsigned)((all.first[n] + all.per_block - 1) / all.per_block)), warps * 32, bytes, &all, "matvec");
}

/* Units of three tiles where that leaves no multiprocessor more to do than single ones would by much: x is read once a unit. */
template <typename T, int NT> static err stored_units(const struct job *q, int n) {
    const int64_t each = tiles_each(q, n);
    return each < 3 || each == 4 ? launch_stored<T, 1, NT>(q, n) : launch_stored<T, 3, NT>(q, n);
}

template <typename T> static err stored_n(const struct job *q, int n) { return q->n <= 8 ? stored_units<T, 1>(q, n) : stored_units<T, 2>(q, n); }

err cuda_matvec_stored(dtype x_dt, const struct job *q, int n) { return x_dt == DT_BF16 ? stored_n<bf16>(q, n) : stored_n<f16>(q, n); }
