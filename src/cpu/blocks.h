/* How the x86 kernels with F16C (gemm_avx2.c, gemm_avx512.c, dot_vnni.c) read what stands before the weights of a quantised
 * block, how far ahead they ask for memory, and what their dot products leave over. */
#ifndef CYC_CPU_BLOCKS_H
#define CYC_CPU_BLOCKS_H
#include "cpu/gemm.h"
#include <immintrin.h>
#include <string.h>

/* How far ahead to ask for memory: bytes of W, rows of B. Rows follow each other, but the hardware stops at their ends.
 */
enum { AHEAD = 4096, B_AHEAD = 32 };
#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t get16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

INLINE uint32_t get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Scale and minimum (0 where the format has none) of up to 8 blocks, `stride` bytes apart, as pairs of floats, to be
 * broadcast from memory later. Each is converted by itself and stored as one piece: a vector loaded from eight small
 * stores waits until all have left the store queue, and a broadcast between registers takes the port that shuffles. */
struct scales {
    float v[16];
};
INLINE void get_scale(dtype dt, const uint8_t *p, float *v) {
    __m128i h = _mm_cvtsi32_si128((int)(dt == DT_Q4_1 ? get32(p) : get16(p)));
    _mm_storel_pi((__m64 *)(void *)v, _mm_cvtph_ps(h));
}
INLINE void get_scales(dtype dt, const uint8_t *p, int64_t stride, int n, struct scales *s) {
    if (dt != DT_Q4_0 && dt != DT_Q4_1 && dt != DT_Q8_0) return;
    if (n >= 8) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) get_scale(dt, p + i * stride, s->v + 2 * i);
    } else {
#pragma GCC unroll 1
        for (int i = 0; i < n; i++) get_scale(dt, p + i * stride, s->v + 2 * i);
    }
}

/* Bytes of 32 weights of a row (Q6_K: about; only prefetching asks). */
INLINE size_t bytes32(const dtype dt) {
    return dt == DT_Q4_1 ? 20 : dt == DT_Q4_0 ? 18 : dt == DT_Q8_0 ? 34 : dt == DT_F32 ? 128 : dt == DT_Q6_K ? 27 : 64;
}

/* What a row of W does not fill whole vectors with: its last k % 32 elements, and the bias. */
static __attribute__((noinline)) float dot_rest(const struct gemm_dot *d, const uint8_t *row, int64_t o, int i) {
    float tmp[32], sum = d->bias ? d->bias[o] : 0;
    int64_t whole = d->k & ~(int64_t)31, n = d->k - whole;
    if (n) {
        const float *x = d->x + i * d->ldx + whole;
        dequantise_row(d->dt, row + dtype_row_bytes(d->dt, whole), tmp, n);
        for (int64_t j = 0; j < n; j++) sum += x[j] * tmp[j];
    }
    return sum;
}

#endif
