/* Pruned models against what transformers says of the same blocks, channels, heads and columns left out (tests/golden/prune): logits
 * of what is written in both formats, importances by forward hooks. And which are chosen, what is refused, what a quantised base
 * keeps. */
#include "support/bench.h"
#include "support/folder.h"
#include "base/file.h"
#include "export/prune.h"
#include "gen/importance.h"
#include <jansson.h>

static arena names; /* of paths, to the end */

static int end(void **state) {
    arena_free(&names);
    return own_folder_remove(state);
}

static const struct prune_case {
    const char *name, *base, *cuts[6];
    bool gguf; /* it can be said in GGUF: windows and layers without positions by turns cannot, when one has gone; nor a width that heads do not make up, of qwen2 */
} cases[] = {{"tied_gqa", "tiny_llama/tied_gqa", {"depth", "ffn", "heads", "hidden", "all"}, true},
             {"bias", "tiny_llama/bias", {"all"}, true},
             {"untied_mha", "tiny_llama/untied_mha", {"all"}, true},
             {"qwen2", "families/qwen2", {"all"}, false},
             {"qwen3", "families/qwen3", {"all"}, true},
             {"smollm3", "families/smollm3", {"all"}, false},
             {"mistral", "families/mistral_full", {"all"}, false},
             {"gemma2", "families/gemma2", {"all"}, false},
             {"gemma3", "families/gemma3", {"all"}, false}};
enum { N_CASES = sizeof cases / sizeof *cases };

static const char *golden(const char *path) { return arena_printf(&names, GOLDEN "/%s", path); }
static void open_fixture(const char *name, struct tensors *ts) {
    must(tensors_open(arena_printf(&names, GOLDEN "/prune/%s.safetensors", name), ts));
}

/* What the fixture says stays, of this cut. */
static struct cut cut_of(const char *base, const struct tensors *ts, const char *cut) {
    struct model m;
    must(model_open(base, NULL, &m));
    struct cut c = cut_nothing(&m);
    model_close(&m);
    const struct {
        const char *cut, *name;
        const int32_t **list;
        int64_t *n;
    } lists[] = {{"depth", "layers", &c.layer, &c.layers},
                 {"ffn", "channels", &c.channel, &c.ffn},
                 {"heads", "heads", &c.head, &c.kv_heads},
                 {"hidden", "columns", &c.column, &c.width}};
    for (int i = 0; i < 4; i++) {
        const struct tensor *t = tensors_find(ts, lists[i].name);
        if (t && (!strcmp(cut, lists[i].cut) || !strcmp(cut, "all"))) *lists[i].list = i32_of(t), *lists[i].n = t->d[t->nd - 1];
    }
    return c;
}

static void same_logits(const char *base, const struct tensors *ts, const char *cut, const char *to) {
    const struct cut c = cut_of(base, ts, cut);
    const char *out = at(*to == 'g' ? "cut.gguf" : "cut");
    char name[64];
    json_t *report;
    must(export_one(&(struct export_request){.base = base, .cut = &c, .to = to, .type = DT_F32, .out = out, .force = true}, &report));
    const json_t *memory = json_object_get(report, "memory");
    assert_true(json_number_value(json_object_get(report, "parameters_after")) < json_number_value(json_object_get(report, "parameters")));
#ifndef __SANITIZE_ADDRESS__
    assert_true(json_number_value(json_object_get(memory, "peak")) <= json_number_value(json_object_get(memory, "planned")));
#endif
    (void)memory;
    json_decref(report);
    snprintf(name, sizeof name, "logits.%s", cut);
    const struct tensor *want = fixture(ts, name);
    float *have = logits_of(out, ts);
    close_to(base, have, f32_of(want), want->bytes / 4, 1e-4, 1e-4);
    free(have);
}

/* From a folder into both formats; from its GGUF file, where rows of q and k may lie in pairs, too. */
static void test_logits(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const struct prune_case *x = &cases[i];
        struct tensors ts;
        json_t *report;
        open_fixture(x->name, &ts);
        if (x->gguf)
            must(export_one(&(struct export_request){.base = golden(x->base), .to = "gguf", .out = at("base.gguf"), .force = true},
                            &report));
        if (x->gguf) json_decref(report);
        for (int k = 0; x->cuts[k]; k++) {
            same_logits(golden(x->base), &ts, x->cuts[k], "hf");
            if (!x->gguf) continue;
            same_logits(golden(x->base), &ts, x->cuts[k], "gguf");
            same_logits(at("base.gguf"), &ts, x->cuts[k], "gguf");
            same_logits(at("base.gguf"), &ts, x->cuts[k], "hf");
        }
        tensors_close(&ts);
    }
}

/* --- importances ----------------------------------------------------------------------------------------------------- */
static void near(const char *base, const char *name, const struct tensors *ts, const double *have) {
    const struct tensor *want = fixture(ts, name);
    const size_t n = want->bytes / 4;
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)have[i];
    close_to(arena_printf(&names, "%s of %s", name, base), x, f32_of(want), n, 2e-5, 2e-6);
    free(x);
}

static void test_importances(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        struct tensors ts;
        struct model m;
        open_fixture(cases[i].name, &ts);
        must(model_open(golden(cases[i].base), NULL, &m));
        int32_t *ids = (int32_t *)(uintptr_t)i32_of(fixture(&ts, "ids"));
        const int32_t *cu = i32_of(fixture(&ts, "cu_seqlens"));
        const struct ids text[] = {{.v = ids, .n = (size_t)cu[1]}, {.v = ids + cu[1], .n = (size_t)(cu[2] - cu[1])}};
        for (int span = 1; span <= 2; span++) {
            struct importances x;
            must(importance_measure(&m, span, text, 2, 1000, NULL, &x));
            assert_int_equal(x.tokens, cu[2]);
            near(cases[i].name, span == 1 ? "influence.1" : "influence.2", &ts, x.block);
            near(cases[i].name, "channel", &ts, x.channel);
            near(cases[i].name, "head", &ts, x.head);
            near(cases[i].name, "column", &ts, x.column);
            importance_free(&x);
        }
        double nll;
        must(nll_measure(&m, text, 2, 1000, NULL, &nll));
        if (m.shape.logit_softcap == 0) near(cases[i].name, "nll", &ts, &nll);
        model_close(&m);
        tensors_close(&ts);
    }
}

/* --- choosing -------------------------------------------------------------------------------------------------------- */
enum { TEXT = 200 };
static int32_t text_ids[TEXT];

static struct prune_request request(const char *base, const char *out) {
    static const struct ids text = {.v = text_ids, .n = TEXT};
    for (int i = 0; i < TEXT; i++) text_ids[i] = 3 + i * i % 83;
    return (struct prune_request){.out = {.base = base, .to = strstr(out, ".gguf") ? "gguf" : "hf", .out = out, .force = true},
                                  .texts = &text,
                                  .n_texts = 1,
                                  .tokens = 1000};
}

static json_t *pruned(const struct prune_request *r) {
    json_t *report;
    must(prune(r, &report));
    return report;
}

static double number(const json_t *report, const char *part, const char *key) {
    return json_number_value(json_object_get(json_object_get(report, part), key));
}
static double of_block(const json_t *report, size_t l, const char *key) {
    const json_t *b = json_array_get(json_object_get(json_object_get(report, "measured"), "by_block"), l), *v = json_object_get(b, key);
    return json_is_boolean(v) ? json_is_true(v) : json_number_value(v);
}

/* The last fifth of the text is what both models were compared on. */
static void held_out(const char *base, const json_t *likeness) {
    struct model m;
    double nll;
    const struct ids last = {.v = text_ids + TEXT - TEXT / 5, .n = TEXT / 5};
    must(model_open(base, NULL, &m));
    must(nll_measure(&m, &last, 1, TEXT, NULL, &nll));
    assert_int_equal(json_integer_value(json_object_get(likeness, "tokens")), TEXT / 5);
    assert_true(fabs(log(json_number_value(json_object_get(likeness, "perplexity_base"))) - nll) < 1e-5);
    model_close(&m);
}

/* One block of three goes: the one that counts least; what that costs is said of tokens that were held out. */
static void test_blocks(void **state) {
    (void)state;
    static const char *const by[][2] = {{NULL, "influence"}, {"perplexity", "perplexity"}};
    for (int k = 0; k < 2; k++) {
        struct prune_request r = request(golden("tiny_llama/tied_gqa"), at("blocks"));
        r.layers = 2, r.by = by[k][0];
        json_t *report = pruned(&r);
        for (size_t l = 0; l < 3; l++)
            for (size_t o = 0; o < 3; o++)
                if (of_block(report, l, "dropped") > of_block(report, o, "dropped"))
                    assert_true(of_block(report, l, by[k][1]) <= of_block(report, o, by[k][1]));
        assert_int_equal(number(report, "measured", "tokens") + number(report, "measured", "held_out"), TEXT);
        held_out(golden("tiny_llama/tied_gqa"), json_object_get(json_object_get(report, "output"), "likeness"));
        json_decref(report);
    }
    struct prune_request r = request(golden("tiny_llama/tied_gqa"), at("blocks"));
    r.layers = 1, r.contiguous = true;
    json_t *report = pruned(&r);
    assert_true(of_block(report, 1, "dropped") == 1 && of_block(report, 0, "dropped") + of_block(report, 2, "dropped") == 1);
    assert_true(of_block(report, 0, "dropped") == (of_block(report, 0, "influence") < of_block(report, 1, "influence")));
    json_decref(report);
}

/* Perplexity without each block is that of transformers' model without it. */
static void test_perplexities(void **state) {
    (void)state;
    struct tensors ts;
    struct model m;
    open_fixture("tied_gqa", &ts);
    must(model_open(golden("tiny_llama/tied_gqa"), NULL, &m));
    int32_t *ids = (int32_t *)(uintptr_t)i32_of(fixture(&ts, "ids"));
    const struct ids text[] = {{.v = ids, .n = 9}, {.v = ids + 9, .n = 7}};
    double nll[3];
    for (int l = 0; l < 3; l++) {
        struct cut c = cut_nothing(&m);
        struct model less;
        c.layers = 2, c.layer = (int32_t[]){l == 0, l < 2 ? 2 : 1};
        must(model_cut(&m, &c, &less));
        must(nll_measure(&less, text, 2, 1000, NULL, &nll[l]));
        model_close(&less);
    }
    near("tied_gqa", "nll_without", &ts, nll);
    model_close(&m);
    tensors_close(&ts);
}

/* Every block's own channels, those of the greatest magnitude; of a quantised base what lost no columns stays as it is. */
static void test_widths(void **state) {
    (void)state;
    json_t *report;
    struct model base, m;
    must(export_one(
        &(struct export_request){.base = golden("tiny_llama/tied_gqa"), .to = "gguf", .type = DT_Q8_0, .out = at("q8.gguf"), .force = true},
        &report));
    json_decref(report);
    struct prune_request r = request(at("q8.gguf"), at("narrow.gguf"));
    r.ffn = 32, r.heads = 2;
    report = pruned(&r);
    const double share = json_number_value(json_object_get(json_object_get(json_object_get(report, "measured"), "ffn"), "share"));
    assert_true(share > 0.5 && share < 1);
    json_decref(report);
    must(model_open(at("q8.gguf"), NULL, &base));
    must(model_open(at("narrow.gguf"), NULL, &m));
    assert_true(m.shape.ffn == 32 && m.shape.heads == 2 && m.shape.kv_heads == 1 && m.shape.head_dim == 8);
    assert_int_equal(model_weight(&m, "blk.1.ffn_up.weight")->dt, DT_Q8_0);
    assert_int_equal(model_weight(&m, "blk.1.ffn_down.weight")->dt, DT_F16);
    model_close(&m);
    model_close(&base);
}

/* --- what cannot be -------------------------------------------------------------------------------------------------- */
static void refused(const struct prune_request *r, const char *says) {
    json_t *report;
    const err e = prune(r, &report);
    if (!err_is_input(e) || !strstr(err_text(), says)) flunk("'%s' was expected: %d, %s", says, e, err_text());
    json_decref(report);
}

#define REFUSED(says, ...)                                                                                                                 \
    do {                                                                                                                                   \
        struct prune_request r = request(base, at("never"));                                                                               \
        __VA_ARGS__;                                                                                                                       \
        refused(&r, says);                                                                                                                 \
    } while (0)

static void test_refused(void **state) {
    (void)state;
    const char *base = golden("tiny_llama/tied_gqa");
    REFUSED("nothing is to be left out", (void)0);
    REFUSED("3 blocks are to stay, and there are 3", r.layers = 3);
    REFUSED("64 channels of a feed-forward are to stay", r.ffn = 64);
    REFUSED("a multiple of 2 can stay", r.heads = 3);
    REFUSED("one of them", r.layers = 2, r.drop = "1");
    REFUSED("there is no block 3: there are 3", r.drop = "1,3");
    REFUSED("a range goes upwards", r.drop = "2-1");
    REFUSED("numbers and ranges such as 3,7-9", r.drop = "1;2");
    REFUSED("nothing would be left", r.drop = "0-2");
    REFUSED("says which blocks --layers leaves out", r.drop = "1", r.contiguous = true);
    REFUSED("there are block-influence and perplexity", r.layers = 2, r.by = "luck");
    REFUSED("--by activation is how widths are chosen", r.layers = 2, r.by = "activation");
    REFUSED("100 tokens of text are too few", r.layers = 2, r.tokens = 80);
    REFUSED("what can go is measured on texts", r.layers = 2, r.n_texts = 0);
    REFUSED("whole blocks of 32 numbers", r.width = 24, r.out.type = DT_Q8_0, r.out.to = "gguf");
    REFUSED("a gpt2 model cannot be pruned", r.out.base = golden("families/gpt2"), r.ffn = 8);
    REFUSED("a phi3 model cannot be pruned", r.out.base = golden("families/phi3"), r.layers = 1);
    REFUSED("a bert model cannot be pruned", r.out.base = golden("families/bert"), r.layers = 1);
    REFUSED("multiplies its embeddings", r.out.base = golden("families/gemma2"), r.width = 8);
    REFUSED("GGUF cannot say its sliding windows", r.out.base = golden("families/gemma2/model.gguf"), r.drop = "0", r.out.to = "gguf");
    REFUSED("llama.cpp loads qwen2 files only where heads make up the width", r.out.base = golden("families/qwen2"), r.width = 24, r.out.to = "gguf");
    REFUSED("is what is read", r.out.out = base, r.layers = 2);
    REFUSED("No such file or directory", r.out.base = at("nobody"), r.layers = 2);
    assert_false(path_exists(at("never")));
    struct prune_request r = request(base, at("blocks")); /* there since test_blocks */
    r.layers = 2, r.out.force = false;
    refused(&r, "exists already");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_logits), cmocka_unit_test(test_importances),
                                       cmocka_unit_test(test_blocks), cmocka_unit_test(test_perplexities),
                                       cmocka_unit_test(test_widths), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, own_folder_make, end);
}
