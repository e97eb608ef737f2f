/* A pull reader for the long, regular parts of JSON files. See json_scan.h. Strings without escapes, nearly all, are
 * handed out as they lie in the document. */
#include "io/json_scan.h"
#include <locale.h>
#include <stdlib.h>
#include <string.h>

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* ---- outline ---- */

static size_t skip_space(const char *s, size_t n, size_t at) {
    while (at < n && is_space(s[at])) at++;
    return at;
}

/* Behind the string that begins at `at`, or n. */
static size_t skip_string(const char *s, size_t n, size_t at) {
    for (at++; at < n && s[at] != '"'; at++)
        if (s[at] == '\\') at++;
    return at < n ? at + 1 : n;
}

/* Behind the value that begins at `at`. */
static size_t skip_value(const char *s, size_t n, size_t at) {
    size_t depth = 0;
    while (at < n) {
        if (s[at] == '"') at = skip_string(s, n, at);
        else if (s[at] == '{' || s[at] == '[') depth++, at++;
        else if (s[at] == '}' || s[at] == ']') {
            if (depth == 0) return at;
            at++;
            if (--depth == 0) return at;
            continue;
        } else if (depth == 0 && (s[at] == ',' || is_space(s[at]))) return at;
        else {
            at++;
            continue;
        }
        if (depth == 0) return at;
    }
    return n;
}

/* Calls back for the members of the object that begins at `at`: key without quotes, the value's place. */
typedef bool (*member_fn)(void *ctx, const char *key, size_t n_key, struct scan_span value);
static void each_member(const char *s, size_t n, size_t at, member_fn fn, void *ctx) {
    if (at >= n || s[at] != '{') return;
    for (at = skip_space(s, n, at + 1); at < n && s[at] == '"';) {
        size_t key = at + 1, end = skip_string(s, n, at);
        at = skip_space(s, n, end);
        if (at >= n || s[at] != ':') return;
        at = skip_space(s, n, at + 1);
        struct scan_span value = {at, skip_value(s, n, at)};
        if (value.end == value.start || !fn(ctx, s + key, end - 1 - key, value)) return;
        at = skip_space(s, n, value.end);
        if (at >= n || s[at] != ',') return;
        at = skip_space(s, n, at + 1);
    }
}

struct outline {
    const char *object;
    const char *const *keys;
    struct scan_span *spans, found;
    bool twice;
};

static bool same(const char *a, size_t n, const char *b) { return strlen(b) == n && !memcmp(a, b, n); }

static bool find_object(void *ctx, const char *key, size_t n, struct scan_span value) {
    struct outline *o = ctx;
    if (!same(key, n, o->object)) return true;
    o->twice |= o->found.end > 0;
    o->found = value;
    return true;
}

static bool find_key(void *ctx, const char *key, size_t n, struct scan_span value) {
    struct outline *o = ctx;
    for (int i = 0; o->keys[i]; i++) {
        if (!same(key, n, o->keys[i])) continue;
        o->twice |= o->spans[i].end > 0;
        o->spans[i] = value;
    }
    return true;
}

err scan_outline(const char *name, const char *bytes, size_t n, const char *object, const char *const *keys,
                 struct scan_span *spans, str *rest) {
    struct outline o = {.object = object, .keys = keys, .spans = spans};
    size_t done = 0;
    each_member(bytes, n, skip_space(bytes, n, 0), find_object, &o);
    if (o.found.end) each_member(bytes, n, o.found.start, find_key, &o);
    if (o.twice) return fail(E_INPUT, "%s: \"%s\" or one of its keys is there twice", name, object);
    for (;;) { /* the spans in order of their place */
        const struct scan_span *next = NULL;
        for (int i = 0; keys[i]; i++)
            if (spans[i].end > done && (!next || spans[i].start < next->start)) next = &spans[i];
        if (!next) break;
        str_add(rest, bytes + done, next->start - done);
        str_adds(rest, "null");
        for (size_t i = next->start; i < next->end; i++)
            if (bytes[i] == '\n') str_addc(rest, '\n');
        done = next->end;
    }
    str_add(rest, bytes + done, n - done);
    return rest->failed ? fail(E_MEMORY, "%s: out of memory", name) : OK;
}

/* ---- cursor ---- */

void scan_open(struct scan_cursor *c, const char *name, const char *doc, struct scan_span span) {
    *c = (struct scan_cursor){.name = name, .doc = doc, .at = span.start, .end = span.end};
}

void scan_close(struct scan_cursor *c) { str_free(&c->text); }

err scan_fail(const struct scan_cursor *c, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < c->at; i++) {
        column++;
        if (c->doc[i] == '\n') line++, column = 1;
    }
    return fail(E_INPUT, "%s:%zu:%zu: %s", c->name, line, column, what);
}

char scan_peek(struct scan_cursor *c) {
    c->at = skip_space(c->doc, c->end, c->at);
    return c->at < c->end ? c->doc[c->at] : 0;
}

err scan_take(struct scan_cursor *c, char want) {
    if (scan_peek(c) == want) return c->at++, OK;
    char what[] = "not JSON: '?' expected";
    *strchr(what, '?') = want;
    return scan_fail(c, what);
}

err scan_more(struct scan_cursor *c, char close, bool *first, bool *more) {
    char next = scan_peek(c);
    *more = next != close;
    if (!*more) return c->at++, OK;
    if (!*first) TRY(scan_take(c, ','));
    *first = false;
    return OK;
}

static int hex4(const char *s, size_t n) {
    int value = 0;
    if (n < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = s[i], low = (char)(c | 0x20);
        int digit = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* An escape at the cursor, which stands behind the backslash. */
static err take_escape(struct scan_cursor *c) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char utf8[4], e = c->at < c->end ? c->doc[c->at++] : 0;
    const char *known = e ? strchr(from, e) : NULL;
    if (known) return str_addc(&c->text, to[known - from]), OK;
    int cp = e == 'u' ? hex4(c->doc + c->at, c->end - c->at) : -1;
    if (cp < 0) return scan_fail(c, "not JSON: a bad escape in a string");
    c->at += 4;
    if (cp >= 0xD800 && cp < 0xDC00) {
        int low = c->end - c->at >= 6 && c->doc[c->at] == '\\' && c->doc[c->at + 1] == 'u'
                      ? hex4(c->doc + c->at + 2, c->end - c->at - 2)
                      : -1;
        if (low < 0xDC00 || low > 0xDFFF) return scan_fail(c, "not JSON: half a surrogate pair in a string");
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
        c->at += 6;
    } else if (cp >= 0xDC00 && cp <= 0xDFFF) return scan_fail(c, "not JSON: half a surrogate pair in a string");
    str_add(&c->text, utf8, (size_t)utf8_encode((unsigned)cp, utf8));
    return OK;
}

err scan_string(struct scan_cursor *c, const char **text, size_t *n) {
    TRY(scan_take(c, '"'));
    size_t start = c->at;
    while (c->at < c->end && c->doc[c->at] != '"' && c->doc[c->at] != '\\' && (unsigned char)c->doc[c->at] >= 0x20)
        c->at++;
    *text = c->doc + start;
    *n = c->at - start;
    if (c->at < c->end && c->doc[c->at] == '"') return c->at++, OK;
    str_clear(&c->text);
    str_add(&c->text, *text, *n);
    while (c->at < c->end && c->doc[c->at] != '"') {
        char b = c->doc[c->at];
        if ((unsigned char)b < 0x20) return scan_fail(c, "not JSON: a control character in a string");
        c->at++;
        if (b == '\\') TRY(take_escape(c));
        else str_addc(&c->text, b);
    }
    if (c->at >= c->end) return scan_fail(c, "not JSON: a string without an end");
    c->at++;
    if (c->text.failed) return fail(E_MEMORY, "%s: out of memory", c->name);
    *text = c->text.p ? c->text.p : "";
    *n = c->text.n;
    return OK;
}

err scan_number(struct scan_cursor *c, double *value, bool *integer) {
    char digits[64], next = scan_peek(c), *end;
    size_t n = 0;
    if (next != '-' && !(next >= '0' && next <= '9')) return scan_fail(c, "a number expected");
    *integer = true;
    while (c->at + n < c->end && n + 1 < sizeof digits && strchr("+-0123456789.eE", c->doc[c->at + n]) &&
           c->doc[c->at + n]) {
        digits[n] = c->doc[c->at + n];
        *integer &= !strchr(".eE", digits[n]);
        n++;
    }
    digits[n] = 0;
    char *point = strchr(digits, '.');
    if (point) *point = *localeconv()->decimal_point; /* strtod reads the locale's */
    *value = strtod(digits, &end);
    if (end != digits + n || n + 1 == sizeof digits) return scan_fail(c, "not JSON: a damaged number");
    c->at += n;
    return OK;
}

const char *scan_kind(struct scan_cursor *c) {
    switch (scan_peek(c)) {
    case '{': return "an object";
    case '[': return "an array";
    case '"': return "a string";
    case 't': return "true";
    case 'f': return "false";
    case 'n': return "null";
    case 0: return "absent";
    default: return "a number";
    }
}
