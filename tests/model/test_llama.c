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
                                       .cap = {cap, CAP_SEQUENCES, 4, 32, DT_F32},
                                       .recipe = {1e-2, 0.01, 0.9, 0.999, 1e-8, 1.0, SCHEDULE_LINEAR, 2, 10},
                                       .score = true});
    snprintf(b->name, sizeof b->name, "%s/%s on %s", c, a, backend->name);
}

static void gradients_and_steps(const char *c, const char *a, const struct backend *backend, enum checkpoint level, int cap) {
    struct bench b;
    start(&b, c, a, backend, level, cap);
    double sums[4];
    must(learner_gradient(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, 0, sums));
    float loss = (float)(sums[0] / sums[1]);
    close_to("loss", &loss, f32_of(fixture(&b.want, "loss")), 1, 1e-5, 0);
    bench_compare(&b, "grad", b.wb.grad, 1 / sums[1], 1e-4, 1e-4);
    double again[4];
    must(rows_loss(&b.score, &b.wb, b.learner.w, (const struct row *const *)b.rows, b.n_rows, again));
    float scored = (float)again[0], trained = (float)sums[0];
    close_to("score loss", &scored, &trained, 1, 1e-6, 0);
    for (int step = 0; step < 10; step++) {
        struct step_result r;
        must(learner_step(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, (uint64_t)step, &r));
        float got[3] = {(float)r.loss, (float)r.grad_norm, (float)r.learning_rate};
        close_to("losses", &got[0], f32_of(fixture(&b.want, "losses")) + step, 1, 1e-4, 1e-5);
        close_to("grad_norms", &got[1], f32_of(fixture(&b.want, "grad_norms")) + step, 1, 1e-3, 1e-5);
        close_to("lrs", &got[2], f32_of(fixture(&b.want, "lrs")) + step, 1, 1e-6, 1e-12);
    }
    bench_compare(&b, "after10", b.learner.w, 1, 1e-3, 1e-3);
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
        size_t bytes = 0, act[3];
        for (int level = 0; level < 3; level++) {
            struct bench b;
            double sums[4];
            start(&b, "tied_gqa", "all_r4", backends[k], (enum checkpoint)level, CAP_TOKENS);
            must(learner_gradient(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, 0, sums));
            act[level] = b.train.plan.act;
            bytes = b.st.params.bytes;
            float *grad = to_host(backends[k], b.wb.grad, bytes);
            if (!first) first = grad;
            else {
                assert_memory_equal(first, grad, bytes);
                free(grad);
            }
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

/* Token by token through the cache: the packed model's logits. */
static void decode_logits(const char *c, const char *a, const struct backend *backend) {
    struct bench b;
    start(&b, c, a, backend, CHECKPOINT_NONE, CAP_TOKENS);
    const int32_t *ids = i32_of(fixture(&b.want, "ids")), *cu = i32_of(fixture(&b.want, "cu_seqlens"));
    const struct tensor *logits = fixture(&b.want, "logits");
    int64_t V = logits->d[1];
    struct run_ctx run = {.threads = 2};
    for (int s = 0; s < b.n_rows; s++)
        for (int32_t i = cu[s]; i < cu[s + 1]; i++) {
            int32_t pos = i - cu[s], slot = s % 4, sample = 0;
            struct feed f = {.ids = ids + i, .pos = &pos, .slot = &slot, .sample = &sample, .n = 1};
            must(program_run(&b.gen.decode, &b.wb.mem, b.learner.w, NULL, &f, &run, false));
            float z[1024];
            assert_true(V <= 1024);
            must(program_read(&b.gen.decode, &b.wb.mem, b.gen.decode.logits, 1, 0, z, (size_t)V * 4));
            close_to(b.name, z, f32_of(logits) + i * V, (size_t)V, 0, 1e-4);
        }
    bench_close(&b);
}

static void greedy(const char *c, const char *a, const struct backend *backend) {
    struct bench b;
    start(&b, c, a, backend, CHECKPOINT_NONE, CAP_TOKENS);
    const int32_t *prompts = i32_of(fixture(&b.want, "gen.prompts")), *cu = i32_of(fixture(&b.want, "gen.cu"));
    const struct tensor *want_ids = fixture(&b.want, "gen.ids");
    struct ids prompt[8];
    struct generation out[8];
    int n = (int)want_ids->d[0], new = (int)want_ids->d[1];
    for (int i = 0; i < n; i++) prompt[i] = (struct ids){(int32_t *)prompts + cu[i], (size_t)(cu[i + 1] - cu[i]), 0};
    struct generate_request rq = {.prompt = prompt, .n = n, .max_new = new, .eos = -1, .run = {.threads = 2}};
    must(generate(&b.gen, &b.wb.mem, b.learner.w, &rq, out, NULL));
    for (int i = 0; i < n; i++) {
        assert_int_equal(out[i].n, new);
        assert_memory_equal(out[i].ids, i32_of(want_ids) + i * new, (size_t)new * 4);
        free(out[i].ids);
    }
    bench_close(&b);
}

static void test_generation(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int k = 0; k < n_backends; k++) {
            decode_logits(cases[c], "all_r4", backends[k]);
            greedy(cases[c], "all_r4", backends[k]);
        }
    for (size_t a = 0; a < sizeof more / sizeof *more; a++)
        for (int k = 0; k < n_backends; k++) decode_logits("tied_gqa", more[a], backends[k]), greedy("tied_gqa", more[a], backends[k]);
}

int main(void) {
    const struct backend *card = test_card();
    if (card) backends[0] = card, n_backends = 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_checkpoint_levels),
                                       cmocka_unit_test(test_passes), cmocka_unit_test(test_generation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
