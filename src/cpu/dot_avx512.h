/* What the two dot products for few rows on AVX-512 share, f32 (gemm_avx512.c) and integer (dot_vnni.c): sums, and
 * the end of a block of rows - the low-rank part, the bias, the store. */
#ifndef CYC_CPU_DOT_AVX512_H
#define CYC_CPU_DOT_AVX512_H
#include "cpu/blocks.h"
#include "cpu/dot_rest.h"

enum { DOT_WIDE = 8, DOT_ACC = 24 }; /* dot_block(): most rows of W, accumulators */
/* The sums of four vectors: 13 instructions, where one after the other would take 32. */
INLINE __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

/* rw rows of W from o on by n rows of x: acc[i * rw + r] and what is not in it yet. */
INLINE void dot_end(const int rw, const int n, const struct gemm_dot *d, int64_t o, __m512 *acc) {
    const uint8_t *row = (const uint8_t *)d->w + (size_t)o * d->row_bytes;
    for (int64_t j = 0; j < d->r; j += 16) {
        __mmask16 m = (__mmask16)(d->r - j >= 16 ? 0xFFFF : 0xFFFF >> (16 - (d->r - j)));
#pragma GCC unroll 8
        for (int r = 0; r < rw; r++) {
            __m512 b = _mm512_maskz_loadu_ps(m, d->b + (o + r) * d->ldb + j);
#pragma GCC unroll 8
            for (int i = 0; i < n; i++)
                acc[i * rw + r] = _mm512_fmadd_ps(b, _mm512_maskz_loadu_ps(m, d->t + i * d->ldt + j), acc[i * rw + r]);
        }
    }
    float sum[DOT_ACC]; /* all of them before dot_rest() is called: a call would put the accumulators in memory */
#pragma GCC unroll 8
    for (int a = 0; a < rw * n; a += 4) _mm_storeu_ps(sum + a, sum4(acc[a], acc[a + 1], acc[a + 2], acc[a + 3]));
    if (d->bias || d->k % 32)
        for (int a = 0; a < rw * n; a++)
            sum[a] += dot_rest(d, row + (size_t)(a % rw) * d->row_bytes, o + a % rw, a / rw);
    for (int i = 0; i < n; i++)
        for (int r = 0; r < rw; r++) d->y[i * d->ldy + o + r] = sum[i * rw + r];
}

#endif
