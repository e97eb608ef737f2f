/* See cut.h. */
#include "model/cut.h"
#include "model/derived.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the rows and the columns of a tensor are. */
enum axis { AXIS_NONE, AXIS_WIDTH, AXIS_FFN, AXIS_QUERIES, AXIS_KEYS, N_AXES };

static const struct part_axes {
    const char *name; /* without "blk.N." and ".weight" or ".bias" */
    enum axis rows, cols;
} parts[] = {
    {"token_embd", AXIS_NONE, AXIS_WIDTH}, {"output", AXIS_NONE, AXIS_WIDTH},         {"output_norm", AXIS_WIDTH, AXIS_NONE},
    {"attn_norm", AXIS_WIDTH, AXIS_NONE},  {"attn_q", AXIS_QUERIES, AXIS_WIDTH},      {"attn_k", AXIS_KEYS, AXIS_WIDTH},
    {"attn_v", AXIS_KEYS, AXIS_WIDTH},     {"attn_q_norm", AXIS_NONE, AXIS_NONE}, /* one head's, of all of them */
    {"attn_k_norm", AXIS_NONE, AXIS_NONE}, {"attn_output", AXIS_WIDTH, AXIS_QUERIES}, {"post_attention_norm", AXIS_WIDTH, AXIS_NONE},
    {"ffn_norm", AXIS_WIDTH, AXIS_NONE},   {"ffn_gate", AXIS_FFN, AXIS_WIDTH},        {"ffn_up", AXIS_FFN, AXIS_WIDTH},
    {"ffn_down", AXIS_WIDTH, AXIS_FFN},    {"post_ffw_norm", AXIS_WIDTH, AXIS_NONE}};

/* "blk.3.attn_q.weight", or "model.layers.3.self_attn.q_proj.weight" of a folder's file: where the number is, and what it is; -1: of
 * no block. */
static int layer_in(const char *name, int *at, int *end) {
    const char *number = str_starts(name, "blk.") ? name + 4 : strstr(name, "layers.");
    if (number && number[0] == 'l') number += strlen("layers.");
    if (!number || !isdigit((unsigned char)*number)) return -1;
    char *rest;
    const long l = strtol(number, &rest, 10);
    *at = (int)(number - name), *end = (int)(rest - name);
    return *rest == '.' && l <= INT32_MAX ? (int)l : -1;
}

static const struct part_axes *axes_of(const char *name) {
    int at, end;
    const char *part = layer_in(name, &at, &end) < 0 ? name : name + end + 1, *dot = strrchr(part, '.');
    const size_t n = dot ? (size_t)(dot - part) : strlen(part);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strlen(parts[i].name) == n && !memcmp(parts[i].name, part, n)) return &parts[i];
    return NULL;
}

err cut_known(const struct model *m) {
    for (int i = 0; i < m->n; i++)
        if (!axes_of(m->w[i].name) || m->family->body)
            return fail(E_UNSUPPORTED,
                        "%s: a %s model cannot be pruned: its blocks are not Llama's (llama, mistral, qwen2, qwen3, smollm3, gemma2 and "
                        "gemma3 can)",
                        m->path, model_arch(m));
    return OK;
}

struct cut cut_nothing(const struct model *m) {
    return (struct cut){.layers = m->shape.layers, .width = m->shape.width, .ffn = m->shape.ffn, .kv_heads = m->shape.kv_heads};
}

bool model_picked(const struct model *m) {
    for (int i = 0; i < m->n; i++)
        if (m->w[i].pick) return true;
    return false;
}

/* --- lists of indices ------------------------------------------------------------------------------------------------ */
struct cutting {
    const struct model *m;
    const struct cut *c;
    struct model *out;
    const int32_t **of[N_AXES]; /* [the whole model's layers]: a block's list, made when it is first asked for; NULL: all */
    int64_t all[N_AXES];        /* how many there were */
};

/* Numbers of a head's rows, for all query heads of the key/value heads that stay (or for these alone). */
static err rows_of_heads(struct cutting *k, int layer, int64_t each, const int32_t **out) {
    const int32_t *head = k->c->head + layer * k->c->kv_heads;
    int32_t *list = arena_alloc(&k->out->mem, (size_t)(k->c->kv_heads * each) * sizeof *list);
    if (!list) return fail(E_MEMORY, "out of memory");
    for (int64_t h = 0; h < k->c->kv_heads; h++)
        for (int64_t i = 0; i < each; i++) list[h * each + i] = (int32_t)(head[h] * each + i);
    *out = list;
    return OK;
}

/* NULL: all. layer: the whole model's, -1 of what is in no block. */
static err list_of(struct cutting *k, enum axis a, int layer, const int32_t **out) {
    const struct shape *z = &k->m->shape;
    *out = a == AXIS_WIDTH ? k->c->column : NULL;
    if (a == AXIS_FFN && k->c->channel) *out = k->c->channel + layer * k->c->ffn;
    if ((a != AXIS_QUERIES && a != AXIS_KEYS) || !k->c->head) return OK;
    const int32_t **kept = &k->of[a][layer];
    if (!*kept) TRY(rows_of_heads(k, layer, z->head_dim * (a == AXIS_KEYS ? 1 : z->heads / z->kv_heads), kept));
    *out = *kept;
    return OK;
}

/* --- tensors --------------------------------------------------------------------------------------------------------- */
static const char *renamed(arena *mem, const char *name, int layer) {
    int at, end;
    if (layer_in(name, &at, &end) < 0) return name;
    return arena_printf(mem, "%.*s%d%s", at, name, layer, name + end);
}

/* The whole model's tensor, and of it the part that stays. */
static err take_part(struct cutting *k, struct weight *w) {
    int at, end;
    const int l = layer_in(w->name, &at, &end), from = l < 0 ? -1 : k->c->layer ? k->c->layer[l] : l;
    const char *name = renamed(&k->out->mem, w->name, from);
    const struct weight *whole = name ? model_weight(k->m, name) : NULL;
    if (!whole) return name ? fail(E_INTERNAL, "tensor %s is missing", name) : fail(E_MEMORY, "out of memory");
    const struct weight is = *w;
    const struct part_axes *axes = axes_of(w->name);
    struct picked p = {.rows = whole->d[0], .cols = whole->nd == 2 ? whole->d[1] : 1};
    *w = *whole;
    w->name = is.name, w->module = is.module, w->rope_heads = is.rope_heads;
    memcpy(w->d, is.d, sizeof w->d);
    TRY(list_of(k, axes->rows, from, &p.row));
    if (w->nd == 2) TRY(list_of(k, axes->cols, from, &p.col));
    if (!p.row && !p.col) return OK;
    struct picked *kept = arena_alloc(&k->out->mem, sizeof *kept);
    if (!kept) return fail(E_MEMORY, "out of memory");
    *kept = p;
    w->pick = kept;
    return OK;
}

static int by_name(const void *a, const void *b) { return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name); }

/* The files' tensors under their new names and sizes; what nobody knows goes along with its block. new_of: the place of a block, -1:
 * it goes. */
static err rename_files(struct cutting *k, const int32_t *new_of) {
    const struct tensors *files = &k->m->files;
    struct tensors *ts = &k->out->files;
    *ts = *files;
    ts->mem = (arena){0};
    ts->n = 0;
    ts->t = arena_alloc(&k->out->mem, (size_t)files->n * sizeof *ts->t + 1);
    if (!ts->t) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < files->n; i++) {
        struct tensor t = files->t[i];
        int at, end;
        const int l = layer_in(t.name, &at, &end);
        if (l >= k->m->shape.layers || (l >= 0 && new_of[l] < 0)) continue;
        if (l >= 0 && !(t.name = renamed(&k->out->mem, t.name, new_of[l]))) return fail(E_MEMORY, "out of memory");
        ts->t[ts->n++] = t;
    }
    qsort(ts->t, (size_t)ts->n, sizeof *ts->t, by_name);
    return OK;
}

/* ... of a weight that is a part the part's sizes. The names are the family's own, so whose a tensor is can be seen. */
static void resize_files(struct model *out) {
    for (int i = 0; i < out->n; i++) {
        const struct weight *w = &out->w[i];
        char name[256];
        snprintf(name, sizeof name, "%s%s", w->module, str_ends(w->name, ".bias") ? ".bias" : ".weight");
        const char *const names[] = {out->gguf ? w->name : name, out->gguf ? w->name : strchr(name, '.') + 1};
        for (int k = 0; k < 2 && w->pick; k++) {
            const struct tensor *t = tensors_find(&out->files, names[k]);
            if (t) memcpy(out->files.t[t - out->files.t].d, w->d, sizeof t->d);
        }
    }
}

static err take_layers(struct cutting *k, int32_t *new_of) {
    struct model *out = k->out;
    out->layer = arena_alloc(&out->mem, (size_t)k->c->layers * sizeof *out->layer + 1);
    if (!out->layer) return fail(E_MEMORY, "out of memory");
    for (int64_t l = 0; l < k->m->shape.layers; l++) new_of[l] = -1;
    for (int64_t l = 0; l < k->c->layers; l++) {
        const int64_t from = k->c->layer ? k->c->layer[l] : l;
        out->layer[l] = k->m->layer[from];
        new_of[from] = (int32_t)l;
    }
    return OK;
}

static err cut(struct cutting *k) {
    struct model *out = k->out;
    const size_t layers = (size_t)k->m->shape.layers;
    int32_t *new_of = arena_alloc(&out->mem, layers * sizeof *new_of + 1);
    for (int a = 0; a < N_AXES; a++)
        if (!(k->of[a] = arena_alloc(&out->mem, layers * sizeof **k->of + 1))) return fail(E_MEMORY, "out of memory");
    out->residents = arena_alloc(&out->mem, sizeof *out->residents);
    out->derived = arena_alloc(&out->mem, sizeof *out->derived);
    if (!new_of || !out->residents || !out->derived) return fail(E_MEMORY, "out of memory");
    out->shape.layers = k->c->layers, out->shape.width = k->c->width, out->shape.ffn = k->c->ffn;
    out->shape.kv_heads = k->c->kv_heads, out->shape.heads = k->c->kv_heads * (k->m->shape.heads / k->m->shape.kv_heads);
    TRY(take_layers(k, new_of));
    out->files = (struct tensors){0}; /* names alone */
    TRY(out->family->tensors(out));
    model_sort(out);
    for (int i = 0; i < out->n; i++) TRY(take_part(k, &out->w[i]));
    for (int i = 0; i < out->n; i++) out->bytes += weight_bytes(&out->w[i]);
    TRY(rename_files(k, new_of));
    resize_files(out);
    return OK;
}

err model_cut(const struct model *m, const struct cut *c, struct model *out) {
    TRY(cut_known(m));
    *out = *m; /* sizes, path, files; nothing that is m's to free */
    out->cut = true;
    out->mem = (arena){0};
    out->w = NULL, out->n = out->found = 0, out->parameters = 0, out->bytes = 0;
    out->reserved = out->quantised = NULL, out->residents = NULL, out->derived = NULL;
    struct cutting k = {.m = m, .c = c, .out = out};
    err e = cut(&k);
    if (e) model_close(out);
    return e;
}
