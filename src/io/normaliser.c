/* The steps of a normaliser, each as the `tokenizers` library does it. See normaliser.h.
 *
 * Normal forms come from utf8proc, whose Unicode is newer than the library's: characters that only utf8proc would
 * change are copied, and the text between them is normalised; to the older one they are starters that compose with
 * nothing. Sets of characters are those of unicode.h.
 *
 * A step that changes nothing leaves the text where it is; ASCII passes most steps without being copied. */
#define _GNU_SOURCE /* memmem */
#include "io/normaliser.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static inline void add_char(str *out, uint32_t cp) {
    char utf8[4];
    str_add(out, utf8, (size_t)utf8_encode(cp, utf8));
}

static bool is_ascii(const char *text, size_t n) {
    size_t i = 0;
    for (uint64_t eight; i + sizeof eight <= n; i += sizeof eight) {
        memcpy(&eight, text + i, sizeof eight);
        if (eight & 0x8080808080808080ull) return false;
    }
    for (; i < n; i++)
        if ((unsigned char)text[i] >= 0x80) return false;
    return true;
}

/* ---- normal forms ---- */

static err form_run(enum normal_form form, const char *text, size_t n, str *out) {
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
    if (form != NORMAL_NFC) return is_ascii(text, n);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] >= 0xCC) return false; /* 0xCC leads U+0300 */
    return true;
}

static err add_form(enum normal_form form, const char *text, size_t n, str *out) {
    size_t run = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_at(text + i, &cp);
        if (chars_unnormalised(cp)) {
            TRY(form_run(form, text + run, i - run, out));
            str_add(out, text + i, (size_t)len);
            run = i + (size_t)len;
        }
        i += (size_t)len;
    }
    return form_run(form, text + run, n - run, out);
}

/* ---- character by character ---- */

static void add_lower(str *out, uint32_t cp, const char *as, size_t len) {
    uint32_t low = chars_lower(cp);
    if (low == cp) str_add(out, as, len);
    else add_char(out, low);
    if (cp == 0x130) add_char(out, 0x307);
}

static bool is_han(uint32_t cp) { /* as BERT's original code has it, which stops short of one extension */
    return (cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) || (cp >= 0x20000 && cp <= 0x2A6DF) ||
           (cp >= 0x2A700 && cp <= 0x2B73F) || (cp >= 0x2B740 && cp <= 0x2B81F) || (cp >= 0x2B920 && cp <= 0x2CEAF) ||
           (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x2F800 && cp <= 0x2FA1F);
}

/* BERT's first half: control characters out, white space to spaces, Chinese characters between spaces. */
static void add_clean(const struct norm_step *st, const char *text, size_t n, str *out) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = (size_t)utf8_at(text + i, &cp);
        bool removed = st->clean_text && (cp == 0 || cp == 0xFFFD || chars_has(CHARS_CONTROL, cp));
        if (removed) {
        } else if (st->clean_text && chars_has(CHARS_SPACE, cp)) str_addc(out, ' ');
        else if (st->handle_chinese && is_han(cp)) {
            str_addc(out, ' ');
            str_add(out, text + i, len);
            str_addc(out, ' ');
        } else str_add(out, text + i, len);
        i += len;
    }
}

/* BERT's second half: accents out, then lower case. */
static void add_folded(const struct norm_step *st, const char *text, size_t n, str *out) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = (size_t)utf8_at(text + i, &cp);
        if (!(st->strip_accents && chars_has(CHARS_NONSPACING, cp))) {
            if (st->lowercase) add_lower(out, cp, text + i, len);
            else str_add(out, text + i, len);
        }
        i += len;
    }
}

/* All of BERT's steps on ASCII: only cleaning and lower case do something. */
static void add_bert_ascii(const struct norm_step *st, const char *text, size_t n, str *out) {
    char part[256];
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (k == sizeof part) str_add(out, part, k), k = 0;
        if (st->lowercase && c >= 'A' && c <= 'Z') c = (unsigned char)(c + 32);
        if (st->clean_text && (c == 0 || chars_has(CHARS_CONTROL, c))) continue;
        part[k++] = (char)(st->clean_text && chars_has(CHARS_SPACE, c) ? ' ' : c);
    }
    str_add(out, part, k);
}

static err add_bert(const struct norm_step *st, const char *text, size_t n, str *out) {
    if (is_ascii(text, n)) return add_bert_ascii(st, text, n, out), OK;
    str clean = {0}, decomposed = {0};
    add_clean(st, text, n, &clean);
    err e = clean.failed ? fail(E_MEMORY, "out of memory") : OK;
    if (!e && st->strip_accents && clean.n) {
        e = add_form(NORMAL_NFD, clean.p, clean.n, &decomposed);
        add_folded(st, decomposed.p, decomposed.n, out);
    } else if (!e) add_folded(st, clean.p, clean.n, out);
    if (decomposed.failed && !e) e = fail(E_MEMORY, "out of memory");
    str_free(&clean);
    str_free(&decomposed);
    return e;
}

static bool is_nmt_removed(uint32_t cp) {
    return (cp >= 1 && cp <= 8) || cp == 0xB || (cp >= 0xE && cp <= 0x1F) || cp == 0x7F || cp == 0x8F || cp == 0x9F;
}

/* SentencePiece's "nmt" rule: some control characters out, others and odd spaces to spaces. */
static void add_nmt(const char *text, size_t n, str *out) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = (size_t)utf8_at(text + i, &cp);
        bool space = cp == 9 || cp == 0xA || cp == 0xC || cp == 0xD || cp == 0x1680 || (cp >= 0x200B && cp <= 0x200F) ||
                     cp == 0x2028 || cp == 0x2029 || cp == 0x2581 || cp == 0xFEFF || cp == 0xFFFD;
        if (space) str_addc(out, ' ');
        else if (!is_nmt_removed(cp)) str_add(out, text + i, len);
        i += len;
    }
}

static void add_lowercase(const char *text, size_t n, str *out) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = (size_t)utf8_at(text + i, &cp);
        add_lower(out, cp, text + i, len);
        i += len;
    }
}

static void add_unaccented(const char *text, size_t n, str *out) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = (size_t)utf8_at(text + i, &cp);
        if (!chars_has(CHARS_MARK, cp)) str_add(out, text + i, len);
        i += len;
    }
}

/* ---- strip, replace ---- */

static void strip(const struct norm_step *st, struct normal *x) {
    uint32_t cp;
    size_t start = 0, end = x->n;
    while (st->left && start < end && chars_has(CHARS_SPACE, (utf8_at(x->text + start, &cp), cp)))
        start += (size_t)utf8_len(x->text + start);
    while (st->right && end > start) {
        size_t at = end - 1;
        while (at > start && ((unsigned char)x->text[at] & 0xC0) == 0x80) at--;
        if (!chars_has(CHARS_SPACE, (utf8_at(x->text + at, &cp), cp))) break;
        end = at;
    }
    x->cut |= start > 0;
    x->text += start;
    x->n = end - start;
}

/* Plain text to find: no regex engine is needed. False when there is none, and nothing was added. */
static bool add_replaced(const struct norm_step *st, const char *text, size_t n, str *out) {
    const char *at = text, *end = text + n, *hit;
    bool any = false;
    while (st->n_literal && (hit = st->n_literal == 1 ? memchr(at, st->literal[0], (size_t)(end - at))
                                                      : memmem(at, (size_t)(end - at), st->literal, st->n_literal))) {
        str_add(out, at, (size_t)(hit - at));
        str_add(out, st->content, st->n_content);
        at = hit + st->n_literal;
        any = true;
    }
    if (any) str_add(out, at, (size_t)(end - at));
    return any;
}

static err add_matched(const struct norm_step *st, struct matcher *m, const char *text, size_t n, str *out) {
    struct finder f = {.p = &st->pattern, .m = m, .n = n, .last = SIZE_MAX};
    size_t done = 0, start, end;
    TRY(matcher_view(m, text, n, &f.text));
    for (bool found;;) {
        TRY(finder_next(&f, &found, &start, &end));
        if (!found) break;
        str_add(out, text + done, start - done);
        str_add(out, st->content, st->n_content);
        done = end;
    }
    str_add(out, text + done, n - done);
    return OK;
}

/* ---- all together ---- */

/* Does the step remove the text's first character? To the reference what is left then does not begin the text. */
static bool cuts_first(const struct norm_step *st, const char *text, size_t n) {
    uint32_t cp;
    if (n == 0) return false;
    utf8_at(text, &cp);
    switch (st->kind) {
    case NORM_STRIP_ACCENTS: return chars_has(CHARS_MARK, cp);
    case NORM_NMT: return is_nmt_removed(cp);
    case NORM_BERT:
        return (st->strip_accents && chars_has(CHARS_NONSPACING, cp)) ||
               (st->clean_text && (cp == 0 || cp == 0xFFFD || chars_has(CHARS_CONTROL, cp)));
    case NORM_REPLACE:
        return st->literal && !st->n_content && n >= st->n_literal && !memcmp(text, st->literal, st->n_literal);
    default: return false;
    }
}

/* One step on x, whose text may become s->next. */
static err apply(const struct norm_step *st, struct norm_scratch *s, enum lead lead, struct normal *x, bool *changed) {
    str *out = &s->next;
    *changed = true;
    str_clear(out);
    switch (st->kind) {
    case NORM_FORM:
        if ((*changed = !is_normal(st->form, x->text, x->n))) TRY(add_form(st->form, x->text, x->n, out));
        break;
    case NORM_LOWERCASE: add_lowercase(x->text, x->n, out); break;
    case NORM_STRIP_ACCENTS:
        if ((*changed = !is_ascii(x->text, x->n))) add_unaccented(x->text, x->n, out);
        break;
    case NORM_PREPEND:
        if (!(*changed = x->n > 0 && lead != LEAD_MIDDLE)) break;
        str_add(out, st->content, st->n_content);
        str_add(out, x->text, x->n);
        break;
    case NORM_REPLACE:
        if (st->literal) *changed = add_replaced(st, x->text, x->n, out);
        else TRY(add_matched(st, &s->matcher, x->text, x->n, out));
        break;
    case NORM_STRIP: strip(st, x), *changed = false; break;
    case NORM_NMT: add_nmt(x->text, x->n, out); break;
    case NORM_BERT: TRY(add_bert(st, x->text, x->n, out)); break;
    case NORM_CHARSMAP: TRY(charsmap_apply(&st->map, x->text, x->n, out)); break;
    }
    return out->failed ? fail(E_MEMORY, "out of memory") : OK;
}

err norm_apply(const struct normaliser *z, struct norm_scratch *s, const char *text, size_t n, enum lead lead,
               struct normal *out) {
    *out = (struct normal){text, n, false};
    for (int i = 0; i < z->n; i++) {
        bool changed;
        out->cut |= cuts_first(&z->step[i], out->text, out->n);
        TRY(apply(&z->step[i], s, lead, out, &changed));
        if (!changed) continue;
        str swap = s->now;
        s->now = s->next;
        s->next = swap;
        out->text = s->now.p ? s->now.p : "";
        out->n = s->now.n;
    }
    return OK;
}

err norm_add(struct normaliser *z, const char *where, struct norm_step step) {
    if (z->n == NORM_STEPS_MAX) {
        pattern_free(&step.pattern);
        return fail(E_UNSUPPORTED, "%s: more than %d normalisers", where, NORM_STEPS_MAX);
    }
    z->step[z->n++] = step;
    return OK;
}

err norm_add_replace(struct normaliser *z, arena *mem, const char *where, struct norm_step step, bool literal,
                     const char *pattern, size_t n) {
    step.kind = NORM_REPLACE;
    step.content = arena_strn(mem, step.content, step.n_content);
    step.literal = literal ? arena_strn(mem, pattern, n) : NULL;
    step.n_literal = literal ? n : 0;
    if (!step.content || (literal && !step.literal)) return fail(E_MEMORY, "%s: out of memory", where);
    if (!literal) TRY(pattern_compile(where, pattern, n, false, &step.pattern));
    return norm_add(z, where, step);
}

void norm_free(struct normaliser *z) {
    for (int i = 0; i < z->n; i++) pattern_free(&z->step[i].pattern);
    z->n = 0;
}
