/* Products of few rows (generation): y[n, o] = sum_c x[n, c] W[o, c] + bias[o] for 1..16 rows, W read once, as it is stored.
 *
 * Floor: the bytes of W at 2.9 TB/s; 8B in bf16 16 GB, 5.5 ms a token, in Q4_0 4.5 GB, 1.6 ms. That is 13 bytes a clock and
 * multiprocessor: 23 weights of Q4_0. With 128 multiply-adds a clock a product of n rows on the CUDA cores takes 23 n of them
 * beside some 80 for unpacking: over at n = 3. So bf16 and f16 x go through tensor cores at any n, which take 128 weights
 * a clock with 8 columns (one m16n8k16 is 256 weights): W's rows are the 16-row operand, x's the 8 columns, 9..16 rows of x
 * are two such.
 *
 * W of x's own type, the usual case, goes through the stream kernel: a multiprocessor keeps its share of all rows to itself, so x
 * is read once for up to 48 of them (a warp of 16 rows of its own would read as much of x as of W at 16 rows of x). Quants go through
 * the tile kernel, where unpacking is the work.
 *
 * Quants stay integers there: q - zero is exact in bf16 and f16, the tensor cores add the exact products of one scale's
 * weights (16 or 32) in f32, then acc += d * that; Q4_1 adds m * sum x, the sum by one more product with ones. No weight is
 * rounded to x's type. Plain W must be of x's type.
 * Any order of c will do if both operands have it, so a lane takes the bytes it finds together: 4 quants, or 8 plain weights.
 *
 * f32 x (any W), f32 W, and W and x of bf16 and f16 mixed: f32 multiply-adds, each warp 2 to 4 rows of W (fma kernel); from
 * n = 4 on it is bound by arithmetic and L1, not by memory.
 *
 * Every sum has a fixed order that depends on the shape alone, so results repeat bit for bit.
 * Refused by cuda_matvec_takes: n > 16, C no multiple of the block (of 8 for plain types). W must be 16-byte aligned and, if
 * plain, its rows too; x and y need only their own type's alignment. */
#include "cuda/blocks.cuh"

template <typename T> struct T_is_bf16 { enum { yes = 0 }; };
template <> struct T_is_bf16<bf16> { enum { yes = 1 }; };

enum { MAX_N = 16, WARPS = 4, DEPTH = 3, ROWS = 16, MOST_JOBS = MAX_GROUP + 1 };

static __device__ __forceinline__ void store_y(void *y, dtype dt, int64_t i, float v) {
    if (dt == DT_F32) ((float *)y)[i] = v;
    else if (dt == DT_BF16) ((bf16 *)y)[i] = from_f32<bf16>(v);
    else ((f16 *)y)[i] = from_f32<f16>(v);
}

/* What both kernels get. */
struct job {
    const uint8_t *w;
    const float *bias;
    const void *x;
    void *y;
    int64_t O, C, row_bytes, ldx, ldy;
    int n, split; /* split: warps of a block that share the same rows of W, each a part of C */
    dtype y_dt;
    bool x_aligned; /* every row of x starts at a multiple of 16 bytes */
    const char *soon; /* what the next kernel reads first, in lines of 128 bytes */
    int soon_lines;
};

/* Brought to L2 while W streams past it: the next kernel is short, its first misses would be most of it. */
static __device__ __forceinline__ void bring_soon(const struct job &q) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < q.soon_lines; i += gridDim.x * blockDim.x) asm volatile("prefetch.global.L2 [%0];" ::"l"(q.soon + (int64_t)i * 128));
}

/* ---- tile kernel: bf16 or f16 x, tensor cores ----
 * A warp has 16 rows of W and streams its chunks of C (256 weights, 128 plain) through DEPTH stages of its own shared
 * memory: whole 16-byte pieces that cover the rows' bytes wherever they start, the next DEPTH - 1 chunks always under way
 * (8 to 16 warps a multiprocessor, 5 to 8 KB each). The chunk of x comes along by the same way, through L1, where the
 * warps of a multiprocessor find each other's. Nothing waits for another warp until the sums meet. */

/* w_row: bytes of shared memory from row to row, an odd number of 16 bytes, so that 8 rows' words fall into 32 different
 * banks; plain types read 16 bytes a lane and want 4 more than a multiple of 8 pieces. x_row likewise: 32 or 64 bytes more
 * than a multiple of 128. */
template <int DT> struct chunk {
    enum {
        plain = block_of<DT>::weights == 1,
        k = plain ? 128 : 256,
        bytes = k / block_of<DT>::weights * block_of<DT>::bytes,
        pieces = plain ? bytes / 16 : (bytes + 14 + 15) / 16, /* a row starts at most 14 bytes into its first piece */
        w_row = plain ? (pieces + 4) * 16 : (pieces | 1) * 16,
        x_row = plain ? k * 2 + 64 : k * 2 + 32,
    };
};

static __device__ __forceinline__ void copy16(void *shared, const void *global, int bytes) { /* the rest of the 16 becomes 0 */
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void copy16_l1(void *shared, const void *global, int bytes) {
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

template <typename T> __device__ __forceinline__ void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
template <> __device__ __forceinline__ void mma<bf16>(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> __device__ __forceinline__ void mma<f16>(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The four bytes of q, less ZERO, as two pairs; exact. f16: 0x64qq is 1024 + q. bf16: 0x43qq is 128 + q for q < 128, Q8_0's
 * bytes (ZERO = 128) go by way of f32. */
template <int ZERO> __device__ __forceinline__ uint32_t f16_pair(uint32_t biased) {
    __half2 v = __hsub2(*(__half2 *)&biased, __float2half2_rn(1024.0f + ZERO));
    return *(uint32_t *)&v;
}
template <int ZERO> __device__ __forceinline__ uint32_t bf16_pair(uint32_t biased) {
    __nv_bfloat162 v = __hsub2(*(__nv_bfloat162 *)&biased, __float2bfloat162_rn(128.0f + ZERO));
    return *(uint32_t *)&v;
}
static __device__ __forceinline__ uint32_t bf16_pack(float a, float b) {
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&v;
}
template <typename T, int ZERO> __device__ __forceinline__ void bytes_to_pairs(uint32_t q, uint32_t *lo, uint32_t *hi) {
    if constexpr (ZERO == 128 && T_is_bf16<T>::yes) {
        *lo = bf16_pack(byte_f32(q, 0, ZERO), byte_f32(q, 1, ZERO));
        *hi = bf16_pack(byte_f32(q, 2, ZERO), byte_f32(q, 3, ZERO));
    } else if constexpr (T_is_bf16<T>::yes) {
        *lo = bf16_pair<ZERO>(__byte_perm(q, 0x43434343u, 0x4140));
        *hi = bf16_pair<ZERO>(__byte_perm(q, 0x43434343u, 0x4342));
    } else {
        *lo = f16_pair<ZERO>(__byte_perm(q, 0x64646464u, 0x4140));
        *hi = f16_pair<ZERO>(__byte_perm(q, 0x64646464u, 0x4342));
    }
}

/* 16 weights of one scale for both row halves: lane t of 4 has weights 4t..4t+3 of rows g and g + 8 in qa, qb, and x's
 * columns have the same four at x0 (rows 0..7 of x) and x1 (8..15). The products are added to p. */
template <typename T, int ZERO, int NT>
__device__ __forceinline__ void group16(float p[NT][4], uint32_t qa, uint32_t qb, const uint2 x[NT]) {
    uint32_t a[4];
    bytes_to_pairs<T, ZERO>(qa, &a[0], &a[2]);
    bytes_to_pairs<T, ZERO>(qb, &a[1], &a[3]);
    for (int i = 0; i < NT; i++) mma<T>(p[i], a, x[i].x, x[i].y);
}

/* x's four at column j of the chunk for this lane's column of each 8; 0 past the last row. */
template <int NT> __device__ __forceinline__ void load_x(uint2 v[NT], const uint8_t *x, int j, int x_row, int g, int n) {
    for (int i = 0; i < NT; i++) v[i] = g + 8 * i < n ? *(const uint2 *)(x + (g + 8 * i) * x_row + j * 2) : make_uint2(0, 0);
}

template <int NT> __device__ __forceinline__ void add_scaled(float acc[NT][4], const float p[NT][4], float da, float db) {
    for (int i = 0; i < NT; i++) {
        acc[i][0] += da * p[i][0], acc[i][1] += da * p[i][1];
        acc[i][2] += db * p[i][2], acc[i][3] += db * p[i][3];
    }
}

/* One 32-weight block of rows g (at a) and g + 8 (at b). */
template <int DT, typename T, int NT>
__device__ __forceinline__ void block32(float acc[NT][4], const uint8_t *a, const uint8_t *b, const uint8_t *x, int x_row, int t, int g, int n) {
    float p[NT][4] = {};
    uint2 x0[NT], x1[NT];
    load_x<NT>(x0, x, 4 * t, x_row, g, n);
    load_x<NT>(x1, x, 16 + 4 * t, x_row, g, n);
    if constexpr (DT == DT_Q8_0) {
        group16<T, 128, NT>(p, load_u32_even(a + 2 + 4 * t) ^ 0x80808080u, load_u32_even(b + 2 + 4 * t) ^ 0x80808080u, x0);
        group16<T, 128, NT>(p, load_u32_even(a + 18 + 4 * t) ^ 0x80808080u, load_u32_even(b + 18 + 4 * t) ^ 0x80808080u, x1);
    } else {
        constexpr int zero = DT == DT_Q4_0 ? 8 : 0;
        uint32_t qa = DT == DT_Q4_0 ? load_u32_even(a + 2 + 4 * t) : load_u32(a + 4 + 4 * t);
        uint32_t qb = DT == DT_Q4_0 ? load_u32_even(b + 2 + 4 * t) : load_u32(b + 4 + 4 * t);
        group16<T, zero, NT>(p, qa & 0x0F0F0F0Fu, qb & 0x0F0F0F0Fu, x0);
        group16<T, zero, NT>(p, qa >> 4 & 0x0F0F0F0Fu, qb >> 4 & 0x0F0F0F0Fu, x1);
    }
    add_scaled<NT>(acc, p, half_f32(load_u16(a)), half_f32(load_u16(b)));
    if constexpr (DT == DT_Q4_1) {
        constexpr uint32_t one = T_is_bf16<T>::yes ? 0x3F803F80u : 0x3C003C00u;
        const uint32_t ones[4] = {one, one, one, one};
        float s[NT][4] = {};
        for (int i = 0; i < NT; i++) mma<T>(s[i], ones, x0[i].x, x0[i].y), mma<T>(s[i], ones, x1[i].x, x1[i].y);
        add_scaled<NT>(acc, s, half_f32(load_u16(a + 2)), half_f32(load_u16(b + 2)));
    }
}

/* A Q6_K block: 16 scales, a product each; a word of high bits serves four. */
template <typename T, int NT>
__device__ __forceinline__ void block256(float acc[NT][4], const uint8_t *a, const uint8_t *b, const uint8_t *x, int x_row, int t, int g, int n) {
    float da = half_f32(load_u16(a + 208)), db = half_f32(load_u16(b + 208));
#pragma unroll 1
    for (int half = 0; half < 2; half++)
        for (int is = 0; is < 2; is++)
            for (int quarter = 0; quarter < 4; quarter++) {
                int j = half * 128 + quarter * 32 + is * 16; /* the lane's four: j + 4t.. */
                float p[NT][4] = {};
                uint2 xv[NT];
                load_x<NT>(xv, x, j + 4 * t, x_row, g, n);
                group16<T, 32, NT>(p, q6_quants(a, j + 4 * t), q6_quants(b, j + 4 * t), xv);
                add_scaled<NT>(acc, p, da * (float)(int8_t)a[192 + (j >> 4)], db * (float)(int8_t)b[192 + (j >> 4)]);
            }
}

/* 32 plain weights of each row: a lane's 16 bytes are the k of two products. */
template <typename T, int NT>
__device__ __forceinline__ void plain32(float acc[NT][4], const uint8_t *a, const uint8_t *b, const uint8_t *x, int x_row, int t, int g, int n) {
    uint4 wa = *(const uint4 *)(a + 16 * t), wb = *(const uint4 *)(b + 16 * t);
    const uint32_t a0[4] = {wa.x, wb.x, wa.y, wb.y}, a1[4] = {wa.z, wb.z, wa.w, wb.w};
    for (int i = 0; i < NT; i++) {
        uint4 v = g + 8 * i < n ? *(const uint4 *)(x + (g + 8 * i) * x_row + 16 * t) : make_uint4(0, 0, 0, 0);
        mma<T>(acc[i], a0, v.x, v.y);
        mma<T>(acc[i], a1, v.z, v.w);
    }
}

/* Asks for chunk c of rows o... Bytes past the row, past the last row and past C become 0, so that nothing is read outside the
 * matrix and whatever is multiplied there is 0. */
template <int DT> __device__ __forceinline__ void ask_w(const struct job *q, uint8_t *stage, int64_t o, int64_t c, int lane) {
    using ch = chunk<DT>;
    int64_t at = c * ch::bytes;
    int left = (int)min((int64_t)ch::bytes, q->C / block_of<DT>::weights * block_of<DT>::bytes - at); /* a slice's rows go on past C */
    for (int i = lane; i < ROWS * ch::pieces; i += 32) {
        int r = i / ch::pieces, p = i % ch::pieces;
        int64_t from = (o + r) * q->row_bytes + at, skip = from & 15;
        int bytes = o + r < q->O ? min(16, max(0, (int)skip + left - p * 16)) : 0;
        copy16(stage + r * ch::w_row + p * 16, bytes ? q->w + (from - skip) + p * 16 : q->w, bytes);
    }
}

/* ... and for the same of x, which lies behind it. */
template <int DT> __device__ __forceinline__ void ask_x(const struct job *q, uint8_t *stage, int64_t c, int lane) {
    using ch = chunk<DT>;
    stage += ROWS * ch::w_row;
    int k0 = (int)min((int64_t)ch::k, q->C - c * ch::k);
    const uint8_t *x = (const uint8_t *)q->x + c * ch::k * 2;
    if (q->x_aligned) {
        for (int i = lane; i < q->n * (ch::k / 8); i += 32) {
            int r = i / (ch::k / 8), p = i % (ch::k / 8), bytes = p * 8 < k0 ? 16 : 0; /* C is a multiple of 8 */
            copy16_l1(stage + r * ch::x_row + p * 16, bytes ? x + r * q->ldx * 2 + p * 16 : x, bytes);
        }
    } else {
        for (int i = lane; i < q->n * ch::k; i += 32) {
            int r = i / ch::k, j = i % ch::k;
            ((uint16_t *)(stage + r * ch::x_row))[j] = j < k0 ? ((const uint16_t *)x)[r * q->ldx + j] : (uint16_t)0;
        }
    }
}

template <int DT, typename T, int NT>
__device__ __forceinline__ void multiply(float acc[NT][4], const struct job *q, const uint8_t *stage, int64_t o, int64_t c, int lane) {
    using ch = chunk<DT>;
    int g = lane >> 2, t = lane & 3, n = q->n;
    const uint8_t *a = stage + g * ch::w_row, *b = a + 8 * ch::w_row, *x = stage + ROWS * ch::w_row;
    int k0 = (int)min((int64_t)ch::k, q->C - c * ch::k);
    if constexpr (ch::plain) {
#pragma unroll
        for (int k = 0; k < ch::k; k += 32)
            if (k < k0) plain32<T, NT>(acc, a + k * 2, b + k * 2, x + k * 2, ch::x_row, t, g, n);
    } else {
        a += (o + g) * q->row_bytes + c * ch::bytes & 15;
        b += (o + g + 8) * q->row_bytes + c * ch::bytes & 15;
        if constexpr (DT == DT_Q6_K) block256<T, NT>(acc, a, b, x, ch::x_row, t, g, n);
        else
#pragma unroll 2
            for (int k = 0; k < k0; k += 32, a += block_of<DT>::bytes, b += block_of<DT>::bytes)
                block32<DT, T, NT>(acc, a, b, x + k * 2, ch::x_row, t, g, n);
    }
}

/* Adds the split's parts in their order and writes y; sums: [WARPS][NT * 8 columns][ROWS] in shared memory. */
template <int NT> __device__ __forceinline__ void finish(const struct job *q, float *sums, float acc[NT][4], int64_t o, int warp, int lane) {
    int g = lane >> 2, t = lane & 3;
    float *mine = sums + warp * NT * 8 * ROWS;
    for (int i = 0; i < NT; i++)
        for (int j = 0; j < 4; j++) mine[(i * 8 + 2 * t + (j & 1)) * ROWS + g + (j >> 1) * 8] = acc[i][j];
    __syncthreads();
    if (warp % q->split) return;
    for (int i = lane; i < q->n * ROWS; i += 32) {
        int col = i / ROWS, r = i % ROWS;
        if (o + r >= q->O) continue;
        float v = 0;
        for (int s = 0; s < q->split; s++) v += mine[s * NT * 8 * ROWS + i];
        store_y(q->y, q->y_dt, col * q->ldy + o + r, q->bias ? v + q->bias[o + r] : v);
    }
}

/* Matrices of one type that share x, in one launch. */
struct jobs {
    struct job j[MOST_JOBS];
    int first[MOST_JOBS]; /* a job's first block */
    int n, stage_bytes;
};

template <int DT, typename T, int NT> __global__ void __launch_bounds__(WARPS * 32) tile(const __grid_constant__ struct jobs all) {
    using ch = chunk<DT>;
    extern __shared__ __align__(16) uint8_t shared[];
    __shared__ float sums[WARPS * NT * 8 * ROWS];
    int which = 0;
    while (which + 1 < all.n && (int)blockIdx.x >= all.first[which + 1]) which++;
    const struct job q = all.j[which];
    const int stage_bytes = all.stage_bytes;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, part = warp % q.split;
    int64_t o = ((int64_t)(blockIdx.x - all.first[which]) * (WARPS / q.split) + warp / q.split) * ROWS;
    int64_t chunks = o < q.O ? (q.C + ch::k - 1) / ch::k : 0;
    uint8_t *ring = shared + warp * DEPTH * stage_bytes;
    float acc[NT][4] = {};
    int64_t next = part; /* the chunk to ask for: part, part + split, .. */
    for (int s = 0; s < DEPTH - 1; s++) /* W is nobody's output: it can be asked for while the kernel before still runs */
        if (part + s * q.split < chunks) ask_w<DT>(&q, ring + s * stage_bytes, o, part + s * q.split, lane);
    for (int i = 0; i < all.n; i++) bring_soon(all.j[i]);
    let_next_start();
    wait_for_earlier();
    for (int s = 0; s < DEPTH - 1; s++, next += q.split) {
        if (next < chunks) ask_x<DT>(&q, ring + s * stage_bytes, next, lane);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    int stage = 0;
    for (int64_t c = part; c < chunks; c += q.split, next += q.split) {
        asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory"); /* chunk c is here, for this lane's copies.. */
        __syncwarp();                                                        /* ..and the others'; all left the stage before */
        uint8_t *to = ring + (stage + DEPTH - 1) % DEPTH * stage_bytes;
        if (next < chunks) ask_w<DT>(&q, to, o, next, lane), ask_x<DT>(&q, to, next, lane);
        asm volatile("cp.async.commit_group;" ::: "memory");
        multiply<DT, T, NT>(acc, &q, ring + stage * stage_bytes, o, c, lane);
        stage = stage + 1 == DEPTH ? 0 : stage + 1;
    }
    finish<NT>(&q, sums, acc, o, warp, lane);
}

template <int DT, typename T, int NT> static err launch_tile(const struct job *q, int n) {
    using ch = chunk<DT>;
    struct jobs all = {};
    int64_t tiles = 0, chunks = (q->C + ch::k - 1) / ch::k, blocks = 0;
    int split = 1;
    for (int i = 0; i < n; i++) tiles += (q[i].O + ROWS - 1) / ROWS;
    /* as few warps share rows as make 8 a multiprocessor */
    while (split < WARPS && split < chunks && tiles * split < 8 * (int64_t)cuda_sms) split *= 2;
    for (int i = 0; i < n; i++) {
        int64_t mine = (q[i].O + ROWS - 1) / ROWS, per_block = WARPS / split;
        all.j[i] = q[i], all.j[i].split = split, all.first[i] = (int)blocks;
        blocks += (mine + per_block - 1) / per_block;
    }
    all.n = n, all.stage_bytes = ROWS * ch::w_row + q->n * ch::x_row;
    int bytes = WARPS * DEPTH * all.stage_bytes;
    static int allowed = 48 << 10; /* per instantiation: one card, one stream */
    if (bytes > allowed) {
        TRY(cuda_check(cudaFuncSetAttribute(tile<DT, T, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "matvec"));
        allowed = bytes;
    }
    return cuda_launch((const void *)tile<DT, T, NT>, dim3((unsigned)blocks), WARPS * 32, bytes, &all, "matvec");
}

template <int DT, typename T> static err tile_n(const struct job *q, int n) { return q->n <= 8 ? launch_tile<DT, T, 1>(q, n) : launch_tile<DT, T, 2>(q, n); }

/* ---- stream kernel: W of x's own 16-bit type ----
 * One block a multiprocessor has all the rows that fall to it, in units of MT * 16 rows of one matrix; its warps divide C, every
 * warp a step of STEP columns in turn. A warp streams its steps, from unit to unit without a stop, through a ring of its own in
 * shared memory: full lines of 128 bytes, a lane 16 of them. x's columns come through L1 into registers one step ahead. A unit's
 * sums meet in shared memory, by turns in two places, so that a warp waits for the others once a unit.
 *
 * Unpadded rows of 128 bytes: odd rows have their halves exchanged, and 8 lanes reading two rows hit all banks once. A row of
 * sums is 4 floats longer than its unit for the same reason. */
enum { STEP = 64, LINE = STEP * 2 };
template <int MT, int NT> struct unit {
    enum { rows = MT * 16, bytes = rows * LINE, warps = MT == 3 || (MT == 2 && NT == 2) ? 8 : 12, depth = warps == 12 ? 6 / MT : MT == 3 ? 3 : 4, sum_row = rows + 4 };
};

struct units {
    struct job j[MOST_JOBS];
    int first[MOST_JOBS + 1]; /* a job's first unit; behind the last: how many there are */
    int n, per_block;
};

/* Whose unit u is. */
static __device__ __forceinline__ int job_at(const struct units &all, int u) {
    int which = 0;
    while (which + 1 < all.n && u >= all.first[which + 1]) which++;
    return which;
}

/* A warp's requests for W: what comes next, and where it goes. */
template <int MT, int NT> struct asked {
    const uint8_t *base; /* row 0 of the unit */
    uint64_t once;       /* cache policy: W is read once */
    uint32_t ring, row_bytes;
    int u, end, step, steps, warps, last, slot; /* last: the unit's last row that exists */

    __device__ __forceinline__ void enter(const struct units &all) {
        const int which = job_at(all, u);
        const struct job &q = all.j[which];
        const int64_t o = (int64_t)(u - all.first[which]) * unit<MT, NT>::rows;
        base = q.w + o * q.row_bytes, row_bytes = (uint32_t)q.row_bytes, last = (int)min(q.O - 1 - o, (int64_t)unit<MT, NT>::rows - 1);
    }
    /* Columns past C become 0; rows past the last are that one again, their sums are not stored. */
    __device__ __forceinline__ void next(const struct units &all, int C, int warp, int lane) {
        if (u < end && step < steps) {
            const int row0 = lane >> 3, piece = lane & 7, k = step * STEP + piece * 8, bytes = k < C ? 16 : 0;
            const uint32_t to = ring + slot * unit<MT, NT>::bytes;
#pragma unroll
            for (int i = 0; i < MT * 4; i++) {
                const int row = row0 + i * 4;
                const uint8_t *from = base + (uint64_t)(uint32_t)min(row, last) * row_bytes + (bytes ? k * 2 : 0);
                asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to + row * LINE + ((piece ^ (row & 1) << 2) << 4)), "l"(from), "r"(bytes), "l"(once) : "memory");
            }
            if ((step += warps) >= steps && (step = warp, ++u < end)) enter(all);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        slot = slot + 1 == unit<MT, NT>::depth ? 0 : slot + 1;
    }
};

/* One step of a unit: x's 16 bytes of a lane are the k of two products, as in plain32. */
template <typename T, int MT, int NT> __device__ __forceinline__ void multiply_step(float acc[MT][NT][4], const uint8_t *w, const uint4 x[NT][2], int g, int t) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint8_t *at = w + (m * 16 + g) * LINE + (((h * 4 + t) ^ (g & 1) << 2) << 4);
            const uint4 a = *(const uint4 *)at, b = *(const uint4 *)(at + 8 * LINE);
            const uint32_t a0[4] = {a.x, b.x, a.y, b.y}, a1[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
            for (int i = 0; i < NT; i++) mma<T>(acc[m][i], a0, x[i][h].x, x[i][h].y), mma<T>(acc[m][i], a1, x[i][h].z, x[i][h].w);
        }
}

/* Adds the warps' parts of unit u in their order and writes y; part: [warps][NT * 8 columns][sum_row]. */
template <int MT, int NT> __device__ __forceinline__ void finish_unit(const struct units &all, int u, float *part, const float acc[MT][NT][4], int warps, int warp, int lane) {
    enum { R = unit<MT, NT>::rows, ROW = unit<MT, NT>::sum_row };
    const int g = lane >> 2, t = lane & 3, which = job_at(all, u);
    const struct job &q = all.j[which];
    const int64_t o = (int64_t)(u - all.first[which]) * R;
    float *mine = part + warp * NT * 8 * ROW;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < NT; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) mine[(i * 8 + 2 * t + (j & 1)) * ROW + m * 16 + g + (j >> 1) * 8] = acc[m][i][j];
    __syncthreads();
    for (int i = threadIdx.x; i < q.n * R; i += blockDim.x) {
        const int col = i / R, r = i % R;
        if (o + r >= q.O) continue;
        float v = 0;
        for (int s = 0; s < warps; s++) v += part[(s * NT * 8 + col) * ROW + r];
        store_y(q.y, q.y_dt, col * q.ldy + o + r, q.bias ? v + q.bias[o + r] : v);
    }
}

template <typename T, int MT, int NT> __global__ void __launch_bounds__(unit<MT, NT>::warps * 32) stream(const __grid_constant__ struct units all) {
    enum { AHEAD = unit<MT, NT>::depth, BYTES = unit<MT, NT>::bytes };
    extern __shared__ __align__(16) uint8_t shared[];
    const int warps = blockDim.x >> 5, warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int C = (int)all.j[0].C, steps = (C + STEP - 1) / STEP;
    const int from = blockIdx.x * all.per_block, to = min(from + all.per_block, all.first[all.n]);
    const uint8_t *mine = shared + warp * AHEAD * BYTES;
    float *sums = (float *)(shared + warps * AHEAD * BYTES);
    struct asked<MT, NT> w = {NULL, 0, (uint32_t)__cvta_generic_to_shared(mine), 0, from, to, warp, steps, warps, 0, 0};
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(w.once));
    w.enter(all);
    for (int d = 0; d < AHEAD; d++) w.next(all, C, warp, lane); /* W is nobody's output: it can be asked for early */
    for (int i = 0; i < all.n; i++) bring_soon(all.j[i]);
    let_next_start();
    wait_for_earlier();

    const T *x[NT];
    uint4 ahead[NT][2];
#pragma unroll
    for (int i = 0; i < NT; i++) x[i] = (const T *)all.j[0].x + min(g + 8 * i, all.j[0].n - 1) * all.j[0].ldx + t * 8; /* columns past the last are not stored */
    auto load_x = [&](int step) {
#pragma unroll
        for (int i = 0; i < NT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int k = step * STEP + h * 32;
                ahead[i][h] = k + t * 8 < C ? *(const uint4 *)(x[i] + k) : make_uint4(0, 0, 0, 0);
            }
    };
    load_x(warp);
    int slot = 0;
    for (int u = from; u < to; u++) {
        float acc[MT][NT][4] = {};
        for (int s = warp; s < steps; s += warps) {
            uint4 now[NT][2];
#pragma unroll
            for (int i = 0; i < NT; i++) now[i][0] = ahead[i][0], now[i][1] = ahead[i][1];
            load_x(s + warps < steps ? s + warps : warp);
            asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1) : "memory"); /* this step is here, for this lane's copies.. */
            __syncwarp();                                                         /* ..and the others' */
            multiply_step<T, MT, NT>(acc, mine + slot * BYTES, now, g, t);
            __syncwarp(); /* all have read the slot */
            w.next(all, C, warp, lane);
            slot = slot + 1 == AHEAD ? 0 : slot + 1;
        }
        finish_unit<MT, NT>(all, u, sums + (u & 1) * warps * NT * 8 * unit<MT, NT>::sum_row, acc, warps, warp, lane);
    }
}

template <typename T, int MT, int NT> static err launch_stream(const struct job *q, int n, int shared_most) {
    struct units all = {};
    const int per_warp = unit<MT, NT>::depth * unit<MT, NT>::bytes + 2 * NT * 8 * unit<MT, NT>::sum_row * (int)sizeof(float);
    const int warps = shared_most / per_warp < unit<MT, NT>::warps ? shared_most / per_warp : unit<MT, NT>::warps, bytes = warps * per_warp;
    for (int i = 0; i < n; i++) all.j[i] = q[i], all.first[i + 1] = all.first[i] + (int)((q[i].O + unit<MT, NT>::rows - 1) / unit<MT, NT>::rows);
    all.n = n, all.per_block = (all.first[n] + cuda_sms - 1) / cuda_sms;
    static bool allowed; /* per instantiation: one card */
    if (!allowed) TRY(cuda_check(cudaFuncSetAttribute(stream<T, MT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "matvec"));
    allowed = true;
    return cuda_launch((const void *)stream<T, MT, NT>, dim3((unsigned)((all.first[n] + all.per_block - 1) / all.per_block)), warps * 32, bytes, &all, "matvec");
}

/* Units as wide as what falls to a multiprocessor, else two tiles: x is read once a unit. */
template <typename T, int NT> static err stream_units(const struct job *q, int n) {
    static int shared_most; /* one card */
    int64_t tiles = 0;
    if (!shared_most) TRY(cuda_check(cudaDeviceGetAttribute(&shared_most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "matvec"));
    for (int i = 0; i < n; i++) tiles += (q[i].O + ROWS - 1) / ROWS;
    const int64_t each = (tiles + cuda_sms - 1) / cuda_sms;
    return each == 1 ? launch_stream<T, 1, NT>(q, n, shared_most) : each == 3 ? launch_stream<T, 3, NT>(q, n, shared_most) : launch_stream<T, 2, NT>(q, n, shared_most);
}

template <typename T> static err stream_n(const struct job *q, int n) { return q->n <= 8 ? stream_units<T, 1>(q, n) : stream_units<T, 2>(q, n); }

/* ---- fma kernel: f32 arithmetic ----
 * A lane takes four neighbouring c of RW rows of W and of every row of x: 128 c a warp and step. */
template <typename X> __device__ __forceinline__ void x4(const X *x, int64_t c, bool aligned, float v[4]) {
    if (aligned) {
        constexpr int DT = sizeof(X) == 4 ? DT_F32 : T_is_bf16<X>::yes ? DT_BF16 : DT_F16;
        block4<DT>((const uint8_t *)x, c, v);
    } else {
        for (int i = 0; i < 4; i++) v[i] = to_f32(x[c + i]);
    }
}

template <int DT, typename X, int NB> __global__ void __launch_bounds__(WARPS * 32, 5) fma_rows(const __grid_constant__ struct job q) {
    constexpr int RW = NB == 16 ? 2 : 4;
    __shared__ float sums[WARPS][NB * RW];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, part = warp % q.split;
    int64_t o = ((int64_t)blockIdx.x * (WARPS / q.split) + warp / q.split) * RW;
    float acc[NB][RW] = {};
    if (o < q.O) {
#pragma unroll(NB == 1 ? 2 : 1)
        for (int64_t c = part * 128 + lane * 4; c < q.C; c += q.split * 128) {
            float w[RW][4];
            for (int r = 0; r < RW; r++) block4<DT>(q.w + min(o + r, q.O - 1) * q.row_bytes, c, w[r]);
#pragma unroll
            for (int i = 0; i < NB; i++) {
                float v[4];
                x4<X>((const X *)q.x + min(i, q.n - 1) * q.ldx, c, q.x_aligned, v);
                for (int r = 0; r < RW; r++)
                    for (int j = 0; j < 4; j++) acc[i][r] = fmaf(v[j], w[r][j], acc[i][r]);
            }
        }
    }
    for (int i = 0; i < NB; i++)
        for (int r = 0; r < RW; r++) {
            float v = warp_sum(acc[i][r]);
            if (!lane) sums[warp][i * RW + r] = v;
        }
    __syncthreads();
    if (part) return;
    for (int i = lane; i < q.n * RW; i += 32) {
        int64_t row = o + i % RW;
        if (row >= q.O) continue;
        float v = 0;
        for (int s = 0; s < q.split; s++) v += sums[warp + s][i];
        store_y(q.y, q.y_dt, i / RW * q.ldy + row, q.bias ? v + q.bias[row] : v);
    }
}

template <int DT, typename X, int NB> static err launch_fma(struct job *q) {
    int64_t groups = (q->O + (NB == 16 ? 1 : 3)) / (NB == 16 ? 2 : 4), steps = (q->C + 127) / 128;
    for (q->split = 1; q->split < WARPS && q->split < steps && groups * q->split < 32 * (int64_t)cuda_sms;) q->split *= 2;
    int64_t per_block = WARPS / q->split;
    fma_rows<DT, X, NB><<<(unsigned)((groups + per_block - 1) / per_block), WARPS * 32, 0, cuda_stream>>>(*q);
    return CUDA_LAUNCHED("matvec");
}

template <int DT, typename X> static err fma_n(struct job *q) {
    return q->n == 1 ? launch_fma<DT, X, 1>(q) : q->n <= 4 ? launch_fma<DT, X, 4>(q) : launch_fma<DT, X, 16>(q);
}

/* ---- the choice ---- */
static err with_f32(dtype w, struct job *q) {
    switch (w) {
    case DT_F32: return fma_n<DT_F32, float>(q);
    case DT_F16: return fma_n<DT_F16, float>(q);
    case DT_BF16: return fma_n<DT_BF16, float>(q);
    case DT_Q4_0: return fma_n<DT_Q4_0, float>(q);
    case DT_Q4_1: return fma_n<DT_Q4_1, float>(q);
    case DT_Q8_0: return fma_n<DT_Q8_0, float>(q);
    default: return fma_n<DT_Q6_K, float>(q);
    }
}

/* n jobs of one type of W. */
template <typename T, int SAME, int OTHER> static err with_half(dtype w, struct job *q, int n) {
    switch (w) {
    case DT_Q4_0: return tile_n<DT_Q4_0, T>(q, n);
    case DT_Q4_1: return tile_n<DT_Q4_1, T>(q, n);
    case DT_Q8_0: return tile_n<DT_Q8_0, T>(q, n);
    case DT_Q6_K: return tile_n<DT_Q6_K, T>(q, n);
    default:
        if (w == SAME) return q->x_aligned ? stream_n<T>(q, n) : tile_n<SAME, T>(q, n);
        for (int i = 0; i < n; i++) TRY((w == DT_F32 ? fma_n<DT_F32, T>(&q[i]) : fma_n<OTHER, T>(&q[i])));
        return OK;
    }
}

extern "C" bool cuda_matvec_takes(dtype w, dtype x, int64_t n, int64_t C) {
    if (n > MAX_N || n < 0 || C <= 0 || (x != DT_F32 && x != DT_BF16 && x != DT_F16)) return false;
    switch (w) {
    case DT_F32: case DT_F16: case DT_BF16: return C % 8 == 0;
    case DT_Q4_0: case DT_Q4_1: case DT_Q8_0: return C % 32 == 0;
    case DT_Q6_K: return C % 256 == 0;
    default: return false;
    }
}

static err job_of(const struct cuda_matvec *m, struct job *q) {
    const struct view *w = m->w;
    int64_t C = w->d[1];
    if (!cuda_matvec_takes(w->dt, m->x_dt, m->n, C)) return fail(E_INTERNAL, "matvec: not for this shape or type");
    size_t x_size = m->x_dt == DT_F32 ? 4 : 2;
    *q = {};
    q->w = (const uint8_t *)w->p, q->bias = m->bias, q->x = m->x, q->y = m->y, q->y_dt = m->y_dt;
    q->O = w->d[0], q->C = C, q->ldx = m->ldx, q->ldy = m->ldy, q->n = (int)m->n;
    q->soon = (const char *)m->soon, q->soon_lines = (int)((m->soon_bytes + 127) / 128);
    q->row_bytes = dtype_quantised(w->dt) || w->ld <= C ? (int64_t)dtype_row_bytes(w->dt, C) : w->ld * (w->dt == DT_F32 ? 4 : 2);
    q->x_aligned = !(((uintptr_t)m->x | (m->n > 1 ? (uintptr_t)m->ldx * x_size : 0)) & 15);
    if (((uintptr_t)q->w & 15) || (!dtype_quantised(w->dt) && (q->row_bytes & 15))) return fail(E_INTERNAL, "matvec: rows of W that are not 16-byte aligned");
    return OK;
}

extern "C" err cuda_matvec(const struct cuda_matvec *m, int n) {
    for (int from = 0, to; from < n; from = to) { /* runs of one type */
        struct job q[MOST_JOBS];
        dtype w = m[from].w->dt;
        int jobs = 0;
        for (to = from; to < n && m[to].w->dt == w && jobs < MOST_JOBS; to++)
            if (m[to].n > 0 && m[to].w->d[0] > 0) TRY(job_of(&m[to], &q[jobs++]));
        if (!jobs) continue;
        if (m->x_dt == DT_BF16) TRY((with_half<bf16, DT_BF16, DT_F16>(w, q, jobs)));
        else if (m->x_dt == DT_F16) TRY((with_half<f16, DT_F16, DT_BF16>(w, q, jobs)));
        for (int i = 0; i < jobs && m->x_dt == DT_F32; i++) TRY(with_f32(w, &q[i]));
    }
    return OK;
}
