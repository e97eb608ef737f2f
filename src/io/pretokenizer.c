/* Normal forms with utf8proc, splitting with PCRE2. See pretokenizer.h for the contract.
 *
 * Ids must equal those of the `tokenizers` library, so three differences between its engines and ours are evened out:
 *   - The Unicode version. Its oniguruma knows Unicode 16, Debian's PCRE2 10.42 knows 14. For matching only, characters
 *     newer than 14 are replaced by an older one of the same category and the same length in UTF-8: then every class by
 *     category agrees, whatever the pattern, and offsets stay. U+180E, which only PCRE2 takes for white space, is
 *     replaced likewise. A newer PCRE2 changes nothing.
 *   - Its normaliser knows Unicode 9, utf8proc knows 15 or later. Characters that only utf8proc would change are
 * copied, and the text between them is normalised: to the older one they are starters that compose with nothing.
 *   - The regex language. translate() rewrites what differs and refuses what it cannot.
 * unicode_ages.def has the tables; tests/golden/make/tokenizer.py makes them by asking the library about every
 * character. */
#include "io/pretokenizer.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct age_range {
    uint32_t first, last, stand_in;
};
static const struct age_range newer_chars[] = {
#define NEWER(first, last, stand_in) {first, last, stand_in},
#include "io/unicode_ages.def"
};
static const struct age_range unnormalised_chars[] = {
#define UNNORMALISED(first, last) {first, last, 0},
#include "io/unicode_ages.def"
};

static const struct age_range *age_find(const struct age_range *table, size_t n, uint32_t cp) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > table[mid].last) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && cp >= table[lo].first ? &table[lo] : NULL;
}

/* The code point at s of text known to be valid, and its length. */
static inline int utf8_at(const char *s, uint32_t *cp) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return *cp = u[0], 1;
    if (u[0] < 0xE0) return *cp = (u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu), 2;
    if (u[0] < 0xF0) return *cp = (u[0] & 0xFu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu), 3;
    return *cp = (u[0] & 7u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 | (u[3] & 0x3Fu), 4;
}

/* ---- normal forms ---- */

static err normalise_run(enum normal_form form, const char *text, size_t n, str *out) {
    static const utf8proc_option_t options[] = {
        [NORMAL_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [NORMAL_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [NORMAL_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [NORMAL_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    if (n == 0) return OK;
    utf8proc_uint8_t *normal = NULL;
    utf8proc_ssize_t k = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &normal, options[form]);
    if (k < 0) return fail(E_MEMORY, "cannot normalise %zu bytes of text: %s", n, utf8proc_errmsg(k));
    str_add(out, (const char *)normal, (size_t)k);
    free(normal);
    return OK;
}

/* True when no character can change: ASCII never does, and below U+0300 composed letters stay composed. */
static bool is_normal(enum normal_form form, const char *text, size_t n) {
    unsigned char least = form == NORMAL_NFC ? 0xCC : 0x80; /* 0xCC leads U+0300 */
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] >= least) return false;
    return true;
}

static err normalise(enum normal_form form, const char *text, size_t n, str *out) {
    size_t run = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_at(text + i, &cp);
        if (cp >= 0x300 && age_find(unnormalised_chars, sizeof unnormalised_chars / sizeof *unnormalised_chars, cp)) {
            TRY(normalise_run(form, text + run, i - run, out));
            str_add(out, text + i, (size_t)len);
            run = i + (size_t)len;
        }
        i += (size_t)len;
    }
    TRY(normalise_run(form, text + run, n - run, out));
    return out->failed ? fail(E_MEMORY, "out of memory") : OK;
}

err pre_normalise(const struct pretokenizer *p, const char *text, size_t n, str *buf, const char **out, size_t *out_n) {
    *out = text;
    *out_n = n;
    for (int i = 0; i < p->n_forms; i++) {
        if (is_normal(p->form[i], *out, *out_n)) continue;
        str fresh = {0};
        err e = normalise(p->form[i], *out, *out_n, &fresh);
        str_free(buf);
        *buf = fresh;
        if (e) return e;
        *out = fresh.p;
        *out_n = fresh.n;
    }
    return OK;
}

err pre_add_form(struct pretokenizer *p, const char *where, enum normal_form form) {
    if (p->n_forms == NORMAL_FORMS_MAX)
        return fail(E_UNSUPPORTED, "%s: more than %d normalisers", where, NORMAL_FORMS_MAX);
    p->form[p->n_forms++] = form;
    return OK;
}

/* ---- patterns ---- */

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

/* A backslash and what it introduces. Oniguruma's word characters include marks and connectors, PCRE2's do not. */
static err translate_escape(struct translation *t) {
    if (t->i + 1 >= t->n) return refuse(t, t->i, "a backslash at the end");
    char c = t->p[t->i + 1];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == 'w') str_adds(&t->out, t->in_class ? "\\p{L}\\p{M}\\p{N}\\p{Pc}" : "[\\p{L}\\p{M}\\p{N}\\p{Pc}]");
    else if (c == 'W' && !t->in_class) str_adds(&t->out, "[^\\p{L}\\p{M}\\p{N}\\p{Pc}]");
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
    if (strchr("pPx", c) && t->i < t->n && t->p[t->i] == '{') { /* the name or number that it takes */
        const char *end = memchr(t->p + t->i, '}', t->n - t->i);
        if (!end) return refuse(t, t->i, "an open brace");
        str_add(&t->out, t->p + t->i, (size_t)(end + 1 - (t->p + t->i)));
        t->i = (size_t)(end + 1 - t->p);
    }
    return OK;
}

static err translate_group(struct translation *t) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"};
    if (t->i + 1 < t->n && t->p[t->i + 1] == '?') {
        size_t len = 0;
        for (size_t k = 0; k < sizeof known / sizeof *known && len == 0; k++)
            if (t->n - t->i >= strlen(known[k]) && !memcmp(t->p + t->i, known[k], strlen(known[k])))
                len = strlen(known[k]);
        if (len == 0) return refuse(t, t->i, "this kind of group");
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

static err stage_new(struct pretokenizer *p, const char *where, struct stage **st) {
    if (p->n_stages == STAGES_MAX) return fail(E_UNSUPPORTED, "%s: more than %d stages", where, STAGES_MAX);
    *st = &p->stage[p->n_stages++];
    **st = (struct stage){0};
    return OK;
}

err pre_add_split(struct pretokenizer *p, const char *where, const char *pattern, size_t n, bool literal,
                  enum split_kind kind, bool invert) {
    struct translation t = {.where = where, .p = pattern, .n = n};
    pcre2_code *re = NULL;
    err e = literal ? OK : translate(&t);
    if (!e) e = compile(where, literal ? pattern : t.out.p ? t.out.p : "", literal ? n : t.out.n, literal, &re);
    str_free(&t.out);
    TRY(e);
    struct stage *st = NULL;
    e = stage_new(p, where, &st);
    if (e) return pcre2_code_free(re), e;
    *st = (struct stage){re, pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) == 0, literal, invert, kind};
    return OK;
}

err pre_add_prefix_space(struct pretokenizer *p, const char *where) {
    struct stage *st = NULL;
    return stage_new(p, where, &st);
}

void pre_free(struct pretokenizer *p) {
    for (int i = 0; i < p->n_stages; i++) pcre2_code_free(p->stage[i].re);
    p->n_stages = 0;
}

/* ---- splitting ---- */

err pre_scratch_init(struct pre_scratch *s) {
    enum { STACK_FIRST = 32 << 10, STACK_MAX = 8 << 20, MATCH_STEPS_MAX = 50000000 };
    s->match = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(STACK_FIRST, STACK_MAX, NULL);
    if (!s->match || !s->context || !s->stack) return fail(E_MEMORY, "out of memory");
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    pcre2_set_match_limit(s->context, MATCH_STEPS_MAX);
    return OK;
}

void pre_scratch_free(struct pre_scratch *s) {
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    free(s->now.v);
    free(s->next.v);
    str_free(&s->text);
    str_free(&s->view);
}

static err push(struct pieces *p, size_t start, size_t end) {
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 256;
        struct piece *v = realloc(p->v, cap * sizeof *v);
        if (!v) return fail(E_MEMORY, "out of memory for %zu pieces of text", cap);
        p->v = v;
        p->cap = cap;
    }
    p->v[p->n++] = (struct piece){(uint32_t)start, (uint32_t)end};
    return OK;
}

/* Sets *view to the text with stand-ins for newer characters: the text itself when it has none. */
static err make_view(struct pre_scratch *s, const char *text, size_t n, const char **view) {
    *view = text;
    for (size_t i = 0; i < n;) {
        if ((unsigned char)text[i] < 0xE0) { /* nothing newer below U+0800 */
            i++;
            continue;
        }
        uint32_t cp;
        int len = utf8_at(text + i, &cp);
        const struct age_range *r = age_find(newer_chars, sizeof newer_chars / sizeof *newer_chars, cp);
        if (r) {
            if (*view == text) {
                str_clear(&s->view);
                str_add(&s->view, text, n);
                if (s->view.failed) return fail(E_MEMORY, "out of memory");
                *view = s->view.p;
            }
            utf8_encode(r->stand_in, s->view.p + i);
        }
        i += (size_t)len;
    }
    return OK;
}

static err insert_spaces(struct pre_scratch *s, const char **text, size_t *n) {
    str out = {0};
    for (size_t i = 0; i < s->now.n; i++) {
        struct piece *p = &s->now.v[i];
        size_t start = out.n;
        if ((*text)[p->start] != ' ') str_addc(&out, ' ');
        str_add(&out, *text + p->start, p->end - p->start);
        *p = (struct piece){(uint32_t)start, (uint32_t)out.n};
    }
    if (out.failed || out.n > INT32_MAX) return str_free(&out), fail(E_MEMORY, "out of memory");
    str_free(&s->text);
    s->text = out;
    *text = out.p;
    *n = out.n;
    return OK;
}

/* One part of a piece, a match or what lies between two; merging kinds lengthen the part before. `first` is where the
 * parts of this piece begin, so that pieces never grow together. */
static err add_part(const struct stage *st, struct pieces *out, size_t first, size_t start, size_t end, bool match,
                    bool *before) {
    bool joins = false, was = *before;
    match ^= st->invert;
    *before = match;
    switch (st->kind) {
    case SPLIT_ISOLATED: break;
    case SPLIT_REMOVED:
        if (match) return OK;
        break;
    case SPLIT_WITH_PREVIOUS: joins = match && !was; break;
    case SPLIT_WITH_NEXT: joins = !match && was; break;
    case SPLIT_CONTIGUOUS: joins = match == was; break;
    }
    if (joins && out->n > first) return out->v[out->n - 1].end = (uint32_t)end, OK;
    return push(out, start, end);
}

/* Finds the next match at or after `at`. */
static err find(const struct stage *st, struct pre_scratch *s, const char *text, size_t n, size_t at, bool *found,
                size_t *start, size_t *end) {
    int rc = st->jit ? pcre2_jit_match(st->re, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, s->match, s->context)
                     : pcre2_match(st->re, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, s->match, s->context);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return OK;
    if (rc < 0) {
        char why[128];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return fail(E_INPUT, "the pre-tokeniser's pattern cannot be matched on this text: %s", why);
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(s->match);
    *start = o[0];
    *end = o[1];
    return OK;
}

/* Parts of the piece [base, base + n). An empty match right after a match does not count, as in oniguruma's iterator;
 * any other cuts the text in two. */
static err split_piece(const struct stage *st, struct pre_scratch *s, const char *view, size_t base, size_t n) {
    struct pieces *out = &s->next;
    size_t first = out->n, done = 0, at = 0, start, end, last_end = SIZE_MAX;
    bool found, before = false;
    while (at <= n) {
        TRY(find(st, s, view + base, n, at, &found, &start, &end));
        if (!found) break;
        if (start == end && end == last_end) {
            uint32_t cp;
            at += at < n ? (size_t)utf8_at(view + base + at, &cp) : 1;
            continue;
        }
        at = last_end = end;
        if (start > done) TRY(add_part(st, out, first, base + done, base + start, false, &before));
        TRY(add_part(st, out, first, base + start, base + end, true, &before));
        done = end;
    }
    if (done < n) TRY(add_part(st, out, first, base + done, base + n, false, &before));
    size_t kept = first;
    for (size_t i = first; i < out->n; i++)
        if (out->v[i].start < out->v[i].end) out->v[kept++] = out->v[i];
    out->n = kept;
    return OK;
}

err pre_split(const struct pretokenizer *p, struct pre_scratch *s, const char *text, size_t n, const char **out) {
    const char *view;
    s->now.n = 0;
    if (n) TRY(push(&s->now, 0, n));
    TRY(make_view(s, text, n, &view));
    for (int i = 0; i < p->n_stages; i++) {
        const struct stage *st = &p->stage[i];
        if (!st->re) {
            TRY(insert_spaces(s, &text, &n));
            TRY(make_view(s, text, n, &view));
            continue;
        }
        s->next.n = 0;
        for (size_t k = 0; k < s->now.n; k++)
            TRY(split_piece(st, s, st->literal ? text : view, s->now.v[k].start, s->now.v[k].end - s->now.v[k].start));
        struct pieces swap = s->now;
        s->now = s->next;
        s->next = swap;
    }
    *out = text;
    return OK;
}
