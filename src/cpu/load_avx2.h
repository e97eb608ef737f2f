/* Weights of a row, 8 at a time, in AVX2 registers: what gemm_avx2.c (panels) and few_avx2.c (dot products) share. */
#ifndef CYC_CPU_LOAD_AVX2_H
#define CYC_CPU_LOAD_AVX2_H
#include "cpu/blocks.h"

INLINE __m256i bytes8(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)); }
INLINE __m256i low_bits(__m256i v, int mask) { return _mm256_and_si256(v, _mm256_set1_epi32(mask)); }
INLINE __m256 low_signed(__m128i v) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)); }

/* The c-th 8 of 16 bytes of nibbles: low ones first. */
INLINE __m256i nibbles8(const uint8_t *q, int c) {
    __m256i v = bytes8(q + 8 * (c & 1));
    return c < 2 ? low_bits(v, 15) : _mm256_srli_epi32(v, 4);
}

/* Bits 8 c .. 8 c + 7 of a word, each 16 or 0. */
INLINE __m256i fifth_bits(uint32_t bits, int c) {
    __m256i v = _mm256_srlv_epi32(_mm256_set1_epi32((int)(bits >> 8 * c)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_slli_epi32(low_bits(v, 1), 4);
}

INLINE __m256 line8(__m256i q, float d, float m) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(q), _mm256_set1_ps(d), _mm256_set1_ps(m));
}

/* What codes of 4 bits mean. */
INLINE __m256 codes8(const dtype dt, __m256i q) {
    const __m128i iq = _mm_loadu_si128((const void *)iq4_code);
    const bool nf4 = dt == DT_NF4 || dt == DT_NF4_DQ;
    const __m256 lo = nf4 ? _mm256_loadu_ps(nf4_code) : low_signed(iq);
    const __m256 hi = nf4 ? _mm256_loadu_ps(nf4_code + 8) : low_signed(_mm_srli_si128(iq, 8));
    __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(q, 28)); /* bit 3 is the sign that a blend reads */
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(lo, q), _mm256_permutevar8x32_ps(hi, q), upper);
}

/* Through f16, whose exponent is 8 less: (f8 / 256) * (256 s) rounds as f8 * s does. */
INLINE __m256 load8_e4m3(const uint8_t *p, float s) {
    __m128i v = _mm_cvtepi8_epi16(_mm_loadl_epi64((const void *)p));
    v = _mm_and_si128(_mm_slli_epi16(v, 7), _mm_set1_epi16((short)0xBFFF)); /* bit 14 was a copy of the sign */
    return _mm256_mul_ps(_mm256_cvtph_ps(v), _mm256_set1_ps(256 * s));
}

INLINE __m256 load8_bf16(const uint8_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}

/* 8 codes of a super-block with their scale and minimum. */
INLINE __m256 load_codes(const dtype dt, __m128i q, const float *d, const float *m) {
    __m256 w = low_signed(q);
    return has_mins(dt) ? _mm256_fmadd_ps(w, _mm256_set1_ps(*d), _mm256_set1_ps(*m))
                        : _mm256_mul_ps(w, _mm256_set1_ps(*d));
}

/* The c-th 8 of group j of a row of a SMALL type; s: the group's scales. dt is a constant where this is inlined. */
INLINE __m256 load8(const dtype dt, const uint8_t *row, int64_t j, int c, const float *s) {
    const int per = dtype_block(dt) / 32, i = per > 1 ? (int)(j % per) : 0;
    const uint8_t *b = row + (size_t)(per > 1 ? j / per : per ? j : 32 * j) * dtype_bytes(dt);
    switch (dt) {
    case DT_F32: return _mm256_loadu_ps((const void *)(b + 32 * c));
    case DT_F16: return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(b + 16 * c)));
    case DT_BF16: return load8_bf16(b + 16 * c);
    case DT_Q4_0: return line8(nibbles8(b + 2, c), s[0], -8 * s[0]);
    case DT_Q4_1: return line8(nibbles8(b + 4, c), s[0], s[1]);
    case DT_Q5_0: return line8(_mm256_or_si256(nibbles8(b + 6, c), fifth_bits(get32(b + 2), c)), s[0], -16 * s[0]);
    case DT_Q5_1: return line8(_mm256_or_si256(nibbles8(b + 8, c), fifth_bits(get32(b + 4), c)), s[0], s[1]);
    case DT_Q8_0:
        return _mm256_mul_ps(low_signed(_mm_loadl_epi64((const void *)(b + 2 + 8 * c))), _mm256_set1_ps(s[0]));
    case DT_IQ4_NL: return _mm256_mul_ps(codes8(dt, nibbles8(b + 2, c)), _mm256_set1_ps(s[0]));
    case DT_NF4: return _mm256_mul_ps(codes8(dt, nibbles8(b + 4 + 16 * i, c)), _mm256_set1_ps(s[0]));
    case DT_NF4_DQ: return _mm256_mul_ps(codes8(dt, nibbles8(b + nf4_dq_nibbles(i), c)), _mm256_set1_ps(s[0]));
    case DT_INT8: return _mm256_mul_ps(low_signed(_mm_loadl_epi64((const void *)(b + 4 + 32 * i + 8 * c))), _mm256_set1_ps(s[0]));
    default: return load8_e4m3(b + 4 + 32 * i + 8 * c, s[0]);
    }
}

INLINE void load32(const dtype dt, const uint8_t *row, int64_t j, const float *s, __m256 w[4]) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) w[c] = load8(dt, row, j, c, s);
}

#endif
