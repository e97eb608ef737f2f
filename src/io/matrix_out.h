/* A matrix of f32 as a file that NumPy or safetensors reads: X.npy (format 1.0, little-endian, C order) or X.safetensors (one tensor,
 * `name`). A reader never sees half of one. Another ending is E_USAGE. Called by api/texts.c (`cyclora embed`) and train/features.c. */
#ifndef CYC_IO_MATRIX_OUT_H
#define CYC_IO_MATRIX_OUT_H
#include "base/err.h"
#include <stdint.h>

err matrix_write(const char *path, const char *name, const float *x, int64_t rows, int64_t columns);

#endif
