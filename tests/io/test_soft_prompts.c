/* Adapters of virtual tokens as files and through the public API: what is written is read back bit for bit, on a Hugging Face base and on
 * its GGUF twin, whose keys have their columns in another order; a prompt that is a text scores, generates and embeds like the text; nobody
 * who counts tokens sees virtual ones; PEFT's own folders are read; what does not fit is refused by name. */
#define _GNU_SOURCE
#include "support/folder.h"
#include "support/gguf.h"
#include "support/settings.h"
#include "support/support.h"
#include "base/file.h"
#include "cyclora/cyclora.h"
#include "gen/adapter.h"
#include "peft/p_tuning.h"
#include "peft/prefix_tuning.h"
#include "peft/prompt_tuning.h"
#include <jansson.h>
#include <unistd.h>

#define CIPHER GOLDEN "/cipher"
static char twin[64];
static const char *const bases[] = {CIPHER, twin}; /* the same base as a folder and as a GGUF file */

static int make_root(void **state) {
    str b;
    if (own_folder_make(state)) return -1;
    snprintf(twin, sizeof twin, "%s", at("base.gguf"));
    cipher_gguf(&b);
    must(file_write(twin, b.p, b.n));
    str_free(&b);
    return 0;
}
static const int32_t text_ids[] = {9, 4, 12};
static const struct prompt_tuning random_prompt = {.of.tokens = 6, .text = ""},
                                  text_prompt = {.of.tokens = 3, .init = PROMPT_TEXT, .text = "f.a", .n_ids = 3, .ids = text_ids};
static const struct p_tuning made_prompt = {.of.tokens = 5, .hidden = 10, .trains = true};
static const struct prefix_tuning prefix = {.of.tokens = 4};
static const struct {
    const struct peft_method *method;
    const void *settings;
} kinds[] = {{&method_prompt_tuning, &random_prompt}, {&method_p_tuning, &made_prompt}, {&method_prefix_tuning, &prefix}};

/* A fresh adapter for a base, written to `folder`. */
static void write_fresh(const char *base, const struct peft_method *method, const void *settings, const char *folder) {
    struct model m;
    struct structure st;
    must(model_open(base, NULL, &m));
    must(structure_init(&st, &m, method, settings, NULL));
    float *w = arena_f32(st.params.bytes);
    must(param_fill(&st.params, 7, w));
    must(adapter_write(folder, &st, w, "cipher"));
    arena_f32_free(w, st.params.bytes);
    structure_free(&st);
    model_close(&m);
}

static void test_round_trip(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int i = 0; i < 2; i++) {
            struct model m;
            struct structure st;
            struct tensors ts;
            must(model_open(bases[i], NULL, &m));
            must(structure_init(&st, &m, kinds[k].method, kinds[k].settings, NULL));
            float *w = arena_f32(st.params.bytes), *again = arena_f32(st.params.bytes);
            must(param_fill(&st.params, 7, w));
            must(adapter_write(at("trip"), &st, w, "cipher"));
            must(adapter_load(at("trip"), &m, &st, again));
            assert_memory_equal(w, again, st.params.bytes);
            must(tensors_open(at("trip/adapter_model.safetensors"), &ts));
            assert_int_equal(ts.n, 1); /* what PEFT reads: one key without a prefix */
            assert_string_equal(ts.t[0].name, "prompt_embeddings");
            tensors_close(&ts);
            arena_f32_free(w, st.params.bytes);
            arena_f32_free(again, st.params.bytes);
            structure_free(&st);
            model_close(&m);
            must(dir_remove(at("trip")));
        }
}

static void open_both(const char *base, const char *folder, cyc_model **m, cyc_adapter **a) {
    if (cyc_model_open(base, m) || cyc_adapter_open(*m, folder, a)) flunk("%s", cyc_error());
}

/* One folder, one model: on the folder of a base and on its GGUF file. */
static void test_two_bases(void **state) {
    (void)state;
    static const int32_t ids[] = {7, 12, 9, 2, 30, 41, 25, 8, 8, 19};
    enum { N = sizeof ids / sizeof *ids };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        float nll[2][N], bare[N];
        write_fresh(CIPHER, kinds[k].method, kinds[k].settings, at("both"));
        for (int i = 0; i < 2; i++) {
            cyc_model *m;
            cyc_adapter *a;
            open_both(bases[i], at("both"), &m, &a);
            assert_int_equal(cyc_score_ids(m, a, ids, N, nll[i]), 0);
            assert_int_equal(cyc_score_ids(m, NULL, ids, N, bare), 0);
            cyc_adapter_close(a);
            cyc_model_close(m);
        }
        close_to("nll on GGUF", nll[1], nll[0], N, 1e-5, 1e-5);
        double moved = 0;
        for (size_t i = 1; i < N; i++) moved += fabs((double)nll[0][i] - (double)bare[i]);
        assert_true(moved > 0.01);
        must(dir_remove(at("both")));
    }
}

/* A prompt of a text's rows is the text, for everyone who asks: scores, texts, features; but it is not counted. */
static void test_as_a_text(void **state) {
    (void)state;
    enum { N = 7, ALL = 3 + N, NEW = 6 };
    static const int32_t ids[N] = {20, 5, 13, 2, 27, 40, 33};
    int32_t all[ALL];
    float nll[ALL], want[ALL], *rows[2];
    const int32_t *prompt[2] = {ids, all};
    const size_t n[2] = {N, ALL};
    cyc_generation made[2];
    cyc_generate_stats stats;
    cyc_model *m;
    cyc_adapter *a;
    memcpy(all, text_ids, sizeof text_ids);
    memcpy(all + 3, ids, sizeof ids);
    write_fresh(CIPHER, &method_prompt_tuning, &text_prompt, at("text"));
    open_both(CIPHER, at("text"), &m, &a);
    assert_int_equal(cyc_score_ids(m, a, ids, N, nll), 0);
    assert_int_equal(cyc_score_ids(m, NULL, all, ALL, want), 0);
    assert_true(nll[0] == 0);
    close_to("nll", nll + 1, want + 4, N - 1, 1e-6, 1e-6);
    for (int i = 0; i < 2; i++)
        if (cyc_generate(m, i ? NULL : a, &prompt[i], &n[i], 1,
                         &(cyc_generate_options){.max_new_tokens = NEW, .ignore_eos = 1, .threads = 1}, &made[i], i ? NULL : &stats))
            flunk("%s", cyc_error());
    assert_int_equal(made[0].n, NEW);
    assert_memory_equal(made[0].ids, made[1].ids, NEW * sizeof *made[0].ids);
    assert_int_equal(stats.prompt_tokens, N);
    const size_t C = (size_t)cyc_width(m);
    for (int i = 0; i < 2; i++) rows[i] = calloc(C, sizeof **rows);
    assert_int_equal(cyc_embed_ids(m, a, ids, N, 0, rows[0]), 0); /* the mean over the text, not over what stands before it */
    assert_int_equal(cyc_embed_ids(m, NULL, ids, N, 0, rows[1]), 0);
    double moved = 0, size = 0;
    for (size_t c = 0; c < C; c++) moved += fabs((double)rows[0][c] - (double)rows[1][c]), size += fabs((double)rows[1][c]);
    assert_true(moved > 0 && moved < size);
    for (int i = 0; i < 2; i++) cyc_free(made[i].ids), free(rows[i]);
    cyc_adapter_close(a);
    cyc_model_close(m);
}

/* Virtual tokens take positions: a text that fits the context alone may not fit with them. */
static void test_context(void **state) {
    (void)state;
    cyc_model *m;
    cyc_adapter *a;
    char *json;
    write_fresh(CIPHER, &method_prompt_tuning, &random_prompt, at("room"));
    open_both(CIPHER, at("room"), &m, &a);
    assert_int_equal(cyc_inspect(CIPHER, &json), 0);
    json_t *j = json_loads(json, 0, NULL);
    const size_t context = (size_t)json_integer_value(json_object_get(j, "context"));
    int32_t *ids = calloc(context, sizeof *ids);
    float *nll = calloc(context, sizeof *nll);
    for (size_t i = 0; i < context; i++) ids[i] = 4;
    assert_int_equal(cyc_score_ids(m, NULL, ids, context, nll), 0);
    assert_int_equal(cyc_score_ids(m, a, ids, context - 6, nll), 0);
    assert_int_not_equal(cyc_score_ids(m, a, ids, context - 5, nll), 0);
    assert_non_null(strstr(cyc_error(), "the adapter's 6 virtual ones are more than the model's context"));
    const int32_t *prompt[] = {ids};
    const size_t n[] = {context - 10};
    cyc_generation out;
    assert_int_not_equal(cyc_generate(m, a, prompt, n, 1, &(cyc_generate_options){.max_new_tokens = 5}, &out, NULL), 0);
    assert_non_null(strstr(cyc_error(), "the adapter's virtual ones and up to 5 new ones"));
    json_decref(j);
    cyc_free(json);
    free(ids);
    free(nll);
    cyc_adapter_close(a);
    cyc_model_close(m);
}

/* --- settings ------------------------------------------------------------------------------------------------------------ */
static void test_refused(void **state) {
    (void)state;
#define PROMPT(more) "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3" more "}"
#define PREFIX(more) "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3" more "}"
#define MADE(more)   "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 3" more "}"
    must(settings_read(PROMPT(", \"token_dim\": 96, \"num_layers\": 3, \"num_attention_heads\": 4, \"prompt_tuning_init\": \"TEXT\", "
                              "\"prompt_tuning_init_text\": \"a\""),
                       CIPHER));
    must(settings_read(PREFIX(", \"token_dim\": 48, \"prefix_projection\": true, \"inference_mode\": true"),
                       CIPHER)); /* projected already */
    must(settings_read(MADE(", \"encoder_reparameterization_type\": \"LSTM\", \"inference_mode\": true"), CIPHER));
    settings_refused("{\"peft_type\": \"PROMPT_TUNING\"}", CIPHER, E_INPUT, "'num_virtual_tokens' is missing");
    settings_refused("{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": -4}", CIPHER, E_INPUT, "'num_virtual_tokens' is no size");
    settings_refused("{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 9999999}", CIPHER, E_USAGE,
            "prefix_tuning.num_virtual_tokens is 9999999; it must be 1 to 4096");
    settings_refused(PROMPT(", \"token_dim\": \"wide\""), CIPHER, E_INPUT, "'token_dim' is no size");
    settings_refused(PROMPT(", \"num_transformer_submodules\": 2"), CIPHER, E_UNSUPPORTED, "num_transformer_submodules 2");
    settings_refused(PROMPT(", \"modules_to_save\": [\"lm_head\"]"), CIPHER, E_UNSUPPORTED, "'modules_to_save'");
    settings_refused(PROMPT(", \"prompt_tuning_init\": \"TEXT\""), CIPHER, E_USAGE, "needs prompt_tuning_init_text");
    settings_refused(PROMPT(", \"prompt_tuning_init_ids\": [3, 4711]"), CIPHER, E_INPUT, "token id 4711 is not in the vocabulary of 48");
    settings_refused(PROMPT(", \"token_dim\": 64"), CIPHER, E_USAGE, "made for a base with token_dim 64, this one has 96");
    settings_refused(PREFIX(", \"token_dim\": 96"), CIPHER, E_USAGE, "made for a base with token_dim 96, this one has 48");
    settings_refused(PROMPT(", \"num_layers\": 5"), CIPHER, E_USAGE, "made for a base of 5 layers, this one has 3");
    settings_refused(PREFIX(", \"prefix_projection\": true"), CIPHER, E_UNSUPPORTED, "prefix_projection is not supported");
    settings_refused(MADE(", \"encoder_reparameterization_type\": \"LSTM\""), CIPHER, E_UNSUPPORTED, "LSTM is not trained here");
    settings_refused(MADE(", \"encoder_hidden_size\": -1"), CIPHER, E_USAGE, "encoder_hidden_size is -1");
    settings_refused(PROMPT(""), GOLDEN "/families/t5", E_UNSUPPORTED, "prompt_tuning of an encoder-decoder");
    settings_refused(PREFIX(""), GOLDEN "/families/t5", E_UNSUPPORTED, "prefix_tuning of an encoder-decoder");
    settings_refused(MADE(""), GOLDEN "/families/t5", E_UNSUPPORTED, "p_tuning of an encoder-decoder");
}

/* Training that is to go on from a folder that does not suit. */
static void test_other_folder(void **state) {
    (void)state;
    struct model m;
    struct structure st;
    struct prompt_tuning other = random_prompt;
    other.of.tokens = 8;
    write_fresh(CIPHER, &method_prompt_tuning, &random_prompt, at("six"));
    must(model_open(CIPHER, NULL, &m));
    must(structure_init(&st, &m, &method_prompt_tuning, &other, NULL));
    float *w = arena_f32(st.params.bytes);
    assert_int_equal(adapter_load(at("six"), &m, &st, w), E_USAGE);
    if (!strstr(err_text(), "was made with prompt_tuning.num_virtual_tokens 6, the configuration says 8")) flunk("%s", err_text());
    assert_int_equal(adapter_load(GOLDEN "/methods/prompt/adapter", &m, &st, w), E_USAGE);
    if (!strstr(err_text(), "num_virtual_tokens 3")) flunk("%s", err_text());
    assert_int_equal(adapter_load(GOLDEN "/methods/prefix/adapter", &m, &st, w), E_USAGE);
    if (!strstr(err_text(), "is a prefix_tuning adapter, the configuration says prompt_tuning")) flunk("%s", err_text());
    arena_f32_free(w, st.params.bytes);
    structure_free(&st);
    other.of.tokens = 3;
    must(structure_init(&st, &m, &method_prompt_tuning, &other, NULL));
    w = arena_f32(st.params.bytes);
    assert_int_equal(adapter_load(GOLDEN "/methods/prompt/adapter", &m, &st, w), E_USAGE);
    if (!strstr(err_text(), "was made for a base with token_dim 32, this one has 96")) flunk("%s", err_text());
    arena_f32_free(w, st.params.bytes);
    structure_free(&st);
    model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_two_bases),
                                       cmocka_unit_test(test_as_a_text),  cmocka_unit_test(test_context),
                                       cmocka_unit_test(test_refused),    cmocka_unit_test(test_other_folder)};
    return cmocka_run_group_tests(tests, make_root, own_folder_remove);
}
