/* See term.h. */
#define _GNU_SOURCE
#include "term.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static bool dumb(void) {
    const char *term = getenv("TERM");
    return !term || !strcmp(term, "dumb");
}

bool term_tty(void) { return isatty(STDOUT_FILENO) && !dumb(); }

bool term_colour(void) {
    const char *no = getenv("NO_COLOR");
    return term_tty() && !(no && *no);
}

int term_width(void) {
    struct winsize w;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20) return w.ws_col;
    return 100;
}

const char *term_bold(void) { return term_colour() ? "\033[1m" : ""; }
const char *term_dim(void) { return term_colour() ? "\033[2m" : ""; }
const char *term_good(void) { return term_colour() ? "\033[1;32m" : ""; }
const char *term_off(void) { return term_colour() ? "\033[0m" : ""; }

/* A few buffers in turn, so that one printf can show several. */
static char *buffer(void) {
    static char ring[8][32];
    static int next;
    return ring[next++ % 8];
}

static const char *scaled(double n, const char *const *units, int n_units, const char *space) {
    char *out = buffer();
    int u = 0;
    while (fabs(n) >= 999.5 && u < n_units - 1) n /= 1000, u++;
    snprintf(out, 32, "%.*f%s%s", u == 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2, n, space, units[u]);
    return out;
}

const char *show_bytes(double n) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    return scaled(n, units, 5, " ");
}

const char *show_count(double n) {
    static const char *const units[] = {"", "k", "M", "G", "T"};
    return scaled(n, units, 5, "");
}

const char *show_time(double seconds) {
    char *out = buffer();
    long s = seconds >= 0 && seconds < 1e8 ? lround(seconds) : 0;
    if (s >= 3600) snprintf(out, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
    return out;
}

/* --- the progress line ----------------------------------------------------------------------------------------------
 */
static bool shown;

void progress_clear(void) {
    if (shown) fputs("\r\033[K", stdout);
    shown = false;
}

void progress_show(const char *line) {
    str s = {0};
    text_one_line(&s, line, term_width() - 1);
    progress_clear();
    fputs(s.p ? s.p : "", stdout);
    fflush(stdout);
    shown = true;
    str_free(&s);
}

void text_one_line(str *out, const char *text, int columns) {
    size_t n = strlen(text), start = out->n, cut = 0;
    for (int col = 0; n; col++) {
        unsigned cp = 0xFFFD;
        int len = utf8_decode(text, n, &cp);
        if (columns && col == columns - 1) cut = out->n;
        if (columns && col >= columns) {
            out->n = cut;
            str_adds(out, "…");
            return;
        }
        if (!len) str_adds(out, "\xEF\xBF\xBD");
        else if (cp == '\n') str_adds(out, "\\n"), col++;
        else if (cp == '\t') str_adds(out, "\\t"), col++;
        else if (cp < 0x20 || (cp >= 0x7F && cp < 0xA0)) str_addf(out, "\\x%02x", cp), col += 3;
        else str_add(out, text, (size_t)len);
        text += len ? len : 1;
        n -= (size_t)(len ? len : 1);
    }
    if (out->n == start) str_adds(out, "");
}

void print_wrapped(const char *text) {
    int column = 0, width = term_width();
    for (size_t n; *text; text += n + (text[n] == ' ')) {
        n = strcspn(text, " ");
        if (column && column + 1 + (int)n >= width) column = 0, putchar('\n');
        column += printf(column ? " %.*s" : "%.*s", (int)n, text);
    }
    putchar('\n');
}

/* --- tables ---------------------------------------------------------------------------------------------------------
 */
void table_head(struct table *t, const char *head) {
    if (t->columns < TABLE_COLUMNS) t->head[t->columns++] = head;
}

void table_text(struct table *t, const char *text) {
    text_one_line(&t->cells, text, 0);
    str_addc(&t->cells, 0);
}

void table_cell(struct table *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *text = NULL;
    if (vasprintf(&text, fmt, ap) < 0) text = NULL;
    va_end(ap);
    table_text(t, text ? text : "");
    free(text);
}

void table_number(struct table *t, const json_t *o, const char *key, const char *fmt) {
    const json_t *v = json_object_get(o, key);
    char text[64] = "";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (json_is_number(v)) snprintf(text, sizeof text, fmt, json_number_value(v));
#pragma GCC diagnostic pop
    table_text(t, text);
}

void table_bytes(struct table *t, const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    table_text(t, json_is_number(v) ? show_bytes(json_number_value(v)) : "");
}

static int columns_of(const char *s) {
    int n = 0;
    for (; *s; s++) n += (*s & 0xC0) != 0x80;
    return n;
}

static void add_cell(str *line, const char *s, const char *head, int width) {
    int pad = width - columns_of(s);
    if (!width) return; /* a column without any text */
    str_addf(line, "%*s%s%*s  ", *head == '>' ? pad : 0, "", s, *head == '>' ? 0 : pad, "");
}

static void print_row(str *line, const char *indent, const char *before, const char *after) {
    while (line->n && line->p[line->n - 1] == ' ') line->p[--line->n] = 0;
    printf("%s%s%s%s\n", indent, before, line->p ? line->p : "", after);
    str_clear(line);
}

void table_print(struct table *t, const char *indent) {
    int width[TABLE_COLUMNS] = {0}, c = 0;
    const char *end = t->cells.p ? t->cells.p + t->cells.n : NULL;
    str line = {0};
    for (const char *p = t->cells.p; p && p < end; p += strlen(p) + 1, c = (c + 1) % t->columns)
        if (columns_of(p) > width[c]) width[c] = columns_of(p);
    for (c = 0; c < t->columns; c++) {
        const char *h = t->head[c] + (*t->head[c] == '>');
        if (width[c] && columns_of(h) > width[c]) width[c] = columns_of(h);
        add_cell(&line, h, t->head[c], width[c]);
    }
    print_row(&line, indent, term_dim(), term_off());
    c = 0;
    for (const char *p = t->cells.p; p && p < end; p += strlen(p) + 1) {
        add_cell(&line, p, t->head[c], width[c]);
        if (c == t->columns - 1) print_row(&line, indent, "", "");
        c = (c + 1) % t->columns;
    }
    str_free(&line);
    str_free(&t->cells);
    *t = (struct table){0};
}
