/* See fp8.h.
 *
 * Rows: a block takes one row, eight elements a thread and load, keeps them in registers while the largest is found, and
 * writes them as eight bytes: one read, one write, nothing between. Arithmetic is f32: x * factor, then times 1 / scale, each
 * rounded, then to e4m3, nearest even. The largest is a maximum of numbers (NaNs do not count), so no order shows in it; NaN
 * becomes e4m3's NaN, and infinity times the 0 that is 1 / scale another. Scales are at least 2^-100, so that 1 / scale is
 * finite; rows of zeros have that one (were it 1, a row of zeros in W would make its dY the largest of all, and the others
 * vanish). They are rounded up to bf16: as factors the weights' scales are then two bytes each and not four (15 % of the time
 * at 28672 columns), and nothing grows beyond 448. x passes L1 by, the factors stay there.
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

enum { EACH = 8 /* elements of a load */, MOST = 65536, MOST_THREADS = 1024, TILE = 64, VECTORS_SINCE = 120900 /* cuBLASLt */ };
#define LARGEST 448.0f   /* of e4m3 */
#define LEAST 0x1p-100f

static bool aligned16(const void *p) { return ((uintptr_t)p & 15) == 0; }

/* --- rows ---------------------------------------------------------------------------------------------------------------- */
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
template <typename T, bool FACTOR> __device__ __forceinline__ void values(const struct cuda_fp8_rows &r, int c, const struct eight<T> &e, float x[EACH]) {
    unpack<T>(e, x);
    if (!FACTOR) return;
    struct eight<bf16> f = {{__ldg((const uint4 *)r.factor + c)}};
    float y[EACH];
    unpack<bf16>(f, y);
#pragma unroll
    for (int i = 0; i < EACH; i++) x[i] *= y[i];
}

__device__ __forceinline__ float scale_for(float most) {
    uint32_t bits = __float_as_uint(fmaxf(__fdiv_rn(most, LARGEST), LEAST));
    return __uint_as_float((bits + 0xFFFF) & 0xFFFF0000u); /* infinity stays one */
}

/* One row; LOADS of each thread. */
template <typename T, int LOADS, bool FACTOR> __global__ void __launch_bounds__(MOST_THREADS) rows_kernel(const __grid_constant__ struct cuda_fp8_rows r) {
    int64_t row = blockIdx.x;
    int all = (int)(r.cols / EACH);
    struct eight<T> e[LOADS];
    float most = 0, x[EACH];
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
        int c = (int)(threadIdx.x + u * blockDim.x);
        if (c >= all) continue;
        const char *from = (const char *)((const T *)r.x + row * r.ld + (int64_t)c * EACH);
#pragma unroll
        for (int i = 0; i < (int)(sizeof(T) / 2); i++) e[u].u[i] = load_past_l1(from + 16 * i);
    }
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
        int c = (int)(threadIdx.x + u * blockDim.x);
        if (c >= all) continue;
        values<T, FACTOR>(r, c, e[u], x);
#pragma unroll
        for (int i = 0; i < EACH; i++) most = fmaxf(most, fabsf(x[i]));
    }
    most = block_max(most);
    float s = scale_for(most), inv = __fdiv_rn(1, s);
    if (threadIdx.x == 0) r.scale[row] = s;
    uint2 *to = (uint2 *)((uint8_t *)r.q + row * r.cols);
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
        int c = (int)(threadIdx.x + u * blockDim.x);
        if (c >= all) continue;
        keep_packed(e[u]);
        values<T, FACTOR>(r, c, e[u], x);
        to[c] = make_uint2(four_bytes(x, inv), four_bytes(x + 4, inv));
    }
}

template <typename T, int LOADS> static void launch_rows(const struct cuda_fp8_rows *r) {
    int64_t each = (r->cols / EACH + LOADS - 1) / LOADS;
    unsigned threads = (unsigned)((each + 31) / 32 * 32);
    if (r->factor) rows_kernel<T, LOADS, true><<<(unsigned)r->rows, threads, 0, cuda_stream>>>(*r);
    else rows_kernel<T, LOADS, false><<<(unsigned)r->rows, threads, 0, cuda_stream>>>(*r);
}

extern "C" err cuda_fp8_rows(const struct cuda_fp8_rows *r) {
    int64_t each = r->dt == DT_F32 ? 4 : 8; /* elements of 16 bytes */
    if (r->rows <= 0) return OK;
    if (r->cols <= 0 || r->cols > MOST || r->cols % 16 || r->ld % each || !aligned16(r->x) || !aligned16(r->factor))
        return fail(E_INTERNAL, "fp8: rows of %lld, %lld apart, are not laid out for it", (long long)r->cols, (long long)r->ld);
    WITH_TYPE(r->dt, {
        if (r->cols <= (r->factor ? 8192 : 2048)) launch_rows<T, 2>(r); /* the fastest of 1, 2, 4, 7, 8 loads, or near it */
        else if (r->cols <= (sizeof(T) == 4 ? 32768 : 8192)) launch_rows<T, 4>(r);
        else launch_rows<T, 8>(r);
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

extern "C" bool cuda_fp8_available(void) {
    int major = 0, minor = 0;
    cudaError_t e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    if (!e) e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    if (e) return cudaGetLastError(), false;
    return major == 9 && minor == 0 && cuda_gemm_version() >= VECTORS_SINCE;
}

extern "C" bool cuda_fp8_takes(int64_t O, int64_t C) { return O > 0 && C > 0 && O % 16 == 0 && C % 16 == 0 && O <= MOST && C <= MOST; }

extern "C" struct cuda_fp8_matrix cuda_fp8_matrix(const struct view *w) {
    int64_t O = w->d[0], C = w->d[1];
    char *p = (char *)w->p;
    return {O, C, p, p + O * C, (float *)(p + 2 * O * C), p + 2 * O * C + 4 * O};
}

extern "C" err cuda_fp8_weights(const struct cuda_fp8_matrix *m, const void *w, dtype dt) {
    struct cuda_fp8_rows r = {dt, m->O, m->C, w, m->C, NULL, m->q, m->scale};
    TRY(cuda_fp8_rows(&r));
    TRY(cuda_flat_cast(m->scale, m->factor, DT_BF16, m->O, 0));
    dim3 grid((unsigned)((m->O + TILE - 1) / TILE), (unsigned)((m->C + TILE - 1) / TILE));
    transpose_kernel<<<grid, 256, 0, cuda_stream>>>((const uint8_t *)m->q, m->O, m->C, (uint8_t *)m->qt, m->O);
    return CUDA_LAUNCHED("a base in fp8");
}
