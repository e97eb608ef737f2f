/* Any bytes as a GGUF file: opened or refused, then every tensor, key and string of it read. */
#define _GNU_SOURCE
#include "io/tensors.h"
#include "fuzz/fuzz_tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void read_key(const struct gguf_meta *m, const struct gguf_kv *kv) {
    uint64_t u;
    double f;
    volatile uint64_t sink = 0;
    if (gguf_find(m, kv->key) != kv) abort();
    gguf_u64(m, kv->key, &u);
    gguf_f64(m, kv->key, &f);
    const char *s = gguf_str(m, kv->key);
    if (s && s[kv->n]) abort();
    if (kv->type != GGUF_ARRAY || kv->elem != GGUF_STRING) return;
    const uint8_t *cursor = kv->raw;
    for (uint64_t i = 0; i < kv->n; i++) {
        uint64_t len;
        const char *p = gguf_array_str(&cursor, &len);
        for (uint64_t k = 0; k < len; k++) sink = sink + (unsigned char)p[k];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct tensors ts;
    fuzz_check(tensors_open(fuzz_file("input.gguf", bytes, n), &ts), &ts);
    for (int i = 0; ts.meta && i < ts.meta->n; i++) read_key(ts.meta, &ts.meta->kv[i]);
    tensors_close(&ts);
    return 0;
}
