/* Optimizers in a learner, on a small Llama with LoRA whose matrices reach 4096 elements: each learns, goes on from a checkpoint with the same
 * bits, and takes no other's states; a file from before there were others is AdamW's. And offload: with states in the host's memory a step is the
 * same step, page by page, and the backend holds two pages of them and only then; the card is played by a backend whose memory only looks like another's
 * and whose copies to and from the host come as late as they may. Then updates in the backward pass, with states there or on the host; and weights
 * that are kept in bf16. Under `cuda.optimizers` the real card: offload and the update in the backward pass are a plain step there too. */
#define _DEFAULT_SOURCE
#include "support/bench.h"
#include "base/file.h"
#include "peft/methods.h"
#include <jansson.h>

static const struct optimizer *const list[] = {
#define OPTIMIZER(name) &optimizer_##name,
#include "optim/optimizers.def"
#undef OPTIMIZER
};
enum {
    OPTIMIZERS = sizeof list / sizeof *list,
    STEPS = 6,
    HALF = 3,
    PAGE = 20 << 10 /* bytes of the weights: their matrices are smaller and larger */
};

/* --- another memory ------------------------------------------------------------------------------------------------------ */
static struct { size_t card, host, up, down; } bytes; /* taken; copied */

static void *take(size_t n) { return bytes.card += n, pages_take(n); }
static void give(void *p, size_t n) { bytes.card -= p ? n : 0, pages_give(p, n); }
static void *take_host(size_t n) { return bytes.host += n, pages_take(n); }
static void give_host(void *p, size_t n) { bytes.host -= n, pages_give(p, n); }
static err upload(void *to, const void *from, size_t n) { return bytes.up += n, memcpy(to, from, n), OK; }

/* Copies that have set out, each way: they arrive when they are waited for. */
static struct {
    void *to;
    const void *from;
    size_t n;
} under_way[2][OPTIM_STATES];
static int copies[2];
static err set_out(enum copy_way way, void *to, const void *from, size_t n) {
    assert_true(copies[way] < OPTIM_STATES);
    *(way == WAY_HERE ? &bytes.up : &bytes.down) += n;
    under_way[way][copies[way]].to = to, under_way[way][copies[way]].from = from, under_way[way][copies[way]++].n = n;
    return OK;
}
static err await(enum copy_way way) {
    for (int i = 0; i < copies[way]; i++) memcpy(under_way[way][i].to, under_way[way][i].from, under_way[way][i].n);
    copies[way] = 0;
    return OK;
}
static err download(void *to, const void *from, size_t n) {
    must(await(WAY_HERE));
    must(await(WAY_HOST));
    return bytes.down += n, memcpy(to, from, n), OK;
}
static err fill(void *p, int byte, size_t n) { return memset(p, byte, n), OK; }
static size_t left(void) { return 0; }
static const struct mem_ops other_memory = {.take = take,
                                            .give = give,
                                            .upload = upload,
                                            .download = download,
                                            .fill = fill,
                                            .left = left,
                                            .take_host = take_host,
                                            .give_host = give_host,
                                            .set_out = set_out,
                                            .await = await};

/* --- a run --------------------------------------------------------------------------------------------------------------- */
static arena mem;

/* What an adapter is, as its adapter_config.json says it; takes j. */
static void begin_as(struct bench *b, const struct peft_method *method, json_t *j, const struct recipe *recipe,
                     const struct backend *backend, dtype compute, bool narrow) {
    void *settings = arena_alloc(&mem, method->settings);
    must(method->read(j, "test", &mem, settings));
    json_decref(j);
    bench_build(b,
                &(struct bench_case){.model = GOLDEN "/tiny_llama/tied_gqa",
                                     .expected = GOLDEN "/tiny_llama/tied_gqa/expected_base.safetensors",
                                     .backend = backend,
                                     .level = CHECKPOINT_BLOCK,
                                     .cap = {64, 8, 4, 32, compute},
                                     .narrow = narrow,
                                     .recipe = *recipe},
                method, settings, NULL);
}

static void begin(struct bench *b, const struct peft_method *method, json_t *j, const struct recipe *recipe,
                  const struct backend *backend) {
    begin_as(b, method, j, recipe, backend, DT_F32, false);
}

static void start(struct bench *b, const struct optimizer *z, const struct backend *backend, bool offload) {
    const struct recipe recipe = {z == &optimizer_sgd ? 0.1 : 3e-3,
                                  0.01,
                                  0.9,
                                  0.999,
                                  1e-8,
                                  1.0,
                                  {.schedule = SCHEDULE_CONSTANT},
                                  z,
                                  {.momentum = 0.9, .match_rms = true},
                                  offload ? PAGE : 0,
                                  {0}};
    begin(b, &method_lora, json_pack("{s:i, s:i, s:s}", "r", 128, "lora_alpha", 128, "target_modules", "all-linear"), &recipe, backend);
    const size_t scratch = z->scratch ? z->scratch(&b->st.params, backend->flat) : 0;
    must(memory_grow(&b->wb.mem, b->learner.slots, scratch));
}

static const struct recipe unclipped = {3e-3, 0.01, 0.9, 0.999, 1e-8, 0, {.schedule = SCHEDULE_CONSTANT}, NULL, {.momentum = 0.9}, 0, {0}};

static size_t behind_activations(const struct bench *b) { return ((b->train.plan.act + 255) & ~(size_t)255) + b->learner.slots; }

/* Without a norm to clip by, as an update in the backward pass wants it; then its slots for states lie behind the activations. */
static void start_plain(struct bench *b, const struct optimizer *z, const struct backend *backend, bool full, bool offload) {
    struct recipe recipe = unclipped;
    recipe.optim = z, recipe.page = offload ? PAGE : 0;
    if (full) begin(b, &method_full, json_pack("{s:s}", "target_modules", "all"), &recipe, backend);
    else
        begin(b, &method_lora, json_pack("{s:i, s:i, s:s}", "r", 128, "lora_alpha", 128, "target_modules", "all-linear"), &recipe, backend);
    const size_t scratch = z->scratch ? z->scratch(&b->st.params, backend->flat) : 0;
    must(memory_grow(&b->wb.mem, behind_activations(b), scratch));
}

static double steps(struct bench *b, int from, int to) {
    struct step_result r = {0};
    for (int i = from; i < to; i++) {
        must(b->learner.backend->mem->fill(b->wb.mem.act, 0xFF, b->wb.mem.act_bytes)); /* nothing is left there from step to step */
        must(learner_step(&b->learner, &b->wb, (const struct row *const *)b->rows, b->n_rows, 1, (uint64_t)i, &r));
    }
    return r.loss;
}

static void same(const struct learner *a, const struct learner *b) {
    assert_memory_equal(a->w, b->w, param_weight_bytes(&a->st->params));
    assert_int_equal(a->states, b->states);
    for (int i = 0; i < a->states; i++) assert_memory_equal(a->state[i].p, b->state[i].p, a->state[i].bytes);
}

static void each_learns_and_goes_on(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora-optim-XXXXXX";
    assert_non_null(mkdtemp(folder));
    for (int k = 0; k < OPTIMIZERS; k++) {
        struct bench whole, cut;
        bool found;
        start(&whole, list[k], &backend_cpu, false);
        start(&cut, list[k], &backend_cpu, false);
        const double first = steps(&whole, 0, 1), last = steps(&whole, 1, STEPS);
        if (!(last < first)) flunk("%s: the loss goes from %g to %g", list[k]->name, first, last);
        steps(&cut, 0, HALF);
        must(learner_write(&cut.learner, folder, "base"));
        must(optimizer_write(&cut.learner, folder));
        const struct recipe recipe = cut.learner.recipe;
        learner_free(&cut.learner);
        must(learner_init(&cut.learner, &cut.st, &cut.train, &recipe));
        cut.learner.updates = HALF;
        must(learner_load(&cut.learner, folder, &cut.model));
        must(optimizer_read(&cut.learner, folder, &found));
        assert_true(found && cut.learner.optim_steps == HALF);
        steps(&cut, HALF, STEPS);
        same(&whole.learner, &cut.learner);
        bench_close(&whole);
        bench_close(&cut);
    }
    must(dir_remove(folder));
}

static void others_states_are_refused(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora-optim-XXXXXX", path[128];
    assert_non_null(mkdtemp(folder));
    for (int k = 0; k < OPTIMIZERS; k++) {
        struct bench a, b;
        bool found;
        start(&a, list[k], &backend_cpu, false);
        start(&b, list[(k + 1) % OPTIMIZERS], &backend_cpu, false);
        must(optimizer_write(&a.learner, folder));
        assert_int_equal(optimizer_read(&b.learner, folder, &found), E_INPUT);
        if (!strstr(err_text(), list[k]->name) || !strstr(err_text(), list[(k + 1) % OPTIMIZERS]->name)) flunk("%s", err_text());
        bench_close(&a);
        bench_close(&b);
    }
    /* a file that names no optimizer */
    struct bench a;
    bool found;
    start(&a, &optimizer_adamw_torch, &backend_cpu, false);
    steps(&a, 0, 1);
    must(optimizer_write(&a.learner, folder));
    snprintf(path, sizeof path, "%s/optimizer.safetensors", folder);
    struct tensors ts;
    must(tensors_open(path, &ts));
    struct tensor old[4];
    static const char *const names[] = {"exp_avg", "exp_avg_sq", "step", "layout"};
    for (int i = 0; i < 4; i++) old[i] = *fixture(&ts, names[i]);
    char before[64];
    snprintf(before, sizeof before, "%s/before", folder);
    must(dir_make(before));
    snprintf(path, sizeof path, "%s/optimizer.safetensors", before);
    must(safetensors_write(path, old, 4));
    tensors_close(&ts);
    struct bench b;
    start(&b, &optimizer_adamw_torch, &backend_cpu, false);
    must(optimizer_read(&b.learner, before, &found));
    assert_true(found && b.learner.optim_steps == 1);
    for (int i = 0; i < 2; i++) assert_memory_equal(a.learner.state[i].p, b.learner.state[i].p, a.learner.state[i].bytes);
    bench_close(&a);
    bench_close(&b);
    must(dir_remove(folder));
}

static void idle_states_lie_on_the_host(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora-optim-XXXXXX";
    struct backend card = backend_cpu;
    card.name = "another memory";
    card.mem = &other_memory;
    assert_non_null(mkdtemp(folder));
    for (int k = 0; k < OPTIMIZERS; k++) {
        struct bench plain, away;
        start(&plain, list[k], &card, false);
        const size_t with = bytes.card, act = plain.wb.mem.act_bytes;
        steps(&plain, 0, STEPS);
        start(&away, list[k], &card, true);
        const size_t states = optim_bytes(list[k], &away.learner.how, &away.st.params);
        assert_int_equal(bytes.host, states);
        assert_int_equal(bytes.card - with, with - states + away.wb.mem.act_bytes - act);
        assert_true(away.learner.slots < states / 2);
        steps(&away, 0, HALF);
        const size_t up = bytes.up, down = bytes.down;
        steps(&away, HALF, HALF + 1);
        assert_true(bytes.up - up >= states && bytes.down - down >= states);
        must(optimizer_write(&away.learner, folder)); /* and from there into a file, and back */
        for (int i = 0; i < away.learner.states; i++) memset(away.learner.state[i].p, 0xFF, away.learner.state[i].bytes);
        bool found;
        must(optimizer_read(&away.learner, folder, &found));
        steps(&away, HALF + 1, STEPS);
        same(&plain.learner, &away.learner);
        bench_close(&plain);
        bench_close(&away);
        assert_int_equal(bytes.host, 0);
    }
    must(dir_remove(folder));
}

/* Two adapters of one structure, each with an optimizer of its own, step in turn: their states pass by the same place. */
static void two_sides_share_the_slots(void **state) {
    (void)state;
    struct backend card = backend_cpu;
    struct bench b[2];
    struct learner other[2];
    card.mem = &other_memory;
    for (int away = 0; away < 2; away++) {
        struct step_result r;
        start(&b[away], &optimizer_muon, &card, away);
        struct recipe recipe = b[away].learner.recipe;
        recipe.optim = &optimizer_adamw_8bit;
        must(learner_init(&other[away], &b[away].st, &b[away].train, &recipe));
        must(learner_fill(&other[away], 9));
        must(memory_grow(&b[away].wb.mem, other[away].slots, 0));
        for (int i = 0; i < HALF; i++) {
            steps(&b[away], i, i + 1);
            must(learner_step(&other[away], &b[away].wb, (const struct row *const *)b[away].rows, b[away].n_rows, 2, (uint64_t)i, &r));
        }
    }
    same(&b[0].learner, &b[1].learner);
    same(&other[0], &other[1]);
    for (int away = 0; away < 2; away++) learner_free(&other[away]), bench_close(&b[away]);
}

/* Updated in the backward pass the weights and states are those of a step at the end, bit for bit, of LoRA and of a whole model with a tied
 * table, with states that come from the host and go back; and gradients take less: of a whole model those of the table and of about a layer. */
static void updates_in_the_backward_pass(void **state) {
    (void)state;
    struct backend card = backend_cpu;
    card.mem = &other_memory;
    for (int k = 0; k < OPTIMIZERS; k++) {
        for (int full = 0; full < 2; full++) {
            struct bench at_end, fused;
            struct fused lives;
            start_plain(&at_end, list[k], &card, full, false);
            start_plain(&fused, list[k], &card, full, !full);
            must(plan_fuse(&fused.train.plan, &fused.st.params, &lives));
            fused.learner.fused = &lives;
            const size_t whole = fused.st.params.trained, table = full ? 96 * 32 * 4 : 0;
            assert_true(lives.bytes < whole && (!full || lives.bytes - table < (whole - table) / 2));
            float *const room = fused.wb.grad;
            fused.wb.grad = pages_take(lives.bytes);
            memset(fused.wb.grad, 0xFF, lives.bytes);
            const double a = steps(&at_end, 0, HALF), b = steps(&fused, 0, HALF);
            assert_true(a == b);
            same(&at_end.learner, &fused.learner);
            pages_give(fused.wb.grad, lives.bytes);
            fused.wb.grad = room;
            bench_close(&at_end);
            bench_close(&fused);
            fused_free(&lives);
        }
    }
}

/* --- weights in bf16 --------------------------------------------------------------------------------------------------- */
static void start_narrow(struct bench *b, const struct recipe *recipe, const struct backend *backend, bool narrow) {
    begin_as(b, &method_full, json_pack("{s:s}", "target_modules", "all"), recipe, backend, DT_BF16, narrow);
    must(memory_grow(&b->wb.mem, behind_activations(b), narrow_scratch(&b->st.params)));
}

/* Two bytes of a matrix, no working copy; it learns, and neither a checkpoint nor an update in the backward pass shows in a bit, with its states
 * brought page by page. */
static void narrow_weights(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora-optim-XXXXXX";
    assert_non_null(mkdtemp(folder));
    for (int k = 0; k < OPTIMIZERS; k++) {
        struct bench at_end, fused;
        struct fused lives;
        struct recipe recipe = unclipped;
        bool found;
        if (!list[k]->elementwise) continue;
        recipe.optim = list[k], recipe.rounding.key = 5;
        if (list[k] == &optimizer_sgd) recipe.learning_rate = 0.1;
        start_narrow(&at_end, &recipe, &backend_cpu, true);
        recipe.page = PAGE;
        start_narrow(&fused, &recipe, &backend_cpu, true);
        const struct param_set *set = &at_end.st.params;
        assert_int_equal(param_weight_bytes(set), set->vectors / 2 + set->bytes - set->vectors);
        assert_int_equal(at_end.wb.mem.work_bytes, 0);
        must(plan_fuse(&fused.train.plan, &fused.st.params, &lives));
        fused.learner.fused = &lives;
        const double first = steps(&at_end, 0, 1), last = steps(&at_end, 1, STEPS);
        if (!(last < first)) flunk("%s: the loss goes from %g to %g", list[k]->name, first, last);
        steps(&fused, 0, HALF);
        must(learner_write(&fused.learner, folder, "base"));
        must(optimizer_write(&fused.learner, folder));
        learner_free(&fused.learner);
        must(learner_init(&fused.learner, &fused.st, &fused.train, &recipe));
        fused.learner.fused = &lives;
        fused.learner.updates = HALF;
        must(learner_load(&fused.learner, folder, &fused.model));
        must(optimizer_read(&fused.learner, folder, &found));
        steps(&fused, HALF, STEPS);
        same(&at_end.learner, &fused.learner);
        bench_close(&at_end);
        bench_close(&fused);
        fused_free(&lives);
    }
    must(dir_remove(folder));
}

/* How far the matrices have gone, as f32. */
static float *way(struct bench *b, int64_t *n) {
    const struct param_set *set = &b->st.params;
    float *gone = pages_take(set->bytes), *was = pages_take(set->bytes);
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < set->n; i++) {
            const struct param *p = &set->p[i];
            if (p->nd > 1) param_read(set, p, b->learner.w, 0, p->d[0] * p->d[1], (turn ? gone : was) + p->off / 4);
        }
        if (!turn) steps(b, 0, STEPS);
    }
    *n = (int64_t)set->vectors / 4;
    for (int64_t i = 0; i < *n; i++) gone[i] -= was[i];
    pages_give(was, set->bytes);
    return gone;
}

/* Steps of a hundredth of bf16's spacing and less: to the nearest nothing moves, at random all goes where f32 goes, on average as far. */
static void small_steps_are_not_lost(void **state) {
    (void)state;
    struct recipe recipe = unclipped;
    struct bench b[3];
    float *gone[3];
    int64_t n;
    recipe.optim = &optimizer_adamw_torch, recipe.weight_decay = 0, recipe.learning_rate = 2e-6;
    for (int i = 0; i < 3; i++) { /* f32, at random, to the nearest */
        recipe.rounding = (struct optim_rounding){5, i == 2};
        start_narrow(&b[i], &recipe, &backend_cpu, i > 0);
        gone[i] = way(&b[i], &n);
    }
    double along[3] = {0};
    int64_t moved[3] = {0};
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 3; k++) along[k] += (double)gone[k][i] * (double)gone[0][i], moved[k] += gone[k][i] != 0;
    if (!(fabs(along[1] / along[0] - 1) < 0.25)) flunk("at random: %g of the way of f32", along[1] / along[0]);
    if (!(along[2] / along[0] < 0.1)) flunk("to the nearest: %g of the way of f32", along[2] / along[0]);
    assert_true(moved[1] < moved[0] / 2);
    for (int i = 0; i < 3; i++) pages_give(gone[i], b[i].st.params.bytes), bench_close(&b[i]);
}

/* --- a real card ------------------------------------------------------------------------------------------------------- */
static void same_weights(const char *what, const struct learner *a, const struct learner *b) {
    const size_t n = param_weight_bytes(&a->st->params);
    float *x = to_host(a->backend, a->w, n), *y = to_host(b->backend, b->w, n);
    if (memcmp(x, y, n)) flunk("%s with %s: other weights than after a plain step", a->optim->name, what);
    free(x), free(y);
}

/* Weights in bf16: rounded as the processor does, and the update in the backward pass, with states on the host, is a plain step. */
static void narrow_on_a_card(const struct backend *card) {
    enum { N = 5003 };
    const struct rounding o = {5, 3, 24};
    float x[N];
    uint16_t here[N];
    struct bench plain, fused;
    struct fused lives;
    struct recipe recipe = unclipped;
    for (int i = 0; i < N; i++) x[i] = ldexpf((float)(i * 7919 % 5003) - 2500.3f, i % 60 - 40);
    must(backend_cpu.flat->round(&o, x, here, N, 1));
    float *there = card->mem->take(sizeof x), *to = card->mem->take(sizeof x);
    must(card->mem->upload(there, x, sizeof x));
    must(card->flat->round(&o, there, (uint16_t *)to, N, 1));
    uint16_t *back = (uint16_t *)to_host(card, to, sizeof x);
    assert_memory_equal(back, here, sizeof here);
    free(back), card->mem->give(there, sizeof x), card->mem->give(to, sizeof x);
    recipe.optim = &optimizer_adamw_torch, recipe.rounding.key = 5;
    start_narrow(&plain, &recipe, card, true);
    recipe.page = PAGE;
    start_narrow(&fused, &recipe, card, true);
    must(plan_fuse(&fused.train.plan, &fused.st.params, &lives));
    fused.learner.fused = &lives;
    steps(&plain, 0, STEPS);
    steps(&fused, 0, STEPS);
    same_weights("trained_dtype bfloat16", &plain.learner, &fused.learner);
    bench_close(&plain);
    bench_close(&fused);
    fused_free(&lives);
}

static void on_a_card(void **state) {
    (void)state;
    const struct backend *card = test_card();
    card->configure(&(struct settings){.deterministic = true});
    narrow_on_a_card(card);
    for (int k = 0; k < OPTIMIZERS; k++) {
        struct bench plain, away, fused;
        struct fused lives;
        start(&plain, list[k], card, false);
        start(&away, list[k], card, true);
        steps(&plain, 0, STEPS);
        steps(&away, 0, STEPS);
        same_weights("offload", &plain.learner, &away.learner);
        bench_close(&plain);
        bench_close(&away);
        start_plain(&plain, list[k], card, false, false);
        start_plain(&fused, list[k], card, false, true);
        must(plan_fuse(&fused.train.plan, &fused.st.params, &lives));
        fused.learner.fused = &lives;
        steps(&plain, 0, STEPS);
        steps(&fused, 0, STEPS);
        same_weights("optimizer_in_bwd", &plain.learner, &fused.learner);
        bench_close(&plain);
        bench_close(&fused);
        fused_free(&lives);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_learns_and_goes_on),      cmocka_unit_test(others_states_are_refused),
                                       cmocka_unit_test(idle_states_lie_on_the_host),  cmocka_unit_test(two_sides_share_the_slots),
                                       cmocka_unit_test(updates_in_the_backward_pass), cmocka_unit_test(narrow_weights),
                                       cmocka_unit_test(small_steps_are_not_lost)};
    const struct CMUnitTest card[] = {cmocka_unit_test(on_a_card)};
    const int failed = test_card() ? cmocka_run_group_tests(card, NULL, NULL) : cmocka_run_group_tests(tests, NULL, NULL);
    arena_free(&mem);
    return failed;
}
