/* Element types and the reference form of every stored format. Slow on purpose: the CPU backend has fast unpackers,
 * tested against these. See dtype.h for the layouts. */
#include "base/dtype.h"
#include <math.h>
#include <string.h>

const struct dtype_info dtype_info[DT_ALL] = {
    [DT_NONE] = {"none", 1, 0},   [DT_F32] = {"f32", 1, 4},     [DT_F16] = {"f16", 1, 2},
    [DT_BF16] = {"bf16", 1, 2},   [DT_I32] = {"i32", 1, 4},     [DT_Q4_0] = {"q4_0", 32, 18},
    [DT_Q4_1] = {"q4_1", 32, 20}, [DT_Q8_0] = {"q8_0", 32, 34}, [DT_Q6_K] = {"q6_k", 256, 210},
    [DT_F8] = {"fp8", 1, 2},
};

dtype dtype_parse(const char *name) {
    for (int i = 1; i < DT_COUNT; i++)
        if (!strcmp(name, dtype_info[i].name)) return (dtype)i;
    if (!strcmp(name, "float32")) return DT_F32;
    if (!strcmp(name, "float16")) return DT_F16;
    if (!strcmp(name, "bfloat16")) return DT_BF16;
    return DT_NONE;
}

size_t dtype_row_bytes(dtype dt, int64_t elems) {
    return (size_t)(elems / dtype_info[dt].block) * (size_t)dtype_info[dt].bytes + (dt == DT_F8 ? 6 : 0);
}

bool dtype_quantised(dtype dt) { return dtype_info[dt].block > 1; }

static float as_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static uint32_t as_u32(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return as_f32(sign | 0x7F800000 | m << 13);
    if (e) return as_f32(sign | (e + 112) << 23 | m << 13);
    float tiny = (float)m * 0x1p-24f; /* subnormal halves are exact in f32 */
    return sign ? -tiny : tiny;
}

uint16_t f32_to_f16(float f) {
    uint32_t u = as_u32(f), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFF;
    if (a > 0x7F800000) return (uint16_t)(sign | 0x7E00);
    if (a >= 0x477FF000) return (uint16_t)(sign | 0x7C00); /* 65520 and above round to infinity */
    if (a < 0x38800000) {                                  /* below 2^-14: subnormal; adding 0.5 rounds at 2^-24 */
        uint32_t r = as_u32(as_f32(a) + 0.5f);
        return (uint16_t)(sign | (r - 0x3F000000));
    }
    uint32_t odd = a >> 13 & 1;
    return (uint16_t)(sign | ((a - 0x38000000 + 0xFFF + odd) >> 13));
}

float bf16_to_f32(uint16_t h) { return as_f32((uint32_t)h << 16); }

uint16_t f32_to_bf16(float f) {
    uint32_t u = as_u32(f);
    if ((u & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

static uint16_t load16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static void store16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void dequantise_q6_k(const uint8_t *b, float *y) {
    const uint8_t *ql = b, *qh = b + 128;
    const int8_t *sc = (const int8_t *)(b + 192);
    float d = f16_to_f32(load16(b + 208));
    for (int half = 0; half < 2; half++, y += 128, ql += 64, qh += 32, sc += 8)
        for (int l = 0; l < 32; l++) {
            int is = l / 16;
            int q0 = (ql[l] & 15) | (qh[l] & 3) << 4, q1 = (ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4;
            int q2 = ql[l] >> 4 | (qh[l] >> 4 & 3) << 4, q3 = ql[l + 32] >> 4 | (qh[l] >> 6) << 4;
            y[l] = d * (float)sc[is] * (float)(q0 - 32);
            y[l + 32] = d * (float)sc[is + 2] * (float)(q1 - 32);
            y[l + 64] = d * (float)sc[is + 4] * (float)(q2 - 32);
            y[l + 96] = d * (float)sc[is + 6] * (float)(q3 - 32);
        }
}

void dequantise_row(dtype dt, const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    switch (dt) {
    case DT_F32: memcpy(dst, src, (size_t)n * 4); break;
    case DT_F16:
        for (int64_t i = 0; i < n; i++) dst[i] = f16_to_f32(load16(b + 2 * i));
        break;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(load16(b + 2 * i));
        break;
    case DT_Q4_0:
        for (int64_t i = 0; i < n; i += 32, b += 18) {
            float d = f16_to_f32(load16(b));
            for (int j = 0; j < 16; j++) {
                dst[i + j] = d * (float)((b[2 + j] & 15) - 8);
                dst[i + j + 16] = d * (float)((b[2 + j] >> 4) - 8);
            }
        }
        break;
    case DT_Q4_1:
        for (int64_t i = 0; i < n; i += 32, b += 20) {
            float d = f16_to_f32(load16(b)), m = f16_to_f32(load16(b + 2));
            for (int j = 0; j < 16; j++) {
                dst[i + j] = d * (float)(b[4 + j] & 15) + m;
                dst[i + j + 16] = d * (float)(b[4 + j] >> 4) + m;
            }
        }
        break;
    case DT_Q8_0:
        for (int64_t i = 0; i < n; i += 32, b += 34) {
            float d = f16_to_f32(load16(b));
            for (int j = 0; j < 32; j++) dst[i + j] = d * (float)(int8_t)b[2 + j];
        }
        break;
    case DT_Q6_K:
        for (int64_t i = 0; i < n; i += 256, b += 210) dequantise_q6_k(b, dst + i);
        break;
    default: break;
    }
}

static int clamp_round(float v, int lo, int hi) {
    int q = (int)lrintf(v);
    return q < lo ? lo : q > hi ? hi : q;
}

static void quantise_block4(const float *x, uint8_t *b, bool with_min) {
    float lo = x[0], hi = x[0], big = x[0];
    for (int j = 1; j < 32; j++) {
        lo = fminf(lo, x[j]);
        hi = fmaxf(hi, x[j]);
        if (fabsf(x[j]) > fabsf(big)) big = x[j];
    }
    float d = with_min ? (hi - lo) / 15 : big / -8, inv = d != 0 ? 1 / d : 0, shift = with_min ? -lo : 0;
    store16(b, f32_to_f16(d));
    if (with_min) store16(b + 2, f32_to_f16(lo));
    uint8_t *q = b + (with_min ? 4 : 2);
    int zero = with_min ? 0 : 8;
    for (int j = 0; j < 16; j++)
        q[j] = (uint8_t)(clamp_round((x[j] + shift) * inv + (float)zero, 0, 15) |
                         clamp_round((x[j + 16] + shift) * inv + (float)zero, 0, 15) << 4);
}

void quantise_row(dtype dt, const float *src, void *dst, int64_t n) {
    uint8_t *b = dst;
    switch (dt) {
    case DT_F32: memcpy(dst, src, (size_t)n * 4); break;
    case DT_F16:
        for (int64_t i = 0; i < n; i++) store16(b + 2 * i, f32_to_f16(src[i]));
        break;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++) store16(b + 2 * i, f32_to_bf16(src[i]));
        break;
    case DT_Q4_0:
        for (int64_t i = 0; i < n; i += 32, b += 18) quantise_block4(src + i, b, false);
        break;
    case DT_Q4_1:
        for (int64_t i = 0; i < n; i += 32, b += 20) quantise_block4(src + i, b, true);
        break;
    case DT_Q8_0:
        for (int64_t i = 0; i < n; i += 32, b += 34) {
            float big = 0;
            for (int j = 0; j < 32; j++) big = fmaxf(big, fabsf(src[i + j]));
            float d = big / 127, inv = d != 0 ? 1 / d : 0;
            store16(b, f32_to_f16(d));
            for (int j = 0; j < 32; j++) b[2 + j] = (uint8_t)clamp_round(src[i + j] * inv, -127, 127);
        }
        break;
    default: break; /* Q6_K is only read */
    }
}

bool dtype_writable(dtype dt) {
    return dt == DT_F32 || dt == DT_F16 || dt == DT_BF16 || dt == DT_Q4_0 || dt == DT_Q4_1 || dt == DT_Q8_0;
}
