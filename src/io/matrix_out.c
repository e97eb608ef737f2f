/* See matrix_out.h. */
#include "io/matrix_out.h"
#include "base/file.h"
#include "base/str.h"
#include "io/tensors.h"
#include <stdio.h>

/* Magic, version, the header's length, and the header: a dictionary of Python, padded so that the data begin at a multiple of 64. */
static void npy_header(str *out, int64_t rows, int64_t columns) {
    enum { BEFORE = 10 };
    char text[160];
    int n = snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)rows, (long long)columns);
    const int whole = (BEFORE + n + 1 + 63) / 64 * 64 - BEFORE;
    const unsigned char start[BEFORE] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(whole & 255), (unsigned char)(whole >> 8)};
    str_add(out, (const char *)start, BEFORE);
    str_add(out, text, (size_t)n);
    while (++n < whole) str_addc(out, ' ');
    str_addc(out, '\n');
}

static err npy_write(const char *path, const float *x, int64_t rows, int64_t columns) {
    str head = {0};
    struct file_out o;
    npy_header(&head, rows, columns);
    err e = head.failed ? fail(E_MEMORY, "out of memory") : file_create(&o, path);
    if (!e) {
        e = file_put(&o, head.p, head.n);
        if (!e) e = file_put(&o, x, (size_t)(rows * columns) * sizeof *x);
        if (e) file_abandon(&o);
        else e = file_commit(&o);
    }
    str_free(&head);
    return e;
}

err matrix_write(const char *path, const char *name, const float *x, int64_t rows, int64_t columns) {
    const struct tensor t = {.name = name, .dt = DT_F32, .nd = 2, .d = {rows, columns}, .data = x, .bytes = (size_t)(rows * columns) * sizeof *x};
    if (str_ends(path, ".npy")) return npy_write(path, x, rows, columns);
    return str_ends(path, ".safetensors") ? safetensors_write(path, &t, 1) : fail(E_USAGE, "%s: the name must end in .npy or .safetensors", path);
}
