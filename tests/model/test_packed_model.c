/* A Hugging Face folder that bitsandbytes quantised to NF4 (tests/golden/make/packed.py), opened as any model: its matrices stay in 4 bits,
 * its logits are those of transformers on the matrices as bitsandbytes dequantises them, and an adapter trains on it. Merged, it can be
 * written in plain types; what makes up a packed weight goes nowhere else. */
#define _GNU_SOURCE
#include "support/support.h"
#include "export/export.h"
#include <jansson.h>

#define FOLDER GOLDEN "/packed/nf4_llama"
static char root[] = "/tmp/cyc-test-packed-XXXXXX";

static int begin(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}
static int end(void **state) {
    (void)state;
    return dir_remove(root) != OK;
}

/* Logits of each row of a batch, [N, V]; the caller frees. */
static float *logits_of(const char *path, const struct tensors *expected) {
    struct model m;
    struct program g;
    struct memory mem;
    const struct tensor *ids = fixture(expected, "ids"), *cu = fixture(expected, "cu_seqlens");
    int n = (int)ids->d[0], s = (int)cu->d[0] - 1;
    int32_t *sample = calloc(2 * (size_t)n, sizeof *sample), *pos = sample + n;
    for (int i = 0, row = 0; i < n; i++) {
        while (i >= i32_of(cu)[row + 1]) row++;
        pos[i] = i - i32_of(cu)[row];
    }
    must(model_open(path, NULL, &m));
    must(program_build(&g, &m, MODE_SCORE, NULL, (struct capacity){n, s, 0, 0, DT_F32}, CHECKPOINT_NONE, &backend_cpu, true));
    must(memory_for(&mem, (struct program *const[]){&g}, 1));
    struct feed f = {.ids = i32_of(ids), .pos = pos, .cu = i32_of(cu), .sample = sample, .n = n, .s = s};
    must(program_run(&g, &mem, NULL, NULL, &f, &(struct run_ctx){.threads = 1}, true));
    float *out = malloc((size_t)(n * m.shape.vocab) * 4);
    must(program_read(&g, &mem, g.logits, n, s, out, (size_t)(n * m.shape.vocab) * 4));
    memory_free(&mem);
    program_free(&g);
    model_close(&m);
    free(sample);
    return out;
}

static void same_logits(const char *path, double tolerance) {
    struct tensors want;
    must(tensors_open(FOLDER "/expected.safetensors", &want));
    const struct tensor *logits = fixture(&want, "logits");
    float *have = logits_of(path, &want);
    close_to(path, have, f32_of(logits), logits->bytes / 4, tolerance, tolerance);
    free(have);
    tensors_close(&want);
}

static void test_opens(void **state) {
    (void)state;
    struct model m;
    int packed = 0;
    must(model_open(FOLDER, NULL, &m));
    for (int i = 0; i < m.n; i++)
        if (m.w[i].nd == 2 && str_starts(m.w[i].name, "blk.")) {
            assert_int_equal(m.w[i].dt, DT_NF4);
            packed++;
        }
    assert_int_equal(packed, 7 * 2);
    const struct weight *down = model_weight(&m, "blk.1.ffn_down.weight");
    assert_true(down->d[0] == 64 && down->d[1] == 128); /* from the state's shape: the tensor itself is a column of bytes */
    assert_true(m.files.copied > 0);
    model_close(&m);
    same_logits(FOLDER, 2e-5);
}

static void test_converted(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        json_t *report;
        char out[96];
        snprintf(out, sizeof out, "%s/%s", root, i ? "plain" : "plain.gguf");
        must(export_one(&(struct export_request){.base = FOLDER, .to = i ? "hf" : "gguf", .type = DT_F32, .out = out}, &report));
        assert_non_null(json_object_get(report, "check"));
        json_decref(report);
        same_logits(out, 2e-5);
        snprintf(out, sizeof out, "%s/%s", root, i ? "least" : "least.gguf"); /* what loses least: f16 */
        must(export_one(&(struct export_request){.base = FOLDER, .to = i ? "hf" : "gguf", .out = out}, &report));
        assert_non_null(json_object_get(json_object_get(report, "types"), "f16"));
        json_decref(report);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_opens), cmocka_unit_test(test_converted)};
    return cmocka_run_group_tests(tests, begin, end);
}
