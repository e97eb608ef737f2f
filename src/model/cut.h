/* A model with less of it: fewer blocks, fewer channels in each feed-forward, fewer key/value heads (with the query heads that read
 * them), a narrower row between blocks. It is the other model's own tensors under their new names: where only blocks are left out it
 * runs as any model does, where rows or columns are its weights say which (struct picked) and it is for those to read who copy it
 * (export/plan.c).
 *
 * Refused by name: families whose blocks have tensors that `parts` of cut.c does not know: which of their rows are channels or heads
 * nobody has said. Called by export/export.c and export/prune.c. */
#ifndef CYC_MODEL_CUT_H
#define CYC_MODEL_CUT_H
#include "model/model.h"

/* What stays. Lists are ascending; NULL: all. */
struct cut {
    int64_t layers, width, ffn, kv_heads; /* how many of each */
    const int32_t *layer;                 /* [layers] */
    const int32_t *column;                /* [width] of a row between blocks */
    const int32_t *channel;               /* [the whole model's layers, ffn] of each block's feed-forward */
    const int32_t *head;                  /* [the whole model's layers, kv_heads] key/value heads of each block */
};
/* All of it. */
struct cut cut_nothing(const struct model *m);
/* E_UNSUPPORTED where the family is not one of those that can be cut. */
err cut_known(const struct model *m);
/* m and the lists outlive *out, which is closed with model_close(). */
err model_cut(const struct model *m, const struct cut *c, struct model *out);
bool model_picked(const struct model *m); /* has it weights that are parts of tensors? Then it does not run */

#endif
