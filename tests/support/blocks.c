/* Random weights of every quantised type; apart from the rest of support.c, which needs cmocka. */
#include "base/dtype.h"
#include "base/philox.h"
#include <string.h>

void random_blocks(dtype dt, void *p, int64_t n, float scale, uint32_t *rng);

void random_blocks(dtype dt, void *p, int64_t n, float scale, uint32_t *rng) {
    static const struct {
        dtype dt;
        int at[2], full; /* where its halves (floats of our own formats) lie, -1: none; the largest that they are
                            multiplied with */
    } forms[] = {{DT_Q4_0, {0, -1}, 8},      {DT_Q4_1, {0, 2}, 16},     {DT_Q5_0, {0, -1}, 16},
                 {DT_Q5_1, {0, 2}, 32},      {DT_Q8_0, {0, -1}, 128},   {DT_Q2_K, {80, 82}, 45},
                 {DT_Q3_K, {108, -1}, 128},  {DT_Q4_K, {0, 2}, 945},    {DT_Q5_K, {0, 2}, 1953},
                 {DT_Q6_K, {208, -1}, 4096}, {DT_IQ4_NL, {0, -1}, 127}, {DT_IQ4_XS, {0, -1}, 4064},
                 {DT_NF4, {0, -1}, 1},       {DT_E4M3, {0, -1}, 448},
                 {DT_INT8, {0, -1}, 128},     {DT_NF4_DQ, {NF4_DQ_SHARED, NF4_DQ_SHARED + 4}, 2}};
    uint8_t *b = p;
    const int block = dtype_info[dt].block, bytes = dtype_info[dt].bytes;
    for (int64_t i = 0; i < n; i += block, b += bytes) {
        for (int k = 0; k < bytes; k++) b[k] = (uint8_t)philox(77, (*rng)++, 0, 0, 0).v[0];
        for (int k = 4; dt == DT_E4M3 && k < bytes; k++)
            if ((b[k] & 0x7F) == 0x7F) b[k] ^= 1; /* no NaN */
        for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
            for (int k = 0; k < 2 && forms[f].dt == dt; k++) {
                float d = (philox_unit(philox(78, (*rng)++, 0, 0, 0).v[0]) * 2 - 1) * scale / (float)forms[f].full;
                uint16_t h = f32_to_f16(d);
                if (forms[f].at[k] < 0) continue;
                if (dt >= DT_NF4) memcpy(b + forms[f].at[k], &d, 4);
                else memcpy(b + forms[f].at[k], &h, 2);
            }
    }
}
