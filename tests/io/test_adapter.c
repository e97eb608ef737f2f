/* Adapter folders: what is written is read back bit for bit; rows of q and k change between GGUF's order in memory and
 * Hugging Face's in the file by the formula written out here; one folder gives one and the same model on the Hugging Face
 * base and on its GGUF twin; the settings file says what PEFT reads; everything that does not fit is refused by name. */
#define _GNU_SOURCE
#include "support/folder.h"
#include "support/gguf.h"
#include "support/support.h"
#include "base/file.h"
#include "cyclora/cyclora.h"
#include "gen/adapter.h"
#include "peft/lora.h"
#include <jansson.h>
#include <unistd.h>

static int make_root(void **state) {
    str b;
    if (own_folder_make(state)) return -1;
    cipher_gguf(&b);
    must(file_write(at("base.gguf"), b.p, b.n));
    str_free(&b);
    return 0;
}
/* Values that a lossy path would show: many bits, both signs, tiny ones, a negative zero. */
static void fill(float *w, size_t n) {
    uint32_t x = 12345;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        w[i] = (float)((int32_t)x) * 3.3e-11f;
    }
    w[0] = -0.0f;
    w[1] = 1e-40f;
    w[2] = -3.4e38f;
}

struct bench {
    struct model m;
    struct structure st;
    float *w;
    int modules;
};

static void start(struct bench *b, const char *base, const struct lora *l) {
    must(model_open(base, NULL, &b->m));
    must(structure_init(&b->st, &b->m, &method_lora, l, &b->modules));
    b->w = arena_f32(b->st.params.bytes);
    fill(b->w, b->st.params.bytes / 4);
}
static void finish(struct bench *b) {
    arena_f32_free(b->w, b->st.params.bytes);
    structure_free(&b->st);
    model_close(&b->m);
}

static const struct lora all = {.r = 4, .alpha = 8, .targets.of.take = TAKE_ALL_LINEAR};
static const struct lora qv = {.r = 3, .alpha = 7.5, .dropout = 0.25, .init = LORA_GAUSSIAN, .targets.of = {TAKE_NAMES, 2, (const char *const[]){"q_proj", "v_proj"}}};

static void test_round_trip(void **state) {
    (void)state;
    char gguf[256];
    snprintf(gguf, sizeof gguf, "%s/base.gguf", own_folder());
    const char *bases[] = {GOLDEN "/tiny_llama/tied_gqa", GOLDEN "/tiny_llama/untied_mha", GOLDEN "/cipher", gguf};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 2; k++) {
            struct bench b;
            const struct peft_method *method;
            const void *settings;
            arena mem = {0};
            start(&b, bases[i], k ? &qv : &all);
            assert_int_equal(b.modules, b.m.shape.layers * (k ? 2 : 7));
            size_t n = b.st.params.bytes;
            float *again = arena_f32(n);
            memset(again, 0xFF, n);
            must(adapter_write(at("trip"), &b.st, b.w, bases[i]));
            must(adapter_read(at("trip"), &b.st, again));
            for (size_t j = 0; j < n / 4; j++)
                if (memcmp(&b.w[j], &again[j], 4)) flunk("%s: number %zu is %.9g, was %.9g", bases[i], j, (double)again[j], (double)b.w[j]);
            must(adapter_read_config(at("trip"), &mem, &method, &settings));
            const struct lora *have = settings, *had = b.st.settings;
            assert_ptr_equal(method, &method_lora);
            assert_int_equal(have->r, had->r);
            assert_true(have->alpha == had->alpha && have->dropout == had->dropout && have->init == had->init);
            arena_free(&mem);
            arena_f32_free(again, n);
            finish(&b);
        }
}

/* Ranks, scales and modules by pattern, and what a word of ours becomes in the file. */
static void test_patterns(void **state) {
    (void)state;
    static const struct module_value ranks[] = {{"down_proj", 5}, {"layers\\.0\\.self_attn\\.q_proj", 3}}, alphas[] = {{"o_proj", 9}};
    const struct lora rich = {.r = 2, .alpha = 6, .rslora = true, .ranks = ranks, .n_ranks = 2, .alphas = alphas, .n_alphas = 1, .targets = {.of.take = TAKE_ALL_LINEAR,
        .except = {TAKE_NAMES, 1, (const char *const[]){"k_proj"}}, .layers = (const int[]){0, 2}, .n_layers = 2}};
    struct bench b;
    const struct peft_method *method;
    const void *settings;
    arena mem = {0};
    start(&b, GOLDEN "/tiny_llama/tied_gqa", &rich);
    assert_int_equal(b.modules, 2 * 6);
    must(adapter_write(at("rich"), &b.st, b.w, "org/base"));
    must(adapter_load(at("rich"), &b.m, &b.st, b.w));
    must(adapter_read_config(at("rich"), &mem, &method, &settings));
    const struct lora *have = settings;
    assert_int_equal(lora_rank(have, "model.layers.2.mlp.down_proj"), 5);
    assert_int_equal(lora_rank(have, "model.layers.0.self_attn.q_proj"), 3);
    assert_int_equal(lora_rank(have, "model.layers.2.self_attn.q_proj"), 2);
    assert_true(lora_scale(have, "model.layers.0.self_attn.o_proj") == 9 / sqrt(2) && lora_scale(have, "model.layers.0.mlp.down_proj") == 6 / sqrt(5));
    assert_true(have->targets.of.take == TAKE_NAMES && have->targets.of.n == 6 && have->targets.n_layers == 2);
    struct structure again;
    int modules;
    must(structure_init(&again, &b.m, method, settings, &modules));
    assert_int_equal(modules, b.modules);
    structure_free(&again);
    finish(&b);
    struct lora other = rich; /* another alpha of one module is another adapter */
    other.n_alphas = 0;
    start(&b, GOLDEN "/tiny_llama/tied_gqa", &other);
    assert_int_equal(adapter_load(at("rich"), &b.m, &b.st, b.w), E_USAGE);
    if (!strstr(err_text(), "lora_alpha 9") || !strstr(err_text(), "o_proj")) flunk("%s", err_text());
    finish(&b);
    arena_free(&mem);
}

/* attention and mlp: the endings, or whole names where an ending would take the other's too. */
static void test_words(void **state) {
    (void)state;
    static const struct { const char *base; enum take take; int modules; const char *name; } cases[] = {
        {GOLDEN "/tiny_llama/tied_gqa", TAKE_ATTENTION, 3 * 4, "o_proj"}, {GOLDEN "/tiny_llama/tied_gqa", TAKE_MLP, 3 * 3, "up_proj"},
        {GOLDEN "/families/gpt2", TAKE_ATTENTION, 2 * 2, "attn.c_proj"},  {GOLDEN "/families/gpt2", TAKE_MLP, 2 * 2, "mlp.c_proj"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bench b;
        struct lora l = {.r = 2, .alpha = 4, .targets.of.take = cases[i].take};
        start(&b, cases[i].base, &l);
        assert_int_equal(b.modules, cases[i].modules);
        must(adapter_write(at("words"), &b.st, b.w, "org/base"));
        json_t *j = json_load_file(at("words/adapter_config.json"), 0, NULL), *list = json_object_get(j, "target_modules"), *v;
        bool found = false;
        size_t k;
        json_array_foreach(list, k, v) found |= str_ends(json_string_value(v), cases[i].name);
        if (!found) flunk("%s is not among the %zu names", cases[i].name, json_array_size(list));
        json_decref(j);
        const struct peft_method *method;
        const void *settings;
        arena mem = {0};
        struct structure again;
        int modules;
        must(adapter_read_config(at("words"), &mem, &method, &settings));
        must(structure_init(&again, &b.m, method, settings, &modules));
        assert_int_equal(modules, cases[i].modules);
        structure_free(&again);
        arena_free(&mem);
        finish(&b);
    }
}

/* Row h*D + j of the file, of the first half of a head (j < D/2), is row h*D + 2j in memory; of the second, 2(j - D/2) + 1. */
static void test_rope_order(void **state) {
    (void)state;
    struct bench b;
    struct tensors ts;
    int seen = 0;
    start(&b, at("base.gguf"), &all);
    must(adapter_write(at("rope"), &b.st, b.w, "base.gguf"));
    must(tensors_open(at("rope/adapter_model.safetensors"), &ts));
    for (int i = 0; i < b.st.params.n; i++)
        for (int k = 0; k < b.st.params.p[i].n_slices; k++) {
            const struct param *p = &b.st.params.p[i];
            const struct param_slice *s = &p->slice[k];
            char name[300];
            snprintf(name, sizeof name, "base_model.model.%s", s->name);
            const struct tensor *t = fixture(&ts, name);
            bool q = strstr(name, "q_proj.lora_B"), kk = strstr(name, "k_proj.lora_B");
            int64_t D = 24, heads = q ? 4 : kk ? 2 : 0, cols = p->d[1];
            assert_int_equal(s->rope_heads, heads);
            assert_int_equal(t->d[0], s->rows);
            for (int64_t row = 0; row < s->rows; row++) {
                int64_t h = row / D, j = row % D, mem = !heads ? row : j < D / 2 ? h * D + 2 * j : h * D + 2 * (j - D / 2) + 1;
                const float *want = b.w + p->off / 4 + (s->row0 + mem) * cols;
                if (memcmp(f32_of(t) + row * cols, want, (size_t)cols * 4)) flunk("%s: row %lld is not row %lld in memory", name, (long long)row, (long long)mem);
            }
            seen += heads > 0;
        }
    assert_int_equal(seen, 2 * 3);
    tensors_close(&ts);
    finish(&b);
}

/* One adapter folder, the base as a Hugging Face folder and as GGUF: the same likelihoods, and not the bare base's. */
static void test_one_adapter_two_bases(void **state) {
    (void)state;
    struct bench b;
    start(&b, GOLDEN "/cipher", &all);
    size_t n = b.st.params.bytes / 4;
    for (size_t i = 0; i < n; i++) b.w[i] = sinf((float)(i % 977)) * 0.1f;
    must(adapter_write(at("both"), &b.st, b.w, "cipher"));
    finish(&b);
    static const char text[] = "msletqtnaj\nIQLOCJKMTO abc";
    const char *bases[] = {GOLDEN "/cipher", at("base.gguf")};
    float nll[2][sizeof text], bare[sizeof text];
    size_t n_ids = 0;
    for (int i = 0; i < 2; i++) {
        cyc_model *m;
        cyc_adapter *a;
        int32_t *ids;
        if (cyc_model_open(bases[i], &m) || cyc_adapter_open(m, at("both"), &a) || cyc_tokenize(m, text, sizeof text - 1, &ids, &n_ids)) flunk("%s", cyc_error());
        assert_int_equal(n_ids, sizeof text - 1);
        assert_int_equal(cyc_score_ids(m, a, ids, n_ids, nll[i]), 0);
        assert_int_equal(cyc_score_ids(m, NULL, ids, n_ids, bare), 0);
        cyc_free(ids);
        cyc_adapter_close(a);
        cyc_model_close(m);
    }
    close_to("nll on GGUF", nll[1], nll[0], n_ids, 1e-5, 1e-5);
    double moved = 0;
    for (size_t i = 1; i < n_ids; i++) moved += fabs((double)nll[0][i] - (double)bare[i]);
    assert_true(moved > 1);
}

/* --- the settings file ---------------------------------------------------------------------------------------------- */
/* PEFT's keys since 0.3: what every reader knows. A key that an old PEFT does not know makes it fail. */
static const char *const keys[] = {"auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights",
                                   "lora_alpha", "lora_dropout", "modules_to_save", "peft_type", "r", "revision", "target_modules", "task_type"};
static const char *const later_keys[] = {"alpha_pattern", "rank_pattern", "use_rslora", "use_dora", "exclude_modules", "lora_bias", "trainable_token_indices", "layer_replication",
                                         "loftq_config", "megatron_core", "megatron_config", "peft_version", "layers_to_transform", "layers_pattern"};

static bool listed(const char *name, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(name, list[i])) return true;
    return false;
}

static void test_settings_file(void **state) {
    (void)state;
    struct bench b;
    str text = {0};
    start(&b, GOLDEN "/tiny_llama/tied_gqa", &qv);
    must(adapter_write(at("settings"), &b.st, b.w, "org/base"));
    finish(&b);
    must(file_read(at("settings/adapter_config.json"), &text));
    json_t *j = json_loads(text.p, JSON_REJECT_DUPLICATES, NULL), *v;
    assert_non_null(j);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!json_object_get(j, keys[i])) flunk("no %s", keys[i]);
    const char *key, *last = "";
    json_object_foreach(j, key, v) {
        if (!listed(key, keys, sizeof keys / sizeof *keys) && !listed(key, later_keys, sizeof later_keys / sizeof *later_keys)) flunk("'%s' is no key that PEFT's readers share", key);
    }
    for (const char *line = text.p; (line = strstr(line, "\n  \"")); line += 4) { /* sorted, indented by two */
        char name[64];
        assert_int_equal(sscanf(line, "\n  \"%63[^\"]\":", name), 1);
        if (strcmp(last, name) >= 0) flunk("%s stands before %s", last, name);
        last = json_object_iter_key(json_object_iter_at(j, name));
    }
    assert_string_equal(json_string_value(json_object_get(j, "base_model_name_or_path")), "org/base");
    assert_string_equal(json_string_value(json_object_get(j, "peft_type")), "LORA");
    assert_string_equal(json_string_value(json_object_get(j, "task_type")), "CAUSAL_LM");
    assert_string_equal(json_string_value(json_object_get(j, "bias")), "none");
    assert_true(json_is_true(json_object_get(j, "inference_mode")));
    assert_true(json_is_false(json_object_get(j, "fan_in_fan_out")));
    assert_int_equal(json_integer_value(json_object_get(j, "r")), 3);
    assert_true(json_real_value(json_object_get(j, "lora_alpha")) == 7.5);
    assert_true(json_real_value(json_object_get(j, "lora_dropout")) == 0.25);
    assert_string_equal(json_string_value(json_object_get(j, "init_lora_weights")), "gaussian");
    assert_int_equal(json_array_size(json_object_get(j, "target_modules")), 2);
    json_decref(j);
    str_free(&text);
    start(&b, GOLDEN "/tiny_llama/tied_gqa", &all); /* all-linear is written out, whole alphas as integers */
    must(adapter_write(at("settings"), &b.st, b.w, "org/base"));
    finish(&b);
    j = json_load_file(at("settings/adapter_config.json"), 0, NULL);
    assert_int_equal(json_array_size(json_object_get(j, "target_modules")), 7);
    assert_true(json_is_integer(json_object_get(j, "lora_alpha")));
    assert_true(json_is_true(json_object_get(j, "init_lora_weights")));
    json_decref(j);
}

/* --- refusals ------------------------------------------------------------------------------------------------------- */
static void refused_(const char *folder, ...) {
    cyc_model *m;
    cyc_adapter *a;
    if (cyc_model_open(GOLDEN "/cipher", &m)) flunk("%s", cyc_error());
    int code = cyc_adapter_open(m, folder, &a);
    if (code != CYC_BAD_INPUT || a) flunk("%s: code %d, %s", folder, code, cyc_error());
    va_list ap;
    va_start(ap, folder);
    for (const char *part; (part = va_arg(ap, const char *));)
        if (!strstr(cyc_error(), part)) flunk("\"%s\" is not in: %s", part, cyc_error());
    va_end(ap);
    if (strchr(cyc_error(), '\n')) flunk("two lines: %s", cyc_error());
    cyc_model_close(m);
}
#define refused(...) refused_(__VA_ARGS__, NULL)

/* The good folder that the cases start from. */
static void good(const char *name) {
    struct bench b;
    start(&b, GOLDEN "/cipher", &all);
    must(adapter_write(at(name), &b.st, b.w, "cipher"));
    finish(&b);
}

static void with_key(const char *key, const char *json) {
    json_t *j = json_load_file(at("good/adapter_config.json"), 0, NULL);
    if (json) json_object_set_new(j, key, json_loads(json, JSON_DECODE_ANY, NULL));
    else json_object_del(j, key);
    assert_int_equal(json_dump_file(j, at("bad/adapter_config.json"), JSON_INDENT(2)), 0);
    json_decref(j);
}

static void test_refused_settings(void **state) {
    (void)state;
    static const struct { const char *key, *value, *says; } cases[] = {
        {"use_dora", "true", "lora_magnitude_vector is missing"}, {"peft_type", "\"LOHA\"", "LOHA"}, {"peft_type", NULL, "peft_type"},
        {"peft_type", "\"OFT\"", "supported: LORA"}, {"bias", "\"both\"", "lora_only"}, {"rank_pattern", "{\"q_proj\": 8}", "another shape"},
        {"rank_pattern", "{\"(q_proj\": 8}", "no regular expression"}, {"rank_pattern", "{\"((.*)*)*[xz]\": 8}", "takes too long"}, {"rank_pattern", "{\"q_proj\": 0}", "rank_pattern"}, {"rank_pattern", "{\"q_proj\": 2.5}", "rank_pattern"},
        {"rank_pattern", "[8]", "rank_pattern"}, {"alpha_pattern", "{\"q_proj\": true}", "alpha_pattern"}, {"modules_to_save", "[3]", "that is no name"}, {"modules_to_save", "[\"lm_head\"]", "lm_head.weight is missing"}, {"modules_to_save", "[\"query\"]", "lora.modules_to_save: no module of this model that could be trained whole ends in 'query'"}, {"modules_to_save", "[\"q_proj\"]", "q_proj is in lora.target_modules and in lora.modules_to_save"}, {"layers_to_transform", "[0]", "tensors"}, {"layers_to_transform", "[-1]", "layers_to_transform"},
        {"layers_to_transform", "\"all\"", "layers_to_transform"}, {"layers_to_transform", "[77]", "match no module"}, {"target_modules", "[\"q_proj\", \"lm_head\"]", "lm_head.lora_A.weight is missing"},
        {"lora_bias", "true", "lora_bias"}, {"trainable_token_indices", "[1]", "trainable_token_indices"}, {"exclude_modules", "[\"q_proj\"]", "tensors"}, {"exclude_modules", "\"*\"", "exclude_modules"},
        {"layer_replication", "[[0, 2]]", "layer_replication"}, {"target_parameters", "[\"x\"]", "target_parameters"},
        {"init_lora_weights", "\"pissa_niter_4\"", "pissa"}, {"init_lora_weights", "\"olora\"", "olora"}, {"use_qalora", "true", "use_qalora"},
        {"r", NULL, "'r'"}, {"r", "0", "lora.r"}, {"r", "-4", "lora.r"}, {"r", "100000", "lora.r"}, {"r", "4294967300", "lora.r"}, {"r", "\"4\"", "'r'"}, {"lora_alpha", NULL, "lora_alpha"},
        {"lora_dropout", "1.5", "dropout"}, {"target_modules", "\".*q_proj\"", "tensors"}, {"target_modules", "\"(q_proj\"", "no regular expression"}, {"target_modules", "[]", "target_modules"}, {"target_modules", "[3]", "target_modules"},
        {"target_modules", "[\"query\"]", "q_proj"}, /* matches nothing: says what would */
        {"r", "8", "another shape"}, {"r", "2", "another shape"}, {"target_modules", "[\"q_proj\"]", "tensors"},
    };
    good("good");
    good("bad");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        with_key(cases[i].key, cases[i].value);
        refused(at("bad"), "bad", cases[i].says);
    }
    with_key("some_new_key", "null"); /* keys of later PEFTs that say nothing are fine */
    cyc_model *m;
    cyc_adapter *a;
    if (cyc_model_open(GOLDEN "/cipher", &m) || cyc_adapter_open(m, at("bad"), &a)) flunk("%s", cyc_error());
    cyc_adapter_close(a);
    cyc_model_close(m);
    must(file_write(at("bad/adapter_config.json"), "{\"r\": 4,", 8));
    refused(at("bad"), "bad/adapter_config.json");
    unlink(at("bad/adapter_config.json"));
    refused(at("bad"), "bad/adapter_config.json");
    refused(at("nowhere"), "nowhere");
}

enum damage { MISSING, EXTRA, TRANSPOSED, RENAMED, NO_PREFIX, OTHER_RANK, VECTOR };
static void damaged(enum damage what) {
    struct tensors ts;
    arena mem = {0};
    must(tensors_open(at("good/adapter_model.safetensors"), &ts));
    struct tensor *t = arena_alloc(&mem, (size_t)(ts.n + 1) * sizeof *t);
    memcpy(t, ts.t, (size_t)ts.n * sizeof *t);
    int n = ts.n, k = n / 2;
    switch (what) {
    case MISSING: t[k] = t[--n]; break;
    case EXTRA: t[n] = t[k], t[n++].name = "base_model.model.lm_head.lora_A.weight"; break;
    case TRANSPOSED: t[k].d[0] = ts.t[k].d[1], t[k].d[1] = ts.t[k].d[0]; break;
    case RENAMED: t[k].name = arena_printf(&mem, "%s.default", t[k].name); break;
    case NO_PREFIX: for (int i = 0; i < n; i++) t[i].name += strlen("base_model.model."); break;
    case OTHER_RANK: /* three of the four rows of an A */
        while (!str_ends(t[k].name, ".lora_A.weight")) k++;
        t[k].bytes = t[k].bytes / 4 * 3, t[k].d[0] = 3;
        break;
    case VECTOR: t[k].d[0] *= t[k].d[1], t[k].nd = 1; break;
    }
    must(safetensors_write(at("bad/adapter_model.safetensors"), t, n));
    tensors_close(&ts);
    arena_free(&mem);
}

static void test_refused_tensors(void **state) {
    (void)state;
    good("good");
    good("bad");
    damaged(MISSING), refused(at("bad"), "is missing", "lora_");
    damaged(EXTRA), refused(at("bad"), "holds 43 tensors", "use 42");
    damaged(TRANSPOSED), refused(at("bad"), "another shape");
    damaged(RENAMED), refused(at("bad"), "is missing");
    damaged(NO_PREFIX), refused(at("bad"), "base_model.model.");
    damaged(OTHER_RANK), refused(at("bad"), "another shape", "lora_A");
    damaged(VECTOR), refused(at("bad"), "another shape");
    must(file_write(at("bad/adapter_model.safetensors"), "", 0));
    refused(at("bad"), "adapter_model.safetensors");
    unlink(at("bad/adapter_model.safetensors"));
    refused(at("bad"), "adapter_model.safetensors");
    refused(GOLDEN "/tiny_llama/tied_gqa/adapter_all_r4", "another shape"); /* made for another model */
}

/* Numbers that are none are never written, and the file that was there stays. */
static void test_not_finite(void **state) {
    (void)state;
    struct bench b;
    char before[33], after[33];
    good("finite");
    must(file_hash(at("finite/adapter_model.safetensors"), before));
    start(&b, GOLDEN "/cipher", &all);
    b.w[77] = NAN;
    assert_int_equal(adapter_write(at("finite"), &b.st, b.w, "cipher"), E_NUMERIC);
    if (!strstr(err_text(), "lora_")) flunk("%s", err_text());
    finish(&b);
    must(file_hash(at("finite/adapter_model.safetensors"), after));
    assert_string_equal(before, after);
}

/* A structure of one's own against a folder: the scale must be the same. */
static void test_scale(void **state) {
    (void)state;
    struct bench b;
    struct lora other = all;
    good("good");
    other.alpha = 16;
    start(&b, GOLDEN "/cipher", &other);
    assert_int_equal(adapter_load(at("good"), &b.m, &b.st, b.w), E_USAGE);
    if (!strstr(err_text(), "lora_alpha 8") || !strstr(err_text(), "16")) flunk("%s", err_text());
    finish(&b);
    start(&b, GOLDEN "/cipher", &all);
    must(adapter_load(at("good"), &b.m, &b.st, b.w));
    finish(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_patterns),         cmocka_unit_test(test_words),           cmocka_unit_test(test_rope_order),      cmocka_unit_test(test_one_adapter_two_bases),
                                       cmocka_unit_test(test_settings_file),    cmocka_unit_test(test_refused_settings), cmocka_unit_test(test_refused_tensors),
                                       cmocka_unit_test(test_not_finite),       cmocka_unit_test(test_scale)};
    return cmocka_run_group_tests(tests, make_root, own_folder_remove);
}
