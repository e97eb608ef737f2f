/* See npy.h. The header is a dictionary as Python writes one, of three known keys; it is read by a parser for just that. */
#define _GNU_SOURCE
#include "io/npy.h"
#include "base/dtype.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DIMS = 8, TEXT = 16 };

struct text { const char *p, *end; };

struct header {
    char descr[TEXT];
    bool fortran, has_descr, has_order, has_shape;
    int nd;
    int64_t d[MOST_DIMS];
};

static void skip(struct text *t) {
    while (t->p < t->end && (*t->p == ' ' || *t->p == '\n' || *t->p == '\t')) t->p++;
}

static bool eat(struct text *t, char c) {
    skip(t);
    if (t->p == t->end || *t->p != c) return false;
    return t->p++, true;
}

static bool word(struct text *t, const char *w) {
    const size_t n = strlen(w);
    skip(t);
    if ((size_t)(t->end - t->p) < n || memcmp(t->p, w, n) != 0) return false;
    return t->p += n, true;
}

/* 'descr' or "descr", without escapes, in out[TEXT]. */
static bool quoted(struct text *t, char *out) {
    const char quote = eat(t, '\'') ? '\'' : eat(t, '"') ? '"' : 0;
    size_t n = 0;
    if (!quote) return false;
    while (t->p < t->end && *t->p != quote && *t->p != '\\' && n + 1 < TEXT) out[n++] = *t->p++;
    out[n] = 0;
    return t->p < t->end && *t->p == quote && (t->p++, true);
}

static bool number(struct text *t, int64_t *out) {
    skip(t);
    const char *from = t->p;
    for (*out = 0; t->p < t->end && *t->p >= '0' && *t->p <= '9'; t->p++)
        if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *t->p - '0', out)) return false;
    return t->p > from;
}

static bool tuple(struct text *t, struct header *h) {
    if (!eat(t, '(')) return false;
    while (!eat(t, ')')) {
        if (h->nd == MOST_DIMS || !number(t, &h->d[h->nd++])) return false;
        if (!eat(t, ',')) return eat(t, ')');
    }
    return true;
}

static bool entry(struct text *t, struct header *h) {
    char key[TEXT];
    if (!quoted(t, key) || !eat(t, ':')) return false;
    if (!strcmp(key, "descr") && !h->has_descr) return h->has_descr = true, quoted(t, h->descr);
    if (!strcmp(key, "shape") && !h->has_shape) return h->has_shape = true, tuple(t, h);
    if (strcmp(key, "fortran_order") != 0 || h->has_order) return false;
    h->has_order = true;
    h->fortran = word(t, "True");
    return h->fortran || word(t, "False");
}

static bool dictionary(struct text *t, struct header *h) {
    if (!eat(t, '{')) return false;
    while (!eat(t, '}')) {
        if (!entry(t, h)) return false;
        if (!eat(t, ',')) {
            if (!eat(t, '}')) return false;
            break;
        }
    }
    skip(t);
    return t->p == t->end && h->has_descr && h->has_order && h->has_shape;
}

/* Where the header's text lies; *data: how far in the data begin. */
static err find_header(const char *path, const uint8_t *p, size_t n, struct text *t, size_t *data) {
    static const uint8_t magic[] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    if (n < 10 || memcmp(p, magic, sizeof magic) != 0) return fail(E_INPUT, "%s: not a .npy file", path);
    if (p[6] < 1 || p[6] > 3) return fail(E_UNSUPPORTED, "%s: .npy format %d.%d; supported: 1.0 to 3.0", path, p[6], p[7]);
    const size_t before = p[6] == 1 ? 10 : 12;
    if (n < before) return fail(E_INPUT, "%s: cut off in its header", path);
    const size_t length = p[6] == 1 ? (size_t)p[8] | (size_t)p[9] << 8 : (size_t)p[8] | (size_t)p[9] << 8 | (size_t)p[10] << 16 | (size_t)p[11] << 24;
    if (length > n - before) return fail(E_INPUT, "%s: cut off in its header (%zu bytes, the file has %zu)", path, length, n);
    *t = (struct text){(const char *)p + before, (const char *)p + before + length};
    *data = before + length;
    return OK;
}

static err understand(const char *path, const struct header *h, struct npy *a) {
    static const char *const types[] = {"<f2", "<f4", "<f8"};
    for (int k = 0; k < 3; k++)
        if (!strcmp(h->descr, types[k])) a->item = 2 << k;
    if (!a->item)
        return fail(E_UNSUPPORTED, "%s: numbers of type '%s'; supported: little-endian float16, float32, float64 ('<f2', '<f4', '<f8')",
                    path, h->descr);
    if (h->nd < 1) return fail(E_UNSUPPORTED, "%s: a single number, not an array of rows", path);
    if (h->fortran && h->nd > 1) return fail(E_UNSUPPORTED, "%s: in Fortran order; save numpy.ascontiguousarray of it", path);
    a->rows = h->d[0], a->columns = 1;
    bool over = false;
    for (int k = 1; k < h->nd; k++) over |= __builtin_mul_overflow(a->columns, h->d[k], &a->columns);
    return over ? fail(E_INPUT, "%s: a shape beyond all memory", path) : OK;
}

err npy_from(const char *path, const void *bytes, size_t n, struct npy *a) {
    struct text t;
    struct header h = {0};
    size_t data;
    int64_t numbers, want;
    *a = (struct npy){0};
    TRY(find_header(path, bytes, n, &t, &data));
    if (!dictionary(&t, &h))
        return fail(E_INPUT, "%s: a header that is no dictionary of descr, fortran_order and shape (byte %td)", path,
                    t.p - (const char *)bytes);
    TRY(understand(path, &h, a));
    if (__builtin_mul_overflow(a->rows, a->columns, &numbers) || __builtin_mul_overflow(numbers, (int64_t)a->item, &want) ||
        (uint64_t)want != n - data)
        return fail(E_INPUT, "%s: %lld rows of %lld numbers are announced, and %zu bytes of data are there", path, (long long)a->rows,
                    (long long)a->columns, n - data);
    a->data = (const uint8_t *)bytes + data;
    a->path = strdup(path);
    return a->path ? OK : fail(E_MEMORY, "out of memory");
}

err npy_open(const char *path, struct npy *a) {
    struct file_map map;
    *a = (struct npy){0};
    TRY(file_map(path, &map));
    err e = npy_from(path, map.p, map.n, a);
    if (e) file_unmap(&map);
    else a->map = map;
    return e;
}

err npy_row(const struct npy *a, int64_t row, float *to) {
    const uint8_t *from = a->data + (size_t)(row * a->columns) * (size_t)a->item;
    if (a->item < 8) dequantise_row(a->item == 2 ? DT_F16 : DT_F32, from, to, a->columns);
    for (int64_t c = 0; c < a->columns; c++) {
        double x;
        if (a->item == 8) memcpy(&x, from + 8 * c, sizeof x), to[c] = (float)x;
        if (!isfinite(to[c]))
            return fail(E_INPUT, "%s: row %lld, column %lld is not a finite number of 32 bits", a->path, (long long)row + 1,
                        (long long)c + 1);
    }
    return OK;
}

void npy_close(struct npy *a) {
    if (a->map.p) file_unmap(&a->map);
    free(a->path);
    *a = (struct npy){0};
}
