/* Exports against what PyTorch says of the same adapters (tests/golden/tiny_llama): merged files of both formats give its logits, so
 * orders of rows and scales are right; every form of an adapter gives its deltas back; a model goes to the other format and back bit
 * for bit; the check catches what it is for; what cannot be exported is refused with the reason. */
#define _GNU_SOURCE
#include "support/bench.h"
#include "support/folder.h"
#include "base/file.h"
#include "export/check.h"
#include "export/crossing.h"
#include "export/export.h"
#include "export/lora_out.h"
#include "export/place.h"
#include <jansson.h>
#include <omp.h>

static const char *const cases[] = {"tied_gqa", "untied_mha", "bias", "head_dim16"};
enum { N_CASES = sizeof cases / sizeof *cases };

static arena names; /* of paths, to the end */
static const char *golden(const char *name, const char *file) {
    return arena_printf(&names, GOLDEN "/tiny_llama/%s%s%s", name, *file ? "/" : "", file);
}
static int end(void **state) {
    arena_free(&names);
    return own_folder_remove(state);
}

static json_t *export_(struct export_request r) {
    json_t *report;
    r.force = true;
    must(export_one(&r, &report));
    const json_t *memory = json_object_get(report, "memory");
    double planned = json_number_value(json_object_get(memory, "planned")), peak = json_number_value(json_object_get(memory, "peak"));
#ifdef __SANITIZE_ADDRESS__ /* keeps what was freed for a while, so what is measured is more than was held */
    (void)planned, (void)peak;
#else
    if (!(peak <= planned)) flunk("%s: %.0f bytes at most were planned, %.0f measured", r.out, planned, peak);
#endif
    return report;
}

static void test_merged_logits(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        for (int to_gguf = 0; to_gguf < 2; to_gguf++) {
            struct tensors expected;
            const char *out = at(to_gguf ? "m.gguf" : "m");
            must(tensors_open(golden(cases[i], "expected_all_r4.safetensors"), &expected));
            json_decref(export_((struct export_request){.base = golden(cases[i], ""),
                                                        .adapter = golden(cases[i], "adapter_all_r4"),
                                                        .to = to_gguf ? "gguf" : "hf",
                                                        .type = DT_F32,
                                                        .out = out}));
            float *have = logits_of(out, &expected);
            const struct tensor *want = fixture(&expected, "logits");
            close_to(cases[i], have, f32_of(want), want->bytes / 4, 1e-5, 1e-5);
            free(have);
            tensors_close(&expected);
        }
}

/* DoRA, VeRA, AdaLoRA: PEFT's logits of the adapter (tests/golden/methods) are those of the merged model; GPT-2's Hugging Face matrices lie transposed. */
static void test_merged_methods(void **state) {
    (void)state;
    static const struct {
        const char *name, *base;
    } of[] = {{"dora", "tiny_llama/tied_gqa"}, {"dora_bias", "tiny_llama/bias"}, {"dora_gpt2", "families/gpt2"}, {"vera", "tiny_llama/tied_gqa"}, {"vera_gpt2", "families/gpt2"},
             {"vera_mistral", "families/mistral_full"}, {"vera_mistral", "families/mistral_full/model.gguf"}, {"adalora", "tiny_llama/tied_gqa"}, {"adalora_gpt2", "families/gpt2"},
             {"adalora_mistral", "families/mistral_full/model.gguf"}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        for (int to_gguf = 0; to_gguf < 2; to_gguf++) {
            struct tensors expected;
            const char *base = arena_printf(&names, GOLDEN "/%s", of[i].base), *adapter = arena_printf(&names, GOLDEN "/methods/%s/adapter", of[i].name);
            must(tensors_open(arena_printf(&names, GOLDEN "/methods/%s/expected.safetensors", of[i].name), &expected));
            json_t *report = export_((struct export_request){.base = base, .adapter = adapter, .to = to_gguf ? "gguf" : "hf", .type = DT_F32, .out = at(to_gguf ? "dora.gguf" : "dora")});
            assert_true(json_number_value(json_object_get(json_object_get(report, "check"), "adapter_kl")) > 1e-4);
            json_decref(report);
            float *have = logits_of(at(to_gguf ? "dora.gguf" : "dora"), &expected);
            const struct tensor *want = fixture(&expected, "logits");
            close_to(of[i].name, have, f32_of(want), want->bytes / 4, 2e-5, 2e-5);
            free(have);
            tensors_close(&expected);
        }
}

/* LoRA beside the head: PEFT's logits of the adapter are those of the merged model, which has a head of its own whether it was tied or not, in either
 * format; the merge undone is the base again, and forms of an adapter have the pair where the base has a matrix for it. */
static void own_head(const char *path) {
    struct model m;
    must(model_open(path, NULL, &m));
    const struct weight *head = model_weight(&m, "output.weight"), *table = model_weight(&m, "token_embd.weight");
    assert_true(!m.shape.tied && head && memcmp(head->data, table->data, dtype_row_bytes(head->dt, head->d[1]) * (size_t)head->d[0]));
    model_close(&m);
}

static void merged_head(const char *base, const char *name, bool to_gguf) {
    struct tensors expected;
    const char *adapter = arena_printf(&names, GOLDEN "/methods/%s/adapter", name), *out = at(to_gguf ? "head.gguf" : "head");
    must(tensors_open(arena_printf(&names, GOLDEN "/methods/%s/expected.safetensors", name), &expected));
    json_decref(export_((struct export_request){.base = base, .adapter = adapter, .to = to_gguf ? "gguf" : "hf", .type = DT_F32, .out = out}));
    own_head(out);
    const struct tensor *want = fixture(&expected, "logits");
    float *have = logits_of(out, &expected);
    close_to(name, have, f32_of(want), want->bytes / 4, 2e-5, 2e-5);
    free(have);
    json_t *report = export_((struct export_request){.base = out, .adapter = adapter, .to = to_gguf ? "gguf" : "hf", .type = DT_F32, .out = at(to_gguf ? "un.gguf" : "un"), .undo = true, .like = base});
    assert_true(json_number_value(json_object_get(json_object_get(report, "undone"), "relative")) < 1e-6);
    json_decref(report);
    tensors_close(&expected);
}

static void not_exported(const char *base, const char *name, const char *to, const char *says) {
    json_t *report;
    const struct export_request r = {.base = base, .adapter = arena_printf(&names, GOLDEN "/methods/%s/adapter", name), .to = to, .out = at("never"), .force = true};
    assert_int_equal(export_one(&r, &report), E_UNSUPPORTED);
    if (!strstr(err_text(), says)) flunk("%s to %s: %s", name, to, err_text());
    json_decref(report);
}

static void test_merged_heads(void **state) {
    (void)state;
    struct tensors lora;
    const char *tied = golden("tied_gqa", ""), *apart = golden("untied_mha", ""), *gguf = at("tied.gguf");
    json_decref(export_((struct export_request){.base = tied, .to = "gguf", .out = gguf}));
    for (int to_gguf = 0; to_gguf < 2; to_gguf++) {
        merged_head(tied, "head", to_gguf);
        merged_head(apart, "head_untied", to_gguf);
    }
    merged_head(gguf, "head", true); /* the base's own list, which has no such tensor */
    merged_head(GOLDEN "/families/gemma2", "head_gemma2", false);
    json_decref(export_((struct export_request){.base = gguf, .adapter = GOLDEN "/methods/head/adapter", .to = "gguf", .type = DT_Q8_0, .out = at("q8.gguf")}));
    own_head(at("q8.gguf"));
    json_decref(export_((struct export_request){.base = apart, .adapter = GOLDEN "/methods/head_untied/adapter", .to = "mlx", .out = at("head.mlx")}));
    json_decref(export_((struct export_request){.base = apart, .adapter = GOLDEN "/methods/head_untied/adapter", .to = "gguf-lora", .out = at("head-lora.gguf")}));
    must(tensors_open(at("head-lora.gguf"), &lora));
    assert_int_equal(fixture(&lora, "output.weight.lora_a")->d[0], 5);
    tensors_close(&lora);
    not_exported(tied, "head", "gguf-lora", "a loader of this form has no second matrix to add to");
    not_exported(tied, "head", "mlx", "a loader of this form has no second matrix to add to");
    not_exported(GOLDEN "/families/gemma2", "head_gemma2", "gguf", "llama.cpp takes the token table for gemma2's head");
    not_exported(GOLDEN "/families/t5", "head_t5", "hf", "no format can say so of a head of its own");
}

/* As PEFT's folder it keeps its bytes; other forms have no place for lengths. */
static void test_forms_of_dora(void **state) {
    (void)state;
    const char *adapter = GOLDEN "/methods/dora/adapter";
    struct model m;
    struct deltas d, back;
    struct lora_out o;
    must(model_open(golden("tied_gqa", ""), NULL, &m));
    must(deltas_open(adapter, &m, &d));
    assert_true(d.dora && d.d[0].m && d.d[0].m->d[0] == d.d[0].b->d[0]);
    for (int form = FORM_GGUF; form <= FORM_MLX; form++) {
        assert_int_equal(lora_out_plan(&o, (enum lora_form)form, &m, &d, DT_NONE), E_UNSUPPORTED);
        assert_non_null(strstr(err_text(), "DoRA's lengths are no product of two matrices"));
    }
    json_t *report;
    must(export_one(&(struct export_request){.base = golden("tied_gqa", ""), .adapter = adapter, .to = "peft", .out = at("dora-peft")}, &report));
    json_decref(report);
    must(deltas_open(at("dora-peft"), &m, &back));
    assert_int_equal(back.n, d.n);
    for (int i = 0; i < d.n; i++) assert_memory_equal(back.d[i].m->data, d.d[i].m->data, d.d[i].m->bytes);
    deltas_close(&back);
    deltas_close(&d);
    model_close(&m);
}

/* VeRA and AdaLoRA as a LoRA for llama.cpp, whose logits the export itself holds against the adapter's; PEFT's folder is theirs already. */
static void test_forms_of_products(void **state) {
    (void)state;
    static const char *const of[] = {"vera", "adalora"};
    for (int i = 0; i < 2; i++) {
        struct export_request r = {.base = golden("tied_gqa", ""), .adapter = arena_printf(&names, GOLDEN "/methods/%s/adapter", of[i]), .to = "gguf-lora", .out = at("product.gguf")};
        json_t *report = export_(r);
        assert_true(json_number_value(json_object_get(json_object_get(report, "check"), "adapter_kl")) > 1e-3);
        json_decref(report);
        r.to = "peft", r.out = at("product");
        assert_int_equal(export_one(&r, &report), E_USAGE);
        assert_non_null(strstr(err_text(), "PEFT takes this"));
        json_decref(report);
    }
}

/* Into the other format and back: every tensor has the base's bits, the sizes are the base's. */
static void test_there_and_back(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        struct model base, back;
        json_decref(export_((struct export_request){.base = golden(cases[i], ""), .to = "gguf", .out = at("b.gguf")}));
        json_decref(export_((struct export_request){.base = at("b.gguf"), .to = "gguf", .out = at("c.gguf")}));
        str x = {0}, y = {0};
        must(file_read(at("b.gguf"), &x));
        must(file_read(at("c.gguf"), &y));
        assert_int_equal(x.n, y.n); /* the same keys, sorted by the reader */
        str_free(&x);
        str_free(&y);
        must(model_open(golden(cases[i], ""), NULL, &base));
        /* what tokenizer-less metadata lacks: the folder is made by hand around the tensors */
        struct items l;
        struct tensors_out o;
        struct model gguf;
        must(model_open(at("c.gguf"), NULL, &gguf));
        assert_int_equal(gguf.shape.heads, base.shape.heads);
        assert_true(gguf.shape.norm_eps == (float)base.shape.norm_eps && gguf.rope[0].base == base.rope[0].base &&
                    gguf.shape.head_dim == base.shape.head_dim && gguf.shape.tied == base.shape.tied);
        must(items_plan_hf(&l, &gguf, NULL, DT_F32, NULL));
        must(dir_make(at("back")));
        must(dir_clear(at("back"), NULL));
        must(tensors_out_safetensors(&o, at("back"), l.t, l.n, 3000));
        must(items_write(&l, &o, &(struct progress){0}));
        must(tensors_out_commit(&o));
        str c = {0};
        must(file_read(golden(cases[i], "config.json"), &c));
        must(file_write(at("back/config.json"), c.p, c.n));
        str_free(&c);
        must(model_open(at("back"), NULL, &back));
        assert_int_equal(back.n, base.n);
        for (int k = 0; k < base.n; k++) {
            const struct weight *a = &base.w[k], *b = model_weight(&back, a->name);
            assert_int_equal(a->dt, b->dt);
            assert_memory_equal(a->data, b->data, dtype_row_bytes(a->dt, a->d[a->nd - 1]) * (size_t)(a->nd == 2 ? a->d[0] : 1));
        }
        items_free(&l);
        model_close(&gguf);
        model_close(&back);
        model_close(&base);
    }
}

/* A PEFT folder with some keys of its configuration changed, and its tensors renamed or dropped. */
static const char *variant(const char *from, const char *name, const char *json, const char *drop) {
    struct tensors ts;
    const char *folder = at(name);
    char path[256];
    must(dir_make(folder));
    snprintf(path, sizeof path, "%s/adapter_config.json", from);
    json_t *j = json_load_file(path, 0, NULL), *changes = json_loads(json, 0, NULL);
    assert_non_null(changes);
    json_object_update(j, changes);
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    assert_int_equal(json_dump_file(j, path, 0), 0);
    json_decref(j);
    json_decref(changes);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", from);
    must(tensors_open(path, &ts));
    struct tensor *t = malloc((size_t)ts.n * sizeof *t);
    int n = 0;
    for (int i = 0; i < ts.n; i++)
        if (!drop || !strstr(ts.t[i].name, drop)) t[n++] = ts.t[i];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    must(safetensors_write(path, t, n));
    free(t);
    tensors_close(&ts);
    return folder;
}

static void same_products(const struct deltas *a, const struct deltas *b, const char *what) {
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++) {
        const struct delta *x = &a->d[i], *y = NULL;
        for (int k = 0; k < b->n; k++)
            if (!strcmp(b->d[k].module, x->module)) y = &b->d[k];
        assert_non_null(y);
        for (int64_t r = 0; r < x->b->d[0]; r++)
            for (int64_t c = 0; c < x->a->d[1]; c++) {
                double p = 0, q = 0;
                for (int k = 0; k < x->rank; k++) p += x->scale * f32_of(x->b)[r * x->rank + k] * f32_of(x->a)[k * x->a->d[1] + c];
                for (int k = 0; k < y->rank; k++) q += y->scale * f32_of(y->b)[r * y->rank + k] * f32_of(y->a)[k * y->a->d[1] + c];
                if (fabs(p - q) > 1e-6 * (fabs(p) + 1e-2))
                    flunk("%s: %s [%lld, %lld] is %.9g, was %.9g", what, x->module, (long long)r, (long long)c, q, p);
            }
    }
}

/* Plain, rsLoRA, and alphas by module, each through each form. */
static void test_forms_of_an_adapter(void **state) {
    (void)state;
    const char *plain = golden("bias", "adapter_all_r4"),
               *folders[] = {plain, variant(plain, "rs", "{\"use_rslora\": true, \"lora_alpha\": 3}", NULL),
                             variant(plain, "alphas",
                                     "{\"alpha_pattern\": {\"k_proj\": 5, \"^model\\\\.layers\\\\.[01]\\\\.mlp\\\\.up_proj\": 0.5}}",
                                     NULL)};
    struct model m;
    must(model_open(golden("bias", ""), NULL, &m));
    for (int i = 0; i < 3; i++)
        for (int form = FORM_PEFT; form <= FORM_MLX; form++) {
            struct deltas d, back;
            struct lora_out o;
            struct tensors_out out;
            static const char *const outputs[] = {"peft", "lora.gguf", "mlx"};
            must(deltas_open(folders[i], &m, &d));
            assert_int_equal(d.n, 7 * m.shape.layers);
            for (int k = 0; k < d.n; k++) {
                double alpha = i == 1 ? 3.0 : 8.0, want = i == 1 ? alpha / 2 : alpha / 4; /* r 4: sqrt is 2 */
                if (i == 2 && str_ends(d.d[k].module, "k_proj")) want = 5.0 / 4;
                if (i == 2 && str_ends(d.d[k].module, "up_proj") && !strstr(d.d[k].module, "layers.2")) want = 0.5 / 4;
                assert_true(d.d[k].scale == want);
            }
            must(lora_out_plan(&o, (enum lora_form)form, &m, &d, DT_NONE));
            if (form != FORM_GGUF) must(dir_make(at(outputs[form])));
            must(lora_out_begin(&o, at(outputs[form]), &out));
            must(lora_out_write(&o, &out, &(struct progress){0}));
            must(tensors_out_commit(&out));
            must(lora_out_finish(&o, at(outputs[form])));
            must(lora_out_reopen(&o, at(outputs[form]), &back));
            same_products(&d, &back, outputs[form]);
            deltas_close(&back);
            lora_out_free(&o);
            deltas_close(&d);
        }
    model_close(&m);
}

/* Rows of B by the formula written out here, and the scale as llama.cpp forms it. */
static void test_gguf_lora_rows(void **state) {
    (void)state;
    struct tensors peft, gguf;
    double alpha;
    json_decref(export_((struct export_request){
        .base = golden("tied_gqa", ""), .adapter = golden("tied_gqa", "adapter_all_r4"), .to = "gguf-lora", .out = at("rows.gguf")}));
    must(tensors_open(golden("tied_gqa", "adapter_all_r4/adapter_model.safetensors"), &peft));
    must(tensors_open(at("rows.gguf"), &gguf));
    assert_string_equal(gguf_str(gguf.meta, "general.type"), "adapter");
    assert_string_equal(gguf_str(gguf.meta, "general.architecture"), "llama");
    assert_string_equal(gguf_str(gguf.meta, "adapter.type"), "lora");
    assert_true(gguf_f64(gguf.meta, "adapter.lora.alpha", &alpha) && alpha == 8);
    const struct tensor *b = fixture(&peft, "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"),
                        *k = fixture(&gguf, "blk.1.attn_k.weight.lora_b");
    int64_t D = 8, r = b->d[1];
    assert_int_equal(k->d[0], b->d[0]);
    for (int64_t row = 0; row < b->d[0]; row++) {
        int64_t h = row / D, j = row % D, to = j < D / 2 ? h * D + 2 * j : h * D + 2 * (j - D / 2) + 1;
        assert_memory_equal(f32_of(b) + row * r, f32_of(k) + to * r, (size_t)r * 4);
    }
    const struct tensor *v = fixture(&peft, "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"),
                        *same = fixture(&gguf, "blk.1.attn_v.weight.lora_b");
    assert_memory_equal(v->data, same->data, v->bytes);
    tensors_close(&peft);
    tensors_close(&gguf);
}

/* The check must fail where a model is not what was trained: without its delta, or with its heads' rows in the other order. */
static void test_check_catches(void **state) {
    (void)state;
    struct model base, merged;
    struct deltas d;
    struct structure st;
    struct check c;
    float *w;
    json_t *report = json_object();
    must(model_open(golden("tied_gqa", ""), NULL, &base));
    must(deltas_open(golden("tied_gqa", "adapter_all_r4"), &base, &d));
    must(deltas_structure(&d, &base, &st, &w));
    json_decref(export_((struct export_request){
        .base = golden("tied_gqa", ""), .adapter = d.folder, .to = "gguf", .type = DT_F16, .out = at("check.gguf")}));
    must(model_open(at("check.gguf"), NULL, &merged));
    must(check_weights(&base, &d, &merged, report));
    must(check_open(&c, &base, NULL));
    must(check_reference(&c, &base, &st, w));
    must(check_written(&c, &merged, NULL, NULL, DT_F16, report));
    assert_true(json_number_value(json_object_get(json_object_get(report, "check"), "adapter_kl")) > 0.1);
    assert_int_equal(check_written(&c, &base, NULL, NULL, DT_F16, report), E_NUMERIC); /* the bare base */
    assert_non_null(strstr(err_text(), "0.03 is what f16 explains"));
    assert_int_equal(check_weights(&base, NULL, &merged, report), E_NUMERIC);
    assert_non_null(strstr(err_text(), "rows of blk.0.attn_k.weight differ by"));
    for (int i = 0; i < merged.n; i++) merged.w[i].rope_heads = 0; /* as if its rows lay in halves */
    assert_int_equal(check_weights(&base, &d, &merged, report), E_NUMERIC);
    assert_non_null(strstr(err_text(), "rows of blk.0.attn_k.weight differ by"));
    merged.shape.interleaved = false;
    assert_int_equal(check_written(&c, &merged, NULL, NULL, DT_Q8_0, report), E_NUMERIC);
    check_close(&c);
    arena_f32_free(w, st.params.bytes);
    structure_free(&st);
    deltas_close(&d);
    model_close(&merged);
    model_close(&base);
    json_decref(report);
}

static void refuses(const char *base, const char *folder, err want, const char *says) {
    struct model m;
    struct deltas d;
    must(model_open(base, NULL, &m));
    err e = deltas_open(folder, &m, &d);
    if (e != want || !strstr(err_text(), says)) flunk("%s: wanted %d \"%s\", got %d \"%s\"", folder, want, says, e, e ? err_text() : "");
    model_close(&m);
}

/* An adapter of one pair with any names, each [4, 32] and [32, 4]. */
static const char *pair(const char *name, const char *a, const char *b) {
    static float zero[128];
    const char *folder = variant(golden("tied_gqa", "adapter_all_r4"), name, "{}", NULL);
    char path[256];
    struct tensor t[2] = {{.name = a, .dt = DT_F32, .nd = 2, .d = {4, 32}, .data = zero, .bytes = 512},
                          {.name = b, .dt = DT_F32, .nd = 2, .d = {32, 4}, .data = zero, .bytes = 512}};
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    must(safetensors_write(path, t, b ? 2 : 1));
    return folder;
}

static void test_refusals(void **state) {
    (void)state;
    const char *base = golden("tied_gqa", ""), *plain = golden("tied_gqa", "adapter_all_r4");
    const char *dora = GOLDEN "/methods/dora/adapter";
    refuses(base, variant(plain, "r1", "{\"use_dora\": true}", NULL), E_INPUT, "lora_magnitude_vector is missing, which use_dora needs");
    refuses(base, variant(dora, "r13", "{\"use_dora\": false}", NULL), E_INPUT, "lengths of DoRA, but adapter_config.json does not say use_dora");
    refuses(base, variant(dora, "r14", "{}", "layers.1.mlp.up_proj.lora_magnitude"), E_INPUT, "layers.1.mlp.up_proj.lora_magnitude_vector is missing");
    refuses(base, variant(dora, "r15", "{}", "layers.1.mlp.up_proj.lora_A"), E_INPUT, "20 lora_A and 21 lora_B");
    refuses(base, variant(plain, "r2", "{\"modules_to_save\": [\"score\"]}", NULL), E_INPUT, "a classifier is to be there (modules_to_save), but neither");
    refuses(GOLDEN "/families/t5", GOLDEN "/heads/t5/adapter", E_UNSUPPORTED, "a head on an encoder-decoder");
    const char *saved = GOLDEN "/methods/saved/adapter";
    refuses(base, GOLDEN "/methods/saved_both/adapter", E_UNSUPPORTED, "has one table for embedding and head (tied), and PEFT trains them apart");
    refuses(golden("untied_mha", ""), variant(saved, "r16", "{}", "q_proj.lora_A"), E_INPUT, "lora_A and 6 lora_B");
    refuses(golden("untied_mha", ""), variant(saved, "r17", "{\"modules_to_save\": null}", NULL), E_INPUT, "tensor base_model.model.lm_head.weight is neither lora_A nor lora_B");
    refuses(base, variant(plain, "r3", "{\"bias\": \"all\"}", NULL), E_UNSUPPORTED, "bias 'all'");
    refuses(base, variant(plain, "r4", "{\"peft_type\": \"IA3\"}", NULL), E_UNSUPPORTED, "peft_type IA3 is neither products that are added");
    refuses(base, variant(plain, "r5", "{\"init_lora_weights\": \"PiSSA_niter_4\"}", NULL), E_UNSUPPORTED, "changed the base too");
    refuses(base, variant(plain, "r6", "{\"alpha_pattern\": {\"(k_proj\": 1}}", NULL), E_INPUT,
            "alpha_pattern: '(k_proj' is no regular expression");
    refuses(base, variant(plain, "r7", "{}", "layers.1.mlp.up_proj.lora_B"), E_INPUT, "layers.1.mlp.up_proj.lora_B.weight is missing");
    refuses(base, variant(plain, "r8", "{}", "layers.1.mlp.up_proj.lora_A"), E_INPUT, "20 lora_A and 21 lora_B");
    refuses(base, variant(plain, "r9", "{\"r\": 0}", NULL), E_INPUT, "'r' or 'lora_alpha'");
    refuses(base, variant(plain, "r11", "{\"r\": 7}", NULL), E_INPUT, "has rank 4, adapter_config.json says 7");
    refuses(base, variant(plain, "r12", "{\"rank_pattern\": {\"k_proj\": 3}}", NULL), E_INPUT, "k_proj has rank 4, adapter_config.json says 3");
    refuses(base, variant(plain, "r10", "{\"base_model_name_or_path\": \"random:1\"}", NULL), E_USAGE, "random weights");
    refuses(golden("head_dim16", ""), plain, E_USAGE, "another model");
    refuses(GOLDEN "/cipher", golden("bias", "adapter_all_r4"), E_USAGE, "the adapter is for a matrix of");
#define P "base_model.model."
    refuses(base, pair("p1", P "lm_head.lora_A.weight", P "lm_head.lora_B.weight"), E_UNSUPPORTED,
            "lm_head: the head of " GOLDEN "/tiny_llama/tied_gqa is its embedding (tied)");
    refuses(golden("untied_mha", ""), pair("p2", P "lm_head.lora_A.weight", P "lm_head.lora_B.weight"), E_USAGE,
            "lm_head: the adapter is for a matrix of [32, 32]");
    refuses(base, pair("p3", P "model.embed_tokens.lora_embedding_A", P "model.embed_tokens.lora_embedding_B"), E_UNSUPPORTED,
            "a delta on the token table");
    refuses(base, pair("p4", P "model.layers.0.self_attn.q_proj.lora_magnitude_vector", NULL), E_INPUT, "lengths of DoRA, but");
    refuses(base, pair("p5", P "model.layers.0.mlp.fc1.lora_A.weight", P "model.layers.0.mlp.fc1.lora_B.weight"), E_USAGE,
            "changes model.layers.0.mlp.fc1, and ");
    refuses(base, pair("p6", "transformer.h.0.lora_A.weight", "transformer.h.0.lora_B.weight"), E_INPUT,
            "is neither lora_A nor lora_B of a module");
}

static void test_types(void **state) {
    (void)state;
    struct model m;
    struct items l;
    must(model_open(golden("tied_gqa", ""), NULL, &m));
    assert_int_equal(items_plan_hf(&l, &m, NULL, DT_Q8_0, NULL), E_USAGE);
    assert_non_null(strstr(err_text(), "a Hugging Face folder is written in f32, f16 or bf16"));
    assert_int_equal(items_plan_gguf(&l, &m, NULL, DT_I32, NULL), E_USAGE);
    assert_non_null(strstr(err_text(), "--type i32 cannot be written; f32, f16, bf16, "));
    must(items_plan_gguf(&l, &m, NULL, DT_Q4_0, NULL));
    for (int i = 0; i < l.n; i++) { /* vectors f32; the tied embedding is a head: rows of 32 have no q6_k */
        bool head = !strcmp(l.t[i].name, "token_embd.weight");
        assert_int_equal(l.t[i].dt, l.t[i].nd == 1 ? DT_F32 : head ? DT_Q8_0 : DT_Q4_0);
    }
    items_free(&l);
    model_close(&m);
}

/* A weight whose file has it transposed, beside the same one as it is used: the results are each other's transpose. */
static void test_transposed(void **state) {
    (void)state;
    enum { IN = 40, OUT = 24, R = 5 };
    static float w[OUT * IN], wt[OUT * IN], a[R * IN], b[OUT * R];
    for (int i = 0; i < OUT * IN; i++) w[i] = sinf((float)i), wt[i % IN * OUT + i / IN] = w[i];
    for (int i = 0; i < R * IN; i++) a[i] = cosf((float)i);
    for (int i = 0; i < OUT * R; i++) b[i] = sinf(3.0f * (float)i);
    struct tensor ta = {.dt = DT_F32, .nd = 2, .d = {R, IN}, .data = a}, tb = {.dt = DT_F32, .nd = 2, .d = {OUT, R}, .data = b};
    struct delta d = {.a = &ta, .b = &tb, .rank = R, .scale = 0.5};
    struct item it[2] = {{.t = {.name = "w", .dt = DT_F32, .nd = 2, .d = {OUT, IN}, .bytes = sizeof w},
                          .data = w,
                          .dt = DT_F32,
                          .rows = OUT,
                          .cols = IN,
                          .delta = &d},
                         {.t = {.name = "wt", .dt = DT_F32, .nd = 2, .d = {IN, OUT}, .bytes = sizeof w},
                          .data = wt,
                          .dt = DT_F32,
                          .rows = IN,
                          .cols = OUT,
                          .delta = &d,
                          .transposed = true}};
    struct items l = {.v = it, .t = (struct tensor[]){it[0].t, it[1].t}, .n = 2, .widest = IN};
    struct tensors_out o;
    struct tensors ts;
    must(tensors_out_safetensors(&o, at("t.safetensors"), l.t, 2, 0));
    must(items_write(&l, &o, &(struct progress){0}));
    must(tensors_out_commit(&o));
    must(tensors_open(at("t.safetensors"), &ts));
    const float *x = f32_of(fixture(&ts, "w")), *y = f32_of(fixture(&ts, "wt"));
    for (int i = 0; i < OUT * IN; i++) {
        double want = w[i];
        for (int k = 0; k < R; k++) want += 0.5 * b[i / IN * R + k] * a[k * IN + i % IN];
        if (fabs(x[i] - want) > 1e-5 || fabs(y[i % IN * OUT + i / IN] - want) > 1e-5)
            flunk("[%d, %d]: %g and %g, must be %g", i / IN, i % IN, x[i], y[i % IN * OUT + i / IN], want);
    }
    tensors_close(&ts);
}

/* Of a quantised GGUF base: what no delta touches keeps its bytes, metadata its words. */
static void test_untouched(void **state) {
    (void)state;
    struct tensors a, b;
    const char *adapter = golden("tied_gqa", "adapter_qv_r3");
    json_decref(export_((struct export_request){.base = golden("tied_gqa", ""), .to = "gguf", .type = DT_Q8_0, .out = at("q8.gguf")}));
    json_t *report = export_((struct export_request){.base = at("q8.gguf"), .adapter = adapter, .to = "gguf", .out = at("q8m.gguf")});
    assert_true(json_number_value(json_object_get(json_object_get(report, "check"), "mean_kl")) < 1e-4);
    json_decref(report);
    must(tensors_open(at("q8.gguf"), &a));
    must(tensors_open(at("q8m.gguf"), &b));
    assert_int_equal(a.n, b.n);
    for (int i = 0; i < a.n; i++) {
        bool touched = strstr(a.t[i].name, "attn_q.weight") || strstr(a.t[i].name, "attn_v.weight");
        assert_int_equal(b.t[i].dt, touched ? DT_F16 : a.t[i].dt);
        if (!touched) assert_memory_equal(a.t[i].data, b.t[i].data, a.t[i].bytes);
    }
    for (int i = 0; i < a.meta->n; i++) {
        const struct gguf_kv *x = &a.meta->kv[i], *y = gguf_find(b.meta, x->key);
        if (!strcmp(x->key, "general.file_type") || !strcmp(x->key, "general.quantization_version")) continue;
        assert_non_null(y);
        assert_int_equal(x->type, y->type);
        if (x->type == GGUF_STRING) assert_string_equal(x->v.s, y->v.s);
        else assert_true(x->v.u == y->v.u);
    }
    tensors_close(&a);
    tensors_close(&b);
}

static void test_place(void **state) {
    (void)state;
    struct place p;
    assert_int_equal(place_open(&p, at("big"), true, false, (size_t)1 << 60), E_IO);
    assert_non_null(strstr(err_text(), "/big needs 1152921504606.8 MB and its file system has "));
    assert_false(path_exists(at("big")));
    assert_int_equal(place_open(&p, "/", true, true, 1), E_USAGE);
    must(place_open(&p, at("new/deep/x.gguf"), false, false, 1));
    must(file_write(p.tmp, "x", 1));
    must(place_publish(&p));
    assert_true(path_exists(at("new/deep/x.gguf")));
    assert_int_equal(place_open(&p, at("new/deep/x.gguf"), false, false, 1), E_USAGE);
    assert_non_null(strstr(err_text(), "exists already; --force replaces it"));
    assert_int_equal(place_open(&p, at("new/deep/x.gguf"), true, true, 1), E_USAGE);
    assert_int_equal(place_open(&p, at("new"), true, true, 1), E_USAGE);
    assert_non_null(strstr(err_text(), "holds 'deep', which no export wrote"));
    must(place_open(&p, at("new/f"), true, true, 1));
    must(dir_make(p.tmp));
    place_abandon(&p);
    assert_false(path_exists(at("new/f")));
    must(file_write(at("new/.f.cyclora-4194305"), "x", 1)); /* of a process that cannot be */
    must(file_write(at("new/.f.cyclora-1"), "x", 1));       /* of one that is there */
    must(place_open(&p, at("new/f"), true, true, 1));
    assert_false(path_exists(at("new/.f.cyclora-4194305")));
    assert_true(path_exists(at("new/.f.cyclora-1")));
    place_abandon(&p);
}

/* Every family: one adapter gives one and the same GGUF LoRA on the Hugging Face base and on its GGUF twin, byte for byte, so names and
 * orders are those of llama.cpp's converter; merged into either, the check holds. */
static void test_families(void **state) {
    (void)state;
    static const char *const families[] = {"mistral_full", "qwen2",  "qwen3", "smollm3",    "phi3",
                                           "gemma2",       "gemma3", "gpt2",  "llama_3_v4", "t5"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const char *hf = arena_printf(&names, GOLDEN "/families/%s", families[i]), *gguf = arena_printf(&names, "%s/model.gguf", hf),
                   *adapter = arena_printf(&names, "%s/adapter", hf), *bases[] = {hf, gguf};
        str file[2] = {{0}};
        for (int k = 0; k < 2; k++) {
            json_decref(
                export_((struct export_request){.base = bases[k], .adapter = adapter, .to = "gguf-lora", .out = at("family.gguf")}));
            must(file_read(at("family.gguf"), &file[k]));
            json_t *report = export_((struct export_request){.base = bases[k],
                                                             .adapter = adapter,
                                                             .to = k ? "gguf" : "hf",
                                                             .type = DT_F32,
                                                             .out = at(k ? "family-m.gguf" : "family-m")});
            assert_non_null(json_object_get(report, "weights_check"));
            if (!json_object_get(report, "check") && strcmp(families[i], "t5")) flunk("%s: no logits were compared", families[i]);
            json_decref(report);
        }
        if (file[0].n != file[1].n || memcmp(file[0].p, file[1].p, file[0].n))
            flunk("%s: the two bases give different GGUF LoRAs", families[i]);
        str_free(&file[0]);
        str_free(&file[1]);
    }
}

/* Families whose models go to the other format, and its adapters' merges with them. */
static const char *const crossing[] = {"llama_linear", "llama_3_v4", "mistral_full", "qwen2", "qwen3", "smollm3", "phi3",
                                       "phi3_long_v4", "gemma2",     "gemma3",       "gpt2",  "t5",    "bert"};
enum { N_CROSSING = sizeof crossing / sizeof *crossing, N_DECODERS = N_CROSSING - 2 /* of the others test_families.c reads both formats */ };

/* Merged into the other format, from either: PyTorch's logits of base and adapter. */
static void test_crossed_logits(void **state) {
    (void)state;
    for (int i = 0; i < 2 * N_DECODERS; i++) {
        const char *hf = arena_printf(&names, GOLDEN "/families/%s", crossing[i / 2]), *gguf = arena_printf(&names, "%s/model.gguf", hf),
                   *to = i % 2 ? "hf" : "gguf", *out = at(i % 2 ? "across" : "across.gguf");
        struct tensors expected;
        json_t *report = export_((struct export_request){
            .base = i % 2 ? gguf : hf, .adapter = arena_printf(&names, "%s/adapter", hf), .to = to, .type = DT_F32, .out = out});
        assert_non_null(json_object_get(report, "check"));
        json_decref(report);
        must(tensors_open(arena_printf(&names, "%s/expected.safetensors", hf), &expected));
        float *have = logits_of(out, &expected);
        const struct tensor *want = fixture(&expected, "logits");
        close_to(arena_printf(&names, "%s to %s", crossing[i / 2], to), have, f32_of(want), want->bytes / 4, 5e-5, 5e-5);
        free(have);
        tensors_close(&expected);
    }
}

/* Trained tensors of the base, put in place of them in either format, from either: PyTorch's logits of the trained model. */
static void test_whole_tensors(void **state) {
    (void)state;
    static const char *const list[][2] = {{"full", "tiny_llama/tied_gqa"}, {"full_gpt2", "families/gpt2"}, {"full_gemma2", "families/gemma2"}, {"full_last", "families/qwen2"},
                                          {"full_names", "families/mistral_full"}, {"saved", "tiny_llama/untied_mha"}, {"bitfit_qwen2", "families/qwen2"}, {"ln_gemma2", "families/gemma2"}};
    for (size_t i = 0; i < 4 * sizeof list / sizeof *list; i++) {
        const bool from_gguf = i % 4 > 1, to_gguf = i % 2, twin = str_starts(list[i / 4][1], "families");
        const char *adapter = arena_printf(&names, GOLDEN "/methods/%s/adapter", list[i / 4][0]), *out = at(to_gguf ? "whole.gguf" : "whole");
        struct tensors expected;
        if (from_gguf && !twin) continue;
        json_t *report = export_((struct export_request){.base = arena_printf(&names, GOLDEN "/%s%s", list[i / 4][1], from_gguf ? "/model.gguf" : ""),
                                                         .adapter = adapter,
                                                         .to = to_gguf ? "gguf" : "hf",
                                                         .type = DT_F32,
                                                         .out = out});
        assert_non_null(json_object_get(report, "check"));
        json_decref(report);
        must(tensors_open(arena_printf(&names, GOLDEN "/methods/%s/expected.safetensors", list[i / 4][0]), &expected));
        float *have = logits_of(out, &expected);
        const struct tensor *want = fixture(&expected, "logits");
        close_to(arena_printf(&names, "%s%s to %s", list[i / 4][0], from_gguf ? " from gguf" : "", out), have, f32_of(want), want->bytes / 4, 5e-5, 5e-5);
        free(have);
        tensors_close(&expected);
    }
}

/* T5, whose logits are not compared (the check says so): its weights are, in both formats from either. */
static void test_whole_t5(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        json_t *report = export_((struct export_request){.base = i / 2 ? GOLDEN "/families/t5/model.gguf" : GOLDEN "/families/t5",
                                                         .adapter = GOLDEN "/methods/full_t5/adapter",
                                                         .to = i % 2 ? "gguf" : "hf",
                                                         .type = DT_F32,
                                                         .out = at(i % 2 ? "t5.gguf" : "t5")});
        assert_true(json_number_value(json_object_get(json_object_get(report, "weights_check"), "relative")) < 1e-6);
        json_decref(report);
    }
}

/* A folder that holds the tied table under its second name too: both names get what was trained. */
static void test_tied_table_twice(void **state) {
    (void)state;
    struct tensors ts, expected;
    str config = {0};
    must(dir_make(at("twice")));
    must(file_read(golden("tied_gqa", "config.json"), &config));
    must(file_write(at("twice/config.json"), config.p, config.n));
    str_free(&config);
    must(tensors_open(golden("tied_gqa", "model.safetensors"), &ts));
    struct tensor *t = malloc(((size_t)ts.n + 1) * sizeof *t);
    memcpy(t, ts.t, (size_t)ts.n * sizeof *t);
    t[ts.n] = *fixture(&ts, "model.embed_tokens.weight");
    t[ts.n].name = "lm_head.weight";
    must(safetensors_write(at("twice/model.safetensors"), t, ts.n + 1));
    free(t);
    tensors_close(&ts);
    json_decref(export_((struct export_request){.base = at("twice"), .adapter = GOLDEN "/methods/full/adapter", .to = "hf", .out = at("twice-m")}));
    must(tensors_open(at("twice-m"), &ts));
    must(tensors_open(GOLDEN "/methods/full/adapter/adapter_model.safetensors", &expected));
    const struct tensor *want = fixture(&expected, "base_model.model.model.embed_tokens.weight");
    assert_memory_equal(fixture(&ts, "lm_head.weight")->data, want->data, want->bytes);
    assert_memory_equal(fixture(&ts, "model.embed_tokens.weight")->data, want->data, want->bytes);
    tensors_close(&ts);
    tensors_close(&expected);
}

/* In other forms there are none; of another base they are refused; and where the base is quantised only what was trained leaves its type. */
static void test_whole_tensors_refused(void **state) {
    (void)state;
    const char *full = GOLDEN "/methods/full/adapter", *base = golden("tied_gqa", "");
    json_t *report;
    assert_int_equal(export_one(&(struct export_request){.base = base, .adapter = full, .to = "mlx", .out = at("no")}, &report), E_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "tensors of the base were trained (full), for which mlx has no form: `cyclora merge`"));
    json_decref(report);
    refuses(golden("head_dim16", ""), full, E_USAGE, "layers.0.self_attn.k_proj.weight: the adapter's tensor has another shape");
    refuses(GOLDEN "/families/gpt2", full, E_USAGE, "has no such tensor: was it made for another model?");
    refuses(base, variant(full, "w1", "{\"target_modules\": [7]}", NULL), E_INPUT, "target_modules holds something that is not a name");
    assert_int_equal(export_one(&(struct export_request){.base = base, .adapter = variant(full, "w2", "{}", "down_proj"), .to = "hf", .out = at("no")}, &report), E_INPUT);
    assert_non_null(strstr(err_text(), "layers.0.mlp.down_proj.weight is missing"));
    json_decref(report);
    struct model m;
    struct deltas d;
    struct items l;
    json_decref(export_((struct export_request){.base = base, .to = "gguf", .type = DT_Q8_0, .out = at("base8.gguf")}));
    must(model_open(at("base8.gguf"), NULL, &m));
    must(deltas_open(full, &m, &d));
    must(items_plan_gguf(&l, &m, &d, DT_NONE, NULL));
    for (int i = 0; i < l.n; i++) {
        const bool frozen = strstr(l.t[i].name, "ffn_gate") || strstr(l.t[i].name, "ffn_up");
        assert_int_equal(l.t[i].dt, l.t[i].nd == 1 ? DT_F32 : frozen ? DT_Q8_0 : DT_F16);
    }
    items_free(&l);
    deltas_close(&d);
    model_close(&m);
}

/* There and back in each plain type: every tensor of the folder has its bits again. Gemma's norms less 1 in f32 have lost what the sum
 * with 1 cannot hold, as in llama.cpp's own converter; of 16 bits nothing is lost. */
static void test_crossed_and_back(void **state) {
    (void)state;
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    for (int i = 0; i < 3 * N_CROSSING; i++) {
        struct tensors a, b;
        const dtype type = types[i % 3];
        const char *name = crossing[i / 3];
        json_decref(export_((struct export_request){
            .base = arena_printf(&names, GOLDEN "/families/%s", name), .to = "hf", .type = type, .out = at("first")}));
        json_decref(export_((struct export_request){.base = at("first"), .to = "gguf", .type = type, .out = at("middle.gguf")}));
        json_decref(export_((struct export_request){.base = at("middle.gguf"), .to = "hf", .type = type, .out = at("last")}));
        must(tensors_open(at("first"), &a));
        must(tensors_open(at("last"), &b));
        assert_int_equal(a.n, b.n + (strcmp(name, "bert") ? 0 : 2)); /* less the pooler, which nobody here computes */
        for (int k = 0; k < a.n; k++) {
            if (strstr(a.t[k].name, "pooler.")) continue;
            const struct tensor *t = fixture(&b, a.t[k].name);
            assert_true(t->nd == a.t[k].nd && t->d[0] == a.t[k].d[0] && t->d[1] == a.t[k].d[1] && t->dt == type &&
                        t->bytes == a.t[k].bytes);
            bool sum = type == DT_F32 && str_starts(name, "gemma") && strstr(t->name, "norm");
            if (sum) close_to(t->name, f32_of(t), f32_of(&a.t[k]), t->bytes / 4, 0, 0x1p-23f);
            else if (memcmp(t->data, a.t[k].data, t->bytes)) flunk("%s, %s: %s has other bits", name, dtype_info[type].name, t->name);
        }
        tensors_close(&a);
        tensors_close(&b);
    }
}

/* llama.cpp's words in the file: what the package gguf wrote for the same model, but for those that we add. */
static void test_keys_of_gguf(void **state) {
    (void)state;
    for (int i = 0; i < N_CROSSING; i++) {
        struct tensors want, have;
        json_decref(export_((struct export_request){
            .base = arena_printf(&names, GOLDEN "/families/%s", crossing[i]), .to = "gguf", .type = DT_F32, .out = at("keys.gguf")}));
        must(tensors_open(arena_printf(&names, GOLDEN "/families/%s/model.gguf", crossing[i]), &want));
        must(tensors_open(at("keys.gguf"), &have));
        for (int k = 0; k < want.meta->n; k++) {
            double x, y;
            const char *key = want.meta->kv[k].key, *s = gguf_str(want.meta, key);
            if (s && (!gguf_str(have.meta, key) || strcmp(s, gguf_str(have.meta, key)))) flunk("%s: %s is not %s", crossing[i], key, s);
            if (s || !gguf_f64(want.meta, key, &x) || !strcmp(key, "t5.context_length")) continue; /* config.json has none */
            if (!gguf_f64(have.meta, key, &y) || fabs(x - y) > 1e-6 * fabs(x)) flunk("%s: %s is not %.9g", crossing[i], key, x);
        }
        assert_int_equal(want.n, have.n);
        for (int k = 0; k < want.n; k++) {
            const struct tensor *t = fixture(&have, want.t[k].name);
            assert_true(t->dt == want.t[k].dt && t->bytes == want.t[k].bytes && t->nd == want.t[k].nd && t->d[0] == want.t[k].d[0]);
            if (!strcmp(t->name, "rope_freqs.weight")) close_to(t->name, f32_of(t), f32_of(&want.t[k]), t->bytes / 4, 1e-6, 0);
            else if (memcmp(t->data, want.t[k].data, t->bytes)) flunk("%s: %s has other bits", crossing[i], t->name);
        }
        tensors_close(&want);
        tensors_close(&have);
    }
}

static void no_export(const char *base, const char *to, err code, const char *says) {
    json_t *report;
    err e = export_one(&(struct export_request){.base = base, .to = to, .out = at("no")}, &report);
    if (e != code || !strstr(err_text(), says)) flunk("%s: wanted %d \"%s\", got %d \"%s\"", base, code, says, e, e ? err_text() : "");
    assert_false(path_exists(at("no")));
    json_decref(report);
}

static const char wide_gpt2[] =
    "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 32, \"n_head\": 2, \"vocab_size\": 40, \"n_positions\": 24}";

static void test_no_crossing(void **state) {
    (void)state;
    static const char *const refused[][2] = {{"t5_gated_v4", "GGUF cannot say its greatest relative distance (20, and 128 would be read)"},
                                             {"mistral_v4", "GGUF cannot say its sliding windows: layer 0's (4, and 0 would be read)"},
                                             {"qwen2_window_v4", "GGUF cannot say its sliding windows: layer 1's (4, and 0"},
                                             {"qwen3_bias", "qwen3 files have no place for blk.0.attn_k.bias"},
                                             {"gemma3_v4", "GGUF cannot say its scale of scores (0.27735, and 0.353553"},
                                             {"llama_yarn", "yarn with beta_fast 2 and beta_slow 1"}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        no_export(arena_printf(&names, GOLDEN "/families/%s", refused[i][0]), "gguf", E_UNSUPPORTED, refused[i][1]);
    /* quantised matrices that would have to be turned, and the way out that the message names */
    must(file_write(at("wide.json"), wide_gpt2, sizeof wide_gpt2 - 1));
    json_decref(export_((struct export_request){
        .base = "random:1:q8_0", .base_config = at("wide.json"), .to = "gguf", .type = DT_Q8_0, .out = at("wide.gguf")}));
    no_export(at("wide.gguf"), "hf", E_UNSUPPORTED, "is q8_0 and would have to be transposed: write a GGUF file of --type f16 first");
    json_decref(export_((struct export_request){.base = at("wide.gguf"), .to = "gguf", .type = DT_F16, .out = at("wide16.gguf")}));
    json_decref(export_((struct export_request){.base = at("wide16.gguf"), .to = "hf", .out = at("wide16")}));
}

int main(void) {
    omp_set_num_threads(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merged_logits), cmocka_unit_test(test_merged_methods), cmocka_unit_test(test_merged_heads), cmocka_unit_test(test_forms_of_products), cmocka_unit_test(test_forms_of_dora),  cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_forms_of_an_adapter),
        cmocka_unit_test(test_gguf_lora_rows), cmocka_unit_test(test_check_catches),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_whole_tensors),  cmocka_unit_test(test_whole_tensors_refused), cmocka_unit_test(test_tied_table_twice), cmocka_unit_test(test_whole_t5),
        cmocka_unit_test(test_types),          cmocka_unit_test(test_untouched),      cmocka_unit_test(test_transposed),
        cmocka_unit_test(test_families),       cmocka_unit_test(test_crossed_logits), cmocka_unit_test(test_crossed_and_back),
        cmocka_unit_test(test_keys_of_gguf),   cmocka_unit_test(test_no_crossing),    cmocka_unit_test(test_place)};
    return cmocka_run_group_tests(tests, own_folder_make, end);
}
