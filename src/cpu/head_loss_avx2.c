/* AVX2 rows of the softmax cross-entropy (head_loss.h). */
#ifdef __AVX2__
#include "cpu/head_loss.h"
#include "cpu/vmath.h"
#include <math.h>

/* Values i .. i + 8 of z, those past n as `fill`. */
static __m256 load(const float *z, int64_t i, int64_t n, float fill) {
    if (i + 8 <= n) return _mm256_loadu_ps(z + i);
    float v[8];
    for (int j = 0; j < 8; j++) v[j] = i + j < n ? z[i + j] : fill;
    return _mm256_loadu_ps(v);
}

static double sum_pd(__m256 v) {
    __m256d d = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
    double part[4];
    _mm256_storeu_pd(part, d);
    return (part[0] + part[1]) + (part[2] + part[3]);
}

static void stats(const float *z, int64_t n, float *max, double *sum) {
    __m256 m0 = _mm256_set1_ps(-INFINITY), m1 = m0;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        m0 = _mm256_max_ps(m0, _mm256_loadu_ps(z + i));
        m1 = _mm256_max_ps(m1, _mm256_loadu_ps(z + i + 8));
    }
    for (; i < n; i += 8) m0 = _mm256_max_ps(m0, load(z, i, n, -INFINITY));
    float part[8];
    _mm256_storeu_ps(part, _mm256_max_ps(m0, m1));
    *max = part[0];
    for (int j = 1; j < 8; j++) *max = part[j] > *max ? part[j] : *max;
    const __m256 top = _mm256_set1_ps(*max);
    double total = 0;
    for (int64_t from = 0; from < n; from += 8 * HEAD_FLUSH) {
        int64_t to = n < from + 8 * HEAD_FLUSH ? n : from + 8 * HEAD_FLUSH;
        __m256 s = _mm256_setzero_ps();
        for (i = from; i < to; i += 8) s = _mm256_add_ps(s, v8_exp(_mm256_sub_ps(load(z, i, to, -INFINITY), top)));
        total += sum_pd(s);
    }
    *sum = total;
}

static void grad(float *z, int64_t n, float max, float scale) {
    const __m256 top = _mm256_set1_ps(max), s = _mm256_set1_ps(scale);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(z + i, _mm256_mul_ps(v8_exp(_mm256_sub_ps(_mm256_loadu_ps(z + i), top)), s));
    if (i == n) return;
    float v[8];
    _mm256_storeu_ps(v, _mm256_mul_ps(v8_exp(_mm256_sub_ps(load(z, i, n, 0), top)), s));
    for (int j = 0; i + j < n; j++) z[i + j] = v[j];
}

const struct head_rows head_avx2 = {stats, grad};
#else
typedef int no_avx2_here;
#endif
