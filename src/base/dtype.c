/* Element types and the reference form of every stored format. Slow on purpose: the CPU backend has fast unpackers,
 * tested against these. See dtype.h for the layouts. */
#include "base/dtype.h"
#include <math.h>
#include <string.h>

const struct dtype_info dtype_info[DT_ALL] = {
    [DT_NONE] = {"none", 1, 0},         [DT_F32] = {"f32", 1, 4},
    [DT_F16] = {"f16", 1, 2},           [DT_BF16] = {"bf16", 1, 2},
    [DT_I32] = {"i32", 1, 4},           [DT_Q4_0] = {"q4_0", 32, 18},
    [DT_Q4_1] = {"q4_1", 32, 20},       [DT_Q5_0] = {"q5_0", 32, 22},
    [DT_Q5_1] = {"q5_1", 32, 24},       [DT_Q8_0] = {"q8_0", 32, 34},
    [DT_Q2_K] = {"q2_k", 256, 84},      [DT_Q3_K] = {"q3_k", 256, 110},
    [DT_Q4_K] = {"q4_k", 256, 144},     [DT_Q5_K] = {"q5_k", 256, 176},
    [DT_Q6_K] = {"q6_k", 256, 210},     [DT_IQ4_NL] = {"iq4_nl", 32, 18},
    [DT_IQ4_XS] = {"iq4_xs", 256, 136}, [DT_NF4] = {"nf4", 64, 36},
    [DT_E4M3] = {"f8_e4m3", 64, 68},    [DT_INT8] = {"int8", 64, 68},
    [DT_NF4_DQ] = {"nf4_dq", 512, 272}, [DT_F8] = {"fp8", 1, 2},
};

const float nf4_code[16] = {-1.0f,
                            -0.6961928009986877f,
                            -0.5250730514526367f,
                            -0.39491748809814453f,
                            -0.28444138169288635f,
                            -0.18477343022823334f,
                            -0.09105003625154495f,
                            0.0f,
                            0.07958029955625534f,
                            0.16093020141124725f,
                            0.24611230194568634f,
                            0.33791524171829224f,
                            0.44070982933044434f,
                            0.5626170039176941f,
                            0.7229568362236023f,
                            1.0f};
const float nf4_map[256] = {
#include "base/nf4_map.def"
};
const int8_t iq4_code[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

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
bool dtype_plain(dtype dt) { return dt == DT_F32 || dt == DT_F16 || dt == DT_BF16; }
double dtype_bits(dtype dt) { return 8.0 * dtype_info[dt].bytes / dtype_info[dt].block; }

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

/* As f16 with the exponent's bias put right by 2^8: subnormals come out too. */
float e4m3_to_f32(uint8_t b) {
    if ((b & 0x7F) == 0x7F) return NAN;
    return f16_to_f32((uint16_t)((b & 0x80) << 8 | (b & 0x7F) << 7)) * 256;
}

static uint16_t load16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t load32(const uint8_t *p) { return load16(p) | (uint32_t)load16(p + 2) << 16; }
static float half_at(const uint8_t *p) { return f16_to_f32(load16(p)); }

static float float_at(const uint8_t *p) {
    float f;
    memcpy(&f, p, 4);
    return f;
}

/* --- blocks of 32 ----------------------------------------------------------------------------------------------- */

/* Where a format is d * q + m, d * q is a variable of its own: the definition rounds twice, whatever multiply-adds
 * there are. */
static void q4(const uint8_t *b, float *y, bool with_min) {
    const uint8_t *q = b + (with_min ? 4 : 2);
    float d = half_at(b), m = with_min ? half_at(b + 2) : 0;
    int zero = with_min ? 0 : 8;
    for (int j = 0; j < 16; j++) {
        float lo = d * (float)((q[j] & 15) - zero), hi = d * (float)((q[j] >> 4) - zero);
        y[j] = with_min ? lo + m : lo;
        y[j + 16] = with_min ? hi + m : hi;
    }
}

static void q5(const uint8_t *b, float *y, bool with_min) {
    const uint8_t *p = b + (with_min ? 4 : 2), *q = p + 4;
    float d = half_at(b), m = with_min ? half_at(b + 2) : 0;
    uint32_t fifth = load32(p);
    int zero = with_min ? 0 : 16;
    for (int j = 0; j < 16; j++) {
        float lo = d * (float)((int)((q[j] & 15) | (fifth >> j & 1) << 4) - zero);
        float hi = d * (float)((int)((q[j] >> 4) | (fifth >> (j + 16) & 1) << 4) - zero);
        y[j] = with_min ? lo + m : lo;
        y[j + 16] = with_min ? hi + m : hi;
    }
}

static void q8_0(const uint8_t *b, float *y) {
    float d = half_at(b);
    for (int j = 0; j < 32; j++) y[j] = d * (float)(int8_t)b[2 + j];
}

static void iq4(const uint8_t *q, float d, float *y) {
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)iq4_code[q[j] & 15];
        y[j + 16] = d * (float)iq4_code[q[j] >> 4];
    }
}

/* --- blocks of 256 ---------------------------------------------------------------------------------------------- */

static void q2_k(const uint8_t *b, float *y) {
    const uint8_t *sc = b, *q = b + 16;
    float d = half_at(b + 80), dm = half_at(b + 82);
    for (int i = 0; i < 256; i++) {
        int s = sc[i / 16], v = q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        float scaled = d * (float)(s & 15), min = dm * (float)(s >> 4), w = scaled * (float)v;
        y[i] = w - min;
    }
}

static void q3_k(const uint8_t *b, float *y) {
    const uint8_t *third = b, *q = b + 32;
    float d = half_at(b + 108);
    for (int i = 0; i < 256; i++) {
        int v = (q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) | (third[i % 32] >> (i / 32) & 1) << 2;
        float scaled = d * (float)q3_k_scale(b + 96, i / 16);
        y[i] = scaled * (float)(v - 4);
    }
}

static void q4_q5_k(const uint8_t *b, float *y, bool five) {
    const uint8_t *fifth = b + 16, *q = b + (five ? 48 : 16);
    float d = half_at(b), dm = half_at(b + 2);
    for (int g = 0; g < 8; g++) {
        int sc, mn;
        k4_scale_min(b + 4, g, &sc, &mn);
        float scaled = d * (float)sc, min = dm * (float)mn;
        for (int l = 0; l < 32; l++) {
            int v = (q[g / 2 * 32 + l] >> (g % 2 * 4) & 15) | (five ? (fifth[l] >> g & 1) << 4 : 0);
            float w = scaled * (float)v;
            y[32 * g + l] = w - min;
        }
    }
}

static void q6_k(const uint8_t *b, float *y) {
    const uint8_t *ql = b, *qh = b + 128;
    const int8_t *sc = (const int8_t *)(b + 192);
    float d = half_at(b + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, quarter = i % 128 / 32, l = i % 32;
        int lo = ql[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15,
            hi = qh[half * 32 + l] >> (2 * quarter) & 3;
        float scaled = d * (float)sc[i / 16];
        y[i] = scaled * (float)((lo | hi << 4) - 32);
    }
}

static void iq4_xs(const uint8_t *b, float *y) {
    float d = half_at(b);
    for (int g = 0; g < 8; g++) iq4(b + 8 + 16 * g, d * (float)iq4_xs_scale(b, g), y + 32 * g);
}

/* --- our own ------------------------------------------------------------------------------------------------------ */

static void nf4(const uint8_t *b, float *y) {
    float d = float_at(b);
    for (int i = 0; i < 64; i++) y[i] = d * nf4_code[b[4 + i / 32 * 16 + i % 16] >> (i % 32 / 16 * 4) & 15];
}

static void nf4_dq(const uint8_t *b, float *y) {
    for (int i = 0; i < 512; i++) {
        const uint8_t *q = b + nf4_dq_nibbles(i / 32);
        y[i] = nf4_dq_scale(b, i / 64) * nf4_code[q[i % 16] >> (i % 32 / 16 * 4) & 15];
    }
}

static void e4m3(const uint8_t *b, float *y) {
    float d = float_at(b);
    for (int i = 0; i < 64; i++) y[i] = d * e4m3_to_f32(b[4 + i]);
}

static void int8(const uint8_t *b, float *y) {
    float d = float_at(b);
    for (int i = 0; i < 64; i++) y[i] = d * (float)(int8_t)b[4 + i];
}

static void dequantise_block(dtype dt, const uint8_t *b, float *y) {
    switch (dt) {
    case DT_Q4_0: q4(b, y, false); break;
    case DT_Q4_1: q4(b, y, true); break;
    case DT_Q5_0: q5(b, y, false); break;
    case DT_Q5_1: q5(b, y, true); break;
    case DT_Q8_0: q8_0(b, y); break;
    case DT_Q2_K: q2_k(b, y); break;
    case DT_Q3_K: q3_k(b, y); break;
    case DT_Q4_K: q4_q5_k(b, y, false); break;
    case DT_Q5_K: q4_q5_k(b, y, true); break;
    case DT_Q6_K: q6_k(b, y); break;
    case DT_IQ4_NL: iq4(b + 2, half_at(b), y); break;
    case DT_IQ4_XS: iq4_xs(b, y); break;
    case DT_NF4: nf4(b, y); break;
    case DT_E4M3: e4m3(b, y); break;
    case DT_INT8: int8(b, y); break;
    case DT_NF4_DQ: nf4_dq(b, y); break;
    default: break;
    }
}

void dequantise_row(dtype dt, const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    if (dt == DT_F32) memcpy(dst, src, (size_t)n * 4);
    for (int64_t i = 0; i < n && dt == DT_F16; i++) dst[i] = half_at(b + 2 * i);
    for (int64_t i = 0; i < n && dt == DT_BF16; i++) dst[i] = bf16_to_f32(load16(b + 2 * i));
    if (!dtype_quantised(dt)) return;
    const int block = dtype_info[dt].block, bytes = dtype_info[dt].bytes;
    for (int64_t i = 0; i < n; i += block, b += bytes) dequantise_block(dt, b, dst + i);
}
