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
#ifdef __SANITIZE_ADDRESS__ /* a function for each type and number of rows takes minutes to compile under sanitizers, which find the same in one for all */
#define INLINE static inline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

/* dtype_info, known to the compiler. */
INLINE bool is_super(dtype dt) { return (dt >= DT_Q2_K && dt <= DT_Q6_K) || dt == DT_IQ4_XS; }
INLINE int dtype_block(const dtype dt) {
    return dt < DT_Q4_0 ? 1 : dt == DT_NF4_DQ ? 512 : dt >= DT_NF4 ? 64 : is_super(dt) ? 256 : 32; /* those of our own are the last */
}
INLINE size_t dtype_bytes(const dtype dt) {
    static const uint16_t bytes[] = {0, 4, 2, 2, 4, 18, 20, 22, 24, 34, 84, 110, 144, 176, 210, 18, 136, 36, 68, 68, 272};
    _Static_assert(sizeof bytes / sizeof *bytes == DT_COUNT, "a row for each type");
    return bytes[dt];
}
/* The types by how they are unpacked: SMALL ones block by block, SUPER ones through bytes (k_codes). */
#define SMALL(X) X(F32) X(F16) X(BF16) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(IQ4_NL) X(NF4) X(E4M3) X(INT8) X(NF4_DQ)
#define SUPER(X) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_XS)
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

/* --- small blocks ------------------------------------------------------------------------------------------------ */

/* A group is 32 weights of a row from a multiple of 32 on: a small block, or a part of one of our own. It is unpacked with two
 * numbers, scale and minimum (0 where the format has none). Those of up to 8 groups lie in memory as pairs of floats,
 * to be broadcast later. Each pair is stored as one piece: a vector loaded from eight small stores waits until all have
 * left the store queue, and a broadcast between registers takes the port that shuffles. */
struct scales {
    float v[16];
};

INLINE void group_scale(const dtype dt, const uint8_t *row, int64_t j, float *v) {
    const uint8_t *b = row + (size_t)(j / (dtype_block(dt) / 32)) * dtype_bytes(dt);
    __m128 s = _mm_setzero_ps();
    if (dt == DT_NF4_DQ) s = _mm_set_ss(nf4_dq_scale(b, (int)(j % 16 / 2)));
    else if (dt >= DT_NF4) s = _mm_load_ss((const float *)(const void *)b);
    else s = _mm_cvtph_ps(_mm_cvtsi32_si128((int)(dt == DT_Q4_1 || dt == DT_Q5_1 ? get32(b) : get16(b))));
    _mm_storel_pi((__m64 *)(void *)v, s);
}

/* Eight groups of NF4_DQ, j a multiple of 8: two have one scale. */
INLINE void nested_scales(const uint8_t *row, int64_t j, struct scales *s) {
    const uint8_t *b = row + (size_t)(j / 16) * dtype_bytes(DT_NF4_DQ), *i = b + NF4_DQ_INDEX + j % 16 / 2;
    const __m128 part = _mm_mul_ps(_mm_setr_ps(nf4_map[i[0]], nf4_map[i[1]], nf4_map[i[2]], nf4_map[i[3]]),
                                   _mm_load1_ps((const float *)(const void *)(b + NF4_DQ_SHARED)));
    const __m128 d = _mm_add_ps(part, _mm_load1_ps((const float *)(const void *)(b + NF4_DQ_SHARED + 4))), zero = _mm_setzero_ps();
    const __m128 low = _mm_unpacklo_ps(d, zero), high = _mm_unpackhi_ps(d, zero);
    _mm_storeu_ps(s->v, _mm_movelh_ps(low, low));
    _mm_storeu_ps(s->v + 4, _mm_movehl_ps(low, low));
    _mm_storeu_ps(s->v + 8, _mm_movelh_ps(high, high));
    _mm_storeu_ps(s->v + 12, _mm_movehl_ps(high, high));
}

/* Those of the n groups from j on. */
INLINE void group_scales(const dtype dt, const uint8_t *row, int64_t j, int n, struct scales *s) {
    if (dt < DT_Q4_0) return;
    if (dt == DT_NF4_DQ && n >= 8) nested_scales(row, j, s);
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
    if (dt < DT_Q4_0) return;
    if (n >= 8) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) group_scale(dt, p + (size_t)i * row, j, s->v + 2 * i);
    } else {
#pragma GCC unroll 1
        for (int i = 0; i < n; i++) group_scale(dt, p + (size_t)i * row, j, s->v + 2 * i);
    }
}

/* --- super-blocks ------------------------------------------------------------------------------------------------- */

/* A super-block is 8 groups; its weights are codes of a byte each, times a scale, plus (has_mins) a minimum, both of 16
 * weights. Bits become bytes 32 at a time, the cheapest place for it: a group then costs no more than one of Q8_0. */
INLINE bool has_mins(const dtype dt) { return dt == DT_Q2_K || dt == DT_Q4_K || dt == DT_Q5_K; }

INLINE __m256i bytes32_at(const uint8_t *p) { return _mm256_loadu_si256((const void *)p); }
INLINE __m256i masked(__m256i v, int mask) { return _mm256_and_si256(v, _mm256_set1_epi8((char)mask)); }
/* Bit i of each byte, as `value` or 0. */
INLINE __m256i bit_as(__m256i v, int i, int value) {
    const __m256i bit = _mm256_set1_epi8((char)(1 << i));
    return masked(_mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit), value);
}
INLINE __m256i two_bits(const uint8_t *q, int i) {
    return masked(_mm256_srli_epi16(bytes32_at(q + 32 * (i >> 2)), 2 * (i & 3)), 3);
}
INLINE __m256i four_bits(const uint8_t *q, bool high) {
    __m256i v = bytes32_at(q);
    return masked(high ? _mm256_srli_epi16(v, 4) : v, 15);
}

/* The 32 codes of group i of block b. */
INLINE __m256i k_codes(const dtype dt, const uint8_t *b, int i) {
    switch (dt) {
    case DT_Q2_K: return two_bits(b + 16, i);
    case DT_Q3_K:
        return _mm256_sub_epi8(_mm256_or_si256(two_bits(b + 32, i), bit_as(bytes32_at(b), i, 4)), _mm256_set1_epi8(4));
    case DT_Q4_K: return four_bits(b + 16 + 32 * (i >> 1), i & 1);
    case DT_Q5_K: return _mm256_or_si256(four_bits(b + 48 + 32 * (i >> 1), i & 1), bit_as(bytes32_at(b + 16), i, 16));
    case DT_Q6_K: {
        __m256i h = _mm256_slli_epi16(two_bits(b + 128, i), 4);
        return _mm256_sub_epi8(_mm256_or_si256(four_bits(b + 64 * (i >> 2) + 32 * (i & 1), i & 2), h),
                               _mm256_set1_epi8(32));
    }
    default: {
        __m128i v = _mm_loadu_si128((const void *)(b + 8 + 16 * i));
        __m256i q = _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1);
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)iq4_code)), masked(q, 15));
    }
    }
}

INLINE void k_codes256(const dtype dt, const uint8_t *b, int8_t *c) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) _mm256_storeu_si256((void *)(c + 32 * i), k_codes(dt, b, i));
}

struct k_scales {
    float d[16], m[16];
};

INLINE float half_of(const uint8_t *p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((int)get16(p)))); }

/* 16 bytes times f. */
INLINE void times16(__m128i q, float f, float *v) {
    const __m256 s = _mm256_set1_ps(f);
    _mm256_storeu_ps(v, _mm256_mul_ps(s, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))));
    _mm256_storeu_ps(v + 8, _mm256_mul_ps(s, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)))));
}

/* The 16 scales of block b as bytes, and in *m the minimums. Every byte is made of its bits by arithmetic on words of
 * four. */
INLINE __m128i k_scale_bytes(const dtype dt, const uint8_t *b, __m128i *m) {
    const uint32_t six = 0x3F3F3F3F, four = 0x0F0F0F0F, two = 0x03030303;
    if (dt == DT_Q2_K) {
        __m128i v = _mm_loadu_si128((const void *)b), low = _mm_set1_epi8(15);
        *m = _mm_and_si128(_mm_srli_epi16(v, 4), low);
        return _mm_and_si128(v, low);
    }
    if (dt == DT_Q3_K) {
        const uint32_t a = get32(b + 96), c = get32(b + 100), h = get32(b + 104);
        __m128i q =
            _mm_setr_epi32((int)((a & four) | (h & two) << 4), (int)((c & four) | (h >> 2 & two) << 4),
                           (int)((a >> 4 & four) | (h >> 4 & two) << 4), (int)((c >> 4 & four) | (h >> 6 & two) << 4));
        return _mm_sub_epi8(q, _mm_set1_epi8(32));
    }
    if (dt == DT_Q6_K) return _mm_loadu_si128((const void *)(b + 192));
    if (dt == DT_IQ4_XS) {
        const uint32_t l = get32(b + 4);
        uint64_t v = 0;
        for (int i = 0; i < 8; i++) v |= (uint64_t)((l >> 4 * i & 15) | (get16(b + 2) >> 2 * i & 3) << 4) << 8 * i;
        __m128i q = _mm_sub_epi8(_mm_cvtsi64_si128((long long)v), _mm_set1_epi8(32));
        return _mm_unpacklo_epi8(q, q);
    }
    const uint32_t a = get32(b + 4), n = get32(b + 8), c = get32(b + 12);
    __m128i sc = _mm_cvtsi64_si128((long long)((a & six) | (uint64_t)((c & four) | (a >> 6 & two) << 4) << 32));
    __m128i mn = _mm_cvtsi64_si128((long long)((n & six) | (uint64_t)((c >> 4 & four) | (n >> 6 & two) << 4) << 32));
    *m = _mm_unpacklo_epi8(mn, mn);
    return _mm_unpacklo_epi8(sc, sc);
}

INLINE void k_scales(const dtype dt, const uint8_t *b, struct k_scales *s) {
    static const uint8_t at[] = {
        [DT_Q2_K] = 80, [DT_Q3_K] = 108, [DT_Q4_K] = 0, [DT_Q5_K] = 0, [DT_Q6_K] = 208, [DT_IQ4_XS] = 0};
    __m128i m;
    times16(k_scale_bytes(dt, b, &m), half_of(b + at[dt]), s->d);
    if (has_mins(dt)) times16(m, -half_of(b + at[dt] + 2), s->m);
}

/* Those of group i alone. */
INLINE void k_scale(const dtype dt, const uint8_t *b, int i, float d[2], float m[2]) {
    int sc = 0, mn = 0;
    switch (dt) {
    case DT_Q2_K:
        for (int h = 0; h < 2; h++)
            d[h] = half_of(b + 80) * (float)(b[2 * i + h] & 15), m[h] = -half_of(b + 82) * (float)(b[2 * i + h] >> 4);
        return;
    case DT_Q3_K:
        for (int h = 0; h < 2; h++) d[h] = half_of(b + 108) * (float)q3_k_scale(b + 96, 2 * i + h);
        return;
    case DT_Q6_K:
        for (int h = 0; h < 2; h++) d[h] = half_of(b + 208) * (float)(int8_t)b[192 + 2 * i + h];
        return;
    case DT_IQ4_XS: d[0] = d[1] = half_of(b) * (float)iq4_xs_scale(b, i); return;
    default:
        k4_scale_min(b + 4, i, &sc, &mn);
        d[0] = d[1] = half_of(b) * (float)sc;
        m[0] = m[1] = -half_of(b + 2) * (float)mn;
    }
}

#endif
