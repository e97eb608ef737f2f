/* Jinja source to tokens, with the white space that tags take away already gone. See jinja.h.
 *
 * The rules are those of jinja2 with trim_blocks and lstrip_blocks: "%}" and "#}" eat one line end behind them; a block
 * or comment that is first on its line eats the blanks before it; "-" eats all white space on its side, "+" keeps it.
 * Line ends are "\n" whatever the file has, and the last one is dropped. Numbers beyond 64 bits are refused. */
#include "io/jinja_internal.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct lexer {
    jinja *t;
    const char *s;
    size_t n, i;
    struct token *v;
    size_t count, cap;
    char open[64]; /* brackets that wait for their end */
    int depth;
};

static err push(struct lexer *x, struct token tok) {
    if (x->count == x->cap) {
        size_t cap = x->cap ? 2 * x->cap : 64;
        struct token *v = realloc(x->v, cap * sizeof *v);
        if (!v) return fail(E_MEMORY, "out of memory");
        x->v = v;
        x->cap = cap;
    }
    x->v[x->count++] = tok;
    return OK;
}

static bool at(const struct lexer *x, size_t i, const char *what) {
    size_t n = strlen(what);
    return i <= x->n && x->n - i >= n && !memcmp(x->s + i, what, n);
}

static size_t skip_space(const struct lexer *x, size_t i) {
    for (size_t n; i < x->n && (n = j_space(x->s + i, x->n - i)) > 0;) i += n;
    return i;
}

/* Behind a tag that ends at i (after "%}"): what `sign` before it takes away. */
static size_t behind(const struct lexer *x, size_t i, char sign, bool trims) {
    if (sign == '-') return skip_space(x, i);
    return sign != '+' && trims && !x->t->plain && i < x->n && x->s[i] == '\n' ? i + 1 : i;
}

/* The text s[from..to) before a tag, less what the tag's sign and lstrip_blocks take away. */
static err push_text(struct lexer *x, size_t from, size_t to, char sign, bool lstrip) {
    if (sign == '-') {
        struct jstr s = {.p = x->s + from, .n = to - from};
        size_t a, b;
        j_strip(&s, NULL, false, true, &a, &b);
        to = from + b;
    } else if (sign != '+' && lstrip && !x->t->plain) {
        size_t line = to;
        while (line > from && x->s[line - 1] != '\n') line--;
        if ((line > 0 ? x->s[line - 1] == '\n' : true) && skip_space(x, line) >= to) to = line;
    }
    return to > from ? push(x, (struct token){.type = T_DATA, .at = (uint32_t)from, .p = x->s + from, .n = to - from}) : OK;
}

/* --- inside a tag --- */

static int hex_digits(const char *p, size_t n, int want, unsigned *cp) {
    *cp = 0;
    if (n < (size_t)want) return 0;
    for (int i = 0; i < want; i++) {
        if (!isxdigit((unsigned char)p[i])) return 0;
        *cp = *cp * 16 + (unsigned)(isdigit((unsigned char)p[i]) ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
    }
    return want;
}

/* One escape of Python's at p (behind the backslash), appended decoded; returns its bytes, 0 where it is malformed. */
static size_t unescape(const char *p, size_t n, str *out) {
    static const char from[] = "ntrabfv\\'\"", to[] = "\n\t\r\a\b\f\v\\'\"";
    const char *k = *p ? strchr(from, *p) : NULL;
    unsigned cp = 0;
    char utf8[4];
    size_t used = 1;
    if (k) return str_addc(out, to[k - from]), 1;
    if (*p == '\n') return 1;
    if (*p == 'x' || *p == 'u' || *p == 'U') {
        int want = *p == 'x' ? 2 : *p == 'u' ? 4 : 8;
        if (!hex_digits(p + 1, n - 1, want, &cp) || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) return 0;
        used = (size_t)want + 1;
    } else if (*p >= '0' && *p <= '7') {
        for (used = 0; used < 3 && used < n && p[used] >= '0' && p[used] <= '7'; used++) cp = cp * 8 + (unsigned)(p[used] - '0');
    } else return str_addc(out, '\\'), str_addc(out, *p), 1;
    str_add(out, utf8, (size_t)utf8_encode(cp, utf8));
    return used;
}

static err lex_string(struct lexer *x) {
    size_t start = x->i++;
    char quote = x->s[start];
    str s = {0};
    err e = OK;
    while (!e && x->i < x->n && x->s[x->i] != quote) {
        size_t used = 1;
        if (x->s[x->i] != '\\') str_addc(&s, x->s[x->i]);
        else if (x->i + 1 == x->n) used = 2;
        else if (!(used = unescape(x->s + x->i + 1, x->n - x->i - 1, &s)))
            e = jinja_fail(x->t, x->i, E_INPUT, "an escape that is no character");
        else used++;
        x->i += used;
    }
    if (!e && x->i >= x->n) e = jinja_fail(x->t, start, E_INPUT, "a string without its end");
    x->i++;
    const char *p = e ? NULL : arena_strn(&x->t->mem, s.p ? s.p : "", s.n);
    if (!e && (!p || s.failed)) e = fail(E_MEMORY, "out of memory");
    if (!e) e = push(x, (struct token){.type = T_STR, .at = (uint32_t)start, .p = p, .n = s.n});
    str_free(&s);
    return e;
}

static err lex_number(struct lexer *x) {
    char text[64];
    size_t n = 0, start = x->i;
    int base = 10;
    bool real = false;
    if (x->s[x->i] == '0' && x->i + 1 < x->n) {
        char c = (char)(x->s[x->i + 1] | 32);
        base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
        if (base != 10) x->i += 2;
    }
    for (; x->i < x->n; x->i++) {
        char c = x->s[x->i], next = x->i + 1 < x->n ? x->s[x->i + 1] : 0;
        if (c == '_' && isalnum((unsigned char)next)) continue;
        bool part = base == 16 ? isxdigit((unsigned char)c) : isdigit((unsigned char)c);
        if (!part && base == 10 && c == '.' && isdigit((unsigned char)next) && !real) part = real = true;
        else if (!part && base == 10 && (c | 32) == 'e') {
            bool sign = next == '+' || next == '-';
            char digit = x->i + 1 + sign < x->n ? x->s[x->i + 1 + sign] : 0;
            if (!isdigit((unsigned char)digit)) break;
            part = real = true;
            if (sign && n < sizeof text - 2) text[n++] = c, c = next, x->i++;
        }
        if (!part) break;
        if (n == sizeof text - 1) return jinja_fail(x->t, start, E_INPUT, "a number of more than %zu digits", n);
        text[n++] = c;
    }
    text[n] = 0;
    struct token tok = {.type = real ? T_FLOAT : T_INT, .at = (uint32_t)start};
    char *end = text;
    errno = 0;
    if (real) tok.f = strtod(text, &end);
    else tok.i = strtoll(text, &end, base);
    if (!n || *end || (errno && !real)) return jinja_fail(x->t, start, E_INPUT, "a number that does not fit");
    return push(x, tok);
}

static err lex_operator(struct lexer *x) {
    static const struct {
        const char *text;
        int op;
    } two[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<=", OP_LE}, {">=", OP_GE}, {"//", OP_FLOORDIV}, {"**", OP_POW}};
    struct token tok = {.type = T_OP, .at = (uint32_t)x->i};
    char c = x->s[x->i];
    for (size_t k = 0; k < sizeof two / sizeof *two && !tok.op; k++)
        if (at(x, x->i, two[k].text)) tok.op = two[k].op;
    x->i += tok.op ? 2 : 1;
    if (tok.op) return push(x, tok);
    if (!c || !strchr("+-*/%~<>=.,:;|()[]{}", c))
        return jinja_fail(x->t, tok.at, E_INPUT, "a character that has no meaning here (0x%02x)", (unsigned char)c);
    if (strchr("([{", c)) {
        if (x->depth == (int)sizeof x->open) return jinja_fail(x->t, tok.at, E_INPUT, "more than %d brackets inside one another", x->depth);
        x->open[x->depth++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (!x->depth) return jinja_fail(x->t, tok.at, E_INPUT, "'%c' without its beginning", c);
        if (x->open[--x->depth] != c) return jinja_fail(x->t, tok.at, E_INPUT, "'%c' expected, not '%c'", x->open[x->depth], c);
    }
    tok.op = c;
    return push(x, tok);
}

/* From behind "{{" or "{%" to its end; `stop` is '}' or '%'. */
static err lex_code(struct lexer *x, size_t start, char stop) {
    const char end[] = {stop, '}', 0}, minus[] = {'-', stop, '}', 0}, plus[] = {'+', stop, '}', 0};
    for (x->depth = 0;;) {
        x->i = skip_space(x, x->i);
        if (x->i >= x->n) return jinja_fail(x->t, start, E_INPUT, "a tag without its end (%s)", end);
        char sign = x->depth ? 0 : at(x, x->i, minus) ? '-' : stop == '%' && at(x, x->i, plus) ? '+' : 0;
        if (!x->depth && (sign || at(x, x->i, end))) {
            TRY(push(x, (struct token){.type = stop == '%' ? T_BLOCK_END : T_VAR_END, .at = (uint32_t)x->i}));
            x->i = behind(x, x->i + 2 + (sign != 0), sign, stop == '%');
            return OK;
        }
        unsigned char c = (unsigned char)x->s[x->i];
        if (isalpha(c) || c == '_') {
            size_t from = x->i;
            while (x->i < x->n && (isalnum((unsigned char)x->s[x->i]) || x->s[x->i] == '_')) x->i++;
            const char *name = jinja_intern(x->t, x->s + from, x->i - from);
            if (!name) return fail(E_MEMORY, "out of memory");
            TRY(push(x, (struct token){.type = T_NAME, .at = (uint32_t)from, .p = name, .n = x->i - from}));
        } else if (isdigit(c)) TRY(lex_number(x));
        else if (c == '\'' || c == '"') TRY(lex_string(x));
        else TRY(lex_operator(x));
    }
}

/* A tag's word at i, between optional white space: where it ends with its "%}", or 0. *sign is what stands before "%}". */
static size_t word_tag(const struct lexer *x, size_t i, const char *word, char *sign) {
    i = skip_space(x, i);
    if (!at(x, i, word)) return 0;
    i = skip_space(x, i + strlen(word));
    *sign = i < x->n && (x->s[i] == '-' || x->s[i] == '+') ? x->s[i] : 0;
    i += *sign != 0;
    return at(x, i, "%}") ? i + 2 : 0;
}

/* Text that is taken as it is, from x->i (behind "{% raw %}") to behind "{% endraw %}". */
static err lex_raw(struct lexer *x, size_t start) {
    for (size_t i = x->i; i + 1 < x->n; i++) {
        if (!at(x, i, "{%")) continue;
        char sign = i + 2 < x->n && (x->s[i + 2] == '-' || x->s[i + 2] == '+') ? x->s[i + 2] : 0, last;
        size_t end = word_tag(x, i + 2 + (sign != 0), "endraw", &last);
        if (!end) continue;
        TRY(push_text(x, x->i, i, sign, true));
        x->i = behind(x, end, last, true);
        return OK;
    }
    return jinja_fail(x->t, start, E_INPUT, "{%% raw %%} without its {%% endraw %%}");
}

static err lex_comment(struct lexer *x, size_t start) {
    for (size_t body = x->i; x->i + 1 < x->n; x->i++) {
        if (!at(x, x->i, "#}")) continue;
        char sign = x->i > body ? x->s[x->i - 1] : 0;
        x->i = behind(x, x->i + 2, sign, true);
        return OK;
    }
    return jinja_fail(x->t, start, E_INPUT, "a comment without its end (#})");
}

static err lex_all(struct lexer *x) {
    for (size_t text = 0; x->i < x->n; text = x->i) {
        while (x->i < x->n && !(x->s[x->i] == '{' && x->i + 1 < x->n && strchr("{%#", x->s[x->i + 1]) && x->s[x->i + 1])) x->i++;
        if (x->i == x->n) return push_text(x, text, x->n, '+', false);
        size_t start = x->i;
        char kind = x->s[start + 1], next = start + 2 < x->n ? x->s[start + 2] : 0, last;
        char sign = next == '-' || next == '+' ? next : 0;
        TRY(push_text(x, text, start, sign, kind != '{'));
        x->i = start + 2 + (sign != 0);
        size_t raw = kind == '%' ? word_tag(x, x->i, "raw", &last) : 0;
        if (raw) {
            x->i = behind(x, raw, last, false);
            TRY(lex_raw(x, start));
        } else if (kind == '#') {
            TRY(lex_comment(x, start));
        } else {
            TRY(push(x, (struct token){.type = kind == '%' ? T_BLOCK_BEGIN : T_VAR_BEGIN, .at = (uint32_t)start}));
            TRY(lex_code(x, start, kind == '%' ? '%' : '}'));
        }
    }
    return OK;
}

err jinja_lex(jinja *t, struct token **tokens, size_t *n) {
    struct lexer x = {.t = t, .s = t->source, .n = t->n};
    err e = lex_all(&x);
    if (!e) e = push(&x, (struct token){.type = T_EOF, .at = (uint32_t)x.n});
    if (e) free(x.v);
    *tokens = e ? NULL : x.v;
    *n = x.count;
    return e;
}
