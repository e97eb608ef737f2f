/* Programs that compute in bf16 and f16, caches of 16 bits beside any of them, and the loss scale.
 *
 * Against PyTorch's and PEFT's f32 numbers (the families' fixtures): losses and decoded logits within what rounding explains; gradients no
 * further from f32's than half as much again as those of the definitions in 16 bits, whose roundings are others. The bound is derived: a number goes through at most STAGES roundings to the compute type on its way through the two or three blocks of the
 * fixtures and back, each of at most u = eps / 2 of it, and they add up as a random walk does; 4 of its deviations are allowed.
 * Then training: 500 steps in f16 end at f32's loss to 1 %; and where gradients are too small for f16 no step is possible without
 * the loss scale, while with it the adapter learns what it learns in f32.
 * With CYC_TEST_DEVICE=cuda on that card (ctest label `cuda`); caches of another type than the rest are the processor's alone. */
#define _DEFAULT_SOURCE
#include "support/bench.h"
#include "support/folder.h"
#include "support/pairs.h"
#include "base/file.h"
#include "base/log.h"
#include "cyclora/cyclora.h"
#include "train/run.h"

enum { STAGES = 64, STEPS = 500, LAST = 50 };
static const struct backend *card; /* CYC_TEST_DEVICE */
static const dtype halves[] = {DT_F16, DT_BF16};

static double deviation(dtype dt) { return sqrt(STAGES) * (dt == DT_F16 ? 0x1p-12 : 0x1p-9); }

struct fixture_of {
    const char *model, *adapter, *expected;
};
static const struct fixture_of fixtures[] = {
    {GOLDEN "/tiny_llama/tied_gqa", GOLDEN "/tiny_llama/tied_gqa/adapter_all_r4",
     GOLDEN "/tiny_llama/tied_gqa/expected_all_r4.safetensors"},
    {GOLDEN "/tiny_llama/bf16", GOLDEN "/tiny_llama/bf16/adapter_all_r4", GOLDEN "/tiny_llama/bf16/expected_all_r4.safetensors"},
    {GOLDEN "/families/qwen3", GOLDEN "/families/qwen3/adapter", GOLDEN "/families/qwen3/expected.safetensors"},
    {GOLDEN "/families/gemma3", GOLDEN "/families/gemma3/adapter", GOLDEN "/families/gemma3/expected.safetensors"},
    {GOLDEN "/families/phi3", GOLDEN "/families/phi3/adapter", GOLDEN "/families/phi3/expected.safetensors"},
    {GOLDEN "/families/gpt2", GOLDEN "/families/gpt2/adapter", GOLDEN "/families/gpt2/expected.safetensors"},
    {GOLDEN "/families/t5", GOLDEN "/families/t5/adapter", GOLDEN "/families/t5/expected.safetensors"},
};
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

static void start(struct bench *b, const struct fixture_of *f, const struct backend *backend, dtype compute, dtype cache,
                  enum checkpoint level) {
    bench_open(b, &(struct bench_case){.model = f->model,
                                       .adapter = f->adapter,
                                       .expected = f->expected,
                                       .backend = backend,
                                       .level = level,
                                       .cap = {64, 8, 4, 32, compute, cache},
                                       .recipe = {1e-2, 0.01, 0.9, 0.999, 1e-8, 1.0, {SCHEDULE_CONSTANT, 0, 1}}});
    if (compute == DT_F16)
        b->learner.scaler.scale = 1024; /* the first one, 65536, makes gradients of so few rows overflow: a run would halve it */
    snprintf(b->name, sizeof b->name, "%s in %s, cache %s, on %s", f->model, dtype_info[compute].name,
             cache ? dtype_info[cache].name : "the same", backend->name);
}

static const struct row *const *rows_of(const struct bench *b) { return (const struct row *const *)b->rows; }

/* The largest of a fixture's logits. */
static double largest(const struct bench *b) {
    const struct tensor *t = fixture(&b->want, "logits");
    double top = 0;
    for (int64_t i = 0; i < t->d[0] * t->d[1]; i++) top = fmax(top, fabs((double)f32_of(t)[i]));
    return top;
}

/* |a - b| / |b - from|, over a whole arena; from NULL: zeros. */
static double apart(const float *a, const float *b, const float *from, size_t bytes) {
    double off = 0, size = 0;
    for (size_t i = 0; i < bytes / 4; i++) {
        off += pow((double)a[i] - (double)b[i], 2);
        size += pow((double)b[i] - (from ? (double)from[i] : 0), 2);
    }
    return sqrt(off / size);
}

/* The gradient of the fixture's rows, without the loss scale; the caller frees. */
static float *gradient(struct bench *b, double sums[4]) {
    const double scale = b->learner.scaler.scale != 0 ? b->learner.scaler.scale : 1;
    must(learner_gradient(&b->learner, &b->wb, rows_of(b), b->n_rows, 1, 0, sums));
    float *g = to_host(b->learner.backend, b->wb.grad, b->st.params.bytes);
    for (size_t i = 0; i < b->st.params.bytes / 4; i++) g[i] = (float)(g[i] / scale);
    return g;
}

/* --- computing in 16 bits -------------------------------------------------------------------------------------------- */
/* The definitions, in f32 or in 16 bits. */
static float *defined(const struct fixture_of *f, dtype dt) {
    struct bench b;
    double sums[4];
    start(&b, f, &backend_reference, dt, DT_NONE, CHECKPOINT_NONE);
    float *g = gradient(&b, sums);
    bench_close(&b);
    return g;
}

static void one_fixture(const struct fixture_of *f, dtype dt, const float *wide, const float *narrow) {
    const struct backend *backend = card ? card : &backend_cpu;
    struct bench b;
    double sums[4];
    float *first = NULL;
    start(&b, f, backend, dt, DT_NONE, CHECKPOINT_NONE);
    float *g = gradient(&b, sums);
    const float loss = (float)(sums[0] / sums[1]);
    const size_t bytes = b.st.params.bytes;
    const double off = apart(g, wide, NULL, bytes), must_be = apart(narrow, wide, NULL, bytes);
    close_to(b.name, &loss, f32_of(fixture(&b.want, "loss")), 1, 4 * deviation(dt), 0);
    const double most = card ? 2 : 1.5; /* a card's attention rounds probabilities too, its products their operands */
    if (!(off <= most * must_be)) flunk("%s: gradients are off by %.3g, their definition by %.3g", b.name, off, must_be);
    if (!b.gen.decode.seq2seq) bench_decode(&b, 4 * deviation(dt) * largest(&b));
    bench_same_gradient(&b, &first);
    bench_close(&b);
    start(&b, f, backend, dt, DT_NONE, CHECKPOINT_SELECTIVE); /* what is computed again is what was there */
    bench_same_gradient(&b, &first);
    bench_close(&b);
    free(first);
    free(g);
}

/* A definition in 16 bits is off by what the bound says in a Llama; Gemma's and T5's own conditioning, with their unscaled queries, makes more of it. */
static void test_gradients(void **state) {
    (void)state;
    for (int f = 0; f < FIXTURES; f++) {
        float *wide = defined(&fixtures[f], DT_F32);
        for (int h = 0; h < 2; h++) {
            float *narrow = defined(&fixtures[f], halves[h]);
            struct bench b;
            start(&b, &fixtures[f], &backend_reference, DT_F32, DT_NONE, CHECKPOINT_NONE);
            const double off = apart(narrow, wide, NULL, b.st.params.bytes);
            print_message("%s: gradients in %s are off by %.2g\n", fixtures[f].model, dtype_info[halves[h]].name, off);
            assert_true(off < (strstr(fixtures[f].model, "llama") ? 4 * deviation(halves[h]) : 0.25));
            bench_close(&b);
            one_fixture(&fixtures[f], halves[h], wide, narrow);
            free(narrow);
        }
        free(wide);
    }
}

/* An activation of 16 bits takes half the room. */
static void test_memory(void **state) {
    (void)state;
    struct bench wide, half;
    start(&wide, &fixtures[0], card ? card : &backend_cpu, DT_F32, DT_NONE, CHECKPOINT_NONE);
    start(&half, &fixtures[0], card ? card : &backend_cpu, DT_BF16, DT_NONE, CHECKPOINT_NONE);
    assert_true(half.train.plan.act < 0.6 * (double)wide.train.plan.act);
    assert_true(2 * half.gen.decode.plan.state == wide.gen.decode.plan.state);
    bench_close(&wide);
    bench_close(&half);
}

/* --- caches ---------------------------------------------------------------------------------------------------------- */
/* Keys and values are rounded once: far less than a stage for each op. */
static void test_caches(void **state) {
    (void)state;
    if (card) skip();
    for (int f = 0; f < FIXTURES; f++)
        for (int h = 0; h < 2; h++) {
            struct bench b, wide;
            start(&b, &fixtures[f], &backend_cpu, DT_F32, halves[h], CHECKPOINT_NONE);
            start(&wide, &fixtures[f], &backend_cpu, DT_F32, DT_NONE, CHECKPOINT_NONE);
            assert_true(2 * b.gen.decode.plan.state <=
                        wide.gen.decode.plan.state + 64 * (size_t)b.model.shape.layers * 4); /* each on 64 bytes */
            bench_decode(&b, 4 * deviation(halves[h]) * largest(&b));
            bench_close(&b);
            bench_close(&wide);
            start(&b, &fixtures[f], &backend_reference, DT_F32, halves[h], CHECKPOINT_NONE);
            bench_decode(&b, 4 * deviation(halves[h]) * largest(&b));
            bench_close(&b);
        }
}

/* --- 500 steps --------------------------------------------------------------------------------------------------------- */
struct losses {
    double loss[STEPS];
    int n, skipped;
};

static void on_step(void *ctx, const cyc_step *s) {
    struct losses *c = ctx;
    c->skipped += s->skipped;
    c->loss[c->n++] = s->loss[0];
}

static void train(const char *dt, struct losses *c) {
    static const char *const common[] = {"objective=sft",
                                         "model=" GOLDEN "/cipher/",
                                         "per_device_train_batch_size=8",
                                         "max_length=32",
                                         "lora.r=4",
                                         "learning_rate=3e-5",
                                         "max_steps=500",
                                         "seed=3"};
    char set[512];
    cyc_config *cfg = cyc_config_new();
    *c = (struct losses){0};
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) assert_int_equal(cyc_config_set(cfg, common[i]), 0);
    const char *const more[] = {"data", at("train.jsonl"), "output_dir", at(dt), "dtype", dt, "device", card ? "cuda" : "cpu"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i += 2) {
        snprintf(set, sizeof set, "%s=%s", more[i], more[i + 1]);
        assert_int_equal(cyc_config_set(cfg, set), 0);
    }
    if (cyc_train(cfg, 0, &(cyc_callbacks){.ctx = c, .on_step = on_step}, NULL)) flunk("%s: %s", dt, cyc_error());
    assert_int_equal(c->n, STEPS);
    cyc_config_free(cfg);
}

static double final_loss(const struct losses *c) {
    double sum = 0;
    for (int i = STEPS - LAST; i < STEPS; i++) sum += c->loss[i] / LAST;
    return sum;
}

static void test_loss_curve(void **state) {
    (void)state;
    static const char *const types[] = {"float32", "float16"};
    static struct losses c[2];
    sft_rows_of_pairs(GOLDEN "/cipher/test.jsonl", at("train.jsonl"), 0, 200);
    for (int i = 0; i < 2; i++) train(types[i], &c[i]);
    const double want = final_loss(&c[0]);
    assert_true(want < 0.8 * c[0].loss[0]); /* it did learn */
    const double have = final_loss(&c[1]);
    print_message("loss after %d steps: float32 %.4f, float16 %.4f (%d steps skipped)\n", STEPS, want, have, c[1].skipped);
    if (!(fabs(have - want) <= 0.01 * want)) flunk("float16 ends at %.5f, float32 at %.5f", have, want);
}

/* --- the loss scale ---------------------------------------------------------------------------------------------------- */
/* What a tensor of the faint base is multiplied with. A matrix has to stay within f16, which a card's products read; a norm's vector is f32 everywhere. */
static float faintness(const char *name) { return !strcmp(name, "lm_head.weight") ? 0x1p-6f : !strcmp(name, "model.norm.weight") ? 0x1p-18f : 1; }

/* A base whose last norm and head are so faint that what flows back through them, about 1e-8, is nothing in f16 (least number: 6e-8). */
static const char *faint(void) {
    struct tensors ts;
    struct tensor t[64];
    const char *const folder = at("faint"), *const from = GOLDEN "/tiny_llama/untied_mha/config.json";
    must(dir_make(folder));
    must(tensors_open(GOLDEN "/tiny_llama/untied_mha/model.safetensors", &ts));
    assert_true(ts.n <= 64);
    float *changed[2];
    int n = 0;
    for (int i = 0; i < ts.n; i++) {
        const float by = faintness((t[i] = ts.t[i]).name);
        if (by == 1) continue;
        assert_int_equal(t[i].dt, DT_F32);
        assert_true(n < 2);
        float *to = changed[n++] = malloc(t[i].bytes);
        assert_non_null(to);
        for (size_t k = 0; k < t[i].bytes / 4; k++) to[k] = f32_of(&ts.t[i])[k] * by;
        t[i].data = to;
    }
    assert_int_equal(n, 2);
    must(safetensors_write(at("faint/model.safetensors"), t, ts.n));
    tensors_close(&ts);
    free(changed[0]);
    free(changed[1]);
    str text = {0};
    must(file_read(from, &text));
    must(file_write(at("faint/config.json"), text.p, text.n));
    str_free(&text);
    return folder;
}

static void open_faint(struct bench *b, const char *model, dtype dt) {
    bench_open(b, &(struct bench_case){.model = model,
                                       .adapter = GOLDEN "/tiny_llama/untied_mha/adapter_all_r4",
                                       .expected = GOLDEN "/tiny_llama/untied_mha/expected_all_r4.safetensors",
                                       .backend = card ? card : &backend_cpu,
                                       .level = CHECKPOINT_NONE,
                                       .cap = {64, 8, 4, 32, dt, DT_NONE},
                                       .recipe = {1e-3, 0, 0.9, 0.999, 1e-20, 0, {SCHEDULE_CONSTANT, 0, 10}}});
}

static float *ten_steps(struct bench *b) {
    struct step_result r;
    for (int i = 0; i < 10; i++) {
        must(learner_step(&b->learner, &b->wb, rows_of(b), b->n_rows, 1, (uint64_t)i, &r));
        assert_false(r.skipped);
    }
    return to_host(b->learner.backend, b->learner.w, b->st.params.bytes);
}

static void test_loss_scale(void **state) {
    (void)state;
    const char *model = faint();
    struct bench wide, with, without;
    struct step_result r;
    open_faint(&wide, model, DT_F32);
    open_faint(&with, model, DT_F16);
    open_faint(&without, model, DT_F16);
    without.learner.scaler.scale = 0;
    const size_t bytes = wide.st.params.bytes;
    float *before = to_host(wide.learner.backend, wide.learner.w, bytes);
    double sums[4];
    float *g = gradient(&wide, sums), *scaled = gradient(&with, sums), *bare = gradient(&without, sums);
    print_message("gradients in float16 against float32's: off by %.2g with the loss scale, by %.2g without\n",
                  apart(scaled, g, NULL, bytes), apart(bare, g, NULL, bytes));
    assert_true(apart(scaled, g, NULL, bytes) < 4 * deviation(DT_F16));
    assert_true(apart(bare, g, NULL, bytes) > 0.5);
    assert_int_equal(learner_step(&without.learner, &without.wb, rows_of(&without), without.n_rows, 1, 0, &r), E_NUMERIC);
    assert_non_null(strstr(err_text(), "no gradient has reached"));
    float *stays = to_host(without.learner.backend, without.learner.w, bytes), *end = ten_steps(&wide), *end_16 = ten_steps(&with);
    assert_memory_equal(stays, before, bytes);
    print_message("ten steps: float16 with the loss scale is %.2g of the way from float32\n", apart(end_16, end, before, bytes));
    assert_true(apart(end_16, end, before, bytes) < 0.05);
    float *const all[] = {before, g, scaled, bare, stays, end, end_16};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    bench_close(&wide);
    bench_close(&with);
    bench_close(&without);
}

/* Are the optimizer's states what they begin as, zeros? */
static bool untouched(const struct learner *l) {
    bool zeros = true;
    for (int i = 0; i < l->states; i++) {
        float *s = to_host(l->backend, l->state[i].p, l->state[i].bytes);
        for (size_t k = 0; k < l->state[i].bytes / sizeof *s; k++) zeros &= s[k] == 0;
        free(s);
    }
    return zeros;
}

/* The scale halves when a gradient overflows, the step is left out, and all that it would have changed stays: weights, states, the count. */
static void test_overflow(void **state) {
    (void)state;
    struct bench b;
    struct step_result r;
    start(&b, &fixtures[0], card ? card : &backend_cpu, DT_F16, DT_NONE, CHECKPOINT_NONE);
    const size_t bytes = b.st.params.bytes;
    float *before = to_host(b.learner.backend, b.learner.w, bytes);
    assert_true(untouched(&b.learner));
    b.learner.scaler = (struct scaler){.scale = 0x1p24, .good = 7};
    int left_out = 0;
    do {
        must(learner_step(&b.learner, &b.wb, rows_of(&b), b.n_rows, 1, 0, &r));
        left_out += r.skipped;
        float *w = to_host(b.learner.backend, b.learner.w, bytes);
        if (r.skipped) assert_memory_equal(w, before, bytes);
        else assert_true(memcmp(w, before, bytes) != 0);
        assert_true(untouched(&b.learner) == r.skipped);
        free(w);
    } while (r.skipped && left_out < 20);
    assert_true(left_out > 0 && left_out < 20);
    assert_true(b.learner.scaler.scale == ldexp(0x1p24, -left_out));
    assert_int_equal(b.learner.scaler.good, 1);
    assert_int_equal(b.learner.optim_steps, 1);
    free(before);
    bench_close(&b);
}

/* After 2,000 good steps in a row it doubles; a checkpoint has the scale and how far it is. */
static void test_scale_grows(void **state) {
    (void)state;
    struct bench b;
    struct step_result r;
    bool found;
    start(&b, &fixtures[0], card ? card : &backend_cpu, DT_F16, DT_NONE, CHECKPOINT_NONE);
    must(dir_make(at("scale")));
    b.learner.scaler = (struct scaler){.scale = 8, .good = 1998};
    must(learner_step(&b.learner, &b.wb, rows_of(&b), b.n_rows, 1, 0, &r));
    assert_true(!r.skipped && b.learner.scaler.scale == 8 && b.learner.scaler.good == 1999);
    must(optimizer_write(&b.learner, at("scale")));
    b.learner.scaler = (struct scaler){.scale = 1};
    must(optimizer_read(&b.learner, at("scale"), &found));
    assert_true(found && b.learner.scaler.scale == 8 && b.learner.scaler.good == 1999);
    must(learner_step(&b.learner, &b.wb, rows_of(&b), b.n_rows, 1, 1, &r));
    assert_true(!r.skipped && b.learner.scaler.scale == 16 && b.learner.scaler.good == 0);
    bench_close(&b);
}

/* --- what a device has not --------------------------------------------------------------------------------------------- */
static void note(void *ctx, enum log_level level, const char *line) {
    (void)level;
    if (strstr(line, "tf32")) snprintf(ctx, 200, "%s", line);
}

static void test_refusals(void **state) {
    (void)state;
    const struct mem_ops elsewhere = {.host = false};
    const struct backend other = {.name = "a card", .mem = &elsewhere, .compute = DT_BF16};
    dtype got;
    must(backend_cache(&backend_cpu, "float16", DT_F32, &got));
    assert_int_equal(got, DT_F16);
    must(backend_cache(&other, "auto", DT_BF16, &got));
    assert_int_equal(got, DT_BF16);
    must(backend_cache(&other, "float16", DT_F16, &got));
    assert_int_equal(backend_cache(&other, "float16", DT_BF16, &got), E_USAGE);
    assert_non_null(strstr(err_text(), "kv_cache_dtype"));
    assert_int_equal(backend_cache(&backend_cpu, "q8_0", DT_F32, &got), E_USAGE);
    assert_int_equal(backend_compute(&backend_cpu, "q8_0", &got), E_USAGE);
    static const char *const settings[] = {"objective=sft", "model=" GOLDEN "/cipher/", "max_length=32", "device=cpu", "tf32=true"};
    char said[200] = "", data[256];
    struct config cfg;
    struct run r;
    sft_rows_of_pairs(GOLDEN "/cipher/test.jsonl", at("few.jsonl"), 0, 8);
    snprintf(data, sizeof data, "data=%s", at("few.jsonl"));
    must(config_init(&cfg));
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) must(config_set(&cfg, settings[i]));
    must(config_set(&cfg, data));
    log_set(note, said);
    must(run_open(&r, &cfg));
    log_set(NULL, NULL);
    assert_non_null(strstr(said, "tf32 is ignored"));
    run_close(&r);
    config_free(&cfg);
}

int main(void) {
    card = test_card();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients),  cmocka_unit_test(test_memory),
                                       cmocka_unit_test(test_caches),     cmocka_unit_test(test_loss_curve),
                                       cmocka_unit_test(test_loss_scale), cmocka_unit_test(test_overflow),
                                       cmocka_unit_test(test_scale_grows), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
