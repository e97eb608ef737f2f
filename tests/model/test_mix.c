/* Several adapters on one base at once (peft/mix.c, api/mix.c) against PEFT (tests/golden/make/mix.py): active together, added with weights,
 * by row in one batch, switched, and beside adapters of other methods; left out they are the base to the last bit. On the reference
 * kernels and the CPU's, with few rows (dot products) and many (tiles); with CYC_TEST_DEVICE=cuda on the card, in f32. */
#define _DEFAULT_SOURCE
#include "support/support.h"
#include "api/api.h"
#include "data/pack.h"
#include "gen/generate.h"
#include "peft/mix.h"

#define FOLDER GOLDEN "/mix/"
static const struct backend *backends[] = {&backend_reference, &backend_cpu};
static int n_backends = 2;
static struct tensors expected;
enum { CHAT, STYLE };
static const double TOLERANCE = 1e-4; /* f32 beside double; logits go to 12 */

/* --- opening --------------------------------------------------------------------------------------------------------------- */
static cyc_model *on_device(cyc_model *m, const struct backend *b) {
    m->backend = b;
    m->compute = DT_F32;
    return m;
}

static cyc_model *base_on(const struct backend *b) {
    cyc_model *m;
    assert_int_equal(cyc_model_open(GOLDEN "/cipher", &m), 0);
    return on_device(m, b);
}

/* A base with biases, which has no tokenizer. */
static cyc_model *biased_on(const struct backend *b) {
    cyc_model *m = calloc(1, sizeof *m);
    must(model_open(GOLDEN "/tiny_llama/bias", NULL, &m->m));
    m->weights = true;
    return on_device(m, b);
}

static cyc_adapter *mix_of(cyc_model *m, int n, const cyc_member *member) {
    cyc_adapter *a;
    if (cyc_mix_open(m, member, n, &a)) flunk("%s", cyc_error());
    return a;
}

static const cyc_member two[] = {{"chat", FOLDER "chat", 1}, {"style", FOLDER "style", 1}};

static void weigh(cyc_adapter *a, float chat, float style) {
    assert_int_equal(cyc_mix_weight(a, CHAT, chat), 0);
    assert_int_equal(cyc_mix_weight(a, STYLE, style), 0);
}

/* --- running ----------------------------------------------------------------------------------------------------------------- */
/* Logits [rows * tokens, V] of rows of one length through the scoring program; weights: [rows][adapters] or NULL. */
static float *logits_of_rows(cyc_model *m, cyc_adapter *a, const int32_t *ids, int rows, int tokens, const float *weights) {
    struct program g;
    struct memory mem;
    struct pack k;
    void *param;
    uint8_t supervised[64] = {0};
    float *of_rows;
    must(api_adapter_ready(&a, weights, rows, &of_rows));
    must(program_build(&g, &m->m, MODE_SCORE, a ? &a->st : NULL, (struct capacity){rows * tokens + 64, rows, 0, 0, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, api_backend(m), true));
    must(memory_for(&mem, (struct program *const[]){&g}, 1));
    must(memory_bind(&mem, &g, a ? a->w : NULL, 2, &param));
    must(pack_init(&k, rows * tokens + 64, rows));
    k.virtual_tokens = g.virtual_tokens, k.virtual_first = g.virtual_first;
    for (int r = 0; r < rows; r++) assert_true(pack_row(&k, &(struct row){.ids = (int32_t *)ids + r * tokens, .supervised = supervised, .n = tokens}, r));
    float *mix = of_rows ? malloc((size_t)(k.n * g.members) * sizeof *mix) : NULL;
    for (int i = 0; i < k.n && mix; i++) memcpy(mix + i * g.members, of_rows + k.sample[i] * g.members, (size_t)g.members * sizeof *mix);
    const struct feed f = {.ids = k.ids, .pos = k.pos, .cu = k.cu, .sample = k.sample, .label = k.label, .weight = k.weight, .mix = mix, .n = k.n, .s = k.s};
    must(program_run(&g, &mem, param, NULL, &f, &(struct run_ctx){.threads = 2}, true));
    const size_t V = (size_t)m->m.shape.vocab;
    float *all = malloc((size_t)k.n * V * sizeof *all), *out = malloc((size_t)(rows * tokens) * V * sizeof *out);
    must(program_read(&g, &mem, g.logits, k.n, k.s, all, (size_t)k.n * V * sizeof *all));
    for (int r = 0; r < rows; r++) memcpy(out + (size_t)(r * tokens) * V, all + (size_t)(k.cu[r] + g.virtual_tokens) * V, (size_t)tokens * V * sizeof *out);
    free(all);
    free(mix);
    free(of_rows);
    pack_free(&k);
    memory_free(&mem);
    program_free(&g);
    return out;
}

static size_t count_of(const struct tensor *t) {
    size_t n = 1;
    for (int i = 0; i < t->nd; i++) n *= (size_t)t->d[i];
    return n;
}

static void logits_are(cyc_model *m, cyc_adapter *a, const char *what) {
    char name[64];
    snprintf(name, sizeof name, "logits.%s", what);
    const struct tensor *ids = fixture(&expected, "ids"), *t = fixture(&expected, name);
    float *got = logits_of_rows(m, a, i32_of(ids), 1, (int)ids->d[0], NULL);
    close_to(name, got, f32_of(t), count_of(t), TOLERANCE, TOLERANCE);
    free(got);
}

static void greedy_is(cyc_model *m, cyc_adapter *a, const char *what) {
    char name[64];
    snprintf(name, sizeof name, "greedy.%s", what);
    const struct tensor *prompt = fixture(&expected, "prompt"), *t = fixture(&expected, name);
    const cyc_generate_options opt = {.max_new_tokens = (int)t->d[0], .ignore_eos = 1};
    const int32_t *ids = i32_of(prompt);
    const size_t n = (size_t)prompt->d[0];
    cyc_generation out;
    assert_int_equal(cyc_generate(m, a, &ids, &n, 1, &opt, &out, NULL), 0);
    assert_int_equal(out.n, t->d[0]);
    assert_memory_equal(out.ids, i32_of(t), out.n * sizeof *out.ids);
    cyc_free(out.ids);
}

/* --- low-rank products -------------------------------------------------------------------------------------------------------- */
static const struct { const char *what; float chat, style; } switched[] = {{"sum", 1, 1}, {"chat", 1, 0}, {"style", 0, 1}, {"mixed", 0.7f, -0.4f}, {"base", 0, 0}};

/* One handle, switched from one to the next; nothing but the weights changes. */
static void test_together(void **state) {
    (void)state;
    for (int b = 0; b < n_backends; b++) {
        cyc_model *m = base_on(backends[b]);
        cyc_adapter *a = mix_of(m, 2, two);
        const float *numbers = a->w;
        for (size_t i = 0; i < sizeof switched / sizeof *switched; i++) {
            weigh(a, switched[i].chat, switched[i].style);
            logits_are(m, a, switched[i].what);
            greedy_is(m, a, switched[i].what);
            assert_ptr_equal(a->w, numbers);
        }
        cyc_adapter_close(a);
        cyc_model_close(m);
    }
}

static void test_alone(void **state) {
    (void)state;
    cyc_model *m = base_on(backends[n_backends - 1]);
    for (int i = 0; i < 2; i++) {
        cyc_adapter *a = mix_of(m, 1, &two[i]);
        logits_are(m, a, two[i].name);
        cyc_adapter_close(a);
    }
    cyc_model_close(m);
}

/* chat, none, style, chat in one batch. */
static const float by_row[4][2] = {{1, 0}, {0, 0}, {0, 1}, {1, 0}};

static void test_rows(void **state) {
    (void)state;
    const struct tensor *ids = fixture(&expected, "row_ids"), *rows = fixture(&expected, "rows"), *greedy = fixture(&expected, "row_greedy");
    const int n = (int)ids->d[0], tokens = (int)ids->d[1];
    for (int b = 0; b < n_backends; b++) {
        cyc_model *m = base_on(backends[b]);
        cyc_adapter *a = mix_of(m, 2, two);
        float *got = logits_of_rows(m, a, i32_of(ids), n, tokens, by_row[0]);
        close_to("rows", got, f32_of(rows), count_of(rows), TOLERANCE, TOLERANCE);
        free(got);
        const int32_t *prompt[4];
        size_t lengths[4];
        cyc_generation out[4];
        for (int r = 0; r < n; r++) prompt[r] = i32_of(ids) + r * tokens, lengths[r] = (size_t)fixture(&expected, "prompt")->d[0];
        const cyc_generate_options opt = {.max_new_tokens = (int)greedy->d[1], .ignore_eos = 1, .weights = by_row[0]};
        assert_int_equal(cyc_generate(m, a, prompt, lengths, n, &opt, out, NULL), 0);
        for (int r = 0; r < n; r++) {
            assert_memory_equal(out[r].ids, i32_of(greedy) + r * greedy->d[1], (size_t)greedy->d[1] * sizeof(int32_t));
            cyc_free(out[r].ids);
        }
        cyc_adapter_close(a);
        cyc_model_close(m);
    }
}

/* Without any, and in a batch in which other rows have some, a row is the base's to the last bit: as one row among few and among many. On a
 * card products of many rows may be others beside a delta, so there only what nothing is on. */
static void test_disabled(void **state) {
    (void)state;
    const struct tensor *ids = fixture(&expected, "row_ids");
    const int tokens = (int)ids->d[1];
    for (int b = 0; b < n_backends; b++) {
        cyc_model *m = base_on(backends[b]);
        cyc_adapter *a = mix_of(m, 2, two);
        const size_t row = (size_t)tokens * (size_t)m->m.shape.vocab;
        for (int rows = 1; rows <= 4; rows += 3) {
            float *base = logits_of_rows(m, NULL, i32_of(ids), rows, tokens, NULL);
            weigh(a, 0, 0);
            float *off = logits_of_rows(m, a, i32_of(ids), rows, tokens, NULL);
            assert_memory_equal(base, off, (size_t)rows * row * sizeof *base);
            free(off);
            float *zero = logits_of_rows(m, a, i32_of(ids), rows, tokens, (const float[4][2]){{0}}[0]), *mixed = logits_of_rows(m, a, i32_of(ids), rows, tokens, by_row[0]);
            if (backends[b]->mem->host) assert_memory_equal(base, zero, (size_t)rows * row * sizeof *base);
            close_to("zero", zero, base, (size_t)rows * row, 1e-5, 1e-5);
            for (int r = 0; r < rows; r++) {
                const bool same = !memcmp(base + (size_t)r * row, mixed + (size_t)r * row, row * sizeof *base);
                if (backends[b]->mem->host) assert_int_equal(same, r == 1);
            }
            free(zero);
            free(mixed);
            free(base);
        }
        cyc_adapter_close(a);
        cyc_model_close(m);
    }
}

/* One handle for adapters of every kind, switched around and around: what is computed follows, nothing is laid down or moved. */
static void test_switch(void **state) {
    (void)state;
    static const char *const names[] = {"chat", "style", "ia3", "norms", "prefix", "tokens", "whole", "vera", "adalora", "saved", "dora"};
    enum { N = sizeof names / sizeof *names, DORA = N - 1, TIMES = 1000 };
    for (int b = 0; b < n_backends; b++) {
        cyc_model *m = base_on(backends[b]);
        cyc_member member[N];
        char folder[N][64];
        for (int i = 0; i < N; i++) snprintf(folder[i], sizeof folder[i], FOLDER "%s", names[i]), member[i] = (cyc_member){names[i], folder[i], 0};
        cyc_adapter *a = mix_of(m, N, member);
        const float *numbers = a->w;
        const int params = a->st.params.n;
        for (int turn = 0; turn < 2 * N; turn++) {
            const int on = turn * 4 % N; /* each twice, in another order than theirs */
            for (int i = 0; i < N; i++) assert_int_equal(cyc_mix_weight(a, i, i == on || (on > STYLE && on != DORA && i == CHAT)), 0);
            logits_are(m, a, names[on]);
            if (on == CHAT || on == STYLE) greedy_is(m, a, names[on]);
            assert_ptr_equal(a->w, numbers);
            assert_int_equal(a->st.params.n, params);
        }
        const double t0 = seconds_now();
        for (int k = 0; k < TIMES; k++) {
            assert_int_equal(cyc_mix_weight(a, k % N, 0), 0);
            assert_int_equal(cyc_mix_weight(a, (k + 1) % N, 1), 0);
            cyc_adapter *now = a;
            must(api_adapter_ready(&now, NULL, 0, NULL));
        }
        print_message("a switch: %.4f ms\n", (seconds_now() - t0) * 1e3 / TIMES);
        for (int i = 0; i < N; i++) assert_int_equal(cyc_mix_weight(a, i, 0), 0);
        logits_are(m, a, "base");
        cyc_adapter_close(a);
        cyc_model_close(m);
    }
}

/* --- other methods -------------------------------------------------------------------------------------------------------------- */
/* Beside chat, in either order: the sum lies under what scales it. */
static void test_beside_others(void **state) {
    (void)state;
    static const char *const others[] = {"ia3", "norms", "prefix", "tokens", "whole", "vera", "adalora", "saved", "head"};
    for (int b = 0; b < n_backends; b++) {
        cyc_model *m = base_on(backends[b]);
        for (int i = 0; i < 9; i++)
            for (int turned = 0; turned < 2; turned++) {
                char folder[64];
                snprintf(folder, sizeof folder, FOLDER "%s", others[i]);
                cyc_member members[2];
                members[turned] = (cyc_member){"chat", FOLDER "chat", 1};
                members[!turned] = (cyc_member){others[i], folder, 1};
                cyc_adapter *a = mix_of(m, 2, members);
                logits_are(m, a, others[i]);
                assert_int_equal(cyc_mix_weight(a, !turned, 0), 0); /* out of the structure */
                logits_are(m, a, "chat");
                assert_int_equal(cyc_mix_weight(a, !turned, 1), 0);
                logits_are(m, a, others[i]);
                assert_int_equal(cyc_mix_weight(a, 0, 0), 0);
                assert_int_equal(cyc_mix_weight(a, 1, 0), 0);
                logits_are(m, a, "base");
                cyc_adapter_close(a);
            }
        cyc_model_close(m);
    }
}

/* It scales the input of one linear of a group, which becomes two instructions then. */
static void test_parted_group(void **state) {
    (void)state;
    for (int b = 0; b < n_backends; b++) {
        cyc_model *m = base_on(backends[b]);
        cyc_adapter *a = mix_of(m, 2, (cyc_member[]){{"ia3", FOLDER "ia3_in", 1}, {"style", FOLDER "style", 1}});
        logits_are(m, a, "ia3_in");
        cyc_adapter_close(a);
        cyc_model_close(m);
    }
}

/* What has linears to itself still is what it is alone. */
static void test_dora(void **state) {
    (void)state;
    for (int b = 0; b < n_backends; b++) {
        cyc_model *m = base_on(backends[b]);
        cyc_adapter *a = mix_of(m, 1, &(cyc_member){"dora", FOLDER "dora", 1});
        logits_are(m, a, "dora");
        cyc_adapter_close(a);
        const cyc_member members[] = {{"dora", FOLDER "dora", 1}, {"chat", FOLDER "chat", 1}};
        assert_int_equal(cyc_mix_open(m, members, 2, &a), CYC_BAD_INPUT);
        assert_non_null(strstr(cyc_error(), "adapters 'dora' and 'chat' both change model.layers.0.self_attn.q_proj"));
        const cyc_member off[] = {{"dora", FOLDER "dora", 0}, {"chat", FOLDER "chat", 1}};
        a = mix_of(m, 2, off);
        logits_are(m, a, "chat");
        assert_int_equal(cyc_mix_weight(a, 0, 1), 0);
        float nll[3];
        assert_int_equal(cyc_score_ids(m, a, i32_of(fixture(&expected, "ids")), 3, nll), CYC_BAD_INPUT);
        assert_non_null(strstr(cyc_error(), "adapters 'dora' and 'chat' both change model.layers.0.self_attn.q_proj"));
        assert_int_equal(cyc_mix_weight(a, 0, 0), 0); /* and goes on */
        logits_are(m, a, "chat");
        cyc_adapter_close(a);
        cyc_model_close(m);
    }
}

/* Products of low rank and trained biases beside them are in one sum, but of two that have biases one is on at a time. */
static void test_biased(void **state) {
    (void)state;
    const struct tensor *ids = fixture(&expected, "biased.ids"), *want = fixture(&expected, "logits.biased");
    for (int b = 0; b < n_backends; b++) {
        cyc_model *m = biased_on(backends[b]);
        cyc_adapter *a = mix_of(m, 3, (cyc_member[]){{"biased", FOLDER "biased", 1}, {"plain", FOLDER "plain", 1}, {"again", FOLDER "biased", 0}});
        float *both = logits_of_rows(m, a, i32_of(ids), 1, (int)ids->d[0], NULL);
        close_to("biased", both, f32_of(want), count_of(want), TOLERANCE, TOLERANCE);
        float *row = logits_of_rows(m, a, i32_of(ids), 1, (int)ids->d[0], (const float[]){1, 1, 0});
        close_to("biased, as a row", row, both, count_of(want), 1e-6, 1e-6);
        free(row);
        for (int i = 0; i < 3; i++) assert_int_equal(cyc_mix_weight(a, i, i == 1), 0); /* its biases are gone with it */
        cyc_adapter *one;
        assert_int_equal(cyc_adapter_open(m, FOLDER "plain", &one), 0);
        float *alone = logits_of_rows(m, one, i32_of(ids), 1, (int)ids->d[0], NULL), *left = logits_of_rows(m, a, i32_of(ids), 1, (int)ids->d[0], NULL);
        close_to("what is left", left, alone, count_of(want), 1e-5, 1e-5);
        float nll[2];
        assert_int_equal(cyc_mix_weight(a, 0, 0.5f), CYC_BAD_INPUT);
        assert_non_null(strstr(cyc_error(), "adapter 'biased' (lora) is on or off for the whole batch"));
        assert_int_equal(cyc_mix_weight(a, 0, 1), 0);
        assert_int_equal(cyc_mix_weight(a, 2, 1), 0);
        assert_int_equal(cyc_score_ids(m, a, i32_of(ids), 2, nll), CYC_BAD_INPUT);
        assert_non_null(strstr(cyc_error(), "adapters 'biased' and 'again' both put something in the place of model.layers.0.self_attn.q_proj"));
        free(both), free(alone), free(left);
        cyc_adapter_close(one);
        cyc_adapter_close(a);
        cyc_model_close(m);
    }
}

/* --- families --------------------------------------------------------------------------------------------------------------------- */
/* An adapter in two shares that come to one, each row its own: the text that PEFT writes with the whole one, also where an encoder's rows
 * have weights too. One that has no weights is the only member. */
static void in_shares(const char *path, const char *fixture_of, const struct backend *backend) {
    static const float shares[][2] = {{1, 0}, {0.25f, 0.75f}, {0, 1}, {1.5f, -0.5f}};
    char folder[96], file[96];
    arena mem = {0};
    struct model m;
    struct tensors want;
    struct structure one, st;
    struct generator g;
    struct memory work;
    const struct peft_method *method;
    const void *settings;
    snprintf(folder, sizeof folder, GOLDEN "/%s/adapter", fixture_of);
    snprintf(file, sizeof file, GOLDEN "/%s/expected.safetensors", fixture_of);
    must(tensors_open(file, &want));
    must(model_open(path, NULL, &m));
    must(adapter_read_config(folder, &mem, &method, &settings));
    must(structure_init(&one, &m, method, settings, NULL));
    float *numbers = arena_f32(one.params.bytes);
    must(adapter_read(folder, &one, numbers));
    const struct mix_member member[] = {{"a", method, one.settings, &one.params, numbers, false}, {"b", method, one.settings, &one.params, numbers, false}};
    const bool weighs = mix_weighs(method, settings);
    must(mix_takes(method, "a"));
    must(structure_init(&st, &m, &method_mix, &(struct mix){weighs ? 2 : 1, member, shares[weighs]}, NULL));
    float *all = arena_f32(st.params.bytes), *there = all;
    must(param_fill(&st.params, 0, all));
    if (!backend->mem->host) must((there = backend->mem->take(st.params.bytes)) ? backend->mem->upload(there, all, st.params.bytes) : E_MEMORY);
    must(generator_build(&g, &m, &st, (struct capacity){64, 8, 4, 48, DT_F32, DT_NONE, 0}, backend));
    must(memory_for(&work, (struct program *const[]){&g.prefill, &g.decode}, 2));
    const struct tensor *ids = fixture(&want, "gen.ids");
    const int32_t *cu = i32_of(fixture(&want, "gen.cu"));
    const int n = (int)ids->d[0], new = (int)ids->d[1];
    struct ids prompt[8];
    float mix[8][2];
    for (int i = 0; i < n; i++) prompt[i] = (struct ids){(int32_t *)i32_of(fixture(&want, "gen.prompts")) + cu[i], (size_t)(cu[i + 1] - cu[i]), 0}, memcpy(mix[i], shares[i % 4], sizeof mix[i]);
    for (int rows = 0; rows < 1 + weighs; rows++) {
        struct generation out[8];
        must(generate(&g, &work, there, &(struct generate_request){.prompt = prompt, .n = n, .max_new = new, .eos = -1, .mix = rows ? mix[0] : NULL, .run = {.threads = 2}}, out, NULL));
        for (int i = 0; i < n; i++) {
            if (memcmp(out[i].ids, i32_of(ids) + i * new, (size_t)new * 4)) flunk("%s on %s: prompt %d goes on otherwise", path, backend->name, i + 1);
            free(out[i].ids);
        }
    }
    memory_free(&work);
    generator_free(&g);
    if (there != all) backend->mem->give(there, st.params.bytes);
    arena_f32_free(all, st.params.bytes);
    arena_f32_free(numbers, one.params.bytes);
    structure_free(&st);
    structure_free(&one);
    model_close(&m);
    tensors_close(&want);
    arena_free(&mem);
}

static void test_families(void **state) {
    (void)state;
    static const char *const families[] = {"t5", "gpt2", "phi3", "gemma2"};
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < n_backends; b++) {
            char path[96], gguf[128];
            snprintf(path, sizeof path, GOLDEN "/families/%s", families[i]);
            in_shares(path, path + strlen(GOLDEN) + 1, backends[b]);
            in_shares(strcat(strcpy(gguf, path), "/model.gguf"), path + strlen(GOLDEN) + 1, backends[b]);
        }
}

/* Every method's hooks are handed on: alone in a mix each writes what it writes alone. */
static void test_methods(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"ln_qwen3", "families/qwen3"}, {"bias_own", "families/gpt2"}, {"ia3_phi3", "families/phi3"}, {"bitfit", "tiny_llama/bias"}, {"dora_gpt2", "families/gpt2"},
                                           {"tokens_untied", "tiny_llama/untied_mha"}, {"full_gemma2", "families/gemma2"}, {"prompt_gemma2", "families/gemma2"}, {"ptuning", "tiny_llama/tied_gqa"},
                                           {"prefix_gpt2", "families/gpt2"}, {"bn_gemma2", "families/gemma2"}, {"bn_par", "tiny_llama/tied_gqa"}, {"saved_gpt2", "families/gpt2"},
                                           {"adalora_mistral", "families/mistral_full/model.gguf"}, {"vera_mistral", "families/mistral_full/model.gguf"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int b = 0; b < n_backends; b++) {
            char path[96], of[96];
            snprintf(path, sizeof path, GOLDEN "/%s", cases[i][1]);
            snprintf(of, sizeof of, "methods/%s", cases[i][0]);
            in_shares(path, of, backends[b]);
        }
}

/* --- refusals ---------------------------------------------------------------------------------------------------------------------- */
static void refused(cyc_model *m, int n, const cyc_member *member, const char *why) {
    cyc_adapter *a;
    assert_int_equal(cyc_mix_open(m, member, n, &a), CYC_BAD_INPUT);
    assert_null(a);
    if (!strstr(cyc_error(), why)) flunk("'%s' does not say '%s'", cyc_error(), why);
}

static void test_refusals(void **state) {
    (void)state;
    cyc_model *m = base_on(&backend_cpu);
    refused(m, 2, (cyc_member[]){{"x", FOLDER "chat", 1}, {"x", FOLDER "style", 1}}, "two adapters are called 'x'");
    refused(m, 1, (cyc_member[]){{"ia3", FOLDER "ia3", 0.5f}}, "adapter 'ia3' (ia3) is on or off for the whole batch");
    refused(m, 2, (cyc_member[]){{"p", FOLDER "prefix", 1}, {"q", FOLDER "prefix", 1}}, "adapters 'p' and 'q' both put virtual tokens before a text");
    refused(m, 2, (cyc_member[]){{"p", FOLDER "norms", 1}, {"q", FOLDER "norms", 1}}, "adapters 'p' and 'q' both put something in the place of model.layers.0.input_layernorm");
    refused(m, 2, (cyc_member[]){{"p", FOLDER "tokens", 1}, {"q", FOLDER "tokens", 1}}, "adapters 'p' and 'q' both have rows of tokens");
    refused(m, 2, (cyc_member[]){{"p", FOLDER "whole", 1}, {"q", FOLDER "whole", 1}}, "adapters 'p' and 'q' both put something in the place of model.layers.1.self_attn.v_proj");
    refused(m, 2, (cyc_member[]){{"p", FOLDER "head", 1}, {"q", FOLDER "head", 1}}, "adapters 'p' and 'q' both have a product beside the output projection (lm_head)");
    refused(m, 2, (cyc_member[]){{"p", FOLDER "head", 1}, {"q", FOLDER "tokens", 1}}, "trained tokens of a table that is the head too and a low-rank product beside that head");
    refused(m, 1, (cyc_member[]){{"x", GOLDEN "/methods/lora_plus/adapter", 1}}, "was it made for another model or rank");
    refused(m, 1, (cyc_member[]){{"x", FOLDER "chat", NAN}}, "the weight of adapter 'x' is not a number");
    refused(m, 0, NULL, "0 adapters at once; there may be 1 to 32");
    cyc_adapter *a = mix_of(m, 2, (cyc_member[]){{"chat", FOLDER "chat", 1}, {"ia3", FOLDER "ia3", 1}}), *one;
    int index;
    assert_int_equal(cyc_mix_index(a, "ia3", &index), 0);
    assert_int_equal(index, 1);
    assert_int_equal(cyc_mix_index(a, "nobody", &index), CYC_BAD_INPUT);
    assert_non_null(strstr(cyc_error(), "no adapter is called 'nobody' (there are: chat, ia3)"));
    assert_int_equal(cyc_mix_weight(a, 2, 1), CYC_BAD_INPUT);
    const int32_t *ids = i32_of(fixture(&expected, "prompt"));
    const size_t n = 3;
    cyc_generation out;
    assert_int_equal(cyc_generate(m, a, &ids, &n, 1, &(cyc_generate_options){.weights = (const float[]){1, 0}}, &out, NULL), CYC_BAD_INPUT);
    assert_non_null(strstr(cyc_error(), "adapter 'ia3' (ia3) is on or off for the whole batch"));
    cyc_adapter_close(a);
    assert_int_equal(cyc_adapter_open(m, FOLDER "chat", &one), 0);
    assert_int_equal(cyc_mix_weight(one, 0, 1), CYC_BAD_INPUT);
    assert_int_equal(cyc_generate(m, one, &ids, &n, 1, &(cyc_generate_options){.weights = (const float[]){1, 0}}, &out, NULL), CYC_BAD_INPUT);
    cyc_adapter_close(one);
    cyc_model_close(m);
}

static int open_fixture(void **state) {
    (void)state;
    must(tensors_open(FOLDER "expected.safetensors", &expected));
    return 0;
}

static int close_fixture(void **state) {
    (void)state;
    tensors_close(&expected);
    return 0;
}

int main(void) {
    const struct backend *card = test_card();
    if (card) backends[0] = card, n_backends = 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_together), cmocka_unit_test(test_alone), cmocka_unit_test(test_rows), cmocka_unit_test(test_disabled), cmocka_unit_test(test_switch),
                                       cmocka_unit_test(test_beside_others), cmocka_unit_test(test_parted_group), cmocka_unit_test(test_dora), cmocka_unit_test(test_biased), cmocka_unit_test(test_families), cmocka_unit_test(test_methods), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
