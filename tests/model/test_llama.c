/* The Llama family against PyTorch and PEFT (tests/golden/make/tiny_llama.py): losses, every adapter gradient, ten AdamW
 * steps, logits through the decode path, greedy text; on the reference kernels and on the CPU's; at every checkpoint
 * level and in every split into passes. */
#include "support/bench.h"

static const char *const cases[] = {"tied_gqa", "untied_mha", "bias", "head_dim16", "bf16", "f16"};
static const char *const adapters[] = {"all_r4", "qv_r3"};
static const char *const more[] = {"mixed", "layers", "regex"}; /* of tied_gqa: ranks, scales and modules by pattern */
static const struct backend *backends[] = {&backend_reference, &backend_cpu};
static int n_backends = 2; /* CYC_TEST_DEVICE=cuda: the card alone, in f32 */
enum { N_F32 = 4, CAP_TOKENS = 32, CAP_SEQUENCES = 8 };

static void start(struct bench *b, const char *c, const char *a, const struct backend *backend, enum checkpoint level, int cap) {
    char model[128], adapter[128], expected[128];
    snprintf(model, sizeof model, GOLDEN "/tiny_llama/%s", c);
    snprintf(adapter, sizeof adapter, GOLDEN "/tiny_llama/%s/adapter_%s", c, a);
    snprintf(expected, sizeof expected, GOLDEN "/tiny_llama/%s/expected_%s.safetensors", c, a);
    bench_open(b, &(struct bench_case){.model = model,
                                       .adapter = adapter,
                                       .expected = expected,
                                       .backend = backend,
                                       .level = level,
                                       .cap = {cap, CAP_SEQUENCES, 4, 32, DT_F32, DT_NONE},
                                       .recipe = {1e-2, 0.01, 0.9, 0.999, 1e-8, 1.0, {SCHEDULE_LINEAR, 2, 10}},
                                       .score = true});
    snprintf(b->name, sizeof b->name, "%s/%s on %s", c, a, backend->name);
}

static void gradients_and_steps(const char *c, const char *a, const struct backend *backend, enum checkpoint level, int cap) {
    struct bench b;
    start(&b, c, a, backend, level, cap);
    double sums[4];
    double scored[4];
    must(rows_loss(&b.score, &b.wb, b.learner.w, (const struct row *const *)b.rows, b.n_rows, scored));
    bench_train(&b, sums);
    float score = (float)scored[0], trained = (float)sums[0];
    close_to("score loss", &score, &trained, 1, 1e-6, 0);
    bench_close(&b);
}

static void test_gradients(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int a = 0; a < (c < N_F32 ? 2 : 1); a++) /* the 16-bit checkpoints come with one adapter */
            for (int k = 0; k < n_backends; k++) gradients_and_steps(cases[c], adapters[a], backends[k], CHECKPOINT_SELECTIVE, CAP_TOKENS);
    for (size_t a = 0; a < sizeof more / sizeof *more; a++)
        for (int k = 0; k < n_backends; k++) gradients_and_steps("tied_gqa", more[a], backends[k], CHECKPOINT_SELECTIVE, CAP_TOKENS);
}

/* Recomputation is bit-equal: the same numbers come out of the same kernels. */
static void test_checkpoint_levels(void **state) {
    (void)state;
    for (int k = 0; k < n_backends; k++) {
        float *first = NULL;
        size_t act[3];
        for (int level = 0; level < 3; level++) {
            struct bench b;
            start(&b, "tied_gqa", "all_r4", backends[k], (enum checkpoint)level, CAP_TOKENS);
            bench_same_gradient(&b, &first);
            act[level] = b.train.plan.act;
            bench_close(&b);
        }
        assert_true(act[1] < act[0] && act[2] < act[1]);
        free(first);
    }
}

/* A step in small passes gives the gradient of one large pass, to rounding. */
static void test_passes(void **state) {
    (void)state;
    gradients_and_steps("tied_gqa", "all_r4", backends[n_backends - 1], CHECKPOINT_NONE, 12);
    gradients_and_steps("tied_gqa", "all_r4", backends[n_backends - 1], CHECKPOINT_BLOCK, 13);
}

/* Smoothing, z-loss and NEFTune's noise: the gradient of PyTorch with the same noise (make/losses.py), in one pass, in small ones and by recomputation; scoring has none of it. */
static void test_terms(void **state) {
    (void)state;
    static const struct {
        enum checkpoint level;
        int cap;
    } ways[] = {{CHECKPOINT_SELECTIVE, CAP_TOKENS}, {CHECKPOINT_BLOCK, 13}};
    for (int k = 0; k < 2 * n_backends; k++) {
        struct bench b;
        double sums[4], plain[4];
        bench_open(&b, &(struct bench_case){.model = GOLDEN "/tiny_llama/tied_gqa",
                                            .adapter = GOLDEN "/tiny_llama/tied_gqa/adapter_all_r4",
                                            .expected = GOLDEN "/losses/whole.safetensors",
                                            .backend = backends[k / 2],
                                            .level = ways[k % 2].level,
                                            .cap = {ways[k % 2].cap, CAP_SEQUENCES, 4, 32, DT_F32, DT_NONE},
                                            .terms = {.smoothing = 0.1f, .z = 1e-2f},
                                            .noise = 5,
                                            .score = true});
        snprintf(b.name, sizeof b.name, "terms and noise on %s", backends[k / 2]->name);
        must(learner_gradient(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, 0, sums));
        const float loss = (float)(sums[0] / sums[1]);
        close_to(b.name, &loss, f32_of(fixture(&b.want, "loss")), 1, 1e-5, 0);
        bench_compare(&b, "grad", b.wb.grad, 1 / sums[1], 1e-4, 1e-4);
        must(rows_loss(&b.score, &b.wb, b.learner.w, (const struct row *const *)b.rows, b.n_rows, plain));
        struct tensors without;
        must(tensors_open(GOLDEN "/tiny_llama/tied_gqa/expected_all_r4.safetensors", &without));
        const float scored = (float)(plain[0] / plain[1]);
        close_to("score", &scored, f32_of(fixture(&without, "loss")), 1, 1e-5, 0);
        tensors_close(&without);
        bench_close(&b);
    }
}

static void generation(const char *c, const char *a, const struct backend *backend) {
    struct bench b;
    start(&b, c, a, backend, CHECKPOINT_NONE, CAP_TOKENS);
    bench_decode(&b, 1e-4);
    bench_greedy(&b);
    bench_close(&b);
}

static void test_generation(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int k = 0; k < n_backends; k++) generation(cases[c], "all_r4", backends[k]);
    for (size_t a = 0; a < sizeof more / sizeof *more; a++)
        for (int k = 0; k < n_backends; k++) generation("tied_gqa", more[a], backends[k]);
}

int main(void) {
    const struct backend *card = test_card();
    if (card) backends[0] = card, n_backends = 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_checkpoint_levels),
                                       cmocka_unit_test(test_passes), cmocka_unit_test(test_terms), cmocka_unit_test(test_generation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
