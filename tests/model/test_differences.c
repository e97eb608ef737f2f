/* The law of gradients: for every row of methods.def, on a decoder and on an encoder-decoder, the derivative of the loss along random
 * directions of each trained tensor, by central differences, is the one that the program's backward pass says. Starts are away from zero, for at
 * LoRA's B = 0 a wrong dA passes. Where a method refuses the encoder-decoder, it does so by its name.
 *
 * Differences are taken at h and h / 2 and extrapolated (Richardson): D = (4 D(h/2) - D(h)) / 3. What they may be off: the loss is known to some
 * roundings, e = 4 * 2^-24 * loss, of which D takes 3 e / h; what remains of the truncation is well below what the extrapolation has moved,
 * of which a fifth is allowed. Where a kink of a ReLU lies between (P-tuning's encoder; T5 is the gated one, with GELU, for that), a smaller step is
 * asked, which may be further off: a wrong gradient is wrong at both. A direction is +-1 in each element, so a part of the gradient that is missing shows in any of them. */
#define _DEFAULT_SOURCE
#include "support/bench.h"
#include "base/philox.h"
#include "peft/lora.h"
#include "peft/methods.h"
#include <jansson.h>

static const struct peft_method *const rows[] = {
#define METHOD(name) &method_##name,
#include "peft/methods.def"
#undef METHOD
};
enum { N_ROWS = sizeof rows / sizeof *rows, DIRECTIONS = 2, CLASSES = 5 };

static const struct kind { const char *name, *model, *expected; } kinds[] = {{"decoder", GOLDEN "/tiny_llama/bias", GOLDEN "/tiny_llama/bias/expected_base.safetensors"},
                                                                             {"encoder-decoder", GOLDEN "/families/t5_gated_v4", GOLDEN "/families/t5_gated_v4/expected.safetensors"}};
/* In place of the decoder: without biases behind attention (adaption_prompt refuses them), with vectors in its rows, with classes. */
static const struct kind no_bias = {"decoder", GOLDEN "/tiny_llama/tied_gqa", GOLDEN "/tiny_llama/tied_gqa/expected_base.safetensors"},
                         vectors = {"decoder", GOLDEN "/tiny_llama/tied_gqa", GOLDEN "/methods/projector/expected.safetensors"},
                         classes = {"decoder", GOLDEN "/tiny_llama/tied_gqa", GOLDEN "/heads/none/expected.safetensors"};

/* What a row is tried with, as adapter_config.json would say it; "{}" where nothing is written here. */
static const struct trial {
    const char *method, *json;
    const struct kind *decoder; /* NULL: kinds' */
} trials[] = {
    {"lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": \"all-linear\"}", NULL},
    {"lora", "{\"r\": 2, \"lora_alpha\": 3, \"target_modules\": \"all-linear\", \"use_rslora\": true, \"lora_dropout\": 0.3, \"bias\": \"all\", \"rank_pattern\": {\"o_proj\": 5, \"wo\": 4}}", NULL},
    {"lora", "{\"r\": 4, \"lora_alpha\": 4, \"target_modules\": \"all-linear\", \"pissa\": 2}", NULL},
    {"lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": \"all-linear\", \"use_dora\": true}", NULL},
    {"lora", "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": [\"lm_head\", \"v_proj\", \"v\"], \"lora_dropout\": 0.3, \"rank_pattern\": {\"lm_head\": 5}}", NULL},
    {"adalora", "{\"init_r\": 4, \"target_r\": 2, \"lora_alpha\": 200, \"tinit\": 2, \"tfinal\": 2, \"total_step\": 10, \"orth_reg_weight\": 0.5, \"target_modules\": \"all-linear\"}", NULL},
    {"vera", "{\"r\": 6, \"d_initial\": 2, \"projection_prng_key\": 3, \"target_modules\": \"all-linear\"}", NULL},
    {"adalora", "{\"init_r\": 4, \"target_r\": 2, \"lora_alpha\": 200, \"lora_dropout\": 0.3, \"tinit\": 2, \"tfinal\": 2, \"total_step\": 10, \"orth_reg_weight\": 0.5, \"target_modules\": \"all-linear\"}", NULL},
    {"vera", "{\"r\": 6, \"d_initial\": 2, \"vera_dropout\": 0.3, \"projection_prng_key\": 3, \"target_modules\": \"all-linear\"}", NULL},
    {"bottleneck", "{\"name\": \"x\", \"config\": {\"mh_adapter\": true, \"output_adapter\": true, \"scaling\": 10, \"reduction_factor\": 4, \"non_linearity\": \"swish\"}}", NULL},
    {"bottleneck", "{\"name\": \"x\", \"config\": {\"mh_adapter\": true, \"output_adapter\": true, \"is_parallel\": true, \"scaling\": 10, \"reduction_factor\": 4, \"non_linearity\": \"tanh\"}}", NULL},
    {"full", "{\"target_modules\": \"all\"}", NULL},
    {"trainable_tokens", "{\"token_indices\": [1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]}", NULL},
    {"prompt_tuning", "{\"num_virtual_tokens\": 3}", NULL},
    {"p_tuning", "{\"num_virtual_tokens\": 3, \"encoder_hidden_size\": 8, \"inference_mode\": false}", NULL},
    {"prefix_tuning", "{\"num_virtual_tokens\": 3}", NULL},
    {"adaption_prompt", "{\"adapter_len\": 4, \"adapter_layers\": 2}", &no_bias},
    {"projector", "{\"num_virtual_tokens\": 3, \"mm_hidden_size\": 7, \"mm_projector_type\": \"mlp2x_gelu\"}", &vectors},
    {"none", "{}", &classes}};
enum { N_TRIALS = sizeof trials / sizeof *trials };

/* What cannot be: by name, and why. T5 has no biases. */
static const struct { const char *method, *kind, *says; } refusals[] = {
    {"bitfit", "encoder-decoder", "bitfit has nothing to train in this model"}, {"prompt_tuning", "encoder-decoder", "prompt_tuning of an encoder-decoder is not supported"},
    {"p_tuning", "encoder-decoder", "p_tuning of an encoder-decoder is not supported"}, {"prefix_tuning", "encoder-decoder", "prefix_tuning of an encoder-decoder is not supported"},
    {"adaption_prompt", "encoder-decoder", "adaption_prompt is a method for decoders"}, {"projector", "encoder-decoder", "projector of an encoder-decoder is not supported"}};

/* --- one method on one base ------------------------------------------------------------------------------------------------ */
static double loss_of(struct bench *b) {
    double sums[4];
    must(learner_gradient(&b->learner, &b->wb, (const struct row *const *)b->rows, b->n_rows, 1, 0, sums));
    return sums[0] / sums[1];
}

static float normal(uint32_t k) {
    const struct philox r = philox(4711, k, 0, 0, 0);
    return (float)(sqrt(-2 * log((r.v[0] + 1.0) * 0x1p-32)) * cos(6.283185307179586 * (r.v[1] * 0x1p-32)));
}

static int64_t size_of(const struct param *p) { return p->nd > 1 ? p->d[0] * p->d[1] : p->d[0]; }

/* Vectors further than matrices: what VeRA's hear is as large as the others are. */
static void leave_start(struct bench *b) {
    for (int i = 0; i < b->st.params.n; i++) {
        const struct param *p = &b->st.params.p[i];
        for (int64_t k = 0; k < size_of(p); k++) ((float *)b->learner.w)[p->off / 4 + (size_t)k] += (p->nd == 1 ? 0.2f : 0.05f) * normal((uint32_t)(p->off / 4) + (uint32_t)k);
    }
}

/* w + h u on one tensor */
static double along(struct bench *b, const struct param *p, const float *at, uint32_t direction, double h) {
    float *w = (float *)b->learner.w + p->off / 4;
    const int64_t n = size_of(p);
    for (int64_t i = 0; i < n; i++) w[i] = (float)(at[i] + (philox(direction, (uint32_t)i, 1, 0, 0).v[0] & 1 ? h : -h));
    const double loss = loss_of(b);
    memcpy(w, at, (size_t)n * sizeof *w);
    return loss;
}

struct outcome { int tensors, sharp, wrong; double worst; char name[256]; }; /* sharp: a tenth of the gradient would be seen */

/* The derivative along a direction by differences of step h, and what it may be off; size: of the gradient. */
static double difference(struct bench *b, const struct param *p, const float *at, uint32_t k, double h, double e, double size, double *may) {
    const double wide = (along(b, p, at, k, h) - along(b, p, at, k, -h)) / (2 * h), near = (along(b, p, at, k, h / 2) - along(b, p, at, k, -h / 2)) / h;
    *may = 3 * e / h + 0.2 * fabs(near - wide) + 1e-4 * size;
    return (4 * near - wide) / 3;
}

static void try_tensor(struct bench *b, const struct param *p, const float *grad, double loss, struct outcome *o) {
    const int64_t n = size_of(p);
    const float *g = grad + p->off / 4;
    float *at = malloc((size_t)n * sizeof *at);
    double squares = 0;
    memcpy(at, (float *)b->learner.w + p->off / 4, (size_t)n * sizeof *at);
    for (int64_t i = 0; i < n; i++) squares += (double)g[i] * g[i];
    const double size = sqrt(squares), step = fmin(0.003 / fmax(size, 1e-9), 0.003), e = 4 * 0x1p-24 * loss;
    bool sharp = true;
    for (uint32_t k = 0; k < DIRECTIONS; k++) {
        double says = 0, have, may, off = 2;
        for (int64_t i = 0; i < n; i++) says += philox(k, (uint32_t)i, 1, 0, 0).v[0] & 1 ? g[i] : -g[i];
        for (double h = step; off > 1 && h > step / 10; h /= 8) have = difference(b, p, at, k, h, e, size, &may), off = fabs(have - says) / may;
        sharp &= may < 0.1 * size;
        o->wrong += off > 1;
        if (off > o->worst) o->worst = off, snprintf(o->name, sizeof o->name, "%s: %g along direction %d, by differences %g +- %g", p->name, says, (int)k, have, may);
    }
    o->tensors++;
    o->sharp += sharp;
    free(at);
}

/* What is frozen has no gradient. DoRA's norm is a constant to its gradient (dora.c): of such an adapter the lengths alone are the loss's own. */
static bool differentiable(const struct bench *b, const struct param *p) {
    const bool dora = b->st.method == &method_lora && ((const struct lora *)b->st.settings)->dora;
    return !p->frozen && (!dora || p->nd == 1);
}

static float *gradient(struct bench *b, double *loss) {
    double sums[4];
    float *g = malloc(b->st.params.trained);
    must(learner_gradient(&b->learner, &b->wb, (const struct row *const *)b->rows, b->n_rows, 1, 0, sums));
    for (size_t i = 0; i < b->st.params.trained / 4; i++) g[i] = (float)(b->wb.grad[i] / sums[1]);
    *loss = sums[0] / sums[1];
    return g;
}

static struct outcome differences(struct bench *b, const float *grad, double loss) {
    struct outcome o = {0};
    for (int i = 0; i < b->st.params.n; i++)
        if (differentiable(b, &b->st.params.p[i])) try_tensor(b, &b->st.params.p[i], grad, loss, &o);
    return o;
}

static void bench_of(struct bench *b, const struct peft_method *m, const void *settings, const struct kind *k, const struct head *head) {
    bench_build(b, &(struct bench_case){.model = k->model, .expected = k->expected, .backend = &backend_cpu, .level = CHECKPOINT_SELECTIVE, .cap = {64, 8, 4, 32, DT_F32, DT_NONE}, .recipe = {.learning_rate = 1e-3}}, m, settings, head);
    if (b->n_rows > 2) b->n_rows = 2; /* each difference is a pass over them */
    b->wb.threads = 1;
    leave_start(b);
}

/* --- all of them ------------------------------------------------------------------------------------------------------------- */
/* Does the method not go with the model? Then it must say so as we know it. */
static bool refused(const struct peft_method *m, const void *settings, const struct kind *k, const struct head *head) {
    struct model base;
    struct structure st;
    must(model_open(k->model, NULL, &base));
    const err e = structure_init_head(&st, &base, m, settings, head, NULL);
    if (!e) structure_free(&st);
    bool known = !e;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals && !known; i++) known = !strcmp(refusals[i].method, m->name) && !strcmp(refusals[i].kind, k->name) && strstr(err_text(), refusals[i].says);
    if (!known) flunk("%s is refused on an %s, which `refusals` does not know: %s", m->name, k->name, err_text());
    model_close(&base);
    return e;
}

static void try_method(const struct peft_method *m, const char *json, const struct kind *k) {
    arena mem = {0};
    struct bench b;
    json_t *j = json_loads(json, 0, NULL);
    void *settings = arena_alloc(&mem, m->settings);
    const struct head head = {.classes = m == &method_none ? CLASSES : 0}; /* it has nothing of its own to train */
    if (!j || m->read(j, m->name, &mem, settings)) flunk("%s needs a row in `trials` of this test: %s", m->name, err_text());
    if (!refused(m, settings, k, &head)) {
        double loss;
        bench_of(&b, m, settings, k, &head);
        float *g = gradient(&b, &loss);
        const struct outcome o = differences(&b, g, loss);
        if (o.wrong) flunk("%s %s on %s: %s", m->name, json, k->model, o.name);
        print_message("%-17s %-16s loss %.3f, %3d tensors, %3d sharp, worst %.2f of what it may be\n", m->name, k->name, loss, o.tensors, o.sharp, o.worst);
        if (!o.sharp || o.tensors - o.sharp > 1 + o.tensors / 10) flunk("%s %s on a %s: the differences of %d of %d tensors are too coarse to show anything", m->name, json, k->name, o.tensors - o.sharp, o.tensors);
        free(g);
        bench_close(&b);
    }
    json_decref(j);
    arena_free(&mem);
}

static void test_every_method(void **state) {
    (void)state;
    for (int r = 0; r < N_ROWS; r++)
        for (int k = 0; k < 2; k++) {
            bool tried = false;
            for (int t = 0; t < N_TRIALS; t++) {
                if (k && rows[r] == &method_none) tried = true; /* a head on T5's encoder is test_heads.c's */
                else if (!strcmp(trials[t].method, rows[r]->name)) try_method(rows[r], trials[t].json, !k && trials[t].decoder ? trials[t].decoder : &kinds[k]), tried = true;
            }
            if (!tried) try_method(rows[r], "{}", &kinds[k]);
        }
}

/* A gradient that is a tenth too large in one tensor, or without half of its elements, does not pass. */
static void test_shows(void **state) {
    (void)state;
    arena mem = {0};
    struct bench b;
    json_t *j = json_loads(trials[0].json, 0, NULL);
    void *settings = arena_alloc(&mem, method_lora.settings);
    double loss;
    must(method_lora.read(j, "test", &mem, settings));
    bench_of(&b, &method_lora, settings, &kinds[0], NULL);
    float *g = gradient(&b, &loss);
    const struct param *p = &b.st.params.p[b.st.params.n / 2];
    float *of = g + p->off / 4;
    struct outcome o = {0};
    try_tensor(&b, p, g, loss, &o);
    assert_int_equal(o.wrong, 0);
    for (int64_t i = 0; i < size_of(p); i++) of[i] *= 1.1f;
    try_tensor(&b, p, g, loss, &o);
    assert_true(o.wrong > 0);
    for (int64_t i = 0; i < size_of(p); i++) of[i] = i % 2 ? 0 : of[i] / 1.1f;
    o = (struct outcome){0};
    try_tensor(&b, p, g, loss, &o);
    assert_true(o.wrong > 0);
    free(g);
    json_decref(j);
    bench_close(&b);
    arena_free(&mem);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shows), cmocka_unit_test(test_every_method)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
