/* See nf4.h. */
#include "base/nf4.h"
#include <math.h>
#include <string.h>

enum { CODES = 256, EXPONENTS = 7 };

/* torch's linspace(0.1, 1, n)[i] in f32: from the nearer end, by multiply-adds. */
static float between(int i, int n) {
    const float step = (1.0f - 0.1f) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, 0.1f) : fmaf(-step, (float)(n - 1 - i), 1);
}

/* The positive half: 10^-6 to 1, of each power of ten twice as many as of the one below, the middles of equal parts of 0.1 to 1; zero;
 * their mirror images; and 1 itself. */
const float *nf4_absmax_code(void) {
    static float code[CODES];
    static const double power[EXPONENTS] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
    float made[CODES];
    int n = 0;
    if (code[CODES - 1] != 0) return code;
    for (int e = 0; e < EXPONENTS; e++)
        for (int i = 0; i < 1 << e; i++, n++) {
            const float middle = (between(i, (1 << e) + 1) + between(i + 1, (1 << e) + 1)) / 2;
            made[n] = (float)power[e] * middle;
        }
    for (int i = 0; i < n; i++) code[n - 1 - i] = -made[i], code[n + 1 + i] = made[i];
    code[n] = 0;
    code[CODES - 1] = 1; /* last: whoever finds it finds all */
    return code;
}

float nf4_offset(const float *absmax, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += absmax[i];
    return n ? (float)(sum / (double)n) : 0;
}

/* How many of the middles between neighbours are below v. */
static uint8_t nearest(const float *code, float v) {
    int lo = 0, hi = CODES - 1;
    while (lo < hi) {
        const int at = (lo + hi) / 2;
        if ((code[at] + code[at + 1]) / 2 < v) lo = at + 1;
        else hi = at;
    }
    return (uint8_t)lo;
}

void nf4_nest(const float *absmax, int64_t n, float offset, uint8_t *code, float *scale) {
    const float *map = nf4_absmax_code();
    for (int64_t from = 0; from < n; from += NF4_NEST) {
        const int64_t end = from + NF4_NEST < n ? from + NF4_NEST : n;
        float most = 0;
        for (int64_t i = from; i < end; i++) most = fmaxf(most, fabsf(absmax[i] - offset));
        const float inverse = 1 / fmaxf(most, 1e-38f);
        for (int64_t i = from; i < end; i++) {
            const float v = (absmax[i] - offset) * inverse;
            code[i] = nearest(map, fminf(fmaxf(v, -1), 1));
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
        for (int64_t i = 0; i < some; i++) absmax[from + i] = nf4_unnest(nf4_absmax_code()[code[i]], scale, offset);
    }
}
