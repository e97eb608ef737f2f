/* See symbols.h. Lower case is Python's: one character at a time (io/unicode.h), but for two of which the whole text decides: U+0130
 * becomes two, and a capital sigma at a word's end the small letter that ends words. */
#include "data/symbols.h"
#include "base/str.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void *line_grow(void *p, size_t *cap, size_t need, size_t size) {
    if (need <= *cap) return p;
    size_t fresh = need * 2 + 64;
    void *q = realloc(p, fresh * size);
    if (q) *cap = fresh;
    return q;
}

void line_put(struct line *l, struct text *t, uint32_t c) {
    uint32_t *v = line_grow(t->v, &t->cap, t->n + 1, sizeof *v);
    if (!v) {
        l->failed = true;
        return;
    }
    t->v = v;
    t->v[t->n++] = c;
}

void *line_room(struct line *l, size_t bytes) {
    void *p = line_grow(l->room, &l->cap, bytes + 1, 1);
    if (p) l->room = p;
    else l->failed = true;
    return p;
}

static void put_word(struct line *l, struct words *w, const uint32_t *v, size_t n) {
    struct word *p = line_grow(w->v, &w->cap, w->n + 1, sizeof *p);
    if (!p) {
        l->failed = true;
        return;
    }
    w->v = p;
    w->v[w->n++] = (struct word){v, n};
}

bool char_is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool char_is_punct(uint32_t c) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

void line_decode(struct line *l, const char *s, struct text *t) {
    t->n = 0;
    for (size_t i = 0, n = strlen(s), len; i < n; i += len) {
        unsigned c;
        len = (size_t)utf8_decode(s + i, n - i, &c);
        if (!len) c = 0xFFFD, len = 1;
        line_put(l, t, c);
    }
}

void line_split(struct line *l, const struct text *t, bool punct, struct words *out) {
    out->n = 0;
    for (size_t i = 0, j; i < t->n; i = j) {
        for (j = i; j < t->n && !char_is_space(t->v[j]);) j++;
        const uint32_t *w = t->v + i;
        size_t n = j - i, head = n;
        if (punct && n > 1) head = char_is_punct(w[n - 1]) ? n - 1 : char_is_punct(w[0]) ? 1 : n;
        if (n) put_word(l, out, w, head);
        if (head < n) put_word(l, out, w + head, n - head);
        if (j < t->n) j++;
    }
}

static int word_order(const void *a, const void *b) {
    const struct word *x = a, *y = b;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return memcmp(x->v, y->v, x->n * sizeof *x->v); /* any total order will do */
}

static void number(struct line *l, const struct words *w, struct text *out) {
    out->n = 0;
    for (size_t i = 0; i < w->n; i++) {
        const struct word *at = bsearch(&w->v[i], l->sorted.v, l->sorted.n, sizeof *at, word_order);
        line_put(l, out, (uint32_t)(at - l->sorted.v));
    }
}

void line_symbols(struct line *l) {
    struct words *s = &l->sorted;
    size_t n = 0;
    s->n = 0;
    for (size_t i = 0; i < l->wh.n; i++) put_word(l, s, l->wh.v[i].v, l->wh.v[i].n);
    for (size_t i = 0; i < l->wr.n; i++) put_word(l, s, l->wr.v[i].v, l->wr.v[i].n);
    if (l->failed) return;
    if (s->n) qsort(s->v, s->n, sizeof *s->v, word_order);
    for (size_t i = 0; i < s->n; i++)
        if (!n || word_order(&s->v[n - 1], &s->v[i])) s->v[n++] = s->v[i];
    s->n = n;
    number(l, &l->wh, &l->sh);
    number(l, &l->wr, &l->sr);
}

static bool is_cased(uint32_t c) {
    const utf8proc_category_t k = utf8proc_category((int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}
/* What stands inside words without being a letter of them: marks, format characters, modifiers, and MidLetter's signs. */
static bool is_case_ignorable(uint32_t c) {
    const utf8proc_category_t k = utf8proc_category((int32_t)c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM ||
           k == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019;
}

static bool ends_word(const struct text *t, size_t i) {
    size_t a = i, b = i + 1;
    while (a && is_case_ignorable(t->v[a - 1])) a--;
    while (b < t->n && is_case_ignorable(t->v[b])) b++;
    return a && is_cased(t->v[a - 1]) && (b == t->n || !is_cased(t->v[b]));
}

void line_lower(struct line *l, const struct text *t, struct text *out) {
    out->n = 0;
    for (size_t i = 0; i < t->n; i++) {
        const uint32_t c = t->v[i];
        line_put(l, out, c == 0x3A3 && ends_word(t, i) ? 0x3C2 : chars_lower(c));
        if (c == 0x130) line_put(l, out, 0x307);
    }
}

size_t line_common(struct line *l, const struct text *a, const struct text *b) {
    uint32_t *last = line_room(l, (b->n + 1) * sizeof *last); /* the row above, overwritten from the left */
    if (!last) return 0;
    memset(last, 0, (b->n + 1) * sizeof *last);
    for (size_t i = 0; i < a->n; i++)
        for (size_t j = 1, corner = 0; j <= b->n; j++) {
            const uint32_t up = last[j];
            if (a->v[i] == b->v[j - 1]) last[j] = (uint32_t)corner + 1;
            else if (last[j - 1] > up) last[j] = last[j - 1];
            corner = up;
        }
    return last[b->n];
}

void line_free(struct line *l) {
    struct text *texts[] = {&l->h, &l->r, &l->th, &l->tr, &l->sh, &l->sr};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) free(texts[i]->v);
    free(l->wh.v);
    free(l->wr.v);
    free(l->sorted.v);
    free(l->room);
    *l = (struct line){0};
}
