/* How rows are laid together does not change what is learnt: any split of a step into passes gives the same gradient, with
 * dropout too; a row's likelihoods do not depend on its neighbours, its place or their content; recomputation is bit-equal.
 *
 * Rows are made here (ids by a small generator), so that every capacity from the longest row up can be asked for. */
#include "support/support.h"
#include <float.h>
#include "data/rows.h"
#include "train/learner.h"
#include "peft/lora.h"

enum { ROWS = 11, LONGEST = 8, VOCAB = 96 };
static const int lengths[ROWS] = {5, 8, 2, 7, 3, 8, 6, 2, 4, 8, 1}; /* 54 tokens; the last row predicts nothing */
static const struct backend *const backends[] = {&backend_reference, &backend_cpu};

struct bench {
    arena mem;
    struct model model;
    struct structure st;
    struct program train, score;
    struct learner learner;
    struct workbench wb;
    struct row row[ROWS];
    const struct row *rows[ROWS];
};

static void make_rows(struct bench *b) {
    uint32_t x = 7;
    for (int s = 0; s < ROWS; s++) {
        struct row *r = &b->row[s];
        int n = lengths[s];
        *r = (struct row){.ids = arena_alloc(&b->mem, (size_t)n * 4), .supervised = arena_alloc(&b->mem, (size_t)n), .n = n};
        for (int i = 0; i < n; i++) {
            x = x * 1664525u + 1013904223u;
            r->ids[i] = (int32_t)(x >> 16) % VOCAB;
            r->supervised[i] = i > 0 && (i > n / 2 || s % 3 == 0);
        }
        b->rows[s] = r;
    }
}

static void start(struct bench *b, const struct backend *backend, enum checkpoint level, int cap, double dropout) {
    *b = (struct bench){0};
    static const char base[] = GOLDEN "/tiny_llama/tied_gqa", folder[] = GOLDEN "/tiny_llama/tied_gqa/adapter_all_r4";
    const struct peft_method *method;
    const void *settings;
    must(model_open(base, NULL, &b->model));
    must(adapter_read_config(folder, &b->mem, &method, &settings));
    struct lora lora = *(const struct lora *)settings;
    lora.dropout = dropout;
    must(structure_init(&b->st, &b->model, method, &lora, NULL));
    struct capacity capacity = {cap, ROWS, 1, 1, DT_NONE, DT_NONE, 0};
    must(program_build(&b->train, &b->model, MODE_TRAIN, &b->st, capacity, level, backend, false));
    must(program_build(&b->score, &b->model, MODE_SCORE, &b->st, capacity, CHECKPOINT_NONE, backend, false));
    must(memory_for(&b->wb.mem, (struct program *const[]){&b->train, &b->score}, 2));
    struct recipe recipe = {.learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
    must(learner_init(&b->learner, &b->st, &b->train, &recipe));
    must(adapter_read(folder, &b->st, b->learner.w));
    b->wb.grad = arena_f32(b->st.params.bytes);
    b->wb.threads = 2;
    must(pack_init(&b->wb.pack, cap, ROWS));
    make_rows(b);
}

static void finish(struct bench *b) {
    arena_f32_free(b->wb.grad, b->st.params.bytes);
    pack_free(&b->wb.pack);
    free(b->wb.first);
    learner_free(&b->learner);
    memory_free(&b->wb.mem);
    program_free(&b->train);
    program_free(&b->score);
    structure_free(&b->st);
    model_close(&b->model);
    arena_free(&b->mem);
}

/* A step's gradient under one plan; the caller frees. */
static float *gradient(const struct backend *backend, enum checkpoint level, int cap, double dropout, uint64_t step, size_t *n, double sums[4]) {
    struct bench b;
    start(&b, backend, level, cap, dropout);
    must(learner_gradient(&b.learner, &b.wb, b.rows, ROWS, 42, step, sums));
    *n = b.st.params.bytes / 4;
    float *g = malloc(b.st.params.bytes);
    memcpy(g, b.wb.grad, b.st.params.bytes);
    finish(&b);
    return g;
}

static double greatest(const float *v, size_t n) {
    double m = 0;
    for (size_t i = 0; i < n; i++) m = fmax(m, fabs((double)v[i]));
    return m;
}

/* The reference adds token by token, so no split changes a bit. The CPU's products sum in blocks that depend on a pass's
 * tokens: four roundings of a sum over the 54 tokens, of the greatest element. */
static void splits(const struct backend *backend, double dropout) {
    double tol = backend == &backend_reference ? 1e-30 : 4 * (double)FLT_EPSILON * sqrt(54);
    static const int caps[] = {54, 8, 9, 11, 16, 23, 32, 53, 64}; /* all at once, one row at a time, and between */
    size_t n;
    double first[4], sums[4];
    float *want = gradient(backend, CHECKPOINT_NONE, caps[0], dropout, 3, &n, first);
    double big = greatest(want, n);
    assert_true(big > 1e-3);
    for (size_t i = 1; i < sizeof caps / sizeof *caps; i++) {
        char name[64];
        float *have = gradient(backend, CHECKPOINT_NONE, caps[i], dropout, 3, &n, sums);
        snprintf(name, sizeof name, "%s, dropout %g, passes of %d", backend->name, dropout, caps[i]);
        close_to(name, have, want, n, 0, tol * big);
        for (int k = 0; k < 4; k++)
            if (fabs(sums[k] - first[k]) > 1e-6 * fabs(first[k])) flunk("%s: sum %d is %.9g, must be %.9g", name, k, sums[k], first[k]);
        free(have);
    }
    free(want);
}

static void test_splits(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) splits(backends[k], 0);
}

/* Masks are keyed by sample and position, not by where a pass puts them. */
static void test_splits_with_dropout(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) splits(backends[k], 0.2);
}

/* The masks are there, and differ from step to step. */
static void test_dropout_acts(void **state) {
    (void)state;
    size_t n;
    double sums[4];
    float *without = gradient(&backend_cpu, CHECKPOINT_NONE, 64, 0, 3, &n, sums), *with = gradient(&backend_cpu, CHECKPOINT_NONE, 64, 0.2, 3, &n, sums),
          *next = gradient(&backend_cpu, CHECKPOINT_NONE, 64, 0.2, 4, &n, sums), *again = gradient(&backend_cpu, CHECKPOINT_NONE, 64, 0.2, 4, &n, sums);
    assert_memory_not_equal(without, with, n * 4);
    assert_memory_not_equal(with, next, n * 4);
    assert_memory_equal(next, again, n * 4);
    free(without);
    free(with);
    free(next);
    free(again);
}

static void test_checkpoint_levels(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++)
        for (int d = 0; d < 2; d++) {
            size_t n;
            double sums[4];
            float *want = gradient(backends[k], CHECKPOINT_NONE, 23, d ? 0.2 : 0, 3, &n, sums);
            for (int level = CHECKPOINT_NONE + 1; level < 3; level++) {
                float *have = gradient(backends[k], (enum checkpoint)level, 23, d ? 0.2 : 0, 3, &n, sums);
                for (size_t i = 0; i < n; i++)
                    if (memcmp(&have[i], &want[i], 4)) flunk("%s, dropout %d, level %d: number %zu is %.9g, not %.9g", backends[k]->name, d, level, i, (double)have[i], (double)want[i]);
                free(have);
            }
            free(want);
        }
}

/* --- likelihoods of rows in a pack ---------------------------------------------------------------------------------- */
/* Scores the rows in the given order in one pass; nll[row][position]. */
static void score(struct bench *b, const int *order, int n, float nll[ROWS][LONGEST]) {
    struct pack *k = &b->wb.pack;
    pack_clear(k);
    for (int i = 0; i < n; i++) assert_true(pack_row(k, b->rows[order[i]], order[i]));
    for (int i = 0; i < k->n; i++) k->weight[i] = 1;
    struct feed f = {.ids = k->ids, .pos = k->pos, .cu = k->cu, .sample = k->sample, .label = k->label, .weight = k->weight, .n = k->n, .s = k->s};
    must(program_run(&b->score, &b->wb.mem, b->learner.w, NULL, &f, &(struct run_ctx){.threads = 2}, true));
    const float *out = program_out(&b->score, &b->wb.mem, b->score.nll, k->n, k->s).p;
    for (int i = 0; i < n; i++) memcpy(nll[order[i]], out + k->cu[i], (size_t)b->rows[order[i]]->n * 4);
}

static void same_rows(const char *what, float a[ROWS][LONGEST], float b[ROWS][LONGEST], int but, double tol) {
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i + 1 < lengths[r]; i++)
            if (r != but && fabs((double)a[r][i] - (double)b[r][i]) > tol * fabs((double)b[r][i]))
                flunk("%s: row %d, position %d: %.9g, was %.9g", what, r, i, (double)a[r][i], (double)b[r][i]);
}

static void test_order(void **state) {
    (void)state;
    static const int orders[][ROWS] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, {3, 10, 0, 7, 2, 9, 5, 1, 8, 4, 6}};
    for (int k = 0; k < 2; k++) {
        struct bench b;
        float first[ROWS][LONGEST], nll[ROWS][LONGEST], alone[ROWS][LONGEST];
        start(&b, backends[k], CHECKPOINT_NONE, 64, 0.2); /* scoring has no dropout, whatever the settings say */
        score(&b, orders[0], ROWS, first);
        for (int o = 1; o < 3; o++) {
            score(&b, orders[o], ROWS, nll);
            same_rows("another order", nll, first, -1, 1e-6);
        }
        for (int r = 0; r < ROWS; r++) score(&b, &r, 1, alone);
        same_rows("alone", alone, first, -1, 1e-6);
        finish(&b);
    }
}

/* Every token of one row changes: of the others no bit does. */
static void test_neighbours_are_unseen(void **state) {
    (void)state;
    static const int order[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    for (int k = 0; k < 2; k++) {
        struct bench b;
        float before[ROWS][LONGEST], after[ROWS][LONGEST];
        start(&b, backends[k], CHECKPOINT_NONE, 64, 0);
        score(&b, order, ROWS, before);
        for (int r = 0; r < ROWS; r++) {
            for (int i = 0; i < lengths[r]; i++) b.row[r].ids[i] = (b.row[r].ids[i] + 41) % VOCAB;
            score(&b, order, ROWS, after);
            same_rows("after a neighbour changed", after, before, r, 0);
            if (lengths[r] > 1) assert_true(after[r][0] != before[r][0]);
            for (int i = 0; i < lengths[r]; i++) b.row[r].ids[i] = (b.row[r].ids[i] + VOCAB - 41) % VOCAB;
        }
        finish(&b);
    }
}

/* Within a row, a later token changes no earlier likelihood. */
static void test_later_tokens_are_unseen(void **state) {
    (void)state;
    static const int order[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    for (int k = 0; k < 2; k++) {
        struct bench b;
        float before[ROWS][LONGEST], after[ROWS][LONGEST];
        start(&b, backends[k], CHECKPOINT_NONE, 64, 0);
        score(&b, order, ROWS, before);
        b.row[1].ids[5] = (b.row[1].ids[5] + 1) % VOCAB;
        score(&b, order, ROWS, after);
        for (int i = 0; i < 4; i++) assert_true(before[1][i] == after[1][i]); /* position 4 predicts token 5 */
        assert_true(before[1][4] != after[1][4] && before[1][6] != after[1][6]);
        finish(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_splits), cmocka_unit_test(test_splits_with_dropout), cmocka_unit_test(test_dropout_acts), cmocka_unit_test(test_checkpoint_levels),
                                       cmocka_unit_test(test_order),  cmocka_unit_test(test_neighbours_are_unseen), cmocka_unit_test(test_later_tokens_are_unseen)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
