/* See crossing.h. The table holds what the two formats call a family; its sizes come from struct shape, which both readers fill, so
 * that a family of llama's make-up crosses with a row here. What struct shape cannot hold (RoPE scaling) is refused. */
#define _DEFAULT_SOURCE
#include "export/crossing.h"
#include "base/log.h"
#include "io/tokenizer_out.h"
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct crossing {
    const char *hf, *class, *gguf; /* model_type, architectures, general.architecture */
    bool pairs;                    /* llama.cpp's converter puts RoPE's pairs of this family side by side */
} crossings[] = {{"llama", "LlamaForCausalLM", "llama", true}};
enum { N_CROSSINGS = sizeof crossings / sizeof *crossings };

static const struct crossing *crossing_of(const struct model *m) {
    for (int i = 0; i < N_CROSSINGS; i++)
        if (!strcmp(m->family->hf, crossings[i].hf) && !strcmp(m->family->name, crossings[i].gguf)) return &crossings[i];
    return NULL;
}

static err no_crossing(const struct model *m, const char *to) {
    str known = {0};
    for (int i = 0; i < N_CROSSINGS; i++) str_addf(&known, "%s%s", i ? ", " : "", crossings[i].hf);
    err e = fail(E_UNSUPPORTED, "%s: a %s model cannot be written as %s from the other format (%s can); stay in its own format", m->path,
                 m->family->name, to, known.p ? known.p : "");
    str_free(&known);
    return e;
}

/* RoPE as the base alone gives it: scaled frequencies would need keys of their own in either format. */
static err plain_rope(const struct model *m) {
    const struct rope_table *rope = &m->rope[0];
    for (int64_t j = 0; j < rope->dims / 2; j++) {
        double plain = pow(rope->base, -2.0 * (double)j / (double)rope->dims);
        if (rope->dims != m->shape.head_dim || rope->scale != 1 || fabs(rope->inv_freq[j] - plain) > 1e-5 * plain)
            return fail(E_UNSUPPORTED, "%s: RoPE scaling cannot cross between formats yet; stay in its own", m->path);
    }
    return OK;
}

/* --- to GGUF --------------------------------------------------------------------------------------------------------- */
err crossing_to_gguf(const struct model *m, const char **architecture, bool *pairs) {
    const struct crossing *c = crossing_of(m);
    if (m->gguf) { /* it is GGUF already: its own name, and rows as they are */
        *architecture = m->family->name;
        *pairs = m->shape.interleaved;
        return OK;
    }
    if (!c) return no_crossing(m, "GGUF");
    *architecture = c->gguf;
    *pairs = c->pairs;
    return plain_rope(m);
}

err crossing_twin(const struct model *m, struct model *out) {
    const char *architecture;
    bool pairs;
    *out = *m; /* sizes; nothing that is m's to free */
    out->mem = (arena){0};
    out->files = (struct tensors){0};
    out->w = NULL;
    out->random_bytes = NULL;
    out->residents = NULL;
    out->n = 0;
    TRY(crossing_to_gguf(m, &architecture, &pairs));
    out->shape.interleaved = pairs;
    return m->family->tensors(out);
}

static void sizes_make(const struct model *m, const char *arch, struct gguf_keys *out) {
    const struct shape *z = &m->shape;
    const struct {
        const char *name;
        int64_t n;
    } sizes[] = {{"block_count", z->layers},
                 {"context_length", z->context},
                 {"embedding_length", z->width},
                 {"feed_forward_length", z->ffn},
                 {"attention.head_count", z->heads},
                 {"attention.head_count_kv", z->kv_heads},
                 {"attention.key_length", z->head_dim},
                 {"attention.value_length", z->head_dim},
                 {"rope.dimension_count", z->head_dim},
                 {"vocab_size", z->vocab}};
    char key[96];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, sizes[i].name);
        gguf_key_u32(out, key, (uint32_t)sizes[i].n);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_key_f32(out, key, z->norm_eps);
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    gguf_key_f32(out, key, m->rope[0].base);
}

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void type_make(dtype type, struct gguf_keys *out) {
    int number = gguf_file_type(type);
    if (number >= 0) gguf_key_u32(out, "general.file_type", (uint32_t)number);
    if (dtype_quantised(type)) gguf_key_u32(out, "general.quantization_version", 2);
}

/* The base's keys but for those that speak of its bytes. */
static void copy_keys(const struct gguf_meta *meta, dtype type, struct gguf_keys *out) {
    static const char *const own[] = {
        "general.architecture", "general.alignment", "general.file_type", "general.quantization_version", "split.", "quantize."};
    gguf_key_copy(out, gguf_find(meta, "general.architecture"));
    type_make(type, out);
    for (int i = 0; i < meta->n; i++) {
        bool skip = false;
        for (size_t k = 0; k < sizeof own / sizeof *own; k++) skip |= str_starts(meta->kv[i].key, own[k]);
        if (!skip) gguf_key_copy(out, &meta->kv[i]);
    }
}

err metadata_make(const struct model *m, dtype type, struct gguf_keys *out) {
    const char *arch;
    bool pairs;
    if (m->gguf) return copy_keys(m->files.meta, type, out), OK;
    TRY(crossing_to_gguf(m, &arch, &pairs));
    gguf_key_str(out, "general.architecture", arch);
    gguf_key_str(out, "general.type", "model");
    gguf_key_str(out, "general.name", last_part(m->path));
    type_make(type, out);
    sizes_make(m, arch, out);
    if (m->random) return OK;
    str file = {0};
    str_addf(&file, "%s/tokenizer.json", m->path);
    bool there = !file.failed && path_exists(file.p);
    str_free(&file);
    if (there) return tokenizer_to_gguf(m->path, m->shape.vocab, out);
    log_warn("%s has no tokenizer.json: the GGUF file gets no tokenizer", m->path);
    return OK;
}

/* --- to Hugging Face ------------------------------------------------------------------------------------------------- */
err crossing_to_hf(const struct model *m) {
    if (!crossing_of(m)) return no_crossing(m, "a Hugging Face folder");
    return plain_rope(m);
}

static const char *dtype_word(dtype dt) { return dt == DT_F32 ? "float32" : dt == DT_F16 ? "float16" : "bfloat16"; }

/* A real as the shortest decimal that is the same f32: metadata has f32, people wrote 1e-05. */
static json_t *short_real(double v) {
    char text[40];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v) break;
    }
    return json_real(strtod(text, NULL));
}

static json_t *config_made(const struct model *m) {
    const struct shape *z = &m->shape;
    const struct crossing *c = crossing_of(m);
    json_t *j =
        json_pack("{s:[s], s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:b, s:b, s:b}", "architectures", c->class,
                  "model_type", c->hf, "hidden_act", "silu", "hidden_size", (json_int_t)z->width, "intermediate_size", (json_int_t)z->ffn,
                  "num_hidden_layers", (json_int_t)z->layers, "num_attention_heads", (json_int_t)z->heads, "num_key_value_heads",
                  (json_int_t)z->kv_heads, "head_dim", (json_int_t)z->head_dim, "vocab_size", (json_int_t)z->vocab,
                  "max_position_embeddings", (json_int_t)z->context, "rms_norm_eps", short_real(z->norm_eps), "rope_theta",
                  short_real(m->rope[0].base), "tie_word_embeddings", z->tied, "attention_bias", z->qkv_bias, "mlp_bias", z->mlp_bias);
    static const char *const ids[][2] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                         {"eos_token_id", "tokenizer.ggml.eos_token_id"},
                                         {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
    uint64_t id;
    for (int i = 0; m->files.meta && i < 3; i++)
        if (gguf_u64(m->files.meta, ids[i][1], &id)) json_object_set_new(j, ids[i][0], json_integer((json_int_t)id));
    return j;
}

/* config.json of the base, with the output's type; what described a quantised base is gone with it. */
static err config_copied(const struct model *m, json_t **out) {
    str path = {0};
    json_error_t je;
    str_addf(&path, "%s/config.json", m->path);
    *out = path.failed ? NULL : json_load_file(path.p, JSON_REJECT_DUPLICATES, &je);
    err e = *out ? OK : fail(E_INPUT, "%s: %s", path.p ? path.p : m->path, je.text);
    if (*out) json_object_del(*out, "quantization_config");
    str_free(&path);
    return e;
}

static err write_config(const struct model *m, dtype type, const char *folder) {
    json_t *j = NULL;
    str path = {0};
    if (!m->gguf && !m->random) TRY(config_copied(m, &j));
    else j = config_made(m);
    json_object_set_new(j, json_object_get(j, "dtype") ? "dtype" : "torch_dtype", json_string(dtype_word(type)));
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    str_addf(&path, "%s/config.json", folder);
    err e = text && !path.failed ? file_write(path.p, text, strlen(text)) : fail(E_MEMORY, "out of memory");
    free(text);
    str_free(&path);
    json_decref(j);
    return e;
}

/* The files of a folder that go with its weights whatever they are. */
static bool goes_along(const char *name) {
    static const char *const names[] = {"generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "tokenizer.model",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "vocab.txt",
                                        "merges.txt",
                                        "spiece.model",
                                        "chat_template.jinja",
                                        "chat_template.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return str_starts(name, "LICENSE") || str_starts(name, "NOTICE") || str_starts(name, "USE_POLICY");
}

static err copy_file(const char *from, const char *name, const char *to) {
    str path = {0}, bytes = {0};
    str_addf(&path, "%s/%s", from, name);
    err e = path.failed ? fail(E_MEMORY, "out of memory") : file_read(path.p, &bytes);
    str_clear(&path);
    str_addf(&path, "%s/%s", to, name);
    if (!e) e = path.failed ? fail(E_MEMORY, "out of memory") : file_write(path.p, bytes.p, bytes.n);
    str_free(&path);
    str_free(&bytes);
    return e;
}

static err copy_neighbours(const char *from, const char *to) {
    DIR *d = opendir(from);
    err e = d ? OK : fail(E_IO, "%s: cannot be listed", from);
    for (struct dirent *f; d && !e && (f = readdir(d));)
        if (goes_along(f->d_name)) e = copy_file(from, f->d_name, to);
    if (d) closedir(d);
    return e;
}

err folder_make(const struct model *m, dtype type, const char *folder) {
    TRY(write_config(m, type, folder));
    if (m->random) return OK;
    return m->gguf ? tokenizer_to_hf(&m->files, folder) : copy_neighbours(m->path, folder);
}
