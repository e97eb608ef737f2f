/* Element types inside kernels: load and store through f32, and the switch from a view's type to a template. */
#ifndef CYC_CUDA_TYPES_CUH
#define CYC_CUDA_TYPES_CUH
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "cuda/cuda.h"

typedef __nv_bfloat16 bf16;
typedef __half f16;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }
template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }

/* Runs `...` with T as the C type of a compute dtype. */
#define WITH_TYPE(dt, ...)                                                                                            \
    do {                                                                                                              \
        switch (dt) {                                                                                                 \
        case DT_F32: { typedef float T; __VA_ARGS__; break; }                                                         \
        case DT_BF16: { typedef bf16 T; __VA_ARGS__; break; }                                                         \
        case DT_F16: { typedef f16 T; __VA_ARGS__; break; }                                                           \
        default: return fail(E_INTERNAL, "no CUDA kernel for this element type");                                     \
        }                                                                                                             \
    } while (0)

/* For kernels of cuda_launch() (programmatic dependent launch, sm_90): the next kernel may be set up now; ... */
__device__ __forceinline__ void let_next_start(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/* ... and from here on everything that earlier kernels wrote is there, and all they read may be overwritten. */
__device__ __forceinline__ void wait_for_earlier(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Sum over the 32 lanes of a warp; every lane gets it. */
__device__ __forceinline__ float warp_sum(float x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, d);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, d));
    return x;
}

#endif
