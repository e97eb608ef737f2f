/* Values: strings with a tag for each byte, Python's str() and repr(), JSON, truth, equality, order. See jinja.h.
 *
 * A string's bytes and tags are shared by its slices. Most strings have one tag; an array of tags is made when two kinds
 * meet. Positions in a string are bytes here; filters and methods count in characters (j_chars, j_offset). Case mapping
 * is one character to one (utf8proc), but for "ß"; Python's other special cases (ligatures, final sigma) are not there. */
#define _GNU_SOURCE
#include "io/jinja_internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <utf8proc.h>

const jval j_none = {.t = J_NONE};
jval j_int(int64_t i) { return (jval){.t = J_INT, .i = i}; }
jval j_bool(bool b) { return (jval){.t = J_BOOL, .b = b}; }
jval j_float(double f) { return (jval){.t = J_FLOAT, .f = f}; }
jval j_undefined(const char *name) { return (jval){.t = J_UNDEFINED, .name = name}; }

const char *j_type(jval v) {
    static const char *const name[] = {"undefined", "none",        "a boolean", "an integer", "a float",    "a string", "a list",
                                       "a dict",    "a namespace", "a loop",    "a macro",    "a function", "a method"};
    return name[v.t];
}

/* --- making --- */

err j_str(struct render *r, const char *p, size_t n, uint32_t tag, jval *out) {
    struct jstr *s;
    TRY(jr_alloc(r, sizeof *s, &s));
    *s = (struct jstr){.p = p, .n = n, .tag = tag};
    *out = (jval){.t = J_STR, .s = s};
    return OK;
}

err j_cstr(struct render *r, const char *s, jval *out) { return j_str(r, s, strlen(s), r->mark, out); }

err j_sub(struct render *r, const struct jstr *s, size_t from, size_t to, jval *out) {
    struct jstr *sub;
    TRY(jr_alloc(r, sizeof *sub, &sub));
    *sub = (struct jstr){.p = s->p + from, .n = to - from, .tag = s->tag, .tags = s->tags ? s->tags + from : NULL};
    *out = (jval){.t = J_STR, .s = sub};
    return OK;
}

err j_list(struct render *r, enum list_kind kind, jval *out) {
    out->t = J_LIST;
    TRY(jr_alloc(r, sizeof *out->l, &out->l));
    out->l->kind = kind;
    return OK;
}

err j_push(struct render *r, struct jlist *l, jval v) {
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 4;
        jval *p;
        TRY(jr_alloc(r, cap * sizeof *p, &p));
        if (l->n) memcpy(p, l->v, l->n * sizeof *p);
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = v;
    return jr_work(r, 16);
}

err j_dict(struct render *r, jval *out) {
    out->t = J_DICT;
    return jr_alloc(r, sizeof *out->d, &out->d);
}

const jval *j_get(const struct jdict *d, const char *key, size_t n) {
    for (size_t i = 0; i < d->n; i++) {
        const struct jpair *p = &d->v[i];
        if (p->k.t == J_STR && p->k.s->n == n && !memcmp(p->k.s->p, key, n)) return &p->v;
    }
    return NULL;
}

err j_find(struct render *r, const struct jdict *d, jval key, const jval **out) {
    *out = NULL;
    TRY(jr_work(r, d->n * 8));
    if (key.t == J_STR) return *out = j_get(d, key.s->p, key.s->n), OK;
    if (key.t == J_LIST || key.t == J_DICT) return jr_fail(r, E_INPUT, "%s cannot be a key", j_type(key));
    for (size_t i = 0; i < d->n && !*out; i++) {
        bool same;
        TRY(j_equal(r, d->v[i].k, key, &same));
        if (same) *out = &d->v[i].v;
    }
    return OK;
}

err j_put(struct render *r, struct jdict *d, jval k, jval v) {
    const jval *have;
    TRY(j_find(r, d, k, &have));
    if (have) return *(jval *)have = v, OK;
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 4;
        struct jpair *p;
        TRY(jr_alloc(r, cap * sizeof *p, &p));
        if (d->n) memcpy(p, d->v, d->n * sizeof *p);
        d->v = p;
        d->cap = cap;
    }
    d->v[d->n++] = (struct jpair){k, v};
    return OK;
}

/* --- strings being made --- */

static err grow(struct render *r, struct builder *b, size_t more) {
    if (more > r->lim.output || b->n > r->lim.output - more) return jr_fail(r, E_INPUT, "a text of more than %zu bytes", r->lim.output);
    TRY(jr_work(r, more));
    if (b->cap - b->n >= more) return OK;
    size_t cap = 2 * (b->n + more) + 64;
    char *p;
    TRY(jr_alloc(r, cap, &p));
    if (b->n) memcpy(p, b->p, b->n);
    b->p = p;
    if (b->tags) {
        uint32_t *tags;
        TRY(jr_alloc(r, cap * sizeof *tags, &tags));
        memcpy(tags, b->tags, b->n * sizeof *tags);
        b->tags = tags;
    }
    b->cap = cap;
    return OK;
}

/* The builder's bytes are about to have several tags. */
static err split_tags(struct render *r, struct builder *b) {
    if (b->tags) return OK;
    TRY(jr_alloc(r, b->cap * sizeof *b->tags, &b->tags));
    for (size_t i = 0; i < b->n; i++) b->tags[i] = b->tag;
    return OK;
}

err jb_add(struct render *r, struct builder *b, const char *p, size_t n, uint32_t tag) {
    if (!n) return OK;
    TRY(grow(r, b, n));
    tag |= r->mark;
    if (!b->n && !b->tags) b->tag = tag;
    if (b->tags || b->tag != tag) {
        TRY(split_tags(r, b));
        for (size_t i = 0; i < n; i++) b->tags[b->n + i] = tag;
    }
    memcpy(b->p + b->n, p, n);
    b->n += n;
    return OK;
}

err jb_sub(struct render *r, struct builder *b, const struct jstr *s, size_t from, size_t to) {
    if (!s->tags || from >= to) return from < to ? jb_add(r, b, s->p + from, to - from, s->tag) : OK;
    TRY(grow(r, b, to - from));
    TRY(split_tags(r, b));
    for (size_t i = from; i < to; i++) b->tags[b->n + i - from] = s->tags[i] | r->mark;
    memcpy(b->p + b->n, s->p + from, to - from);
    b->n += to - from;
    return OK;
}

err jb_adds(struct render *r, struct builder *b, const char *s) { return jb_add(r, b, s, strlen(s), 0); }

err jb_str(struct render *r, const struct builder *b, jval *out) {
    TRY(j_str(r, b->n ? b->p : "", b->n, b->tag, out));
    ((struct jstr *)out->s)->tags = b->tags;
    return OK;
}

/* --- truth, equality, order --- */

bool j_true(jval v) {
    switch (v.t) {
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v.b;
    case J_INT: return v.i != 0;
    case J_FLOAT: return v.f != 0;
    case J_STR: return v.s->n > 0;
    case J_LIST: return v.l->n > 0 || v.l->kind == L_LAZY;
    case J_DICT: return v.d->n > 0;
    default: return true;
    }
}

static bool number(jval v, double *f) {
    if (v.t == J_FLOAT) *f = v.f;
    else if (v.t == J_INT || v.t == J_BOOL) *f = v.t == J_INT ? (double)v.i : v.b;
    else return false;
    return true;
}

static err equal_lists(struct render *r, const struct jlist *a, const struct jlist *b, bool *out) {
    *out = a->n == b->n && a->kind == b->kind;
    for (size_t i = 0; i < a->n && *out; i++) TRY(j_equal(r, a->v[i], b->v[i], out));
    return OK;
}

static err equal_dicts(struct render *r, const struct jdict *a, const struct jdict *b, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        const jval *other;
        TRY(j_find(r, b, a->v[i].k, &other));
        *out = other != NULL;
        if (other) TRY(j_equal(r, a->v[i].v, *other, out));
    }
    return OK;
}

err j_equal(struct render *r, jval a, jval b, bool *out) {
    double x, y;
    err e = jr_enter(r);
    if (e) return e;
    if (number(a, &x) && number(b, &y)) *out = a.t == J_INT && b.t == J_INT ? a.i == b.i : x == y;
    else if (a.t != b.t) *out = false;
    else if (a.t == J_STR) {
        e = jr_work(r, a.s->n == b.s->n ? a.s->n : 0);
        *out = a.s->n == b.s->n && !memcmp(a.s->p, b.s->p, a.s->n);
    } else if (a.t == J_LIST) e = equal_lists(r, a.l, b.l, out);
    else if (a.t == J_DICT) e = equal_dicts(r, a.d, b.d, out);
    else *out = a.t == J_UNDEFINED || a.t == J_NONE || a.d == b.d;
    r->depth--;
    return e;
}

err j_order(struct render *r, jval a, jval b, int *out) {
    double x, y;
    if (a.t == J_INT && b.t == J_INT) return *out = (a.i > b.i) - (a.i < b.i), OK;
    if (number(a, &x) && number(b, &y)) return *out = x != x || y != y ? 2 : (x > y) - (x < y), OK;
    if (a.t == J_STR && b.t == J_STR) {
        size_t n = a.s->n < b.s->n ? a.s->n : b.s->n;
        int c = memcmp(a.s->p, b.s->p, n);
        *out = c ? (c > 0) - (c < 0) : (a.s->n > b.s->n) - (a.s->n < b.s->n);
        return jr_work(r, n);
    }
    if (a.t != J_LIST || b.t != J_LIST) {
        if (a.t == J_UNDEFINED || b.t == J_UNDEFINED)
            return jr_fail(r, E_INPUT, "\"%.60s\" is undefined", a.t == J_UNDEFINED ? a.name : b.name);
        return jr_fail(r, E_INPUT, "%s and %s have no order", j_type(a), j_type(b));
    }
    TRY(jr_enter(r));
    *out = 0;
    for (size_t i = 0; i < a.l->n && i < b.l->n && !*out; i++) {
        bool same;
        TRY(j_equal(r, a.l->v[i], b.l->v[i], &same));
        if (!same) TRY(j_order(r, a.l->v[i], b.l->v[i], out));
    }
    if (!*out) *out = (a.l->n > b.l->n) - (a.l->n < b.l->n);
    r->depth--;
    return OK;
}

err j_contains(struct render *r, jval in, jval x, bool *out) {
    *out = false;
    if (in.t == J_STR) {
        if (x.t != J_STR) return jr_fail(r, E_INPUT, "\"in\" a string needs a string, not %s", j_type(x));
        TRY(jr_work(r, in.s->n));
        return *out = j_search(in.s, x.s, 0) != SIZE_MAX, OK;
    }
    if (in.t == J_DICT || in.t == J_NAMESPACE) {
        const jval *have;
        TRY(j_find(r, in.d, x, &have));
        return *out = have != NULL, OK;
    }
    if (in.t == J_UNDEFINED) return OK;
    if (in.t != J_LIST) return jr_fail(r, E_INPUT, "nothing can be \"in\" %s", j_type(in));
    for (size_t i = 0; i < in.l->n && !*out; i++) TRY(j_equal(r, in.l->v[i], x, out));
    return OK;
}

err j_length(struct render *r, jval v, size_t *out) {
    if (v.t == J_STR) *out = j_chars(v.s->p, v.s->n);
    else if (v.t == J_LIST && v.l->kind != L_LAZY) *out = v.l->n;
    else if (v.t == J_DICT) *out = v.d->n;
    else if (v.t == J_UNDEFINED) *out = 0;
    else return jr_fail(r, E_INPUT, "%s has no length", v.t == J_LIST ? "what a filter yields (put | list behind it)" : j_type(v));
    return OK;
}

err j_iterate(struct render *r, jval v, const struct jlist **out) {
    jval l;
    if (v.t == J_LIST) return *out = v.l, OK;
    if (v.t != J_STR && v.t != J_DICT && v.t != J_UNDEFINED) return jr_fail(r, E_INPUT, "%s cannot be iterated over", j_type(v));
    TRY(j_list(r, L_LIST, &l));
    *out = l.l;
    for (size_t i = 0; v.t == J_DICT && i < v.d->n; i++) TRY(j_push(r, l.l, v.d->v[i].k));
    for (size_t i = 0, n; v.t == J_STR && i < v.s->n; i += n) {
        jval c;
        n = j_offset(v.s->p + i, v.s->n - i, 1);
        TRY(j_sub(r, v.s, i, i + n, &c));
        TRY(j_push(r, l.l, c));
    }
    return OK;
}

/* --- text --- */

/* As Python writes a float: the shortest digits that read back the same. */
static void float_text(double f, char out[40]) {
    char digits[40];
    int prec = 0, exponent;
    if (f != f || f - f != 0) {
        strcpy(out, f != f ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    do snprintf(digits, sizeof digits, "%.*e", prec, f);
    while (strtod(digits, NULL) != f && ++prec < 17);
    char *e = strchr(digits, 'e');
    exponent = atoi(e + 1);
    if (exponent < -4 || exponent >= 16)
        snprintf(out, 40, "%.*se%s%02d", (int)(e - digits), digits, exponent < 0 ? "-" : "+", abs(exponent));
    else snprintf(out, 40, "%.*f", prec > exponent ? prec - exponent : 1, f);
}

static err repr_string(struct render *r, struct builder *b, const struct jstr *s) {
    const char *quote = memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n) ? "\"" : "'";
    TRY(jb_adds(r, b, quote));
    for (size_t i = 0; i < s->n; i++) {
        unsigned char c = (unsigned char)s->p[i];
        char text[8] = "";
        if (c == '\n' || c == '\r' || c == '\t') snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c == '\\' || c == (unsigned char)*quote) snprintf(text, sizeof text, "\\%c", c);
        else if (c < 0x20 || c == 0x7F) snprintf(text, sizeof text, "\\x%02x", c);
        if (*text) TRY(jb_add(r, b, text, strlen(text), s->tags ? s->tags[i] : s->tag));
        else TRY(jb_sub(r, b, s, i, i + 1));
    }
    return jb_adds(r, b, quote);
}

static err repr_list(struct render *r, struct builder *b, const struct jlist *l) {
    TRY(jb_adds(r, b, l->kind == L_TUPLE ? "(" : "["));
    for (size_t i = 0; i < l->n; i++) {
        if (i) TRY(jb_adds(r, b, ", "));
        TRY(jb_repr(r, b, l->v[i]));
    }
    return jb_adds(r, b, l->kind != L_TUPLE ? "]" : l->n == 1 ? ",)" : ")");
}

static err repr_dict(struct render *r, struct builder *b, const struct jdict *d) {
    TRY(jb_adds(r, b, "{"));
    for (size_t i = 0; i < d->n; i++) {
        if (i) TRY(jb_adds(r, b, ", "));
        TRY(jb_repr(r, b, d->v[i].k));
        TRY(jb_adds(r, b, ": "));
        TRY(jb_repr(r, b, d->v[i].v));
    }
    return jb_adds(r, b, "}");
}

err jb_repr(struct render *r, struct builder *b, jval v) {
    char text[40];
    TRY(jr_enter(r));
    switch (v.t) {
    case J_UNDEFINED: TRY(jb_adds(r, b, "Undefined")); break;
    case J_NONE: TRY(jb_adds(r, b, "None")); break;
    case J_BOOL: TRY(jb_adds(r, b, v.b ? "True" : "False")); break;
    case J_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.i);
        TRY(jb_adds(r, b, text));
        break;
    case J_FLOAT:
        float_text(v.f, text);
        TRY(jb_adds(r, b, text));
        break;
    case J_STR: TRY(repr_string(r, b, v.s)); break;
    case J_LIST: TRY(repr_list(r, b, v.l)); break;
    case J_DICT: TRY(repr_dict(r, b, v.d)); break;
    default: return jr_fail(r, E_INPUT, "%s has no text", j_type(v));
    }
    r->depth--;
    return OK;
}

err jb_text(struct render *r, struct builder *b, jval v) {
    if (v.t == J_STR) return jb_sub(r, b, v.s, 0, v.s->n);
    return v.t == J_UNDEFINED ? OK : jb_repr(r, b, v);
}

err j_text(struct render *r, jval v, jval *out) {
    struct builder b = {0};
    if (v.t == J_STR) return *out = v, OK;
    TRY(jb_text(r, &b, v));
    return jb_str(r, &b, out);
}

/* --- JSON --- */

static err json_string(struct render *r, struct builder *b, const struct jstr *s, bool ascii) {
    static const char from[] = "\n\r\t\b\f\"\\", to[] = "nrtbf\"\\";
    TRY(jb_adds(r, b, "\""));
    for (size_t i = 0, n; i < s->n; i += n) {
        unsigned char c = (unsigned char)s->p[i];
        const char *k = c ? strchr(from, c) : NULL;
        char text[16] = "";
        unsigned cp;
        n = 1;
        if (k) snprintf(text, sizeof text, "\\%c", to[k - from]);
        else if (c < 0x20) snprintf(text, sizeof text, "\\u%04x", c);
        else if (ascii && c >= 0x80 && (n = (size_t)utf8_decode(s->p + i, s->n - i, &cp)) > 0) {
            if (cp < 0x10000) snprintf(text, sizeof text, "\\u%04x", cp);
            else snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10), 0xDC00 + (cp & 0x3FF));
        } else n = 1;
        if (*text) TRY(jb_add(r, b, text, strlen(text), s->tags ? s->tags[i] : s->tag));
        else TRY(jb_sub(r, b, s, i, i + 1));
    }
    return jb_adds(r, b, "\"");
}

static err json_line(struct render *r, struct builder *b, const struct json_form *f, int level) {
    if (!f->indent) return OK;
    TRY(jb_adds(r, b, "\n"));
    for (int i = 0; i < level; i++) TRY(jb_adds(r, b, f->indent));
    return OK;
}

static err json_list(struct render *r, struct builder *b, const struct jlist *l, const struct json_form *f, int level) {
    if (!l->n) return jb_adds(r, b, "[]");
    TRY(jb_adds(r, b, "["));
    for (size_t i = 0; i < l->n; i++) {
        if (i) TRY(jb_sub(r, b, &f->item, 0, f->item.n));
        TRY(json_line(r, b, f, level + 1));
        TRY(jb_json(r, b, l->v[i], f, level + 1));
    }
    TRY(json_line(r, b, f, level));
    return jb_adds(r, b, "]");
}

static int by_key(const void *a, const void *b) {
    const struct jstr *x = ((const struct jpair *)a)->k.s, *y = ((const struct jpair *)b)->k.s;
    int c = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

static err json_dict(struct render *r, struct builder *b, const struct jdict *d, const struct json_form *f, int level) {
    struct jpair *v = d->v;
    if (!d->n) return jb_adds(r, b, "{}");
    for (size_t i = 0; i < d->n; i++)
        if (d->v[i].k.t != J_STR) return jr_fail(r, E_INPUT, "tojson: a key that is %s", j_type(d->v[i].k));
    if (f->sort) {
        TRY(jr_alloc(r, d->n * sizeof *v, &v));
        memcpy(v, d->v, d->n * sizeof *v);
        qsort(v, d->n, sizeof *v, by_key);
    }
    TRY(jb_adds(r, b, "{"));
    for (size_t i = 0; i < d->n; i++) {
        if (i) TRY(jb_sub(r, b, &f->item, 0, f->item.n));
        TRY(json_line(r, b, f, level + 1));
        TRY(json_string(r, b, v[i].k.s, f->ascii));
        TRY(jb_sub(r, b, &f->key, 0, f->key.n));
        TRY(jb_json(r, b, v[i].v, f, level + 1));
    }
    TRY(json_line(r, b, f, level));
    return jb_adds(r, b, "}");
}

err jb_json(struct render *r, struct builder *b, jval v, const struct json_form *f, int level) {
    TRY(jr_enter(r));
    err e;
    if (v.t == J_NONE) e = jb_adds(r, b, "null");
    else if (v.t == J_BOOL) e = jb_adds(r, b, v.b ? "true" : "false");
    else if (v.t == J_STR) e = json_string(r, b, v.s, f->ascii);
    else if (v.t == J_LIST && v.l->kind != L_LAZY) e = json_list(r, b, v.l, f, level);
    else if (v.t == J_DICT) e = json_dict(r, b, v.d, f, level);
    else if (v.t == J_FLOAT && v.f - v.f != 0) e = jb_adds(r, b, v.f != v.f ? "NaN" : v.f > 0 ? "Infinity" : "-Infinity");
    else if (v.t == J_INT || v.t == J_FLOAT) e = jb_repr(r, b, v);
    else e = jr_fail(r, E_INPUT, "tojson: %s is no JSON", v.t == J_LIST ? "what a filter yields" : j_type(v));
    r->depth--;
    return e;
}

/* --- characters --- */

size_t j_chars(const char *p, size_t n) {
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)p[i] & 0xC0) != 0x80;
    return chars;
}

size_t j_offset(const char *p, size_t n, size_t chars) {
    size_t i = 0;
    for (; chars && i < n; chars--)
        for (i++; i < n && ((unsigned char)p[i] & 0xC0) == 0x80;) i++;
    return i;
}

size_t j_space(const char *p, size_t n) {
    unsigned char c = n ? (unsigned char)*p : 0;
    unsigned cp;
    if (c < 0x80) return n && ((c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20));
    int len = utf8_decode(p, n, &cp);
    if (!len) return 0;
    bool space = cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
                 cp == 0x202F || cp == 0x205F || cp == 0x3000;
    return space ? (size_t)len : 0;
}

/* Bytes of the character at p that is to be stripped, or 0. */
static size_t strippable(const char *p, size_t n, const struct jstr *set) {
    if (!set) return j_space(p, n);
    size_t len = j_offset(p, n, 1);
    for (size_t i = 0, k; i < set->n; i += k) {
        k = j_offset(set->p + i, set->n - i, 1);
        if (k == len && !memcmp(p, set->p + i, k)) return len;
    }
    return 0;
}

void j_strip(const struct jstr *s, const struct jstr *set, bool left, bool right, size_t *from, size_t *to) {
    size_t a = 0, b = s->n, n;
    while (left && a < b && (n = strippable(s->p + a, b - a, set)) > 0) a += n;
    while (right && b > a) {
        size_t c = b - 1;
        while (c > a && ((unsigned char)s->p[c] & 0xC0) == 0x80) c--;
        if (strippable(s->p + c, b - c, set) != b - c) break;
        b = c;
    }
    *from = a;
    *to = b;
}

err j_letters(struct render *r, const struct jstr *s, enum letters how, jval *out) {
    struct builder b = {0};
    bool word = false;
    for (size_t i = 0, n; i < s->n; i += n) {
        unsigned cp;
        char text[4];
        n = (size_t)utf8_decode(s->p + i, s->n - i, &cp);
        if (!n) {
            TRY(jb_sub(r, &b, s, i, i + (n = 1)));
            continue;
        }
        bool up = how == UPPER || (how != LOWER && !word);
        int32_t to = up ? utf8proc_toupper((int32_t)cp) : utf8proc_tolower((int32_t)cp);
        utf8proc_category_t c = utf8proc_category((int32_t)cp);
        if (how == TITLE_FILTER) word = !j_space(s->p + i, n) && (cp >= 0x80 || !strchr("-({[<", (int)cp));
        else word = how == CAPITALIZE || (how == TITLE && c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LT);
        int len = up && cp == 0xDF ? 2 : utf8_encode((unsigned)to, text);
        if (up && cp == 0xDF) memcpy(text, how == UPPER ? "SS" : "Ss", 2);
        TRY(jb_add(r, &b, text, (size_t)len, s->tags ? s->tags[i] : s->tag));
    }
    return jb_str(r, &b, out);
}

size_t j_search(const struct jstr *s, const struct jstr *what, size_t from) {
    const char *p = from <= s->n ? memmem(s->p + from, s->n - from, what->p, what->n) : NULL;
    return p ? (size_t)(p - s->p) : SIZE_MAX;
}

err j_replace(struct render *r, const struct jstr *s, const struct jstr *old, const struct jstr *new_, int64_t most, jval *out) {
    struct builder b = {0};
    size_t done = 0;
    TRY(jr_work(r, s->n));
    for (size_t at = 0; most && at <= s->n; most -= most > 0) {
        at = j_search(s, old, at);
        if (at == SIZE_MAX) break;
        TRY(jb_sub(r, &b, s, done, at));
        TRY(jb_sub(r, &b, new_, 0, new_->n));
        done = at + old->n;
        at = old->n ? done : at + j_offset(s->p + at, s->n - at, 1) + (at == s->n);
    }
    TRY(jb_sub(r, &b, s, done, s->n));
    return jb_str(r, &b, out);
}
