/* How tokens are chosen, against transformers (tests/golden/make/generation.py): the distribution that is drawn from; texts under a repetition
 * penalty and a least length; beam search; of decoders and encoder-decoders. And what does not show in a text: batches by length, early ends,
 * memory. */
#include "base/philox.h"
#include "gen/generate.h"
#include "ops/ops.h"
#include "support/support.h"

#define EXPECTED GOLDEN "/generation/expected.safetensors"
static const struct backend *const backends[] = {&backend_reference, &backend_cpu};
static const struct backend *card; /* texts are written there alone; its kernels are the op sweep's */
static const char *const models[][2] = {{"llama", GOLDEN "/tiny_llama/tied_gqa"}, {"t5", GOLDEN "/families/t5"}};
enum { EOS = 5, DRAWS = 400 };

static const struct tensor *named(const struct tensors *t, const char *format, const char *model, int c) {
    char name[64];
    snprintf(name, sizeof name, format, model, c);
    return fixture(t, name);
}

/* --- distributions -------------------------------------------------------------------------------------------------- */
struct drawn {
    const float *p;
    int32_t id;
};

static int by_probability(const void *a, const void *b) {
    const struct drawn *x = a, *y = b;
    return x->p[x->id] != y->p[y->id] ? (x->p[x->id] < y->p[y->id]) - (x->p[x->id] > y->p[y->id]) : (x->id > y->id) - (x->id < y->id);
}

/* The id where the running probability passes `unit`; -1: within a rounding of two. */
static int32_t inverse(const float *p, int V, double unit) {
    struct drawn d[128];
    double at = 0;
    assert_true(V <= 128);
    for (int v = 0; v < V; v++) d[v] = (struct drawn){p, v};
    qsort(d, (size_t)V, sizeof *d, by_probability);
    for (int v = 0; v < V; v++) {
        at += (double)p[d[v].id];
        if (fabs(at - unit) < 1e-5) return -1;
        if (at > unit) return d[v].id;
    }
    return -1;
}

static void run_kernel(const struct backend *b, const struct op_def *op, const struct run_ctx *run, const struct view *in,
                       struct view *out) {
    static char scratch[1 << 16];
    const struct inst i = {.op = op};
    kernel k = b->find(&i, in, out);
    must((k ? k : op->ref)(run, &i, in, out, scratch));
}

/* DRAWS ids of each row, against those that transformers' distribution gives for the same uniform numbers. */
static void check_setting(const struct backend *b, const struct tensors *t, const float *how, const float *p) {
    const struct tensor *z = fixture(t, "logits"), *history = fixture(t, "history");
    const int R = (int)z->d[0], V = (int)z->d[1], T = (int)history->d[1];
    const int32_t *known = i32_of(fixture(t, "known")), *made = i32_of(fixture(t, "made"));
    const struct run_ctx run = {.seed = 3,
                                .threads = 1,
                                .sampling = {.penalty = how[0],
                                             .min_new = (int)how[1],
                                             .eos = EOS,
                                             .temperature = how[2],
                                             .top_k = (int)how[3],
                                             .top_p = how[4],
                                             .min_p = how[5]}};
    float processed[8 * 128], logprob[8];
    int32_t slot[8], pos[8], begin[8], sample[8], draw[8], id[8];
    int asked = 0;
    for (int r = 0; r < R; r++) slot[r] = r, pos[r] = known[r] - 1, begin[r] = known[r] - made[r], sample[r] = r;
    const struct view rows = {NULL, DT_I32, 1, {R}, 1}, logits = {(void *)f32_of(z), DT_F32, 2, {R, V}, V};
    struct view in[MAX_IN] = {[PROC_Z] = logits,
                              [PROC_HISTORY] = {(void *)i32_of(history), DT_I32, 2, {R, T}, T},
                              [PROC_SLOT] = rows,
                              [PROC_POS] = rows,
                              [PROC_BEGIN] = rows};
    struct view out[MAX_OUT] = {{processed, DT_F32, 2, {R, V}, V}};
    in[PROC_SLOT].p = slot, in[PROC_POS].p = pos, in[PROC_BEGIN].p = begin;
    run_kernel(b, &op_process, &run, in, out);
    struct view from[MAX_IN] = {out[0], rows, rows, logits}, to[MAX_OUT] = {rows, {logprob, DT_F32, 1, {R}, 1}};
    from[1].p = sample, from[2].p = draw, to[0].p = id;
    for (int k = 0; k < DRAWS; k++) {
        for (int r = 0; r < R; r++) draw[r] = k;
        run_kernel(b, &op_sample, &run, from, to);
        for (int r = 0; r < R; r++) {
            const struct philox u = philox(philox_key(run.seed, PURPOSE_SAMPLE), 0, (uint32_t)r, (uint32_t)k, 0);
            const int32_t want = inverse(p + r * V, V, (double)philox_unit(u.v[0]));
            assert_true(p[r * V + id[r]] > 0);
            if (want >= 0 && id[r] != want) flunk("row %d, draw %d: id %d, must be %d", r, k, id[r], want);
            asked += want >= 0;
        }
    }
    assert_true(asked > R * DRAWS * 9 / 10);
}

static void test_distributions(void **state) {
    (void)state;
    struct tensors t;
    must(tensors_open(EXPECTED, &t));
    const struct tensor *how = fixture(&t, "how");
    for (int k = 0; k < how->d[0]; k++)
        for (int b = 0; b < 2; b++) {
            char name[16];
            snprintf(name, sizeof name, "p.%d", k);
            check_setting(backends[b], &t, f32_of(how) + k * 6, f32_of(fixture(&t, name)));
        }
    tensors_close(&t);
}

/* --- texts ---------------------------------------------------------------------------------------------------------- */
struct text_case {
    const struct backend *backend;
    const char *name;
    struct tensors want;
    struct model model;
    struct ids prompt[8];
    int n, new, slots, head;
    float temperature;
};

static void open_case(struct text_case *c, int model, const struct backend *backend) {
    *c = (struct text_case){.backend = backend, .name = models[model][0], .slots = 6};
    must(tensors_open(EXPECTED, &c->want));
    must(model_open(models[model][1], NULL, &c->model));
    const struct tensor *cu = named(&c->want, "%s.cu", c->name, 0);
    c->n = (int)cu->d[0] - 1;
    c->new = i32_of(named(&c->want, "%s.new", c->name, 0))[0];
    for (int i = 0; i < c->n; i++) {
        const int32_t from = i32_of(cu)[i];
        c->prompt[i] =
            (struct ids){(int32_t *)i32_of(named(&c->want, "%s.prompts", c->name, 0)) + from, (size_t)(i32_of(cu)[i + 1] - from), 0};
    }
}

static void close_case(struct text_case *c) {
    tensors_close(&c->want);
    model_close(&c->model);
}

/* Writes texts with the settings of a row of `how`; the caller frees out's. */
static void write_texts(const struct text_case *c, const float *how, struct generation *out, struct generate_stats *stats) {
    struct generate_request rq = {.prompt = c->prompt,
                                  .n = c->n,
                                  .max_new = c->new,
                                  .eos = how[5] != 0 ? i32_of(named(&c->want, "%s.eos", c->name, 0))[0] : -1,
                                  .run = {.threads = 2}};
    const struct choosing choosing = {true, (int)how[0], c->head};
    struct generator g;
    struct memory mem;
    rq.run.sampling = (struct sampling){.penalty = how[3], .min_new = (int)how[4], .temperature = c->temperature, .top_p = 1};
    rq.beaming = (struct beaming){how[1], (enum early_stopping)how[2]};
    must(generator_choosing(&g, &c->model, NULL, (struct capacity){24, 4, c->slots, 24 + c->new, DT_F32, DT_NONE, 0}, &choosing, c->backend));
    const struct program *list[GENERATOR_PROGRAMS];
    const int programs = generator_programs(&g, list);
    must(memory_for(&mem, (struct program *const *)list, programs));
    must(generate(&g, &mem, NULL, &rq, out, stats));
    memory_free(&mem);
    generator_free(&g);
}

static void check_texts(const struct text_case *c, int k, const float *how) {
    const int32_t *ids = i32_of(named(&c->want, "%s.ids.%d", c->name, k)), *cu = i32_of(named(&c->want, "%s.ids_cu.%d", c->name, k)),
                  *ended = i32_of(named(&c->want, "%s.ended.%d", c->name, k));
    struct generation out[8];
    write_texts(c, how, out, NULL);
    for (int i = 0; i < c->n; i++) {
        if (out[i].n != cu[i + 1] - cu[i] || out[i].stopped != ended[i] || memcmp(out[i].ids, ids + cu[i], (size_t)out[i].n * 4))
            flunk("%s on %s: text %d of setting %d is not transformers'", c->name, c->backend->name, i, k);
        free(out[i].ids);
    }
}

/* Six slots: of four beams one prompt at a time, of two three; more prompts than slots, prompts of several passes. */
static void test_texts(void **state) {
    (void)state;
    for (int m = 0; m < 2; m++)
        for (int b = 0; b < (card ? 1 : 2); b++) {
            struct text_case c;
            open_case(&c, m, card ? card : backends[b]);
            const struct tensor *how = named(&c.want, "%s.how", c.name, 0);
            for (int k = 0; k < how->d[0]; k++) check_texts(&c, k, f32_of(how) + k * 6);
            c.slots = 20; /* all at once */
            check_texts(&c, 3, f32_of(how) + 3 * 6);
            close_case(&c);
        }
}

/* A batch whose texts have all ended is over: it costs as many runs as the longest has tokens. */
static void test_runs(void **state) {
    (void)state;
    struct text_case c;
    struct generation out[8];
    open_case(&c, 0, &backend_cpu);
    const float how[6] = {1, 1, 0, 1.3f, 0, 1}; /* setting 0 of the fixture */
    const int32_t *cu = i32_of(named(&c.want, "%s.ids_cu.%d", c.name, 0));
    int longest = 0;
    for (int i = 0; i < c.n; i++)
        if (cu[i + 1] - cu[i] > longest) longest = cu[i + 1] - cu[i];
    assert_true(longest < c.new - 1);
    struct generate_stats together = {0};
    write_texts(&c, how, out, &together);
    assert_int_equal(together.runs, longest); /* the first token is prefill's, the last run gives the EOS */
    for (int i = 0; i < c.n; i++) free(out[i].ids);
    close_case(&c);
}

/* Prompts with one head: the texts are those that they have without sharing it, greedy under a penalty that sees the head, and by beams. */
static void test_shared_head(void **state) {
    (void)state;
    static const int32_t head[] = {7, 40, 9, 9, 61};
    int32_t long_prompt[8][32];
    for (int b = 0; b < (card ? 1 : 2); b++) {
        struct text_case c;
        open_case(&c, 0, card ? card : backends[b]);
        const float *how = f32_of(named(&c.want, "%s.how", c.name, 0));
        for (int i = 0; i < c.n; i++) {
            memcpy(long_prompt[i], head, sizeof head);
            memcpy(long_prompt[i] + 5, c.prompt[i].v, c.prompt[i].n * 4);
            c.prompt[i] = (struct ids){long_prompt[i], c.prompt[i].n + 5, 0};
        }
        for (int k = 0; k < 4; k += 3) {
            struct generation apart[8], shared[8];
            struct generate_stats none = {0}, some = {0};
            c.slots = k ? 20 : 3; /* two batches; all at once */
            c.head = 0;
            write_texts(&c, how + k * 6, apart, &none);
            c.head = 3;
            write_texts(&c, how + k * 6, shared, &some);
            assert_int_equal(none.shared_tokens, 0);
            assert_true(some.shared_tokens >= (k ? 4 : 3) * 5);
            for (int i = 0; i < c.n; i++) {
                if (shared[i].n != apart[i].n || memcmp(shared[i].ids, apart[i].ids, (size_t)apart[i].n * 4))
                    flunk("%s: text %d of setting %d is another with its head shared", c.backend->name, i, k);
                free(shared[i].ids), free(apart[i].ids);
            }
        }
        c.head = 6; /* more than they have in common */
        struct generate_stats none = {0};
        struct generation out[8];
        write_texts(&c, how, out, &none);
        assert_int_equal(none.shared_tokens, 0);
        for (int i = 0; i < c.n; i++) free(out[i].ids);
        close_case(&c);
    }
}

/* What is drawn for a place hangs on what stands before it, read or written: a text goes on from a longer prompt as it went on by itself. */
static void test_goes_on(void **state) {
    (void)state;
    const float how[6] = {1, 1, 0, 1, 0, 0};
    int32_t longer[8][32];
    struct generation whole[8], rest[8];
    for (int b = 0; b < 2; b++) {
        struct text_case c;
        open_case(&c, 0, backends[b]);
        c.temperature = 2;
        write_texts(&c, how, whole, NULL);
        for (int i = 0; i < c.n; i++) {
            memcpy(longer[i], c.prompt[i].v, c.prompt[i].n * 4);
            longer[i][c.prompt[i].n] = whole[i].ids[0];
            c.prompt[i] = (struct ids){longer[i], c.prompt[i].n + 1, 0};
        }
        write_texts(&c, how, rest, NULL);
        for (int i = 0; i < c.n; i++) {
            assert_memory_equal(rest[i].ids, whole[i].ids + 1, (size_t)(whole[i].n - 1) * 4);
            free(rest[i].ids), free(whole[i].ids);
        }
        close_case(&c);
    }
}

static void test_refusals(void **state) {
    (void)state;
    struct text_case c;
    struct generator g;
    struct generation out[8];
    open_case(&c, 0, &backend_cpu);
    const struct capacity cap = {16, 4, 4, 30, DT_F32, DT_NONE, 0};
    assert_int_equal(generator_choosing(&g, &c.model, NULL, cap, &(struct choosing){.beams = MOST_BEAMS + 1}, c.backend), E_USAGE);
    must(generator_choosing(&g, &c.model, NULL, cap, &(struct choosing){.rules = true, .beams = 2}, c.backend));
    struct generate_request rq = {.prompt = c.prompt, .n = 1, .max_new = 4, .eos = 2, .run = {.threads = 1, .sampling = {.min_new = 5}}};
    assert_int_equal(generate(&g, &(struct memory){0}, NULL, &rq, out, NULL), E_USAGE);
    rq.run.sampling = (struct sampling){.temperature = 1, .top_p = 1};
    assert_int_equal(generate(&g, &(struct memory){0}, NULL, &rq, out, NULL), E_USAGE);
    assert_non_null(strstr(err_text(), "beams"));
    /* what beams share lies where rows' keys lie: no second cache */
    assert_int_equal(g.copy.plan.state, g.decode.plan.state);
    assert_int_equal(g.prefill.plan.state, g.decode.plan.state);
    generator_free(&g);
    close_case(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_distributions), cmocka_unit_test(test_texts), cmocka_unit_test(test_runs),
                                       cmocka_unit_test(test_shared_head), cmocka_unit_test(test_goes_on),
                                       cmocka_unit_test(test_refusals)};
    const struct CMUnitTest written[] = {cmocka_unit_test(test_texts), cmocka_unit_test(test_shared_head)};
    if ((card = test_card())) return cmocka_run_group_tests_name("on a card", written, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
