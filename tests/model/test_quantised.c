/* A base that is quantised when it is opened (model/quantised.h, gen/rules.h) and one that `cyclora quantize` wrote: the same bytes; an adapter's
 * gradient on it is that on its numbers in f32; what the plan counts is what is there; and what is refused. */
#define _GNU_SOURCE
#include "support/bench.h"
#include "support/folder.h"
#include "base/nf4.h"
#include "export/export.h"
#include "gen/likeness.h"
#include "gen/rules.h"
#include "model/quantised.h"
#include "peft/lora.h"
#include "train/run.h"
#include <jansson.h>
#include <unistd.h>

#define CIPHER GOLDEN "/cipher/"
static char plain[256], gguf[256]; /* random weights of a Llama of 2 layers: a folder in bf16, a file in f16 */
static char wide[256];             /* .. and of one whose rows are of 512, but of 576 in down_proj */
static const char wide_config[] = "{\"model_type\": \"llama\", \"hidden_act\": \"silu\", \"max_position_embeddings\": 64, "
                                  "\"rms_norm_eps\": 1e-5, \"hidden_size\": 512, "
                                  "\"num_hidden_layers\": 1, \"num_attention_heads\": 8, \"num_key_value_heads\": 2, "
                                  "\"intermediate_size\": 576, "
                                  "\"vocab_size\": 40, \"tie_word_embeddings\": false}";

static void write_model(const char *base, const char *config, const char *to, dtype dt, const char *out) {
    json_t *report;
    must(export_one(&(struct export_request){.base = base, .base_config = config, .to = to, .type = dt, .out = out}, &report));
    json_decref(report);
}

static int begin(void **state) {
    if (own_folder_make(state)) return -1;
    snprintf(plain, sizeof plain, "%s/plain", own_folder());
    snprintf(gguf, sizeof gguf, "%s/plain.gguf", own_folder());
    write_model("random:5:bf16", GOLDEN "/packed/nf4_llama/config.json", "hf", DT_BF16, plain);
    write_model(plain, NULL, "gguf", DT_F16, gguf);
    char config[300];
    snprintf(wide, sizeof wide, "%s/wide", own_folder());
    snprintf(config, sizeof config, "%s/wide.json", own_folder());
    FILE *f = fopen(config, "w");
    assert_true(f && fputs(wide_config, f) >= 0 && !fclose(f));
    write_model("random:5:bf16", config, "hf", DT_BF16, wide);
    return 0;
}

/* --- opening --------------------------------------------------------------------------------------------------------- */
static err quantise(struct model *m, const char *path, const char *type, bool nested, const char *const *choice, int n, arena *mem) {
    struct rules rules;
    must(model_open(path, NULL, m));
    dtype *to = arena_alloc(mem, (size_t)m->n * sizeof *to);
    TRY(rules_read(type, choice, n, "modules", mem, &rules));
    TRY(rules_apply(&rules, m, to));
    return quantised_open(m, to, nested);
}

static void open_quantised(struct model *m, const char *path, const char *type, bool nested) {
    arena mem = {0};
    must(quantise(m, path, type, nested, NULL, 0, &mem));
    arena_free(&mem);
}

/* By the definitions alone: row by row, and the scales of the matrix rounded once more; kept in 8 bits they give the same numbers. */
static void same_as_defined(const struct weight *w, bool nested) {
    const int64_t rows = w->d[0], cols = w->d[1];
    const dtype dt = w->dt == DT_NF4_DQ ? DT_NF4 : w->dt;
    const size_t row = dtype_row_bytes(dt, cols);
    uint8_t *want = malloc((size_t)rows * row);
    float *x = malloc((size_t)(2 * cols) * sizeof *x), *absmax = malloc((size_t)(rows * cols / 32) * sizeof *absmax);
    for (int64_t r = 0; r < rows; r++) {
        dequantise_row(w->from, (const char *)w->source + dtype_row_bytes(w->from, cols) * (size_t)r, x, cols);
        quantise_row(dt, x, want + row * (size_t)r, cols);
    }
    if (nested && dt == DT_NF4) {
        nf4_take_absmax(want, rows * cols / 64, absmax);
        nf4_round_absmax(absmax, rows * cols / 64);
        nf4_put_absmax(want, rows * cols / 64, absmax);
    }
    if (w->dt == dt) assert_memory_equal(w->data, want, (size_t)rows * row);
    for (int64_t r = 0; r < rows && w->dt != dt; r++) {
        dequantise_row(w->dt, (const char *)w->data + dtype_row_bytes(w->dt, cols) * (size_t)r, x, cols);
        dequantise_row(dt, want + row * (size_t)r, x + cols, cols);
        assert_memory_equal(x, x + cols, (size_t)cols * sizeof *x);
    }
    free(want), free(x), free(absmax);
}

static void test_made(void **state) {
    (void)state;
    static const struct {
        const char *type;
        dtype dt[2];
    } cases[] = {/* of rows of 64, of 128 */
                 {"nf4", {DT_NF4, DT_NF4}},    {"int8", {DT_INT8, DT_INT8}}, {"q8_0", {DT_Q8_0, DT_Q8_0}},
                 {"q4_0", {DT_Q4_0, DT_Q4_0}}, {"q4_k", {DT_Q4_1, DT_Q4_1}}, {"q6_k", {DT_Q8_0, DT_Q8_0}}}; /* super-blocks fit neither */
    char file[33], hash[33];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int nested = 0; nested < (k ? 1 : 2); nested++) {
            struct model m;
            size_t bytes = 0, made = 0;
            int layers = 0;
            must(model_open(plain, NULL, &m));
            model_hash(&m, file);
            const size_t before = m.bytes;
            model_close(&m);
            open_quantised(&m, plain, cases[k].type, nested);
            must(model_fill(&m));
            for (int i = 0; i < m.n; i++) {
                const struct weight *w = &m.w[i];
                const bool matrix = w->nd == 2 && str_starts(w->name, "blk.");
                bytes += matrix ? weight_bytes(w) : 0;
                made += matrix ? (size_t)(w->d[0] * w->d[1]) * 2 : 0;
                assert_int_equal(w->source != NULL, matrix);
                if (!matrix) continue;
                assert_int_equal(w->dt, cases[k].dt[w->d[1] == 128]);
                same_as_defined(w, nested);
                layers++;
            }
            assert_int_equal(layers, 2 * 7);
            assert_int_equal(m.files.copied, bytes);
            assert_int_equal(m.bytes, before - made + bytes);
            model_hash(&m, hash); /* of the file: an adapter belongs to that */
            assert_string_equal(hash, file);
            model_close(&m);
        }
}

/* Double quantisation takes less memory where rows are whole blocks of 512, and only there. */
static void test_kept(void **state) {
    (void)state;
    for (int nested = 0; nested < 2; nested++) {
        struct model m;
        size_t bytes = 0;
        open_quantised(&m, wide, "nf4", nested);
        must(model_fill(&m));
        for (int i = 0; i < m.n; i++) {
            const struct weight *w = &m.w[i];
            if (w->nd < 2 || !str_starts(w->name, "blk.")) continue;
            assert_int_equal(w->dt, nested && w->d[1] == 512 ? DT_NF4_DQ : DT_NF4);
            same_as_defined(w, nested);
            bytes += weight_bytes(w);
        }
        assert_int_equal(m.files.copied, bytes);
        assert_int_equal(bytes, (640 + 128 + 512 + 2 * 576) * (nested ? 272 : 288) + 512 * 324);
        model_close(&m);
    }
}

static void test_choices(void **state) {
    (void)state;
    static const char *const choice[] = {"k_proj=none", "lm_head=q8_0", "layers.1.*down_proj=q4_0"};
    arena mem = {0};
    struct model m;
    must(quantise(&m, plain, "nf4", true, choice, 3, &mem));
    assert_int_equal(model_weight(&m, "blk.0.attn_k.weight")->dt, DT_BF16);
    assert_int_equal(model_weight(&m, "blk.0.attn_q.weight")->dt, DT_NF4);
    assert_int_equal(model_weight(&m, "blk.0.ffn_down.weight")->dt, DT_NF4);
    assert_int_equal(model_weight(&m, "blk.1.ffn_down.weight")->dt, DT_Q4_0);
    assert_int_equal(model_weight(&m, "output.weight")->dt, DT_Q8_0);
    assert_int_equal(model_weight(&m, "token_embd.weight")->dt, DT_BF16);
    model_close(&m);
    arena_free(&mem);
}

static void refused(const char *path, const char *type, const char *choice, err code, const char *says) {
    arena mem = {0};
    struct model m;
    err e = quantise(&m, path, type, true, &choice, choice ? 1 : 0, &mem);
    if (e != code || !strstr(err_text(), says))
        flunk("%s %s: wanted %d \"%s\", got %d \"%s\"", type, choice ? choice : "", code, says, e, err_text());
    model_close(&m);
    arena_free(&mem);
}

static void test_refused(void **state) {
    (void)state;
    refused(plain, "nf5", NULL, E_USAGE, "'nf5' is no type to quantise to (q4_0");
    refused(plain, "f16", NULL, E_USAGE, "'f16' is no type to quantise to");
    refused(plain, "q2_k", NULL, E_USAGE, "no type to quantise to"); /* it is only read */
    refused(plain, "nf4", "k_proj", E_USAGE, "modules wants a module and a type such as lm_head=q8_0, found 'k_proj'");
    refused(plain, "nf4", "k_proj=q9", E_USAGE, "modules: 'q9' is no type");
    refused(plain, "nf4", "k_prj=none", E_USAGE, "'k_prj=none' decides about no matrix of");
    refused(plain, "nf4", "k_proj(=none", E_USAGE, "modules: 'k_proj(' is no regular expression");
    refused(GOLDEN "/packed/nf4_llama", "q8_0", NULL, E_USAGE, "is quantised already, as nf4");
    refused(GOLDEN "/tiny_llama/tied_gqa", "nf4", NULL, E_UNSUPPORTED,
            "has rows of 32, which the blocks of no such type fit; leave it as it is (model.layers.");
}

static void test_not_finite(void **state) {
    (void)state;
    struct model m;
    open_quantised(&m, plain, "nf4", true);
    struct weight *w = (struct weight *)model_weight(&m, "blk.1.attn_v.weight");
    uint16_t *copy = malloc((size_t)(w->d[0] * w->d[1]) * 2);
    memcpy(copy, w->source, (size_t)(w->d[0] * w->d[1]) * 2);
    copy[3 * w->d[1] + 5] = 0x7FC0;
    w->source = copy;
    assert_int_equal(model_fill(&m), E_NUMERIC);
    assert_non_null(strstr(err_text(), "tensor blk.1.attn_v.weight is not finite (NaN or infinity) in row 3"));
    free(copy);
    model_close(&m);
}

/* Random weights become what they would be after a file: except that they are never rounded to another type first. */
static void test_random(void **state) {
    (void)state;
    arena mem = {0};
    struct model m, of;
    struct rules rules;
    must(model_open("random:5:f32", GOLDEN "/packed/nf4_llama/config.json", &of));
    must(model_fill(&of));
    must(model_open("random:5:bf16", GOLDEN "/packed/nf4_llama/config.json", &m));
    dtype *to = arena_alloc(&mem, (size_t)m.n * sizeof *to);
    must(rules_read("nf4", NULL, 0, "modules", &mem, &rules));
    must(rules_apply(&rules, &m, to));
    must(quantised_open(&m, to, true));
    must(model_fill(&m));
    for (int i = 0; i < m.n; i++) {
        struct weight w = m.w[i];
        if (w.dt != DT_NF4) continue;
        w.from = DT_F32, w.source = of.w[i].data;
        same_as_defined(&w, true);
    }
    model_close(&m);
    model_close(&of);
    arena_free(&mem);
}

/* --- files ----------------------------------------------------------------------------------------------------------- */
static json_t *write_quantised(const char *from, const char *type, bool nested, const char *out) {
    arena mem = {0};
    struct rules rules;
    json_t *report;
    must(rules_read(type, NULL, 0, "modules", &mem, &rules));
    rules.nested = nested;
    must(export_one(&(struct export_request){.base = from, .rules = &rules, .to = str_ends(out, ".gguf") ? "gguf" : "hf", .out = out},
                    &report));
    arena_free(&mem);
    return report;
}

/* Every tensor of a written file is what the other one has in memory. */
static void same_models(const char *path, const char *from, const char *type, bool nested) {
    struct model made, read;
    open_quantised(&made, from, type, nested);
    must(model_fill(&made));
    must(model_open(path, NULL, &read));
    assert_int_equal(made.n, read.n);
    for (int i = 0; i < made.n; i++) {
        assert_string_equal(made.w[i].name, read.w[i].name);
        if (made.w[i].dt != read.w[i].dt)
            flunk("%s is %s, read %s", made.w[i].name, dtype_info[made.w[i].dt].name, dtype_info[read.w[i].dt].name);
        if (memcmp(made.w[i].data, read.w[i].data, weight_bytes(&made.w[i]))) flunk("%s %s: %s differs", path, type, made.w[i].name);
    }
    model_close(&made);
    model_close(&read);
}

static void test_files(void **state) {
    (void)state;
    static const char *const types[] = {"nf4", "nf4", "q8_0", "q4_k"};
    for (int k = 0; k < 4; k++) {
        char out[300];
        snprintf(out, sizeof out, "%s/%s-%d%s", own_folder(), types[k], k, k < 2 ? "" : ".gguf");
        json_t *report = write_quantised(k < 2 ? plain : gguf, types[k], k == 0, out);
        const json_t *memory = json_object_get(report, "memory");
        assert_non_null(json_object_get(report, "weights_check"));
#ifndef __SANITIZE_ADDRESS__ /* its shadow is memory too */
        assert_true(json_integer_value(json_object_get(memory, "peak")) <= json_integer_value(json_object_get(memory, "planned")));
#endif
        (void)memory;
        json_decref(report);
        same_models(out, k < 2 ? plain : gguf, types[k], k == 0);
    }
    for (int nested = 0; nested < 2; nested++) {
        char out[300];
        snprintf(out, sizeof out, "%s/wide-%d", own_folder(), nested);
        json_decref(write_quantised(wide, "nf4", nested, out));
        same_models(out, wide, "nf4", nested);
    }
}

/* config.json says what transformers wants to know, and every plain matrix is among those that it leaves alone. */
static void test_config(void **state) {
    (void)state;
    char path[400];
    snprintf(path, sizeof path, "%s/nf4-0/config.json", own_folder());
    json_t *c = json_load_file(path, 0, NULL), *q = json_object_get(c, "quantization_config");
    assert_string_equal(json_string_value(json_object_get(q, "quant_method")), "bitsandbytes");
    assert_string_equal(json_string_value(json_object_get(q, "bnb_4bit_quant_type")), "nf4");
    assert_true(json_is_true(json_object_get(q, "load_in_4bit")) && json_is_true(json_object_get(q, "bnb_4bit_use_double_quant")));
    const json_t *skipped = json_object_get(q, "llm_int8_skip_modules");
    assert_int_equal(json_array_size(skipped), 2);
    assert_string_equal(json_string_value(json_array_get(skipped, 0)), "lm_head");
    assert_string_equal(json_string_value(json_array_get(skipped, 1)), "model.embed_tokens");
    json_decref(c);
}

static void test_files_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *type, *choice, *out, *says;
    } cases[] = {{gguf, "nf4", NULL, "no.gguf", "GGUF has no such type; of nf4 write a Hugging Face folder"},
                 {plain, "q8_0", NULL, "no", "a Hugging Face folder has no such type beside nf4: write a GGUF file"},
                 {plain, "nf4", "lm_head=q8_0", "no", "lm_head as q8_0: a Hugging Face folder has no such type"},
                 {plain, "nf4", "embed_tokens=nf4", "no", "model.embed_tokens as nf4: bitsandbytes has no token tables in 4 bits"}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        arena mem = {0};
        struct rules rules;
        json_t *report;
        char out[300];
        snprintf(out, sizeof out, "%s/%s", own_folder(), cases[k].out);
        must(rules_read(cases[k].type, &cases[k].choice, cases[k].choice != NULL, "modules", &mem, &rules));
        assert_int_equal(
            export_one(
                &(struct export_request){.base = cases[k].from, .rules = &rules, .to = str_ends(out, ".gguf") ? "gguf" : "hf", .out = out},
                &report),
            E_USAGE);
        if (!strstr(err_text(), cases[k].says)) flunk("%s: %s", cases[k].says, err_text());
        assert_int_not_equal(access(out, F_OK), 0);
        json_decref(report);
        arena_free(&mem);
    }
}

/* --- computing ------------------------------------------------------------------------------------------------------- */
static uint32_t noise;
static float next_noise(void) {
    noise = noise * 1664525u + 1013904223u;
    return (float)(noise >> 8) * 0x1p-24f - 0.5f;
}

/* What a card has taken is gone from the host. */
static void all_dropped(const struct model *m) {
    for (int i = 0; i < m->n; i++) assert_false(m->w[i].made);
}

/* The gradient of a LoRA adapter with B != 0, poisoned arenas; type NULL: the model as it is. */
static float *gradient(const char *path, const char *type, const struct backend *on, size_t *n, double sums[4]) {
    struct lora lora = {.r = 4, .alpha = 8, .targets.of.take = TAKE_ALL_LINEAR};
    struct model m;
    struct structure st;
    struct program train;
    struct learner l;
    struct workbench wb = {.threads = 2};
    struct row row[2];
    int32_t ids[2][12];
    uint8_t supervised[12];
    const struct recipe recipe = {.learning_rate = 1e-3};
    noise = 3;
    memset(supervised, 1, sizeof supervised);
    for (int r = 0; r < 2; r++) {
        for (int i = 0; i < 12; i++) ids[r][i] = 3 + (r * 17 + i * 7) % 30;
        row[r] = (struct row){.ids = ids[r], .supervised = supervised, .n = 12 - 3 * r};
    }
    if (type) open_quantised(&m, path, type, true);
    else must(model_open(path, NULL, &m));
    if (on->mem->host) must(model_fill(&m));
    must(structure_init(&st, &m, &method_lora, &lora, NULL));
    must(program_build(&train, &m, MODE_TRAIN, &st, (struct capacity){24, 3, 0, 0, DT_F32, DT_NONE, 0}, CHECKPOINT_SELECTIVE, on, false));
    must(memory_for(&wb.mem, (struct program *const[]){&train}, 1));
    must(learner_init(&l, &st, &train, &recipe));
    for (size_t i = 0; i < st.params.bytes / 4; i++) ((float *)l.w)[i] = next_noise() * 0.2f;
    wb.grad = on->mem->take(st.params.bytes);
    must(pack_init(&wb.pack, 24, 3));
    memset(wb.mem.act, 0xFF, wb.mem.act_bytes), memset(wb.mem.scratch, 0xFF, wb.mem.scratch_bytes);
    must(learner_gradient(&l, &wb, (const struct row *const[]){&row[0], &row[1]}, 2, 1, 0, sums));
    *n = st.params.bytes / 4;
    float *out = malloc(st.params.bytes);
    memcpy(out, wb.grad, st.params.bytes);
    if (!on->mem->host) all_dropped(&m);
    on->mem->give(wb.grad, st.params.bytes);
    pack_free(&wb.pack);
    free(wb.first);
    learner_free(&l);
    memory_free(&wb.mem);
    program_free(&train);
    structure_free(&st);
    model_close(&m);
    return out;
}

static double largest(const float *x, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)x[i]));
    return most;
}

static double furthest(const float *x, const float *y, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(isfinite(x[i]));
        most = fmax(most, fabs((double)x[i] - y[i]));
    }
    return most;
}

/* Both read the same numbers, unpacked inside a product or beforehand, and sum them in orders of their own: eps sqrt(K) for a sum of K = 128,
 * (576 in the wide one), of which 2 blocks have some 8 in a row each, forwards and back. The unquantised base is much further away. */
static void test_gradient(void **state) {
    (void)state;
    const struct {
        const char *from, *type, *ends, *to;
        int K;
    } cases[] = {{plain, "nf4", "", "hf", 128}, {gguf, "q8_0", ".gguf", "gguf", 128}, {wide, "nf4", "", "hf", 576}};
    for (int k = 0; k < 3; k++) {
        char written[300], numbers[300];
        size_t n, n2;
        double a[4], b[4], c[4];
        snprintf(written, sizeof written, "%s/g%d%s", own_folder(), k, cases[k].ends);
        snprintf(numbers, sizeof numbers, "%s/g%d-f32%s", own_folder(), k, cases[k].ends);
        const char *from = cases[k].from;
        json_decref(write_quantised(from, cases[k].type, true, written));
        write_model(written, NULL, cases[k].to, DT_F32, numbers);
        float *have = gradient(from, cases[k].type, &backend_cpu, &n, a), *want = gradient(numbers, NULL, &backend_cpu, &n2, b),
              *other = gradient(from, NULL, &backend_cpu, &n2, c);
        const double eps = 32 * 0x1p-24 * sqrt(cases[k].K), limit = eps * largest(want, n);
        assert_int_equal(n, n2);
        if (furthest(have, want, n) > limit)
            flunk("%s: gradients are %.3g apart, %.3g is what sums explain", cases[k].type, furthest(have, want, n), limit);
        assert_true(furthest(other, want, n) > 20 * limit);
        assert_true(fabs(a[0] - b[0]) <= eps * fabs(b[0]));
        free(have), free(want), free(other);
    }
}

/* A backend with a memory of its own gets each matrix when it asks for it, and computes the same bits. */
static void test_apart(void **state) {
    (void)state;
    struct mem_ops apart = mem_host;
    struct backend elsewhere = backend_cpu;
    size_t n, n2;
    double a[4], b[4];
    apart.host = false;
    elsewhere.mem = &apart;
    float *here = gradient(plain, "nf4", &backend_cpu, &n, a), *there = gradient(plain, "nf4", &elsewhere, &n2, b);
    assert_int_equal(n, n2);
    assert_memory_equal(here, there, n * sizeof *here);
    free(here), free(there);
}

/* A model is like itself; of one that is not, the perplexity of each is that of its own score program. */
static void test_likeness(void **state) {
    (void)state;
    struct model a, b;
    struct likeness l;
    struct ids text[2] = {{0}};
    size_t bytes;
    for (int k = 0; k < 300; k++) must(ids_push(&text[k % 3 == 0], 3 + (k * k) % 35));
    must(model_open(plain, NULL, &a));
    open_quantised(&b, plain, "q4_0", true);
    must(model_fill(&b));
    must(likeness_bytes(&a, &b, &bytes));
    assert_true(bytes > 0);
    must(likeness_measure(&a, &a, text, 2, 1000, NULL, &l));
    assert_true(l.kl == 0 && l.kl_worst == 0 && l.nll[0] == l.nll[1] && l.same_top == l.tokens);
    assert_int_equal(l.tokens, 300);
    must(likeness_measure(&a, &b, text, 2, 1000, NULL, &l));
    assert_true(l.kl > 0 && l.kl_worst >= l.kl && l.nll[0] != l.nll[1] && l.nll[0] > 0);
    struct likeness few;
    must(likeness_measure(&a, &b, text, 2, 10, NULL, &few));
    assert_int_equal(few.tokens, 10);
    assert_int_equal(few.predicted, 9);
    volatile int stop = 1;
    assert_int_equal(likeness_measure(&a, &b, text, 2, 1000, &stop, &few), E_INTERRUPTED);
    assert_int_equal(likeness_measure(&a, &b, text, 0, 1000, NULL, &few), E_INPUT);
    for (int k = 0; k < 2; k++) ids_free(&text[k]);
    model_close(&a);
    model_close(&b);
}

/* --- a run ----------------------------------------------------------------------------------------------------------- */
static const char *const settings[] = {"objective=sft",
                                       "model=" CIPHER,
                                       "data=" CIPHER "a.jsonl",
                                       "format=text",
                                       "per_device_train_batch_size=4",
                                       "max_length=32",
                                       "pass_tokens=64",
                                       "lora.r=4",
                                       "threads=1",
                                       "max_steps=2",
                                       "device=cpu",
                                       NULL};

static err open_run(struct run *r, struct config *c, const char *const *more) {
    char out[300];
    snprintf(out, sizeof out, "output_dir=%s/run", own_folder());
    must(config_init(c));
    must(config_set(c, out));
    for (int i = 0; settings[i]; i++) must(config_set(c, settings[i]));
    for (int i = 0; more[i]; i++) must(config_set(c, more[i]));
    return run_open(r, c);
}

static void test_planned(void **state) {
    (void)state;
    struct run r, bare;
    struct config c, none;
    must(open_run(&bare, &none, (const char *const[]){"quantization=none", NULL}));
    must(open_run(
        &r, &c,
        (const char *const[]){"quantization=q4_0", "quantization_modules=down_proj=nf4,lm_head=q8_0", "quantization_check=40", NULL}));
    size_t was = 0, made = 0, kept = 0;
    for (int i = 0; i < r.base[0].model.n; i++) {
        const struct weight *w = &r.base[0].model.w[i];
        kept += weight_bytes(w);
        if (!w->source) continue;
        was += (size_t)w->d[0] * dtype_row_bytes(w->from, w->d[1]);
        made += (size_t)w->d[0] * dtype_row_bytes(w->dt, w->d[1]);
    }
    assert_true(made > 0);
    assert_int_equal(r.base[0].model.bytes, bare.base[0].model.bytes - was + made);   /* a byte for a byte */
    assert_int_equal(r.foot.weights, kept); /* vectors are f32 in memory; the rest of the file is let go of */
    const size_t later = r.foot.adapters + r.foot.gradients + r.foot.optimizer + r.foot.activations + r.foot.cache + r.foot.scratch;
    assert_int_equal(r.foot.beginning, r.base[0].check_bytes > later ? r.base[0].check_bytes - later : 0);
    const size_t names = r.foot.runtime - bare.foot.runtime; /* of the types that were asked for */
    assert_true(names < 1024);
    assert_int_equal(r.foot.resident, bare.foot.resident + made + r.foot.beginning + (r.foot.scratch - bare.foot.scratch) + names);
    must(run_start(&r));
    assert_true(r.base[0].likeness.tokens > 30 && r.base[0].likeness.tokens <= 40 && r.base[0].likeness.kl > 0);
    json_t *plan = run_plan_json(&r, AT_END), *q = json_object_get(plan, "quantization");
    assert_string_equal(json_string_value(json_object_get(q, "type")), "q4_0");
    assert_true(json_number_value(json_object_get(q, "perplexity")) > 1);
    json_decref(plan);
    run_close(&r), run_close(&bare);
    config_free(&c), config_free(&none);
}

static void test_run_refused(void **state) {
    (void)state;
    static const struct {
        const char *set[4];
        const char *says;
    } cases[] = {
        {{"quantization_modules=lm_head=q8_0"}, "quantization_modules says how a base is quantised, and quantization is none"},
        {{"quantization_check=10"}, "quantization_check says how a base is quantised, and quantization is none"},
        {{"quantization=nf4", "model=" GOLDEN "/packed/nf4_llama", "tokenizer=" CIPHER "tokenizer.json"}, "is quantised already, as nf4"},
        {{"quantization=q4_0", "method=full", "full.target_modules=q_proj"},
         "is to be trained itself (method full): it cannot be quantised as well"}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct run r;
        struct config c;
        err e = open_run(&r, &c, cases[k].set);
        if (!err_is_input(e) || !strstr(err_text(), cases[k].says)) flunk("wanted \"%s\", got %d \"%s\"", cases[k].says, e, err_text());
        run_close(&r);
        config_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made),       cmocka_unit_test(test_kept),          cmocka_unit_test(test_choices),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_not_finite),    cmocka_unit_test(test_random),
        cmocka_unit_test(test_files),      cmocka_unit_test(test_config),        cmocka_unit_test(test_files_refused),
        cmocka_unit_test(test_gradient),   cmocka_unit_test(test_apart),         cmocka_unit_test(test_likeness),
        cmocka_unit_test(test_planned),    cmocka_unit_test(test_run_refused)};
    return cmocka_run_group_tests(tests, begin, own_folder_remove);
}
