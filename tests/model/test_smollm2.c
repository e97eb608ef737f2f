/* The real SmolLM2-135M-Instruct from its Q4_1 file against transformers on the dequantised weights
 * (tests/golden/make/smollm2.py): per-token log-likelihood of 2,000 tokens of real text, and greedy continuations of 20
 * prompts. A greedy token may differ where the two best logits nearly tie: such places are shown, and the rest of that
 * continuation is then another text. And its tokenizer: ids that are handed
 * from one adapter to the next are those that their text has; those of a chat's turn are transformers' (tests/golden/make/turns.py). */
#include "support/support.h"
#include "cyclora/cyclora.h"
#include "base/file.h"
#include "train/run.h"

enum { WINDOWS = 4, WINDOW = 500, NEW = 64, PROMPTS = 20 };

static cyc_model *model;

static int open_model(void **state) {
    (void)state;
    const char *path = smollm2_path();
    return path && cyc_model_open(path, &model) ? -1 : 0;
}

static int close_model(void **state) {
    (void)state;
    cyc_model_close(model);
    return 0;
}

static void test_nll(void **state) {
    (void)state;
    if (!model) skip();
    struct tensors want;
    must(tensors_open(GOLDEN "/smollm2/nll.safetensors", &want));
    const int32_t *ids = i32_of(fixture(&want, "ids"));
    const float *nll = f32_of(fixture(&want, "nll"));
    double sum = 0;
    for (int w = 0; w < WINDOWS; w++) {
        float have[WINDOW];
        assert_int_equal(cyc_score_ids(model, NULL, ids + w * WINDOW, WINDOW, have), 0);
        close_to("nll", have + 1, nll + w * (WINDOW - 1), WINDOW - 1, 1e-4, 5e-4);
        for (int i = 1; i < WINDOW; i++) sum += have[i];
    }
    float mean = (float)(sum / (WINDOWS * (WINDOW - 1)));
    close_to("mean nll", &mean, f32_of(fixture(&want, "mean")), 1, 1e-5, 0);
    tensors_close(&want);
}

static void test_greedy(void **state) {
    (void)state;
    if (!model) skip();
    struct tensors want;
    must(tensors_open(GOLDEN "/smollm2/greedy.safetensors", &want));
    const int32_t *prompt[PROMPTS];
    size_t n[PROMPTS];
    for (int p = 0; p < PROMPTS; p++) {
        char name[32];
        snprintf(name, sizeof name, "prompt.%02d", p);
        const struct tensor *t = fixture(&want, name);
        prompt[p] = i32_of(t);
        n[p] = (size_t)t->d[0];
    }
    cyc_generation out[PROMPTS];
    cyc_generate_options o = {.max_new_tokens = NEW, .ignore_eos = 1};
    assert_int_equal(cyc_generate(model, NULL, prompt, n, PROMPTS, &o, out, NULL), 0);
    int ties = 0;
    for (int p = 0; p < PROMPTS; p++) {
        char name[32];
        snprintf(name, sizeof name, "ids.%02d", p);
        const int32_t *ids = i32_of(fixture(&want, name));
        snprintf(name, sizeof name, "gap.%02d", p);
        const float *gap = f32_of(fixture(&want, name));
        int i = 0;
        while (i < NEW && out[p].ids[i] == ids[i]) i++;
        if (i < NEW) {
            print_message("prompt %d, token %d: %d here, %d there, where the two best logits are %.4f apart\n", p, i, out[p].ids[i], ids[i], (double)gap[i]);
            assert_true(gap[i] < 0.01f);
            ties++;
        }
        cyc_free(out[p].ids);
    }
    assert_true(ties <= 2);
    tensors_close(&want);
}

/* A row's prompt and answer are the configured bytes, and meet between two ids: of the bytes in one piece other ids would come, one of them across. */
static void test_boundary(void **state) {
    (void)state;
    static const char record[] = "{\"a\": \"In the beginning\", \"b\": \"ern\\n God said: light  \"}\n",
                      prompt[] = "KJV:In the beginning\n\t Mod", answer[] = "ern\n God said: light  ";
    struct tensors file;
    tokenizer *tk;
    struct prompt_form form;
    struct source pairs;
    struct rows rows;
    struct ids whole = {0};
    str text = {0};
    if (!model) skip();
    must(tensors_open(smollm2_path(), &file));
    must(tokenizer_from_gguf(&file, &tk));
    must(prompt_form_parse(tk, "KJV:{text}\n\t Mod", &form));
    must(source_parse("pairs.jsonl", record, sizeof record - 1, WANT_PAIR, "a", "b", &pairs));
    must(rows_pairs(tk, &form, &pairs, false, 100, &rows));
    const struct row *r = &rows.r[0];
    int at = 0;
    while (at < r->n && !r->supervised[at]) at++;
    for (int i = at; i < r->n; i++) assert_true(r->supervised[i]);
    assert_int_equal(r->ids[r->n - 1], tokenizer_eos(tk));
    must(tokenizer_decode(tk, r->ids, (size_t)at, 0, &text));
    assert_string_equal(text.p, prompt);
    str_clear(&text);
    must(tokenizer_decode(tk, r->ids + at, (size_t)(r->n - at - 1), DECODE_GOES_ON, &text));
    assert_string_equal(text.p, answer);
    str_clear(&text);
    must(tokenizer_decode(tk, r->ids, (size_t)(r->n - 1), 0, &text));
    must(tokenizer_encode(tk, text.p, text.n, 0, &whole));
    assert_true(whole.n != (size_t)r->n - 1 || memcmp(whole.v, r->ids, whole.n * 4));
    str_free(&text);
    ids_free(&whole);
    rows_free(&rows);
    source_close(&pairs);
    prompt_form_free(&form);
    tokenizer_free(tk);
    tensors_close(&file);
}

/* --- ids that are handed over, and ids by way of text ------------------------------------------------------------------- */
static bool rereads(const struct side *to, const int32_t *ids, size_t n) {
    int changed;
    must(ids_changed(to, to->base, &(struct generation){.ids = (int32_t *)ids, .n = (int)n}, 1, &changed));
    return !changed;
}

/* Of real texts both ways give the same ids: each line of a page, as a side's text. */
static void reread_lines(const struct side *to, const char *path) {
    str page = {0};
    int lines = 0;
    must(file_read(path, &page));
    for (char *line = strtok(page.p, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        struct ids ids = {0};
        must(prompt_form_text(to->base->tok, &to->form, line + strspn(line, " "), &ids));
        if (!rereads(to, ids.v, ids.n)) flunk("%s: other ids by way of text: %s", path, line);
        ids_free(&ids);
    }
    assert_true(lines > 100);
    str_free(&page);
}

/* Of what the model wrote (the greedy continuations) the text is the same both ways, from its first word on; what was read once stays as it is. */
static void reread_continuations(const struct side *to) {
    struct tensors want;
    must(tensors_open(GOLDEN "/smollm2/greedy.safetensors", &want));
    for (int p = 0; p < PROMPTS; p++) {
        char name[32];
        str text = {0}, again = {0};
        struct ids ids = {0};
        snprintf(name, sizeof name, "ids.%02d", p);
        const int32_t *made = i32_of(fixture(&want, name));
        must(ids_reread(to, to->base, made, NEW, &ids));
        must(base_text(to->base, made, NEW, &text));
        must(base_text(to->base, ids.v, ids.n, &again));
        assert_string_equal(again.p, text.p + strspn(text.p, " \n\t"));
        assert_true(rereads(to, ids.v, ids.n));
        ids_free(&ids), str_free(&text), str_free(&again);
    }
    tensors_close(&want);
}

static void test_reread(void **state) {
    (void)state;
    if (!model) skip();
    struct tensors file;
    struct base base = {0};
    struct side to = {.base = &base};
    must(tensors_open(smollm2_path(), &file));
    must(tokenizer_from_gguf(&file, &base.tok));
    must(prompt_form_parse(base.tok, "{text}\n", &to.form));
    static const char *const pages[] = {"README.md", "docs/tour.md", "docs/cycles.md"};
    for (int i = 0; i < 3; i++) reread_lines(&to, pages[i]);
    reread_continuations(&to);
    const int32_t letters[] = {tokenizer_id(base.tok, "t"), tokenizer_id(base.tok, "h"), tokenizer_id(base.tok, "e")},
                  word = tokenizer_id(base.tok, "the");
    assert_true(rereads(&to, &word, 1));
    assert_false(rereads(&to, letters, 3)); /* what a model may write and the tokenizer never gives */
    assert_false(rereads(&to, (int32_t[]){tokenizer_eos(base.tok)}, 1)); /* a control token is ten characters */
    prompt_form_free(&to.form);
    tokenizer_free(base.tok);
    tensors_close(&file);
}

/* A side's prompt in a chat's turn, and an answer behind it: the ids that transformers gives to the template's whole text. */
static void test_turns(void **state) {
    (void)state;
    if (!model) skip();
    struct tensors file;
    tokenizer *tk;
    size_t i, k;
    json_t *cases = json_load_file(GOLDEN "/smollm2/turns.json", 0, NULL), *one, *id;
    must(tensors_open(smollm2_path(), &file));
    must(tokenizer_from_gguf(&file, &tk));
    json_array_foreach(cases, i, one) {
        static const char *const parts[][2] = {{"text", "prompt_ids"}, {"answer", "answer_ids"}};
        struct prompt_form form;
        must(prompt_form_chat(tk, json_string_value(json_object_get(one, "form")), &form));
        for (int part = 0; part < 2; part++) {
            struct ids text = {0}, got = {0};
            const json_t *want = json_object_get(one, parts[part][1]);
            must(prompt_form_text(tk, &form, json_string_value(json_object_get(one, parts[part][0])), &text));
            if (part) got = text;
            else must(prompt_form_wrap(&form, text.v, text.n, &got));
            if (got.n != json_array_size(want)) flunk("case %zu: %zu ids of the %s, not %zu", i, got.n, parts[part][0], json_array_size(want));
            json_array_foreach(want, k, id) assert_int_equal(got.v[k], json_integer_value(id));
            if (!part) ids_free(&text);
            ids_free(&got);
        }
        prompt_form_free(&form);
    }
    assert_int_equal(i, 16);
    json_decref(cases);
    tokenizer_free(tk);
    tensors_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nll), cmocka_unit_test(test_greedy), cmocka_unit_test(test_boundary), cmocka_unit_test(test_reread),
                                       cmocka_unit_test(test_turns)};
    return cmocka_run_group_tests(tests, open_model, close_model);
}
