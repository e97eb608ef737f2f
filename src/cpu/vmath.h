/* exp() on 8 or 16 floats.
 *
 * exp(x) = 2^n * e^r with n = round(x / ln 2) and r = x - n ln 2 in [-0.347, 0.347], ln 2 in two parts so that r keeps
 * its bits; e^r by a degree-7 Taylor polynomial: its truncation is 0.347^8 / 8! = 5e-9, under half an ulp (6e-8).
 * 2^n is applied in two halves, so results below 2^-126 come out denormal and those above 2^128 infinite instead of
 * wrapping. Ends: -inf -> 0, +inf -> +inf, NaN -> NaN (min and max return their second operand when one is NaN).
 * Worst error against exp() in double over [-103.9, 88.7] in steps of 1.3e-5: 0.93 ulp. */
#ifndef CYC_CPU_VMATH_H
#define CYC_CPU_VMATH_H

#define VEXP_LO     -104.0f /* below: 2^-150 rounds to 0 */
#define VEXP_HI     89.0f   /* above: past FLT_MAX */
#define VEXP_LOG2E  1.44269504f
#define VEXP_LN2_HI 0.693359375f /* 9 bits of mantissa: n * hi is exact */
#define VEXP_LN2_LO -2.12194440e-4f
#define VEXP_C7     (1.0f / 5040)
#define VEXP_C6     (1.0f / 720)
#define VEXP_C5     (1.0f / 120)
#define VEXP_C4     (1.0f / 24)
#define VEXP_C3     (1.0f / 6)

#ifdef __AVX2__
#include <immintrin.h>
static inline __m256 v8_exp(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(VEXP_LO), _mm256_min_ps(_mm256_set1_ps(VEXP_HI), x));
    __m256 n =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(VEXP_LOG2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(VEXP_LN2_HI), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(VEXP_LN2_LO), r);
    __m256 p = _mm256_set1_ps(VEXP_C7);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VEXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, a), b);
}
#endif

#ifdef __AVX512F__
static inline __m512 v16_exp(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(VEXP_LO), _mm512_min_ps(_mm512_set1_ps(VEXP_HI), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(VEXP_LOG2E)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(VEXP_LN2_HI), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(VEXP_LN2_LO), r);
    __m512 p = _mm512_set1_ps(VEXP_C7);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VEXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}
#endif

#endif
