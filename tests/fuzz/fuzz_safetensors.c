/* Any bytes as a safetensors file; those that start with '{' as the index of a sharded model instead, beside one good
 * shard. Opened or refused, then every tensor read. */
#define _GNU_SOURCE
#include "io/tensors.h"
#include "fuzz/fuzz_tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void open_index(const uint8_t *bytes, size_t n, struct tensors *ts) {
    static const char shard[] = "\x40\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
                                "          \0\0\0\0";
    fuzz_file("a.safetensors", (const uint8_t *)shard, sizeof shard - 1);
    fuzz_file("model.safetensors.index.json", bytes, n);
    fuzz_check(tensors_open(fuzz_folder, ts), ts);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct tensors ts;
    if (n && bytes[0] == '{') open_index(bytes, n, &ts);
    else fuzz_check(tensors_open(fuzz_file("input.safetensors", bytes, n), &ts), &ts);
    tensors_close(&ts);
    return 0;
}
