/* Byte strings, nearest names, UTF-8. See str.h. */
#include "base/str.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool room(str *s, size_t more) {
    if (s->failed) return false;
    if (s->n + more + 1 <= s->cap) return true;
    size_t cap = s->cap ? s->cap : 64;
    while (cap < s->n + more + 1) cap *= 2;
    char *p = realloc(s->p, cap);
    if (!p) {
        s->failed = true;
        return false;
    }
    s->p = p;
    s->cap = cap;
    return true;
}

void str_add(str *s, const char *bytes, size_t n) {
    if (!room(s, n)) return;
    if (n) memcpy(s->p + s->n, bytes, n);
    s->n += n;
    s->p[s->n] = 0;
}

void str_adds(str *s, const char *cstr) { str_add(s, cstr, strlen(cstr)); }
void str_addc(str *s, char c) { str_add(s, &c, 1); }

void str_addf(str *s, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && room(s, (size_t)n)) {
        vsnprintf(s->p + s->n, (size_t)n + 1, fmt, again);
        s->n += (size_t)n;
    }
    va_end(again);
}

void str_clear(str *s) {
    s->n = 0;
    if (s->p) s->p[0] = 0;
}

void str_free(str *s) {
    free(s->p);
    *s = (str){0};
}

int str_distance(const char *a, const char *b) {
    int row[128], nb = (int)strlen(b);
    if (nb > 127) nb = 127;
    for (int j = 0; j <= nb; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diag = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int sub = diag + (a[i - 1] != b[j - 1]);
            diag = row[j];
            int best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            row[j] = sub < best ? sub : best;
        }
    }
    return row[nb];
}

const char *str_nearest(const char *name, const char *const *names) {
    const char *best = NULL;
    int best_d = (int)strlen(name) / 3 + 2; /* further than this is not a typo */
    for (; *names; names++) {
        int d = str_distance(name, *names);
        if (d < best_d) best_d = d, best = *names;
    }
    return best;
}

bool str_starts(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

bool str_ends(const char *s, const char *suffix) {
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

bool bytes_are_blank(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\f\v", p[i]) || !p[i]) return false;
    return true;
}

int utf8_decode(const char *s, size_t n, unsigned *cp) {
    const unsigned char *u = (const unsigned char *)s;
    if (n == 0) return 0;
    if (u[0] < 0x80) return *cp = u[0], 1;
    int len = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2;
    if (u[0] < 0xC2 || u[0] > 0xF4 || n < (size_t)len) return 0;
    unsigned v = u[0] & (0x7Fu >> len);
    for (int i = 1; i < len; i++) {
        if ((u[i] & 0xC0) != 0x80) return 0;
        v = v << 6 | (u[i] & 0x3Fu);
    }
    static const unsigned least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (v < least[len] || v > 0x10FFFF || (v >= 0xD800 && v < 0xE000)) return 0;
    *cp = v;
    return len;
}

/* Of bytes that begin with no character: how many are the beginning of one, at least 1. */
static size_t broken_length(const unsigned char *u, size_t n) {
    if (u[0] < 0xC2 || u[0] > 0xF4) return 1;
    unsigned least = u[0] == 0xE0 ? 0xA0 : u[0] == 0xF0 ? 0x90 : 0x80, most = u[0] == 0xED ? 0x9F : u[0] == 0xF4 ? 0x8F : 0xBF;
    if (n < 2 || u[1] < least || u[1] > most) return 1;
    return n > 2 && u[0] >= 0xF0 && (u[2] & 0xC0) == 0x80 ? 3 : 2;
}

void utf8_repair(str *s) {
    str out = {0};
    size_t kept = 0; /* bytes before it are in `out` */
    unsigned cp;
    for (size_t i = 0, len; i < s->n; i += len) {
        if ((len = (size_t)utf8_decode(s->p + i, s->n - i, &cp)) > 0) continue;
        len = broken_length((const unsigned char *)s->p + i, s->n - i);
        str_add(&out, s->p + kept, i - kept);
        str_adds(&out, "\xEF\xBF\xBD");
        kept = i + len;
    }
    if (!kept) return; /* all was well */
    str_add(&out, s->p + kept, s->n - kept);
    out.failed |= s->failed;
    free(s->p);
    *s = out;
}

int utf8_encode(unsigned cp, char *out) {
    if (cp < 0x80) return out[0] = (char)cp, 1;
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = len - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)(lead[len] | cp);
    return len;
}
