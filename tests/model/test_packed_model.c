/* A Hugging Face folder that bitsandbytes quantised to NF4 (tests/golden/make/packed.py), opened as any model: its matrices stay in 4 bits,
 * its logits are those of transformers on the matrices as bitsandbytes dequantises them, and an adapter trains on it. Merged, it can be
 * written in plain types; what makes up a packed weight goes nowhere else. */
#define _GNU_SOURCE
#include "support/bench.h"
#include "support/folder.h"
#include "export/export.h"
#include <jansson.h>

#define FOLDER GOLDEN "/packed/nf4_llama"

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
        snprintf(out, sizeof out, "%s/%s", own_folder(), i ? "plain" : "plain.gguf");
        must(export_one(&(struct export_request){.base = FOLDER, .to = i ? "hf" : "gguf", .type = DT_F32, .out = out}, &report));
        assert_non_null(json_object_get(report, "check"));
        json_decref(report);
        same_logits(out, 2e-5);
        snprintf(out, sizeof out, "%s/%s", own_folder(), i ? "least" : "least.gguf"); /* what loses least: f16 */
        must(export_one(&(struct export_request){.base = FOLDER, .to = i ? "hf" : "gguf", .out = out}, &report));
        assert_non_null(json_object_get(json_object_get(report, "types"), "f16"));
        json_decref(report);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_opens), cmocka_unit_test(test_converted)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
