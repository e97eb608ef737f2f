/* bf16 side of the product engine (gemm.h) for processors with AMX: 32 x 32 tiles of bf16 operands, summed in f32 (TDPBF16PS).
 *
 * Taken where a program computes in bf16 (gemm_bf16.h): activations are bf16 then and lose nothing here; weights are unpacked as for
 * AVX-512 and rounded to bf16, nearest even, as a card's are. The unit multiplies what is denormal as zero, which for bf16 lies below 1e-38.
 *
 * Layouts, each in half the room of AVX-512's. Activations [rows][k], k raised to a multiple of 32 with zeros. Weights in pairs of k: 32 columns of
 * (w[k], w[k + 1]), which is what the unit reads; both made where the f32 panel lies, front to back. Eight tile registers: 2 x 2 of sums, two of
 * activations, two of weights, so each load serves two products. Pieces shorter than SHORT (low ranks) have no room for the zeros and stay f32.
 *
 * Rounding: a sum is one chain over k inside a k-block, two products at a time; it depends neither on the rows nor on the threads. */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include "cpu/blocks.h"
#include "cpu/gemm_bf16.h"

enum { ROWS = 32, STEP = 32 /* k of one tile product */, SHORT = 16, SHORT_ROWS = 14 /* of gemm_avx512.tile */ };

static int64_t raised(int64_t k) { return (k + STEP - 1) / STEP * STEP; }

static void pack(const float *x, int64_t ld, int rows, int64_t k, float *dst) {
    if (k < SHORT) {
        for (int64_t j = 0; j < k; j++)
            for (int i = 0; i < rows; i++) *dst++ = x[i * ld + j];
        return;
    }
    char *to = (char *)dst;
    for (int i = 0; i < rows; i++, x += ld)
        for (int64_t j = 0; j < raised(k); j += 16, to += 32) {
            const __mmask16 there = (__mmask16)(k - j >= 16 ? 0xFFFF : k > j ? (1 << (k - j)) - 1 : 0);
            _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, x + j)));
        }
}

/* Rows 2 i and 2 i + 1 of the panel become row i of pairs. */
static void unpack(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst, float *tmp) {
    gemm_avx512.unpack(w, n0, cols, k0, kc, dst, tmp);
    if (kc < SHORT) return;
    __m512i order = _mm512_setzero_si512();
    uint16_t index[32];
    for (int i = 0; i < 32; i++) index[i] = (uint16_t)(i / 2 + i % 2 * 16);
    order = _mm512_loadu_si512(index);
    char *to = (char *)dst;
    for (int64_t k = 0; k < raised(kc); k += 2, to += 128)
        for (int half = 0; half < 2; half++) {
            const float *one = dst + k * GEMM_UNIT + 16 * half;
            const __m512 a = k < kc ? _mm512_loadu_ps(one) : _mm512_setzero_ps();
            const __m512 b = k + 1 < kc ? _mm512_loadu_ps(one + GEMM_UNIT) : _mm512_setzero_ps();
            const __m512i pairs = _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
            _mm512_storeu_si512(to + 64 * half, pairs);
        }
}

/* How the tile registers are cut: 0 to 3 sums, 4 and 5 activations, 6 and 7 weights. Kept until rows change. */
static void cut(int upper, int lower) {
    static _Thread_local int now_upper, now_lower;
    struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } c = {.palette = 1};
    if (upper == now_upper && lower == now_lower) return;
    const int rows[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
    for (int i = 0; i < 8; i++) c.bytes[i] = rows[i] ? 64 : 0, c.rows[i] = (uint8_t)rows[i];
    _tile_loadconfig(&c);
    now_upper = upper, now_lower = lower;
}

/* low: more than 16 rows; wide: more than 16 columns. Constants at each call. */
INLINE void product(const bool low, const bool wide, int64_t k, const char *a, const char *b, float *c, int64_t ldc, bool add) {
    const int64_t row = raised(k) * 2, below = 16 * row, stride = ldc * (int64_t)sizeof *c;
    if (add) _tile_loadd(0, c, stride);
    else _tile_zero(0);
    if (wide && add) _tile_loadd(1, c + 16, stride);
    else if (wide) _tile_zero(1);
    if (low && add) _tile_loadd(2, c + 16 * ldc, stride);
    else if (low) _tile_zero(2);
    if (low && wide && add) _tile_loadd(3, c + 16 * ldc + 16, stride);
    else if (low && wide) _tile_zero(3);
    for (; k > 0; k -= STEP, a += 2 * STEP, b += STEP / 2 * 128) {
        _tile_loadd(4, a, row);
        _tile_loadd(6, b, 128);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) _tile_loadd(7, b + 64, 128);
        if (wide) _tile_dpbf16ps(1, 4, 7);
        if (low) _tile_loadd(5, a + below, row);
        if (low) _tile_dpbf16ps(2, 5, 6);
        if (low && wide) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, stride);
    if (wide) _tile_stored(1, c + 16, stride);
    if (low) _tile_stored(2, c + 16 * ldc, stride);
    if (low && wide) _tile_stored(3, c + 16 * ldc + 16, stride);
}

static void whole(int mr, int cols, int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add) {
    const char *x = (const char *)a, *w = (const char *)b;
    cut(mr < 16 ? mr : 16, mr > 16 ? mr - 16 : 0);
    if (mr > 16 && cols > 16) product(true, true, k, x, w, c, ldc, add);
    else if (mr > 16) product(true, false, k, x, w, c, ldc, add);
    else if (cols > 16) product(false, true, k, x, w, c, ldc, add);
    else product(false, false, k, x, w, c, ldc, add);
}

static void tile(int mr, int cols, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, bool add) {
    if (k < SHORT) {
        for (int r = 0; r < mr; r += SHORT_ROWS)
            gemm_avx512.tile(mr - r < SHORT_ROWS ? mr - r : SHORT_ROWS, cols, k, a + r, lda, b, ldb, c + r * ldc, ldc, add);
        return;
    }
    if (cols % 16 == 0) {
        whole(mr, cols, k, a, b, c, ldc, add);
        return;
    }
    float edge[ROWS][GEMM_UNIT];
    for (int r = 0; r < mr && add; r++) memcpy(edge[r], c + r * ldc, (size_t)cols * sizeof *c);
    whole(mr, cols, k, a, b, edge[0], GEMM_UNIT, add);
    for (int r = 0; r < mr; r++) memcpy(c + r * ldc, edge[r], (size_t)cols * sizeof *c);
}

/* Few rows take the f32 dot products: there is nothing to pack then, and memory is the limit. */
const struct gemm_isa gemm_amx = {ROWS, GEMM_UNIT, 0, 0, tile, pack, unpack, NULL};
#else
typedef int no_amx_here;
#endif
