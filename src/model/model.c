/* Opening a base model: find the family, read the sizes, match the tensors. See model.h. */
#define _DEFAULT_SOURCE
#include "model/family.h"
#include "base/log.h"
#include "base/nf4.h"
#include "base/philox.h"
#include "base/widest.h"
#include "io/packed.h"
#include "model/derived.h"
#include "model/quantised.h"
#include "ops/ops.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct family *const families[] = {
#define FAMILY(name) &family_##name,
#include "model/families.def"
#undef FAMILY
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* --- tensors ---------------------------------------------------------------------------------------------------- */
/* Bytes of a tensor as stored. */
size_t weight_bytes(const struct weight *w) {
    return dtype_row_bytes(w->dt, w->d[w->nd - 1]) * (size_t)(w->nd == 2 ? w->d[0] : 1);
}

size_t model_list_bytes(const struct model *m) {
    const size_t copied = m->files.copied - m->elsewhere; /* weights that lie in these arenas */
    return arena_used(&m->mem) + arena_used(&m->files.mem) - copied + (size_t)m->n * sizeof *m->w;
}

static bool is_bias(const char *name) { return str_ends(name, ".bias"); }

static err wrong_shape(const struct model *m, const struct weight *w, const struct tensor *t) {
    char have[96] = "", need[96] = "";
    for (int i = 0; i < t->nd; i++) snprintf(have + strlen(have), sizeof have - strlen(have), "%s%lld", i ? "," : "", (long long)t->d[i]);
    for (int i = 0; i < w->nd; i++) snprintf(need + strlen(need), sizeof need - strlen(need), "%s%lld", i ? "," : "", (long long)w->d[i]);
    return fail(E_INPUT, "%s: tensor %s is [%s], the model's sizes say [%s]", m->path, t->name, have, need);
}

/* Vectors become f32 copies: they are tiny and every kernel wants them plain. Weights of GGUF's q/k rows keep the file's
 * order, so their biases do too. */
static err take_vector(struct model *m, struct weight *w, const struct tensor *t) {
    float *f = arena_alloc(&m->mem, (size_t)w->d[0] * 4);
    if (!f) return fail(E_MEMORY, "out of memory");
    dequantise_row(t->dt, t->data, f, w->d[0]);
    for (int64_t i = 0; i < w->d[0] && !m->gguf; i++) f[i] += w->form.less;
    w->dt = DT_F32;
    w->data = f;
    return OK;
}

/* [in, out] of the file to [out, in], in blocks that stay in the cache. */
static err take_transposed(struct model *m, struct weight *w, const struct tensor *t) {
    const int64_t out = w->d[0], in = w->d[1], B = 32;
    const size_t each = dtype_row_bytes(t->dt, 1);
    if (dtype_quantised(t->dt)) return fail(E_UNSUPPORTED, "%s: tensor %s is quantised and would have to be transposed", m->path, t->name);
    char *to = arena_alloc(&m->mem, (size_t)(out * in) * each);
    if (!to) return fail(E_MEMORY, "out of memory");
    for (int64_t o0 = 0; o0 < out; o0 += B)
        for (int64_t i0 = 0; i0 < in; i0 += B)
            for (int64_t o = o0; o < out && o < o0 + B; o++)
                for (int64_t i = i0; i < in && i < i0 + B; i++)
                    memcpy(to + (size_t)(o * in + i) * each, (const char *)t->data + (size_t)(i * out + o) * each, each);
    w->dt = t->dt;
    w->data = to;
    m->files.copied += (size_t)(out * in) * each;
    return OK;
}

static err take(struct model *m, struct weight *w, const struct tensor *t, bool transposed) {
    struct tensor unpacked;
    if (t->dt == DT_NONE) {
        TRY(packed_tensor(&m->files, t, &unpacked));
        t = &unpacked;
    }
    int64_t d[2] = {w->d[transposed], w->d[!transposed]};
    if (t->nd != w->nd || memcmp(t->d, d, (size_t)w->nd * sizeof *d)) return wrong_shape(m, w, t);
    if (t->dt == DT_I32) return fail(E_UNSUPPORTED, "%s: tensor %s holds integers", m->path, t->name);
    if (w->nd == 1) return take_vector(m, w, t);
    if (transposed) return take_transposed(m, w, t);
    w->dt = t->dt;
    w->data = t->data;
    return OK;
}

/* Files of the bare stack lack the first part of the module's path ("transformer.wte" is "wte"). */
static const struct tensor *hf_tensor(const struct model *m, const char *module, const char *suffix) {
    char name[256];
    snprintf(name, sizeof name, "%s%s", module, suffix);
    const struct tensor *t = tensors_find(&m->files, name);
    const char *dot = strchr(name, '.');
    return t || !dot ? t : tensors_find(&m->files, dot + 1);
}

/* suffix: ".weight" or ".bias" */
static err want_tensor(struct model *m, const char *name, const char *module, const char *suffix, const struct part *p) {
    struct weight *w = realloc(m->w, (size_t)(m->n + 1) * sizeof *w);
    if (!w) return fail(E_MEMORY, "out of memory");
    m->w = w;
    w += m->n;
    const bool matrix = p->in > 0 && suffix[1] == 'w';
    *w = (struct weight){.nd = matrix ? 2 : 1, .dt = matrix ? DT_F16 : DT_F32, .d = {p->out, matrix ? p->in : 0}, .rope_heads = m->shape.interleaved ? (int)p->rope_heads : 0,
                         .turned = matrix && p->transposed, .hf_only = p->hf_only};
    if (w->nd == 1 && m->shape.norm_plus_one && suffix[1] == 'w') w->form.less = 1;
    w->name = arena_printf(&m->mem, "%s%s", name, suffix);
    w->module = arena_str(&m->mem, module);
    if (!w->name || !w->module) return fail(E_MEMORY, "out of memory");
    if (m->files.n) {
        const struct tensor *t = m->gguf ? tensors_find(&m->files, w->name) : hf_tensor(m, module, suffix);
        if (!t) return packed_missing(&m->files, m->gguf ? w->name : arena_printf(&m->mem, "%s%s", module, suffix));
        TRY(take(m, w, t, matrix && p->transposed && !m->gguf));
        m->bytes += t->dt ? t->bytes : weight_bytes(w);
        m->found++;
    }
    m->parameters += w->d[0] * (matrix ? w->d[1] : 1);
    m->n++;
    return OK;
}

err model_parts(struct model *m, const char *hf, int layer, const struct part *parts, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char name[64], module[128];
        if (layer < 0) snprintf(name, sizeof name, "%s", parts[i].name), snprintf(module, sizeof module, "%s", parts[i].module);
        else snprintf(name, sizeof name, "blk.%d.%s", layer, parts[i].name), snprintf(module, sizeof module, "%s.%d.%s", hf, layer, parts[i].module);
        TRY(want_tensor(m, name, module, ".weight", &parts[i]));
        if (parts[i].bias) TRY(want_tensor(m, name, module, ".bias", &parts[i]));
    }
    return OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct weight *)a)->name, ((const struct weight *)b)->name);
}

void model_sort(struct model *m) { qsort(m->w, (size_t)m->n, sizeof *m->w, by_name); }

const struct weight *model_weight(const struct model *m, const char *name) {
    struct weight key = {.name = name};
    return m->n ? bsearch(&key, m->w, (size_t)m->n, sizeof *m->w, by_name) : NULL;
}

/* Space only: a plan of a 70B model needs addresses, not memory. Of sizes alone nothing may be read, and the system promises nothing. */
static err reserve(struct model *m) {
    const int access = m->sizes_only ? PROT_NONE : PROT_READ | PROT_WRITE;
    m->reserved_bytes = 0;
    for (int i = 0; i < m->n; i++) m->reserved_bytes += (weight_bytes(&m->w[i]) + 63) & ~(size_t)63;
    char *at = m->reserved = mmap(NULL, m->reserved_bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->reserved == MAP_FAILED) {
        m->reserved = NULL;
        return fail(E_MEMORY, "%s: cannot reserve %zu bytes of addresses: %s", m->path, m->reserved_bytes, strerror(errno));
    }
    for (int i = 0; i < m->n; at += (weight_bytes(&m->w[i]) + 63) & ~(size_t)63, i++) m->w[i].data = at;
    return OK;
}

static void set_types(struct model *m, dtype dt) {
    for (int i = 0; i < m->n; i++)
        if (m->w[i].nd == 2) m->w[i].dt = m->w[i].d[1] % dtype_info[dt].block ? DT_F32 : nf4_kept(dt, m->nested, m->w[i].d[1]);
}

err model_retype(struct model *m, const dtype *to) {
    munmap(m->reserved, m->reserved_bytes);
    m->reserved = NULL;
    for (int i = 0; i < m->n; i++) {
        if (!to[i]) continue;
        m->bytes -= weight_bytes(&m->w[i]);
        m->w[i].dt = nf4_kept(to[i], m->nested, m->w[i].d[1]);
        m->bytes += weight_bytes(&m->w[i]);
        if (m->sizes_only) m->files.copied += weight_bytes(&m->w[i]), m->elsewhere += weight_bytes(&m->w[i]); /* as quantised_open() counts a file's */
    }
    TRY(reserve(m));
    if (m->random) m->bytes = m->reserved_bytes;
    return OK;
}

/* N(0, 0.02) matrices, norm weights 1, biases 0. */
struct random_weight {
    uint64_t seed;
    int i;
    const struct weight *w;
};

WIDEST static void normal_row(uint64_t key, uint32_t i, uint32_t r, int64_t n, float *x) {
    for (int64_t c = 0; c < n; c++) {
        struct philox p = philox(key, i, r, (uint32_t)c, 1);
        float sum = philox_unit(p.v[0]) + philox_unit(p.v[1]) + philox_unit(p.v[2]) + philox_unit(p.v[3]) - 2;
        x[c] = sum * 0.0346f; /* four uniforms: variance 1/3 */
    }
}

static void random_row(const void *ctx, int64_t r, float *x) {
    const struct random_weight *of = ctx;
    const int64_t n = of->w->d[of->w->nd - 1];
    if (of->w->nd > 1) normal_row(philox_key(of->seed, PURPOSE_INIT), (uint32_t)of->i, (uint32_t)r, n, x);
    for (int64_t c = 0; of->w->nd == 1 && c < n; c++) x[c] = is_bias(of->w->name) ? 0 : 1;
}

err model_fill(struct model *m) {
    for (int i = 0; i < m->n && m->random; i++) {
        const struct random_weight of = {m->seed, i, &m->w[i]};
        TRY(quantise_rows(&m->w[i], m->nested, random_row, &of, (void *)(uintptr_t)m->w[i].data));
    }
    return quantised_fill(m);
}

/* --- opening ---------------------------------------------------------------------------------------------------- */
static const char *family_name(int i, bool hf) { return hf ? families[i]->hf : families[i]->name; }

const struct family *model_family(const char *arch, bool hf) {
    for (int i = 0; i < N_FAMILIES; i++)
        if (!strcmp(arch, family_name(i, hf))) return families[i];
    return NULL;
}

static err pick_family(struct model *m, const char *arch, bool hf) {
    char known[128] = "";
    m->family = model_family(arch, hf);
    if (m->family) return OK;
    for (int i = 0; i < N_FAMILIES; i++) snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", family_name(i, hf));
    return fail(E_UNSUPPORTED, "%s: architecture '%s' is not supported (supported: %s)", m->path, arch, known);
}

static err read_json(const char *path, json_t **j) {
    json_error_t je;
    *j = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    return *j ? OK : fail(path_exists(path) ? E_INPUT : E_USAGE, "%s: %s (line %d)", path, je.text, je.line);
}

static err sizes_of(struct model *m, const json_t *j, const char *path) {
    const char *type = json_string_value(json_object_get(j, "model_type"));
    TRY(type ? pick_family(m, type, true) : fail(E_INPUT, "%s: 'model_type' is missing", path));
    return m->family->sizes(m, NULL, j);
}

static err open_json(struct model *m, const char *path) {
    json_t *j;
    TRY(read_json(path, &j));
    err e = sizes_of(m, j, path);
    json_decref(j);
    return e;
}

static err open_random(struct model *m, const char *spec, const char *config_path) {
    char *end;
    errno = 0;
    m->seed = strtoull(spec, &end, 10);
    dtype dt = DT_BF16;
    if (end == spec || errno || (*end && *end != ':')) return fail(E_USAGE, "model '%s': write random:SEED or random:SEED:dtype", m->path);
    if (*end == ':' && (dt = dtype_parse(end + 1)) == DT_NONE) return fail(E_USAGE, "model '%s': unknown type '%s'", m->path, end + 1);
    if (!dtype_writable(dt)) return fail(E_USAGE, "model '%s': random weights cannot be %s: it has no encoder here", m->path, dtype_info[dt].name);
    if (!config_path || !*config_path) return fail(E_USAGE, "model '%s' needs model_config: the path of a config.json", m->path);
    m->random = true;
    TRY(open_json(m, config_path));
    TRY(m->family->tensors(m));
    set_types(m, dt);
    TRY(reserve(m));
    m->bytes = m->reserved_bytes;
    return OK;
}

/* --- sizes alone ------------------------------------------------------------------------------------------------ */
/* The same model with another number of layers: its key, and lists with an entry for each layer go round again. */
static err stretch(json_t *j, int64_t layers, const char *path) {
    static const char *const keys[] = {"num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"};
    int64_t had = 0;
    const char *name;
    json_t *list;
    void *next;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = json_object_get(j, keys[i]);
        if (!json_is_integer(v)) continue;
        if (!had) had = json_integer_value(v);
        json_object_set_new(j, keys[i], json_integer(layers));
    }
    if (!had) return fail(E_INPUT, "%s: no key says how many layers there are", path);
    json_object_foreach_safe(j, next, name, list) {
        if (!json_is_array(list) || json_array_size(list) != (size_t)had) continue;
        json_t *longer = json_array();
        for (int64_t l = 0; l < layers; l++) json_array_append(longer, json_array_get(list, (size_t)(l % had)));
        json_object_set_new(j, name, longer);
    }
    return OK;
}

/* The type that the weights of a config.json have: transformers' dtype (before version 5: torch_dtype). */
static err stored_type(const json_t *j, const char *path, dtype *dt) {
    const char *name = json_string_value(json_object_get(j, "dtype"));
    if (!name) name = json_string_value(json_object_get(j, "torch_dtype"));
    if (json_object_get(j, "quantization_config"))
        return fail(E_USAGE, "%s: its weights are quantised (quantization_config): say as what they would be stored, such as %s:nf4", path,
                    path);
    *dt = !name ? DT_BF16 : dtype_parse(name);
    return *dt != DT_NONE ? OK : fail(E_INPUT, "%s: dtype '%s' is not known", path, name);
}

/* "config.json", "config.json:q4_k"; a folder's own. type: what stands behind the colon, or NULL. */
static char *sizes_path(arena *mem, const char *path, const char **type) {
    const char *colon = strrchr(path, ':');
    *type = NULL;
    if (!path_exists(path) && colon) {
        char *file = arena_str(mem, path);
        if (file) file[colon - path] = 0, *type = colon + 1;
        return file;
    }
    return path_is_dir(path) ? arena_printf(mem, "%s/config.json", path) : arena_str(mem, path);
}

bool model_has_no_weights(const char *path) {
    static const char *const weights[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                                          "pytorch_model.bin.index.json"};
    arena mem = {0};
    const char *type;
    bool none = true;
    if (str_starts(path, "random:")) return false;
    for (size_t i = 0; i < sizeof weights / sizeof *weights && path_is_dir(path); i++) {
        const char *file = arena_printf(&mem, "%s/%s", path, weights[i]);
        none = none && file && !path_exists(file);
    }
    const char *file = sizes_path(&mem, path, &type);
    none = none && file && str_ends(file, ".json") && path_exists(file);
    arena_free(&mem);
    return none;
}

static err open_sizes(struct model *m, int64_t layers) {
    const char *type, *path = sizes_path(&m->mem, m->path, &type);
    dtype dt = DT_NONE;
    json_t *j;
    if (!path) return fail(E_MEMORY, "out of memory");
    TRY(read_json(path, &j));
    err e = layers ? stretch(j, layers, path) : OK;
    if (!e) e = sizes_of(m, j, path);
    if (!e && type && ((dt = dtype_parse(type)) == DT_NONE || dt == DT_I32 || dt == DT_F8 || dt == DT_NF4_DQ))
        e = fail(E_USAGE, "model '%s': no file has weights of type '%s'", m->path, type);
    if (!e && !type) e = stored_type(j, path, &dt);
    json_decref(j);
    if (!e) e = m->family->tensors(m);
    if (e) return e;
    m->nested = dt == DT_NF4; /* as QLoRA's files are */
    set_types(m, dt);
    TRY(reserve(m));
    const size_t each =
        dtype_quantised(dt) ? 4 : dtype_row_bytes(dt, 1); /* files have vectors in the type of matrices, quantised ones f32 */
    for (int i = 0; i < m->n; i++) m->bytes += m->w[i].nd == 1 ? (size_t)m->w[i].d[0] * each : weight_bytes(&m->w[i]);
    return OK;
}

/* Is this the name that a weight has in the file? */
static bool is_files(const struct model *m, const struct weight *w, const char *name) {
    if (m->gguf) return !strcmp(w->name, name);
    const char *suffix = is_bias(w->name) ? ".bias" : ".weight", *rest = strchr(w->module, '.');
    size_t n = strlen(name), tail = strlen(suffix);
    if (n < tail || strcmp(name + n - tail, suffix)) return false;
    return (strlen(w->module) == n - tail && !memcmp(w->module, name, n - tail)) ||
           (rest && strlen(rest + 1) == n - tail && !memcmp(rest + 1, name, n - tail));
}

/* transformers' names of what stands on a model in a classifier's folder. */
static bool head_of_classifier(const char *name) {
    return !strcmp(name, "score.weight") || !strcmp(name, "score.bias") || !strcmp(name, "classifier.weight") ||
           !strcmp(name, "classifier.bias");
}

void model_warn(const struct model *m) {
    if (m->unread) log_warn("%s is a classifier: its head (%s) is not read, what is opened is the model below it", m->path, m->unread);
}

/* Weights and biases that the family does not ask for would be left out of the computation without a word. */
static err no_surplus(struct model *m) {
    static const char *const spare[] = {"rotary_emb.inv_freq", "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", NULL};
    const char *const *lists[] = {spare, m->family->spare};
    for (int i = 0; i < m->files.n; i++) {
        const char *name = m->files.t[i].name;
        bool known = !str_ends(name, ".weight") && !is_bias(name);
        for (int k = 0; k < 2; k++)
            for (int j = 0; lists[k] && lists[k][j]; j++) known |= str_ends(name, lists[k][j]);
        if (!known && !m->gguf && head_of_classifier(name)) known = true, m->unread = name;
        if (m->shape.tied) known |= !strcmp(name, "lm_head.weight") || !strcmp(name, "output.weight");
        for (int k = 0; k < m->n && !known; k++) known = is_files(m, &m->w[k], name);
        if (!known)
            return fail(E_UNSUPPORTED, "%s: tensor %s has no place in a %s model as its sizes describe it", m->path, name,
                        m->gguf ? m->family->name : m->family->hf);
    }
    return OK;
}

static err open_files(struct model *m) {
    TRY(tensors_open(m->path, &m->files));
    m->gguf = m->files.meta != NULL;
    if (m->gguf) {
        const char *arch = gguf_str(m->files.meta, "general.architecture");
        if (!arch) return fail(E_INPUT, "%s: metadata key general.architecture is missing", m->path);
        TRY(pick_family(m, arch, false));
        err e = m->family->sizes(m, m->files.meta, NULL);
        if (e) return fail_in(e, "%s", m->path);
    } else {
        if (!path_is_dir(m->path))
            return fail(E_USAGE, "%s: a model in safetensors is a folder with config.json beside it; name the folder", m->path);
        TRY(open_json(m, arena_printf(&m->mem, "%s/config.json", m->path)));
    }
    TRY(m->family->tensors(m));
    return m->found == m->files.n ? OK : no_surplus(m);
}

static err opened(struct model *m, err e) {
    if (!e) {
        model_sort(m);
        m->residents = arena_alloc(&m->mem, sizeof *m->residents);
        m->derived = arena_alloc(&m->mem, sizeof *m->derived);
        if (!m->residents || !m->derived) e = fail(E_MEMORY, "out of memory");
    }
    if (e) model_close(m);
    return e;
}

err model_open(const char *path, const char *config_path, struct model *m) {
    *m = (struct model){0};
    m->path = arena_str(&m->mem, path);
    return opened(m, str_starts(path, "random:") ? open_random(m, path + 7, config_path) : open_files(m));
}

err model_open_sizes(const char *path, int64_t layers, struct model *m) {
    *m = (struct model){.sizes_only = true};
    m->path = arena_str(&m->mem, path);
    return opened(m, open_sizes(m, layers));
}

bool model_maps(const struct model *m, const struct weight *w) { return tensors_mapped(&m->files, w->data); }

static struct weight as_in_file(const struct weight *w) {
    struct weight is = *w;
    if (w->source) is.dt = w->from, is.data = w->source;
    return is;
}

void model_forget(const struct model *m, const struct weight *w) {
    const struct weight is = as_in_file(w);
    tensors_forget(&m->files, is.data, weight_bytes(&is));
}

void model_close(struct model *m) {
    if (m->residents) residents_free(m->residents);
    if (m->derived) derived_free(m->derived);
    if (m->reserved) munmap(m->reserved, m->reserved_bytes);
    quantised_close(m);
    if (!m->cut) tensors_close(&m->files);
    free(m->w);
    arena_free(&m->mem);
    *m = (struct model){0};
}

void model_hash(const struct model *m, char hex[33]) {
    str all = {0};
    for (int i = 0; i < m->n; i++) {
        const struct weight *w = &m->w[i];
        const struct weight is = as_in_file(w);
        char one[33];
        bytes_hash(is.data, weight_bytes(&is), one);
        str_addf(&all, "%s %s %s\n", w->name, dtype_info[is.dt].name, one);
        if (w->source || w->replaced) model_forget(m, w);
    }
    bytes_hash(all.p, all.n, hex);
    str_free(&all);
}

/* --- emitting --------------------------------------------------------------------------------------------------- */
static val base_of(const struct model *m, struct site *s, const char *name) {
    const struct weight *w = model_weight(m, name);
    if (!w) return prog_fail(s->p, E_INTERNAL, "tensor %s is missing", name), (val){0};
    return prog_base(s->p, w->dt, w->nd, w->d, w->data, w->name);
}

/* A matrix of a layer: its weight may be kept as another type, the embedding and the head are not. */
static bool is_layers_matrix(const struct weight *w) { return w->nd == 2 && str_starts(w->name, "blk.") && w->d[0] % 16 == 0 && w->d[1] % 16 == 0; }

val model_base(const struct model *m, struct site *s, const char *name) { return base_of(m, s, name); }

val model_vector(const struct model *m, struct site *s, const char *name, int layer, const char *part) {
    char full[80], blk[16] = "";
    if (layer >= 0) snprintf(blk, sizeof blk, "blk.%d.", layer);
    snprintf(full, sizeof full, "%s%s.%s", blk, name, part);
    const struct weight *w = model_weight(m, full);
    if (!w) return (val){0};
    full[strlen(full) - strlen(part) - 1] = 0;
    return site_vector(s, &(struct base_vector){.of = {.name = full, .module = w->module}, .part = part, .base = base_of(m, s, w->name), .data = w->data, .n = w->d[0],
                                                .rope_heads = w->rope_heads, .form = w->form});
}

/* name: without ".weight" */
static struct base_matrix matrix_as_base(const struct model *m, const struct weight *w, const char *name) {
    return (struct base_matrix){.of = {.name = name, .module = w->module, .head = !strcmp(name, "output")},
                                .data = w->data,
                                .stored = w->dt,
                                .rows = w->d[0],
                                .cols = w->d[1],
                                .rope_heads = w->rope_heads,
                                .turned = w->turned,
                                .tied = m->shape.tied && !m->family->encoder && !strcmp(name, "token_embd"),
                                .form = w->form};
}

/* The base's matrix, or what the method puts in its place: then the program has none of the base's. */
static val matrix_at(const struct model *m, struct site *s, const struct weight *w, const char *name, bool as_head) {
    struct base_matrix b = matrix_as_base(m, w, name);
    b.as_head = as_head && b.tied;
    val own = site_matrix(s, &b);
    if (has(own)) return own;
    val matrix = base_of(m, s, w->name);
    if (m->keep && has(matrix) && is_layers_matrix(w)) prog_v(s->p, matrix)->dt = m->keep;
    return matrix;
}

static val matrix_of(const struct model *m, struct site *s, const char *name, bool as_head) {
    char full[80];
    snprintf(full, sizeof full, "%s.weight", name);
    const struct weight *w = model_weight(m, full);
    return w ? matrix_at(m, s, w, name, as_head) : (prog_fail(s->p, E_INTERNAL, "tensor %s is missing", full), (val){0});
}

val model_matrix(const struct model *m, struct site *s, const char *name) { return matrix_of(m, s, name, false); }

struct linear model_linear(const struct model *m, struct site *s, const char *name, int layer) {
    char full[80], blk[16] = "";
    if (layer >= 0) snprintf(blk, sizeof blk, "blk.%d.", layer);
    val bias = model_vector(m, s, name, layer, "bias");
    snprintf(full, sizeof full, "%s%s.weight", blk, name);
    const struct weight *w = model_weight(m, full);
    if (!w) return prog_fail(s->p, E_INTERNAL, "tensor %s is missing", full), (struct linear){0};
    full[strlen(full) - strlen(".weight")] = 0;
    return (struct linear){.of = {.name = arena_str(&s->p->mem, full), .module = w->module}, .w = matrix_at(m, s, w, full, false), .bias = bias,
                           .in = w->d[1], .out = w->d[0], .rope_heads = w->rope_heads};
}

/* The method's own rows of the token table; absent: none. */
static val token_rows(const struct model *m, struct site *s) {
    const struct weight *w = model_weight(m, "token_embd.weight");
    const struct base_matrix table = w ? matrix_as_base(m, w, "token_embd") : (struct base_matrix){0};
    return w ? site_tokens(s, &table) : (val){0};
}

/* Some ids have a row in `own` (site.own_ids), the others in the table. */
static val embed_with(struct site *s, val table, val own, float scale) {
    struct inst *i = prog_emit(s->p, &op_find_rows, (val[]){s->ids, s->own_ids}, 2, NULL);
    if (!i) return (val){0};
    const val row = i->out[0], rest = i->out[1];
    const struct op_attr a = {.scale = scale};
    const val x = emit1(s->p, &op_embed, (val[]){rest, table}, 2, &a), y = emit1(s->p, &op_embed, (val[]){row, own}, 2, &a);
    return emit1(s->p, &op_add, (val[]){x, y}, 2, NULL);
}

val model_embed(const struct model *m, struct site *s, double scale) {
    const struct weight *w = model_weight(m, "token_embd.weight");
    if (!w) return (val){0};
    /* the factor has the activations' type, as in the models' own code */
    if (prog_dt(s->p) == DT_BF16) scale = bf16_to_f32(f32_to_bf16((float)scale));
    if (prog_dt(s->p) == DT_F16) scale = f16_to_f32(f32_to_f16((float)scale));
    const val own = token_rows(m, s), table = model_matrix(m, s, "token_embd");
    if (has(own)) return site_noise(s, embed_with(s, table, own, (float)scale));
    return site_noise(s, site_embed(s,
                                    &(struct embedding){.of = {.name = "token_embd", .module = w->module},
                                                        .rows = w->d[0],
                                                        .width = w->d[1],
                                                        .dt = w->dt,
                                                        .data = w->data,
                                                        .scale = scale},
                                    table));
}

val model_body(const struct model *m, struct site *s) {
    const struct family *f = m->family;
    s->p->segment = 0;
    if (f->body) return f->body(m, s);
    val x = f->embed ? f->embed(m, s) : model_embed(m, s, m->shape.embed_scale ? m->shape.embed_scale : 1);
    for (int l = 0; l < m->shape.layers; l++) {
        site_block(s, l + 1, x);
        x = f->block(m, s, x, l);
    }
    s->p->segment = 0;
    return f->finish ? f->finish(m, s, x) : block_norm(m, s, x, "output_norm", -1);
}

struct projection model_head(const struct model *m, struct site *s) {
    const struct weight *w = model_weight(m, m->shape.tied ? "token_embd.weight" : "output.weight");
    struct projection h = {.w = matrix_of(m, s, m->shape.tied ? "token_embd" : "output", true), .own = m->shape.tied ? token_rows(m, s) : (val){0}};
    if (!w || s->p->failed) return h;
    const struct module of = {.name = "output", .module = m->shape.tied ? "lm_head" : w->module, .head = true};
    h.low = site_head(s, &(struct linear){.of = of, .w = h.w, .in = w->d[1], .out = w->d[0]});
    if (has(h.own) && has(h.low.a))
        prog_fail(s->p, E_USAGE, "trained tokens of a table that is the head too and a low-rank product beside that head cannot be on at once");
    return h;
}

val model_logits(const struct model *m, struct site *s, val x) {
    const struct projection h = model_head(m, s);
    const struct linear w[] = {{.w = h.w}, {.w = h.own}};
    const bool low = has(h.low.a);
    const struct op_attr a = {.wide = true, .alpha = {h.low.scale}, .rank = {low ? (int)prog_v(s->p, h.low.a)->d[0] : 0}};
    const struct low_rank of = {.a = h.low.a, .b = {h.low.b}};
    val z[2] = {{0}};
    if (s->p->failed || site_emit_linear(s, x, has(h.own) ? 2 : 1, w, &a, low ? &of : NULL, z)) return (val){0};
    return has(h.own) ? emit1(s->p, &op_put_columns, (val[]){z[0], z[1], s->own_ids}, 3, NULL) : z[0];
}
