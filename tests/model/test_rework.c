/* Adapters made of adapters against PEFT's add_weighted_adapter and torch's SVD (tests/golden/arithmetic); what the result's configuration
 * says; other methods' means; that nothing is left of what was refused, and why it was. */
#define _GNU_SOURCE
#include "support/support.h"
#include "support/folder.h"
#include "base/file.h"
#include "base/philox.h"
#include "export/combine.h"
#include "export/deltas.h"
#include "export/rework.h"
#include "export/svd.h"

#define GA GOLDEN "/arithmetic/"
#define METHODS GOLDEN "/methods/"
static const char *const ab[] = {GA "a", GA "b"}, *const ac[] = {GA "a", GA "c"};
static const double weights[] = {0.7, -0.4};

/* The result's folder, opened again. */
struct result {
    json_t *report, *config;
    struct tensors files;
    struct lora_pairs pairs;
};

static struct result made(struct rework_request r) {
    struct result x;
    char path[512];
    r.out = at("made"), r.force = true;
    must(rework(&r, &x.report));
    snprintf(path, sizeof path, "%s/adapter_config.json", r.out);
    assert_non_null(x.config = json_load_file(path, 0, NULL));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", r.out);
    must(tensors_open(path, &x.files));
    if (!strcmp(json_string_value(json_object_get(x.config, "peft_type")), "LORA")) must(pairs_read(r.out, x.config, path, &x.files, &(struct pairs_use){0}, &x.pairs));
    else x.pairs = (struct lora_pairs){0};
    return x;
}

static void drop(struct result *x) {
    json_decref(x->report);
    json_decref(x->config);
    pairs_free(&x->pairs);
    tensors_close(&x->files);
}

/* scale * B A, [out, in] */
static float *product(const struct lora_pair *p) {
    const int64_t in = p->a->d[1], out = p->b->d[0];
    float *w = calloc((size_t)(in * out), sizeof *w);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            double sum = 0;
            for (int k = 0; k < p->rank; k++) sum += (double)f32_of(p->b)[o * p->rank + k] * f32_of(p->a)[k * in + i];
            w[o * in + i] = (float)(p->scale * sum);
        }
    return w;
}

static const struct lora_pair *pair_of(const struct lora_pairs *p, const char *module) {
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->p[i].module, module)) return &p->p[i];
    flunk("%s has no %s", p->folder, module);
    return NULL;
}

/* Every tensor "PREFIX.MODULE.KIND" of the fixture against the result; returns how many. */
static int compare(const char *prefix, const struct result *x, double rel, double abs) {
    struct tensors want;
    int n = 0;
    must(tensors_open(GA "expected.safetensors", &want));
    for (int i = 0; i < want.n; i++) {
        const struct tensor *t = &want.t[i];
        char module[256];
        const char *kind = strrchr(t->name, '.') + 1;
        const size_t before = strlen(prefix) + 1;
        if (strncmp(t->name, prefix, before - 1) || t->name[before - 1] != '.' || !strcmp(kind, "sizes")) continue;
        snprintf(module, sizeof module, "%.*s", (int)(kind - 1 - t->name - (ptrdiff_t)before), t->name + before);
        const struct lora_pair *p = pair_of(&x->pairs, module);
        float *w = *kind == 'p' ? product(p) : NULL;
        close_to(t->name, w ? w : f32_of(*kind == 'A' ? p->a : p->b), f32_of(t), t->bytes / 4, rel, abs);
        free(w);
        n++;
    }
    tensors_close(&want);
    return n;
}

/* Numbers come out as PEFT's, with its own masks and signs; both bring four pairs and two of their own. */
static void test_by_number(void **state) {
    (void)state;
    static const struct { const char *want, *how; double density; bool by_count; } ways[] = {{"linear", "linear", 0, false}, {"ties", "ties", 0.6, false}, {"ties_count", "ties", 0.6, true},
        {"magnitude_prune", "magnitude_prune", 0.6, false}, {"dare_linear", "dare_linear", 0.6, false}, {"dare_ties", "dare_ties", 0.6, false}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct result x = made((struct rework_request){.how = ways[i].how, .folders = ab, .n = 2, .weights = weights, .n_weights = 2, .density = ways[i].density, .by_count = ways[i].by_count, .seed = 11});
        assert_int_equal(compare(ways[i].want, &x, 1e-6, 1e-7), 2 * 6);
        assert_int_equal(x.pairs.n, 6);
        for (int k = 0; k < x.pairs.n; k++) assert_true(x.pairs.p[k].scale == 1 && x.pairs.p[k].rank == 3);
        drop(&x);
    }
}

/* Products: exact in any rank that holds them, the best of a smaller one; ranks, scales and modules of the inputs differ. */
static void test_by_product(void **state) {
    (void)state;
    struct result x = made((struct rework_request){.how = "cat", .folders = ac, .n = 2, .weights = weights, .n_weights = 2});
    assert_int_equal(compare("cat", &x, 2e-6, 1e-6), 4);
    assert_int_equal(pair_of(&x.pairs, "model.layers.0.self_attn.q_proj")->rank, 5);
    assert_int_equal(pair_of(&x.pairs, "model.layers.0.self_attn.v_proj")->rank, 7);
    drop(&x);
    x = made((struct rework_request){.how = "svd", .folders = ac, .n = 2, .weights = weights, .n_weights = 2}); /* of the greatest rank, PEFT's rule too */
    assert_int_equal(compare("svd", &x, 1e-4, 1e-5), 4); /* the fixture's singular vectors are f32 */
    for (int k = 0; k < x.pairs.n; k++) assert_int_equal(x.pairs.p[k].rank, 4);
    drop(&x);
    x = made((struct rework_request){.how = "svd", .folders = ac, .n = 2, .weights = weights, .n_weights = 2, .rank = 9});
    assert_int_equal(compare("cat", &x, 2e-6, 1e-6), 4);
    assert_true(json_real_value(json_object_get(x.report, "kept")) > 1 - 1e-12);
    drop(&x);
}

static const json_t *report_of(const struct result *x, const char *module) {
    size_t i;
    json_t *m;
    json_array_foreach(json_object_get(x->report, "modules"), i, m) if (!strcmp(json_string_value(json_object_get(m, "module")), module)) return m;
    return NULL;
}

/* Down to rank 1 torch's singular vectors, and what it says is lost is what its singular values say. */
static void test_smaller(void **state) {
    (void)state;
    struct tensors want;
    struct result x = made((struct rework_request){.how = "resize", .folders = &ac[1], .n = 1, .rank = 1});
    assert_int_equal(compare("resize", &x, 1e-5, 1e-6), 4);
    must(tensors_open(GA "expected.safetensors", &want));
    double worst = 0;
    for (int k = 0; k < x.pairs.n; k++) {
        char name[512];
        double all = 0;
        snprintf(name, sizeof name, "resize.%s.sizes", x.pairs.p[k].module);
        const float *s = f32_of(fixture(&want, name));
        for (int i = 0; i < 4; i++) all += (double)s[i] * s[i];
        const json_t *m = report_of(&x, x.pairs.p[k].module);
        const double kept = s[0] * (double)s[0] / all, error = sqrt(1 - kept);
        if (fabs(json_real_value(json_object_get(m, "kept")) - kept) > 1e-5 || fabs(json_real_value(json_object_get(m, "error")) - error) > 1e-5) flunk("%s keeps %g, not %g", name, json_real_value(json_object_get(m, "kept")), kept);
        worst = error > worst ? error : worst;
        /* each module's scale is what it was: -3 / 2 and -3 / 4, and 5 / 2 of the one that alpha_pattern names */
        const double scale = strstr(name, "v_proj") ? -0.75 : strstr(name, "layers.1") ? 2.5 : -1.5;
        assert_true(x.pairs.p[k].scale == scale && x.pairs.p[k].rank == 1);
    }
    assert_true(fabs(json_real_value(json_object_get(json_object_get(x.report, "worst"), "error")) - worst) < 1e-5);
    tensors_close(&want);
    drop(&x);
}

/* A greater rank: the same product, and rows of A that can learn. */
static void test_greater(void **state) {
    (void)state;
    struct result x = made((struct rework_request){.how = "resize", .folders = &ac[1], .n = 1, .rank = 6, .seed = 3});
    struct deltas was;
    struct model m;
    must(model_open(GOLDEN "/tiny_llama/tied_gqa", NULL, &m));
    must(deltas_open(GA "c", &m, &was));
    for (int k = 0; k < was.n; k++) {
        const struct lora_pair *p = pair_of(&x.pairs, was.d[k].module);
        const int64_t in = p->a->d[1];
        assert_int_equal(p->rank, 6);
        assert_true(p->scale == was.d[k].scale);
        assert_memory_equal(p->a->data, was.d[k].a->data, was.d[k].a->bytes);
        double sum = 0;
        for (int64_t o = 0; o < p->b->d[0]; o++)
            for (int r = 0; r < 6; r++) assert_true(f32_of(p->b)[o * 6 + r] == (r < was.d[k].rank ? f32_of(was.d[k].b)[o * was.d[k].rank + r] : 0));
        for (int64_t i = was.d[k].rank * in; i < 6 * in; i++) {
            sum += fabsf(f32_of(p->a)[i]);
            assert_true(fabsf(f32_of(p->a)[i]) <= 1 / sqrtf((float)in));
        }
        assert_true(sum > 0);
    }
    drop(&x);
    deltas_close(&was);
    must(deltas_open(at("made"), &m, &was)); /* our own reader takes it */
    deltas_close(&was);
    model_close(&m);
}

/* DoRA keeps its lengths, a LoRA with biases its biases: what stands beside the pairs goes over as it is. */
static void test_beside(void **state) {
    (void)state;
    static const char *const of[] = {METHODS "dora/adapter", METHODS "bias_all/adapter"};
    for (int i = 0; i < 2; i++) {
        char path[512];
        struct tensors was;
        int same = 0;
        struct result x = made((struct rework_request){.how = "resize", .folders = &of[i], .n = 1, .rank = 1});
        snprintf(path, sizeof path, "%s/adapter_model.safetensors", of[i]);
        must(tensors_open(path, &was));
        assert_int_equal(was.n, x.files.n);
        for (int k = 0; k < was.n; k++) {
            if (strstr(was.t[k].name, ".lora_A.") || strstr(was.t[k].name, ".lora_B.")) continue;
            assert_memory_equal(fixture(&x.files, was.t[k].name)->data, was.t[k].data, was.t[k].bytes);
            same++;
        }
        assert_true(same > 0 && (i || json_is_true(json_object_get(x.config, "use_dora"))));
        tensors_close(&was);
        drop(&x);
    }
}

static bool names(const json_t *list, const char *name) {
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) if (!strcmp(json_string_value(v), name)) return true;
    return false;
}

/* Adapters that choose alike keep their choice; else every module is named, and no layer or exclusion says otherwise. */
static void test_configuration(void **state) {
    (void)state;
    struct result x = made((struct rework_request){.how = "cat", .folders = ac, .n = 2});
    assert_int_equal(json_array_size(json_object_get(x.config, "target_modules")), 2);
    assert_int_equal(json_array_size(json_object_get(x.config, "layers_to_transform")), 2);
    assert_int_equal(json_integer_value(json_object_get(x.config, "r")), 7);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(x.config, "rank_pattern"), "model.layers.1.self_attn.q_proj")), 5);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(x.config, "alpha_pattern"), "model.layers.1.self_attn.q_proj")), 5);
    assert_string_equal(json_string_value(json_object_get(x.config, "base_model_name_or_path")), "tests/golden/tiny_llama/tied_gqa");
    drop(&x);
    x = made((struct rework_request){.how = "linear", .folders = ab, .n = 2, .base = "org/base"});
    const json_t *targets = json_object_get(x.config, "target_modules");
    assert_int_equal(json_array_size(targets), 6);
    assert_true(names(targets, "model.layers.1.mlp.down_proj") && names(targets, "model.layers.0.self_attn.v_proj"));
    assert_true(json_is_null(json_object_get(x.config, "layers_to_transform")) && json_is_false(json_object_get(x.config, "use_rslora")));
    assert_string_equal(json_string_value(json_object_get(x.config, "base_model_name_or_path")), "org/base");
    drop(&x);
}

/* The mean of an adapter with itself is the adapter, of every method whose tensors have one. */
static void test_other_methods(void **state) {
    (void)state;
    static const char *const of[] = {"ia3", "bitfit", "ln", "full", "tokens", "prompt", "prefix"};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        char folder[256], path[512];
        struct tensors was;
        snprintf(folder, sizeof folder, METHODS "%s/adapter", of[i]);
        snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
        const char *twice[] = {folder, folder};
        struct result x = made((struct rework_request){.how = "average", .folders = twice, .n = 2, .weights = (double[]){0.25, 0.75}, .n_weights = 2});
        must(tensors_open(path, &was));
        assert_int_equal(was.n, x.files.n);
        for (int k = 0; k < was.n; k++) close_to(was.t[k].name, f32_of(fixture(&x.files, was.t[k].name)), f32_of(&was.t[k]), was.t[k].bytes / 4, 1e-6, 0);
        tensors_close(&was);
        drop(&x);
    }
}

/* What thinning by chance is worth: as many numbers stay as it says, as large as makes up for the others, and another seed keeps others. */
static void test_chance(void **state) {
    (void)state;
    enum { N = 100000 };
    static float x[N], out[N], other[N], *const in[] = {x}, *const again[] = {other};
    struct combining c = {.thin = THIN_RANDOM, .density = 0.3, .key = 5};
    double sum = 0;
    int stay = 0, both = 0;
    for (int i = 0; i < N; i++) x[i] = other[i] = 1;
    combine(&c, in, &(float){1}, 1, N, 77, NULL, out);
    for (int i = 0; i < N; i++) stay += out[i] != 0, sum += out[i];
    const double far = 5 * sqrt(N * 0.3 * 0.7);
    assert_true(fabs(stay - 0.3 * N) < far && fabs(sum - N) < far / 0.3);
    c.key = 6;
    combine(&c, again, &(float){1}, 1, N, 77, NULL, other);
    for (int i = 0; i < N; i++) both += out[i] != 0 && other[i] != 0;
    assert_true(fabs(both - 0.09 * N) < 5 * sqrt(N * 0.09 * 0.91));
}

/* Of equal numbers on the border as many stay as the density says, the first; a density that leaves less than one leaves none. */
static void test_smallest(void **state) {
    (void)state;
    float x[] = {1, -3, 2, 2, -2, 0, 5, 2}, room[8], out[8], *const in[] = {x};
    const float want[] = {0, -3, 2, 2, 0, 0, 5, 0};
    combine(&(struct combining){.thin = THIN_SMALLEST, .density = 0.5}, in, &(float){1}, 1, 8, 0, room, out);
    assert_memory_equal(out, want, sizeof out);
    combine(&(struct combining){.thin = THIN_SMALLEST, .density = 0.1}, in, &(float){1}, 1, 8, 0, room, out);
    for (int i = 0; i < 8; i++) assert_true(out[i] == 0);
}

/* Products of less rank than their matrices, equal singular values, nothing at all. */
static void test_svd(void **state) {
    (void)state;
    enum { IN = 7, OUT = 5, R = 6 };
    double a[R * IN], b[R * OUT], low[R * IN], high[R * OUT], sizes[R];
    for (int k = 0; k < R; k++) {
        for (int i = 0; i < IN; i++) a[k * IN + i] = k < 3 ? sin((k + 1) * (i + 1)) : a[(k - 3) * IN + i]; /* rank 3, each twice */
        for (int o = 0; o < OUT; o++) b[k * OUT + o] = cos(k + 2 * o * k + o);
    }
    must(product_svd(&(struct product){IN, OUT, R, a, b}, 3, low, high, sizes));
    assert_true(sizes[0] >= sizes[1] && sizes[1] >= sizes[2] && sizes[2] > 0.01 && sizes[3] < 1e-13 * sizes[0]);
    for (int o = 0; o < OUT; o++)
        for (int i = 0; i < IN; i++) {
            double want = 0, have = 0;
            for (int k = 0; k < R; k++) want += b[k * OUT + o] * a[k * IN + i];
            for (int k = 0; k < 3; k++) have += high[k * OUT + o] * low[k * IN + i];
            assert_true(fabs(want - have) < 1e-13 * sizes[0]);
        }
    memset(b, 0, sizeof b);
    must(product_svd(&(struct product){IN, OUT, R, a, b}, 2, low, high, sizes));
    for (int k = 0; k < 2 * OUT; k++) assert_true(high[k] == 0);
}

/* --- refusals ------------------------------------------------------------------------------------------------------------ */
static void refuses(struct rework_request r, err want, const char *says) {
    json_t *report;
    r.out = r.out ? r.out : at("refused");
    err e = rework(&r, &report);
    if (e != want || !strstr(err_text(), says)) flunk("%s: wanted %d \"%s\", got %d \"%s\"", r.how, want, says, e, e ? err_text() : "");
    assert_null(report);
    assert_false(path_exists(at("refused")));
}

/* Adapter `from` under another name, one setting changed. */
static const char *with(const char *from, const char *name, const char *change) {
    char path[512], to[512];
    str bytes = {0};
    must(dir_make(at(name)));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", from);
    snprintf(to, sizeof to, "%s/adapter_model.safetensors", at(name));
    must(file_read(path, &bytes));
    must(file_write(to, bytes.p, bytes.n));
    str_free(&bytes);
    snprintf(path, sizeof path, "%s/adapter_config.json", from);
    snprintf(to, sizeof to, "%s/adapter_config.json", at(name));
    json_t *j = json_load_file(path, 0, NULL), *other = json_loads(change, 0, NULL);
    assert_true(j && other && !json_object_update(j, other) && !json_dump_file(j, to, 0));
    json_decref(j);
    json_decref(other);
    return at(name);
}

#define OF(...) .folders = (const char *const[]){__VA_ARGS__}, .n = sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)

static void test_refusals(void **state) {
    (void)state;
    const char *a = GA "a", *b = GA "b";
    refuses((struct rework_request){.how = "mean", OF(a, b)}, E_USAGE, "no way 'mean'");
    refuses((struct rework_request){.how = "cat", .n = 0}, E_USAGE, "cat of 0 adapters");
    refuses((struct rework_request){.how = "resize", OF(a, b), .rank = 2}, E_USAGE, "resize of 2 adapters: it takes one");
    refuses((struct rework_request){.how = "resize", OF(a)}, E_USAGE, "a rank of 0");
    refuses((struct rework_request){.how = "resize", OF(a), .rank = 5000}, E_USAGE, "a rank of 5000: it must be 1 to 4096");
    refuses((struct rework_request){.how = "resize", OF(a), .rank = 17}, E_USAGE, "a rank of 17 is more than model.layers.0.self_attn.v_proj has, which is [16, 32]");
    refuses((struct rework_request){.how = "ties", OF(a, b), .density = 0.5, .rank = 2}, E_USAGE, "ties has no use for a rank");
    refuses((struct rework_request){.how = "cat", OF(a, b), .weights = weights, .n_weights = 1}, E_USAGE, "1 weights for 2 adapters");
    refuses((struct rework_request){.how = "cat", OF(a, b), .weights = (double[]){1, NAN}, .n_weights = 2}, E_USAGE, "weight 2 is not a number");
    refuses((struct rework_request){.how = "ties", OF(a, b)}, E_USAGE, "must be above 0 and at most 1; it is 0");
    refuses((struct rework_request){.how = "dare_linear", OF(a, b), .density = 1.5}, E_USAGE, "it is 1.5");
    refuses((struct rework_request){.how = "svd", OF(a, b), .density = 0.5}, E_USAGE, "svd leaves no numbers out");
    refuses((struct rework_request){.how = "ties", OF(a, GA "c"), .density = 0.5}, E_USAGE, "q_proj has rank 3 in " GA "a and 2 in " GA "c, and ties wants one");
    refuses((struct rework_request){.how = "cat", OF(a, "nowhere")}, E_USAGE, "nowhere: no such folder");
    refuses((struct rework_request){.how = "cat", OF(a, GA "expected.safetensors")}, E_USAGE, "a file, where an adapter's folder is wanted");
    refuses((struct rework_request){.how = "cat", OF(a, GOLDEN "/tiny_llama/tied_gqa")}, E_USAGE, "adapter_config.json");
    refuses((struct rework_request){.how = "cat", OF(a, with(b, "elsewhere", "{\"base_model_name_or_path\": \"org/other\"}"))}, E_USAGE, "adapters of different bases");
    refuses((struct rework_request){.how = "cat", OF(a, GOLDEN "/tiny_llama/head_dim16/adapter_all_r4"), .base = "x"}, E_USAGE, "they are for different bases");
    refuses((struct rework_request){.how = "cat", OF(a, METHODS "ia3/adapter")}, E_USAGE, "is a LORA adapter and " METHODS "ia3/adapter a IA3 adapter");
    refuses((struct rework_request){.how = "cat", OF(METHODS "dora/adapter")}, E_UNSUPPORTED, "DoRA's lengths are no part of a sum");
    refuses((struct rework_request){.how = "cat", OF(METHODS "bias_all/adapter")}, E_UNSUPPORTED, "bias 'all'");
    refuses((struct rework_request){.how = "cat", OF(with(a, "saved", "{\"modules_to_save\": [\"score\"]}"))}, E_UNSUPPORTED, "'modules_to_save'");
    refuses((struct rework_request){.how = "resize", OF(with(a, "moe", "{\"target_parameters\": [\"w\"]}")), .rank = 1}, E_UNSUPPORTED, "adapters of bare parameters");
    refuses((struct rework_request){.how = "resize", OF(with(a, "started", "{\"init_lora_weights\": \"olora\"}")), .rank = 1}, E_UNSUPPORTED, "changed the base too");
    refuses((struct rework_request){.how = "resize", OF(with(a, "untyped", "{\"peft_type\": null}")), .rank = 1}, E_INPUT, "'peft_type' is missing");
    refuses((struct rework_request){.how = "resize", OF(METHODS "ia3/adapter"), .rank = 1}, E_UNSUPPORTED, "only LoRA adapters have a rank");
    refuses((struct rework_request){.how = "ties", OF(METHODS "ia3/adapter"), .density = 0.5}, E_UNSUPPORTED, "only the mean of their tensors");
    refuses((struct rework_request){.how = "average", OF(METHODS "ia3/adapter"), .rank = 2}, E_USAGE, "a rank has no use for IA3 adapters");
    refuses((struct rework_request){.how = "average", OF(METHODS "full/adapter", METHODS "full/adapter"), .weights = (double[]){1, 1}, .n_weights = 2}, E_USAGE, "must sum to 1");
    refuses((struct rework_request){.how = "average", OF(METHODS "ia3/adapter", METHODS "ia3_gpt2/adapter"), .base = "x"}, E_USAGE, "other settings of ia3");
    refuses((struct rework_request){.how = "average", OF(METHODS "ln/adapter", METHODS "ln_gpt2/adapter"), .base = "x"}, E_USAGE, "ln");
    refuses((struct rework_request){.how = "average", OF(METHODS "prompt/adapter", METHODS "prompt_gemma2/adapter"), .base = "x"}, E_USAGE, "prompt_tuning");
    refuses((struct rework_request){.how = "average", OF(METHODS "adalora/adapter")}, E_UNSUPPORTED, "are factors of one change");
    refuses((struct rework_request){.how = "average", OF(METHODS "vera/adapter")}, E_UNSUPPORTED, "are factors of one change");
    refuses((struct rework_request){.how = "average", OF(METHODS "ptuning/adapter")}, E_UNSUPPORTED, "made by a network");
    refuses((struct rework_request){.how = "average", OF(with(METHODS "ia3/adapter", "loha", "{\"peft_type\": \"LOHA\"}"))}, E_UNSUPPORTED, "peft_type LOHA is not supported");
    refuses((struct rework_request){.how = "cat", OF(a), .out = GA "b"}, E_USAGE, "exists already; --force replaces it");
    refuses((struct rework_request){.how = "cat", OF(with(a, "itself", "{}")), .out = at("itself"), .force = true}, E_USAGE, "is what is read");
    refuses((struct rework_request){.how = "cat", OF(a, b), .stop = &(volatile int){1}}, E_INTERRUPTED, "nothing was left");
}

/* A number that is none, a tensor too few. */
static void test_broken(void **state) {
    (void)state;
    char path[512];
    struct tensors ts;
    const char *folder = with(GA "a", "broken", "{}");
    must(tensors_open(GA "a/adapter_model.safetensors", &ts));
    struct tensor *t = calloc((size_t)ts.n, sizeof *t);
    memcpy(t, ts.t, (size_t)ts.n * sizeof *t);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    must(safetensors_write(path, t + 1, ts.n - 1));
    refuses((struct rework_request){.how = "cat", OF(folder)}, E_INPUT, "each needs the other");
    must(safetensors_write(path, ts.t, ts.n));
    str bytes = {0};
    must(file_read(path, &bytes));
    memset(bytes.p + bytes.n - 4, 0xff, 4); /* the last number of the last tensor */
    must(file_write(path, bytes.p, bytes.n));
    str_free(&bytes);
    refuses((struct rework_request){.how = "svd", OF(folder)}, E_NUMERIC, "holds a number that is not finite");
    free(t);
    tensors_close(&ts);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_number), cmocka_unit_test(test_by_product), cmocka_unit_test(test_smaller), cmocka_unit_test(test_greater), cmocka_unit_test(test_beside),
                                       cmocka_unit_test(test_configuration), cmocka_unit_test(test_other_methods), cmocka_unit_test(test_chance), cmocka_unit_test(test_smallest), cmocka_unit_test(test_svd),
                                       cmocka_unit_test(test_refusals), cmocka_unit_test(test_broken)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
