/* See lora_out.h. */
#include "export/lora_out.h"
#include "base/file.h"
#include "core/rope_rows.h"
#include "export/crossing.h"
#include "export/takers.h"
#include "export/untie.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* --- planning -------------------------------------------------------------------------------------------------------- */
/* What a loader multiplies by before the scale that is written: gguf divides by the rank. */
static double unit(const struct lora_out *o, const struct delta *x) { return o->form == FORM_GGUF ? 1.0 / x->rank : 1; }
/* What B is multiplied by; 1 where the written scale says it all. */
static double fold(const struct lora_out *o, const struct delta *x) {
    double f = x->scale / (o->scale * unit(o, x));
    return fabs(f - 1) < 1e-12 ? 1 : f;
}

static int64_t rank_of(const struct lora_out *o, const struct delta *x) { return o->form == FORM_MLX ? o->d->max_rank : x->rank; }

static const struct weight *twin_of(const struct lora_out *o, const struct delta *x) {
    for (int i = 0; i < o->twin.n; i++)
        if (!strcmp(o->twin.w[i].name, x->w->name)) return &o->twin.w[i];
    return NULL;
}

static const char *name_of(struct lora_out *o, const struct delta *x, bool b) {
    return arena_printf(&o->mem, "%s.lora_%c", o->form == FORM_GGUF ? x->w->name : x->module, b ? 'b' : 'a');
}

static err add_tensor(struct lora_out *o, const struct delta *x, bool b) {
    const struct tensor *from = b ? x->b : x->a;
    struct tensor *t = &o->t[o->n++];
    int64_t side = b ? from->d[0] : from->d[1], r = rank_of(o, x);
    *t = (struct tensor){.name = name_of(o, x, b), .dt = o->type, .nd = 2, .d = {b ? side : r, b ? r : side, 1, 1}};
    if (o->form == FORM_MLX) t->d[0] = b ? r : side, t->d[1] = b ? side : r;
    t->bytes = dtype_row_bytes(t->dt, t->d[1]) * (size_t)t->d[0];
    return t->name ? OK : out_of_memory();
}

static int by_place(const void *a, const void *b) {
    const char *p = ((const struct tensor *)a)->data, *q = ((const struct tensor *)b)->data;
    return (p > q) - (p < q);
}

/* The file's own tensors in its own order: an export of what is portable already has the same bytes. */
static void plan_copy(struct lora_out *o) {
    o->n = o->d->files.n;
    memcpy(o->t, o->d->files.t, (size_t)o->n * sizeof *o->t);
    qsort(o->t, (size_t)o->n, sizeof *o->t, by_place);
}

static err plan(struct lora_out *o) {
    if (o->d->wholes && o->form != FORM_PEFT)
        return fail(E_UNSUPPORTED,
                    "%s: modules_to_save: whole modules were trained beside the LoRA, which this form has no place for; merge the adapter "
                    "(cyclora merge)",
                    o->d->folder);
    if (o->d->dora && o->form != FORM_PEFT)
        return fail(
            E_UNSUPPORTED,
            "%s: DoRA's lengths are no product of two matrices, which is all that this form holds: merge the adapter (`cyclora merge`)",
            o->d->folder);
    if (untied(o->m) && o->form != FORM_PEFT)
        return fail(E_UNSUPPORTED,
                    "%s: lm_head: the head of %s is its token table (tied), and a loader of this form has no second matrix to add to: merge "
                    "the adapter (`cyclora merge`)",
                    o->d->folder, o->m->path);
    o->t = arena_alloc(&o->mem, (size_t)o->d->files.n * sizeof *o->t + 1);
    if (!o->t) return out_of_memory();
    if (o->form == FORM_PEFT) return plan_copy(o), OK;
    if (o->form == FORM_GGUF) TRY(crossing_twin(o->m, &o->twin));
    const struct delta *first = &o->d->d[0];
    o->scale = first->scale / unit(o, first);
    if (o->scale == 0) o->scale = 1; /* alpha 0: B carries the zeros */
    for (int i = 0; i < o->d->n; i++) {
        if (o->form == FORM_GGUF && !twin_of(o, &o->d->d[i])) return fail(E_INTERNAL, "%s has no GGUF name", o->d->d[i].module);
        TRY(add_tensor(o, &o->d->d[i], false));
        TRY(add_tensor(o, &o->d->d[i], true));
    }
    return OK;
}

err lora_out_plan(struct lora_out *o, enum lora_form form, const struct model *m, const struct deltas *d, dtype type) {
    *o = (struct lora_out){.form = form, .m = m, .d = d, .type = type ? type : DT_F32};
    if (type && form == FORM_PEFT) return fail(E_USAGE, "--type: a PEFT adapter keeps the numbers that it has");
    if (!dtype_plain(o->type))
        return fail(E_USAGE, "--type %s: an adapter is written in f32, f16 or bf16", dtype_info[type].name);
    err e = plan(o);
    if (e) lora_out_free(o);
    return e;
}

void lora_out_free(struct lora_out *o) {
    arena_free(&o->mem);
    model_close(&o->twin);
    *o = (struct lora_out){0};
}

/* --- writing --------------------------------------------------------------------------------------------------------- */
static size_t largest(const struct lora_out *o, bool encoded) {
    size_t most = 0;
    for (int i = 0; i < o->n; i++) {
        size_t n = encoded ? o->t[i].bytes : (size_t)(o->t[i].d[0] * o->t[i].d[1]) * 4;
        if (n > most) most = n;
    }
    return most;
}

/* The rows of a tensor as PEFT has them, then as the form wants them, then encoded. */
size_t lora_out_bytes(const struct lora_out *o) { return o->form == FORM_PEFT ? 0 : 2 * largest(o, false) + largest(o, true); }

static void keys_of(const struct lora_out *o, struct gguf_keys *k) {
    gguf_key_str(k, "general.architecture", o->twin.family->name);
    gguf_key_str(k, "general.type", "adapter");
    gguf_key_str(k, "general.name", strrchr(o->d->folder, '/') ? strrchr(o->d->folder, '/') + 1 : o->d->folder);
    if (gguf_file_type(o->type) >= 0) gguf_key_u32(k, "general.file_type", (uint32_t)gguf_file_type(o->type));
    gguf_key_str(k, "adapter.type", "lora");
    gguf_key_f32(k, "adapter.lora.alpha", o->scale);
}

err lora_out_begin(const struct lora_out *o, const char *path, struct tensors_out *out) {
    if (o->form == FORM_GGUF) {
        struct gguf_keys k = {0};
        keys_of(o, &k);
        err e = tensors_out_gguf(out, path, &k, o->t, o->n);
        gguf_keys_free(&k);
        return e;
    }
    char file[4096];
    snprintf(file, sizeof file, "%s/%s", path, o->form == FORM_PEFT ? "adapter_model.safetensors" : "adapters.safetensors");
    return tensors_out_safetensors(out, file, o->t, o->n, 0);
}

/* One tensor as the form has it, in f32: from, [rows, cols] in PEFT's orientation, to the buffer. */
static void arrange(const struct lora_out *o, const struct delta *x, bool b, const float *from, float *to) {
    const struct tensor *t = b ? x->b : x->a;
    const struct weight *twin = o->form == FORM_GGUF && b ? twin_of(o, x) : NULL;
    int64_t rows = t->d[0], cols = t->d[1], D = twin && twin->rope_heads ? rows / twin->rope_heads : 0, R = rank_of(o, x);
    double f = b ? fold(o, x) : 1;
    memset(to, 0, (size_t)(b ? rows * R : R * cols) * 4);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            float v = f == 1 ? from[r * cols + c] : (float)(f * from[r * cols + c]);
            if (o->form == FORM_MLX) to[b ? c * rows + r : c * R + r] = v;
            else to[(D ? rope_row_in_pairs(r, D) : r) * cols + c] = v;
        }
}

static err write_tensor(const struct lora_out *o, int i, struct tensors_out *out, float *rows, float *arranged, char *encoded) {
    const struct delta *x = &o->d->d[i / 2];
    const struct tensor *from = i % 2 ? x->b : x->a, *t = &o->t[i];
    for (int64_t r = 0; r < from->d[0]; r++)
        dequantise_row(from->dt, (const char *)from->data + dtype_row_bytes(from->dt, from->d[1]) * (size_t)r, rows + r * from->d[1],
                       from->d[1]);
    arrange(o, x, i % 2, rows, arranged);
    quantise_row(t->dt, arranged, encoded, t->d[0] * t->d[1]);
    return tensors_out_put(out, encoded, t->bytes);
}

err lora_out_write(const struct lora_out *o, struct tensors_out *out, struct progress *p) {
    size_t n = largest(o, false);
    float *rows = malloc(n + 1), *arranged = malloc(n + 1);
    char *encoded = malloc(largest(o, true) + 1);
    err e = rows && arranged && encoded ? OK : out_of_memory();
    for (int i = 0; i < o->n && !e; i++) {
        if (p->stop && *p->stop) e = fail(E_INTERRUPTED, "interrupted: nothing was left of %s", out->path);
        else
            e = o->form == FORM_PEFT ? tensors_out_put(out, o->t[i].data, o->t[i].bytes) : write_tensor(o, i, out, rows, arranged, encoded);
        if (!e && p->report) p->report(p->ctx, out->done, out->total);
    }
    progress_memory(p);
    free(rows);
    free(arranged);
    free(encoded);
    return e;
}

/* --- configurations -------------------------------------------------------------------------------------------------- */
/* Of a configuration what every PEFT can read. */
static json_t *portable(const json_t *config) {
    json_t *j = json_object();
    for (const char *const *key = peft_keys; *key; key++)
        if (json_object_get(config, *key)) json_object_set(j, *key, json_object_get(config, *key));
    if (!json_is_string(json_object_get(j, "base_model_name_or_path"))) json_object_set_new(j, "base_model_name_or_path", json_string(""));
    json_object_set_new(j, "inference_mode", json_true());
    return j;
}

/* "self_attn.q_proj" of "model.layers.3.self_attn.q_proj": mlx's keys are relative to a layer. */
static const char *in_layer(const char *module) {
    const char *p = strstr(module, ".layers.");
    if (!p) return module;
    p = strchr(p + strlen(".layers."), '.');
    return p ? p + 1 : module;
}

static json_t *mlx_config(const struct lora_out *o) {
    json_t *keys = json_array();
    for (int i = 0; i < o->d->n; i++) {
        const char *key = in_layer(o->d->d[i].module);
        bool seen = false;
        for (size_t k = 0; k < json_array_size(keys); k++) seen |= !strcmp(json_string_value(json_array_get(keys, k)), key);
        if (!seen) json_array_append_new(keys, json_string(key));
    }
    return json_pack("{s:s, s:s, s:I, s:{s:i, s:f, s:f, s:o}}", "model", o->m->path, "fine_tune_type", "lora", "num_layers",
                     (json_int_t)o->m->shape.layers, "lora_parameters", "rank", o->d->max_rank, "dropout", o->d->dropout, "scale", o->scale,
                     "keys", keys);
}

static err config_of(const struct lora_out *o, json_t **out) {
    if (o->form == FORM_MLX) return (*out = mlx_config(o)) ? OK : out_of_memory();
    char path[4096];
    json_error_t je;
    snprintf(path, sizeof path, "%s/adapter_config.json", o->d->folder);
    json_t *config = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!config) return fail(E_INPUT, "%s: %s", path, je.text);
    *out = portable(config);
    json_decref(config);
    return OK;
}

err lora_out_finish(const struct lora_out *o, const char *folder) {
    json_t *j;
    char path[4096];
    if (o->form == FORM_GGUF) return OK;
    TRY(config_of(o, &j));
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    json_decref(j);
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    err e = text ? file_write(path, text, strlen(text)) : out_of_memory();
    free(text);
    return e;
}

/* --- reading back ---------------------------------------------------------------------------------------------------- */
/* A tensor of the file as PEFT has it: transposed back, rows back in halves. */
static const struct tensor *as_peft(struct deltas *back, const struct tensor *t, bool transposed, int64_t D) {
    struct tensor *out = arena_alloc(&back->mem, sizeof *out);
    int64_t n = t->d[0] * t->d[1];
    float *from = malloc((size_t)n * 4), *to = arena_alloc(&back->mem, (size_t)n * 4);
    if (out && from && to) {
        dequantise_row(t->dt, t->data, from, n);
        for (int64_t r = 0; r < t->d[0]; r++)
            for (int64_t c = 0; c < t->d[1]; c++)
                to[transposed ? c * t->d[0] + r : (D ? rope_row_in_halves(r, D) : r) * t->d[1] + c] = from[r * t->d[1] + c];
        *out = (struct tensor){
            .name = t->name, .dt = DT_F32, .nd = 2, .d = {t->d[transposed], t->d[!transposed]}, .data = to, .bytes = (size_t)n * 4};
    }
    bool good = out && from && to;
    free(from);
    return good ? out : NULL;
}

static err take_pair(const struct lora_out *o, struct deltas *back, const struct delta *x, double scale) {
    char name[512];
    const char *base = o->form == FORM_GGUF ? x->w->name : x->module;
    snprintf(name, sizeof name, "%s.lora_a", base);
    const struct tensor *a = tensors_find(&back->files, name);
    snprintf(name, sizeof name, "%s.lora_b", base);
    const struct tensor *b = tensors_find(&back->files, name);
    if (!a || !b) return fail(E_INTERNAL, "%s: %s is missing", back->files.path, name);
    const struct weight *twin = o->form == FORM_GGUF ? twin_of(o, x) : NULL;
    struct delta *d = &back->d[back->n++];
    *d = (struct delta){.module = x->module,
                        .w = x->w,
                        .a = as_peft(back, a, o->form == FORM_MLX, 0),
                        .b = as_peft(back, b, o->form == FORM_MLX, twin && twin->rope_heads ? b->d[0] / twin->rope_heads : 0)};
    if (!d->a || !d->b) return out_of_memory();
    d->rank = (int)d->a->d[0];
    d->scale = o->form == FORM_GGUF ? scale / d->rank : scale;
    back->targets[back->n - 1] = d->module;
    if (d->rank > back->max_rank) back->max_rank = d->rank;
    return OK;
}

/* The number that the written file gives a loader for its scales. */
static err scale_in(const struct lora_out *o, const struct deltas *back, const char *path, double *scale) {
    if (o->form == FORM_GGUF)
        return gguf_f64(back->files.meta, "adapter.lora.alpha", scale) ? OK : fail(E_INTERNAL, "%s: no adapter.lora.alpha", path);
    char file[4096];
    json_error_t je;
    snprintf(file, sizeof file, "%s/adapter_config.json", path);
    json_t *j = json_load_file(file, 0, &je);
    *scale = json_number_value(json_object_get(json_object_get(j, "lora_parameters"), "scale"));
    err e = j ? OK : fail(E_INTERNAL, "%s: %s", file, je.text);
    json_decref(j);
    return e;
}

err lora_out_reopen(const struct lora_out *o, const char *path, struct deltas *back) {
    if (o->form == FORM_PEFT) return deltas_open(path, o->m, back);
    *back = (struct deltas){0};
    char file[4096];
    double scale = 0;
    snprintf(file, sizeof file, o->form == FORM_GGUF ? "%s" : "%s/adapters.safetensors", path);
    err e = tensors_open(file, &back->files);
    if (!e) e = scale_in(o, back, path, &scale);
    back->d = arena_alloc(&back->mem, (size_t)o->d->n * sizeof *back->d);
    back->targets = arena_alloc(&back->mem, (size_t)o->d->n * sizeof *back->targets);
    if (!e && (!back->d || !back->targets)) e = out_of_memory();
    if (!e && back->files.n != o->n) e = fail(E_INTERNAL, "%s holds %d tensors, %d were written", file, back->files.n, o->n);
    for (int i = 0; i < o->d->n && !e; i++) e = take_pair(o, back, &o->d->d[i], scale);
    if (e) deltas_close(back);
    return e;
}
