/* Every method but plain LoRA against PEFT, or PyTorch where PEFT has no such method (tests/golden/make/methods.py): loss, each gradient,
 * ten AdamW steps, logits through the decode path, greedy text; on the reference kernels and on the CPU's, at every checkpoint level. And
 * the law of step 0: a fresh adapter is the base, bit for bit (or, where it adds in another order, within what that can do). Of virtual tokens: as a text
 * before it. */
#define _DEFAULT_SOURCE
#include "support/bench.h"
#include "model/derived.h"
#include "ops/ops.h"
#include "peft/adalora.h"
#include "peft/adaption_prompt.h"
#include "peft/lora.h"
#include "peft/methods.h"
#include "peft/prompt_tuning.h"
#include <jansson.h>
#include <unistd.h>

static const struct {
    const char *name, *base;
} cases[] = {{"ln", "tiny_llama/tied_gqa"}, {"ln_gemma2", "families/gemma2"}, {"ln_qwen3", "families/qwen3"}, {"ln_gpt2", "families/gpt2"},
             {"bias_all", "tiny_llama/bias"}, {"bias_own", "families/gpt2"}, {"ia3", "tiny_llama/tied_gqa"}, {"ia3_gpt2", "families/gpt2"}, {"ia3_phi3", "families/phi3"},
             {"bitfit", "tiny_llama/bias"}, {"bitfit_qwen2", "families/qwen2"}, {"lora_plus", "tiny_llama/tied_gqa"},
             {"dora", "tiny_llama/tied_gqa"}, {"dora_bias", "tiny_llama/bias"}, {"dora_gpt2", "families/gpt2"}, {"dora_plus", "tiny_llama/bias"},
             {"tokens", "tiny_llama/tied_gqa"}, {"tokens_untied", "tiny_llama/untied_mha"}, {"tokens_gemma2", "families/gemma2"}, {"tokens_gpt2", "families/gpt2"},
             {"tokens_gemma2", "families/gemma2/model.gguf"},
             {"pissa", "tiny_llama/tied_gqa"}, {"pissa_rs", "tiny_llama/bias"},
             {"full", "tiny_llama/tied_gqa"}, {"full_gpt2", "families/gpt2"}, {"full_gemma2", "families/gemma2"},
             {"full_last", "families/qwen2"}, {"full_regex", "families/qwen2"}, {"full_names", "families/mistral_full"}, {"full_gpt2", "families/gpt2/model.gguf"},
             {"full_gemma2", "families/gemma2/model.gguf"}, {"full_names", "families/mistral_full/model.gguf"},
             {"prompt", "tiny_llama/tied_gqa"}, {"prompt_gemma2", "families/gemma2"}, {"prompt_gpt2", "families/gpt2"},
             {"ptuning", "tiny_llama/tied_gqa"}, {"ptuning_qwen2", "families/qwen2"},
             {"prefix", "tiny_llama/tied_gqa"}, {"prefix_linear", "families/llama_linear"}, {"prefix_linear", "families/llama_linear/model.gguf"},
             {"prefix_gemma2", "families/gemma2"}, {"prefix_gpt2", "families/gpt2"},
             {"adaption", "tiny_llama/tied_gqa"}, {"adaption_linear", "families/llama_linear"}, {"adaption_linear", "families/llama_linear/model.gguf"},
             {"adaption_mistral", "families/mistral_full"}, {"adaption_gpt2", "families/gpt2"}, {"adaption_gpt2", "families/gpt2/model.gguf"},
             {"projector", "tiny_llama/tied_gqa"}, {"projector_linear", "families/gpt2"}, {"projector_linear", "families/gpt2/model.gguf"},
             {"projector_gemma2", "families/gemma2"},
             {"adalora", "tiny_llama/tied_gqa"}, {"adalora_gpt2", "families/gpt2"}, {"adalora_mistral", "families/mistral_full"}, {"adalora_mistral", "families/mistral_full/model.gguf"},
             {"vera", "tiny_llama/tied_gqa"}, {"vera_gpt2", "families/gpt2"}, {"vera_mistral", "families/mistral_full"}, {"vera_mistral", "families/mistral_full/model.gguf"},
             {"bn", "tiny_llama/tied_gqa"}, {"bn_seq", "tiny_llama/bias"}, {"bn_par", "tiny_llama/tied_gqa"}, {"bn_gpt2", "families/gpt2"}, {"bn_qwen2", "families/qwen2"},
             {"bn_gemma2", "families/gemma2"}, {"bn_par_gemma2", "families/gemma2"}, {"bn_phi3", "families/phi3"}, {"bn_smollm3", "families/smollm3"}, {"bn_gpt2", "families/gpt2/model.gguf"},
             {"bn_smollm3", "families/smollm3/model.gguf"},
             {"table", "tiny_llama/tied_gqa"}, {"table_gemma2", "families/gemma2"}, {"table_gpt2", "families/gpt2"}, {"table_gpt2", "families/gpt2/model.gguf"},
             {"head", "tiny_llama/tied_gqa"}, {"head_untied", "tiny_llama/untied_mha"}, {"head_gemma2", "families/gemma2"}, {"head_gemma2", "families/gemma2/model.gguf"},
             {"head_gpt2", "families/gpt2"}, {"head_gpt2", "families/gpt2/model.gguf"},
             {"saved", "tiny_llama/untied_mha"}, {"saved_embedding", "tiny_llama/tied_gqa"}, {"saved_both", "tiny_llama/tied_gqa"}, {"saved_gpt2", "families/gpt2"}, {"saved_gpt2", "families/gpt2/model.gguf"},
             {"full_t5", "families/t5"}, {"full_t5", "families/t5/model.gguf"}, {"bn_t5", "families/t5"}, {"bn_par_t5", "families/t5"}, {"bn_t5", "families/t5/model.gguf"},
             {"vera_t5", "families/t5"}, {"adalora_t5", "families/t5"}, {"head_t5", "families/t5"}, {"head_t5", "families/t5/model.gguf"}};
enum { CASES = sizeof cases / sizeof *cases, CAP_TOKENS = 64, CAP_SEQUENCES = 8, T5 = 9 /* the last ones: training alone */ };
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
                                       .cap = {CAP_TOKENS, CAP_SEQUENCES, 4, 32, DT_F32, DT_NONE},
                                       .recipe = {1e-2, 0.01, 0.9, 0.999, 1e-8, 1.0, {SCHEDULE_LINEAR, 2, 10}}});
    snprintf(b->name, sizeof b->name, "%s on %s", cases[c].name, backend->name);
}

static void gradients_and_steps(int c, const struct backend *backend) {
    struct bench b;
    double sums[4];
    start(&b, c, backend, CHECKPOINT_SELECTIVE);
    bench_train(&b, sums);
    bench_close(&b);
}

static void test_gradients(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++)
        for (int k = 0; k < n_backends; k++) gradients_and_steps(c, backends[k]);
}

/* Fifty steps of full fine-tuning: PyTorch's losses (make/curve.py) to 1e-3, of two families. */
static void test_curves(void **state) {
    (void)state;
    static const char *const names[] = {"full", "full_gpt2"};
    struct tensors want;
    must(tensors_open(GOLDEN "/methods/curve.safetensors", &want));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int c = 0;
        while (strcmp(cases[c].name, names[i]) != 0) c++;
        struct bench b;
        start(&b, c, backends[n_backends - 1], CHECKPOINT_NONE);
        b.learner.recipe.learning_rate = 3e-3;
        b.learner.recipe.curve = (struct curve){.schedule = SCHEDULE_CONSTANT};
        const struct tensor *losses = fixture(&want, names[i]);
        for (int k = 0; k < losses->d[0]; k++) {
            struct step_result r;
            must(learner_step(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, (uint64_t)k, &r));
            const float got = (float)r.loss;
            close_to(names[i], &got, f32_of(losses) + k, 1, 1e-3, 0);
        }
        bench_close(&b);
    }
    tensors_close(&want);
}

/* Recomputation is bit-equal. */
static void test_checkpoint_levels(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++) {
        float *first = NULL;
        for (int level = 0; level < 3; level++) {
            struct bench b;
            start(&b, c, backends[n_backends - 1], (enum checkpoint)level);
            bench_same_gradient(&b, &first);
            bench_close(&b);
        }
        free(first);
    }
}

static void test_generation(void **state) {
    (void)state;
    for (int c = 0; c < CASES - T5; c++)
        for (int k = 0; k < n_backends; k++) {
            struct bench b;
            start(&b, c, backends[k], CHECKPOINT_NONE);
            bench_greedy(&b);
            bench_decode(&b, 1e-4);
            bench_close(&b);
        }
}

static double largest(const float *x, size_t n) {
    double most = 0;
    for (size_t k = 0; k < n; k++) most = fmax(most, fabs(x[k]));
    return most;
}

/* A fresh adapter's logits are the base's, to the last bit, but where a bias is added in another place. */
static void test_step_zero(void **state) {
    (void)state;
    for (int c = 0; c < CASES - T5; c++) {
        struct bench b;
        char model[128];
        start(&b, c, &backend_cpu, CHECKPOINT_NONE);
        if (b.st.virtual_tokens) { /* there are no virtual tokens that change nothing; test_text_prompt() has their law */
            bench_close(&b);
            continue;
        }
        snprintf(model, sizeof model, GOLDEN "/%s", cases[c].base);
        float *base = logits_of(model, &b.want), *fresh = logits_of_fresh(model, &b.st, &b.want);
        const size_t n = (size_t)fixture(&b.want, "ids")->d[0] * (size_t)b.model.shape.vocab;
        /* biases that come after sums of up to 64 products, not with them; what PiSSA takes off and adds again */
        if (strcmp(cases[c].name, "dora_gpt2") && !str_starts(cases[c].name, "pissa")) assert_memory_equal(base, fresh, n * sizeof *base);
        else close_to(cases[c].name, fresh, base, n, 0, 8 * 0x1p-24 * sqrt(64) * largest(base, n));
        free(base);
        free(fresh);
        bench_close(&b);
    }
}

static int count(const struct program *g, const struct op_def *op) {
    int n = 0;
    for (int i = 0; i < g->p.ni; i++) n += g->p.in[i].op == op;
    return n;
}

/* A prompt that begins as a text is the base with that text before every row, to the last bit; where it is shorter than the prompt, again
 * from its beginning. */
static void test_text_prompt(void **state) {
    (void)state;
    static const int32_t text[] = {17, 4, 33}, cycled[] = {17, 4, 33, 17, 4};
    for (int c = 0; c < CASES; c++) {
        struct bench b;
        struct structure st;
        char model[128];
        if (strncmp(cases[c].name, "prompt", 6)) continue;
        start(&b, c, &backend_cpu, CHECKPOINT_NONE);
        snprintf(model, sizeof model, GOLDEN "/%s", cases[c].base);
        for (int tokens = 2; tokens <= 5; tokens += 3) {
            const struct prompt_tuning settings = {.of.tokens = tokens, .init = PROMPT_TEXT, .text = "-", .n_ids = 3, .ids = text};
            must(structure_init(&st, &b.model, &method_prompt_tuning, &settings, NULL));
            float *base = logits_after(model, &b.want, cycled, tokens), *fresh = logits_of_fresh(model, &st, &b.want);
            assert_memory_equal(base, fresh, (size_t)fixture(&b.want, "ids")->d[0] * (size_t)b.model.shape.vocab * sizeof *base);
            free(base);
            free(fresh);
            structure_free(&st);
        }
        bench_close(&b);
    }
}

/* Decoding holds nothing of a soft prompt: what it does is in the cache. Nothing of the token table's gradient is computed. */
static void test_prompt_programs(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++) {
        struct bench b;
        start(&b, c, &backend_cpu, CHECKPOINT_NONE);
        const int laid = !b.st.virtual_tokens ? 0 : b.st.method->kv ? 2 * (int)b.model.shape.layers : 1, encoder = !strncmp(cases[c].name, "ptuning", 7);
        assert_int_equal(count(&b.train, &op_overlay), laid);
        assert_int_equal(count(&b.train, &op_overlay_bwd), laid);
        assert_int_equal(count(&b.gen.prefill, &op_overlay), laid);
        assert_int_equal(count(&b.gen.decode, &op_overlay), 0);
        if (b.st.virtual_tokens) assert_int_equal(count(&b.train, &op_embed_bwd), encoder); /* of the encoder's own rows */
        bench_close(&b);
    }
}

/* What is saved of a trained prompt is the prompt: the folder's adapter, that PEFT would load too, says what the one in training said. */
static void test_finished_prompt(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++) {
        struct bench b;
        struct structure st;
        const struct peft_method *method;
        const void *settings;
        char model[128], folder[64];
        if (strncmp(cases[c].name, "ptuning", 7)) continue;
        start(&b, c, &backend_cpu, CHECKPOINT_NONE);
        snprintf(model, sizeof model, GOLDEN "/%s", cases[c].base);
        snprintf(folder, sizeof folder, "/tmp/cyc_prompt_%d", (int)getpid());
        must(adapter_write(folder, &b.st, b.learner.w, "base"));
        must(adapter_read_config(folder, &b.mem, &method, &settings));
        must(structure_init(&st, &b.model, method, settings, NULL));
        assert_int_equal(st.params.n, 1);
        float *weights = arena_f32(st.params.bytes), *again = arena_f32(b.st.params.bytes);
        must(adapter_read(folder, &st, weights));
        float *got = logits_with(model, &st, weights, &b.want);
        const struct tensor *want = fixture(&b.want, "logits");
        close_to(b.name, got, f32_of(want), (size_t)(want->d[0] * want->d[1]), 0, 1e-4);
        must(adapter_load(folder, &b.model, &b.st, again)); /* and training goes on from the encoder beside it */
        assert_memory_equal(again, b.learner.w, b.st.params.bytes);
        char path[128];
        snprintf(path, sizeof path, "%s/prompt_encoder.safetensors", folder);
        assert_int_equal(remove(path), 0);
        assert_int_equal(adapter_load(folder, &b.model, &b.st, again), E_USAGE);
        assert_non_null(strstr(err_text(), "prompt_encoder.safetensors is missing"));
        must(dir_remove(folder));
        free(got);
        arena_f32_free(weights, st.params.bytes);
        arena_f32_free(again, b.st.params.bytes);
        structure_free(&st);
        bench_close(&b);
    }
}

/* What a slice of a fresh adapter of all linear modules holds, by the name in files. */
static const float *slice_of(const struct structure *st, const float *weights, const char *name, int64_t d[2]) {
    for (int i = 0; i < st->params.n; i++)
        for (int k = 0; k < st->params.p[i].n_slices; k++) {
            const struct param *p = &st->params.p[i];
            if (strcmp(p->slice[k].name, name)) continue;
            d[0] = p->slice[k].rows, d[1] = p->d[1];
            return weights + p->off / 4 + p->slice[k].row0 * p->d[1];
        }
    flunk("no %s", name);
    return NULL;
}

/* LoRA's usual starts: r (in + out) numbers a module; B is zero; A uniform within 1 / sqrt(in), or normal of deviation 1 / r. */
static void test_starts(void **state) {
    (void)state;
    enum { R = 8, C = 32, KD = 16, F = 64, BLOCKS = 3 };
    for (int gaussian = 0; gaussian < 2; gaussian++) {
        struct model m;
        struct structure st;
        const struct lora l = {
            .r = R, .alpha = 16, .init = gaussian ? LORA_GAUSSIAN : LORA_KAIMING, .targets.of.take = TAKE_ALL_LINEAR};
        must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
        must(structure_init(&st, &m, &method_lora, &l, NULL));
        assert_int_equal(param_count(&st.params), BLOCKS * R * (2 * (C + C) + 2 * (C + KD) + 3 * (C + F)));
        float *weights = arena_f32(st.params.bytes);
        must(param_fill(&st.params, 1, weights));
        double sum = 0, squares = 0, most = 0, n = 0;
        for (int i = 0; i < st.params.n; i++) {
            const struct param *p = &st.params.p[i];
            const float *x = weights + p->off / 4;
            for (int64_t k = 0; k < p->d[0] * p->d[1]; k++) {
                const double unit = (double)x[k] * (gaussian ? R : sqrt((double)p->d[1]));
                if (str_ends(p->name, ".lora_B")) assert_true(x[k] == 0);
                else sum += unit, squares += unit * unit, most = fmax(most, fabs(unit)), n++;
            }
        }
        assert_int_equal(n, BLOCKS * R * (6 * C + F));
        const double variance = gaussian ? 1 : 1.0 / 3;
        assert_true(fabs(sum / n) < 6 * sqrt(variance / n));
        assert_true(fabs(squares / n - variance) < 6 * sqrt((gaussian ? 2 : 4.0 / 45) / n));
        assert_true(gaussian ? most > 3 : most <= 1 && most > 0.99);
        arena_f32_free(weights, st.params.bytes);
        structure_free(&st);
        model_close(&m);
    }
}

/* Orthogonal start: B A is zero but for rounding, neither factor is; entries vary as PEFT's, half the rank times 0.01 in a column; other
 * modules and other seeds have other numbers; and a model with it is the base within that rounding. */
static void test_orthogonal(void **state) {
    (void)state;
    static const char *const modules[] = {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.2.mlp.down_proj"};
    struct model m;
    struct structure st;
    struct tensors want;
    const struct lora l = {.r = 8, .alpha = 16, .init = LORA_ORTHOGONAL, .targets.of.take = TAKE_ALL_LINEAR};
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
    must(structure_init(&st, &m, &method_lora, &l, NULL));
    float *weights = arena_f32(st.params.bytes), *other = arena_f32(st.params.bytes), first = 0;
    must(param_fill(&st.params, 1, weights));
    must(param_fill(&st.params, 2, other));
    for (int k = 0; k < 3; k++) {
        char name[128];
        int64_t a[2], b[2];
        double squares = 0, worst = 0;
        snprintf(name, sizeof name, "%s.lora_A.weight", modules[k]);
        const float *A = slice_of(&st, weights, name, a), *A2 = slice_of(&st, other, name, a);
        snprintf(name, sizeof name, "%s.lora_B.weight", modules[k]);
        const float *B = slice_of(&st, weights, name, b);
        for (int64_t o = 0; o < b[0]; o++)
            for (int64_t c = 0; c < a[1]; c++) {
                double sum = 0;
                for (int64_t j = 0; j < 8; j++) sum += (double)B[o * 8 + j] * A[j * a[1] + c];
                worst = fmax(worst, fabs(sum));
            }
        assert_true(worst < 8 * 8 * 0x1p-24 * 0.5 * 0.5); /* of eight products, of factors that stay below 0.5 */
        for (int64_t i = 0; i < 8 * a[1]; i++) squares += (double)A[i] * A[i];
        assert_true(fabs(squares / (double)a[1] / 0.04 - 1) < 6 * sqrt(2 / (4.0 * (double)a[1])));
        squares = 0;
        for (int64_t i = 0; i < 8 * b[0]; i++) squares += (double)B[i] * B[i];
        assert_true(fabs(squares / (double)b[0] / 0.04 - 1) < 6 * sqrt(2 / (4.0 * (double)b[0])));
        assert_true(A[0] != A2[0] && A[0] != first);
        first = A[0];
    }
    must(tensors_open(GOLDEN "/tiny_llama/tied_gqa/expected_base.safetensors", &want));
    float *base = logits_of(GOLDEN "/tiny_llama/tied_gqa", &want), *fresh = logits_of_fresh(GOLDEN "/tiny_llama/tied_gqa", &st, &want);
    const size_t n = (size_t)fixture(&want, "ids")->d[0] * (size_t)m.shape.vocab;
    close_to("orthogonal", fresh, base, n, 0, 8 * 0x1p-24 * sqrt(64 + 8) * largest(base, n));
    free(base);
    free(fresh);
    tensors_close(&want);
    arena_f32_free(weights, st.params.bytes);
    arena_f32_free(other, st.params.bytes);
    structure_free(&st);
    struct lora odd = l;
    odd.r = 7;
    assert_int_equal(structure_init(&st, &m, &method_lora, &odd, NULL), E_USAGE);
    assert_non_null(strstr(err_text(), "ranks must be even; lora.r is 7"));
    odd = l, odd.n_ranks = 1, odd.ranks = &(const struct module_value){"down_proj", 5};
    assert_int_equal(structure_init(&st, &m, &method_lora, &odd, NULL), E_USAGE);
    assert_non_null(strstr(err_text(), "lora.rank_pattern's of down_proj is 5"));
    model_close(&m);
}

/* DoRA's norms: planning reads no weight; the rows' squares come when memory is taken, once for all programs; what decoding multiplies with
 * is not computed there; no gradient goes to what the norm is made of. */
static void test_dora_programs(void **state) {
    (void)state;
    struct model m;
    struct structure st;
    struct program g[3];
    struct memory mem;
    const struct lora l = {.r = 2, .alpha = 4, .dora = true, .targets.of.take = TAKE_ALL_LINEAR};
    const struct capacity cap = {16, 2, 2, 16, DT_F32, DT_NONE, 0};
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
    must(structure_init(&st, &m, &method_lora, &l, NULL));
    static const enum mode modes[] = {MODE_TRAIN, MODE_PREFILL, MODE_DECODE};
    for (int k = 0; k < 3; k++) must(program_build(&g[k], &m, modes[k], &st, cap, CHECKPOINT_BLOCK, &backend_cpu, false));
    const int modules = 7 * (int)m.shape.layers, groups = 4 * (int)m.shape.layers;
    assert_int_equal(count(&g[0], &op_magnitude), modules); /* a block that is recomputed does not make them again */
    assert_int_equal(count(&g[0], &op_magnitude_bwd), modules);
    assert_int_equal(count(&g[0], &op_linear_bwd), groups);
    assert_int_equal(count(&g[1], &op_magnitude), modules);
    assert_int_equal(count(&g[1], &op_linear), groups + 2 * modules + 1);
    assert_int_equal(count(&g[2], &op_magnitude), 0);
    assert_int_equal(count(&g[2], &op_linear), groups + 1);
    assert_int_equal(g[1].plan.state, g[2].plan.state);
    size_t bytes = 0;
    for (int filled = 0; filled < 2; filled++) {
        if (filled) must(memory_for(&mem, (struct program *const[]){&g[0], &g[1], &g[2]}, 3));
        for (int i = 0; i < st.params.n; i++) {
            const struct param *p = &st.params.p[i];
            if (p->nd > 1) continue;
            char name[128];
            snprintf(name, sizeof name, "%.*s.weight", (int)(strlen(p->name) - strlen(".lora_magnitude")), p->name);
            const struct weight *w = model_weight(&m, name);
            assert_int_equal(w->dt, DT_F32);
            bytes += filled ? 4 * (size_t)p->d[0] : 0;
            for (int64_t o = 0; o < p->d[0]; o++) {
                double squares = 0;
                for (int64_t c = 0; c < w->d[1] && filled; c++) squares += (double)((const float *)w->data)[o * w->d[1] + c] * ((const float *)w->data)[o * w->d[1] + c];
                assert_true(fabs(((const float *)p->slice[0].how)[o] - squares) <= 1e-7 * squares);
            }
        }
    }
    assert_int_equal(m.derived->bytes, bytes);
    memory_free(&mem);
    for (int k = 0; k < 3; k++) program_free(&g[k]);
    structure_free(&st);
    model_close(&m);
}

/* Files in which the lengths are named with ".weight" are read too; an adapter without them is no DoRA adapter. */
static void test_dora_files(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora-dora-XXXXXX", path[128];
    int dora = 0;
    while (strcmp(cases[dora].name, "dora")) dora++;
    struct bench b;
    struct tensors ts;
    arena names = {0};
    assert_non_null(mkdtemp(folder));
    start(&b, dora, &backend_cpu, CHECKPOINT_NONE);
    must(adapter_write(folder, &b.st, b.learner.w, "base"));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    must(tensors_open(path, &ts));
    struct tensor *t = arena_alloc(&names, (size_t)ts.n * sizeof *t);
    for (int i = 0; i < ts.n; i++) {
        t[i] = ts.t[i];
        if (str_ends(t[i].name, ".lora_magnitude_vector")) t[i].name = arena_printf(&names, "%s.weight", t[i].name);
    }
    char other[128];
    snprintf(other, sizeof other, "%s/other.safetensors", folder);
    must(safetensors_write(other, t, ts.n));
    tensors_close(&ts);
    assert_int_equal(rename(other, path), 0);
    float *again = arena_f32(b.st.params.bytes);
    must(adapter_load(folder, &b.model, &b.st, again));
    assert_memory_equal(again, b.learner.w, b.st.params.bytes);
    struct lora plain = *(const struct lora *)b.st.settings;
    plain.dora = false;
    struct structure without;
    must(structure_init(&without, &b.model, &method_lora, &plain, NULL));
    assert_int_equal(adapter_load(folder, &b.model, &without, again), E_USAGE);
    assert_non_null(strstr(err_text(), "was made with lora.use_dora, the configuration says without"));
    structure_free(&without);
    arena_f32_free(again, b.st.params.bytes);
    bench_close(&b);
    arena_free(&names);
    must(dir_remove(folder));
}

/* A finished PiSSA adapter is a LoRA of twice the rank for the base as it is: as such it gives PEFT's logits of the adapter with its residual
 * base. One that began elsewhere is refused; so are ranks that a matrix has not, and lengths beside it. */
static void test_pissa_files(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora-pissa-XXXXXX";
    assert_non_null(mkdtemp(folder));
    for (int c = 0; c < CASES; c++) {
        if (!str_starts(cases[c].name, "pissa")) continue;
        struct bench b;
        const struct peft_method *method;
        const void *settings;
        struct structure plain;
        char model[128];
        start(&b, c, &backend_cpu, CHECKPOINT_NONE);
        snprintf(model, sizeof model, GOLDEN "/%s", cases[c].base);
        must(adapter_write(folder, &b.st, b.learner.w, "base"));
        must(adapter_read_config(folder, &b.mem, &method, &settings));
        const struct lora *had = b.st.settings, *have = settings;
        assert_true(have->init == LORA_KAIMING && have->r == 2 * had->r && lora_rank(have, "x.o_proj") == 2 * lora_rank(had, "x.o_proj"));
        assert_true(fabs(lora_scale(have, "x.o_proj") - lora_scale(had, "x.o_proj")) < 1e-8);
        must(structure_init(&plain, &b.model, method, settings, NULL));
        float *weights = arena_f32(plain.params.bytes);
        must(adapter_load(folder, &b.model, &plain, weights));
        float *logits = logits_with(model, &plain, weights, &b.want);
        const struct tensor *want = fixture(&b.want, "logits");
        close_to(cases[c].name, logits, f32_of(want), want->bytes / 4, 0, 1e-4);
        must(adapter_load(folder, &b.model, &b.st, b.learner.w)); /* and where it goes on */
        must(adapter_write(folder, &plain, weights, "base"));
        must(adapter_load(folder, &b.model, &b.st, b.learner.w));
        for (size_t i = 0; i < plain.params.bytes / 4; i++) weights[i] *= 1.01f;
        must(adapter_write(folder, &plain, weights, "base"));
        assert_int_equal(adapter_load(folder, &b.model, &b.st, b.learner.w), E_INPUT);
        assert_non_null(strstr(err_text(), "has begun elsewhere than at this base's singular vectors"));
        free(logits);
        arena_f32_free(weights, plain.params.bytes);
        structure_free(&plain);
        struct lora other = *had;
        other.r = 33, other.n_ranks = 0;
        assert_int_equal(structure_init(&plain, &b.model, &method_lora, &other, NULL), E_USAGE);
        assert_non_null(strstr(err_text(), "is 33, and the matrix has only "));
        other = *had, other.dora = true;
        assert_int_equal(structure_init(&plain, &b.model, &method_lora, &other, NULL), E_USAGE);
        assert_non_null(strstr(err_text(), "lora.use_dora does not go with init_lora_weights: pissa"));
        bench_close(&b);
    }
    must(dir_remove(folder));
}

static int case_named(const char *name, int from) {
    while (from < CASES && strcmp(cases[from].name, name)) from++;
    return from;
}

/* What was read from PEFT's file and is written again has each tensor of it, bit for bit: VeRA's pair once, AdaLoRA's triplets. */
static void test_same_file(void **state) {
    (void)state;
    static const char *const of[] = {"vera", "vera_gpt2", "vera_mistral", "adalora", "adalora_gpt2", "adalora_mistral"};
    char folder[] = "/tmp/cyclora-same-XXXXXX", path[128];
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 6; i++)
        for (int c = case_named(of[i], 0); c < CASES; c = case_named(of[i], c + 1)) {
            struct bench b;
            struct tensors want, have;
            start(&b, c, &backend_cpu, CHECKPOINT_NONE);
            must(adapter_write(folder, &b.st, b.learner.w, "base"));
            snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
            must(tensors_open(path, &have));
            snprintf(path, sizeof path, GOLDEN "/methods/%s/adapter/adapter_model.safetensors", of[i]);
            must(tensors_open(path, &want));
            assert_int_equal(have.n, want.n);
            for (int k = 0; k < want.n; k++) {
                const struct tensor *t = tensors_find(&have, want.t[k].name);
                assert_true(t && t->nd == want.t[k].nd && t->d[0] == want.t[k].d[0] && t->bytes == want.t[k].bytes);
                assert_memory_equal(t->data, want.t[k].data, t->bytes);
            }
            tensors_close(&want);
            tensors_close(&have);
            bench_close(&b);
        }
    must(dir_remove(folder));
}

/* A fresh pair is one random matrix each, whatever copies of it modules need; its key decides, not the run's seed. */
static void test_vera_pair(void **state) {
    (void)state;
    for (int c = case_named("vera_mistral", 0); c < CASES; c = case_named("vera_mistral", c + 1)) {
        struct bench b;
        char folder[] = "/tmp/cyclora-vera-XXXXXX";
        double squares = 0;
        int copies = 0;
        assert_non_null(mkdtemp(folder));
        start(&b, c, &backend_cpu, CHECKPOINT_NONE);
        float *first = arena_f32(b.st.params.bytes), *again = arena_f32(b.st.params.bytes);
        must(param_fill(&b.st.params, 1, first));
        must(param_fill(&b.st.params, 2, again));
        assert_memory_equal(first, again, b.st.params.bytes);
        memset(again, 0, b.st.params.bytes);
        must(adapter_write(folder, &b.st, first, "base"));
        must(adapter_read(folder, &b.st, again)); /* copies that disagree would not come back */
        assert_memory_equal(first, again, b.st.params.bytes);
        for (int i = 0; i < b.st.params.n; i++) {
            const struct param *p = &b.st.params.p[i];
            copies += p->frozen;
            if (!p->frozen || strcmp(p->slice->name, "vera_B") || p->slice->again) continue;
            for (int64_t k = 0; k < p->d[0] * p->d[1]; k++) squares += pow(first[p->off / 4 + (size_t)k], 2);
            squares /= (double)(p->d[0] * p->d[1]);
        }
        assert_true(copies >= 3 && fabs(squares * 7 / 2 - 1) < 0.25); /* Var U(-b, b) = b^2 / 3, b^2 = 6 / r */
        assert_true(b.st.params.trained < b.st.params.bytes);
        arena_f32_free(first, b.st.params.bytes);
        arena_f32_free(again, b.st.params.bytes);
        bench_close(&b);
        must(dir_remove(folder));
    }
}

static void refused(const struct peft_method *method, const char *json, err code, const char *says) {
    arena mem = {0};
    char settings[512];
    json_t *j = json_loads(json, 0, NULL);
    assert_non_null(j);
    assert_true(method->settings <= sizeof settings);
    const err e = method->read(j, "folder", &mem, settings);
    if (e != code || !strstr(err_text(), says)) flunk("%s: %s, wanted %s", json, err_text(), says);
    json_decref(j);
    arena_free(&mem);
}

static void test_refused_settings(void **state) {
    (void)state;
    refused(&method_vera, "{\"r\": 4, \"save_projection\": false}", E_UNSUPPORTED, "save_projection is false");
    refused(&method_vera, "{\"d_initial\": 0.1}", E_INPUT, "'r' is missing");
    refused(&method_vera, "{\"r\": 0}", E_USAGE, "vera.r is 0");
    refused(&method_vera, "{\"r\": 4, \"d_initial\": 0}", E_USAGE, "vera.d_initial is 0");
    refused(&method_vera, "{\"r\": 4, \"bias\": \"all\"}", E_UNSUPPORTED, "bias 'all' beside VeRA");
    refused(&method_vera, "{\"r\": 4, \"vera_dropout\": 1}", E_USAGE, "vera.vera_dropout is 1; it must be at least 0 and below 1");
    refused(&method_adalora, "{\"total_step\": 9, \"lora_dropout\": -0.1}", E_USAGE, "adalora.lora_dropout is -0.1");
    refused(&method_adalora, "{\"init_r\": 300, \"total_step\": 9}", E_USAGE, "adalora.init_r is 300");
    refused(&method_adalora, "{\"init_r\": 4, \"target_r\": 5, \"total_step\": 9}", E_USAGE, "adalora.target_r is 5; it must be 1 to init_r, 4");
    refused(&method_adalora, "{\"total_step\": 9, \"beta1\": 1}", E_USAGE, "adalora.beta1 and beta2 are 1 and 0.85");
    refused(&method_adalora, "{\"total_step\": 9, \"orth_reg_weight\": -1}", E_USAGE, "adalora.orth_reg_weight is -1");
    refused(&method_adalora, "{\"total_step\": 9, \"deltaT\": 0}", E_USAGE, "adalora.deltaT is 0");
    refused(&method_adalora, "{\"init_r\": 12}", E_USAGE, "adalora.total_step is 0");
    refused(&method_adalora, "{\"total_step\": 9, \"tinit\": 5, \"tfinal\": 4}", E_USAGE, "leave no step of total_step 9 to allocate ranks in");
    refused(&method_adalora, "{\"total_step\": 9, \"alpha_pattern\": {\"q_proj\": 3}}", E_UNSUPPORTED, "'alpha_pattern' is not supported");
    refused(&method_adalora, "{\"total_step\": 9, \"target_modules\": [\"q_proj\"], \"init_r\": 2, \"target_r\": 1, \"rank_pattern\": {\"q_proj.lora_E\": [true]}}", E_INPUT, "rank_pattern's 'q_proj.lora_E' is not");
    refused(&method_adalora, "{\"total_step\": 9, \"target_modules\": [\"q_proj\"], \"init_r\": 2, \"target_r\": 1, \"rank_pattern\": [1]}", E_INPUT, "rank_pattern is no object");
}

/* With dropout each target drops its own input, in training and nowhere else; without there is no such instruction, and products are shared. */
static void test_dropout(void **state) {
    (void)state;
    static const struct { const struct peft_method *method; const char *json; int drops; } of[] = {
        {&method_vera, "{\"r\": 4, \"target_modules\": [\"q_proj\", \"v_proj\", \"down_proj\"], \"vera_dropout\": 0.5}", 9},
        {&method_vera, "{\"r\": 4, \"target_modules\": [\"q_proj\", \"v_proj\", \"down_proj\"]}", 0},
        {&method_adalora, "{\"init_r\": 3, \"target_r\": 2, \"total_step\": 9, \"target_modules\": [\"q_proj\", \"v_proj\", \"down_proj\"], \"lora_dropout\": 0.5}", 9},
        {&method_adalora, "{\"init_r\": 3, \"target_r\": 2, \"total_step\": 9, \"target_modules\": [\"q_proj\", \"v_proj\", \"down_proj\"]}", 0},
        {&method_lora, "{\"r\": 2, \"lora_alpha\": 2, \"target_modules\": [\"lm_head\", \"q_proj\"], \"lora_dropout\": 0.5}", 1},
        {&method_lora, "{\"r\": 2, \"lora_alpha\": 2, \"target_modules\": [\"lm_head\", \"q_proj\"]}", 0}};
    static const enum mode modes[] = {MODE_TRAIN, MODE_SCORE, MODE_PREFILL, MODE_DECODE};
    struct model m;
    arena mem = {0};
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        for (int k = 0; k < 4; k++) {
            struct structure st;
            struct program g;
            json_t *j = json_loads(of[i].json, 0, NULL);
            void *settings = arena_alloc(&mem, of[i].method->settings);
            must(of[i].method->read(j, "here", &mem, settings));
            json_decref(j);
            must(structure_init(&st, &m, of[i].method, settings, NULL));
            must(program_build(&g, &m, modes[k], &st, (struct capacity){CAP_TOKENS, CAP_SEQUENCES, 4, 32, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, &backend_cpu, false));
            int masks = 0, backward = 0;
            for (int n = 0; n < g.p.ni; n++) {
                const struct inst *x = &g.p.in[n];
                if (x->op != &op_dropout) continue;
                masks++;
                for (int before = 0; before < n; before++) backward += g.p.in[before].op == &op_dropout && g.p.in[before].a.site == x->a.site;
            }
            assert_int_equal(masks - backward, modes[k] == MODE_TRAIN ? of[i].drops : 0); /* each a mask of its own; a gradient goes through the same again */
            program_free(&g);
            structure_free(&st);
        }
    arena_free(&mem);
    model_close(&m);
}

/* The head is taken where it is named, by LoRA; words do not mean it, and who cannot take it says so. */
static void test_named_head(void **state) {
    (void)state;
    static const struct { const struct peft_method *method; const char *json, *says; } of[] = {
        {&method_lora, "{\"r\": 2, \"lora_alpha\": 2, \"target_modules\": [\"lm_head\"], \"use_dora\": true}", "lm_head: lora.use_dora is for matrices of the layers"},
        {&method_lora, "{\"r\": 2, \"lora_alpha\": 2, \"target_modules\": \".*\", \"pissa\": 4, \"exclude_modules\": [\"embed_tokens\"]}", "lm_head: lora.init_lora_weights: pissa is for matrices of the layers"},
        {&method_lora, "{\"r\": 2, \"lora_alpha\": 2, \"target_modules\": [\"lm_head\"], \"modules_to_save\": [\"lm_head\"]}", "it can have a delta or be trained whole"},
        {&method_vera, "{\"r\": 4, \"target_modules\": [\"q_proj\", \"lm_head\"]}", "vera.target_modules takes lm_head: vera does not act on the output projection"},
        {&method_adalora, "{\"init_r\": 3, \"target_r\": 2, \"total_step\": 9, \"target_modules\": [\"q_proj\", \"lm_head\"]}", "adalora.target_modules takes lm_head"},
        {&method_ia3, "{\"target_modules\": [\"k_proj\", \"lm_head\"], \"feedforward_modules\": []}", "ia3.target_modules takes lm_head"},
        {&method_lora, "{\"r\": 2, \"lora_alpha\": 2, \"target_modules\": \"all-linear\"}", NULL},
        {&method_lora, "{\"r\": 2, \"lora_alpha\": 2, \"target_modules\": [\"lm_head\"]}", NULL}};
    struct model m;
    arena mem = {0};
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        struct structure st;
        json_t *j = json_loads(of[i].json, 0, NULL);
        void *settings = arena_alloc(&mem, of[i].method->settings);
        must(of[i].method->read(j, "here", &mem, settings));
        json_decref(j);
        const err e = structure_init(&st, &m, of[i].method, settings, NULL);
        if (of[i].says && (!e || !strstr(err_text(), of[i].says))) flunk("%s: %s", of[i].json, e ? err_text() : "taken");
        if (of[i].says) continue;
        must(e);
        assert_int_equal(param_of_slice(&st.params, "lm_head.lora_B.weight") >= 0, strstr(of[i].json, "lm_head") != NULL);
        structure_free(&st);
    }
    arena_free(&mem);
    model_close(&m);
}

/* Logits of a folder's adapter, by a structure of its own. */
static float *logits_of_folder(struct bench *b, const char *model, const char *folder) {
    const struct peft_method *method;
    const void *settings;
    struct structure st;
    must(adapter_read_config(folder, &b->mem, &method, &settings));
    must(structure_init(&st, &b->model, method, settings, NULL));
    float *weights = arena_f32(st.params.bytes);
    must(adapter_load(folder, &b->model, &st, weights));
    float *logits = logits_with(model, &st, weights, &b->want);
    arena_f32_free(weights, st.params.bytes);
    structure_free(&st);
    return logits;
}

/* After ten steps PEFT saves the triplets that are left; read here, that says what the trained one said. So does our own finished folder, which
 * keeps the same triplets (and one where PEFT has none left); and taken back into a structure that trains it is the same again. */
static void test_finished_adalora(void **state) {
    (void)state;
    char ours[] = "/tmp/cyclora-adalora-XXXXXX";
    assert_non_null(mkdtemp(ours));
    for (int c = 0; c < CASES - T5; c++) {
        if (!str_starts(cases[c].name, "adalora")) continue;
        struct bench b;
        char model[128], theirs[128];
        double sums[4];
        start(&b, c, &backend_cpu, CHECKPOINT_SELECTIVE);
        const struct tensor *want = fixture(&b.want, "finished.logits");
        bench_train(&b, sums);
        snprintf(model, sizeof model, GOLDEN "/%s", cases[c].base);
        snprintf(theirs, sizeof theirs, GOLDEN "/methods/%s/finished", cases[c].name);
        must(learner_finish(&b.learner, ours, &b.model));
        const char *const folders[] = {theirs, ours};
        const struct adalora *had[2];
        for (int k = 0; k < 2; k++) {
            const struct peft_method *method;
            float *logits = logits_of_folder(&b, model, folders[k]), *full = arena_f32(b.st.params.bytes);
            close_to(folders[k], logits, f32_of(want), want->bytes / 4, 0, 3e-4);
            free(logits);
            must(adapter_load(folders[k], &b.model, &b.st, full));
            logits = logits_with(model, &b.st, full, &b.want);
            close_to(folders[k], logits, f32_of(want), want->bytes / 4, 0, 3e-4);
            free(logits);
            arena_f32_free(full, b.st.params.bytes);
            must(adapter_read_config(folders[k], &b.mem, &method, (const void **)&had[k]));
        }
        assert_int_equal(had[0]->n_kept, had[1]->n_kept);
        for (int i = 0; i < had[0]->n_kept; i++) {
            const struct kept *x = &had[0]->kept[i];
            int k = 0;
            while (strcmp(had[1]->kept[k].module, x->module)) k++;
            if (x->rank) assert_memory_equal(had[1]->kept[k].yes, x->yes, (size_t)had[0]->init_r);
            else assert_int_equal(had[1]->kept[k].rank, 1);
        }
        bench_close(&b);
    }
    must(dir_remove(ours));
}

/* A run that stops after any step and goes on has the bits of one that does not. */
static void test_resumed_adalora(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora-resume-XXXXXX";
    assert_non_null(mkdtemp(folder));
    const int c = case_named("adalora", 0);
    float *whole = NULL;
    for (int cut = 0; cut < 10; cut += 3) { /* before, while and after ranks are allocated */
        struct bench b;
        bool found;
        struct step_result r;
        start(&b, c, &backend_cpu, CHECKPOINT_SELECTIVE);
        for (int step = 0; step < 10; step++) {
            if (step == cut && cut) {
                must(learner_write(&b.learner, folder, "base"));
                must(optimizer_write(&b.learner, folder));
                const struct recipe recipe = b.learner.recipe;
                learner_free(&b.learner);
                must(learner_init(&b.learner, &b.st, &b.train, &recipe));
                b.learner.updates = cut;
                must(learner_load(&b.learner, folder, &b.model));
                must(optimizer_read(&b.learner, folder, &found));
                assert_true(found);
            }
            must(learner_step(&b.learner, &b.wb, (const struct row *const *)b.rows, b.n_rows, 1, (uint64_t)step, &r));
        }
        if (!whole) whole = memcpy(arena_f32(b.st.params.bytes), b.learner.w, b.st.params.bytes);
        assert_memory_equal(whole, b.learner.w, b.st.params.bytes);
        if (cut == 9) arena_f32_free(whole, b.st.params.bytes);
        bench_close(&b);
    }
    must(dir_remove(folder));
}

/* LLaMA-Adapter: what its kind of attention is not; and what decoding and a recomputed block hold of it. */
static void test_adaption(void **state) {
    (void)state;
    static const struct { const char *base, *why; } refused[] = {{"families/qwen3", "normalises its keys"}, {"families/gemma2", "caps its scores"}, {"families/t5", "this base is an encoder-decoder"},
                                                                 {"families/bert", "this base is an encoder"}, {"tiny_llama/bias", "self_attn.o_proj has a bias, which PEFT adds twice"}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char path[128];
        struct model m;
        struct structure st;
        const struct adaption_prompt a = {.len = 2};
        snprintf(path, sizeof path, GOLDEN "/%s", refused[i].base);
        must(model_open(path, NULL, &m));
        assert_int_equal(structure_init(&st, &m, &method_adaption_prompt, &a, NULL), E_UNSUPPORTED);
        if (!strstr(err_text(), refused[i].why)) flunk("%s: %s", refused[i].base, err_text());
        model_close(&m);
    }
    for (int c = 0; c < CASES; c++) {
        struct bench b;
        if (!str_starts(cases[c].name, "adaption")) continue;
        start(&b, c, &backend_cpu, CHECKPOINT_BLOCK);
        const int layers = (int)((const struct adaption_prompt *)b.st.settings)->layers, all = (int)b.model.shape.layers;
        assert_int_equal(count(&b.train, &op_scale), layers); /* a block that is recomputed makes no keys and values again */
        assert_int_equal(count(&b.gen.prefill, &op_store), 2 * layers);
        assert_int_equal(count(&b.gen.prefill, &op_attention), all + layers);
        assert_int_equal(count(&b.gen.decode, &op_attention), layers);
        assert_int_equal(count(&b.gen.decode, &op_scale) + count(&b.gen.decode, &op_embed), 1 + (b.model.layer[0].rope == NULL)); /* GPT-2's positions */
        assert_int_equal(b.gen.prefill.plan.state, b.gen.decode.plan.state);
        bench_close(&b);
    }
}

/* Moments that were saved in another order of the parameters are refused, whatever their size. */
static void test_optimizer_layout(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora-layout-XXXXXX";
    int plus = 0;
    while (strcmp(cases[plus].name, "lora_plus")) plus++;
    struct bench b;
    bool found;
    assert_non_null(mkdtemp(folder));
    start(&b, plus, &backend_cpu, CHECKPOINT_NONE);
    b.learner.optim_steps = 3;
    must(optimizer_write(&b.learner, folder));
    b.learner.optim_steps = 0;
    must(optimizer_read(&b.learner, folder, &found));
    assert_true(found && b.learner.optim_steps == 3);
    struct lora even = *(const struct lora *)b.st.settings;
    even.plus = 0;
    struct structure other;
    must(structure_init(&other, &b.model, &method_lora, &even, NULL));
    assert_int_equal(other.params.bytes, b.st.params.bytes);
    struct structure *own = b.learner.st;
    b.learner.st = &other;
    assert_int_equal(optimizer_read(&b.learner, folder, &found), E_INPUT);
    assert_non_null(strstr(err_text(), "does not belong to this configuration"));
    b.learner.st = own;
    structure_free(&other);
    bench_close(&b);
    must(dir_remove(folder));
}

int main(void) {
    const struct backend *card = test_card();
    if (card) backends[0] = card, n_backends = 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_curves), cmocka_unit_test(test_checkpoint_levels), cmocka_unit_test(test_generation), cmocka_unit_test(test_step_zero),
                                       cmocka_unit_test(test_starts), cmocka_unit_test(test_orthogonal), cmocka_unit_test(test_optimizer_layout), cmocka_unit_test(test_adaption), cmocka_unit_test(test_dora_programs), cmocka_unit_test(test_dora_files),
                                       cmocka_unit_test(test_pissa_files), cmocka_unit_test(test_text_prompt), cmocka_unit_test(test_finished_prompt), cmocka_unit_test(test_prompt_programs), cmocka_unit_test(test_same_file), cmocka_unit_test(test_vera_pair), cmocka_unit_test(test_refused_settings), cmocka_unit_test(test_named_head), cmocka_unit_test(test_dropout),
                                       cmocka_unit_test(test_finished_adalora), cmocka_unit_test(test_resumed_adalora)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
