/* Masks by hand. The tokenizer is one that can be read by eye (tests/golden/make/rows.py): an ASCII character is its
 * own code, 256 "ab", 257 " c", 258 <|endoftext|>, 259 <|im_start|>, 260 <|im_end|>, 261 <s>. A row is
 * written here as its ids with a * after each supervised one. */
#include "data/rows.h"
#include "base/log.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { EOS = 258, IM_START, IM_END, BOS };
static tokenizer *plain, *with_bos;

static int setup(void **state) {
    (void)state;
    err e = tokenizer_from_json("tests/golden/rows/tokenizer.json", &plain);
    if (!e) e = tokenizer_from_json("tests/golden/rows/bos/tokenizer.json", &with_bos);
    if (e) print_error("%s\n", err_text());
    return e;
}

static int teardown(void **state) {
    (void)state;
    tokenizer_free(plain);
    tokenizer_free(with_bos);
    return 0;
}

static void parse(const char *text, enum source_want want, struct source *s) {
    if (source_parse("d.jsonl", text, strlen(text), want, NULL, NULL, s)) fail_msg("%s", err_text());
}

static char *shown(const int32_t *ids, const uint8_t *on, size_t n) {
    static char buf[4096];
    size_t at = 0;
    static const char *const name[] = {"[ab]", "[ c]", "<eos>", "<start>", "<end>", "<s>"};
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == '\n') at += (size_t)sprintf(buf + at, "\\n");
        else if (ids[i] < 256) at += (size_t)sprintf(buf + at, "%c", ids[i]);
        else at += (size_t)sprintf(buf + at, "%s", name[ids[i] - 256]);
        if (on && on[i]) buf[at++] = '*';
    }
    buf[at] = 0;
    return buf;
}

static void is_row(const struct row *r, int line, const char *want) {
    assert_string_equal(shown(r->ids, r->supervised, (size_t)r->n), want);
    assert_int_equal(r->line, line);
    assert_string_equal(r->path, "d.jsonl");
}

static void prompt_and_completion(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    parse("{\"prompt\": \"xa\", \"completion\": \"b ab\"}\n\n{\"prompt\": \"<|im_start|>\", \"completion\": "
          "\"y<|endoftext|>\"}\n",
          WANT_SFT, &s);
    assert_int_equal(rows_sft(plain, &s, 100, &r), OK);
    source_close(&s); /* rows outlive their source */
    assert_int_equal(r.n, 2);
    is_row(&r.r[0], 1, "xab* *[ab]*<eos>*"); /* a|b is not merged over the boundary, " ab" is within one segment */
    is_row(&r.r[1], 3, "<start>y*<eos>*");   /* control tokens count, and EOS is not doubled */
    assert_int_equal(r.longest, 6);
    assert_int_equal(r.truncated, 0);
    rows_free(&r);
}

static void conversations(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    parse("{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"u\"},"
          "{\"role\": \"assistant\", \"content\": \"ab\"}, {\"role\": \"user\", \"content\": \"v\"},"
          "{\"role\": \"assistant\", \"content\": \"w\"}]}\n",
          WANT_SFT, &s);
    assert_int_equal(rows_sft(plain, &s, 200, &r), OK);
    is_row(&r.r[0], 1,
           "<start>system\\nS<end>\\n<start>user\\nu<end>\\n<start>assistant\\n[ab]*<end>*\\n"
           "<start>user\\nv<end>\\n<start>assistant\\nw*<end>*\\n");
    int cut = r.r[0].n - 3; /* the last answer is gone, the first stays */
    rows_free(&r);
    s.opt.learnt = LEARN_LAST;
    assert_int_equal(rows_sft(plain, &s, 200, &r), OK);
    is_row(&r.r[0], 1,
           "<start>system\\nS<end>\\n<start>user\\nu<end>\\n<start>assistant\\n[ab]<end>\\n"
           "<start>user\\nv<end>\\n<start>assistant\\nw*<end>*\\n");
    assert_int_equal(r.supervised, 2);
    rows_free(&r);
    assert_int_equal(rows_sft(plain, &s, cut, &r), E_INPUT); /* nothing else is learnt */
    s.opt.learnt = LEARN_ALL;
    assert_int_equal(rows_sft(plain, &s, 200, &r), OK);
    assert_int_equal(r.supervised, r.tokens - 1); /* the first is predicted by nothing */
    rows_free(&r);
    s.opt.learnt = LEARN_ANSWERS;
    assert_int_equal(rows_sft(plain, &s, cut, &r), OK);
    assert_int_equal(r.r[0].supervised[cut - 1], 0);
    rows_free(&r);
    assert_int_equal(rows_sft(plain, &s, 20, &r), E_INPUT);
    assert_non_null(strstr(err_text(), "d.jsonl:1: "));
    assert_non_null(strstr(err_text(), "max_length 20"));
    assert_int_equal(rows_sft(plain, &s, 1, &r), E_USAGE);
    assert_int_equal(rows_sft(with_bos, &s, 200, &r), OK);
    assert_int_equal(r.r[0].ids[0], BOS);
    assert_int_equal(r.r[0].ids[1], IM_START);
    rows_free(&r);
    source_close(&s);
    parse("{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": "
          "\"a<|im_end|>b\"}]}",
          WANT_SFT, &s);
    assert_int_equal(rows_sft(plain, &s, 200, &r), E_INPUT);
    assert_non_null(strstr(err_text(), "d.jsonl:1: \"messages\"[1]: "));
    source_close(&s);
}

/* The tokenizer adds a BOS and the template may bring it: one in each row; a template of two is refused. */
static void one_bos_with_every_template(void **state) {
    (void)state;
    static const char turns[] = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}>{% else %}{{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}";
    static const char *const lead[] = {"", "{{ bos_token }}", "{{ bos_token * 2 }}"};
    tokenizer *tk;
    struct source s;
    struct rows r;
    parse("{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": \"w\"}]}", WANT_SFT, &s);
    assert_int_equal(tokenizer_from_json("tests/golden/rows/bos/tokenizer.json", &tk), OK);
    for (int i = 0; i < 3; i++) {
        char source[300];
        snprintf(source, sizeof source, "%s%s", lead[i], turns);
        assert_int_equal(tokenizer_set_template(tk, source, "chat template"), OK);
        assert_int_equal(rows_sft(tk, &s, 100, &r), i < 2 ? OK : E_INPUT);
        if (i < 2) is_row(&r.r[0], 1, "<s>u>w*<eos>*\\n");
        else assert_non_null(strstr(err_text(), "d.jsonl:1: the chat template begins with two BOS tokens"));
        rows_free(&r);
    }
    source_close(&s);
    tokenizer_free(tk);
}

static void every_uncut_row_teaches_the_end(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    struct prompt_form f;
    parse("{\"prompt\": \"p\", \"completion\": \"c\"}\n{\"prompt\": \"pp\", \"completion\": \"ccc\"}\n", WANT_PAIR, &s);
    assert_int_equal(prompt_form_parse(plain, "A: {text}\nB:", &f), OK);
    for (int swap = 0; swap < 2; swap++) {
        assert_int_equal(rows_pairs(plain, &f, &s, swap, 100, &r), OK);
        for (int i = 0; i < r.n; i++) {
            assert_int_equal(r.r[i].ids[r.r[i].n - 1], EOS);
            assert_int_equal(r.r[i].supervised[r.r[i].n - 1], 1);
        }
        rows_free(&r);
    }
    prompt_form_free(&f);
    source_close(&s);
}

static void cut_to_length(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    parse("{\"prompt\": \"xyz\", \"completion\": \"uvw\"}\n{\"prompt\": \"x\", \"completion\": \"u\"}", WANT_SFT, &s);
    assert_int_equal(rows_sft(plain, &s, 4, &r), OK);
    is_row(&r.r[0], 1, "xyzu*");
    is_row(&r.r[1], 2, "xu*<eos>*");
    assert_int_equal(r.truncated, 1);
    assert_int_equal(r.longest, 4);
    rows_free(&r);
    assert_int_equal(rows_sft(plain, &s, 3, &r), E_INPUT);
    const char *words[] = {"d.jsonl:1: ", "3 tokens", "max_length 3", "raise max_length"};
    for (int i = 0; i < 4; i++) assert_non_null(strstr(err_text(), words[i]));
    assert_null(r.r);
    assert_int_equal(rows_sft(plain, &s, 1, &r), E_USAGE);
    source_close(&s);
}

static void bos_once(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    struct prompt_form f;
    parse("{\"prompt\": \"x\", \"completion\": \"y\"}\n{\"prompt\": \"<s>x\", \"completion\": \"y\"}", WANT_PAIR, &s);
    assert_int_equal(rows_sft(with_bos, &s, 100, &r), OK);
    is_row(&r.r[0], 1, "<s>xy*<eos>*");
    is_row(&r.r[1], 2, "<s>xy*<eos>*");
    rows_free(&r);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(prompt_form_parse(with_bos, i ? "<s>{text}:" : "{text}:", &f), OK);
        assert_int_equal(rows_pairs(with_bos, &f, &s, false, 100, &r), OK);
        is_row(&r.r[0], 1, "<s>x:y*<eos>*");
        rows_free(&r);
        prompt_form_free(&f);
    }
    source_close(&s);
    parse("{\"text\": \"xy\"}", WANT_TEXT, &s);
    assert_int_equal(rows_documents(with_bos, &s, 100, false, &r), OK);
    is_row(&r.r[0], 1, "<s>x*y*");
    rows_free(&r);
    source_close(&s);
}

static void pairs_both_ways(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    struct prompt_form f;
    parse("{\"prompt\": \"ab\", \"completion\": \"<s>\"}", WANT_PAIR, &s);
    assert_int_equal(prompt_form_parse(plain, "<|im_start|>K: {text}\nM:", &f), OK);
    assert_string_equal(f.lead, " ");
    assert_int_equal(rows_pairs(plain, &f, &s, false, 100, &r), OK);
    is_row(&r.r[0], 1, "<start>K: [ab]\\nM: *<*s*>*<eos>*"); /* "<s>" is data here: three characters */
    rows_free(&r);
    assert_int_equal(rows_pairs(plain, &f, &s, true, 100, &r), OK);
    is_row(&r.r[0], 1, "<start>K: <s>\\nM: *[ab]*<eos>*");
    rows_free(&r);
    prompt_form_free(&f);
    source_close(&s);
}

/* What lets generated ids become a prompt: a text has the same ids read and written. */
static void a_text_has_the_same_ids_in_both_places(void **state) {
    (void)state;
    struct prompt_form f, g;
    struct ids text = {0}, prompt = {0};
    assert_int_equal(prompt_form_parse(plain, "K: {text}\nM:", &f), OK);
    assert_int_equal(prompt_form_parse(plain, "M: {text}\nK:", &g), OK);
    assert_string_equal(f.lead, g.lead);
    assert_int_equal(prompt_form_text(plain, &f, "c ab", &text), OK);
    assert_string_equal(shown(text.v, NULL, text.n), "[ c] [ab]");
    assert_int_equal(prompt_form_wrap(&g, text.v, text.n, &prompt), OK);
    assert_string_equal(shown(prompt.v, NULL, prompt.n), "M:[ c] [ab]\\nK:");
    ids_free(&text);
    ids_free(&prompt);
    prompt_form_free(&f);
    prompt_form_free(&g);
}

static void count_warning(void *ctx, enum log_level level, const char *line) {
    (void)line;
    *(int *)ctx += level == LOG_WARN;
}

static void forms(void **state) {
    (void)state;
    static const char *const bad[] = {"", "no place", "{text} and {text}", "{Text}"};
    struct prompt_form f;
    int warnings = 0;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(prompt_form_parse(plain, bad[i], &f), E_USAGE);
        assert_non_null(strstr(err_text(), "{text}"));
    }
    log_set(count_warning, &warnings);
    assert_int_equal(prompt_form_parse(plain, "{text}", &f), OK);
    assert_int_equal(f.head.n + f.tail.n, 0);
    assert_string_equal(f.lead, "");
    prompt_form_free(&f);
    assert_int_equal(prompt_form_parse(plain, "K \n\t{text}", &f), OK);
    assert_string_equal(f.lead, " \n\t");
    prompt_form_free(&f);
    assert_int_equal(warnings, 0);
    assert_int_equal(prompt_form_parse(plain, "K: {text}\nM: ", &f), OK);
    assert_int_equal(warnings, 1);
    prompt_form_free(&f);
    log_set(NULL, NULL);
}

/* A form in a chat's turn: around a text it makes the prompt that a conversation's row has (which is held against transformers elsewhere), and an
 * answer begins where that prompt ends. */
static void forms_of_turns(void **state) {
    (void)state;
    struct source s;
    struct rows r;
    struct prompt_form f;
    struct ids text = {0}, prompt = {0};
    parse("{\"messages\": [{\"role\": \"user\", \"content\": \"Say so:\\nhi  there\"}, {\"role\": \"assistant\", \"content\": \"yo\"}]}\n", WANT_SFT, &s);
    assert_int_equal(rows_sft(plain, &s, 200, &r), OK);
    assert_int_equal(prompt_form_chat(plain, "Say so:\n{text}", &f), OK);
    assert_int_equal(prompt_form_text(plain, &f, "hi  there", &text), OK);
    assert_int_equal(prompt_form_wrap(&f, text.v, text.n, &prompt), OK);
    int first = 0;
    while (!r.r[0].supervised[first]) first++;
    assert_int_equal(prompt.n, first);
    assert_memory_equal(prompt.v, r.r[0].ids, (size_t)first * sizeof *prompt.v);
    text.n = 0;
    assert_int_equal(prompt_form_text(plain, &f, "yo", &text), OK);
    assert_memory_equal(text.v, r.r[0].ids + first, text.n * sizeof *text.v);
    ids_free(&text);
    ids_free(&prompt);
    prompt_form_free(&f);
    rows_free(&r);
    source_close(&s);
    assert_int_equal(prompt_form_chat(plain, "Say: {text}", &f), E_USAGE);
    assert_non_null(strstr(err_text(), "begins a line"));
    assert_int_equal(prompt_form_chat(plain, "Say\n", &f), E_USAGE);
    assert_non_null(strstr(err_text(), "{text} exactly once"));
}

/* Each token but a document's first is learnt once, wherever it is cut; nothing is cut off. Line 2 has a token alone: with an end it can be learnt. */
static void documents(void **state) {
    (void)state;
    static const char *const whole[] = {"vwxyz", "q", "<s>", "no"};
    static const struct {
        int line;
        const char *without, *with;
    } want[] = {{1, "vw*x*", "vw*x*"}, {1, "xy*z*", "xy*z*"}, {1, NULL, "z<eos>*"},   {2, NULL, "q<eos>*"},
                {3, "<s*>*", "<s*>*"}, {3, NULL, "><eos>*"},  {4, "no*", "no*<eos>*"}};
    enum { ROWS = sizeof want / sizeof *want };
    struct source s[2];
    struct rows r[2];
    str text = {0};
    for (int i = 0; i < 4; i++) str_addf(&text, "{\"text\": \"%s\"}\n", whole[i]);
    for (int k = 0; k < 2; k++) {
        const struct source_options o = {.want = WANT_TEXT, .in_memory = k ? 0 : UINT64_MAX};
        assert_int_equal(source_parse_as(&(struct source_file){.path = "d.jsonl"}, text.p, text.n, &o, &s[k]), OK);
        assert_int_equal(s[k].streams, k);
    }
    for (int ends = 0; ends < 2; ends++) {
        const struct row *drawn;
        for (int k = 0; k < 2; k++) assert_int_equal(rows_documents(plain, &s[k], 3, ends, &r[k]), OK);
        int n = 0;
        for (int i = 0; i < ROWS; i++) {
            const char *says = ends ? want[i].with : want[i].without;
            if (!says) continue;
            is_row(&r[0].r[n], want[i].line, says);
            assert_int_equal(rows_draw(&r[1], (int[]){n++}, 1, &drawn), OK);
            is_row(drawn, want[i].line, says);
        }
        for (int k = 0; k < 2; k++) {
            assert_int_equal(r[k].n, n);
            assert_int_equal(r[k].longest, 3);
            assert_int_equal(r[k].supervised, ends ? 4 + 1 + 1 + 2 + 1 + 1 + 1 : 4 + 2 + 1);
            assert_int_equal(r[k].text_bytes, ends ? 11 : 10); /* "q" is not measured */
            assert_int_equal(r[k].text_tokens, r[k].text_bytes);
            assert_int_equal(rows_first(&r[k], 2), ends ? 4 : 2);
            assert_int_equal(rows_first(&r[k], 4), n);
            rows_free(&r[k]);
        }
    }
    for (int k = 0; k < 2; k++) source_close(&s[k]);
    str_free(&text);
    parse("{\"text\": \"x\"}", WANT_TEXT, &s[0]);
    assert_int_equal(rows_documents(plain, &s[0], 10, false, &r[0]), E_INPUT);
    assert_non_null(strstr(err_text(), "d.jsonl: no text with two tokens"));
    source_close(&s[0]);
}

static void rows_made_by_hand(void **state) {
    (void)state;
    struct rows r = {0};
    for (int32_t i = 0; i < 100; i++)
        assert_int_equal(rows_add(&r, (int32_t[]){i, 1}, 2, (int32_t[]){2, EOS}, (size_t)(i % 3)), OK);
    assert_int_equal(r.n, 100);
    assert_int_equal(r.longest, 4);
    assert_int_equal(r.r[50].n, 4);
    assert_int_equal(r.r[50].ids[0], 50);
    assert_memory_equal(r.r[50].supervised, ((uint8_t[]){0, 0, 1, 1}), 4);
    assert_int_equal(r.r[51].n, 2);
    rows_free(&r);
}

/* A tokenizer that writes a space before a text's first word (Llama 2's kind): once in a row, and not where the text goes
 * on. BOS stands before it exactly once. */
static void a_leading_space_is_put_once(void **state) {
    (void)state;
    static const char *const sign = "\xE2\x96\x81";
    struct tensors ts;
    struct source s;
    struct rows r;
    tokenizer *t;
    str row = {0};
    assert_int_equal(tensors_open("tests/golden/tokenizer_families/spm_llama.gguf", &ts), OK);
    assert_int_equal(tokenizer_from_gguf(&ts, &t), OK);
    tensors_close(&ts);
    parse("{\"prompt\": \"in the\", \"completion\": \" in the\"}\n{\"prompt\": \"<s>in\", \"completion\": \"the\"}", WANT_SFT, &s);
    assert_int_equal(rows_sft(t, &s, 100, &r), OK);
    for (int i = 0; i < r.n; i++) {
        str_addf(&row, "[");
        for (int k = 0; k < r.r[i].n; k++) str_adds(&row, tokenizer_token(t, r.r[i].ids[k]));
        str_addf(&row, "]");
    }
    char want[128];
    snprintf(want, sizeof want, "[<s>%sin%sthe%sin%sthe</s>][<s>%sinthe</s>]", sign, sign, sign, sign, sign);
    assert_string_equal(row.p, want);
    rows_free(&r);
    source_close(&s);

    /* the same ids whether the form brings its own space, or none: read and written */
    static const char *const forms[] = {"KJV: {text}\nModern:", "KJV:{text}\nModern:"};
    struct ids first = {0}, again = {0};
    for (int i = 0; i < 2; i++) {
        struct prompt_form f;
        assert_int_equal(prompt_form_parse(t, forms[i], &f), OK);
        assert_int_equal(f.head.v[0], tokenizer_bos(t));
        assert_int_equal(prompt_form_text(t, &f, "in the", i ? &again : &first), OK);
        prompt_form_free(&f);
    }
    assert_int_equal(first.n, again.n);
    assert_memory_equal(first.v, again.v, first.n * sizeof *first.v);
    ids_free(&first);
    ids_free(&again);
    str_free(&row);
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompt_and_completion),
        cmocka_unit_test(conversations),
        cmocka_unit_test(one_bos_with_every_template),
        cmocka_unit_test(every_uncut_row_teaches_the_end),
        cmocka_unit_test(cut_to_length),
        cmocka_unit_test(bos_once),
        cmocka_unit_test(pairs_both_ways),
        cmocka_unit_test(a_text_has_the_same_ids_in_both_places),
        cmocka_unit_test(forms),
        cmocka_unit_test(forms_of_turns),
        cmocka_unit_test(documents),
        cmocka_unit_test(rows_made_by_hand),
        cmocka_unit_test(a_leading_space_is_put_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
