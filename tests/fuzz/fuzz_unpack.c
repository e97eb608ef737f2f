/* Fuzz target for data/unpack.c: bytes that claim to be gzip (first byte even) or zstd, whatever they are. What is refused
 * must name the file; memory must stay bounded (libFuzzer's limits watch that). tools/fuzz.sh runs it; the corpus is
 * replayed by tests/unit/test_fuzz_jsonl.c. */
#include "data/unpack.h"
#include <stdlib.h>
#include <string.h>

static err count_plain(void *ctx, const void *plain, size_t n) {
    size_t *total = ctx;
    if (n && !plain) abort();
    *total += n;
    return *total > (64u << 20) ? fail(E_MEMORY, "d: enough") : OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    size_t total = 0;
    struct unpack_io io = {.path = "d", .p = data + 1, .n = size - 1, .put = count_plain, .ctx = &total};
    if (unpack(&io, data[0] & 1 ? PACKING_ZSTD : PACKING_GZIP) && strncmp(err_text(), "d: ", 3) != 0) abort();
    return 0;
}
