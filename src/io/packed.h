/* Weights that safetensors hold in several tensors, or in a type that no kernel reads, as one tensor that kernels read.
 * The only caller is the model loader, for a tensor that a model wants and whose dt is DT_NONE. */
#ifndef CYC_IO_PACKED_H
#define CYC_IO_PACKED_H
#include "io/tensors.h"

/* `out` is t in one of our types: a copy, which lives and dies with ts and is counted in ts->copied. E_UNSUPPORTED, with the
 * scheme's name and the way out, where it is none that can be read. */
err packed_tensor(struct tensors *ts, const struct tensor *t, struct tensor *out);

/* The error for a tensor that a model wants and the file lacks: names the scheme that keeps it under other names. */
err packed_missing(const struct tensors *ts, const char *name);

#endif
