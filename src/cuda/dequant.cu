/* Base matrices as plain ones: what a product by cuBLASLt reads.
 *
 * A thread makes 16 bytes of the result (4 f32 or 8 halves), neighbours make neighbouring 16 bytes, four times a block's
 * width apart, so that a thread has four groups of loads under way. The reads are 2- and 4-byte words of the blocks; a warp
 * asks for the same few lines in all of them, so memory is read once and L1 serves the rest.
 *
 * f32 results are bit-equal to dequantise_row (blocks.cuh says why), bf16 and f16 are those rounded to nearest even. Equal
 * types are a copy. Refused: other result types, src or dst not 16-byte aligned, cols not a multiple of the block.
 * Floor: stored bytes read + result bytes written; 4096 x 4096 Q4_0 to bf16 is 9.4 + 33.6 MB, 15 us at 2.9 TB/s. */
#include "cuda/blocks.cuh"

enum { THREADS = 256, UNROLL = 4 };

template <typename T> __device__ __forceinline__ uint32_t pack2(float a, float b) {
    T lo = from_f32<T>(a), hi = from_f32<T>(b);
    return (uint32_t)*(unsigned short *)&lo | (uint32_t)*(unsigned short *)&hi << 16;
}

/* Element e alone: only the last few of a plain matrix whose size is no multiple of the width. */
template <int DT> __device__ __forceinline__ float plain1(const uint8_t *src, int64_t e) {
    if (DT == DT_F32) return ((const float *)src)[e];
    uint32_t h = ((const uint16_t *)src)[e];
    return DT == DT_BF16 ? bits_f32(h << 16) : half_f32(h);
}

/* Which columns of rows of C are wanted. width is a multiple of what a thread makes at once, and all of it below 2^32. */
struct slice { uint32_t width; int64_t C, from; };
__device__ __forceinline__ int64_t place_of(const slice &s, int64_t e) {
    const uint32_t row = (uint32_t)e / s.width;
    return row * s.C + s.from + ((uint32_t)e - row * s.width);
}

/* PART: dst is the slice alone. */
template <int DT, typename T, bool PART> __global__ void __launch_bounds__(THREADS) dequantise(const uint8_t *__restrict__ src, T *__restrict__ dst, int64_t n, const slice s) {
    constexpr int E = 16 / sizeof(T);
    int64_t first = ((int64_t)blockIdx.x * UNROLL * THREADS + threadIdx.x) * E;
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        int64_t e = first + (int64_t)u * THREADS * E;
        if (e + E <= n) {
            float w[E];
            const int64_t at = PART ? place_of(s, e) : e;
            for (int i = 0; i < E; i += 4) block4<DT>(src, at + i, w + i);
            uint4 out;
            if constexpr (E == 4) out = make_uint4(__float_as_uint(w[0]), __float_as_uint(w[1]), __float_as_uint(w[2]), __float_as_uint(w[3]));
            else out = make_uint4(pack2<T>(w[0], w[1]), pack2<T>(w[2], w[3]), pack2<T>(w[4], w[5]), pack2<T>(w[6], w[7]));
            *(uint4 *)(dst + e) = out;
        } else if (block_of<DT>::weights == 1) {
            for (; e < n && e < first + (int64_t)u * THREADS * E + E; e++) dst[e] = from_f32<T>(plain1<DT>(src, e));
        }
    }
}

template <int DT> static err launch(const void *src, int64_t n, const slice *s, dtype to, void *dst) {
    WITH_TYPE(to, {
        int64_t piece = (int64_t)UNROLL * THREADS * (16 / (int)sizeof(T));
        unsigned blocks = (unsigned)((n + piece - 1) / piece);
        if (s) dequantise<DT, T, true><<<blocks, THREADS, 0, cuda_stream>>>((const uint8_t *)src, (T *)dst, n, *s);
        else dequantise<DT, T, false><<<blocks, THREADS, 0, cuda_stream>>>((const uint8_t *)src, (T *)dst, n, {});
    });
    return CUDA_LAUNCHED("dequantise");
}

static err of_type(dtype dt, const void *src, int64_t n, const slice *s, dtype to, void *dst) {
    switch (dt) {
#define LAUNCH(stored) case stored: return launch<stored>(src, n, s, to, dst);
        EACH_STORED(LAUNCH)
#undef LAUNCH
    default: return fail(E_INTERNAL, "dequantise: no kernel for stored type %d", (int)dt);
    }
}

static err check(dtype dt, const void *src, int64_t cols, const void *dst) {
    if (((uintptr_t)src | (uintptr_t)dst) & 15) return fail(E_INTERNAL, "dequantise: a matrix that is not 16-byte aligned");
    if (dtype_quantised(dt) && cols % dtype_info[dt].block)
        return fail(E_INTERNAL, "dequantise: %lld columns are no whole number of blocks", (long long)cols);
    return OK;
}

extern "C" err cuda_dequantise(dtype dt, const void *src, int64_t rows, int64_t cols, dtype to, void *dst) {
    int64_t n = rows * cols;
    if (n <= 0) return OK;
    TRY(check(dt, src, cols, dst));
    if (dt == to && (dt == DT_F32 || dt == DT_F16 || dt == DT_BF16))
        return cuda_check(cudaMemcpyAsync(dst, src, (size_t)n * (dt == DT_F32 ? 4 : 2), cudaMemcpyDeviceToDevice, cuda_stream), "dequantise");
    return of_type(dt, src, n, NULL, to, dst);
}

extern "C" err cuda_dequantise_columns(const struct view *w, int64_t from, int64_t width, dtype to, void *dst) {
    const int64_t n = w->d[0] * width;
    if (n <= 0) return OK;
    if (from == 0 && width == w->d[1]) return cuda_dequantise(w->dt, w->p, w->d[0], width, to, dst);
    TRY(check(w->dt, w->p, from, dst));
    if (width % 8 || from % 8 || n > UINT32_MAX) return fail(E_INTERNAL, "dequantise: columns %lld to %lld of %lld rows", (long long)from, (long long)(from + width), (long long)w->d[0]);
    const slice s = {(uint32_t)width, w->d[1], from};
    return of_type(w->dt, w->p, n, &s, to, dst);
}
