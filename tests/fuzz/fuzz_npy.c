/* Fuzz target for io/npy.c: any bytes as a .npy file. What it takes has exactly the numbers that it announces, each of them read; what it
 * refuses names the file. tools/fuzz.sh runs it; the corpus (made by NumPy) is replayed by tests/io/test_npy.c. */
#include "io/npy.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct npy a;
    if (npy_from("x.npy", data, size, &a)) {
        if (strncmp(err_text(), "x.npy: ", 7) != 0) abort();
        return 0;
    }
    if (a.data < data || a.data + a.rows * a.columns * a.item != data + size) abort();
    float *row = malloc((size_t)a.columns * sizeof *row + 1);
    for (int64_t i = 0; row && i < a.rows && a.columns; i++) {
        err e = npy_row(&a, i, row);
        if (e && strncmp(err_text(), "x.npy: row ", 11) != 0) abort();
        for (int64_t c = 0; c < a.columns && !e; c++)
            if (!isfinite(row[c])) abort();
    }
    free(row);
    npy_close(&a);
    return 0;
}
