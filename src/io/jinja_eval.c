/* Walks the tree: statements write to the output, expressions become values. See jinja.h.
 *
 * Scopes are as in Jinja: a loop's pass, a macro, a {% with %} and every captured block have one of their own, an {% if %}
 * has none; {% set %} writes into the innermost, so only a namespace carries a value out of a loop. Every visit counts a
 * step and every level of nesting is bounded. On an error the walk is left at once (depths and scopes are then stale;
 * nothing uses them any more). */
#include "io/jinja_internal.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct jinja_limits jinja_default_limits = {.steps = 20000000, .output = 32 << 20, .memory = (size_t)512 << 20, .depth = 400};

/* --- the bounds --- */

err jr_fail(struct render *r, err code, const char *fmt, ...) {
    char why[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return jinja_fail(r->t, r->at, code, "%s", why);
}

err jr_alloc(struct render *r, size_t bytes, void *out) {
    void *p = NULL;
    if (bytes > r->lim.memory || r->used > r->lim.memory - bytes)
        return jr_fail(r, E_INPUT, "the template needs more than %zu bytes", r->lim.memory);
    r->used += bytes;
    if (!(p = arena_alloc(&r->mem, bytes))) return fail(E_MEMORY, "out of memory");
    memcpy(out, &p, sizeof p);
    return OK;
}

err jr_work(struct render *r, size_t bytes) {
    r->steps += 1 + bytes / 16;
    return r->steps > r->lim.steps ? jr_fail(r, E_INPUT, "the template takes more than %llu steps", (unsigned long long)r->lim.steps) : OK;
}

err jr_enter(struct render *r) {
    if (++r->depth > r->lim.depth) return jr_fail(r, E_INPUT, "more than %d levels inside one another", r->lim.depth);
    return jr_work(r, 0);
}

/* --- names --- */

static err set_var(struct render *r, struct scope *s, const char *name, jval v) {
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i].name == name) return s->v[i].v = v, OK;
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 4;
        struct var *p;
        TRY(jr_alloc(r, cap * sizeof *p, &p));
        if (s->n) memcpy(p, s->v, s->n * sizeof *p);
        s->v = p;
        s->cap = cap;
    }
    s->v[s->n++] = (struct var){name, v};
    return jr_work(r, s->n * 4);
}

static jval lookup(const struct render *r, const char *name) {
    for (const struct scope *s = r->scope; s; s = s->up)
        for (size_t i = 0; i < s->n; i++)
            if (s->v[i].name == name) return s->v[i].v;
    int f = function_find(name);
    return f < 0 ? j_undefined(name) : (jval){.t = J_FUNCTION, .i = f};
}

static err open_scope(struct render *r, struct scope **s) {
    TRY(jr_alloc(r, sizeof **s, s));
    (*s)->up = r->scope;
    r->scope = *s;
    return OK;
}

/* --- arithmetic --- */

static err overflow(struct render *r) { return jr_fail(r, E_INPUT, "an integer beyond 64 bits"); }

static err int_power(struct render *r, int64_t base, int64_t n, int64_t *out) {
    for (*out = 1; n; n >>= 1) {
        if ((n & 1) && __builtin_mul_overflow(*out, base, out)) return overflow(r);
        if (n > 1 && __builtin_mul_overflow(base, base, &base)) return overflow(r);
    }
    return OK;
}

static err int_math(struct render *r, int op, int64_t a, int64_t b, jval *out) {
    int64_t c = 0;
    bool over = false;
    if ((op == '/' || op == OP_FLOORDIV || op == '%') && !b) return jr_fail(r, E_INPUT, "a division by zero");
    if (op == '/') return *out = j_float((double)a / (double)b), OK;
    if (op == OP_POW && b < 0) return *out = j_float(pow((double)a, (double)b)), OK;
    if (op == OP_POW) TRY(int_power(r, a, b, &c));
    else if (op == '+') over = __builtin_add_overflow(a, b, &c);
    else if (op == '-') over = __builtin_sub_overflow(a, b, &c);
    else if (op == '*') over = __builtin_mul_overflow(a, b, &c);
    else if (b == -1) { /* the one quotient that does not fit is the least integer's */ over = op == OP_FLOORDIV && a == INT64_MIN;
        if (!over) c = op == OP_FLOORDIV ? -a : 0;
    } else {
        int64_t rest = a % b;
        bool down = rest && (rest < 0) != (b < 0);
        c = op == '%' ? rest + (down ? b : 0) : a / b - down;
    }
    *out = j_int(c);
    return over ? overflow(r) : OK;
}

static err float_math(struct render *r, int op, double a, double b, jval *out) {
    if ((op == '/' || op == OP_FLOORDIV || op == '%') && b == 0) return jr_fail(r, E_INPUT, "a division by zero");
    double rest = op == '%' || op == OP_FLOORDIV ? fmod(a, b) : 0;
    if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
    switch (op) {
    case '+': *out = j_float(a + b); break;
    case '-': *out = j_float(a - b); break;
    case '*': *out = j_float(a * b); break;
    case '/': *out = j_float(a / b); break;
    case '%': *out = j_float(rest); break;
    case OP_FLOORDIV: *out = j_float(floor((a - rest) / b + 0.5)); break;
    default: *out = j_float(pow(a, b));
    }
    return OK;
}

static err join_texts(struct render *r, const struct jstr *a, const struct jstr *b, jval *out) {
    struct builder s = {0};
    TRY(jb_sub(r, &s, a, 0, a->n));
    TRY(jb_sub(r, &s, b, 0, b->n));
    return jb_str(r, &s, out);
}

static err repeat(struct render *r, jval what, int64_t times, jval *out) {
    struct builder s = {0};
    if (what.t == J_STR) {
        for (int64_t i = 0; i < times && what.s->n; i++) TRY(jb_sub(r, &s, what.s, 0, what.s->n));
        return jb_str(r, &s, out);
    }
    TRY(j_list(r, what.l->kind, out));
    for (int64_t i = 0; i < times && what.l->n; i++)
        for (size_t k = 0; k < what.l->n; k++) TRY(j_push(r, out->l, what.l->v[k]));
    return OK;
}

static bool is_number(jval v) { return v.t == J_INT || v.t == J_BOOL || v.t == J_FLOAT; }
static bool is_whole(jval v) { return v.t == J_INT || v.t == J_BOOL; }
static bool repeats(jval v) { return v.t == J_STR || (v.t == J_LIST && v.l->kind != L_LAZY); }
static int64_t whole(jval v) { return v.t == J_BOOL ? v.b : v.i; }
static double real(jval v) { return v.t == J_FLOAT ? v.f : (double)whole(v); }

static err arithmetic(struct render *r, int op, jval a, jval b, jval *out) {
    if (op == '~') {
        TRY(j_text(r, a, &a));
        TRY(j_text(r, b, &b));
        return join_texts(r, a.s, b.s, out);
    }
    if (is_whole(a) && is_whole(b)) return int_math(r, op, whole(a), whole(b), out);
    if (is_number(a) && is_number(b)) return float_math(r, op, real(a), real(b), out);
    if (op == '+' && a.t == J_STR && b.t == J_STR) return join_texts(r, a.s, b.s, out);
    if (op == '+' && a.t == J_LIST && b.t == J_LIST && a.l->kind == b.l->kind && a.l->kind != L_LAZY) {
        TRY(j_list(r, a.l->kind, out));
        for (size_t i = 0; i < a.l->n; i++) TRY(j_push(r, out->l, a.l->v[i]));
        for (size_t i = 0; i < b.l->n; i++) TRY(j_push(r, out->l, b.l->v[i]));
        return OK;
    }
    if (op == '*' && repeats(a) && is_whole(b)) return repeat(r, a, whole(b), out);
    if (op == '*' && is_whole(a) && repeats(b)) return repeat(r, b, whole(a), out);
    if (op == '%' && a.t == J_STR) return jr_fail(r, E_UNSUPPORTED, "\"%%\" on a string is not supported");
    if (a.t == J_UNDEFINED || b.t == J_UNDEFINED)
        return jr_fail(r, E_INPUT, "\"%.60s\" is undefined", a.t == J_UNDEFINED ? a.name : b.name);
    char sign[3] = {(char)(op == OP_FLOORDIV ? '/' : op == OP_POW ? '*' : op), op == OP_FLOORDIV ? '/' : op == OP_POW ? '*' : 0, 0};
    return jr_fail(r, E_INPUT, "%s and %s have no \"%s\"", j_type(a), j_type(b), sign);
}

static err compare_one(struct render *r, int op, jval a, jval b, bool *out) {
    int c;
    if (op == OP_EQ || op == OP_NE) {
        TRY(j_equal(r, a, b, out));
        return *out ^= op == OP_NE, OK;
    }
    if (op == OP_IN || op == OP_NOT_IN) {
        TRY(j_contains(r, b, a, out));
        return *out ^= op == OP_NOT_IN, OK;
    }
    TRY(j_order(r, a, b, &c));
    *out = c != 2 && (op == '<' ? c < 0 : op == '>' ? c > 0 : op == OP_LE ? c <= 0 : c >= 0);
    return OK;
}

/* --- attributes, items, slices --- */

static err loop_attr(struct render *r, struct jloop *l, const char *name, jval *out) {
    int64_t i = (int64_t)l->i, n = (int64_t)l->items->n;
    static const char *const names[] = {"index", "index0", "revindex", "revindex0", "length", "depth", "depth0"};
    const int64_t value[] = {i + 1, i, n - i, n - i - 1, n, 1, 0};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++)
        if (!strcmp(name, names[k])) return *out = j_int(value[k]), OK;
    if (!strcmp(name, "first")) *out = j_bool(!i);
    else if (!strcmp(name, "last")) *out = j_bool(i == n - 1);
    else if (!strcmp(name, "previtem")) *out = i ? l->items->v[i - 1] : j_undefined("loop.previtem");
    else if (!strcmp(name, "nextitem")) *out = i + 1 < n ? l->items->v[i + 1] : j_undefined("loop.nextitem");
    else *out = j_undefined(name);
    (void)r;
    return OK;
}

err jr_attr(struct render *r, jval v, const char *name, int method, jval *out) {
    if (v.t == J_UNDEFINED) return jr_fail(r, E_INPUT, "\"%.60s\" is undefined (so it has no \"%.60s\")", v.name, name);
    if (method >= 0 && method_of(method, v.t)) {
        struct jmethod *m;
        TRY(jr_alloc(r, sizeof *m, &m));
        *m = (struct jmethod){v, method};
        *out = (jval){.t = J_METHOD, .bound = m};
        return OK;
    }
    if (v.t == J_LOOP) return loop_attr(r, v.loop, name, out);
    const jval *have = v.t == J_DICT || v.t == J_NAMESPACE ? j_get(v.d, name, strlen(name)) : NULL;
    *out = have ? *have : j_undefined(name);
    return OK;
}

/* An index as Python means it: negative ones count from the end. False where there is no such element. */
static bool index_of(int64_t i, size_t n, size_t *at) {
    if (i < 0) i += (int64_t)n;
    *at = (size_t)i;
    return i >= 0 && (uint64_t)i < n;
}

err jr_item(struct render *r, jval v, jval key, jval *out) {
    size_t at;
    *out = j_undefined("an item that is not there");
    if (v.t == J_UNDEFINED) return jr_fail(r, E_INPUT, "\"%.60s\" is undefined (so it has no items)", v.name);
    if (v.t == J_DICT) {
        const jval *have;
        TRY(j_find(r, v.d, key, &have));
        if (have) return *out = *have, OK;
    } else if (v.t == J_LIST && is_whole(key)) {
        if (v.l->kind != L_LAZY && index_of(whole(key), v.l->n, &at)) *out = v.l->v[at];
        return OK;
    } else if (v.t == J_STR && is_whole(key)) {
        TRY(jr_work(r, v.s->n));
        if (!index_of(whole(key), j_chars(v.s->p, v.s->n), &at)) return OK;
        size_t from = j_offset(v.s->p, v.s->n, at);
        return j_sub(r, v.s, from, from + j_offset(v.s->p + from, v.s->n - from, 1), out);
    }
    if (key.t != J_STR) return OK;
    char *name;
    TRY(jr_alloc(r, key.s->n + 1, &name));
    memcpy(name, key.s->p, key.s->n);
    return jr_attr(r, v, name, method_find(name), out);
}

static err eval(struct render *r, const struct node *n, jval *out);

static err slice_end(struct render *r, const struct node *n, int64_t fallback, int64_t size, int64_t step, int64_t *out) {
    jval v = j_none;
    if (n) TRY(eval(r, n, &v));
    if (v.t == J_NONE) return *out = fallback, OK;
    if (!is_whole(v)) return jr_fail(r, E_INPUT, "a slice from or to %s", j_type(v));
    int64_t i = whole(v);
    if (i < 0) i = i + size < 0 ? (step < 0 ? -1 : 0) : i + size;
    if (i >= size) i = step < 0 ? size - 1 : size;
    *out = i;
    return OK;
}

static err eval_slice(struct render *r, const struct node *n, jval *out) {
    jval v, s = j_int(1);
    int64_t from, to;
    TRY(eval(r, n->a, &v));
    if (n->d) TRY(eval(r, n->d, &s));
    r->at = n->at;
    if (s.t == J_NONE) s = j_int(1);
    if (!is_whole(s) || !whole(s)) return jr_fail(r, E_INPUT, "a slice's step that is %s", is_whole(s) ? "zero" : j_type(s));
    if (v.t == J_UNDEFINED) return jr_fail(r, E_INPUT, "\"%.60s\" is undefined (so it has no items)", v.name);
    bool text = v.t == J_STR;
    if (!text && (v.t != J_LIST || v.l->kind == L_LAZY)) return jr_fail(r, E_INPUT, "%s cannot be sliced", j_type(v));
    int64_t size = (int64_t)(text ? j_chars(v.s->p, v.s->n) : v.l->n), step = whole(s);
    if (step > size) step = size + 1; /* either way the first element alone */
    if (step < -size) step = -size - 1;
    TRY(slice_end(r, n->b, step > 0 ? 0 : size - 1, size, step, &from));
    TRY(slice_end(r, n->c, step > 0 ? size : -1, size, step, &to));
    if (text && step == 1) {
        size_t a = j_offset(v.s->p, v.s->n, (size_t)from), b = to > from ? a + j_offset(v.s->p + a, v.s->n - a, (size_t)(to - from)) : a;
        TRY(jr_work(r, b));
        return j_sub(r, v.s, a, b, out);
    }
    const struct jlist *items;
    struct builder b = {0};
    TRY(j_iterate(r, v, &items));
    if (!text) TRY(j_list(r, v.l->kind, out));
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step) {
        if (text) TRY(jb_text(r, &b, items->v[i]));
        else TRY(j_push(r, out->l, items->v[i]));
    }
    return text ? jb_str(r, &b, out) : OK;
}

/* --- calls --- */

static err eval_args(struct render *r, const struct node *list, struct call *c) {
    size_t n = 0;
    for (const struct node *a = list; a; a = a->next) n++;
    if (!n) return OK;
    TRY(jr_alloc(r, n * sizeof *c->v, &c->v));
    TRY(jr_alloc(r, n * sizeof *c->kw, &c->kw));
    for (const struct node *a = list; a; a = a->next) {
        jval v;
        TRY(eval(r, a->a, &v));
        if (a->name) c->kw[c->n_kw++] = (struct var){a->name, v};
        else c->v[c->n++] = v;
    }
    return OK;
}

static err run_body(struct render *r, const struct node *n);

/* Runs a body into a string of its own, in a scope of its own. */
static err capture(struct render *r, const struct node *body, jval *out) {
    struct builder own = {0}, *outer = r->out;
    struct scope *s, *up = r->scope;
    TRY(open_scope(r, &s));
    r->out = &own;
    TRY(run_body(r, body));
    r->out = outer;
    r->scope = up;
    return jb_str(r, &own, out);
}

static err call_macro(struct render *r, const struct jmacro *m, const struct call *c, jval *out) {
    struct scope *from = r->scope, *s;
    size_t i = 0, used = 0;
    r->scope = m->home;
    TRY(open_scope(r, &s));
    for (const struct node *p = m->n->a; p; p = p->next, i++) {
        jval v = j_undefined(p->name);
        bool given = i < c->n;
        if (given) v = c->v[i];
        for (size_t k = 0; k < c->n_kw; k++) {
            if (c->kw[k].name != p->name) continue;
            if (given) return jr_fail(r, E_INPUT, "%.60s(): two values for \"%.60s\"", m->n->name, p->name);
            v = c->kw[k].v;
            given = true;
            used++;
        }
        if (!given && p->a) TRY(eval(r, p->a, &v));
        TRY(set_var(r, s, p->name, v));
    }
    if (c->n > i) return jr_fail(r, E_INPUT, "%.60s() takes %zu arguments, not %zu", m->n->name, i, c->n);
    if (used < c->n_kw) return jr_fail(r, E_INPUT, "%.60s() is given an argument by a name that it does not have", m->n->name);
    TRY(capture(r, m->n->b, out));
    r->scope = from;
    return OK;
}

static err loop_call(struct render *r, struct jloop *l, const char *name, const struct call *c, jval *out) {
    if (!strcmp(name, "cycle") && c->n) return *out = c->v[l->i % c->n], OK;
    if (!strcmp(name, "changed") && c->n == 1) {
        bool same = false;
        if (l->seen) TRY(j_equal(r, l->changed, c->v[0], &same));
        l->changed = c->v[0];
        l->seen = true;
        return *out = j_bool(!same), OK;
    }
    return jr_fail(r, E_UNSUPPORTED, "loop.%.40s() is not supported", name);
}

static err eval_call(struct render *r, const struct node *n, jval *out) {
    struct call c = {.name = n->a->name ? n->a->name : "it"};
    jval f, of;
    if (n->a->k == N_ATTR) {
        TRY(eval(r, n->a->a, &of));
        r->at = n->a->at;
        if (of.t == J_LOOP) {
            TRY(eval_args(r, n->b, &c));
            r->at = n->at;
            return loop_call(r, of.loop, n->a->name, &c, out);
        }
        if (n->a->op < 0 && of.t == J_STR) return jr_fail(r, E_UNSUPPORTED, "a string's method \"%.60s\" is not supported", n->a->name);
        TRY(jr_attr(r, of, n->a->name, n->a->op, &f));
    } else TRY(eval(r, n->a, &f));
    TRY(eval_args(r, n->b, &c));
    r->at = n->at;
    switch (f.t) {
    case J_METHOD: c.self = f.bound->self; return method_call(r, f.bound->id, &c, out);
    case J_MACRO: return call_macro(r, f.m, &c, out);
    case J_FUNCTION: return function_call(r, (int)f.i, &c, out);
    case J_UNDEFINED: return jr_fail(r, E_INPUT, "\"%.60s\" is undefined (so it cannot be called)", f.name);
    default: return jr_fail(r, E_INPUT, "%s cannot be called", j_type(f));
    }
}

/* A filter on a value, or on *given where the chain stands on a block (its innermost node is an empty constant). */
static err eval_filter(struct render *r, const struct node *n, const jval *given, jval *out) {
    struct call c = {.name = n->name};
    TRY(jr_enter(r));
    if (given && n->a->k == N_FILTER) TRY(eval_filter(r, n->a, given, &c.self));
    else if (given) c.self = *given;
    else TRY(eval(r, n->a, &c.self));
    TRY(eval_args(r, n->b, &c));
    r->at = n->at;
    if (n->op < 0) return jr_fail(r, E_UNSUPPORTED, "the filter \"%.60s\" is not supported", n->name);
    TRY(filter_apply(r, n->op, &c, out));
    r->depth--;
    return OK;
}

static err eval_test(struct render *r, const struct node *n, jval *out) {
    struct call c = {.name = n->name};
    bool b = false;
    TRY(eval(r, n->a, &c.self));
    TRY(eval_args(r, n->b, &c));
    r->at = n->at;
    if (n->op < 0) return jr_fail(r, E_UNSUPPORTED, "the test \"%.60s\" is not supported", n->name);
    TRY(test_apply(r, n->op, &c, &b));
    *out = j_bool(b != n->negated);
    return OK;
}

/* --- expressions --- */

static err eval_list(struct render *r, const struct node *n, jval *out) {
    TRY(j_list(r, n->k == N_TUPLE ? L_TUPLE : L_LIST, out));
    for (const struct node *a = n->a; a; a = a->next) {
        jval v;
        TRY(eval(r, a->a, &v));
        TRY(j_push(r, out->l, v));
    }
    return OK;
}

static err eval_dict(struct render *r, const struct node *n, jval *out) {
    TRY(j_dict(r, out));
    for (const struct node *a = n->a; a; a = a->next) {
        jval k, v;
        TRY(eval(r, a->a, &k));
        TRY(eval(r, a->b, &v));
        r->at = a->at;
        TRY(j_put(r, out->d, k, v));
    }
    return OK;
}

static err eval_compare(struct render *r, const struct node *n, jval *out) {
    jval left, right;
    bool b = true;
    TRY(eval(r, n->a, &left));
    for (const struct node *o = n->b; o && b; o = o->next, left = right) {
        TRY(eval(r, o->a, &right));
        r->at = o->at;
        TRY(compare_one(r, o->op, left, right, &b));
    }
    *out = j_bool(b);
    return OK;
}

static err eval_sign(struct render *r, const struct node *n, jval *out) {
    jval v;
    TRY(eval(r, n->a, &v));
    r->at = n->at;
    if (!is_number(v)) return jr_fail(r, E_INPUT, "a sign before %s", j_type(v));
    if (n->k == N_POS) *out = v.t == J_BOOL ? j_int(v.b) : v;
    else if (v.t == J_FLOAT) *out = j_float(-v.f);
    else TRY(int_math(r, '-', 0, whole(v), out));
    return OK;
}

static err eval_inner(struct render *r, const struct node *n, jval *out) {
    jval a, b;
    switch (n->k) {
    case N_CONST: *out = n->v; return OK;
    case N_NAME: *out = lookup(r, n->name); return OK;
    case N_LIST:
    case N_TUPLE: return eval_list(r, n, out);
    case N_DICT: return eval_dict(r, n, out);
    case N_COND:
        TRY(eval(r, n->b, &b));
        if (j_true(b)) return eval(r, n->a, out);
        if (n->c) return eval(r, n->c, out);
        return *out = j_undefined("an inline if without else"), OK;
    case N_AND:
    case N_OR: TRY(eval(r, n->a, out)); return j_true(*out) == (n->k == N_AND) ? eval(r, n->b, out) : OK;
    case N_NOT: TRY(eval(r, n->a, &a)); return *out = j_bool(!j_true(a)), OK;
    case N_NEG:
    case N_POS: return eval_sign(r, n, out);
    case N_BINARY:
        TRY(eval(r, n->a, &a));
        TRY(eval(r, n->b, &b));
        r->at = n->at;
        return arithmetic(r, n->op, a, b, out);
    case N_COMPARE: return eval_compare(r, n, out);
    case N_ATTR:
        TRY(eval(r, n->a, &a));
        r->at = n->at;
        return jr_attr(r, a, n->name, n->op, out);
    case N_ITEM:
        TRY(eval(r, n->a, &a));
        TRY(eval(r, n->b, &b));
        r->at = n->at;
        return jr_item(r, a, b, out);
    case N_SLICE: return eval_slice(r, n, out);
    case N_CALL: return eval_call(r, n, out);
    case N_FILTER: return eval_filter(r, n, NULL, out);
    default: return eval_test(r, n, out);
    }
}

static err eval(struct render *r, const struct node *n, jval *out) {
    r->at = n->at;
    TRY(jr_enter(r));
    TRY(eval_inner(r, n, out));
    r->depth--;
    return OK;
}

/* --- statements --- */

static err assign(struct render *r, const struct node *to, jval v) {
    r->at = to->at;
    if (to->k == N_NAME) return set_var(r, r->scope, to->name, v);
    if (to->k == N_ATTR) {
        jval of = lookup(r, to->a->name), key;
        if (of.t != J_NAMESPACE) return jr_fail(r, E_INPUT, "\"%.60s\" is not a namespace, so nothing in it can be set", to->a->name);
        if (*to->name == '_') return jr_fail(r, E_INPUT, "a namespace takes no name that begins with \"_\"");
        TRY(j_cstr(r, to->name, &key));
        return j_put(r, of.d, key, v);
    }
    const struct jlist *items;
    size_t i = 0;
    TRY(j_iterate(r, v, &items));
    for (const struct node *a = to->a; a; a = a->next, i++) {
        if (i == items->n) break;
        TRY(assign(r, a->a, items->v[i]));
    }
    size_t want = 0;
    for (const struct node *a = to->a; a; a = a->next) want++;
    r->at = to->at;
    return want == items->n ? OK : jr_fail(r, E_INPUT, "%zu values for %zu names", items->n, want);
}

/* The items of a loop with a filter: those that pass it. */
static err filtered(struct render *r, const struct node *n, const struct jlist **items) {
    jval kept, ok;
    TRY(j_list(r, L_LIST, &kept));
    struct scope *up = r->scope, *s;
    TRY(open_scope(r, &s));
    for (size_t i = 0; i < (*items)->n; i++) {
        TRY(assign(r, n->a, (*items)->v[i]));
        TRY(eval(r, n->e, &ok));
        if (j_true(ok)) TRY(j_push(r, kept.l, (*items)->v[i]));
    }
    r->scope = up;
    *items = kept.l;
    return OK;
}

static err run_for(struct render *r, const struct node *n) {
    jval v;
    const struct jlist *items;
    struct jloop *loop;
    struct scope *up = r->scope, *s;
    TRY(eval(r, n->b, &v));
    r->at = n->b->at;
    TRY(j_iterate(r, v, &items));
    if (n->e) TRY(filtered(r, n, &items));
    TRY(jr_alloc(r, sizeof *loop, &loop));
    loop->items = items;
    TRY(open_scope(r, &s));
    bool whole = false; /* did a pass reach its end? jinja2 takes the else where none did, also after break and continue */
    for (size_t i = 0; i < items->n; i++) {
        s->n = 0;
        loop->i = i;
        TRY(set_var(r, s, r->t->word[W_LOOP], (jval){.t = J_LOOP, .loop = loop}));
        TRY(assign(r, n->a, items->v[i]));
        TRY(run_body(r, n->c));
        int how = r->leaving;
        r->leaving = 0;
        if (how == N_BREAK) break;
        whole = whole || !how;
    }
    r->scope = up;
    return whole ? OK : run_body(r, n->d);
}

static err run_set_block(struct render *r, const struct node *n) {
    jval v;
    TRY(capture(r, n->b, &v));
    if (n->c->k == N_FILTER) TRY(eval_filter(r, n->c, &v, &v));
    return assign(r, n->a, v);
}

static err run_with(struct render *r, const struct node *n) {
    struct scope *up = r->scope, *s;
    TRY(open_scope(r, &s));
    for (const struct node *a = n->a; a; a = a->next) {
        jval v;
        r->scope = up; /* the values do not see one another */
        TRY(eval(r, a->b, &v));
        r->scope = s;
        TRY(assign(r, a->a, v));
    }
    r->scope = s;
    TRY(run_body(r, n->b));
    r->scope = up;
    return OK;
}

static err run_macro(struct render *r, const struct node *n) {
    struct jmacro *m;
    TRY(jr_alloc(r, sizeof *m, &m));
    *m = (struct jmacro){n, r->scope};
    return set_var(r, r->scope, n->name, (jval){.t = J_MACRO, .m = m});
}

static err run_generation(struct render *r, const struct node *n) {
    jval v;
    uint32_t outer = r->mark;
    r->mark = JINJA_GENERATION;
    TRY(capture(r, n->b, &v));
    r->mark = outer;
    return jb_text(r, r->out, v);
}

static err run_one(struct render *r, const struct node *n) {
    jval v;
    switch (n->k) {
    case N_TEXT: return jb_text(r, r->out, n->v);
    case N_PRINT:
        TRY(eval(r, n->a, &v));
        r->at = n->at;
        if (v.t == J_UNDEFINED && r->ctx->fields) return jr_fail(r, E_INPUT, "there is no \"%.60s\"", v.name);
        return jb_text(r, r->out, v);
    case N_FOR: return run_for(r, n);
    case N_SET: TRY(eval(r, n->b, &v)); return assign(r, n->a, v);
    case N_SET_BLOCK: return run_set_block(r, n);
    case N_WITH: return run_with(r, n);
    case N_MACRO: return run_macro(r, n);
    case N_FILTER_BLOCK:
        TRY(capture(r, n->b, &v));
        TRY(eval_filter(r, n->a, &v, &v));
        return jb_text(r, r->out, v);
    case N_GENERATION: return run_generation(r, n);
    default: r->leaving = n->k; return OK; /* N_BREAK, N_CONTINUE */
    }
}

static err run_if(struct render *r, const struct node *n) {
    while (n && n->k == N_IF) {
        jval v;
        TRY(eval(r, n->a, &v));
        if (j_true(v)) return run_body(r, n->b);
        if (!n->c || n->c->k != N_IF || n->c->next) return run_body(r, n->c);
        n = n->c; /* an elif */
    }
    return OK;
}

static err run_body(struct render *r, const struct node *n) {
    TRY(jr_enter(r));
    for (; n && !r->leaving; n = n->next) {
        r->at = n->at;
        TRY(jr_work(r, 0));
        TRY(n->k == N_IF ? run_if(r, n) : run_one(r, n));
    }
    r->depth--;
    return OK;
}

/* --- the context --- */

err jr_global(struct render *r, const char *name, jval v) { return set_var(r, r->scope, name, v); }

static err set_global(struct render *r, enum word w, jval v) { return jr_global(r, r->t->word[w], v); }

static err set_token(struct render *r, enum word w, const char *token) {
    jval v;
    if (!token) return OK;
    TRY(j_cstr(r, token, &v));
    return set_global(r, w, v);
}

static err set_messages(struct render *r, const struct jinja_context *c) {
    jval list, role_key, content_key, m, role, content;
    TRY(j_list(r, L_LIST, &list));
    TRY(j_cstr(r, "role", &role_key));
    TRY(j_cstr(r, "content", &content_key));
    for (size_t i = 0; i < c->n; i++) {
        TRY(j_dict(r, &m));
        TRY(j_cstr(r, c->message[i].role, &role));
        TRY(j_str(r, c->message[i].content, strlen(c->message[i].content), (uint32_t)i + 1, &content));
        TRY(j_put(r, m.d, role_key, role));
        TRY(j_put(r, m.d, content_key, content));
        TRY(j_push(r, list.l, m));
    }
    return set_global(r, W_MESSAGES, list);
}

static err render_all(struct render *r, const struct jinja_context *c) {
    TRY(open_scope(r, &(struct scope *){NULL}));
    TRY(set_messages(r, c));
    TRY(set_token(r, W_BOS, c->bos));
    TRY(set_token(r, W_EOS, c->eos));
    TRY(set_token(r, W_PAD, c->pad));
    TRY(set_global(r, W_PROMPT, j_bool(c->add_generation_prompt)));
    TRY(set_global(r, W_TOOLS, j_none));
    TRY(set_global(r, W_DOCUMENTS, j_none));
    if (c->fields) TRY(jr_fields(r));
    return run_body(r, r->t->body);
}

err jinja_render(const jinja *t, const struct jinja_context *c, struct jinja_text *out) {
    struct builder b = {0};
    struct render r = {.t = t, .ctx = c, .lim = c->limits ? *c->limits : jinja_default_limits, .out = &b};
    str_clear(&out->text);
    err e = c->n < JINJA_GENERATION - 1 ? render_all(&r, c) : fail(E_INPUT, "%s: %zu messages", t->name, c->n);
    if (!e && b.n > out->cap) {
        uint32_t *tag = realloc(out->tag, b.n * sizeof *tag);
        if (tag) out->tag = tag, out->cap = b.n;
        else e = fail(E_MEMORY, "out of memory");
    }
    if (!e) str_add(&out->text, b.n ? b.p : "", b.n);
    if (!e && out->text.failed) e = fail(E_MEMORY, "out of memory");
    for (size_t i = 0; i < b.n && !e; i++) out->tag[i] = b.tags ? b.tags[i] : b.tag;
    arena_free(&r.mem);
    return e;
}

void jinja_text_free(struct jinja_text *t) {
    str_free(&t->text);
    free(t->tag);
    *t = (struct jinja_text){0};
}
