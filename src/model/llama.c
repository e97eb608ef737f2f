/* Llama: RMSNorm, rotary positions, grouped key/value heads, SwiGLU; tied or untied head, optional biases. SmolLM2,
 * Llama 2/3 and many others are this family.
 *
 * GGUF files of "llama" architecture hold the rows of q and k in an order where RoPE's pairs are neighbours (llama.cpp's
 * converter permutes them); Hugging Face's pairs are half a head apart. The program follows the file (shape.interleaved),
 * adapters are written in Hugging Face's order (core/params.h, rope_heads). */
#include "model/family.h"
#include "ops/ops.h"
#include <math.h>
#include <stdio.h>

static err sizes(struct model *m, const struct gguf_meta *meta, const void *json) {
    struct shape *z = &m->shape;
    if (meta) {
        TRY(size_gguf(meta, "llama.block_count", &z->layers));
        TRY(size_gguf(meta, "llama.embedding_length", &z->width));
        TRY(size_gguf(meta, "llama.attention.head_count", &z->heads));
        TRY(size_gguf(meta, "llama.feed_forward_length", &z->ffn));
        z->kv_heads = size_gguf_or(meta, "llama.attention.head_count_kv", z->heads);
        z->head_dim = size_gguf_or(meta, "llama.attention.key_length", z->heads ? z->width / z->heads : 0);
        z->context = size_gguf_or(meta, "llama.context_length", 2048);
        z->norm_eps = real_gguf_or(meta, "llama.attention.layer_norm_rms_epsilon", 1e-5);
        z->rope_base = real_gguf_or(meta, "llama.rope.freq_base", 10000);
        const struct tensor *e = tensors_find(&m->files, "token_embd.weight");
        if (!e || e->nd != 2) return fail(E_INPUT, "%s: tensor token_embd.weight is missing", m->path);
        z->vocab = e->d[0];
        z->tied = !tensors_find(&m->files, "output.weight");
        z->interleaved = true;
        z->attn_bias = tensors_find(&m->files, "blk.0.attn_q.bias") != NULL;
        z->mlp_bias = tensors_find(&m->files, "blk.0.ffn_gate.bias") != NULL;
        if (tensors_find(&m->files, "rope_freqs.weight")) return fail(E_UNSUPPORTED, "%s: rope_freqs.weight (RoPE scaling) is not supported yet", m->path);
        return OK;
    }
    TRY(size_json(m, json, "num_hidden_layers", &z->layers));
    TRY(size_json(m, json, "hidden_size", &z->width));
    TRY(size_json(m, json, "num_attention_heads", &z->heads));
    TRY(size_json(m, json, "intermediate_size", &z->ffn));
    TRY(size_json(m, json, "vocab_size", &z->vocab));
    z->kv_heads = size_json_or(json, "num_key_value_heads", z->heads);
    z->head_dim = size_json_or(json, "head_dim", z->heads ? z->width / z->heads : 0);
    z->context = size_json_or(json, "max_position_embeddings", 2048);
    z->norm_eps = real_json_or(json, "rms_norm_eps", 1e-6);
    z->rope_base = rope_base_json(json, 10000);
    z->tied = bool_json_or(json, "tie_word_embeddings", false);
    z->attn_bias = bool_json_or(json, "attention_bias", false);
    z->mlp_bias = bool_json_or(json, "mlp_bias", false);
    TRY(want_json(m, json, "hidden_act", "silu"));
    return want_no_rope_scaling(m, json);
}

static err tensors(struct model *m) {
    const struct shape *z = &m->shape;
    const int64_t C = z->width, q = z->heads * z->head_dim, kv = z->kv_heads * z->head_dim, F = z->ffn;
    TRY(model_want(m, "token_embd.weight", "model.embed_tokens", 2, (int64_t[]){z->vocab, C}, false, 0));
    TRY(model_want(m, "output_norm.weight", "model.norm", 1, &C, false, 0));
    if (!z->tied) TRY(model_want(m, "output.weight", "lm_head", 2, (int64_t[]){z->vocab, C}, false, 0));
    const struct { const char *name, *module; int64_t out, in; bool bias; int64_t rope; } linears[] = {
        {"attn_q", "self_attn.q_proj", q, C, z->attn_bias, z->heads}, {"attn_k", "self_attn.k_proj", kv, C, z->attn_bias, z->kv_heads},
        {"attn_v", "self_attn.v_proj", kv, C, z->attn_bias, 0},       {"attn_output", "self_attn.o_proj", C, q, z->attn_bias, 0},
        {"ffn_gate", "mlp.gate_proj", F, C, z->mlp_bias, 0},          {"ffn_up", "mlp.up_proj", F, C, z->mlp_bias, 0},
        {"ffn_down", "mlp.down_proj", C, F, z->mlp_bias, 0}};
    for (int l = 0; l < z->layers; l++) {
        char name[64], module[96];
        for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
            int heads = z->interleaved ? (int)linears[i].rope : 0;
            snprintf(module, sizeof module, "model.layers.%d.%s", l, linears[i].module);
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, linears[i].name);
            TRY(model_want(m, name, module, 2, (int64_t[]){linears[i].out, linears[i].in}, false, heads));
            if (!linears[i].bias) continue;
            snprintf(name, sizeof name, "blk.%d.%s.bias", l, linears[i].name);
            /* llama.cpp has no o bias for some converters; a missing bias there is an error of the file */
            TRY(model_want(m, name, module, 1, &linears[i].out, false, heads));
        }
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
        snprintf(module, sizeof module, "model.layers.%d.input_layernorm", l);
        TRY(model_want(m, name, module, 1, &C, false, 0));
        snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", l);
        snprintf(module, sizeof module, "model.layers.%d.post_attention_layernorm", l);
        TRY(model_want(m, name, module, 1, &C, false, 0));
    }
    return OK;
}

static val block(const struct model *m, struct site *s, val x, int l) { /* x [N, C] */
    const struct shape *z = &m->shape;
    const int64_t half = z->head_dim / 2;
    struct op_attr norm = {.eps = (float)z->norm_eps}, rope = {.head_dim = (int)z->head_dim, .interleaved = z->interleaved};
    struct op_attr attn = {.heads = (int)z->heads, .kv_heads = (int)z->kv_heads, .head_dim = (int)z->head_dim,
                           .scale = (float)(1 / sqrt((double)z->head_dim)), .causal = true};
    val freq = prog_base(s->p, DT_F32, 1, &half, m->inv_freq, "inv_freq");
    val q[3] = {{0}}, u[2] = {{0}}, h; /* q: [N, H*D], [N, K*D], [N, K*D]; u: [N, F] twice */

    h = emit1(s->p, &op_norm, (val[]){x, model_vec(m, s, "blk.%d.attn_norm.weight", l), {0}}, 3, &norm);
    struct linear qkv[] = {model_linear(m, s, "attn_q", l), model_linear(m, s, "attn_k", l), model_linear(m, s, "attn_v", l)};
    site_linears(s, h, 3, qkv, q);
    rope.heads = (int)z->heads;
    q[0] = emit1(s->p, &op_rope, (val[]){q[0], s->pos, freq}, 3, &rope);
    rope.heads = (int)z->kv_heads;
    q[1] = emit1(s->p, &op_rope, (val[]){q[1], s->pos, freq}, 3, &rope);
    struct linear o = model_linear(m, s, "attn_output", l);
    x = emit1(s->p, &op_add, (val[]){x, site_linear(s, site_attention(s, q[0], q[1], q[2], l, &attn), &o)}, 2, NULL);

    h = emit1(s->p, &op_norm, (val[]){x, model_vec(m, s, "blk.%d.ffn_norm.weight", l), {0}}, 3, &norm);
    struct linear gate_up[] = {model_linear(m, s, "ffn_gate", l), model_linear(m, s, "ffn_up", l)};
    site_linears(s, h, 2, gate_up, u);
    struct linear down = model_linear(m, s, "ffn_down", l);
    return emit1(s->p, &op_add, (val[]){x, site_linear(s, emit1(s->p, &op_glu, (val[]){u[0], u[1]}, 2, NULL), &down)}, 2, NULL);
}

const struct family family_llama = {"llama", "llama", sizes, tensors, block};
