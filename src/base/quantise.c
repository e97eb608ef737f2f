/* Encoders of the element types that we write: quantise_row() of dtype.h. Called by whoever writes a model (merge,
 * convert), by random models and by tests; nothing here runs in a training step.
 *
 * A block's scale is chosen for a small error of its weights, without knowledge of the activations. The formats of 32
 * take the extremes, as ggml's own do. The K formats fit scale and minimum of each small block by weighted least
 * squares over a ladder of tries, then quantise those against the super-block's and round the weights once more against
 * what was stored. Weights count by their size (a large weight moves more): |x| + rms for Q4_K and Q5_K, x^2 for Q6_K.
 *
 * Refused (dtype_writable): Q2_K, Q3_K, IQ4_NL, IQ4_XS, which are only read; NF4_DQ, whose scales need the whole matrix (nf4.h). */
#include "base/dtype.h"
#include "base/widest.h"
#include <math.h>
#include <string.h>

static void store16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* Stores a half and returns what it holds, which is what the weights are rounded against. */
static float store_half(uint8_t *p, float v) {
    uint16_t h = f32_to_f16(v);
    store16(p, h);
    return f16_to_f32(h);
}

static float inverse(float v) { return v != 0 ? 1 / v : 0; }

static int clamp_round(float v, int lo, int hi) {
    int q = (int)lrintf(v);
    return q < lo ? lo : q > hi ? hi : q;
}

/* --- blocks of 32 ----------------------------------------------------------------------------------------------- */

/* Q4_0, Q4_1, Q5_0, Q5_1: bits 4 or 5. Without a minimum the largest weight falls on the grid's far end, -2^(bits - 1).
 */
static void small_block(const float *x, uint8_t *b, int bits, bool with_min) {
    float lo = x[0], hi = x[0], big = x[0];
    for (int j = 1; j < 32; j++) {
        lo = fminf(lo, x[j]);
        hi = fmaxf(hi, x[j]);
        if (fabsf(x[j]) > fabsf(big)) big = x[j];
    }
    int top = (1 << bits) - 1, zero = with_min ? 0 : 1 << (bits - 1);
    float d = with_min ? (hi - lo) / (float)top : big / (float)-zero, inv = inverse(d), shift = with_min ? -lo : 0;
    uint32_t fifth = 0;
    store16(b, f32_to_f16(d));
    if (with_min) store16(b + 2, f32_to_f16(lo));
    uint8_t *bit = b + (with_min ? 4 : 2), *q = bit + (bits == 5 ? 4 : 0);
    for (int j = 0; j < 16; j++) {
        int l = clamp_round((x[j] + shift) * inv + (float)zero, 0, top);
        int h = clamp_round((x[j + 16] + shift) * inv + (float)zero, 0, top);
        q[j] = (uint8_t)((l & 15) | (h & 15) << 4);
        fifth |= (uint32_t)(l >> 4) << j | (uint32_t)(h >> 4) << (j + 16);
    }
    for (int i = 0; bits == 5 && i < 4; i++) bit[i] = (uint8_t)(fifth >> 8 * i);
}

static void q8_0(const float *x, uint8_t *b) {
    float big = 0;
    for (int j = 0; j < 32; j++) big = fmaxf(big, fabsf(x[j]));
    float d = big / 127, inv = inverse(d);
    store16(b, f32_to_f16(d));
    for (int j = 0; j < 32; j++) b[2 + j] = (uint8_t)clamp_round(x[j] * inv, -127, 127);
}

/* --- blocks of 256 ---------------------------------------------------------------------------------------------- */

/* x ~ scale * q - min, q in 0..top, scale and min not negative. */
struct fit {
    float scale, min;
};

/* Grids from one step wider than the range to one and a half narrower are tried a few side by side, a lane each: of the weights' sums each
 * lane has its own, in the weights' order, so that they are the same bits as one try after the other. */
enum { TRIES = 25, LANES = 8 };
typedef float few __attribute__((vector_size(LANES * sizeof(float))));
typedef double exact __attribute__((vector_size(LANES * sizeof(double))));
#define EXACT(v) __builtin_convertvector(v, exact)
static const float whole = 0x1.8p23f;          /* a sum this large has no fraction: to the nearest, of two the even one, as lrintf */
#define FEW(v) __builtin_convertvector(v, few) /* of a comparison: true is -1 */

/* q of 32 weights on grids of 1/inv from lo on, and their sums over w, w q, w q^2, .. */
WIDEST static void round_tries(const float *x, const float *w, float lo, const few *inv, float top, few q[32], exact *sq, exact *sqq,
                               exact *sqx) {
    exact a = {0}, b = {0}, c = {0};
    for (int i = 0; i < 32; i++) {
        few v = ((x[i] - lo) * *inv + whole) - whole;
        v += FEW(v > top) * (v - top);
        q[i] = v;
        a += EXACT(w[i] * v);
        b += EXACT(w[i] * (v * v));
        c += EXACT(w[i] * v * x[i]);
    }
    *sq = a, *sqq = b, *sqx = c;
}

/* The weighted least squares for scale and offset, of which the offset is not above 0. */
static void solve(double sw, double sx, double sq, double sqq, double sqx, double *scale, double *offset) {
    const double det = sw * sqq - sq * sq;
    *scale = 0, *offset = sw > 0 ? sx / sw : 0;
    if (det > 0) *scale = (sw * sqx - sq * sx) / det, *offset = (sqq * sx - sq * sqx) / det;
    if (*offset > 0) *offset = 0, *scale = sqq > 0 ? sqx / sqq : 0;
}

WIDEST static void weigh_tries(const float *x, const float *w, const exact *scale, const exact *offset, const few q[32], exact *error) {
    exact sum = {0};
    for (int i = 0; i < 32; i++) {
        const exact e = *scale * EXACT(q[i]) + *offset - (double)x[i];
        sum += (double)w[i] * e * e;
    }
    *error = sum;
}

static struct fit fit_group(const float *x, int top) {
    float lo = fminf(x[0], 0), hi = x[0], squares = 0, w[32], best_error = INFINITY;
    double sw = 0, sx = 0;
    for (int i = 0; i < 32; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
        squares += x[i] * x[i];
    }
    struct fit best = {0, -lo};
    if (!(hi > lo)) return best;
    for (int i = 0; i < 32; i++) w[i] = sqrtf(squares / 32) + fabsf(x[i]);
    for (int i = 0; i < 32; i++) sw += w[i], sx += w[i] * x[i];
    for (int t = 0; t < TRIES; t += LANES) {
        few inv, q[32];
        exact sq, sqq, sqx, scale, offset, error;
        for (int l = 0; l < LANES; l++) inv[l] = ((float)top - 1 + 0.1f * (float)(t + l)) / (hi - lo);
        round_tries(x, w, lo, &inv, (float)top, q, &sq, &sqq, &sqx);
        for (int l = 0; l < LANES; l++) {
            double s, o;
            solve(sw, sx, sq[l], sqq[l], sqx[l], &s, &o);
            scale[l] = s, offset[l] = o;
        }
        weigh_tries(x, w, &scale, &offset, q, &error);
        for (int l = 0; l < LANES && t + l < TRIES; l++)
            if ((float)error[l] < best_error && (float)scale[l] >= 0)
                best_error = (float)error[l], best = (struct fit){(float)scale[l], (float)-offset[l]};
    }
    return best;
}

static void put_k4_scale_min(uint8_t *sc, int i, int scale, int min) {
    if (i < 4) {
        sc[i] |= (uint8_t)scale;
        sc[i + 4] |= (uint8_t)min;
    } else {
        sc[i + 4] |= (uint8_t)((scale & 15) | (min & 15) << 4);
        sc[i - 4] |= (uint8_t)(scale >> 4 << 6);
        sc[i] |= (uint8_t)(min >> 4 << 6);
    }
}

static void q4_q5_k(const float *x, uint8_t *b, bool five) {
    const int top = five ? 31 : 15;
    uint8_t *fifth = b + 16, *q = b + (five ? 48 : 16);
    struct fit f[8];
    float scales = 0, mins = 0;
    memset(b, 0, five ? 176 : 144);
    for (int g = 0; g < 8; g++) {
        f[g] = fit_group(x + 32 * g, top);
        scales = fmaxf(scales, f[g].scale);
        mins = fmaxf(mins, f[g].min);
    }
    float d = store_half(b, scales / 63), dm = store_half(b + 2, mins / 63);
    for (int g = 0; g < 8; g++) {
        int sc = clamp_round(f[g].scale * inverse(d), 0, 63), mn = clamp_round(f[g].min * inverse(dm), 0, 63);
        put_k4_scale_min(b + 4, g, sc, mn);
        float step = d * (float)sc, min = dm * (float)mn;
        for (int l = 0; l < 32; l++) {
            int v = clamp_round((x[32 * g + l] + min) * inverse(step), 0, top);
            q[g / 2 * 32 + l] |= (uint8_t)((v & 15) << (g % 2 * 4));
            if (five) fifth[l] |= (uint8_t)(v >> 4 << g);
        }
    }
}

/* As round_tries: 16 weights in -32..31, without an offset, weighed by their squares. */
WIDEST static void round_signed(const float *x, const few *inv, few *sqx, few *sqq) {
    few a = {0}, b = {0};
    for (int i = 0; i < 16; i++) {
        few v = (x[i] * *inv + whole) - whole;
        v += FEW(v > 31) * (v - 31);
        v += FEW(v < -32) * (v + 32);
        a += (x[i] * x[i]) * v * x[i];
        b += (x[i] * x[i]) * v * v;
    }
    *sqx = a, *sqq = b;
}

/* Their scale, by least squares over grids around the one on which the largest weight is an end. */
static float fit_signed(const float *x) {
    float big = 0, best = 0, gain = 0;
    for (int i = 0; i < 16; i++)
        if (fabsf(x[i]) > fabsf(big)) big = x[i];
    if (big == 0) return 0;
    for (int t = -9; t <= 9; t += LANES) {
        few inv, sqx, sqq;
        for (int l = 0; l < LANES; l++) inv[l] = -(32 + 0.1f * (float)(t + l)) / big;
        round_signed(x, &inv, &sqx, &sqq);
        for (int l = 0; l < LANES && t + l <= 9; l++)
            if (sqq[l] > 0 && sqx[l] * sqx[l] > gain * sqq[l]) gain = sqx[l] * sqx[l] / sqq[l], best = sqx[l] / sqq[l];
    }
    return best;
}

static void q6_k(const float *x, uint8_t *b) {
    float scale[16], big = 0;
    memset(b, 0, 210);
    for (int g = 0; g < 16; g++) {
        scale[g] = fit_signed(x + 16 * g);
        if (fabsf(scale[g]) > fabsf(big)) big = scale[g];
    }
    float d = store_half(b + 208, big / -128); /* the largest scale becomes -128 */
    for (int i = 0; i < 256; i++) {
        int sc = clamp_round(scale[i / 16] * inverse(d), -128, 127), half = i / 128, quarter = i % 128 / 32, l = i % 32;
        int v = clamp_round(x[i] * inverse(d * (float)sc), -32, 31) + 32;
        b[192 + i / 16] = (uint8_t)sc;
        b[half * 64 + quarter % 2 * 32 + l] |= (uint8_t)((v & 15) << (quarter / 2 * 4));
        b[128 + half * 32 + l] |= (uint8_t)(v >> 4 << (2 * quarter));
    }
}

/* --- blocks of 64, our own ---------------------------------------------------------------------------------------- */

/* As bitsandbytes rounds: what a weight is of its absmax, by a reciprocal that is rounded first; of two codes that are equally near the
 * smaller. */
static void nf4(const float *x, uint8_t *b) {
    float big = 0, v[64];
    uint8_t q[64] = {0};
    for (int i = 0; i < 64; i++) big = fmaxf(big, fabsf(x[i]));
    const float by = 1 / fmaxf(big, 1e-38f);
    for (int i = 0; i < 64; i++) v[i] = x[i] * by; /* beyond 1 by a rounding at most: still the last code */
    for (int k = 0; k < 15; k++)
        for (int i = 0; i < 64; i++) q[i] += v[i] > (nf4_code[k] + nf4_code[k + 1]) / 2;
    memcpy(b, &big, 4);
    for (int i = 0; i < 32; i++) b[4 + i] = (uint8_t)(q[i / 16 * 32 + i % 16] | q[i / 16 * 32 + i % 16 + 16] << 4);
}

/* The nearest of the 127 magnitudes, ties to the even one. */
static uint8_t to_e4m3(float v) {
    float a = fabsf(v);
    uint8_t sign = signbit(v) ? 0x80 : 0;
    if (a >= 448) return sign | 0x7E;
    int e = 0;
    frexpf(a, &e); /* a in [2^(e-1), 2^e): steps of 2^(e-4), at least 2^-9 */
    float step = ldexpf(1, (e < -5 ? -5 : e) - 4);
    float near = rintf(a / step) * step;
    int q = near < 0x1p-6f ? (int)(near * 512) : 0;
    if (near >= 0x1p-6f) {
        float m = frexpf(near, &e);
        q = (e + 6) << 3 | ((int)(m * 16) - 8);
    }
    return sign | (uint8_t)q;
}

static void e4m3(const float *x, uint8_t *b) {
    float big = 0;
    for (int i = 0; i < 64; i++) big = fmaxf(big, fabsf(x[i]));
    float d = big / 448, inv = inverse(d);
    memcpy(b, &d, 4);
    for (int i = 0; i < 64; i++) b[4 + i] = to_e4m3(x[i] * inv);
}

/* One scale for the row: bitsandbytes' LLM.int8() without outliers (Dettmers et al. 2022), whose scale is the largest magnitude over 127. */
static void int8_row(const float *x, uint8_t *b, int64_t n) {
    float big = 0;
    for (int64_t i = 0; i < n; i++) big = fmaxf(big, fabsf(x[i]));
    const float d = big * (1.0f / 127), by = 127 * inverse(big);
    for (int64_t i = 0; i < n; i++) {
        if (i % 64 == 0) memcpy(b + i / 64 * 68, &d, 4);
        b[i / 64 * 68 + 4 + i % 64] = (uint8_t)clamp_round(x[i] * by, -127, 127);
    }
}

bool dtype_writable(dtype dt) {
    return dt > DT_NONE && dt < DT_COUNT && dt != DT_I32 && dt != DT_Q2_K && dt != DT_Q3_K && dt != DT_IQ4_NL && dt != DT_IQ4_XS &&
           dt != DT_NF4_DQ;
}

static bool ggufs(dtype dt) { return dtype_writable(dt) && dt < DT_NF4; }

dtype dtype_fitting(dtype want, int64_t cols) {
    dtype best = DT_F32;
    if (cols % dtype_info[want].block == 0) return want;
    if (!ggufs(want)) return DT_NONE;
    for (int i = 1; i < DT_COUNT; i++)
        if (ggufs((dtype)i) && cols % dtype_info[i].block == 0 && dtype_bits((dtype)i) > dtype_bits(want) &&
            dtype_bits((dtype)i) < dtype_bits(best))
            best = (dtype)i;
    return best;
}

static void quantise_block(dtype dt, const float *x, uint8_t *b) {
    switch (dt) {
    case DT_F16: store16(b, f32_to_f16(*x)); break;
    case DT_BF16: store16(b, f32_to_bf16(*x)); break;
    case DT_Q4_0: small_block(x, b, 4, false); break;
    case DT_Q4_1: small_block(x, b, 4, true); break;
    case DT_Q5_0: small_block(x, b, 5, false); break;
    case DT_Q5_1: small_block(x, b, 5, true); break;
    case DT_Q8_0: q8_0(x, b); break;
    case DT_Q4_K: q4_q5_k(x, b, false); break;
    case DT_Q5_K: q4_q5_k(x, b, true); break;
    case DT_Q6_K: q6_k(x, b); break;
    case DT_NF4: nf4(x, b); break;
    case DT_E4M3: e4m3(x, b); break;
    default: break;
    }
}

void quantise_row(dtype dt, const float *src, void *dst, int64_t n) {
    if (dt == DT_F32) {
        memcpy(dst, src, (size_t)n * 4);
        return;
    }
    uint8_t *b = dst;
    if (dt == DT_INT8) int8_row(src, b, n);
    if (dt == DT_INT8) return;
    const int block = dtype_info[dt].block, bytes = dtype_info[dt].bytes;
    for (int64_t i = 0; i < n; i += block, b += bytes) quantise_block(dt, src + i, b);
}
