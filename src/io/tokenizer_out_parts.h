/* The two halves of tokenizer_out.c and what they share. Private to src/io. */
#ifndef CYC_IO_TOKENIZER_OUT_PARTS_H
#define CYC_IO_TOKENIZER_OUT_PARTS_H
#include "io/tensors_out.h"
#include "io/tokenizer_internal.h"

/* tokenizer.ggml.token_type */
enum gguf_token { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE };
enum gguf_token out_type(const tokenizer *t, int32_t id);

/* Each way to cut a token of SentencePiece's BPE into two symbols (tokens that may merge, or single characters): all that its
 * algorithm would join to it, since there two neighbours merge when their text is a token. -1: a character without a token. */
typedef err (*halves_fn)(void *ctx, int32_t whole, int32_t left, int32_t right);
err each_halves(const tokenizer *t, halves_fn fn, void *ctx);

/* Do both give the same ids for texts: one in which known pipelines differ, one of the vocabulary's own tokens? */
bool out_same_text(const tokenizer *a, const tokenizer *b);
/* The same for texts around added tokens and for one that begins with a space; else what differs, for a message. */
bool out_same_added(const tokenizer *a, const tokenizer *b, char *what, size_t room);
bool out_same_around(const tokenizer *a, const tokenizer *b);

/* Signs of spaces as spaces. */
void out_spaced(const char *text, size_t n, str *out);

/* tokenizer_out_gguf.c: keys whose reader gives the ids of t. */
err tokenizer_keys(const tokenizer *t, int64_t vocab, struct gguf_keys *out);
/* tokenizer_out_json.c: t, which GGUF metadata gave, as the text of a tokenizer.json. pre: of BPE on bytes. */
err tokenizer_json(const tokenizer *t, const struct gguf_pre *pre, str *out);
/* Can it be said there? What cannot be known from the text that is made. */
err tokenizer_json_can(const tokenizer *t);

#endif
