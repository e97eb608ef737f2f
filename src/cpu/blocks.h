/* How the x86 kernels with F16C (gemm_*.c, few_*.c, dot_vnni.c) read what stands before the weights of a quantised
 * block, and how far ahead they ask for memory. */
#ifndef CYC_CPU_BLOCKS_H
#define CYC_CPU_BLOCKS_H
#include "cpu/gemm.h"
#include <immintrin.h>
#include <string.h>

/* How far ahead to ask for memory: bytes of W, rows of B. Rows follow each other, but the hardware stops at their ends.
 */
enum { AHEAD = 4096, B_AHEAD = 32 };
#define INLINE static inline __attribute__((always_inline))

/* dtype_info, known to the compiler. */
INLINE int dtype_block(const dtype dt) {
    return dt < DT_Q4_0 ? 1 : dt == DT_NF4 || dt == DT_E4M3 ? 64 : (dt >= DT_Q2_K && dt <= DT_Q6_K) || dt == DT_IQ4_XS ? 256 : 32;
}
INLINE size_t dtype_bytes(const dtype dt) {
    static const uint8_t bytes[] = {0, 4, 2, 2, 4, 18, 20, 22, 24, 34, 84, 110, 144, 176, 210, 18, 136, 36, 68};
    _Static_assert(sizeof bytes == DT_COUNT, "a row for each type");
    return bytes[dt];
}
INLINE bool has_scales(const dtype dt) { return dt >= DT_Q4_0 && dt != DT_Q2_K; }
#define QUANTS(X)                                                                                                      \
    X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL) X(IQ4_XS) X(NF4) X(E4M3)
/* Bytes of 32 weights of a row, rounded down in super-blocks. */
INLINE size_t bytes32(const dtype dt) { return dtype_bytes(dt) * 32 / (size_t)dtype_block(dt); }

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

/* A group is 32 weights of a row from a multiple of 32 on: a small block, half a block of 64, an eighth of a super-block.
 * What it is unpacked with are two numbers: scale and minimum (0 where the format has none), or, Q3_K and Q6_K, the scales
 * of its two halves. Q2_K has two of each and gets none here.
 * Those of up to 8 groups lie in memory as floats, to be broadcast later. Each pair is stored as one piece: a vector loaded
 * from eight small stores waits until all have left the store queue, and a broadcast between registers takes the port that
 * shuffles. */
struct scales {
    float v[16];
};

INLINE float half_of(const uint8_t *p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((int)get16(p)))); }

INLINE void store_pair(float *v, float a, float b) {
    _mm_storel_pi((__m64 *)(void *)v, _mm_unpacklo_ps(_mm_set_ss(a), _mm_set_ss(b)));
}

INLINE void group_scale(const dtype dt, const uint8_t *row, int64_t j, float *v) {
    const uint8_t *b = row + (size_t)(j / (dtype_block(dt) / 32)) * dtype_bytes(dt);
    int64_t i = j % (dtype_block(dt) / 32);
    int sc, mn;
    switch (dt) {
    case DT_Q4_1:
    case DT_Q5_1: _mm_storel_pi((__m64 *)(void *)v, _mm_cvtph_ps(_mm_cvtsi32_si128((int)get32(b)))); break;
    case DT_Q4_0:
    case DT_Q5_0:
    case DT_Q8_0:
    case DT_IQ4_NL: _mm_storel_pi((__m64 *)(void *)v, _mm_cvtph_ps(_mm_cvtsi32_si128((int)get16(b)))); break;
    case DT_NF4:
    case DT_E4M3: _mm_storel_pi((__m64 *)(void *)v, _mm_load_ss((const float *)(const void *)b)); break;
    case DT_Q4_K:
    case DT_Q5_K:
        k4_scale_min(b + 4, i, &sc, &mn);
        store_pair(v, half_of(b) * (float)sc, -half_of(b + 2) * (float)mn);
        break;
    case DT_Q3_K: store_pair(v, half_of(b + 108) * (float)q3_k_scale(b + 96, 2 * i), half_of(b + 108) * (float)q3_k_scale(b + 96, 2 * i + 1)); break;
    case DT_Q6_K: store_pair(v, half_of(b + 208) * (float)(int8_t)b[192 + 2 * i], half_of(b + 208) * (float)(int8_t)b[193 + 2 * i]); break;
    case DT_IQ4_XS: store_pair(v, half_of(b) * (float)iq4_xs_scale(b, i), 0); break;
    default: break;
    }
}

/* 16 integers times d. */
INLINE void scaled16(__m128i q, float d, struct scales *s) {
    const __m256 f = _mm256_set1_ps(d);
    _mm256_storeu_ps(s->v, _mm256_mul_ps(f, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))));
    _mm256_storeu_ps(s->v + 8, _mm256_mul_ps(f, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)))));
}

/* The 8 scales and minimums of a Q4_K or Q5_K block. */
INLINE void k4_scales(const uint8_t *b, struct scales *s) {
    const uint32_t a = get32(b + 4), m = get32(b + 8), c = get32(b + 12), six = 0x3F3F3F3F, four = 0x0F0F0F0F, two = 0x03030303;
    uint64_t sc = (a & six) | (uint64_t)((c & four) | (a >> 6 & two) << 4) << 32;
    uint64_t mn = (m & six) | (uint64_t)((c >> 4 & four) | (m >> 6 & two) << 4) << 32;
    __m128i q = _mm_unpacklo_epi8(_mm_cvtsi64_si128((long long)sc), _mm_cvtsi64_si128((long long)mn));
    const __m128 h = _mm_cvtph_ps(_mm_cvtsi32_si128((int)get32(b)));
    const __m256 f = _mm256_castpd_ps(_mm256_broadcastsd_pd(_mm_castps_pd(_mm_xor_ps(h, _mm_setr_ps(0, -0.0f, 0, 0)))));
    _mm256_storeu_ps(s->v, _mm256_mul_ps(f, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))));
    _mm256_storeu_ps(s->v + 8, _mm256_mul_ps(f, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)))));
}

INLINE void q3_k_scales(const uint8_t *b, struct scales *s) {
    const uint32_t a = get32(b + 96), c = get32(b + 100), h = get32(b + 104), four = 0x0F0F0F0F, two = 0x03030303;
    __m128i q = _mm_setr_epi32((int)((a & four) | (h & two) << 4), (int)((c & four) | (h >> 2 & two) << 4), (int)((a >> 4 & four) | (h >> 4 & two) << 4),
                               (int)((c >> 4 & four) | (h >> 6 & two) << 4));
    scaled16(_mm_sub_epi8(q, _mm_set1_epi8(32)), half_of(b + 108), s);
}

/* Those of the n <= 8 groups from j on, j a multiple of 8. */
INLINE void group_scales(const dtype dt, const uint8_t *row, int64_t j, int n, struct scales *s) {
    const uint8_t *b = row + (size_t)(j / 8) * dtype_bytes(dt);
    if (dt == DT_Q4_K || dt == DT_Q5_K) k4_scales(b, s);
    else if (dt == DT_Q3_K) q3_k_scales(b, s);
    else if (dt == DT_Q6_K) scaled16(_mm_loadu_si128((const void *)(b + 192)), half_of(b + 208), s);
    else if (!has_scales(dt)) return;
    else if (n >= 8) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) group_scale(dt, row, j + i, s->v + 2 * i);
    } else {
#pragma GCC unroll 1
        for (int i = 0; i < n; i++) group_scale(dt, row, j + i, s->v + 2 * i);
    }
}

/* Those of group j of the next n rows, 8 at most, `row` bytes apart. */
INLINE void rows_scales(const dtype dt, const uint8_t *p, size_t row, int64_t j, int n, struct scales *s) {
    if (n >= 8) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) group_scale(dt, p + (size_t)i * row, j, s->v + 2 * i);
    } else {
#pragma GCC unroll 1
        for (int i = 0; i < n; i++) group_scale(dt, p + (size_t)i * row, j, s->v + 2 * i);
    }
}

#endif
