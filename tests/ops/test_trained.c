/* A small program in which what is a base elsewhere is trained: two layers of
 *   x + down(silu(l * up(norm x)))
 * whose matrices, biases and vectors l may each be parameters. The sweep holds every op to its definition; this holds what the
 * planner and the backward make of them: gradients against finite differences of the whole loss, recomputation and memory that is
 * used twice (arenas full of NaN first) change no bit, and of what is frozen nothing is computed. */
#include "core/grad.h"
#include "core/plan.h"
#include "ops/ops.h"
#include "support/support.h"

enum { N = 13, C = 24, F = 40, V = 17, LAYERS = 2, PARTS = 5, VALUES = 1 << 14 };
enum part { UP, UP_BIAS, SCALE, DOWN, DOWN_BIAS };
static const char *const names[LAYERS][PARTS] = {{"0.up", "0.up.bias", "0.l", "0.down", "0.down.bias"}, {"1.up", "1.up.bias", "1.l", "1.down", "1.down.bias"}};

/* Numbers that never move while a program lives: parameters, frozen tensors. */
struct model {
    unsigned trained[LAYERS]; /* bit p: part p */
    float param[VALUES], base[VALUES], x[N * C], weight[N];
    int32_t label[N];
    size_t n_param, n_base; /* floats */
    val part[LAYERS][PARTS];
};

static float number(uint32_t k) { return philox_unit(philox(99, k, 0, 0, 0).v[0]) - 0.5f; }

static void fill(struct model *m) {
    for (uint32_t k = 0; k < VALUES; k++) m->param[k] = number(k), m->base[k] = number(k + VALUES);
    for (uint32_t k = 0; k < N * C; k++) m->x[k] = 2 * number(k + 3 * VALUES);
    for (int n = 0; n < N; n++) m->label[n] = n * 5 % V, m->weight[n] = n % 3 ? 1 : 0;
}

static val tensor(struct prog *p, struct model *m, bool trained, int nd, const int64_t *d, const char *name) {
    size_t *used = trained ? &m->n_param : &m->n_base, at = *used;
    *used += ((size_t)d[0] * (size_t)(nd > 1 ? d[1] : 1) + 15) / 16 * 16;
    assert_true(*used <= VALUES);
    if (!trained) return prog_base(p, DT_F32, nd, d, m->base + at, name);
    val v = prog_value(p, ROLE_PARAM, DT_F32, nd, d, name);
    prog_v(p, v)->off = prog_v(p, v)->grad = at * sizeof(float);
    prog_v(p, v)->needs = true;
    return v;
}

static val layer(struct prog *p, struct model *m, int l, val x) {
    static const int64_t up[] = {F, C}, down[] = {C, F};
    static const struct { int nd; const int64_t *d; } shape[PARTS] = {{2, up}, {1, up}, {1, up}, {2, down}, {1, down}};
    val *t = m->part[l], one = tensor(p, m, false, 1, &up[1], "norm");
    p->segment = l + 1;
    for (int k = 0; k < PARTS; k++) t[k] = tensor(p, m, m->trained[l] >> k & 1, shape[k].nd, shape[k].d, names[l][k]);
    val in[LIN_IN] = {[LIN_X] = emit1(p, &op_norm, (val[]){x, one, {0}}, 3, &(struct op_attr){.eps = 1e-5f}), [LIN_W] = t[UP], [LIN_BIAS] = t[UP_BIAS]};
    const struct op_attr one_of = {.n = 1};
    val h = emit1(p, &op_linear, in, LIN_IN, &one_of);
    h = emit1(p, &op_scale, (val[]){h, t[SCALE]}, 2, NULL);
    val to[LIN_IN] = {[LIN_X] = emit1(p, &op_glu, (val[]){h, {0}}, 2, &(struct op_attr){.act = ACT_SILU}), [LIN_W] = t[DOWN], [LIN_BIAS] = t[DOWN_BIAS]};
    x = emit1(p, &op_add, (val[]){x, emit1(p, &op_linear, to, LIN_IN, &one_of)}, 2, NULL);
    p->segment = 0;
    return x;
}

/* The program; its loss. */
static val build(struct prog *p, struct model *m, enum checkpoint level) {
    *p = (struct prog){.cap = {[-SYM_N] = N}};
    m->n_param = m->n_base = 0;
    val x = prog_input(p, DT_F32, 2, (int64_t[]){SYM_N, C}, "x");
    val label = prog_input(p, DT_I32, 1, (int64_t[]){SYM_N}, "label"), weight = prog_input(p, DT_F32, 1, (int64_t[]){SYM_N}, "weight");
    for (int l = 0; l < LAYERS; l++) x = layer(p, m, l, x);
    val head = tensor(p, m, false, 2, (int64_t[]){V, C}, "head");
    val loss = emit1(p, &op_head_loss, (val[]){x, head, label, weight, {0}, {0}, {0}}, 7, &(struct op_attr){.backward = true});
    prog_keep(p, loss);
    must(prog_backward(p, loss, &(struct checkpoints){.level = level}, &ops_backward));
    return loss;
}

static double run(struct prog *p, struct model *m, val loss, const struct backend *b, float *grad, size_t *act) {
    struct plan pl;
    must(plan_make(&pl, p, b));
    void *input[] = {m->x, m->label, m->weight};
    struct binding bind = {.act = b->mem->take(pl.act), .scratch = b->mem->take(pl.scratch), .param = m->param, .grad = grad, .input = input, .size = {[-SYM_N] = N}, .poison = true};
    must(plan_run(&pl, &bind, &(struct run_ctx){.threads = 2}));
    double sum = view_f32(&(struct view){.p = plan_view(&pl, &bind, loss).p})[0];
    b->mem->give(bind.act, pl.act);
    b->mem->give(bind.scratch, pl.scratch);
    if (act) *act = pl.act;
    plan_free(&pl);
    return sum;
}

static int count(const struct prog *p, const struct op_def *op) {
    int n = 0;
    for (int i = 0; i < p->ni; i++) n += p->in[i].op == op;
    return n;
}

static void finite_difference(struct prog *p, struct model *m, val loss, const float *grad, val v) {
    const struct value *x = prog_v(p, v);
    const size_t at = x->off / 4, n = (size_t)x->d[0] * (size_t)(x->nd > 1 ? x->d[1] : 1);
    static float keep[VALUES], unused[VALUES];
    const float h = 2e-3f;
    double along = 0, norm = 0, f[2];
    memcpy(keep, m->param, sizeof keep);
    for (int side = 0; side < 2; side++) {
        for (size_t k = 0; k < n; k++) m->param[at + k] = keep[at + k] + (side == (number((uint32_t)(k + 7 * VALUES)) > 0) ? h : -h);
        f[side] = run(p, m, loss, &backend_reference, unused, NULL);
    }
    memcpy(m->param, keep, sizeof keep);
    for (size_t k = 0; k < n; k++) along += (number((uint32_t)(k + 7 * VALUES)) > 0 ? 1 : -1) * (double)grad[at + k], norm += (double)grad[at + k] * grad[at + k];
    const double slope = (f[1] - f[0]) / (2 * (double)h);
    assert_true(norm > 0);
    if (!(fabs(slope - along) <= 0.01 * (sqrt(norm) + fabs(along)))) flunk("gradient of '%s': %.6g along a direction, finite differences %.6g", x->name, along, slope);
}

static void test_gradients(void **state) {
    (void)state;
    static struct model m = {.trained = {31, 31}};
    static float grad[VALUES];
    struct prog p;
    fill(&m);
    val loss = build(&p, &m, CHECKPOINT_NONE);
    run(&p, &m, loss, &backend_reference, grad, NULL);
    for (int l = 0; l < LAYERS; l++)
        for (int k = 0; k < PARTS; k++) finite_difference(&p, &m, loss, grad, m.part[l][k]);
    static float again[VALUES];
    memcpy(again, grad, sizeof grad);
    run(&p, &m, loss, &backend_reference, again, NULL); /* adds: accumulation is the rule for parameters */
    for (size_t k = 0; k < m.n_param; k++)
        if (fabsf(again[k] - 2 * grad[k]) > 1e-6f * (1 + fabsf(grad[k]))) flunk("gradient %zu: %.9g after one run, %.9g after two", k, (double)grad[k], (double)again[k]);
    prog_free(&p);
}

static void test_recomputed(void **state) {
    (void)state;
    static struct model m = {.trained = {31, 31}};
    static float grad[3][VALUES];
    const struct backend *const on[] = {&backend_reference, &backend_cpu};
    fill(&m);
    for (int b = 0; b < 2; b++) {
        size_t act[3];
        memset(grad, 0, sizeof grad);
        for (int level = 0; level < 3; level++) {
            struct prog p;
            val loss = build(&p, &m, (enum checkpoint)level);
            run(&p, &m, loss, on[b], grad[level], &act[level]);
            assert_int_equal(count(&p, &op_scale), level == CHECKPOINT_NONE ? LAYERS : level == CHECKPOINT_SELECTIVE ? 2 * LAYERS : 2 * LAYERS - 1);
            assert_int_equal(count(&p, &op_linear), level == CHECKPOINT_BLOCK ? 2 * LAYERS + 1 : 2 * LAYERS); /* down is not needed again */
            prog_free(&p);
            if (level) assert_memory_equal(grad[0], grad[level], sizeof grad[0]);
        }
        assert_true(act[1] < act[0] && act[2] < act[0]);
    }
}

/* Where no gradient asks for x, scale writes where x lies; where one does, it does not. */
static void test_in_place(void **state) {
    (void)state;
    static struct model m;
    static float grad[VALUES];
    for (int trained = 0; trained < 2; trained++) {
        struct prog p;
        m.trained[0] = trained ? 1 << SCALE | 1 << DOWN : 1 << DOWN;
        fill(&m);
        val loss = build(&p, &m, CHECKPOINT_NONE);
        run(&p, &m, loss, &backend_cpu, grad, NULL);
        for (int i = 0; i < p.ni; i++)
            if (p.in[i].op == &op_scale && p.in[i].in[1].i == m.part[0][SCALE].i) assert_int_equal(has(prog_v(&p, p.in[i].out[0])->alias), !trained);
        prog_free(&p);
    }
}

/* A bias at the top alone: no product goes backwards. One matrix of layer 1: nothing of layer 0 does. */
static void test_nothing_below(void **state) {
    (void)state;
    static struct model m;
    static float grad[VALUES];
    const struct { unsigned trained; int linear_bwd, weight_grad, column_sum, scale_bwd; } cases[] = {{1 << DOWN_BIAS, 0, 0, 1, 0},
                                                                                                      {1 << DOWN, 0, 1, 0, 0},
                                                                                                      {1 << SCALE, 1, 0, 0, 1},
                                                                                                      {1 << UP, 1, 1, 0, 1},
                                                                                                      {31, 1, 2, 2, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int level = 0; level < 3; level++) {
            struct prog p;
            m.trained[1] = cases[c].trained;
            fill(&m);
            val loss = build(&p, &m, (enum checkpoint)level);
            assert_int_equal(count(&p, &op_linear_bwd), cases[c].linear_bwd);
            assert_int_equal(count(&p, &op_weight_grad), cases[c].weight_grad);
            assert_int_equal(count(&p, &op_column_sum), cases[c].column_sum);
            assert_int_equal(count(&p, &op_scale_bwd), cases[c].scale_bwd);
            assert_int_equal(count(&p, &op_norm_bwd), 0);
            run(&p, &m, loss, &backend_cpu, grad, NULL);
            prog_free(&p);
        }
}

/* Only what a gradient is summed against is kept or computed again: with a bias of layer 0 alone, no matrix's input. */
static void test_no_input_kept(void **state) {
    (void)state;
    static struct model m = {.trained = {1 << UP_BIAS, 0}};
    static float grad[2][VALUES];
    fill(&m);
    for (int level = 0; level < 2; level++) {
        struct prog p;
        val loss = build(&p, &m, (enum checkpoint)level);
        assert_int_equal(count(&p, &op_linear_bwd), 2 * LAYERS - 1);
        assert_int_equal(count(&p, &op_glu), LAYERS); /* scale is computed again, for silu's slope; silu itself is not */
        for (int i = 0; i < p.ni; i++)
            if (p.in[i].op == &op_linear_bwd) assert_false(has(p.in[i].in[LB_X]));
        run(&p, &m, loss, &backend_cpu, grad[level], NULL);
        if (!level) finite_difference(&p, &m, loss, grad[0], m.part[0][UP_BIAS]);
        prog_free(&p);
    }
    assert_memory_equal(grad[0], grad[1], sizeof grad[0]);
}

/* The gradient of a computed bias or matrix has no place to go. */
static void test_refused(void **state) {
    (void)state;
    static const int64_t O = 3;
    struct prog p = {.cap = {[-SYM_N] = N}};
    val dy = prog_input(&p, DT_F32, 2, (int64_t[]){SYM_N, O}, "dy"), bias = prog_input(&p, DT_F32, 1, &O, "a bias");
    assert_null(prog_emit(&p, &op_column_sum, (val[]){dy, bias}, 2, NULL));
    assert_non_null(strstr(err_text(), "'a bias' is no trained parameter"));
    prog_free(&p);
    p = (struct prog){.cap = {[-SYM_N] = N}};
    val x = prog_input(&p, DT_F32, 2, (int64_t[]){SYM_N, C}, "x"), w = prog_input(&p, DT_F32, 2, (int64_t[]){O, C}, "a matrix");
    dy = prog_input(&p, DT_F32, 2, (int64_t[]){SYM_N, O}, "dy");
    assert_null(prog_emit(&p, &op_weight_grad, (val[]){x, dy, w}, 3, NULL));
    assert_non_null(strstr(err_text(), "'a matrix' is no trained parameter"));
    prog_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_recomputed), cmocka_unit_test(test_in_place), cmocka_unit_test(test_nothing_below), cmocka_unit_test(test_no_input_kept), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
