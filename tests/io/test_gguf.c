/* The GGUF reader against files built here byte by byte: what a good file yields, and for each field what a wrong value
 * in it is called. A real model too, where there is one (env CYC_SMOLLM2_GGUF, or the path in test_smollm2). */
#define _GNU_SOURCE /* memmem, mkdtemp */
#include "io/tensors.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A small good file, and where its fields are. */
struct sample {
    str b;
    size_t version, n_tensors, n_keys;
    size_t arch_name, arch_name_len, arch_type, arch_len, align_value, bool_value, array_elem, array_n, strings_n,
        string_len;
    size_t tok_name, tok_nd, tok_ne0, tok_ne1, tok_type, tok_offset, w_name, w_ne0, w_type, w_offset, infos_end, data;
};

static char folder[] = "/tmp/cyc-test-gguf-XXXXXX";
static char path[64];

static size_t u32(str *b, uint32_t v) { return str_add(b, (const char *)&v, 4), b->n - 4; }
static size_t u64(str *b, uint64_t v) { return str_add(b, (const char *)&v, 8), b->n - 8; }

static size_t text(str *b, const char *s) {
    u64(b, strlen(s));
    str_adds(b, s);
    return b->n - strlen(s);
}

static size_t key(str *b, const char *name, uint32_t type) {
    size_t at = text(b, name);
    u32(b, type);
    return at;
}

static void put_keys(struct sample *s) {
    str *b = &s->b;
    s->arch_name = key(b, "general.architecture", GGUF_STRING);
    s->arch_name_len = s->arch_name - 8;
    s->arch_type = b->n - 4;
    s->arch_len = text(b, "llama") - 8;
    key(b, "general.alignment", GGUF_U32);
    s->align_value = u32(b, 64);
    key(b, "t.bool", GGUF_BOOL);
    s->bool_value = b->n;
    str_addc(b, 1);
    key(b, "t.i8", GGUF_I8);
    str_addc(b, (char)-5);
    key(b, "t.u16", GGUF_U16);
    str_add(b, "\xFF\xFF", 2);
    key(b, "t.i16", GGUF_I16);
    str_add(b, "\xFE\xFF", 2);
    key(b, "t.i32", GGUF_I32);
    u32(b, 7);
    key(b, "t.u64", GGUF_U64);
    u64(b, UINT64_MAX);
    float f = 1e-5f;
    double d = 0.1;
    key(b, "t.f32", GGUF_F32);
    str_add(b, (const char *)&f, 4);
    key(b, "t.f64", GGUF_F64);
    str_add(b, (const char *)&d, 8);
    key(b, "t.numbers", GGUF_ARRAY);
    s->array_elem = u32(b, GGUF_I32);
    s->array_n = u64(b, 3);
    for (uint32_t i = 2; i <= 4; i++) u32(b, i);
    key(b, "t.strings", GGUF_ARRAY);
    u32(b, GGUF_STRING);
    s->strings_n = u64(b, 2);
    s->string_len = text(b, "one") - 8;
    text(b, "");
}

static struct sample sample_make(uint32_t version) {
    struct sample s = {0};
    str *b = &s.b;
    str_adds(b, "GGUF");
    s.version = u32(b, version);
    s.n_tensors = u64(b, 2);
    s.n_keys = u64(b, 12);
    put_keys(&s);
    s.tok_name = text(b, "tok");
    s.tok_nd = u32(b, 2);
    s.tok_ne0 = u64(b, 4);
    s.tok_ne1 = u64(b, 3);
    s.tok_type = u32(b, 0); /* F32 */
    s.tok_offset = u64(b, 0);
    s.w_name = text(b, "blk.0.w");
    u32(b, 1);
    s.w_ne0 = u64(b, 64);
    s.w_type = u32(b, 2); /* Q4_0 */
    s.w_offset = u64(b, 64);
    s.infos_end = b->n;
    while (b->n % 64) str_addc(b, 0);
    s.data = b->n;
    for (int i = 0; i < 12; i++) {
        float f = (float)i;
        str_add(b, (const char *)&f, 4);
    }
    while (b->n % 64) str_addc(b, 0);
    for (int i = 0; i < 36; i++) str_addc(b, (char)i);
    return s;
}

static err open_bytes(const char *bytes, size_t n, struct tensors *ts) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return tensors_open(path, ts);
}

/* The bytes must be refused with this code, in a message that names the file and says this. */
static void refused(const str *b, err code, const char *says) {
    struct tensors ts;
    err e = open_bytes(b->p, b->n, &ts);
    if (e != code || !strstr(err_text(), says) || !str_starts(err_text(), path))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", code, says, e, e ? err_text() : "");
    assert_null(ts.mem.head);
    assert_int_equal(ts.n_maps, 0);
}

static void test_good_file(void **state) {
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct sample s = sample_make(version);
        struct tensors ts;
        assert_int_equal(open_bytes(s.b.p, s.b.n, &ts), OK);
        assert_string_equal(ts.path, path);
        assert_int_equal(ts.meta->version, version);
        assert_int_equal(ts.meta->alignment, 64);
        assert_int_equal(ts.n, 2);
        const struct tensor *t = tensors_find(&ts, "tok"), *w = tensors_find(&ts, "blk.0.w");
        assert_non_null(t);
        assert_non_null(w);
        assert_null(tensors_find(&ts, "to"));
        assert_int_equal(t->dt, DT_F32);
        assert_int_equal(t->nd, 2);
        assert_int_equal(t->d[0], 3); /* ne is innermost first */
        assert_int_equal(t->d[1], 4);
        assert_int_equal(t->bytes, 48);
        assert_true(((const float *)t->data)[11] == 11.0f);
        assert_int_equal(w->dt, DT_Q4_0);
        assert_int_equal(w->d[0], 64);
        assert_int_equal(w->bytes, 36);
        assert_memory_equal(w->data, s.b.p + s.data + 64, 36);
        tensors_close(&ts);
        str_free(&s.b);
    }
}

/* ggml's numbers (ggml.h, enum ggml_type) and what a row of 512 weights takes. */
static void test_every_type(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        dtype dt;
        size_t bytes;
        const char *stored;
    } types[] = {{0, DT_F32, 2048, "F32"},     {1, DT_F16, 1024, "F16"},     {30, DT_BF16, 1024, "BF16"},   {2, DT_Q4_0, 288, "Q4_0"},
                 {3, DT_Q4_1, 320, "Q4_1"},    {6, DT_Q5_0, 352, "Q5_0"},    {7, DT_Q5_1, 384, "Q5_1"},     {8, DT_Q8_0, 544, "Q8_0"},
                 {10, DT_Q2_K, 168, "Q2_K"},   {11, DT_Q3_K, 220, "Q3_K"},   {12, DT_Q4_K, 288, "Q4_K"},    {13, DT_Q5_K, 352, "Q5_K"},
                 {14, DT_Q6_K, 420, "Q6_K"},   {20, DT_IQ4_NL, 288, "IQ4_NL"}, {23, DT_IQ4_XS, 272, "IQ4_XS"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        str b = {0};
        struct tensors ts;
        str_adds(&b, "GGUF");
        u32(&b, 3), u64(&b, 1), u64(&b, 0), text(&b, "w"), u32(&b, 1), u64(&b, 512), u32(&b, types[i].type), u64(&b, 0);
        while (b.n % 32) str_addc(&b, 0);
        for (size_t k = 0; k < types[i].bytes; k++) str_addc(&b, 1);
        assert_int_equal(open_bytes(b.p, b.n, &ts), OK);
        assert_int_equal(ts.t[0].dt, types[i].dt);
        assert_string_equal(ts.t[0].stored, types[i].stored);
        assert_int_equal(ts.t[0].bytes, types[i].bytes);
        tensors_close(&ts);
        refused(&(str){.p = b.p, .n = b.n - 1}, E_INPUT, "1 bytes are missing");
        str_free(&b);
    }
}

static void test_metadata(void **state) {
    (void)state;
    struct sample s = sample_make(3);
    struct tensors ts;
    assert_int_equal(open_bytes(s.b.p, s.b.n, &ts), OK);
    const struct gguf_meta *m = ts.meta;
    uint64_t u = 0;
    double f = 0;
    assert_int_equal(m->n, 12);
    assert_string_equal(gguf_str(m, "general.architecture"), "llama");
    assert_null(gguf_str(m, "t.i8"));
    assert_null(gguf_str(m, "absent"));
    assert_true(gguf_u64(m, "t.bool", &u) && u == 1);
    assert_true(gguf_u64(m, "t.u16", &u) && u == 65535);
    assert_true(gguf_u64(m, "t.i32", &u) && u == 7);
    assert_true(gguf_u64(m, "t.u64", &u) && u == UINT64_MAX);
    assert_false(gguf_u64(m, "t.i8", &u)); /* negative */
    assert_false(gguf_u64(m, "t.f32", &u));
    assert_false(gguf_u64(m, "absent", &u));
    assert_true(gguf_f64(m, "t.i8", &f) && f == -5);
    assert_true(gguf_f64(m, "t.i16", &f) && f == -2);
    assert_true(gguf_f64(m, "t.f32", &f) && f == (double)1e-5f);
    assert_true(gguf_f64(m, "t.f64", &f) && f == 0.1);
    assert_false(gguf_f64(m, "t.strings", &f));
    assert_false(gguf_f64(m, "t.bool", &f));
    const struct gguf_kv *kv = gguf_find(m, "t.numbers");
    assert_int_equal(kv->elem, GGUF_I32);
    assert_int_equal(kv->n, 3);
    assert_int_equal(kv->raw[8], 4);
    kv = gguf_find(m, "t.strings");
    const uint8_t *cursor = kv->raw;
    uint64_t len = 99;
    assert_memory_equal(gguf_array_str(&cursor, &len), "one", 3);
    assert_int_equal(len, 3);
    gguf_array_str(&cursor, &len);
    assert_int_equal(len, 0);
    assert_null(gguf_find(NULL, "t"));
    tensors_close(&ts);
    str_free(&s.b);
}

/* Every field of the file with a wrong value: `width` bytes of `value` at the field named by its offset in sample. */
struct corruption {
    size_t field;
    int width;
    uint64_t value;
    err code;
    const char *says;
};
#define AT(name) offsetof(struct sample, name)
static const struct corruption corruptions[] = {
    {AT(version), 4, 0, E_UNSUPPORTED, "GGUF version 0; versions 2 and 3"},
    {AT(version), 4, 1, E_UNSUPPORTED, "GGUF version 1"},
    {AT(version), 4, 4, E_UNSUPPORTED, "GGUF version 4"},
    {AT(version), 4, 0x03000000, E_UNSUPPORTED, "big-endian"},
    {AT(n_tensors), 8, UINT64_MAX, E_INPUT, "claims 18446744073709551615 tensors"},
    {AT(n_tensors), 8, 50, E_INPUT, "claims 50 tensors"},
    {AT(n_tensors), 8, 3, E_INPUT, "tensor 3 of 3"},
    {AT(n_keys), 8, UINT64_MAX, E_INPUT, "claims 18446744073709551615 keys"},
    {AT(n_keys), 8, 13, E_INPUT, "tensor 1 of 2: the name at byte"},
    {AT(arch_name_len), 8, 0, E_INPUT, "key 1 of 12: the name at byte 24 (0 bytes)"},
    {AT(arch_name_len), 8, UINT64_MAX, E_INPUT, "key 1 of 12: the name at byte 32 takes 18446744073709551615 bytes"},
    {AT(arch_name), 1, 0x1B, E_INPUT, "not 1 to 1024 bytes of plain UTF-8"},
    {AT(arch_name), 1, 0xFF, E_INPUT, "not 1 to 1024 bytes of plain UTF-8"},
    {AT(arch_name), 1, 0, E_INPUT, "not 1 to 1024 bytes of plain UTF-8"},
    {AT(arch_type), 4, 13, E_INPUT, "key 'general.architecture': the value's type at byte 52 is 13"},
    {AT(arch_len), 8, 1 << 20, E_INPUT, "key 'general.architecture': the string at byte"},
    {AT(align_value), 4, 0, E_INPUT, "general.alignment is 0"},
    {AT(align_value), 4, 48, E_INPUT, "general.alignment is 48"},
    {AT(align_value), 4, 4, E_INPUT, "general.alignment is 4"},
    {AT(align_value), 4, 0x80000000, E_INPUT, "no multiple of the alignment 2147483648"},
    {AT(bool_value), 1, 2, E_INPUT, "key 't.bool': a bool at byte"},
    {AT(array_elem), 4, GGUF_ARRAY, E_UNSUPPORTED, "key 't.numbers': an array of arrays"},
    {AT(array_elem), 4, 77, E_INPUT, "the array's element type"},
    {AT(array_elem), 4, GGUF_BOOL, E_INPUT, "key 't.numbers': a bool"},
    {AT(array_n), 8, UINT64_MAX / 4 + 2, E_INPUT, "key 't.numbers': an array of 4611686018427387905 elements"},
    {AT(strings_n), 8, 1000, E_INPUT, "key 't.strings': an array of 1000 elements"},
    {AT(string_len), 8, UINT64_MAX - 7, E_INPUT, "key 't.strings': a string of the array"},
    {AT(tok_name), 1, '\n', E_INPUT, "tensor 1 of 2: the name"},
    {AT(tok_nd), 4, 0, E_INPUT, "tensor 'tok': 0 dimensions"},
    {AT(tok_nd), 4, 5, E_INPUT, "tensor 'tok': 5 dimensions"},
    {AT(tok_ne0), 8, 0, E_INPUT, "tensor 'tok': a dimension at byte"},
    {AT(tok_ne0), 8, UINT64_MAX, E_INPUT, "tensor 'tok': a dimension at byte"},
    {AT(tok_ne0), 8, (uint64_t)1 << 62, E_INPUT, "tensor 'tok': its shape [3, 4611686018427387904, 1, 1] needs more"},
    {AT(tok_ne1), 8, 1000, E_INPUT, "tensor 'tok': its shape [1000, 4, 1, 1] needs more"},
    {AT(tok_ne1), 8, 6, E_INPUT, "tensors 'tok' and 'blk.0.w' overlap"},
    {AT(tok_type), 4, 19, E_UNSUPPORTED, "tensor 'tok' is of type IQ1_S (ggml 19); supported are F32, F16, BF16"},
    {AT(tok_type), 4, 999, E_UNSUPPORTED, "of type unknown (ggml 999)"},
    {AT(tok_offset), 8, 1, E_INPUT, "tensor 'tok': its offset 1"},
    {AT(tok_offset), 8, UINT64_MAX - 63, E_INPUT, "lies beyond any file"},
    {AT(w_offset), 8, 0, E_INPUT, "overlap at byte"},
    {AT(tok_offset), 8, 1024, E_INPUT, "bytes are missing"},
    {AT(w_name), 1, 0x80, E_INPUT, "tensor 2 of 2: the name"},
    {AT(w_ne0), 8, 63, E_INPUT, "tensor 'blk.0.w': rows of 63 elements are no multiple of q4_0's block of 32"},
    {AT(w_ne0), 8, 128, E_INPUT, "36 bytes are missing"},
    {AT(w_type), 4, 14, E_INPUT, "no multiple of q6_k's block of 256"},
};

static void test_each_field_corrupt(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof corruptions / sizeof *corruptions; i++) {
        const struct corruption *c = &corruptions[i];
        struct sample s = sample_make(3);
        size_t at;
        memcpy(&at, (const char *)&s + c->field, sizeof at);
        memcpy(s.b.p + at, &c->value, (size_t)c->width);
        refused(&s.b, c->code, c->says);
        str_free(&s.b);
    }
}

static void test_magic(void **state) {
    (void)state;
    struct sample s = sample_make(3);
    s.b.p[0] = 'X';
    refused(&s.b, E_INPUT, "starts with bytes 58 47 55 46");
    str_free(&s.b);
}

static void test_duplicates(void **state) {
    (void)state;
    struct sample s = sample_make(3);
    char *twin = memmem(s.b.p, s.b.n, "t.u16", 5);
    memcpy(twin, "t.i16", 5);
    refused(&s.b, E_INPUT, "key 't.i16' occurs twice");
    str_free(&s.b);

    str b = {0};
    str_adds(&b, "GGUF");
    u32(&b, 3);
    u64(&b, 2);
    u64(&b, 0);
    for (int i = 0; i < 2; i++) {
        text(&b, "same");
        u32(&b, 1);
        u64(&b, 8);
        u32(&b, 0);
        u64(&b, (uint64_t)i * 32);
    }
    while (b.n % 32) str_addc(&b, 0);
    for (int i = 0; i < 64; i++) str_addc(&b, 0);
    refused(&b, E_INPUT, "tensor 'same' occurs twice");
    str_free(&b);
}

static void test_split_file(void **state) {
    (void)state;
    str b = {0};
    str_adds(&b, "GGUF");
    u32(&b, 3);
    u64(&b, 0);
    u64(&b, 1);
    key(&b, "split.count", GGUF_U16);
    str_add(&b, "\3", 2);
    refused(&b, E_UNSUPPORTED, "one of 3 parts");
    str_free(&b);
}

/* A vocabulary file: keys alone. */
static void test_no_tensors(void **state) {
    (void)state;
    str b = {0};
    str_adds(&b, "GGUF");
    u32(&b, 3);
    u64(&b, 0);
    u64(&b, 0);
    struct tensors ts;
    assert_int_equal(open_bytes(b.p, b.n, &ts), OK);
    assert_int_equal(ts.n, 0);
    assert_null(tensors_find(&ts, "x"));
    assert_null(gguf_find(ts.meta, "x"));
    tensors_close(&ts);
    str_free(&b);
}

static void test_truncated_anywhere(void **state) {
    (void)state;
    struct sample s = sample_make(3);
    for (size_t n = 0; n < s.b.n; n++) {
        str cut = {.p = s.b.p, .n = n};
        char says[64] = "";
        if (n >= s.infos_end) snprintf(says, sizeof says, ": %zu bytes are missing", s.b.n - n);
        refused(&cut, E_INPUT, says);
    }
    str_free(&s.b);
}

/* One byte wrong, anywhere: refused with a message or read, never worse (the sanitizers watch). */
static void test_any_byte_wrong(void **state) {
    (void)state;
    struct sample s = sample_make(3);
    static const unsigned char wrong[] = {0x00, 0x01, 0x7F, 0x80, 0xFF};
    for (size_t i = 0; i < s.data; i++)
        for (size_t k = 0; k < sizeof wrong; k++) {
            char keep = s.b.p[i];
            s.b.p[i] = (char)wrong[k];
            struct tensors ts;
            err e = open_bytes(s.b.p, s.b.n, &ts);
            if (e) assert_true(e == E_INPUT || e == E_UNSUPPORTED);
            if (e) assert_true(str_starts(err_text(), path));
            tensors_close(&ts);
            s.b.p[i] = keep;
        }
    str_free(&s.b);
}

static void test_which_file(void **state) {
    (void)state;
    struct tensors ts;
    assert_int_equal(tensors_open("/nonexistent/model.gguf", &ts), E_USAGE);
    char other[80];
    snprintf(other, sizeof other, "%s/blob", folder);
    struct sample s = sample_make(3);
    assert_int_equal(file_write(other, s.b.p, s.b.n), OK); /* by its first bytes */
    assert_int_equal(tensors_open(other, &ts), OK);
    tensors_close(&ts);
    assert_int_equal(file_write(other, "text, no tensors", 16), OK);
    assert_int_equal(tensors_open(other, &ts), E_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "neither GGUF nor safetensors"));
    str_free(&s.b);
}

/* Figures of the Python gguf package on the same file. */
static void test_smollm2(void **state) {
    (void)state;
    const char *model = getenv("CYC_SMOLLM2_GGUF");
    if (!model) model = "cache/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!path_exists(model)) {
        print_message("%s is absent: not read\n", model);
        skip();
    }
    struct tensors ts;
    assert_int_equal(tensors_open(model, &ts), OK);
    assert_int_equal(ts.n, 272);
    assert_string_equal(gguf_str(ts.meta, "general.architecture"), "llama");
    uint64_t u = 0;
    assert_true(gguf_u64(ts.meta, "llama.block_count", &u) && u == 30);
    const struct gguf_kv *tokens = gguf_find(ts.meta, "tokenizer.ggml.tokens");
    assert_int_equal(tokens->n, 49152);
    const struct tensor *e = tensors_find(&ts, "token_embd.weight"), *k = tensors_find(&ts, "blk.29.attn_k.weight");
    assert_int_equal(e->nd, 2);
    assert_int_equal(e->d[0], 49152);
    assert_int_equal(e->d[1], 576);
    assert_int_equal(k->d[0], 192);
    assert_int_equal(k->d[1], 576);
    tensors_close(&ts);
}

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    return dir_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_every_type), cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_each_field_corrupt),
        cmocka_unit_test(test_magic),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_split_file),
        cmocka_unit_test(test_no_tensors),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_any_byte_wrong),
        cmocka_unit_test(test_which_file),
        cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
