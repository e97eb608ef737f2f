/* Stored weights, four at a time: what dequant.cu and matvec.cu know of the formats of base/dtype.h.
 *
 * A block starts at any even byte (Q4_0: 18 bytes, Q8_0: 34, Q6_K: 210; Q4_1's 20 keep words aligned), so words of a block
 * are read as two halves, and only Q4_1 and plain types use wider loads. A group is four weights e..e+3 with e a multiple of
 * 4: it never crosses a scale, and its quants are one byte each of a word.
 *
 * block4() is bit-equal to dequantise_row for finite scales: f16 d times a 4- or 8-bit integer is exact in f32, so Q4_1's sum
 * and Q6_K's second product are the only roundings, and a contracted multiply-add would give the same. Integers become
 * floats without a conversion: 0x4B0000qq is 2^23 + q. The functions run on the host too, for tests. */
#ifndef CYC_CUDA_BLOCKS_CUH
#define CYC_CUDA_BLOCKS_CUH
#include <string.h>
#include "cuda/types.cuh"

#define HD __host__ __device__ __forceinline__

/* Bytes of a block and weights in it; 1 weight for plain types. */
template <int DT> struct block_of { enum { bytes = DT == DT_F32 ? 4 : 2, weights = 1 }; };
template <> struct block_of<DT_Q4_0> { enum { bytes = 18, weights = 32 }; };
template <> struct block_of<DT_Q4_1> { enum { bytes = 20, weights = 32 }; };
template <> struct block_of<DT_Q8_0> { enum { bytes = 34, weights = 32 }; };
template <> struct block_of<DT_Q6_K> { enum { bytes = 210, weights = 256 }; };

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
        if constexpr (DT == DT_Q6_K) {
            float d = mul_rn(half_f32(load_u16(b + 208)), (float)(int8_t)b[192 + (j >> 4)]);
            uint32_t q = q6_quants(b, j);
            for (int i = 0; i < 4; i++) w[i] = mul_rn(d, byte_f32(q, i, 32));
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
