/* Fuzz target: the bytes are a tokenizer.json. One that loads must encode and decode without a fault, and every id must
 * be in its vocabulary. Run: clang -fsanitize=fuzzer,address; replayed by tests/io/test_fuzz_tokenizer.c. */
#include "io/tokenizer_internal.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] =
        "Hello  world's 123\t\n e\xCC\x81 \xE1\xA0\x8E\xE4\xB8\xAD <|a|> <|b|>x \xF0\x9F\x98\x80";
    tokenizer *t;
    struct ids ids = {0};
    str back = {0};
    if (tokenizer_json_parse("fuzz", (const char *)data, size, &t)) return 0;
    for (int special = 0; special < 2; special++) {
        if (tokenizer_encode(t, text, sizeof text - 1, special, &ids)) continue;
        if (tokenizer_decode(t, ids.v, ids.n, special, &back)) abort();
    }
    ids_free(&ids);
    str_free(&back);
    tokenizer_free(t);
    return 0;
}
