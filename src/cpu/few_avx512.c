/* AVX-512 dot products for few rows (gemm.h, gemm_isa.dot): weights unpacked in registers, 32 at a time. */
#ifdef __AVX512F__
#include "cpu/dot_avx512.h"
#include "cpu/load_avx512.h"

/* One super-block of rw rows of W, from `row` on, by n rows of x from column k on. */
INLINE void super_block(const dtype dt, const int rw, const int n, const struct gemm_dot *d, const uint8_t *row, int64_t k, __m512 *acc) {
    int8_t codes[DOT_WIDE][256];
    struct k_scales s[DOT_WIDE];
#pragma GCC unroll 8
    for (int r = 0; r < rw; r++) {
        const uint8_t *b = row + (size_t)r * d->row_bytes;
        for (size_t at = 0; at < dtype_bytes(dt); at += 64) _mm_prefetch((const char *)b + AHEAD + at, _MM_HINT_T0);
        k_codes256(dt, b, codes[r]);
        k_scales(dt, b, &s[r]);
    }
    for (int t = 0; t < 16; t++) {
        __m512 w[DOT_WIDE];
#pragma GCC unroll 8
        for (int r = 0; r < rw; r++)
            w[r] = load_codes(dt, _mm_loadu_si128((const void *)(codes[r] + 16 * t)), s[r].d + t, s[r].m + t);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            __m512 x = _mm512_loadu_ps(d->x + i * d->ldx + k + 16 * t);
#pragma GCC unroll 8
            for (int r = 0; r < rw; r++) acc[i * rw + r] = _mm512_fmadd_ps(w[r], x, acc[i * rw + r]);
        }
    }
}

/* rw rows of W by n rows of x, one accumulator each: a vector of x, once loaded, meets all rw rows. */
INLINE void dot_block(const dtype dt, const int rw, const int n, const struct gemm_dot *d, int64_t o) {
    const size_t bytes = d->row_bytes;
    const uint8_t *row = (const uint8_t *)d->w + (size_t)o * bytes;
    __m512 acc[DOT_ACC] __attribute__((aligned(64)));
#pragma GCC unroll 32
    for (int a = 0; a < (rw * n + 3) / 4 * 4; a++) acc[a] = _mm512_setzero_ps();
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
        __m512 lo[DOT_WIDE], hi[DOT_WIDE];
#pragma GCC unroll 8
        for (int r = 0; r < rw; r++) load32(dt, row + (size_t)r * bytes, j, s[r].v + 2 * (j % 8), &lo[r], &hi[r]);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            __m512 x = _mm512_loadu_ps(d->x + i * d->ldx + 32 * j);
#pragma GCC unroll 8
            for (int r = 0; r < rw; r++) acc[i * rw + r] = _mm512_fmadd_ps(lo[r], x, acc[i * rw + r]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            __m512 x = _mm512_loadu_ps(d->x + i * d->ldx + 32 * j + 16);
#pragma GCC unroll 8
            for (int r = 0; r < rw; r++) acc[i * rw + r] = _mm512_fmadd_ps(hi[r], x, acc[i * rw + r]);
        }
    }
    dot_end(rw, n, d, o, acc);
}

enum { WIDE_1 = 4, WIDE_2 = 6, WIDE_3 = 4, WIDE_4 = 4, WIDE_5 = 4, WIDE_6 = 4, WIDE_7 = 3, WIDE_8 = 3 };
#define DOT_TYPES(X) SMALL(X) SUPER(X)
#include "cpu/dot_spans.h"

void gemm_few_avx512(const struct gemm_dot *d) { dot(d); }
#else
typedef int no_few_avx512_here;
#endif
