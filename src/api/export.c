/* cyc_export: finds the adapters of what it is given, their base and its hash, the places to write to, and hands each to
 * export/export.h. */
#define _DEFAULT_SOURCE
#include "api/api.h"
#include "base/log.h"
#include "export/export.h"
#include "export/place.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct source {
    const char *folder, *side;
}; /* side: "A", "B", ..., "adapter"; "": the folder itself is the adapter */

static const char *in(arena *mem, const char *folder, const char *name) { return arena_printf(mem, "%s/%s", folder, name); }
static bool is_adapter(arena *mem, const char *folder) { return path_exists(in(mem, folder, "adapter_config.json")); }

static err find_sources(const char *from, const char *side, arena *mem, struct source *out, int *n) {
    if (!path_is_dir(from))
        return fail(E_USAGE, "%s: %s", from,
                    path_exists(from) ? "a file, where the folder of a run or of an adapter is wanted" : "no such folder");
    if (is_adapter(mem, from)) {
        if (side) return fail(E_USAGE, "%s is one adapter: it has no side '%s'", from, side);
        out[(*n)++] = (struct source){from, ""};
        return OK;
    }
    bool any = false;
    for (int i = 0; i < API_FOLDERS; i++) {
        const char *name = api_folder(i), *sub = in(mem, from, name);
        if (!is_adapter(mem, sub)) continue;
        any = true;
        if (!side || !strcmp(side, name)) out[(*n)++] = (struct source){sub, name};
    }
    if (!any)
        return fail(E_USAGE, "%s holds no adapter (adapter_config.json), neither itself nor as A, B or adapter: is the run finished?",
                    from);
    return *n ? OK : fail(E_USAGE, "%s has no side '%s'", from, side);
}

static json_t *read_json(const char *path) { return path ? json_load_file(path, 0, NULL) : NULL; }

static err find_base(const struct source *s, const char *given, arena *mem, const char **base) {
    if (given) return *base = given, OK;
    json_t *j = read_json(in(mem, s->folder, "adapter_config.json"));
    const char *name = json_string_value(json_object_get(j, "base_model_name_or_path"));
    *base = name && *name ? arena_str(mem, name) : NULL;
    json_decref(j);
    if (!*base) return fail(E_USAGE, "%s names no base model: --model does", s->folder);
    if (!str_starts(*base, "random:") && !path_exists(*base))
        return fail(E_USAGE, "the base model %s, which %s names, is not here: --model says where it is", *base, s->folder);
    return OK;
}

/* The hash of the base in the audit of the run that the adapter lies in: its folder, or up to two above (run/checkpoint-3/A). */
static void find_hash(const struct source *s, arena *mem, struct export_request *r) {
    static const char *const up[] = {"", "/..", "/../.."};
    for (int i = 0; i < 3; i++) {
        json_t *j = read_json(arena_printf(mem, "%s%s/audit.json", s->folder, up[i]));
        const json_t *base = json_object_get(j, "base"), *one;
        size_t k;
        json_array_foreach(json_object_get(j, "bases"), k, one) { /* each side has one of its own */
            const char *side = json_string_value(json_object_get(one, "side"));
            if (side && !strcmp(side, s->side)) base = one;
        }
        const char *hash = json_string_value(json_object_get(base, "xxh128_of_tensors")),
                   *path = json_string_value(json_object_get(base, "path"));
        if (hash) r->hash = arena_str(mem, hash), r->hash_binds = path && !strcmp(path, r->base);
        json_decref(j);
        if (r->hash) return;
    }
}

/* One output goes to `out` itself; of several each is named after its side. A file's name ends in .gguf, else `out` is its folder. */
static const char *place_for(const cyc_export_options *o, const char *from, const char *to, const struct source *s, bool several,
                             arena *mem) {
    const char *out = o->out ? o->out : arena_printf(mem, "%s/export/%s", from, to), *name = s && *s->side ? s->side
                                                                                             : s           ? "adapter"
                                                                                                           : "model";
    bool file = export_is_file(to);
    if (!out || (file && !several && str_ends(out, ".gguf"))) return out;
    if (file) return arena_printf(mem, "%s/%s.gguf", out, name);
    return several || (!o->out && s && *s->side) ? in(mem, out, name) : out;
}

struct relay {
    const cyc_export_options *o;
};

static void tell(const cyc_export_options *o, void (*whom)(void *ctx, const char *json), const json_t *what) {
    char *text = whom ? json_dumps(what, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (text) whom(o->ctx, text);
    free(text);
}

static void relay_plan(void *ctx, const json_t *plan) {
    const cyc_export_options *o = ((struct relay *)ctx)->o;
    tell(o, o->on_plan, plan);
}

static void relay_progress(void *ctx, size_t done, size_t total) {
    const cyc_export_options *o = ((struct relay *)ctx)->o;
    if (o->on_progress) o->on_progress(o->ctx, done, total);
}

/* What an undone merge is compared with: what is named, or the base that the adapter names, where that is here and another model. */
static const char *likeness(const cyc_export_options *o, const struct source *s, const char *merged, arena *mem) {
    const char *base = o->like;
    if (!base && find_base(s, NULL, mem, &base)) return NULL;
    return o->like || (path_exists(base) && !place_not_itself(base, merged)) ? base : NULL;
}

static err one(const cyc_export_options *o, const char *from, struct export_request *r, const struct source *s, bool several, arena *mem,
               json_t *outputs) {
    struct relay relay = {o};
    json_t *report = NULL;
    r->out = place_for(o, from, r->to, s, several, mem);
    if (!r->out) return fail(E_MEMORY, "out of memory");
    if (s) {
        r->adapter = s->folder;
        TRY(find_base(s, o->model, mem, &r->base));
        r->hash = NULL;
        find_hash(s, mem, r);
        if (r->undo) r->like = likeness(o, s, r->base, mem);
    }
    TRY(place_not_itself(r->out, r->base));
    TRY(place_not_itself(r->out, r->adapter));
    r->progress = (struct progress){.report = relay_progress, .ctx = &relay, .stop = api_stop()};
    r->on_plan = relay_plan;
    err e = export_one(r, &report);
    if (s && *s->side && report) json_object_set_new(report, "side", json_string(s->side));
    if (!e) tell(o, o->on_done, report);
    json_array_append_new(outputs, report ? report : json_null());
    return e;
}

/* --- quantising ------------------------------------------------------------------------------------------------------ */
static err quantise(const cyc_export_options *o, struct export_request *r, arena *mem, json_t *outputs) {
    struct rules rules;
    struct ids *texts = NULL;
    cyc_export_options all = *o;
    if (!all.data_tokens) all.data_tokens = 4096;
    if (!o->type) return fail(E_USAGE, "quantising needs a type (nf4, q8_0, q6_k, q4_k, ...)");
    if (o->data_tokens < 0) return fail(E_USAGE, "%lld tokens are no number of tokens to compare models on", (long long)o->data_tokens);
    TRY(rules_read(o->type, o->modules, (int)o->n_modules, "modules", mem, &rules));
    rules.nested = !(o->flags & CYC_EXPORT_SINGLE_QUANT);
    r->rules = &rules;
    r->type = DT_NONE;
    r->most_tokens = all.data_tokens;
    err e = o->data ? api_read_texts(&all, &texts, &r->n_texts) : OK;
    r->texts = texts;
    if (!e) e = one(o, o->model, r, NULL, false, mem, outputs);
    for (int i = 0; texts && i < r->n_texts; i++) ids_free(&texts[i]);
    free(texts);
    return e;
}

static err export_all(const char *from, const cyc_export_options *o, arena *mem, json_t *outputs) {
    struct source s[API_FOLDERS];
    int n = 0;
    struct export_request r = {.base = o->model,
                               .base_config = o->model_config,
                               .max_shard = o->max_shard_bytes > 0 ? (size_t)o->max_shard_bytes : 0,
                               .force = o->flags & CYC_EXPORT_FORCE,
                               .undo = o->flags & CYC_EXPORT_UNDO,
                               .unchecked = o->flags & CYC_EXPORT_UNCHECKED};
    r.to = o->to ? o->to : o->out && str_ends(o->out, ".gguf") ? "gguf" : "hf";
    TRY(export_known(r.to));
    if (o->flags & CYC_EXPORT_QUANTIZE) {
        if (from || !o->model || !o->out) return fail(E_USAGE, "what is quantised is a model, and it needs a place to write to");
        return quantise(o, &r, mem, outputs);
    }
    if (o->type && !(r.type = dtype_parse(o->type)))
        return fail(E_USAGE, "--type %s: there is no such type (f32, f16, bf16, q8_0, q4_0, q6_k, ...: the names that GGUF has)", o->type);
    if (!from) {
        if (!o->model || !o->out) return fail(E_USAGE, "a conversion needs a model and a place to write to");
        return one(o, o->model, &r, NULL, false, mem, outputs);
    }
    TRY(find_sources(from, o->side, mem, s, &n));
    for (int i = 0; i < n; i++) TRY(one(o, from, &r, &s[i], n > 1, mem, outputs));
    return OK;
}

int cyc_export(const char *from, const cyc_export_options *opt, char **json) {
    arena mem = {0};
    json_t *outputs = json_array();
    if (json) *json = NULL;
    err e = outputs ? export_all(from, opt, &mem, outputs) : fail(E_MEMORY, "out of memory");
    arena_free(&mem);
    *api_stop() = 0;
    if (!json || e) json_decref(outputs);
    else if (api_json((struct json_t *)json_pack("{s:o}", "outputs", outputs), json)) e = E_MEMORY;
    return api_code(e);
}
