/* See fp8.h.
 *
 * Rows: a block takes one row, eight elements a thread and load, keeps them in registers while the largest is found, and
 * writes them as eight bytes: one read, one write, nothing between. Arithmetic is f32: x * factor, then times 1 / scale, each
 * rounded, then to e4m3, nearest even, what is beyond 448 by those roundings to 448. The largest is a maximum of numbers
 * (NaNs do not count), so no order shows in it; NaN becomes e4m3's NaN, and infinity times the 0 that is 1 / scale another.
 * Scales are at least 2^-100, so that 1 / scale is finite. x passes L1 by, the factors stay there for the next rows.
 *
 * Weights: the same kernel with the matrix's rows, then the transposed copy byte by byte through tiles in shared memory.
 *
 * Floors: rows of C bf16 elements are 3 C bytes, [8192, 4096] 101 MB, 33 us at 3 TB/s. Weights are made once.
 *
 * Refused: sizes that are no multiples of 16, rows of more than 65536 elements, pointers and strides that are not 16-byte
 * aligned, cards other than those of compute capability 9.0 (the products' scales, gemm.c). */
#include <cuda_fp8.h>
#include "cuda/fp8.h"
#include "cuda/gemm.h"
#include "cuda/types.cuh"

enum { EACH = 8 /* elements of a load */, MOST = 65536, MOST_THREADS = 1024, TILE = 64, VECTORS_SINCE = 120900 /* cuBLASLt's version */ };
#define LARGEST 448.0f   /* of e4m3 */
#define LEAST 0x1p-100f

static size_t aligned(size_t n) { return (n + 255) / 256 * 256; }
static bool aligned16(const void *p) { return ((uintptr_t)p & 15) == 0; }

/* --- rows ---------------------------------------------------------------------------------------------------------------- */
struct parts {
    const void *x[MAX_GROUP];
    const float *factor[MAX_GROUP];
    int64_t ld[MAX_GROUP];
    int first[MAX_GROUP + 1]; /* load of a row that a part begins with */
    int n;
};

/* Eight elements as they are stored. */
template <typename T> struct eight { uint4 u[sizeof(T) / 2]; };

__device__ __forceinline__ uint4 load_past_l1(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

template <typename T> __device__ __forceinline__ void unpack(const struct eight<T> &e, float x[EACH]) {
    union { struct eight<T> e; T t[EACH]; } v;
    v.e = e;
#pragma unroll
    for (int i = 0; i < EACH; i++) x[i] = to_f32(v.t[i]);
}

/* The largest of a block's numbers; every thread gets it. */
__device__ __forceinline__ float block_max(float x) {
    __shared__ float warps[MOST_THREADS / 32];
    x = warp_max(x);
    if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = x;
    __syncthreads();
    for (int w = 0; w < (int)blockDim.x >> 5; w++) x = fmaxf(x, warps[w]);
    return x;
}

__device__ __forceinline__ uint32_t four_bytes(const float *x, float inv) {
    uint32_t lo = __nv_cvt_float2_to_fp8x2(make_float2(x[0] * inv, x[1] * inv), __NV_SATFINITE, __NV_E4M3);
    uint32_t hi = __nv_cvt_float2_to_fp8x2(make_float2(x[2] * inv, x[3] * inv), __NV_SATFINITE, __NV_E4M3);
    return lo | hi << 16;
}

/* Nothing, to the processor; the compiler unpacks again what it would have kept unpacked in twice the registers. */
template <typename T> __device__ __forceinline__ void keep_packed(struct eight<T> &e) {
#pragma unroll
    for (int i = 0; i < (int)(sizeof(T) / 2); i++) asm volatile("" : "+r"(e.u[i].x), "+r"(e.u[i].y), "+r"(e.u[i].z), "+r"(e.u[i].w));
}

/* x times the factors of load c. */
template <typename T, bool FACTOR> __device__ __forceinline__ void values(const struct parts &p, int k, int c, const struct eight<T> &e, float x[EACH]) {
    unpack<T>(e, x);
    if (!FACTOR) return;
    const float4 *f = (const float4 *)p.factor[k] + (int64_t)(c - p.first[k]) * 2;
    float4 a = __ldg(f), b = __ldg(f + 1);
    x[0] *= a.x, x[1] *= a.y, x[2] *= a.z, x[3] *= a.w, x[4] *= b.x, x[5] *= b.y, x[6] *= b.z, x[7] *= b.w;
}

/* One row; LOADS of each thread. */
template <typename T, int LOADS, bool FACTOR> __global__ void __launch_bounds__(MOST_THREADS) rows_kernel(const __grid_constant__ struct parts p, uint8_t *q, float *scale) {
    int64_t row = blockIdx.x;
    int all = p.first[p.n];
    struct eight<T> e[LOADS];
    int part[LOADS];
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
        int c = (int)(threadIdx.x + u * blockDim.x), k = 0;
        while (k + 1 < p.n && c >= p.first[k + 1]) k++;
        part[u] = k;
        if (c >= all) continue;
        const char *from = (const char *)((const T *)p.x[k] + row * p.ld[k] + (int64_t)(c - p.first[k]) * EACH);
#pragma unroll
        for (int i = 0; i < (int)(sizeof(T) / 2); i++) e[u].u[i] = load_past_l1(from + 16 * i);
    }
    float most = 0;
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
        int c = (int)(threadIdx.x + u * blockDim.x);
        if (c >= all) continue;
        float x[EACH];
        values<T, FACTOR>(p, part[u], c, e[u], x);
#pragma unroll
        for (int i = 0; i < EACH; i++) most = fmaxf(most, fabsf(x[i]));
    }
    most = block_max(most);
    float s = most > 0 ? fmaxf(__fdiv_rn(most, LARGEST), LEAST) : 1, inv = __fdiv_rn(1, s);
    if (threadIdx.x == 0) scale[row] = s;
    uint2 *to = (uint2 *)(q + row * all * EACH);
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
        int c = (int)(threadIdx.x + u * blockDim.x);
        if (c >= all) continue;
        keep_packed(e[u]);
        float x[EACH];
        values<T, FACTOR>(p, part[u], c, e[u], x);
        to[c] = make_uint2(four_bytes(x, inv), four_bytes(x + 4, inv));
    }
}

template <typename T, int LOADS> static void launch_rows(const struct parts &p, const struct cuda_fp8_rows *r) {
    int each = (p.first[p.n] + LOADS - 1) / LOADS;
    unsigned threads = (unsigned)((each + 31) / 32 * 32);
    if (p.factor[0]) rows_kernel<T, LOADS, true><<<(unsigned)r->rows, threads, 0, cuda_stream>>>(p, (uint8_t *)r->q, r->scale);
    else rows_kernel<T, LOADS, false><<<(unsigned)r->rows, threads, 0, cuda_stream>>>(p, (uint8_t *)r->q, r->scale);
}

extern "C" err cuda_fp8_rows(const struct cuda_fp8_rows *r) {
    struct parts p = {};
    int64_t cols = 0, each = r->dt == DT_F32 ? 4 : 8; /* elements of 16 bytes */
    if (r->rows <= 0) return OK;
    for (int k = 0; k < r->n; k++) {
        const struct cuda_fp8_part *from = &r->part[k];
        p.x[k] = from->x, p.factor[k] = from->factor, p.ld[k] = from->ld, p.first[k] = (int)(cols / EACH);
        if (from->cols % 16 || from->ld % each || !aligned16(from->x) || !aligned16(from->factor) || !from->factor != !r->part[0].factor)
            return fail(E_INTERNAL, "fp8: rows of %lld, %lld apart, are not laid out for it", (long long)from->cols, (long long)from->ld);
        cols += from->cols;
    }
    if (!cols || cols > MOST) return fail(E_INTERNAL, "fp8: rows of %lld elements", (long long)cols);
    p.n = r->n;
    p.first[p.n] = (int)(cols / EACH);
    WITH_TYPE(r->dt, {
        if (cols <= (p.factor[0] ? 8192 : 2048)) launch_rows<T, 2>(p, r); /* measured: factors take registers */
        else if (cols <= 32768) launch_rows<T, 4>(p, r);
        else launch_rows<T, 8>(p, r);
    });
    return CUDA_LAUNCHED("rows in fp8");
}

/* --- weights ------------------------------------------------------------------------------------------------------------- */
/* to[c, o] = from[o, c], bytes; a tile a block of 256, four by four bytes a thread, turned in registers. */
__global__ static void __launch_bounds__(256) transpose_kernel(const uint8_t *from, int64_t rows, int64_t cols, uint8_t *to, int64_t ld) {
    __shared__ uint32_t tile[TILE][TILE / 4 + 1]; /* [c][o / 4] */
    int x = threadIdx.x & 15, y = threadIdx.x >> 4;
    int64_t o0 = (int64_t)blockIdx.x * TILE, c0 = (int64_t)blockIdx.y * TILE;
    if (o0 + 4 * y < rows && c0 + 4 * x < cols) {
        uint32_t w[4];
        for (int i = 0; i < 4; i++) w[i] = *(const uint32_t *)(from + (o0 + 4 * y + i) * cols + c0 + 4 * x);
        uint32_t a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[2], w[3], 0x5140); /* columns 0 and 1 of two rows each */
        uint32_t c = __byte_perm(w[0], w[1], 0x7362), d = __byte_perm(w[2], w[3], 0x7362); /* columns 2 and 3 */
        tile[4 * x][y] = __byte_perm(a, b, 0x5410);
        tile[4 * x + 1][y] = __byte_perm(a, b, 0x7632);
        tile[4 * x + 2][y] = __byte_perm(c, d, 0x5410);
        tile[4 * x + 3][y] = __byte_perm(c, d, 0x7632);
    }
    __syncthreads();
    for (int i = y; i < TILE; i += 16)
        if (c0 + i < cols && o0 + 4 * x < rows) *(uint32_t *)(to + (c0 + i) * ld + o0 + 4 * x) = tile[i][x];
}

static int64_t outputs(int n, const int64_t *O) {
    int64_t sum = 0;
    for (int k = 0; k < n; k++) sum += O[k];
    return sum;
}

extern "C" bool cuda_fp8_available(void) {
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) || cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0)) return cudaGetLastError(), false;
    return major == 9 && minor == 0 && cuda_gemm_version() >= VECTORS_SINCE;
}

extern "C" bool cuda_fp8_takes(int64_t O, int64_t C) { return O > 0 && C > 0 && O % 16 == 0 && C % 16 == 0 && O <= MOST && C <= MOST; }

extern "C" size_t cuda_fp8_bytes(int n, int64_t C, const int64_t *O) {
    int64_t all = outputs(n, O);
    return 2 * aligned((size_t)(all * C)) + aligned((size_t)all * sizeof(float)) + aligned((size_t)C * sizeof(float));
}

__global__ static void ones_kernel(float *p, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[i] = 1;
}

extern "C" err cuda_fp8_place(struct cuda_fp8_group *g, void *memory) {
    int64_t all = outputs(g->n, g->O);
    size_t matrix = aligned((size_t)(all * g->C));
    for (int k = 0; k < g->n; k++)
        if (!cuda_fp8_takes(g->O[k], g->C) || all > MOST) return fail(E_INTERNAL, "fp8: a matrix of %lld x %lld, %lld outputs in its group", (long long)g->O[k], (long long)g->C, (long long)all);
    g->w = memory;
    g->wt = (char *)memory + matrix;
    g->scale = (float *)((char *)memory + 2 * matrix);
    g->ones = (float *)((char *)g->scale + aligned((size_t)all * sizeof(float)));
    ones_kernel<<<(unsigned)((g->C + 255) / 256), 256, 0, cuda_stream>>>(g->ones, g->C);
    return CUDA_LAUNCHED("a base in fp8");
}

extern "C" err cuda_fp8_weights(const struct cuda_fp8_group *g, int k, const struct cuda_fp8_source *s) {
    int64_t all = outputs(g->n, g->O), row = outputs(k, g->O) + s->first;
    if (s->first % 16 || s->rows % 16 || s->first + s->rows > g->O[k]) return fail(E_INTERNAL, "fp8: rows %lld and on of a matrix", (long long)s->first);
    if (s->rows <= 0) return OK;
    uint8_t *w = (uint8_t *)g->w + row * g->C;
    struct cuda_fp8_rows r = {s->dt, 1, s->rows, {{s->w, g->C, g->C, NULL}}, w, g->scale + row};
    TRY(cuda_fp8_rows(&r));
    dim3 grid((unsigned)((s->rows + TILE - 1) / TILE), (unsigned)((g->C + TILE - 1) / TILE));
    transpose_kernel<<<grid, 256, 0, cuda_stream>>>(w, s->rows, g->C, (uint8_t *)g->wt + row, all);
    return CUDA_LAUNCHED("a base in fp8");
}

/* --- products ------------------------------------------------------------------------------------------------------------ */
/* Scratch: [rows in fp8][their scales] */
static size_t scratch_bytes(int64_t rows, int64_t cols) { return aligned((size_t)(rows * cols)) + aligned((size_t)rows * sizeof(float)); }

extern "C" size_t cuda_fp8_forward_scratch(int64_t rows, int64_t C) { return scratch_bytes(rows, C); }
extern "C" size_t cuda_fp8_backward_scratch(int64_t rows, int n, const int64_t *O) { return scratch_bytes(rows, outputs(n, O)); }

extern "C" err cuda_fp8_forward(const struct cuda_fp8_forward *f) {
    const struct cuda_fp8_group *g = f->group;
    float *scale = (float *)((char *)f->scratch + aligned((size_t)(f->rows * g->C)));
    struct cuda_fp8_rows r = {f->dt, 1, f->rows, {{f->x, f->ldx, g->C, NULL}}, f->scratch, scale};
    TRY(cuda_fp8_rows(&r));
    for (int k = 0; k < g->n; k++) {
        if (!f->y[k]) continue;
        int64_t row = outputs(k, g->O);
        struct cuda_fp8_gemm p = {f->rows, g->O[k], g->C, f->scratch, (char *)g->w + row * g->C, scale, g->scale + row, f->y[k], g->C, f->ldy[k], f->dt, f->adds[k]};
        TRY(cuda_fp8_gemm(&p));
    }
    return OK;
}

/* The outputs from k to end, all of which have gradients: one rounding, one product. */
static err backward_run(const struct cuda_fp8_backward *b, int k, int end, bool adds) {
    const struct cuda_fp8_group *g = b->group;
    int64_t row = outputs(k, g->O), width = outputs(end, g->O) - row, at = row;
    float *scale = (float *)((char *)b->scratch + aligned((size_t)(b->rows * width)));
    struct cuda_fp8_rows r = {b->dt, end - k, b->rows, {}, b->scratch, scale};
    for (int j = k; j < end; at += g->O[j++]) r.part[j - k] = {b->dy[j], b->lddy[j], g->O[j], g->scale + at};
    TRY(cuda_fp8_rows(&r));
    struct cuda_fp8_gemm p = {b->rows, g->C, width, b->scratch, (char *)g->wt + row, scale, g->ones, b->dx, outputs(g->n, g->O), b->lddx, b->dt, adds};
    return cuda_fp8_gemm(&p);
}

extern "C" err cuda_fp8_backward(const struct cuda_fp8_backward *b) {
    bool adds = b->adds;
    for (int k = 0, end; k < b->group->n; k = end + 1) {
        for (end = k; end < b->group->n && b->dy[end]; end++) {}
        if (end == k) continue;
        TRY(backward_run(b, k, end, adds));
        adds = true;
    }
    return OK;
}
