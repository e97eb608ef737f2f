/* See crossing.h. What is made for the other format is read again as its own readers would, before a byte is written, and must give the
 * base's sizes, windows and RoPE tables (same_model): what the other format cannot say, or would mean otherwise by default (a window of
 * Mistral's in GGUF, Gemma's pattern of layers), is refused by that and by no list. Names, orders, transpositions and Gemma's norms less 1
 * follow from struct weight and struct shape (plan.c). Keys are those of llama.cpp's converter. */
#define _DEFAULT_SOURCE
#include "export/crossing.h"
#include "base/log.h"
#include "export/positions.h"
#include "export/untie.h"
#include "io/tokenizer_out.h"
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct crossing {
    const char *hf, *class, *gguf; /* model_type, architectures, general.architecture */
    bool windows;                  /* both formats have a key for a sliding window */
    bool gemma;                    /* its gates, soft-caps and layers by turns */
    bool biases;                   /* llama.cpp loads its biases; where it has none, it refuses the file */
    bool square;                   /* llama.cpp takes its heads together to be as wide as the model */
} crossings[] = {
    {"llama", "LlamaForCausalLM", "llama", false, false, true, false},
    {"mistral", "MistralForCausalLM", "llama", false, false, true, false},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", false, false, true, true},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", false, false, false, false},
    {"smollm3", "SmolLM3ForCausalLM", "smollm3", false, false, false, false},
    {"phi3", "Phi3ForCausalLM", "phi3", true, false, false, true},
    {"gemma2", "Gemma2ForCausalLM", "gemma2", true, true, false, false},
    {"gemma3_text", "Gemma3ForCausalLM", "gemma3", true, true, false, false},
    {"gpt2", "GPT2LMHeadModel", "gpt2", false, false, true, true},
    {"bert", "BertModel", "bert", false, false, true, false},
    {"t5", "T5ForConditionalGeneration", "t5", false, false, true, false}};
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

static bool learned_positions(const struct model *m) { return model_weight(m, "position_embd.weight") != NULL; }
static bool layer_norms(const struct model *m) { return model_weight(m, "output_norm.bias") || model_weight(m, "token_embd_norm.bias"); }

static int64_t widest_window(const struct model *m) {
    int64_t most = 0;
    for (int64_t l = 0; l < m->shape.layers; l++)
        if (m->layer[l].window > most) most = m->layer[l].window;
    return most;
}

/* --- the same model? ------------------------------------------------------------------------------------------------- */
static bool same_real(double a, double b) { return fabs(a - b) <= 1e-6 * fabs(a); }

static err differs(const struct model *m, const char *to, const char *what, double have, double read) {
    return fail(E_UNSUPPORTED, "%s: %s cannot say its %s (%.6g, and %.6g would be read); %s", m->path, to, what, have, read,
                m->cut ? "a Hugging Face folder might, or other blocks" : "stay in its own format");
}

static err same_table(const struct model *m, const char *to, const struct rope_table *a, const struct rope_table *b) {
    if (a->dims != b->dims) return differs(m, to, "rotated columns", (double)a->dims, (double)b->dims);
    if (!same_real(a->scale, b->scale)) return differs(m, to, "RoPE scaling: sine and cosine are scaled by its factor", a->scale, b->scale);
    for (int64_t j = 0; j < a->dims / 2; j++)
        if (!same_real(a->inv_freq[j], b->inv_freq[j])) return differs(m, to, "RoPE scaling: a frequency", a->inv_freq[j], b->inv_freq[j]);
    return OK;
}

static err same_layers(const struct model *m, const char *to, const struct model *b) {
    for (int64_t l = 0; l < m->shape.layers; l++) {
        const struct layer *x = &m->layer[l], *y = &b->layer[l];
        char what[64];
        snprintf(what, sizeof what, "sliding windows: layer %lld's", (long long)l);
        if (x->window != y->window) return differs(m, to, what, (double)x->window, (double)y->window);
        snprintf(what, sizeof what, "layers without positions: layer %lld", (long long)l);
        if (!x->rope != !y->rope) return differs(m, to, what, x->rope ? 1 : 0, y->rope ? 1 : 0);
        if (x->rope) TRY(same_table(m, to, x->rope, y->rope));
    }
    return OK;
}

static double score_scale(const struct shape *z) { return z->attn_scale > 0 ? z->attn_scale : 1 / sqrt((double)z->head_dim); }

/* b: what a reader of the other format makes of what would be written. */
static err same_model(const struct model *m, const char *to, const struct model *b) {
    const struct shape *x = &m->shape, *y = &b->shape;
    const struct {
        const char *what;
        double a, b;
    } sizes[] = {{"number of layers", (double)x->layers, (double)y->layers},
                 {"width", (double)x->width, (double)y->width},
                 {"heads", (double)x->heads, (double)y->heads},
                 {"key and value heads", (double)x->kv_heads, (double)y->kv_heads},
                 {"head size", (double)x->head_dim, (double)y->head_dim},
                 {"inner width", (double)x->ffn, (double)y->ffn},
                 {"vocabulary", (double)x->vocab, (double)y->vocab},
                 {"context", (double)x->context, (double)y->context},
                 {"norms' epsilon", x->norm_eps, y->norm_eps},
                 {"scale of scores", score_scale(x), score_scale(y)},
                 {"soft-cap of scores", x->attn_softcap, y->attn_softcap},
                 {"soft-cap of logits", x->logit_softcap, y->logit_softcap},
                 {"scale of embeddings", x->embed_scale, y->embed_scale},
                 {"tied head", x->tied, y->tied},
                 {"bound context", x->hard_context, y->hard_context},
                 {"token types", (double)x->token_types, (double)y->token_types},
                 {"number of encoder layers", (double)x->encoder_layers, (double)y->encoder_layers},
                 {"buckets of distances", (double)x->buckets, (double)y->buckets},
                 {"greatest relative distance", (double)x->distance, (double)y->distance},
                 {"decoder's first token", x->start, y->start},
                 {"gate", x->gated, y->gated},
                 {"factor before the head", x->scaled_head, y->scaled_head}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!same_real(sizes[i].a, sizes[i].b)) return differs(m, to, sizes[i].what, sizes[i].a, sizes[i].b);
    return same_layers(m, to, b);
}

/* --- to GGUF --------------------------------------------------------------------------------------------------------- */
/* Architectures whose q and k llama.cpp's converter puts into pairs (LlamaModel of convert_hf_to_gguf.py and what inherits from it). */
static bool keeps_pairs(const char *architecture) {
    static const char *const names[] = {"llama", "smollm3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], architecture)) return true;
    return false;
}

err crossing_twin(const struct model *m, struct model *out) {
    *out = *m; /* sizes; nothing that is m's to free */
    out->mem = (arena){0};
    out->files = (struct tensors){0};
    out->w = NULL;
    out->reserved = NULL;
    out->residents = NULL;
    out->n = 0;
    out->shape.interleaved = m->gguf ? m->shape.interleaved : keeps_pairs(m->family->name);
    return m->family->tensors(out);
}

static void key_u32(struct gguf_keys *out, const char *arch, const char *name, int64_t n) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    gguf_key_u32(out, key, (uint32_t)n);
}

static void key_f32(struct gguf_keys *out, const char *arch, const char *name, double v) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    gguf_key_f32(out, key, v);
}

/* What llama.cpp asks of an encoder beside its sizes: that it looks both ways, and how a text's rows become one vector. */
static void encoder_keys(const struct model *m, const char *arch, struct gguf_keys *out) {
    enum { POOL_MEAN = 1, POOL_CLS = 2 }; /* its LLAMA_POOLING_TYPE */
    char key[96];
    str path = {0};
    snprintf(key, sizeof key, "%s.attention.causal", arch);
    gguf_key_bool(out, key, false);
    gguf_key_u32(out, "tokenizer.ggml.token_type_count", (uint32_t)m->shape.token_types);
    str_addf(&path, "%s/1_Pooling/config.json", m->path); /* of sentence-transformers */
    json_t *pooling = path.failed ? NULL : json_load_file(path.p, 0, NULL);
    if (json_is_true(json_object_get(pooling, "pooling_mode_mean_tokens"))) key_u32(out, arch, "pooling_type", POOL_MEAN);
    else if (json_is_true(json_object_get(pooling, "pooling_mode_cls_token"))) key_u32(out, arch, "pooling_type", POOL_CLS);
    json_decref(pooling);
    str_free(&path);
}

static void seq2seq_keys(const struct model *m, const char *arch, struct gguf_keys *out) {
    key_u32(out, arch, "decoder_block_count", m->shape.layers);
    key_u32(out, arch, "decoder_start_token_id", m->shape.start);
    key_u32(out, arch, "attention.relative_buckets_count", m->shape.buckets);
    key_f32(out, arch, "attention.layer_norm_epsilon", m->shape.norm_eps); /* llama.cpp wants both, one is used */
}

/* T5 was trained on 512 tokens, and has no last position. */
static int64_t context_of(const struct model *m) {
    enum { T5_CONTEXT = 512 };
    if (m->family->seq2seq) return T5_CONTEXT;
    return m->rope[0].scaling.context && m->shape.hard_context ? m->rope[0].scaling.context : m->shape.context;
}

static void sizes_make(const struct model *m, const struct crossing *c, struct gguf_keys *out) {
    const struct shape *z = &m->shape;
    key_u32(out, c->gguf, "block_count", m->family->seq2seq ? z->encoder_layers : z->layers);
    key_u32(out, c->gguf, "context_length", context_of(m));
    key_u32(out, c->gguf, "embedding_length", z->width);
    key_u32(out, c->gguf, "feed_forward_length", z->ffn);
    key_u32(out, c->gguf, "attention.head_count", z->heads);
    key_u32(out, c->gguf, "vocab_size", z->vocab);
    if (!learned_positions(m)) {
        key_u32(out, c->gguf, "attention.head_count_kv", z->kv_heads);
        key_u32(out, c->gguf, "attention.key_length", z->head_dim);
        key_u32(out, c->gguf, "attention.value_length", z->head_dim);
    }
    if (c->windows) key_u32(out, c->gguf, "attention.sliding_window", widest_window(m));
    if (c->gemma && z->attn_softcap > 0) key_f32(out, c->gguf, "attn_logit_softcapping", z->attn_softcap);
    if (c->gemma && z->logit_softcap > 0) key_f32(out, c->gguf, "final_logit_softcapping", z->logit_softcap);
    key_f32(out, c->gguf, layer_norms(m) ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", z->norm_eps);
    if (m->family->encoder) encoder_keys(m, c->gguf, out);
    if (m->family->seq2seq) seq2seq_keys(m, c->gguf, out);
    positions_keys(m, c->gguf, out);
}

static int by_name(const void *a, const void *b) { return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name); }

/* The tensors of the file to be, as far as readers of sizes look at them. */
static err tensors_named(const struct model *m, arena *mem, struct tensors *ts) {
    int extra;
    struct tensor more[POSITION_TENSORS];
    TRY(positions_tensors(m, mem, more, &extra));
    ts->t = arena_alloc(mem, (size_t)(m->n + extra) * sizeof *ts->t);
    if (!ts->t) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < m->n; i++) {
        ts->t[ts->n] = (struct tensor){.name = m->w[i].name, .dt = m->w[i].dt, .nd = m->w[i].nd};
        memcpy(ts->t[ts->n++].d, m->w[i].d, sizeof m->w[i].d);
    }
    for (int i = 0; i < extra; i++) ts->t[ts->n++] = more[i];
    qsort(ts->t, (size_t)ts->n, sizeof *ts->t, by_name);
    return OK;
}

static err read_as_gguf(const struct model *m, const struct crossing *c, struct model *twin) {
    str bytes = {0};
    struct gguf_keys keys = {0};
    struct tensors ts;
    sizes_make(m, c, &keys);
    err e = gguf_keys_open(&keys, &bytes, &ts);
    gguf_keys_free(&keys);
    if (!e) {
        *twin = (struct model){.path = m->path, .gguf = true, .family = model_family(c->gguf, false)};
        e = tensors_named(m, &twin->mem, &ts);
        twin->files = ts; /* for the reader of sizes alone: not the twin's to close */
        if (!e) e = twin->family->sizes(twin, ts.meta, NULL);
        twin->files = (struct tensors){0};
        tensors_close(&ts);
    }
    str_free(&bytes);
    return e;
}

/* What llama.cpp would not read as our reader does; found by loading such files into it (tests/golden/make/crossing_loads.py). */
static err loads(const struct model *m, const struct crossing *c) {
    const struct rope_scaling *s = &m->rope[0].scaling;
    for (int i = 0; i < m->n && !c->biases; i++)
        if (str_ends(m->w[i].name, ".bias"))
            return fail(E_UNSUPPORTED, "%s: %s files have no place for %s: llama.cpp would refuse it; stay in its own format", m->path,
                        c->gguf, m->w[i].name);
    const struct shape *z = &m->shape;
    if (c->square && z->heads * z->head_dim != z->width)
        return fail(E_UNSUPPORTED, "%s: %lld heads of %lld in a width of %lld: llama.cpp loads %s files only where heads make up the width; %s", m->path,
                    (long long)z->heads, (long long)z->head_dim, (long long)z->width, c->gguf,
                    m->cut ? "write a Hugging Face folder, or keep heads and width" : "stay in its own format");
    if (s->type && !strcmp(s->type, "yarn") && (s->beta_fast != 32 || s->beta_slow != 1))
        return fail(E_UNSUPPORTED,
                    "%s: RoPE scaling yarn with beta_fast %g and beta_slow %g: llama.cpp takes 32 and 1 whatever a GGUF file says; stay in "
                    "its own format",
                    m->path, s->beta_fast, s->beta_slow);
    if (m->family->seq2seq && m->shape.layers > m->shape.encoder_layers)
        log_warn("%s: %lld decoder layers after %lld of the encoder: llama.cpp loads no T5 with the deeper decoder; cyclora does", m->path,
                 (long long)m->shape.layers, (long long)m->shape.encoder_layers);
    return OK;
}

err crossing_to_gguf(const struct model *m) {
    struct model twin = {0};
    const struct crossing *c = crossing_of(m);
    if (!c) return no_crossing(m, "GGUF");
    TRY(loads(m, c));
    err e = read_as_gguf(m, c, &twin);
    if (!e) e = same_model(m, "GGUF", &twin);
    arena_free(&twin.mem);
    return e;
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

/* Sizes of a model that is cut, in place of those of the file that it is cut of. */
static const char *const cut_sizes[] = {"block_count",
                                        "embedding_length",
                                        "feed_forward_length",
                                        "attention.head_count",
                                        "attention.head_count_kv",
                                        "attention.key_length",
                                        "attention.value_length"};
enum { N_CUT_SIZES = sizeof cut_sizes / sizeof *cut_sizes };

static void cut_keys(const struct model *m, struct gguf_keys *out) {
    const struct shape *z = &m->shape;
    const int64_t sizes[N_CUT_SIZES] = {z->layers, z->width, z->ffn, z->heads, z->kv_heads, z->head_dim, z->head_dim};
    for (int i = 0; i < N_CUT_SIZES; i++) key_u32(out, m->family->name, cut_sizes[i], sizes[i]);
}

static bool cut_key(const struct model *m, const char *key) {
    const size_t arch = strlen(m->family->name);
    if (!strcmp(key, "general.size_label")) return true; /* "135M" */
    for (int i = 0; i < N_CUT_SIZES; i++)
        if (str_starts(key, m->family->name) && key[arch] == '.' && !strcmp(key + arch + 1, cut_sizes[i])) return true;
    return false;
}

/* The base's keys but for those that speak of its bytes. */
static void copy_keys(const struct model *m, dtype type, struct gguf_keys *out) {
    static const char *const own[] = {
        "general.architecture", "general.alignment", "general.file_type", "general.quantization_version", "split.", "quantize."};
    const struct gguf_meta *meta = m->files.meta;
    gguf_key_copy(out, gguf_find(meta, "general.architecture"));
    type_make(type, out);
    if (m->stretched) key_u32(out, m->family->name, "context_length", context_of(m)), positions_keys(m, m->family->name, out);
    if (m->cut) cut_keys(m, out);
    for (int i = 0; i < meta->n; i++) {
        bool skip = (m->stretched && positions_key(m, meta->kv[i].key)) || (m->cut && cut_key(m, meta->kv[i].key));
        for (size_t k = 0; k < sizeof own / sizeof *own; k++) skip |= str_starts(meta->kv[i].key, own[k]);
        if (!skip) gguf_key_copy(out, &meta->kv[i]);
    }
}

err metadata_make(const struct model *m, dtype type, struct gguf_keys *out) {
    if (!m->gguf || m->stretched || m->cut) TRY(crossing_to_gguf(m)); /* does a reader make the same of it? */
    if (m->gguf) return copy_keys(m, type, out), OK;
    const struct crossing *c = crossing_of(m);
    gguf_key_str(out, "general.architecture", c->gguf);
    gguf_key_str(out, "general.type", "model");
    gguf_key_str(out, "general.name", last_part(m->path));
    type_make(type, out);
    sizes_make(m, c, out);
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
static const char *dtype_word(dtype dt) { return dt == DT_F32 ? "float32" : dt == DT_F16 ? "float16" : "bfloat16"; }

/* Ids that the tokenizer's metadata names; the others are null, since classes have defaults of their own. */
static void ids_into(const struct model *m, json_t *j) {
    static const char *const ids[][2] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                         {"eos_token_id", "tokenizer.ggml.eos_token_id"},
                                         {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
    uint64_t id;
    for (int i = 0; i < 3; i++)
        json_object_set_new(j, ids[i][0],
                            m->files.meta && gguf_u64(m->files.meta, ids[i][1], &id) && id < (uint64_t)m->shape.vocab
                                ? json_integer((json_int_t)id)
                                : json_null());
}

static json_t *real_or_null(double v) { return v > 0 ? short_real(v) : json_null(); }

static json_t *types_of_layers(const struct model *m) {
    json_t *list = json_array();
    for (int64_t l = 0; l < m->shape.layers; l++)
        json_array_append_new(list, json_string(m->layer[l].window ? "sliding_attention" : "full_attention"));
    return list;
}

static json_t *rotating_layers(const struct model *m) {
    json_t *list = json_array();
    for (int64_t l = 0; l < m->shape.layers; l++) json_array_append_new(list, json_integer(m->layer[l].rope != NULL));
    return list;
}

/* GPT-2 has words of its own. */
static json_t *config_gpt2(const struct model *m) {
    const struct shape *z = &m->shape;
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "activation_function", "gelu_new", "n_embd", (json_int_t)z->width,
                     "n_layer", (json_int_t)z->layers, "n_head", (json_int_t)z->heads, "n_inner", (json_int_t)z->ffn, "n_positions",
                     (json_int_t)z->context, "n_ctx", (json_int_t)z->context, "vocab_size", (json_int_t)z->vocab, "layer_norm_epsilon",
                     short_real(z->norm_eps));
}

static void config_gemma(const struct model *m, json_t *j) {
    const struct shape *z = &m->shape;
    double scalar = 1 / (score_scale(z) * score_scale(z));
    json_object_update_new(j, json_pack("{s:s, s:o, s:o, s:o}", "hidden_activation", "gelu_pytorch_tanh", "query_pre_attn_scalar",
                                        fabs(scalar - round(scalar)) < 1e-4 ? json_integer((json_int_t)round(scalar)) : short_real(scalar),
                                        "attn_logit_softcapping", real_or_null(z->attn_softcap), "final_logit_softcapping",
                                        real_or_null(z->logit_softcap)));
    json_object_set_new(j, "layer_types", types_of_layers(m));
}

static json_t *config_decoder(const struct model *m, const struct crossing *c) {
    const struct shape *z = &m->shape;
    const int64_t window = widest_window(m);
    json_t *j =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:b, s:b}", "hidden_act", c->gemma ? "gelu_pytorch_tanh" : "silu",
                  "hidden_size", (json_int_t)z->width, "intermediate_size", (json_int_t)z->ffn, "num_hidden_layers", (json_int_t)z->layers,
                  "num_attention_heads", (json_int_t)z->heads, "num_key_value_heads", (json_int_t)z->kv_heads, "head_dim",
                  (json_int_t)z->head_dim, "vocab_size", (json_int_t)z->vocab, "max_position_embeddings", (json_int_t)z->context,
                  "rms_norm_eps", short_real(z->norm_eps), "attention_bias", z->qkv_bias, "mlp_bias", z->mlp_bias);
    if (c->windows) json_object_set_new(j, "sliding_window", window ? json_integer((json_int_t)window) : json_null());
    if (c->gemma) config_gemma(m, j);
    if (!strcmp(c->hf, "phi3")) json_object_set_new(j, "original_max_position_embeddings", json_integer((json_int_t)z->context));
    if (!strcmp(c->hf, "smollm3")) json_object_set_new(j, "no_rope_layers", rotating_layers(m));
    return j;
}

static json_t *config_bert(const struct model *m) {
    const struct shape *z = &m->shape;
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "hidden_act", "gelu", "position_embedding_type", "absolute",
                     "hidden_size", (json_int_t)z->width, "intermediate_size", (json_int_t)z->ffn, "num_hidden_layers",
                     (json_int_t)z->layers, "num_attention_heads", (json_int_t)z->heads, "vocab_size", (json_int_t)z->vocab,
                     "max_position_embeddings", (json_int_t)z->context, "type_vocab_size", (json_int_t)z->token_types, "layer_norm_eps",
                     short_real(z->norm_eps));
}

static json_t *config_t5(const struct model *m) {
    const struct shape *z = &m->shape;
    json_t *j = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:b}", "d_model", (json_int_t)z->width, "d_kv",
                          (json_int_t)z->head_dim, "d_ff", (json_int_t)z->ffn, "num_layers", (json_int_t)z->encoder_layers,
                          "num_decoder_layers", (json_int_t)z->layers, "num_heads", (json_int_t)z->heads, "vocab_size",
                          (json_int_t)z->vocab, "relative_attention_num_buckets", (json_int_t)z->buckets, "relative_attention_max_distance",
                          (json_int_t)z->distance, "layer_norm_epsilon", short_real(z->norm_eps), "feed_forward_proj",
                          z->gated ? "gated-gelu" : "relu", "is_encoder_decoder", 1);
    json_object_set_new(j, "n_positions", json_integer(context_of(m)));
    json_object_set_new(j, "decoder_start_token_id", json_integer(z->start));
    return j;
}

static json_t *config_sizes(const struct model *m, const struct crossing *c) {
    if (m->family->encoder) return config_bert(m);
    if (m->family->seq2seq) return config_t5(m);
    return learned_positions(m) ? config_gpt2(m) : config_decoder(m, c);
}

/* original: positions_config(). */
static err config_made(const struct model *m, double original, json_t **out) {
    const struct crossing *c = crossing_of(m);
    json_t *j = *out = config_sizes(m, c);
    json_object_update_new(
        j, json_pack("{s:[s], s:s, s:b}", "architectures", c->class, "model_type", c->hf, "tie_word_embeddings", m->shape.tied));
    ids_into(m, j);
    return positions_config(m, original, j);
}

static err reads_same(const struct model *m, const json_t *config) {
    struct model twin = {.path = m->path, .family = m->family};
    err e = m->family->sizes(&twin, NULL, config);
    if (!e) e = same_model(m, "config.json", &twin);
    arena_free(&twin.mem);
    return e;
}

/* The config.json that is read as this model. llama3's original context is none of GGUF's words: Llama 3's own, else the power of two that
 * gives the file's divisors. */
static err config_found(const struct model *m, json_t **out) {
    double original = m->rope[0].scaling.original > 0 ? m->rope[0].scaling.original : 8192;
    err e;
    if (!crossing_of(m)) return no_crossing(m, "a Hugging Face folder");
    for (int power = 4;; power++) {
        e = config_made(m, original, out);
        if (!e) e = reads_same(m, *out);
        const char *type = m->rope[0].scaling.type;
        if (!e || !type || strcmp(type, "llama3") || power > 20) break;
        json_decref(*out);
        original = ldexp(1, power);
    }
    if (e) json_decref(*out), *out = NULL;
    return e;
}

err crossing_to_hf(const struct model *m) {
    json_t *config;
    TRY(config_found(m, &config));
    json_decref(config);
    return m->gguf && gguf_find(m->files.meta, "tokenizer.ggml.tokens") ? tokenizer_to_hf_known(&m->files) : OK;
}

/* Positions as they were trained, in place of the file's own. */
static err config_stretched(const struct model *m, json_t *config) {
    static const char *const own[] = {"rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) json_object_del(config, own[i]);
    json_object_set_new(config, "max_position_embeddings", json_integer((json_int_t)context_of(m)));
    TRY(positions_config(m, m->rope[0].scaling.original, config));
    return reads_same(m, config);
}

/* The sizes of a model that is cut, and its lists with an entry for each layer. */
static err config_cut(const struct model *m, json_t *config) {
    const struct shape *z = &m->shape;
    int64_t plain = 0; /* layers before the first with a window */
    while (plain < z->layers && !m->layer[plain].window) plain++;
    json_object_update_new(config, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "num_hidden_layers", (json_int_t)z->layers, "hidden_size",
                                             (json_int_t)z->width, "intermediate_size", (json_int_t)z->ffn, "num_attention_heads",
                                             (json_int_t)z->heads, "num_key_value_heads", (json_int_t)z->kv_heads, "head_dim",
                                             (json_int_t)z->head_dim));
    if (json_object_get(config, "max_window_layers")) json_object_set_new(config, "max_window_layers", json_integer((json_int_t)plain));
    if (json_object_get(config, "layer_types") || json_object_get(config, "sliding_window_pattern"))
        json_object_set_new(config, "layer_types", types_of_layers(m));
    if (!strcmp(m->family->hf, "smollm3")) json_object_set_new(config, "no_rope_layers", rotating_layers(m));
    return reads_same(m, config);
}

/* config.json of the base, with the output's type; what described a quantised base is gone with it. */
static err config_copied(const struct model *m, json_t **out) {
    str path = {0};
    json_error_t je;
    str_addf(&path, "%s/config.json", m->path);
    *out = path.failed ? NULL : json_load_file(path.p, JSON_REJECT_DUPLICATES, &je);
    err e = *out ? OK : fail(E_INPUT, "%s: %s", path.p ? path.p : m->path, je.text);
    if (*out) json_object_del(*out, "quantization_config");
    if (*out && untied(m)) json_object_set_new(*out, "tie_word_embeddings", json_false());
    str_free(&path);
    if (!e && m->cut) e = config_cut(m, *out);
    return e || !m->stretched ? e : config_stretched(m, *out);
}

/* bitsandbytes' section, with every matrix that stayed as it was among those that transformers leaves alone. */
static json_t *quantization_json(const struct model *m, dtype type, const dtype *to) {
    json_t *skipped = m->shape.tied ? json_pack("[s]", "lm_head") : json_array();
    for (int i = 0; i < m->n; i++)
        if (m->w[i].nd == 2 && !to[i]) json_array_append_new(skipped, json_string(m->w[i].module));
    return json_pack("{s:s, s:b, s:b, s:b, s:b, s:s, s:b, s:s, s:s, s:o}", "quant_method", "bitsandbytes", "load_in_4bit", 1, "load_in_8bit", 0,
                     "_load_in_4bit", 1, "_load_in_8bit", 0, "bnb_4bit_quant_type", "nf4", "bnb_4bit_use_double_quant", (int)m->nested,
                     "bnb_4bit_quant_storage", "uint8", "bnb_4bit_compute_dtype", dtype_word(type), "llm_int8_skip_modules", skipped);
}

/* "LlamaForCausalLM", "GPT2LMHeadModel" or "BertModel" becomes "...ForSequenceClassification". AutoModelFor... goes by model_type and does without. */
static err as_classifier(json_t *config, const struct head *h) {
    const char *was = json_string_value(json_array_get(json_object_get(config, "architectures"), 0)), *end = NULL;
    static const char *const ends[] = {"For", "LMHead", "Model"};
    char name[128];
    for (size_t i = 0; was && !end && i < sizeof ends / sizeof *ends; i++) end = strstr(was, ends[i]);
    snprintf(name, sizeof name, "%.*sFor%sClassification", end ? (int)(end - was) : 0, end ? was : "",
             h->kind == HEAD_TAGS ? "Token" : "Sequence");
    if (end) json_object_set_new(config, "architectures", json_pack("[s]", name));
    else json_object_del(config, "architectures");
    return head_labels(h, config);
}

static err write_config(const struct model *m, const struct folder_form *f, const char *folder) {
    json_t *j = NULL;
    str path = {0};
    if (!m->gguf && !m->random) TRY(config_copied(m, &j));
    else TRY(config_found(m, &j));
    if (f->head) TRY(as_classifier(j, f->head));
    json_object_set_new(j, json_object_get(j, "dtype") ? "dtype" : "torch_dtype", json_string(dtype_word(f->type)));
    if (f->to) json_object_set_new(j, "quantization_config", quantization_json(m, f->type, f->to));
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

err folder_make(const struct model *m, const struct folder_form *f, const char *folder) {
    TRY(write_config(m, f, folder));
    if (m->random) return OK;
    if (!m->gguf) return copy_neighbours(m->path, folder);
    if (gguf_find(m->files.meta, "tokenizer.ggml.tokens")) return tokenizer_to_hf(&m->files, folder);
    log_warn("%s has no tokenizer: the folder gets none", m->path);
    return OK;
}
