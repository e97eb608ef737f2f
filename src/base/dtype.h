/* Element types: plain ones and GGUF's block-quantised ones. A quantised row is a run of blocks; a tensor is
 * quantised along its last dimension, which is a multiple of the block size.
 *
 * Formats are ggml's (docs: ggml/include, block layouts as on disk):
 *   Q4_0  32 weights: f16 d, 16 bytes nibbles (low nibble = weight i, high = weight i+16);      w = d * (q - 8)
 *   Q4_1  32 weights: f16 d, f16 m, 16 bytes nibbles;                                            w = d * q + m
 *   Q8_0  32 weights: f16 d, 32 int8;                                                            w = d * q
 *   Q6_K 256 weights: 128 bytes low 4 bits, 64 bytes high 2 bits, 16 int8 scales, f16 d;         w = d * sc * (q - 32)
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

typedef enum dtype { DT_NONE, DT_F32, DT_F16, DT_BF16, DT_I32, DT_Q4_0, DT_Q4_1, DT_Q8_0, DT_Q6_K, DT_COUNT, DT_F8 = DT_COUNT, DT_ALL } dtype;

struct dtype_info {
    const char *name; /* as users write it: "f32", "q4_1" */
    int block;        /* elements per block (1 for plain types) */
    int bytes;        /* bytes per block */
};
extern const struct dtype_info dtype_info[DT_ALL];

dtype dtype_parse(const char *name);               /* DT_NONE when unknown; "float32"/"bfloat16"/"float16" too */
size_t dtype_row_bytes(dtype dt, int64_t elems);   /* bytes of a row; elems must be a multiple of the block */
bool dtype_quantised(dtype dt);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);  /* round to nearest even, overflow to infinity */
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float f); /* round to nearest even; NaN stays NaN */

/* The definition of each format: n elements (a multiple of the block) starting at src, as f32. */
void dequantise_row(dtype dt, const void *src, float *dst, int64_t n);
/* Encodes n f32 values (F32, F16, BF16, Q8_0, Q4_0, Q4_1; for tests and random models). */
void quantise_row(dtype dt, const float *src, void *dst, int64_t n);
bool dtype_writable(dtype dt); /* can quantise_row() encode it? */

#endif
