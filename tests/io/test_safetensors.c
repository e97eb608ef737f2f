/* The safetensors reader against headers written here, the writer against the reader, folders of shards, and what each
 * wrong field is called. */
#define _GNU_SOURCE /* mkdtemp */
#include "io/tensors.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static char folder[] = "/tmp/cyc-test-safetensors-XXXXXX";
static char path[64];

static void put_file(const char *to, const void *bytes, size_t n) {
    FILE *f = fopen(to, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A file of this header and n bytes of data 0, 1, 2... */
static str make(const char *header, size_t n) {
    str b = {0};
    uint64_t length = strlen(header);
    str_add(&b, (const char *)&length, 8);
    str_adds(&b, header);
    for (size_t i = 0; i < n; i++) str_addc(&b, (char)i);
    return b;
}

static err open_header(const char *header, size_t n, struct tensors *ts) {
    str b = make(header, n);
    put_file(path, b.p, b.n);
    str_free(&b);
    return tensors_open(path, ts);
}

static void check_refusal(const char *where, err e, err code, const char *says, const struct tensors *ts) {
    if (e != code || !strstr(err_text(), says) || !str_starts(err_text(), folder))
        fail_msg("%s: wanted %d \"%s\", got %d \"%s\"", where, code, says, e, e ? err_text() : "");
    assert_null(ts->mem.head);
    assert_int_equal(ts->n_maps, 0);
}

static void test_good_file(void **state) {
    (void)state;
    struct tensors ts;
    /* The header's order is free; padding, metadata and unknown fields are fine; 8 + 256 bytes of header. */
    char header[257];
    snprintf(header, sizeof header, "%-256s",
             "{\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[16,28]},\"__metadata__\":{\"format\":\"pt\"},"
             "\"a\":{\"shape\":[2,1,2],\"dtype\":\"F32\",\"data_offsets\":[0,16],\"x\":1},"
             "\"s\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[28,30]}}");
    assert_int_equal(open_header(header, 30, &ts), OK);
    assert_int_equal(ts.n, 3);
    assert_null(ts.meta);
    const struct tensor *a = tensors_find(&ts, "a"), *b = tensors_find(&ts, "b"), *s = tensors_find(&ts, "s");
    assert_int_equal(a->dt, DT_F32);
    assert_int_equal(a->nd, 3);
    assert_int_equal(a->d[0], 2);
    assert_int_equal(a->d[2], 2);
    assert_int_equal(a->bytes, 16);
    assert_int_equal(*(const uint8_t *)a->data, 0);
    assert_int_equal(b->dt, DT_F16);
    assert_int_equal(*(const uint8_t *)b->data, 16);
    assert_int_equal(s->dt, DT_BF16);
    assert_int_equal(s->nd, 1); /* a scalar is a vector of one */
    assert_int_equal(s->d[0], 1);
    assert_null(tensors_find(&ts, "__metadata__"));
    tensors_close(&ts);
    assert_int_equal(open_header("{\"w\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[0,0]}}", 0, &ts), OK);
    assert_int_equal(ts.n, 0); /* what has no elements is left out */
    tensors_close(&ts);
    assert_int_equal(open_header("{}", 0, &ts), OK);
    assert_int_equal(ts.n, 0);
    assert_null(tensors_find(&ts, "a"));
    tensors_close(&ts);
}

/* A header of odd length, and a lone half before floats: still aligned for the kernels. */
static void test_misaligned_data(void **state) {
    (void)state;
    struct tensors ts;
    assert_int_equal(open_header("{\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},"
                                 "\"f\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[2,10]}}",
                                 10, &ts),
                     OK);
    for (int i = 0; i < ts.n; i++) assert_int_equal((uintptr_t)ts.t[i].data % (size_t)dtype_info[ts.t[i].dt].bytes, 0);
    assert_memory_equal(tensors_find(&ts, "f")->data, "\2\3\4\5\6\7\x8\x9", 8);
    tensors_close(&ts);
}

#define ONE(dtype, shape, offsets) "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(name, from, to)                                                                                            \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"" name                                          \
    "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" from "," to "]}}"
static const struct {
    const char *header;
    size_t data;
    err code;
    const char *says;
} corruptions[] = {
    {"[1]", 0, E_INPUT, "does not start with '{'"},
    {"{\"w\":", 0, E_INPUT, "not valid JSON at its byte"},
    {"{}}", 0, E_INPUT, "not valid JSON"},
    {"{\"w\":1}", 0, E_INPUT, "tensor 'w': its header entry is no object"},
    {"{\"__metadata__\":1}", 0, E_INPUT, "\"__metadata__\" is no object"},
    {TWO("a", "8", "16"), 16, E_INPUT, "not valid JSON at its byte 57: duplicate object key"},
    {TWO("", "8", "16"), 16, E_INPUT, "a tensor's name (0 bytes)"},
    {TWO("x\\u001b[31m", "8", "16"), 16, E_INPUT, "a tensor's name (6 bytes)"},
    {TWO("b", "9", "17"), 17, E_INPUT, "tensor 'b' starts at byte"},
    {TWO("b", "4", "12"), 12, E_INPUT, "they overlap"},
    {TWO("b", "8", "16"), 17, E_INPUT, "1 bytes follow the last tensor"},
    {TWO("b", "8", "16"), 12, E_INPUT, "tensor 'b' needs 16 bytes of data, the file has 12: 4 bytes are missing"},
    {TWO("b", "1000000", "1000008"), 16, E_INPUT, "999992 bytes are missing"},
    {ONE("\"F32\"", "[2]", "[0,9]"), 9, E_INPUT, "tensor 'w': data_offsets [0, 9] do not span the 8 bytes"},
    {ONE("\"F32\"", "[2]", "[8,0]"), 8, E_INPUT, "data_offsets [8, 0]"},
    {ONE("\"F32\"", "[2]", "[-8,0]"), 8, E_INPUT, "data_offsets [-8, 0]"},
    {ONE("\"F32\"", "[2]", "[9223372036854775800,9223372036854775807]"), 8, E_INPUT, "do not span"},
    {ONE("\"F32\"", "[2]", "[0,99999999999999999999]"), 8, E_INPUT, "not valid JSON"},
    {ONE("\"F32\"", "[2]", "[0]"), 8, E_INPUT, "no \"data_offsets\" of two integers"},
    {ONE("\"F32\"", "[2]", "[0,8.0]"), 8, E_INPUT, "no \"data_offsets\" of two integers"},
    {ONE("\"F32\"", "[2]", "8"), 8, E_INPUT, "no \"data_offsets\" of two integers"},
    {ONE("\"F32\"", "2", "[0,8]"), 8, E_INPUT, "tensor 'w': no \"shape\" array"},
    {ONE("\"F32\"", "[1,-2]", "[0,8]"), 8, E_INPUT, "dimension 1 of its shape is no size"},
    {ONE("\"F32\"", "[\"2\"]", "[0,8]"), 8, E_INPUT, "dimension 0 of its shape is no size"},
    {ONE("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 8, E_INPUT, "tensor 'w': its shape's product overflows"},
    {ONE("\"F32\"", "[9223372036854775807,1]", "[0,8]"), 8, E_INPUT, "its size in bytes overflows"},
    {ONE("\"F32\"", "[1,1,1,1,2]", "[0,8]"), 8, E_UNSUPPORTED, "tensor 'w' has 5 dimensions; up to 4"},
    {ONE("\"F32\"", "[0]", "[0,4]"), 4, E_INPUT, "data_offsets [0, 4] do not span the 0 bytes"},
    {ONE("\"F32\"", "[0]", "[0,0]"), 4, E_INPUT, "4 bytes follow the last tensor"},
    {ONE("4", "[2]", "[0,8]"), 8, E_INPUT, "tensor 'w': no \"dtype\" string"},
    {ONE("\"F4\"", "[16]", "[0,8]"), 8, E_UNSUPPORTED, "tensor 'w' has dtype F4, which is not known"},
    {ONE("\"I64\"", "[2]", "[0,8]"), 8, E_INPUT, "do not span the 16 bytes of its shape"},
    {ONE("\"\\u001b\"", "[8]", "[0,8]"), 8, E_UNSUPPORTED, "has dtype unknown"},
    {"{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, E_INPUT, "no \"dtype\" string"},
    {"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, E_INPUT, "no \"shape\" array"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, E_INPUT, "no \"data_offsets\""},
};

static void test_each_field_corrupt(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof corruptions / sizeof *corruptions; i++) {
        struct tensors ts;
        err e = open_header(corruptions[i].header, corruptions[i].data, &ts);
        check_refusal(corruptions[i].header, e, corruptions[i].code, corruptions[i].says, &ts);
    }
}

static void test_header_length(void **state) {
    (void)state;
    static const struct {
        uint64_t length;
        const char *says;
    } wrong[] = {{0, "claim a header of 0 bytes"},
                 {1, "claim a header of 1 bytes"},
                 {100000001, "claim a header of 100000001 bytes"},
                 {UINT64_MAX, "claim a header of 18446744073709551615 bytes"},
                 {63, "1 bytes are missing"}};
    str b = make(ONE("\"F32\"", "[2]", "[0,8]"), 8);
    assert_int_equal(b.n, 8 + 62);
    struct tensors ts;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        memcpy(b.p, &wrong[i].length, 8);
        put_file(path, b.p, b.n);
        check_refusal("length", tensors_open(path, &ts), E_INPUT, wrong[i].says, &ts);
    }
    str_free(&b);
}

static void test_truncated_anywhere(void **state) {
    (void)state;
    str b = make(TWO("b", "8", "16"), 16);
    for (size_t n = 0; n < b.n; n++) {
        struct tensors ts;
        put_file(path, b.p, n);
        const char *says = n == 0 ? "empty" : n < 8 ? "truncated" : "bytes are missing";
        check_refusal("cut", tensors_open(path, &ts), E_INPUT, says, &ts);
    }
    str_free(&b);
}

static void test_any_byte_wrong(void **state) {
    (void)state;
    str b = make(TWO("b", "8", "16"), 16);
    for (size_t i = 0; i < b.n - 16; i++)
        for (int wrong = 0; wrong < 256; wrong += 15) {
            char keep = b.p[i];
            b.p[i] = (char)wrong;
            put_file(path, b.p, b.n);
            struct tensors ts;
            err e = tensors_open(path, &ts);
            if (e) assert_true(e == E_INPUT || e == E_UNSUPPORTED);
            if (e) assert_true(str_starts(err_text(), path));
            tensors_close(&ts);
            b.p[i] = keep;
        }
    str_free(&b);
}

static void test_write_and_read_back(void **state) {
    (void)state;
    const float f[6] = {0, -0.0f, 1.5f, 3.4e38f, -1e-45f, 7};
    const uint16_t h[3] = {0x3C00, 0x7BFF, 0x8001}, b[2] = {0x3F80, 0x7F7F};
    const int32_t i[1] = {-5};
    const struct tensor t[] = {
        {.name = "z\"\\\xC3\xA9", .dt = DT_F32, .nd = 2, .d = {2, 3}, .data = f, .bytes = sizeof f},
        {.name = "half", .dt = DT_F16, .nd = 1, .d = {3}, .data = h, .bytes = sizeof h},
        {.name = "brain", .dt = DT_BF16, .nd = 3, .d = {1, 2, 1}, .data = b, .bytes = sizeof b},
        {.name = "int", .dt = DT_I32, .nd = 1, .d = {1}, .data = i, .bytes = sizeof i},
    };
    assert_int_equal(safetensors_write(path, t, 4), OK);
    str bytes = {0};
    assert_int_equal(file_read(path, &bytes), OK);
    uint64_t length;
    memcpy(&length, bytes.p, 8);
    assert_int_equal(length % 8, 0);
    assert_true(str_starts(bytes.p + 8,
                           "{\"__metadata__\":{\"format\":\"pt\"},\"z\\\"\\\\\xC3\xA9\":{\"dtype\":\"F32\","
                           "\"shape\":[2,3],\"data_offsets\":[0,24]},\"half\":"));
    assert_memory_equal(bytes.p + 8 + length, f, sizeof f); /* in the order given */
    str_free(&bytes);
    struct tensors ts;
    assert_int_equal(tensors_open(path, &ts), OK);
    assert_int_equal(ts.n, 4);
    for (int k = 0; k < 4; k++) {
        const struct tensor *r = tensors_find(&ts, t[k].name);
        assert_non_null(r);
        assert_int_equal(r->dt, t[k].dt);
        assert_int_equal(r->nd, t[k].nd);
        for (int d = 0; d < r->nd; d++) assert_int_equal(r->d[d], t[k].d[d]);
        assert_int_equal(r->bytes, t[k].bytes);
        assert_memory_equal(r->data, t[k].data, r->bytes);
    }
    tensors_close(&ts);
    assert_int_equal(safetensors_write(path, NULL, 0), OK);
    assert_int_equal(tensors_open(path, &ts), OK);
    tensors_close(&ts);
}

static void write_refused(const struct tensor *t, int n, err code, const char *says) {
    char target[80];
    snprintf(target, sizeof target, "%s/refused.safetensors", folder);
    assert_int_equal(safetensors_write(target, t, n), code);
    if (!strstr(err_text(), says)) fail_msg("wanted \"%s\", got \"%s\"", says, err_text());
    assert_false(path_exists(target));
}

static void test_writer_refuses(void **state) {
    (void)state;
    float f[3] = {1, 2, INFINITY};
    uint16_t h[3] = {1, 0x7C00, 1}, b[3] = {0xFFC0, 1, 1};
    struct tensor t[2] = {{.name = "ok", .dt = DT_F32, .nd = 1, .d = {1}, .data = f, .bytes = 4},
                          {.name = "lora_A", .dt = DT_F32, .nd = 1, .d = {3}, .data = f, .bytes = 12}};
    write_refused(t, 2, E_NUMERIC, "tensor 'lora_A' is not finite (NaN or infinity) at element 2 of 3");
    f[2] = NAN;
    write_refused(t, 2, E_NUMERIC, "at element 2");
    t[1] = (struct tensor){.name = "h", .dt = DT_F16, .nd = 1, .d = {3}, .data = h, .bytes = 6};
    write_refused(t, 2, E_NUMERIC, "tensor 'h' is not finite (NaN or infinity) at element 1");
    t[1] = (struct tensor){.name = "b", .dt = DT_BF16, .nd = 1, .d = {3}, .data = b, .bytes = 6};
    write_refused(t, 2, E_NUMERIC, "tensor 'b' is not finite (NaN or infinity) at element 0");
    t[1] = t[0];
    write_refused(t, 2, E_USAGE, "two tensors are called 'ok'");
    t[1].name = "a\nb";
    write_refused(t, 2, E_USAGE, "a tensor's name (3 bytes)");
    t[1] = (struct tensor){.name = "q", .dt = DT_Q8_0, .nd = 1, .d = {32}, .data = f, .bytes = 34};
    write_refused(t, 2, E_UNSUPPORTED, "tensor 'q' is q8_0");
    t[1] = (struct tensor){.name = "s", .dt = DT_F32, .nd = 1, .d = {2}, .data = f, .bytes = 12};
    write_refused(t, 2, E_INTERNAL, "tensor 's': 12 bytes for a shape of 2 elements");
    assert_int_equal(safetensors_write("/nonexistent/x.safetensors", t, 1), E_IO);
}

/* A folder with these files; NULL contents: one tensor called after the file, and "both". */
static void make_folder_of(char sub[80], const char *const files[][2]) {
    static int serial;
    snprintf(sub, 80, "%s/model-%d", folder, serial++);
    assert_int_equal(dir_make(sub), OK);
    for (int i = 0; files[i][0]; i++) {
        char file[160];
        snprintf(file, sizeof file, "%s/%s", sub, files[i][0]);
        float v = (float)files[i][0][0];
        const struct tensor t[2] = {{.name = files[i][0], .dt = DT_F32, .nd = 1, .d = {1}, .data = &v, .bytes = 4},
                                    {.name = "both", .dt = DT_F32, .nd = 1, .d = {1}, .data = &v, .bytes = 4}};
        if (files[i][1]) put_file(file, files[i][1], strlen(files[i][1]));
        else assert_int_equal(safetensors_write(file, t, 2), OK);
    }
}
#define FILES(...) ((const char *const[][2]){__VA_ARGS__, {NULL, NULL}})
#define INDEX      "model.safetensors.index.json"

static void test_folders(void **state) {
    (void)state;
    char sub[80];
    struct tensors ts;
    make_folder_of(sub, FILES({"model.safetensors", NULL}));
    assert_int_equal(tensors_open(sub, &ts), OK);
    assert_int_equal(ts.n, 2);
    assert_string_equal(ts.path, sub);
    tensors_close(&ts);

    make_folder_of(sub, FILES({"a.safetensors", NULL}, {"b.safetensors", NULL},
                              {INDEX, "{\"metadata\":{},\"weight_map\":{\"b.safetensors\":\"b.safetensors\","
                                      "\"a.safetensors\":\"a.safetensors\",\"both\":\"b.safetensors\"}}"}));
    assert_int_equal(tensors_open(sub, &ts), OK);
    assert_int_equal(ts.n, 3);
    assert_int_equal(ts.n_maps, 2);
    assert_true(*(const float *)tensors_find(&ts, "a.safetensors")->data == 'a');
    assert_true(*(const float *)tensors_find(&ts, "both")->data == 'b'); /* the index decides */
    tensors_close(&ts);
}

static void folder_refused(const char *const files[][2], err code, const char *says) {
    char sub[80];
    struct tensors ts;
    make_folder_of(sub, files);
    check_refusal(sub, tensors_open(sub, &ts), code, says, &ts);
}

static void test_folders_refused(void **state) {
    (void)state;
    folder_refused(FILES({"config.json", "{}"}), E_USAGE, "neither model.safetensors nor " INDEX);
    folder_refused(FILES({"pytorch_model.bin", "x"}), E_UNSUPPORTED, "loading one runs code");
    folder_refused(FILES({"pytorch_model.bin.index.json", "{}"}), E_UNSUPPORTED, "safe_serialization=True");
    folder_refused(FILES({INDEX, "{\"weight_map\":"}), E_INPUT, INDEX ": the file is not valid JSON at its byte");
    folder_refused(FILES({INDEX, "{}"}), E_INPUT, "no \"weight_map\" object");
    folder_refused(FILES({INDEX, "[]"}), E_INPUT, "no \"weight_map\" object");
    folder_refused(FILES({INDEX, "{\"weight_map\":{\"a\":1}}"}), E_INPUT, "tensor 'a': its shard is not the name");
    folder_refused(FILES({INDEX, "{\"weight_map\":{\"\":\"a.safetensors\"}}"}), E_INPUT, "a tensor's name (0 bytes)");
    folder_refused(FILES({INDEX, "{\"weight_map\":{\"a\":\"../x.safetensors\"}}"}), E_INPUT, "is not the name");
    folder_refused(FILES({INDEX, "{\"weight_map\":{\"a\":\"x.bin\"}}"}), E_INPUT, "is not the name");
    folder_refused(FILES({INDEX, "{\"weight_map\":{\"a\":\"a.safetensors\",\"a\":\"a.safetensors\"}}"}), E_INPUT,
                   "duplicate object key");
    folder_refused(FILES({INDEX, "{\"weight_map\":{\"a\":\"gone.safetensors\"}}"}), E_USAGE,
                   "gone.safetensors: cannot open");
    folder_refused(FILES({"a.safetensors", NULL}, {INDEX, "{\"weight_map\":{\"missing\":\"a.safetensors\"}}"}), E_INPUT,
                   "tensor 'missing' should be in a.safetensors, which has no such tensor");
    folder_refused(FILES({"a.safetensors", "1234567"}, {INDEX, "{\"weight_map\":{\"a\":\"a.safetensors\"}}"}), E_INPUT,
                   "a.safetensors: truncated");
}

static void test_pickles(void **state) {
    (void)state;
    static const char *const names[] = {"pytorch_model.bin", "model.pt", "model.pth"};
    for (int i = 0; i < 3; i++) {
        char file[80];
        struct tensors ts;
        snprintf(file, sizeof file, "%s/%s", folder, names[i]);
        assert_int_equal(tensors_open(file, &ts), E_USAGE); /* not there */
        put_file(file, "PK", 2);
        check_refusal(file, tensors_open(file, &ts), E_UNSUPPORTED, "a PyTorch pickle", &ts);
    }
}

static int make_root(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    return 0;
}

static int remove_root(void **state) {
    (void)state;
    return dir_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_misaligned_data),
        cmocka_unit_test(test_each_field_corrupt),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_any_byte_wrong),
        cmocka_unit_test(test_write_and_read_back),
        cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_folders_refused),
        cmocka_unit_test(test_pickles),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
