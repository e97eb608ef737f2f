/* RoPE's tables: those of transformers for each way of stretching (tests/golden/make/rope.py), as the files say them and as they are asked
 * for; the context that comes of it; what is refused. And a base whose positions were stretched, trained, and written as a model: the folder
 * and the GGUF file give the trained run's logits, and an adapter carries its rope_scaling.json to where it is opened. */
#define _GNU_SOURCE
#include "support/folder.h"
#include "support/shell.h"
#include "gen/adapter.h"
#include "base/file.h"
#include "model/model.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *tables(void) {
    json_error_t why;
    json_t *j = json_load_file(GOLDEN "/rope/tables.json", 0, &why);
    if (!j) flunk("%s", why.text);
    return j;
}

static void open_config(const json_t *config, struct model *m) {
    assert_int_equal(json_dump_file(config, at("config.json"), 0), 0);
    must(model_open("random:1:f32", at("config.json"), m));
}

/* 1e-6, of each frequency: transformers' are of f32 arithmetic, ours are double, rounded once. */
static void same_table(const json_t *c, const struct model *m, const char *how) {
    const json_t *inv = json_object_get(c, "inv_freq");
    const struct rope_table *t = &m->rope[0];
    const double scale = json_number_value(json_object_get(c, "scale"));
    const char *name = json_string_value(json_object_get(c, "name"));
    if ((size_t)t->dims != 2 * json_array_size(inv)) flunk("%s, %s: %lld columns", name, how, (long long)t->dims);
    for (int64_t j = 0; j < t->dims / 2; j++) {
        const double want = json_number_value(json_array_get(inv, (size_t)j));
        if (fabs(t->inv_freq[j] / want - 1) > 1e-6)
            flunk("%s, %s: frequency %lld is %.9g, must be %.9g", name, how, (long long)j, (double)t->inv_freq[j], want);
    }
    if (fabs(t->scale / scale - 1) > 1e-6) flunk("%s, %s: scale %.9g, must be %.9g", name, how, t->scale, scale);
}

static void test_tables(void **state) {
    (void)state;
    json_t *all = tables(), *c;
    size_t i;
    json_array_foreach(all, i, c) {
        json_t *plain = json_object_get(c, "config"), *scaling = json_object_get(c, "scaling"), *file = json_deep_copy(plain);
        const char *name = json_string_value(json_object_get(c, "name"));
        const json_int_t context = json_integer_value(json_object_get(c, "context")),
                         length = json_integer_value(json_object_get(c, "length"));
        const double factor = json_number_value(json_object_get(scaling, "factor"));
        struct model m;
        if (scaling) json_object_set(file, "rope_scaling", scaling);
        open_config(file, &m);
        must(model_stretch(&m, NULL, length));
        same_table(c, &m, "by its file");
        const bool by_length = (strstr(name, "dynamic") || strstr(name, "longrope")) && length > context;
        assert_true(!m.stretched == !by_length);
        model_close(&m);
        json_decref(file);
        if (!scaling) continue;
        file = json_deep_copy(plain);
        json_object_set_new(file, "max_position_embeddings", json_integer(context));
        open_config(file, &m);
        must(model_stretch(&m, scaling, length));
        same_table(c, &m, "asked");
        const int64_t reach = strstr(name, "dynamic")          ? (length > context ? length : context)
                              : strstr(name, "longrope short") ? context
                                                               : (int64_t)(factor * (double)context);
        if (m.shape.context != reach) flunk("%s: a context of %lld, must be %lld", name, (long long)m.shape.context, (long long)reach);
        /* what it noted makes the same of a fresh model */
        struct model again;
        open_config(file, &again);
        must(model_stretch_as(&again, m.stretched, true, "note"));
        same_table(c, &again, "noted");
        assert_string_equal(again.stretched, m.stretched);
        must(model_stretch_as(&again, m.stretched, true, "note")); /* twice is once */
        same_table(c, &again, "noted twice");
        model_close(&again);
        model_close(&m);
        json_decref(file);
    }
    json_decref(all);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *model, *asked, *says;
    } list[] = {
        {"tiny_llama/tied_gqa", "{\"rope_type\": \"spiral\", \"factor\": 2}",
         "rope_scaling: RoPE scaling 'spiral' is not supported (supported: linear, ntk, dynamic, llama3, yarn, longrope)"},
        {"tiny_llama/tied_gqa", "{\"rope_type\": \"yarn\"}", "rope_scaling: RoPE scaling 'yarn' with the factor 0"},
        {"tiny_llama/tied_gqa", "{\"rope_type\": \"linear\", \"factor\": 0.5}", "RoPE scaling 'linear' with the factor 0.5"},
        {"tiny_llama/tied_gqa", "{\"rope_type\": \"llama3\", \"factor\": 4, \"low_freq_factor\": 4, \"high_freq_factor\": 1}",
         "low_freq_factor 4, high_freq_factor 1"},
        {"tiny_llama/tied_gqa", "{\"rope_type\": \"longrope\", \"factor\": 4}", "rope_scaling: short_factor must be a list of 4 numbers"},
        {"tiny_llama/tied_gqa", "{\"rope_type\": \"linear\", \"factor\": 1e9}", "a context of"},
        {"tiny_llama/tied_gqa", "{\"rope_type\": \"default\", \"rope_theta\": 0.5}", "rope_theta 0.5 is out of range"},
        {"families/gpt2", "{\"rope_type\": \"yarn\", \"factor\": 4}",
         "has no rotary positions that could be stretched: its table of positions has an end"},
        {"families/t5", "{\"rope_type\": \"yarn\", \"factor\": 4}", "has no rotary positions that could be stretched"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char path[256];
        struct model m;
        json_t *asked = json_loads(list[i].asked, 0, NULL);
        snprintf(path, sizeof path, GOLDEN "/%s", list[i].model);
        must(model_open(path, NULL, &m));
        const err e = model_stretch(&m, asked, 100);
        if (!e || !err_is_input(e) || !strstr(err_text(), list[i].says))
            flunk("%s: wanted \"%s\", got %d \"%s\"", list[i].asked, list[i].says, e, e ? err_text() : "");
        json_decref(asked);
        model_close(&m);
    }
    struct model m;
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
    assert_int_equal(model_stretch_as(&m, "{\"rope_scaling\": 3}", false, "x.json"), E_INPUT);
    assert_int_equal(model_stretch_as(&m, "{", false, "x.json"), E_INPUT);
    must(model_stretch_as(&m, "{\"rope_scaling\": {\"rope_type\": \"ntk\", \"factor\": 2}, \"length\": 9}", false, "x.json"));
    assert_int_equal(model_stretch_as(&m, "{\"rope_scaling\": {\"rope_type\": \"ntk\", \"factor\": 3}, \"length\": 9}", false, "x.json"),
                     E_USAGE);
    assert_int_equal(adapter_stretch(GOLDEN "/tiny_llama/tied_gqa/adapter_all_r4", false, &m), E_USAGE);
    says(err_text(), "which another adapter has stretched by now");
    model_close(&m);
}

/* Gemma 3's layers with a window keep their table. */
static void test_local(void **state) {
    (void)state;
    struct model plain, m;
    json_t *asked = json_pack("{s:s, s:f}", "rope_type", "yarn", "factor", 8.0);
    must(model_open(GOLDEN "/families/gemma3", NULL, &plain));
    must(model_open(GOLDEN "/families/gemma3", NULL, &m));
    must(model_stretch(&m, asked, 100));
    for (int64_t j = 0; j < m.rope[1].dims / 2; j++) assert_true(m.rope[1].inv_freq[j] == plain.rope[1].inv_freq[j]);
    assert_true(m.rope[0].inv_freq[m.rope[0].dims / 2 - 1] < plain.rope[0].inv_freq[m.rope[0].dims / 2 - 1]);
    model_close(&m);
    model_close(&plain);
    json_decref(asked);
}

/* --- a run --------------------------------------------------------------------------------------------------------- */
/* The cipher base has a context of 64; rows of 97 to 101 tokens. */
static void long_rows(void) {
    FILE *f = fopen(at("long.jsonl"), "w");
    if (!f) flunk("long.jsonl");
    for (int i = 0; i < 6; i++) {
        fputs("{\"prompt\": \"", f);
        for (int k = 0; k < 90 + i; k++) fputc("abcdefghijklmnopqrst"[(7 * k + i * k / 3) % 20], f);
        fputs("\", \"completion\": \"ABCDE\"}\n", f);
    }
    fclose(f);
}

static void write_run(void) {
    char yaml[1024];
    snprintf(yaml, sizeof yaml,
             "model: %s\nobjective: sft\ndata: %s\nmax_steps: 2\nlearning_rate: 1e-3\nmax_length: 128\nmax_new_tokens: 8\n"
             "per_device_train_batch_size: 2\nlora: {r: 4}\n",
             GOLDEN "/cipher", at("long.jsonl"));
    must(file_write(at("run.yaml"), yaml, strlen(yaml)));
    long_rows();
}

static void test_run_refuses(void **state) {
    (void)state;
    write_run();
    refused("$C train $O/run.yaml --set output_dir=$D/no", "tokens, but", "has a context of 64",
            "rope_scaling.rope_type: yarn, rope_scaling.factor: 2");
    refused("$C plan $O/run.yaml --set rope_scaling.factor=4", "'rope_scaling.factor' without rope_scaling.rope_type");
    refused("$C plan $O/run.yaml --set rope_scaling.rope_type=default --set rope_scaling.factor=4",
            "'rope_scaling.factor' has no use with rope_type default");
    refused("$C plan $O/run.yaml --set rope_scaling.rope_type=yarn", "RoPE scaling 'yarn' with the factor 0");
    refused("$C plan $O/run.yaml --set rope_scaling.rope_type=linear --set rope_scaling.factor=1.2", "has a context of 77");
    refused("$C plan $O/run.yaml --set rope_scaling.rope_type=longrope --set rope_scaling.factor=2 --set rope_scaling.short_factor=1,x",
            "'rope_scaling.short_factor' wants positive numbers, found 'x'");
}

/* A model's own LongRoPE: the list is chosen by the longest sequence that the configuration allows. */
#define PLAN                                                                                                                               \
    "$C plan $O/run.yaml --set model=random:1:f32 --set model_config=$D/phi.json --set tokenizer=$G/tokenizer.json --set data=$G/a.jsonl " \
    "--set format=text "
static void test_run_longrope(void **state) {
    (void)state;
    write_run();
    ok("sed 's/\"vocab_size\": 40/\"vocab_size\": 48/' " GOLDEN "/families/phi3_long_v4/config.json > $D/phi.json");
    ok(PLAN "--set max_length=24");
    assert_null(strstr(ran.out.p, "positions"));
    ok(PLAN "--set max_length=25");
    says(ran.out.p, "longrope, from 32: context 64");
    says(ran.out.p, "for sequences of up to 33 tokens");
    sh(PLAN "--set max_length=128 --set data=$O/long.jsonl --set format=auto");
    assert_int_equal(ran.status, 2);
    says(ran.err.p, "has a context of 64");
}

static double mean_of(const char *model) {
    ok("$C eval --model %s --text $O/text --json > $D/eval.json", model);
    json_t *j = json_of("eval.json");
    const double mean = json_number_value(json_object_get(j, "mean"));
    json_decref(j);
    assert_true(mean > 0);
    return mean;
}

/* The likelihood of one text by the adapter on its base, by the merged folder and by the merged GGUF file; and the adapter's. */
static double merged_alike(const char *base, const char *type) {
    static int n;
    char name[32], model[256];
    snprintf(name, sizeof name, "run%d", n++);
    ok("$C train $O/run.yaml --set output_dir=$D/%s --set model=%s --set rope_scaling.rope_type=%s", name, base, type);
    says(ran.out.p, "positions");
    ok("grep -q rope_type $D/%s/config.yaml && grep -q positions $D/%s/audit.json", name, name);
    ok("grep -q '\"length\": 136' $D/%s/adapter/rope_scaling.json", name);
    ok("$C merge --model %s --adapter $D/%s/adapter --out $D/%s.hf --type f32", base, name, name);
    ok("$C merge --model %s --adapter $D/%s/adapter --out $D/%s.gguf --type f32", base, name, name);
    snprintf(model, sizeof model, "%s --adapter $D/%s/adapter", base, name);
    const double want = mean_of(model);
    static const char *const ends[] = {"hf", "gguf"};
    for (int i = 0; i < 2; i++) {
        snprintf(model, sizeof model, "$D/%s.%s", name, ends[i]);
        const double have = mean_of(model);
        if (fabs(have - want) > 1e-5 * want) flunk("%s, %s: %.7g by the adapter, %.7g by the merged %s", base, type, want, have, ends[i]);
    }
    return want;
}

static void test_run_and_merge(void **state) {
    (void)state;
    static const char letters[] = "abcdefghijklmnopqrstabcdefghijklmnopqrstabcdefghijklmnopqrstabcdefghijklmnopqrstABCDE";
    static const char *const types[] = {"yarn --set rope_scaling.factor=4",
                                        "ntk --set rope_scaling.factor=4",
                                        "dynamic --set rope_scaling.factor=4",
                                        "linear --set rope_scaling.factor=2",
                                        "default",
                                        "default --set rope_scaling.rope_theta=50000",
                                        "llama3 --set rope_scaling.factor=4"};
    enum { N = sizeof types / sizeof *types };
    double mean[N];
    write_run();
    must(file_write(at("text"), letters, strlen(letters)));
    ok("$C convert $G $D/base.gguf");
    for (int i = 0; i < N; i++) {
        mean[i] = merged_alike("$G", types[i]);
        for (int k = 0; k < i; k++) assert_true(fabs(mean[i] / mean[k] - 1) > 1e-4); /* it matters here */
    }
    merged_alike("$D/base.gguf", types[0]);
    merged_alike("$D/base.gguf", types[6]);
    /* a base that is stretched by its files, stretched otherwise: as the plain one is (a merged base has its adapter's change besides) */
    ok("$C plan $O/run.yaml --set model=$D/run0.hf --set rope_scaling.rope_type=yarn --set rope_scaling.factor=8");
    says(ran.out.p, "yarn, 8 times 64: context 512");
    ok("$C export $D/run0/adapter --to gguf-lora --out $D/lora.gguf");
    says(ran.err.p, "whoever serves it must stretch the base so");
    refused("$C adapter average $D/run0/adapter $D/run1/adapter --out $D/both", "were trained with RoPE stretched otherwise");
    refused("$C generate --model $G --adapter x=$D/run0/adapter --adapter y=$D/run1/adapter --prompt ab --max-new-tokens 1",
            "one model at a time");
    ok("$C train $O/run.yaml --set output_dir=$D/short --set data=$G/a.jsonl --set format=text --set max_length=32 --set max_steps=1");
    refused("$C generate --model $G --adapter x=$D/short/adapter --adapter y=$D/run1/adapter --prompt ab --max-new-tokens 1",
            "an adapter that is open on");
    refused("$C generate --model $G --adapter x=$D/run1/adapter --adapter y=$D/short/adapter --prompt ab --max-new-tokens 1",
            "which another adapter has stretched");
}

static int begin(void **state) { return own_folder_make(state) || shell_begin(state) || setenv("O", own_folder(), 1); }
static int end(void **state) { return own_folder_remove(state) || shell_end(state); }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tables),       cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_local),        cmocka_unit_test(test_run_refuses),
                                       cmocka_unit_test(test_run_longrope), cmocka_unit_test(test_run_and_merge)};
    return cmocka_run_group_tests(tests, begin, end);
}
