/* The methods of strings, dicts and lists, and the functions that a chat template may call. See jinja.h.
 *
 * As Python has them; those that change what they are called on are not there (the sandbox refuses them too). */
#define _POSIX_C_SOURCE 200809L
#include "io/jinja_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANGE = 100000 }; /* jinja2's sandbox has the same bound */

static err bad_call(struct render *r, const struct call *c) { return jr_fail(r, E_INPUT, "%.60s(): wrong arguments", c->name); }

/* --- strings --- */

static err strip(struct render *r, struct call *c, bool left, bool right, jval *out) {
    const struct jstr *set;
    size_t from, to;
    TRY(call_str(r, c, 0, "chars", NULL, &set));
    j_strip(c->self.s, set, left, right, &from, &to);
    return j_sub(r, c->self.s, from, to, out);
}
static err m_strip(struct render *r, struct call *c, jval *out) { return strip(r, c, true, true, out); }
static err m_lstrip(struct render *r, struct call *c, jval *out) { return strip(r, c, true, false, out); }
static err m_rstrip(struct render *r, struct call *c, jval *out) { return strip(r, c, false, true, out); }

static err push_sub(struct render *r, struct jlist *l, const struct jstr *s, size_t from, size_t to) {
    jval v;
    TRY(j_sub(r, s, from, to, &v));
    return j_push(r, l, v);
}

static size_t skip_space(const struct jstr *s, size_t at, bool space) {
    while (at < s->n) {
        size_t n = j_space(s->p + at, s->n - at);
        if ((n > 0) != space) break;
        at += n ? n : j_offset(s->p + at, s->n - at, 1);
    }
    return at;
}

/* split() at white space, at most `most` times. */
static err split_words(struct render *r, const struct jstr *s, int64_t most, struct jlist *l) {
    for (size_t at = skip_space(s, 0, true); at < s->n; at = skip_space(s, at, true)) {
        size_t end = skip_space(s, at, false);
        if (!most--) {
            struct jstr rest = {.p = s->p + at, .n = s->n - at};
            size_t from, to;
            j_strip(&rest, NULL, false, false, &from, &to);
            return push_sub(r, l, s, at, at + to);
        }
        TRY(push_sub(r, l, s, at, end));
        at = end;
    }
    return OK;
}

static err m_split(struct render *r, struct call *c, jval *out) {
    const struct jstr *sep, *s = c->self.s;
    int64_t most;
    TRY(call_str(r, c, 0, "sep", NULL, &sep));
    TRY(call_int(r, c, 1, "maxsplit", -1, &most));
    TRY(j_list(r, L_LIST, out));
    TRY(jr_work(r, s->n));
    if (!sep) return split_words(r, s, most, out->l);
    if (!sep->n) return jr_fail(r, E_INPUT, "split(): an empty separator");
    size_t from = 0;
    for (size_t at; most-- && (at = j_search(s, sep, from)) != SIZE_MAX; from = at + sep->n) TRY(push_sub(r, out->l, s, from, at));
    return push_sub(r, out->l, s, from, s->n);
}

/* The last place of `what` in s[0..end), or SIZE_MAX. */
static size_t search_last(const struct jstr *s, const struct jstr *what, size_t end) {
    if (end < what->n) return SIZE_MAX;
    for (size_t at = end - what->n + 1; at-- > 0;)
        if (!memcmp(s->p + at, what->p, what->n)) return at;
    return SIZE_MAX;
}

static err m_rsplit(struct render *r, struct call *c, jval *out) {
    const struct jstr *sep, *s = c->self.s;
    int64_t most;
    jval back;
    TRY(call_str(r, c, 0, "sep", NULL, &sep));
    TRY(call_int(r, c, 1, "maxsplit", -1, &most));
    if (most < 0) return m_split(r, c, out);
    if (!sep || !sep->n) return jr_fail(r, E_UNSUPPORTED, "rsplit() with a count needs a separator");
    TRY(j_list(r, L_LIST, out));
    TRY(j_list(r, L_LIST, &back));
    size_t end = s->n;
    for (size_t at; most-- && (at = search_last(s, sep, end)) != SIZE_MAX; end = at) {
        TRY(jr_work(r, end));
        TRY(push_sub(r, back.l, s, at + sep->n, end));
    }
    TRY(push_sub(r, out->l, s, 0, end));
    while (back.l->n) TRY(j_push(r, out->l, back.l->v[--back.l->n]));
    return OK;
}

/* Bytes of the line end at p as Python's splitlines() knows them, or 0. */
static size_t line_end(const char *p, size_t n) {
    if (n > 1 && p[0] == '\r' && p[1] == '\n') return 2;
    if (n && ((*p >= '\n' && *p <= '\r') || (*p >= 0x1C && *p <= 0x1E))) return 1;
    if (n > 1 && !memcmp(p, "\xC2\x85", 2)) return 2;
    return n > 2 && (!memcmp(p, "\xE2\x80\xA8", 3) || !memcmp(p, "\xE2\x80\xA9", 3)) ? 3 : 0;
}

static err m_splitlines(struct render *r, struct call *c, jval *out) {
    const struct jstr *s = c->self.s;
    bool keep = j_true(call_arg(c, 0, "keepends", j_bool(false)));
    size_t from = 0;
    TRY(j_list(r, L_LIST, out));
    for (size_t i = 0, n; i < s->n; i += n ? n : 1) {
        if (!(n = line_end(s->p + i, s->n - i))) continue;
        TRY(push_sub(r, out->l, s, from, keep ? i + n : i));
        from = i + n;
    }
    return from < s->n ? push_sub(r, out->l, s, from, s->n) : OK;
}

static bool matches(const struct jstr *s, const struct jstr *what, bool end) {
    return s->n >= what->n && !memcmp(s->p + (end ? s->n - what->n : 0), what->p, what->n);
}

static err affix(struct render *r, struct call *c, bool end, jval *out) {
    jval what = call_arg(c, 0, "prefix", j_none);
    const struct jlist one = {.n = 1, .v = &what}, *l = what.t == J_LIST ? what.l : &one;
    *out = j_bool(false);
    for (size_t i = 0; i < l->n; i++) {
        if (l->v[i].t != J_STR) return bad_call(r, c);
        if (matches(c->self.s, l->v[i].s, end)) *out = j_bool(true);
    }
    return OK;
}
static err m_startswith(struct render *r, struct call *c, jval *out) { return affix(r, c, false, out); }
static err m_endswith(struct render *r, struct call *c, jval *out) { return affix(r, c, true, out); }

static err remove_affix(struct render *r, struct call *c, bool end, jval *out) {
    const struct jstr *what, *s = c->self.s;
    TRY(call_str(r, c, 0, "prefix", "", &what));
    size_t n = matches(s, what, end) ? what->n : 0;
    return j_sub(r, s, end ? 0 : n, end ? s->n - n : s->n, out);
}
static err m_removeprefix(struct render *r, struct call *c, jval *out) { return remove_affix(r, c, false, out); }
static err m_removesuffix(struct render *r, struct call *c, jval *out) { return remove_affix(r, c, true, out); }

static err m_upper(struct render *r, struct call *c, jval *out) { return j_letters(r, c->self.s, UPPER, out); }
static err m_lower(struct render *r, struct call *c, jval *out) { return j_letters(r, c->self.s, LOWER, out); }
static err m_title(struct render *r, struct call *c, jval *out) { return j_letters(r, c->self.s, TITLE, out); }
static err m_capitalize(struct render *r, struct call *c, jval *out) { return j_letters(r, c->self.s, CAPITALIZE, out); }

static err m_replace(struct render *r, struct call *c, jval *out) {
    const struct jstr *old, *new_;
    int64_t most;
    TRY(call_str(r, c, 0, "old", NULL, &old));
    TRY(call_str(r, c, 1, "new", NULL, &new_));
    TRY(call_int(r, c, 2, "count", -1, &most));
    return old && new_ ? j_replace(r, c->self.s, old, new_, most, out) : bad_call(r, c);
}

static err m_join(struct render *r, struct call *c, jval *out) {
    const struct jlist *l;
    struct builder b = {0};
    if (c->n != 1) return bad_call(r, c);
    TRY(j_iterate(r, c->v[0], &l));
    for (size_t i = 0; i < l->n; i++) {
        if (l->v[i].t != J_STR) return jr_fail(r, E_INPUT, "join(): item %zu is %s, not a string", i, j_type(l->v[i]));
        if (i) TRY(jb_text(r, &b, c->self));
        TRY(jb_text(r, &b, l->v[i]));
    }
    return jb_str(r, &b, out);
}

/* One field of format(): "", an index, or a name; no conversions, no specifications. */
static err format_field(struct render *r, const struct call *c, const struct jstr *field, size_t *next, jval *out) {
    if (!field->n || (*field->p >= '0' && *field->p <= '9')) {
        size_t i = field->n ? strtoul(field->p, NULL, 10) : (*next)++;
        if (i >= c->n) return jr_fail(r, E_INPUT, "format(): there is no argument %zu", i);
        return *out = c->v[i], OK;
    }
    for (size_t k = 0; k < c->n_kw; k++)
        if (strlen(c->kw[k].name) == field->n && !memcmp(c->kw[k].name, field->p, field->n)) return *out = c->kw[k].v, OK;
    return jr_fail(r, E_UNSUPPORTED, "format(): the field {%.*s} is not supported", (int)(field->n < 40 ? field->n : 40), field->p);
}

static err m_format(struct render *r, struct call *c, jval *out) {
    const struct jstr *s = c->self.s;
    struct builder b = {0};
    size_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        bool twice = i + 1 < s->n && s->p[i] == s->p[i + 1];
        if ((s->p[i] != '{' && s->p[i] != '}') || twice) {
            TRY(jb_sub(r, &b, s, i, i + 1));
            i += twice && strchr("{}", s->p[i]) != NULL;
        } else {
            const char *end = s->p[i] == '{' ? memchr(s->p + i, '}', s->n - i) : NULL;
            jval v;
            if (!end) return jr_fail(r, E_INPUT, "format(): a single bracket");
            struct jstr field = {.p = s->p + i + 1, .n = (size_t)(end - s->p) - i - 1};
            TRY(format_field(r, c, &field, &next, &v));
            TRY(jb_text(r, &b, v));
            i = (size_t)(end - s->p);
        }
    }
    return jb_str(r, &b, out);
}

static err find(struct render *r, struct call *c, bool last, jval *out) {
    const struct jstr *what, *s = c->self.s;
    TRY(call_str(r, c, 0, "sub", NULL, &what));
    if (!what || c->n != 1) return bad_call(r, c);
    TRY(jr_work(r, s->n));
    size_t at = last ? search_last(s, what, s->n) : j_search(s, what, 0);
    *out = j_int(at == SIZE_MAX ? -1 : (int64_t)j_chars(s->p, at));
    return OK;
}
static err m_find(struct render *r, struct call *c, jval *out) { return find(r, c, false, out); }
static err m_rfind(struct render *r, struct call *c, jval *out) { return find(r, c, true, out); }

static err m_isdigit(struct render *r, struct call *c, jval *out) {
    (void)r;
    *out = j_bool(c->self.s->n > 0);
    for (size_t i = 0; i < c->self.s->n; i++) out->b = out->b && c->self.s->p[i] >= '0' && c->self.s->p[i] <= '9';
    return OK;
}

static err m_isspace(struct render *r, struct call *c, jval *out) {
    (void)r;
    *out = j_bool(c->self.s->n > 0 && skip_space(c->self.s, 0, true) == c->self.s->n);
    return OK;
}

/* --- strings and lists, dicts --- */

static err m_count(struct render *r, struct call *c, jval *out) {
    if (c->n != 1) return bad_call(r, c);
    *out = j_int(0);
    if (c->self.t == J_STR) {
        if (c->v[0].t != J_STR || !c->v[0].s->n) return bad_call(r, c);
        TRY(jr_work(r, c->self.s->n));
        for (size_t at = 0; (at = j_search(c->self.s, c->v[0].s, at)) != SIZE_MAX; at += c->v[0].s->n) out->i++;
        return OK;
    }
    for (size_t i = 0; i < c->self.l->n; i++) {
        bool same;
        TRY(j_equal(r, c->self.l->v[i], c->v[0], &same));
        out->i += same;
    }
    return OK;
}

static err m_index(struct render *r, struct call *c, jval *out) {
    if (c->n != 1) return bad_call(r, c);
    if (c->self.t == J_STR) {
        TRY(m_find(r, c, out));
        return out->i < 0 ? jr_fail(r, E_INPUT, "index(): not found") : OK;
    }
    for (size_t i = 0; i < c->self.l->n; i++) {
        bool same;
        TRY(j_equal(r, c->self.l->v[i], c->v[0], &same));
        if (same) return *out = j_int((int64_t)i), OK;
    }
    return jr_fail(r, E_INPUT, "index(): not in the list");
}

static err m_get(struct render *r, struct call *c, jval *out) {
    const jval *have;
    if (!c->n || c->n > 2) return bad_call(r, c);
    TRY(j_find(r, c->self.d, c->v[0], &have));
    *out = have ? *have : call_arg(c, 1, "default", j_none);
    return OK;
}

static err m_keys(struct render *r, struct call *c, jval *out) {
    TRY(j_list(r, L_LIST, out));
    for (size_t i = 0; i < c->self.d->n; i++) TRY(j_push(r, out->l, c->self.d->v[i].k));
    return OK;
}

static err m_values(struct render *r, struct call *c, jval *out) {
    TRY(j_list(r, L_LIST, out));
    for (size_t i = 0; i < c->self.d->n; i++) TRY(j_push(r, out->l, c->self.d->v[i].v));
    return OK;
}

static err m_items(struct render *r, struct call *c, jval *out) {
    TRY(j_list(r, L_LIST, out));
    for (size_t i = 0; i < c->self.d->n; i++) {
        jval pair;
        TRY(j_list(r, L_TUPLE, &pair));
        TRY(j_push(r, pair.l, c->self.d->v[i].k));
        TRY(j_push(r, pair.l, c->self.d->v[i].v));
        TRY(j_push(r, out->l, pair));
    }
    return OK;
}

static const struct {
    const char *name;
    unsigned of; /* a bit for each type that has it */
    err (*call)(struct render *, struct call *, jval *);
} methods[] = {{"strip", 1u << J_STR, m_strip},
               {"lstrip", 1u << J_STR, m_lstrip},
               {"rstrip", 1u << J_STR, m_rstrip},
               {"split", 1u << J_STR, m_split},
               {"rsplit", 1u << J_STR, m_rsplit},
               {"splitlines", 1u << J_STR, m_splitlines},
               {"startswith", 1u << J_STR, m_startswith},
               {"endswith", 1u << J_STR, m_endswith},
               {"removeprefix", 1u << J_STR, m_removeprefix},
               {"removesuffix", 1u << J_STR, m_removesuffix},
               {"upper", 1u << J_STR, m_upper},
               {"lower", 1u << J_STR, m_lower},
               {"title", 1u << J_STR, m_title},
               {"capitalize", 1u << J_STR, m_capitalize},
               {"replace", 1u << J_STR, m_replace},
               {"join", 1u << J_STR, m_join},
               {"format", 1u << J_STR, m_format},
               {"find", 1u << J_STR, m_find},
               {"rfind", 1u << J_STR, m_rfind},
               {"isdigit", 1u << J_STR, m_isdigit},
               {"isspace", 1u << J_STR, m_isspace},
               {"count", 1u << J_STR | 1u << J_LIST, m_count},
               {"index", 1u << J_STR | 1u << J_LIST, m_index},
               {"get", 1u << J_DICT, m_get},
               {"keys", 1u << J_DICT, m_keys},
               {"values", 1u << J_DICT, m_values},
               {"items", 1u << J_DICT, m_items}};

int method_find(const char *name) {
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(name, methods[i].name)) return (int)i;
    return -1;
}

bool method_of(int id, enum jtype t) { return methods[id].of & 1u << t; }

err method_call(struct render *r, int id, struct call *c, jval *out) { return methods[id].call(r, c, out); }

/* --- functions --- */

static err g_raise(struct render *r, struct call *c, jval *out) {
    jval v = c->n ? c->v[0] : j_none;
    TRY(j_text(r, v, out));
    return jr_fail(r, E_INPUT, "the template refuses this conversation: %.*s", (int)(out->s->n < 300 ? out->s->n : 300), out->s->p);
}

static err g_strftime(struct render *r, struct call *c, jval *out) {
    const struct jstr *form;
    struct builder f = {0}, b = {0};
    char text[256];
    struct tm now;
    time_t t = time(NULL);
    TRY(call_str(r, c, 0, "format", "", &form));
    if (form->n > 100) return jr_fail(r, E_INPUT, "strftime_now: a format of %zu bytes", form->n);
    TRY(jb_sub(r, &f, form, 0, form->n));
    TRY(jb_add(r, &f, " ", 2, 0)); /* never empty, so that 0 bytes mean failure; and a C string */
    if (!r->ctx->now) localtime_r(&t, &now);
    size_t n = strftime(text, sizeof text, f.p, r->ctx->now ? r->ctx->now : &now);
    if (!n) return jr_fail(r, E_INPUT, "strftime_now: the date is too long");
    TRY(jb_add(r, &b, text, n - 1, 0));
    return jb_str(r, &b, out);
}

static err g_range(struct render *r, struct call *c, jval *out) {
    int64_t v[3] = {0, 0, 1};
    if (!c->n || c->n > 3 || c->n_kw) return bad_call(r, c);
    for (size_t i = 0; i < c->n; i++) TRY(call_int(r, c, i, "a bound", 0, &v[c->n == 1 ? 1 : i]));
    if (!v[2]) return jr_fail(r, E_INPUT, "range(): a step of zero");
    TRY(j_list(r, L_LIST, out));
    for (int64_t i = v[0]; v[2] > 0 ? i < v[1] : i > v[1];) {
        if (out->l->n == MAX_RANGE) return jr_fail(r, E_INPUT, "range(): more than %d items", MAX_RANGE);
        TRY(j_push(r, out->l, j_int(i)));
        if (__builtin_add_overflow(i, v[2], &i)) break;
    }
    return OK;
}

static err g_dict(struct render *r, struct call *c, jval *out) {
    TRY(j_dict(r, out));
    if (c->n > 1 || (c->n && c->v[0].t != J_DICT)) return bad_call(r, c);
    for (size_t i = 0; c->n && i < c->v[0].d->n; i++) TRY(j_put(r, out->d, c->v[0].d->v[i].k, c->v[0].d->v[i].v));
    for (size_t i = 0; i < c->n_kw; i++) {
        jval key;
        TRY(j_cstr(r, c->kw[i].name, &key));
        TRY(j_put(r, out->d, key, c->kw[i].v));
    }
    return OK;
}

static err g_namespace(struct render *r, struct call *c, jval *out) {
    TRY(g_dict(r, c, out));
    out->t = J_NAMESPACE;
    return OK;
}

static const struct {
    const char *name;
    err (*call)(struct render *, struct call *, jval *);
} functions[] = {
    {"raise_exception", g_raise}, {"strftime_now", g_strftime}, {"range", g_range}, {"dict", g_dict}, {"namespace", g_namespace}};

int function_find(const char *name) {
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!strcmp(name, functions[i].name)) return (int)i;
    return -1;
}

err function_call(struct render *r, int which, struct call *c, jval *out) { return functions[which].call(r, c, out); }
