/* Chat templates against Python's jinja2: real template texts x conversations, byte for byte, and the supervised spans
 * (tests/golden/make/chat.py, tests/golden/chat). Then what no real template does: each error with its line and column,
 * each bound, the language's corners. */
#define _GNU_SOURCE
#include "support/support.h"
#include "base/file.h"
#include "base/log.h"
#include "io/chat.h"
#include "io/tensors_out.h"
#include "io/tokenizer_internal.h"
#include <jansson.h>
#include <time.h>

#define CHAT GOLDEN "/chat/"

/* Control tokens that the real templates write, beside each template's bos, eos and end token. */
static const char *const controls[] = {
    "<|im_start|>", "<|im_sep|>", "<|start_header_id|>", "<|end_header_id|>",       "<start_of_turn>", "<|user|>", "<|assistant|>",
    "<|system|>",   "<｜User｜>", "<｜Assistant｜>",     "<|START_OF_TURN_TOKEN|>", "[INST]",          "[/INST]"};

static void add_control(json_t *added, const char *text) {
    size_t i;
    json_t *have;
    json_array_foreach(added, i, have) if (!strcmp(json_string_value(json_object_get(have, "content")), text)) return;
    json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 258 + (int)json_array_size(added), "content", text,
                                           "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1));
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
    must(tokenizer_set_template(tk, source, "chat template"));
    free(text);
    json_decref(root);
    return tk;
}

static struct chat *open_chat(const tokenizer *tk) {
    struct chat *c;
    must(chat_open(tk, &c));
    return c;
}

static str warning; /* the last one */
static void keep_warning(void *ctx, enum log_level level, const char *line) {
    (void)ctx, (void)level;
    str_clear(&warning);
    str_adds(&warning, line);
}

static size_t take(const json_t *talk, struct chat_message *m) {
    size_t n = json_array_size(talk);
    for (size_t i = 0; i < n; i++)
        m[i] = (struct chat_message){json_string_value(json_array_get(json_array_get(talk, i), 0)),
                                     json_string_value(json_array_get(json_array_get(talk, i), 1))};
    return n;
}

/* One rendering against what is expected: the text, or the message of a refusal. */
static bool same_text(const char *what, struct chat *c, const struct chat_message *m, size_t n, bool prompt, const json_t *text,
                      const json_t *error, struct chat_text *out) {
    err e = chat_render(c, m, n, prompt, out);
    if (error) {
        if (!e) flunk("%s: rendered, but must be refused: %s", what, json_string_value(error));
        if (!str_starts(err_text(), "chat template:")) flunk("%s: no place in: %s", what, err_text());
        bool python = strstr(json_string_value(error), "object") || strstr(json_string_value(error), "undefined"); /* its own words */
        if (!python && !strstr(err_text(), json_string_value(error))) flunk("%s: %s, not %s", what, err_text(), json_string_value(error));
        return false;
    }
    if (e) flunk("%s: %s", what, err_text());
    if (out->text.n != json_string_length(text) || memcmp(out->text.p, json_string_value(text), out->text.n))
        flunk("%s:\n%s\n--- expected\n%s", what, out->text.p, json_string_value(text));
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
            flunk("%s: span %zu is [%zu, %zu) \"%.*s\", not [%zu, %zu)", what, k - 1, t->seg[i].start, t->seg[i].end,
                  (int)(t->seg[i].end - t->seg[i].start), t->text.p + t->seg[i].start, a, b);
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
    struct chat *c = NULL;
    struct chat_text out = {0};
    if (!root) flunk("%s", why.text);
    log_set(keep_warning, NULL);
    json_array_foreach(cases, i, one) {
        struct chat_message m[16];
        char what[200];
        const char *of = json_string_value(json_object_get(one, "template")),
                   *about = json_string_value(json_object_get(one, "conversation"));
        if (strcmp(name, of) != 0) {
            const json_t *t = json_object_get(json_object_get(root, "templates"), of);
            str source = {0};
            snprintf(what, sizeof what, CHAT "%s.jinja", of);
            must(file_read(what, &source));
            chat_close(c);
            tokenizer_free(tk);
            tk = tokenizer_with(source.p, json_string_value(json_object_get(t, "bos")), json_string_value(json_object_get(t, "eos")),
                                json_string_value(json_object_get(t, "end")));
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

/* --- the language ---------------------------------------------------------------------------------------------------- */

static const struct chat_message turns[] = {{"user", "Hi!"}, {"assistant", "Hello."}, {"user", "And now?"}, {"assistant", "Bye, then."}};

static err render_bounded(const char *source, const struct jinja_limits *limits, struct jinja_text *out) {
    struct tm now = {.tm_year = 125, .tm_mon = 2, .tm_mday = 5, .tm_wday = 3, .tm_yday = 63, .tm_hour = 12};
    jinja *t;
    TRY(jinja_parse("t", source, strlen(source), &t));
    err e =
        jinja_render(t, &(struct jinja_context){.message = turns, .n = 4, .bos = "<s>", .eos = "</s>", .now = &now, .limits = limits}, out);
    jinja_free(t);
    return e;
}

static void corners_equal_jinja2(void **state) {
    (void)state;
    json_t *root = json_load_file(CHAT "expected.json", 0, NULL), *one;
    struct jinja_text out = {0};
    size_t i;
    json_array_foreach(json_object_get(root, "corners"), i, one) {
        const char *file = json_string_value(json_object_get(one, "file")), *want = json_string_value(json_object_get(one, "text"));
        char path[100];
        str source = {0};
        snprintf(path, sizeof path, "tests/fuzz/corpus/jinja/%s", file);
        must(file_read(path, &source));
        err e = render_bounded(source.p, NULL, &out);
        if (!want != (e != OK)) flunk("%s: %s", file, e ? err_text() : "rendered, but Python refuses it");
        if (want && strcmp(want, out.text.n ? out.text.p : "") != 0) flunk("%s:\n%s\n--- expected\n%s", file, out.text.p, want);
        str_free(&source);
    }
    assert_true(i >= 16);
    json_array_foreach(json_object_get(root, "expressions"), i, one) {
        const char *source = json_string_value(json_object_get(one, "source"));
        const json_t *want = json_object_get(one, "text");
        err e = render_bounded(source, NULL, &out);
        if (json_is_null(want) != (e != OK)) flunk("%s: %s", source, e ? err_text() : "rendered, but Python refuses it");
        if (!e && (out.text.n != json_string_length(want) || memcmp(out.text.n ? out.text.p : "", json_string_value(want), out.text.n)))
            flunk("%s:\n%s\n--- expected\n%s", source, out.text.p, json_string_value(want));
    }
    assert_true(i > 90);
    jinja_text_free(&out);
    json_decref(root);
}

static void errors_name_their_place(void **state) {
    (void)state;
    static const struct {
        const char *source;
        err code;
        const char *message;
    } bad[] = {
        {"a\nb {{ x", E_INPUT, "t:2:3: a tag without its end"},
        {"{# x", E_INPUT, "t:1:1: a comment without its end"},
        {"{% raw %}{{ x }}", E_INPUT, "t:1:1: {% raw %} without"},
        {"{{ 'abc }}", E_INPUT, "t:1:4: a string without its end"},
        {"{{ '\\xZZ' }}", E_INPUT, "t:1:5: an escape that is no character"},
        {"{{ (1] }}", E_INPUT, "t:1:6: ')' expected, not ']'"},
        {"{{ a ? b }}", E_INPUT, "t:1:6: a character that has no meaning here (0x3f)"},
        {"{{ 99999999999999999999 }}", E_INPUT, "t:1:4: a number that does not fit"},
        {"\n\n{% if x %}\n", E_INPUT, "t:3:4: a block that is never ended (endif is missing)"},
        {"{% for x in y %}{% endif %}", E_INPUT, "t:1:20: unknown tag \"endif\""},
        {"{% for x y %}", E_INPUT, "\"in\" expected, not \"y\""},
        {"{% for x in y recursive %}{% endfor %}", E_UNSUPPORTED, "recursive loops"},
        {"{% include 'x' %}", E_UNSUPPORTED, "the tag \"include\" is not supported"},
        {"{{ f(*x) }}", E_UNSUPPORTED, "*args"},
        {"{{ 1 + }}", E_INPUT, "t:1:8: an expression expected, not }}"},
        {"{{ x[1 }}", E_INPUT, "t:1:8: ']' expected, not '}'"},
        {"{{ ) }}", E_INPUT, "')' without its beginning"},
        {"{{ a b }}", E_INPUT, "}} expected, not \"b\""},
        {"{% set true = 1 %}", E_INPUT, "a constant cannot be assigned to"},
        {"{% macro f(a=1, b) %}{% endmacro %}", E_INPUT, "a default"},
        {"\xFF", E_INPUT, "t:1:1: not UTF-8 text (byte 0xff)"},
        {"{{ 1 | nothing }}", E_UNSUPPORTED, "t:1:8: the filter \"nothing\" is not supported"},
        {"{{ 1 is nothing }}", E_UNSUPPORTED, "the test \"nothing\" is not supported"},
        {"{{ 'a'.swapcase() }}", E_UNSUPPORTED, "\"swapcase\" is not supported"},
        {"\n{{ x.y }}", E_INPUT, "t:2:5: \"x\" is undefined"},
        {"{{ x + 1 }}", E_INPUT, "t:1:6: \"x\" is undefined"},
        {"{{ x() }}", E_INPUT, "\"x\" is undefined (so it cannot be called)"},
        {"{{ messages[9].role }}", E_INPUT, "is undefined"},
        {"{{ 1 + 'a' }}", E_INPUT, "an integer and a string have no \"+\""},
        {"{{ 1 < 'a' }}", E_INPUT, "an integer and a string have no order"},
        {"{{ 1 // 0 }}", E_INPUT, "a division by zero"},
        {"{{ 9223372036854775807 + 1 }}", E_INPUT, "beyond 64 bits"},
        {"{{ 2 ** 64 }}", E_INPUT, "beyond 64 bits"},
        {"{{ messages.append(1) }}", E_INPUT, "\"append\" is undefined"},
        {"{{ 1 | length }}", E_INPUT, "an integer has no length"},
        {"{{ messages | map('upper') | length }}", E_INPUT, "has no length"},
        {"{{ 1 in 2 }}", E_INPUT, "nothing can be \"in\" an integer"},
        {"{% for x in 1 %}{% endfor %}", E_INPUT, "t:1:13: an integer cannot be iterated over"},
        {"{% for a, b in [[1]] %}{% endfor %}", E_INPUT, "1 values for 2 names"},
        {"{% set x.y = 1 %}", E_INPUT, "\"x\" is not a namespace"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", E_INPUT, "f() takes 1 arguments, not 2"},
        {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", E_INPUT, "a name that it does not have"},
        {"{{ [1][::0] }}", E_INPUT, "a slice's step that is zero"},
        {"{{ range | tojson }}", E_INPUT, "tojson: a function is no JSON"},
        {"{{ raise_exception('no\nway') }}", E_INPUT, "t:1:19: the template refuses this conversation: no way"},
    };
    struct jinja_text out = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = render_bounded(bad[i].source, NULL, &out);
        if (e != bad[i].code || !strstr(err_text(), bad[i].message) || !str_starts(err_text(), "t:"))
            flunk("%s: %d %s", bad[i].source, e, e ? err_text() : "rendered");
    }
    jinja_text_free(&out);
}

static void bounds_hold(void **state) {
    (void)state;
    static const struct {
        const char *source, *message;
    } bad[] = {
        {"{% set l = range(500) %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}", "more than 20000 steps"},
        {"{% set ns = namespace(s='x') %}{% for a in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
         "a text of more than 4096 bytes"},
        {"{{ 'abcdefgh' * 1000000000 }}", "a text of more than 4096 bytes"},
        {"{% for a in range(20) %}{% set x = range(1000) %}{% endfor %}", "more than 65536 bytes"},
        {"{{ range(1000000) }}", "t:1:9: "},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "more than 60 levels"},
        {"{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a == [ns] }}{% set ns.a = [ns.a, ns.a] %}{{ [1, ns] == [1, ns] }}{% set l = "
         "[1] %}{{ raise_exception('end') }}",
         "end"},
        {"{{ "
         "1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+"
         "1 }}",
         "more than 60 levels"},
    };
    const struct jinja_limits limits = {.steps = 20000, .output = 4096, .memory = 65536, .depth = 60};
    struct jinja_text out = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (render_bounded(bad[i].source, &limits, &out) != E_INPUT || !strstr(err_text(), bad[i].message))
            flunk("%s: %s", bad[i].source, err_text());
    str deep = {0};
    for (int i = 0; i < 200; i++) str_adds(&deep, i ? "[" : "{{ ");
    assert_int_equal(render_bounded(deep.p, NULL, &out), E_INPUT);
    str_clear(&deep);
    for (int i = 0; i < 200; i++) str_adds(&deep, "{% if 1 %}");
    assert_int_equal(render_bounded(deep.p, NULL, &out), E_INPUT);
    assert_non_null(strstr(err_text(), "more than 150 things inside one another"));
    str_clear(&deep);
    for (int i = 0; i < 300000; i++) str_adds(&deep, "{{}}");
    assert_int_equal(render_bounded(deep.p, NULL, &out), E_INPUT);
    assert_non_null(strstr(err_text(), "a template of 1200000 bytes"));
    str_free(&deep);
    jinja_text_free(&out);
}

/* A content keeps its tag through whatever a template does to it, and what a template makes itself has none. */
static void provenance_survives(void **state) {
    (void)state;
    static const struct {
        const char *source, *text, *tags;
    } way[] = {
        /* a tag is a digit: 0 the template, 1 "Hi!", 2 "Hello." */
        {"<{{ messages[1].content[1:3] }}>", "<el>", "0220"},
        {"{{ (' ' ~ messages[1].content ~ ' ') | trim }}|", "Hello.|", "2222220"},
        {"{{ messages[1].content | replace('l', 'LL') }}", "HeLLLLo.", "22000022"},
        {"{{ [messages[0].content, messages[1].content] | join('-') }}", "Hi!-Hello.", "1110222222"},
        {"{% set x %}a{{ messages[0].content }}{% endset %}{{ x | upper }}", "AHI!", "0111"},
        {"{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[0].content)[1:] }}", "Hi!]", "1110"},
        {"{{ messages[1].content.split('l')[-1] }}{{ messages[0].content[::-1] }}", "o.!iH", "22111"},
        {"{{ messages[0].content | tojson }}", "\"Hi!\"", "01110"},
        {"{% filter lower %}X{{ messages[0].content }}{% endfilter %}", "xhi!", "0111"},
        {"{{ '%s' if false else messages[0]['content'] * 2 }}{{ messages[0].role }}", "Hi!Hi!user", "1111110000"},
        {"{{ 'a{}b'.format(messages[0].content) ~ messages[0].content | indent(2, true) }}", "aHi!b  Hi!", "0111000111"},
    };
    struct jinja_text out = {0};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        must(render_bounded(way[i].source, NULL, &out));
        assert_string_equal(out.text.p, way[i].text);
        for (size_t k = 0; k < out.text.n; k++)
            if (out.tag[k] != (uint32_t)(way[i].tags[k] - '0')) flunk("%s: byte %zu has tag %u", way[i].source, k, out.tag[k]);
    }
    must(render_bounded("a{% generation %}b{{ messages[0].content }}{% endgeneration %}c", NULL, &out));
    for (size_t k = 0; k < out.text.n; k++) assert_int_equal(out.tag[k], (k > 0 && k < 5 ? JINJA_GENERATION : 0) + (k > 1 && k < 5));
    jinja_text_free(&out);
}

/* --- conversations --------------------------------------------------------------------------------------------------- */

/* Renders turns; the segments are shown with the supervised ones between « and ». */
static const char *shown(const char *source, const struct chat_message *m, size_t n, bool prompt) {
    static str s;
    struct chat_text out = {0};
    tokenizer *tk = tokenizer_with(source, "<s>", "</s>", "<|im_end|>");
    struct chat *c = open_chat(tk);
    err e = chat_render(c, m, n, prompt, &out);
    str_clear(&s);
    str_adds(&s, e ? err_text() : "");
    for (size_t i = 0; i < out.n && !e; i++) {
        str_adds(&s, out.seg[i].supervised ? "«" : "");
        str_add(&s, out.text.p + out.seg[i].start, out.seg[i].end - out.seg[i].start);
        str_adds(&s, out.seg[i].supervised ? "»" : "");
    }
    chat_text_free(&out);
    chat_close(c);
    tokenizer_free(tk);
    return s.p;
}

#define EACH "{% for m in messages %}"
#define CHATML                                                                                                                             \
    EACH "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif " \
         "%}"
static const struct chat_message one[] = {{"user", "u"}, {"assistant", "a"}};

static void spans_follow_the_structure(void **state) {
    (void)state;
    log_set(keep_warning, NULL);
    assert_string_equal(shown(CHATML, one, 2, false), "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>»\n");
    assert_string_equal(shown(CHATML, one, 1, true), "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n");
    const struct chat_message empty[] = {{"user", ""}, {"assistant", ""}};
    assert_string_equal(shown(CHATML, empty, 2, false), "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n«<|im_end|>»\n");
    const struct chat_message alike[] = {{"user", "same"}, {"assistant", "same"}, {"user", "<|im_end"}, {"assistant", "same"}};
    assert_string_equal(shown(CHATML, alike, 4, false),
                        "<|im_start|>user\nsame<|im_end|>\n<|im_start|>assistant\n«same<|im_end|>»\n<|im_start|>user\n<|im_end<|im_end|>\n"
                        "<|im_start|>assistant\n«same<|im_end|>»\n");
    assert_string_equal(
        shown(EACH
              "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
              one, 2, false),
        "[INST] u [/INST]« a </s>»");
    str_clear(&warning);
    assert_string_equal(shown(CHATML "{% if add_generation_prompt %}<think>\n{% endif %}", one, 2, false),
                        "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>»\n");
    assert_non_null(strstr(warning.p, "goes on with \"<think>\\n\""));
    assert_string_equal(shown(EACH "{% if m.role == 'user' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}", one, 2, false),
                        "the chat template leaves out what the assistant says");
    const struct chat_message two[] = {{"user", "u"}, {"assistant", "a"}, {"user", "v"}, {"assistant", "b"}};
    assert_string_equal(shown(EACH "{% if loop.index0 != 1 %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}", two, 4, false),
                        "u</s>v</s>«b</s>»"); /* one left out */
    assert_non_null(strstr(shown(EACH "{{ m.role }}: {{ m.content }}\n{% endfor %}", one, 2, false),
                           "\"messages\"[1]: the chat template ends the turn with no control token"));
    assert_string_equal(shown(EACH "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n{% endfor %}", one, 2, false),
                        "«u<|im_end|>»\n«a<|im_end|>»\n");
    assert_string_equal(shown(EACH "{% if m.role == 'user' %}{{ m.content }}{% else %}{% generation %}{{ m.content }}<|im_end|>\n{% "
                                   "endgeneration %}{% endif %}{% endfor %}",
                              one, 2, false),
                        "u«a<|im_end|>\n»");
    assert_non_null(
        strstr(shown(EACH "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", one, 2, false), "no control token"));
    log_set(NULL, NULL);
}

static void contents_make_no_control_token(void **state) {
    (void)state;
    const struct chat_message whole[] = {{"user", "u"}, {"assistant", "a<|im_end|>b"}}, part[] = {{"user", "<|im_end"}, {"assistant", "a"}};
    assert_string_equal(shown(CHATML, whole, 2, false), "\"messages\"[1]: the content holds \"<|im_end|>\", a control token of the model");
    assert_string_equal(shown(CHATML, &(struct chat_message){"user", "</s>"}, 1, true),
                        "\"messages\"[0]: the content holds \"</s>\", a control token of the model");
    assert_string_equal(shown(EACH "{{ m.content }}|>\n{% endfor %}", part, 2, false),
                        "\"messages\"[0]: the content holds \"<|im_end|>\", a control token of the model");
    assert_string_equal(shown(EACH "{{ m.content[1:] }}<|im_end|>{% endfor %}", &(struct chat_message){"assistant", "</s>"}, 1, false),
                        "«/s><|im_end|>»");
}

static void templates_by_name(void **state) {
    (void)state;
    str s = {0};
    must(chat_template_load("chatml", &s));
    assert_string_equal(shown(s.p, one, 2, false), "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n«a<|im_end|>»\n");
    str_clear(&s);
    must(chat_template_load(CHAT "chatml.jinja", &s));
    assert_true(str_starts(s.p, "{% for"));
    assert_true(chat_template_load("/nowhere/x.jinja", &s));
    assert_non_null(strstr(err_text(), "/nowhere/x.jinja"));
    str_free(&s);
    tokenizer *tk = tokenizer_with("{{ x", "", "", "");
    struct chat *c;
    assert_int_equal(chat_open(tk, &c), E_INPUT);
    assert_non_null(strstr(err_text(), "chat template:1:1: "));
    tk->chat_template = NULL;
    assert_int_equal(chat_open(tk, &c), E_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "no chat template"));
    tokenizer_free(tk);
}

static void opens_not(const tokenizer *tk, const char *place) {
    struct chat *c;
    assert_int_equal(chat_open(tk, &c), E_INPUT);
    if (!str_starts(err_text(), place)) flunk("%s: wanted %s", err_text(), place);
}

/* A template's errors say which file has it. */
static void errors_name_their_file(void **state) {
    (void)state;
    static const char broken[] = "\n{{ x", config[] = "{\"chat_template\": \"\\n{{ x\"}";
    char dir[] = "/tmp/cyc-chat-XXXXXX", path[64], place[128];
    str json = {0}, file = {0};
    struct gguf_keys keys = {0};
    struct tensors ts;
    tokenizer *tk;
    assert_non_null(mkdtemp(dir));
    must(file_read(GOLDEN "/rows/tokenizer.json", &json));
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    must(file_write(path, config, sizeof config - 1));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    must(file_write(path, json.p, json.n));
    must(tokenizer_from_json(path, &tk));
    snprintf(place, sizeof place, "chat_template of %s/tokenizer_config.json:2:1: ", dir);
    opens_not(tk, place);
    must(tokenizer_set_template(tk, broken, "my.jinja"));
    opens_not(tk, "my.jinja:2:1: ");
    tokenizer_free(tk);
    snprintf(place, sizeof place, "%s/chat_template.jinja", dir);
    must(file_write(place, broken, sizeof broken - 1));
    must(tokenizer_from_json(path, &tk));
    snprintf(place, sizeof place, "%s/chat_template.jinja:2:1: ", dir);
    opens_not(tk, place);
    tokenizer_free(tk);
    must(tensors_open(GOLDEN "/tokenizer_families/spm_llama.gguf", &ts));
    for (int i = 0; i < ts.meta->n; i++) gguf_key_copy(&keys, &ts.meta->kv[i]);
    gguf_key_str(&keys, "tokenizer.chat_template", broken);
    tensors_close(&ts);
    must(gguf_keys_open(&keys, &file, &ts));
    must(tokenizer_from_gguf(&ts, &tk));
    snprintf(place, sizeof place, "tokenizer.chat_template of %s:2:1: ", ts.path);
    opens_not(tk, place);
    tokenizer_free(tk);
    tensors_close(&ts);
    gguf_keys_free(&keys);
    str_free(&file);
    str_free(&json);
    snprintf(path, sizeof path, "rm -r %s", dir);
    assert_int_equal(system(path), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_templates_equal_jinja2), cmocka_unit_test(corners_equal_jinja2),
        cmocka_unit_test(errors_name_their_place),     cmocka_unit_test(bounds_hold),
        cmocka_unit_test(provenance_survives),         cmocka_unit_test(spans_follow_the_structure),
        cmocka_unit_test(errors_name_their_file),      cmocka_unit_test(templates_by_name),
        cmocka_unit_test(contents_make_no_control_token),
    };
    setenv("SOURCE_DATE_EPOCH", "1741176000", 1); /* 5 March 2025, 12:00 UTC: chat.py's date */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
