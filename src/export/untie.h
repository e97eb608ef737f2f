/* A tied model's head as a matrix of its own, for an adapter that changes it and not the token table: LoRA on lm_head, where PEFT leaves the
 * table shared and adds to the logits. What is written then has both: lm_head.weight and tie_word_embeddings false, or output.weight in
 * GGUF. To everybody who plans, writes or checks, the model is one that never was tied; the head's bytes are the table's until a delta is added.
 *
 * Refused: a model whose head's input is scaled because it is tied (T5), which neither format can say of one that is not. Called by export.c and
 * api/inspect.c. */
#ifndef CYC_EXPORT_UNTIE_H
#define CYC_EXPORT_UNTIE_H
#include "model/model.h"

/* Where m is tied and the PEFT folder has a pair for its head: gives m a head of its own. */
err untie_for(const char *folder, struct model *m);
bool untied(const struct model *m); /* has it been? */

#endif
