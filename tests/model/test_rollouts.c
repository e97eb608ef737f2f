/* What lies between generating and training (src/train/rollout.c), on the cipher base: log-probabilities of generated texts against the
 * score program, weighted rows against a loss by hand, and each choice of rows on texts that were made up for it. That whole runs resume to the
 * same bits is test_run.c's. */
#define _GNU_SOURCE
#include "support/settings.h"
#include "support/support.h"
#include "base/log.h"
#include "train/run.h"
#include <unistd.h>

#define DATA GOLDEN "/cipher/"
enum { BATCH = 8 };

static void open_with(struct run *r, struct config *cfg, const char *const *more) {
    static const char *const sets[] = {"model=" DATA,
                                       "A.data=" DATA "a.jsonl",
                                       "B.data=" DATA "b.jsonl",
                                       "warmup_pairs.data=" DATA "warm.jsonl",
                                       "warmup_pairs.limit=6",
                                       "warmup_pairs.epochs=1",
                                       "per_device_train_batch_size=8",
                                       "max_new_tokens=12",
                                       "max_length=64",
                                       "pass_tokens=64",
                                       "lora.r=4",
                                       "threads=1"};
    config_with(cfg, sets, sizeof sets / sizeof *sets, more);
    must(run_open(r, cfg));
    r->step = r->warm_steps;
}
#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static void finish(struct run *r, struct config *cfg) {
    run_close(r);
    config_free(cfg);
}

/* An adapter that has learnt something: no zeros. */
static void stir(struct learner *l) {
    const size_t n = l->st->params.bytes / 4;
    float *w = l->w;
    for (size_t i = 0; i < n; i++) w[i] += 0.05f * sinf((float)i * 1.7f);
}

/* --- numbers ---------------------------------------------------------------------------------------------------------- */
/* The row of a prompt and what was generated behind it. */
static void add_row(const struct run *r, const struct ids *prompt, const struct generation *g, struct rows *out) {
    struct ids answer = {0};
    for (int k = 0; k < g->n; k++) must(ids_push(&answer, g->ids[k]));
    if (g->stopped) must(ids_push(&answer, r->base[0].eos));
    must(rows_add(out, prompt->v, prompt->n, answer.v, answer.n));
    ids_free(&answer);
}

/* The sum of a generated text's log-probabilities is minus the score program's loss of it: greedy, sampled, and by beams. */
static void test_logprob(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    open_with(&r, &cfg, LIST("generation.top_k=20", "generation.temperature=1.3", "eval.num_beams=2"));
    must(run_start(&r));
    stir(&r.side[0].learner);
    int stopped = 0, cut = 0;
    for (int turn = 0; turn < 3; turn++) {
        struct ids prompt[BATCH] = {{0}};
        struct generation made[BATCH];
        struct rows rows = {0};
        r.evaluating = turn == 2;
        for (int i = 0; i < BATCH; i++) must(prompt_form_wrap(&r.side[0].form, r.side[0].texts[i].v, r.side[0].texts[i].n, &prompt[i]));
        must(generate_texts(&r, 0, prompt, BATCH, turn == 1 ? 6 : 12, turn == 1 ? 1.3 : 0, 7, made, NULL));
        for (int i = 0; i < BATCH; i++) {
            double sums[4];
            add_row(&r, &prompt[i], &made[i], &rows);
            must(rows_loss(&r.side[0].plans->score, &r.wb, r.side[0].learner.w, (const struct row *const[]){&rows.r[i]}, 1, sums));
            const float got = (float)made[i].logprob, want = (float)-sums[0];
            const int tokens = made[i].n + made[i].stopped;
            char name[40];
            snprintf(name, sizeof name, "turn %d text %d", turn, i);
            /* both are f32 logits of a hidden row of C numbers, by the same kernels in another order: c eps sqrt(C) |logit| each */
            close_to(name, &got, &want, 1, 0, tokens * 8 * 1.2e-7 * sqrt((double)r.base[0].model.shape.width) * 30);
            stopped += made[i].stopped;
            cut += !made[i].stopped;
            free(made[i].ids);
            ids_free(&prompt[i]);
        }
        rows_free(&rows);
    }
    if (!stopped || !cut) flunk("%d texts ended, %d were cut: the case shows one kind alone", stopped, cut);
    finish(&r, &cfg);
}

/* Loss and gradient of weighted rows are those of each row by itself, weighted. */
static void test_weighted_rows(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    open_with(&r, &cfg, NULL);
    must(run_start(&r));
    struct side *s = &r.side[0];
    stir(&s->learner);
    static const float weight[] = {0.25f, 0, 3}; /* 0: not said */
    const size_t n = s->plans->st.params.trained / 4;
    float *want = calloc(n, 4);
    struct row row[3];
    const struct row *list[3];
    double loss = 0, all = 0, sums[4];
    for (int i = 0; i < 3; i++) {
        const double w = weight[i] > 0 ? (double)weight[i] : 1;
        row[i] = r.warm.rows[0].r[i];
        list[i] = &row[i];
        must(learner_gradient(&s->learner, &r.wb, &list[i], 1, 1, 0, sums));
        loss += w * sums[0];
        all += w * sums[1];
        for (size_t k = 0; k < n; k++) want[k] += (float)w * r.wb.grad[k];
        row[i].weight = weight[i];
    }
    must(learner_gradient(&s->learner, &r.wb, list, 3, 1, 0, sums));
    float got[] = {(float)sums[0], (float)sums[1]}, expected[] = {(float)loss, (float)all}, most = 0;
    close_to("loss and weight", got, expected, 2, 1e-5, 0);
    for (size_t k = 0; k < n; k++) most = fmaxf(most, fabsf(want[k]));
    close_to("gradient", r.wb.grad, want, n, 1e-4, 1e-6 * (double)most);
    struct step_result out;
    must(learner_step(&s->learner, &r.wb, list, 3, 1, 0, &out));
    assert_true(fabs(out.loss - loss / all) < 1e-5 * out.loss);
    free(want);
    finish(&r, &cfg);
}

/* --- the filter --------------------------------------------------------------------------------------------------------- */
#define IDS(...)  ((struct ids){(int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}) / 4, 0})
#define MADE(...) ((struct generation){(int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}) / 4, true, 0})

static float judged(const char *kind, double logprob, double ratio, double copied, const struct rollout *x) {
    struct side_config c = {.filter_kind = kind, .filter_logprob = logprob, .filter_length_ratio = ratio, .filter_copy_rate = copied};
    return rollout_weight(&c, x);
}

static void test_filter(void **state) {
    (void)state;
    const struct ids real = IDS(4, 5, 6, 7, 8), two = IDS(4, 5);
    const struct generation half = MADE(9, 4, 5, 6, 7, 9), whole = MADE(4, 5, 6, 7, 8), other = MADE(8, 7, 6), none = {.stopped = true};
    assert_true(rollout_copy_rate(&real, &half) == 2.0 / 3); /* of 456, 567, 678 the first two */
    assert_true(rollout_copy_rate(&real, &whole) == 1 && rollout_copy_rate(&real, &other) == 0 && rollout_copy_rate(&real, &none) == 0);
    assert_true(rollout_copy_rate(&two, &whole) == 1 && rollout_copy_rate(&two, &other) == 0); /* a text of fewer tokens is one run */
    assert_true(rollout_length_ratio(&real, &half) == 1.2 && rollout_length_ratio(&real, &none) == 0);
    struct rollout x = {.real = real, .made = half, .logprob = -0.5f};
    assert_true(judged("none", 0, 0, 1, &x) == 1);
    assert_true(judged("threshold", 0, 0, 1, &x) == 1);
    assert_true(judged("threshold", -0.4, 0, 1, &x) == 0 && judged("threshold", -0.5, 0, 1, &x) == 1);
    assert_true(judged("threshold", 0, 1.1, 1, &x) == 0 && judged("threshold", 0, 1.2, 1, &x) == 1);
    assert_true(judged("threshold", 0, 0, 0.5, &x) == 0 && judged("threshold", 0, 0, 0.7, &x) == 1);
    assert_true(judged("weight", 0, 0, 1, &x) == (float)exp(-0.5) && judged("weight", -0.5, 0, 1, &x) == 1);
    assert_true(judged("weight", -0.5, 1.1, 1, &x) == (float)(1.1 / 1.2) && judged("weight", -0.5, 0, 0.5, &x) == 0.75f);
    x.made = other; /* shorter than the real one: 5 over 3 */
    assert_true(judged("threshold", 0, 1.6, 1, &x) == 0 && judged("threshold", 0, 1.7, 1, &x) == 1);
    x.logprob = -80;
    assert_true(judged("weight", 0, 0, 1, &x) == 1e-3f);
    x.logprob = NAN;
    assert_true(judged("weight", 0, 0, 1, &x) == 1e-3f && judged("threshold", -9, 0, 1, &x) == 0);
    x.made = none;
    x.logprob = 0;
    assert_true(judged("none", 0, 0, 1, &x) == 1 && judged("threshold", 0, 0, 1, &x) == 0 && judged("weight", 0, 0, 1, &x) == 0);
}

/* --- the rows of a step, of texts that were made up ------------------------------------------------------------------------- */
static struct {
    int calls, asked, longest;
    bool silent;
    float logprob[64];
} script;

/* Copies each text but its last token, with the script's log-probabilities in turn; or writes nothing. */
static err scripted(struct run *r, const struct side *to, const struct ids *real, int n, struct generation *made, int64_t *tokens) {
    (void)r, (void)to;
    script.calls++;
    for (int i = 0; i < n; i++) {
        const int keep = script.silent ? 0 : (int)real[i].n - 1;
        made[i] = (struct generation){.ids = malloc(real[i].n * 4), .n = keep, .stopped = true};
        memcpy(made[i].ids, real[i].v, (size_t)keep * 4);
        made[i].logprob = (double)script.logprob[script.asked % 64] * (keep + 1);
        if ((int)real[i].n > script.longest) script.longest = (int)real[i].n;
        script.asked++;
        *tokens += keep + 1;
    }
    return OK;
}

/* A step's rows for adapter A, as its own step would have them. The stats' texts stay until the next one. */
static struct rollout_stats draw(struct run *r) {
    struct rollout_stats q;
    must(rollout_draw(r, &r->side[0], (uint64_t)(2 * r->step), scripted, &q));
    return q;
}

static struct rollouts *step_of(struct run *r) { return &r->side[0].rollouts.step; }

static void test_dropped(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    open_with(&r, &cfg, LIST("filter.kind=threshold", "filter.logprob=-1"));
    memset(&script, 0, sizeof script);
    for (int i = 0; i < 64; i++) script.logprob[i] = i % 8 < 3 ? -2 : -0.5f;
    struct rollout_stats q = draw(&r);
    assert_int_equal(q.texts, 8);
    assert_int_equal(q.dropped, 3);
    assert_int_equal(q.empty, 0);
    assert_int_equal(step_of(&r)->n, 5);
    assert_ptr_equal(q.made, step_of(&r)->v);
    assert_true(fabs(q.logprob - (3 * -2 + 5 * -0.5) / 8) < 1e-6);
    for (int i = 0; i < 5; i++) assert_true(q.made[i].logprob == -0.5f && q.made[i].weight == 1);
    finish(&r, &cfg);
}

static int alarms;
static void on_log(void *ctx, enum log_level level, const char *line) {
    (void)ctx;
    alarms += level == LOG_WARN && strstr(line, "nothing to learn from") != NULL;
}

/* Nothing at all was written, or the filter keeps none: the step is left out, and nothing moves. Pairs beside it are learnt from. */
static void test_nothing_left(void **state) {
    (void)state;
    const char *const *const settings[] = {LIST("filter.kind=none"), LIST("filter.kind=threshold", "filter.logprob=-0.1"),
                                           LIST("supervised.share=0.25")};
    for (int k = 0; k < 3; k++) {
        struct config cfg;
        struct run r;
        open_with(&r, &cfg, settings[k]);
        memset(&script, 0, sizeof script);
        script.silent = k != 1;
        for (int i = 0; i < 64; i++) script.logprob[i] = -0.5f;
        struct rollout_stats q = draw(&r);
        const struct row **list;
        int n;
        alarms = 0;
        log_set(on_log, NULL);
        must(rollout_list(&r, &r.side[0], &(struct rows){0}, &q, &list, &n));
        log_set(NULL, NULL);
        free(list);
        assert_int_equal(step_of(&r)->n, 0);
        assert_int_equal(q.texts, k == 2 ? 6 : 8);
        assert_int_equal(q.dropped, q.texts);
        assert_int_equal(q.empty, k == 1 ? 0 : q.texts);
        assert_int_equal(n, k == 2 ? 2 : 0);
        assert_int_equal(q.idle, k < 2);
        assert_int_equal(alarms, k < 2);
        finish(&r, &cfg);
    }
}

/* Three steps from one generation, each with the texts that it would have drawn by itself. */
static void test_refresh(void **state) {
    (void)state;
    struct config cfg[2];
    struct run r[2];
    open_with(&r[0], &cfg[0], LIST("rollout_refresh=3"));
    open_with(&r[1], &cfg[1], NULL);
    assert_int_equal(run_most_rows(&r[0]), 3 * BATCH);
    assert_true(r[0].foot.data > r[1].foot.data);
    int calls[2][6];
    for (int k = 0; k < 2; k++) {
        memset(&script, 0, sizeof script);
        for (int step = 0; step < 6; step++, r[k].step++) {
            struct rollout_stats q = draw(&r[k]);
            assert_int_equal(q.texts, BATCH);
            assert_int_equal(q.tokens > 0, k || step % 3 == 0);
            calls[k][step] = script.calls;
        }
        assert_int_equal(script.asked, 6 * BATCH);
    }
    assert_int_equal(calls[0][2], 1);
    assert_int_equal(calls[0][5], 2);
    assert_int_equal(calls[1][5], 6);
    for (int i = 0; i < BATCH; i++) {
        const struct rollout *a = &step_of(&r[0])->v[i], *b = &step_of(&r[1])->v[i];
        assert_int_equal(a->real.n, b->real.n);
        assert_memory_equal(a->real.v, b->real.v, a->real.n * 4);
    }
    for (int k = 0; k < 2; k++) finish(&r[k], &cfg[k]);
}

/* The buffer has the best texts so far; a share of each step's rows are of it, each once. */
static void test_replay(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    open_with(&r, &cfg, LIST("replay.size=4", "replay.share=0.3"));
    memset(&script, 0, sizeof script);
    for (int i = 0; i < 64; i++) script.logprob[i] = -0.01f * (float)((i * 37) % 64 + 1);
    int replayed = 0;
    for (int step = 0; step < 10; step++, r.step++) {
        struct rollout_stats q = draw(&r);
        assert_int_equal(q.texts + q.replayed, BATCH);
        assert_int_equal(step_of(&r)->n, BATCH);
        replayed += q.replayed;
        for (int i = q.texts; i < BATCH; i++)
            for (int k = q.texts; k < i; k++)
                assert_false(step_of(&r)->v[i].real.n == step_of(&r)->v[k].real.n &&
                             !memcmp(step_of(&r)->v[i].real.v, step_of(&r)->v[k].real.v, step_of(&r)->v[i].real.n * 4));
        if (step ==
            7) { /* 64 texts at most have been made, so each log-probability has come once at most: which are the best four is known */
            const struct rollouts *p = &r.side[0].rollouts.replay;
            float best[4] = {-9, -9, -9, -9};
            assert_int_equal(p->n, 4);
            for (int i = 0; i < script.asked; i++)
                for (int k = 0; k < 4; k++)
                    if (script.logprob[i] > best[k]) {
                        memmove(best + k + 1, best + k, (size_t)(3 - k) * 4);
                        best[k] = script.logprob[i];
                        break;
                    }
            for (int k = 0; k < 4; k++) {
                bool there = false;
                for (int i = 0; i < 4; i++) there |= fabsf(p->v[i].logprob - best[k]) < 1e-6f;
                assert_true(there);
            }
        }
    }
    assert_int_equal(replayed, 22); /* floor(10 * 2.4) = 24 less the two of the first step, when there is nothing yet */
    finish(&r, &cfg);
}

/* Supervised rows go through the pairs in epochs, whatever the share; both directions have the same ones. */
static void test_supervised(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    open_with(&r, &cfg, LIST("supervised.share=0.2"));
    memset(&script, 0, sizeof script);
    int seen[6] = {0}, turn[24], rows = 0;
    for (int step = 0; step < 15; step++, r.step++) { /* 24 rows: four times the six pairs */
        struct rollout_stats q = draw(&r);
        const struct row **list;
        int n;
        must(rollout_list(&r, &r.side[0], &(struct rows){0}, &q, &list, &n));
        assert_int_equal(n, q.supervised);
        for (int i = 0; i < n; i++) seen[turn[rows++] = (int)(list[i] - r.warm.rows[0].r)]++;
        free(list);
    }
    assert_int_equal(rows, 24);
    for (int i = 0; i < 6; i++) assert_int_equal(seen[i], 4);
    assert_memory_not_equal(turn, turn + 6, 6 * sizeof *turn); /* a new order in each epoch */
    finish(&r, &cfg);
}

/* --- denoising and the curriculum --------------------------------------------------------------------------------------------- */
static void test_corrupt(void **state) {
    (void)state;
    enum { N = 2000, MASK = -7 };
    struct ids text = {malloc(N * 4), N, N};
    int32_t *to = malloc(N * 4);
    for (int i = 0; i < N; i++) text.v[i] = i;
    struct side_config c = {0};
    const uint64_t key[] = {42, 3}, other[] = {42, 4};
    assert_int_equal(rollout_corrupt(&c, MASK, key, 0, &text, to), N);
    assert_memory_equal(to, text.v, N * 4);
    c.denoise_shuffle = 3;
    assert_int_equal(rollout_corrupt(&c, MASK, key, 0, &text, to), N);
    int moved = 0, furthest = 0;
    for (int i = 0; i < N; i++) moved += to[i] != i, furthest = abs(to[i] - i) > furthest ? abs(to[i] - i) : furthest;
    assert_int_equal(furthest, 3);
    assert_true(moved > N / 2);
    c = (struct side_config){.denoise_drop = 0.1, .denoise_mask = 0.2};
    const int left = rollout_corrupt(&c, MASK, key, 0, &text, to);
    int masked = 0;
    for (int i = 0; i < left; i++) masked += to[i] == MASK;
    assert_true(abs(left - 1800) < 54 && abs(masked - 360) < 68); /* four standard deviations of each */
    int32_t *again = malloc(N * 4);
    assert_int_equal(rollout_corrupt(&c, MASK, key, 0, &text, again), left);
    assert_memory_equal(again, to, (size_t)left * 4);
    const int n = rollout_corrupt(&c, MASK, other, 0, &text, again), m = rollout_corrupt(&c, MASK, key, 1, &text, to);
    assert_true(n != m || memcmp(again, to, (size_t)n * 4) != 0);
    c.denoise_drop = 0.9999999;
    text.n = 1;
    assert_int_equal(rollout_corrupt(&c, MASK, key, 0, &text, to), 1); /* something is left to read */
    free(to);
    free(again);
    ids_free(&text);
}

static void test_denoised(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    open_with(&r, &cfg, LIST("denoise.share=0.5", "denoise.mask_token=?", "denoise.mask=0.5", "denoise.drop=0"));
    memset(&script, 0, sizeof script);
    struct rollout_stats q = draw(&r);
    const int32_t mask = tokenizer_id(r.base[0].tok, "?");
    int masked = 0;
    assert_int_equal(q.denoised, 4);
    assert_int_equal(q.texts, 4);
    for (int i = 4; i < 8; i++) {
        const struct rollout *x = &step_of(&r)->v[i];
        assert_true(x->corrupted && x->weight == 1);
        assert_int_equal(x->made.n, x->real.n < 12 ? x->real.n : 12);
        for (int k = 0; k < x->made.n; k++) masked += x->made.ids[k] == mask;
    }
    assert_true(masked > 0);
    assert_int_equal(r.side[1].order.index, 8); /* drawn as the others are: no text comes twice in an epoch */
    finish(&r, &cfg);
    config_init(&cfg);
    for (int i = 0; i < 4; i++)
        must(config_set(&cfg, LIST("model=" DATA, "A.data=" DATA "a.jsonl", "B.data=" DATA "b.jsonl", "B.denoise.share=0.5")[i]));
    assert_int_equal(run_open(&r, &cfg), E_USAGE);
    if (!strstr(err_text(), "B.denoise.mask_token")) flunk("%s", err_text());
    finish(&r, &cfg);
}

/* Texts of side B, which adapter A writes, within a limit that grows from 6 to 10. */
static void test_curriculum(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    open_with(&r, &cfg, LIST("B.curriculum.start=6", "B.curriculum.end=10", "B.curriculum.steps=4"));
    static const int limit[] = {6, 7, 8, 9};
    int over = 0;
    for (int step = 0; step < 5; step++, r.step++) {
        memset(&script, 0, sizeof script);
        over += draw(&r).passed_over;
        if (step < 4) assert_true(script.longest <= limit[step]);
    }
    assert_true(over > 0 && script.longest > 9);
    assert_int_equal(r.side[1].order.epoch * r.side[1].order.n + r.side[1].order.index, 5 * BATCH + over); /* the cursor is all there is */
    r.side[1].order.epoch = r.side[1].order.index = 0;
    finish(&r, &cfg);
    open_with(
        &r, &cfg,
        LIST("B.curriculum.start=1", "B.curriculum.end=1", "B.curriculum.steps=4")); /* no text is that short: they come all the same */
    assert_int_equal(draw(&r).texts, BATCH);
    finish(&r, &cfg);
}

/* --- in a checkpoint ------------------------------------------------------------------------------------------------------------ */
static void same_rollouts(const struct rollouts *a, int first, const struct rollouts *b) {
    assert_int_equal(a->n - first, b->n);
    for (int i = 0; i < b->n; i++) {
        const struct rollout *x = &a->v[first + i], *y = &b->v[i];
        assert_int_equal(x->real.n, y->real.n);
        assert_int_equal(x->answer.n, y->answer.n);
        assert_int_equal(x->made.n, y->made.n);
        assert_int_equal(x->made.stopped, y->made.stopped);
        assert_true(x->logprob == y->logprob);
        assert_memory_equal(x->real.v, y->real.v, x->real.n * 4);
        if (x->answer.n) assert_memory_equal(x->answer.v, y->answer.v, x->answer.n * 4);
        assert_memory_equal(x->made.ids, y->made.ids, (size_t)x->made.n * 4);
    }
}

static void test_file(void **state) {
    (void)state;
    char folder[] = "/tmp/cyclora_rollouts_XXXXXX", path[128];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/rollouts.safetensors", folder);
    struct rollout_pool p = {0}, q = {0};
    const int vocab[] = {10, 20, 30};
    must(rollout_write(&p, folder));
    assert_true(access(path, F_OK) != 0); /* nothing to keep */
    must(rollouts_push(&p.window, &(struct rollout){.real = IDS(1, 2), .made = MADE(3), .logprob = -1}));
    must(rollouts_push(&p.window, &(struct rollout){.real = IDS(9, 8, 7), .answer = IDS(19, 18), .made = MADE(29, 28), .logprob = -0.25f}));
    must(rollouts_push(&p.replay, &(struct rollout){.real = IDS(5), .made = {.stopped = true}, .logprob = 0}));
    p.used = 1;
    must(rollout_write(&p, folder));
    must(rollout_read(&q, folder, vocab));
    same_rollouts(&p.window, 1, &q.window);
    same_rollouts(&p.replay, 0, &q.replay);
    static const int small[][3] = {{9, 20, 30}, {10, 19, 30}, {10, 20, 29}};
    for (int i = 0; i < 3; i++) assert_int_equal(rollout_read(&q, folder, small[i]), E_INPUT);
    const int32_t whole[] = {1, 1, 1, 1, 0, 4, 5, 6};
    for (int cut = 1; cut < 8; cut++) {
        int32_t bad[8];
        memcpy(bad, whole, sizeof bad);
        struct tensor t = {.name = "replay", .dt = DT_I32, .nd = 1, .d = {cut}, .data = bad, .bytes = (size_t)cut * 4};
        must(safetensors_write(path, &t, 1));
        assert_int_equal(rollout_read(&q, folder, vocab), E_INPUT);
        assert_non_null(strstr(err_text(), "damaged"));
        t.d[0] = 8, t.bytes = 32;
        bad[cut - 1] = cut - 1 == 4 ? 0x7fc00000 : INT32_MAX; /* a length, a flag, a NaN, an id */
        must(safetensors_write(path, &t, 1));
        assert_int_equal(rollout_read(&q, folder, vocab), E_INPUT);
    }
    rollout_free(&p);
    rollout_free(&q);
    must(dir_remove(folder));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logprob),  cmocka_unit_test(test_weighted_rows), cmocka_unit_test(test_filter),
        cmocka_unit_test(test_dropped),  cmocka_unit_test(test_nothing_left),  cmocka_unit_test(test_refresh),
        cmocka_unit_test(test_replay),   cmocka_unit_test(test_supervised),    cmocka_unit_test(test_corrupt),
        cmocka_unit_test(test_denoised), cmocka_unit_test(test_curriculum),    cmocka_unit_test(test_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
