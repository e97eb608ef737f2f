/* AVX-512 side of the product engine (gemm.h): 14 x 32 tiles, unpackers, dot products for few rows.
 *
 * Tile: 28 accumulators, 2 weight vectors, the activations broadcast from memory inside the FMA: 16 loads per 28 FMAs.
 *
 * Unpacking, forward (transposed): 16 rows x 4 dwords are turned so that one vector holds one dword of 16 rows; its
 * bytes and nibbles are then 4 or 8 consecutive k of 16 outputs. A nibble becomes a float by a permute of the table
 * 0..15 (vpermps reads only the low 4 bits of an index), so 16 weights cost a shift, a permute, an FMA and a store: the
 * shuffle of bytes to transpose them would double that. */
#ifdef __AVX512F__
#include "cpu/load_avx512.h"

/* F(dt) for the one that dt is, a constant in it. */
#define CASE(name)                                                                                                     \
    case DT_##name: F(DT_##name); break;

/* --- the tile -------------------------------------------------------------------------------------------------- */

INLINE void tile_n(const int mr, const int nv, int cols, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, float *c, int64_t ldc, bool add) {
    __m512 acc[14][2];
#pragma GCC unroll 14
    for (int i = 0; i < mr; i++)
        for (int v = 0; v < nv; v++) {
            acc[i][v] = _mm512_setzero_ps();
            _mm_prefetch((const char *)(c + i * ldc + 16 * v), _MM_HINT_T0);
        }
    for (; k > 0; k--, a += lda, b += ldb) {
        __m512 b0 = _mm512_loadu_ps(b), b1 = nv > 1 ? _mm512_loadu_ps(b + 16) : b0;
#pragma GCC unroll 14
        for (int i = 0; i < mr; i++) {
            __m512 x = _mm512_set1_ps(a[i]);
            acc[i][0] = _mm512_fmadd_ps(x, b0, acc[i][0]);
            if (nv > 1) acc[i][1] = _mm512_fmadd_ps(x, b1, acc[i][1]);
        }
    }
    __mmask16 last = (__mmask16)(0xFFFF >> (16 * nv - cols)), first = nv > 1 ? 0xFFFF : last;
#pragma GCC unroll 14
    for (int i = 0; i < mr; i++, c += ldc) {
        if (add) acc[i][0] = _mm512_add_ps(acc[i][0], _mm512_maskz_loadu_ps(first, c));
        _mm512_mask_storeu_ps(c, first, acc[i][0]);
        if (nv > 1) {
            if (add) acc[i][1] = _mm512_add_ps(acc[i][1], _mm512_maskz_loadu_ps(last, c + 16));
            _mm512_mask_storeu_ps(c + 16, last, acc[i][1]);
        }
    }
}

static void tile(int mr, int cols, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                 int64_t ldc, bool add) {
#define TILE(n)                                                                                                        \
    case n:                                                                                                            \
        if (cols > 16) tile_n(n, 2, cols, k, a, lda, b, ldb, c, ldc, add);                                             \
        else tile_n(n, 1, cols, k, a, lda, b, ldb, c, ldc, add);                                                       \
        break;
    switch (mr) {
        TILE(1)
        TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14)
    }
#undef TILE
}

/* --- packing and unpacking ------------------------------------------------------------------------------------- */

/* 16 bytes from each of 16 rows; out[d] = dword d of row 0..15. */
INLINE void turn(const uint8_t *const p[16], int64_t off, __m512i out[4]) {
    __m512i z[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        z[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(p[i] + off)));
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const void *)(p[4 + i] + off)), 1);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const void *)(p[8 + i] + off)), 2);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const void *)(p[12 + i] + off)), 3);
    }
    __m512i t0 = _mm512_unpacklo_epi32(z[0], z[1]), t1 = _mm512_unpackhi_epi32(z[0], z[1]);
    __m512i t2 = _mm512_unpacklo_epi32(z[2], z[3]), t3 = _mm512_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm512_unpacklo_epi64(t0, t2);
    out[1] = _mm512_unpackhi_epi64(t0, t2);
    out[2] = _mm512_unpacklo_epi64(t1, t3);
    out[3] = _mm512_unpackhi_epi64(t1, t3);
}

static void pack(const float *x, int64_t ld, int rows, int64_t k, float *dst) {
    const uint8_t *p[16];
    for (int i = 0; i < 16; i++) p[i] = (const uint8_t *)(x + (i < rows ? i : rows - 1) * ld);
    __mmask16 m = (__mmask16)(0xFFFF >> (16 - rows));
    int64_t j = 0;
    for (; j + 4 <= k; j += 4) {
        __m512i v[4];
        turn(p, 4 * j, v);
        for (int i = 0; i < 4; i++, dst += rows) _mm512_mask_storeu_ps(dst, m, _mm512_castsi512_ps(v[i]));
    }
    for (; j < k; j++)
        for (int i = 0; i < rows; i++) *dst++ = x[i * ld + j];
}

/* The first 4 (or 2, if !wide) bytes of block `off` of 16 rows. */
INLINE __m512i block_heads(const uint8_t *const p[16], int64_t off, bool wide) {
#define HEAD(i) (int)(wide ? get32(p[i] + off) : get16(p[i] + off))
    return _mm512_setr_epi32(HEAD(0), HEAD(1), HEAD(2), HEAD(3), HEAD(4), HEAD(5), HEAD(6), HEAD(7), HEAD(8), HEAD(9),
                             HEAD(10), HEAD(11), HEAD(12), HEAD(13), HEAD(14), HEAD(15));
#undef HEAD
}

INLINE __m512 halves(__m512i low16) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(low16)); }

INLINE void turn_q4(dtype dt, const uint8_t *const p[16], int64_t blocks, float *dst) {
    const int bytes = dt == DT_Q4_1 ? 20 : 18, head = bytes - 16;
    const __m512 table = nibble_table();
    for (int64_t j = 0; j < blocks; j++, dst += 32 * GEMM_UNIT) {
        __m512i h = block_heads(p, j * bytes, dt == DT_Q4_1), v[4];
        __m512 d = halves(h);
        __m512 m = dt == DT_Q4_1 ? halves(_mm512_srli_epi32(h, 16)) : _mm512_mul_ps(d, _mm512_set1_ps(-8));
        turn(p, j * bytes + head, v);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++)
#pragma GCC unroll 8
            for (int b = 0; b < 8; b++) {
                __m512 q = _mm512_permutexvar_ps(_mm512_srli_epi32(v[c], 4 * b), table);
                _mm512_storeu_ps(dst + (4 * c + b / 2 + 16 * (b & 1)) * GEMM_UNIT, _mm512_fmadd_ps(q, d, m));
            }
    }
}

INLINE void turn_q8(const uint8_t *const p[16], int64_t blocks, float *dst) {
    for (int64_t j = 0; j < blocks; j++, dst += 32 * GEMM_UNIT) {
        __m512 d = halves(block_heads(p, j * 34, false));
#pragma GCC unroll 2
        for (int part = 0; part < 2; part++) {
            __m512i v[4];
            turn(p, j * 34 + 2 + 16 * part, v);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++)
#pragma GCC unroll 4
                for (int b = 0; b < 4; b++) {
                    __m512i q = _mm512_srai_epi32(_mm512_slli_epi32(v[c], 24 - 8 * b), 24);
                    _mm512_storeu_ps(dst + (16 * part + 4 * c + b) * GEMM_UNIT,
                                     _mm512_mul_ps(_mm512_cvtepi32_ps(q), d));
                }
        }
    }
}

/* Super-blocks: the codes of 16 rows as bytes, which are turned as Q8_0's are; their scales are turned too. */
INLINE void turn_super(const dtype dt, const uint8_t *const p[16], int64_t blocks, float *dst) {
    int8_t codes[16][256];
    struct k_scales s[16];
    const uint8_t *c[16], *f[16];
    for (int i = 0; i < 16; i++) c[i] = (const uint8_t *)codes[i], f[i] = (const uint8_t *)&s[i];
    for (int64_t j = 0; j < blocks; j++) {
        for (int i = 0; i < 16; i++) {
            const uint8_t *b = p[i] + (size_t)j * dtype_bytes(dt);
            k_codes256(dt, b, codes[i]);
            k_scales(dt, b, &s[i]);
        }
        for (int t = 0; t < 16; t++, dst += 16 * GEMM_UNIT) {
            __m512i v[4], d[4], m[4];
            turn(f, 16 * (t / 4), d);
            if (has_mins(dt)) turn(f, 64 + 16 * (t / 4), m);
            turn(c, 16 * t, v);
            const __m512 scale = _mm512_castsi512_ps(d[t % 4]),
                         min = _mm512_castsi512_ps(has_mins(dt) ? m[t % 4] : d[t % 4]);
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
#pragma GCC unroll 4
                for (int b = 0; b < 4; b++) {
                    __m512 q = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v[k], 24 - 8 * b), 24));
                    _mm512_storeu_ps(dst + (4 * k + b) * GEMM_UNIT,
                                     has_mins(dt) ? _mm512_fmadd_ps(q, scale, min) : _mm512_mul_ps(q, scale));
                }
        }
    }
}

static void turn_f32(const uint8_t *const p[16], int64_t k, float scale, float *dst) {
    __m512 s = _mm512_set1_ps(scale);
    int64_t j = 0;
    for (; j + 4 <= k; j += 4, dst += 4 * GEMM_UNIT) {
        __m512i v[4];
        turn(p, 4 * j, v);
        for (int i = 0; i < 4; i++) _mm512_storeu_ps(dst + i * GEMM_UNIT, _mm512_mul_ps(_mm512_castsi512_ps(v[i]), s));
    }
    for (; j < k; j++, dst += GEMM_UNIT)
        for (int i = 0; i < 16; i++) dst[i] = scale * ((const float *)p[i])[j];
}

/* n weights from element k0 (a multiple of 64) of a row of a SMALL type, as f32. */
INLINE void row_f32(const dtype dt, const uint8_t *row, int64_t k0, int64_t n, float *dst) {
    int64_t j = 0;
    struct scales s;
    for (; j + 32 <= n; j += 32) {
        __m512 lo, hi;
        if (j % 256 == 0) group_scales(dt, row, (k0 + j) / 32, (int)((n - j) / 32), &s);
        load32(dt, row, (k0 + j) / 32, s.v + j / 16 % 16, &lo, &hi);
        _mm512_storeu_ps(dst + j, lo);
        _mm512_storeu_ps(dst + j + 16, hi);
    }
    if (j < n) dequantise_row(dt, row + dtype_row_bytes(dt, k0 + j), dst + j, n - j);
}

static void unpack_turned(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst,
                          float *tmp) {
    const size_t row = dtype_row_bytes(w->dt, w->ld);
    const bool in_place =
        w->dt == DT_F32 || w->dt == DT_Q4_0 || w->dt == DT_Q4_1 || w->dt == DT_Q8_0 || is_super(w->dt);
    for (int half = 0; half < cols; half += 16, dst += 16) {
        const uint8_t *p[16];
        for (int i = 0; i < 16; i++) {
            int64_t r = n0 + (half + i < cols ? half + i : cols - 1);
            p[i] = (const uint8_t *)w->p + (size_t)r * row;
            if (in_place) p[i] += dtype_row_bytes(w->dt, k0);
        }
        if (w->dt == DT_Q4_1) turn_q4(DT_Q4_1, p, kc / 32, dst);
        else if (w->dt == DT_Q4_0) turn_q4(DT_Q4_0, p, kc / 32, dst);
        else if (w->dt == DT_Q8_0) turn_q8(p, kc / 32, dst);
        else if (w->dt == DT_F32) turn_f32(p, kc, w->scale, dst);
        else if (is_super(w->dt)) {
            switch (w->dt) {
#define F(dt) turn_super(dt, p, kc / 256, dst)
                SUPER(CASE)
#undef F
            default: break;
            }
        } else {
            for (int i = 0; i < 16; i++) {
#define F(dt) row_f32(dt, p[i], k0, kc, tmp + i * GEMM_KC)
                switch (w->dt) {
                    SMALL(CASE)
                default: break;
                }
#undef F
                p[i] = (const uint8_t *)(tmp + i * GEMM_KC);
            }
            turn_f32(p, kc, 1, dst);
        }
    }
}

INLINE void unpack_rows(const dtype dt, const struct gemm_w *w, int64_t n0, int64_t k0, int64_t kc, float *dst) {
    const size_t row = dtype_row_bytes(dt, w->ld);
    const uint8_t *p = (const uint8_t *)w->p + (size_t)k0 * row;
    const __m512 f = _mm512_set1_ps(w->scale);
    struct scales s;
    for (int64_t k = 0; k < kc; k++, p += row, dst += GEMM_UNIT) {
        __m512 lo, hi;
        if (k % 8 == 0) rows_scales(dt, p, row, n0 / 32, (int)(kc - k), &s);
        load32(dt, p, n0 / 32, s.v + 2 * (k % 8), &lo, &hi);
        if (dt == DT_F32) {
            lo = _mm512_mul_ps(lo, f);
            hi = _mm512_mul_ps(hi, f);
        }
        _mm512_storeu_ps(dst, lo);
        _mm512_storeu_ps(dst + 16, hi);
    }
}

INLINE void unpack_super_rows(const dtype dt, const struct gemm_w *w, int64_t n0, int64_t k0, int64_t kc, float *dst) {
    const size_t row = dtype_row_bytes(dt, w->ld);
    const uint8_t *p = (const uint8_t *)w->p + (size_t)k0 * row + (size_t)(n0 / 256) * dtype_bytes(dt);
    const int i = (int)(n0 / 32 % 8);
    for (int64_t k = 0; k < kc; k++, p += row, dst += GEMM_UNIT) {
        float d[2], m[2];
        k_scale(dt, p, i, d, m);
        __m256i c = k_codes(dt, p, i);
        for (int h = 0; h < 2; h++) {
            __m128i q = h ? _mm256_extracti128_si256(c, 1) : _mm256_castsi256_si128(c);
            _mm512_storeu_ps(dst + 16 * h, load_codes(dt, q, d + h, m + h));
        }
    }
}

/* Fewer than GEMM_UNIT columns: a low-rank matrix, or the end of a plain one. */
static void unpack_narrow(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst,
                          float *tmp) {
    const size_t row = dtype_row_bytes(w->dt, w->ld);
    const uint8_t *p = (const uint8_t *)w->p + (size_t)k0 * row + dtype_row_bytes(w->dt, n0);
    const __mmask16 m0 = (__mmask16)(cols >= 16 ? 0xFFFF : (1 << cols) - 1);
    const __mmask16 m1 = (__mmask16)(cols > 16 ? (1 << (cols - 16)) - 1 : 0);
    const __m512 f = _mm512_set1_ps(w->scale);
    for (int64_t k = 0; k < kc; k++, p += row, dst += GEMM_UNIT) {
        const float *v = (const float *)p;
        if (w->dt != DT_F32) dequantise_row(w->dt, p, tmp, cols), v = tmp;
        _mm512_storeu_ps(dst, _mm512_mul_ps(_mm512_maskz_loadu_ps(m0, v), f));
        _mm512_storeu_ps(dst + 16, _mm512_mul_ps(_mm512_maskz_loadu_ps(m1, v + 16), f));
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

const struct gemm_isa gemm_avx512 = {14, 32, 32, 8, tile, pack, unpack, gemm_few_avx512};
#else
typedef int no_avx512_here;
#endif
