/* See deltas.h. */
#include "export/deltas.h"
#include "peft/lora.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char A_END[] = ".lora_A.weight", B_END[] = ".lora_B.weight", M_END[] = ".lora_magnitude_vector";

/* Whole modules beside the LoRA: of a tied table two copies would have to be one. */
static err check_saved(const json_t *config, const char *path, const struct model *m) {
    static const char *const tables[] = {"embed_tokens", "lm_head", "wte", "shared", "word_embeddings"};
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(config, "modules_to_save"), i, v) {
        const char *name = json_string_value(v);
        for (size_t k = 0; name && m->shape.tied && k < sizeof tables / sizeof *tables; k++)
            if (str_ends(name, tables[k]))
                return fail(E_UNSUPPORTED,
                            "%s: modules_to_save '%s': %s has one table for embedding and head (tied), and PEFT trains them apart; merge "
                            "the adapter in PEFT into a model that is not tied, or train the table with method full",
                            path, name, m->path);
    }
    return OK;
}

/* --- tensors --------------------------------------------------------------------------------------------------------- */
static const struct weight *matrix_of(const struct model *m, const char *module) {
    for (int i = 0; i < m->n; i++)
        if (m->w[i].nd == 2 && str_ends(m->w[i].name, ".weight") && !strcmp(m->w[i].module, module)) return &m->w[i];
    return NULL;
}

/* A tensor that is neither A nor B of a linear layer. */
static err stranger(const struct deltas *d, const char *name) {
    if (strstr(name, M_END)) return fail(E_INPUT, "%s: %s: lengths of DoRA, but adapter_config.json does not say use_dora", d->folder, name);
    if (strstr(name, "lora_embedding"))
        return fail(E_UNSUPPORTED,
                    "%s: %s: a delta on the token table is not merged or written in other forms; PEFT (merge_and_unload) does it, and "
                    "`generate --adapter` takes it as it is",
                    d->folder, name);
    return fail(E_INPUT, "%s: tensor %s is neither lora_A nor lora_B of a module", d->folder, name);
}

static err check_module(const struct deltas *d, const struct model *m, const char *module, const struct weight *w) {
    if (w && !strcmp(w->name, "token_embd.weight"))
        return fail(E_UNSUPPORTED, "%s: %s: a product of an embedding's rows is not supported", d->folder, module);
    if (!w && m->shape.tied && !strcmp(module, "lm_head"))
        return fail(E_UNSUPPORTED, "%s: lm_head: the head of %s is its embedding (tied): a delta on it would change the embedding too",
                    d->folder, m->path);
    if (w) return OK;
    return fail(E_USAGE, "%s: the adapter changes %s, and %s has no such module: was it made for another model?", d->folder, module,
                m->path);
}


double delta_factor(const struct delta *d, int64_t row, double squares) {
    float m;
    if (!d->m) return 1;
    dequantise_row(d->m->dt, (const char *)d->m->data + (size_t)dtype_info[d->m->dt].bytes * (size_t)row, &m, 1);
    return squares > 0 ? m / sqrt(squares) : squares * 0; /* as op magnitude has it */
}

static err add(struct deltas *d, const struct model *m, const struct lora_pair *p) {
    const struct weight *w = matrix_of(m, p->module);
    if (p->table) return stranger(d, p->a->name);
    TRY(check_module(d, m, p->module, w));
    if (p->a->d[1] != w->d[1] || p->b->d[0] != w->d[0])
        return fail(E_USAGE, "%s: %s: the adapter is for a matrix of [%lld, %lld], %s has [%lld, %lld]: another model", d->folder,
                    p->module, (long long)p->b->d[0], (long long)p->a->d[1], m->path, (long long)w->d[0], (long long)w->d[1]);
    d->d[d->n++] = (struct delta){.module = p->module, .w = w, .a = p->a, .b = p->b, .m = p->m, .rank = p->rank, .scale = p->scale};
    return OK;
}

static int by_weight(const void *a, const void *b) {
    return strcmp(((const struct delta *)a)->w->name, ((const struct delta *)b)->w->name);
}

static err add_whole(struct deltas *d, const struct model *m, const struct tensor *t);
static const struct weight *weight_of_whole(const struct deltas *d, const struct model *m, const char *name);

/* The base's own matrix beside a pair for its head, which PEFT saves (save_embedding_layers). */
static bool is_base(const struct lora_pairs *p, const char *name) {
    char end[512];
    bool any = false;
    for (int i = 0; i < p->n && !any; i++) {
        snprintf(end, sizeof end, "%s%s.base_layer.weight", adapter_prefix, p->p[i].module);
        any = !strcmp(name, end);
    }
    return any;
}
static bool of_head(const struct deltas *d, const struct tensor *t) { return t == d->head_part[0] || t == d->head_part[1]; }

/* saved: whole modules may stand beside the pairs. */
static err read_pairs(struct deltas *d, const struct model *m, bool saved) {
    const struct lora_pairs *p = &d->pairs;
    const size_t most = (size_t)(p->n + p->n_other);
    d->d = arena_alloc(&d->mem, most * sizeof *d->d + 1);
    d->targets = arena_alloc(&d->mem, most * sizeof *d->targets + 1);
    if (!d->d || !d->targets) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < p->n_other; i++) {
        if (is_base(p, p->other[i]->name)) continue;
        if (of_head(d, p->other[i])) continue;
        if (!saved || !weight_of_whole(d, m, p->other[i]->name)) return stranger(d, p->other[i]->name);
        TRY(add_whole(d, m, p->other[i]));
    }
    for (int i = 0; i < p->n; i++) TRY(add(d, m, &p->p[i]));
    if (!d->n && !d->head.classes) return fail(E_INPUT, "%s: the adapter holds no tensors", d->folder);
    d->max_rank = p->max_rank, d->r = p->r, d->alpha = p->alpha, d->dropout = p->dropout;
    d->rslora = p->rslora, d->dora = p->dora, d->patterns = p->patterns;
    qsort(d->d, (size_t)d->n, sizeof *d->d, by_weight);
    for (int i = 0; i < d->n; i++) d->targets[i] = d->d[i].module;
    return OK;
}

/* --- whole tensors --------------------------------------------------------------------------------------------------- */
/* The weight that a tensor of the file takes the place of: "base_model.model.MODULE.{whole}weight", or bias. */
static const struct weight *weight_of_whole(const struct deltas *d, const struct model *m, const char *name) {
    char want[512];
    for (int i = 0; i < m->n && str_starts(name, adapter_prefix); i++) {
        snprintf(want, sizeof want, "%s.%s%s", m->w[i].module, d->method ? d->method->whole : "",
                 str_ends(m->w[i].name, ".bias") ? "bias" : "weight");
        if (!strcmp(name + strlen(adapter_prefix), want)) return &m->w[i];
    }
    return NULL;
}

static err add_whole(struct deltas *d, const struct model *m, const struct tensor *t) {
    const struct weight *w = weight_of_whole(d, m, t->name);
    if (!w) return fail(E_USAGE, "%s: the adapter has %s, and %s has no such tensor: was it made for another model?", d->folder, t->name, m->path);
    if (!dtype_plain(t->dt)) return fail(E_UNSUPPORTED, "%s: %s: an adapter's tensors are f32, f16 or bf16", d->folder, t->name);
    if (t->nd != w->nd || t->d[0] != w->d[w->turned] || (w->nd == 2 && t->d[1] != w->d[!w->turned]))
        return fail(E_USAGE, "%s: %s: the adapter's tensor has another shape than that of %s: another model", d->folder, t->name, m->path);
    d->d[d->n++] = (struct delta){.module = w->module, .w = w, .whole = t};
    d->wholes += !d->method;
    return OK;
}

static err read_whole(struct deltas *d, const struct model *m) {
    d->d = arena_alloc(&d->mem, (size_t)d->files.n * sizeof *d->d + 1);
    if (!d->d) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < d->files.n; i++)
        if (!of_head(d, &d->files.t[i])) TRY(add_whole(d, m, &d->files.t[i]));
    if (!d->n) return fail(E_INPUT, "%s: the adapter holds no tensors", d->folder);
    qsort(d->d, (size_t)d->n, sizeof *d->d, by_weight);
    return OK;
}

/* --- pairs that a method makes ----------------------------------------------------------------------------------------------- */
static const struct tensor *made_tensor(struct deltas *d, const char *module, const char *end, int64_t rows, int64_t columns, const float *data) {
    struct tensor *t = arena_alloc(&d->mem, sizeof *t);
    const char *name = arena_printf(&d->mem, "%s%s%s", adapter_prefix, module, end);
    if (t) *t = (struct tensor){.name = name, .dt = DT_F32, .nd = 2, .d = {rows, columns, 1, 1}, .data = data, .bytes = (size_t)(rows * columns) * 4};
    return name ? t : NULL;
}

static err add_made(struct deltas *d, const struct model *m, const struct numbers *n, const char *module) {
    struct delta *x = &d->d[d->n];
    struct pair p;
    *x = (struct delta){.module = module, .w = matrix_of(m, module), .scale = 1};
    TRY(check_module(d, m, module, x->w));
    TRY(d->method->pair(n, module, &(struct matrix){module, x->w->dt, x->w->data, x->w->d[0], x->w->d[1]}, &d->mem, &p));
    x->rank = (int)p.rank;
    x->a = made_tensor(d, module, A_END, p.rank, x->w->d[1], p.a);
    x->b = made_tensor(d, module, B_END, x->w->d[0], p.rank, p.b);
    if (!x->a || !x->b) return fail(E_MEMORY, "out of memory");
    d->patterns |= d->n && x->rank != d->max_rank;
    if (x->rank > d->max_rank) d->max_rank = x->rank;
    d->n++;
    return OK;
}

/* By the structure that a program would have: the reader is the same, and as strict. */
static err make_pairs(struct deltas *d, const struct model *m, const struct structure *st) {
    const char *mark = d->method->mark;
    d->bytes = st->params.bytes;
    d->numbers = arena_f32(d->bytes);
    d->d = arena_alloc(&d->mem, (size_t)st->params.n * sizeof *d->d + 1);
    if (!d->numbers || !d->d) return fail(E_MEMORY, "out of memory");
    TRY(adapter_read(d->folder, st, d->numbers));
    for (int i = 0; i < st->params.n; i++) {
        const char *name = st->params.p[i].slice->name;
        if (!str_ends(name, mark)) continue;
        const char *module = arena_strn(&d->mem, name, strlen(name) - strlen(mark));
        TRY(module ? add_made(d, m, &(struct numbers){d->settings, &st->params, d->numbers}, module) : fail(E_MEMORY, "out of memory"));
    }
    qsort(d->d, (size_t)d->n, sizeof *d->d, by_weight);
    d->r = d->max_rank, d->alpha = d->max_rank;
    return OK;
}

static err read_made(struct deltas *d, const struct model *m) {
    struct structure st;
    TRY(structure_init_head(&st, m, d->method, d->settings, &d->head, NULL));
    err e = make_pairs(d, m, &st);
    structure_free(&st);
    return e;
}

/* --- a head beside --------------------------------------------------------------------------------------------------------- */
static err find_head(struct deltas *d, const struct model *m) {
    TRY(adapter_read_head(d->folder, &d->mem, &d->head));
    if (!d->head.classes) return OK;
    d->head_module = head_module(&d->head, m);
    if (m->family->seq2seq)
        return fail(E_UNSUPPORTED,
                    "%s: a head on an encoder-decoder: transformers' classifiers of %s have other names for all of the base; PEFT "
                    "(merge_and_unload) makes such a model, and `cyclora classify` takes the adapter as it is",
                    d->folder, model_arch(m));
    const bool biased = m->family->classifier || d->head.kind == HEAD_TAGS;
    for (int k = 0; k < 1 + biased; k++) {
        const char *name = arena_printf(&d->mem, "%s%s.%s", adapter_prefix, d->head_module, k ? "bias" : "weight");
        const struct tensor *t = d->head_part[k] = name ? tensors_find(&d->files, name) : NULL;
        if (!t) return fail(E_INPUT, "%s: the head's %s is missing", d->folder, name ? name : "tensor");
        if (!dtype_plain(t->dt) || t->nd != 2 - k || t->d[0] != d->head.classes || (!k && t->d[1] != m->shape.width))
            return fail(E_USAGE, "%s: %s is no head of %d classes for rows of %lld numbers in f32, f16 or bf16: another model?", d->folder,
                        name, d->head.classes, (long long)m->shape.width);
    }
    return OK;
}

static err open_folder(struct deltas *d, const struct model *m, const json_t *config, const char *path) {
    const char *type = json_string_value(json_object_get(config, "peft_type")),
               *file = arena_printf(&d->mem, "%s/%s", d->folder, method_file(config_of_hub(config)));
    const struct peft_method *method = type ? method_of_type(type) : NULL;
    if (!file) return fail(E_MEMORY, "out of memory");
    d->made = method && method->pair;
    if (method && (method->whole || d->made)) TRY(adapter_read_config(d->folder, &d->mem, &d->method, &d->settings));
    const bool saved = !d->method && json_array_size(json_object_get(config, "modules_to_save")) > 0;
    const struct peft_method *lora;
    if (saved) TRY(check_saved(config, path, m));
    if (saved) TRY(adapter_read_config(d->folder, &d->mem, &lora, &d->settings));
    TRY(tensors_open(file, &d->files));
    TRY(find_head(d, m));
    if (d->made) return read_made(d, m);
    if (d->method) return read_whole(d, m);
    const struct pairs_use use = {" is neither products that are added to matrices of the base (LoRA and its kin) nor trained tensors of it, so it cannot be merged or written in other forms", .saved = true};
    TRY(pairs_read(d->folder, config, path, &d->files, &use, &d->pairs));
    return read_pairs(d, m, saved);
}

err deltas_open(const char *folder, const struct model *m, struct deltas *d) {
    *d = (struct deltas){0};
    TRY(adapter_check_base(folder, m));
    d->folder = arena_str(&d->mem, folder);
    const char *path = arena_printf(&d->mem, "%s/adapter_config.json", folder);
    json_error_t je;
    json_t *config = path ? json_load_file(path, JSON_REJECT_DUPLICATES, &je) : NULL;
    err e = !d->folder || !path ? fail(E_MEMORY, "out of memory")
            : config            ? open_folder(d, m, config, path)
                                : fail(E_INPUT, "%s: %s", path, je.text);
    json_decref(config);
    if (e) deltas_close(d);
    return e;
}

void deltas_close(struct deltas *d) {
    tensors_close(&d->files);
    pairs_free(&d->pairs);
    if (d->numbers) arena_f32_free(d->numbers, d->bytes);
    arena_free(&d->mem);
    *d = (struct deltas){0};
}

size_t deltas_pair_bytes(const struct deltas *d) {
    size_t bytes = 0;
    for (int i = 0; i < d->n; i++)
        if (d->d[i].a) bytes += 4 * (size_t)d->max_rank * (size_t)(d->d[i].a->d[1] + d->d[i].b->d[0]);
    return bytes;
}

const struct delta *deltas_of(const struct deltas *d, const struct weight *w) {
    struct delta key = {.w = w};
    return d && d->n && w ? bsearch(&key, d->d, (size_t)d->n, sizeof key, by_weight) : NULL;
}

/* --- weights and their tensors --------------------------------------------------------------------------------------- */
/* Equal, or (prefix) one of them with something before it. */
static bool names(const char *tensor, const struct weight *w, bool prefix) {
    char hf[256];
    int n = snprintf(hf, sizeof hf, "%s%s", w->module, str_ends(w->name, ".bias") ? ".bias" : ".weight"), t = (int)strlen(tensor);
    const char *longer = t > n ? tensor : hf, *shorter = t > n ? hf : tensor;
    size_t more = strlen(longer) - strlen(shorter);
    return !strcmp(longer + more, shorter) && (more == 0 || (prefix && longer[more - 1] == '.'));
}

const struct tensor *tensor_of_weight(const struct model *m, const struct weight *w) {
    if (m->gguf) return tensors_find(&m->files, w->name);
    for (int prefix = 0; prefix < 2; prefix++)
        for (int i = 0; i < m->files.n; i++)
            if (names(m->files.t[i].name, w, prefix)) return &m->files.t[i];
    return NULL;
}

const struct weight *weight_of_tensor(const struct model *m, const struct tensor *t) {
    if (m->gguf) return model_weight(m, t->name);
    for (int prefix = 0; prefix < 2; prefix++)
        for (int i = 0; i < m->n; i++)
            if (names(t->name, &m->w[i], prefix)) return &m->w[i];
    return NULL;
}

/* --- for the graph --------------------------------------------------------------------------------------------------- */
static const struct param *param_of(const struct structure *st, const char *name, const struct param_slice **slice) {
    for (int i = 0; i < st->params.n; i++)
        for (int k = 0; k < st->params.p[i].n_slices; k++)
            if (!strcmp(st->params.p[i].slice[k].name, name)) return *slice = &st->params.p[i].slice[k], &st->params.p[i];
    return NULL;
}

static err place(const struct structure *st, const struct delta *x, const struct tensor *t, float *weights, float *row) {
    char name[512];
    const struct param_slice *s;
    const int64_t columns = t->nd > 1 ? t->d[1] : 1;
    snprintf(name, sizeof name, "%s%s", x->module, t == x->m ? M_END : t == x->b ? B_END : A_END);
    const struct param *p = param_of(st, name, &s);
    if (!p) return fail(E_UNSUPPORTED, "%s: this model's graph takes no LoRA there", x->module);
    size_t bytes = dtype_row_bytes(t->dt, columns);
    for (int64_t r = 0; r < t->d[0]; r++) {
        dequantise_row(t->dt, (const char *)t->data + bytes * (size_t)r, row, columns);
        float *to = adapter_row(p, s, weights, r);
        for (int64_t c = 0; c < columns; c++) to[c] = t == x->b ? (float)(x->scale * row[c]) : row[c];
    }
    return OK;
}

static err whole_structure(const struct deltas *d, const struct model *m, struct structure *st, float **weights) {
    TRY(structure_init_head(st, m, d->method ? d->method : &method_lora, d->settings, &d->head, NULL));
    *weights = arena_f32(st->params.bytes);
    err e = *weights ? adapter_read(d->folder, st, *weights) : fail(E_MEMORY, "out of memory");
    st->head.classes = 0; /* it has been read; what is compared is the base's own */
    if (!e) return OK;
    if (*weights) arena_f32_free(*weights, st->params.bytes);
    *weights = NULL;
    structure_free(st);
    return e;
}

err deltas_undo(struct deltas *d, const struct model *merged) {
    if (d->method)
        return fail(E_UNSUPPORTED,
                    "%s: its tensors took the place of the base's (%s), which are not in the merged model any more: go back to the base's "
                    "own files",
                    d->folder, d->method->name);
    if (d->dora)
        return fail(
            E_UNSUPPORTED,
            "%s: DoRA changed the lengths of rows as well, and what they were is not in the merged model: go back to the base's own files",
            d->folder);
    for (int i = 0; i < d->n; i++) {
        const struct tensor *t = tensor_of_weight(merged, d->d[i].w);
        if (t && !dtype_plain(t->dt))
            return fail(
                E_UNSUPPORTED,
                "%s: tensor %s is %s: what a merge into so few bits rounded away cannot be taken back; go back to the base's own files",
                merged->path, t->name, dtype_info[t->dt].name);
        d->d[i].scale = -d->d[i].scale;
    }
    return OK;
}

err deltas_structure(const struct deltas *d, const struct model *m, struct structure *st, float **weights) {
    arena mem = {0};
    int64_t widest = 1;
    *weights = NULL;
    if (d->method || d->wholes) return whole_structure(d, m, st, weights);
    for (int i = 0; i < d->n; i++) {
        if (d->d[i].a->d[1] > widest) widest = d->d[i].a->d[1];
        if (d->d[i].rank > widest) widest = d->d[i].rank;
    }
    float *row = arena_alloc(&mem, (size_t)widest * 4);
    struct lora l = {.r = d->max_rank, .alpha = d->max_rank, .dora = d->dora, .targets.of = {TAKE_NAMES, d->n, d->targets}};
    err e = row ? structure_init(st, m, &method_lora, &l, NULL) : fail(E_MEMORY, "out of memory");
    if (!e) {
        *weights = arena_f32(st->params.bytes);
        if (!*weights) e = fail(E_MEMORY, "out of memory");
        for (int i = 0; i < d->n && !e; i++) {
            const struct delta *x = &d->d[i];
            const struct tensor *const parts[] = {x->a, x->b, x->m};
            for (int k = 0; k < 3 && !e; k++) e = parts[k] ? place(st, x, parts[k], *weights, row) : OK;
        }
        if (e) {
            if (*weights) arena_f32_free(*weights, st->params.bytes);
            *weights = NULL;
            structure_free(st);
        }
    }
    arena_free(&mem);
    return e;
}
