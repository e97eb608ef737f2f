/* Five MACCT steps against an independent PyTorch+PEFT script (tests/golden/make/macct.py): the same generated ids, the same
 * losses and norms, the same adapters at the end; and in each half only the bytes of the adapter in training change. */
#include "support/support.h"
#include "train/run.h"

enum { BATCH = 4, STEPS = 5, NEW = 8 };
static const struct backend *card; /* CYC_TEST_DEVICE: everything runs there instead, in f32 */

static struct ids *rows_of(const struct tensors *ts, const char *name, int *n, arena *mem) {
    char key[64];
    snprintf(key, sizeof key, "%s.ids", name);
    const int32_t *ids = i32_of(fixture(ts, key));
    snprintf(key, sizeof key, "%s.cu", name);
    const struct tensor *cu = fixture(ts, key);
    *n = (int)cu->d[0] - 1;
    struct ids *rows = arena_alloc(mem, (size_t)*n * sizeof *rows);
    for (int i = 0; i < *n; i++) rows[i] = (struct ids){(int32_t *)ids + i32_of(cu)[i], (size_t)(i32_of(cu)[i + 1] - i32_of(cu)[i]), 0};
    return rows;
}

/* A run laid together by hand: the fixture's data are ids, so there is no tokenizer. */
static void start(struct run *r, struct config *cfg, const struct tensors *want, arena *mem, const struct backend *backend) {
    static int32_t sep = 3;
    *r = (struct run){.cfg = cfg, .objective = &objective_macct, .backend = backend, .threads = 2, .n_plans = 1, .n_bases = 1, .n_sides = 2};
    struct model *m = &r->base[0].model;
    r->base[0].eos = 2;
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, m));
    const struct peft_method *method;
    const void *settings;
    must(adapter_read_config(GOLDEN "/macct/A", mem, &method, &settings));
    struct plans *p = &r->plans[0];
    must(structure_init(&p->st, m, method, settings, &p->modules));
    p->st.adapters = 2; /* rows of both may come at once, and need not */
    r->cap = (struct capacity){32, 8, BATCH, 32, DT_F32, DT_NONE, 0};
    must(program_build(&p->train, m, MODE_TRAIN, &p->st, r->cap, CHECKPOINT_SELECTIVE, backend, false));
    must(generator_build(&p->gen, m, &p->st, r->cap, backend));
    must(memory_for(&r->wb.mem, (struct program *const[]){&p->train, &p->gen.prefill, &p->gen.decode}, 3));
    must(pack_init(&r->wb.pack, r->cap.tokens, r->cap.sequences));
    r->wb.grad = backend->mem->take(2 * p->st.params.bytes);
    r->wb.threads = 2;
    for (int i = 0; i < 2; i++) {
        struct side *s = &r->side[i];
        s->name = i ? "B" : "A";
        s->cfg = &cfg->side[i];
        s->plans = p;
        s->base = &r->base[0];
        s->next = s->from = &r->side[!i];
        s->form.tail = (struct ids){&sep, 1, 0};
        s->texts = rows_of(want, i ? "b_rows" : "a_rows", &s->n_texts, mem);
        must(order_init(&s->order, s->n_texts, 1, (uint32_t)i, false));
        struct recipe recipe = {.learning_rate = i ? 5e-3 : 1e-2, .weight_decay = 0.01, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
        must(learner_init(&s->learner, &p->st, &p->train, &recipe));
        must(learner_load(&s->learner, i ? GOLDEN "/macct/B" : GOLDEN "/macct/A", m));
    }
}

static void finish(struct run *r) {
    for (int i = 0; i < 2; i++) {
        learner_free(&r->side[i].learner);
        order_free(&r->side[i].order);
        rollout_free(&r->side[i].rollouts);
    }
    program_free(&r->plans[0].train);
    generator_free(&r->plans[0].gen);
    r->backend->mem->give(r->wb.grad, 2 * r->plans[0].st.params.bytes);
    structure_free(&r->plans[0].st);
    memory_free(&r->wb.mem);
    pack_free(&r->wb.pack);
    free(r->wb.first);
    model_close(&r->base[0].model);
}

/* What adapter `side` writes now from the rows that step `step` will use. */
static void check_synthetic(struct run *r, int side, int step, const struct ids *want) {
    struct ids prompt[BATCH] = {{0}};
    struct generation made[BATCH];
    for (int i = 0; i < BATCH; i++) {
        const struct ids *t = &r->side[side].texts[step * BATCH + i];
        must(prompt_form_wrap(&r->side[side].form, t->v, t->n, &prompt[i]));
    }
    must(generate_texts(r, side, prompt, BATCH, NEW, 0, 0, made, NULL));
    for (int i = 0; i < BATCH; i++) {
        assert_int_equal(made[i].n, want[step * BATCH + i].n);
        assert_memory_equal(made[i].ids, want[step * BATCH + i].v, (size_t)made[i].n * 4);
        free(made[i].ids);
        ids_free(&prompt[i]);
    }
}

static void compare_final(struct run *r, const struct tensors *want, int side) {
    const struct param_set *ps = &r->plans[0].st.params;
    float *w = to_host(r->backend, r->side[side].learner.w, ps->bytes);
    for (int i = 0; i < ps->n; i++)
        for (int k = 0; k < ps->p[i].n_slices; k++) {
            char name[300];
            snprintf(name, sizeof name, "final.%s.base_model.model.%s", r->side[side].name, ps->p[i].slice[k].name);
            const struct tensor *t = fixture(want, name);
            close_to(name, w + ps->p[i].off / 4 + (size_t)(ps->p[i].slice[k].row0 * ps->p[i].d[1]), f32_of(t), (size_t)(t->d[0] * t->d[1]), 0, 2e-4);
        }
    free(w);
}

static void five_steps(const struct backend *backend) {
    arena mem = {0};
    struct tensors want;
    struct config cfg;
    struct run r;
    must(tensors_open(GOLDEN "/macct/macct.safetensors", &want));
    must(config_init(&cfg));
    cfg.side[0].max_new_tokens = cfg.side[1].max_new_tokens = NEW;
    cfg.side[0].batch = cfg.side[1].batch = BATCH;
    start(&r, &cfg, &want, &mem, backend);
    int n;
    struct ids *synth_a = rows_of(&want, "synth_a", &n, &mem), *synth_b = rows_of(&want, "synth_b", &n, &mem);
    char base[33], after[33];
    model_hash(&r.base[0].model, base);
    for (int step = 0; step < STEPS; step++) {
        struct step_info info = {0};
        check_synthetic(&r, 1, step, synth_a); /* B's half of the generation is the state before the step */
        must(objective_macct.step(&r, &info));
        for (int i = 0; i < 2; i++) {
            float got[3] = {(float)info.side[i].loss, (float)info.side[i].grad_norm, (float)info.side[i].supervised};
            char loss[8], norm[8], tokens[16];
            snprintf(loss, sizeof loss, "loss_%c", "AB"[i]);
            snprintf(norm, sizeof norm, "norm_%c", "AB"[i]);
            snprintf(tokens, sizeof tokens, "tokens_%c", "AB"[i]);
            close_to(loss, &got[0], f32_of(fixture(&want, loss)) + step, 1, 0, 1e-4);
            close_to(norm, &got[1], f32_of(fixture(&want, norm)) + step, 1, 1e-3, 1e-4);
            assert_int_equal((int)got[2], i32_of(fixture(&want, tokens))[step]);
        }
        r.step++;
    }
    compare_final(&r, &want, 0);
    compare_final(&r, &want, 1);
    (void)synth_b; /* A writes inside the step, after its update; its ids are held through B's losses */
    model_hash(&r.base[0].model, after);
    assert_string_equal(base, after);
    finish(&r);
    tensors_close(&want);
    config_free(&cfg);
    arena_free(&mem);
}

static void hash_of(const struct run *r, int side, char hex[33]) {
    size_t bytes = r->plans[0].st.params.bytes;
    float *w = to_host(r->backend, r->side[side].learner.w, bytes);
    bytes_hash(w, bytes, hex);
    free(w);
}

/* A learner's step moves its own adapter, whole bytes of the other and of the base stay. */
static void test_only_one_moves(void **state) {
    (void)state;
    arena mem = {0};
    struct tensors want;
    struct config cfg;
    struct run r;
    must(tensors_open(GOLDEN "/macct/macct.safetensors", &want));
    must(config_init(&cfg));
    start(&r, &cfg, &want, &mem, card ? card : &backend_cpu);
    char base[33], now[33], w[2][33], again[33];
    model_hash(&r.base[0].model, base);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 2; k++) hash_of(&r, k, w[k]);
        const struct ids *t = &r.side[i].texts[0];
        uint8_t supervised[32] = {0};
        memset(supervised + 1, 1, t->n - 1);
        struct row row = {.ids = t->v, .supervised = supervised, .n = (int)t->n};
        struct step_result out;
        must(learner_step(&r.side[i].learner, &r.wb, (const struct row *const[]){&row}, 1, 1, 0, &out));
        hash_of(&r, i, again);
        assert_string_not_equal(again, w[i]);
        hash_of(&r, !i, again);
        assert_string_equal(again, w[!i]);
        model_hash(&r.base[0].model, now);
        assert_string_equal(now, base);
    }
    finish(&r);
    tensors_close(&want);
    config_free(&cfg);
    arena_free(&mem);
}

/* Gradients of both adapters in one pass of rows that are theirs: in the definitions, which know whose a row is, and in a backend's kernels. */
static float *joint_gradients(const struct backend *backend, size_t *bytes, double sums[2][4]) {
    enum { OF_A = 2, OF_B = 1, ALL = OF_A + OF_B };
    arena mem = {0};
    struct tensors want;
    struct config cfg;
    struct run r;
    struct row row[ALL];
    uint8_t supervised[32];
    const struct row *list[ALL];
    must(tensors_open(GOLDEN "/macct/macct.safetensors", &want));
    must(config_init(&cfg));
    start(&r, &cfg, &want, &mem, backend);
    memset(supervised, 1, sizeof supervised);
    for (int i = 0; i < ALL; i++) {
        const struct ids *t = &r.side[i >= OF_A].texts[i];
        row[i] = (struct row){.ids = t->v, .supervised = supervised, .n = (int)t->n};
        list[i] = &row[i];
    }
    struct crowd of = joint_crowd(&r);
    of.end[0] = OF_A, of.end[1] = ALL;
    must(joint_gradient(&r, &of, list, 0, sums));
    *bytes = 2 * r.plans[0].st.params.trained;
    float *grad = to_host(backend, r.wb.grad, *bytes);
    finish(&r);
    tensors_close(&want);
    config_free(&cfg);
    arena_free(&mem);
    return grad;
}

static void test_joint(void **state) {
    (void)state;
    size_t bytes;
    double sums[2][2][4], top = 0;
    float *want = joint_gradients(&backend_reference, &bytes, sums[0]), *got = joint_gradients(card ? card : &backend_cpu, &bytes, sums[1]);
    for (size_t i = 0; i < bytes / 4; i++) top = fmax(top, fabs((double)want[i]));
    assert_true(top > 0);
    close_to("gradients", got, want, bytes / 4, 0, 1e-5 * top);
    for (int d = 0; d < 2; d++) {
        assert_true(sums[0][d][0] > 0 && fabs(sums[1][d][0] / sums[0][d][0] - 1) < 1e-5);
        for (int k = 1; k < 4; k++) assert_true(sums[1][d][k] == sums[0][d][k]);
    }
    free(want), free(got);
}

static void test_reference(void **state) {
    (void)state;
    five_steps(card ? card : &backend_reference);
}

static void test_cpu(void **state) {
    (void)state;
    five_steps(card ? card : &backend_cpu);
}

int main(void) {
    card = test_card();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference), cmocka_unit_test(test_cpu), cmocka_unit_test(test_only_one_moves), cmocka_unit_test(test_joint)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
