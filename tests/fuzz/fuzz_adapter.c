/* Any bytes as one of an adapter's two files, beside a good other one, of a LoRA and of trained tensors in turn: those that start with '{'
 * as adapter_config.json, others as adapter_model.safetensors. Read as deltas on a tiny model and asked who would load it: taken or refused with a message. Runs from the
 * source root. */
#define _GNU_SOURCE
#include "export/deltas.h"
#include "export/takers.h"
#include "fuzz/fuzz_tensors.h"

#ifdef FUZZ_WITHOUT_CPU /* tools/fuzz.sh leaves src/cpu out, whose files need flags of their own; parameters are laid down without kernels */
static kernel no_kernel(const struct inst *inst, const struct view *in, const struct view *out) { return (void)inst, (void)in, (void)out, NULL; }
const struct backend backend_cpu = {.name = "none", .find = no_kernel};
const struct flat_ops flat_cpu;
#endif

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static const char BASE[] = "tests/golden/tiny_llama/tied_gqa";

static void good(const char *file, bool whole) {
    char path[256];
    str b = {0};
    snprintf(path, sizeof path, "%s/%s", whole ? "tests/golden/methods/full/adapter" : "tests/golden/tiny_llama/tied_gqa/adapter_qv_r3", file);
    if (file_read(path, &b)) abort();
    fuzz_file(file, (const uint8_t *)b.p, b.n);
    str_free(&b);
}

static void beside(const struct model *base, const uint8_t *bytes, size_t n, bool whole) {
    struct deltas d;
    json_t *list = NULL;
    bool config = n && bytes[0] == '{';
    fuzz_file(config ? "adapter_config.json" : "adapter_model.safetensors", bytes, n);
    good(config ? "adapter_model.safetensors" : "adapter_config.json", whole);
    err e = deltas_open(fuzz_folder, base, &d);
    if (e && (!*err_text() || d.n || d.mem.head)) abort();
    if (!e) {
        struct structure st = {0};
        float *w = NULL;
        if (!deltas_structure(&d, base, &st, &w)) arena_f32_free(w, st.params.bytes);
        structure_free(&st);
        deltas_close(&d);
    }
    e = takers_of(fuzz_folder, &list);
    if (e ? !*err_text() || list : json_array_size(list) != 5) abort();
    json_decref(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static struct model m;
    if (!m.n && model_open(BASE, NULL, &m)) abort();
    for (int whole = 0; whole < 2; whole++) beside(&m, bytes, n, whole);
    return 0;
}
