/* A real encoder, all-MiniLM-L6-v2, against transformers (tests/golden/make/minilm.py): embeddings of six texts, all packed into
 * one run. Skipped where the folder is not there: CYC_MINILM, or cache/minilm. */
#include "support/support.h"
#include "gen/program.h"
#include <math.h>

static void test_embeddings(void **state) {
    (void)state;
    const char *path = getenv("CYC_MINILM") ? getenv("CYC_MINILM") : "cache/minilm";
    char *config = NULL;
    arena mem = {0};
    config = arena_printf(&mem, "%s/config.json", path);
    if (!path_exists(config)) {
        print_message("%s is not there: skipped\n", config);
        arena_free(&mem);
        skip();
    }
    struct model m;
    struct tensors want;
    struct program g;
    struct memory work;
    must(model_open(path, NULL, &m));
    must(tensors_open(GOLDEN "/minilm/expected.safetensors", &want));
    const struct tensor *vectors = fixture(&want, "embeddings");
    const int32_t *cu = i32_of(fixture(&want, "cu_seqlens"));
    const int s = (int)vectors->d[0], n = cu[s], C = (int)m.shape.width;
    int32_t *pos = arena_alloc(&mem, (size_t)n * 4);
    for (int i = 0; i < s; i++)
        for (int32_t t = cu[i]; t < cu[i + 1]; t++) pos[t] = t - cu[i];
    must(program_build(&g, &m, MODE_FEATURES, NULL, (struct capacity){n, s, 0, 0, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, &backend_cpu, false));
    must(memory_for(&work, (struct program *const[]){&g}, 1));
    struct feed f = {.ids = i32_of(fixture(&want, "ids")), .pos = pos, .cu = cu, .n = n, .s = s};
    must(program_run(&g, &work, NULL, NULL, &f, &(struct run_ctx){.threads = 2}, false));
    struct view rows = program_out(&g, &work, g.features, n, s);
    for (int i = 0; i < s; i++) {
        float *mean = arena_alloc(&mem, (size_t)C * 4), length = 0;
        for (int c = 0; c < C; c++) {
            double sum = 0;
            for (int32_t t = cu[i]; t < cu[i + 1]; t++) sum += view_row(&rows, t)[c];
            mean[c] = (float)(sum / (cu[i + 1] - cu[i]));
            length += mean[c] * mean[c];
        }
        for (int c = 0; c < C; c++) mean[c] /= sqrtf(length);
        close_to("embedding", mean, f32_of(vectors) + (int64_t)i * C, (size_t)C, 0, 1e-5 / sqrt(C)); /* of a vector of length 1 */
    }
    memory_free(&work);
    program_free(&g);
    tensors_close(&want);
    model_close(&m);
    arena_free(&mem);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_embeddings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
