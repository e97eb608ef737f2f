/* Text to ids and back: byte-level BPE from Hugging Face's tokenizer.json or from GGUF metadata.
 *
 * Ids equal those of the `tokenizers` library: added/special tokens are split out first, then normalisation, the
 * pre-tokeniser's regexes, then merges by rank. Decoding is the exact inverse (byte for byte). */
#ifndef CYC_IO_TOKENIZER_H
#define CYC_IO_TOKENIZER_H
#include "base/err.h"
#include "base/str.h"
#include "io/tensors.h"
#include <stdint.h>

typedef struct tokenizer tokenizer;

struct ids {           /* a growing list of token ids; owned; ids_free */
    int32_t *v;
    size_t n, cap;
};
err ids_push(struct ids *ids, int32_t id);
void ids_free(struct ids *ids);

err tokenizer_from_json(const char *path, tokenizer **out);               /* tokenizer.json; reads tokenizer_config.json,
                                                                              special_tokens_map.json, generation_config.json
                                                                              and config.json beside it, where present, for bos/eos/pad,
                                                                              add_bos_token and the chat template */
err tokenizer_from_gguf(const struct tensors *gguf, tokenizer **out);
void tokenizer_free(tokenizer *t);

/* Appends the ids of n bytes of text. Special tokens in the text are recognised when `special` is true; nothing is
 * added around it. Invalid UTF-8 is E_INPUT with the byte offset. */
err tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool special, struct ids *out);
/* Appends the bytes of ids; special tokens are left out when skip_special. An id outside the vocabulary is E_INPUT. */
err tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special, str *out);

int tokenizer_vocab(const tokenizer *t);                                  /* number of ids, added tokens included */
int32_t tokenizer_id(const tokenizer *t, const char *token);              /* -1 when absent; token as in the vocabulary file */
const char *tokenizer_token(const tokenizer *t, int32_t id);
int32_t tokenizer_bos(const tokenizer *t);                                /* -1 when none */
int32_t tokenizer_eos(const tokenizer *t);
int32_t tokenizer_pad(const tokenizer *t);
bool tokenizer_adds_bos(const tokenizer *t);                              /* does the model expect a BOS before text? */
bool tokenizer_is_special(const tokenizer *t, int32_t id);                /* a control token, or the bos or eos */
err tokenizer_set_template(tokenizer *t, const char *source);             /* in place of the model's own */
const char *tokenizer_template(const tokenizer *t);                       /* the chat template's source, NULL when none */
/* Vocabulary and merges as one hash: two models share ids exactly when these agree. */
void tokenizer_hash(const tokenizer *t, char hex[33]);

#endif
