/* Stored weights, four at a time: what dequant.cu and matvec.cu (in f32) know of the formats of base/dtype.h.
 *
 * A block starts at any even byte (Q4_0: 18 bytes, Q8_0: 34, Q6_K: 210 ..), so words of a block are read as two halves, but in the
 * formats whose blocks are whole words (Q4_1, Q5_1, Q2_K, Q4_K, Q5_K, IQ4_XS, and our own) and plain types. A group is four weights e..e+3 with e a multiple of
 * 4: it never crosses a scale, and its quants are one byte each of a word. Products of few rows on the tensor
 * cores read eight at a time (quants.cuh).
 *
 * block4() is bit-equal to dequantise_row for finite scales: f16 d times a 4- or 8-bit integer is exact in f32, so is d * sc * q of
 * the K formats but Q6_K (11 + 6 + 5 bits), so the sums and Q6_K's second product are the only roundings, and a contracted
 * multiply-add would give the same. Integers become floats without a conversion: 0x4B0000qq is 2^23 + q. The functions run on the
 * host too: tests/cuda/test_blocks.cu holds them to dequantise_row without a card. */
#ifndef CYC_CUDA_BLOCKS_CUH
#define CYC_CUDA_BLOCKS_CUH
#include <string.h>
#include "cuda/types.cuh"

#define HD __host__ __device__ __forceinline__

/* Bytes of a block and weights in it; 1 weight for plain types. */
template <int DT> struct block_of { enum { bytes = DT == DT_F32 ? 4 : 2, weights = 1 }; };
template <> struct block_of<DT_Q4_0> { enum { bytes = 18, weights = 32 }; };
template <> struct block_of<DT_Q4_1> { enum { bytes = 20, weights = 32 }; };
template <> struct block_of<DT_Q5_0> { enum { bytes = 22, weights = 32 }; };
template <> struct block_of<DT_Q5_1> { enum { bytes = 24, weights = 32 }; };
template <> struct block_of<DT_Q2_K> { enum { bytes = 84, weights = 256 }; };
template <> struct block_of<DT_Q3_K> { enum { bytes = 110, weights = 256 }; };
template <> struct block_of<DT_Q4_K> { enum { bytes = 144, weights = 256 }; };
template <> struct block_of<DT_Q5_K> { enum { bytes = 176, weights = 256 }; };
template <> struct block_of<DT_IQ4_NL> { enum { bytes = 18, weights = 32 }; };
template <> struct block_of<DT_IQ4_XS> { enum { bytes = 136, weights = 256 }; };
template <> struct block_of<DT_NF4> { enum { bytes = 36, weights = 64 }; };
template <> struct block_of<DT_E4M3> { enum { bytes = 68, weights = 64 }; };
template <> struct block_of<DT_INT8> { enum { bytes = 68, weights = 64 }; };
template <> struct block_of<DT_NF4_DQ> { enum { bytes = 272, weights = 512 }; };
template <> struct block_of<DT_Q8_0> { enum { bytes = 34, weights = 32 }; };
template <> struct block_of<DT_Q6_K> { enum { bytes = 210, weights = 256 }; };

/* CASE(type) for every type that is stored. */
#define EACH_STORED(CASE)                                                                                             \
    CASE(DT_F32) CASE(DT_F16) CASE(DT_BF16) CASE(DT_Q4_0) CASE(DT_Q4_1) CASE(DT_Q5_0) CASE(DT_Q5_1) CASE(DT_Q8_0) CASE(DT_Q2_K) \
    CASE(DT_Q3_K) CASE(DT_Q4_K) CASE(DT_Q5_K) CASE(DT_Q6_K) CASE(DT_IQ4_NL) CASE(DT_IQ4_XS) CASE(DT_NF4) CASE(DT_E4M3) CASE(DT_INT8) \
    CASE(DT_NF4_DQ)

HD uint32_t load_u16(const uint8_t *p) { return *(const uint16_t *)p; }
HD uint32_t load_u32(const uint8_t *p) { return *(const uint32_t *)p; }             /* p a multiple of 4 */
HD uint32_t load_u32_even(const uint8_t *p) { return load_u16(p) | load_u16(p + 2) << 16; } /* p a multiple of 2 */

HD float bits_f32(uint32_t u) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(u);
#else
    float f;
    memcpy(&f, &u, 4);
    return f;
#endif
}

HD float half_f32(uint32_t h) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half((unsigned short)h));
#else
    return f16_to_f32((uint16_t)h);
#endif
}

HD float mul_rn(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

HD float add_rn(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

/* Byte i of q, less zero, as f32: exact. */
HD float byte_f32(uint32_t q, int i, float zero) {
    return add_rn(bits_f32(0x4B000000u | (q >> 8 * i & 255)), -(8388608.0f + zero));
}

/* Where the quants of a Q6_K block's weights j..j+3 are. */
HD uint32_t q6_quants(const uint8_t *b, int j) {
    int half = j >> 7, quarter = j >> 5 & 3, l = j & 31;
    uint32_t low = load_u32_even(b + half * 64 + (quarter & 1) * 32 + l) >> (quarter >> 1) * 4 & 0x0F0F0F0Fu;
    uint32_t high = load_u32_even(b + 128 + half * 32 + l) >> quarter * 2 & 0x03030303u;
    return low | high << 4;
}

/* The low 4 bits of v, one in each byte's bit `at`. */
HD uint32_t spread_bits(uint32_t v, int at) { return ((v & 15) * 0x00204081u & 0x01010101u) << at; }

/* Bit i of each byte of v, at bit `at`. */
HD uint32_t byte_bits(uint32_t v, int i, int at) { return (v >> i & 0x01010101u) << at; }

/* ggml's code of IQ4, by arithmetic: 8 signed bytes of a word of 64 bits. */
HD float iq4_value(uint32_t q) {
    unsigned long long t = q & 8 ? 0x7159453526190D01ull : 0xF6EADDCFBFAD9881ull;
    return (float)(int8_t)(t >> 8 * (q & 7));
}

#ifdef __CUDACC__
static __constant__ float nf4_device[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
/* Lanes look up different ones, which constant memory would serve one after the other. */
static __device__ const float nf4_map_device[256] = {
#include "base/nf4_map.def"
};
#endif
HD float nf4_value(uint32_t q) {
#ifdef __CUDA_ARCH__
    return nf4_device[q & 15];
#else
    return nf4_code[q & 15];
#endif
}

/* nf4_dq_scale() by the 16 bytes that a block's weights share. */
HD float nested_scale(const uint8_t *shared, int i) {
    const uint32_t index = shared[NF4_DQ_INDEX - NF4_DQ_SHARED + i];
#ifdef __CUDA_ARCH__
    const float part = mul_rn(__ldg(nf4_map_device + index), bits_f32(load_u32(shared)));
#else
    const float part = mul_rn(nf4_map[index], bits_f32(load_u32(shared)));
#endif
    return add_rn(part, bits_f32(load_u32(shared + 4)));
}

/* Through f16, whose exponent is 8 less. */
HD float e4m3_value(uint32_t b) { return mul_rn(half_f32((b & 0x80) << 8 | (b & 0x7F) << 7), 256); }

/* d * sc and dm * mn of group g (32 weights) of a Q4_K or Q5_K block. */
HD void k4_line(const uint8_t *b, int g, float *d, float *m) {
    const uint8_t *s = b + 4;
    int sc = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
    int mn = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
    uint32_t h = load_u32(b);
    *d = mul_rn(half_f32(h & 0xFFFF), (float)sc);
    *m = mul_rn(half_f32(h >> 16), (float)mn);
}

/* Weights j..j+3 of a super-block. */
template <int DT> HD void super4(const uint8_t *b, int j, float w[4]) {
    const int g = j >> 5, l = j & 31; /* group of 32, place in it */
    if constexpr (DT == DT_Q6_K) {
        float d = mul_rn(half_f32(load_u16(b + 208)), (float)(int8_t)b[192 + (j >> 4)]);
        uint32_t q = q6_quants(b, j);
        for (int i = 0; i < 4; i++) w[i] = mul_rn(d, byte_f32(q, i, 32));
    } else if constexpr (DT == DT_Q4_K || DT == DT_Q5_K) {
        float d, m;
        k4_line(b, g, &d, &m);
        uint32_t q = load_u32(b + (DT == DT_Q5_K ? 48 : 16) + 32 * (g >> 1) + l) >> 4 * (g & 1) & 0x0F0F0F0Fu;
        if (DT == DT_Q5_K) q |= byte_bits(load_u32(b + 16 + l), g, 4);
        for (int i = 0; i < 4; i++) w[i] = add_rn(mul_rn(d, byte_f32(q, i, 0)), -m);
    } else if constexpr (DT == DT_Q2_K) {
        uint32_t h = load_u32(b + 80), q = load_u32(b + 16 + 32 * (g >> 2) + l) >> 2 * (g & 3) & 0x03030303u;
        float d = mul_rn(half_f32(h & 0xFFFF), (float)(b[j >> 4] & 15)), m = mul_rn(half_f32(h >> 16), (float)(b[j >> 4] >> 4));
        for (int i = 0; i < 4; i++) w[i] = add_rn(mul_rn(d, byte_f32(q, i, 0)), -m);
    } else if constexpr (DT == DT_Q3_K) {
        int k = j >> 4, sc = (k < 8 ? b[96 + k] & 15 : b[88 + k] >> 4) | (b[104 + (k & 3)] >> 2 * (k >> 2) & 3) << 4;
        uint32_t q = (load_u32_even(b + 32 + 32 * (g >> 2) + l) >> 2 * (g & 3) & 0x03030303u) | byte_bits(load_u32_even(b + l), g, 2);
        float d = mul_rn(half_f32(load_u16(b + 108)), (float)(sc - 32));
        for (int i = 0; i < 4; i++) w[i] = mul_rn(d, byte_f32(q, i, 4));
    } else {
        int sc = (b[4 + (g >> 1)] >> 4 * (g & 1) & 15) | (load_u16(b + 2) >> 2 * g & 3) << 4;
        uint32_t q = load_u32(b + 8 + 16 * g + (l & 15)) >> (l >> 4) * 4;
        float d = mul_rn(half_f32(load_u16(b)), (float)(sc - 32));
        for (int i = 0; i < 4; i++) w[i] = mul_rn(d, iq4_value(q >> 8 * i & 15));
    }
}

/* Weights j..j+3 of a block of our own. */
template <int DT> HD void own4(const uint8_t *b, int j, float w[4]) {
    constexpr bool nested = DT == DT_NF4_DQ, nf4 = DT == DT_NF4 || nested;
    float d;
    if constexpr (nested) d = nested_scale(b + NF4_DQ_SHARED, j >> 6);
    else d = bits_f32(load_u32(b));
    uint32_t q = nf4 ? load_u32(b + (nested ? j >> 8 << 4 : 4) + 16 * (j >> 5) + (j & 15)) >> (j >> 4 & 1) * 4 : load_u32(b + 4 + j);
    for (int i = 0; i < 4; i++) {
        if constexpr (nf4) w[i] = mul_rn(d, nf4_value(q >> 8 * i & 15));
        else if constexpr (DT == DT_INT8) w[i] = mul_rn(d, byte_f32(q ^ 0x80808080u, i, 128));
        else w[i] = mul_rn(d, e4m3_value(q >> 8 * i & 255));
    }
}

/* Weights e..e+3 (e a multiple of 4) of the run of blocks, or of plain elements, at src; src 16-byte aligned. */
template <int DT> HD void block4(const uint8_t *src, int64_t e, float w[4]) {
    if constexpr (DT == DT_F32) {
        float4 v = *(const float4 *)(src + e * 4);
        w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    } else if constexpr (DT == DT_F16 || DT == DT_BF16) {
        uint2 v = *(const uint2 *)(src + e * 2);
        if (DT == DT_BF16) {
            w[0] = bits_f32(v.x << 16), w[1] = bits_f32(v.x & 0xFFFF0000u);
            w[2] = bits_f32(v.y << 16), w[3] = bits_f32(v.y & 0xFFFF0000u);
        } else {
            w[0] = half_f32(v.x & 0xFFFF), w[1] = half_f32(v.x >> 16);
            w[2] = half_f32(v.y & 0xFFFF), w[3] = half_f32(v.y >> 16);
        }
    } else {
        const uint8_t *b = src + e / block_of<DT>::weights * block_of<DT>::bytes;
        int j = (int)(e % block_of<DT>::weights);
        if constexpr (block_of<DT>::weights == 256) super4<DT>(b, j, w);
        else if constexpr (block_of<DT>::weights == 64 || DT == DT_NF4_DQ) own4<DT>(b, j, w);
        else if constexpr (DT == DT_Q5_0 || DT == DT_Q5_1) {
            const uint8_t *p = b + (DT == DT_Q5_1 ? 4 : 2);
            uint32_t q = load_u32_even(p + 4 + (j & 15)) >> (j >> 4) * 4 & 0x0F0F0F0Fu;
            q |= spread_bits(load_u32_even(p) >> j, 4);
            float d = half_f32(load_u16(b)), m = DT == DT_Q5_1 ? half_f32(load_u16(b + 2)) : 0;
            for (int i = 0; i < 4; i++) w[i] = DT == DT_Q5_1 ? add_rn(mul_rn(d, byte_f32(q, i, 0)), m) : mul_rn(d, byte_f32(q, i, 16));
        } else if constexpr (DT == DT_IQ4_NL) {
            uint32_t q = load_u32_even(b + 2 + (j & 15)) >> (j >> 4) * 4;
            float d = half_f32(load_u16(b));
            for (int i = 0; i < 4; i++) w[i] = mul_rn(d, iq4_value(q >> 8 * i & 15));
        } else if constexpr (DT == DT_Q8_0) {
            float d = half_f32(load_u16(b));
            uint32_t q = load_u32_even(b + 2 + j) ^ 0x80808080u;
            for (int i = 0; i < 4; i++) w[i] = mul_rn(d, byte_f32(q, i, 128));
        } else if constexpr (DT == DT_Q4_1) {
            uint32_t dm = load_u32(b), q = load_u32(b + 4 + (j & 15)) >> (j >> 4) * 4 & 0x0F0F0F0Fu;
            float d = half_f32(dm & 0xFFFF), m = half_f32(dm >> 16);
            for (int i = 0; i < 4; i++) w[i] = add_rn(mul_rn(d, byte_f32(q, i, 0)), m);
        } else {
            float d = half_f32(load_u16(b));
            uint32_t q = load_u32_even(b + 2 + (j & 15)) >> (j >> 4) * 4 & 0x0F0F0F0Fu;
            for (int i = 0; i < 4; i++) w[i] = mul_rn(d, byte_f32(q, i, 8));
        }
    }
}

#endif
