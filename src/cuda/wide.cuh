/* Elements 16 bytes at a time, and the blocks of threads that go over rows of them (elementwise.cu, columns.cu). */
#ifndef CYC_CUDA_WIDE_CUH
#define CYC_CUDA_WIDE_CUH
#include "cuda/types.cuh"

enum { THREADS = 256, MAX_Y = 65535 };

template <typename T> struct wide { enum { n = 16 / sizeof(T) }; };

/* W elements as f32; 16 bytes at a time when they are that many. */
template <typename T, int W> __device__ __forceinline__ void load(const T *p, float x[W]) {
    if constexpr (W * sizeof(T) % 16 == 0) {
        union { uint4 u[W * sizeof(T) / 16]; T t[W]; } v;
#pragma unroll
        for (int i = 0; i < (int)(W * sizeof(T) / 16); i++) v.u[i] = ((const uint4 *)p)[i];
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = to_f32(v.t[i]);
    } else if constexpr (W * sizeof(T) == 8) {
        union { uint2 u; T t[W]; } v = {*(const uint2 *)p};
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = to_f32(v.t[i]);
    } else {
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = to_f32(p[i]);
    }
}

template <typename T, int W> __device__ __forceinline__ void store(T *p, const float x[W]) {
    if constexpr (W * sizeof(T) == 16) {
        union { uint4 u; T t[W]; } v;
#pragma unroll
        for (int i = 0; i < W; i++) v.t[i] = from_f32<T>(x[i]);
        *(uint4 *)p = v.u;
    } else if constexpr (W * sizeof(T) == 8) {
        union { uint2 u; T t[W]; } v;
#pragma unroll
        for (int i = 0; i < W; i++) v.t[i] = from_f32<T>(x[i]);
        *(uint2 *)p = v.u;
    } else {
#pragma unroll
        for (int i = 0; i < W; i++) p[i] = from_f32<T>(x[i]);
    }
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t blocks_for(int64_t n, int64_t each) { return (n + each - 1) / each; }
static inline bool aligned(const void *p) { return ((uintptr_t)p & 15) == 0; }
static inline bool rows_aligned(const struct view *v, int w) { return aligned(v->p) && v->ld % w == 0; }
static inline int whole_warps(int64_t threads) { return (int)(blocks_for(threads, 32) * 32); }

/* A block for rows of `width` loads: threads along the row first, rows beside each other when they are short. */
struct shape { dim3 grid, block; };
static inline struct shape shape_of(int64_t rows, int64_t width) {
    int x = (int)least(whole_warps(width), THREADS), y = THREADS / x;
    int64_t most = (int64_t)cuda_sms * 32, gx = least(blocks_for(width, x), most), gy = blocks_for(rows, y);
    gy = least(gy, gx < most / 4 ? least(most / gx, MAX_Y) : 4);
    struct shape s = {dim3((unsigned)gx, (unsigned)gy), dim3((unsigned)x, (unsigned)y)};
    return s;
}

#endif
