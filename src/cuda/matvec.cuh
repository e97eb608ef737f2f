/* What the kernels of matvec.cu (plain matrices) and matvec_quant.cu (stored types) share: a job, units of rows that fall to a
 * multiprocessor, one product of the tensor cores, and the meeting of the warps' sums. */
#ifndef CYC_CUDA_MATVEC_CUH
#define CYC_CUDA_MATVEC_CUH
#include "cuda/blocks.cuh"

template <typename T> struct T_is_bf16 { enum { yes = 0 }; };
template <> struct T_is_bf16<bf16> { enum { yes = 1 }; };

enum { MAX_N = 16, ROWS = 16, MOST_JOBS = MAX_GROUP + 1 };

static __device__ __forceinline__ void store_y(void *y, dtype dt, int64_t i, float v) {
    if (dt == DT_F32) ((float *)y)[i] = v;
    else if (dt == DT_BF16) ((bf16 *)y)[i] = from_f32<bf16>(v);
    else ((f16 *)y)[i] = from_f32<f16>(v);
}

/* One product. */
struct job {
    const uint8_t *w;
    const float *bias;
    const void *x;
    void *y;
    int64_t O, C, row_bytes, ldx, ldy;
    int unit_rows;
    int n, split; /* split, fma kernel: warps of a block that share the same rows of W, each a part of C */
    dtype w_dt, y_dt;
    bool x_aligned; /* every row of x starts at a multiple of 16 bytes */
    const char *soon; /* what the next kernel reads first, in lines of 128 bytes */
    int soon_lines;
    /* matvec_quant.cu: parts of a slice of C, their bytes, those from one to the next, by how many every second one begins earlier than
     * that (halves of a block that share its middle), bytes of a row's C columns, 16-byte pieces that hold a part wherever it starts,
     * bytes from row to row in shared memory; whole: every part of every row is pieces of its own */
    int parts, step_bytes, stride, early, used, pieces, row_space;
    bool whole;
};

/* Brought to L2 while W streams past it: the next kernel is short, its first misses would be most of it. */
static __device__ __forceinline__ void bring_soon(const struct job &q) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < q.soon_lines; i += gridDim.x * blockDim.x) asm volatile("prefetch.global.L2 [%0];" ::"l"(q.soon + (int64_t)i * 128));
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

/* Jobs that share x, in one launch; a unit is up to MT * 16 rows of one of them. */
struct units {
    struct job j[MOST_JOBS];
    int first[MOST_JOBS + 1]; /* a job's first unit; behind the last: how many there are */
    int n, per_block;
    int slot_bytes, depth, slices; /* matvec_quant.cu: a warp's ring; C's slices */
};

/* Whose unit u is. */
static __device__ __forceinline__ int job_at(const struct units &all, int u) {
    int which = 0;
    while (which + 1 < all.n && u >= all.first[which + 1]) which++;
    return which;
}

static inline void number_units(struct units *all) {
    for (int i = 0; i < all->n; i++) all->first[i + 1] = all->first[i] + (int)((all->j[i].O + all->j[i].unit_rows - 1) / all->j[i].unit_rows);
    all->per_block = (all->first[all->n] + cuda_sms - 1) / cuda_sms;
}

static inline void count_units(struct units *all, const struct job *q, int n, int rows) {
    for (int i = 0; i < n; i++) all->j[i] = q[i], all->j[i].unit_rows = rows;
    all->n = n;
    number_units(all);
}

/* Tiles of 16 rows that fall to the busiest multiprocessor. */
static inline int64_t tiles_each(const struct job *q, int n) {
    int64_t tiles = 0;
    for (int i = 0; i < n; i++) tiles += (q[i].O + ROWS - 1) / ROWS;
    return (tiles + cuda_sms - 1) / cuda_sms;
}

/* Floats from column to column of a unit's sums: 4 more than its rows, so that a warp's stores fall into different banks. */
template <int MT> struct sums_of { enum { rows = MT * ROWS, ld = rows + 4 }; };

/* Adds the warps' parts of unit u, which begins at row o of a job, in their order and writes y; sums: two times, in turn,
 * [warps][NT * 8 columns][sums_of::ld]. There is work for half of the warps: the one half in even units, the other in odd ones. */
template <int MT, int NT> __device__ __forceinline__ void finish_unit(const struct job &q, int u, int o, float *sums, const float acc[MT][NT][4], int warps, int warp, int lane) {
    enum { R = sums_of<MT>::rows, LD = sums_of<MT>::ld };
    const int g = lane >> 2, t = lane & 3, threads = warps * 32;
    float *part = sums + (u & 1) * warps * NT * 8 * LD;
    float *mine = part + warp * NT * 8 * LD + 2 * t * LD + g;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < NT; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) mine[(i * 8 + (j & 1)) * LD + m * 16 + (j >> 1) * 8] = acc[m][i][j];
    __syncthreads();
    for (int i = u & 1 ? threads - 1 - (int)threadIdx.x : threadIdx.x; i < q.n * R; i += threads) {
        const int col = i / R, r = i % R;
        if (r >= q.unit_rows || o + r >= q.O) continue;
        const float *from = part + col * LD + r;
        float v = 0;
#pragma unroll 8
        for (int s = 0; s < warps; s++) v += from[s * NT * 8 * LD];
        store_y(q.y, q.y_dt, col * q.ldy + o + r, q.bias ? v + q.bias[o + r] : v);
    }
}

/* matvec_quant.cu: n jobs that share x of type x_dt (bf16 or f16), W quantised or of x's type, in one launch. */
err cuda_matvec_stored(dtype x_dt, const struct job *q, int n);
/* quants.cuh's types are the ones it knows; fma_rows takes the same with f32 x. */
#define EACH_QUANT(CASE)                                                                                              \
    CASE(DT_Q4_0) CASE(DT_Q4_1) CASE(DT_Q5_0) CASE(DT_Q5_1) CASE(DT_Q8_0) CASE(DT_Q3_K) CASE(DT_Q4_K) CASE(DT_Q5_K) \
    CASE(DT_Q6_K) CASE(DT_IQ4_NL) CASE(DT_IQ4_XS) CASE(DT_NF4) CASE(DT_E4M3) CASE(DT_INT8) CASE(DT_NF4_DQ)

#endif
