/* A small GGUF model with a tokenizer, made from the cipher base (tests/golden/cipher) as llama.cpp's converter would: the
 * same weights under GGUF's names, the rows of q and k in its order. */
#ifndef TESTS_GGUF_H
#define TESTS_GGUF_H
#include "base/str.h"

void cipher_gguf(str *out); /* the file's bytes; the caller frees */

#endif
