/* BERT and its kin (MiniLM): an encoder. Learned positions, LayerNorm after each sublayer, attention without a mask, GELU by erf.
 * It writes nothing: what it gives is the last layer's rows (MODE_FEATURES), pooled by who asks, and classes: transformers'
 * BertForSequenceClassification, whose "classifier" reads the pooler's tanh of the first token's row (its dropout, which is the base's
 * and not the method's, is not there). One text at a time is what
 * sentence encoders see, so the token type is always 0: its row is added to the position table when the model is opened. */
#include "model/family.h"
#include <string.h>

static err sizes_json(struct model *m, const void *json) {
    struct shape *z = &m->shape;
    TRY(decoder_sizes_json(m, json));
    z->norm_eps = real_json_or(json, "layer_norm_eps", 1e-12);
    TRY(want_json(m, json, "hidden_act", "gelu"));
    TRY(want_json(m, json, "position_embedding_type", "absolute"));
    TRY(want_json_bool(m, json, "is_decoder", false));
    return want_json_bool(m, json, "add_cross_attention", false);
}

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    TRY(meta ? decoder_sizes_gguf(m, meta) : sizes_json(m, json));
    m->shape.tied = true; /* there is no output projection to ask for */
    m->shape.hard_context = true;
    uint64_t types = 2;
    if (meta) gguf_u64(meta, "tokenizer.ggml.token_type_count", &types);
    m->shape.token_types = json ? size_json_or(json, "type_vocab_size", 2) : types < 1 << 16 ? (int64_t)types : 0;
    if (m->shape.token_types < 1) return fail(E_INPUT, "%s: a model of no token types", m->path);
    for (int l = 0; l < m->shape.layers; l++) m->layer[l].rope = NULL;
    return OK;
}

/* position_embd += the row of token type 0, as f32 of its own. */
static err add_type(struct model *m) {
    struct weight *pos = NULL, *type = NULL;
    for (int i = 0; i < m->n; i++) {
        if (!strcmp(m->w[i].name, "position_embd.weight")) pos = &m->w[i];
        if (!strcmp(m->w[i].name, "token_types.weight")) type = &m->w[i];
    }
    if (!pos || !type || !pos->data || !type->data) return OK; /* random weights do not exist yet */
    const int64_t C = pos->d[1];
    const size_t bytes = (size_t)(pos->d[0] * C) * sizeof(float), row = dtype_row_bytes(pos->dt, C);
    float *sum = arena_alloc(&m->mem, bytes), *zero = arena_alloc(&m->mem, (size_t)C * sizeof *zero);
    if (!sum || !zero) return fail(E_MEMORY, "out of memory");
    dequantise_row(type->dt, type->data, zero, C);
    for (int64_t i = 0; i < pos->d[0]; i++) {
        dequantise_row(pos->dt, (const char *)pos->data + row * (size_t)i, sum + i * C, C);
        for (int64_t c = 0; c < C; c++) sum[i * C + c] += zero[c];
    }
    tensors_forget(&m->files, pos->data, row * (size_t)pos->d[0]);
    pos->dt = DT_F32;
    pos->data = sum;
    pos->form.row = zero;
    m->files.copied += bytes;
    return OK;
}

static err tensors(struct model *m) {
    const struct shape *z = &m->shape;
    const int64_t C = z->width, F = z->ffn;
    const struct part whole[] = {
        MATRIX("token_embd", "bert.embeddings.word_embeddings", z->vocab, C),
        MATRIX("position_embd", "bert.embeddings.position_embeddings", z->context, C),
        MATRIX("token_types", "bert.embeddings.token_type_embeddings", z->token_types, C),
        {.name = "token_embd_norm", .module = "bert.embeddings.LayerNorm", .out = C, .bias = true},
    };
    const struct part layer[] = {
        BIASED("attn_q", "attention.self.query", C, C, true),
        BIASED("attn_k", "attention.self.key", C, C, true),
        BIASED("attn_v", "attention.self.value", C, C, true),
        BIASED("attn_output", "attention.output.dense", C, C, true),
        {.name = "attn_output_norm", .module = "attention.output.LayerNorm", .out = C, .bias = true},
        BIASED("ffn_up", "intermediate.dense", F, C, true),
        BIASED("ffn_down", "output.dense", C, F, true),
        {.name = "layer_output_norm", .module = "output.LayerNorm", .out = C, .bias = true},
    };
    const struct part pooler = {.name = "pooler", .module = "bert.pooler.dense", .out = C, .in = C, .bias = true, .hf_only = true};
    TRY(model_parts(m, NULL, -1, whole, sizeof whole / sizeof *whole));
    if (m->random || tensors_find(&m->files, "bert.pooler.dense.weight") || tensors_find(&m->files, "pooler.dense.weight"))
        TRY(model_parts(m, NULL, -1, &pooler, 1));
    for (int l = 0; l < z->layers; l++) TRY(model_parts(m, "bert.encoder.layer", l, layer, sizeof layer / sizeof *layer));
    return add_type(m);
}

static val embed(const struct model *m, struct site *s) {
    return block_norm(m, s, block_add(s, model_embed(m, s, 1), block_positions(m, s)), "token_embd_norm", -1);
}

static const char *const sum_norms[] = {"attn_output_norm", "layer_output_norm"}, *const adapters[] = {"attention.output", "output"};

static val block(const struct model *m, struct site *s, val x, int l) { /* x [N, C] */
    val q[3];
    block_qkv(m, s, x, l, q);
    x = block_norm(m, s, block_join(m, s, l, AFTER_ATTENTION, x, block_attend(m, s, l, q)), sum_norms[0], l);
    return block_norm(m, s, block_join(m, s, l, AFTER_FFN, x, block_mlp(m, s, x, l, ACT_GELU_ERF)), sum_norms[1], l);
}

static val finish(const struct model *m, struct site *s, val x) { return (void)m, (void)s, x; }

static val pool(const struct model *m, struct site *s, val x) {
    if (!model_weight(m, "pooler.weight")) return prog_fail(s->p, E_UNSUPPORTED, "%s has no pooler (pooler.dense), which BERT's classifier reads", m->path), (val){0};
    struct linear w = model_linear(m, s, "pooler", -1);
    val h = site_linear(s, x, &w);
    return emit1(s->p, &op_glu, (val[]){h, {0}}, 2, &(struct op_attr){.act = ACT_TANH});
}

/* A count of positions, and the heads of pretraining, which nothing here uses. */
static const char *const spare[] = {"embeddings.position_ids", "cls.predictions.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias",
                                    "cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias", "cls.predictions.transform.LayerNorm.weight",
                                    "cls.predictions.transform.LayerNorm.bias", "cls.seq_relationship.weight", "cls.seq_relationship.bias", NULL};

const struct family family_bert = {.name = "bert", .hf = "bert", .sizes = sizes, .tensors = tensors, .block = block, .embed = embed, .finish = finish, .spare = spare, .adapters = adapters, .sum_norms = sum_norms, .classifier = "classifier", .tagger = "classifier", .pool = pool, .encoder = true};
