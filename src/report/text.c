/* Text inside a page: escaping, numbers for people, and the difference of two texts by words.
 *
 * Samples are what models write, so they are hostile input: nothing of them may become markup, end an attribute, or turn the line around
 * (html_text). The difference is a longest common subsequence of words; of texts whose table would have more than a million cells the rest behind
 * the common beginning is one change. */
#define _POSIX_C_SOURCE 200809L
#include "report/report.h"
#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static bool turns_direction(unsigned cp) {
    return cp == 0x200e || cp == 0x200f || cp == 0x061c || (cp >= 0x202a && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069);
}

static void add_text(str *out, const char *text, size_t n) {
    while (n) {
        unsigned cp;
        const int k = utf8_decode(text, n, &cp);
        if (!k) str_adds(out, "\xef\xbf\xbd");
        else if (cp == '&') str_adds(out, "&amp;");
        else if (cp == '<') str_adds(out, "&lt;");
        else if (cp == '>') str_adds(out, "&gt;");
        else if (cp == '"') str_adds(out, "&quot;");
        else if (cp == '\'') str_adds(out, "&#39;");
        else if ((cp < 32 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0) || turns_direction(cp)) str_addf(out, "[U+%04X]", cp);
        else str_add(out, text, (size_t)k);
        text += k ? k : 1;
        n -= (size_t)(k ? k : 1);
    }
}

void html_text(str *out, const char *text) { add_text(out, text, strlen(text)); }

/* --- numbers ------------------------------------------------------------------------------------------------------------- */
static char *room(void) {
    static _Thread_local char text[8][32];
    static _Thread_local unsigned turn;
    return text[turn++ % 8];
}

enum { ROOM = 32 };
const char *bytes_text(double n) {
    char *s = room();
    snprintf(s, ROOM, n >= 1e9 ? "%.2f GB" : n >= 1e6 ? "%.1f MB" : "%.0f kB", n / (n >= 1e9 ? 1e9 : n >= 1e6 ? 1e6 : 1e3));
    return s;
}

const char *count_text(double n) {
    char *s = room();
    snprintf(s, ROOM,
             n >= 1e9   ? "%.2f B"
             : n >= 1e6 ? "%.1f M"
             : n >= 1e4 ? "%.0f k"
                        : "%.0f",
             n / (n >= 1e9   ? 1e9
                  : n >= 1e6 ? 1e6
                  : n >= 1e4 ? 1e3
                             : 1));
    return s;
}

const char *time_text(double t) {
    char *s = room();
    if (t < 60) snprintf(s, ROOM, "%.1f s", t);
    else if (t < 3600) snprintf(s, ROOM, "%d:%02d min", (int)t / 60, (int)t % 60);
    else snprintf(s, ROOM, "%d:%02d h", (int)(t / 3600), (int)fmod(t, 3600) / 60);
    return s;
}

double json_num_or(const json_t *o, const char *key, double otherwise) {
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

const char *json_str(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* --- differences --------------------------------------------------------------------------------------------------------- */
struct word {
    const char *p;
    size_t n;
};
struct words {
    struct word *v;
    int n;
};

static bool split(const char *s, struct words *w) {
    *w = (struct words){calloc(strlen(s) / 2 + 2, sizeof *w->v), 0};
    while (w->v && *s) {
        const size_t space = strspn(s, " \t\r\n"), n = strcspn(s + space, " \t\r\n");
        if (n) w->v[w->n++] = (struct word){s + space, n};
        s += space + n;
    }
    return w->v != NULL;
}

static bool same(const struct word *a, const struct word *b) { return a->n == b->n && !memcmp(a->p, b->p, a->n); }

static void put(str *out, const char *tag, const struct word *w) {
    str_addf(out, *tag ? "<%s>" : "%s", tag);
    add_text(out, w->p, w->n);
    str_addf(out, *tag ? "</%s> " : "%s ", tag);
}

/* Lengths of common subsequences from (i, j) on, of a's n words and b's m. */
static uint16_t *common(const struct word *a, int n, const struct word *b, int m) {
    uint16_t *t = calloc((size_t)(n + 1) * (size_t)(m + 1), sizeof *t);
    for (int i = n - 1; t && i >= 0; i--)
        for (int j = m - 1; j >= 0; j--) {
            uint16_t *at = t + (size_t)i * (size_t)(m + 1) + j, right = at[1], down = at[m + 1];
            *at = same(&a[i], &b[j]) ? (uint16_t)(at[m + 2] + 1) : right > down ? right : down;
        }
    return t;
}

static err changed(str *out, const struct word *a, int n, const struct word *b, int m) {
    const bool small = (int64_t)n * m <= 1000000;
    uint16_t *t = small ? common(a, n, b, m) : NULL;
    int i = 0, j = 0;
    if (small && !t) return fail(E_MEMORY, "out of memory");
    while (i < n || j < m) {
        const uint16_t *at = t ? t + (size_t)i * (size_t)(m + 1) + j : NULL;
        if (at && i < n && j < m && same(&a[i], &b[j])) put(out, "", &a[i]), i++, j++;
        else if (j < m && (i == n || !at || at[1] >= at[m + 1])) put(out, "del", &b[j++]);
        else put(out, "ins", &a[i++]);
    }
    free(t);
    return OK;
}

err html_difference(str *out, const char *text, const char *other) {
    struct words a, b = {0};
    err e = split(text, &a) && split(other, &b) ? OK : fail(E_MEMORY, "out of memory");
    int k = 0;
    for (; !e && k < a.n && k < b.n && same(&a.v[k], &b.v[k]); k++) put(out, "", &a.v[k]);
    if (!e) e = changed(out, a.v + k, a.n - k, b.v + k, b.n - k);
    free(a.v);
    free(b.v);
    return e;
}
