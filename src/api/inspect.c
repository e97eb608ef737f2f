/* cyc_inspect: what a file or folder holds, as JSON; of an adapter also who will load it, and whether it fits a base. */
#include "api/api.h"
#include "export/deltas.h"
#include "export/takers.h"
#include "export/untie.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *tensors_json(const struct tensors *ts) {
    json_t *list = json_array();
    for (int i = 0; i < ts->n; i++) {
        const struct tensor *t = &ts->t[i];
        json_t *shape = json_array();
        for (int k = 0; k < t->nd; k++) json_array_append_new(shape, json_integer(t->d[k]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "dtype", t->dt ? dtype_info[t->dt].name : t->stored,
                                              "shape", shape, "bytes", (json_int_t)t->bytes));
    }
    return list;
}

/* How many bytes are stored in each type: {"q4_1": 66355200, ...}. */
static json_t *types_json(const struct tensors *ts) {
    json_t *j = json_object();
    for (int i = 0; i < ts->n; i++) {
        const struct tensor *t = &ts->t[i];
        const char *type = t->dt ? dtype_info[t->dt].name : t->stored;
        json_object_set_new(j, type, json_integer(json_integer_value(json_object_get(j, type)) + (json_int_t)t->bytes));
    }
    return j;
}

static err inspect_tensors(const char *path, json_t *out) {
    struct tensors ts;
    TRY(tensors_open(path, &ts));
    if (ts.meta) {
        json_t *meta = json_object();
        for (int i = 0; i < ts.meta->n; i++) {
            const struct gguf_kv *kv = &ts.meta->kv[i];
            char text[64];
            uint64_t u;
            double f;
            if (kv->type == GGUF_STRING) json_object_set_new(meta, kv->key, json_stringn(kv->v.s, kv->n < 400 ? kv->n : 400));
            else if (kv->type == GGUF_ARRAY)
                snprintf(text, sizeof text, "(array of %llu)", (unsigned long long)kv->n),
                    json_object_set_new(meta, kv->key, json_string(text));
            else if (gguf_u64(ts.meta, kv->key, &u)) json_object_set_new(meta, kv->key, json_integer((json_int_t)u));
            else if (gguf_f64(ts.meta, kv->key, &f)) json_object_set_new(meta, kv->key, json_real(f));
        }
        json_object_set_new(out, "metadata", meta);
    }
    json_object_set_new(out, "bytes_by_type", types_json(&ts));
    json_object_set_new(out, "tensors", tensors_json(&ts));
    tensors_close(&ts);
    return OK;
}

static err inspect_model(const char *path, json_t *out) {
    struct model m;
    TRY(model_open(path, NULL, &m));
    const struct shape *z = &m.shape;
    json_object_update_new(out, json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b}", "kind", "model",
                                          "path", path, "architecture", model_arch(&m), "parameters", (json_int_t)m.parameters, "bytes",
                                          (json_int_t)m.bytes, "layers", (json_int_t)z->layers, "width", (json_int_t)z->width, "heads",
                                          (json_int_t)z->heads, "kv_heads", (json_int_t)z->kv_heads, "head_dim", (json_int_t)z->head_dim,
                                          "ffn", (json_int_t)z->ffn, "vocabulary", (json_int_t)z->vocab, "context", (json_int_t)z->context,
                                          "rope_base", m.rope[0].base, "tied", (int)z->tied));
    char hash[33];
    model_hash(&m, hash);
    json_object_set_new(out, "xxh128_of_tensors", json_string(hash));
    model_close(&m);
    return inspect_tensors(path, out);
}

static err inspect_json(const char *path, const char *key, json_t *out) {
    json_error_t je;
    json_t *j = json_load_file(path, 0, &je);
    if (!j) return fail(E_INPUT, "%s: %s", path, je.text);
    json_object_set_new(out, key, j);
    return OK;
}

/* What takes the place of no tensor of the base (a prompt, what stands behind sublayers): it fits what the base's sizes ask for. */
static err sizes_fit(const char *folder, const struct model *m, const struct peft_method *method, const void *settings) {
    struct structure st;
    TRY(structure_init(&st, m, method, settings, NULL));
    float *weights = arena_f32(st.params.bytes);
    err e = weights ? adapter_read(folder, &st, weights) : fail(E_MEMORY, "out of memory");
    if (weights) arena_f32_free(weights, st.params.bytes);
    structure_free(&st);
    return e;
}

static err fits(const char *folder, struct model *m, arena *mem, const char **how) {
    const struct peft_method *method;
    const void *settings;
    struct deltas d;
    *how = "its shape is what this base asks for";
    if (!adapter_read_config(folder, mem, &method, &settings) && (method->virtual_tokens || method->attention || method->sublayer))
        return sizes_fit(folder, m, method, settings);
    TRY(untie_for(folder, m));
    err e = deltas_open(folder, m, &d);
    *how = d.method && !d.made ? "every tensor finds its place" : "every pair finds its matrix";
    if (!e) deltas_close(&d);
    return e;
}

/* Does it fit this base: names and shapes of all its pairs, and the hash that its run noted. */
static err fit_json(const char *folder, const char *model, arena *mem, json_t *out) {
    struct model m;
    char hash[33];
    const char *noted = NULL, *how;
    json_t *audit = NULL;
    TRY(model_open(model, NULL, &m));
    model_hash(&m, hash);
    err e = fits(folder, &m, mem, &how);
    json_t *fit = json_pack("{s:s, s:b, s:s}", "model", model, "fits", e == OK, "why", e ? err_text() : how);
    for (int up = 0; up < 3 && !noted; up++) {
        json_decref(audit);
        audit = json_load_file(arena_printf(mem, "%s%s/audit.json", folder, up == 2 ? "/../.." : up ? "/.." : ""), 0, NULL);
        noted = json_string_value(json_object_get(json_object_get(audit, "base"), "xxh128_of_tensors"));
    }
    json_object_set_new(fit, "trained_on_it",
                        noted ? json_string(strcmp(noted, hash) ? "no: another file (right for the same model in another form)"
                                                                : "yes: the hash of its tensors is the one that the run noted")
                              : json_string("not known: no audit.json beside the adapter"));
    json_decref(audit);
    model_close(&m);
    json_object_set_new(out, "base", fit);
    return OK;
}

static err inspect_adapter(const char *folder, const char *model, arena *mem, json_t *out) {
    json_t *loaders;
    TRY(inspect_json(arena_printf(mem, "%s/adapter_config.json", folder), "config", out));
    const char *stretched = arena_printf(mem, "%s/rope_scaling.json", folder);
    if (stretched && path_exists(stretched)) TRY(inspect_json(stretched, "positions", out));
    TRY(takers_of(folder, &loaders));
    json_object_set_new(out, "kind", json_string("adapter"));
    json_object_set_new(out, "loaders", loaders);
    if (model) TRY(fit_json(folder, model, mem, out));
    TRY(inspect_tensors(arena_printf(mem, "%s/%s", folder, method_file(config_of_hub(json_object_get(out, "config")))), out));
    json_int_t n = 0;
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(out, "tensors"), i, t) {
        json_int_t elements = 1;
        for (size_t k = 0; k < json_array_size(json_object_get(t, "shape")); k++)
            elements *= json_integer_value(json_array_get(json_object_get(t, "shape"), k));
        n += elements;
    }
    json_object_set_new(out, "parameters", json_integer(n));
    return OK;
}

static err inspect_sides(const char *path, const char *model, arena *mem, json_t *out) {
    for (int i = 0; i < API_FOLDERS; i++) {
        char *sub = arena_printf(mem, "%s/%s", path, api_folder(i));
        if (!path_exists(arena_printf(mem, "%s/adapter_config.json", sub))) continue;
        json_t *side = json_object();
        err e = inspect_adapter(sub, model, mem, side);
        if (e) return json_decref(side), e;
        json_object_del(side, "tensors");
        json_object_set_new(out, api_folder(i), side);
    }
    return OK;
}

static err inspect(const char *path, const char *model, arena *mem, json_t *out) {
    if (!path_exists(path)) return fail(E_USAGE, "%s: no such file or folder", path);
    if (!path_is_dir(path)) {
        if (str_ends(path, ".safetensors")) return json_object_set_new(out, "kind", json_string("tensors")), inspect_tensors(path, out);
        return inspect_model(path, out);
    }
    if (path_exists(arena_printf(mem, "%s/adapter_config.json", path))) return inspect_adapter(path, model, mem, out);
    char *state = arena_printf(mem, "%s/trainer_state.json", path), *audit = arena_printf(mem, "%s/audit.json", path);
    if (path_exists(state)) {
        json_object_set_new(out, "kind", json_string("checkpoint"));
        TRY(inspect_json(state, "state", out));
        return inspect_sides(path, model, mem, out);
    }
    if (path_exists(audit)) {
        json_object_set_new(out, "kind", json_string("run"));
        TRY(inspect_json(audit, "audit", out));
        return inspect_sides(path, model, mem, out);
    }
    if (path_exists(arena_printf(mem, "%s/config.json", path))) return inspect_model(path, out);
    return fail(
        E_INPUT,
        "%s: neither a model (config.json), an adapter (adapter_config.json), a checkpoint (trainer_state.json) nor a run (audit.json)",
        path);
}

int cyc_inspect(const char *path, char **json) { return cyc_inspect_on(path, NULL, json); }

int cyc_inspect_on(const char *path, const char *model, char **json) {
    arena mem = {0};
    json_t *j = json_object();
    *json = NULL;
    err e = j ? inspect(path, model, &mem, j) : fail(E_MEMORY, "out of memory");
    arena_free(&mem);
    if (e) return json_decref(j), api_code(e);
    return api_json((struct json_t *)j, json);
}

int cyc_doctor(char **text) {
    str s = {0};
    backend_describe(&s);
    *text = s.p;
    return s.p ? CYC_OK : api_code(fail(E_MEMORY, "out of memory"));
}
