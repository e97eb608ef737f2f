/* Distillation: the loss and the gradients of whole steps against PyTorch's (tests/golden/distill), with all of the teacher's ids and
 * with its best few, made on the way or kept on disk; a teacher that is the student's base with an adapter; virtual tokens; 16 bits;
 * that nothing of the teacher changes, that a run that stops goes on to the same bits, and what is refused. */
#define _GNU_SOURCE
#include "support/support.h"
#include "support/bench.h"
#include "support/folder.h"
#include "support/settings.h"
#include "base/file.h"
#include "cyclora/cyclora.h"
#include "train/run.h"

#define HERE      GOLDEN "/distill/"
#define TOKENIZER GOLDEN "/cipher/tokenizer.json"
#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
enum { ROWS = 6, IDS = 48 };

static const char *const common[] = {"objective=distill",
                                     "model=" HERE "student",
                                     "tokenizer=" TOKENIZER,
                                     "data=" HERE "rows.jsonl",
                                     "max_length=32",
                                     "pass_tokens=16",
                                     "threads=1",
                                     "seed=3",
                                     "shuffle=false",
                                     "per_device_train_batch_size=6",
                                     "distill.temperature=2",
                                     "lora.r=2",
                                     "lora.lora_alpha=4",
                                     "lora.target_modules=q_proj,down_proj"};
enum { COMMON = sizeof common / sizeof *common };
#define TEACHER "teacher.model=" HERE "teacher", "teacher.tokenizer=" TOKENIZER
#define ADAPTER "adapter=" HERE "adapter"

static void start(struct run *r, struct config *c, const char *const *more) {
    config_with(c, common, COMMON, more);
    must(run_open(r, c));
    must(run_start(r));
}

static void finish(struct run *r, struct config *c) {
    run_close(r);
    config_free(c);
}

static const struct row **rows_of(const struct run *r, const struct row *list[ROWS]) {
    assert_int_equal(r->side[0].rows.n, ROWS);
    for (int i = 0; i < ROWS; i++) list[i] = &r->side[0].rows.r[i];
    return list;
}

/* Loss, cross-entropy, distance and the gradient of all rows. */
static void gradient(struct run *r, float loss[3]) {
    const struct row *list[ROWS];
    double sums[4];
    r->teacher.heard[0] = r->teacher.heard[1] = 0;
    must(learner_gradient(&r->side[0].learner, &r->wb, rows_of(r, list), ROWS, 1, 0, sums));
    assert_true(r->wb.passes > 1 && r->teacher.heard[1] == sums[1]);
    loss[0] = (float)(sums[0] / sums[1]), loss[1] = (float)(r->teacher.heard[0] / sums[1]);
    loss[2] = (float)((loss[0] - (1 - r->cfg->distill_alpha) * loss[1]) / r->cfg->distill_alpha);
}

/* --- against PyTorch --------------------------------------------------------------------------------------------------- */
static const struct {
    const char *name, *loss;
    bool top, full;
} cases[] = {{"forward_kl", "forward_kl", false, false},
             {"reverse_kl", "reverse_kl", false, false},
             {"jsd", "jsd", false, false},
             {"forward_kl_top", "forward_kl", true, false},
             {"reverse_kl_top", "reverse_kl", true, false},
             {"jsd_top", "jsd", true, false},
             {"full", "jsd", false, true},
             {"hidden", "forward_kl", false, false}};
enum { CASES = sizeof cases / sizeof *cases };

static void one_case(int i, const struct tensors *want, const char *const *more) {
    struct run r;
    struct config c;
    char loss[40], prefix[40];
    const bool hidden = !strcmp(cases[i].name, "hidden");
    const char *set[16] = {hidden ? "teacher.model=" HERE "wide" : "teacher.model=" HERE "teacher", "teacher.tokenizer=" TOKENIZER, loss,
                           "full.target_modules=embed_tokens,layers.1.mlp.down_proj", cases[i].full ? "method=full" : ADAPTER};
    int n = 5;
    snprintf(loss, sizeof loss, "distill.loss=%s", cases[i].loss);
    if (!strcmp(cases[i].loss, "jsd")) set[n++] = "distill.beta=0.3";
    if (hidden) set[n++] = "distill.hidden=0.7";
    if (cases[i].top) set[n++] = "distill.top_k=5";
    while (more && *more) set[n++] = *more++;
    start(&r, &c, set);
    float got[3];
    gradient(&r, got);
    snprintf(prefix, sizeof prefix, "%s.loss", cases[i].name);
    close_to(prefix, got, f32_of(fixture(want, prefix)), 3, 2e-5, 0);
    struct bench b = {.want = *want, .st = r.plans[0].st, .learner = r.side[0].learner};
    snprintf(prefix, sizeof prefix, "%s.grad", cases[i].name);
    bench_compare(&b, prefix, r.wb.grad, 1 / r.teacher.heard[1], 1e-4, 1e-4);
    finish(&r, &c);
}

static void test_pytorch(void **state) {
    (void)state;
    struct tensors want;
    char cache[256];
    must(tensors_open(HERE "expected.safetensors", &want));
    snprintf(cache, sizeof cache, "distill.cache=%s", at("answers"));
    for (int i = 0; i < CASES; i++) {
        one_case(i, &want, NULL);
        if (cases[i].top) one_case(i, &want, LIST(cache)); /* made by the first of them, found by the others */
    }
    one_case(0, &want, LIST("gradient_checkpointing=block", "pass_tokens=1"));
    tensors_close(&want);
}

/* --- what is on disk --------------------------------------------------------------------------------------------------- */
static void test_answers(void **state) {
    (void)state;
    struct tensors want;
    char cache[256];
    float loss[3][3];
    must(tensors_open(HERE "expected.safetensors", &want));
    snprintf(cache, sizeof cache, "distill.cache=%s", at("all"));
    const char *const *ways[3] = {LIST(TEACHER, ADAPTER), LIST(TEACHER, ADAPTER, "distill.top_k=48"),
                                  LIST(TEACHER, ADAPTER, "distill.top_k=48", cache)};
    for (int i = 0; i < 4; i++) {
        struct run r;
        struct config c;
        start(&r, &c, ways[i < 3 ? i : 2]);
        assert_true(r.teacher.answers.found == (i == 3) && (r.teacher.base == NULL) == (i == 3) && r.n_bases == (i == 3 ? 1 : 2));
        gradient(&r, loss[i < 3 ? i : 2]);
        if (i) close_to("all ids remembered", loss[i < 3 ? i : 2], loss[0], 3, 1e-5, 0);
        if (i > 1) assert_int_equal(r.teacher.answers.n, 30);
        finish(&r, &c);
    }
    struct run r;
    struct config c;
    start(&r, &c, LIST(TEACHER, "distill.top_k=5", cache));
    const int32_t *ids = i32_of(fixture(&want, "top.ids"));
    for (int64_t i = 0; i < r.teacher.answers.n; i++) {
        for (int k = 0; k < 5; k++) assert_true(r.teacher.answers.best[i * 10 + k] == (float)ids[i * 5 + k]);
        close_to("log-probabilities", r.teacher.answers.best + i * 10 + 5, f32_of(fixture(&want, "top.logp")) + i * 5, 5, 1e-4, 1e-4);
    }
    finish(&r, &c);
    tensors_close(&want);
}

/* --- other teachers and students --------------------------------------------------------------------------------------- */
static double kl_of(const char *const *more) {
    struct run r;
    struct config c;
    json_t *eval = NULL;
    start(&r, &c, more);
    must(run_evaluate(&r, &r.eval, "before", &eval));
    const double kl = json_number_value(json_object_get(json_array_get(json_object_get(eval, "sides"), 0), "kl"));
    json_decref(eval);
    finish(&r, &c);
    return kl;
}

#define EVAL "eval.data=" HERE "rows.jsonl"
static void test_distances(void **state) {
    (void)state;
    struct tensors want;
    must(tensors_open(HERE "expected.safetensors", &want));
    const float kl = (float)kl_of(LIST(TEACHER, ADAPTER, EVAL));
    close_to("kl", &kl, f32_of(fixture(&want, "base.kl")), 1, 2e-5, 0);
    tensors_close(&want);
    /* the student's base with an adapter: far from the base, no way from itself */
    const char *own = "teacher.adapter=" HERE "adapter";
    assert_true(kl_of(LIST(own, EVAL)) > 0.01);
    assert_true(fabs(kl_of(LIST(own, EVAL, ADAPTER))) < 1e-6);
    assert_true(fabs(kl_of(LIST(own, EVAL, ADAPTER, "dtype=bfloat16"))) < 1e-6);
    assert_true(fabs(kl_of(LIST(own, EVAL, ADAPTER, "distill.top_k=4"))) < 1e-6);
    assert_true(fabs(kl_of(LIST(TEACHER, EVAL, ADAPTER, "dtype=bfloat16")) / (double)kl - 1) < 0.02);
    /* virtual tokens before the student's rows: the teacher has none, and its places are found again either way */
    const char *const *soft = LIST(TEACHER, EVAL, "method=prompt_tuning", "prompt_tuning.num_virtual_tokens=3"),
                      *const *top = LIST(TEACHER, EVAL, "method=prompt_tuning", "prompt_tuning.num_virtual_tokens=3", "distill.top_k=48");
    const double a = kl_of(soft), b = kl_of(top);
    assert_true(a > 0.01 && fabs(a / b - 1) < 1e-5);
}

/* --- whole runs -------------------------------------------------------------------------------------------------------- */
static int stop_at;
static void on_step(void *ctx, const cyc_step *s) {
    (void)ctx;
    if (s->step == stop_at) cyc_stop();
}

static int train(const char *name, int flags, const char *const *more) {
    char out[256];
    cyc_config *c = cyc_config_new();
    cyc_callbacks cb = {.on_step = on_step};
    snprintf(out, sizeof out, "output_dir=%s", at(name));
    for (int i = 0; i < COMMON; i++) assert_int_equal(cyc_config_set(c, common[i]), 0);
    int code = cyc_config_set(c, out);
    for (int i = 0; more[i] && !code; i++) code = cyc_config_set(c, more[i]);
    if (!code) code = cyc_train(c, flags, &cb, NULL);
    cyc_config_free(c);
    return code;
}

static void test_resumes(void **state) {
    (void)state;
    char before[33], after[33], cache[256];
    snprintf(cache, sizeof cache, "distill.cache=%s", at("resumed"));
    const char *const *const ways[] = {LIST(TEACHER, "max_steps=4", "learning_rate=1e-2", "lora.lora_dropout=0.1"),
                                       LIST(TEACHER, "max_steps=4", "learning_rate=1e-2", "distill.top_k=8", cache),
                                       LIST(TEACHER, "max_steps=4", "learning_rate=1e-2", "distill.alpha=1", "distill.on_policy=0.6",
                                            "max_new_tokens=6", "generation.temperature=1")};
    must(file_hash(HERE "teacher/model.safetensors", before));
    for (int i = 0; i < 3; i++) {
        if (train("straight", 2, ways[i])) flunk("%s", cyc_error());
        stop_at = 2;
        assert_int_equal(train("stopped", 2, ways[i]), CYC_INTERRUPTED);
        stop_at = 0;
        if (train("stopped", 1, ways[i])) flunk("%s", cyc_error());
        assert_true(same_bytes(at("straight/adapter/adapter_model.safetensors"), at("stopped/adapter/adapter_model.safetensors")));
    }
    must(file_hash(HERE "teacher/model.safetensors", after));
    assert_string_equal(before, after);
    str audit = {0};
    must(file_read(at("stopped/metrics.jsonl"), &audit));
    assert_true(strstr(audit.p, "\"kd\":") && strstr(audit.p, "\"ce\":"));
    str_free(&audit);
}

/* The teacher's programs are in the run's arenas, its base has a line, and nothing of it is trained. */
static void test_plan(void **state) {
    (void)state;
    struct run alone, with;
    struct config a, b;
    start(&alone, &a, LIST("objective=sft"));
    start(&with, &b, LIST(TEACHER));
    assert_true(with.foot.teacher >= with.base[1].model.bytes && with.foot.weights == alone.foot.weights);
    assert_true(with.foot.optimizer == alone.foot.optimizer && with.foot.gradients == alone.foot.gradients &&
                with.foot.adapters == alone.foot.adapters);
    const size_t own = with.teacher.body.plan.act;
    assert_true(with.foot.activations == (alone.foot.activations > own ? alone.foot.activations : own));
    for (int v = 1; v < with.teacher.body.p.nv; v++) assert_true(with.teacher.body.p.v[v].role != ROLE_GRAD);
    finish(&alone, &a);
    finish(&with, &b);
}

/* --- on-policy --------------------------------------------------------------------------------------------------------- */
/* Of rows with a share, which are what the student writes from the same prompts: as many as the share says over all steps, and learnt. */
static void test_on_policy(void **state) {
    (void)state;
    struct run r;
    struct config c;
    struct step_info info[4];
    start(&r, &c, LIST(TEACHER, "distill.alpha=1", "distill.on_policy=0.25", "max_new_tokens=5", "max_steps=4", ADAPTER));
    int made = 0;
    for (int k = 0; k < 4; k++) {
        const struct row *data[ROWS];
        struct ids prompt[ROWS];
        struct generation out[ROWS];
        rows_of(&r, data);
        int n = k % 2 ? 2 : 1;
        for (int i = 0; i < n; i++) { /* in file order */
            int p = 0;
            while (!data[i]->supervised[p]) p++;
            prompt[i] = (struct ids){data[i]->ids, (size_t)p, 0};
        }
        must(generate_texts(&r, 0, prompt, n, 5, 0, (uint64_t)k, out, NULL));
        info[k] = (struct step_info){0};
        must(r.objective->step(&r, &info[k]));
        r.step++;
        assert_int_equal(r.teacher.made.n, n);
        for (int i = 0; i < n; i++) {
            const struct row *row = &r.teacher.made.r[i];
            assert_int_equal(row->n, prompt[i].n + (size_t)out[i].n + out[i].stopped);
            assert_memory_equal(row->ids, prompt[i].v, prompt[i].n * sizeof *row->ids);
            assert_memory_equal(row->ids + prompt[i].n, out[i].ids, (size_t)out[i].n * sizeof *row->ids);
            for (int t = 0; t < row->n; t++) assert_true(row->supervised[t] == (t >= (int)prompt[i].n));
            free(out[i].ids);
        }
        made += n;
        assert_true(info[k].side[0].kd > 0 && info[k].generated > 0);
    }
    assert_int_equal(made, 6); /* a quarter of 24 */
    finish(&r, &c);
}

/* --- refusals ---------------------------------------------------------------------------------------------------------- */
static void refused(const char *why, const char *const *more) {
    const int code = train("refused", 2, more);
    if (code != CYC_BAD_INPUT || !strstr(cyc_error(), why))
        flunk("code %d, not a refusal with \"%s\": %s", code, why, code ? cyc_error() : "");
}

/* The same tokens, of which two change places. */
static const char *other_tokenizer(void) {
    str s = {0};
    must(file_read(TOKENIZER, &s));
    char *a = strstr(s.p, "\"a\":"), *b = strstr(s.p, "\"b\":");
    a[1] = 'b', b[1] = 'a';
    must(file_write(at("other.json"), s.p, s.n));
    s.n = 0;
    must(file_read(GOLDEN "/cipher/tokenizer_config.json", &s));
    must(file_write(at("tokenizer_config.json"), s.p, s.n));
    str_free(&s);
    return at("other.json");
}

static void test_refusals(void **state) {
    (void)state;
    refused("'teacher.model' is missing", LIST("max_steps=1"));
    refused("'distill.top_k'", LIST(TEACHER, "distill.cache=somewhere"));
    refused("'distill.beta' has no use", LIST(TEACHER, "distill.beta=0.2"));
    refused("compares rows of one width: the student", LIST(TEACHER, "distill.hidden=1"));
    refused("leave one of them out", LIST(TEACHER, "distill.hidden=1", "distill.top_k=4"));
    refused("goes with distill.alpha 1", LIST(TEACHER, "distill.on_policy=0.5"));
    refused("leave one of them out",
            LIST(TEACHER, "distill.on_policy=0.5", "distill.alpha=1", "distill.top_k=4", "distill.cache=somewhere"));
    refused("'teacher.model' has no use with objective sft", LIST(TEACHER, "objective=sft"));
    char other[256];
    snprintf(other, sizeof other, "teacher.tokenizer=%s", other_tokenizer());
    refused("46 have the same id, and not 'a'", LIST(TEACHER, other));
    refused("48 rows of output", LIST("model=" HERE "teacher", "teacher.model=" HERE "student", "teacher.tokenizer=" TOKENIZER));
    refused("encoder", LIST("teacher.model=" GOLDEN "/families/bert", "teacher.tokenizer=" TOKENIZER));
    refused("streaming: false", LIST(TEACHER, "distill.top_k=4", "distill.cache=somewhere", "streaming=true"));
    /* a file of the right name that says something else */
    char cache[256], file[512];
    struct run r;
    struct config c;
    snprintf(cache, sizeof cache, "distill.cache=%s", at("spoilt"));
    const char *const *set = LIST(TEACHER, "distill.top_k=4", cache);
    start(&r, &c, set);
    snprintf(file, sizeof file, "%s/%s.safetensors", at("spoilt"), r.teacher.answers.key);
    finish(&r, &c);
    must(file_write(file, "\2\0\0\0\0\0\0\0{}", 10));
    refused("remove it", set);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pytorch), cmocka_unit_test(test_answers), cmocka_unit_test(test_distances),
                                       cmocka_unit_test(test_resumes), cmocka_unit_test(test_plan),    cmocka_unit_test(test_on_policy),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
