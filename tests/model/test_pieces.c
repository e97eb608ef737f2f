/* A feed-forward that goes over its rows in pieces (mlp_chunk) is the same as one that takes them all at once: every likelihood and the
 * gradient of everything outside of it bit for bit, for a row's numbers do not depend on the rows beside it; the gradients of its own
 * matrices up to the order in which the rows are summed. For every way of making a feed-forward, every level of recomputation, with dropout;
 * and the arena is smaller. NaN lies in it before each run. */
#include "support/bench.h"
#include "base/philox.h"
#include <float.h>
#include <jansson.h>

enum { LONGEST = 30, CHUNK = 40 }; /* 120 rows in three pieces of 40, beyond what takes dot products of few rows */

static const struct trial {
    const char *base, *method, *json;
    bool smaller;
} trials[] = {
    {"tiny_llama/bias", "lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": \"all-linear\", \"lora_dropout\": 0.3}", true},
    {"tiny_llama/bias", "lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": [\"q_proj\", \"v_proj\"]}", true},
    {"tiny_llama/bias", "lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": \"all-linear\", \"use_dora\": true}", false},
    {"tiny_llama/bias", "ia3", "{}", false},
    {"tiny_llama/bias", "bitfit", "{}", true},
    {"tiny_llama/bias", "full", "{\"target_modules\": \"all\"}", true},
    {"tiny_llama/bias", "bottleneck",
     "{\"name\": \"x\", \"config\": {\"mh_adapter\": true, \"output_adapter\": true, \"is_parallel\": true, \"scaling\": 2, "
     "\"reduction_factor\": 4, \"non_linearity\": \"tanh\"}}",
     true},
    {"families/phi3", "lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": \"all-linear\"}", true},
    {"families/gpt2", "full", "{\"target_modules\": \"all\"}", true},
    {"families/gemma3", "lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": \"all-linear\"}", true},
    {"families/t5", "lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": \"all-linear\", \"lora_dropout\": 0.2}", true},
    {"families/t5_gated_v4", "full", "{\"target_modules\": \"all\"}", true},
};

static const struct peft_method *method_named(const char *name) {
#define METHOD(m)                                                                                                                          \
    if (!strcmp(method_##m.name, name)) return &method_##m;
#include "peft/methods.def"
#undef METHOD
    return NULL;
}

static void longer_rows(struct bench *b) {
    const int n = b->model.shape.context < LONGEST ? 24 : LONGEST; /* GPT-2's positions */
    b->n_rows = b->model.family->seq2seq ? 8 : 120 / n;            /* half of a row is the encoder's */
    for (int s = 0; s < b->n_rows; s++) {
        struct row *r = &b->row[s];
        *r = (struct row){.ids = arena_alloc(&b->mem, (size_t)n * 4), .supervised = arena_alloc(&b->mem, (size_t)n), .n = n};
        for (int i = 0; i < n; i++) {
            r->ids[i] = 3 + (int32_t)(philox(9, (uint32_t)s, (uint32_t)i, 0, 0).v[0] % 30);
            r->supervised[i] = i > n / 2;
        }
        if (b->model.family->seq2seq) r->source = n / 2, r->ids[n / 2] = b->model.shape.start;
        b->rows[s] = r;
    }
}

static void leave_start(struct bench *b) {
    float *w = to_host(b->learner.backend, b->learner.w, b->st.params.bytes);
    for (size_t i = 0; i < b->st.params.trained / 4; i++) w[i] += 0.1f * (philox_unit(philox(4711, (uint32_t)i, 0, 0, 0).v[0]) - 0.5f);
    must(b->learner.backend->mem->upload(b->learner.w, w, b->st.params.bytes));
    free(w);
}

static arena settings_mem; /* whose texts outlive a bench */
static const struct backend *backend_fast = &backend_cpu;

struct outcome {
    float *grad;
    size_t n, act;
    double sums[4];
    int pieces;
};

static void gradient(const struct trial *t, const struct backend *backend, enum checkpoint level, int chunk, struct bench *b,
                     struct outcome *o) {
    char model[256], expected[256];
    const struct peft_method *m = method_named(t->method);
    json_t *j = json_loads(t->json, 0, NULL);
    void *settings = arena_alloc(&settings_mem, m->settings);
    must(m->read(j, m->name, &settings_mem, settings));
    snprintf(model, sizeof model, GOLDEN "/%s", t->base);
    snprintf(expected, sizeof expected, GOLDEN "/%s/%s.safetensors", t->base, *t->base == 't' ? "expected_base" : "expected");
    bench_build(b,
                &(struct bench_case){
                    .model = model,
                    .expected = expected,
                    .backend = backend,
                    .level = level,
                    .cap = {.tokens = strstr(t->base, "t5") ? 240 : 120, .sequences = 8, .slots = 2, .length = 32, .compute = DT_F32},
                    .mlp_chunk = chunk,
                    .recipe = {.learning_rate = 1e-3}},
                m, settings, NULL);
    b->wb.threads = 1;
    longer_rows(b);
    leave_start(b);
    must(learner_gradient(&b->learner, &b->wb, (const struct row *const *)b->rows, b->n_rows, 1, 5, o->sums));
    o->n = b->st.params.trained / 4;
    o->grad = to_host(backend, b->wb.grad, b->st.params.trained);
    o->act = b->train.plan.act;
    o->pieces = b->train.p.n_pieces;
    json_decref(j);
}

static bool of_feed_forward(const char *name) { return strstr(name, "mlp") || strstr(name, "Dense"); }

static void compare(const struct bench *b, const struct outcome *want, const struct outcome *have, const char *what) {
    const bool card = !b->learner.backend->mem->host;
    if (!card && memcmp(want->sums, have->sums, sizeof want->sums))
        flunk("%s: loss %.17g in pieces, %.17g whole", what, have->sums[0], want->sums[0]);
    double big = 0;
    for (size_t i = 0; i < want->n; i++) big = fmax(big, fabs((double)want->grad[i]));
    if (!(big > 1e-4)) flunk("%s: no gradient", what);
    for (int i = 0; i < b->st.params.n; i++) {
        const struct param *p = &b->st.params.p[i];
        if (p->frozen) continue;
        const size_t n = (size_t)(p->d[0] * (p->nd > 1 ? p->d[1] : 1)), at = p->off / 4;
        const double order = 120 * (double)FLT_EPSILON * big; /* a sum of 120 rows in another order */
        if (card)
            close_to(what, have->grad + at, want->grad + at, n, 0, 10 * order); /* and the products of three layers by other kernels */
        else if (of_feed_forward(p->slice->name)) close_to(what, have->grad + at, want->grad + at, n, 0, order);
        else if (memcmp(have->grad + at, want->grad + at, n * 4)) flunk("%s: %s has other bits", what, p->slice->name);
    }
}

static void try(const struct trial *t, const struct backend *backend, enum checkpoint level, int chunk) {
    struct bench b, c;
    struct outcome want, have;
    char what[256];
    snprintf(what, sizeof what, "%s, %s %s, level %d, pieces of %d on %s", t->base, t->method, t->json, (int)level, chunk, backend->name);
    gradient(t, backend, level, 0, &b, &want);
    gradient(t, backend, level, chunk, &c, &have);
    assert_int_equal(want.pieces, 0);
    assert_true(have.pieces > 0);
    compare(&b, &want, &have, what);
    if (t->smaller && have.act >= want.act) flunk("%s: %zu bytes of activations, %zu whole", what, have.act, want.act);
    bench_close(&b);
    bench_close(&c);
    free(want.grad);
    free(have.grad);
}

static void test_every_feed_forward(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++)
        for (int level = CHECKPOINT_NONE; level <= CHECKPOINT_BLOCK; level++) try(&trials[i], backend_fast, (enum checkpoint)level, CHUNK);
}

/* The slow definitions, in many pieces. */
static void test_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++)
        try(&trials[i], &backend_reference, i % 2 ? CHECKPOINT_BLOCK : CHECKPOINT_SELECTIVE, 7);
}

/* The arena of a training pass of so many tokens, of one text or of many. */
static size_t arena_of(struct model *m, struct structure *st, enum checkpoint level, int tokens, int sequences, int piece) {
    struct program g;
    m->mlp_chunk = piece;
    must(program_build(&g, m, MODE_TRAIN, st, (struct capacity){.tokens = tokens, .sequences = sequences, .compute = DT_F32}, level,
                       &backend_null, false));
    const size_t act = g.plan.act;
    program_free(&g);
    return act;
}

static void times(const char *what, size_t a, size_t b, double want) {
    if (fabs((double)b / (double)a - want) > 0.025 * want) flunk("%s: %zu bytes, then %zu: not %g times as many", what, a, b, want);
}

/* Activations beside the tokens of a pass: twice the tokens, twice the arena, at any length and every level; whether they are one text or 64 is
 * nothing to them. With pieces nothing as wide as the feed-forward is there for all of them. */
static void test_linear(void **state) {
    (void)state;
    struct model m;
    struct structure st;
    arena mem = {0};
    enum { ALL = 1 << 30, PIECE = 512 };
    json_t *j = json_loads("{\"r\": 4, \"lora_alpha\": 4, \"target_modules\": \"all-linear\"}", 0, NULL);
    void *settings = arena_alloc(&mem, method_lora.settings);
    must(method_lora.read(j, "lora", &mem, settings));
    must(model_open(GOLDEN "/tiny_llama/bias", NULL, &m));
    must(structure_init(&st, &m, &method_lora, settings, NULL));
    for (enum checkpoint level = CHECKPOINT_NONE; level <= CHECKPOINT_BLOCK; level++)
        for (int tokens = 8192; tokens <= 16384; tokens *= 2) {
            const size_t act = arena_of(&m, &st, level, tokens, 1, ALL);
            times("tokens of one text", act, arena_of(&m, &st, level, 2 * tokens, 1, ALL), 2);
            times("as many texts", act, arena_of(&m, &st, level, tokens, 64, ALL), 1);
            times("64 texts of twice the length", act, arena_of(&m, &st, level, 2 * tokens, 64, ALL), 2);
            times("in pieces", arena_of(&m, &st, level, tokens, 1, PIECE), arena_of(&m, &st, level, 2 * tokens, 1, PIECE), 2);
            assert_true(arena_of(&m, &st, level, tokens, 1, PIECE) < act);
        }
    structure_free(&st);
    model_close(&m);
    json_decref(j);
    arena_free(&mem);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_feed_forward), cmocka_unit_test(test_reference),
                                       cmocka_unit_test(test_linear)};
    const struct backend *card = test_card();
    if (card) backend_fast = card; /* in f32; its products choose their kernels by the number of rows */
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_free(&settings_mem);
    return failed;
}
