/* The stages of a pre-tokeniser. See pretokenizer.h for the contract.
 *
 * A stage is a walk over the parts of a piece: matches, and what lies between them; its kind says how the two are
 * joined to pieces. */
#include "io/pretokenizer.h"
#include <stdlib.h>
#include <string.h>

/* ---- building ---- */

err pre_add(struct pretokenizer *p, const char *where, struct stage stage) {
    if (p->n == STAGES_MAX) {
        pattern_free(&stage.pattern);
        return fail(E_UNSUPPORTED, "%s: more than %d stages", where, STAGES_MAX);
    }
    p->stage[p->n++] = stage;
    return OK;
}

err pre_add_split(struct pretokenizer *p, const char *where, const char *pattern, size_t n, bool literal,
                  enum split_kind kind, bool invert) {
    struct stage st = {.kind = STAGE_PATTERN, .split = kind, .invert = invert};
    TRY(pattern_compile(where, pattern, n, literal, &st.pattern));
    return pre_add(p, where, st);
}

void pre_free(struct pretokenizer *p) {
    for (int i = 0; i < p->n; i++) pattern_free(&p->stage[i].pattern);
    p->n = 0;
}

err pre_scratch_init(struct pre_scratch *s) { return matcher_init(&s->matcher); }

void pre_scratch_free(struct pre_scratch *s) {
    matcher_free(&s->matcher);
    free(s->now.v);
    free(s->next.v);
    str_free(&s->text);
}

/* ---- pieces ---- */

static err grow(struct pieces *p) {
    size_t cap = p->cap ? p->cap * 2 : 256;
    struct piece *v = realloc(p->v, cap * sizeof *v);
    if (!v) return fail(E_MEMORY, "out of memory for %zu pieces of text", cap);
    p->v = v;
    p->cap = cap;
    return OK;
}

static inline err push(struct pieces *p, size_t start, size_t end) {
    if (p->n == p->cap) TRY(grow(p));
    p->v[p->n++] = (struct piece){(uint32_t)start, (uint32_t)end};
    return OK;
}

/* The parts of one piece on their way into `out`; pieces never grow together with those before `first`. */
struct parts {
    struct pieces *out;
    size_t first;
    bool before; /* the part before was a match */
};

/* One part, a match or what lies between two; joining kinds lengthen the part before. */
static inline err add_part(const struct stage *st, struct parts *p, size_t start, size_t end, bool match) {
    bool joins = false, was = p->before;
    p->before = match;
    switch (st->split) {
    case SPLIT_ISOLATED: break;
    case SPLIT_REMOVED:
        if (match) return OK;
        break;
    case SPLIT_WITH_PREVIOUS: joins = match && !was; break;
    case SPLIT_WITH_NEXT: joins = !match && was; break;
    case SPLIT_CONTIGUOUS: joins = match == was; break;
    }
    if (joins && p->out->n > p->first) return p->out->v[p->out->n - 1].end = (uint32_t)end, OK;
    return push(p->out, start, end);
}

/* ---- stages ---- */

static err split_pattern(const struct stage *st, struct pre_scratch *s, const char *view, struct piece piece) {
    struct parts p = {.out = &s->next, .first = s->next.n};
    size_t base = piece.start, n = piece.end - piece.start, done = 0, start, end;
    struct finder f = {&st->pattern, &s->matcher, view + base, n, 0, SIZE_MAX};
    for (bool found;;) {
        TRY(finder_next(&f, &found, &start, &end));
        if (!found) break;
        if (start > done) TRY(add_part(st, &p, base + done, base + start, st->invert));
        TRY(add_part(st, &p, base + start, base + end, !st->invert));
        done = end;
    }
    if (done < n) TRY(add_part(st, &p, base + done, base + n, st->invert));
    size_t kept = p.first;
    for (size_t i = p.first; i < s->next.n; i++)
        if (s->next.v[i].start < s->next.v[i].end) s->next.v[kept++] = s->next.v[i];
    s->next.n = kept;
    return OK;
}

static err split_chars(const struct stage *st, struct pre_scratch *s, const char *text, struct piece piece) {
    struct parts p = {.out = &s->next, .first = s->next.n};
    size_t done = piece.start;
    for (size_t i = piece.start; i < piece.end;) {
        uint32_t cp;
        size_t len = (size_t)utf8_at(text + i, &cp);
        if (chars_has(st->set, cp)) {
            if (i > done) TRY(add_part(st, &p, done, i, false));
            TRY(add_part(st, &p, i, i + len, true));
            done = i + len;
        }
        i += len;
    }
    return done < piece.end ? add_part(st, &p, done, piece.end, false) : OK;
}

static err split_words(struct pre_scratch *s, const char *text, struct piece piece) {
    enum { SPACE, WORD, OTHER } now, was = SPACE;
    size_t start = piece.start;
    for (size_t i = piece.start; i < piece.end;) {
        uint32_t cp;
        size_t len = (size_t)utf8_at(text + i, &cp);
        now = chars_has(CHARS_WORD, cp) ? WORD : chars_has(CHARS_SPACE, cp) ? SPACE : OTHER;
        if (now != was) {
            if (was != SPACE) TRY(push(&s->next, start, i));
            start = i;
            was = now;
        }
        i += len;
    }
    return was != SPACE ? push(&s->next, start, piece.end) : OK;
}

/* The pieces as they are, with what `put` adds: their text moves into s->text. */
struct rewriting {
    const struct stage *st;
    enum lead lead;
    str out;
    err (*put)(struct rewriting *r, struct pre_scratch *s, const char *text, struct piece piece);
};

static err put_prefix_space(struct rewriting *r, struct pre_scratch *s, const char *text, struct piece piece) {
    size_t start = r->out.n;
    bool middle = r->lead == LEAD_MIDDLE && piece.start == 0;
    if (text[piece.start] != ' ' && !middle) str_addc(&r->out, ' ');
    str_add(&r->out, text + piece.start, piece.end - piece.start);
    return push(&s->next, start, r->out.n);
}

static err put_metaspace(struct rewriting *r, struct pre_scratch *s, const char *text, struct piece piece) {
    const char *sign = r->st->sign;
    size_t n_sign = strlen(sign), start = r->out.n, n = piece.end - piece.start;
    const char *at = text + piece.start, *end = at + n;
    bool has = *at == ' ' || (n >= n_sign && !memcmp(at, sign, n_sign));
    bool middle = r->lead == LEAD_MIDDLE && piece.start == 0;
    bool first = r->lead == LEAD_TEXT && piece.start == 0;
    if (!has && !middle && (r->st->prepend == PREPEND_ALWAYS || (r->st->prepend == PREPEND_FIRST && first)))
        str_add(&r->out, sign, n_sign);
    while (at < end) {
        const char *next = at;
        while (next < end && *next != ' ' && *next != *sign) next++;
        str_add(&r->out, at, (size_t)(next - at));
        if (next == end) break;
        bool is_sign = *next == ' ' || ((size_t)(end - next) >= n_sign && !memcmp(next, sign, n_sign));
        size_t len = *next == ' ' ? 1 : is_sign ? n_sign : (size_t)utf8_len(next);
        if (is_sign && r->st->cut && r->out.n > start) {
            TRY(push(&s->next, start, r->out.n));
            start = r->out.n;
        }
        if (is_sign) str_add(&r->out, sign, n_sign);
        else str_add(&r->out, next, len);
        at = next + len;
    }
    return push(&s->next, start, r->out.n);
}

static err rewrite(struct rewriting *r, struct pre_scratch *s, const char **text, size_t *n) {
    err e = OK;
    for (size_t i = 0; i < s->now.n && !e; i++) e = r->put(r, s, *text, s->now.v[i]);
    if (!e && (r->out.failed || r->out.n > INT32_MAX)) e = fail(E_MEMORY, "out of memory");
    if (e) return str_free(&r->out), e;
    str_free(&s->text);
    s->text = r->out;
    *text = r->out.p ? r->out.p : "";
    *n = r->out.n;
    return OK;
}

static err run(const struct stage *st, struct pre_scratch *s, enum lead lead, const char **text, size_t *n) {
    const char *view = *text;
    s->next.n = 0;
    switch (st->kind) {
    case STAGE_PATTERN:
        if (!st->pattern.literal) TRY(matcher_view(&s->matcher, *text, *n, &view));
        for (size_t k = 0; k < s->now.n; k++) TRY(split_pattern(st, s, view, s->now.v[k]));
        break;
    case STAGE_CHARS:
        for (size_t k = 0; k < s->now.n; k++) TRY(split_chars(st, s, *text, s->now.v[k]));
        break;
    case STAGE_WORDS:
        for (size_t k = 0; k < s->now.n; k++) TRY(split_words(s, *text, s->now.v[k]));
        break;
    case STAGE_PREFIX_SPACE:
        return rewrite(&(struct rewriting){.st = st, .lead = lead, .put = put_prefix_space}, s, text, n);
    case STAGE_METASPACE: return rewrite(&(struct rewriting){.st = st, .lead = lead, .put = put_metaspace}, s, text, n);
    }
    return OK;
}

err pre_split(const struct pretokenizer *p, struct pre_scratch *s, const char *text, size_t n, enum lead lead,
              const char **out) {
    s->now.n = 0;
    if (n) TRY(push(&s->now, 0, n));
    for (int i = 0; i < p->n; i++) {
        TRY(run(&p->stage[i], s, lead, &text, &n));
        struct pieces swap = s->now;
        s->now = s->next;
        s->next = swap;
    }
    *out = text;
    return OK;
}
