/* Element types: plain ones, GGUF's block-quantised ones, and two layouts of our own for what safetensors hold in separate
 * tensors. A quantised row is a run of blocks; a tensor is quantised along its last dimension, which is a multiple of the
 * block size.
 *
 * Formats are ggml's (docs: ggml/include, block layouts as on disk; the definition in numbers: the PyPI package gguf,
 * gguf.quants). Nibbles: 16 bytes, the low one of byte i is weight i, the high one weight i + 16.
 *   Q4_0    32 weights: f16 d, nibbles;                                                          w = d * (q - 8)
 *   Q4_1    32 weights: f16 d, f16 m, nibbles;                                                   w = d * q + m
 *   Q5_0    32 weights: f16 d, u32 fifth bits, nibbles;                                          w = d * (q - 16)
 *   Q5_1    32 weights: f16 d, f16 m, u32 fifth bits, nibbles;                                   w = d * q + m
 *   Q8_0    32 weights: f16 d, 32 int8;                                                          w = d * q
 *   Q2_K   256 weights: 16 bytes scale | min << 4 (each of 16 weights), 64 bytes of 2 bits, f16 d, f16 dm;
 *                                                                                               w = d * sc * q - dm * mn
 *   Q3_K   256 weights: 32 bytes third bits, 64 bytes of 2 bits, 12 bytes of 16 scales of 6 bits, f16 d;
 *                                                                                               w = d * (sc - 32) * (q - 4)
 *   Q4_K   256 weights: f16 d, f16 dm, 12 bytes of 8 scales and 8 mins of 6 bits, 128 bytes of 4 bits;
 *                                                                                               w = d * sc * q - dm * mn
 *   Q5_K   256 weights: as Q4_K, with 32 bytes of fifth bits before the 4 bits
 *   Q6_K   256 weights: 128 bytes low 4 bits, 64 bytes high 2 bits, 16 int8 scales, f16 d;        w = d * sc * (q - 32)
 *   IQ4_NL  32 weights: f16 d, nibbles;                                                          w = d * code[q]
 *   IQ4_XS 256 weights: f16 d, 8 scales of 6 bits (u16 high 2, 4 bytes low 4), 8 times nibbles;   w = d * (sc - 32) * code[q]
 * Of our own (io/packed.c makes them from safetensors, model/quantised.c from plain weights; a GGUF file never has them):
 *   NF4     64 weights: f32 absmax, 2 times nibbles;                                             w = absmax * code[q]
 *   NF4_DQ 512 weights: 8 times nibbles, f32 s, f32 m, 8 bytes i (of 64 weights each), 8 times nibbles;
 *                                                                                               w = (map[i] * s + m) * code[q]
 *   E4M3    64 weights: f32 scale, 64 bytes of f8 (4 bits of exponent, 3 of mantissa, no NaN);    w = scale * f8
 *   INT8    64 weights: f32 scale, the same for the whole row, 64 int8;                            w = scale * q
 *
 * NF4_DQ is NF4 whose scales were quantised themselves (base/nf4.h), in 4.25 bits a weight and not 4.5. s is of 16,384 neighbouring
 * weights of a matrix and m of all: they are repeated in each block, so that a block means something wherever it lies, as any other type's
 * does. Of 1,024 weights it would be 4.19 bits, but unaligned, and rows of many models are multiples of 512 alone. What a block's weights
 * share stands in its middle: with either half of the codes it is one run of 144 bytes from a multiple of 16 on, which is all that a
 * reader of 256 columns asks for.
 *
 * F8 is no format of files but how a backend may keep a matrix [O, C] (backend.h, keep): e4m3 numbers row by row, the same
 * numbers column by column (the products of both directions want their summed index last), then an f32 scale for each row,
 * then the same scales in bf16; 2 C + 6 bytes a row in all, and no row lies alone.
 */
#ifndef CYC_BASE_DTYPE_H
#define CYC_BASE_DTYPE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum dtype {
    DT_NONE,
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_I32,
    DT_Q4_0,
    DT_Q4_1,
    DT_Q5_0,
    DT_Q5_1,
    DT_Q8_0,
    DT_Q2_K,
    DT_Q3_K,
    DT_Q4_K,
    DT_Q5_K,
    DT_Q6_K,
    DT_IQ4_NL,
    DT_IQ4_XS,
    DT_NF4,
    DT_E4M3,
    DT_INT8,
    DT_NF4_DQ,
    DT_COUNT,
    DT_F8 = DT_COUNT,
    DT_ALL
} dtype;

enum { DTYPE_BLOCK_MAX = 512 };

struct dtype_info {
    const char *name; /* as users write it: "f32", "q4_1" */
    int block;        /* elements per block (1 for plain types) */
    int bytes;        /* bytes per block */
};
extern const struct dtype_info dtype_info[DT_ALL];

dtype dtype_parse(const char *name);               /* DT_NONE when unknown; "float32"/"bfloat16"/"float16" too */
size_t dtype_row_bytes(dtype dt, int64_t elems);   /* bytes of a row; elems must be a multiple of the block */
bool dtype_quantised(dtype dt);
bool dtype_plain(dtype dt);                        /* f32, f16 or bf16 */
double dtype_bits(dtype dt);                       /* of a number, with its share of the block's scales */

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);  /* round to nearest even, overflow to infinity */
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float f); /* round to nearest even; NaN stays NaN */

extern const float nf4_code[16];     /* QLoRA's 4-bit NormalFloat (Dettmers et al. 2023, appendix E) */
extern const float nf4_map[256];     /* of its scales (nf4_map.def) */
extern const int8_t iq4_code[16];    /* ggml's kvalues_iq4nl */
float e4m3_to_f32(uint8_t b);        /* the OCP "fn" variant: no infinity, 0x7F and 0xFF are NaN */
/* Scale and min, 6 bits each, of the i-th 32 weights of a Q4_K or Q5_K block; sc: its 12 bytes of them. */
static inline void k4_scale_min(const uint8_t *sc, int64_t i, int *scale, int *min) {
    if (i < 4) *scale = sc[i] & 63, *min = sc[i + 4] & 63;
    else *scale = (sc[i + 4] & 15) | sc[i - 4] >> 6 << 4, *min = sc[i + 4] >> 4 | sc[i] >> 6 << 4;
}
/* The scale of the i-th 16 weights of a Q3_K block; sc: its 12 bytes of them. */
static inline int q3_k_scale(const uint8_t *sc, int64_t i) {
    return ((i < 8 ? sc[i] & 15 : sc[i - 8] >> 4) | (sc[8 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32;
}
/* The scale of the i-th 32 weights of an IQ4_XS block. */
static inline int iq4_xs_scale(const uint8_t *b, int64_t i) {
    return ((b[4 + i / 2] >> (i % 2 * 4) & 15) | (b[2 + i / 4] >> (i % 4 * 2) & 3) << 4) - 32;
}

/* An NF4_DQ block: where what its weights share is, its scale indices, and the nibbles of its i-th 32 weights. */
enum { NF4_DQ_SHARED = 128, NF4_DQ_INDEX = 136 };
static inline int nf4_dq_nibbles(int i) { return 16 * i + (i >> 3 << 4); }
/* The scale of the i-th 64 weights of a block: rounded twice, as bitsandbytes does. */
static inline float nf4_dq_scale(const uint8_t *b, int i) {
    float s[2];
    memcpy(s, b + NF4_DQ_SHARED, sizeof s);
    const float part = nf4_map[b[NF4_DQ_INDEX + i]] * s[0];
    return part + s[1];
}

/* The definition of each format: n elements (a multiple of the block) starting at src, as f32. */
void dequantise_row(dtype dt, const void *src, float *dst, int64_t n);
/* Encodes n f32 values, a multiple of the block and of INT8 a whole row (quantise.c); for the types that dtype_writable(). */
void quantise_row(dtype dt, const float *src, void *dst, int64_t n);
bool dtype_writable(dtype dt); /* can quantise_row() encode it? */
/* `want`, or where its blocks do not fit rows of so many the smallest type of GGUF's with more bits whose blocks do; of types that GGUF does not
 * have DT_NONE then. */
dtype dtype_fitting(dtype want, int64_t cols);

#endif
