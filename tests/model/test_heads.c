/* Heads against transformers and PEFT (tests/golden/make/heads.py): logits, loss, each gradient, ten AdamW steps; on the reference
 * kernels and on the CPU's. Of a frozen base: no instruction of the backbone's backward exists, and a head that trains on features which
 * were made once has the gradients of one that goes through the model. What a folder with a head is refused for. */
#define _GNU_SOURCE
#include "support/bench.h"
#include "support/folder.h"
#include "peft/methods.h"

static const struct {
    const char *name, *base;
} cases[] = {{"lora", "tiny_llama/tied_gqa"}, {"none", "tiny_llama/tied_gqa"}, {"ln", "tiny_llama/untied_mha"}, {"lora_gemma2", "families/gemma2"}, {"bert", "families/bert"}, {"none_bert", "families/bert"},
             {"lora_gpt2", "families/gpt2"}, {"bn_bert", "families/bert"}, {"bn_seq_bert", "families/bert"}, {"bn_par_bert", "families/bert"}, {"bn_llama", "tiny_llama/tied_gqa"},
             {"number", "tiny_llama/tied_gqa"}, {"numbers_bert", "families/bert"}, {"tags", "tiny_llama/tied_gqa"}, {"tags_none", "tiny_llama/untied_mha"},
             {"tags_gemma2", "families/gemma2"}, {"tags_gpt2", "families/gpt2"}, {"tags_bert", "families/bert"}, {"tags_t5", "families/t5"}, {"t5", "families/t5"}, {"t5_none", "families/t5"}, {"numbers_t5", "families/t5"}};
enum { CASES = sizeof cases / sizeof *cases, NONE = 1, TAGS_NONE = 14, CAP_TOKENS = 64, CAP_SEQUENCES = 8, CLASSES = 5 };
static const struct backend *backends[] = {&backend_reference, &backend_cpu};
static int n_backends = 2; /* CYC_TEST_DEVICE=cuda: the card alone, in f32 */

static void start(struct bench *b, int c, const struct backend *backend, enum checkpoint level) {
    char model[128], adapter[128], expected[128];
    snprintf(model, sizeof model, GOLDEN "/%s", cases[c].base);
    snprintf(adapter, sizeof adapter, GOLDEN "/heads/%s/adapter", cases[c].name);
    snprintf(expected, sizeof expected, GOLDEN "/heads/%s/expected.safetensors", cases[c].name);
    bench_open(b, &(struct bench_case){.model = model, .adapter = adapter, .expected = expected, .backend = backend, .level = level, .cap = {CAP_TOKENS, CAP_SEQUENCES, 0, 0, DT_F32, DT_NONE},
                                       .recipe = {1e-2, 0.01, 0.9, 0.999, 1e-8, 1.0, {SCHEDULE_LINEAR, 2, 10}}});
    snprintf(b->name, sizeof b->name, "%s on %s", cases[c].name, backend->name);
}

static const struct row *const *rows_of(struct bench *b) { return (const struct row *const *)b->rows; }

static void one_case(int c, const struct backend *backend) {
    struct bench b;
    double sums[4];
    float logits[CAP_TOKENS * CLASSES];
    start(&b, c, backend, CHECKPOINT_SELECTIVE);
    const struct tensor *want = fixture(&b.want, "logits");
    assert_true(want->d[0] * want->d[1] <= CAP_TOKENS * CLASSES);
    must(rows_outputs(&b.score, &b.wb, b.learner.w, rows_of(&b), b.n_rows, b.score.logits, logits));
    close_to(b.name, logits, f32_of(want), (size_t)(want->d[0] * want->d[1]), 0, 1e-4);
    bench_train(&b, sums);
    assert_int_equal((int)sums[3], want->d[0]);
    bench_close(&b);
}

static void test_oracle(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++)
        for (int k = 0; k < n_backends; k++) one_case(c, backends[k]);
}

static int count(const struct prog *p, const char *part) {
    int n = 0;
    for (int i = 0; i < p->ni; i++) n += strstr(p->in[i].op->name, part) != NULL;
    return n;
}

/* Nothing below the head needs a gradient: the forward pass, head_loss, and no more. With LoRA beside it there is a backward. */
static void test_no_backward(void **state) {
    (void)state;
    struct bench b;
    for (int tags = 0; tags < 2; tags++) {
        start(&b, tags ? TAGS_NONE : NONE, &backend_cpu, CHECKPOINT_NONE);
        assert_int_equal(count(&b.train.p, "_bwd"), 0);
        assert_int_equal(b.train.p.ni, b.score.p.ni - !tags); /* in place of linear (and gather): head_loss */
        assert_int_equal(count(&b.train.p, "head_loss"), 1);
        assert_true(b.train.plan.act <= b.score.plan.act); /* the gradient of the matrix is in no program's arena */
        const struct inst *last = &b.train.p.in[b.train.p.ni - 1];
        assert_false(has(last->out[2]));        /* no gradient of the rows */
        assert_true(has(last->out[3]));         /* one of the matrix */
        assert_true(has(last->out[4]) == tags); /* and of the bias */
        bench_close(&b);
    }
    start(&b, 0, &backend_cpu, CHECKPOINT_NONE);
    assert_true(count(&b.train.p, "_bwd") > 10);
    bench_close(&b);
}

/* The head on features: two instructions, and the same bits. */
static void test_features(void **state) {
    (void)state;
    struct bench b;
    struct program body, train;
    struct memory mem;
    struct structure st;
    struct row row[8];
    const struct row *list[8];
    double sums[4], through[4];
    start(&b, NONE, backends[n_backends - 1], CHECKPOINT_NONE);
    const int64_t C = b.model.shape.width;
    const struct capacity cap = {CAP_TOKENS, CAP_SEQUENCES, 0, 0, DT_F32, DT_NONE, 0};
    float *table = arena_f32((size_t)(b.n_rows * C) * 4);
    must(learner_gradient(&b.learner, &b.wb, rows_of(&b), b.n_rows, 1, 0, through));
    float *want = to_host(b.learner.backend, b.wb.grad, b.st.params.bytes);

    must(program_build(&body, &b.model, MODE_CLASSIFY, NULL, cap, CHECKPOINT_NONE, b.learner.backend, false));
    struct workbench wb = {.threads = 1};
    must(memory_for(&wb.mem, (struct program *const[]){&body}, 1));
    must(pack_init(&wb.pack, CAP_TOKENS, CAP_SEQUENCES));
    must(rows_outputs(&body, &wb, NULL, rows_of(&b), b.n_rows, body.features, table));

    const struct features features = {b.n_rows, table};
    const struct head head = {.classes = CLASSES, .features = &features};
    must(structure_init_head(&st, &b.model, &method_none, "", &head, NULL));
    must(program_build(&train, &b.model, MODE_TRAIN, &st, cap, CHECKPOINT_NONE, b.learner.backend, false));
    assert_int_equal(train.p.ni, 2);
    assert_string_equal(train.p.in[0].op->name, "embed");
    assert_string_equal(train.p.in[1].op->name, "head_loss");
    assert_int_equal(st.params.bytes, b.st.params.bytes);
    must(memory_for(&mem, (struct program *const[]){&train}, 1));
    for (int i = 0; i < b.n_rows; i++) {
        static int32_t number[8];
        static uint8_t on = 1;
        number[i] = i;
        row[i] = (struct row){.ids = &number[i], .supervised = &on, .n = 1, .label = b.rows[i]->label};
        list[i] = &row[i];
    }
    struct learner l = b.learner;
    struct workbench small = b.wb;
    l.program = &train;
    small.mem = mem;
    must(learner_gradient(&l, &small, list, b.n_rows, 1, 0, sums));
    b.wb.first = small.first, b.wb.first_cap = small.first_cap;
    float *have = to_host(b.learner.backend, b.wb.grad, b.st.params.bytes);
    assert_memory_equal(have, want, b.st.params.bytes);
    assert_memory_equal(sums, through, sizeof sums);
    free(have);
    free(want);
    arena_f32_free(table, (size_t)(b.n_rows * C) * 4);
    memory_free(&mem);
    memory_free(&wb.mem);
    pack_free(&wb.pack);
    free(wb.first);
    program_free(&body);
    program_free(&train);
    structure_free(&st);
    bench_close(&b);
}

/* Recomputation is bit-equal. */
static void test_checkpoint_levels(void **state) {
    (void)state;
    float *first = NULL;
    for (int level = 0; level < 3; level++) {
        struct bench b;
        start(&b, 0, backends[n_backends - 1], (enum checkpoint)level);
        bench_same_gradient(&b, &first);
        bench_close(&b);
    }
    free(first);
}

/* --- folders ------------------------------------------------------------------------------------------------------------- */
/* Names come back with the weights; who has other classes, or none, is refused. */
static void test_folder(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b \"c\"", "d", "e", "é"}, *const turned[] = {"b \"c\"", "a", "d", "e", "é"};
    for (int c = 0; c < 2; c++) {
        struct bench b;
        arena mem = {0};
        struct head head;
        struct structure other;
        const struct peft_method *method;
        const void *settings;
        start(&b, c, &backend_cpu, CHECKPOINT_NONE);
        b.st.head.names = names;
        must(learner_write(&b.learner, at("run"), "base"));
        must(adapter_read_head(at("run"), &mem, &head));
        assert_int_equal(head.classes, CLASSES);
        for (int i = 0; i < CLASSES; i++) assert_string_equal(head.names[i], names[i]);
        must(adapter_read_config(at("run"), &mem, &method, &settings));
        assert_string_equal(method->name, cases[c].name);
        float *again = arena_f32(b.st.params.bytes);
        must(adapter_load(at("run"), &b.model, &b.st, again));
        assert_memory_equal(again, b.learner.w, b.st.params.bytes);
        b.st.head.names = turned;
        assert_int_equal(adapter_load(at("run"), &b.model, &b.st, again), E_USAGE);
        assert_non_null(strstr(err_text(), "in another order: name them with `labels`"));
        if (method->linears) {
            must(structure_init(&other, &b.model, method, settings, NULL));
            assert_int_equal(adapter_load(at("run"), &b.model, &other, again), E_USAGE);
            assert_non_null(strstr(err_text(), "holds a classifier of 5 classes: it goes on with objective: classification"));
            structure_free(&other);
            assert_int_equal(adapter_load(GOLDEN "/tiny_llama/tied_gqa/adapter_qv_r3", &b.model, &b.st, again), E_USAGE);
            assert_non_null(strstr(err_text(), "holds no classifier; this one would be a classifier of 5 classes"));
        } else {
            assert_int_equal(structure_init(&other, &b.model, method, settings, NULL), E_USAGE);
            assert_non_null(strstr(err_text(), "method none trains nothing of the model"));
        }
        arena_f32_free(again, b.st.params.bytes);
        arena_free(&mem);
        bench_close(&b);
    }
}

/* A classifier writes and scores nothing. */
static void test_modes(void **state) {
    (void)state;
    struct bench b;
    struct program g;
    struct model t5;
    struct structure st;
    static const enum mode no[] = {MODE_SCORE, MODE_PREFILL, MODE_DECODE};
    start(&b, 0, &backend_cpu, CHECKPOINT_NONE);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(program_build(&g, &b.model, no[i], &b.st, (struct capacity){8, 2, 2, 8, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, &backend_cpu, false), E_USAGE);
        assert_non_null(strstr(err_text(), "a classifier of 5 classes"));
    }
    bench_close(&b);
    must(model_open(GOLDEN "/families/t5", NULL, &t5)); /* whose features are the encoder's */
    must(structure_init_head(&st, &t5, &method_none, "", &(struct head){.classes = 3}, NULL));
    structure_free(&st);
    must(program_build(&g, &t5, MODE_FEATURES, NULL, (struct capacity){8, 2, 2, 8, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, &backend_cpu, false));
    program_free(&g);
    model_close(&t5);
}

static int from_config(const char *modules, struct head *head) {
    static arena mem;
    char text[256];
    snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", \"modules_to_save\": %s}", modules);
    must(file_write(at("bad/adapter_config.json"), text, strlen(text)));
    err e = adapter_read_head(at("bad"), &mem, head);
    arena_free(&mem);
    return (int)e;
}

static void refuses(const char *modules, int code, const char *part) {
    struct head head;
    assert_int_equal(from_config(modules, &head), code);
    if (!strstr(err_text(), part)) flunk("'%s' is not in: %s", part, err_text());
}

static void labels(const char *text, const char *part) {
    must(file_write(at("bad/labels.json"), text, strlen(text)));
    refuses("[\"score\"]", E_INPUT, part);
}

static void put(const char *name, int64_t rows) {
    static const float w[64];
    const struct tensor t = {.name = name, .dt = DT_F32, .nd = 2, .d = {rows, 4}, .data = w, .bytes = (size_t)rows * 16};
    must(safetensors_write(at("bad/adapter_model.safetensors"), &t, 1));
}

static void test_bad_folders(void **state) {
    (void)state;
    struct head head;
    must(dir_make(at("bad")));
    put("base_model.model.lm_head.weight", 3);
    assert_int_equal(from_config("null", &head), OK);
    assert_int_equal(head.classes, 0);
    assert_int_equal(from_config("[]", &head), OK);
    assert_int_equal(head.classes, 0);
    refuses("\"score\"", E_INPUT, "'modules_to_save' is no list");
    assert_int_equal(from_config("[\"lm_head\"]", &head), OK); /* a whole module of the base, which is the method's */
    assert_int_equal(head.classes, 0);
    refuses("[3]", E_UNSUPPORTED, "that is no name");
    refuses("[\"classifier\", \"score\"]", E_INPUT, "neither score.weight nor classifier.weight is");
    put("base_model.model.score.weight", 1); /* transformers' rule: one output is a regression */
    assert_int_equal(from_config("[\"score\"]", &head), OK);
    assert_true(head.kind == HEAD_NUMBERS && head.classes == 1);
    refuses("[\"score\"], \"task_type\": \"TOKEN_CLS\"", E_INPUT, "is no classifier of 2 to 65536 classes");
    put("base_model.model.score.weight", 3);
    assert_int_equal(from_config("[\"classifier\", \"score\"]", &head), OK);
    assert_int_equal(head.classes, 3);
    labels("{", "labels.json: not JSON");
    labels("{\"id2label\": {\"0\": \"a\", \"1\": \"b\"}}", "id2label names 2 classes, the classifier has 3");
    labels("[]", "id2label names 0 classes");
    labels("{\"id2label\": {\"0\": \"a\", \"1\": \"b\", \"3\": \"c\"}}", "id2label has no name for class 2");
    labels("{\"id2label\": {\"0\": \"a\", \"1\": \"b\", \"2\": 7}}", "id2label has no name for class 2");
    must(file_write(at("bad/labels.json"), "{\"problem_type\": \"regression\"}", 30));
    assert_int_equal(from_config("[\"score\"]", &head), OK);
    assert_true(head.kind == HEAD_NUMBERS && head.classes == 3 && !head.names);
    refuses("[\"score\"], \"task_type\": \"TOKEN_CLS\"", E_INPUT, "id2label names 0 classes, the classifier has 3");
    labels("{\"id2label\": {\"0\": \"a\", \"0\": \"b\"}}", "not JSON");
}


int main(void) {
    const struct backend *card = test_card();
    if (card) backends[0] = card, n_backends = 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_oracle),  cmocka_unit_test(test_no_backward), cmocka_unit_test(test_features), cmocka_unit_test(test_checkpoint_levels),
                                       cmocka_unit_test(test_folder), cmocka_unit_test(test_modes),       cmocka_unit_test(test_bad_folders)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
