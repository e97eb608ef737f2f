/* Filters and tests, with jinja2's meanings, defaults and argument names. See jinja.h.
 *
 * What Python has as a generator (map, select, reject, unique, reverse of a list, items) is a list of kind L_LAZY here: it can
 * be iterated over and is always true, but has no length and no items, so that a template does not pass here that fails
 * there. sort, min and max ignore case unless told otherwise, as in Jinja. */
#include "io/jinja_internal.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a filter goes through; map, select and reject take anything false for an empty list. */
static err items_of(struct render *r, jval v, const struct jlist **out) {
    static const struct jlist empty;
    return j_true(v) ? j_iterate(r, v, out) : (*out = &empty, OK);
}

/* --- arguments --- */

jval call_arg(const struct call *c, size_t i, const char *name, jval fallback) {
    if (i < c->n) return c->v[i];
    for (size_t k = 0; k < c->n_kw; k++)
        if (!strcmp(c->kw[k].name, name)) return c->kw[k].v;
    return fallback;
}

err call_str(struct render *r, const struct call *c, size_t i, const char *name, const char *fallback, const struct jstr **out) {
    jval v = call_arg(c, i, name, j_none);
    *out = NULL;
    if (v.t == J_NONE && !fallback) return OK;
    if (v.t == J_NONE) TRY(j_cstr(r, fallback, &v));
    if (v.t != J_STR) return jr_fail(r, E_INPUT, "%.60s: %s is %s, not a string", c->name, name, j_type(v));
    *out = v.s;
    return OK;
}

err call_int(struct render *r, const struct call *c, size_t i, const char *name, int64_t fallback, int64_t *out) {
    jval v = call_arg(c, i, name, j_none);
    if (v.t == J_NONE) return *out = fallback, OK;
    if (v.t != J_INT && v.t != J_BOOL) return jr_fail(r, E_INPUT, "%.60s: %s is %s, not an integer", c->name, name, j_type(v));
    *out = v.t == J_INT ? v.i : v.b;
    return OK;
}

static err self_text(struct render *r, const struct call *c, const struct jstr **out) {
    jval v;
    TRY(j_text(r, c->self, &v));
    *out = v.s;
    return OK;
}

/* v.a.b.0 for the attribute "a.b.0"; the value itself where none is given. */
static err attribute(struct render *r, jval v, jval path, jval *out) {
    *out = v;
    if (path.t == J_NONE) return OK;
    if (path.t == J_INT) return jr_item(r, v, path, out);
    if (path.t != J_STR) return jr_fail(r, E_INPUT, "an attribute's name is %s", j_type(path));
    for (size_t at = 0; at <= path.s->n;) {
        const char *p = path.s->p + at, *dot = memchr(p, '.', path.s->n - at);
        size_t n = dot ? (size_t)(dot - p) : path.s->n - at;
        jval key;
        bool digits = n > 0 && n < 10;
        for (size_t i = 0; i < n; i++) digits = digits && p[i] >= '0' && p[i] <= '9';
        if (digits) key = j_int(strtoll(p, NULL, 10));
        else TRY(j_str(r, p, n, 0, &key));
        TRY(jr_item(r, *out, key, out));
        at += n + 1;
    }
    return OK;
}

/* --- texts --- */

static err f_trim(struct render *r, struct call *c, jval *out) {
    const struct jstr *s, *set;
    size_t from, to;
    TRY(self_text(r, c, &s));
    TRY(call_str(r, c, 0, "chars", NULL, &set));
    j_strip(s, set, true, true, &from, &to);
    return j_sub(r, s, from, to, out);
}

static err letters(struct render *r, const struct call *c, enum letters how, jval *out) {
    const struct jstr *s;
    TRY(self_text(r, c, &s));
    return j_letters(r, s, how, out);
}
static err f_upper(struct render *r, struct call *c, jval *out) { return letters(r, c, UPPER, out); }
static err f_lower(struct render *r, struct call *c, jval *out) { return letters(r, c, LOWER, out); }
static err f_title(struct render *r, struct call *c, jval *out) { return letters(r, c, TITLE_FILTER, out); }
static err f_capitalize(struct render *r, struct call *c, jval *out) { return letters(r, c, CAPITALIZE, out); }
static err f_string(struct render *r, struct call *c, jval *out) { return j_text(r, c->self, out); }
static err f_safe(struct render *r, struct call *c, jval *out) { return j_text(r, c->self, out); }

static err f_replace(struct render *r, struct call *c, jval *out) {
    const struct jstr *s, *old, *new_;
    int64_t most;
    TRY(self_text(r, c, &s));
    TRY(call_str(r, c, 0, "old", "", &old));
    TRY(call_str(r, c, 1, "new", "", &new_));
    TRY(call_int(r, c, 2, "count", -1, &most));
    return j_replace(r, s, old, new_, most, out);
}

static err f_join(struct render *r, struct call *c, jval *out) {
    const struct jstr *with;
    const struct jlist *l;
    struct builder b = {0};
    TRY(call_str(r, c, 0, "d", "", &with));
    TRY(j_iterate(r, c->self, &l));
    for (size_t i = 0; i < l->n; i++) {
        jval v;
        TRY(attribute(r, l->v[i], call_arg(c, 1, "attribute", j_none), &v));
        if (i) TRY(jb_sub(r, &b, with, 0, with->n));
        TRY(jb_text(r, &b, v));
    }
    return jb_str(r, &b, out);
}

static err f_indent(struct render *r, struct call *c, jval *out) {
    const struct jstr *s;
    struct builder b = {0};
    jval width = call_arg(c, 0, "width", j_int(4)), pad = width;
    bool first = j_true(call_arg(c, 1, "first", j_bool(false))), blank = j_true(call_arg(c, 2, "blank", j_bool(false)));
    TRY(self_text(r, c, &s));
    if (width.t == J_INT) {
        struct builder p = {0};
        for (int64_t i = 0; i < width.i; i++) TRY(jb_adds(r, &p, " "));
        TRY(jb_str(r, &p, &pad));
    } else if (width.t != J_STR) return jr_fail(r, E_INPUT, "indent: the width is %s", j_type(width));
    if (first) TRY(jb_text(r, &b, pad));
    for (size_t at = 0; at <= s->n;) {
        const char *p = s->p + at, *end = at < s->n ? memchr(p, '\n', s->n - at) : NULL;
        size_t n = end ? (size_t)(end - p) : s->n - at;
        if (at && (n || blank)) TRY(jb_text(r, &b, pad));
        TRY(jb_sub(r, &b, s, at, at + n + (end != NULL)));
        at += n + 1;
    }
    return jb_str(r, &b, out);
}

static err f_tojson(struct render *r, struct call *c, jval *out) {
    struct json_form f = {.ascii = j_true(call_arg(c, 0, "ensure_ascii", j_bool(false))),
                          .sort = j_true(call_arg(c, 3, "sort_keys", j_bool(false)))};
    jval indent = call_arg(c, 1, "indent", j_none), sep = call_arg(c, 2, "separators", j_none);
    struct builder b = {0}, pad = {0};
    f.item = (struct jstr){.p = indent.t == J_NONE ? ", " : ",", .n = indent.t == J_NONE ? 2 : 1};
    f.key = (struct jstr){.p = ": ", .n = 2};
    if (sep.t == J_LIST && sep.l->n == 2 && sep.l->v[0].t == J_STR && sep.l->v[1].t == J_STR)
        f.item = *sep.l->v[0].s, f.key = *sep.l->v[1].s;
    else if (sep.t != J_NONE) return jr_fail(r, E_INPUT, "tojson: separators are two strings");
    if (indent.t == J_STR) TRY(jb_text(r, &pad, indent));
    else if (indent.t == J_INT)
        for (int64_t i = 0; i < indent.i; i++) TRY(jb_adds(r, &pad, " "));
    else if (indent.t != J_NONE) return jr_fail(r, E_INPUT, "tojson: the indent is %s", j_type(indent));
    if (indent.t != J_NONE) {
        TRY(jb_add(r, &pad, "", 1, 0)); /* a C string */
        f.indent = pad.p;
    }
    TRY(jb_json(r, &b, c->self, &f, 0));
    return jb_str(r, &b, out);
}

/* --- lists --- */

static err f_length(struct render *r, struct call *c, jval *out) {
    size_t n;
    TRY(j_length(r, c->self, &n));
    *out = j_int((int64_t)n);
    return OK;
}

static err end_of(struct render *r, const struct call *c, bool last, jval *out) {
    const struct jlist *l;
    TRY(j_iterate(r, c->self, &l));
    if (last && l->kind == L_LAZY) return jr_fail(r, E_INPUT, "last: of what a filter yields (put | list before it)");
    *out = l->n ? l->v[last ? l->n - 1 : 0] : j_undefined(last ? "the last item of nothing" : "the first item of nothing");
    return OK;
}
static err f_first(struct render *r, struct call *c, jval *out) { return end_of(r, c, false, out); }
static err f_last(struct render *r, struct call *c, jval *out) { return end_of(r, c, true, out); }

static err f_list(struct render *r, struct call *c, jval *out) {
    const struct jlist *l;
    TRY(j_iterate(r, c->self, &l));
    TRY(j_list(r, L_LIST, out));
    for (size_t i = 0; i < l->n; i++) TRY(j_push(r, out->l, l->v[i]));
    return OK;
}

static err f_reverse(struct render *r, struct call *c, jval *out) {
    const struct jlist *l;
    struct builder b = {0};
    TRY(j_iterate(r, c->self, &l));
    if (c->self.t != J_STR) TRY(j_list(r, L_LAZY, out));
    for (size_t i = l->n; i-- > 0;) TRY(c->self.t == J_STR ? jb_text(r, &b, l->v[i]) : j_push(r, out->l, l->v[i]));
    return c->self.t == J_STR ? jb_str(r, &b, out) : OK;
}

static err f_items(struct render *r, struct call *c, jval *out) {
    TRY(j_list(r, L_LAZY, out));
    if (c->self.t == J_UNDEFINED) return OK;
    if (c->self.t != J_DICT) return jr_fail(r, E_INPUT, "items: of %s, not of a dict", j_type(c->self));
    for (size_t i = 0; i < c->self.d->n; i++) {
        jval pair;
        TRY(j_list(r, L_TUPLE, &pair));
        TRY(j_push(r, pair.l, c->self.d->v[i].k));
        TRY(j_push(r, pair.l, c->self.d->v[i].v));
        TRY(j_push(r, out->l, pair));
    }
    return OK;
}

static err f_map(struct render *r, struct call *c, jval *out) {
    const struct jlist *l;
    jval path = call_arg(c, SIZE_MAX, "attribute", j_none), fallback = call_arg(c, SIZE_MAX, "default", j_none);
    TRY(items_of(r, c->self, &l));
    TRY(j_list(r, L_LAZY, out));
    int filter = -1;
    if (path.t == J_NONE) {
        char name[64];
        if (!c->n || c->v[0].t != J_STR) return jr_fail(r, E_INPUT, "map: a filter's name or attribute=... is wanted");
        snprintf(name, sizeof name, "%.*s", (int)(c->v[0].s->n < 63 ? c->v[0].s->n : 63), c->v[0].s->p);
        if ((filter = filter_find(name)) < 0) return jr_fail(r, E_UNSUPPORTED, "the filter \"%s\" is not supported", name);
    }
    for (size_t i = 0; i < l->n; i++) {
        jval v;
        if (filter < 0) {
            TRY(attribute(r, l->v[i], path, &v));
            if (v.t == J_UNDEFINED && fallback.t != J_NONE) v = fallback;
        } else {
            struct call one = {.name = c->name, .self = l->v[i], .n = c->n - 1, .v = c->v + 1, .n_kw = c->n_kw, .kw = c->kw};
            TRY(jr_enter(r));
            TRY(filter_apply(r, filter, &one, &v));
            r->depth--;
        }
        TRY(j_push(r, out->l, v));
    }
    return OK;
}

/* select, reject and their attr forms: the items whose (attribute's) test is `want`. */
static err pick(struct render *r, const struct call *c, bool want, bool attr, jval *out) {
    const struct jlist *l;
    size_t used = attr;
    int test = -1;
    TRY(items_of(r, c->self, &l));
    TRY(j_list(r, L_LAZY, out));
    if (attr && !c->n) return jr_fail(r, E_INPUT, "%.40s: an attribute's name is wanted", c->name);
    if (c->n > used) {
        char name[64];
        jval v = c->v[used++];
        if (v.t != J_STR) return jr_fail(r, E_INPUT, "%.40s: a test's name is wanted, not %s", c->name, j_type(v));
        snprintf(name, sizeof name, "%.*s", (int)(v.s->n < 63 ? v.s->n : 63), v.s->p);
        if ((test = test_find(name)) < 0) return jr_fail(r, E_UNSUPPORTED, "the test \"%s\" is not supported", name);
    }
    for (size_t i = 0; i < l->n; i++) {
        struct call one = {.name = c->name, .n = c->n - used, .v = c->n > used ? c->v + used : NULL, .n_kw = c->n_kw, .kw = c->kw};
        bool is;
        TRY(attribute(r, l->v[i], attr ? c->v[0] : j_none, &one.self));
        if (test < 0) is = j_true(one.self);
        else TRY(test_apply(r, test, &one, &is));
        if (is == want) TRY(j_push(r, out->l, l->v[i]));
    }
    return OK;
}
static err f_select(struct render *r, struct call *c, jval *out) { return pick(r, c, true, false, out); }
static err f_reject(struct render *r, struct call *c, jval *out) { return pick(r, c, false, false, out); }
static err f_selectattr(struct render *r, struct call *c, jval *out) { return pick(r, c, true, true, out); }
static err f_rejectattr(struct render *r, struct call *c, jval *out) { return pick(r, c, false, true, out); }

/* What an item is ordered by: its attribute, in lower case unless case counts. */
static err sort_key(struct render *r, jval item, jval path, bool exact, jval *out) {
    TRY(attribute(r, item, path, out));
    return out->t == J_STR && !exact ? j_letters(r, out->s, LOWER, out) : OK;
}

/* Stable, also in reverse; v[].k are the keys. */
static err merge_sort(struct render *r, struct jpair *v, struct jpair *spare, size_t n, bool reverse) {
    size_t m = n / 2, i = 0, k = m;
    if (n < 2) return OK;
    TRY(merge_sort(r, v, spare, m, reverse));
    TRY(merge_sort(r, v + m, spare, n - m, reverse));
    memcpy(spare, v, n * sizeof *v);
    for (size_t o = 0; o < n; o++) {
        int order = -1;
        if (i < m && k < n) TRY(j_order(r, spare[i].k, spare[k].k, &order));
        else if (i == m) order = 1;
        bool right = i == m || (k < n && (reverse ? order == -1 : order == 1));
        v[o] = spare[right ? k++ : i++];
    }
    return jr_work(r, n * 16);
}

static err sorted(struct render *r, const struct jlist *l, jval path, bool exact, bool reverse, jval *out) {
    struct jpair *v, *spare;
    TRY(jr_alloc(r, (l->n + 1) * sizeof *v, &v));
    TRY(jr_alloc(r, (l->n + 1) * sizeof *v, &spare));
    for (size_t i = 0; i < l->n; i++) {
        v[i].v = l->v[i];
        TRY(sort_key(r, l->v[i], path, exact, &v[i].k));
    }
    TRY(merge_sort(r, v, spare, l->n, reverse));
    TRY(j_list(r, L_LIST, out));
    for (size_t i = 0; i < l->n; i++) TRY(j_push(r, out->l, v[i].v));
    return OK;
}

static err f_sort(struct render *r, struct call *c, jval *out) {
    const struct jlist *l;
    TRY(j_iterate(r, c->self, &l));
    return sorted(r, l, call_arg(c, 2, "attribute", j_none), j_true(call_arg(c, 1, "case_sensitive", j_bool(false))),
                  j_true(call_arg(c, 0, "reverse", j_bool(false))), out);
}

static err f_dictsort(struct render *r, struct call *c, jval *out) {
    const struct jstr *by;
    jval pairs;
    TRY(call_str(r, c, 1, "by", "key", &by));
    if (c->self.t != J_DICT) return jr_fail(r, E_INPUT, "dictsort: of %s, not of a dict", j_type(c->self));
    TRY(f_items(r, c, &pairs));
    return sorted(r, pairs.l, j_int(by->n == 5 && !memcmp(by->p, "value", 5)), j_true(call_arg(c, 0, "case_sensitive", j_bool(false))),
                  j_true(call_arg(c, 2, "reverse", j_bool(false))), out);
}

static err f_unique(struct render *r, struct call *c, jval *out) {
    const struct jlist *l;
    bool exact = j_true(call_arg(c, 0, "case_sensitive", j_bool(false)));
    jval path = call_arg(c, 1, "attribute", j_none), seen, key;
    TRY(j_iterate(r, c->self, &l));
    TRY(j_list(r, L_LIST, &seen));
    TRY(j_list(r, L_LAZY, out));
    for (size_t i = 0; i < l->n; i++) {
        bool have;
        TRY(sort_key(r, l->v[i], path, exact, &key));
        TRY(j_contains(r, seen, key, &have));
        if (have) continue;
        TRY(j_push(r, seen.l, key));
        TRY(j_push(r, out->l, l->v[i]));
    }
    return OK;
}

static err extreme(struct render *r, const struct call *c, int sign, jval *out) {
    const struct jlist *l;
    bool exact = j_true(call_arg(c, 0, "case_sensitive", j_bool(false)));
    jval path = call_arg(c, 1, "attribute", j_none), best, key;
    TRY(j_iterate(r, c->self, &l));
    *out = j_undefined("the extreme of nothing");
    for (size_t i = 0; i < l->n; i++) {
        int order = sign;
        TRY(sort_key(r, l->v[i], path, exact, &key));
        if (i) TRY(j_order(r, key, best, &order));
        if (order == sign) *out = l->v[i], best = key;
    }
    return OK;
}
static err f_min(struct render *r, struct call *c, jval *out) { return extreme(r, c, -1, out); }
static err f_max(struct render *r, struct call *c, jval *out) { return extreme(r, c, 1, out); }

/* --- numbers and the rest --- */

static err f_sum(struct render *r, struct call *c, jval *out) {
    const struct jlist *l;
    jval path = call_arg(c, 0, "attribute", j_none), start = call_arg(c, 1, "start", j_int(0)), v;
    bool whole = start.t == J_INT;
    int64_t i = whole ? start.i : 0;
    double f = start.t == J_FLOAT ? start.f : (double)i;
    TRY(j_iterate(r, c->self, &l));
    for (size_t k = 0; k < l->n; k++) {
        TRY(attribute(r, l->v[k], path, &v));
        if (v.t != J_INT && v.t != J_FLOAT && v.t != J_BOOL) return jr_fail(r, E_INPUT, "sum: of %s", j_type(v));
        whole = whole && v.t != J_FLOAT;
        f += v.t == J_FLOAT ? v.f : v.t == J_INT ? (double)v.i : v.b;
        if (whole && __builtin_add_overflow(i, v.t == J_INT ? v.i : v.b, &i)) return jr_fail(r, E_INPUT, "an integer beyond 64 bits");
    }
    *out = whole ? j_int(i) : j_float(f);
    return OK;
}

static err f_abs(struct render *r, struct call *c, jval *out) {
    jval v = c->self;
    if (v.t == J_INT && v.i == INT64_MIN) return jr_fail(r, E_INPUT, "an integer beyond 64 bits");
    if (v.t == J_INT || v.t == J_BOOL) *out = j_int(v.t == J_BOOL ? v.b : v.i < 0 ? -v.i : v.i);
    else if (v.t == J_FLOAT) *out = j_float(fabs(v.f));
    else return jr_fail(r, E_INPUT, "abs: of %s", j_type(v));
    return OK;
}

/* The number that a text is, as Python's int() and float() read it: blanks around it, "_" not accepted. */
static bool text_number(const struct jstr *s, int base, jval *out) {
    char text[64], *end;
    size_t from, to;
    j_strip(s, NULL, true, true, &from, &to);
    if (to == from || to - from >= sizeof text) return false;
    memcpy(text, s->p + from, to - from);
    text[to - from] = 0;
    errno = 0;
    if (base && strspn(text, "+-0123456789abcdefxABCDEFX") == to - from) {
        long long i = strtoll(text, &end, base);
        if (!*end && !errno) return *out = j_int(i), true;
    }
    if (strpbrk(text, "xXpP(")) return false; /* C knows floats that Python does not */
    double f = strtod(text, &end);
    *out = j_float(f);
    return !*end;
}

static err f_int(struct render *r, struct call *c, jval *out) {
    jval v = c->self;
    int64_t base;
    *out = call_arg(c, 0, "default", j_int(0));
    TRY(call_int(r, c, 1, "base", 10, &base));
    if (v.t == J_STR && !text_number(v.s, base >= 2 && base <= 36 ? (int)base : 10, &v)) return OK;
    if (v.t == J_INT || v.t == J_BOOL) *out = j_int(v.t == J_INT ? v.i : v.b);
    else if (v.t == J_FLOAT && fabs(v.f) < 9.2e18) *out = j_int((int64_t)v.f);
    return OK;
}

static err f_float(struct render *r, struct call *c, jval *out) {
    jval v = c->self;
    (void)r;
    *out = call_arg(c, 0, "default", j_float(0));
    if (v.t == J_STR && !text_number(v.s, 0, &v)) return OK;
    if (v.t == J_FLOAT) *out = v;
    else if (v.t == J_INT || v.t == J_BOOL) *out = j_float(v.t == J_INT ? (double)v.i : v.b);
    return OK;
}

static err f_round(struct render *r, struct call *c, jval *out) {
    const struct jstr *how;
    int64_t digits;
    char text[400];
    jval v = c->self;
    TRY(call_int(r, c, 0, "precision", 0, &digits));
    TRY(call_str(r, c, 1, "method", "common", &how));
    bool common = how->n == 6 && !memcmp(how->p, "common", 6), up = how->n == 4 && !memcmp(how->p, "ceil", 4);
    if (!common && !up && !(how->n == 5 && !memcmp(how->p, "floor", 5)))
        return jr_fail(r, E_INPUT, "round: the method is common, ceil or floor");
    if (digits < 0 || digits > 20) return jr_fail(r, E_UNSUPPORTED, "round: to %lld digits", (long long)digits);
    if (common && v.t == J_INT) return *out = v, OK;
    if (v.t != J_INT && v.t != J_FLOAT) return jr_fail(r, E_INPUT, "round: of %s", j_type(v));
    double f = v.t == J_INT ? (double)v.i : v.f, scale = pow(10, (double)digits);
    if (common) { /* printf rounds the exact value, as Python's round() does */
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        *out = j_float(strtod(text, NULL));
    } else *out = j_float((up ? ceil(f * scale) : floor(f * scale)) / scale);
    return OK;
}

static err f_default(struct render *r, struct call *c, jval *out) {
    bool falsy = j_true(call_arg(c, 1, "boolean", j_bool(false))) && !j_true(c->self);
    if (c->self.t != J_UNDEFINED && !falsy) return *out = c->self, OK;
    TRY(j_cstr(r, "", out));
    *out = call_arg(c, 0, "default_value", *out);
    return OK;
}

static const struct filter {
    const char *name;
    err (*apply)(struct render *, struct call *, jval *);
} filters[] = {{"trim", f_trim},
               {"length", f_length},
               {"count", f_length},
               {"join", f_join},
               {"upper", f_upper},
               {"lower", f_lower},
               {"title", f_title},
               {"capitalize", f_capitalize},
               {"first", f_first},
               {"last", f_last},
               {"default", f_default},
               {"d", f_default},
               {"tojson", f_tojson},
               {"list", f_list},
               {"string", f_string},
               {"int", f_int},
               {"float", f_float},
               {"items", f_items},
               {"map", f_map},
               {"select", f_select},
               {"reject", f_reject},
               {"selectattr", f_selectattr},
               {"rejectattr", f_rejectattr},
               {"replace", f_replace},
               {"safe", f_safe},
               {"indent", f_indent},
               {"sort", f_sort},
               {"unique", f_unique},
               {"reverse", f_reverse},
               {"dictsort", f_dictsort},
               {"abs", f_abs},
               {"round", f_round},
               {"min", f_min},
               {"max", f_max},
               {"sum", f_sum}};

int filter_find(const char *name) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (!strcmp(name, filters[i].name)) return (int)i;
    return -1;
}

err filter_apply(struct render *r, int which, struct call *c, jval *out) { return filters[which].apply(r, c, out); }

/* --- tests --- */

enum test {
    IS_DEFINED,
    IS_UNDEFINED,
    IS_NONE,
    IS_STRING,
    IS_NUMBER,
    IS_INTEGER,
    IS_FLOAT,
    IS_BOOLEAN,
    IS_MAPPING,
    IS_ITERABLE,
    IS_SEQUENCE,
    IS_CALLABLE,
    IS_TRUE,
    IS_FALSE,
    IS_EQ,
    IS_NE,
    IS_LT,
    IS_LE,
    IS_GT,
    IS_GE,
    IS_IN,
    IS_ODD,
    IS_EVEN,
    IS_DIVISIBLE,
    IS_SAME,
    IS_LOWER,
    IS_UPPER
};
static const struct {
    const char *name;
    enum test is;
    int args;
} tests[] = {{"defined", IS_DEFINED, 0},
             {"undefined", IS_UNDEFINED, 0},
             {"none", IS_NONE, 0},
             {"string", IS_STRING, 0},
             {"number", IS_NUMBER, 0},
             {"integer", IS_INTEGER, 0},
             {"float", IS_FLOAT, 0},
             {"boolean", IS_BOOLEAN, 0},
             {"mapping", IS_MAPPING, 0},
             {"iterable", IS_ITERABLE, 0},
             {"sequence", IS_SEQUENCE, 0},
             {"callable", IS_CALLABLE, 0},
             {"true", IS_TRUE, 0},
             {"false", IS_FALSE, 0},
             {"equalto", IS_EQ, 1},
             {"eq", IS_EQ, 1},
             {"==", IS_EQ, 1},
             {"ne", IS_NE, 1},
             {"!=", IS_NE, 1},
             {"lt", IS_LT, 1},
             {"lessthan", IS_LT, 1},
             {"<", IS_LT, 1},
             {"le", IS_LE, 1},
             {"<=", IS_LE, 1},
             {"gt", IS_GT, 1},
             {"greaterthan", IS_GT, 1},
             {">", IS_GT, 1},
             {"ge", IS_GE, 1},
             {">=", IS_GE, 1},
             {"in", IS_IN, 1},
             {"odd", IS_ODD, 0},
             {"even", IS_EVEN, 0},
             {"divisibleby", IS_DIVISIBLE, 1},
             {"sameas", IS_SAME, 1},
             {"lower", IS_LOWER, 0},
             {"upper", IS_UPPER, 0}};

int test_find(const char *name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (!strcmp(name, tests[i].name)) return (int)i;
    return -1;
}

static err divisible(struct render *r, const struct call *c, int64_t by, int64_t rest, bool *out) {
    jval v = c->self;
    if (v.t != J_INT && v.t != J_BOOL) return jr_fail(r, E_INPUT, "is %.40s: of %s", c->name, j_type(v));
    if (!by) return jr_fail(r, E_INPUT, "a division by zero");
    int64_t i = v.t == J_INT ? v.i : v.b;
    *out = by == -1 ? rest == 0 : llabs(i % by) == rest;
    return OK;
}

static err is_case(struct render *r, const struct call *c, enum letters how, bool *out) {
    const struct jstr *s;
    jval same, other;
    bool cased;
    TRY(self_text(r, c, &s));
    TRY(j_letters(r, s, how, &same));
    TRY(j_letters(r, s, how == UPPER ? LOWER : UPPER, &other));
    TRY(j_equal(r, same, other, &cased)); /* a text without letters is neither */
    TRY(j_equal(r, same, (jval){.t = J_STR, .s = s}, out));
    *out = *out && !cased;
    return OK;
}

static err order_test(struct render *r, jval a, jval b, enum test is, bool *out) {
    int c;
    TRY(j_order(r, a, b, &c));
    *out = c != 2 && (is == IS_LT ? c < 0 : is == IS_LE ? c <= 0 : is == IS_GT ? c > 0 : c >= 0);
    return OK;
}

err test_apply(struct render *r, int which, struct call *c, bool *out) {
    jval v = c->self, x = c->n ? c->v[0] : j_none;
    if ((int)c->n < tests[which].args) return jr_fail(r, E_INPUT, "the test \"%s\" takes a value", tests[which].name);
    bool undefined = v.t == J_UNDEFINED; /* jinja2's own can be iterated over, called and measured */
    int64_t by = 0;
    switch (tests[which].is) {
    case IS_DEFINED: *out = !undefined; break;
    case IS_UNDEFINED: *out = undefined; break;
    case IS_NONE: *out = v.t == J_NONE; break;
    case IS_STRING: *out = v.t == J_STR; break;
    case IS_NUMBER: *out = v.t == J_INT || v.t == J_FLOAT || v.t == J_BOOL; break;
    case IS_INTEGER: *out = v.t == J_INT; break;
    case IS_FLOAT: *out = v.t == J_FLOAT; break;
    case IS_BOOLEAN: *out = v.t == J_BOOL; break;
    case IS_MAPPING: *out = v.t == J_DICT; break;
    case IS_ITERABLE: *out = v.t == J_STR || v.t == J_LIST || v.t == J_DICT || undefined; break;
    case IS_SEQUENCE: *out = v.t == J_STR || (v.t == J_LIST && v.l->kind != L_LAZY) || v.t == J_DICT || undefined; break;
    case IS_CALLABLE: *out = v.t == J_MACRO || v.t == J_FUNCTION || v.t == J_METHOD || undefined; break;
    case IS_TRUE: *out = v.t == J_BOOL && v.b; break;
    case IS_FALSE: *out = v.t == J_BOOL && !v.b; break;
    case IS_NE:
        TRY(j_equal(r, v, x, out));
        *out = !*out;
        break;
    case IS_SAME:
        *out = v.t == x.t;
        if (*out) TRY(j_equal(r, v, x, out));
        break;
    case IS_EQ: return j_equal(r, v, x, out);
    case IS_IN: return j_contains(r, x, v, out);
    case IS_ODD: return divisible(r, c, 2, 1, out);
    case IS_EVEN: return divisible(r, c, 2, 0, out);
    case IS_DIVISIBLE: TRY(call_int(r, c, 0, "num", 0, &by)); return divisible(r, c, by, 0, out);
    case IS_LOWER: return is_case(r, c, LOWER, out);
    case IS_UPPER: return is_case(r, c, UPPER, out);
    default: return order_test(r, v, x, tests[which].is, out);
    }
    return OK;
}
