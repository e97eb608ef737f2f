/* T5, T5 v1.1 and Flan-T5: an encoder reads the prompt, a decoder writes the answer and looks at the encoder's rows through
 * cross-attention. RMSNorm; scores are not scaled and get a bias by distance, whose table layer 0 owns and all layers of a stack
 * share; ReLU without a gate (v1.0) or gated GELU (v1.1); the head is the embedding, after a factor of 1/sqrt(C) (v1.0), or its own.
 *
 * Two stacks in one program: rows of the encoder are SYM_M, of the decoder SYM_N; they have the same number of sequences. The
 * decoder begins with decoder_start_token_id. In decoding the encoder is not there: cross-attention reads keys that prefill has
 * left in a cache. Its dropout_rate is a full fine-tuning's and not applied. */
#include "model/family.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static err sizes_json(struct model *m, const void *json) {
    struct shape *z = &m->shape;
    TRY(size_json(m, json, "num_layers", &z->encoder_layers));
    z->layers = size_json_or(json, "num_decoder_layers", z->encoder_layers);
    TRY(size_json(m, json, "d_model", &z->width));
    TRY(size_json(m, json, "num_heads", &z->heads));
    TRY(size_json(m, json, "d_ff", &z->ffn));
    TRY(size_json(m, json, "vocab_size", &z->vocab));
    TRY(size_json(m, json, "d_kv", &z->head_dim));
    z->norm_eps = real_json_or(json, "layer_norm_epsilon", 1e-6);
    z->buckets = size_json_or(json, "relative_attention_num_buckets", 32);
    z->distance = size_json_or(json, "relative_attention_max_distance", 128);
    z->start = (int)size_json_or(json, "decoder_start_token_id", 0);
    /* a model of v1.1 is known by tie_word_embeddings false; transformers 5 writes what follows from it instead */
    const bool tied = bool_json_or(json, "tie_word_embeddings", true);
    z->scaled_head = bool_json_or(json, "scale_decoder_outputs", tied);
    z->tied = m->files.n ? !tensors_find(&m->files, "lm_head.weight") : tied;
    z->gated = text_json_is(json, "feed_forward_proj", "gated-gelu");
    return z->gated ? OK : want_json(m, json, "feed_forward_proj", "relu");
}

static err sizes_gguf(struct model *m, const struct gguf_meta *meta) {
    struct shape *z = &m->shape;
    TRY(decoder_sizes_gguf(m, meta));
    z->encoder_layers = z->layers;
    z->layers = size_gguf_or(m, meta, "decoder_block_count", z->layers);
    z->buckets = size_gguf_or(m, meta, "attention.relative_buckets_count", 32);
    z->distance = 128; /* GGUF does not say it; no T5 has another */
    z->start = (int)size_gguf_or(m, meta, "decoder_start_token_id", 0);
    z->scaled_head = z->tied;
    z->gated = tensors_find(&m->files, "enc.blk.0.ffn_gate.weight") != NULL;
    return OK;
}

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    TRY(meta ? sizes_gguf(m, meta) : sizes_json(m, json));
    z->kv_heads = z->heads;
    z->context = 1 << 20; /* distances saturate: there is no last position */
    z->attn_scale = 1;
    if (z->encoder_layers > 1024) return fail(E_INPUT, "%s: %lld encoder layers", m->path, (long long)z->encoder_layers);
    if (z->buckets < 4 || z->buckets % 4 || z->distance <= z->buckets)
        return fail(E_INPUT, "%s: %lld buckets for distances up to %lld", m->path, (long long)z->buckets, (long long)z->distance);
    return sizes_done(m);
}

/* --- tensors ---------------------------------------------------------------------------------------------------------- */
/* One of GGUF's names in a stack, and Hugging Face's. */
static err part_of(struct model *m, const char *stack, int64_t l, const struct part *p) {
    char name[64], module[128];
    snprintf(name, sizeof name, "%s.blk.%lld.%s", *stack == 'e' ? "enc" : "dec", (long long)l, p->name);
    snprintf(module, sizeof module, "%s.block.%lld.layer.%s", stack, (long long)l, p->module);
    struct part full = *p;
    full.name = name;
    full.module = module;
    return model_parts(m, NULL, -1, &full, 1);
}

static err stack_tensors(struct model *m, const char *stack, int64_t layers) {
    const struct shape *z = &m->shape;
    const int64_t C = z->width, q = z->heads * z->head_dim, F = z->ffn;
    const bool decodes = *stack == 'd';
    const struct part self[] = {
        VECTOR("attn_norm", "0.layer_norm", C),
        MATRIX("attn_q", "0.SelfAttention.q", q, C),
        MATRIX("attn_k", "0.SelfAttention.k", q, C),
        MATRIX("attn_v", "0.SelfAttention.v", q, C),
        MATRIX("attn_o", "0.SelfAttention.o", C, q),
        VECTOR("cross_attn_norm", "1.layer_norm", C),
        MATRIX("cross_attn_q", "1.EncDecAttention.q", q, C),
        MATRIX("cross_attn_k", "1.EncDecAttention.k", q, C),
        MATRIX("cross_attn_v", "1.EncDecAttention.v", q, C),
        MATRIX("cross_attn_o", "1.EncDecAttention.o", C, q),
    };
    const char *ffn = decodes ? "2" : "1";
    char norm[32], gate[48], up[48], down[48];
    snprintf(norm, sizeof norm, "%s.layer_norm", ffn);
    snprintf(gate, sizeof gate, "%s.DenseReluDense.wi_0", ffn);
    snprintf(up, sizeof up, "%s.DenseReluDense.%s", ffn, z->gated ? "wi_1" : "wi");
    snprintf(down, sizeof down, "%s.DenseReluDense.wo", ffn);
    const struct part mlp[] = {VECTOR("ffn_norm", norm, C), MATRIX("ffn_up", up, F, C), MATRIX("ffn_down", down, C, F), MATRIX("ffn_gate", gate, F, C)};
    const struct part bias = MATRIX("attn_rel_b", "0.SelfAttention.relative_attention_bias", z->buckets, z->heads);
    for (int64_t l = 0; l < layers; l++) {
        for (int i = 0; i < (decodes ? 10 : 5); i++) TRY(part_of(m, stack, l, &self[i]));
        for (int i = 0; i < (z->gated ? 4 : 3); i++) TRY(part_of(m, stack, l, &mlp[i]));
    }
    return part_of(m, stack, 0, &bias);
}

/* What is read as f32 whatever the file has: the tables of biases. And the head's factor. */
static err finish_tensors(struct model *m) {
    const struct shape *z = &m->shape;
    for (int i = 0; i < m->n; i++) {
        struct weight *w = &m->w[i];
        if (!w->data || !str_ends(w->name, "attn_rel_b.weight")) continue;
        const int64_t rows = w->d[0], cols = w->d[1];
        float *f = arena_alloc(&m->mem, (size_t)(rows * cols) * sizeof *f);
        if (!f) return fail(E_MEMORY, "out of memory");
        for (int64_t r = 0; r < rows; r++)
            dequantise_row(w->dt, (const char *)w->data + dtype_row_bytes(w->dt, cols) * (size_t)r, f + r * cols, cols);
        w->data = f;
        w->dt = DT_F32;
    }
    if (!z->scaled_head) return OK;
    float *scale = arena_alloc(&m->mem, (size_t)z->width * sizeof *scale);
    for (int64_t c = 0; scale && c < z->width; c++) scale[c] = (float)(1 / sqrt((double)z->width));
    m->head_scale = scale;
    return scale ? OK : fail(E_MEMORY, "out of memory");
}

static err tensors(struct model *m) {
    const struct shape *z = &m->shape;
    const struct part whole[] = {
        MATRIX("token_embd", "shared", z->vocab, z->width),
        VECTOR("enc.output_norm", "encoder.final_layer_norm", z->width),
        VECTOR("dec.output_norm", "decoder.final_layer_norm", z->width),
        MATRIX("output", "lm_head", z->vocab, z->width),
    };
    TRY(model_parts(m, NULL, -1, whole, z->tied ? 3 : 4));
    TRY(stack_tensors(m, "encoder", z->encoder_layers));
    TRY(stack_tensors(m, "decoder", z->layers));
    return finish_tensors(m);
}

/* --- the program -------------------------------------------------------------------------------------------------------- */
/* Names of layer l of a stack: "dec.blk.3." before the part. */
struct at { const struct model *m; struct site *s; const char *stack; int l; };

static const char *named(const struct at *a, const char *part, char name[64]) {
    snprintf(name, 64, "%s.blk.%d.%s", a->stack, a->l, part);
    return name;
}

static val norm(const struct at *a, val x, const char *part) {
    char name[64];
    return block_norm(a->m, a->s, x, named(a, part, name), -1);
}

static struct linear linear(const struct at *a, const char *part) {
    char name[64];
    return model_linear(a->m, a->s, named(a, part, name), -1);
}

static val bias_of(const struct at *a) {
    char name[64];
    snprintf(name, sizeof name, "%s.blk.0.attn_rel_b.weight", a->stack);
    return model_base(a->m, a->s, name);
}

/* AdapterHub's "decoder.block.3.layer.1": self-attention 0, cross-attention 1, the feed-forward last. */
static val after(const struct at *a, int place, val x, val y) {
    static const char *const part[] = {"attention", "cross_attention", "ffn"};
    const bool decodes = *a->stack == 'd';
    char name[64], module[64];
    snprintf(module, sizeof module, "%s.block.%d.layer.%d", decodes ? "decoder" : "encoder", a->l,
             place == AFTER_FFN ? 1 + decodes : place == AFTER_CROSS);
    return site_sublayer(a->s, &(struct sublayer){.place = place, .layer = a->l + (decodes ? (int)a->m->shape.encoder_layers : 0), .of = {.name = named(a, part[place], name), .module = module}, .read = x, .made = y});
}

static val ffn(const struct at *a, val x) {
    struct linear w[2] = {linear(a, "ffn_up")}, down = linear(a, "ffn_down");
    val h = norm(a, x, "ffn_norm"), u[2] = {{0}};
    if (a->m->shape.gated) w[1] = w[0], w[0] = linear(a, "ffn_gate");
    prog_pieces(a->s->p, h);
    site_linears(a->s, h, a->m->shape.gated ? 2 : 1, w, u);
    h = emit1(a->s->p, &op_glu, u, 2, &(struct op_attr){.act = a->m->shape.gated ? ACT_GELU_TANH : ACT_RELU});
    const val y = site_linear(a->s, h, &down);
    prog_pieces_end(a->s->p, y);
    return block_add(a->s, x, after(a, AFTER_FFN, x, y));
}

static struct op_attr attention_attr(const struct shape *z, bool causal) {
    return (struct op_attr){.heads = (int)z->heads, .kv_heads = (int)z->heads, .head_dim = (int)z->head_dim, .scale = 1, .causal = causal, .buckets = (int)z->buckets, .distance = (int)z->distance};
}

static val self_attention(const struct at *a, val x, bool causal) {
    struct linear w[] = {linear(a, "attn_q"), linear(a, "attn_k"), linear(a, "attn_v")}, o = linear(a, "attn_o");
    struct op_attr attr = attention_attr(&a->m->shape, causal);
    val q[3] = {{0}}, bias = bias_of(a);
    site_linears(a->s, norm(a, x, "attn_norm"), 3, w, q);
    val y = causal ? site_attention(a->s, q, bias, a->l, &attr) : site_attention_source(a->s, q, bias, &attr);
    return block_add(a->s, x, after(a, AFTER_ATTENTION, x, site_linear(a->s, y, &o)));
}

/* source [M, C]: the encoder's rows; absent in decoding. */
static val cross_attention(const struct at *a, val x, val source) {
    struct linear wq = linear(a, "cross_attn_q"), kv[] = {linear(a, "cross_attn_k"), linear(a, "cross_attn_v")}, o = linear(a, "cross_attn_o");
    struct op_attr attr = attention_attr(&a->m->shape, false);
    val q[3] = {{0}};
    if (has(source)) site_source_linears(a->s, source, 2, kv, q + 1);
    q[0] = site_linear(a->s, norm(a, x, "cross_attn_norm"), &wq);
    return block_add(a->s, x, after(a, AFTER_CROSS, x, site_linear(a->s, site_attention_cross(a->s, q, a->l, &attr), &o)));
}

/* The encoder over the rows that are this site's. */
static val encode(const struct model *m, struct site *s) {
    val x = model_embed(m, s, 1);
    for (int l = 0; l < m->shape.encoder_layers; l++) {
        const struct at a = {m, s, "enc", l};
        s->p->segment = l + 1;
        x = ffn(&a, self_attention(&a, x, false));
    }
    s->p->segment = 0;
    return block_norm(m, s, x, "enc.output_norm", -1);
}

static val encoder(const struct model *m, struct site *s) {
    struct site source = site_of_source(s);
    val x = encode(m, &source);
    s->next_site = source.next_site;
    return x;
}

static val stacks(const struct model *m, struct site *s) {
    const val source = s->mode == MODE_DECODE ? (val){0} : encoder(m, s);
    val x = model_embed(m, s, 1);
    for (int l = 0; l < m->shape.layers; l++) {
        const struct at a = {m, s, "dec", l};
        s->p->segment = (int)m->shape.encoder_layers + l + 1;
        x = ffn(&a, cross_attention(&a, self_attention(&a, x, true), source));
    }
    s->p->segment = 0;
    return block_norm(m, s, x, "dec.output_norm", -1);
}

/* As the vocabulary's projection reads it. */
static val body(const struct model *m, struct site *s) {
    const val x = stacks(m, s);
    return m->head_scale ? emit1(s->p, &op_scale, (val[]){x, prog_base(s->p, DT_F32, 1, &m->shape.width, m->head_scale, "head scale"), {0}}, 3, NULL) : x;
}

static const char *const spare[] = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "layer.1.EncDecAttention.relative_attention_bias.weight", NULL};

const struct family family_t5 = {.name = "t5", .hf = "t5", .sizes = sizes, .tensors = tensors, .body = body, .spare = spare, .seq2seq = true, .encode = encode, .stacks = stacks, .classifier = "classification_head", .tagger = "classifier", .inside = "transformer."};
