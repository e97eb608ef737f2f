/* The losses of head_loss against PyTorch in double (tests/golden/make/losses.py): smoothing, z-loss, distances from a teacher's logits and from remembered
 * ids, their sums and their gradients to the rows and the output matrix; by the definition and by the processor's kernel. What cannot be is refused
 * when the program is made. */
#include "core/grad.h"
#include "core/plan.h"
#include "ops/ops.h"
#include "support/support.h"

enum { TERMS = 8 };
static struct tensors torch;

static const struct tensor *at(const char *name, int i) {
    char text[32];
    snprintf(text, sizeof text, "%s.%d", name, i);
    return fixture(&torch, text);
}

/* What a case binds, in the order of its inputs. */
struct bound {
    void *p[8];
    int n;
};

static val input(struct prog *p, const struct tensor *t, dtype dt, struct bound *to) {
    to->p[to->n++] = (void *)t->data;
    return prog_input(p, dt, t->nd, (int64_t[]){SYM_N, t->nd > 1 ? t->d[1] : 0}, t->name);
}

static void run_case(int i, const struct backend *b) {
    const float *row = f32_of(fixture(&torch, "terms")) + i * TERMS;
    const struct tensor *x = fixture(&torch, "x"), *w = fixture(&torch, "w"), *teacher = fixture(&torch, "teacher_w");
    const int k = (int)row[7];
    struct prog p = {.cap = {[-SYM_N] = x->d[0]}};
    struct bound to = {.n = 0};
    const struct op_attr a = {.softcap = row[5], .loss = {row[0], row[1], row[2], row[3], row[4], row[6]}, .backward = true};
    val in[HEAD_IN] = {input(&p, x, DT_F32, &to), prog_value(&p, ROLE_PARAM, DT_F32, 2, w->d, "w"),
                       input(&p, fixture(&torch, "label"), DT_I32, &to), input(&p, fixture(&torch, "weight"), DT_F32, &to)};
    prog_v(&p, in[0])->needs = prog_v(&p, in[1])->needs = true;
    if (k == 0)
        in[HEAD_TX] = input(&p, fixture(&torch, "teacher_x"), DT_F32, &to),
        in[HEAD_TW] = prog_base(&p, DT_F32, 2, teacher->d, teacher->data, "teacher");
    if (k > 0) in[HEAD_TOP] = input(&p, at("ids", k), DT_I32, &to), in[HEAD_LOGP] = input(&p, at("logp", k), DT_F32, &to);
    struct inst *loss = prog_emit(&p, &op_head_loss, in, HEAD_IN, &a);
    assert_non_null(loss);
    const val sums = loss->out[0], nll = loss->out[1], dx = loss->out[2];
    prog_keep(&p, sums), prog_keep(&p, nll), prog_keep(&p, dx);
    struct plan pl;
    must(plan_make(&pl, &p, b));
    float *grad = calloc((size_t)(w->d[0] * w->d[1]), sizeof *grad);
    assert_non_null(grad);
    struct binding bind = {.act = b->mem->take(pl.act),
                           .scratch = b->mem->take(pl.scratch),
                           .param = (void *)w->data,
                           .grad = grad,
                           .input = to.p,
                           .size = {[-SYM_N] = x->d[0]},
                           .poison = true};
    must(plan_run(&pl, &bind, &(struct run_ctx){.threads = 2}));
    char what[48];
    snprintf(what, sizeof what, "case %d on %s", i, b->name);
    close_to(what, plan_view(&pl, &bind, sums).p, f32_of(at("sum", i)), 1, 2e-6, 0);
    if (a.softcap == 0) close_to(what, plan_view(&pl, &bind, nll).p, f32_of(fixture(&torch, "nll")), (size_t)x->d[0], 2e-6, 1e-6);
    close_to(what, plan_view(&pl, &bind, dx).p, f32_of(at("dx", i)), (size_t)(x->d[0] * x->d[1]), 1e-5, 4e-6);
    close_to(what, grad, f32_of(at("dw", i)), (size_t)(w->d[0] * w->d[1]), 1e-5, 4e-6);
    b->mem->give(bind.act, pl.act);
    b->mem->give(bind.scratch, pl.scratch);
    free(grad);
    plan_free(&pl);
    prog_free(&p);
}

static void as_torch(void **state) {
    const int64_t cases = fixture(&torch, "terms")->d[0];
    assert_int_equal(fixture(&torch, "terms")->d[1], TERMS);
    for (int i = 0; i < cases; i++) run_case(i, *state);
}

static void refused(struct prog *p, const val *in, const struct loss_terms *l, err code, const char *text) {
    assert_null(prog_emit(p, &op_head_loss, in, HEAD_IN, &(struct op_attr){.loss = *l, .backward = true}));
    assert_int_equal(p->failed, code);
    if (!strstr(err_text(), text)) flunk("'%s' is not in: %s", text, err_text());
    prog_free(p);
    *p = (struct prog){.cap = {[-SYM_N] = 4}};
}

/* A teacher of fewer ids, more remembered than there are, terms beside targets, a share of no teacher. */
static void refusals(void **state) {
    (void)state;
    static const float zeros[64];
    static const int64_t few[] = {3, 8}, ids[] = {5, 8}, n = SYM_N, wide[] = {SYM_N, 8}, many[] = {SYM_N, 6}, targets[] = {2, 5};
    const struct loss_terms taught = {.share = 0.5f, .temperature = 1}, lone = {.share = 0.5f, .temperature = 0},
                            smooth = {.smoothing = 0.1f};
    struct prog p = {.cap = {[-SYM_N] = 4}};
    for (int k = 0; k < 4; k++) {
        val in[HEAD_IN] = {prog_input(&p, DT_F32, 2, wide, "x"), prog_base(&p, DT_F32, 2, ids, zeros, "head"),
                           prog_input(&p, DT_I32, 1, &n, "label"), prog_input(&p, DT_F32, 1, &n, "weight")};
        if (k == 0) in[HEAD_TX] = prog_input(&p, DT_F32, 2, wide, "t"), in[HEAD_TW] = prog_base(&p, DT_F32, 2, few, zeros, "small");
        if (k == 1) in[HEAD_TOP] = prog_input(&p, DT_I32, 2, many, "ids"), in[HEAD_LOGP] = prog_input(&p, DT_F32, 2, many, "logp");
        if (k == 2) in[7] = prog_input(&p, DT_F32, 2, targets, "target");
        static const struct {
            err code;
            const char *text;
        } says[] = {{E_INPUT, "a teacher 'small' of 3 ids for 'head' of 5"},
                    {E_INPUT, "6 ids remembered of a row, and 'head' has 5"},
                    {E_UNSUPPORTED, "other terms beside targets of 'head'"},
                    {E_INTERNAL, "terms that cannot be"}};
        refused(&p, in, k < 2 ? &taught : k == 2 ? &smooth : &lone, says[k].code, says[k].text);
    }
    prog_free(&p);
}

int main(void) {
    must(tensors_open(GOLDEN "/losses/expected.safetensors", &torch));
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(as_torch, (void *)&backend_reference),
                                       cmocka_unit_test_prestate(as_torch, (void *)&backend_cpu), cmocka_unit_test(refusals)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tensors_close(&torch);
    return failed;
}
