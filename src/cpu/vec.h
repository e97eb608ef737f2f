/* A vector of floats as wide as the including file may use: 16 lanes with AVX-512, 8 with AVX2, else 4 (which every
 * compiler lowers to whatever the machine has). The fused kernels (attention_kernel.h, elementwise_kernel.h) are
 * written once against this header and compiled once per width (fused_generic.c, fused_avx2.c, fused_avx512.c).
 *
 * vf is a GCC/Clang vector, so + - * / and comparisons are the plain operators; here is only what those lack. A tail
 * of n < VW floats is loaded and stored with the _n forms, which never touch memory beyond it.
 * zip and pair interleave single floats and pairs of two vectors, inside each group of four lanes, as x86 does.
 * Maxima return their second operand when the first is NaN: NaNs are carried by sums and exponentials, not by maxima.
 *
 * Everything is static inline: the same names mean other code in each including file. */
#ifndef CYC_CPU_VEC_H
#define CYC_CPU_VEC_H
#include "base/dtype.h"
#include "cpu/vmath.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { VW = 16 };
typedef float vf __attribute__((vector_size(64)));
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_exp(vf x) { return v16_exp(x); }
static inline float vf_sum(vf x) { return _mm512_reduce_add_ps(x); }
static inline vf vf_zip_low(vf a, vf b) { return _mm512_unpacklo_ps(a, b); }
static inline vf vf_zip_high(vf a, vf b) { return _mm512_unpackhi_ps(a, b); }
static inline vf vf_pair_low(vf a, vf b) { return _mm512_shuffle_ps(a, b, 0x44); }
static inline vf vf_pair_high(vf a, vf b) { return _mm512_shuffle_ps(a, b, 0xEE); }
static inline vf vf_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
static inline void vf_store_n(float *p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x); }
static inline vf vf_from_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
static inline void vf_to_f16(void *p, vf x) { _mm256_storeu_si256(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
#else
#if defined(__AVX2__)
enum { VW = 8 };
typedef float vf __attribute__((vector_size(32)));
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_exp(vf x) { return v8_exp(x); }
static inline vf vf_zip_low(vf a, vf b) { return _mm256_unpacklo_ps(a, b); }
static inline vf vf_zip_high(vf a, vf b) { return _mm256_unpackhi_ps(a, b); }
static inline vf vf_pair_low(vf a, vf b) { return _mm256_shuffle_ps(a, b, 0x44); }
static inline vf vf_pair_high(vf a, vf b) { return _mm256_shuffle_ps(a, b, 0xEE); }
static inline vf vf_from_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
static inline void vf_to_f16(void *p, vf x) { _mm_storeu_si128(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
#else
enum { VW = 4 };
typedef float vf __attribute__((vector_size(16)));
static inline vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
static inline vf vf_max(vf a, vf b) {
    for (int i = 0; i < VW; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}
static inline vf vf_exp(vf x) {
    for (int i = 0; i < VW; i++) x[i] = expf(x[i]);
    return x;
}
static inline vf vf_zip_low(vf a, vf b) { return (vf){a[0], b[0], a[1], b[1]}; }
static inline vf vf_zip_high(vf a, vf b) { return (vf){a[2], b[2], a[3], b[3]}; }
static inline vf vf_pair_low(vf a, vf b) { return (vf){a[0], a[1], b[0], b[1]}; }
static inline vf vf_pair_high(vf a, vf b) { return (vf){a[2], a[3], b[2], b[3]}; }
static inline vf vf_from_f16(const void *p) {
    uint16_t h[VW];
    vf x;
    memcpy(h, p, sizeof h);
    for (int i = 0; i < VW; i++) x[i] = f16_to_f32(h[i]);
    return x;
}
static inline void vf_to_f16(void *p, vf x) {
    uint16_t h[VW];
    for (int i = 0; i < VW; i++) h[i] = f32_to_f16(x[i]);
    memcpy(p, h, sizeof h);
}
#endif
static inline float vf_sum(vf x) {
    float half[VW / 2];
    for (int i = 0; i < VW / 2; i++) half[i] = x[i] + x[i + VW / 2];
    for (int n = VW / 4; n; n /= 2)
        for (int i = 0; i < n; i++) half[i] += half[i + n];
    return half[0];
}
static inline vf vf_load_n(const float *p, int64_t n) {
    vf x = {0};
    memcpy(&x, p, (size_t)n * sizeof(float));
    return x;
}
static inline void vf_store_n(float *p, vf x, int64_t n) { memcpy(p, &x, (size_t)n * sizeof(float)); }
#endif

typedef int32_t vi __attribute__((vector_size(VW * 4)));
typedef uint32_t vu __attribute__((vector_size(VW * 4)));
typedef uint16_t vh __attribute__((vector_size(VW * 2)));

static inline vf vf_load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
static inline void vf_store(float *p, vf x) { memcpy(p, &x, sizeof x); }
static inline vf vf_set1(float x) { return x - (vf){0}; }

/* The g-th four lanes. */
static inline void vf_store_four(float *p, vf x, int g) { memcpy(p, (const char *)&x + 16 * g, 16); }

/* bf16: the upper half of an f32; nearest even, NaN stays NaN (base/dtype.h has the same rule). */
static inline vf vf_from_bf16(const void *p) {
    vh h;
    memcpy(&h, p, sizeof h);
    return (vf)(__builtin_convertvector(h, vu) << 16);
}
static inline void vf_to_bf16(void *p, vf x) {
    const vu u = (vu)x, nan = (vu)((vi)(u & 0x7FFFFFFF) > 0x7F800000);
    const vh h = __builtin_convertvector((nan & (u >> 16 | 0x40)) | (~nan & (u + 0x7FFF + (u >> 16 & 1)) >> 16), vh);
    memcpy(p, &h, sizeof h);
}

/* Bits of a where the mask is set, of b elsewhere. */
static inline vf vf_select(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

/* a in the lanes from `first` on, b below. */
static inline vf vf_from(int64_t first, vf a, vf b) {
    vi lane;
    for (int i = 0; i < VW; i++) lane[i] = i;
    return vf_select(lane >= (int32_t)first, a, b);
}

static inline float vf_max_lane(vf x) {
    float m = x[0];
    for (int i = 1; i < VW; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* exp for softmax weights: 0 below e^-87. Denormals, which the processor computes a hundred times slower, never arise.
 */
static inline vf vf_weight(vf x) {
    const vf least = vf_set1(-87);
    return (vf)((vi)vf_exp(vf_max(least, x)) & ~(x < least));
}

/* tanh: x + x^3 P(x^2) where |x| < 0.63 (P fitted to (tanh x / x - 1) / x^2: 8e-10 of the result), else by the exponential of
 * 2 |x|, whose sum with 1 is then large enough to be taken from 1. */
static inline vf vf_tanh(vf x) {
    const vf size = vf_max(x, -x), z = x * x;
    vf p = vf_set1(2.2726899e-3f);
    p = vf_fma(p, z, vf_set1(-8.3263858e-3f));
    p = vf_fma(p, z, vf_set1(2.17636271e-2f));
    p = vf_fma(p, z, vf_set1(-5.39586231e-2f));
    p = vf_fma(p, z, vf_set1(0.13333301f));
    p = vf_fma(p, z, vf_set1(-0.333333332f));
    vf large = 1.0f - 2.0f / (1.0f + vf_exp(size + size));
    large = vf_select(x < 0.0f, -large, large);
    return vf_select(size < vf_set1(0.63f), vf_fma(x * z, p, x), large);
}

/* The normal distribution, P(X < x), and its density: with t = 1 / (1 + 0.35 |x|), P(X < -|x|) = exp(-x^2 / 2) t R(t), R a
 * polynomial fitted to within 4e-8 of the result for |x| up to 14. The square is taken in two parts, of which the first is
 * exact: an exponential turns an error of its argument into one of its result. */
static inline vf vf_normal(vf x, vf *density) {
    const vf size = vf_max(x, -x), t = 1.0f / (1.0f + 0.35f * size), high = (vf)((vi)x & ~0xFFF);
    const vf e = vf_exp(high * high * -0.5f) * vf_exp((x - high) * (x + high) * -0.5f);
    vf p = vf_set1(-0.0295525694f);
    p = vf_fma(p, t, vf_set1(0.145892507f));
    p = vf_fma(p, t, vf_set1(-0.259547650f));
    p = vf_fma(p, t, vf_set1(0.163379195f));
    p = vf_fma(p, t, vf_set1(-0.0258708353f));
    p = vf_fma(p, t, vf_set1(0.106614000f));
    p = vf_fma(p, t, vf_set1(0.119570151f));
    p = vf_fma(p, t, vf_set1(0.139895557f));
    p = vf_fma(p, t, vf_set1(0.139619625f));
    const vf below = e * t * p;
    *density = e * 0.398942280f;
    return vf_select(x < 0.0f, below, 1.0f - below);
}

/* Sines and cosines of angles below about 2^20. With fused multiply-add: x = n pi/2 + r, pi/2 in two parts (n * part is
 * exact inside the fma), |r| <= pi/4, Taylor polynomials whose truncation (r^11/11!, r^10/10! at pi/4: 2e-9, 2e-8) is
 * below half an ulp of their sum, and the quadrant n mod 4 swaps and signs them. Without it: libm, lane by lane. */
static inline void vf_sincos(vf x, vf *sine, vf *cosine) {
#if defined(__AVX2__)
    const vf magic = vf_set1(0x1.8p23f); /* adding it rounds to an integer */
    vf n = x * 0.636619772f + magic - magic;
    vf r = vf_fma(-n, vf_set1(1.57079637f), x);
    r = vf_fma(-n, vf_set1(-4.37113883e-8f), r);
    vf z = r * r, s = vf_set1(1.0f / 362880), c = vf_set1(1.0f / 40320);
    s = vf_fma(s, z, vf_set1(-1.0f / 5040));
    s = vf_fma(s, z, vf_set1(1.0f / 120));
    s = vf_fma(s, z, vf_set1(-1.0f / 6));
    s = vf_fma(s * z, r, r);
    c = vf_fma(c, z, vf_set1(-1.0f / 720));
    c = vf_fma(c, z, vf_set1(1.0f / 24));
    c = vf_fma(c, z, vf_set1(-0.5f));
    c = vf_fma(c, z, vf_set1(1.0f));
    vi q = __builtin_convertvector(n, vi), odd = (q & 1) != 0;
    *sine = (vf)((vi)vf_select(odd, c, s) ^ ((q & 2) << 30));
    *cosine = (vf)((vi)vf_select(odd, s, c) ^ (((q + 1) & 2) << 30));
#else
    for (int i = 0; i < VW; i++) {
        (*sine)[i] = sinf(x[i]);
        (*cosine)[i] = cosf(x[i]);
    }
#endif
}

/* sum a[i] * b[i] */
static inline float vec_dot(const float *a, const float *b, int64_t n) {
    vf s0 = {0}, s1 = {0};
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
        s1 = vf_fma(vf_load(a + i + VW), vf_load(b + i + VW), s1);
    }
    for (; i + VW <= n; i += VW) s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
    if (i < n) s1 = vf_fma(vf_load_n(a + i, n - i), vf_load_n(b + i, n - i), s1);
    return vf_sum(s0 + s1);
}

/* The sums of four vectors, side by side. */
static inline void vf_sum4(vf a, vf b, vf c, vf d, float *sum) {
    vf ab = vf_zip_low(a, b) + vf_zip_high(a, b), cd = vf_zip_low(c, d) + vf_zip_high(c, d);
    vf s = vf_pair_low(ab, cd) + vf_pair_high(ab, cd);
    float part[VW];
    vf_store(part, s);
    for (int i = 0; i < 4; i++) sum[i] = part[i];
    for (int g = 4; g < VW; g++) sum[g % 4] += part[g];
}

/* n numbers of bf16 or f16 as f32, and back. dt is a constant where these are inlined. */
static inline __attribute__((always_inline)) void vec_widen(const dtype dt, const uint16_t *from, float *to, int64_t n) {
    int64_t i = 0;
    uint16_t rest[VW] = {0};
    for (; i + VW <= n; i += VW) vf_store(to + i, dt == DT_BF16 ? vf_from_bf16(from + i) : vf_from_f16(from + i));
    if (i == n) return;
    memcpy(rest, from + i, (size_t)(n - i) * sizeof *rest);
    vf_store_n(to + i, dt == DT_BF16 ? vf_from_bf16(rest) : vf_from_f16(rest), n - i);
}
static inline __attribute__((always_inline)) void vec_narrow(const dtype dt, const float *from, uint16_t *to, int64_t n) {
    uint16_t rest[VW];
    for (; n > 0; n -= VW, from += VW, to += VW) {
        const vf x = n < VW ? vf_load_n(from, n) : vf_load(from);
        if (dt == DT_BF16) vf_to_bf16(n < VW ? rest : to, x);
        else vf_to_f16(n < VW ? rest : to, x);
        if (n < VW) memcpy(to, rest, (size_t)n * sizeof *rest);
    }
}

/* x *= f */
static inline void vec_scale(float *x, float f, int64_t n) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vf_store(x + i, vf_load(x + i) * f);
    for (; i < n; i++) x[i] *= f;
}

#endif
