/* Element types against their definitions: every half, rounding at every boundary, and each block format from a block
 * written by hand. The quantisers are held to error bounds derived from their step. */
#include "base/dtype.h"
#include "base/philox.h"
#include "cpu/fused.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

static uint32_t bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* (-1)^s m 2^e by ldexp, from the field widths alone. */
static double by_definition(unsigned h, int exponent_bits, int mantissa_bits) {
    int ones = (1 << exponent_bits) - 1, bias = ones >> 1;
    int e = (int)(h >> mantissa_bits) & ones, m = (int)h & ((1 << mantissa_bits) - 1);
    double sign = h >> (exponent_bits + mantissa_bits) ? -1 : 1;
    if (e == ones) return m ? (double)NAN : sign * HUGE_VAL;
    if (e == 0) return sign * ldexp(m, 1 - bias - mantissa_bits);
    return sign * ldexp(m + (1 << mantissa_bits), e - bias - mantissa_bits);
}

static void test_every_half(void **state) {
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        double half = by_definition(h, 5, 10), brain = by_definition(h, 8, 7);
        float f = f16_to_f32((uint16_t)h), b = bf16_to_f32((uint16_t)h);
        if (isnan(half) ? !isnan(f) : bits(f) != bits((float)half)) fail_msg("f16 %04x is %a, not %a", h, f, half);
        if (isnan(brain) ? !isnan(b) : bits(b) != bits((float)brain)) fail_msg("bf16 %04x is %a, not %a", h, b, brain);
        if (isnan(half)) assert_true(isnan(f16_to_f32(f32_to_f16(f))));
        else if (f32_to_f16(f) != h) fail_msg("f16 %04x comes back as %04x", h, f32_to_f16(f));
        if (isnan(brain)) assert_true(isnan(bf16_to_f32(f32_to_bf16(b))));
        else if (f32_to_bf16(b) != h) fail_msg("bf16 %04x comes back as %04x", h, f32_to_bf16(b));
    }
}

/* Between each two neighbours: the middle goes to the even one, a hair either side to the nearer. Both signs. */
static void check_rounding(uint16_t (*round)(float), float (*widen)(uint16_t), unsigned infinity) {
    for (unsigned h = 0; h + 1 < infinity; h++) {
        float lo = widen((uint16_t)h), hi = widen((uint16_t)(h + 1)), middle = lo + (hi - lo) / 2;
        unsigned even = h & 1 ? h + 1 : h;
        if (round(middle) != even || round(-middle) != (even | 0x8000))
            fail_msg("tie above %04x: %04x", h, round(middle));
        if (round(nextafterf(middle, 0)) != h) fail_msg("just below the middle above %04x", h);
        if (round(nextafterf(middle, HUGE_VALF)) != h + 1) fail_msg("just above the middle above %04x", h);
    }
}

static void test_rounding(void **state) {
    (void)state;
    check_rounding(f32_to_f16, f16_to_f32, 0x7C00);
    check_rounding(f32_to_bf16, bf16_to_f32, 0x7F80);
}

static void test_limits(void **state) {
    (void)state;
    assert_int_equal(f32_to_f16(65504.0f), 0x7BFF);
    assert_int_equal(f32_to_f16(65519.996f), 0x7BFF);
    assert_int_equal(f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(f32_to_f16(-65520.0f), 0xFC00);
    assert_int_equal(f32_to_f16(3e38f), 0x7C00);
    assert_int_equal(f32_to_f16(INFINITY), 0x7C00);
    assert_int_equal(f32_to_f16(0x1p-14f), 0x0400);
    assert_int_equal(f32_to_f16(0x1p-24f), 0x0001);
    assert_int_equal(f32_to_f16(0x1p-25f), 0x0000); /* a tie: to even */
    assert_int_equal(f32_to_f16(0x1.000002p-25f), 0x0001);
    assert_int_equal(f32_to_f16(1e-45f), 0x0000);
    assert_int_equal(f32_to_f16(-0.0f), 0x8000);
    assert_int_equal(f32_to_bf16(3.4028235e38f), 0x7F80); /* the largest f32 is above the largest bf16 */
    assert_int_equal(f32_to_bf16(-INFINITY), 0xFF80);
    assert_int_equal(f32_to_bf16(1e-45f), 0x0000);
    uint32_t quiet_low = 0x7F800001; /* a NaN whose payload the cut would drop */
    float nan;
    memcpy(&nan, &quiet_low, 4);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(nan))));
    assert_true(isnan(f16_to_f32(f32_to_f16(nan))));
}

/* --- the kernels' conversions, on every instruction set --------------------------------------------------------------- */
enum { LOT = 1021 }; /* a prime: a tail in every lot, for any width */

static bool same_half(dtype dt, uint16_t a, uint16_t b) {
    const unsigned infinity = dt == DT_F16 ? 0x7C00 : 0x7F80;
    const bool nan_a = (a & 0x7FFFu) > infinity, nan_b = (b & 0x7FFFu) > infinity; /* which NaN is not said */
    return nan_a || nan_b ? nan_a && nan_b : a == b;
}

static void check_narrow(dtype dt, const float *x, int n, const char *isa) {
    uint16_t h[LOT + 2];
    h[0] = h[n + 1] = 0xABCD;
    fused()->narrow(dt, x, h + 1, n);
    assert_true(h[0] == 0xABCD && h[n + 1] == 0xABCD);
    for (int i = 0; i < n; i++) {
        const uint16_t want = dt == DT_F16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
        if (!same_half(dt, h[i + 1], want)) fail_msg("%a as %s on %s: %04x, not %04x", x[i], dtype_info[dt].name, isa, h[i + 1], want);
    }
}

/* Every half wide; and narrow again each of them, the middle to the next, a hair to either side of that, both signs. */
static void check_halves(dtype dt, const char *isa) {
    for (unsigned from = 0; from < 65536; from += LOT) {
        const int n = from + LOT < 65536 ? LOT : (int)(65536 - from);
        uint16_t h[LOT + 1];
        float wide[LOT + 2], x[LOT + 2];
        for (int i = 0; i < n; i++) h[i + 1] = (uint16_t)(from + (unsigned)i);
        wide[n] = 7;
        fused()->widen(dt, h + 1, wide, n); /* from an odd place */
        assert_true(wide[n] == 7);
        for (int i = 0; i < n; i++) {
            const float want = dt == DT_F16 ? f16_to_f32(h[i + 1]) : bf16_to_f32(h[i + 1]);
            if (isnan(want) ? !isnan(wide[i]) : bits(wide[i]) != bits(want))
                fail_msg("%s %04x on %s is %a, not %a", dtype_info[dt].name, h[i + 1], isa, wide[i], want);
        }
        check_narrow(dt, wide, n, isa);
        for (int side = 0; side < 3; side++) {
            for (int i = 0; i < n; i++) {
                const uint16_t up = (uint16_t)(h[i + 1] + 1);
                const float next = dt == DT_F16 ? f16_to_f32(up) : bf16_to_f32(up), middle = wide[i] + (next - wide[i]) / 2;
                x[i] = side == 0 ? middle : nextafterf(middle, side == 1 ? 0 : HUGE_VALF);
            }
            check_narrow(dt, x, n, isa);
        }
    }
}

static void test_kernels(void **state) {
    (void)state;
    for (enum cpu_isa isa = CPU_GENERIC; isa <= CPU_AVX512; isa++) {
        cpu_cap(isa);
        if (cpu_isa() != isa) continue;
        for (int h = 0; h < 2; h++) {
            const dtype dt = h ? DT_BF16 : DT_F16;
            check_halves(dt, cpu_isa_name(isa));
            for (uint32_t lot = 0; lot < 200; lot++) { /* any bits at all, f32's subnormals, infinities and NaNs among them */
                float x[LOT];
                for (uint32_t i = 0; i < LOT; i++) {
                    const uint32_t u = philox(11, lot, i, 0, 0).v[0];
                    memcpy(&x[i], &u, 4);
                }
                check_narrow(dt, x, LOT, cpu_isa_name(isa));
            }
        }
    }
    cpu_cap(CPU_AVX512);
}

static void test_names_and_sizes(void **state) {
    (void)state;
    for (int i = 1; i < DT_COUNT; i++) assert_int_equal(dtype_parse(dtype_info[i].name), i);
    assert_int_equal(dtype_parse("float32"), DT_F32);
    assert_int_equal(dtype_parse("float16"), DT_F16);
    assert_int_equal(dtype_parse("bfloat16"), DT_BF16);
    assert_int_equal(dtype_parse("none"), DT_NONE);
    assert_int_equal(dtype_parse("q1_0"), DT_NONE);
    assert_int_equal(dtype_row_bytes(DT_F32, 7), 28);
    assert_int_equal(dtype_row_bytes(DT_BF16, 7), 14);
    assert_int_equal(dtype_row_bytes(DT_Q4_0, 64), 36);
    assert_int_equal(dtype_row_bytes(DT_Q4_1, 64), 40);
    assert_int_equal(dtype_row_bytes(DT_Q8_0, 64), 68);
    assert_int_equal(dtype_row_bytes(DT_Q6_K, 512), 420);
    assert_false(dtype_quantised(DT_F16));
    assert_true(dtype_quantised(DT_Q6_K));
}

static void test_plain_rows(void **state) {
    (void)state;
    const float x[3] = {1, -2.5f, 0.15625f};
    for (int dt = DT_F32; dt <= DT_BF16; dt++) {
        unsigned char row[13] = {0};
        float y[3];
        quantise_row((dtype)dt, x, row + 1, 3); /* rows need no alignment */
        dequantise_row((dtype)dt, row + 1, y, 3);
        assert_memory_equal(x, y, sizeof x);
    }
}

/* d = 0.5 as a half is 0x3800, m = -1 is 0xBC00; nibbles: weight i is i mod 16, weight i+16 is 15 - i. */
static void test_hand_made_q4(void **state) {
    (void)state;
    uint8_t q40[18] = {0x00, 0x38}, q41[20] = {0x00, 0x38, 0x00, 0xBC};
    for (int i = 0; i < 16; i++) q40[2 + i] = q41[4 + i] = (uint8_t)(i | (15 - i) << 4);
    float y0[32], y1[32];
    dequantise_row(DT_Q4_0, q40, y0, 32);
    dequantise_row(DT_Q4_1, q41, y1, 32);
    for (int i = 0; i < 32; i++) {
        int q = i < 16 ? i : 31 - i;
        assert_true(y0[i] == 0.5f * (float)(q - 8));
        assert_true(y1[i] == 0.5f * (float)q - 1);
    }
}

static void test_hand_made_q8_0(void **state) {
    (void)state;
    uint8_t b[68] = {0x00, 0x38};
    b[34] = 0x00, b[35] = 0xC0; /* the second block's d = -2 */
    for (int i = 0; i < 32; i++) b[2 + i] = b[36 + i] = (uint8_t)(i * 8 - 128);
    float y[64];
    dequantise_row(DT_Q8_0, b, y, 64);
    for (int i = 0; i < 32; i++) {
        assert_true(y[i] == 0.5f * (float)(i * 8 - 128));
        assert_true(y[32 + i] == -2.0f * (float)(i * 8 - 128));
    }
}

/* Weight k of 256 has the 6 bits (7k + 3) mod 64 and, by groups of 16, the scale k/16 - 8. Packed here from the
 * format's description: of each half's 128 weights, 32·j + l has its low nibble in byte 32·(j mod 2) + l, low or high
 * by j / 2, and its two high bits in byte l at 2·j. */
static void test_hand_made_q6_k(void **state) {
    (void)state;
    uint8_t b[210] = {0};
    for (int k = 0; k < 256; k++) {
        int q = (7 * k + 3) % 64, half = k / 128, j = k % 128 / 32, l = k % 32;
        b[64 * half + 32 * (j % 2) + l] |= (uint8_t)((q & 15) << 4 * (j / 2));
        b[128 + 32 * half + l] |= (uint8_t)(q >> 4 << 2 * j);
        b[192 + k / 16] = (uint8_t)(k / 16 - 8);
    }
    b[208] = 0x00, b[209] = 0x34; /* d = 0.25 */
    float y[256];
    dequantise_row(DT_Q6_K, b, y, 256);
    for (int k = 0; k < 256; k++) assert_true(y[k] == 0.25f * (float)(k / 16 - 8) * (float)((7 * k + 3) % 64 - 32));
}

/* The largest error of a round trip: half a step, plus the error of the stored halves, where the step's counts once per
 * code. Q4_0 scales its codes -8..7 by the largest magnitude, so the other end may clip by a whole step; Q4_1 stores
 * its minimum as well. The last term is f32 arithmetic. */
static double half_error(double v) { return fmax(fabs(v) * 0x1p-11, 0x1p-25); }

static double bound(dtype dt, const float *x) {
    double lo = x[0], hi = x[0];
    for (int i = 1; i < 32; i++) lo = fmin(lo, (double)x[i]), hi = fmax(hi, (double)x[i]);
    double big = fmax(fabs(lo), fabs(hi)), small = fmin(fabs(lo), fabs(hi)), rest = 8 * 0x1p-24 * big;
    if (dt == DT_Q8_0) return big / 127 / 2 + 127 * half_error(big / 127) + rest;
    if (dt == DT_Q4_1) return (hi - lo) / 15 / 2 + 15 * half_error((hi - lo) / 15) + half_error(lo) + rest;
    return big / 8 * (small > big * 7 / 8 ? 1 : 0.5) + 8 * half_error(big / 8) + rest;
}

static void test_round_trips(void **state) {
    (void)state;
    static const dtype formats[] = {DT_Q4_0, DT_Q4_1, DT_Q8_0};
    for (int f = 0; f < 3; f++)
        for (uint32_t block = 0; block < 2000; block++) {
            float x[32], y[32];
            uint8_t row[34];
            float scale = ldexpf(1, (int)(block % 17) - 8), shift = block % 3 ? 0 : scale;
            for (uint32_t i = 0; i < 32; i++)
                x[i] = scale * (2 * philox_unit(philox(7, block, i, 0, 0).v[0]) - 1) + shift;
            quantise_row(formats[f], x, row, 32);
            dequantise_row(formats[f], row, y, 32);
            double limit = bound(formats[f], x);
            for (int i = 0; i < 32; i++)
                if (!(fabs((double)x[i] - (double)y[i]) <= limit))
                    fail_msg("%s block %u element %d: %g came back as %g, limit %g", dtype_info[formats[f]].name, block,
                             i, x[i], y[i], limit);
        }
}

static void test_zero_and_constant_blocks(void **state) {
    (void)state;
    static const dtype formats[] = {DT_Q4_0, DT_Q4_1, DT_Q8_0};
    for (int f = 0; f < 3; f++) {
        float x[32] = {0}, y[32];
        uint8_t row[34];
        quantise_row(formats[f], x, row, 32);
        dequantise_row(formats[f], row, y, 32);
        for (int i = 0; i < 32; i++) assert_true(y[i] == 0);
    }
    float x[32], y[32];
    uint8_t row[20];
    for (int i = 0; i < 32; i++) x[i] = 0.75f;
    quantise_row(DT_Q4_1, x, row, 32);
    dequantise_row(DT_Q4_1, row, y, 32);
    assert_memory_equal(x, y, sizeof x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_half),     cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_limits),         cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_names_and_sizes),
        cmocka_unit_test(test_plain_rows),     cmocka_unit_test(test_hand_made_q4),
        cmocka_unit_test(test_hand_made_q8_0), cmocka_unit_test(test_hand_made_q6_k),
        cmocka_unit_test(test_round_trips),    cmocka_unit_test(test_zero_and_constant_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
