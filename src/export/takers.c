/* See takers.h. */
#include "export/takers.h"
#include "base/str.h"
#include "gen/adapter.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What of an adapter matters to loaders. */
struct facts {
    const json_t *config;
    const char *type;
    const struct peft_method *method; /* NULL: none of ours */
    bool hub, lora, dora, rslora, modules, bias, patterns, head, embedding, tokens;
    bool classifies; /* a head is among the modules */
    int64_t rank; /* the greatest */
};

static void look_at_tensors(const struct tensors *ts, struct facts *f) {
    for (int i = 0; i < ts->n; i++) {
        const struct tensor *t = &ts->t[i];
        if (str_ends(t->name, ".lora_A.weight") && t->d[0] > f->rank) f->rank = t->d[0];
        f->dora |= strstr(t->name, "lora_magnitude_vector") != NULL;
        f->head |= strstr(t->name, "lm_head.") != NULL;
        f->embedding |= strstr(t->name, "lora_embedding_") || strstr(t->name, "embed_tokens.");
    }
}

/* What the configuration alone says. */
static void look_at_settings(const json_t *config, struct facts *f) {
    const char *bias = json_string_value(json_object_get(config, "bias")), *type = json_string_value(json_object_get(config, "peft_type"));
    *f = (struct facts){.config = config, .type = type ? type : "none", .rank = json_integer_value(json_object_get(config, "r"))};
    f->hub = config_of_hub(config);
    f->lora = !strcmp(f->type, "LORA");
    f->method = method_of_type(f->type);
    f->dora = setting_given(json_object_get(config, "use_dora"));
    f->rslora = setting_given(json_object_get(config, "use_rslora"));
    const json_t *saved = json_object_get(config, "modules_to_save"), *name;
    size_t i;
    f->modules = setting_given(saved);
    json_array_foreach(saved, i, name) f->classifies |= json_is_string(name) && head_names(json_string_value(name));
    f->tokens = setting_given(json_object_get(config, "trainable_token_indices"));
    f->bias = (bias && strcmp(bias, "none")) || setting_given(json_object_get(config, "lora_bias"));
    f->patterns = setting_given(json_object_get(config, "rank_pattern")) || setting_given(json_object_get(config, "alpha_pattern"));
}

static err collect(const char *folder, const json_t *config, struct facts *f) {
    char path[4096];
    struct tensors ts;
    look_at_settings(config, f);
    snprintf(path, sizeof path, "%s/%s", folder, method_file(f->hub));
    TRY(tensors_open(path, &ts));
    look_at_tensors(&ts, f);
    tensors_close(&ts);
    return OK;
}

static void say(json_t *list, const char *loader, const char *takes, const char *why) {
    json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "loader", loader, "takes", takes, "why", why));
}

static void cyclora(const char *folder, json_t *list) {
    arena mem = {0};
    const struct peft_method *method;
    const void *settings;
    err e = adapter_read_config(folder, &mem, &method, &settings);
    const char *text = e ? err_text() : "", *after = strstr(text, "adapter_config.json: ");
    say(list, "cyclora", e ? "no" : "yes", after ? after + strlen("adapter_config.json: ") : text);
    arena_free(&mem);
}

const char *const peft_keys[] = {
    "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r",
    "target_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "modules_to_save", "init_lora_weights",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", NULL,
};

static void peft(const struct facts *f, json_t *list) {
    str new = {0};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)f->config, key, v) {
        bool old = false;
        for (const char *const *known = peft_keys; *known; known++) old |= !strcmp(*known, key);
        if (!old && f->lora) str_addf(&new, "%s%s", new.n ? ", " : "", key);
    }
    bool named = json_is_string(json_object_get(f->config, "base_model_name_or_path"));
    if (f->hub) say(list, "PEFT", "no", "it is AdapterHub's");
    else if (!named) say(list, "PEFT", "no", "base_model_name_or_path is missing: transformers raises KeyError");
    else if (!strcmp(f->type, "none")) say(list, "PEFT", "no", "peft_type is missing");
    else if (f->method && f->method->ours)
        say(list, "PEFT", "no", f->method->whole ? "it has no such method; `cyclora merge` makes a model of it" : "it has no such method");
    else if (new.n) {
        str why = {0};
        str_addf(&why, "a version that knows %s; `cyclora export --to peft` leaves such keys out", new.p);
        say(list, "PEFT", "new enough", why.p ? why.p : "");
        str_free(&why);
    } else say(list, "PEFT", "yes", "");
    str_free(&new);
}

static bool whole(const struct facts *f) { return f->method && f->method->whole; }
static bool product(const struct facts *f) { return f->method && f->method->pair; }

/* The smallest value of vLLM's --max-lora-rank that holds the rank; 0: none. */
static int vllm_rank(int64_t rank) {
    static const int steps[] = {16, 32, 64, 128, 256, 320, 512};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (rank <= steps[i]) return steps[i];
    return 0;
}

static void vllm(const struct facts *f, json_t *list) {
    char why[160], takes[64];
    int rank = vllm_rank(f->rank);
    const char *no = whole(f) || product(f) ? "it serves LoRA alone: merge the adapter"
                     : !f->lora    ? "it serves LoRA alone"
                     : f->dora     ? "use_dora is rejected: merge the adapter"
                     : f->classifies ? "an adapter's head (modules_to_save) is rejected; `cyclora merge` makes a model of it"
                     : f->modules  ? "modules_to_save is rejected: merge the adapter"
                     : f->bias     ? "trained biases are rejected"
                     : f->tokens   ? "trainable_token_indices is not read: merge the adapter"
                     : f->patterns ? "rank_pattern and alpha_pattern are not read: modules would be scaled wrongly; merge the adapter"
                     : !rank       ? "the rank is beyond 512, the most that --max-lora-rank takes: merge the adapter"
                     : f->embedding ? "LoRA on the embedding is not served by current versions: merge the adapter"
                                    : NULL;
    snprintf(takes, sizeof takes, "--max-lora-rank %d", rank);
    const char *where = f->head ? "; where lm_head is among the model's embedding_modules (Llama, Mistral, ...)" : "";
    snprintf(why, sizeof why, "rank %lld; the default is 16%s", (long long)f->rank, where);
    if (no) say(list, "vLLM", "no", no);
    else if (rank > 16) say(list, "vLLM", takes, why);
    else if (f->head) say(list, "vLLM", "some models", where + strlen("; "));
    else say(list, "vLLM", "yes", "with --enable-lora");
}

/* What cannot be in a file of A and B matrices of linear layers; NULL: nothing. */
static const char *beyond_pairs(const struct facts *f) {
    return whole(f)                  ? "it reads LoRA alone: merge the adapter"
           : !f->lora && !product(f) ? "it reads LoRA alone"
           : f->dora                 ? "DoRA's magnitudes cannot be expressed: merge the adapter"
           : f->classifies           ? "a head (modules_to_save) cannot be expressed"
           : f->modules              ? "modules_to_save cannot be expressed: merge the adapter"
           : f->tokens || f->bias    ? "trained tokens or biases cannot be expressed: merge the adapter in PEFT"
           : f->embedding            ? "LoRA on the embedding is refused"
                                     : NULL;
}

static void through_export(const struct facts *f, const char *loader, const char *form, json_t *list) {
    char takes[64], why[240];
    const char *no = beyond_pairs(f);
    const bool scales = f->patterns && f->lora;
    snprintf(takes, sizeof takes, "export --to %s", form);
    const char *scale = f->rslora ? "rsLoRA's scale is written as alpha * sqrt(r) / r" : "",
               *made = product(f) ? "as the product of two matrices that it comes to"
                       : scales   ? f->rslora ? "; scales by module are folded into B" : "scales by module are folded into B"
                                  : "";
    snprintf(why, sizeof why, "%s%s%s%s", scale, made, f->head && (*scale || *made) ? "; " : "",
             f->head ? "of a tied model the head is no tensor of its own: merge the adapter then" : "");
    if (no) say(list, loader, "no", no);
    else say(list, loader, takes, why);
}

json_t *takers_refusing(const json_t *config) {
    struct facts f;
    json_t *all = json_array(), *out = json_array(), *one;
    size_t i;
    look_at_settings(config, &f);
    vllm(&f, all);
    through_export(&f, "llama.cpp", "gguf-lora", all);
    json_array_foreach(all, i, one)
        if (!strcmp(json_string_value(json_object_get(one, "takes")), "no")) json_array_append(out, one);
    json_decref(all);
    return out;
}

err takers_of(const char *folder, json_t **out) {
    char path[4096];
    json_error_t je;
    struct facts f;
    *out = NULL;
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    json_t *config = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(config)) return json_decref(config), fail(E_INPUT, "%s: %s", path, config ? "not an object" : je.text);
    err e = collect(folder, config, &f);
    *out = e ? NULL : json_array();
    if (*out) {
        cyclora(folder, *out);
        if (f.hub) say(*out, "AdapterHub", "yes", "load_adapter(folder, use_safetensors=True)");
        peft(&f, *out);
        vllm(&f, *out);
        through_export(&f, "llama.cpp", "gguf-lora", *out);
        through_export(&f, "mlx-lm", "mlx", *out);
    }
    json_decref(config);
    return e;
}
