/* Dot products for few rows with integer activations, on AVX-512 with VNNI: six tenths of the f32 ones' work.
 *
 * A row of x is rounded to integers of 15 bits and a sign, x = step * q, step = max|x| / 32767. Weights are integers
 * times their block's scale by their format. Four blocks stand side by side, one in each 128 bits, and each vector
 * takes 8 weights of each, as words; four such vectors are all of the blocks: t = vpmaddwd(w0, q0); t = vpdpwssd(t, w1,
 * q1); ... w3, q3 leaves 16 exact sums, which are converted and multiplied by their blocks' scales. That is 5
 * instructions on the ports of the FMAs for 128 weights, where f32 needs 8 and a half; 8-bit digits of x would need two
 * multiplications for each one here. Two blocks that are left over go the same way in 256 bits. Q4_1's minimums times
 * the sums of a block's q are a dot product over the blocks. The row's step comes last, then the low-rank part in f32.
 *
 * A sum is the same chain whatever stands beside it: the same bits for any number of rows and threads. */
#ifdef __AVX512VNNI__
#include "cpu/dot_avx512.h"
#include <float.h>
#include <math.h>

enum { CHUNK = 16, PARTS = 4 }; /* blocks whose minimums are one vector; vectors of words to a group of blocks */

/* Where part p of block j of a row of `blocks` lies. Groups are of 4, the last one may be of 2. */
INLINE int64_t part_at(int64_t blocks, int64_t j, int p) {
    int64_t group = j & ~(int64_t)3, wide = blocks - group < 4 ? 2 : 4;
    return 32 * group + 8 * (wide * p + (j - group));
}

/* Words of x in the order in which load_group() makes those of W: even and odd places of a block's first half, then of
 * its second. */
static void round_row(const float *x, int64_t k, int16_t *q, float *sums, float *step) {
    __m512 most = _mm512_setzero_ps();
    __mmask16 nan = 0;
    for (int64_t j = 0; j < k; j += 16) {
        __m512 v = _mm512_loadu_ps(x + j);
        most = _mm512_max_ps(most, _mm512_abs_ps(v));
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    float m = _mm512_reduce_max_ps(most), s = m / INT16_MAX;
    if (s < 1e-30f) s = 1e-30f; /* 1 / s must not overflow */
    *step = s;
    if (nan || m > FLT_MAX) { /* the whole row's products will be NaN; its integers must only be some */
        *step = NAN;
        memset(q, 0, (size_t)k * sizeof *q);
        memset(sums, 0, (size_t)(k / 32) * sizeof *sums);
        return;
    }
    const __m512 inverse = _mm512_set1_ps(1 / s);
    for (int64_t j = 0; j < k / 32; j++) {
        __m512i v[2];
        for (int half = 0; half < 2; half++) {
            v[half] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 32 * j + 16 * half), inverse));
            __m256i words = _mm512_cvtsepi32_epi16(v[half]);
            _mm_storeu_si128((void *)(q + part_at(k / 32, j, 2 * half)), _mm256_cvtepi32_epi16(words));
            _mm_storeu_si128((void *)(q + part_at(k / 32, j, 2 * half + 1)),
                             _mm256_cvtepi32_epi16(_mm256_srli_epi32(words, 16)));
        }
        sums[j] = (float)_mm512_reduce_add_epi32(_mm512_add_epi32(v[0], v[1]));
    }
}

/* 16 bytes of each block of a group. */
INLINE __m512i load16(const int blocks, const uint8_t *p, size_t block) {
    __m256i v = _mm256_castsi128_si256(_mm_loadu_si128((const void *)p));
    v = _mm256_inserti128_si256(v, _mm_loadu_si128((const void *)(p + block)), 1);
    if (blocks == 2) return _mm512_zextsi256_si512(v);
    __m512i z = _mm512_inserti32x4(_mm512_castsi256_si512(v), _mm_loadu_si128((const void *)(p + 2 * block)), 2);
    return _mm512_inserti32x4(z, _mm_loadu_si128((const void *)(p + 3 * block)), 3);
}

/* The weights of a group of blocks. */
INLINE void load_group(const dtype dt, const int blocks, const uint8_t *p, __m512i w[PARTS]) {
    const uint8_t *q = p + (dt == DT_Q4_1 ? 4 : 2);
    __m512i z = load16(blocks, q, bytes32(dt));
    if (dt == DT_Q8_0) {
        __m512i y = load16(blocks, q + 16, bytes32(dt));
        w[0] = _mm512_srai_epi16(_mm512_slli_epi16(z, 8), 8);
        w[1] = _mm512_srai_epi16(z, 8);
        w[2] = _mm512_srai_epi16(_mm512_slli_epi16(y, 8), 8);
        w[3] = _mm512_srai_epi16(y, 8);
        return;
    }
    const __m512i nibble = _mm512_set1_epi16(15);
    w[0] = _mm512_and_si512(z, nibble);
    w[1] = _mm512_and_si512(_mm512_srli_epi16(z, 8), nibble);
    w[2] = _mm512_and_si512(_mm512_srli_epi16(z, 4), nibble);
    w[3] = _mm512_srli_epi16(z, 12);
    for (int i = 0; dt == DT_Q4_0 && i < PARTS; i++) w[i] = _mm512_sub_epi16(w[i], _mm512_set1_epi16(8));
}

/* Scale and minimum of each block of a group. */
INLINE __m256 load_scales(const dtype dt, const int blocks, const uint8_t *p) {
    const size_t block = bytes32(dt);
#define HEAD(i) (int)((i) >= blocks ? 0 : dt == DT_Q4_1 ? get32(p + (i)*block) : get16(p + (i)*block))
    return _mm256_cvtph_ps(_mm_setr_epi32(HEAD(0), HEAD(1), HEAD(2), HEAD(3)));
#undef HEAD
}

INLINE __m512i multiply_add(const int blocks, int p, __m512i t, __m512i w, const int16_t *q) {
    if (blocks == 4) {
        __m512i x = _mm512_loadu_si512(q + 32 * p);
        return p ? _mm512_dpwssd_epi32(t, w, x) : _mm512_madd_epi16(w, x);
    }
    __m256i x = _mm256_loadu_si256((const void *)(q + 16 * p)), y = _mm512_castsi512_si256(w);
    return _mm512_zextsi256_si512(p ? _mm256_dpwssd_epi32(_mm512_castsi512_si256(t), y, x) : _mm256_madd_epi16(y, x));
}

/* One group of blocks, from block j of the rows on. m: where the scales and minimums go, [rw][2 CHUNK]. */
INLINE void dot_group(const dtype dt, const int blocks, const int rw, const int n, const struct gemm_dot *d,
                      const uint8_t *row, int64_t j, float (*m)[2 * CHUNK], __m512 *acc) {
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    __m512i w[DOT_WIDE][PARTS];
    __m512 scale[DOT_WIDE];
#pragma GCC unroll 8
    for (int r = 0; r < rw; r++) {
        const uint8_t *p = row + (size_t)r * d->row_bytes + (size_t)j * bytes32(dt);
        __m256 s = load_scales(dt, blocks, p);
        if (dt == DT_Q4_1) _mm256_storeu_ps(m[r] + 2 * (j % CHUNK), s);
        scale[r] = _mm512_permutexvar_ps(spread, _mm512_castps256_ps512(s));
        load_group(dt, blocks, p, w[r]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        __m512i t[DOT_WIDE];
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++)
#pragma GCC unroll 8
            for (int r = 0; r < rw; r++)
                t[r] = multiply_add(blocks, p, p ? t[r] : w[r][0], w[r][p], d->ints.q + i * d->k + 32 * j);
#pragma GCC unroll 8
        for (int r = 0; r < rw; r++)
            acc[i * rw + r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t[r]), scale[r], acc[i * rw + r]);
    }
}

/* acc += minimums times sums of q, over the count blocks from j on. */
INLINE void add_minimums(const int rw, const int n, const struct gemm_dot *d, int64_t j, int count,
                         float (*m)[2 * CHUNK], __m512 *acc) {
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const __mmask16 there = (__mmask16)(0xFFFF >> (CHUNK - count));
    __m512 v[DOT_WIDE];
#pragma GCC unroll 8
    for (int r = 0; r < rw; r++)
        v[r] = _mm512_maskz_permutex2var_ps(there, _mm512_loadu_ps(m[r]), odd, _mm512_loadu_ps(m[r] + CHUNK));
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        __m512 x = _mm512_maskz_loadu_ps(there, d->ints.sums + i * (d->k / 32) + j);
#pragma GCC unroll 8
        for (int r = 0; r < rw; r++) acc[i * rw + r] = _mm512_fmadd_ps(v[r], x, acc[i * rw + r]);
    }
}

/* rw rows of W by n rows of x, one accumulator each: a vector of x, once loaded, meets all rw rows. */
INLINE void dot_block(const dtype dt, const int rw, const int n, const struct gemm_dot *d, int64_t o) {
    const uint8_t *row = (const uint8_t *)d->w + (size_t)o * d->row_bytes;
    const int64_t blocks = d->k / 32;
    const size_t block = bytes32(dt);
    __m512 acc[DOT_ACC] __attribute__((aligned(64)));
    float m[DOT_WIDE][2 * CHUNK];
#pragma GCC unroll 32
    for (int a = 0; a < (rw * n + 3) / 4 * 4; a++) acc[a] = _mm512_setzero_ps();
    for (int r = 0; d->r && r < rw; r++) _mm_prefetch((const char *)(d->b + (o + r + B_AHEAD) * d->ldb), _MM_HINT_T0);
    for (int64_t j0 = 0; j0 < blocks; j0 += CHUNK) {
        const int64_t end = blocks - j0 < CHUNK ? blocks : j0 + CHUNK;
#pragma GCC unroll 8
        for (int r = 0; r < rw; r++) {
            const char *p = (const char *)row + (size_t)r * d->row_bytes + (size_t)j0 * block + AHEAD;
            for (size_t b = 0; b < CHUNK * block; b += 64) _mm_prefetch(p + b, _MM_HINT_T0);
        }
        int64_t j = j0;
        for (; j + 4 <= end; j += 4) dot_group(dt, 4, rw, n, d, row, j, m, acc);
        if (j < end) dot_group(dt, 2, rw, n, d, row, j, m, acc);
        if (dt == DT_Q4_1) add_minimums(rw, n, d, j0, (int)(end - j0), m, acc);
    }
#pragma GCC unroll 32
    for (int a = 0; a < rw * n; a++) acc[a] = _mm512_mul_ps(acc[a], _mm512_set1_ps(d->ints.steps[a / rw]));
    dot_end(rw, n, d, o, acc);
}

enum { WIDE_1 = 4, WIDE_2 = 3, WIDE_3 = 3, WIDE_4 = 3, WIDE_5 = 2, WIDE_6 = 2, WIDE_7 = 2, WIDE_8 = 2 };
#define DOT_TYPES(X) X(Q4_0) X(Q4_1) X(Q8_0)
#include "cpu/dot_spans.h"

const struct gemm_int_isa gemm_vnni = {round_row, dot};
#else
typedef int no_vnni_here;
#endif
