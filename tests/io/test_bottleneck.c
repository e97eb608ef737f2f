/* Bottleneck adapters as files: what is written is read back bit for bit, on every family, under the names that AdapterHub gives; its own
 * folders are read whatever the adapter's name and the model around it were; what does not fit, or is not computed here, is refused by name.
 * And where nothing stands nothing is emitted. */
#define _GNU_SOURCE
#include "support/folder.h"
#include "support/settings.h"
#include "support/support.h"
#include "base/file.h"
#include "gen/adapter.h"
#include "peft/bottleneck.h"
#include <jansson.h>

#define CIPHER GOLDEN "/cipher"
static const struct bottleneck houlsby = {.name = "default", .attention = true, .ffn = true, .activation = "swish", .factor = 4, .scaling = 1},
                               pfeiffer = {.name = "default", .ffn = true, .sum_first = SUM_BY_BASE, .activation = "relu", .factor = 4, .scaling = 1};

static const struct {
    const char *base, *attention, *ffn; /* AdapterHub's names of what stands in layer 1 */
    int norms_apart;
} families[] = {{"tiny_llama/tied_gqa", "model.layers.1.attention_adapters", "model.layers.1.output_adapters", 0},
                {"families/mistral_full", "model.layers.1.attention_adapters", "model.layers.1.output_adapters", 0},
                {"families/qwen2", "model.layers.1.attention_adapters", "model.layers.1.output_adapters", 0},
                {"families/qwen3", "model.layers.1.attention_adapters", "model.layers.1.output_adapters", 0},
                {"families/smollm3", "model.layers.1.attention_adapters", "model.layers.1.output_adapters", 0},
                {"families/phi3", "model.layers.1.attention_adapters", "model.layers.1.output_adapters", 0},
                {"families/gemma2", "model.layers.1.attention_adapters", "model.layers.1.output_adapters", 1},
                {"families/gemma3", "model.layers.1.attention_adapters", "model.layers.1.output_adapters", 1},
                {"families/gpt2", "transformer.h.1.attention_adapters", "transformer.h.1.output_adapters", 0},
                {"families/t5", "encoder.block.1.layer.0", "decoder.block.1.layer.2", 0},
                {"families/bert", "bert.encoder.layer.1.attention.output", "bert.encoder.layer.1.output", 0}};
enum { FAMILIES = sizeof families / sizeof *families, ENCODER = FAMILIES - 1 };

static void open_base(int f, struct model *m) {
    char path[128];
    snprintf(path, sizeof path, GOLDEN "/%s", families[f].base);
    must(model_open(path, NULL, m));
}

/* An encoder writes nothing, so its adapters stand beside a classifier. */
static err structure_of(int f, const struct model *m, const struct bottleneck *b, struct structure *st) {
    const struct head head = {.classes = f == ENCODER ? 3 : 0};
    return structure_init_head(st, m, &method_bottleneck, b, &head, NULL);
}

static void test_every_family(void **state) {
    (void)state;
    for (int f = 0; f < FAMILIES; f++)
        for (int one = 0; one < 2; one++) {
            struct model m;
            struct structure st;
            struct tensors ts;
            char name[256];
            open_base(f, &m);
            must(structure_of(f, &m, one ? &pfeiffer : &houlsby, &st));
            const int layers = (int)(m.shape.layers + m.shape.encoder_layers);
            assert_int_equal(st.params.n, layers * (one ? 4 : 8) + (f == ENCODER ? 2 : 0));
            assert_int_equal(((const struct bottleneck *)st.settings)->sum_first, one && !families[f].norms_apart ? SUM_YES : SUM_NO);
            float *w = arena_f32(st.params.bytes), *again = arena_f32(st.params.bytes);
            must(param_fill(&st.params, 7, w));
            must(adapter_write(at("trip"), &st, w, "base"));
            must(adapter_load(at("trip"), &m, &st, again));
            assert_memory_equal(w, again, st.params.bytes);
            must(tensors_open(at("trip/adapter.safetensors"), &ts));
            for (int k = one; k < 2; k++) {
                snprintf(name, sizeof name, "%s.adapters.default.adapter_down.0.weight", k ? families[f].ffn : families[f].attention);
                const struct tensor *t = fixture(&ts, name);
                assert_true(t->d[0] == m.shape.width / 4 && t->d[1] == m.shape.width);
            }
            tensors_close(&ts);
            arena_f32_free(w, st.params.bytes);
            arena_f32_free(again, st.params.bytes);
            structure_free(&st);
            model_close(&m);
        }
}

static void copied(const char *from, const char *to) {
    str bytes = {0};
    must(file_read(from, &bytes));
    must(file_write(to, bytes.p, bytes.n));
    str_free(&bytes);
}

/* AdapterHub's fixture under other names: of the adapter, and of tensors as they are saved of a bare model and of one around it. */
static void test_names(void **state) {
    (void)state;
    static const char *const heads[] = {"model.", "", "transformer.model."};
    struct model m;
    struct structure st;
    const struct peft_method *method;
    const void *settings;
    struct tensors ts;
    arena mem = {0};
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
    must(adapter_read_config(GOLDEN "/methods/bn/adapter", &mem, &method, &settings));
    assert_string_equal(method->name, "bottleneck");
    struct bottleneck own = *(const struct bottleneck *)settings;
    assert_string_equal(own.name, "theirs");
    own.name = "default";
    must(structure_init(&st, &m, method, &own, NULL));
    float *want = arena_f32(st.params.bytes), *have = arena_f32(st.params.bytes);
    must(adapter_load(GOLDEN "/methods/bn/adapter", &m, &st, want));
    must(tensors_open(GOLDEN "/methods/bn/adapter/adapter.safetensors", &ts));
    must(dir_make(at("names")));
    copied(GOLDEN "/methods/bn/adapter/adapter_config.json", at("names/adapter_config.json"));
    for (int k = 0; k < 3; k++) {
        struct tensor *t = arena_alloc(&mem, (size_t)ts.n * sizeof *t);
        for (int i = 0; i < ts.n; i++) t[i] = ts.t[i], t[i].name = arena_printf(&mem, "%s%s", heads[k], ts.t[i].name + strlen("model."));
        must(safetensors_write(at("names/adapter.safetensors"), t, ts.n));
        must(adapter_load(at("names"), &m, &st, have));
        assert_memory_equal(want, have, st.params.bytes);
    }
    must(safetensors_write(at("names/adapter.safetensors"), ts.t, ts.n - 1));
    assert_int_equal(adapter_load(at("names"), &m, &st, have), E_INPUT);
    assert_non_null(strstr(err_text(), "adapters.theirs."));
    assert_non_null(strstr(err_text(), "is missing"));
    assert_int_equal(rename(at("names/adapter.safetensors"), at("names/pytorch_adapter.bin")), 0);
    assert_int_equal(adapter_load(at("names"), &m, &st, have), E_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "is a pickle"));
    tensors_close(&ts);
    arena_f32_free(want, st.params.bytes);
    arena_f32_free(have, st.params.bytes);
    structure_free(&st);
    arena_free(&mem);
    model_close(&m);
}

static void head_config(const char *labels) {
    char text[256];
    snprintf(text, sizeof text, "{\"config\": null, \"label2id\": %s}", labels);
    must(file_write(at("heads/head_config.json"), text, strlen(text)));
}

/* A classifier in files of its own, which AdapterHub names; what lies there may be another head. */
static void test_hubs_classifier(void **state) {
    (void)state;
    static const char *const own = GOLDEN "/heads/bn_bert/adapter";
    const float zero[16] = {0};
    const struct tensor other = {.name = "lm_head.weight", .dt = DT_F32, .nd = 2, .d = {4, 4}, .data = zero, .bytes = sizeof zero};
    struct head h;
    arena mem = {0};
    must(adapter_read_head(own, &mem, &h));
    assert_int_equal(h.classes, 5);
    assert_string_equal(h.names[3], "LABEL_3");
    assert_string_equal(h.file, "model_head.safetensors");
    must(dir_make(at("heads")));
    copied(GOLDEN "/heads/bn_bert/adapter/adapter_config.json", at("heads/adapter_config.json"));
    must(adapter_read_head(at("heads"), &mem, &h));
    assert_int_equal(h.classes, 0);
    copied(GOLDEN "/heads/bn_bert/adapter/model_head.safetensors", at("heads/model_head.safetensors"));
    head_config("{\"b\": 1, \"a\": 0, \"e\": 4, \"d\": 3, \"c\": 2}");
    must(adapter_read_head(at("heads"), &mem, &h));
    assert_string_equal(h.names[1], "b");
    head_config("{\"a\": 0}"); /* names of some are names of none */
    must(adapter_read_head(at("heads"), &mem, &h));
    assert_true(h.classes == 5 && !h.names);
    static const char *const bad[] = {"{\"a\": 5}", "{\"a\": -1}", "{\"a\": 1, \"b\": 1}", "{\"a\": \"0\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        head_config(bad[i]);
        assert_int_equal(adapter_read_head(at("heads"), &mem, &h), E_INPUT);
        assert_non_null(strstr(err_text(), "label2id does not give each of 5 classes a name"));
    }
    head_config("nothing");
    assert_int_equal(adapter_read_head(at("heads"), &mem, &h), E_INPUT);
    must(safetensors_write(at("heads/model_head.safetensors"), &other, 1));
    must(adapter_read_head(at("heads"), &mem, &h));
    assert_int_equal(h.classes, 0);
    arena_free(&mem);
}

/* --- settings ------------------------------------------------------------------------------------------------------------ */
#define CONFIG(more) "{\"name\": \"a\", \"version\": \"adapters.1.3.0\", \"config\": {\"mh_adapter\": true, \"output_adapter\": true, \"non_linearity\": \"relu\", \"reduction_factor\": 8" more "}}"
#define BARE(keys)   "{\"name\": \"a\", \"config\": {" keys "}}"
#define OVER(keys)   "{\"name\": \"a\", \"version\": \"x\", \"config\": {\"mh_adapter\": false, \"output_adapter\": true, " keys "}}"

static void test_refused(void **state) {
    (void)state;
    must(settings_read(CONFIG(""), CIPHER));
    must(settings_read(CONFIG(", \"ln_before\": false, \"dropout\": 0.0, \"inv_adapter\": null, \"phm_layer\": false, \"phm_dim\": 4, \"residual_before_ln\": false"), CIPHER));
    must(settings_read(OVER("\"non_linearity\": \"gelu\", \"reduction_factor\": {\"0\": 4, \"2\": 96000, \"default\": 7.5}"), CIPHER));
    settings_refused(BARE("\"architecture\": \"lora\", \"r\": 8"), CIPHER, E_UNSUPPORTED, "AdapterHub's architecture lora is not supported");
    settings_refused(BARE("\"mh_adapter\": true"), CIPHER, E_INPUT, "'mh_adapter' and 'output_adapter' must say where");
    settings_refused(BARE("\"mh_adapter\": true, \"output_adapter\": true"), CIPHER, E_INPUT, "'non_linearity' is missing");
    settings_refused(OVER("\"non_linearity\": \"relu\""), CIPHER, E_INPUT, "'reduction_factor' is neither a number");
    settings_refused(OVER("\"non_linearity\": \"relu\", \"reduction_factor\": 0"), CIPHER, E_USAGE, "reduction_factor is 0; it must be above 0");
    settings_refused(OVER("\"non_linearity\": \"relu\", \"reduction_factor\": 1e-5"), CIPHER, E_USAGE, "makes adapters of");
    settings_refused(OVER("\"non_linearity\": \"relu\", \"reduction_factor\": {\"0\": 8}"), CIPHER, E_USAGE, "says nothing of layer 1, and has no default");
    settings_refused(OVER("\"non_linearity\": \"mish\", \"reduction_factor\": 8"), CIPHER, E_UNSUPPORTED, "non_linearity mish is not supported");
    settings_refused(CONFIG(", \"ln_before\": true"), CIPHER, E_UNSUPPORTED, "'ln_before': a norm of the adapter's own");
    settings_refused(CONFIG(", \"ln_after\": true"), CIPHER, E_UNSUPPORTED, "'ln_after': a norm of the adapter's own");
    settings_refused(CONFIG(", \"use_gating\": true"), CIPHER, E_UNSUPPORTED, "'use_gating': a gate");
    settings_refused(CONFIG(", \"phm_layer\": true"), CIPHER, E_UNSUPPORTED, "'phm_layer': a sum of Kronecker products");
    settings_refused(CONFIG(", \"inv_adapter\": \"nice\""), CIPHER, E_UNSUPPORTED, "'inv_adapter': an invertible adapter");
    settings_refused(CONFIG(", \"dropout\": 0.1"), CIPHER, E_UNSUPPORTED, "'dropout': dropout inside the adapter");
    settings_refused(CONFIG(", \"stochastic_depth\": 0.1"), CIPHER, E_UNSUPPORTED, "'stochastic_depth'");
    settings_refused(CONFIG(", \"original_ln_after\": false"), CIPHER, E_UNSUPPORTED, "original_ln_after false");
    settings_refused(CONFIG(", \"original_ln_before\": true, \"residual_before_ln\": \"post_add\""), CIPHER, E_UNSUPPORTED, "residual_before_ln other than true");
    settings_refused(CONFIG(", \"original_ln_before\": 1"), CIPHER, E_INPUT, "'original_ln_before' is neither true nor false");
    settings_refused(CONFIG(", \"scaling\": \"learned\""), CIPHER, E_UNSUPPORTED, "scaling 'learned': a trained scaling");
    settings_refused(CONFIG(", \"scaling\": 0"), CIPHER, E_USAGE, "nothing would be added");
    settings_refused(CONFIG(", \"init_weights\": \"zeros\""), CIPHER, E_UNSUPPORTED, "init_weights zeros");
    settings_refused(CONFIG(", \"leave_out\": 3"), CIPHER, E_INPUT, "'leave_out' is no list of layers");
    settings_refused(CONFIG(", \"leave_out\": [-1]"), CIPHER, E_INPUT, "'leave_out' holds something that is no layer");
    settings_refused(CONFIG(", \"leave_out\": [7]"), CIPHER, E_USAGE, "7 goes beyond the model's last layer, 2");
    settings_refused(CONFIG(", \"leave_out\": [0, 1, 2]"), CIPHER, E_USAGE, "leaves out all 3 layers");
    settings_refused(CONFIG(", \"cross_adapter\": true"), CIPHER, E_USAGE, "this base has no cross-attention");
    settings_refused(CONFIG(", \"original_ln_before\": true"), GOLDEN "/families/gemma2", E_UNSUPPORTED, "sublayers have norms of their own");
    settings_refused("{\"name\": \"a.b\", \"config\": {\"mh_adapter\": true, \"output_adapter\": true, \"non_linearity\": \"relu\", \"reduction_factor\": 8}}", CIPHER, E_INPUT, "'name' is no name of an adapter");
    settings_refused("{\"config\": {\"mh_adapter\": true, \"output_adapter\": true, \"non_linearity\": \"relu\", \"reduction_factor\": 8}}", CIPHER, E_INPUT, "'name' is no name of an adapter");
    settings_refused("{\"name\": \"a\", \"config\": {\"mh_adapter\": false, \"output_adapter\": false, \"non_linearity\": \"relu\", \"reduction_factor\": 8}}", CIPHER, E_USAGE, "an adapter behind no sublayer");
    settings_refused("{\"name\": \"a\", \"config\": 3}", CIPHER, E_INPUT, "'peft_type' is missing");
}

/* Training that is to go on from a folder that does not suit. */
static void test_other_folder(void **state) {
    (void)state;
    const struct { struct bottleneck other; err code; const char *why; } cases[] = {
        {{.name = "d", .attention = true, .ffn = true, .activation = "swish", .factor = 4, .scaling = 2}, E_USAGE, "differ on bottleneck.scaling"},
        {{.name = "d", .attention = true, .ffn = true, .activation = "tanh", .factor = 4, .scaling = 1}, E_USAGE, "differ on bottleneck.non_linearity"},
        {{.name = "d", .attention = true, .ffn = true, .parallel = true, .activation = "swish", .factor = 4, .scaling = 1}, E_USAGE, "differ on bottleneck.config (is_parallel)"},
        {{.name = "d", .attention = true, .ffn = true, .sum_first = SUM_YES, .activation = "swish", .factor = 4, .scaling = 1}, E_USAGE, "differ on bottleneck.config (original_ln_before)"},
        {{.name = "d", .attention = true, .ffn = true, .activation = "swish", .factor = 8, .scaling = 1}, E_INPUT, "another shape than [4, 32]"},
        {{.name = "d", .ffn = true, .activation = "swish", .factor = 4, .scaling = 1}, E_INPUT, "holds 24 tensors, this adapter's settings use 12"}};
    struct model m;
    struct structure st;
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        must(structure_init(&st, &m, &method_bottleneck, &cases[i].other, NULL));
        float *w = arena_f32(st.params.bytes);
        err e = adapter_load(GOLDEN "/methods/bn/adapter", &m, &st, w);
        if (e != cases[i].code || !strstr(err_text(), cases[i].why)) flunk("%s: %d, %s", cases[i].why, (int)e, e ? err_text() : "accepted");
        arena_f32_free(w, st.params.bytes);
        structure_free(&st);
    }
    model_close(&m);
}

/* AdapterHub's own start, and the one that leaves the base as it is. */
static void test_starts(void **state) {
    (void)state;
    struct model m;
    struct structure st;
    must(model_open(CIPHER, NULL, &m));
    for (int bert = 0; bert < 2; bert++) {
        struct bottleneck b = houlsby;
        b.init = bert ? BOTTLENECK_BERT : BOTTLENECK_MAM;
        must(structure_init(&st, &m, &method_bottleneck, &b, NULL));
        float *w = arena_f32(st.params.bytes);
        must(param_fill(&st.params, 3, w));
        for (int i = 0; i < st.params.n; i++) {
            const struct param *p = &st.params.p[i];
            const int64_t n = p->nd > 1 ? p->d[0] * p->d[1] : p->d[0];
            double squares = 0, most = 0;
            for (int64_t k = 0; k < n; k++) squares += (double)w[p->off / 4 + k] * w[p->off / 4 + k], most = fmax(most, fabs((double)w[p->off / 4 + k]));
            const bool zero = p->nd == 1 || (!bert && strstr(p->name, "adapter_up"));
            const double variance = zero ? 0 : bert ? 0.02 * 0.02 : 1 / (3.0 * (double)p->d[1]); /* uniform within 1 / sqrt(C) */
            assert_true(fabs(squares / (double)n - variance) <= 6 * variance * sqrt(2.0 / (double)n));
            if (!bert) assert_true(most <= 1 / sqrt((double)p->d[p->nd - 1]));
        }
        arena_f32_free(w, st.params.bytes);
        structure_free(&st);
    }
    model_close(&m);
}

/* Layers that are left out have the base's instructions and no others; below the lowest adapter there is no backward. */
static void test_inactive(void **state) {
    (void)state;
    const struct capacity cap = {16, 2, 2, 16, DT_F32, DT_NONE, 0};
    const int lower[] = {0, 1};
    struct model m;
    struct structure st[2];
    struct program base, one, train;
    struct bottleneck b = pfeiffer;
    must(model_open(CIPHER, NULL, &m));
    must(structure_init(&st[0], &m, &method_bottleneck, &b, NULL));
    b.left_out = lower, b.n_left_out = 2;
    must(structure_init(&st[1], &m, &method_bottleneck, &b, NULL));
    must(program_build(&base, &m, MODE_DECODE, NULL, cap, CHECKPOINT_NONE, &backend_cpu, false));
    must(program_build(&one, &m, MODE_DECODE, &st[1], cap, CHECKPOINT_NONE, &backend_cpu, false));
    assert_int_equal(one.p.ni, base.p.ni + 5); /* x + h, down, act, up, h + */
    program_free(&one);
    must(program_build(&one, &m, MODE_DECODE, &st[0], cap, CHECKPOINT_NONE, &backend_cpu, false));
    assert_int_equal(one.p.ni, base.p.ni + 3 * 5);
    must(program_build(&train, &m, MODE_TRAIN, &st[1], cap, CHECKPOINT_NONE, &backend_cpu, false));
    for (int i = 0; i < train.p.ni; i++) assert_false(!strcmp(train.p.in[i].op->name, "attention_bwd")); /* the last block's is below its feed-forward */
    program_free(&base);
    program_free(&one);
    program_free(&train);
    structure_free(&st[0]);
    structure_free(&st[1]);
    model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_family), cmocka_unit_test(test_names), cmocka_unit_test(test_hubs_classifier), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_other_folder), cmocka_unit_test(test_starts), cmocka_unit_test(test_inactive)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
