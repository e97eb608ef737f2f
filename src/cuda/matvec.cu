/* Products of few rows (generation): y[n, o] = sum_c x[n, c] W[o, c] + bias[o] for 1..16 rows, W read once, as it is stored.
 *
 * Floor: the bytes of W at 2.9 TB/s; 8B in bf16 16 GB, 5.5 ms a token, in Q4_K 4.5 GB, 1.6 ms. That is 13 bytes a clock and
 * multiprocessor: 23 weights of Q4_K. With 128 multiply-adds a clock a product of n rows on the CUDA cores takes 23 n of them
 * beside some 80 for unpacking: over at n = 3. So bf16 and f16 x go through tensor cores at any n, which take 128 weights
 * a clock with 8 columns (one m16n8k16 is 256 weights): W's rows are the 16-row operand, x's the 8 columns, 9..16 rows of x
 * are two such.
 *
 * W of x's own type, the usual case, goes through the stream kernel: a multiprocessor keeps its share of all rows to itself, so x
 * is read once for up to 48 of them (a warp of 16 rows of its own would read as much of x as of W at 16 rows of x). Groups in which
 * a matrix is quantised go to matvec_quant.cu, where unpacking is the work.
 *
 * f32 x (any W), f32 W, and W and x of bf16 and f16 mixed: f32 multiply-adds, each warp 2 to 4 rows of W (fma kernel); from
 * n = 4 on it is bound by arithmetic and L1, not by memory.
 *
 * Every sum has a fixed order that depends on the shape alone, so results repeat bit for bit.
 * Refused by cuda_matvec_takes: n > 16, C no multiple of the block (of 8 for plain types), Q2_K. W must be 16-byte aligned
 * and, if plain, its rows too; x and y need only their own type's alignment. */
#include "cuda/matvec.cuh"

enum { WARPS = 4 };

/* ---- stream kernel: W of x's own 16-bit type ----
 * One block a multiprocessor has all the rows that fall to it, in units of MT * 16 rows of one matrix; its warps divide C, every
 * warp a step of STEP columns in turn. A warp streams its steps, from unit to unit without a stop, through a ring of its own in
 * shared memory: full lines of 128 bytes, a lane 16 of them. x's columns come through L1 into registers one step ahead. A unit's
 * sums meet in shared memory, by turns in two places, so that a warp waits for the others once a unit.
 *
 * Unpadded rows of 128 bytes: odd rows have their halves exchanged, and 8 lanes reading two rows hit all banks once. */
enum { STEP = 64, LINE = STEP * 2 };
template <int MT, int NT> struct unit {
    enum { rows = MT * 16, bytes = rows * LINE, warps = MT == 3 || (MT == 2 && NT == 2) ? 8 : 12, depth = warps == 12 ? 6 / MT : MT == 3 ? 3 : 4 };
};

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

/* One step of a unit: x's 16 bytes of a lane are the k of two products, as in matvec_quant.cu. */
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
        const int which = job_at(all, u);
        finish_unit<MT, NT>(all.j[which], u, (u - all.first[which]) * unit<MT, NT>::rows, sums, acc, warps, warp, lane);
    }
}

template <typename T, int MT, int NT> static err launch_stream(const struct job *q, int n, int shared_most) {
    struct units all = {};
    const int per_warp = unit<MT, NT>::depth * unit<MT, NT>::bytes + 2 * NT * 8 * sums_of<MT>::ld * (int)sizeof(float);
    const int warps = shared_most / per_warp < unit<MT, NT>::warps ? shared_most / per_warp : unit<MT, NT>::warps, bytes = warps * per_warp;
    count_units(&all, q, n, unit<MT, NT>::rows);
    static bool allowed; /* per instantiation: one card */
    if (!allowed) TRY(cuda_check(cudaFuncSetAttribute(stream<T, MT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "matvec"));
    allowed = true;
    return cuda_launch((const void *)stream<T, MT, NT>, dim3((unsigned)((all.first[n] + all.per_block - 1) / all.per_block)), warps * 32, bytes, &all, "matvec");
}

/* Units as wide as what falls to a multiprocessor, else two tiles: x is read once a unit. */
template <typename T, int NT> static err stream_units(const struct job *q, int n) {
    static int shared_most; /* one card */
    const int64_t each = tiles_each(q, n);
    if (!shared_most) TRY(cuda_check(cudaDeviceGetAttribute(&shared_most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "matvec"));
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
static err with_f32(struct job *q) {
    switch (q->w_dt) {
#define FMA(stored) case stored: return fma_n<stored, float>(q);
        EACH_QUANT(FMA) FMA(DT_F16) FMA(DT_BF16)
#undef FMA
    default: return fma_n<DT_F32, float>(q);
    }
}

/* x of type T, whose name is SAME. */
template <typename T, dtype SAME, dtype OTHER> static err with_half(struct job *q, int n) {
    struct job together[MOST_JOBS];
    int k = 0;
    bool plain = q->x_aligned;
    for (int i = 0; i < n; i++) {
        if (q[i].w_dt == DT_F32) TRY((fma_n<DT_F32, T>(&q[i])));
        else if (q[i].w_dt == OTHER) TRY((fma_n<OTHER, T>(&q[i])));
        else plain &= q[i].w_dt == SAME, together[k++] = q[i];
    }
    if (!k) return OK;
    return plain ? stream_n<T>(together, k) : cuda_matvec_stored(SAME, together, k);
}

extern "C" bool cuda_matvec_takes(dtype w, dtype x, int64_t n, int64_t C) {
    if (n > MAX_N || n < 0 || C <= 0 || (x != DT_F32 && x != DT_BF16 && x != DT_F16)) return false;
    switch (w) {
    case DT_F32: case DT_F16: case DT_BF16: return C % 8 == 0;
#define TAKES(stored) case stored: return C % block_of<stored>::weights == 0;
    EACH_QUANT(TAKES)
#undef TAKES
    default: return false;
    }
}

static err job_of(const struct cuda_matvec *m, struct job *q) {
    const struct view *w = m->w;
    int64_t C = w->d[1];
    if (!cuda_matvec_takes(w->dt, m->x_dt, m->n, C)) return fail(E_INTERNAL, "matvec: not for this shape or type");
    size_t x_size = m->x_dt == DT_F32 ? 4 : 2;
    *q = {};
    q->w = (const uint8_t *)w->p, q->bias = m->bias, q->x = m->x, q->y = m->y, q->w_dt = w->dt, q->y_dt = m->y_dt;
    q->O = w->d[0], q->C = C, q->ldx = m->ldx, q->ldy = m->ldy, q->n = (int)m->n;
    q->soon = (const char *)m->soon, q->soon_lines = (int)((m->soon_bytes + 127) / 128);
    q->row_bytes = dtype_quantised(w->dt) || w->ld <= C ? (int64_t)dtype_row_bytes(w->dt, C) : w->ld * (w->dt == DT_F32 ? 4 : 2);
    q->x_aligned = !(((uintptr_t)m->x | (m->n > 1 ? (uintptr_t)m->ldx * x_size : 0)) & 15);
    if (((uintptr_t)q->w & 15) || (!dtype_quantised(w->dt) && (q->row_bytes & 15))) return fail(E_INTERNAL, "matvec: rows of W that are not 16-byte aligned");
    return OK;
}

extern "C" err cuda_matvec(const struct cuda_matvec *m, int n) {
    for (int from = 0, to; from < n; from = to) {
        struct job q[MOST_JOBS];
        int jobs = 0;
        for (to = from; to < n && jobs < MOST_JOBS; to++)
            if (m[to].n > 0 && m[to].w->d[0] > 0) TRY(job_of(&m[to], &q[jobs++]));
        if (!jobs) continue;
        if (m->x_dt == DT_BF16) TRY((with_half<bf16, DT_BF16, DT_F16>(q, jobs)));
        else if (m->x_dt == DT_F16) TRY((with_half<f16, DT_F16, DT_BF16>(q, jobs)));
        for (int i = 0; i < jobs && m->x_dt == DT_F32; i++) TRY(with_f32(&q[i]));
    }
    return OK;
}
