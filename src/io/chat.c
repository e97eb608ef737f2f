/* Plain ChatML: recognising its template, rendering conversations. See chat.h.
 *
 * Recognition reads the Jinja source as text. It wants ChatML's two markers and refuses what is known to change the
 * result (thinking blocks, trimmed contents). The default system turn is a literal in the source, from
 * "<|im_start|>system\n" to "<|im_end|>"; an expression in between means that it is the user's own turn. */
#include "io/chat.h"
#include <stdlib.h>
#include <string.h>

#define IM_START "<|im_start|>"
#define IM_END   "<|im_end|>"

/* Appends the literal s[0..n) with Jinja's escapes undone. */
static void unescape(str *out, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (s[i] != '\\' || i + 1 == n) {
            str_addc(out, s[i]);
            continue;
        }
        static const char from[] = "ntr", to[] = "\n\t\r";
        const char *k = strchr(from, s[++i]);
        str_addc(out, k ? to[k - from] : s[i]);
    }
}

/* True when s[0..n) stays inside the literal that `quote` opened (0: template text outside any expression). */
static bool is_literal(const char *s, size_t n, char quote) {
    for (size_t i = 0; i < n; i++) {
        if (quote && s[i] == '\\') i++;
        else if (quote && s[i] == quote) return false;
        else if (!quote && s[i] == '{' && i + 1 < n && (s[i + 1] == '{' || s[i + 1] == '%')) return false;
    }
    return true;
}

/* The quote that is open at `at`, found by reading the template from its start; 0 outside expressions. */
static char open_quote(const char *source, const char *at) {
    char quote = 0;
    bool code = false;
    for (const char *s = source; s < at; s++) {
        if (quote && *s == '\\') s++;
        else if (quote) quote = *s == quote ? 0 : quote;
        else if (code && (*s == '\'' || *s == '"')) quote = *s;
        else if (s[0] == '{' && (s[1] == '{' || s[1] == '%')) code = true;
        else if (code && s[1] == '}' && (s[0] == '}' || s[0] == '%')) code = false;
    }
    return quote;
}

static void find_system(const char *source, struct chat_template *out) {
    static const char head[] = IM_START "system";
    for (const char *s = strstr(source, head); s; s = strstr(s + 1, head)) {
        const char *body = s + strlen(head), *end = strstr(body, IM_END);
        if (!end) return;
        if (str_starts(body, "\\n")) body += 2;
        else if (*body == '\n') body++;
        else continue;
        if (body > end || !is_literal(body, (size_t)(end - body), open_quote(source, s))) continue;
        unescape(&out->system, body, (size_t)(end - body));
        out->has_system = true;
        return;
    }
}

err chat_template_read(const char *source, struct chat_template *out) {
    static const char *const other[] = {"<think>", "reasoning_content", "| trim", "|trim", ".strip("};
    *out = (struct chat_template){0};
    if (!source) return fail(E_UNSUPPORTED, "the model has no chat template; give texts instead of messages");
    if (!strstr(source, IM_START) || !strstr(source, IM_END))
        return fail(E_UNSUPPORTED,
                    "the model's chat template is not ChatML (no " IM_START "), which is the only one supported");
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (strstr(source, other[i]))
            return fail(E_UNSUPPORTED, "the model's chat template is not plain ChatML (it has \"%s\")", other[i]);
    find_system(source, out);
    if (!out->system.failed) return OK;
    chat_template_free(out);
    return fail(E_MEMORY, "out of memory");
}

void chat_template_free(struct chat_template *t) {
    str_free(&t->system);
    t->has_system = false;
}

/* Ends a segment at the text's end. Neighbours of one kind are one segment. */
static err cut(struct chat_text *c, bool supervised) {
    size_t start = c->n ? c->seg[c->n - 1].end : 0;
    if (c->text.failed) return fail(E_MEMORY, "out of memory");
    if (start == c->text.n) return OK;
    if (c->n && c->seg[c->n - 1].supervised == supervised) return c->seg[c->n - 1].end = c->text.n, OK;
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 8;
        struct chat_segment *seg = realloc(c->seg, cap * sizeof *seg);
        if (!seg) return fail(E_MEMORY, "out of memory");
        c->seg = seg;
        c->cap = cap;
    }
    c->seg[c->n++] = (struct chat_segment){start, c->text.n, supervised};
    return OK;
}

static err add_turn(struct chat_text *c, const char *role, const char *content) {
    str_addf(&c->text, IM_START "%s\n", role);
    TRY(cut(c, false));
    str_adds(&c->text, content);
    str_adds(&c->text, IM_END);
    TRY(cut(c, !strcmp(role, "assistant")));
    str_addc(&c->text, '\n');
    return cut(c, false);
}

err chat_render(const struct chat_template *t, const struct chat_message *m, size_t n, bool prompt,
                struct chat_text *out) {
    str_clear(&out->text);
    out->n = 0;
    if (n && t->has_system && strcmp(m[0].role, "system")) TRY(add_turn(out, "system", t->system.p ? t->system.p : ""));
    for (size_t i = 0; i < n; i++) TRY(add_turn(out, m[i].role, m[i].content));
    if (prompt) str_adds(&out->text, IM_START "assistant\n");
    return cut(out, false);
}

void chat_text_free(struct chat_text *c) {
    str_free(&c->text);
    free(c->seg);
    *c = (struct chat_text){0};
}
