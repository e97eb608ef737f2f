/* What the files of the Jinja room share: tokens, the tree, values, the state of one rendering. See jinja.h.
 *
 * Values are immutable but for namespaces and live in the rendering's arena: nothing is freed before its end, so values
 * may share bytes (a slice points into its string). A value that nests is walked under the rendering's depth limit, as a
 * namespace can hold itself. */
#ifndef CYC_IO_JINJA_INTERNAL_H
#define CYC_IO_JINJA_INTERNAL_H
#include "base/arena.h"
#include "io/jinja.h"

/* --- tokens --- */
enum token_type { T_EOF, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STR, T_INT, T_FLOAT, T_OP };
enum { /* operators of two characters; those of one are their character */
       OP_EQ = 256,
       OP_NE,
       OP_LE,
       OP_GE,
       OP_FLOORDIV,
       OP_POW,
       OP_IN,
       OP_NOT_IN
};
struct token {
    enum token_type type;
    int op;
    uint32_t at;   /* byte in the source */
    const char *p; /* text, name, decoded string */
    size_t n;
    int64_t i;
    double f;
};

/* --- values --- */
enum jtype { J_UNDEFINED, J_NONE, J_BOOL, J_INT, J_FLOAT, J_STR, J_LIST, J_DICT, J_NAMESPACE, J_LOOP, J_MACRO, J_FUNCTION, J_METHOD };
struct jstr {
    const char *p;
    size_t n;
    uint32_t tag;         /* of all bytes, where tags is NULL */
    const uint32_t *tags; /* [n] */
};
enum list_kind { L_LIST, L_TUPLE, L_LAZY /* what Python has as a generator: always true, no length */ };
typedef struct jval {
    enum jtype t;
    union {
        bool b;
        int64_t i; /* J_INT; J_FUNCTION: which */
        double f;
        const struct jstr *s;
        struct jlist *l;
        struct jdict *d; /* J_DICT, J_NAMESPACE */
        struct jloop *loop;
        const struct jmacro *m;
        const struct jmethod *bound;
        const char *name; /* J_UNDEFINED: what was looked for */
    };
} jval;
struct jlist {
    enum list_kind kind;
    size_t n, cap;
    jval *v;
};
struct jpair {
    jval k, v;
};
struct jdict {
    size_t n, cap;
    struct jpair *v;
};
struct jloop {
    const struct jlist *items;
    size_t i;
    jval changed; /* what loop.changed() saw last */
    bool seen;
};
struct jmethod {
    jval self;
    int id;
};
struct jmacro {
    const struct node *n;
    struct scope *home;
};

/* --- the tree --- */
enum node_kind {
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT,
    N_PAIR,
    N_COND,
    N_AND,
    N_OR,
    N_NOT,
    N_NEG,
    N_POS,
    N_BINARY,
    N_COMPARE,
    N_OPERAND,
    N_ATTR,
    N_ITEM,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_ARG,
    N_PARAM, /* expressions and their parts */
    N_TEXT,
    N_PRINT,
    N_IF,
    N_FOR,
    N_SET,
    N_SET_BLOCK,
    N_WITH,
    N_MACRO,
    N_FILTER_BLOCK,
    N_GENERATION,
    N_BREAK,
    N_CONTINUE
};
struct node {
    enum node_kind k;
    int op; /* operator; N_ATTR: method id or -1; N_FILTER, N_TEST: index or -1; N_TEST: see negated */
    bool negated;
    uint32_t at;
    const char *name; /* interned: equal names are one pointer */
    jval v;
    struct node *a, *b, *c, *d, *e, *next;
};
/* The children, by kind:
 * N_LIST N_TUPLE N_DICT(N_PAIR a:b)  a: elements            N_COND  a if b else c        N_AND N_OR N_BINARY  a op b
 * N_COMPARE  a, then b: list of N_OPERAND (op, a)           N_ATTR  a.name               N_ITEM  a[b]
 * N_SLICE  a[b:c:d]                                         N_CALL N_FILTER N_TEST  a(b: N_ARG name=a)
 * N_PRINT  a       N_IF  a, b: body, c: else (an elif is an N_IF there)       N_FOR  a in b: c else d, e: filter
 * N_SET  a = b     N_SET_BLOCK  a, b: body, c: filter over N_CONST            N_WITH  a: list of N_SET, b
 * N_MACRO  name, a: N_PARAM (name, a: default), b            N_FILTER_BLOCK  a: filter chain, b      N_GENERATION  b */

/* The names that the room itself knows; interned before any other. */
enum word { W_LOOP, W_MESSAGES, W_BOS, W_EOS, W_PAD, W_PROMPT, W_TOOLS, W_DOCUMENTS, N_WORDS };
struct jinja {
    arena mem;
    const char *word[N_WORDS];
    const char *name, *source;
    size_t n;
    struct node *body;
    bool generation;
    bool plain; /* no trim_blocks, lstrip_blocks; the last line end stays */
    struct interned **names; /* a hash table */
};
const char *jinja_intern(jinja *t, const char *p, size_t n); /* NULL: out of memory */
const char *jinja_known(const jinja *t, const char *p, size_t n);                  /* ... NULL: not interned */
/* "NAME:LINE:COLUMN: " before the message. */
err jinja_fail(const jinja *t, size_t at, err code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
err jinja_lex(jinja *t, struct token **tokens, size_t *n); /* malloc'ed */

/* --- one rendering --- */
struct var {
    const char *name;
    jval v;
};
struct scope {
    struct scope *up;
    struct var *v;
    size_t n, cap;
};
struct builder { /* a string being made */
    char *p;
    uint32_t *tags; /* NULL as long as all bytes have one tag */
    size_t n, cap;
    uint32_t tag;
};
struct render {
    const jinja *t;
    const struct jinja_context *ctx;
    struct jinja_limits lim;
    arena mem;
    size_t used;
    uint64_t steps;
    int depth;
    uint32_t at;   /* where an error is */
    uint32_t mark; /* JINJA_GENERATION inside such a block */
    struct scope *scope;
    struct builder *out;
    int leaving; /* 0, N_BREAK, N_CONTINUE */
};
struct call { /* of a filter, test, method or function */
    const char *name;
    jval self;
    size_t n, n_kw;
    jval *v;
    struct var *kw;
};

err jr_fail(struct render *r, err code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
err jr_alloc(struct render *r, size_t bytes, void *out); /* zeroed; *(void **)out */
err jr_work(struct render *r, size_t bytes);             /* counts work done on so many bytes */
err jr_enter(struct render *r);                          /* one level deeper; r->depth-- when left */

jval j_int(int64_t i);
jval j_bool(bool b);
jval j_float(double f);
extern const jval j_none;
jval j_undefined(const char *name);
err j_str(struct render *r, const char *p, size_t n, uint32_t tag, jval *out); /* does not copy */
err j_cstr(struct render *r, const char *s, jval *out);
err j_sub(struct render *r, const struct jstr *s, size_t from, size_t to, jval *out); /* bytes */
err j_list(struct render *r, enum list_kind kind, jval *out);
err j_push(struct render *r, struct jlist *l, jval v);
err j_dict(struct render *r, jval *out);
err j_put(struct render *r, struct jdict *d, jval k, jval v);
const jval *j_get(const struct jdict *d, const char *key, size_t n); /* a string key, or NULL */
err j_find(struct render *r, const struct jdict *d, jval key, const jval **out);

err jb_add(struct render *r, struct builder *b, const char *p, size_t n, uint32_t tag);
err jb_sub(struct render *r, struct builder *b, const struct jstr *s, size_t from, size_t to);
err jb_adds(struct render *r, struct builder *b, const char *s);
err jb_str(struct render *r, const struct builder *b, jval *out);

bool j_true(jval v);
const char *j_type(jval v); /* for messages */
err j_equal(struct render *r, jval a, jval b, bool *out);
err j_order(struct render *r, jval a, jval b, int *out); /* -1, 0, 1; 2: not ordered (NaN) */
err j_contains(struct render *r, jval in, jval x, bool *out);
err j_iterate(struct render *r, jval v, const struct jlist **out); /* what a loop over v sees */
err j_length(struct render *r, jval v, size_t *out);
err jb_text(struct render *r, struct builder *b, jval v); /* str(v) */
err jb_repr(struct render *r, struct builder *b, jval v);
err j_text(struct render *r, jval v, jval *out); /* str(v) as a string with its tags */
struct json_form {
    const char *indent; /* NULL: on one line */
    struct jstr item, key;
    bool ascii, sort;
};
err jb_json(struct render *r, struct builder *b, jval v, const struct json_form *f, int level);

/* Characters of UTF-8 as Python counts them. */
size_t j_chars(const char *p, size_t n);
size_t j_offset(const char *p, size_t n, size_t chars); /* the byte where so many characters have passed */
size_t j_space(const char *p, size_t n);                /* bytes of the white space that p begins with, or 0 */
void j_strip(const struct jstr *s, const struct jstr *set, bool left, bool right, size_t *from, size_t *to);
enum letters { UPPER, LOWER, TITLE, CAPITALIZE, TITLE_FILTER /* after white space and some brackets */ };
err j_letters(struct render *r, const struct jstr *s, enum letters how, jval *out);
err j_replace(struct render *r, const struct jstr *s, const struct jstr *old, const struct jstr *new_, int64_t most, jval *out);
/* Where `what` begins in s at or behind `from`, or SIZE_MAX. */
size_t j_search(const struct jstr *s, const struct jstr *what, size_t from);

/* Arguments: the i-th, or the one of that name, else `fallback`. */
jval call_arg(const struct call *c, size_t i, const char *name, jval fallback);
err call_str(struct render *r, const struct call *c, size_t i, const char *name, const char *fallback, const struct jstr **out);
err call_int(struct render *r, const struct call *c, size_t i, const char *name, int64_t fallback, int64_t *out);

/* A variable for each of the context's fields. */
err jr_fields(struct render *r);
err jr_global(struct render *r, const char *name, jval v);

err jr_attr(struct render *r, jval v, const char *name, int method, jval *out); /* v.name */
err jr_item(struct render *r, jval v, jval key, jval *out);                     /* v[key] */
int filter_find(const char *name);
err filter_apply(struct render *r, int which, struct call *c, jval *out);
int test_find(const char *name);
err test_apply(struct render *r, int which, struct call *c, bool *out);
int method_find(const char *name);
bool method_of(int id, enum jtype t);
err method_call(struct render *r, int id, struct call *c, jval *out);
int function_find(const char *name);
err function_call(struct render *r, int which, struct call *c, jval *out);

#endif
