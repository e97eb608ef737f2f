/* Tokens to a tree: Jinja's grammar by recursive descent, in jinja2's order of precedence. See jinja.h.
 *
 * A parser's depth is the source's depth, so it is bounded (MAX_DEPTH); left-recursive operators are loops, and the tree
 * they make is bounded again when it is walked. A node carries the byte where it began, for messages. */
#include "io/jinja_internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 150, MAX_SOURCE = 1 << 20, BUCKETS = 1024 };

struct interned { /* a name, once */
    struct interned *next;
    size_t n;
    char text[];
};

struct parser {
    jinja *t;
    const struct token *k; /* the current one; the last is T_EOF */
    int depth;
};

static struct interned **bucket_of(const jinja *t, const char *p, size_t n) {
    unsigned hash = 5381;
    for (size_t i = 0; i < n; i++) hash = hash * 33 + (unsigned char)p[i];
    return &t->names[hash % BUCKETS];
}

const char *jinja_known(const jinja *t, const char *p, size_t n) {
    for (const struct interned *i = *bucket_of(t, p, n); i; i = i->next)
        if (i->n == n && !memcmp(i->text, p, n)) return i->text;
    return NULL;
}

const char *jinja_intern(jinja *t, const char *p, size_t n) {
    if (!t->names && !(t->names = arena_alloc(&t->mem, BUCKETS * sizeof *t->names))) return NULL;
    const char *known = jinja_known(t, p, n);
    if (known) return known;
    struct interned **bucket = bucket_of(t, p, n), *i = arena_alloc(&t->mem, sizeof *i + n + 1);
    if (!i) return NULL;
    memcpy(i->text, p, n);
    i->n = n;
    i->next = *bucket;
    *bucket = i;
    return i->text;
}

err jinja_fail(const jinja *t, size_t at, err code, const char *fmt, ...) {
    char why[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    for (char *c = why; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = ' ';
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < t->n; i++) {
        if (t->source[i] == '\n') line++, column = 1;
        else column += ((unsigned char)t->source[i] & 0xC0) != 0x80;
    }
    return fail(code, "%s:%zu:%zu: %s", t->name, line, column, why);
}

static err no_memory(void) { return fail(E_MEMORY, "out of memory"); }

static err syntax(const struct parser *p, const char *want) {
    const struct token *k = p->k;
    char found[60];
    if (k->type == T_NAME) snprintf(found, sizeof found, "\"%.40s\"", k->p);
    else if (k->type == T_OP && k->op < 256) snprintf(found, sizeof found, "'%c'", k->op);
    else {
        static const char *const what[] = {"the template's end", "text",     "{{",       "}}",         "{%", "%}", "",
                                           "a string",           "a number", "a number", "an operator"};
        snprintf(found, sizeof found, "%s", what[k->type]);
    }
    return jinja_fail(p->t, k->at, E_INPUT, "%s expected, not %s", want, found);
}

static bool is_op(const struct parser *p, int op) { return p->k->type == T_OP && p->k->op == op; }
static bool is_name(const struct parser *p, const char *name) { return p->k->type == T_NAME && !strcmp(p->k->p, name); }
static bool skip_op(struct parser *p, int op) { return is_op(p, op) ? p->k++, true : false; }
static bool skip_name(struct parser *p, const char *name) { return is_name(p, name) ? p->k++, true : false; }

static err want_op(struct parser *p, int op) {
    char want[4] = {'\'', (char)op, '\'', 0};
    return skip_op(p, op) ? OK : syntax(p, want);
}

static err want_type(struct parser *p, enum token_type type, const char *want) { return p->k->type == type ? p->k++, OK : syntax(p, want); }

static err enter(struct parser *p) {
    return ++p->depth > MAX_DEPTH ? jinja_fail(p->t, p->k->at, E_INPUT, "more than %d things inside one another", MAX_DEPTH) : OK;
}

static err make(struct parser *p, enum node_kind k, size_t at, struct node **out) {
    struct node *n = *out = arena_alloc(&p->t->mem, sizeof *n);
    if (!n) return no_memory();
    n->k = k;
    n->at = (uint32_t)at;
    n->op = -1;
    return OK;
}

static err binary(struct parser *p, enum node_kind k, int op, size_t at, struct node *a, struct node *b, struct node **out) {
    TRY(make(p, k, at, out));
    (*out)->op = op;
    (*out)->a = a;
    (*out)->b = b;
    return OK;
}

/* --- expressions --- */

static err expression(struct parser *p, bool conditional, struct node **out);
static err unary(struct parser *p, bool filters, struct node **out);
static err tuple(struct parser *p, bool conditional, bool parenthesised, struct node **out);

/* "(a, b, name=c)" from its bracket. */
static err arguments(struct parser *p, struct node **list) {
    TRY(want_op(p, '('));
    for (bool named = false; !is_op(p, ')');) {
        struct node *n;
        if (is_op(p, '*') || is_op(p, OP_POW)) return jinja_fail(p->t, p->k->at, E_UNSUPPORTED, "*args and **kwargs are not supported");
        TRY(make(p, N_ARG, p->k->at, &n));
        if (p->k->type == T_NAME && p->k[1].type == T_OP && p->k[1].op == '=') {
            n->name = p->k->p;
            p->k += 2;
            named = true;
        } else if (named) return syntax(p, "a named argument");
        TRY(expression(p, true, &n->a));
        *list = n;
        list = &n->next;
        if (!skip_op(p, ',') && !is_op(p, ')')) return syntax(p, "',' or ')'");
    }
    p->k++;
    return OK;
}

static err string_const(struct parser *p, struct node **out) {
    size_t total = 0, at = 0;
    const struct token *k = p->k;
    for (; k->type == T_STR; k++) total += k->n;
    struct jstr *s = arena_alloc(&p->t->mem, sizeof *s);
    char *bytes = arena_alloc(&p->t->mem, total + 1);
    if (!s || !bytes) return no_memory();
    TRY(make(p, N_CONST, p->k->at, out));
    for (; p->k->type == T_STR; at += p->k->n, p->k++) memcpy(bytes + at, p->k->p, p->k->n);
    *s = (struct jstr){.p = bytes, .n = total};
    (*out)->v = (jval){.t = J_STR, .s = s};
    return OK;
}

static err list_of(struct parser *p, int end, struct node **list) {
    while (!is_op(p, end)) {
        if (end == '}') {
            struct node *key;
            TRY(make(p, N_PAIR, p->k->at, list));
            TRY(expression(p, true, &key));
            (*list)->a = key;
            TRY(want_op(p, ':'));
            TRY(expression(p, true, &(*list)->b));
        } else {
            /* an element gets a holder: the same node could not stand in two lists */
            TRY(make(p, N_ARG, p->k->at, list));
            TRY(expression(p, true, &(*list)->a));
        }
        list = &(*list)->next;
        if (!skip_op(p, ',') && !is_op(p, end)) return syntax(p, end == '}' ? "',' or '}'" : "',' or ']'");
    }
    p->k++;
    return OK;
}

static err name_or_const(struct parser *p, struct node **out) {
    static const struct {
        const char *word;
        jval v;
    } fixed[] = {{"true", {.t = J_BOOL, .b = true}},
                 {"True", {.t = J_BOOL, .b = true}},
                 {"false", {.t = J_BOOL}},
                 {"False", {.t = J_BOOL}},
                 {"none", {.t = J_NONE}},
                 {"None", {.t = J_NONE}}};
    TRY(make(p, N_NAME, p->k->at, out));
    (*out)->name = p->k->p;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (!strcmp(p->k->p, fixed[i].word)) (*out)->k = N_CONST, (*out)->v = fixed[i].v;
    p->k++;
    return OK;
}

static err primary(struct parser *p, struct node **out) {
    const struct token *k = p->k;
    if (k->type == T_NAME) return name_or_const(p, out);
    if (k->type == T_STR) return string_const(p, out);
    if (k->type == T_INT || k->type == T_FLOAT) {
        TRY(make(p, N_CONST, k->at, out));
        (*out)->v = k->type == T_INT ? (jval){.t = J_INT, .i = k->i} : (jval){.t = J_FLOAT, .f = k->f};
        p->k++;
        return OK;
    }
    if (skip_op(p, '(')) {
        TRY(tuple(p, true, true, out));
        return want_op(p, ')');
    }
    if (!is_op(p, '[') && !is_op(p, '{')) return syntax(p, "an expression");
    TRY(make(p, is_op(p, '[') ? N_LIST : N_DICT, k->at, out));
    p->k++;
    return list_of(p, k->op == '[' ? ']' : '}', &(*out)->a);
}

/* "[i]", "[a:b:c]" behind a value. */
static err subscript(struct parser *p, struct node *of, struct node **out) {
    size_t at = p->k->at;
    struct node *part[3] = {0};
    int colons = 0;
    p->k++;
    while (!is_op(p, ']')) {
        if (skip_op(p, ':')) {
            if (++colons > 2) return syntax(p, "']'");
        } else if (part[colons]) return syntax(p, is_op(p, ',') ? "one index" : "']'");
        else TRY(expression(p, true, &part[colons]));
    }
    if (!colons && !part[0]) return syntax(p, "an index");
    p->k++;
    TRY(make(p, colons ? N_SLICE : N_ITEM, at, out));
    (*out)->a = of;
    (*out)->b = part[0];
    (*out)->c = part[1];
    (*out)->d = part[2];
    return OK;
}

static err postfix(struct parser *p, struct node **n) {
    for (;;) {
        struct node *of = *n;
        size_t at = p->k->at;
        if (is_op(p, '[')) TRY(subscript(p, of, n));
        else if (is_op(p, '(')) {
            TRY(make(p, N_CALL, at, n));
            (*n)->a = of;
            TRY(arguments(p, &(*n)->b));
        } else if (skip_op(p, '.')) {
            if (p->k->type == T_INT) { /* x.0 is x[0] */
                struct node *index;
                TRY(primary(p, &index));
                TRY(binary(p, N_ITEM, -1, at, of, index, n));
                continue;
            }
            TRY(make(p, N_ATTR, at, n));
            (*n)->a = of;
            (*n)->name = p->k->p;
            TRY(want_type(p, T_NAME, "a name"));
            (*n)->op = method_find((*n)->name);
        } else return OK;
    }
}

/* One or more "name" or "name(args)" with "|" between them, applied to *n. */
static err filter_chain(struct parser *p, struct node **n) {
    do {
        struct node *of = *n;
        TRY(make(p, N_FILTER, p->k->at, n));
        (*n)->a = of;
        (*n)->name = p->k->p;
        TRY(want_type(p, T_NAME, "a filter's name"));
        (*n)->op = filter_find((*n)->name);
        if (is_op(p, '(')) TRY(arguments(p, &(*n)->b));
    } while (skip_op(p, '|'));
    return OK;
}

static err test(struct parser *p, struct node **n) {
    struct node *of = *n;
    TRY(make(p, N_TEST, p->k->at, n));
    (*n)->a = of;
    (*n)->negated = skip_name(p, "not");
    (*n)->name = p->k->p;
    TRY(want_type(p, T_NAME, "a test's name"));
    (*n)->op = test_find((*n)->name);
    const struct token *k = p->k;
    if (is_op(p, '(')) return arguments(p, &(*n)->b);
    bool begins = k->type == T_NAME ? !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and")
                                    : k->type == T_STR || k->type == T_INT || k->type == T_FLOAT || is_op(p, '[') || is_op(p, '{');
    if (!begins) return OK;
    if (is_name(p, "is")) return syntax(p, "no second test");
    TRY(make(p, N_ARG, k->at, &(*n)->b));
    TRY(primary(p, &(*n)->b->a));
    return postfix(p, &(*n)->b->a);
}

static err unary(struct parser *p, bool filters, struct node **out) {
    TRY(enter(p));
    if (is_op(p, '-') || is_op(p, '+')) {
        TRY(make(p, is_op(p, '-') ? N_NEG : N_POS, p->k->at, out));
        p->k++;
        TRY(unary(p, false, &(*out)->a));
    } else TRY(primary(p, out));
    TRY(postfix(p, out));
    while (filters) {
        if (skip_op(p, '|')) TRY(filter_chain(p, out));
        else if (skip_name(p, "is")) TRY(test(p, out));
        else if (is_op(p, '(')) TRY(postfix(p, out));
        else break;
    }
    p->depth--;
    return OK;
}

/* The left-associative operators, the tightest first: level 0 "**", 1 "* / // %", 2 "~", 3 "+ -". */
static err operators(struct parser *p, int level, struct node **out) {
    static const int ops[4][4] = {{OP_POW}, {'*', '/', OP_FLOORDIV, '%'}, {'~'}, {'+', '-'}};
    TRY(level ? operators(p, level - 1, out) : unary(p, true, out));
    for (;;) {
        int op = 0;
        for (int i = 0; i < 4; i++)
            if (ops[level][i] && is_op(p, ops[level][i])) op = ops[level][i];
        if (!op) return OK;
        size_t at = p->k++->at;
        struct node *right;
        TRY(level ? operators(p, level - 1, &right) : unary(p, true, &right));
        TRY(binary(p, N_BINARY, op, at, *out, right, out));
    }
}

static int comparison(struct parser *p) {
    static const int ops[] = {OP_EQ, OP_NE, OP_LE, OP_GE, '<', '>'};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (skip_op(p, ops[i])) return ops[i];
    if (skip_name(p, "in")) return OP_IN;
    if (!is_name(p, "not") || p->k[1].type != T_NAME || strcmp(p->k[1].p, "in") != 0) return 0;
    p->k += 2;
    return OP_NOT_IN;
}

static err compare(struct parser *p, struct node **out) {
    TRY(operators(p, 3, out));
    struct node **last = NULL;
    for (;;) {
        size_t at = p->k->at;
        int op = comparison(p);
        if (!op) return OK;
        if (!last) {
            TRY(binary(p, N_COMPARE, -1, at, *out, NULL, out));
            last = &(*out)->b;
        }
        TRY(make(p, N_OPERAND, at, last));
        (*last)->op = op;
        TRY(operators(p, 3, &(*last)->a));
        last = &(*last)->next;
    }
}

static err negation(struct parser *p, struct node **out) {
    if (!is_name(p, "not")) return compare(p, out);
    TRY(enter(p));
    TRY(make(p, N_NOT, p->k->at, out));
    p->k++;
    TRY(negation(p, &(*out)->a));
    p->depth--;
    return OK;
}

static err both(struct parser *p, struct node **out) {
    TRY(negation(p, out));
    for (size_t at = p->k->at; skip_name(p, "and"); at = p->k->at) {
        struct node *right;
        TRY(negation(p, &right));
        TRY(binary(p, N_AND, -1, at, *out, right, out));
    }
    return OK;
}

static err either(struct parser *p, struct node **out) {
    TRY(both(p, out));
    for (size_t at = p->k->at; skip_name(p, "or"); at = p->k->at) {
        struct node *right;
        TRY(both(p, &right));
        TRY(binary(p, N_OR, -1, at, *out, right, out));
    }
    return OK;
}

static err expression(struct parser *p, bool conditional, struct node **out) {
    TRY(enter(p));
    TRY(either(p, out));
    for (size_t at = p->k->at; conditional && skip_name(p, "if"); at = p->k->at) {
        struct node *condition;
        TRY(either(p, &condition));
        TRY(binary(p, N_COND, -1, at, *out, condition, out));
        if (skip_name(p, "else")) TRY(expression(p, true, &(*out)->c));
    }
    p->depth--;
    return OK;
}

/* One expression, or a tuple where commas follow. */
static err tuple(struct parser *p, bool conditional, bool parenthesised, struct node **out) {
    size_t at = p->k->at;
    struct node *first = NULL, **last;
    if (!(parenthesised && is_op(p, ')'))) {
        TRY(expression(p, conditional, &first));
        if (!is_op(p, ',')) return *out = first, OK;
    }
    TRY(make(p, N_TUPLE, at, out));
    last = &(*out)->a;
    if (!first) return OK;
    TRY(make(p, N_ARG, first->at, last));
    (*last)->a = first;
    while (last = &(*last)->next, skip_op(p, ',')) {
        if (p->k->type == T_VAR_END || p->k->type == T_BLOCK_END || is_op(p, ')')) break;
        TRY(make(p, N_ARG, p->k->at, last));
        TRY(expression(p, conditional, &(*last)->a));
    }
    return OK;
}

/* What is assigned to: a name, a namespace's name (where `attribute`), or a tuple of these. */
static err target(struct parser *p, bool attribute, struct node **out) {
    size_t at = p->k->at;
    struct node *first, **last = NULL;
    TRY(enter(p));
    for (;;) {
        if (skip_op(p, '(')) {
            TRY(target(p, attribute, &first));
            TRY(want_op(p, ')'));
        } else {
            if (p->k->type != T_NAME) return syntax(p, "a name");
            TRY(name_or_const(p, &first));
            if (first->k == N_CONST) return jinja_fail(p->t, first->at, E_INPUT, "a constant cannot be assigned to");
            if (attribute && skip_op(p, '.')) {
                struct node *of = first;
                TRY(make(p, N_ATTR, p->k->at, &first));
                first->a = of;
                first->name = p->k->p;
                TRY(want_type(p, T_NAME, "a name"));
            }
        }
        if (last) {
            TRY(make(p, N_ARG, first->at, last));
            (*last)->a = first;
            last = &(*last)->next;
        }
        if (!is_op(p, ',')) break;
        p->k++;
        if (!last) {
            TRY(make(p, N_TUPLE, at, out));
            TRY(make(p, N_ARG, first->at, &(*out)->a));
            (*out)->a->a = first;
            last = &(*out)->a->next;
        }
        if (is_name(p, "in") || is_op(p, '=') || is_op(p, ')')) break;
    }
    if (!last) *out = first;
    p->depth--;
    return OK;
}

/* --- statements --- */

static err body(struct parser *p, const char *const *ends, size_t opened, struct node **out);
#define ENDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Behind a block's opening expression: "%}", what is inside, and the name of the tag that ended it, still current. */
static err inside(struct parser *p, const char *const *ends, size_t opened, struct node **out) {
    skip_op(p, ':'); /* as in Python */
    TRY(want_type(p, T_BLOCK_END, "%}"));
    return body(p, ends, opened, out);
}

static err parse_if(struct parser *p, size_t at, struct node **out) {
    for (;;) { /* elifs are a list in depth, but not in recursion */
        TRY(make(p, N_IF, at, out));
        TRY(tuple(p, false, false, &(*out)->a));
        TRY(inside(p, ENDS("elif", "else", "endif"), at, &(*out)->b));
        if (skip_name(p, "endif")) return OK;
        if (skip_name(p, "else")) {
            TRY(inside(p, ENDS("endif"), at, &(*out)->c));
            p->k++;
            return OK;
        }
        p->k++;
        out = &(*out)->c;
    }
}

static err parse_for(struct parser *p, size_t at, struct node **out) {
    TRY(make(p, N_FOR, at, out));
    struct node *n = *out;
    TRY(target(p, false, &n->a));
    if (!skip_name(p, "in")) return syntax(p, "\"in\"");
    TRY(tuple(p, false, false, &n->b));
    if (skip_name(p, "if")) TRY(expression(p, true, &n->e));
    if (is_name(p, "recursive")) return jinja_fail(p->t, p->k->at, E_UNSUPPORTED, "recursive loops are not supported");
    TRY(inside(p, ENDS("else", "endfor"), at, &n->c));
    if (skip_name(p, "endfor")) return OK;
    p->k++;
    TRY(inside(p, ENDS("endfor"), at, &n->d));
    p->k++;
    return OK;
}

static err parse_set(struct parser *p, size_t at, struct node **out) {
    struct node *to;
    TRY(target(p, true, &to));
    if (skip_op(p, '=')) {
        TRY(binary(p, N_SET, -1, at, to, NULL, out));
        return tuple(p, true, false, &(*out)->b);
    }
    TRY(binary(p, N_SET_BLOCK, -1, at, to, NULL, out));
    struct node *n = *out;
    TRY(make(p, N_CONST, at, &n->c));
    if (skip_op(p, '|')) TRY(filter_chain(p, &n->c));
    TRY(inside(p, ENDS("endset"), at, &n->b));
    p->k++;
    return OK;
}

static err parse_with(struct parser *p, size_t at, struct node **out) {
    TRY(make(p, N_WITH, at, out));
    struct node *n = *out, **last = &n->a;
    while (p->k->type != T_BLOCK_END) {
        if (n->a && !skip_op(p, ',')) return syntax(p, "','");
        TRY(make(p, N_SET, p->k->at, last));
        TRY(target(p, false, &(*last)->a));
        TRY(want_op(p, '='));
        TRY(expression(p, true, &(*last)->b));
        last = &(*last)->next;
    }
    TRY(inside(p, ENDS("endwith"), at, &n->b));
    p->k++;
    return OK;
}

static err parse_macro(struct parser *p, size_t at, struct node **out) {
    TRY(make(p, N_MACRO, at, out));
    struct node *n = *out, **last = &n->a;
    bool defaults = false;
    n->name = p->k->p;
    TRY(want_type(p, T_NAME, "the macro's name"));
    TRY(want_op(p, '('));
    while (!is_op(p, ')')) {
        TRY(make(p, N_PARAM, p->k->at, last));
        (*last)->name = p->k->p;
        TRY(want_type(p, T_NAME, "a parameter's name"));
        if (skip_op(p, '=')) {
            TRY(expression(p, true, &(*last)->a));
            defaults = true;
        } else if (defaults) return syntax(p, "a default as the parameter before has it");
        last = &(*last)->next;
        if (!skip_op(p, ',') && !is_op(p, ')')) return syntax(p, "',' or ')'");
    }
    p->k++;
    TRY(inside(p, ENDS("endmacro"), at, &n->b));
    p->k++;
    return OK;
}

static err parse_filter_block(struct parser *p, size_t at, struct node **out) {
    TRY(make(p, N_FILTER_BLOCK, at, out));
    struct node *n = *out;
    TRY(make(p, N_CONST, at, &n->a));
    TRY(filter_chain(p, &n->a));
    TRY(inside(p, ENDS("endfilter"), at, &n->b));
    p->k++;
    return OK;
}

static err parse_generation(struct parser *p, size_t at, struct node **out) {
    TRY(make(p, N_GENERATION, at, out));
    p->t->generation = true;
    TRY(inside(p, ENDS("endgeneration"), at, &(*out)->b));
    p->k++;
    return OK;
}

static err statement(struct parser *p, struct node **out) {
    static const struct {
        const char *word;
        err (*parse)(struct parser *, size_t, struct node **);
    } kinds[] = {{"if", parse_if},
                 {"for", parse_for},
                 {"set", parse_set},
                 {"with", parse_with},
                 {"macro", parse_macro},
                 {"filter", parse_filter_block},
                 {"generation", parse_generation}};
    static const char *const refused[] = {"include", "import", "from", "extends", "block", "call", "do", "autoescape", "trans"};
    size_t at = p->k->at;
    if (p->k->type != T_NAME) return syntax(p, "a tag's name");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (skip_name(p, kinds[i].word)) return kinds[i].parse(p, at, out);
    if (is_name(p, "break") || is_name(p, "continue")) {
        TRY(make(p, is_name(p, "break") ? N_BREAK : N_CONTINUE, at, out));
        p->k++;
        return OK;
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (is_name(p, refused[i])) return jinja_fail(p->t, at, E_UNSUPPORTED, "the tag \"%s\" is not supported", refused[i]);
    return jinja_fail(p->t, at, E_INPUT, "unknown tag \"%.40s\"", p->k->p);
}

/* Text, prints and statements up to a tag of one of these names, which is then current; the last of them is the one that
 * must come. NULL: up to the template's end. */
static err body(struct parser *p, const char *const *ends, size_t opened, struct node **out) {
    TRY(enter(p));
    for (;; out = &(*out)->next) {
        const struct token *k = p->k++;
        if (k->type == T_EOF) {
            p->k--;
            while (ends && ends[1]) ends++;
            if (ends) return jinja_fail(p->t, opened, E_INPUT, "a block that is never ended (%s is missing)", *ends);
            break;
        }
        if (k->type == T_DATA) {
            TRY(make(p, N_TEXT, k->at, out));
            struct jstr *s = arena_alloc(&p->t->mem, sizeof *s);
            if (!s) return no_memory();
            *s = (struct jstr){.p = k->p, .n = k->n};
            (*out)->v = (jval){.t = J_STR, .s = s};
        } else if (k->type == T_VAR_BEGIN) {
            TRY(make(p, N_PRINT, k->at, out));
            TRY(tuple(p, true, false, &(*out)->a));
            TRY(want_type(p, T_VAR_END, "}}"));
        } else {
            for (const char *const *end = ends; end && *end; end++)
                if (is_name(p, *end)) return p->depth--, OK;
            TRY(statement(p, out));
            TRY(want_type(p, T_BLOCK_END, "%}"));
        }
    }
    p->depth--;
    return OK;
}

/* The source with "\n" for every line end and without its last one. */
static err take_source(jinja *t, const char *s, size_t n) {
    if (n > MAX_SOURCE) return fail(E_INPUT, "%s: a template of %zu bytes (at most %d)", t->name, n, MAX_SOURCE);
    char *to = arena_alloc(&t->mem, n + 1);
    if (!to) return no_memory();
    t->source = to;
    for (size_t i = 0; i < n; i++) {
        to[t->n++] = s[i] == '\r' ? '\n' : s[i];
        if (s[i] == '\r' && i + 1 < n && s[i + 1] == '\n') i++;
    }
    if (t->n && to[t->n - 1] == '\n' && !t->plain) t->n--;
    to[t->n] = 0;
    unsigned cp;
    for (size_t i = 0, len; i < t->n; i += len)
        if (!(len = (size_t)utf8_decode(to + i, t->n - i, &cp)) || !cp)
            return jinja_fail(t, i, E_INPUT, "not UTF-8 text (byte 0x%02x)", (unsigned char)to[i]);
    return OK;
}

static err intern_words(jinja *t) {
    static const char *const words[N_WORDS] = {"loop",  "messages", "bos_token", "eos_token", "pad_token", "add_generation_prompt",
                                               "tools", "documents"};
    for (int i = 0; i < N_WORDS; i++)
        if (!(t->word[i] = jinja_intern(t, words[i], strlen(words[i])))) return no_memory();
    return OK;
}

static err parse(const char *name, const char *source, size_t n, bool plain, jinja **out) {
    struct token *tokens = NULL;
    size_t count;
    *out = NULL;
    jinja *t = calloc(1, sizeof *t);
    if (!t) return no_memory();
    t->name = arena_str(&t->mem, name);
    t->plain = plain;
    err e = t->name ? take_source(t, source, n) : no_memory();
    if (!e) e = intern_words(t);
    if (!e) e = jinja_lex(t, &tokens, &count);
    if (!e) e = body(&(struct parser){.t = t, .k = tokens}, NULL, 0, &t->body);
    free(tokens);
    if (e) jinja_free(t);
    else *out = t;
    return e;
}

err jinja_parse(const char *name, const char *source, size_t n, jinja **out) { return parse(name, source, n, false, out); }
err jinja_parse_plain(const char *name, const char *source, size_t n, jinja **out) { return parse(name, source, n, true, out); }

void jinja_free(jinja *t) {
    if (!t) return;
    arena_free(&t->mem);
    free(t);
}

bool jinja_has_generation(const jinja *t) { return t->generation; }
