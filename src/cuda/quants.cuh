/* Stored weights as operands of the tensor cores: what matvec_quant.cu knows of the formats of base/dtype.h.
 *
 * A lane t of 4 takes eight neighbouring weights j + 8t .. + 7 of each 32 that begin at column j of a row's part. Those are
 *   codes8()    two words, a code in each byte, in order,
 *   operands()  the codes' values as four pairs of bf16 or f16 (columns 0 1, 2 3, 4 5, 6 7),
 *   line32()    what a sum over those values is multiplied with, and (quant<>::offset) what the sum of x is.
 * A value is exact: integers less their zero, IQ4's signed bytes, e4m3 (for f16 times 2^-8, which line32() takes back). NF4's 16
 * codes alone are not: they are rounded to T, once, where the way over dequant.cu rounds code * absmax to T: the same size of
 * error for each weight. As bf16, integers of up to 5 bits are left excess<>() too large: two of them become floats by one byte
 * permutation, and what is too much is scale * excess * sum x, which goes with the offset (f16's excess would be 1024, too much for
 * what the sums then lose). Q3_K and Q6_K have a scale each 16 weights
 * (quant<>::sixteenths): line16(), and no excess.
 *
 * Tables are looked up by byte permutation: one prmt takes four of 8 bytes, by the low 16 bits of its selector; two and one more
 * that chooses by each code's highest bit are four bytes of 16, twice that are four values of 16 bits.
 *
 * Host and device, like blocks.cuh; tests/cuda/test_blocks.cu holds value * scale + offset to dequantise_row(). */
#ifndef CYC_CUDA_QUANTS_CUH
#define CYC_CUDA_QUANTS_CUH
#include "cuda/matvec.cuh"

enum codes { INTEGERS, TABLE, FP8 };

/* step: columns that are brought at a time, whole blocks (of NF4_DQ a half: the block's first or last 144 bytes); span: weights of one
 * scale as they are unpacked; zero: what an integer code is less. */
template <enum codes KIND, int ZERO, bool OFFSET, int STEP = 256, int SPAN = 32> struct traits {
    static constexpr enum codes kind = KIND;
    static constexpr int zero = ZERO, step = STEP, span = SPAN;
    static constexpr bool offset = OFFSET, sixteenths = SPAN == 16, plain = false;
};
template <int DT> struct quant : traits<TABLE, 0, false, 64> { static constexpr bool plain = true; };
template <> struct quant<DT_Q4_0> : traits<INTEGERS, 8, false> {};
template <> struct quant<DT_Q4_1> : traits<INTEGERS, 0, true> {};
template <> struct quant<DT_Q5_0> : traits<INTEGERS, 16, false> {};
template <> struct quant<DT_Q5_1> : traits<INTEGERS, 0, true> {};
template <> struct quant<DT_Q8_0> : traits<INTEGERS, 128, false, 128> {};
template <> struct quant<DT_Q4_K> : traits<INTEGERS, 0, true> {};
template <> struct quant<DT_Q5_K> : traits<INTEGERS, 0, true> {};
template <> struct quant<DT_Q3_K> : traits<INTEGERS, 4, false, 256, 16> {};
template <> struct quant<DT_Q6_K> : traits<INTEGERS, 32, false, 256, 16> {};
template <> struct quant<DT_IQ4_NL> : traits<TABLE, 0, false> {};
template <> struct quant<DT_IQ4_XS> : traits<TABLE, 0, false> {};
template <> struct quant<DT_NF4> : traits<TABLE, 0, false> {};
template <> struct quant<DT_NF4_DQ> : traits<TABLE, 0, false, 256, 64> {};
template <> struct quant<DT_E4M3> : traits<FP8, 0, false, 128> {};
template <> struct quant<DT_INT8> : traits<INTEGERS, 128, false, 128> {};

template <typename T, int DT> HD constexpr bool in_excess(void) { return T_is_bf16<T>::yes && quant<DT>::kind == INTEGERS && quant<DT>::step == 256 && !quant<DT>::sixteenths; }
template <typename T, int DT> HD constexpr float excess(void) { return in_excess<T, DT>() ? 128.0f + (float)quant<DT>::zero : 0; }

/* Four of the eight bytes of b:a, by the lowest 3 bits of each of selector's four low nibbles; the fourth must be 0. */
HD uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
#ifdef __CUDA_ARCH__
    uint32_t r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
    return r;
#else
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) r |= (uint32_t)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return r;
#endif
}

/* --- codes ------------------------------------------------------------------------------------------------------------- */
template <bool WORDS> HD uint2 two_words(const uint8_t *p) {
    return WORDS ? make_uint2(load_u32(p), load_u32(p + 4)) : make_uint2(load_u32_even(p), load_u32_even(p + 4));
}

/* 16 bytes of nibbles: the low ones are the first 16 weights. */
template <bool WORDS> HD uint2 nibbles8(const uint8_t *nibbles, int t) {
    uint2 q = two_words<WORDS>(nibbles + 8 * (t & 1));
    const int up = 4 * (t >> 1);
    return make_uint2(q.x >> up & 0x0F0F0F0Fu, q.y >> up & 0x0F0F0F0Fu);
}

/* Of the step that begins at p: its codes, where they do not begin there. What NF4_DQ's weights share lies behind the codes of the first
 * half, and before those of the second. */
template <int DT> HD const uint8_t *codes_of(const uint8_t *p, int half) { return DT == DT_NF4_DQ ? p + 16 * half : p; }
HD const uint8_t *shared_of(const uint8_t *p, int half) { return p + (half ? 0 : NF4_DQ_SHARED); }

/* p: codes_of() the row's step; j: a multiple of 32, in the step. */
template <int DT> HD uint2 codes8(const uint8_t *p, int j, int t) {
    constexpr bool words = block_of<DT>::bytes % 4 == 0;
    const uint8_t *b = p + j / block_of<DT>::weights * block_of<DT>::bytes;
    if constexpr (DT == DT_Q4_0 || DT == DT_IQ4_NL) return nibbles8<words>(b + 2, t);
    else if constexpr (DT == DT_Q4_1) return nibbles8<words>(b + 4, t);
    else if constexpr (DT == DT_IQ4_XS) return nibbles8<words>(b + 8 + j / 2, t);
    else if constexpr (DT == DT_NF4) return nibbles8<words>(b + 4 + (j & 32) / 2, t);
    else if constexpr (DT == DT_NF4_DQ) return nibbles8<words>(p + j / 2, t);
    else if constexpr (DT == DT_Q5_0 || DT == DT_Q5_1) {
        const uint8_t *fifth = b + (DT == DT_Q5_1 ? 4 : 2);
        uint2 q = nibbles8<words>(fifth + 4, t);
        const uint32_t high = fifth[t];
        return make_uint2(q.x | spread_bits(high, 4), q.y | spread_bits(high >> 4, 4));
    } else if constexpr (DT == DT_Q8_0 || DT == DT_INT8) {
        uint2 q = two_words<words>(b + (DT == DT_Q8_0 ? 2 : 4 + (j & 32)) + 8 * t);
        return make_uint2(q.x ^ 0x80808080u, q.y ^ 0x80808080u);
    } else if constexpr (DT == DT_E4M3) return two_words<words>(b + 4 + (j & 32) + 8 * t);
    else if constexpr (DT == DT_Q6_K) return make_uint2(q6_quants(b, j + 8 * t), q6_quants(b, j + 8 * t + 4));
    else if constexpr (DT == DT_Q3_K) {
        const int g = j >> 5, up = 2 * (g & 3);
        const uint8_t *low = b + 32 + 32 * (g >> 2) + 8 * t;
        const uint2 q = two_words<words>(low), high = two_words<words>(b + 8 * t);
        return make_uint2((q.x >> up & 0x03030303u) | byte_bits(high.x, g, 2), (q.y >> up & 0x03030303u) | byte_bits(high.y, g, 2));
    } else {
        const int g = j >> 5, up = 4 * (g & 1);
        uint2 q = *(const uint2 *)(b + (DT == DT_Q5_K ? 48 : 16) + j / 64 * 32 + 8 * t);
        q = make_uint2(q.x >> up & 0x0F0F0F0Fu, q.y >> up & 0x0F0F0F0Fu);
        if (DT == DT_Q5_K) {
            uint2 high = *(const uint2 *)(b + 16 + 8 * t);
            q.x |= byte_bits(high.x, g, 4), q.y |= byte_bits(high.y, g, 4);
        }
        return q;
    }
}

/* --- values ------------------------------------------------------------------------------------------------------------ */
/* The four bytes of q as two pairs, in excess: 0x64qq is 1024 + q in f16, 0x43qq 128 + q in bf16 for q < 128. */
template <typename T> HD void excess4(uint32_t q, uint32_t a[2]) {
    constexpr uint32_t high = T_is_bf16<T>::yes ? 0x43434343u : 0x64646464u;
    a[0] = pick_bytes(q, high, 0x4140), a[1] = pick_bytes(q, high, 0x4342);
}

/* .. less ZERO; exact. Q8_0's bytes (ZERO = 128) become bf16 by way of f32. */
template <typename T, int ZERO> HD void integers4(uint32_t q, uint32_t a[2]) {
    if constexpr (ZERO == 128 && T_is_bf16<T>::yes) {
        for (int i = 0; i < 2; i++) {
            __nv_bfloat162 v = __floats2bfloat162_rn(byte_f32(q, 2 * i, ZERO), byte_f32(q, 2 * i + 1, ZERO));
            memcpy(&a[i], &v, 4);
        }
    } else {
        excess4<T>(q, a);
        for (int i = 0; i < 2; i++) {
            if constexpr (T_is_bf16<T>::yes) {
                __nv_bfloat162 v;
                memcpy(&v, &a[i], 4);
                v = __hsub2(v, __float2bfloat162_rn(128.0f + ZERO));
                memcpy(&a[i], &v, 4);
            } else {
                __half2 v;
                memcpy(&v, &a[i], 4);
                v = __hsub2(v, __float2half2_rn(1024.0f + ZERO));
                memcpy(&a[i], &v, 4);
            }
        }
    }
}

/* e4m3 moves into the wider exponent as it is, subnormal numbers too: the value is 2^-8 of it in f16, which is left to the scale, and
 * 2^-120 in bf16, whose product with 2^120 is exact. */
template <typename T> HD void e4m3_4(uint32_t q, uint32_t a[2]) {
    for (int i = 0; i < 2; i++) {
        const uint32_t v = pick_bytes(q, 0, i ? 0x3424 : 0x1404); /* a byte at the top of each half */
        if constexpr (T_is_bf16<T>::yes) {
            const uint32_t small = (v & 0x80008000u) | (v >> 4 & 0x07F007F0u);
            __nv_bfloat162 w;
            memcpy(&w, &small, 4);
            w = __hmul2(w, __float2bfloat162_rn(0x1p120f));
            memcpy(&a[i], &w, 4);
        } else a[i] = (v & 0x80008000u) | (v >> 1 & 0x3F803F80u);
    }
}

/* nf4_code rounded to nearest even, and iq4_code. */
template <typename T, int DT> struct table { static constexpr uint16_t at[16] = {0xC2FE, 0xC2D0, 0xC2A6, 0xC282, 0xC244, 0xC20C, 0xC1B0, 0xC120, 0x3F80, 0x4150, 0x41C8, 0x4218, 0x4254, 0x428A, 0x42B2, 0x42E2}; };
template <int DT> struct table<f16, DT> { static constexpr uint16_t at[16] = {0xD7F0, 0xD680, 0xD530, 0xD410, 0xD220, 0xD060, 0xCD80, 0xC900, 0x3C00, 0x4A80, 0x4E40, 0x50C0, 0x52A0, 0x5450, 0x5590, 0x5710}; };
template <> struct table<bf16, DT_NF4> { static constexpr uint16_t at[16] = {0xBF80, 0xBF32, 0xBF06, 0xBECA, 0xBE92, 0xBE3D, 0xBDBA, 0x0000, 0x3DA3, 0x3E25, 0x3E7C, 0x3EAD, 0x3EE2, 0x3F10, 0x3F39, 0x3F80}; };
template <> struct table<f16, DT_NF4> { static constexpr uint16_t at[16] = {0xBC00, 0xB992, 0xB833, 0xB652, 0xB48D, 0xB1EA, 0xADD4, 0x0000, 0x2D18, 0x3126, 0x33E0, 0x3568, 0x370D, 0x3880, 0x39C9, 0x3C00}; };

template <> struct table<bf16, DT_NF4_DQ> : table<bf16, DT_NF4> {};
template <> struct table<f16, DT_NF4_DQ> : table<f16, DT_NF4> {};

/* Byte `high` of the table's entries from..from+3. */
template <typename T, int DT> struct plane {
    template <int FROM, int HIGH> __host__ __device__ static constexpr uint32_t word(void) {
        return (uint32_t)(table<T, DT>::at[FROM] >> 8 * HIGH & 255) | (uint32_t)(table<T, DT>::at[FROM + 1] >> 8 * HIGH & 255) << 8 | (uint32_t)(table<T, DT>::at[FROM + 2] >> 8 * HIGH & 255) << 16 | (uint32_t)(table<T, DT>::at[FROM + 3] >> 8 * HIGH & 255) << 24;
    }
};

template <typename T, int DT, int HIGH> HD uint32_t table_bytes(uint32_t index, uint32_t side) {
    constexpr uint32_t w0 = plane<T, DT>::template word<0, HIGH>(), w1 = plane<T, DT>::template word<4, HIGH>();
    constexpr uint32_t w2 = plane<T, DT>::template word<8, HIGH>(), w3 = plane<T, DT>::template word<12, HIGH>();
    return pick_bytes(pick_bytes(w0, w1, index), pick_bytes(w2, w3, index), side);
}

template <typename T, int DT> HD void table8(uint2 q, uint32_t a[4]) {
    const uint32_t both = q.x | q.y << 4; /* nibbles: codes 0 4 1 5 2 6 3 7 */
    for (int h = 0; h < 2; h++) {
        const uint32_t four = both >> 16 * h, index = four & 0x7777, side = (four >> 1 & 0x4444) | 0x3210;
        const uint32_t low = table_bytes<T, DT, 0>(index, side), high = table_bytes<T, DT, 1>(index, side);
        a[h] = pick_bytes(low, high, 0x6240), a[2 + h] = pick_bytes(low, high, 0x7351);
    }
}

template <typename T, int DT> HD void operands(uint2 q, uint32_t a[4]) {
    if constexpr (quant<DT>::kind == TABLE) table8<T, DT>(q, a);
    else if constexpr (quant<DT>::kind == FP8) e4m3_4<T>(q.x, a), e4m3_4<T>(q.y, a + 2);
    else if constexpr (in_excess<T, DT>()) excess4<T>(q.x, a), excess4<T>(q.y, a + 2);
    else integers4<T, quant<DT>::zero>(q.x, a), integers4<T, quant<DT>::zero>(q.y, a + 2);
}

/* --- scales ------------------------------------------------------------------------------------------------------------ */
HD float small_f32(uint32_t byte) { return add_rn(bits_f32(0x4B000000u | byte), -8388608.0f); }

/* weight = scale * (value - excess) + offset. p: where the step begins; half: of NF4_DQ, which. */
template <typename T, int DT> HD void line32(const uint8_t *p, int half, int j, float *scale, float *offset) {
    const uint8_t *b = p + j / block_of<DT>::weights * block_of<DT>::bytes;
    *offset = 0;
    if constexpr (DT == DT_Q4_K || DT == DT_Q5_K) { /* k4_line(), by one load: its header is 16 bytes in a place for them */
        const uint4 h = *(const uint4 *)b;
        const int up = j >> 2 & 24; /* 8 times the group's place among four */
        const uint32_t w0 = h.y >> up, w1 = h.z >> up, w2 = h.w >> up;
        const bool late = j & 128;
        const uint32_t sc = late ? (w2 & 15) | (w0 >> 2 & 48) : w0 & 63, mn = late ? (w2 >> 4 & 15) | (w1 >> 2 & 48) : w1 & 63;
        *scale = mul_rn(half_f32(h.x & 0xFFFF), small_f32(sc)), *offset = -mul_rn(half_f32(h.x >> 16), small_f32(mn));
    } else if constexpr (DT == DT_IQ4_XS) {
        const int g = j >> 5, sc = (b[4 + (g >> 1)] >> 4 * (g & 1) & 15) | (load_u16(b + 2) >> 2 * g & 3) << 4;
        *scale = mul_rn(half_f32(load_u16(b)), (float)(sc - 32));
    } else if constexpr (DT == DT_NF4_DQ) *scale = nested_scale(shared_of(p, half), 4 * half + (j >> 6));
    else if constexpr (DT == DT_NF4 || DT == DT_INT8) *scale = bits_f32(load_u32(b));
    else if constexpr (DT == DT_E4M3) *scale = mul_rn(bits_f32(load_u32(b)), T_is_bf16<T>::yes ? 1.0f : 256.0f);
    else if constexpr (quant<DT>::offset) {
        const uint32_t h = load_u32(b);
        *scale = half_f32(h & 0xFFFF), *offset = half_f32(h >> 16);
    } else *scale = half_f32(load_u16(b));
}

/* Q3_K, Q6_K: of the 16 weights from j on. */
template <int DT> HD float line16(const uint8_t *b, int j) {
    const int k = j >> 4;
    if constexpr (DT == DT_Q6_K) return mul_rn(half_f32(load_u16(b + 208)), (float)(int8_t)b[192 + k]);
    else {
        const int sc = (k < 8 ? b[96 + k] & 15 : b[88 + k] >> 4) | (b[104 + (k & 3)] >> 2 * (k >> 2) & 3) << 4;
        return mul_rn(half_f32(load_u16(b + 108)), (float)(sc - 32));
    }
}

#endif
