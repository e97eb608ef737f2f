/* Patterns on PCRE2. See pattern.h.
 *
 * Two differences between the engines are evened out. The language: translate() rewrites what differs and refuses what
 * it cannot. The Unicode version: oniguruma knows Unicode 16, Debian's PCRE2 10.42 knows 14; for matching only,
 * characters newer than 14 are replaced by an older one of the same category and the same length in UTF-8: then every
 * class by category agrees, whatever the pattern, and offsets stay. U+180E, which only PCRE2 takes for white space, is
 * replaced likewise. A newer PCRE2 changes nothing. */
#include "io/pattern.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>

/* ---- translation ---- */

struct translation {
    const char *where, *p;
    size_t n, i;
    int in_class; /* 1 inside [...] */
    str out;
};

static err refuse(const struct translation *t, size_t at, const char *what) {
    return fail(E_UNSUPPORTED, "%s: pattern \"%.*s\": %s at byte %zu is not supported", t->where,
                (int)(t->n < 300 ? t->n : 300), t->p, what, at);
}

/* "{n}", "{n,}", "{n,m}" and "{,m}" at i: the length, or 0 when the brace is a literal. */
static size_t interval(const struct translation *t, bool *exact) {
    size_t j = t->i + 1, digits = 0;
    *exact = true;
    for (; j < t->n && ((t->p[j] >= '0' && t->p[j] <= '9') || (t->p[j] == ',' && *exact)); j++) {
        if (t->p[j] == ',') *exact = false;
        else digits++;
    }
    return digits && j < t->n && t->p[j] == '}' ? j + 1 - t->i : 0;
}

static err translate_interval(struct translation *t) {
    bool exact;
    size_t len = interval(t, &exact);
    if (len == 0) return refuse(t, t->i, "a brace that is no repeat");
    char after = t->i + len < t->n ? t->p[t->i + len] : 0;
    if (after == '+' || (after == '?' && exact)) return refuse(t, t->i, "a repeat of a repeat");
    if (t->p[t->i + 1] == ',') {
        str_adds(&t->out, "{0");
        str_add(&t->out, t->p + t->i + 1, len - 1);
    } else str_add(&t->out, t->p + t->i, len);
    t->i += len;
    return OK;
}

/* Oniguruma's word characters: letters (circled ones too), marks, decimal digits, letter-like numbers, connectors. Alone,
 * not in a set, \w also takes Latin-1's raised digits and fractions. */
#define WORD_SET                                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"
#define WORD_ALONE WORD_SET "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

/* A category's name is the same in both; a script's is to oniguruma the script itself, to PCRE2 its extensions as well. */
static bool is_category(const char *name, size_t n) {
    static const char all[] = " L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C Cc "
                              "Cf Cs Co Cn Any ";
    char word[8] = " ";
    if (n == 0 || n > 3) return false;
    memcpy(word + 1, name, n);
    word[n + 1] = ' ';
    return strstr(all, word) != NULL;
}

/* "{name}" of a property, "{number}" of a character. */
static err translate_braces(struct translation *t, bool property) {
    const char *name = t->p + t->i + 1, *end = memchr(name, '}', t->n - t->i - 1);
    if (!end) return refuse(t, t->i, "an open brace");
    str_addc(&t->out, '{');
    if (property && name < end && *name == '^') str_addc(&t->out, *name++);
    if (property && !is_category(name, (size_t)(end - name))) str_adds(&t->out, "sc:");
    str_add(&t->out, name, (size_t)(end + 1 - name));
    t->i = (size_t)(end + 1 - t->p);
    return OK;
}

/* A backslash and what it introduces. */
static err translate_escape(struct translation *t) {
    if (t->i + 1 >= t->n) return refuse(t, t->i, "a backslash at the end");
    char c = t->p[t->i + 1];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == 'w') str_adds(&t->out, t->in_class ? WORD_SET : "[" WORD_ALONE "]");
    else if (c == 'W' && !t->in_class) str_adds(&t->out, "[^" WORD_ALONE "]");
    else if (c == 'u') {
        if (t->n - t->i < 6) return refuse(t, t->i, "an incomplete \\u");
        str_addf(&t->out, "\\x{%.4s}", t->p + t->i + 2);
        t->i += 4;
    } else if (letter && !strchr("dDsSpPnrtfaexAzZ", c)) {
        char what[] = "the escape \\?";
        what[sizeof what - 2] = c;
        return refuse(t, t->i, what);
    } else str_add(&t->out, t->p + t->i, 2);
    t->i += 2;
    return strchr("pPx", c) && t->i < t->n && t->p[t->i] == '{' ? translate_braces(t, c != 'x') : OK;
}

/* Without regard to case oniguruma also finds ligatures: "ss" is in "\u00DF". PCRE2 does not. */
static bool folds_to_one(const struct translation *t, size_t from) {
    static const char *const pairs[] = {"ss", "ff", "fi", "fl", "st"};
    int depth = 1;
    for (size_t i = from; i + 1 < t->n && depth; i++) {
        depth += (t->p[i] == '(') - (t->p[i] == ')');
        for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++)
            if ((t->p[i] | 0x20) == pairs[k][0] && (t->p[i + 1] | 0x20) == pairs[k][1]) return true;
    }
    return false;
}

static err translate_group(struct translation *t) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"};
    if (t->i + 1 < t->n && t->p[t->i + 1] == '?') {
        size_t len = 0;
        for (size_t k = 0; k < sizeof known / sizeof *known && len == 0; k++)
            if (t->n - t->i >= strlen(known[k]) && !memcmp(t->p + t->i, known[k], strlen(known[k])))
                len = strlen(known[k]);
        if (len == 0) return refuse(t, t->i, "this kind of group");
        if (t->p[t->i + 2] == 'i' && folds_to_one(t, t->i + len))
            return refuse(t, t->i, "a group without regard to case with ss, ff, fi, fl or st in it");
        str_add(&t->out, t->p + t->i, len);
        t->i += len;
        return OK;
    }
    if (t->i + 1 < t->n && t->p[t->i + 1] == '*') return refuse(t, t->i, "a verb");
    str_addc(&t->out, t->p[t->i++]);
    return OK;
}

static err translate_in_class(struct translation *t) {
    char c = t->p[t->i], next = t->i + 1 < t->n ? t->p[t->i + 1] : 0;
    if (c == '[' && next != ':') return refuse(t, t->i, "a set inside a set (write \\[ for a bracket)");
    if (c == '&' && next == '&') return refuse(t, t->i, "an intersection of sets");
    if (c == '[') { /* [:name:] */
        const char *end = memchr(t->p + t->i, ']', t->n - t->i);
        if (!end) return refuse(t, t->i, "an open bracket");
        size_t len = (size_t)(end - (t->p + t->i));
        if (!(len == 8 && (!memcmp(t->p + t->i, "[:space:", 8) || !memcmp(t->p + t->i, "[:digit:", 8))))
            return refuse(t, t->i, "a set's name but [:space:] and [:digit:], which the engines fill alike,");
        str_add(&t->out, t->p + t->i, (size_t)(end + 1 - (t->p + t->i)));
        t->i = (size_t)(end + 1 - t->p);
        return OK;
    }
    if (c == ']') t->in_class = 0;
    str_addc(&t->out, c);
    t->i++;
    return OK;
}

static err translate(struct translation *t) {
    while (t->i < t->n) {
        char c = t->p[t->i];
        if (c == '\\') TRY(translate_escape(t));
        else if (t->in_class) TRY(translate_in_class(t));
        else if (c == '(') TRY(translate_group(t));
        else if (c == '{') TRY(translate_interval(t));
        else {
            if (c == '[') t->in_class = 1;
            str_addc(&t->out, c);
            t->i++;
        }
    }
    return t->out.failed ? fail(E_MEMORY, "out of memory") : OK;
}

static err compile(const char *where, const char *pattern, size_t n, bool literal, pcre2_code **re) {
    enum { PATTERN_BYTES_MAX = 1 << 16 };
    if (n > PATTERN_BYTES_MAX) return fail(E_UNSUPPORTED, "%s: a pattern of %zu bytes", where, n);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return fail(E_MEMORY, "out of memory");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    uint32_t options = literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
    int code;
    PCRE2_SIZE at;
    *re = pcre2_compile((PCRE2_SPTR)pattern, n, options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (*re) return OK;
    char why[128];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return fail(E_UNSUPPORTED, "%s: pattern \"%.*s\" does not compile: %s, at byte %zu", where,
                (int)(n < 300 ? n : 300), pattern, why, (size_t)at);
}

err pattern_compile(const char *where, const char *pattern, size_t n, bool literal, struct pattern *p) {
    *p = (struct pattern){.literal = literal};
    struct translation t = {.where = where, .p = pattern, .n = n};
    err e = literal ? OK : translate(&t);
    if (!e) e = compile(where, literal ? pattern : t.out.p ? t.out.p : "", literal ? n : t.out.n, literal, &p->re);
    str_free(&t.out);
    if (!e) p->jit = pcre2_jit_compile(p->re, PCRE2_JIT_COMPLETE) == 0;
    return e;
}

void pattern_free(struct pattern *p) {
    pcre2_code_free(p->re);
    *p = (struct pattern){0};
}

/* ---- matching ---- */

err matcher_init(struct matcher *m) {
    enum { STACK_FIRST = 32 << 10, STACK_MAX = 8 << 20, MATCH_STEPS_MAX = 50000000 };
    *m = (struct matcher){0};
    m->match = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(STACK_FIRST, STACK_MAX, NULL);
    if (!m->match || !m->context || !m->stack) return fail(E_MEMORY, "out of memory");
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    pcre2_set_match_limit(m->context, MATCH_STEPS_MAX);
    return OK;
}

void matcher_free(struct matcher *m) {
    pcre2_match_data_free(m->match);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    str_free(&m->view);
}

err matcher_view(struct matcher *m, const char *text, size_t n, const char **view) {
    *view = text;
    for (size_t i = 0; i < n;) {
        uint64_t eight;
        if (n - i >= sizeof eight && (memcpy(&eight, text + i, sizeof eight), (eight & 0x8080808080808080ull) == 0)) {
            i += sizeof eight;
            continue;
        }
        if ((unsigned char)text[i] < 0xE0) { /* nothing newer below U+0800 */
            i++;
            continue;
        }
        uint32_t cp;
        int len = utf8_at(text + i, &cp);
        uint32_t other = chars_stand_in(cp);
        if (other) {
            if (*view == text) {
                str_clear(&m->view);
                str_add(&m->view, text, n);
                if (m->view.failed) return fail(E_MEMORY, "out of memory");
                *view = m->view.p;
            }
            utf8_encode(other, m->view.p + i);
        }
        i += (size_t)len;
    }
    return OK;
}

static err find(const struct finder *f, bool *found, size_t *start, size_t *end) {
    PCRE2_SPTR text = (PCRE2_SPTR)f->text;
    pcre2_match_data *match = f->m->match;
    int rc = f->p->jit ? pcre2_jit_match(f->p->re, text, f->n, f->at, PCRE2_NO_UTF_CHECK, match, f->m->context)
                       : pcre2_match(f->p->re, text, f->n, f->at, PCRE2_NO_UTF_CHECK, match, f->m->context);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return OK;
    if (rc < 0) {
        char why[128];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return fail(E_INPUT, "the tokenizer's pattern cannot be matched on this text: %s", why);
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(match);
    *start = o[0];
    *end = o[1];
    return OK;
}

err finder_next(struct finder *f, bool *found, size_t *start, size_t *end) {
    for (*found = false; f->at <= f->n;) {
        TRY(find(f, found, start, end));
        if (!*found) break;
        if (*start != *end || *end != f->last) return f->at = f->last = *end, OK;
        f->at += f->at < f->n ? (size_t)utf8_len(f->text + f->at) : 1;
        *found = false;
    }
    return OK;
}
