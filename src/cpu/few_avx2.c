/* AVX2 dot products for few rows (gemm.h, gemm_isa.dot): weights unpacked in registers, 8 at a time. */
#ifdef __AVX2__
#include "cpu/dot_rest.h"
#include "cpu/load_avx2.h"

enum { DOT_WIDE = 4, DOT_ACC = 9 }; /* dot_block(): most rows of W, accumulators */

INLINE float sum8(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* Here the last r % 8 of the low-rank part are left over too. */
static __attribute__((noinline)) float dot_rest_low(const struct gemm_dot *d, const uint8_t *row, int64_t o, int i) {
    float sum = dot_rest(d, row, o, i);
    for (int64_t j = d->r & ~(int64_t)7; j < d->r; j++) sum += d->t[i * d->ldt + j] * d->b[o * d->ldb + j];
    return sum;
}

/* One super-block of rw rows of W, from `row` on, by n rows of x from column k on. */
INLINE void super_block(const dtype dt, const int rw, const int n, const struct gemm_dot *d, const uint8_t *row, int64_t k, __m256 *acc) {
    int8_t codes[DOT_WIDE][256];
    struct k_scales s[DOT_WIDE];
#pragma GCC unroll 8
    for (int r = 0; r < rw; r++) {
        const uint8_t *b = row + (size_t)r * d->row_bytes;
        for (size_t at = 0; at < dtype_bytes(dt); at += 64) _mm_prefetch((const char *)b + AHEAD + at, _MM_HINT_T0);
        k_codes256(dt, b, codes[r]);
        k_scales(dt, b, &s[r]);
    }
    for (int t = 0; t < 32; t++) {
        __m256 w[DOT_WIDE];
#pragma GCC unroll 8
        for (int r = 0; r < rw; r++)
            w[r] = load_codes(dt, _mm_loadl_epi64((const void *)(codes[r] + 8 * t)), s[r].d + t / 2, s[r].m + t / 2);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            __m256 x = _mm256_loadu_ps(d->x + i * d->ldx + k + 8 * t);
#pragma GCC unroll 8
            for (int r = 0; r < rw; r++) acc[i * rw + r] = _mm256_fmadd_ps(w[r], x, acc[i * rw + r]);
        }
    }
}

/* rw rows of W by n rows of x, one accumulator each. */
INLINE void dot_block(const dtype dt, const int rw, const int n, const struct gemm_dot *d, int64_t o) {
    const size_t bytes = d->row_bytes;
    const uint8_t *row = (const uint8_t *)d->w + (size_t)o * bytes;
    __m256 acc[DOT_ACC];
#pragma GCC unroll 12
    for (int a = 0; a < rw * n; a++) acc[a] = _mm256_setzero_ps();
    const size_t block = bytes32(dt);
    struct scales s[DOT_WIDE];
    for (int r = 0; d->r && r < rw; r++) _mm_prefetch((const char *)(d->b + (o + r + B_AHEAD) * d->ldb), _MM_HINT_T0);
    for (int64_t j = 0; is_super(dt) && j < d->k / 256; j++) super_block(dt, rw, n, d, row + (size_t)j * dtype_bytes(dt), 256 * j, acc);
    for (int64_t j = 0; !is_super(dt) && j < d->k / 32; j++) {
        if (j % 8 == 0)
#pragma GCC unroll 8
            for (int r = 0; r < rw; r++) {
                const uint8_t *at = row + (size_t)r * bytes + (size_t)j * block;
                for (size_t b = 0; b < 8 * block; b += 64) _mm_prefetch((const char *)at + AHEAD + b, _MM_HINT_T0);
                group_scales(dt, row + (size_t)r * bytes, j, (int)(d->k / 32 - j), &s[r]);
            }
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) {
            __m256 w[DOT_WIDE];
#pragma GCC unroll 8
            for (int r = 0; r < rw; r++)
                w[r] = load8(dt, row + (size_t)r * bytes, j, q, s[r].v + 2 * (j % 8));
#pragma GCC unroll 8
            for (int i = 0; i < n; i++) {
                __m256 x = _mm256_loadu_ps(d->x + i * d->ldx + 32 * j + 8 * q);
#pragma GCC unroll 8
                for (int r = 0; r < rw; r++) acc[i * rw + r] = _mm256_fmadd_ps(w[r], x, acc[i * rw + r]);
            }
        }
    }
    for (int64_t j = 0; j + 8 <= d->r; j += 8) {
#pragma GCC unroll 8
        for (int r = 0; r < rw; r++) {
            __m256 b = _mm256_loadu_ps(d->b + (o + r) * d->ldb + j);
#pragma GCC unroll 8
            for (int i = 0; i < n; i++)
                acc[i * rw + r] = _mm256_fmadd_ps(b, _mm256_loadu_ps(d->t + i * d->ldt + j), acc[i * rw + r]);
        }
    }
    float sum[DOT_ACC]; /* all of them before dot_rest_low() is called: a call would put the accumulators in memory */
#pragma GCC unroll 12
    for (int a = 0; a < rw * n; a++) sum[a] = sum8(acc[a]);
    if (d->bias || d->k % 32 || d->r % 8)
        for (int a = 0; a < rw * n; a++) sum[a] += dot_rest_low(d, row + (size_t)(a % rw) * bytes, o + a % rw, a / rw);
    for (int i = 0; i < n; i++)
        for (int r = 0; r < rw; r++) d->y[i * d->ldy + o + r] = sum[i * rw + r];
}

enum { WIDE_1 = 4, WIDE_2 = 4, WIDE_3 = 3, WIDE_4 = 2, WIDE_5 = 1, WIDE_6 = 1, WIDE_7 = 1, WIDE_8 = 1 };
#define DOT_TYPES(X) SMALL(X) SUPER(X)
#include "cpu/dot_spans.h"

void gemm_few_avx2(const struct gemm_dot *d) { dot(d); }
#else
typedef int no_few_avx2_here;
#endif
