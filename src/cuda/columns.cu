/* Sums over the rows, column by column: column_sum, and scale_bwd's gradient of the vector (ops/column_sum.c, ops/scale.c).
 *
 * The rows are cut in PARTS pieces; a block sums TILE_X columns of one of them into scratch, then the pieces are summed in their order.
 * So a sum has one order, which depends on the number of rows alone, and the bits repeat. All sums are f32. Without rows there is
 * nothing to add, but a vector that is to be written becomes zeros. */
#include "cuda/types.cuh"

enum { PARTS = 64, TILE_X = 32, TILE_Y = 8, THREADS = 256 };

struct sums {
    const void *dy, *x; /* [N, C]; x: NULL where nothing is multiplied with */
    float *part;        /* [PARTS, C] */
    int64_t N, lddy, ldx;
    int C;
};

/* part[p, c] = sum over the part's rows of dy (times x). Block: TILE_X columns, TILE_Y rows at a time. */
template <typename T> __global__ void part_sums_kernel(const __grid_constant__ struct sums a) {
    __shared__ float rows[TILE_Y][TILE_X];
    const int c = blockIdx.x * TILE_X + threadIdx.x;
    const int64_t each = (a.N + PARTS - 1) / PARTS, begin = blockIdx.y * each, end = begin + each < a.N ? begin + each : a.N;
    float sum = 0;
    for (int64_t n = begin + threadIdx.y; c < a.C && n < end; n += TILE_Y) {
        const float d = to_f32(((const T *)a.dy)[n * a.lddy + c]);
        sum = a.x ? fmaf(d, to_f32(((const T *)a.x)[n * a.ldx + c]), sum) : sum + d;
    }
    rows[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || c >= a.C) return;
    sum = 0;
    for (int i = 0; i < TILE_Y; i++) sum += rows[i][threadIdx.x];
    a.part[(int64_t)blockIdx.y * a.C + c] = sum;
}

__global__ void join_parts_kernel(const float *part, float *to, int C, float by, bool add) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float sum = 0;
    for (int p = 0; p < PARTS; p++) sum += part[(int64_t)p * C + c];
    to[c] = add ? to[c] + sum * by : sum * by;
}

/* The same over the columns too: a block, whose threads take parts and columns in turn. */
__global__ void join_all_kernel(const float *part, float *to, int64_t n, float by, bool add) {
    __shared__ float mine[THREADS];
    float sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += part[i];
    mine[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < THREADS; i++) sum += mine[i];
    *to = add ? *to + sum * by : sum * by;
}

static size_t parts_bytes(int64_t C) { return (size_t)PARTS * (size_t)C * sizeof(float); }

/* to (+)= the sums of dy's columns, times x's where x is there, times `by`; one: the sum of these sums. */
static err sum_columns(const struct view *dy, const struct view *x, float by, float *to, bool one, bool add, void *scratch) {
    struct sums a = {dy->p, x ? x->p : NULL, (float *)scratch, view_rows(dy), dy->ld, x ? x->ld : 0, (int)dy->d[1]};
    if (!a.C || (add && !a.N)) return OK;
    const dim3 tiles((unsigned)((a.C + TILE_X - 1) / TILE_X), PARTS), tile(TILE_X, TILE_Y);
    WITH_TYPE(dy->dt, part_sums_kernel<T><<<tiles, tile, 0, cuda_stream>>>(a));
    TRY(CUDA_LAUNCHED("sums of columns"));
    if (one) join_all_kernel<<<1, THREADS, 0, cuda_stream>>>(a.part, to, (int64_t)PARTS * a.C, by, add);
    else join_parts_kernel<<<(a.C + THREADS - 1) / THREADS, THREADS, 0, cuda_stream>>>(a.part, to, a.C, by, add);
    return CUDA_LAUNCHED("sums of columns, joined");
}

extern "C" size_t cuda_column_sum_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)out;
    return parts_bytes(in[0].d[1]);
}

extern "C" err cuda_column_sum(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst;
    return sum_columns(&in[0], NULL, 1, view_f32(&out[0]), false, true, scratch);
}

extern "C" size_t cuda_scale_bwd_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)out;
    return in[0].dt == DT_NONE ? 0 : parts_bytes(in[0].d[1]);
}

/* dx may lie in x or dy, so it comes last. */
extern "C" err cuda_scale_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run;
    const float by = ops_scale_by(inst);
    const bool one = in[1].p && in[1].d[0] == 1;
    if (out[1].p) TRY(sum_columns(&in[2], &in[0], by, view_f32(&out[1]), one, true, scratch));
    if (out[2].p) TRY(sum_columns(&in[2], &in[0], by, view_f32(&out[2]), one, false, scratch));
    return out[0].p ? cuda_scale_columns(&in[2], &in[1], by, NULL, &out[0]) : OK;
}
