/* Weights in several tensors (io/packed.h): what bitsandbytes and torch make of the fixtures
 * (tests/golden/make/packed.py), and each message. The refusals come from the fixture's own tensors with one of them
 * bent or left out. */
#include "support/support.h"
#include "io/packed.h"

static void same_values(const char *file, const char *const *names, int n, dtype dt, float tolerance) {
    struct tensors ts;
    char name[64];
    must(tensors_open(file, &ts));
    for (int i = 0; i < n; i++) {
        struct tensor out;
        snprintf(name, sizeof name, "%s.values", names[i]);
        const struct tensor *want = fixture(&ts, name);
        snprintf(name, sizeof name, "%s.weight", names[i]);
        const struct tensor *t = fixture(&ts, name);
        assert_int_equal(t->dt, DT_NONE);
        size_t before = ts.copied;
        must(packed_tensor(&ts, t, &out));
        int64_t elements = want->d[0] * want->d[1];
        assert_true(out.nd == 2 && out.d[0] == want->d[0] && out.d[1] == want->d[1]);
        if (dt) assert_int_equal(out.dt, dt);
        assert_int_equal(out.bytes, dtype_row_bytes(out.dt, elements));
        assert_int_equal(ts.copied, before + out.bytes);
        float *y = malloc((size_t)elements * 4);
        dequantise_row(out.dt, out.data, y, elements);
        for (int64_t k = 0; k < elements; k++)
            if (!(fabsf(y[k] - f32_of(want)[k]) <= tolerance * fabsf(f32_of(want)[k])))
                flunk("%s weight %lld is %.9g, must be %.9g", name, (long long)k, (double)y[k],
                      (double)f32_of(want)[k]);
        free(y);
    }
    tensors_close(&ts);
}

/* Scales that were quantised stay so where a block of 512 has room for all that the file says of them, else their values are kept. */
static void test_nested(void **state) {
    (void)state;
    static float other_map[256];
    for (int bent = 0; bent < 3; bent++) {
        struct tensors ts;
        struct tensor out;
        must(tensors_open(GOLDEN "/packed/nf4_wide.safetensors", &ts));
        const struct tensor *want = fixture(&ts, "wide.values");
        struct tensor *map = (struct tensor *)(uintptr_t)fixture(&ts, "wide.weight.nested_quant_map");
        struct tensor *said = (struct tensor *)(uintptr_t)fixture(&ts, "wide.weight.quant_state.bitsandbytes__nf4");
        if (bent == 1) memcpy(other_map, map->data, sizeof other_map), other_map[255] = 0.99f, map->data = other_map;
        if (bent == 2) { /* groups of 100 are no whole blocks; the last ones have scales of 0 then */
            static char json[300];
            static float scales[3];
            const char *size = strstr(memcpy(json, said->data, said->bytes), "256");
            assert_non_null(size);
            memcpy((char *)(uintptr_t)size, "100", 3);
            struct tensor *nested = (struct tensor *)(uintptr_t)fixture(&ts, "wide.weight.nested_absmax");
            said->data = json, nested->data = scales, nested->d[0] = 3;
        }
        must(packed_tensor(&ts, fixture(&ts, "wide.weight"), &out));
        assert_int_equal(out.dt, bent ? DT_NF4 : DT_NF4_DQ);
        assert_int_equal(out.bytes, 33 * (bent ? 288 : 272));
        for (int r = 0; r < 3 && !bent; r++) {
            float row[512];
            dequantise_row(out.dt, (const char *)out.data + (r ? 30 + r : 0) * 272, row, 512);
            for (int c = 0; c < 512; c++)
                if (row[c] != f32_of(want)[512 * r + c])
                    flunk("row %d, %d: %a, must be %a", r, c, (double)row[c], (double)f32_of(want)[512 * r + c]);
        }
        tensors_close(&ts);
    }
}

static void test_values(void **state) {
    (void)state;
    static const char *const nf4[] = {"plain", "nested"}, *const f8[] = {"none", "tensor", "channel", "blocks"},
                             *const plain[] = {"e5m2", "f64"};
    same_values(GOLDEN "/packed/nf4.safetensors", nf4, 2, DT_NF4, 0);
    same_values(GOLDEN "/packed/f8.safetensors", f8, 4, DT_E4M3, 0);
    same_values(GOLDEN "/packed/f8.safetensors", plain, 2, DT_NONE, 0);
}

/* Opens a fixture, bends one tensor of it, and expects the refusal. */
static void refused(const char *file, const char *weight, const char *bent, void (*bend)(struct tensor *), err code,
                    const char *says) {
    struct tensors ts;
    struct tensor out;
    must(tensors_open(file, &ts));
    if (bend) bend((struct tensor *)(uintptr_t)fixture(&ts, bent));
    err e = packed_tensor(&ts, fixture(&ts, weight), &out);
    if (e != code || !strstr(err_text(), says) || !strstr(err_text(), file))
        flunk("%s with %s bent: wanted %d \"%s\", got %d \"%s\"", weight, bent, code, says, e, e ? err_text() : "");
    tensors_close(&ts);
}

static void lose(struct tensor *t) {
    ((char *)(uintptr_t)t->name)[0] = '\1';
} /* still sorted: it was the first of its kind or is not searched for */
static void shorten(struct tensor *t) { t->d[0]--; }
static void retype(struct tensor *t) { t->stored = "I16"; }
static void rename_f32(struct tensor *t) { t->dt = DT_I32, t->stored = "I32"; }

static const char *json;
static void restate(struct tensor *t) { t->data = json, t->bytes = strlen(json); }
static const float nan_scale[64] = {NAN};
static void nan_first(struct tensor *t) { t->data = nan_scale; }
static const uint8_t nan_bytes[1 << 15] = {[700] = 0xFF};
static void nan_weight(struct tensor *t) { t->data = nan_bytes; }
static void narrow(struct tensor *t) { t->d[0] *= 2, t->d[1] /= 2; }

static void state_says(const char *text, err code, const char *says) {
    json = text;
    refused(GOLDEN "/packed/nf4.safetensors", "plain.weight", "plain.weight.quant_state.bitsandbytes__nf4", restate,
            code, says);
}

static void test_refusals(void **state) {
    (void)state;
    const char *nf4 = GOLDEN "/packed/nf4.safetensors", *f8 = GOLDEN "/packed/f8.safetensors";
    refused(nf4, "plain.weight", "plain.weight", retype, E_UNSUPPORTED, "has dtype I16");
    refused(nf4, "plain.weight", "plain.weight", shorten, E_INPUT, "its quant_state says [24, 128]");
    refused(nf4, "plain.weight", "plain.weight.absmax", shorten, E_INPUT, "is F32 of 47 elements, must be F32 of 48");
    refused(nf4, "plain.weight", "plain.weight.absmax", retype, E_INPUT, "is I16 of 48 elements, must be F32");
    refused(nf4, "plain.weight", "plain.weight.absmax", nan_first, E_NUMERIC, "not finite (NaN or infinity) in row 0");
    refused(nf4, "plain.weight", "plain.weight.quant_map", nan_first, E_UNSUPPORTED, "is not NF4's code");
    refused(nf4, "plain.weight", "plain.weight.quant_map", lose, E_INPUT, "has no plain.weight.quant_map beside it");
    refused(nf4, "nested.weight", "nested.weight.nested_quant_map", shorten, E_INPUT, "must be F32 of 256");
    refused(nf4, "nested.weight", "nested.weight.nested_absmax", shorten, E_INPUT, "nested_absmax");
    refused(nf4, "plain.weight", "plain.weight.quant_state.bitsandbytes__nf4", retype, E_INPUT, "must be U8");
    state_says("{", E_INPUT, "not valid JSON");
    state_says("[]", E_UNSUPPORTED, "quant_type must be nf4 and blocksize 64");
    state_says("{\"quant_type\":\"nf4\",\"blocksize\":128,\"shape\":[24,128]}", E_UNSUPPORTED, "blocksize 64");
    state_says("{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[24]}", E_INPUT, "not that of a matrix");
    state_says("{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[24,-128]}", E_INPUT, "not that of a matrix");
    state_says("{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[96,32]}", E_UNSUPPORTED,
               "rows of 32 weights are no whole number of blocks of 64");
    refused(f8, "tensor.weight", "tensor.weight_scale", rename_f32, E_UNSUPPORTED, "scales of type I32 are not read");
    refused(f8, "blocks.weight", "blocks.weight_scale_inv", shorten, E_UNSUPPORTED,
            "is [1, 2]: scales are read one for the matrix");
    refused(f8, "channel.weight", "channel.weight", nan_weight, E_NUMERIC,
            "tensor channel.weight is not finite (NaN or infinity) in row 3");
    refused(f8, "tensor.weight", "tensor.weight_scale", nan_first, E_NUMERIC, "tensor tensor.weight is not finite");
    refused(f8, "none.weight", "none.weight", narrow, E_UNSUPPORTED, "rows of 96 weights");
}

static void test_missing(void **state) {
    (void)state;
    struct tensor t[] = {{.name = "a.qweight"}, {.name = "b.weight_packed"}};
    struct tensors ts = {.path = "some/model", .t = t, .n = 2};
    assert_int_equal(packed_missing(&ts, "a.weight"), E_UNSUPPORTED);
    assert_string_equal(err_text(), "some/model: tensor a.weight is quantised as GPTQ or AWQ (a.qweight is there), "
                                    "which is not read; use a GGUF file, NF4, or the model in bf16");
    assert_int_equal(packed_missing(&ts, "b.weight"), E_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "compressed-tensors in packed integers"));
    assert_int_equal(packed_missing(&ts, "c.weight"), E_INPUT);
    assert_string_equal(err_text(), "some/model: tensor c.weight is missing");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_nested), cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_missing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
