/* See said.h. */
#define XXH_INLINE_ALL
#include "data/said.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

err said_text(const struct record *r, str *out) {
    const char *const texts[] = {r->text, r->prompt, r->completion};
    const size_t from = out->n;
    for (int i = 0; i < 3; i++)
        if (texts[i]) str_addf(out, "%s%s", out->n > from ? "\n" : "", texts[i]);
    for (int i = 0; i < r->n_turns; i++) str_addf(out, "%s%s", out->n > from ? "\n" : "", r->turns[i].content);
    return out->failed ? out_of_memory() : OK;
}

/* Appends with white space as single spaces. */
static void add_spaced(str *out, const char *text, size_t n, bool lower) {
    const size_t from = out->n;
    bool gap = false;
    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        if (strchr(" \t\r\n\f\v", c) && c) {
            gap = true;
            continue;
        }
        if (gap && out->n > from) str_addc(out, ' ');
        gap = false;
        str_addc(out, lower && c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
    }
}

err said_normal(const char *text, size_t n, str *out) {
    size_t plain = 0;
    while (plain < n && (unsigned char)text[plain] < 0x80) plain++;
    if (plain == n) add_spaced(out, text, n, true); /* what the rest does to ASCII */
    else {
        utf8proc_uint8_t *folded = NULL;
        const utf8proc_ssize_t m = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &folded,
                                                UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD);
        if (m < 0) return fail(E_INPUT, "%s", utf8proc_errmsg(m));
        add_spaced(out, (const char *)folded, (size_t)m, false);
        free(folded);
    }
    str_add(out, "", 0);
    return out->failed ? out_of_memory() : OK;
}

err said(const struct record *r, str *out) {
    str text = {0};
    err e = said_text(r, &text);
    if (!e) e = said_normal(text.p ? text.p : "", text.n, out);
    str_free(&text);
    return e;
}

/* --- pieces --------------------------------------------------------------------------------------------------------- */
err hashes_add(struct hashes *h, uint64_t x) {
    if (h->n == h->cap) {
        const size_t cap = 2 * h->cap + 64;
        uint64_t *v = realloc(h->v, cap * sizeof *v);
        if (!v) return out_of_memory();
        h->v = v, h->cap = cap;
    }
    h->v[h->n++] = x;
    return OK;
}

void hashes_free(struct hashes *h) {
    free(h->v);
    *h = (struct hashes){0};
}

/* A character that is a word: scripts that put no spaces between words. */
static bool stands_alone(unsigned cp) {
    return (cp >= 0x0E00 && cp < 0x0F00) || (cp >= 0x3040 && cp < 0x3100) || (cp >= 0x3400 && cp < 0xA000) ||
           (cp >= 0x20000 && cp < 0x32000);
}

static bool in_word(unsigned cp) {
    if (cp < 0x80) return isalnum((int)cp);
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NO; /* letters, marks, numbers */
}

/* The next word from *at on: false where there is none. */
static bool next_word(const char *text, size_t n, size_t *at, size_t *from, size_t *to) {
    bool inside = false;
    for (size_t i = *at, len; i < n; i += len) {
        unsigned cp = 0;
        if (!(len = (size_t)utf8_decode(text + i, n - i, &cp))) len = 1;
        const bool alone = stands_alone(cp), word = in_word(cp);
        if (inside && (!word || alone)) return *to = *at = i, true;
        if (word && !inside) *from = i, inside = true;
        if (word && alone) return *to = *at = i + len, true;
    }
    *to = *at = n;
    return inside;
}

size_t word_count(const char *normal, size_t n) {
    size_t words = 0;
    for (size_t at = 0, from, to; next_word(normal, n, &at, &from, &to);) words++;
    return words;
}

static err word_shingles(size_t size, const char *text, size_t n, struct hashes *out) {
    struct hashes words = {0};
    err e = OK;
    for (size_t at = 0, from, to; !e && next_word(text, n, &at, &from, &to);) e = hashes_add(&words, XXH3_64bits(text + from, to - from));
    const size_t width = words.n < size ? words.n : size;
    for (size_t i = 0; !e && width && i + width <= words.n; i++) e = hashes_add(out, XXH3_64bits(words.v + i, width * sizeof *words.v));
    hashes_free(&words);
    return e;
}

static size_t character(const char *s) {
    const unsigned char c = (unsigned char)*s;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

static err character_shingles(int size, const char *text, size_t n, struct hashes *out) {
    size_t from = 0, to = 0;
    for (int i = 0; i < size && to < n; i++) to += character(text + to);
    for (; n; from += character(text + from), to += character(text + to)) {
        TRY(hashes_add(out, XXH3_64bits(text + from, to - from)));
        if (to >= n) break;
    }
    return OK;
}

err shingle_hashes(const struct shingles *k, const char *normal, size_t n, struct hashes *out) {
    out->n = 0;
    return k->words ? word_shingles((size_t)k->size, normal, n, out) : character_shingles(k->size, normal, n, out);
}

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

void hashes_to_set(struct hashes *h) {
    size_t n = 0;
    if (h->n) qsort(h->v, h->n, sizeof *h->v, ascending);
    for (size_t i = 0; i < h->n; i++)
        if (!n || h->v[n - 1] != h->v[i]) h->v[n++] = h->v[i];
    h->n = n;
}

double sets_jaccard(const struct hashes *a, const struct hashes *b) {
    size_t i = 0, k = 0, both = 0;
    while (i < a->n && k < b->n) {
        const uint64_t x = a->v[i], y = b->v[k];
        both += x == y;
        i += x <= y, k += y <= x;
    }
    return a->n + b->n ? (double)both / (double)(a->n + b->n - both) : 0;
}
