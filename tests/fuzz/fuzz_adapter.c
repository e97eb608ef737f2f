/* Any bytes as one of an adapter's files, beside good other ones. Those that start with '{"id2label' as labels.json of a classifier. Others
 * of a LoRA, of trained tensors and of AdapterHub's in turn: with '{' as adapter_config.json, else as the file of tensors; read as a classifier, as
 * deltas on a tiny model, as an adapter of whatever method it names, made another adapter, and asked who would load it. Taken or refused with a message. Runs from
 * the source root. */
#define _GNU_SOURCE
#include "export/deltas.h"
#include "export/rework.h"
#include "export/takers.h"
#include "fuzz/fuzz_tensors.h"
#include "gen/adapter.h"
#include <string.h>

#ifdef FUZZ_WITHOUT_CPU /* tools/fuzz.sh leaves src/cpu out, whose files need flags of their own; parameters are laid down without kernels */
static kernel no_kernel(const struct inst *inst, const struct view *in, const struct view *out) { return (void)inst, (void)in, (void)out, NULL; }
const struct backend backend_cpu = {.name = "none", .find = no_kernel};
const struct flat_ops flat_cpu;
#endif

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static const char BASE[] = "tests/golden/tiny_llama/tied_gqa";

static void good(const char *folder, const char *file) {
    char path[256];
    str b = {0};
    snprintf(path, sizeof path, "tests/golden/%s/%s", folder, file);
    if (file_read(path, &b)) abort();
    fuzz_file(file, (const uint8_t *)b.p, b.n);
    str_free(&b);
}

/* As `generate --adapter` would. */
static void as_adapter(const struct model *m) {
    const struct peft_method *method;
    const void *settings;
    struct structure st;
    arena mem = {0};
    err e = adapter_read_config(fuzz_folder, &mem, &method, &settings);
    if (!e) e = structure_init(&st, m, method, settings, NULL);
    else st = (struct structure){0};
    float *w = e || st.params.bytes > 64 << 20 ? NULL : arena_f32(st.params.bytes);
    if (w) e = adapter_read(fuzz_folder, &st, w);
    if (e && !*err_text()) abort();
    if (w) arena_f32_free(w, st.params.bytes);
    structure_free(&st);
    arena_free(&mem);
}

/* As `cyclora adapter` would, of it alone and beside a good one. */
static void reworked(void) {
    static const char *const ways[] = {"resize", "average", "ties", "cat"};
    char out[256];
    const char *folders[] = {fuzz_folder, "tests/golden/tiny_llama/tied_gqa/adapter_qv_r3"};
    snprintf(out, sizeof out, "%s/made", fuzz_folder);
    for (int i = 0; i < 4; i++) {
        json_t *report;
        err e = rework(&(struct rework_request){.how = ways[i], .folders = folders, .n = i < 2 ? 1 : 2, .rank = i == 0, .density = i == 2 ? 0.5 : 0, .out = out, .force = true}, &report);
        if (e ? !*err_text() || report || path_exists(out) : !report || dir_remove(out)) abort();
        json_decref(report);
    }
}

static void read_head(void) {
    arena mem = {0};
    struct head head;
    err e = adapter_read_head(fuzz_folder, &mem, &head);
    if (e && !*err_text()) abort();
    for (int i = 0; !e && head.names && i < head.classes; i++)
        if (!head.names[i]) abort();
    arena_free(&mem);
}

static int read_labels(const uint8_t *bytes, size_t n) {
    char path[256];
    good("heads/none/adapter", "adapter_config.json");
    good("heads/none/adapter", "adapter_model.safetensors");
    fuzz_file("labels.json", bytes, n);
    read_head();
    snprintf(path, sizeof path, "%s/labels.json", fuzz_folder);
    return unlink(path);
}

static const struct { const char *folder, *tensors; } kinds[] = {{"tiny_llama/tied_gqa/adapter_qv_r3", "adapter_model.safetensors"}, {"methods/full/adapter", "adapter_model.safetensors"}, {"methods/bn/adapter", "adapter.safetensors"}};

static void beside(const struct model *base, const uint8_t *bytes, size_t n, int kind) {
    struct deltas d;
    json_t *list = NULL;
    bool config = n && bytes[0] == '{';
    fuzz_file(config ? "adapter_config.json" : kinds[kind].tensors, bytes, n);
    good(kinds[kind].folder, config ? kinds[kind].tensors : "adapter_config.json");
    read_head();
    err e = deltas_open(fuzz_folder, base, &d);
    if (e && (!*err_text() || d.n || d.mem.head)) abort();
    if (!e) {
        struct structure st = {0};
        float *w = NULL;
        if (!deltas_structure(&d, base, &st, &w)) arena_f32_free(w, st.params.bytes);
        structure_free(&st);
        deltas_close(&d);
    }
    as_adapter(base);
    reworked();
    e = takers_of(fuzz_folder, &list);
    if (e ? !*err_text() || list : json_array_size(list) < 5) abort();
    json_decref(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static struct model m;
    static const char names[] = "{\"id2label";
    if (n >= sizeof names - 1 && !memcmp(bytes, names, sizeof names - 1)) return read_labels(bytes, n);
    if (!m.n && model_open(BASE, NULL, &m)) abort();
    for (int kind = 0; kind < 3; kind++) beside(&m, bytes, n, kind);
    return 0;
}
