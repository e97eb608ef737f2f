/* A matrix in NF4 as bitsandbytes saves it and transformers reads it: beside the codes (U8, two weights a byte, the first in the high half)
 * the scales, their own quantisation, both maps, and the rest as JSON (QuantState.as_dict). The codes come first, row by row; what comes
 * after needs the scales of the whole matrix, which are kept meanwhile: a sixteenth of its bytes in f32.
 *
 * The JSON holds the scales' mean, which is known when all rows are: its room is fixed, and filled up with spaces. Called by plan.c and
 * items.c. */
#ifndef CYC_EXPORT_NF4_OUT_H
#define CYC_EXPORT_NF4_OUT_H
#include "export/items.h"

enum { NF4_TENSORS = 6 };

/* The tensors that item `it` becomes, in their order; those of a plain list when nested is false. Returns how many. */
int nf4_out_tensors(const struct item *it, bool nested, arena *mem, struct tensor t[NF4_TENSORS]);

struct nf4_scales {
    float *absmax; /* [n], of the matrix being written; room for the largest */
    uint8_t *code; /* [n] */
    float *nested; /* [n / 256, rounded up] */
};
size_t nf4_out_bytes(int64_t blocks); /* of the room */
struct nf4_scales nf4_out_room(void *room, int64_t blocks);
/* Row r: cols weights -> cols / 2 bytes; its scales go to their places. room: dtype_row_bytes(DT_NF4, cols). */
void nf4_out_row(const struct item *it, const struct nf4_scales *s, int64_t r, const float *row, void *room, uint8_t *to);
/* All tensors after the codes. */
err nf4_out_rest(const struct item *it, bool nested, const struct nf4_scales *s, struct tensors_out *o);

#endif
