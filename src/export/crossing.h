/* Between the two formats of a model: what a Hugging Face folder says in config.json and tokenizer files, a GGUF file says in metadata.
 * Where input and output have one format everything is copied and no family needs to be known; where they differ it has to be made,
 * which is done for the families of crossing.c's table and refused by name for others. What would be written is read again first. */
#ifndef CYC_EXPORT_CROSSING_H
#define CYC_EXPORT_CROSSING_H
#include "gen/head.h"
#include "io/tensors_out.h"

/* E_UNSUPPORTED, before anything is written, where a model from a Hugging Face folder cannot be a GGUF file, and the other way round. */
err crossing_to_gguf(const struct model *m);
err crossing_to_hf(const struct model *m);
/* The family's tensors as GGUF files name and order them (rope_heads), of any family: an adapter's file needs no more. model_close() it. */
err crossing_twin(const struct model *m, struct model *out);

/* All metadata of the output, tokenizer included. type: of most matrices. */
err metadata_make(const struct model *m, dtype type, struct gguf_keys *out);
/* What a folder says of its numbers. */
struct folder_form {
    dtype type;              /* of most matrices; of quantised ones what they were */
    const struct head *head; /* what lies in it beside the model, so that it is one of transformers' classifiers; NULL: nothing */
    const dtype *to;         /* what the matrices were quantised to (items_plan_hf); NULL: nothing */
};
/* config.json, generation_config.json and the tokenizer's files of the output, into a folder. */
err folder_make(const struct model *m, const struct folder_form *f, const char *folder);

#endif
