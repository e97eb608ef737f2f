/* Every method but plain LoRA against PEFT, or PyTorch where PEFT has no such method (tests/golden/make/methods.py): loss, each gradient,
 * ten AdamW steps, logits through the decode path, greedy text; on the reference kernels and on the CPU's, at every checkpoint level. And
 * the law of step 0: a fresh adapter is the base, bit for bit. */
#include "support/bench.h"
#include "peft/methods.h"

static const struct {
    const char *name, *base;
} cases[] = {{"ln", "tiny_llama/tied_gqa"}, {"ln_gemma2", "families/gemma2"}, {"ln_qwen3", "families/qwen3"}, {"ln_gpt2", "families/gpt2"},
             {"bias_all", "tiny_llama/bias"}, {"bias_own", "families/gpt2"}, {"ia3", "tiny_llama/tied_gqa"}, {"ia3_gpt2", "families/gpt2"}, {"ia3_phi3", "families/phi3"},
             {"bitfit", "tiny_llama/bias"}, {"bitfit_qwen2", "families/qwen2"}, {"tokens", "tiny_llama/tied_gqa"}, {"tokens_untied", "tiny_llama/untied_mha"},
             {"tokens_gemma2", "families/gemma2"}, {"tokens_gpt2", "families/gpt2"}, {"tokens_gemma2", "families/gemma2/model.gguf"}, {"full", "tiny_llama/tied_gqa"}, {"full_gpt2", "families/gpt2"}, {"full_gemma2", "families/gemma2"},
             {"full_last", "families/qwen2"}, {"full_regex", "families/qwen2"}, {"full_names", "families/mistral_full"}, {"full_gpt2", "families/gpt2/model.gguf"},
             {"full_gemma2", "families/gemma2/model.gguf"}, {"full_names", "families/mistral_full/model.gguf"}, {"full_t5", "families/t5"}, {"full_t5", "families/t5/model.gguf"}};
enum { CASES = sizeof cases / sizeof *cases, CAP_TOKENS = 64, CAP_SEQUENCES = 8, T5 = 2 /* the last ones: training alone */ };
static const struct backend *backends[] = {&backend_reference, &backend_cpu};
static int n_backends = 2; /* CYC_TEST_DEVICE=cuda: the card alone, in f32 */

static void start(struct bench *b, int c, const struct backend *backend, enum checkpoint level) {
    char model[128], adapter[128], expected[128];
    snprintf(model, sizeof model, GOLDEN "/%s", cases[c].base);
    snprintf(adapter, sizeof adapter, GOLDEN "/methods/%s/adapter", cases[c].name);
    snprintf(expected, sizeof expected, GOLDEN "/methods/%s/expected.safetensors", cases[c].name);
    bench_open(b, &(struct bench_case){.model = model,
                                       .adapter = adapter,
                                       .expected = expected,
                                       .backend = backend,
                                       .level = level,
                                       .cap = {CAP_TOKENS, CAP_SEQUENCES, 4, 32, DT_F32},
                                       .recipe = {1e-2, 0.01, 0.9, 0.999, 1e-8, 1.0, SCHEDULE_LINEAR, 2, 10}});
    snprintf(b->name, sizeof b->name, "%s on %s", cases[c].name, backend->name);
}

static void gradients_and_steps(int c, const struct backend *backend) {
    struct bench b;
    double sums[4];
    start(&b, c, backend, CHECKPOINT_SELECTIVE);
    must(learner_gradient(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, 0, sums));
    float loss = (float)(sums[0] / sums[1]);
    close_to(b.name, &loss, f32_of(fixture(&b.want, "loss")), 1, 1e-5, 0);
    bench_compare(&b, "grad", b.wb.grad, 1 / sums[1], 1e-4, 1e-4);
    for (int step = 0; step < 10; step++) {
        struct step_result r;
        must(learner_step(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, (uint64_t)step, &r));
        float got[2] = {(float)r.loss, (float)r.grad_norm};
        close_to("losses", &got[0], f32_of(fixture(&b.want, "losses")) + step, 1, 1e-4, 1e-5);
        close_to("grad_norms", &got[1], f32_of(fixture(&b.want, "grad_norms")) + step, 1, 1e-3, 1e-5);
    }
    bench_compare(&b, "after10", b.learner.w, 1, 1e-3, 1e-3);
    bench_close(&b);
}

static void test_gradients(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++)
        for (int k = 0; k < n_backends; k++) gradients_and_steps(c, backends[k]);
}

/* Recomputation is bit-equal. */
static void test_checkpoint_levels(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++) {
        float *first = NULL;
        for (int level = 0; level < 3; level++) {
            struct bench b;
            double sums[4];
            start(&b, c, backends[n_backends - 1], (enum checkpoint)level);
            must(learner_gradient(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, 0, sums));
            float *grad = to_host(b.learner.backend, b.wb.grad, b.st.params.bytes);
            if (!first) first = grad;
            else {
                assert_memory_equal(first, grad, b.st.params.bytes);
                free(grad);
            }
            bench_close(&b);
        }
        free(first);
    }
}

/* Token by token through the cache: the packed model's logits. */
static void decode_logits(struct bench *b) {
    const int32_t *ids = i32_of(fixture(&b->want, "ids")), *cu = i32_of(fixture(&b->want, "cu_seqlens"));
    const struct tensor *logits = fixture(&b->want, "logits");
    const int64_t V = logits->d[1];
    for (int s = 0; s < b->n_rows; s++)
        for (int32_t i = cu[s]; i < cu[s + 1]; i++) {
            const int32_t pos = i - cu[s], slot = s % 4, sample = 0;
            const struct feed f = {.ids = ids + i, .pos = &pos, .slot = &slot, .sample = &sample, .n = 1};
            float z[256];
            assert_true(V <= 256);
            must(program_run(&b->gen.decode, &b->wb.mem, b->learner.w, NULL, &f, &(struct run_ctx){.threads = 2}, false));
            must(program_read(&b->gen.decode, &b->wb.mem, b->gen.decode.logits, 1, 0, z, (size_t)V * 4));
            close_to(b->name, z, f32_of(logits) + i * V, (size_t)V, 0, 1e-4);
        }
}

static void greedy(struct bench *b) {
    const int32_t *prompts = i32_of(fixture(&b->want, "gen.prompts")), *cu = i32_of(fixture(&b->want, "gen.cu"));
    const struct tensor *want_ids = fixture(&b->want, "gen.ids");
    struct ids prompt[8];
    struct generation out[8];
    const int n = (int)want_ids->d[0], new = (int)want_ids->d[1];
    for (int i = 0; i < n; i++) prompt[i] = (struct ids){(int32_t *)prompts + cu[i], (size_t)(cu[i + 1] - cu[i]), 0};
    const struct generate_request rq = {.prompt = prompt, .n = n, .max_new = new, .eos = -1, .run = {.threads = 2}};
    must(generate(&b->gen, &b->wb.mem, b->learner.w, &rq, out, NULL));
    for (int i = 0; i < n; i++) {
        assert_int_equal(out[i].n, new);
        assert_memory_equal(out[i].ids, i32_of(want_ids) + i * new, (size_t)new * 4);
        free(out[i].ids);
    }
}

static void test_generation(void **state) {
    (void)state;
    for (int c = 0; c < CASES - T5; c++)
        for (int k = 0; k < n_backends; k++) {
            struct bench b;
            start(&b, c, backends[k], CHECKPOINT_NONE);
            decode_logits(&b);
            greedy(&b);
            bench_close(&b);
        }
}

/* A fresh adapter's logits are the base's, to the last bit. */
static void test_step_zero(void **state) {
    (void)state;
    for (int c = 0; c < CASES - T5; c++) {
        struct bench b;
        char model[128];
        start(&b, c, &backend_cpu, CHECKPOINT_NONE);
        snprintf(model, sizeof model, GOLDEN "/%s", cases[c].base);
        float *base = logits_of(model, &b.want), *fresh = logits_of_fresh(model, &b.st, &b.want);
        assert_memory_equal(base, fresh, (size_t)fixture(&b.want, "ids")->d[0] * (size_t)b.model.shape.vocab * sizeof *base);
        free(base);
        free(fresh);
        bench_close(&b);
    }
}

int main(void) {
    const struct backend *card = test_card();
    if (card) backends[0] = card, n_backends = 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_checkpoint_levels), cmocka_unit_test(test_generation), cmocka_unit_test(test_step_zero)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
