/* Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011): randomness as a
 * function of (seed, what it is for), with no state. The same key gives the same numbers whatever the batch, the
 * thread or the order, so dropout masks agree across recompute, resume, packing and micro-batches. */
#ifndef CYC_BASE_PHILOX_H
#define CYC_BASE_PHILOX_H
#include <stdint.h>

#ifdef __CUDACC__ /* the same function inside kernels */
#define PHILOX_INLINE __host__ __device__ static inline
#else
#define PHILOX_INLINE static inline
#endif

struct philox { uint32_t v[4]; };

PHILOX_INLINE struct philox philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    struct philox r = {{c0, c1, c2, c3}};
    return r;
}

/* In [0, 1), 24 bits. */
PHILOX_INLINE float philox_unit(uint32_t r) { return (float)(r >> 8) * 0x1p-24f; }

/* Keys of different uses never meet: mix the purpose into the key. */
PHILOX_INLINE uint64_t philox_key(uint64_t seed, uint32_t purpose) {
    return seed ^ ((uint64_t)purpose * 0x9E3779B97F4A7C15ull + 0xD1B54A32D192ED03ull);
}

#endif
