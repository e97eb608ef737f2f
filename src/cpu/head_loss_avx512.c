/* AVX-512 rows of the softmax cross-entropy (head_loss.h). */
#ifdef __AVX512F__
#include "cpu/head_loss.h"
#include "cpu/vmath.h"
#include <math.h>

static __mmask16 tail(int64_t left) { return (__mmask16)(left >= 16 ? 0xFFFF : (1u << left) - 1); }

static void stats(const float *z, int64_t n, float *max, double *sum) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 m0 = none, m1 = none;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        m0 = _mm512_max_ps(m0, _mm512_loadu_ps(z + i));
        m1 = _mm512_max_ps(m1, _mm512_loadu_ps(z + i + 16));
    }
    for (; i < n; i += 16) m0 = _mm512_max_ps(m0, _mm512_mask_loadu_ps(none, tail(n - i), z + i));
    *max = _mm512_reduce_max_ps(_mm512_max_ps(m0, m1));
    const __m512 top = _mm512_set1_ps(*max);
    double total = 0;
    for (int64_t from = 0; from < n; from += 16 * HEAD_FLUSH) {
        int64_t to = n < from + 16 * HEAD_FLUSH ? n : from + 16 * HEAD_FLUSH;
        __m512 s = _mm512_setzero_ps();
        for (i = from; i < to; i += 16) {
            __mmask16 k = tail(to - i);
            s = _mm512_mask_add_ps(s, k, s, v16_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, z + i), top)));
        }
        total += _mm512_reduce_add_pd(
            _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(s)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(s, 1))));
    }
    *sum = total;
}

static void grad(float *z, int64_t n, float max, float scale) {
    const __m512 top = _mm512_set1_ps(max), s = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 k = tail(n - i);
        __m512 e = v16_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, z + i), top));
        _mm512_mask_storeu_ps(z + i, k, _mm512_mul_ps(e, s));
    }
}

const struct head_rows head_avx512 = {stats, grad};
#else
typedef int no_avx512_here;
#endif
