/* MACCT where the two prompts lead {text} in differently, or a side has a processor: generated ids pass through text. A step of such a
 * run is held, to the bit, against one laid together by hand: generate, decode, cut leading space, tokenise with the prompt's own lead,
 * train. Then what evaluation says of such texts: metrics of each side, a command's numbers, and what is refused before the first step. */
#define _GNU_SOURCE
#include "support/settings.h"
#include "support/support.h"
#include "base/log.h"
#include "train/run.h"
#include <ctype.h>

#define DATA GOLDEN "/cipher/"
enum { ROWS = 6, NEW = 24 };
static int warned;

static void on_log(void *ctx, enum log_level level, const char *line) {
    (void)ctx;
    warned += level == LOG_WARN && strstr(line, "different spaces") && strstr(line, "pass through text");
}

static void start_with(struct run *r, struct config *cfg, const char *prompt_b, const char *const *more) {
    static const char *const sets[] = {"model=" DATA, "A.data=" DATA "a.jsonl", "B.data=" DATA "b.jsonl", "A.prompt={text}\n", "per_device_train_batch_size=6", "max_new_tokens=24",
                                       "max_length=80", "pass_tokens=1", "lora.r=4", "generation.temperature=1.5", "learning_rate=1e-2", "threads=1"};
    char set[64];
    config_with(cfg, sets, sizeof sets / sizeof *sets, NULL);
    snprintf(set, sizeof set, "B.prompt=%s", prompt_b);
    must(config_set(cfg, set));
    for (; more && *more; more++) must(config_set(cfg, *more));
    warned = 0;
    log_set(on_log, NULL);
    must(run_open(r, cfg));
    log_set(NULL, NULL);
    must(run_start(r));
}

static void start(struct run *r, struct config *cfg, const char *prompt_b) { start_with(r, cfg, prompt_b, NULL); }

static void finish(struct run *r, struct config *cfg) {
    run_close(r);
    config_free(cfg);
}

/* What adapter `from` writes for the next rows of its own side, as text. */
static void write_texts(struct run *r, int from, const struct ids *real[ROWS], struct generation made[ROWS], str text[ROWS]) {
    struct side *s = &r->side[from];
    struct ids prompt[ROWS] = {{0}};
    for (int i = 0; i < ROWS; i++) {
        real[i] = &s->texts[order_next(&s->order)];
        must(prompt_form_wrap(&s->form, real[i]->v, real[i]->n, &prompt[i]));
    }
    must(generate_texts(r, from, prompt, ROWS, NEW, s->cfg->temperature, (uint64_t)(2 * r->step + !from), made, NULL));
    for (int i = 0; i < ROWS; i++) {
        must(tokenizer_decode(r->base[0].tok, made[i].ids, (size_t)made[i].n, true, &text[i]));
        ids_free(&prompt[i]);
    }
}

/* The row that adapter `to` trains on; text NULL: the generated ids as they are. Returns its length before it is cut to the plan. */
static void add_row(struct run *r, int to, const struct generation *made, const char *text, const struct ids *real, struct rows *out) {
    struct side *s = &r->side[to];
    struct ids synth = {0}, prompt = {0}, answer = {0};
    while (text && isspace((unsigned char)*text)) text++;
    if (text) must(prompt_form_text(r->base[0].tok, &s->form, text, &synth));
    for (int k = 0; !text && k < made->n; k++) must(ids_push(&synth, made->ids[k]));
    must(prompt_form_wrap(&s->form, synth.v, synth.n, &prompt));
    for (size_t k = 0; k < real->n; k++) must(ids_push(&answer, real->v[k]));
    must(ids_push(&answer, r->base[0].eos));
    must(rows_add(out, prompt.v, prompt.n, answer.v, answer.n));
    ids_free(&synth);
    ids_free(&prompt);
    ids_free(&answer);
}

/* A half by hand; processed: what the processor of side A makes of every text. Returns how many rows are other ones than the ids alone
 * would have made. */
static int half(struct run *r, int to, const char *processed, struct step_result *out) {
    const struct ids *real[ROWS];
    struct generation made[ROWS];
    str text[ROWS] = {{0}};
    struct rows rows = {0}, raw = {0};
    const struct row *list[ROWS];
    int other = 0;
    write_texts(r, !to, real, made, text);
    for (int i = 0; i < ROWS; i++) {
        add_row(r, to, &made[i], processed && !to ? processed : text[i].p ? text[i].p : "", real[i], &rows);
        add_row(r, to, &made[i], NULL, real[i], &raw);
        other += rows.r[i].n != raw.r[i].n || memcmp(rows.r[i].ids, raw.r[i].ids, (size_t)raw.r[i].n * 4) != 0;
        str_free(&text[i]);
        free(made[i].ids);
    }
    for (int i = 0; i < ROWS; i++) list[i] = &rows.r[i];
    must(learner_step(&r->side[to].learner, &r->wb, list, ROWS, (uint64_t)r->cfg->seed, (uint64_t)(2 * r->step + to), out));
    rows_free(&rows);
    rows_free(&raw);
    return other;
}

static void same_learner(const struct learner *a, const struct learner *b) {
    size_t n = a->st->params.bytes;
    assert_memory_equal(a->w, b->w, n);
    for (int i = 0; i < 2; i++) assert_memory_equal(a->state[i].p, b->state[i].p, n); /* the gradients */
}

static void test_rows(void **state) {
    (void)state;
    struct config c1, c2;
    struct run r, hand;
    start(&r, &c1, "B: {text}\n");
    assert_int_equal(warned, 1);
    start(&hand, &c2, "B: {text}\n");
    int other[2] = {0};
    for (int step = 0; step < 3; step++) {
        struct step_info info = {0};
        must(objective_macct.step(&r, &info));
        for (int i = 0; i < 2; i++) {
            struct step_result want;
            other[i] += half(&hand, i, NULL, &want);
            assert_int_equal(info.side[i].tokens, want.tokens);
            assert_true(info.side[i].loss == want.loss && info.side[i].grad_norm == want.grad_norm);
        }
        for (int i = 0; i < 2; i++) same_learner(&r.side[i].learner, &hand.side[i].learner);
        r.step++;
        hand.step++;
    }
    if (!other[0] && !other[1]) flunk("no row differs from what the generated ids alone would have made: the case shows nothing");
    finish(&r, &c1);
    finish(&hand, &c2);
}

static void always_the_longest(struct side *s) {
    int at = 0;
    while ((int)s->texts[at].n < s->longest) at++;
    for (int k = 0; k < s->order.n; k++) s->order.perm[k] = at;
}

/* A text can have more ids than were generated (its lead, or bytes that are no character): the row is cut to what was planned
 * for, instead of ending the run at whichever step first makes one. Near-uniform sampling hardly ever stops early. */
static void test_longer_than_planned(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    start(&r, &cfg, "B: {text}\n");
    cfg.side[0].temperature = cfg.side[1].temperature = 9;
    for (int i = 0; i < 2; i++) always_the_longest(&r.side[i]);
    for (int step = 0; step < 4; step++) {
        struct step_info info = {0};
        must(objective_macct.step(&r, &info));
        r.step++;
    }
    finish(&r, &cfg);
}

/* Prompts that lead in alike need no text, and nothing is said. */
static void test_no_text(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    start(&r, &cfg, "B:{text}\n");
    assert_int_equal(warned, 0);
    assert_false(r.side[0].by_text || r.side[1].by_text);
    finish(&r, &cfg);
}

#define FIXED    "ahcmnlajgr"
#define TO_FIXED "sed -u 's/\"text\":\"[^\"]*\"/\"text\":\"" FIXED "\"/'"

/* Every A-text becomes a fixed one: A trains on the rows that this makes, B on what A writes, as ever; and evaluation sees it. */
static void test_processor(void **state) {
    (void)state;
    static const char *const sets[] = {"A.processor.command=" TO_FIXED,
                                       "eval.data=" DATA "test.jsonl",
                                       "eval.limit=3",
                                       "A.eval.metrics=[ter, chrf]",
                                       "eval.metric_command=wc -l | sed 's/.*/{\"lines\": &}/'",
                                       "metric_for_best_model=lines",
                                       NULL};
    struct config c1, c2;
    struct run r, hand;
    start_with(&r, &c1, "B:{text}\n", sets);
    start_with(&hand, &c2, "B:{text}\n", sets);
    assert_true(r.side[0].by_text);
    assert_false(r.side[1].by_text);
    for (int step = 0; step < 3; step++) {
        struct step_info info = {0};
        must(objective_macct.step(&r, &info));
        for (int i = 0; i < 2; i++) {
            struct step_result want;
            half(&hand, i, FIXED, &want);
            assert_true(info.side[i].loss == want.loss && info.side[i].grad_norm == want.grad_norm);
            same_learner(&r.side[i].learner, &hand.side[i].learner);
        }
        r.step++;
        hand.step++;
    }
    json_t *eval, *side[2], *one;
    size_t i;
    must(run_evaluate(&r, &r.eval, "step", &eval));
    for (int k = 0; k < 2; k++) side[k] = json_array_get(json_object_get(eval, "sides"), (size_t)k);
    assert_true(json_is_real(json_object_get(side[0], "ter")) && json_is_real(json_object_get(json_object_get(side[0], "copy"), "ter")));
    assert_null(json_object_get(side[1], "ter"));
    for (int k = 0; k < 2; k++) assert_float_equal(json_number_value(json_object_get(side[k], "lines")), 3, 0);
    assert_float_equal(eval_metric(&r, eval), 3, 0);
    json_array_foreach(json_object_get(eval, "samples"), i, one)
        assert_string_equal(json_string_value(json_object_get(one, "back")), FIXED);
    assert_int_equal(i, 3);
    json_decref(eval);
    finish(&r, &c1);
    finish(&hand, &c2);
}

static void refused_at_start(err want, const char *const *sets, const char *says) {
    struct config cfg;
    struct run r = {0};
    must(config_init(&cfg));
    static const char *const usual[] = {"model=" DATA,
                                        "A.data=" DATA "a.jsonl",
                                        "B.data=" DATA "b.jsonl",
                                        "eval.data=" DATA "test.jsonl",
                                        "max_new_tokens=24",
                                        "max_length=80",
                                        "threads=1",
                                        NULL};
    for (const char *const *s = usual; *s; s++) must(config_set(&cfg, *s));
    for (; *sets; sets++) must(config_set(&cfg, *sets));
    err e = config_check(&cfg);
    if (!e) e = run_open(&r, &cfg);
    if (!e) e = run_start(&r);
    assert_int_equal(e, want);
    if (!strstr(err_text(), says)) flunk("\"%s\" does not say \"%s\"", err_text(), says);
    run_close(&r);
    config_free(&cfg);
}

static void test_refused(void **state) {
    (void)state;
    refused_at_start(E_IO, (const char *const[]){"B.processor.command=exit 4", NULL},
                     "processor of side B 'exit 4': it answered 0 of 1 rows; row 1 is \"IQLOCJK\": it ended with status 4");
    refused_at_start(E_IO, (const char *const[]){"eval.metric_command=echo '{\"bleu\": 1}'", NULL}, "its name \"bleu\" is taken");
    refused_at_start(E_USAGE, (const char *const[]){"eval.metric_command=echo '{\"n\": 1}'", "metric_for_best_model=m", NULL},
                     "'metric_for_best_model' is m, which is no metric of ours and none that 'echo");
    refused_at_start(E_INPUT, (const char *const[]){"A.eval.metrics=entity_f1", NULL},
                     "eval.metrics of adapter A: " DATA "test.jsonl: reference 1 is no list of entities");
    refused_at_start(E_USAGE, (const char *const[]){"eval.metrics=chfr", NULL},
                     "'A.eval.metrics': there is no metric 'chfr'; did you mean 'chrf'?");
    refused_at_start(E_USAGE, (const char *const[]){"metric_for_best_model=ter", NULL}, "which no side's 'eval.metrics' names");
    refused_at_start(E_USAGE, (const char *const[]){"metric_for_best_model=mine", NULL}, "there is no metric 'mine'");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_longer_than_planned),
                                       cmocka_unit_test(test_no_text), cmocka_unit_test(test_processor), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
