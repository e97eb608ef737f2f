/* A base that is quantised when a run opens: each chosen matrix gets another type and a place in memory of its own, and its numbers are
 * made there of the file's when they are first wanted, a matrix at a time. The file's pages are given back behind it, so that the
 * unquantised model is never in memory as a whole, and no one but this file knows that the matrix was another.
 *
 * On the processor everything is made at the start (quantised_fill). On a card a matrix is made when it is brought over (plan_place asks,
 * through struct residents) and its host's copy goes again, but for those outside of the layers, which methods may read later.
 *
 * NF4 with `nested` is bitsandbytes' with double quantisation (base/nf4.h): 4.25 bits a weight (DT_NF4_DQ) where rows are multiples of
 * 512; of others the rounded scales stay f32, 4.5 bits.
 *
 * It refuses numbers that are not finite. Which matrix gets which type is gen/rules.h's to say; bytes are counted in model.bytes and
 * model.files.copied as soon as quantised_open() returns. */
#ifndef CYC_MODEL_QUANTISED_H
#define CYC_MODEL_QUANTISED_H
#include "model/model.h"

/* to: a type for each of m->w, DT_NONE where it stays; of matrices in plain types whose rows are whole blocks. Before a program is built; m stays
 * where it is from now on. Of a random model the weights are made in these types at once (model_fill). */
err quantised_open(struct model *m, const dtype *to, bool nested);
err quantised_fill(struct model *m); /* all that is not there yet */
/* One tensor in w's type, any that is written here or DT_NF4_DQ, from its rows: source gives number r of them. E_NUMERIC names both. */
typedef void row_source(const void *ctx, int64_t r, float *row);
err quantise_rows(const struct weight *w, bool nested, row_source *source, const void *ctx, void *to);
void quantised_close(struct model *m);

#endif
