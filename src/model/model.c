/* Opening a base model: find the family, read the sizes, match the tensors. See model.h. */
#define _DEFAULT_SOURCE
#include "model/family.h"
#include "base/philox.h"
#include "io/packed.h"
#include "ops/ops.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct family *const families[] = {
#define FAMILY(name) &family_##name,
#include "model/families.def"
#undef FAMILY
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* --- sizes ----------------------------------------------------------------------------------------------------- */
err size_gguf(const struct gguf_meta *meta, const char *key, int64_t *out) {
    uint64_t u;
    if (!gguf_u64(meta, key, &u)) return fail(E_INPUT, "metadata key %s is missing or not an integer", key);
    if (u == 0 || u > 1u << 30) return fail(E_INPUT, "metadata key %s is %llu, which is not a size", key, (unsigned long long)u);
    *out = (int64_t)u;
    return OK;
}

int64_t size_gguf_or(const struct gguf_meta *meta, const char *key, int64_t fallback) {
    uint64_t u;
    return gguf_u64(meta, key, &u) && u && u <= 1u << 30 ? (int64_t)u : fallback;
}

double real_gguf_or(const struct gguf_meta *meta, const char *key, double fallback) {
    double f;
    return gguf_f64(meta, key, &f) ? f : fallback;
}

err size_json(const struct model *m, const void *json, const char *key, int64_t *out) {
    const json_t *v = json_object_get(json, key);
    if (!json_is_integer(v)) return fail(E_INPUT, "%s: config.json: '%s' is missing or not an integer", m->path, key);
    *out = json_integer_value(v);
    if (*out < 1 || *out > 1 << 30) return fail(E_INPUT, "%s: config.json: '%s' is %lld, which is not a size", m->path, key, (long long)*out);
    return OK;
}

int64_t size_json_or(const void *json, const char *key, int64_t fallback) {
    const json_t *v = json_object_get(json, key);
    return json_is_integer(v) && json_integer_value(v) > 0 ? json_integer_value(v) : fallback;
}

double real_json_or(const void *json, const char *key, double fallback) {
    const json_t *v = json_object_get(json, key);
    return json_is_number(v) ? json_number_value(v) : fallback;
}

bool bool_json_or(const void *json, const char *key, bool fallback) {
    const json_t *v = json_object_get(json, key);
    return json_is_boolean(v) ? json_is_true(v) : fallback;
}

double rope_base_json(const void *json, double fallback) {
    const json_t *nested = json_object_get(json, "rope_parameters");
    return real_json_or(json, "rope_theta", json_is_object(nested) ? real_json_or(nested, "rope_theta", fallback) : fallback);
}

err want_json(const struct model *m, const void *json, const char *key, const char *value) {
    const char *s = json_string_value(json_object_get(json, key));
    if (!s || !strcmp(s, value)) return OK;
    return fail(E_UNSUPPORTED, "%s: config.json: %s '%s' is not supported (supported: %s)", m->path, key, s, value);
}

err want_no_rope_scaling(const struct model *m, const void *json) {
    const json_t *scaling = json_object_get(json, "rope_scaling"), *nested = json_object_get(json, "rope_parameters");
    const char *type = json_string_value(json_object_get(json_is_object(nested) ? nested : scaling, "rope_type"));
    if ((json_is_object(scaling) || type) && !(type && !strcmp(type, "default")))
        return fail(E_UNSUPPORTED, "%s: config.json: RoPE scaling '%s' is not supported yet", m->path, type ? type : "?");
    return OK;
}

/* --- tensors ---------------------------------------------------------------------------------------------------- */
/* Bytes of a tensor as stored. */
static size_t weight_bytes(const struct weight *w) {
    return dtype_row_bytes(w->dt, w->d[w->nd - 1]) * (size_t)(w->nd == 2 ? w->d[0] : 1);
}

static bool is_bias(const char *name) { return str_ends(name, ".bias"); }

/* Vectors become f32 copies: they are tiny and every kernel wants them plain. Weights of GGUF's q/k rows keep the file's
 * order, so their biases do too. */
static err take(struct model *m, struct weight *w, const struct tensor *t) {
    struct tensor unpacked;
    if (t->dt == DT_NONE) {
        TRY(packed_tensor(&m->files, t, &unpacked));
        t = &unpacked;
    }
    if (t->nd != w->nd || memcmp(t->d, w->d, (size_t)w->nd * sizeof *w->d)) {
        char have[96] = "", need[96] = "";
        for (int i = 0; i < t->nd; i++) snprintf(have + strlen(have), sizeof have - strlen(have), "%s%lld", i ? "," : "", (long long)t->d[i]);
        for (int i = 0; i < w->nd; i++) snprintf(need + strlen(need), sizeof need - strlen(need), "%s%lld", i ? "," : "", (long long)w->d[i]);
        return fail(E_INPUT, "%s: tensor %s is [%s], the model's sizes say [%s]", m->path, t->name, have, need);
    }
    w->dt = t->dt;
    w->data = t->data;
    if (t->dt == DT_I32) return fail(E_UNSUPPORTED, "%s: tensor %s holds integers", m->path, t->name);
    if (w->nd != 1) return OK;
    float *f = arena_alloc(&m->mem, (size_t)w->d[0] * 4);
    if (!f) return fail(E_MEMORY, "out of memory");
    dequantise_row(t->dt, t->data, f, w->d[0]);
    w->dt = DT_F32;
    w->data = f;
    return OK;
}

err model_want(struct model *m, const char *name, const char *module, int nd, const int64_t *d, bool optional, int rope_heads) {
    struct weight *w = realloc(m->w, (size_t)(m->n + 1) * sizeof *w);
    if (!w) return fail(E_MEMORY, "out of memory");
    m->w = w;
    w += m->n;
    *w = (struct weight){.nd = nd, .dt = nd == 1 ? DT_F32 : DT_F16, .rope_heads = rope_heads};
    w->name = arena_str(&m->mem, name);
    w->module = arena_str(&m->mem, module);
    if (!w->name || !w->module) return fail(E_MEMORY, "out of memory");
    int64_t elems = 1;
    for (int i = 0; i < nd; i++) elems *= w->d[i] = d[i];
    if (m->files.n) {
        char hf[256];
        snprintf(hf, sizeof hf, "%s%s", module, is_bias(name) ? ".bias" : ".weight");
        const struct tensor *t = tensors_find(&m->files, m->gguf ? name : hf);
        if (!t && optional) return OK;
        if (!t) return packed_missing(&m->files, m->gguf ? name : hf);
        TRY(take(m, w, t));
        m->bytes += t->dt ? t->bytes : weight_bytes(w);
    }
    m->parameters += elems;
    m->n++;
    return OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct weight *)a)->name, ((const struct weight *)b)->name);
}

const struct weight *model_weight(const struct model *m, const char *name) {
    struct weight key = {.name = name};
    return m->n ? bsearch(&key, m->w, (size_t)m->n, sizeof *m->w, by_name) : NULL;
}

/* Space only: a plan of a 70B model needs addresses, not memory. */
static err reserve_random(struct model *m, dtype dt) {
    size_t total = 0;
    for (int i = 0; i < m->n; i++) {
        struct weight *w = &m->w[i];
        if (w->nd == 2) w->dt = w->d[1] % dtype_info[dt].block ? DT_F32 : dt;
        total += (weight_bytes(w) + 63) & ~(size_t)63;
    }
    m->bytes = total;
    char *at = m->random_bytes = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->random_bytes == MAP_FAILED) {
        m->random_bytes = NULL;
        return fail(E_MEMORY, "random model: cannot reserve %zu bytes: %s", total, strerror(errno));
    }
    for (int i = 0; i < m->n; at += (weight_bytes(&m->w[i]) + 63) & ~(size_t)63, i++) m->w[i].data = at;
    return OK;
}

/* N(0, 0.02) matrices, norm weights 1, biases 0. */
void model_fill(struct model *m) {
    if (!m->random) return;
    for (int i = 0; i < m->n; i++) {
        struct weight *w = &m->w[i];
        int64_t cols = w->d[w->nd - 1], rows = w->nd == 2 ? w->d[0] : 1;
        size_t row = dtype_row_bytes(w->dt, cols);
#pragma omp parallel for
        for (int64_t r = 0; r < rows; r++) {
            float block[DTYPE_BLOCK_MAX]; /* a multiple of every block size that can be written */
            for (int64_t c0 = 0; c0 < cols; c0 += 256) {
                int64_t n = cols - c0 < 256 ? cols - c0 : 256;
                for (int64_t c = 0; c < n; c++) {
                    struct philox p = philox(philox_key(m->seed, PURPOSE_INIT), (uint32_t)i, (uint32_t)r, (uint32_t)(c0 + c), 1);
                    float sum = philox_unit(p.v[0]) + philox_unit(p.v[1]) + philox_unit(p.v[2]) + philox_unit(p.v[3]) - 2;
                    block[c] = w->nd == 1 ? (is_bias(w->name) ? 0 : 1) : sum * 0.0346f; /* four uniforms: variance 1/3 */
                }
                quantise_row(w->dt, block, (char *)w->data + row * (size_t)r + dtype_row_bytes(w->dt, c0), n);
            }
        }
    }
}

/* --- opening ---------------------------------------------------------------------------------------------------- */
static err pick_family(struct model *m, const char *arch, bool hf) {
    char known[128] = "";
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *name = hf ? families[i]->hf : families[i]->name;
        if (!strcmp(arch, name)) return m->family = families[i], OK;
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", name);
    }
    return fail(E_UNSUPPORTED, "%s: architecture '%s' is not supported (supported: %s)", m->path, arch, known);
}

static err check_sizes(const struct model *m) {
    const struct shape *z = &m->shape;
    if (z->heads < 1 || z->kv_heads < 1 || z->heads % z->kv_heads)
        return fail(E_INPUT, "%s: %lld heads do not share %lld key/value heads", m->path, (long long)z->heads, (long long)z->kv_heads);
    if (z->head_dim < 2 || z->head_dim % 2 || z->head_dim > 512)
        return fail(E_INPUT, "%s: a head size of %lld is not possible (even, 2 to 512)", m->path, (long long)z->head_dim);
    if (!(z->norm_eps > 0 && z->norm_eps < 1)) return fail(E_INPUT, "%s: norm epsilon %g is out of range", m->path, z->norm_eps);
    if (!(z->rope_base > 1)) return fail(E_INPUT, "%s: RoPE base %g is out of range", m->path, z->rope_base);
    if (z->layers > 1024) return fail(E_INPUT, "%s: %lld layers", m->path, (long long)z->layers);
    return OK;
}

static err open_json(struct model *m, const char *path) {
    json_error_t je;
    json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!j) return fail(path_exists(path) ? E_INPUT : E_USAGE, "%s: %s (line %d)", path, je.text, je.line);
    const char *type = json_string_value(json_object_get(j, "model_type"));
    err e = type ? pick_family(m, type, true) : fail(E_INPUT, "%s: 'model_type' is missing", path);
    if (!e) e = m->family->sizes(m, NULL, j);
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
    if (!dtype_encodes(dt)) return fail(E_USAGE, "model '%s': random weights cannot be %s: it has no encoder here", m->path, dtype_info[dt].name);
    if (!config_path || !*config_path) return fail(E_USAGE, "model '%s' needs model_config: the path of a config.json", m->path);
    m->random = true;
    TRY(open_json(m, config_path));
    TRY(check_sizes(m));
    TRY(m->family->tensors(m));
    return reserve_random(m, dt);
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
        if (!path_is_dir(m->path)) return fail(E_USAGE, "%s: a model in safetensors is a folder with config.json beside it; name the folder", m->path);
        TRY(open_json(m, arena_printf(&m->mem, "%s/config.json", m->path)));
    }
    TRY(check_sizes(m));
    return m->family->tensors(m);
}

err model_open(const char *path, const char *config_path, struct model *m) {
    *m = (struct model){0};
    m->path = arena_str(&m->mem, path);
    err e = str_starts(path, "random:") ? open_random(m, path + 7, config_path) : open_files(m);
    if (!e) {
        qsort(m->w, (size_t)m->n, sizeof *m->w, by_name);
        int64_t half = m->shape.head_dim / 2;
        m->inv_freq = arena_alloc(&m->mem, (size_t)half * 4);
        for (int64_t j = 0; m->inv_freq && j < half; j++) m->inv_freq[j] = (float)pow(m->shape.rope_base, -2.0 * (double)j / (double)m->shape.head_dim);
        m->residents = arena_alloc(&m->mem, sizeof *m->residents);
        if (!m->inv_freq || !m->residents) e = fail(E_MEMORY, "out of memory");
    }
    if (e) model_close(m);
    return e;
}

void model_close(struct model *m) {
    if (m->residents) residents_free(m->residents);
    if (m->random_bytes) munmap(m->random_bytes, m->bytes);
    tensors_close(&m->files);
    free(m->w);
    arena_free(&m->mem);
    *m = (struct model){0};
}

void model_hash(const struct model *m, char hex[33]) {
    str all = {0};
    for (int i = 0; i < m->n; i++) {
        const struct weight *w = &m->w[i];
        char one[33];
        bytes_hash(w->data, weight_bytes(w), one);
        str_addf(&all, "%s %s %s\n", w->name, dtype_info[w->dt].name, one);
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

size_t model_kept_bytes(const struct model *m) {
    size_t bytes = m->bytes;
    for (int i = 0; i < m->n && m->keep; i++) {
        const struct weight *w = &m->w[i];
        if (is_layers_matrix(w)) bytes += (size_t)w->d[0] * dtype_row_bytes(m->keep, w->d[1]) - weight_bytes(w);
    }
    return bytes;
}

val model_vec(const struct model *m, struct site *s, const char *fmt, int layer) {
    char name[64];
    snprintf(name, sizeof name, fmt, layer);
    return base_of(m, s, name);
}

struct linear model_linear(const struct model *m, struct site *s, const char *name, int layer) {
    char full[64];
    snprintf(full, sizeof full, "blk.%d.%s.bias", layer, name);
    val bias = model_weight(m, full) ? base_of(m, s, full) : (val){0};
    snprintf(full, sizeof full, "blk.%d.%s.weight", layer, name);
    const struct weight *w = model_weight(m, full);
    if (!w) return prog_fail(s->p, E_INTERNAL, "tensor %s is missing", full), (struct linear){0};
    val matrix = base_of(m, s, w->name);
    if (m->keep && has(matrix) && is_layers_matrix(w)) prog_v(s->p, matrix)->dt = m->keep;
    full[strlen(full) - strlen(".weight")] = 0;
    return (struct linear){.name = arena_str(&s->p->mem, full), .module = w->module, .w = matrix, .bias = bias,
                           .in = w->d[1], .out = w->d[0], .rope_heads = w->rope_heads};
}

val model_body(const struct model *m, struct site *s) {
    struct op_attr embed = {.scale = 1}, norm = {.eps = (float)m->shape.norm_eps};
    s->p->segment = 0;
    val x = emit1(s->p, &op_embed, (val[]){s->ids, base_of(m, s, "token_embd.weight")}, 2, &embed);
    for (int l = 0; l < m->shape.layers; l++) {
        s->p->segment = l + 1;
        x = m->family->block(m, s, x, l);
    }
    s->p->segment = 0;
    return emit1(s->p, &op_norm, (val[]){x, base_of(m, s, "output_norm.weight")}, 2, &norm);
}

val model_head(const struct model *m, struct site *s) { return base_of(m, s, m->shape.tied ? "token_embd.weight" : "output.weight"); }
