/* cyc_prune: a smaller model, by export/prune.h. */
#include "api/api.h"
#include "export/prune.h"
#include <stdlib.h>
#include <string.h>

/* --- what happens, to whom it concerns --------------------------------------------------------------------------------- */
static void tell(const cyc_prune_options *o, void (*whom)(void *ctx, const char *json), const json_t *what) {
    char *text = whom ? json_dumps(what, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (text) whom(o->ctx, text);
    free(text);
}

static void relay_measured(void *ctx, const json_t *measured) { tell(ctx, ((const cyc_prune_options *)ctx)->on_measured, measured); }
static void relay_plan(void *ctx, const json_t *plan) { tell(ctx, ((const cyc_prune_options *)ctx)->on_plan, plan); }

static void relay_progress(void *ctx, size_t done, size_t total) {
    const cyc_prune_options *o = ctx;
    if (o->on_progress) o->on_progress(o->ctx, done, total);
}

/* --- asking ------------------------------------------------------------------------------------------------------------ */
static err read_texts(const cyc_prune_options *o, int64_t tokens, struct ids **texts, int *n) {
    const cyc_export_options read = {.model = o->model, .data = o->data, .data_field = o->data_field, .data_tokens = tokens + tokens / 4};
    return o->data ? api_read_texts(&read, texts, n) : OK;
}

static err one(const cyc_prune_options *o, json_t **report) {
    struct prune_request r = {.tokens = o->tokens ? o->tokens : CYC_PRUNE_TOKENS,
                              .layers = o->layers,
                              .ffn = o->ffn,
                              .heads = o->heads,
                              .width = o->hidden,
                              .drop = o->drop_layers,
                              .contiguous = o->contiguous,
                              .by = o->by,
                              .on_measured = relay_measured,
                              .out = {.base = o->model,
                                      .to = o->to                                 ? o->to
                                            : o->out && str_ends(o->out, ".gguf") ? "gguf"
                                                                                  : "hf",
                                      .out = o->out,
                                      .max_shard = o->max_shard_bytes > 0 ? (size_t)o->max_shard_bytes : 0,
                                      .force = o->flags & CYC_EXPORT_FORCE,
                                      .unchecked = o->flags & CYC_EXPORT_UNCHECKED,
                                      .on_plan = relay_plan,
                                      .progress = {.report = relay_progress, .ctx = (void *)(uintptr_t)o, .stop = api_stop()}}};
    struct ids *texts = NULL;
    if (!o->model || !o->out) return fail(E_USAGE, "pruning needs a model and a place to write to");
    if (strcmp(r.out.to, "hf") && strcmp(r.out.to, "gguf"))
        return fail(E_USAGE, "'%s' is nothing to write a model as; hf and gguf are", r.out.to);
    if (r.layers < 0 || r.ffn < 0 || r.heads < 0 || r.width < 0 || r.tokens < 0) return fail(E_USAGE, "sizes are numbers from 0 on");
    if (o->type && !(r.out.type = dtype_parse(o->type)))
        return fail(E_USAGE, "--type %s: there is no such type (f32, f16, bf16, q8_0, q4_0, q6_k, ...: the names that GGUF has)", o->type);
    err e = read_texts(o, r.tokens, &texts, &r.n_texts);
    r.texts = texts;
    if (!e) e = prune(&r, report);
    for (int i = 0; texts && i < r.n_texts; i++) ids_free(&texts[i]);
    free(texts);
    return e;
}

int cyc_prune(const cyc_prune_options *o, char **json) {
    json_t *report = NULL;
    err e = one(o, &report);
    if (!e) tell(o, o->on_done, json_object_get(report, "output"));
    *api_stop() = 0;
    if (json) *json = NULL;
    if (e || !json) json_decref(report);
    else if (api_json((struct json_t *)report, json)) e = E_MEMORY;
    return api_code(e);
}
