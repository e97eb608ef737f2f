/* Full fine-tuning of a part, and of rows of the token table: what is taken by words and names, that nothing is emitted below the lowest trained value, that copies are
 * what a quantised base decodes to, and that files come out as they went in. The numbers of training are test_methods.c's. */
#define _GNU_SOURCE
#include "support/bench.h"
#include "base/file.h"
#include "peft/methods.h"
#include "peft/targets.h"
#include "peft/trainable_tokens.h"
#include <jansson.h>

#define TINY GOLDEN "/tiny_llama/"
enum { LAYERS = 3 };

static struct targets settings(enum take take, const char *const *names, int n, const int *layers, int n_layers) {
    return (struct targets){.of = {take, n, names}, .layers = layers, .n_layers = n_layers};
}

/* --- what is taken ---------------------------------------------------------------------------------------------------- */
static int modules(const char *base, enum take take, const char *name) {
    struct model m;
    struct structure st;
    struct targets f = settings(take, &name, name != NULL, NULL, 0);
    int n;
    must(model_open(base, NULL, &m));
    must(structure_init(&st, &m, &method_full, &f, &n));
    structure_free(&st);
    model_close(&m);
    return n;
}

static void test_words(void **state) {
    (void)state;
    static const struct { const char *base; enum take take; const char *name; int n; } list[] = {
        {TINY "tied_gqa", TAKE_ALL, NULL, 9 * LAYERS + 2}, {TINY "untied_mha", TAKE_ALL, NULL, 9 * LAYERS + 3},
        {TINY "untied_mha", TAKE_ALL_LINEAR, NULL, 7 * LAYERS}, {TINY "untied_mha", TAKE_ATTENTION, NULL, 4 * LAYERS}, {TINY "untied_mha", TAKE_MLP, NULL, 3 * LAYERS},
        {TINY "untied_mha", TAKE_NORMS, NULL, 2 * LAYERS + 1}, {TINY "untied_mha", TAKE_NAMES, "lm_head", 1}, {TINY "tied_gqa", TAKE_NAMES, "embed_tokens", 1},
        {TINY "tied_gqa", TAKE_REGEX, "model\\.layers\\.1\\..*norm", 2}, {GOLDEN "/families/gpt2", TAKE_ALL, NULL, 6 * 2 + 3},
        {GOLDEN "/families/gpt2", TAKE_ALL_LINEAR, NULL, 4 * 2}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const int n = modules(list[i].base, list[i].take, list[i].name);
        if (n != list[i].n) flunk("%zu: %s takes %d modules, not %d", i, list[i].name ? list[i].name : take_word(list[i].take), n, list[i].n);
    }
}

/* --- what is emitted --------------------------------------------------------------------------------------------------- */
static int count(const struct program *g, const char *op) {
    int n = 0;
    for (int i = 0; i < g->p.ni; i++) n += !strcmp(g->p.in[i].op->name, op);
    return n;
}

static int head_loss_at(const struct program *g) {
    int i = 0;
    while (strcmp(g->p.in[i].op->name, "head_loss")) i++;
    return i;
}

static void train_program(struct program *g, struct model *m, struct structure *st, const struct targets *f, const char *base, enum checkpoint level) {
    must(model_open(base, NULL, m));
    must(structure_init(st, m, &method_full, f, NULL));
    must(program_build(g, m, MODE_TRAIN, st, (struct capacity){64, 8, 0, 0, DT_F32, DT_NONE, 0}, level, &backend_cpu, false));
}

static void close_program(struct program *g, struct model *m, struct structure *st) {
    program_free(g);
    structure_free(st);
    model_close(m);
}

/* The last k blocks: the backward of k blocks, at every level, and no instruction after the loss belongs to a lower one. */
static void test_backward_ends(void **state) {
    (void)state;
    static const int all[LAYERS] = {0, 1, 2};
    for (int level = 0; level < 3; level++)
        for (int k = 1; k <= LAYERS; k++) {
            struct model m;
            struct structure st;
            struct program g;
            struct targets f = settings(TAKE_ALL, NULL, 0, all + LAYERS - k, k);
            train_program(&g, &m, &st, &f, TINY "tied_gqa", (enum checkpoint)level);
            assert_int_equal(count(&g, "attention_bwd"), k);
            assert_int_equal(count(&g, "glu_bwd"), k);
            assert_int_equal(count(&g, "weight_grad"), 7 * k);
            assert_int_equal(count(&g, "linear_bwd"), 4 * k);
            assert_int_equal(count(&g, "norm_bwd"), 2 * k + 1);
            assert_int_equal(count(&g, "embed_bwd"), 0);
            for (int i = head_loss_at(&g) + 1; i < g.p.ni; i++)
                if (g.p.in[i].segment && g.p.in[i].segment <= LAYERS - k) flunk("last-%d: %s of block %d after the loss", k, g.p.in[i].op->name, g.p.in[i].segment - 1);
            close_program(&g, &m, &st);
        }
}

/* Everything: the table's two gradients. The head alone: nothing after the loss. The embedding alone: all the way down, and no product's weights. */
static void test_ends_of_the_stack(void **state) {
    (void)state;
    static const char *const head[] = {"lm_head"}, *const table[] = {"embed_tokens"};
    const struct { const char *base; struct targets f; int weight_grads, embed_bwds, behind; } list[] = {
        {TINY "tied_gqa", settings(TAKE_ALL, NULL, 0, NULL, 0), 7 * LAYERS, 1, -1},
        {TINY "untied_mha", settings(TAKE_NAMES, head, 1, NULL, 0), 0, 0, 0},
        {TINY "untied_mha", settings(TAKE_NAMES, table, 1, NULL, 0), 0, 1, -1}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct model m;
        struct structure st;
        struct program g;
        train_program(&g, &m, &st, &list[i].f, list[i].base, CHECKPOINT_NONE);
        assert_int_equal(count(&g, "weight_grad"), list[i].weight_grads);
        assert_int_equal(count(&g, "embed_bwd"), list[i].embed_bwds);
        if (list[i].behind >= 0) assert_int_equal(g.p.ni - 1 - head_loss_at(&g), list[i].behind);
        close_program(&g, &m, &st);
    }
}

/* No program of a model that is trained whole reads a matrix of the base. */
static void test_no_base_left(void **state) {
    (void)state;
    struct model m;
    struct structure st;
    struct program g;
    struct targets f = settings(TAKE_ALL, NULL, 0, NULL, 0);
    train_program(&g, &m, &st, &f, TINY "untied_mha", CHECKPOINT_NONE);
    for (int v = 1; v < g.p.nv; v++)
        if (g.p.v[v].role == ROLE_BASE && g.p.v[v].nd == 2) flunk("%s is still there", g.p.v[v].name);
    close_program(&g, &m, &st);
}

/* --- what it begins with ----------------------------------------------------------------------------------------------- */
static void test_copies_decode(void **state) {
    (void)state;
    static const char *const bases[] = {"random:3:q4_0", "random:3:q8_0", "random:3:bf16"};
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++) {
        struct model m;
        struct structure st;
        struct targets f = settings(TAKE_ALL, NULL, 0, NULL, 0);
        must(model_open(bases[b], TINY "tied_gqa/config.json", &m));
        must(structure_init(&st, &m, &method_full, &f, NULL)); /* before there is a number to read */
        must(model_fill(&m));
        float *w = arena_f32(st.params.bytes);
        must(param_fill(&st.params, 1, w));
        for (int i = 0; i < st.params.n; i++) {
            const struct param *p = &st.params.p[i];
            const struct weight *from = model_weight(&m, p->name);
            const int64_t columns = from->d[from->nd - 1], rows = from->nd == 2 ? from->d[0] : 1;
            float row[128];
            assert_true(columns <= 128);
            for (int64_t r = 0; r < rows; r++) {
                dequantise_row(from->dt, (const char *)from->data + dtype_row_bytes(from->dt, columns) * (size_t)r, row, columns);
                assert_memory_equal(row, w + p->off / 4 + r * columns, (size_t)columns * 4);
            }
        }
        arena_f32_free(w, st.params.bytes);
        structure_free(&st);
        model_close(&m);
    }
}

/* --- files -------------------------------------------------------------------------------------------------------------- */
/* What was read is written with the same names, shapes and numbers, whatever order and form memory has; but for Gemma's norms, which lose
 * in the sum with 1 what f32 cannot hold. */
static void test_files(void **state) {
    (void)state;
    static const char *const list[][2] = {{"full", TINY "tied_gqa"}, {"full_gpt2", GOLDEN "/families/gpt2"}, {"full_gpt2", GOLDEN "/families/gpt2/model.gguf"},
                                          {"full_gemma2", GOLDEN "/families/gemma2"}, {"full_gemma2", GOLDEN "/families/gemma2/model.gguf"},
                                          {"full_names", GOLDEN "/families/mistral_full"}, {"full_names", GOLDEN "/families/mistral_full/model.gguf"},
                                          {"tokens", TINY "tied_gqa"}, {"tokens_untied", TINY "untied_mha"}, {"tokens_gpt2", GOLDEN "/families/gpt2/model.gguf"}};
    char root[] = "/tmp/cyc-test-full-XXXXXX", folder[256], file[300];
    assert_non_null(mkdtemp(root));
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct model m;
        struct structure st;
        struct tensors want, have;
        arena mem = {0};
        const struct peft_method *method;
        const void *read;
        snprintf(folder, sizeof folder, GOLDEN "/methods/%s/adapter", list[i][0]);
        must(model_open(list[i][1], NULL, &m));
        must(adapter_read_config(folder, &mem, &method, &read));
        must(structure_init(&st, &m, method, read, NULL));
        float *w = arena_f32(st.params.bytes);
        must(adapter_load(folder, &m, &st, w));
        must(adapter_write(root, &st, w, "base"));
        snprintf(file, sizeof file, "%s/adapter_model.safetensors", folder);
        must(tensors_open(file, &want));
        snprintf(file, sizeof file, "%s/adapter_model.safetensors", root);
        must(tensors_open(file, &have));
        assert_int_equal(want.n, have.n);
        for (int k = 0; k < want.n; k++) {
            const struct tensor *t = fixture(&have, want.t[k].name);
            assert_true(t->nd == want.t[k].nd && t->d[0] == want.t[k].d[0] && (t->nd == 1 || t->d[1] == want.t[k].d[1]));
            if (strstr(list[i][1], "gemma") && t->nd == 1) close_to(t->name, f32_of(t), f32_of(&want.t[k]), t->bytes / 4, 0, 0x1p-22);
            else if (memcmp(t->data, want.t[k].data, t->bytes)) flunk("%s on %s: %s has other bits", list[i][0], list[i][1], t->name);
        }
        tensors_close(&want);
        tensors_close(&have);
        arena_f32_free(w, st.params.bytes);
        structure_free(&st);
        arena_free(&mem);
        model_close(&m);
    }
    must(dir_remove(root));
}

static void refused(const char *base, const char *folder, const char *say) {
    struct model m;
    struct structure st;
    arena mem = {0};
    const struct peft_method *method;
    const void *read;
    must(model_open(base, NULL, &m));
    must(adapter_read_config(folder, &mem, &method, &read));
    must(structure_init(&st, &m, method, read, NULL));
    float *w = arena_f32(st.params.bytes);
    assert_int_equal(adapter_load(folder, &m, &st, w), E_INPUT);
    if (!strstr(err_text(), say)) flunk("%s", err_text());
    arena_f32_free(w, st.params.bytes);
    structure_free(&st);
    arena_free(&mem);
    model_close(&m);
}

/* Of another base: another shape, more of its tensors than there are, fewer. */
static void test_other_bases(void **state) {
    (void)state;
    refused(TINY "head_dim16", GOLDEN "/methods/full/adapter", "self_attn.q_proj.weight has another shape than [64, 32]: was it made for another model");
    refused(TINY "untied_mha", GOLDEN "/methods/full/adapter", "another shape");
    refused(TINY "bias", GOLDEN "/methods/full/adapter", ".bias is missing");
}

/* --- trainable tokens ---------------------------------------------------------------------------------------------------- */
static void no_tokens(const char *base, const char *json, err want, const char *say) {
    struct model m;
    struct structure st = {0};
    arena mem = {0};
    struct trainable_tokens t;
    json_t *j = json_loads(json, 0, NULL);
    must(model_open(base, NULL, &m));
    err e = method_trainable_tokens.read(j, "here", &mem, &t);
    if (!e) e = structure_init(&st, &m, &method_trainable_tokens, &t, NULL);
    if (e != want || !strstr(err_text(), say)) flunk("%s: %d \"%s\"", json, e, err_text());
    json_decref(j);
    arena_free(&mem);
    model_close(&m);
}

static void test_tokens_refused(void **state) {
    (void)state;
    static const struct { const char *json; err e; const char *say; } list[] = {
        {"{\"token_indices\": []}", E_USAGE, "token_indices is empty"}, {"{}", E_USAGE, "token_indices is empty"}, {"{\"token_indices\": [3, 4, 3]}", E_USAGE, "token_indices has 3 twice"},
        {"{\"token_indices\": [-1]}", E_INPUT, "here: token_indices holds something that is no token's id"}, {"{\"token_indices\": [1.5]}", E_INPUT, "no token's id"},
        {"{\"token_indices\": 7}", E_INPUT, "must be a list of ids"}, {"{\"token_indices\": [96]}", E_USAGE, "96 is no token of this model, which has 96"},
        {"{\"token_indices\": [5], \"init_weights\": false}", E_UNSUPPORTED, "init_weights false"},
        {"{\"token_indices\": [5], \"target_modules\": [\"lm_head\"]}", E_UNSUPPORTED, "names another module than the token table, model.embed_tokens"}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) no_tokens(TINY "tied_gqa", list[i].json, list[i].e, list[i].say);
}

/* Of an untied model the head has no such rows, and nothing beside the embedding is trained. */
static void test_tokens_programs(void **state) {
    (void)state;
    static const int32_t ids[] = {9, 4};
    const struct trainable_tokens t = {.n = 2, .ids = ids};
    static const char *const bases[] = {TINY "tied_gqa", TINY "untied_mha"};
    for (int i = 0; i < 2; i++) {
        struct model m;
        struct structure st;
        struct program g;
        must(model_open(bases[i], NULL, &m));
        must(structure_init(&st, &m, &method_trainable_tokens, &t, NULL));
        assert_int_equal(param_count(&st.params), 2 * m.shape.width);
        must(program_build(&g, &m, MODE_TRAIN, &st, (struct capacity){64, 8, 0, 0, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, &backend_cpu, false));
        const struct inst *loss = &g.p.in[head_loss_at(&g)];
        assert_int_equal(has(loss->in[5]), !i);
        assert_int_equal(has(loss->out[5]), !i);
        assert_int_equal(count(&g, "embed_bwd"), 1);
        assert_int_equal(count(&g, "weight_grad"), 0);
        close_program(&g, &m, &st);
        must(model_open(bases[i], NULL, &m));
        must(structure_init(&st, &m, &method_trainable_tokens, &t, NULL));
        must(program_build(&g, &m, MODE_DECODE, &st, (struct capacity){8, 8, 4, 16, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, &backend_cpu, false));
        assert_int_equal(count(&g, "put_columns"), !i);
        close_program(&g, &m, &st);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_words),        cmocka_unit_test(test_backward_ends), cmocka_unit_test(test_ends_of_the_stack),
                                       cmocka_unit_test(test_no_base_left), cmocka_unit_test(test_copies_decode), cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_other_bases),  cmocka_unit_test(test_tokens_refused), cmocka_unit_test(test_tokens_programs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
