/* The same MACCT run on the processor and on a card, in f32, on the real SmolLM2: two adapters learn for twenty steps from the ids
 * that the processor generates (forced ids), on both. Each half's losses must agree to 1e-4, and the ids that the card would have
 * generated with its own adapters must be the processor's up to the first near-tie: a place where the two ids' log-likelihoods lie
 * within twice the distance that the two engines' logits may have. */
#include "support/support.h"
#include "base/file.h"
#include "train/run.h"

enum { STEPS = 20, ROWS = 4, NEW = 24, LENGTH = 96 };

/* f32 rounding of logits of size ~20 after 30 layers, each a sum of ~1,500 products: eps * sqrt(30 * 1500) * 20. */
static const double NEAR_TIE = 2 * 0x1p-24 * 212 * 20;

static struct config cfg[2];
static struct run run[2]; /* processor, card */

static void begin(int which, const char *model, const char *device) {
    bool bible = path_exists("cache/bible/a.jsonl");
    char at[256], tokens[64];
    must(config_init(&cfg[which]));
    snprintf(at, sizeof at, "model=%s", model);
    must(config_set(&cfg[which], at));
    snprintf(at, sizeof at, "device=%s", device);
    must(config_set(&cfg[which], at));
    snprintf(tokens, sizeof tokens, "max_length=%d", LENGTH);
    const char *const settings[] = {"dtype=float32", "per_device_train_batch_size=4", "learning_rate=3e-4", "seed=7", tokens, "max_new_tokens=24", bible ? "A.data=cache/bible/a.jsonl" : "A.data=tests/golden/cipher/a.jsonl",
                                    bible ? "B.data=cache/bible/b.jsonl" : "B.data=tests/golden/cipher/b.jsonl", "output_dir=unused"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) must(config_set(&cfg[which], settings[i]));
    must(run_open(&run[which], &cfg[which]));
    must(run_start(&run[which]));
}

static void write_texts(struct run *r, int side, const struct ids *prompt, struct generation *made) { must(generate_texts(r, side, prompt, ROWS, NEW, 0, 0, made, NULL)); }

/* The log-likelihood of `id` after prompt and the first n of `made`, by the processor. */
static double log_likelihood(int side, const struct ids *prompt, const struct generation *made, int n, int32_t id) {
    struct rows rows = {0};
    struct ids all = {0};
    double sums[4];
    for (size_t i = 0; i < prompt->n; i++) must(ids_push(&all, prompt->v[i]));
    for (int i = 0; i < n; i++) must(ids_push(&all, made->ids[i]));
    must(rows_add(&rows, all.v, all.n, &id, 1));
    const struct row *list[] = {&rows.r[0]};
    must(rows_loss(&run[0].side[side].plans->score, &run[0].wb, run[0].side[side].learner.w, list, 1, sums));
    rows_free(&rows);
    ids_free(&all);
    return -sums[0];
}

static int32_t id_at(const struct run *r, const struct generation *g, int i) { return i < g->n ? g->ids[i] : r->base[0].eos; }

/* Counts a near-tie; anything else that differs is a failure. */
static int compare_ids(int step, int side, const struct ids *prompt, const struct generation *here, const struct generation *there) {
    int n = 0;
    while (n < NEW && n <= here->n && n <= there->n && id_at(&run[0], here, n) == id_at(&run[0], there, n)) {
        if (n == here->n) return 0;
        n++;
    }
    if (n == NEW) return 0;
    double gap = fabs(log_likelihood(side, prompt, here, n, id_at(&run[0], here, n)) - log_likelihood(side, prompt, here, n, id_at(&run[0], there, n)));
    print_message("step %d, %s, token %d: %d on the processor, %d on the card, %.2g apart\n", step, side ? "B" : "A", n, id_at(&run[0], here, n), id_at(&run[0], there, n), gap);
    assert_true(gap < NEAR_TIE);
    return 1;
}

/* Adapter `side` learns from what the other wrote on the processor. */
static int half(int step, int side, double *worst) {
    struct ids prompt[ROWS] = {{0}};
    struct generation made[2][ROWS];
    struct rows rows = {0};
    const struct row *list[ROWS];
    int ties = 0;
    struct side *s = &run[0].side[side], *o = &run[0].side[!side];
    const struct ids *text[ROWS];
    for (int i = 0; i < ROWS; i++) {
        text[i] = &o->texts[(step * ROWS + i) % o->n_texts];
        must(prompt_form_wrap(&o->form, text[i]->v, text[i]->n, &prompt[i]));
    }
    for (int k = 0; k < 2; k++) write_texts(&run[k], !side, prompt, made[k]);
    for (int i = 0; i < ROWS; i++) {
        struct ids asked = {0}, answer = {0};
        ties += compare_ids(step, !side, &prompt[i], &made[0][i], &made[1][i]);
        must(prompt_form_wrap(&s->form, made[0][i].ids, (size_t)made[0][i].n, &asked));
        for (size_t k = 0; k < text[i]->n; k++) must(ids_push(&answer, text[i]->v[k]));
        must(ids_push(&answer, run[0].base[0].eos));
        must(rows_add(&rows, asked.v, asked.n, answer.v, answer.n));
        ids_free(&asked);
        ids_free(&answer);
        ids_free(&prompt[i]);
        for (int k = 0; k < 2; k++) free(made[k][i].ids);
    }
    for (int i = 0; i < ROWS; i++) list[i] = &rows.r[i];
    struct step_result got[2];
    for (int k = 0; k < 2; k++) must(learner_step(&run[k].side[side].learner, &run[k].wb, list, ROWS, 7, (uint64_t)(2 * step + side), &got[k]));
    double apart = fabs(got[0].loss - got[1].loss);
    if (apart > *worst) *worst = apart;
    if (!(apart <= 1e-4)) flunk("step %d, adapter %s: loss %.6f on the processor, %.6f on the card", step, side ? "B" : "A", got[0].loss, got[1].loss);
    rows_free(&rows);
    return ties;
}

static void test_twenty_steps(void **state) {
    (void)state;
    const char *model = smollm2_path();
    if (!model) skip();
    begin(0, model, "cpu");
    begin(1, model, "cuda");
    double worst = 0;
    int ties = 0;
    for (int step = 0; step < STEPS; step++)
        for (int side = 0; side < 2; side++) ties += half(step, side, &worst);
    print_message("%d steps: losses at most %.2g apart; %d of %d texts met a near-tie\n", STEPS, worst, ties, STEPS * 2 * ROWS);
    for (int k = 0; k < 2; k++) run_close(&run[k]), config_free(&cfg[k]);
}

int main(void) {
    if (!test_card()) return 77;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_twenty_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
