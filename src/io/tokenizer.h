/* Text to ids and back, for every kind of tokenizer that the families use: BPE on bytes (GPT-2, Llama 3, Qwen), BPE as
 * SentencePiece has it (Llama 2, Mistral, Gemma), Unigram (T5, ALBERT, XLM-R), WordPiece (BERT); from Hugging Face's
 * tokenizer.json or from GGUF metadata. What a file asks for and we do not do is refused by its name.
 *
 * Ids equal those of the `tokenizers` library: added tokens are cut out first, then come normalisation, the
 * pre-tokeniser, the model. Decoding equals its decoder's, but for tokens that are no whole character: there the
 * library writes U+FFFD, here stand the bytes themselves. */
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

enum {
    ENCODE_SPECIAL = 1, /* special tokens in the text are recognised (true will do) */
    ENCODE_GOES_ON = 2, /* the text goes on where the ids in `out` end, or in the middle of a text when there are none:
                           tokenizers that put a space before a text's first word do not */
    DECODE_SKIP_SPECIAL = 1, /* special tokens are left out (true will do) */
    DECODE_GOES_ON = 2       /* the ids are from the middle of a text: a leading space stays */
};
/* Appends the ids of n bytes of text; nothing is added around it. Invalid UTF-8 is E_INPUT with the byte offset. */
err tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, struct ids *out);
/* Appends the text of ids. An id outside the vocabulary is E_INPUT. */
err tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, unsigned flags, str *out);

int tokenizer_vocab(const tokenizer *t);                                  /* number of ids, added tokens included */
/* True when a model of n ids can take all that this tokenizer gives. Added tokens beyond that (Gemma 3's for images, which
 * its models for text have no row for) are forgotten, with a warning; other tokens beyond it make it false. */
bool tokenizer_fit(tokenizer *t, int64_t n);
int32_t tokenizer_id(const tokenizer *t, const char *token);              /* -1 when absent; token as in the vocabulary file */
const char *tokenizer_token(const tokenizer *t, int32_t id);
int32_t tokenizer_bos(const tokenizer *t);                                /* -1 when none */
int32_t tokenizer_eos(const tokenizer *t);
int32_t tokenizer_pad(const tokenizer *t);
bool tokenizer_adds_bos(const tokenizer *t);                              /* does the model expect a BOS before text? */
const struct ids *tokenizer_prefix(const tokenizer *t);                   /* all that it expects before a text (BOS, [CLS]) */
const struct ids *tokenizer_suffix(const tokenizer *t);                   /* and after it (T5's </s>, [SEP]) */
/* Puts the prefix before ids and the suffix after them, each unless it is there already. */
err tokenizer_surround(const tokenizer *t, bool before, bool after, struct ids *ids);
bool tokenizer_is_special(const tokenizer *t, int32_t id);                /* a control token, or the bos or eos */
/* In place of the model's own; name: of its file, for messages. */
err tokenizer_set_template(tokenizer *t, const char *source, const char *name);
const char *tokenizer_template(const tokenizer *t);                       /* the chat template's source, NULL when none */
const char *tokenizer_template_name(const tokenizer *t);                  /* where it is from, for messages */
size_t tokenizer_bytes(const tokenizer *t);                               /* memory of its tables */
/* Encoding has words that it met at hand, half a megabyte for each thread that was at it at the same time. rest() lets go of them until it
 * goes on; nobody may be encoding. */
size_t tokenizer_words_bytes(void);
void tokenizer_rest(tokenizer *t);
/* Vocabulary and merges as one hash: two models share ids exactly when these agree. */
void tokenizer_hash(const tokenizer *t, char hex[33]);

#endif
