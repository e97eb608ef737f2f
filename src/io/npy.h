/* NumPy's .npy files as rows of f32 (io/matrix_out.c writes them): an array [rows, ...] of little-endian float16, float32 or float64 in C
 * order, format 1.0 to 3.0 (numpy/lib/format.py). The first dimension counts rows, the others together columns; a 1-D array is rows of one.
 *
 * The file is mapped and looked at as hostile: header, sizes and the length of the data are checked when it is opened, numbers when a row is
 * read: what is not finite in f32 is E_INPUT by row and column. Other types and orders are E_UNSUPPORTED by name. */
#ifndef CYC_IO_NPY_H
#define CYC_IO_NPY_H
#include "base/file.h"

struct npy {
    struct file_map map; /* p NULL: the bytes are the caller's */
    char *path;
    const uint8_t *data;
    int item;            /* bytes of a number: 2, 4, 8 */
    int64_t rows, columns;
};
err npy_open(const char *path, struct npy *a);
err npy_from(const char *path, const void *bytes, size_t n, struct npy *a); /* path: for messages */
err npy_row(const struct npy *a, int64_t row, float *to);
void npy_close(struct npy *a);

#endif
