/* Files as lines, the library's JSON, and the two lines on stderr. See cli.h. */
#include "cli.h"
#include "args.h"
#include "base/err.h"
#include "base/file.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A message is one line whatever a file name or a text in it holds. */
static void say(const char *kind, const char *text) {
    str s = {0};
    text_one_line(&s, text, 0);
    progress_clear();
    fflush(stdout);
    fprintf(stderr, "cyclora: %s: %s\n", kind, s.p ? s.p : text);
    str_free(&s);
}

void cli_warn(const char *line) { say("warning", line); }
void cli_note(const char *line) { say("note", line); }

int cli_bad(const char *fmt, ...) {
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    say("error", text);
    return STATUS_USAGE;
}

int cli_failed(int code) {
    say("error", cyc_error());
    return code == CYC_BAD_INPUT ? STATUS_USAGE : code == CYC_INTERRUPTED ? STATUS_INTERRUPTED : STATUS_FAILED;
}

/* --- files ----------------------------------------------------------------------------------------------------------
 */
static int read_whole(const char *path, str *text) {
    err e = file_read(strcmp(path, "-") ? path : "/dev/stdin", text);
    if (!e) return STATUS_OK;
    say("error", err_text());
    return err_is_input(e) ? STATUS_USAGE : STATUS_FAILED;
}

/* Complains about the first byte of a line that is no text. */
static int check_line(const char *path, int line, const char *s, size_t n, int flags) {
    const char *nul = flags & LINES_NO_NUL ? memchr(s, 0, n) : NULL;
    if (nul) return cli_bad("%s:%d: a NUL byte at column %zu", path, line, (size_t)(nul - s) + 1);
    unsigned cp;
    for (size_t i = 0, len; (flags & LINES_UTF8) && i < n; i += len)
        if (!(len = (size_t)utf8_decode(s + i, n - i, &cp)))
            return cli_bad("%s:%d: not valid UTF-8: byte 0x%02x at column %zu", path, line, (unsigned char)s[i], i + 1);
    return STATUS_OK;
}

int lines_read(const char *path, int flags, struct lines *l) {
    *l = (struct lines){0};
    int status = read_whole(path, &l->bytes);
    if (status) return status;
    size_t most = 1;
    for (size_t i = 0; i < l->bytes.n; i++) most += l->bytes.p[i] == '\n';
    l->v = calloc(most, sizeof *l->v);
    l->len = calloc(most, sizeof *l->len);
    if (!l->v || !l->len) return cli_bad("%s: out of memory", path);
    for (char *p = l->bytes.p, *end = p + l->bytes.n, *stop; p < end; p = stop + 1) {
        stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop) stop = end;
        *stop = 0;
        l->v[l->n] = p;
        l->len[l->n++] = (size_t)(stop - p);
        status = check_line(path, l->n, p, (size_t)(stop - p), flags);
        if (status) return status;
    }
    return STATUS_OK;
}

void lines_free(struct lines *l) {
    str_free(&l->bytes);
    free(l->v);
    free(l->len);
    *l = (struct lines){0};
}

int text_read(const char *path, str *text) {
    int status = read_whole(path, text), line = 1;
    for (size_t i = 0, n; !status && i < text->n; i += n + 1, line++) {
        const char *nl = memchr(text->p + i, '\n', text->n - i);
        n = nl ? (size_t)(nl - text->p) - i : text->n - i;
        status = check_line(path, line, text->p + i, n, LINES_UTF8);
    }
    return status;
}

int config_open(const char *path, const struct arg_list *sets, cyc_config **out) {
    cyc_config *c = cyc_config_new();
    if (!c) return cli_failed(CYC_FAILED);
    int code = cyc_config_load(c, path);
    for (int i = 0; i < sets->n && !code; i++) code = cyc_config_set(c, sets->v[i]);
    if (code) {
        cyc_config_free(c);
        return cli_failed(code);
    }
    *out = c;
    return STATUS_OK;
}

/* --- JSON -----------------------------------------------------------------------------------------------------------
 */
json_t *json_take(char *text) {
    json_t *o = text ? json_loads(text, 0, NULL) : NULL;
    cyc_free(text);
    return o ? o : json_object();
}

const char *json_text(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

double json_num(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

json_t *json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *json_utf8(const char *text) {
    str s = {0};
    unsigned cp;
    for (size_t n = strlen(text), len; n; n -= len, text += len) {
        len = (size_t)utf8_decode(text, n, &cp);
        if (len) str_add(&s, text, len);
        else str_adds(&s, "\xEF\xBF\xBD"), len = 1;
    }
    json_t *o = json_stringn(s.p ? s.p : "", s.n);
    str_free(&s);
    return o;
}

void json_line(json_t *o) {
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(10));
    puts(text ? text : "{}");
    fflush(stdout);
    free(text);
    json_decref(o);
}
