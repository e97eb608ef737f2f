/* Programs in which tables are trained: a classifier over a frozen backbone, a tied token table, rows of virtual tokens. What the
 * sweep cannot see, because it runs one op at a time: which backward instructions exist, that two writers of one gradient add, that
 * checkpointing changes nothing, and that the whole gradient is the derivative of the loss. Then what these ops refuse. */
#include "core/grad.h"
#include "core/plan.h"
#include "ops/ops.h"
#include "support/support.h"

enum { N = 11, C = 16, V = 20, P = 3, ARENA = (2 * V * C + V) * 4 };

/* ids -> rows of `table` (-> virtual rows over them) -> norm -> head_loss. Parameters share one arena. */
struct net {
    struct prog p;
    struct plan plan;
    val sums, nll;
    int forward; /* instructions before the backward part */
};

static float base_table[V * C], base_head[V * C], ones[C], weights[ARENA / 4], gradient[ARENA / 4], weight[N];
static int32_t ids[N], label[N];

static float noise(uint32_t i) { return philox_unit(philox(5, i, 0, 0, 0).v[0]) - 0.5f; }

static int contents(void **state) {
    (void)state;
    for (uint32_t i = 0; i < V * C; i++) base_table[i] = 2 * noise(i), base_head[i] = noise(1000 + i);
    for (uint32_t i = 0; i < ARENA / 4; i++) weights[i] = noise(2000 + i);
    for (int i = 0; i < C; i++) ones[i] = 1;
    for (int i = 0; i < N; i++) {
        ids[i] = i < 4 ? V + i % P : (i * 7) % 5;
        label[i] = i * 3 % V;
        weight[i] = i % 4 == 1 ? 0 : 0.5f + (float)(i % 3);
    }
    return 0;
}

static val param(struct prog *p, int64_t rows, int64_t cols, size_t off, const char *name) {
    val v = prog_value(p, ROLE_PARAM, DT_F32, cols ? 2 : 1, (int64_t[]){rows, cols}, name);
    prog_v(p, v)->off = prog_v(p, v)->grad = off;
    prog_v(p, v)->needs = true;
    return v;
}

enum kind { CLASSIFIER, TIED, VIRTUAL };

static void lay_down(struct net *n, enum kind kind, enum checkpoint level, bool backward) {
    struct prog *p = &n->p;
    const int64_t rows = SYM_N, table[] = {V, C}, width = C;
    *n = (struct net){.p.cap = {[-SYM_N] = N}};
    val id = prog_input(p, DT_I32, 1, &rows, "ids"), want = prog_input(p, DT_I32, 1, &rows, "label");
    val w = prog_input(p, DT_F32, 1, &rows, "weight");
    val tokens = kind == TIED ? param(p, V, C, 0, "table") : prog_base(p, DT_F32, 2, table, base_table, "table");
    val head = kind == TIED ? tokens : kind == CLASSIFIER ? param(p, V, C, 0, "head") : prog_base(p, DT_F32, 2, table, base_head, "head");
    val bias = kind == CLASSIFIER ? param(p, V, 0, V * C * 4, "bias") : (val){0};
    val x = emit1(p, &op_embed, (val[]){id, tokens}, 2, &(struct op_attr){.scale = 1.5f});
    p->segment = 1;
    if (kind == VIRTUAL) x = emit1(p, &op_overlay, (val[]){x, id, param(p, P, C, 0, "virtual")}, 3, &(struct op_attr){.first = V});
    x = emit1(p, &op_norm, (val[]){x, prog_base(p, DT_F32, 1, &width, ones, "norm"), {0}}, 3, &(struct op_attr){.eps = 1e-5f});
    x = emit1(p, &op_glu, (val[]){x, {0}}, 2, &(struct op_attr){.act = ACT_SILU});
    p->segment = 2; /* what checkpointing recomputes lies before the last segment */
    struct inst *i = prog_emit(p, &op_head_loss, (val[]){x, head, want, w, bias, {0}, {0}}, 7, &(struct op_attr){.backward = backward});
    if (!i) flunk("%s", err_text());
    n->sums = i->out[0], n->nll = i->out[1];
    prog_keep(p, n->sums);
    prog_keep(p, n->nll);
    n->forward = p->ni;
    if (backward) must(prog_backward(p, n->sums, &(struct checkpoints){.level = level}, &ops_backward));
    must(plan_make(&n->plan, p, &backend_cpu));
}

static void drop(struct net *n) {
    plan_free(&n->plan);
    prog_free(&n->p);
}

/* The loss of `weights` in double, from the rows' own; gradient: added to. Over arenas of NaN. */
static double run(struct net *n) {
    void *inputs[] = {ids, label, weight}, *act = aligned_alloc(64, n->plan.act + 64);
    void *scratch = aligned_alloc(64, (n->plan.scratch + 127) / 64 * 64);
    struct binding b = {.act = act, .scratch = scratch, .param = weights, .grad = gradient, .input = inputs, .poison = true};
    b.size[-SYM_N] = N;
    double loss = 0;
    must(plan_run(&n->plan, &b, &(struct run_ctx){.threads = 2}));
    struct view nll = plan_view(&n->plan, &b, n->nll);
    for (int i = 0; i < N; i++) loss += (double)weight[i] * view_f32(&nll)[i];
    free(act);
    free(scratch);
    return loss;
}

/* Along itself the gradient has its own length. */
static void is_derivative(struct net *n) {
    static float g[ARENA / 4], kept[ARENA / 4];
    for (int again = 0; again < 2; again++) {
        memset(gradient, 0, sizeof gradient);
        run(n);
        if (!again) memcpy(g, gradient, sizeof g);
        assert_memory_equal(g, gradient, sizeof g);
    }
    memcpy(kept, weights, sizeof kept);
    run(n);
    for (int i = 0; i < ARENA / 4; i++) assert_true(fabsf(gradient[i] - 2 * g[i]) <= 1e-6f * (1 + fabsf(g[i]))); /* added to */
    double length = 0, f[2];
    for (int i = 0; i < ARENA / 4; i++) length += (double)g[i] * g[i];
    length = sqrt(length);
    assert_true(length > 0.1);
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < ARENA / 4; i++) weights[i] = kept[i] + (float)((side ? 5e-3 : -5e-3) * g[i] / length);
        f[side] = run(n);
    }
    memcpy(weights, kept, sizeof kept);
    const double slope = (f[1] - f[0]) / 1e-2;
    if (!(fabs(slope - length) <= 2e-3 * length)) flunk("the loss grows by %.6g along its gradient, whose length is %.6g", slope, length);
}

static void ops_are(const struct net *n, const struct op_def *const *want, int count) {
    assert_int_equal(n->p.ni - n->forward, count);
    for (int i = 0; i < count; i++) assert_string_equal(n->p.in[n->forward + i].op->name, want[i]->name);
}

/* The backbone has no backward at all, and head_loss makes no gradient to its input. */
static void test_classifier(void **state) {
    (void)state;
    struct net n;
    lay_down(&n, CLASSIFIER, CHECKPOINT_NONE, true);
    ops_are(&n, NULL, 0);
    const struct inst *head = &n.p.in[n.forward - 1];
    assert_false(has(head->out[2]));
    assert_true(has(head->out[3]) && has(head->out[4]));
    is_derivative(&n);
    drop(&n);
}

/* One parameter, two writers of its gradient. */
static void test_tied(void **state) {
    (void)state;
    struct net n;
    lay_down(&n, TIED, CHECKPOINT_NONE, true);
    ops_are(&n, (const struct op_def *[]){&op_glu_bwd, &op_norm_bwd, &op_embed_bwd}, 3);
    is_derivative(&n);
    drop(&n);
}

/* Nothing goes on to the frozen embedding; the rows lie over its output in place; recomputing gives the same bits. */
static void test_virtual(void **state) {
    (void)state;
    static float first[P * C];
    for (int level = CHECKPOINT_NONE; level <= CHECKPOINT_BLOCK; level++) {
        struct net n;
        lay_down(&n, VIRTUAL, level, true);
        const struct inst *last = &n.p.in[n.p.ni - 1];
        assert_true(last->op == &op_overlay_bwd && !has(last->out[0]) && has(last->out[1]) && !has(last->out[2]));
        if (level == CHECKPOINT_NONE) {
            ops_are(&n, (const struct op_def *[]){&op_glu_bwd, &op_norm_bwd, &op_overlay_bwd}, 3);
            assert_true(has(prog_v(&n.p, n.p.in[1].out[0])->alias));
        } else assert_true(n.p.ni - n.forward > 3);
        is_derivative(&n);
        memset(gradient, 0, sizeof gradient);
        run(&n);
        if (level == CHECKPOINT_NONE) memcpy(first, gradient, sizeof first);
        assert_memory_equal(first, gradient, sizeof first);
        drop(&n);
    }
}

/* A scoring program leaves the gradients of its parameters alone. */
static void test_scoring(void **state) {
    (void)state;
    struct net train, score;
    lay_down(&train, CLASSIFIER, CHECKPOINT_NONE, true);
    lay_down(&score, CLASSIFIER, CHECKPOINT_NONE, false);
    double loss = run(&train);
    memset(gradient, 0, sizeof gradient);
    assert_true(run(&score) == loss);
    for (int i = 0; i < ARENA / 4; i++) assert_true(gradient[i] == 0);
    drop(&train);
    drop(&score);
}

/* The gradient is that of the loss times the scale, and a factor of two is exact. */
static void test_loss_scale(void **state) {
    (void)state;
    struct net n;
    lay_down(&n, CLASSIFIER, CHECKPOINT_NONE, true);
    static float plain[ARENA / 4];
    void *inputs[] = {ids, label, weight}, *act = aligned_alloc(64, n.plan.act + 64);
    void *scratch = aligned_alloc(64, (n.plan.scratch + 127) / 64 * 64);
    struct binding b = {.act = act, .scratch = scratch, .param = weights, .grad = gradient, .input = inputs, .size = {[-SYM_N] = N}};
    for (int scale = 1; scale <= 1024; scale *= 1024) {
        memset(gradient, 0, sizeof gradient);
        must(plan_run(&n.plan, &b, &(struct run_ctx){.threads = 1, .loss_scale = (float)scale}));
        if (scale == 1) memcpy(plain, gradient, sizeof plain);
        for (int i = 0; i < ARENA / 4; i++) assert_true(gradient[i] == (float)scale * plain[i]);
    }
    free(act);
    free(scratch);
    drop(&n);
}

static void refused(struct prog *p, err code, const char *message) {
    assert_int_equal(p->failed, code);
    assert_string_equal(err_text(), message);
    prog_free(p);
}

static void test_refusals(void **state) {
    (void)state;
    const int64_t rows = SYM_N, x[] = {SYM_N, C}, w[] = {V, C}, narrow[] = {P, C - 1};
    for (int kind = 0; kind < 5; kind++) {
        struct prog p = {.cap = {[-SYM_N] = N}};
        val h = prog_act(&p, DT_F32, 2, x, "h"), id = prog_input(&p, DT_I32, 1, &rows, "ids");
        val weighted = prog_input(&p, DT_F32, 1, &rows, "weight"), short_bias = param(&p, P, 0, 0, "short");
        val made = prog_act(&p, DT_F32, 2, w, "made"), thin = prog_act(&p, DT_F32, 2, narrow, "thin");
        prog_v(&p, made)->needs = prog_v(&p, h)->needs = true;
        if (kind == 0) {
            prog_emit(&p, &op_head_loss, (val[]){h, made, id, weighted, {0}, {0}, {0}}, 7, NULL);
            refused(&p, E_UNSUPPORTED, "head_loss: a gradient of 'made', which is no parameter");
        } else if (kind == 1) {
            prog_emit(&p, &op_head_loss, (val[]){h, param(&p, V, C, 0, "head"), id, weighted, short_bias, {0}, {0}}, 7, NULL);
            refused(&p, E_INPUT, "head_loss: 'short' is f32[3], must be f32[20]");
        } else if (kind == 2) {
            val y = emit1(&p, &op_embed, (val[]){id, made}, 2, &(struct op_attr){.scale = 1});
            val in[] = {y, param(&p, V, C, 0, "head"), id, weighted, {0}, {0}, {0}};
            struct inst *i = prog_emit(&p, &op_head_loss, in, 7, &(struct op_attr){.backward = true});
            prog_backward(&p, i->out[0], &(struct checkpoints){0}, &ops_backward);
            refused(&p, E_UNSUPPORTED, "embed: a gradient of 'made', which is no parameter");
        } else if (kind == 3) {
            const int64_t few = P;
            prog_emit(&p, &op_head_loss, (val[]){h, param(&p, V, C, 0, "head"), id, weighted, {0}, param(&p, P, C, 0, "own"), prog_input(&p, DT_I32, 1, &few, "which")}, 7, NULL);
            refused(&p, E_UNSUPPORTED, "head_loss: rows that replace some of 'head', which is trained itself");
        } else {
            prog_emit(&p, &op_overlay, (val[]){h, id, thin}, 3, &(struct op_attr){.first = V});
            refused(&p, E_INPUT, "overlay: 'thin' is f32[3,15], must be f32[3,16]");
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_classifier), cmocka_unit_test(test_tied),       cmocka_unit_test(test_virtual),
                                       cmocka_unit_test(test_scoring),    cmocka_unit_test(test_loss_scale), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, contents, NULL);
}
