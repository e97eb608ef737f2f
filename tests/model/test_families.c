/* Every family against transformers and PEFT (tests/golden/make/families.py): loss, every adapter gradient at every checkpoint
 * level, one AdamW step, logits through the decode path, greedy text; from the Hugging Face folder and from the GGUF file of the
 * same weights; on the reference kernels and on the CPU's. And what a family refuses. */
#define _DEFAULT_SOURCE
#define _XOPEN_SOURCE 700
#include "support/bench.h"
#include "ops/ops.h"
#include <math.h>
#include <unistd.h>

static const char *const cases[] = {"llama_linear", "llama_3_v4", "llama_yarn", "mistral_v4", "mistral_full", "qwen2", "qwen2_window_v4", "qwen3", "qwen3_bias",
                                    "smollm3", "smollm3_window_v4", "phi3", "phi3_long_v4", "gemma2", "gemma3", "gemma3_v4", "gpt2", "t5", "t5_gated_v4"};
enum { CASES = sizeof cases / sizeof *cases, CAP_TOKENS = 64, CAP_SEQUENCES = 8, CAP_LENGTH = 24 };
static const struct backend *backends[] = {&backend_reference, &backend_cpu};
static int n_backends = 2; /* CYC_TEST_DEVICE=cuda: the card alone, in f32 */

static bool can_read_gguf(const char *c) { /* GGUF metadata cannot say their windows, NoPE layers, scale, pattern, greatest distance */
    static const char *const not[] = {"qwen2_window_v4", "qwen3_bias", "smollm3_window_v4", "gemma3_v4", "t5_gated_v4"};
    for (size_t i = 0; i < sizeof not / sizeof *not; i++)
        if (!strcmp(c, not[i])) return false;
    return true;
}

static void start(struct bench *b, const char *c, bool gguf, const struct backend *backend, enum checkpoint level) {
    char model[128], adapter[128], expected[128];
    snprintf(model, sizeof model, GOLDEN "/families/%s%s", c, gguf ? "/model.gguf" : "");
    snprintf(adapter, sizeof adapter, GOLDEN "/families/%s/adapter", c);
    snprintf(expected, sizeof expected, GOLDEN "/families/%s/expected.safetensors", c);
    bench_open(b, &(struct bench_case){.model = model,
                                       .adapter = adapter,
                                       .expected = expected,
                                       .backend = backend,
                                       .level = level,
                                       .cap = {CAP_TOKENS, CAP_SEQUENCES, 4, CAP_LENGTH, DT_F32, DT_NONE},
                                       .recipe = {1e-2, 0.01, 0.9, 0.999, 1e-8, 1.0, {SCHEDULE_CONSTANT, 0, 1}}});
    snprintf(b->name, sizeof b->name, "%s%s on %s", c, gguf ? " (gguf)" : "", backend->name);
}

static void gradients_and_step(const char *c, bool gguf, const struct backend *backend, enum checkpoint level) {
    struct bench b;
    start(&b, c, gguf, backend, level);
    double sums[4];
    must(learner_gradient(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, 0, sums));
    float loss = (float)(sums[0] / sums[1]);
    close_to(b.name, &loss, f32_of(fixture(&b.want, "loss")), 1, 1e-5, 0);
    bench_compare(&b, "grad", b.wb.grad, 1 / sums[1], 1e-4, 1e-4);
    struct step_result r;
    must(learner_step(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, 0, &r));
    float norm = (float)r.grad_norm;
    close_to(b.name, &norm, f32_of(fixture(&b.want, "grad_norm")), 1, 1e-4, 0);
    bench_compare(&b, "after1", b.learner.w, 1, 1e-3, 1e-3); /* Adam's first step is g / (|g| + eps): a gradient near 0 shows its noise */
    bench_close(&b);
}

static void test_gradients(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++)
        for (int k = 0; k < n_backends; k++)
            for (int gguf = 0; gguf < (can_read_gguf(cases[c]) ? 2 : 1); gguf++) gradients_and_step(cases[c], gguf, backends[k], CHECKPOINT_NONE);
}

/* Recomputation is bit-equal: the same numbers come out of the same kernels, in less memory. */
static void test_checkpoint_levels(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++) {
        float *first = NULL;
        size_t act[3];
        for (int level = 0; level < 3; level++) {
            struct bench b;
            start(&b, cases[c], false, backends[n_backends - 1], (enum checkpoint)level);
            bench_same_gradient(&b, &first);
            act[level] = b.train.plan.act;
            bench_close(&b);
        }
        assert_true(act[1] < act[0] && act[2] <= act[1]);
        free(first);
    }
}

static void test_generation(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++)
        for (int k = 0; k < n_backends; k++)
            for (int gguf = 0; gguf < (can_read_gguf(cases[c]) ? 2 : 1); gguf++) {
                struct bench b;
                start(&b, cases[c], gguf, backends[k], CHECKPOINT_NONE);
                bench_decode(&b, 5e-5);
                bench_greedy(&b);
                bench_close(&b);
            }
}

/* Every distance falls into the bucket that transformers says, on the borders too. */
static void test_buckets(void **state) {
    (void)state;
    struct tensors want;
    must(tensors_open(GOLDEN "/families/t5/expected.safetensors", &want));
    const struct tensor *b = fixture(&want, "buckets");
    assert_int_equal(b->d[1], 1201);
    for (int causal = 0; causal < 2; causal++)
        for (int ahead = -600; ahead <= 600; ahead++) {
            struct op_attr a = {.buckets = 32, .distance = 128, .causal = causal};
            if (ops_bucket(&a, ahead) != i32_of(b)[causal * 1201 + ahead + 600]) flunk("distance %d, causal %d: bucket %d, must be %d", ahead, causal, ops_bucket(&a, ahead), i32_of(b)[causal * 1201 + ahead + 600]);
        }
    tensors_close(&want);
}

/* An encoder's rows, packed, from folder and GGUF; and that it does not train. */
static void test_bert(void **state) {
    (void)state;
    for (int k = 0; k < 2 * n_backends; k++) {
        const struct backend *backend = backends[k / 2];
        arena mem = {0};
        struct model m;
        struct tensors want;
        struct program g;
        struct memory work = {0};
        must(model_open(k % 2 ? GOLDEN "/families/bert/model.gguf" : GOLDEN "/families/bert", NULL, &m));
        must(tensors_open(GOLDEN "/families/bert/expected.safetensors", &want));
        const struct tensor *rows = fixture(&want, "features");
        const int32_t *cu = i32_of(fixture(&want, "cu_seqlens"));
        int n = (int)rows->d[0], s = (int)fixture(&want, "cu_seqlens")->d[0] - 1;
        int32_t *pos = arena_alloc(&mem, (size_t)n * 4);
        for (int i = 0; i < s; i++)
            for (int32_t t = cu[i]; t < cu[i + 1]; t++) pos[t] = t - cu[i];
        must(program_build(&g, &m, MODE_FEATURES, NULL, (struct capacity){n, s, 0, 0, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, backend, false));
        must(memory_for(&work, (struct program *const[]){&g}, 1));
        struct feed f = {.ids = i32_of(fixture(&want, "ids")), .pos = pos, .cu = cu, .n = n, .s = s};
        must(program_run(&g, &work, NULL, NULL, &f, &(struct run_ctx){.threads = 2}, true));
        float *have = malloc(rows->bytes);
        must(program_read(&g, &work, g.features, n, s, have, rows->bytes));
        close_to("features", have, f32_of(rows), (size_t)(n * rows->d[1]), 0, 1e-5);
        free(have);
        memory_free(&work);
        program_free(&g);
        assert_int_equal(program_build(&g, &m, MODE_TRAIN, NULL, (struct capacity){n, s, 0, 0, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, backend, false), E_UNSUPPORTED);
        assert_non_null(strstr(err_text(), "is an encoder (bert): it gives features and classes, it has no head to write with"));
        tensors_close(&want);
        model_close(&m);
        arena_free(&mem);
    }
}

/* --- what is refused ------------------------------------------------------------------------------------------------ */
static const char *changed_config(arena *mem, const char *c, const char *from, const char *to) {
    struct file_map map;
    char *dir = arena_printf(mem, "%s", GOLDEN), *path = arena_printf(mem, "%s/families/%s/config.json", dir, c);
    must(file_map(path, &map));
    const char *text = arena_printf(mem, "%.*s", (int)map.n, (const char *)map.p), *at = strstr(text, from);
    file_unmap(&map);
    if (!at) flunk("%s has no '%s'", path, from);
    const char *out = arena_printf(mem, "/tmp/cyc_families_%d.json", (int)getpid());
    const char *body = arena_printf(mem, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    must(file_write(out, body, strlen(body)));
    return out;
}

static void test_refused(void **state) {
    (void)state;
    static const struct { const char *c, *from, *to, *says; err code; } list[] = {
        {"mistral_v4", "\"silu\"", "\"gelu\"", "hidden_act 'gelu' is not supported (supported: silu)", E_UNSUPPORTED},
        {"mistral_v4", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "4 heads do not share 3 key/value heads", E_INPUT},
        {"mistral_v4", "\"head_dim\": 8", "\"head_dim\": 7", "a head size of 7 is not possible", E_INPUT},
        {"mistral_v4", "\"mistral\"", "\"mixtral\"", "architecture 'mixtral' is not supported (supported: llama, mistral", E_UNSUPPORTED},
        {"llama_linear", "\"linear\"", "\"spiral\"", "RoPE scaling 'spiral' is not supported (supported: linear, ntk, dynamic, llama3, yarn, longrope)", E_UNSUPPORTED},
        {"llama_linear", "\"factor\": 4.0", "\"factor\": 0.5", "RoPE scaling 'linear' with the factor 0.5", E_INPUT},
        {"llama_3_v4", "\"original_max_position_embeddings\": 32", "\"original_max\": 32", "RoPE scaling 'llama3' without original_max_position_embeddings", E_INPUT},
        {"llama_3_v4", "\"high_freq_factor\": 4.0", "\"high_freq_factor\": 1.0", "low_freq_factor 1, high_freq_factor 1", E_INPUT},
        {"qwen3", "\"full_attention\"", "\"chunked_attention\"", "layer_types 'chunked_attention' is not supported", E_UNSUPPORTED},
        {"gemma3", "    \"sliding_attention\",\n", "", "layer_types names 6 layers, there are 7", E_INPUT},
        {"smollm3_window_v4", "    0,\n", "", "no_rope_layers has 1 entries for 2 layers", E_INPUT},
        {"phi3_long_v4", "\"partial_rotary_factor\": 0.5", "\"partial_rotary_factor\": 1.5", "partial_rotary_factor 1.5", E_INPUT},
        {"phi3_long_v4", "\"partial_rotary_factor\": 0.5", "\"partial_rotary_factor\": 1.0", "short_factor must be a list of 4 numbers", E_INPUT},
        {"gemma2", "\"gelu_pytorch_tanh\"", "\"gelu\"", "hidden_activation 'gelu' is not supported", E_UNSUPPORTED},
        {"gemma2", "\"query_pre_attn_scalar\": 8", "\"query_pre_attn_scalar\": 0", "query_pre_attn_scalar 0", E_INPUT},
        {"gemma3", "\"use_bidirectional_attention\": false", "\"use_bidirectional_attention\": true", "use_bidirectional_attention true is not supported", E_UNSUPPORTED},
        {"gpt2", "\"scale_attn_by_inverse_layer_idx\": false", "\"scale_attn_by_inverse_layer_idx\": true", "scale_attn_by_inverse_layer_idx true is not supported", E_UNSUPPORTED},
        {"gpt2", "\"scale_attn_weights\": true", "\"scale_attn_weights\": false", "scale_attn_weights false is not supported", E_UNSUPPORTED},
        {"gpt2", "\"n_embd\": 16", "\"n_embd\": 17", "a width of 17 is not 2 heads", E_INPUT},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        arena mem = {0};
        struct model m;
        const char *config = changed_config(&mem, list[i].c, list[i].from, list[i].to);
        err e = model_open("random:1:f32", config, &m);
        if (e != list[i].code || !strstr(err_text(), list[i].says)) flunk("%s, %s: wanted %d \"%s\", got %d \"%s\"", list[i].c, list[i].to, list[i].code, list[i].says, e, e ? err_text() : "");
        unlink(config);
        arena_free(&mem);
    }
}

/* A weight that the sizes give no place would be left out of the computation. */
static void test_surplus_tensor(void **state) {
    (void)state;
    arena mem = {0};
    struct model m;
    const char *dir = arena_printf(&mem, "/tmp/cyc_families_%d", (int)getpid()), *weights = arena_printf(&mem, "%s/model.safetensors", dir), *config = arena_printf(&mem, "%s/config.json", dir);
    must(dir_make(dir));
    rename(changed_config(&mem, "qwen3_bias", "\"attention_bias\": true", "\"attention_bias\": false"), config);
    char *here = realpath(GOLDEN "/families/qwen3_bias/model.safetensors", NULL);
    assert_int_equal(symlink(here, weights), 0);
    assert_int_equal(model_open(dir, NULL, &m), E_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "has no place in a qwen3 model as its sizes describe it"));
    unlink(weights);
    unlink(config);
    rmdir(dir);
    free(here);
    arena_free(&mem);
}

/* Conv1D's fan_in_fan_out goes into the adapter's file; all-linear is written as PEFT writes it. */
static void test_gpt2_adapter(void **state) {
    (void)state;
    struct bench b;
    start(&b, "gpt2", false, backends[n_backends - 1], CHECKPOINT_NONE);
    const char *dir = arena_printf(&b.mem, "/tmp/cyc_families_%d", (int)getpid()), *path = arena_printf(&b.mem, "%s/adapter_config.json", dir);
    float *w = to_host(b.learner.backend, b.learner.w, b.st.params.bytes);
    must(adapter_write(dir, &b.st, w, "tests/golden/families/gpt2"));
    struct file_map map;
    must(file_map(path, &map));
    const char *text = arena_printf(&b.mem, "%.*s", (int)map.n, (const char *)map.p);
    file_unmap(&map);
    assert_non_null(strstr(text, "\"fan_in_fan_out\": true"));
    assert_true(b.model.files.copied > 0);
    unlink(path);
    unlink(arena_printf(&b.mem, "%s/adapter_model.safetensors", dir));
    rmdir(dir);
    free(w);
    bench_close(&b);
}

int main(void) {
    const struct backend *card = test_card();
    if (card) backends[0] = card, n_backends = 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_checkpoint_levels), cmocka_unit_test(test_generation), cmocka_unit_test(test_buckets), cmocka_unit_test(test_bert), cmocka_unit_test(test_refused), cmocka_unit_test(test_surplus_tensor), cmocka_unit_test(test_gpt2_adapter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
