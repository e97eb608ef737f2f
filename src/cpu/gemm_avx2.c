/* AVX2 side of the product engine (gemm.h): 6 x 16 tiles, unpackers, dot products for few rows.
 *
 * Tile: 12 accumulators, 2 weight vectors, 1 broadcast: 8 loads per 12 FMAs, all 16 registers but one.
 *
 * Unpacking, forward (transposed): 8 rows x 4 dwords are turned so that one vector holds one dword of 8 rows; its bytes
 * and nibbles are then 4 or 8 consecutive k of 8 outputs: 8 weights cost a shift, a mask, a conversion, an FMA and a
 * store. */
#ifdef __AVX2__
#include "cpu/load_avx2.h"

enum { NR = 16, DOT_WIDE = 4, DOT_ACC = 9 }; /* dot_block(): most rows of W, accumulators */

/* F(dt) for the one that dt is, a constant in it. */
#define CASE(name)                                                                                                     \
    case DT_##name: F(DT_##name); break;

/* --- the tile -------------------------------------------------------------------------------------------------- */

/* Lanes below n (clamped to 0..8) of a masked load or store. */
INLINE __m256i lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE void tile_n(const int mr, int cols, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
                   float *c, int64_t ldc, bool add) {
    __m256 acc[6][2];
#pragma GCC unroll 6
    for (int i = 0; i < mr; i++) {
        acc[i][0] = acc[i][1] = _mm256_setzero_ps();
        _mm_prefetch((const char *)(c + i * ldc), _MM_HINT_T0);
    }
    for (; k > 0; k--, a += lda, b += ldb) {
        __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
        for (int i = 0; i < mr; i++) {
            __m256 x = _mm256_broadcast_ss(a + i);
            acc[i][0] = _mm256_fmadd_ps(x, b0, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(x, b1, acc[i][1]);
        }
    }
    if (cols == NR) {
#pragma GCC unroll 6
        for (int i = 0; i < mr; i++, c += ldc) {
            if (add) {
                acc[i][0] = _mm256_add_ps(acc[i][0], _mm256_loadu_ps(c));
                acc[i][1] = _mm256_add_ps(acc[i][1], _mm256_loadu_ps(c + 8));
            }
            _mm256_storeu_ps(c, acc[i][0]);
            _mm256_storeu_ps(c + 8, acc[i][1]);
        }
        return;
    }
    __m256i m0 = lanes(cols), m1 = lanes(cols - 8);
#pragma GCC unroll 6
    for (int i = 0; i < mr; i++, c += ldc) {
        if (add) {
            acc[i][0] = _mm256_add_ps(acc[i][0], _mm256_maskload_ps(c, m0));
            acc[i][1] = _mm256_add_ps(acc[i][1], _mm256_maskload_ps(c + 8, m1));
        }
        _mm256_maskstore_ps(c, m0, acc[i][0]);
        _mm256_maskstore_ps(c + 8, m1, acc[i][1]);
    }
}

static void tile(int mr, int cols, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                 int64_t ldc, bool add) {
    switch (mr) {
    case 1: tile_n(1, cols, k, a, lda, b, ldb, c, ldc, add); break;
    case 2: tile_n(2, cols, k, a, lda, b, ldb, c, ldc, add); break;
    case 3: tile_n(3, cols, k, a, lda, b, ldb, c, ldc, add); break;
    case 4: tile_n(4, cols, k, a, lda, b, ldb, c, ldc, add); break;
    case 5: tile_n(5, cols, k, a, lda, b, ldb, c, ldc, add); break;
    default: tile_n(6, cols, k, a, lda, b, ldb, c, ldc, add); break;
    }
}

/* --- packing and unpacking ------------------------------------------------------------------------------------- */

/* 16 bytes from each of 8 rows; out[d] = dword d of row 0..7. */
INLINE void turn(const uint8_t *const p[8], int64_t off, __m256i out[4]) {
    __m256i z[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m128i top = _mm_loadu_si128((const void *)(p[4 + i] + off));
        z[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)(p[i] + off))), top, 1);
    }
    __m256i t0 = _mm256_unpacklo_epi32(z[0], z[1]), t1 = _mm256_unpackhi_epi32(z[0], z[1]);
    __m256i t2 = _mm256_unpacklo_epi32(z[2], z[3]), t3 = _mm256_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm256_unpacklo_epi64(t0, t2);
    out[1] = _mm256_unpackhi_epi64(t0, t2);
    out[2] = _mm256_unpacklo_epi64(t1, t3);
    out[3] = _mm256_unpackhi_epi64(t1, t3);
}

/* Vectors of 8 are stored at a stride of `rows`, each next one over the surplus of the last; the final ones, whose
 * surplus would fall on another thread's tile, are written one by one. */
static void pack(const float *x, int64_t ld, int rows, int64_t k, float *dst) {
    const uint8_t *p[8];
    for (int i = 0; i < 8; i++) p[i] = (const uint8_t *)(x + (i < rows ? i : rows - 1) * ld);
    int64_t j = 0;
    for (; j + 4 + 8 <= k; j += 4) {
        __m256i v[4];
        turn(p, 4 * j, v);
        for (int i = 0; i < 4; i++, dst += rows) _mm256_storeu_ps(dst, _mm256_castsi256_ps(v[i]));
    }
    for (; j < k; j++)
        for (int i = 0; i < rows; i++) *dst++ = x[i * ld + j];
}

/* The first 4 (or 2, if !wide) bytes of block `off` of 8 rows. */
INLINE __m256i block_heads(const uint8_t *const p[8], int64_t off, bool wide) {
#define HEAD(i) (int)(wide ? get32(p[i] + off) : get16(p[i] + off))
    return _mm256_setr_epi32(HEAD(0), HEAD(1), HEAD(2), HEAD(3), HEAD(4), HEAD(5), HEAD(6), HEAD(7));
#undef HEAD
}

/* The low 16 bits of each lane as halves; high bits must be zero. */
INLINE __m256 halves(__m256i v) {
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

INLINE void turn_q4(dtype dt, const uint8_t *const p[8], int64_t blocks, float *dst) {
    const int bytes = dt == DT_Q4_1 ? 20 : 18, head = bytes - 16;
    const __m256i mask = _mm256_set1_epi32(15);
    for (int64_t j = 0; j < blocks; j++, dst += 32 * NR) {
        __m256i h = block_heads(p, j * bytes, dt == DT_Q4_1), v[4];
        __m256 d = halves(_mm256_and_si256(h, _mm256_set1_epi32(0xFFFF)));
        __m256 m = dt == DT_Q4_1 ? halves(_mm256_srli_epi32(h, 16)) : _mm256_mul_ps(d, _mm256_set1_ps(-8));
        turn(p, j * bytes + head, v);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++)
#pragma GCC unroll 8
            for (int b = 0; b < 8; b++) {
                __m256 q = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(v[c], 4 * b), mask));
                _mm256_storeu_ps(dst + (4 * c + b / 2 + 16 * (b & 1)) * NR, _mm256_fmadd_ps(q, d, m));
            }
    }
}

INLINE void turn_q8(const uint8_t *const p[8], int64_t blocks, float *dst) {
    for (int64_t j = 0; j < blocks; j++, dst += 32 * NR) {
        __m256 d = halves(block_heads(p, j * 34, false));
#pragma GCC unroll 2
        for (int part = 0; part < 2; part++) {
            __m256i v[4];
            turn(p, j * 34 + 2 + 16 * part, v);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++)
#pragma GCC unroll 4
                for (int b = 0; b < 4; b++) {
                    __m256i q = _mm256_srai_epi32(_mm256_slli_epi32(v[c], 24 - 8 * b), 24);
                    _mm256_storeu_ps(dst + (16 * part + 4 * c + b) * NR, _mm256_mul_ps(_mm256_cvtepi32_ps(q), d));
                }
        }
    }
}

/* Super-blocks: the codes of 8 rows as bytes, which are turned as Q8_0's are; their scales are turned too. */
INLINE void turn_super(const dtype dt, const uint8_t *const p[8], int64_t blocks, float *dst) {
    int8_t codes[8][256];
    struct k_scales s[8];
    const uint8_t *c[8], *f[8];
    for (int i = 0; i < 8; i++) c[i] = (const uint8_t *)codes[i], f[i] = (const uint8_t *)&s[i];
    for (int64_t j = 0; j < blocks; j++) {
        for (int i = 0; i < 8; i++) {
            const uint8_t *b = p[i] + (size_t)j * dtype_bytes(dt);
            k_codes256(dt, b, codes[i]);
            k_scales(dt, b, &s[i]);
        }
        for (int t = 0; t < 16; t++, dst += 16 * NR) {
            __m256i v[4], d[4], m[4];
            turn(f, 16 * (t / 4), d);
            if (has_mins(dt)) turn(f, 64 + 16 * (t / 4), m);
            turn(c, 16 * t, v);
            const __m256 scale = _mm256_castsi256_ps(d[t % 4]),
                         min = _mm256_castsi256_ps(has_mins(dt) ? m[t % 4] : d[t % 4]);
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
#pragma GCC unroll 4
                for (int b = 0; b < 4; b++) {
                    __m256 q = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v[k], 24 - 8 * b), 24));
                    _mm256_storeu_ps(dst + (4 * k + b) * NR,
                                     has_mins(dt) ? _mm256_fmadd_ps(q, scale, min) : _mm256_mul_ps(q, scale));
                }
        }
    }
}

static void turn_f32(const uint8_t *const p[8], int64_t k, float scale, float *dst) {
    __m256 s = _mm256_set1_ps(scale);
    int64_t j = 0;
    for (; j + 4 <= k; j += 4, dst += 4 * NR) {
        __m256i v[4];
        turn(p, 4 * j, v);
        for (int i = 0; i < 4; i++) _mm256_storeu_ps(dst + i * NR, _mm256_mul_ps(_mm256_castsi256_ps(v[i]), s));
    }
    for (; j < k; j++, dst += NR)
        for (int i = 0; i < 8; i++) dst[i] = scale * ((const float *)p[i])[j];
}

/* n weights from element k0 (a multiple of 64) of a row of a SMALL type, as f32. */
INLINE void row_f32(const dtype dt, const uint8_t *row, int64_t k0, int64_t n, float *dst) {
    int64_t j = 0;
    struct scales s;
    for (; j + 32 <= n; j += 32) {
        __m256 w[4];
        if (j % 256 == 0) group_scales(dt, row, (k0 + j) / 32, (int)((n - j) / 32), &s);
        load32(dt, row, (k0 + j) / 32, s.v + j / 16 % 16, w);
        for (int i = 0; i < 4; i++) _mm256_storeu_ps(dst + j + 8 * i, w[i]);
    }
    if (j < n) dequantise_row(dt, row + dtype_row_bytes(dt, k0 + j), dst + j, n - j);
}

static void unpack_turned(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst,
                          float *tmp) {
    const size_t row = dtype_row_bytes(w->dt, w->ld);
    const bool in_place =
        w->dt == DT_F32 || w->dt == DT_Q4_0 || w->dt == DT_Q4_1 || w->dt == DT_Q8_0 || is_super(w->dt);
    for (int first = 0; first < cols; first += 8) {
        float *to = dst + first / NR * kc * NR + first % NR;
        const uint8_t *p[8];
        for (int i = 0; i < 8; i++) {
            int64_t r = n0 + (first + i < cols ? first + i : cols - 1);
            p[i] = (const uint8_t *)w->p + (size_t)r * row;
            if (in_place) p[i] += dtype_row_bytes(w->dt, k0);
        }
        if (w->dt == DT_Q4_1) turn_q4(DT_Q4_1, p, kc / 32, to);
        else if (w->dt == DT_Q4_0) turn_q4(DT_Q4_0, p, kc / 32, to);
        else if (w->dt == DT_Q8_0) turn_q8(p, kc / 32, to);
        else if (w->dt == DT_F32) turn_f32(p, kc, w->scale, to);
        else if (is_super(w->dt)) {
            switch (w->dt) {
#define F(dt) turn_super(dt, p, kc / 256, to)
                SUPER(CASE)
#undef F
            default: break;
            }
        } else {
            for (int i = 0; i < 8; i++) {
#define F(dt) row_f32(dt, p[i], k0, kc, tmp + i * GEMM_KC)
                switch (w->dt) {
                    SMALL(CASE)
                default: break;
                }
#undef F
                p[i] = (const uint8_t *)(tmp + i * GEMM_KC);
            }
            turn_f32(p, kc, 1, to);
        }
    }
}

INLINE void unpack_rows(const dtype dt, const struct gemm_w *w, int64_t n0, int64_t k0, int64_t kc, float *dst) {
    const size_t row = dtype_row_bytes(dt, w->ld);
    const uint8_t *p = (const uint8_t *)w->p + (size_t)k0 * row;
    const __m256 f = _mm256_set1_ps(w->scale);
    struct scales s;
    for (int64_t k = 0; k < kc; k++, p += row, dst += NR) {
        __m256 v[4];
        if (k % 8 == 0) rows_scales(dt, p, row, n0 / 32, (int)(kc - k), &s);
        load32(dt, p, n0 / 32, s.v + 2 * (k % 8), v);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            _mm256_storeu_ps(dst + i / 2 * kc * NR + i % 2 * 8, dt == DT_F32 ? _mm256_mul_ps(v[i], f) : v[i]);
    }
}

INLINE void unpack_super_rows(const dtype dt, const struct gemm_w *w, int64_t n0, int64_t k0, int64_t kc, float *dst) {
    const size_t row = dtype_row_bytes(dt, w->ld);
    const uint8_t *p = (const uint8_t *)w->p + (size_t)k0 * row + (size_t)(n0 / 256) * dtype_bytes(dt);
    const int i = (int)(n0 / 32 % 8);
    for (int64_t k = 0; k < kc; k++, p += row, dst += NR) {
        float d[2], m[2];
        k_scale(dt, p, i, d, m);
        __m256i c = k_codes(dt, p, i);
        for (int h = 0; h < 2; h++) {
            __m128i q = h ? _mm256_extracti128_si256(c, 1) : _mm256_castsi256_si128(c);
            _mm256_storeu_ps(dst + h * kc * NR, load_codes(dt, q, d + h, m + h));
            _mm256_storeu_ps(dst + h * kc * NR + 8, load_codes(dt, _mm_srli_si128(q, 8), d + h, m + h));
        }
    }
}

/* Fewer than GEMM_UNIT columns: a low-rank matrix, or the end of a plain one. */
static void unpack_narrow(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst,
                          float *tmp) {
    const size_t row = dtype_row_bytes(w->dt, w->ld);
    const uint8_t *p = (const uint8_t *)w->p + (size_t)k0 * row + dtype_row_bytes(w->dt, n0);
    const __m256 f = _mm256_set1_ps(w->scale);
    for (int64_t k = 0; k < kc; k++, p += row, dst += NR) {
        const float *v = (const float *)p;
        if (w->dt != DT_F32) dequantise_row(w->dt, p, tmp, cols), v = tmp;
        for (int i = 0; i < 4; i++) {
            __m256 x = _mm256_maskload_ps(v + 8 * i, lanes(cols - 8 * i));
            _mm256_storeu_ps(dst + i / 2 * kc * NR + i % 2 * 8, _mm256_mul_ps(x, f));
        }
    }
}

static void unpack(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst, float *tmp) {
    if (w->t) {
        unpack_turned(w, n0, cols, k0, kc, dst, tmp);
    } else if (cols == GEMM_UNIT) {
        switch (w->dt) {
#define F(dt) unpack_rows(dt, w, n0, k0, kc, dst)
            SMALL(CASE)
#undef F
#define F(dt) unpack_super_rows(dt, w, n0, k0, kc, dst)
            SUPER(CASE)
#undef F
        default: break;
        }
    } else {
        unpack_narrow(w, n0, cols, k0, kc, dst, tmp);
    }
}

const struct gemm_isa gemm_avx2 = {6, NR, 8, 8, tile, pack, unpack, gemm_few_avx2};
#else
typedef int no_avx2_here;
#endif
