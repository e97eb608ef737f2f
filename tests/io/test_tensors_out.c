/* The streaming writers against the readers: shards, GGUF with metadata of every type, pieces of any size; what must be refused, and
 * that nothing is left of a file that did not become whole. */
#define _GNU_SOURCE
#include "support/folder.h"
#include "support/support.h"
#include "base/file.h"
#include "io/tensors_out.h"
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

/* Four tensors of different sizes and types, with numbers that are finite in each. */
enum { N = 4 };
static float numbers[4096];
static struct tensor list[N];
static char bytes[N][4096 * 4];

static void make(dtype last) {
    static const struct {
        const char *name;
        dtype dt;
        int nd;
        int64_t d[2];
    } shapes[N] = {{"b", DT_F32, 2, {3, 32}}, {"a", DT_F16, 1, {7}}, {"c.weight", DT_BF16, 2, {5, 64}}, {"d", DT_F32, 2, {2, 96}}};
    for (int i = 0; i < 4096; i++) numbers[i] = sinf((float)i) * 2;
    for (int i = 0; i < N; i++) {
        dtype dt = i == N - 1 ? last : shapes[i].dt;
        int64_t rows = shapes[i].nd == 2 ? shapes[i].d[0] : 1, cols = shapes[i].d[shapes[i].nd - 1];
        list[i] = (struct tensor){.name = shapes[i].name,
                                  .dt = dt,
                                  .nd = shapes[i].nd,
                                  .d = {shapes[i].d[0], shapes[i].d[1], 1, 1},
                                  .data = bytes[i],
                                  .bytes = dtype_row_bytes(dt, cols) * (size_t)rows};
        quantise_row(dt, numbers + 100 * i, bytes[i], rows * cols);
    }
}

/* Everything, in pieces of `piece` bytes. */
static err put_all(struct tensors_out *o, size_t piece) {
    for (int i = 0; i < N; i++)
        for (size_t k = 0; k < list[i].bytes; k += piece)
            TRY(tensors_out_put(o, bytes[i] + k, list[i].bytes - k < piece ? list[i].bytes - k : piece));
    return OK;
}

static void same_tensors(const struct tensors *ts) {
    assert_int_equal(ts->n, N);
    for (int i = 0; i < N; i++) {
        const struct tensor *t = fixture(ts, list[i].name);
        assert_int_equal(t->dt, list[i].dt);
        assert_int_equal(t->nd, list[i].nd);
        for (int k = 0; k < t->nd; k++) assert_int_equal(t->d[k], list[i].d[k]);
        assert_memory_equal(t->data, bytes[i], list[i].bytes);
    }
}

static int files_in(const char *folder) {
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    if (d) closedir(d);
    return n;
}

static void same_file(const char *a, const char *b) {
    str x = {0}, y = {0};
    must(file_read(a, &x));
    must(file_read(b, &y));
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.p, y.p, x.n);
    str_free(&x);
    str_free(&y);
}

static void test_pieces(void **state) {
    (void)state;
    struct tensors_out o;
    make(DT_F32);
    must(safetensors_write(at("whole.safetensors"), list, N));
    static const size_t pieces[] = {1, 7, 4096};
    for (int i = 0; i < 3; i++) {
        must(tensors_out_safetensors(&o, at("pieces.safetensors"), list, N, 0));
        must(put_all(&o, pieces[i] * 2)); /* whole elements, so that numbers can be looked at */
        size_t total = o.total;
        assert_int_equal(o.done, total);
        must(tensors_out_commit(&o));
        same_file(at("whole.safetensors"), at("pieces.safetensors"));
        str b = {0};
        must(file_read(at("pieces.safetensors"), &b));
        assert_int_equal(b.n, total);
        str_free(&b);
    }
}

static void test_shards(void **state) {
    (void)state;
    struct tensors_out o;
    struct tensors ts;
    make(DT_F32);
    static const struct {
        size_t most;
        int files;
    } cases[] = {{1, 5}, {400, 4}, {1100, 3}, {1 << 20, 1}}; /* files: shards and their index */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[64];
        snprintf(folder, sizeof folder, "shards%zu", i);
        must(dir_make(at(folder)));
        must(tensors_out_safetensors(&o, at(folder), list, N, cases[i].most));
        must(put_all(&o, 64));
        must(tensors_out_commit(&o));
        assert_int_equal(files_in(at(folder)), cases[i].files);
        must(tensors_open(at(folder), &ts));
        same_tensors(&ts);
        tensors_close(&ts);
    }
    assert_true(path_exists(at("shards0/model-00004-of-00004.safetensors")) && path_exists(at("shards3/model.safetensors")));
}

static void all_keys(struct gguf_keys *k) {
    gguf_key_str(k, "general.architecture", "llama");
    gguf_key_u32(k, "u32", 4000000000u);
    gguf_key_f32(k, "f32", 1e-5);
    gguf_key_bool(k, "yes", true);
    gguf_key_str(k, "empty", "");
    gguf_key_array(k, "words", GGUF_STRING, 3);
    gguf_array_add_str(k, "one", 3);
    gguf_array_add_str(k, "", 0);
    gguf_array_add_str(k, "t\0o", 3);
    gguf_key_array(k, "numbers", GGUF_I32, 2);
    gguf_array_add_i32(k, -5);
    gguf_array_add_i32(k, 7);
    gguf_key_array(k, "none", GGUF_I32, 0);
}

static void check_keys(const struct gguf_meta *m) {
    uint64_t u, n;
    double f;
    assert_int_equal(m->n, 8);
    assert_string_equal(gguf_str(m, "general.architecture"), "llama");
    assert_true(gguf_u64(m, "u32", &u) && u == 4000000000u);
    assert_true(gguf_f64(m, "f32", &f) && f == (double)1e-5f);
    assert_true(gguf_u64(m, "yes", &u) && u == 1);
    assert_string_equal(gguf_str(m, "empty"), "");
    const struct gguf_kv *words = gguf_find(m, "words"), *numbers_ = gguf_find(m, "numbers");
    const uint8_t *cursor = words->raw;
    assert_int_equal(words->n, 3);
    assert_memory_equal(gguf_array_str(&cursor, &n), "one", 3);
    gguf_array_str(&cursor, &n);
    assert_int_equal(n, 0);
    assert_memory_equal(gguf_array_str(&cursor, &n), "t\0o", 3);
    assert_memory_equal(numbers_->raw, ((int32_t[]){-5, 7}), 8);
    assert_int_equal(gguf_find(m, "none")->n, 0);
}

static void test_gguf(void **state) {
    (void)state;
    static const dtype last[] = {DT_F32, DT_Q8_0, DT_Q4_0, DT_Q4_1, DT_F16};
    for (int i = 0; i < 5; i++) {
        struct gguf_keys k = {0}, copy = {0};
        struct tensors_out o;
        struct tensors ts, again;
        make(last[i]);
        all_keys(&k);
        must(tensors_out_gguf(&o, at("x.gguf"), &k, list, N));
        must(put_all(&o, 48 * 34));
        must(tensors_out_commit(&o));
        must(tensors_open(at("x.gguf"), &ts));
        assert_int_equal(ts.meta->version, 3);
        check_keys(ts.meta);
        same_tensors(&ts);
        for (int t = 0; t < ts.n; t++) assert_int_equal(((const uint8_t *)ts.t[t].data - ts.maps[0].p) % 32, 0);
        /* copied keys say the same, in a file without tensors */
        for (int q = 0; q < ts.meta->n; q++) gguf_key_copy(&copy, &ts.meta->kv[q]);
        str b = {0};
        must(gguf_keys_open(&copy, &b, &again));
        check_keys(again.meta);
        tensors_close(&again);
        tensors_close(&ts);
        str_free(&b);
        gguf_keys_free(&k);
        gguf_keys_free(&copy);
    }
}

static void refuses(err e, err want, const char *says) {
    if (e != want || !strstr(err_text(), says)) flunk("wanted %d \"%s\", got %d \"%s\"", want, says, e, e ? err_text() : "");
}

static void test_refusals(void **state) {
    (void)state;
    struct tensors_out o;
    struct gguf_keys k = {0};
    int before = files_in(own_folder());
    make(DT_Q8_0);
    refuses(tensors_out_safetensors(&o, at("no.safetensors"), list, N, 0), E_UNSUPPORTED,
            "tensor 'd' is q8_0; safetensors are written as F32, F16, BF16, I32, U8");
    make(DT_F32);
    list[3].name = "b";
    refuses(tensors_out_safetensors(&o, at("no.safetensors"), list, N, 0), E_USAGE, "two tensors are called 'b'");
    refuses(tensors_out_gguf(&o, at("no.gguf"), &k, list, N), E_USAGE, "two tensors are called 'b'");
    list[3].name = "d\n";
    refuses(tensors_out_gguf(&o, at("no.gguf"), &k, list, N), E_USAGE, "name (2 bytes)");
    make(DT_F32);
    list[0].dt = DT_Q8_0, list[0].d[1] = 31;
    refuses(tensors_out_gguf(&o, at("no.gguf"), &k, list, N), E_USAGE, "tensor 'b': rows of 31 are no multiple of q8_0's block of 32");
    make(DT_F32);
    list[0].dt = DT_NONE;
    refuses(tensors_out_gguf(&o, at("no.gguf"), &k, list, N), E_UNSUPPORTED, "which GGUF does not have");
    make(DT_F32);
    list[1].bytes--;
    refuses(tensors_out_gguf(&o, at("no.gguf"), &k, list, N), E_INTERNAL, "tensor 'a': 13 bytes for 1 rows of 7");
    make(DT_F32);
    must(tensors_out_safetensors(&o, at("no.safetensors"), list, N, 0));
    must(tensors_out_put(&o, bytes[0], 16));
    refuses(tensors_out_commit(&o), E_INTERNAL, "tensor 'b' has bytes missing");
    must(tensors_out_safetensors(&o, at("no.safetensors"), list, N, 0));
    float bad = NAN;
    must(tensors_out_put(&o, bytes[0], 40));
    refuses(tensors_out_put(&o, &bad, 4), E_NUMERIC, "tensor 'b' is not finite (NaN or infinity) at element 10 of 96");
    tensors_out_abandon(&o);
    must(tensors_out_safetensors(&o, at("yes.safetensors"), list, N, 0));
    must(put_all(&o, 4096));
    refuses(tensors_out_put(&o, bytes[0], 4), E_INTERNAL, "4 bytes after the last tensor");
    tensors_out_abandon(&o);
    assert_int_equal(files_in(own_folder()), before + 1); /* yes.safetensors was whole when the last byte came */
}

/* A file system that takes no more: a limit on file sizes behaves so, with EFBIG for ENOSPC. */
static void test_full(void **state) {
    (void)state;
    struct tensors_out o;
    struct gguf_keys k = {0};
    struct rlimit was, small = {700, 0};
    int before = files_in(own_folder());
    make(DT_F32);
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    must(tensors_out_gguf(&o, at("full.gguf"), &k, list, N));
    err e = put_all(&o, 1 << 20);
    if (!e) e = tensors_out_commit(&o);
    else tensors_out_abandon(&o);
    setrlimit(RLIMIT_FSIZE, &was);
    refuses(e, E_IO, "/full.gguf: cannot write: File too large");
    assert_int_equal(files_in(own_folder()), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces), cmocka_unit_test(test_shards), cmocka_unit_test(test_gguf),
                                       cmocka_unit_test(test_refusals), cmocka_unit_test(test_full)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
