/* Framing. See records.h.
 *
 * A framer looks at the window from s->at on and says one of three things: a record is here (FOUND), the text ends
 * (END), or the window ends before that can be known (MORE): then the window is moved or grown and the framer starts
 * over at the same place. So framers keep no state between calls but the scanner's. */
#include "data/records.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 1 << 20, LONGEST = 64 << 20 };
enum seen { FOUND, END, MORE, BAD };

void scan_begin(struct scanner *s, const struct text_file *f, enum container kind) {
    *s = (struct scanner){.f = f, .kind = kind, .window = WINDOW};
    scan_seek(s, 0, 1, true);
}

void scan_seek(struct scanner *s, uint64_t at, int line, bool first) {
    s->line = line;
    s->closed = false;
    s->first = first;
    s->here = !first;
    if (s->f->p) s->p = (const char *)s->f->p, s->n = (size_t)s->f->n, s->base = 0, s->at = (size_t)at;
    else if (at >= s->base && at - s->base <= s->n) s->at = (size_t)(at - s->base);
    else s->base = at, s->at = s->n = 0;
}

void scan_end(struct scanner *s) {
    free(s->own);
    *s = (struct scanner){0};
}

static bool at_end(const struct scanner *s) { return s->base + s->n >= s->f->n; }

/* More bytes behind what is still to be looked at. */
static err refill(struct scanner *s) {
    size_t left = s->n - s->at, got;
    if (left) memmove(s->own, s->p + s->at, left);
    s->base += s->at;
    s->at = 0;
    s->n = left;
    if (left == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : s->window;
        if (cap > LONGEST)
            return fail(E_INPUT, "%s:%d: a record longer than %d MiB in a file that is streamed%s", s->f->path, s->line, LONGEST >> 20,
                        s->kind == IN_CSV || s->kind == IN_TSV ? "; is a quote not closed?" : "");
        char *p = realloc(s->own, cap);
        if (!p) return fail(E_MEMORY, "out of memory");
        s->own = p;
        s->cap = cap;
    }
    s->p = s->own;
    TRY(text_file_read(s->f, s->base + s->n, s->own + s->n, s->cap - s->n, &got));
    s->n += got;
    return OK;
}

/* s->at moves on to `to`; the lines between are counted. */
static void pass(struct scanner *s, size_t to) {
    for (const char *p = s->p + s->at, *end = s->p + to; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++)
        if (s->line < INT_MAX) s->line++;
    s->at = to;
}

static enum seen frame_line(struct scanner *s, size_t *from, size_t *to) {
    for (;;) {
        if (s->at == s->n) return at_end(s) ? END : MORE;
        const char *stop = memchr(s->p + s->at, '\n', s->n - s->at);
        if (!stop && !at_end(s)) return MORE;
        size_t end = stop ? (size_t)(stop - s->p) : s->n;
        if (!bytes_are_blank(s->p + s->at, end - s->at)) return *from = s->at, *to = end, FOUND;
        pass(s, end + (stop != NULL));
    }
}

/* Up to the end of line outside quotes. A quote counts where a field begins. */
static enum seen frame_csv(struct scanner *s, size_t *from, size_t *to) {
    char sep = s->kind == IN_TSV ? '\t' : ',';
    enum seen line = frame_line(s, from, to);
    if (line != FOUND) return line;
    bool quoted = false, may_open = true;
    for (size_t i = *from; i < s->n; i++) {
        char c = s->p[i];
        if (!quoted && c == '\n') return *to = i, FOUND;
        bool was = quoted;
        if (c == '"' && (quoted || may_open)) quoted = !quoted;
        may_open = was ? !quoted : c == sep; /* a doubled quote closes and opens again */
    }
    if (!at_end(s)) return MORE;
    *to = s->n;
    if (!quoted) return FOUND;
    fail(E_INPUT, "%s:%d: a quote is opened in this record and never closed", s->f->path, s->line);
    return BAD;
}

/* Does this line stand between two sentences? */
static bool parts_sentences(const char *p, size_t n) {
    static const char mark[] = "-DOCSTART-";
    return bytes_are_blank(p, n) || (n >= sizeof mark - 1 && !memcmp(p, mark, sizeof mark - 1));
}

/* Lines up to one that parts sentences. */
static enum seen frame_sentence(struct scanner *s, size_t *from, size_t *to) {
    bool inside = false;
    for (size_t at = s->at; at < s->n;) {
        const char *stop = memchr(s->p + at, '\n', s->n - at);
        if (!stop && !at_end(s)) return MORE;
        const size_t end = stop ? (size_t)(stop - s->p) : s->n;
        const bool parts = parts_sentences(s->p + at, end - at);
        if (parts && inside) return FOUND;
        if (parts) pass(s, end + (stop != NULL));
        else *to = end;
        if (!parts && !inside) *from = at, inside = true;
        at = end + (stop != NULL);
    }
    return !at_end(s) ? MORE : inside ? FOUND : END;
}

/* All of the text, unless it is blank. */
static enum seen frame_document(struct scanner *s, size_t *from, size_t *to) {
    if (!at_end(s)) return MORE;
    if (s->at == s->n || bytes_are_blank(s->p + s->at, s->n - s->at)) return END;
    return *from = s->at, *to = s->n, FOUND;
}

static enum seen bad_array(const struct scanner *s, const char *wants) {
    char c = s->p[s->at];
    fail(E_INPUT, "%s:%d: not a JSON array of objects: %s expected, found '%c' (0x%02x)", s->f->path, s->line, wants,
         c >= ' ' && c < 127 ? c : '?', (unsigned char)c);
    return BAD;
}

/* Skips white space; false where the window ends. */
static bool skip_space(struct scanner *s) {
    size_t i = s->at;
    while (i < s->n && strchr(" \t\r\n", s->p[i]) && s->p[i]) i++;
    pass(s, i);
    return i < s->n;
}

/* The end of the object that begins at `from`, or 0 where the window ends before. Strings are stepped over, so braces
 * in them do not count; whether it is JSON at all is found when it is read. */
static size_t object_end(const struct scanner *s, size_t from) {
    int64_t depth = 0;
    bool quoted = false;
    for (size_t i = from; i < s->n; i++) {
        char c = s->p[i];
        if (quoted) {
            if (c == '\\') i++;
            else quoted = c != '"';
        } else if (c == '"') quoted = true;
        else if (c == '{' || c == '[') depth++;
        else if ((c == '}' || c == ']') && --depth == 0) return i + 1;
    }
    return 0;
}

static enum seen cut_array(const struct scanner *s) {
    fail(E_INPUT, "%s:%d: the JSON array is cut off: the file ends before its ]", s->f->path, s->line);
    return BAD;
}

static enum seen frame_element(struct scanner *s, size_t *from, size_t *to) {
    size_t start = s->at;
    int line = s->line;
    bool opens = s->base + s->at == 0 || (s->base + s->at == 3 && s->first); /* 3: behind a byte order mark */
    for (int step = 0; step < 2; step++) { /* a bracket or a comma, then the object */
        if (s->closed) break;
        if (!skip_space(s)) {
            if (at_end(s)) return cut_array(s);
            return s->at = start, s->line = line, MORE;
        }
        char c = s->p[s->at];
        if (c == '{' && (step || s->here)) {
            size_t end = object_end(s, s->at);
            if (!end && at_end(s)) return cut_array(s);
            if (!end) return s->at = start, s->line = line, MORE;
            return *from = s->at, *to = end, FOUND;
        }
        if (c == ']' && !(opens && !step) && (!step || s->first)) s->closed = true;
        else if (step || c != (opens ? '[' : ',')) return bad_array(s, step ? "an object" : opens ? "'['" : "',' or ']'");
        s->at++;
    }
    if (skip_space(s)) return bad_array(s, "the end of the file");
    return at_end(s) ? END : MORE;
}

err scan_next(struct scanner *s, struct extent *x, bool *found) {
    *found = false;
    for (;;) {
        if (!s->at && !s->base && s->n >= 3 && !memcmp(s->p, "\xEF\xBB\xBF", 3)) s->at = 3;
        size_t from = 0, to = 0;
        bool mark_open = !s->base && s->n < 3; /* too little to tell a byte order mark */
        enum seen seen = (!s->n || mark_open) && !at_end(s)       ? MORE
                         : s->kind == IN_ARRAY                    ? frame_element(s, &from, &to)
                         : s->kind == IN_CSV || s->kind == IN_TSV ? frame_csv(s, &from, &to)
                         : s->kind == IN_CONLL                    ? frame_sentence(s, &from, &to)
                         : s->kind == IN_DOCUMENT                 ? frame_document(s, &from, &to)
                                                                  : frame_line(s, &from, &to);
        if (seen == BAD) return E_INPUT;
        if (seen == END) return OK;
        if (seen == MORE) {
            TRY(refill(s));
            continue;
        }
        if (s->line == INT_MAX) return fail(E_INPUT, "%s: too many lines", s->f->path);
        *x = (struct extent){s->p + from, to - from, s->base + from, s->line};
        *found = true;
        s->first = s->here = false;
        pass(s, s->kind == IN_ARRAY || to == s->n ? to : to + 1);
        return OK;
    }
}

err csv_fields(enum container kind, const struct extent *x, err (*field)(void *ctx, int i, const str *text), void *ctx) {
    char sep = kind == IN_TSV ? '\t' : ',';
    size_t n = x->n - (x->n && x->p[x->n - 1] == '\r'), i = 0;
    str text = {0};
    err e = OK;
    for (int k = 0; !e; k++) {
        str_clear(&text);
        str_add(&text, "", 0);
        if (i < n && x->p[i] == '"') {
            for (i++; i < n && (x->p[i] != '"' || (i + 1 < n && x->p[i + 1] == '"')); i++) {
                i += x->p[i] == '"';
                str_addc(&text, x->p[i]);
            }
            i++; /* the closing quote, which framing has seen */
            if (i < n && x->p[i] != sep) e = fail(E_INPUT, "column %d: text after a closing quote (a quote inside a field is written twice)", k + 1);
        } else {
            size_t from = i;
            while (i < n && x->p[i] != sep) i++;
            str_add(&text, x->p + from, i - from);
        }
        if (text.failed) e = fail(E_MEMORY, "out of memory");
        if (!e) e = field(ctx, k, &text);
        if (i >= n) break;
        i++; /* the separator; one at the very end leaves an empty last field */
    }
    str_free(&text);
    return e;
}
