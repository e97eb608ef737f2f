/* Between the two formats of a model: what a Hugging Face folder says in config.json and tokenizer files, a GGUF file says in metadata.
 * Where input and output have one format everything is copied and no family needs to be known; where they differ it has to be made,
 * which is done for the families of crossing.c's table (llama) and refused by name for others. */
#ifndef CYC_EXPORT_CROSSING_H
#define CYC_EXPORT_CROSSING_H
#include "io/tensors_out.h"
#include "model/model.h"

/* GGUF's name for the architecture of a model from a Hugging Face folder, and whether its files keep q and k in pairs; E_UNSUPPORTED
 * for a family that cannot cross. */
err crossing_to_gguf(const struct model *m, const char **architecture, bool *pairs);
/* The family's tensors as a GGUF file names and orders them (rope_heads); model_close() it. */
err crossing_twin(const struct model *m, struct model *out);
/* E_UNSUPPORTED where a model from a GGUF file cannot be written as a Hugging Face folder. */
err crossing_to_hf(const struct model *m);

/* All metadata of the output, tokenizer included. type: of most matrices. */
err metadata_make(const struct model *m, dtype type, struct gguf_keys *out);
/* config.json, generation_config.json and the tokenizer's files of the output, into a folder. */
err folder_make(const struct model *m, dtype type, const char *folder);

#endif
