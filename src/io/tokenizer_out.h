/* A byte-level BPE tokenizer in the other format: tokenizer.json as GGUF metadata, GGUF metadata as tokenizer.json.
 *
 * Either way the result is read back and both must give the same ids on a text that shows what pre-tokenisers differ in; where no
 * name that GGUF has for pre-tokenisers does, it is refused: a near miss would be a model that reads other tokens than it learnt. */
#ifndef CYC_IO_TOKENIZER_OUT_H
#define CYC_IO_TOKENIZER_OUT_H
#include "io/tensors_out.h"

/* Adds tokenizer.* keys: those of folder/tokenizer.json and its neighbours. vocab: rows of the embedding; ids that have no token get
 * one that nothing uses. */
err tokenizer_to_gguf(const char *folder, int64_t vocab, struct gguf_keys *out);
/* E_UNSUPPORTED where the metadata's tokenizer is none that can be written as tokenizer.json: known before anything is written. */
err tokenizer_to_hf_known(const struct tensors *gguf);
/* Writes tokenizer.json, tokenizer_config.json and generation_config.json into the folder. */
err tokenizer_to_hf(const struct tensors *gguf, const char *folder);

#endif
