/* See nf4.h. */
#include "base/nf4.h"
#include <math.h>
#include <string.h>

float nf4_offset(const float *absmax, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += absmax[i];
    return n ? (float)(sum / (double)n) : 0;
}

/* How many of the middles between neighbours are below v. */
static uint8_t nearest(float v) {
    int lo = 0, hi = 255;
    while (lo < hi) {
        const int at = (lo + hi) / 2;
        if ((nf4_map[at] + nf4_map[at + 1]) / 2 < v) lo = at + 1;
        else hi = at;
    }
    return (uint8_t)lo;
}

void nf4_nest(const float *absmax, int64_t n, float offset, uint8_t *code, float *scale) {
    for (int64_t from = 0; from < n; from += NF4_NEST) {
        const int64_t end = from + NF4_NEST < n ? from + NF4_NEST : n;
        float most = 0;
        for (int64_t i = from; i < end; i++) most = fmaxf(most, fabsf(absmax[i] - offset));
        const float inverse = 1 / fmaxf(most, 1e-38f);
        for (int64_t i = from; i < end; i++) {
            const float v = (absmax[i] - offset) * inverse;
            code[i] = nearest(fminf(fmaxf(v, -1), 1));
        }
        scale[from / NF4_NEST] = most;
    }
}

void nf4_take_absmax(const void *blocks, int64_t n, float *absmax) {
    for (int64_t i = 0; i < n; i++) memcpy(absmax + i, (const char *)blocks + i * NF4_BYTES, sizeof *absmax);
}

void nf4_put_absmax(void *blocks, int64_t n, const float *absmax) {
    for (int64_t i = 0; i < n; i++) memcpy((char *)blocks + i * NF4_BYTES, absmax + i, sizeof *absmax);
}

void nf4_round_absmax(float *absmax, int64_t n) {
    const float offset = nf4_offset(absmax, n);
    for (int64_t from = 0; from < n; from += NF4_NEST) {
        const int64_t some = n - from < NF4_NEST ? n - from : NF4_NEST;
        uint8_t code[NF4_NEST];
        float scale;
        nf4_nest(absmax + from, some, offset, code, &scale);
        for (int64_t i = 0; i < some; i++) absmax[from + i] = nf4_unnest(nf4_map[code[i]], scale, offset);
    }
}

/* --- blocks that have them in 8 bits ----------------------------------------------------------------------------- */

dtype nf4_kept(dtype to, bool nested, int64_t cols) {
    return to == DT_NF4 && nested && cols % dtype_info[DT_NF4_DQ].block == 0 ? DT_NF4_DQ : to;
}

void nf4_dq_codes(const float *x, int64_t n, void *blocks, float *absmax) {
    uint8_t one[NF4_BYTES], *b = blocks;
    for (int64_t i = 0; i < n / NF4_BLOCK; i++) {
        const int k = (int)(i % NF4_DQ_SCALES);
        quantise_row(DT_NF4, x + i * NF4_BLOCK, one, NF4_BLOCK);
        nf4_take_absmax(one, 1, absmax + i);
        memcpy(b + nf4_dq_nibbles(2 * k), one + 4, NF4_BLOCK / 2);
        if (k == NF4_DQ_SCALES - 1) b += dtype_info[DT_NF4_DQ].bytes;
    }
}

void nf4_dq_put(void *block, float scale, float offset, const uint8_t *index) {
    const float shared[2] = {scale, offset};
    memcpy((uint8_t *)block + NF4_DQ_SHARED, shared, sizeof shared);
    memcpy((uint8_t *)block + NF4_DQ_INDEX, index, NF4_DQ_SCALES);
}

void nf4_dq_scales(void *blocks, int64_t n, const float *absmax) {
    const float offset = nf4_offset(absmax, n);
    uint8_t *b = blocks;
    for (int64_t from = 0; from < n; from += NF4_NEST) {
        const int64_t some = n - from < NF4_NEST ? n - from : NF4_NEST;
        uint8_t code[NF4_NEST];
        float scale;
        nf4_nest(absmax + from, some, offset, code, &scale);
        for (int64_t i = 0; i < some; i += NF4_DQ_SCALES, b += dtype_info[DT_NF4_DQ].bytes) nf4_dq_put(b, scale, offset, code + i);
    }
}
