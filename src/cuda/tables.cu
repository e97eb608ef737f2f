/* Tables by id: the gradients of a token table (embed_bwd) and of a table of virtual tokens (overlay_bwd), and overlay itself, which
 * lays that table's rows over a text's; and which ids have rows of their own (ops/token_rows.c). ops/embed.c and ops/overlay.c say what
 * they are.
 *
 * A row of a gradient has one block for each COLUMNS of it, which walks the ids and adds up the rows of dy that are its own, in
 * their order: the bits repeat, and no atomics are needed. A small table has a block for every row. The token table is far larger
 * than a text, so there a position speaks for its id, the first one that has it; the others find an earlier one and stop. That
 * compares N^2 / 2 ids, a block of threads at a time: 8,192 tokens are 34 million comparisons.
 *
 * f32 inside, rounded once at the store. Ids that are no row of the table give zeros and take no gradient. */
#include "cuda/types.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, EACH = 4, COLUMNS = THREADS * EACH, NOBODY = -1 };

struct sums {
    const void *dy;
    const int32_t *ids;
    void *to;
    int64_t N, C, rows, ld, ld_to, first; /* rows: of the table */
    float scale;
};

/* Of the THREADS positions from `base` on, those with this id, in order: list[0..n). Every thread of the block must come. */
__device__ static int matches(const struct sums &a, int64_t base, int64_t id, int *list, int *counts) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t n = base + threadIdx.x;
    const bool mine = n < a.N && a.ids[n] == id;
    const unsigned votes = __ballot_sync(~0u, mine);
    __syncthreads(); /* the list before has been read */
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < WARPS; w++) before += w < warp ? counts[w] : 0, all += counts[w];
    if (mine) list[before + __popc(votes & ((1u << lane) - 1))] = (int)n;
    __syncthreads();
    return all;
}

/* BY_POSITION: block x is a position and adds for its id, if it is the first that has it; else it is a row of the table. ADDS: to G,
 * else it writes. */
template <typename T, typename G, bool BY_POSITION, bool ADDS>
__global__ void __launch_bounds__(THREADS) sums_kernel(const __grid_constant__ struct sums a) {
    __shared__ int list[THREADS], counts[WARPS];
    const int64_t id = BY_POSITION ? (int64_t)a.ids[blockIdx.x] : a.first + blockIdx.x, row = id - a.first;
    if (row < 0 || row >= a.rows) return;
    if (BY_POSITION) {
        bool earlier = false;
        for (int64_t n = threadIdx.x; n < blockIdx.x; n += THREADS) earlier |= a.ids[n] == id;
        if (__syncthreads_or(earlier)) return;
    }
    const int64_t c = (int64_t)blockIdx.y * COLUMNS + threadIdx.x;
    float sum[EACH] = {};
    for (int64_t base = BY_POSITION ? blockIdx.x : 0; base < a.N; base += THREADS) {
        const int n = matches(a, base, id, list, counts);
#pragma unroll 4
        for (int i = 0; i < n; i++) {
            const T *dy = (const T *)a.dy + list[i] * a.ld + c;
#pragma unroll
            for (int k = 0; k < EACH; k++) sum[k] += c + k * THREADS < a.C ? to_f32(dy[k * THREADS]) : 0.0f;
        }
    }
    G *to = (G *)a.to + row * a.ld_to + c;
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (c + k * THREADS < a.C) to[k * THREADS] = from_f32<G>(ADDS ? to_f32(to[k * THREADS]) + a.scale * sum[k] : a.scale * sum[k]);
}

static struct sums sums_of(const struct view *in, const struct view *to, int64_t first, float scale) {
    struct sums a = {in[0].p, view_i32(&in[1]), to->p, view_rows(&in[0]), in[0].d[1], to->d[0], in[0].ld, to->ld, first, scale};
    return a;
}

static dim3 blocks_of(const struct sums *a, int64_t blocks) { return dim3((unsigned)blocks, (unsigned)((a->C + COLUMNS - 1) / COLUMNS)); }

extern "C" err cuda_embed_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    const struct sums a = sums_of(in, &out[0], 0, inst->a.scale);
    if (!a.N || !a.C) return OK;
    WITH_TYPE(in[0].dt, sums_kernel<T, float, true, true><<<blocks_of(&a, a.N), THREADS, 0, cuda_stream>>>(a));
    return CUDA_LAUNCHED("embed_bwd");
}

/* Rows of `units` units of U; a block has one. */
struct rows {
    const void *x, *table;
    const int32_t *ids;
    void *y;
    int64_t ldx, ldt, ldy, first, rows; /* strides in units; rows: of the table, 0: zeros in place of it */
    int units;
};

template <typename U> __global__ void __launch_bounds__(THREADS) overlay_kernel(const __grid_constant__ struct rows a) {
    const int64_t n = blockIdx.x, row = a.ids[n] - a.first;
    const U *from = row < 0 ? (const U *)a.x + n * a.ldx : row < a.rows ? (const U *)a.table + row * a.ldt : NULL;
    U *to = (U *)a.y + n * a.ldy;
    if (from == to) return;
    for (int c = threadIdx.x; c < a.units; c += THREADS) to[c] = from ? from[c] : U{};
}

static size_t size_of(const struct view *v) { return dtype_row_bytes(v->dt, 1); }

/* By 16 bytes where everything is a multiple of that, else by 2. table: absent for zeros. */
static err lay_over(const struct view *x, const int32_t *ids, const struct view *table, int64_t first, const struct view *y) {
    const size_t size = size_of(x);
    const int64_t N = view_rows(x);
    const uintptr_t all = (uintptr_t)x->p | (uintptr_t)y->p | (uintptr_t)table->p | (uintptr_t)(x->ld | y->ld | table->ld | x->d[1]) * size;
    const int64_t unit = (int64_t)((all & 15) == 0 ? 16 : 2), per = (int64_t)size;
    if (!N || !x->d[1]) return OK;
    struct rows a = {x->p, table->p, ids, y->p, x->ld * per / unit, table->ld * per / unit, y->ld * per / unit, first, 0, (int)(x->d[1] * per / unit)};
    if (table->p) a.rows = table->d[0];
    if (unit == 16) overlay_kernel<uint4><<<(unsigned)N, THREADS, 0, cuda_stream>>>(a);
    else overlay_kernel<uint16_t><<<(unsigned)N, THREADS, 0, cuda_stream>>>(a);
    return CUDA_LAUNCHED("overlay");
}

extern "C" err cuda_overlay(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return lay_over(&in[0], view_i32(&in[1]), &in[2], inst->a.first, &out[0]);
}

/* The table first: dx may be dy's memory. */
extern "C" err cuda_overlay_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    const struct view none = {};
    const struct sums a = sums_of(in, out[1].p ? &out[1] : &out[2], inst->a.first, 1);
    if (a.to && a.rows && a.C) {
        if (out[1].p) WITH_TYPE(in[0].dt, sums_kernel<T, float, false, true><<<blocks_of(&a, a.rows), THREADS, 0, cuda_stream>>>(a));
        else WITH_TYPE(in[0].dt, sums_kernel<T, T, false, false><<<blocks_of(&a, a.rows), THREADS, 0, cuda_stream>>>(a));
        TRY(CUDA_LAUNCHED("overlay_bwd"));
    }
    return out[0].p ? lay_over(&in[0], view_i32(&in[1]), &none, inst->a.first, &out[0]) : OK;
}

/* --- rows that have replacements -------------------------------------------------------------------------------------------- */
/* The last of equal ones, as the definition has it; R is small. */
__global__ static void find_kernel(const int32_t *ids, int64_t N, const int32_t *which, int R, int32_t *row, int32_t *rest) {
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (n >= N) return;
    int found = NOBODY;
    for (int r = 0; r < R; r++)
        if (which[r] == ids[n]) found = r;
    row[n] = found;
    rest[n] = found == NOBODY ? ids[n] : NOBODY;
}

extern "C" err cuda_find_rows(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)scratch;
    const int64_t N = in[0].d[0];
    if (!N) return OK;
    find_kernel<<<(unsigned)((N + THREADS - 1) / THREADS), THREADS, 0, cuda_stream>>>(view_i32(&in[0]), N, view_i32(&in[1]), (int)in[1].d[0], (int32_t *)out[0].p, (int32_t *)out[1].p);
    return CUDA_LAUNCHED("find_rows");
}

/* A block a row: z as it is, then its replaced columns. */
template <typename T> __global__ void columns_kernel(const T *z, int64_t ldz, const T *own, int64_t ldo, const int32_t *which, int R, T *y, int64_t ldy, int64_t V) {
    const int64_t n = blockIdx.x;
    for (int64_t v = threadIdx.x; v < V && z + n * ldz != y + n * ldy; v += THREADS) y[n * ldy + v] = z[n * ldz + v];
    __syncthreads();
    for (int r = threadIdx.x; r < R; r += THREADS)
        if (which[r] >= 0 && which[r] < V) y[n * ldy + which[r]] = own[n * ldo + r];
}

extern "C" err cuda_put_columns(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)scratch;
    const int64_t N = view_rows(&in[0]);
    if (!N) return OK;
    WITH_TYPE(in[0].dt, columns_kernel<T><<<(unsigned)N, THREADS, 0, cuda_stream>>>((const T *)in[0].p, in[0].ld, (const T *)in[1].p, in[1].ld, view_i32(&in[2]), (int)in[2].d[0], (T *)out[0].p, out[0].ld, in[0].d[1]));
    return CUDA_LAUNCHED("put_columns");
}
