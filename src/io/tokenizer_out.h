/* A tokenizer in the other format: tokenizer.json as GGUF metadata, GGUF metadata as tokenizer.json. All kinds: BPE on bytes, SentencePiece's
 * BPE, Unigram, WordPiece.
 *
 * Either way the result is read back and both must give the same ids: on a text in which known pipelines differ, on one of the
 * vocabulary's own tokens, around added tokens. What the other format has no word for is refused by name, a near miss would be a model that reads other
 * tokens than it learnt; of GGUF's rules for spaces beside special tokens, which texts do not show, it is a warning. */
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
