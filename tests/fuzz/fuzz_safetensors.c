/* Any bytes as a safetensors file; those that start with '{' as the index of a sharded model instead, beside one good
 * shard. Opened or refused, then every tensor read; those of types that no kernel reads are unpacked or refused. */
#define _GNU_SOURCE
#include "io/packed.h"
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

/* What comes out must be as long as its shape says, and can be decoded. */
static void unpack(struct tensors *ts, const struct tensor *t) {
    struct tensor out;
    if (t->dt || packed_tensor(ts, t, &out)) return;
    int64_t n = 1;
    for (int i = 0; i < out.nd; i++) n *= out.d[i];
    if (out.bytes != dtype_row_bytes(out.dt, n)) abort();
    float *y = malloc((size_t)n * 4);
    if (y) dequantise_row(out.dt, out.data, y, n);
    free(y);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct tensors ts;
    if (n && bytes[0] == '{') open_index(bytes, n, &ts);
    else fuzz_check(tensors_open(fuzz_file("input.safetensors", bytes, n), &ts), &ts);
    for (int i = 0; i < ts.n; i++) unpack(&ts, &ts.t[i]);
    tensors_close(&ts);
    return 0;
}
