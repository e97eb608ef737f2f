/* Learning rates by step are transformers' (tests/golden/make/optimizers.py); words that are none are refused. */
#include "support/support.h"
#include "train/schedule.h"
#include <math.h>

static void transformers_curves(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct curve c;
    } cases[] = {
        {"constant_with_warmup", {SCHEDULE_CONSTANT_WITH_WARMUP, 5, 40, 0, 0, 0}},
        {"linear", {SCHEDULE_LINEAR, 5, 40, 0, 0, 0}},
        {"cosine", {SCHEDULE_COSINE, 5, 40, 0, 0, 0}},
        {"cosine_with_min_lr", {SCHEDULE_COSINE_WITH_MIN_LR, 5, 40, 0, 0.1, 0}},
        {"inverse_sqrt", {SCHEDULE_INVERSE_SQRT, 5, 40, 0, 0, 0}},
        {"inverse_sqrt_cold", {SCHEDULE_INVERSE_SQRT, 0, 40, 0, 0, 0}},
        {"wsd", {SCHEDULE_WSD, 5, 40, 10, 0.1, DECAY_COSINE}},
        {"wsd_linear", {SCHEDULE_WSD, 5, 40, 10, 0, DECAY_LINEAR}},
        {"wsd_1-sqrt", {SCHEDULE_WSD, 0, 40, 10, 0.2, DECAY_1_SQRT}},
    };
    struct tensors want;
    must(tensors_open(GOLDEN "/optim/expected.safetensors", &want));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char name[64];
        snprintf(name, sizeof name, "schedule.%s", cases[k].name);
        const struct tensor *t = fixture(&want, name);
        const float *rate = t->data;
        /* beyond the last step transformers' cosine rises again; ours stays */
        const bool waves = cases[k].c.schedule == SCHEDULE_COSINE || cases[k].c.schedule == SCHEDULE_COSINE_WITH_MIN_LR;
        for (int64_t step = 0; step < (waves ? 41 : t->d[0]); step++)
            if (!(fabs(schedule_at(&cases[k].c, step) - (double)rate[step]) <= 0x1p-24))
                flunk("%s, step %d: %.9g, transformers has %.9g", name, (int)step, schedule_at(&cases[k].c, step), (double)rate[step]);
    }
    tensors_close(&want);
}

static void words(void **state) {
    (void)state;
    enum schedule s;
    enum decay d;
    must(schedule_parse("warmup_stable_decay", &s));
    must(decay_parse("1-sqrt", &d));
    assert_true(s == SCHEDULE_WSD && d == DECAY_1_SQRT);
    assert_int_equal(schedule_parse("cosin", &s), E_USAGE);
    assert_non_null(strstr(err_text(), "did you mean cosine"));
    assert_int_equal(decay_parse("sqrt", &d), E_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(transformers_curves), cmocka_unit_test(words)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
