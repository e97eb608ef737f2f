/* Weights of a row, 32 at a time, in AVX-512 registers: what gemm_avx512.c (panels) and few_avx512.c (dot products)
 * share.
 *
 * A code of 4 bits becomes a float by a permute of a table of 16 (vpermps reads only the low 4 bits of an index): of
 * the values that the block can hold, or of the codes where the scale comes later. */
#ifndef CYC_CPU_LOAD_AVX512_H
#define CYC_CPU_LOAD_AVX512_H
#include "cpu/blocks.h"

INLINE __m512 nibble_table(void) { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
INLINE __m512 code_table(const dtype dt) {
    if (dt == DT_NF4 || dt == DT_NF4_DQ) return _mm512_loadu_ps(nf4_code);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)iq4_code)));
}
INLINE __m512i bytes16(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)); }

/* 16 bytes of nibbles; table: what each means. */
INLINE void load_nibbles(const uint8_t *q, __m512 table, __m512 *lo, __m512 *hi) {
    __m512i v = bytes16(q);
    *lo = _mm512_permutexvar_ps(v, table);
    *hi = _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), table);
}

/* Q5_0, Q5_1: the fifth bits are one word, a mask of bytes. */
INLINE void load_q5(const uint8_t *q, uint32_t bits, __m512 d, __m512 m, __m512 *lo, __m512 *hi) {
    __m128i v = _mm_loadu_si128((const void *)q);
    __m256i c = _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1);
    c = _mm256_and_si256(c, _mm256_set1_epi8(15));
    c = _mm256_mask_add_epi8(c, bits, c, _mm256_set1_epi8(16));
    *lo = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(c))), d, m);
    *hi = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(c, 1))), d, m);
}

INLINE void load_int8(const uint8_t *q, __m512 s, __m512 *lo, __m512 *hi) {
    *lo = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)q))), s);
    *hi = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(q + 16)))), s);
}

/* Through f16, whose exponent is 8 less: (f8 / 256) * (256 s) rounds as f8 * s does. */
INLINE __m512 load_e4m3(const uint8_t *p, float s) {
    __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)p));
    v = _mm256_and_si256(_mm256_slli_epi16(v, 7), _mm256_set1_epi16((short)0xBFFF)); /* bit 14 was a copy of the sign */
    return _mm512_mul_ps(_mm512_cvtph_ps(v), _mm512_set1_ps(256 * s));
}

INLINE __m512 load_bf16(const uint8_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}

/* 16 codes of a super-block with their scale and minimum. */
INLINE __m512 load_codes(const dtype dt, __m128i q, const float *d, const float *m) {
    __m512 w = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
    return has_mins(dt) ? _mm512_fmadd_ps(w, _mm512_set1_ps(*d), _mm512_set1_ps(*m))
                        : _mm512_mul_ps(w, _mm512_set1_ps(*d));
}

/* Group j of a row of a SMALL type; s: its scales. dt is a constant where this is inlined. */
INLINE void load32(const dtype dt, const uint8_t *row, int64_t j, const float *s, __m512 *lo, __m512 *hi) {
    const int per = dtype_block(dt) / 32, i = per > 1 ? (int)(j % per) : 0;
    const uint8_t *b = row + (size_t)(per > 1 ? j / per : per ? j : 32 * j) * dtype_bytes(dt);
#define S _mm512_set1_ps(s[0])
    switch (dt) {
    case DT_F32: *lo = _mm512_loadu_ps(b), *hi = _mm512_loadu_ps(b + 64); break;
    case DT_F16:
        *lo = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)b));
        *hi = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(b + 32)));
        break;
    case DT_BF16: *lo = load_bf16(b), *hi = load_bf16(b + 32); break;
    case DT_Q4_0: load_nibbles(b + 2, _mm512_fmadd_ps(nibble_table(), S, _mm512_set1_ps(-8 * s[0])), lo, hi); break;
    case DT_Q4_1: load_nibbles(b + 4, _mm512_fmadd_ps(nibble_table(), S, _mm512_set1_ps(s[1])), lo, hi); break;
    case DT_Q5_0: load_q5(b + 6, get32(b + 2), S, _mm512_set1_ps(-16 * s[0]), lo, hi); break;
    case DT_Q5_1: load_q5(b + 8, get32(b + 4), S, _mm512_set1_ps(s[1]), lo, hi); break;
    case DT_Q8_0: load_int8(b + 2, S, lo, hi); break;
    case DT_INT8: load_int8(b + 4 + 32 * i, S, lo, hi); break;
    case DT_IQ4_NL: load_nibbles(b + 2, _mm512_mul_ps(code_table(dt), S), lo, hi); break;
    case DT_NF4: load_nibbles(b + 4 + 16 * i, _mm512_mul_ps(code_table(dt), S), lo, hi); break;
    case DT_NF4_DQ: load_nibbles(b + nf4_dq_nibbles(i), _mm512_mul_ps(code_table(dt), S), lo, hi); break;
    default: *lo = load_e4m3(b + 4 + 32 * i, s[0]), *hi = load_e4m3(b + 20 + 32 * i, s[0]); break;
    }
#undef S
}

#endif
