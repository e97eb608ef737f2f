/* dequantise TYPE N: N stored weights from stdin, as f32 to stdout. For dequantise_file.py. */
#include "base/dtype.h"
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    dtype dt = dtype_parse(argv[1]);
    int64_t n = atoll(argv[2]);
    size_t bytes = dtype_row_bytes(dt, n);
    void *stored = malloc(bytes);
    float *y = malloc((size_t)n * 4);
    if (!stored || !y || fread(stored, 1, bytes, stdin) != bytes) return 1;
    dequantise_row(dt, stored, y, n);
    return fwrite(y, 4, (size_t)n, stdout) != (size_t)n;
}
