/* A method is one file and one row (docs/adding-a-method.md): tests/support/toy_method.c is in this program alone, its row in this program's
 * table of methods. It takes the way of every other: found by the name in adapter files, step 0 is the base, ten steps teach it, decoding says what the
 * packed model says, a saved folder comes back to the bit and is what the public API opens. On families that it has never heard of. The page shows its lines. */
#define _DEFAULT_SOURCE
#include "support/bench.h"
#include "support/folder.h"
#include "base/file.h"
#include "cyclora/cyclora.h"
#include "peft/methods.h"
#include "peft/targets.h"
#include "train/config.h"
#include <jansson.h>

static const struct { const char *model, *expected, *modules; } bases[] = {
    {GOLDEN "/tiny_llama/tied_gqa", GOLDEN "/tiny_llama/tied_gqa/expected_base.safetensors", "{\"target_modules\": \"all-linear\"}"},
    {GOLDEN "/families/gpt2", GOLDEN "/families/gpt2/expected.safetensors", "{\"target_modules\": [\"c_attn\", \"c_fc\"], \"layers_to_transform\": [0]}"},
    {GOLDEN "/families/t5", GOLDEN "/families/t5/expected.safetensors", "{\"target_modules\": [\"q\", \"wo\"]}"},
    {GOLDEN "/families/gemma2/model.gguf", GOLDEN "/families/gemma2/expected.safetensors", "{\"target_modules\": \"attention\"}"}};
enum { BASES = sizeof bases / sizeof *bases, STEPS = 10 };

static arena mem;

static void start(struct bench *b, int i) {
    json_t *j = json_loads(bases[i].modules, 0, NULL);
    void *settings = arena_alloc(&mem, method_toy.settings);
    must(method_toy.read(j, "test", &mem, settings));
    json_decref(j);
    bench_build(b, &(struct bench_case){.model = bases[i].model, .expected = bases[i].expected, .backend = &backend_cpu, .level = CHECKPOINT_BLOCK, .cap = {64, 8, 4, 32, DT_F32},
                                        .recipe = {2e-2, 0, 0.9, 0.999, 1e-8, 1.0, {SCHEDULE_CONSTANT, 0, STEPS}}}, &method_toy, settings, NULL);
    snprintf(b->name, sizeof b->name, "toy on %s", bases[i].model);
}

/* Files name it, messages list it; and every row of methods.def is a word of the configuration. */
static void test_registered(void **state) {
    (void)state;
    static const struct peft_method *const rows[] = {
#define METHOD(name) &method_##name,
#include "peft/methods.def"
#undef METHOD
    };
    str types = {0};
    assert_ptr_equal(method_of_type("TOY"), &method_toy);
    method_types(&types);
    assert_non_null(strstr(types.p, ", TOY"));
    str_free(&types);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        char word[64];
        snprintf(word, sizeof word, "method=%s", rows[i]->name);
        must(config_init(&c));
        if (rows[i] != &method_toy) must(config_set(&c, word));
        config_free(&c);
    }
}

static void train(struct bench *b) {
    double first = 0, last = 0;
    for (int step = 0; step < STEPS; step++) {
        struct step_result r;
        must(learner_step(&b->learner, &b->wb, (const struct row *const *)b->rows, b->n_rows, 1, (uint64_t)step, &r));
        if (!step) first = r.loss;
        last = r.loss;
    }
    if (!(last < 0.97 * first)) flunk("%s: loss %g at first, %g after %d steps", b->name, first, last, STEPS);
}

/* The packed model's logits take the fixture's place: what decoding is held to. */
static void expect_own_logits(struct bench *b, const char *model) {
    static const char *const kept[] = {"ids", "cu_seqlens"};
    struct tensor t[3];
    float *logits = logits_with(model, &b->st, b->learner.w, &b->want);
    for (int i = 0; i < 2; i++) t[i] = *fixture(&b->want, kept[i]);
    t[2] = (struct tensor){.name = "logits", .dt = DT_F32, .nd = 2, .d = {t[0].d[0], b->model.shape.vocab}, .data = logits, .bytes = (size_t)(t[0].d[0] * b->model.shape.vocab) * 4};
    must(safetensors_write(at("own.safetensors"), t, 3));
    tensors_close(&b->want);
    must(tensors_open(at("own.safetensors"), &b->want));
    free(logits);
}

static void test_whole_way(void **state) {
    (void)state;
    for (int i = 0; i < BASES; i++) {
        struct bench b, again;
        start(&b, i);
        if (!b.model.family->seq2seq) {
            float *base = logits_of(bases[i].model, &b.want), *fresh = logits_of_fresh(bases[i].model, &b.st, &b.want);
            for (int64_t k = 0; k < fixture(&b.want, "ids")->d[0] * b.model.shape.vocab; k++) assert_true(base[k] == fresh[k]);
            free(base);
            free(fresh);
        }
        train(&b);
        must(adapter_write(at("toy"), &b.st, b.learner.w, "base"));
        bench_open(&again, &(struct bench_case){.model = bases[i].model, .adapter = at("toy"), .expected = bases[i].expected, .backend = &backend_cpu, .level = CHECKPOINT_NONE, .cap = {64, 8, 4, 32, DT_F32},
                                                .recipe = {.learning_rate = 1e-3}});
        assert_ptr_equal(again.st.method, &method_toy);
        assert_int_equal(again.st.params.bytes, b.st.params.bytes);
        assert_memory_equal(again.learner.w, b.learner.w, b.st.params.bytes);
        if (!b.model.family->seq2seq) {
            expect_own_logits(&again, bases[i].model);
            bench_decode(&again, 1e-4);
        }
        bench_close(&again);
        bench_close(&b);
    }
}

/* What `generate --adapter` does with the folder. */
static void test_opened(void **state) {
    (void)state;
    static const int32_t ids[] = {5, 9, 12, 7, 20, 8};
    enum { N = sizeof ids / sizeof *ids };
    struct model base;
    struct structure st;
    const struct targets all = {.of.take = TAKE_ALL_LINEAR};
    cyc_model *m;
    cyc_adapter *a;
    float bare[N], with[N];
    must(model_open(GOLDEN "/cipher", NULL, &base));
    must(structure_init(&st, &base, &method_toy, &all, NULL));
    float *w = arena_f32(st.params.bytes);
    must(param_fill(&st.params, 1, w));
    for (size_t i = 0; i < st.params.bytes / 4; i++) w[i] += 0.1f * (float)(i % 7) - 0.3f;
    must(adapter_write(at("opened"), &st, w, "base"));
    if (cyc_model_open(GOLDEN "/cipher", &m) || cyc_adapter_open(m, at("opened"), &a)) flunk("%s", cyc_error());
    if (cyc_score_ids(m, NULL, ids, N, bare) || cyc_score_ids(m, a, ids, N, with)) flunk("%s", cyc_error());
    double moved = 0;
    for (int i = 1; i < N; i++) moved += fabsf(bare[i] - with[i]);
    assert_true(moved > 0.1);
    cyc_adapter_close(a);
    cyc_model_close(m);
    arena_f32_free(w, st.params.bytes);
    structure_free(&st);
    model_close(&base);
}

/* Each line of C in the page is one of the file, in the file's order. */
static void test_page(void **state) {
    (void)state;
    str page = {0}, file = {0};
    int lines = 0;
    bool inside = false;
    must(file_read("docs/adding-a-method.md", &page));
    must(file_read("tests/support/toy_method.c", &file));
    const char *from = file.p;
    for (char *line = strtok(page.p, "\n"); line; line = strtok(NULL, "\n")) {
        const bool fence = str_starts(line, "```");
        if (fence) inside = !inside && !strcmp(line, "```c");
        if (fence || !inside) continue;
        const char *found = strstr(from, line);
        const size_t n = strlen(line);
        if (!found || (found != file.p && found[-1] != '\n') || found[n] != '\n') flunk("docs/adding-a-method.md: not a line of toy_method.c, or not in its order: %s", line);
        from = found + n;
        lines++;
    }
    assert_true(lines > 30);
    str_free(&page);
    str_free(&file);
}

static int end(void **state) {
    arena_free(&mem);
    return own_folder_remove(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_registered), cmocka_unit_test(test_whole_way), cmocka_unit_test(test_opened), cmocka_unit_test(test_page)};
    return cmocka_run_group_tests(tests, own_folder_make, end);
}
