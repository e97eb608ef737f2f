/* Gradient accumulation: a step's gradient does not depend on how its rows are split. Five batches of four are one of twenty, of rows of many
 * lengths, to 1e-6 of a tensor's largest element; rows alone in a pass are rows beside others, dropout included; rows at the end of the
 * data that do not fill a step are trained on; and check_accumulation says so of a user's rows and stops where it is not so. */
#define _DEFAULT_SOURCE
#include "support/support.h"
#include "support/folder.h"
#include "support/pairs.h"
#include "base/log.h"
#include "cyclora/cyclora.h"
#include "train/accumulation.h"
#include "train/run.h"

#define DATA      GOLDEN "/cipher/"
#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
static const char *const sft[] = {
    "objective=sft", "model=" DATA, "max_length=32", "pass_tokens=1024", "lora.r=4", "learning_rate=4e-3", "threads=1", "seed=5", NULL};

static void set(struct config *cfg, const char *const *list) {
    for (int i = 0; list[i]; i++) must(config_set(cfg, list[i]));
}

static const char *setting(const char *key, const char *value) {
    static char ring[8][600];
    static int next;
    char *s = ring[next++ % 8];
    snprintf(s, sizeof ring[0], "%s=%s", key, value);
    return s;
}

static void open_run(struct run *r, struct config *cfg, const char *const *more) {
    must(config_init(cfg));
    set(cfg, sft);
    set(cfg, more);
    must(config_set(cfg, setting("data", at("rows.jsonl"))));
    must(run_open(r, cfg));
    must(run_start(r));
}

static void close_run(struct run *r, struct config *cfg) {
    run_close(r);
    config_free(cfg);
}

/* Worst |a - b| over a tensor's largest, of all tensors. */
static double apart(const struct param_set *set, const float *a, const float *b) {
    double worst = 0;
    for (int i = 0; i < set->n; i++) {
        const size_t from = set->p[i].off / 4, n = (size_t)(set->p[i].d[0] * (set->p[i].nd > 1 ? set->p[i].d[1] : 1));
        double top = 0, off = 0;
        for (size_t k = from; k < from + n; k++) {
            top = fmax(top, fabs((double)a[k]));
            off = fmax(off, fabs((double)a[k] - (double)b[k]));
        }
        worst = fmax(worst, off / fmax(top, 1e-30));
    }
    return worst;
}

/* B starts at zero, and A's gradient with it: a step first. */
static void learn_once(struct run *r, const struct row *const *rows, int n) {
    struct step_result s;
    must(learner_step(&r->side[0].learner, &r->wb, rows, n, 1, 0, &s));
}

/* Five gradients of four rows, added up, and the one of all twenty; rows one by one with dropout. */
static void test_splits(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    for (int drop = 0; drop < 2; drop++) {
        open_run(&r, &cfg, LIST(drop ? "lora.lora_dropout=0.2" : "lora.lora_dropout=0"));
        struct side *s = &r.side[0];
        const struct param_set *p = &s->plans->st.params;
        const struct row *rows[20];
        int shortest = 1000, longest = 0, tokens = 0;
        double sums[4], part[4], added[4] = {0};
        must(rows_draw(&s->rows, (const int[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, 20, rows));
        for (int i = 0; i < 20; i++) {
            shortest = rows[i]->n < shortest ? rows[i]->n : shortest;
            longest = rows[i]->n > longest ? rows[i]->n : longest;
            tokens += rows[i]->n;
        }
        assert_true(longest > shortest + 3); /* ragged */
        learn_once(&r, rows, 20);
        must(learner_gradient(&s->learner, &r.wb, rows, 20, 1, 1, sums));
        float *whole = to_host(r.backend, r.wb.grad, p->bytes), *all = calloc(p->bytes, 1);
        for (int k = 0; k < 5 && !drop; k++) {
            must(learner_gradient(&s->learner, &r.wb, rows + 4 * k, 4, 1, 1, part));
            for (size_t i = 0; i < p->bytes / 4; i++) all[i] += r.wb.grad[i];
            for (int i = 0; i < 4; i++) added[i] += part[i];
        }
        if (!drop) {
            print_message("5 x 4 against 1 x 20: %.2g\n", apart(p, whole, all));
            assert_true(apart(p, whole, all) < 1e-6);
            assert_true(fabs(added[0] - sums[0]) < 1e-6 * sums[0]);
            assert_true(added[1] == sums[1] && added[3] == sums[3]);
        }
        assert_int_equal(r.wb.passes, 1);
        r.wb.rows_apart = true;
        must(learner_gradient(&s->learner, &r.wb, rows, 20, 1, 1, part));
        assert_int_equal(r.wb.passes, 20);
        print_message("rows alone%s: %.2g\n", drop ? ", with dropout" : "", apart(p, whole, r.wb.grad));
        assert_true(apart(p, whole, r.wb.grad) <
                    8 * 0x1p-24 * sqrt(tokens)); /* few rows take other kernels: accumulation.c has the bound */
        free(whole);
        free(all);
        close_run(&r, &cfg);
    }
}

/* --- as users say it ------------------------------------------------------------------------------------------------- */
struct watch {
    int steps;
    int64_t supervised;
    double loss[32];
};

static void on_step(void *ctx, const cyc_step *s) {
    struct watch *w = ctx;
    w->loss[w->steps++] = s->loss[0];
    w->supervised += s->supervised;
}

static int train(const char *name, struct watch *w, const char *const *common, const char *const *more) {
    cyc_config *c = cyc_config_new();
    *w = (struct watch){0};
    for (int i = 0; common[i]; i++) assert_int_equal(cyc_config_set(c, common[i]), 0);
    for (int i = 0; more[i]; i++)
        if (cyc_config_set(c, more[i])) flunk("%s: %s", more[i], cyc_error());
    assert_int_equal(cyc_config_set(c, setting("output_dir", at(name))), 0);
    const int code = cyc_train(c, CYC_OVERWRITE, &(cyc_callbacks){.ctx = w, .on_step = on_step}, NULL);
    cyc_config_free(c);
    return code;
}

static void test_settings(void **state) {
    (void)state;
    struct watch one, five;
    const char *data = setting("data", at("rows.jsonl"));
    assert_int_equal(train("one", &one, sft, LIST(data, "per_device_train_batch_size=20", "max_steps=3")), 0);
    assert_int_equal(train("five", &five, sft, LIST(data, "per_device_train_batch_size=4", "gradient_accumulation_steps=5", "max_steps=3")),
                     0);
    assert_int_equal(five.steps, 3);
    assert_true(same_bytes(at("one/adapter/adapter_model.safetensors"), at("five/adapter/adapter_model.safetensors")));
    for (int i = 0; i < 3; i++) assert_true(one.loss[i] == five.loss[i]);
}

/* Seven rows in steps of four: after seven steps each was trained on four times. Ten warm-up pairs in steps of four: an epoch is three steps,
 * the last of two pairs, and has all tokens of ten. */
static void test_ends(void **state) {
    (void)state;
    static const char *const macct[] = {"model=" DATA,
                                        "A.data=" DATA "a.jsonl",
                                        "B.data=" DATA "b.jsonl",
                                        "warmup_pairs.data=" DATA "warm.jsonl",
                                        "warmup_pairs.limit=10",
                                        "warmup_pairs.epochs=1",
                                        "max_new_tokens=8",
                                        "max_length=48",
                                        "lora.r=4",
                                        "threads=1",
                                        "max_steps=0",
                                        NULL};
    struct watch w, whole;
    const char *data = setting("data", at("seven.jsonl"));
    assert_int_equal(train("seven", &whole, sft, LIST(data, "per_device_train_batch_size=7", "max_steps=1")), 0);
    assert_int_equal(train("seven", &w, sft, LIST(data, "per_device_train_batch_size=4", "max_steps=7")), 0);
    assert_int_equal(w.supervised, 4 * whole.supervised);
    assert_int_equal(train("warm", &whole, macct, LIST("per_device_train_batch_size=10")), 0);
    assert_int_equal(whole.steps, 1);
    assert_int_equal(train("warm", &w, macct, LIST("per_device_train_batch_size=2", "gradient_accumulation_steps=2")), 0);
    assert_int_equal(w.steps, 3);
    assert_int_equal(w.supervised, whole.supervised);
}

/* --- check_accumulation ---------------------------------------------------------------------------------------------- */
static void note(void *ctx, enum log_level level, const char *line) {
    (void)level;
    if (strstr(line, "gradients differ by")) snprintf(ctx, 400, "%s", line);
}

static void test_check(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    struct step_result s;
    const struct row *rows[20];
    double sums[4];
    char said[400] = "";
    open_run(&r, &cfg, LIST("check_accumulation=true", "per_device_train_batch_size=20"));
    assert_int_equal(r.foot.checks, 2 * r.side[0].plans->st.params.trained);
    must(rows_draw(&r.side[0].rows, (const int[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, 20, rows));
    struct learner *l = &r.side[0].learner;
    log_set(note, said);
    must(learner_step(l, &r.wb, rows, 20, 1, 0, &s));
    assert_non_null(strstr(said, "20 rows"));
    *said = 0;
    must(learner_step(l, &r.wb, rows, 20, 1, 1, &s));
    assert_string_equal(said, ""); /* once */
    must(learner_gradient(l, &r.wb, rows, 20, 1, 2, sums));
    float *before = to_host(r.backend, r.wb.grad, l->st->params.trained);
    must(accumulation_check(l, &r.wb, rows, 20, 1, 2, sums));
    assert_memory_equal(before, r.wb.grad, l->st->params.trained);
    free(before);
    for (size_t i = 0; i < l->st->params.trained / 4; i++) r.wb.grad[i] *= 1.01f; /* as a loss that is averaged pass by pass would be off */
    assert_int_equal(accumulation_check(l, &r.wb, rows, 20, 1, 2, sums), E_NUMERIC);
    assert_non_null(strstr(err_text(), "check_accumulation"));
    log_set(NULL, NULL);
    close_run(&r, &cfg);
}

static int make_rows(void **state) {
    if (own_folder_make(state)) return -1;
    sft_rows_of_pairs(DATA "test.jsonl", at("rows.jsonl"), 0, 20);
    sft_rows_of_pairs(DATA "test.jsonl", at("seven.jsonl"), 0, 7);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_splits), cmocka_unit_test(test_settings), cmocka_unit_test(test_ends),
                                       cmocka_unit_test(test_check)};
    return cmocka_run_group_tests(tests, make_rows, own_folder_remove);
}
