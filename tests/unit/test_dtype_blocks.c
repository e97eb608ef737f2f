/* Every quantised GGUF type on random blocks: what the reference makes of them (tests/golden/make/blocks.py), bit for
 * bit. Our encoders: the error of a block against what ggml's own left on the same numbers. NF4, E4M3 and INT8, which
 * are ours, against their definitions in double (test_nf4.c: against bitsandbytes). */
#include "support/support.h"
#include "base/philox.h"

static void same_as_reference(void **state) {
    (void)state;
    struct tensors ts;
    must(tensors_open(GOLDEN "/blocks/blocks.safetensors", &ts));
    int seen = 0;
    for (int dt = DT_Q4_0; dt < DT_COUNT; dt++) {
        char name[32];
        snprintf(name, sizeof name, "%s.blocks", dtype_info[dt].name);
        const struct tensor *blocks = tensors_find(&ts, name);
        if (!blocks) continue; /* our own */
        snprintf(name, sizeof name, "%s.values", dtype_info[dt].name);
        const struct tensor *values = fixture(&ts, name);
        int64_t n = values->d[0];
        float *y = malloc((size_t)n * 4);
        assert_int_equal(blocks->bytes, dtype_row_bytes(dt, n));
        dequantise_row(dt, blocks->data, y, n);
        for (int64_t i = 0; i < n; i++)
            if (memcmp(y + i, f32_of(values) + i, 4))
                flunk("%s: weight %lld is %a, the reference says %a", name, (long long)i, (double)y[i],
                      (double)f32_of(values)[i]);
        free(y);
        seen++;
    }
    assert_int_equal(seen, 12);
    tensors_close(&ts);
}

/* Normal numbers, by Box and Muller. */
static void bell(float *x, int n) {
    for (int i = 0; i < n; i++) {
        struct philox p = philox(5, (uint32_t)i, 0, 0, 0);
        x[i] = (float)(sqrt(-2 * log((p.v[0] + 0.5) * 0x1p-32)) * cos(6.283185307179586 * p.v[1] * 0x1p-32));
    }
}

/* Relative errors of ggml 0.13.1's quantisers on 2^18 normal numbers (libggml-base of the PyPI package pywhispercpp)
 * and 3 %. */
static void encoders_are_as_good(void **state) {
    (void)state;
    static const struct {
        dtype dt;
        double rms;
    } peers[] = {{DT_Q4_0, 0.0862},  {DT_Q4_1, 0.0784}, {DT_Q5_0, 0.0429}, {DT_Q5_1, 0.0380},
                 {DT_Q8_0, 0.00537}, {DT_Q4_K, 0.0716}, {DT_Q5_K, 0.0362}, {DT_Q6_K, 0.0178},
                 {DT_NF4, 0.0930},   {DT_E4M3, 0.0270}, {DT_INT8, 0.0085}}; /* the last three: of the definition, measured */
    enum { N = 1 << 14 };
    float *x = malloc(N * 4), *y = malloc(N * 4);
    uint8_t *b = malloc(N * 2);
    bell(x, N);
    for (size_t p = 0; p < sizeof peers / sizeof *peers; p++) {
        double e = 0, s = 0;
        assert_true(dtype_writable(peers[p].dt));
        quantise_row(peers[p].dt, x, b, N);
        dequantise_row(peers[p].dt, b, y, N);
        for (int i = 0; i < N; i++) e += pow((double)y[i] - (double)x[i], 2), s += pow(x[i], 2);
        double rms = sqrt(e / s);
        print_message("%s: relative error %.5f, peer %.5f\n", dtype_info[peers[p].dt].name, rms, peers[p].rms);
        if (!(rms <= 1.03 * peers[p].rms))
            flunk("%s: relative error %.5f, more than 3 %% above %.5f", dtype_info[peers[p].dt].name, rms,
                  peers[p].rms);
    }
    for (int dt = DT_F32; dt < DT_COUNT; dt++)
        assert_int_equal(dtype_writable(dt),
                         dt != DT_I32 && dt != DT_Q2_K && dt != DT_Q3_K && dt != DT_IQ4_NL && dt != DT_IQ4_XS && dt != DT_NF4_DQ);
    free(x), free(y), free(b);
}

/* Blocks that hold nothing, one value, or one weight beside zeros: no NaN, zeros stay, the largest weight within its
 * grid. */
static void degenerate_blocks(void **state) {
    (void)state;
    float x[256], y[256];
    uint8_t b[1024];
    for (int dt = DT_F32; dt < DT_COUNT; dt++)
        for (int kind = 0; kind < 5 && dtype_writable(dt); kind++) {
            for (int i = 0; i < 256; i++)
                x[i] = kind == 0 ? 0 : kind == 1 ? 0.5f : kind == 2 ? -0.5f : i == 77 ? (kind == 3 ? 1.0f : -1.0f) : 0;
            quantise_row(dt, x, b, 256);
            dequantise_row(dt, b, y, 256);
            for (int i = 0; i < 256; i++)
                if (!(fabsf(y[i] - x[i]) <= 0.1f * fabsf(x[i]) + (kind > 2 && x[i] == 0 ? 0.02f : 0)))
                    flunk("%s, kind %d: weight %d is %g, was %g", dtype_info[dt].name, kind, i, (double)y[i],
                          (double)x[i]);
        }
}

/* Every code of the layouts of our own, at its place in the block. */
static void own_layouts(void **state) {
    (void)state;
    uint8_t b[68];
    float y[64], scale = -0.37f;
    memcpy(b, &scale, 4);
    for (int i = 0; i < 32; i++) b[4 + i] = (uint8_t)((i * 7 & 15) | ((i * 5 + 3) & 15) << 4);
    dequantise_row(DT_NF4, b, y, 64);
    for (int i = 0; i < 64; i++) {
        int byte = i / 32 * 16 + i % 16, code = i % 32 < 16 ? byte * 7 & 15 : (byte * 5 + 3) & 15;
        assert_true(y[i] == scale * nf4_code[code]);
    }
    for (int first = 0; first < 256; first += 64) {
        for (int i = 0; i < 64; i++) b[4 + i] = (uint8_t)(first + i);
        dequantise_row(DT_E4M3, b, y, 64);
        for (int i = 0; i < 64; i++) {
            int e = (first + i) >> 3 & 15, m = (first + i) & 7;
            double v = ldexp(e ? 8 + m : m, (e ? e : 1) - 10) * (first + i >= 128 ? -1 : 1);
            if (e == 15 && m == 7) assert_true(isnan(y[i]));
            else if (y[i] != scale * (float)v)
                flunk("e4m3 %02x is %g, not %g", first + i, (double)y[i] / (double)scale, v);
        }
        dequantise_row(DT_INT8, b, y, 64);
        for (int i = 0; i < 64; i++) assert_true(y[i] == scale * (float)(int8_t)(first + i));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_reference), cmocka_unit_test(encoders_are_as_good),
                                       cmocka_unit_test(degenerate_blocks), cmocka_unit_test(own_layouts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
