/* Any bytes as a tokenizer that is to go to the other format: those that start with '{' as a tokenizer.json for GGUF metadata, others as
 * a GGUF file for tokenizer.json. Written or refused; what was written must be there. */
#define _GNU_SOURCE
#include "io/tokenizer_out.h"
#include "fuzz/fuzz_tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void to_gguf(const uint8_t *bytes, size_t n) {
    struct gguf_keys k = {0};
    str file = {0};
    struct tensors ts;
    fuzz_file("tokenizer.json", bytes, n);
    err e = tokenizer_to_gguf(fuzz_folder, 600, &k);
    if (e && !*err_text()) abort();
    if (!e && (gguf_keys_open(&k, &file, &ts) || gguf_find(ts.meta, "tokenizer.ggml.tokens")->n != 600)) abort();
    if (!e) tensors_close(&ts);
    str_free(&file);
    gguf_keys_free(&k);
}

static void to_hf(const uint8_t *bytes, size_t n) {
    struct tensors ts;
    if (tensors_open(fuzz_file("input.gguf", bytes, n), &ts)) return;
    err e = ts.meta ? tokenizer_to_hf(&ts, fuzz_folder) : OK;
    if (e && !*err_text()) abort();
    tensors_close(&ts);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (n && bytes[0] == '{') to_gguf(bytes, n);
    else to_hf(bytes, n);
    return 0;
}
