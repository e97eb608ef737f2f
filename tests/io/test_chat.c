/* Chat templates against Python's jinja2: real template texts x conversations, byte for byte, and the supervised spans
 * (tests/golden/make/chat.py, tests/golden/chat). Then what no real template does: each error with its line and column,
 * each bound, the language's corners. */
#define _GNU_SOURCE
#include "support/support.h"
#include "base/file.h"
#include "base/log.h"
#include "io/chat.h"
#include "io/tokenizer_internal.h"
#include <jansson.h>
#include <time.h>

#define CHAT GOLDEN "/chat/"

/* Control tokens that the real templates write, beside each template's bos, eos and end token. */
static const char *const controls[] = {"<|im_start|>", "<|im_sep|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|user|>",
                                       "<|assistant|>", "<|system|>", "<｜User｜>", "<｜Assistant｜>", "<|START_OF_TURN_TOKEN|>", "[INST]", "[/INST]"};

static void add_control(json_t *added, const char *text) {
    size_t i;
    json_t *have;
    json_array_foreach(added, i, have) if (!strcmp(json_string_value(json_object_get(have, "content")), text)) return;
    json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 258 + (int)json_array_size(added), "content", text, "single_word", 0, "lstrip", 0,
                                           "rstrip", 0, "normalized", 0, "special", 1));
}

/* The tokenizer of tests/golden/rows with these control tokens and this template. */
static tokenizer *tokenizer_with(const char *source, const char *bos, const char *eos, const char *end) {
    json_t *root = json_load_file(GOLDEN "/rows/tokenizer.json", 0, NULL), *added = json_array();
    const char *const own[] = {bos, eos, end};
    for (int i = 0; i < 3; i++)
        if (*own[i]) add_control(added, own[i]);
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) add_control(added, controls[i]);
    json_object_set_new(root, "added_tokens", added);
    char *text = json_dumps(root, 0);
    tokenizer *tk;
    must(tokenizer_json_parse("test", text, strlen(text), &tk));
    tk->bos = *bos ? tokenizer_id(tk, bos) : -1;
    tk->eos = *eos ? tokenizer_id(tk, eos) : -1;
    must(tokenizer_set_template(tk, source));
    free(text);
    json_decref(root);
    return tk;
}

static chat *open_chat(const tokenizer *tk) {
    chat *c;
    must(chat_open(tk, &c));
    return c;
}

static void ignore(void *ctx, enum log_level level, const char *line) {
    (void)level;
    *(str *)ctx = (str){0};
    str_adds(ctx, line);
}
static str warning;

static size_t take(const json_t *talk, struct chat_message *m) {
    size_t n = json_array_size(talk);
    for (size_t i = 0; i < n; i++)
        m[i] = (struct chat_message){json_string_value(json_array_get(json_array_get(talk, i), 0)), json_string_value(json_array_get(json_array_get(talk, i), 1))};
    return n;
}

/* One rendering against what is expected: the text, or the message of a refusal. */
static bool same_text(const char *what, chat *c, const struct chat_message *m, size_t n, bool prompt, const json_t *text, const json_t *error, struct chat_text *out) {
    err e = chat_render(c, m, n, prompt, out);
    if (error) {
        if (!e) flunk("%s: rendered, but must be refused: %s", what, json_string_value(error));
        if (!str_starts(err_text(), "chat template:")) flunk("%s: no place in: %s", what, err_text());
        bool python = strstr(json_string_value(error), "object") || strstr(json_string_value(error), "undefined"); /* its own words */
        if (!python && !strstr(err_text(), json_string_value(error))) flunk("%s: %s, not %s", what, err_text(), json_string_value(error));
        return false;
    }
    if (e) flunk("%s: %s", what, err_text());
    if (out->text.n != json_string_length(text) || memcmp(out->text.p, json_string_value(text), out->text.n)) flunk("%s:\n%s\n--- expected\n%s", what, out->text.p, json_string_value(text));
    return true;
}

static void same_spans(const char *what, const struct chat_text *t, const json_t *spans) {
    size_t k = 0, end = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (t->seg[i].start != end) flunk("%s: segments do not meet", what);
        end = t->seg[i].end;
        if (!t->seg[i].supervised) continue;
        const json_t *want = json_array_get(spans, k++);
        size_t a = (size_t)json_integer_value(json_array_get(want, 0)), b = (size_t)json_integer_value(json_array_get(want, 1));
        if (!want || a != t->seg[i].start || b != t->seg[i].end)
            flunk("%s: span %zu is [%zu, %zu) \"%.*s\", not [%zu, %zu)", what, k - 1, t->seg[i].start, t->seg[i].end, (int)(t->seg[i].end - t->seg[i].start), t->text.p + t->seg[i].start, a, b);
    }
    if (end != t->text.n) flunk("%s: the segments end at %zu of %zu", what, end, t->text.n);
    if (k != json_array_size(spans)) flunk("%s: %zu spans, not %zu", what, k, json_array_size(spans));
}

static void real_templates_equal_jinja2(void **state) {
    (void)state;
    json_error_t why;
    json_t *root = json_load_file(CHAT "expected.json", 0, &why), *cases = json_object_get(root, "cases"), *one;
    size_t i, rendered = 0, spans = 0;
    const char *name = "";
    tokenizer *tk = NULL;
    chat *c = NULL;
    struct chat_text out = {0};
    if (!root) flunk("%s", why.text);
    log_set(ignore, &warning);
    json_array_foreach(cases, i, one) {
        struct chat_message m[16];
        char what[200];
        const char *of = json_string_value(json_object_get(one, "template")), *about = json_string_value(json_object_get(one, "conversation"));
        if (strcmp(name, of) != 0) {
            const json_t *t = json_object_get(json_object_get(root, "templates"), of);
            str source = {0};
            snprintf(what, sizeof what, CHAT "%s.jinja", of);
            must(file_read(what, &source));
            chat_close(c);
            tokenizer_free(tk);
            tk = tokenizer_with(source.p, json_string_value(json_object_get(t, "bos")), json_string_value(json_object_get(t, "eos")), json_string_value(json_object_get(t, "end")));
            c = open_chat(tk);
            str_free(&source);
            name = of;
        }
        size_t n = take(json_object_get(json_object_get(root, "conversations"), about), m);
        snprintf(what, sizeof what, "%s, %s", of, about);
        if (same_text(what, c, m, n, false, json_object_get(one, "text"), json_object_get(one, "error"), &out)) {
            same_spans(what, &out, json_object_get(one, "spans"));
            rendered++;
            spans += json_array_size(json_object_get(one, "spans"));
        }
        snprintf(what, sizeof what, "%s, %s, prompt", of, about);
        n -= !strcmp(m[n - 1].role, "assistant");
        same_text(what, c, m, n, true, json_object_get(one, "prompt"), json_object_get(one, "prompt_error"), &out);
    }
    log_set(NULL, NULL);
    print_message("%zu cases, %zu rendered, %zu spans\n", i, rendered, spans);
    assert_true(rendered > 300 && spans > 350);
    chat_text_free(&out);
    chat_close(c);
    tokenizer_free(tk);
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_templates_equal_jinja2),
    };
    setenv("SOURCE_DATE_EPOCH", "1741176000", 1); /* 5 March 2025, 12:00 UTC: chat.py's date */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
