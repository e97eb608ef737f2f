/* Zero and few shots against the lm-evaluation-harness (tests/golden/make/shots.py): log-likelihoods of options, texts, metrics; SQuAD's
 * figures; with adapters too, of which one has virtual tokens. And what does not show there: the same figures in any order, batch and
 * draw. With CYC_TEST_DEVICE=cuda on the card, in f32. */
#define _GNU_SOURCE
#include "cyclora/cyclora.h"
#include "data/metrics.h"
#include "support/support.h"
#include <jansson.h>
#include <unistd.h>

#define SHOTS GOLDEN "/shots"
static cyc_model *model;

static int begin(void **state) {
    (void)state;
    const struct backend *b = test_card();
    return cyc_model_open(SHOTS, &model) || (b && cyc_model_device(model, b->name, "float32"));
}

static int end(void **state) {
    (void)state;
    cyc_model_close(model);
    return 0;
}

static void ok(int code) {
    if (code) flunk("%s", cyc_error());
}

static json_t *run_with(const cyc_task_options *o, cyc_adapter *a, const cyc_shots *how) {
    cyc_task *t;
    char *text;
    ok(cyc_task_open(o, &t));
    ok(cyc_task_run(t, model, a, how, &text));
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    cyc_free(text);
    cyc_task_close(t);
    return j;
}

static double real(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }
static const json_t *results(const json_t *o) { return json_object_get(o, "results"); }
static const json_t *field(const json_t *list, size_t i, const char *key) { return json_object_get(json_array_get(list, i), key); }

/* --- the harness ------------------------------------------------------------------------------------------------------ */
/* f32 against double: an option's figure is a sum of as many as 60 tokens' here, each of two layers' roundings. */
static void check_case(const json_t *want) {
    const bool choice = !strcmp(json_string_value(json_object_get(want, "task")), "shots_choice");
    const cyc_shots how = {.shots = (int)real(want, "shots"), .chat = json_is_true(json_object_get(want, "chat"))};
    const char *adapter = json_string_value(json_object_get(want, "adapter"));
    char folder[128];
    cyc_adapter *a = NULL;
    snprintf(folder, sizeof folder, SHOTS "/%s", adapter ? adapter : "");
    if (adapter) ok(cyc_adapter_open(model, folder, &a));
    json_t *got = run_with(&(cyc_task_options){.path = choice ? SHOTS "/choice.yaml" : SHOTS "/write.yaml"}, a, &how);
    const json_t *expected = json_object_get(want, choice ? "log_likelihoods" : "texts");
    const char *name;
    json_t *value;
    double worst = 0;
    assert_int_equal(json_array_size(results(got)), json_array_size(expected));
    for (size_t i = 0; i < json_array_size(expected); i++) {
        const json_t *one = json_array_get(expected, i), *list = field(results(got), i, "log_likelihoods");
        if (!choice) assert_string_equal(json_string_value(field(results(got), i, "text")), json_string_value(one));
        assert_int_equal(json_array_size(list), json_array_size(one));
        for (size_t k = 0; k < json_array_size(one); k++) {
            const double w = json_number_value(json_array_get(one, k)),
                         off = fabs(json_number_value(json_array_get(list, k)) - w) / (1 + fabs(w));
            worst = off > worst ? off : worst;
        }
    }
    printf("%d shots%s%s: log-likelihoods off by %.1e\n", how.shots, how.chat ? ", chat" : "", adapter ? adapter : "", worst);
    assert_true(worst < 1e-5);
    json_object_foreach(json_object_get(want, "metrics"), name, value) {
        char metric[32];
        const char *tail = strstr(name, "_stderr");
        snprintf(metric, sizeof metric, "%.*s", tail ? (int)(tail - name) : 31, name);
        const double is = real(json_object_get(json_object_get(got, "metrics"), metric), tail ? "stderr" : "value");
        if (fabs(is - json_number_value(value)) > 1e-9)
            flunk("%d shots: %s is %g, must be %g", how.shots, name, is, json_number_value(value));
    }
    json_decref(got);
    if (a) cyc_adapter_close(a);
}

static json_t *expected(void) {
    json_t *j = json_load_file(SHOTS "/expected.json", 0, NULL);
    assert_non_null(j);
    return j;
}

static void test_harness(void **state) {
    (void)state;
    json_t *e = expected();
    const json_t *cases = json_object_get(e, "cases");
    assert_int_equal(json_array_size(cases), 8);
    for (size_t i = 0; i < json_array_size(cases); i++) check_case(json_array_get(cases, i));
    json_decref(e);
}

static void test_squad(void **state) {
    (void)state;
    static const char *const names[] = {"squad_em", "squad_f1"};
    json_t *e = expected();
    const json_t *list = json_object_get(e, "squad");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i), *answers = json_array_get(row, 1), *want = json_array_get(row, 2);
        const char *text = json_string_value(json_array_get(row, 0));
        double best[2] = {0}, got[2];
        for (size_t k = 0; k < json_array_size(answers); k++) {
            const char *answer = json_string_value(json_array_get(answers, k));
            must(metrics_score(names, 2, &(struct scored){&text, &answer, 1}, got));
            for (int m = 0; m < 2; m++) best[m] = fmax(best[m], got[m]);
        }
        for (int m = 0; m < 2; m++)
            if (fabs(best[m] - json_number_value(json_array_get(want, (size_t)m))) > 1e-4) flunk("'%s': %s is %g", text, names[m], best[m]);
    }
    json_decref(e);
}

/* --- the same figures -------------------------------------------------------------------------------------------------- */
static const json_t *of_line(const json_t *list, const char *prompt, const json_t *options) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!strcmp(json_string_value(field(list, i, "prompt")), prompt) && json_equal(field(list, i, "options"), options))
            return json_array_get(list, i);
    flunk("no result for this prompt");
    return NULL;
}

/* Every result of a is one of b: to the bit, or within a rounding. */
static void same(const json_t *a, const json_t *b, double within) {
    assert_int_equal(json_array_size(a), json_array_size(b));
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *x = field(a, i, "log_likelihoods"),
                     *y = json_object_get(of_line(b, json_string_value(field(a, i, "prompt")), field(a, i, "options")), "log_likelihoods");
        for (size_t k = 0; k < json_array_size(x); k++)
            if (!(fabs(json_number_value(json_array_get(x, k)) - json_number_value(json_array_get(y, k))) <= within))
                flunk("record %zu, option %zu", i, k);
    }
}

/* choice.jsonl with its lines in the other order. */
static void reversed(const char *to) {
    char line[20][512];
    int n = 0;
    FILE *f = fopen(SHOTS "/choice.jsonl", "r"), *out = fopen(to, "w");
    assert_true(f && out);
    while (n < 20 && fgets(line[n], sizeof *line, f)) n++;
    while (n > 0) fputs(line[--n], out);
    fclose(f), fclose(out);
}

static void test_same_again(void **state) {
    (void)state;
    char path[] = "/tmp/cyclora_shots_XXXXXX.jsonl";
    const int fd = mkstemps(path, 6);
    assert_true(fd >= 0);
    reversed(path);
    const cyc_task_options o = {.path = SHOTS "/choice.jsonl", .shot_data = SHOTS "/choice_train.jsonl", .text = "Q: {{question}}\nA:"};
    cyc_task_options back = o;
    back.path = path;
    const cyc_shots how = {.shots = 2, .seed = 3}, single = {.shots = 2, .seed = 3, .batch = 1},
                    each = {.shots = 3, .seed = 3, .order = CYC_SHOTS_EACH};
    json_t *a = run_with(&o, NULL, &how), *b = run_with(&o, NULL, &how), *c = run_with(&back, NULL, &how), *d = run_with(&o, NULL, &single),
           *e = run_with(&o, NULL, &each);
    same(results(a), results(b), 0);
    same(results(a), results(c), 0);
    same(results(a), results(d), 1e-4);
    assert_true(real(a, "shared_tokens") > 20 && real(e, "shared_tokens") < 20);
    for (json_t *all[] = {a, b, c, d, e}, **p = all; p < all + 5; p++) json_decref(*p);
    unlink(path);
}

/* Drawn from the task's own records: three others, never the record itself, the same ones for k + 1. */
static void test_draw(void **state) {
    (void)state;
    const cyc_task_options o = {
        .path = SHOTS "/write.jsonl", .text = "<{{question}}>", .until = (const char *const[]){">"}, .n_until = 1, .max_new_tokens = 1};
    json_t *a = run_with(&o, NULL, &(cyc_shots){.shots = 3, .order = CYC_SHOTS_EACH}),
           *b = run_with(&o, NULL, &(cyc_shots){.shots = 4, .order = CYC_SHOTS_EACH});
    for (size_t i = 0; i < json_array_size(results(a)); i++) {
        const char *p = json_string_value(field(results(a), i, "prompt")), *q = json_string_value(field(results(b), i, "prompt")),
                   *own = strrchr(p, '<');
        const char *answer = json_string_value(json_array_get(field(results(a), i, "answers"), 0));
        char itself[128];
        int examples = 0;
        snprintf(itself, sizeof itself, "%s %s\n", own, answer);
        for (const char *s = p; (s = strchr(s, '<')); s++) examples++;
        assert_int_equal(examples, 4);
        assert_null(strstr(p, itself));
        assert_true(!strncmp(p, q, (size_t)(own - p)));
    }
    json_decref(a);
    json_decref(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_harness), cmocka_unit_test(test_squad), cmocka_unit_test(test_same_again),
                                       cmocka_unit_test(test_draw)};
    return cmocka_run_group_tests(tests, begin, end);
}
