/* One decoding step of a whole random model (135M shape; one as wide as 1B; rank 16, B not 0) with spans and without them, in 16-bit types: both must be
 * as near to the f32 logits, and near each other. Bases of the compute type and quantised ones; few rows and many; LoRA and DoRA, whose steps have
 * to be as many launches. */
#include "support/support.h"
#include "gen/adapter.h"
#include "gen/generate.h"
#include "peft/methods.h"
#include "peft/lora.h"

enum { LENGTH = 230 /* more than one block's keys */, ROWS = 40 };
static const struct backend *card;
static struct backend apart; /* the same card, instruction by instruction */
static struct model model;
static struct structure st;
static float *weights; /* of the adapter, on the card */

static float noise(uint32_t *s) {
    *s = *s * 1664525u + 1013904223u;
    return (float)(*s >> 8) * 0x1p-24f - 0.5f;
}

static void begin(const char *base, const char *config, bool dora) {
    struct lora lora = {.r = 16, .alpha = 32, .targets.of.take = TAKE_ALL_LINEAR, .dora = dora};
    int modules;
    uint32_t seed = 7;
    must(model_open(base, config, &model));
    must(model_fill(&model));
    must(structure_init(&st, &model, &method_lora, &lora, &modules));
    float *host = malloc(st.params.bytes);
    must(param_fill(&st.params, 7, host)); /* DoRA's lengths are those of W's rows */
    for (size_t i = 0; i < st.params.bytes / 4; i++) host[i] = (dora ? host[i] : 0) + noise(&seed) * 0.05f;
    assert_non_null(weights = card->mem->take(st.params.bytes));
    must(card->mem->upload(weights, host, st.params.bytes));
    free(host);
}

static void end(void) {
    card->mem->give(weights, st.params.bytes);
    structure_free(&st);
    model_close(&model);
}

/* Logits [rows, V] of the token after LENGTH others. */
static float *decode(const struct backend *b, dtype compute, int rows) {
    struct capacity cap = {rows * LENGTH, rows, rows, LENGTH + 4, compute, DT_NONE, 0};
    struct generator g = {.cap = cap};
    struct memory mem;
    must(program_build(&g.prefill, &model, MODE_PREFILL, &st, cap, CHECKPOINT_NONE, b, false));
    must(program_build(&g.decode, &model, MODE_DECODE, &st, cap, CHECKPOINT_NONE, b, true));
    must(memory_for(&mem, (struct program *const[]){&g.prefill, &g.decode}, 2));
    int32_t ids[ROWS * LENGTH], pos[ROWS * LENGTH], slot[ROWS * LENGTH], cu[ROWS + 1] = {0}, last[ROWS], sample[ROWS], next[ROWS];
    struct feed f = {.ids = ids, .pos = pos, .slot = slot, .cu = cu, .rows = last, .sample = sample, .last_pos = last, .n = 0, .s = rows};
    for (int r = 0; r < rows; r++) { /* of different lengths */
        int len = LENGTH - r % 7;
        for (int t = 0; t < len; t++, f.n++) ids[f.n] = (r * 131 + t * 17) % 4000, pos[f.n] = t, slot[f.n] = r;
        cu[r + 1] = f.n, last[r] = f.n - 1, sample[r] = r, next[r] = len;
    }
    void *param;
    struct run_ctx run = {.threads = 2};
    must(memory_bind(&mem, &g.decode, weights, 2, &param));
    must(program_run(&g.prefill, &mem, param, NULL, &f, &run, true));
    struct feed d = {.ids = ids, .pos = next, .slot = sample, .sample = sample, .n = rows};
    must(program_run(&g.decode, &mem, param, NULL, &d, &run, false));
    int64_t n = rows * model.shape.vocab;
    float *logits = malloc((size_t)n * 4);
    must(program_read(&g.decode, &mem, g.decode.logits, rows, 0, logits, (size_t)n * 4));
    memory_free(&mem);
    generator_free(&g);
    return logits;
}

/* Kernels of a decoding step. */
static int launches(void) {
    struct capacity cap = {16, 16, 16, LENGTH, DT_BF16, DT_NONE, 0};
    struct program g;
    int n = 0;
    must(program_build(&g, &model, MODE_DECODE, &st, cap, CHECKPOINT_NONE, card, true));
    for (int i = 0; i < g.p.ni; i++) n += g.plan.run[i] != NULL;
    program_free(&g);
    return n;
}

static double distance(const float *a, const float *b, int64_t n) {
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]), s += (double)b[i] * b[i];
    return sqrt(d / s);
}

/* The step in a 16-bit type, beside `exact`, the same in f32. */
static void compare(const char *base, int rows, dtype dt, const float *exact) {
    float *one_by_one = decode(&apart, dt, rows), *together = decode(card, dt, rows);
    const int64_t n = rows * model.shape.vocab;
    const double before = distance(one_by_one, exact, n), now = distance(together, exact, n), between = distance(together, one_by_one, n);
    print_message("%s, %d rows, %s: %.2g from f32 one by one, %.2g with spans, %.2g apart\n", base, rows, dt == DT_F16 ? "f16" : "bf16", before, now, between);
    assert_true(now <= 1.25 * before + 1e-6 && between <= 2.5 * before + 1e-6);
    free(one_by_one);
    free(together);
}

static void spans_of(const char *base, const char *config, bool dora) {
    static const int rows[] = {1, 5, 16, ROWS};
    begin(base, config, dora);
    for (int r = 0; r < 4; r++) {
        float *exact = decode(&apart, DT_F32, rows[r]), *exact_too = decode(card, DT_F32, rows[r]);
        compare(base, rows[r], DT_BF16, exact);
        compare(base, rows[r], DT_F16, exact);
        assert_true(distance(exact_too, exact, rows[r] * model.shape.vocab) < 1e-4);
        free(exact_too);
        free(exact);
    }
    end();
}

static void test_spans(void **state) {
    (void)state;
    static const char *const bases[] = {"random:1:bf16", "random:1:f16", "random:1:q8_0"};
    for (int b = 0; b < 3; b++) spans_of(bases[b], "bench/shapes/135m.json", false);
    spans_of("random:1:bf16", "tests/cuda/wide.json", false);
}

static void test_spans_of_dora(void **state) {
    (void)state;
    int n[2];
    for (int dora = 0; dora < 2; dora++) {
        begin("random:1:bf16", "bench/shapes/135m.json", dora);
        n[dora] = launches();
        end();
    }
    assert_int_equal(n[0], n[1]);
    spans_of("random:1:bf16", "bench/shapes/135m.json", true);
    spans_of("random:1:q8_0", "bench/shapes/135m.json", true);
    spans_of("random:1:bf16", "tests/cuda/wide.json", true);
}

int main(void) {
    if (!(card = test_card())) return 77;
    apart = *card;
    apart.span = NULL;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_spans), cmocka_unit_test(test_spans_of_dora)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
