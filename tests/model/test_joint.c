/* schedule: joint. Rows of two adapters in one pass, forward and backward, and in one generation batch, against each adapter with its own rows
 * alone: gradients with dropout (the masks of a row hang on its place in the step), sums of the loss, texts, a whole step. What a joint run
 * cannot be is refused by name, and what it takes more is in its plan. */
#include "support/settings.h"
#include "support/support.h"
#include "base/philox.h"
#include "train/run.h"

#define DATA      GOLDEN "/cipher/"
#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
enum { ROWS_A = 5, ROWS_B = 4 };

static void settings(struct config *c, const char *const *more) {
    static const char *const sets[] = {"model=" DATA,
                                       "A.data=" DATA "a.jsonl",
                                       "B.data=" DATA "b.jsonl",
                                       "A.per_device_train_batch_size=5",
                                       "B.per_device_train_batch_size=4",
                                       "max_new_tokens=8",
                                       "max_length=48",
                                       "pass_tokens=100",
                                       "lora.r=4",
                                       "optim=sgd",
                                       "learning_rate=1e-2",
                                       "threads=1",
                                       "schedule=joint",
                                       "dtype=float32"};
    config_with(c, sets, sizeof sets / sizeof *sets, more);
    must(config_set(c, test_card() ? "device=cuda" : "device=cpu"));
}

/* Adapters that both do something, each another thing, up to `size`. */
static void start(struct run *r, struct config *c, const char *const *more, float size) {
    settings(c, more);
    must(run_open(r, c));
    must(run_start(r));
    const size_t bytes = r->plans[0].st.params.bytes;
    float *w = malloc(bytes);
    for (int d = 0; d < 2; d++) {
        for (size_t i = 0; i < bytes / 4; i++) w[i] = (philox_unit(philox(11, (uint32_t)i, (uint32_t)d, 0, 0).v[0]) - 0.5f) * 2 * size;
        must(r->backend->mem->upload(r->side[d].learner.w, w, bytes));
    }
    free(w);
}

static void finish(struct run *r, struct config *c) {
    run_close(r);
    config_free(c);
}

/* --- gradients -------------------------------------------------------------------------------------------------------- */
/* A text as its own answer. */
static void rows_of(const struct side *s, int n, struct rows *out) {
    for (int i = 0; i < n; i++) must(rows_add(out, s->texts[i].v, s->texts[i].n, s->texts[i].v, s->texts[i].n));
}

/* Rounding errors of sums over a step's tokens, as accumulation.c has them. */
static void close_gradients(const struct run *r, const float *got, const float *want, int tokens) {
    const struct param_set *set = &r->plans[0].st.params;
    const double eps = r->compute == DT_F32 ? 0x1p-24 : 0x1p-8;
    for (int i = 0; i < set->n; i++) {
        const struct param *p = &set->p[i];
        const size_t n = (size_t)(p->d[0] * p->d[1]);
        double top = 0;
        for (size_t k = 0; k < n; k++) top = fmax(top, fabs((double)want[p->off / 4 + k]));
        assert_true(top > 0);
        close_to(p->name, got + p->off / 4, want + p->off / 4, n, 0, 8 * eps * sqrt(tokens) * top);
    }
}

static void gradients(const char *const *more) {
    struct config c;
    struct run r;
    struct rows rows = {0};
    start(&r, &c, more, 0.05f);
    rows_of(&r.side[0], ROWS_A, &rows);
    rows_of(&r.side[1], ROWS_B, &rows);
    const struct row *list[ROWS_A + ROWS_B];
    int tokens = 0;
    for (int i = 0; i < rows.n; i++) list[i] = &rows.r[i], tokens += rows.r[i].n;
    struct crowd of = joint_crowd(&r);
    of.end[0] = ROWS_A, of.end[1] = ROWS_A + ROWS_B;
    double sums[2][4], alone[2][4];
    must(joint_gradient(&r, &of, list, 7, sums));
    assert_true(r.wb.passes > 1);
    const size_t each = r.plans[0].st.params.trained;
    float *both = to_host(r.backend, r.wb.grad, 2 * each), *one;
    must(learner_gradient(&r.side[0].learner, &r.wb, list, ROWS_A, 42, 7, alone[0]));
    close_gradients(&r, both, one = to_host(r.backend, r.wb.grad, each), tokens);
    free(one);
    for (int i = 0; i < ROWS_A; i++) memset(rows.r[i].supervised, 0, (size_t)rows.r[i].n); /* keep their places, tell nothing */
    must(learner_gradient(&r.side[1].learner, &r.wb, list, ROWS_A + ROWS_B, 42, 7, alone[1]));
    close_gradients(&r, both + each / 4, one = to_host(r.backend, r.wb.grad, each), tokens);
    free(one);
    for (int d = 0; d < 2; d++) {
        assert_true(fabs(sums[d][0] / alone[d][0] - 1) < (r.compute == DT_F32 ? 1e-5 : 2e-2));
        assert_true(sums[d][1] == alone[d][1] && sums[d][3] == alone[d][3]);
        if (r.compute == DT_F32) assert_true(sums[d][2] == alone[d][2]);
    }
    free(both);
    rows_free(&rows);
    finish(&r, &c);
}

static void test_gradients(void **state) {
    (void)state;
    gradients(LIST("lora.lora_dropout=0.2"));
    gradients(LIST("gradient_checkpointing=block", "mlp_chunk=32")); /* in pieces of rows that are two adapters' */
}

static void test_gradients_bf16(void **state) {
    (void)state;
    gradients(LIST("lora.lora_dropout=0.2", "dtype=bfloat16"));
}

/* --- texts ------------------------------------------------------------------------------------------------------------ */
/* Adapter 0 writes for the first n[0] prompts, adapter 1 for the others. Which lengths there were, bit by bit. */
static unsigned same_texts(struct run *r, const int n[2]) {
    enum { MOST = 64 };
    struct ids prompt[MOST] = {{0}};
    struct generation made[MOST], alone[MOST];
    struct crowd of = joint_crowd(r);
    unsigned lengths = 0;
    of.end[0] = n[0], of.end[1] = n[0] + n[1];
    for (int i = 0; i < n[0] + n[1]; i++) {
        const struct side *s = &r->side[i >= n[0]];
        must(prompt_form_wrap(&s->form, s->texts[i].v, s->texts[i].n, &prompt[i]));
    }
    must(generate_texts_of_all(r, prompt, &of, 3, made));
    for (int d = 0; d < 2; d++)
        must(generate_texts(r, d, prompt + d * n[0], n[d], (int)r->cfg->side[0].max_new_tokens, 0, 3, alone + d * n[0], NULL));
    for (int i = 0; i < n[0] + n[1]; i++) {
        assert_int_equal(made[i].n, alone[i].n);
        assert_int_equal(made[i].stopped, alone[i].stopped);
        assert_memory_equal(made[i].ids, alone[i].ids, (size_t)made[i].n * sizeof *made[i].ids);
        lengths |= 1u << made[i].n;
        free(made[i].ids), free(alone[i].ids);
        ids_free(&prompt[i]);
    }
    return lengths;
}

/* Something that is written here and there, so that rows end. */
static int32_t common_token(struct run *r) {
    struct ids prompt = {0};
    struct generation made;
    must(prompt_form_wrap(&r->side[0].form, r->side[0].texts[1].v, r->side[0].texts[1].n, &prompt));
    must(generate_texts(r, 0, &prompt, 1, 12, 0, 3, &made, NULL));
    const int32_t id = made.ids[made.n - 1];
    free(made.ids);
    ids_free(&prompt);
    return id;
}

static void written(const char *const *more) {
    struct config c;
    struct run r;
    start(&r, &c, more, 0.3f); /* each its own texts */
    r.base[0].eos = common_token(&r);
    unsigned lengths = same_texts(&r, (const int[]){3, 2});
    lengths |= same_texts(&r, (const int[]){26, 30}); /* more rows than dot products take */
    lengths |= same_texts(&r, (const int[]){1, 16});
    assert_true(lengths & (lengths - 1)); /* rows ended at different times */
    finish(&r, &c);
}

/* All at once; and in batches, by rules. */
static void test_texts(void **state) {
    (void)state;
    written(LIST("max_new_tokens=12", "A.per_device_train_batch_size=26", "B.per_device_train_batch_size=30", "generation_batch=28"));
    written(LIST("max_new_tokens=12", "A.per_device_train_batch_size=26", "B.per_device_train_batch_size=30", "generation_batch=18",
                 "generation.repetition_penalty=1.3", "min_new_tokens=2"));
}

/* --- a step ------------------------------------------------------------------------------------------------------------ */
static void one_step(const char *const *more, float **w, struct step_info *info, int side) {
    struct config c;
    struct run r;
    start(&r, &c, more, 0.05f);
    *info = (struct step_info){0};
    must(r.objective->step(&r, info));
    *w = to_host(r.backend, r.side[side].learner.w, r.plans[0].st.params.bytes);
    finish(&r, &c);
}

/* A side's part of an alternating step begins from the same weights as the joint one where the other side has not moved. */
static void test_step(void **state) {
    (void)state;
    for (int side = 0; side < 2; side++) {
        struct step_info joint, alone;
        float *got, *want;
        one_step(NULL, &got, &joint, side);
        one_step(LIST("schedule=alternating", side ? "A.learning_rate=1e-30" : "learning_rate=1e-2"), &want, &alone, side);
        const struct step_result *a = &joint.side[side], *b = &alone.side[side];
        assert_int_equal(a->supervised, b->supervised);
        assert_int_equal(a->tokens, b->tokens);
        assert_true(a->accuracy == b->accuracy);
        assert_true(fabs(a->loss / b->loss - 1) < 1e-5 && fabs(a->grad_norm / b->grad_norm - 1) < 1e-4);
        close_to("weights", got, want, 2000, 0, 1e-6);
        free(got), free(want);
    }
}

/* --- refusals and the plan ----------------------------------------------------------------------------------------------- */
static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *set[4];
        err code;
        const char *why;
    } cases[] = {
        {{"lora.use_dora=true"}, E_UNSUPPORTED, "low-rank products of linear layers alone"},
        {{"lora.target_modules=q_proj,lm_head"}, E_UNSUPPORTED, "low-rank products of linear layers alone"},
        {{"method=ia3"}, E_UNSUPPORTED, "method ia3 also has"},
        {{"method=full", "dtype=bfloat16", "trained_dtype=bfloat16"}, E_UNSUPPORTED, "method full also has"},
        {{"method=prompt_tuning"}, E_UNSUPPORTED, "method prompt_tuning also has"},
        {{"B.lora.r=8"}, E_UNSUPPORTED, "sides A and B differ"},
        {{"B.generation.temperature=1"}, E_UNSUPPORTED, "generation.temperature"},
        {{"B.max_new_tokens=4"}, E_UNSUPPORTED, "max_new_tokens"},
        {{"min_new_tokens=2", "B.min_new_tokens=3"}, E_UNSUPPORTED, "min_new_tokens"},
        {{"B.generation.repetition_penalty=1.2"}, E_UNSUPPORTED, "generation.repetition_penalty"},
        {{"generation.temperature=1", "B.generation.min_p=0.1"}, E_UNSUPPORTED, "generation.min_p"},
        {{"optimizer_in_bwd=true", "max_grad_norm=0"}, E_USAGE, "optimizer_in_bwd"},
        {{"check_accumulation=true"}, E_USAGE, "check_accumulation"},
        {{"C.data=" DATA "warm.jsonl", "C.field=a"}, E_UNSUPPORTED, "ring of more"},
        {{"objective=dmcct"}, E_UNSUPPORTED, "one base for all sides"},
        {{"objective=sft", "A.data=" DATA "warm.jsonl", "B.data="}, E_USAGE, "has no use with objective sft"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config c;
        struct run r;
        settings(&c, cases[i].set);
        const err e = run_open(&r, &c);
        if (e != cases[i].code || !strstr(err_text(), cases[i].why)) flunk("%s: %d, %s", cases[i].set[0], (int)e, err_text());
        finish(&r, &c);
    }
}

static void test_plan(void **state) {
    (void)state;
    struct config c[2];
    struct run r[2];
    settings(&c[0], NULL);
    settings(&c[1], LIST("schedule=alternating"));
    for (int i = 0; i < 2; i++) must(run_open(&r[i], &c[i]));
    assert_int_equal(r[0].foot.gradients, 2 * r[0].plans[0].st.params.trained);
    assert_int_equal(r[1].foot.gradients, r[1].plans[0].st.params.trained);
    assert_int_equal(r[0].foot.cache * ROWS_A, r[1].foot.cache * (ROWS_A + ROWS_B)); /* all rows at once */
    for (int i = 0; i < 2; i++) finish(&r[i], &c[i]);
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_gradients_bf16),
                                       cmocka_unit_test(test_texts),     cmocka_unit_test(test_step),
                                       cmocka_unit_test(test_refusals),  cmocka_unit_test(test_plan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
