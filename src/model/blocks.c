/* The pieces of which blocks are made: a family's block() reads as a few of these calls. */
#include "model/family.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static val norm_of(const struct model *m, struct site *s, val x, const char *name, int l, int heads) {
    val w = model_vector(m, s, name, l, "weight"), bias = model_vector(m, s, name, l, "bias");
    if (!has(w)) prog_fail(s->p, E_INTERNAL, "the weight of %s is missing", name);
    return emit1(s->p, &op_norm, (val[]){x, w, bias}, 3, &(struct op_attr){.eps = (float)m->shape.norm_eps, .heads = heads, .center = has(bias)});
}

val block_norm(const struct model *m, struct site *s, val x, const char *name, int l) { return norm_of(m, s, x, name, l, 1); }

val block_add(struct site *s, val a, val b) { return emit1(s->p, &op_add, (val[]){a, b}, 2, NULL); }

val block_positions(const struct model *m, struct site *s) {
    return emit1(s->p, &op_embed, (val[]){s->pos, model_matrix(m, s, "position_embd")}, 2, &(struct op_attr){.scale = 1});
}

void block_qkv(const struct model *m, struct site *s, val h, int l, val q[3]) {
    struct linear w[] = {model_linear(m, s, "attn_q", l), model_linear(m, s, "attn_k", l), model_linear(m, s, "attn_v", l)};
    q[0] = q[1] = q[2] = (val){0};
    site_linears(s, h, 3, w, q);
}

static void split(struct site *s, val x, int n, const int *width, val *out) {
    struct op_attr a = {.n = n};
    for (int k = 0; k < n; k++) a.width[k] = width[k];
    struct inst *i = prog_emit(s->p, &op_split, &x, 1, &a);
    for (int k = 0; k < n; k++) out[k] = i ? i->out[k] : (val){0};
}

void block_qkv_fused(const struct model *m, struct site *s, val h, int l, val q[3]) {
    const struct shape *z = &m->shape;
    struct linear w = model_linear(m, s, "attn_qkv", l);
    split(s, site_linear(s, h, &w), 3, (int[]){(int)(z->heads * z->head_dim), (int)(z->kv_heads * z->head_dim), (int)(z->kv_heads * z->head_dim)}, q);
}

void block_head_norms(const struct model *m, struct site *s, int l, val q[3]) {
    q[0] = norm_of(m, s, q[0], "attn_q_norm", l, (int)m->shape.heads);
    q[1] = norm_of(m, s, q[1], "attn_k_norm", l, (int)m->shape.kv_heads);
}

void block_rotate(const struct model *m, struct site *s, int l, val q[3]) {
    const struct rope_table *t = m->layer[l].rope;
    if (!t) return;
    const int64_t half = t->dims / 2;
    struct op_attr a = {.head_dim = (int)m->shape.head_dim, .rope_dims = t->dims < m->shape.head_dim ? (int)t->dims : 0, .scale = (float)t->scale, .interleaved = m->shape.interleaved};
    val freq = prog_base(s->p, DT_F32, 1, &half, t->inv_freq, "inv_freq");
    a.heads = (int)m->shape.heads;
    q[0] = emit1(s->p, &op_rope, (val[]){q[0], s->pos, freq}, 3, &a);
    a.heads = (int)m->shape.kv_heads;
    q[1] = emit1(s->p, &op_rope, (val[]){q[1], s->pos, freq}, 3, &a);
}

/* What makes keys and values: two matrices, or one of queries too. */
static void keys_and_values(const struct model *m, struct site *s, int l, struct attending *at) {
    char fused[32];
    snprintf(fused, sizeof fused, "blk.%d.attn_qkv.weight", l);
    at->n = model_weight(m, fused) ? 1 : 2;
    for (int k = 0; k < at->n; k++) at->kv[k] = model_linear(m, s, at->n == 1 ? "attn_qkv" : k ? "attn_v" : "attn_k", l);
}

val block_attend(const struct model *m, struct site *s, int l, const val q[3]) {
    const struct shape *z = &m->shape;
    struct op_attr a = {.heads = (int)z->heads,
                        .kv_heads = (int)z->kv_heads,
                        .head_dim = (int)z->head_dim,
                        .window = (int)m->layer[l].window,
                        .scale = (float)(z->attn_scale > 0 ? z->attn_scale : 1 / sqrt((double)z->head_dim)),
                        .softcap = (float)z->attn_softcap,
                        .causal = !m->family->encoder};
    struct attending at = {.layer = l, .q = q[0], .a = &a};
    at.y = site_attention(s, q, (val){0}, l, &a);
    at.out = model_linear(m, s, "attn_output", l);
    if (site_attends(s)) keys_and_values(m, s, l, &at);
    return site_attended(s, &at);
}

static val sum_norm(struct site *s, const struct sublayer *at, val sum) { return block_norm(s->model, s, sum, at->norm_name, at->layer); }

/* "model.layers.3" of "model.layers.3.mlp.down_proj". */
static int layer_of(const char *module, int l) {
    char number[16];
    snprintf(number, sizeof number, ".%d.", l);
    const char *at = strstr(module, number);
    return at ? (int)(at - module + (ptrdiff_t)strlen(number) - 1) : (int)strlen(module);
}

val block_after(const struct model *m, struct site *s, int l, int place, val x, val y) {
    static const char *const usual[] = {"attention_adapters", "output_adapters"};
    if (!s->method || !s->method->sublayer) return y;
    const int at = place == AFTER_FFN;
    char name[64], module[256];
    snprintf(name, sizeof name, "blk.%d.ffn_down.weight", l);
    const struct weight *w = model_weight(m, name);
    if (!w) return prog_fail(s->p, E_INTERNAL, "tensor %s is missing", name), y;
    snprintf(name, sizeof name, "blk.%d.%s", l, at ? "ffn" : "attention");
    snprintf(module, sizeof module, "%.*s.%s", layer_of(w->module, l), w->module, (m->family->adapters ? m->family->adapters : usual)[at]);
    const char *const *norms = m->family->sum_norms;
    return site_sublayer(s, &(struct sublayer){.place = place, .layer = l, .of = {.name = name, .module = module}, .read = x, .made = y, .norm = norms ? sum_norm : NULL, .norm_name = norms ? norms[at] : NULL});
}

val block_join(const struct model *m, struct site *s, int l, int place, val x, val y) { return block_add(s, x, block_after(m, s, l, place, x, y)); }

/* The feed-forward is the widest part of a block: a long pass goes through it in pieces, from here to the end of down(). */
static val down(const struct model *m, struct site *s, const val u[2], int l, enum activation act) {
    struct linear w = model_linear(m, s, "ffn_down", l);
    val y = site_linear(s, emit1(s->p, &op_glu, u, 2, &(struct op_attr){.act = act}), &w);
    prog_pieces_end(s->p, y);
    return y;
}

val block_gated(const struct model *m, struct site *s, val h, int l, enum activation act) {
    struct linear w[] = {model_linear(m, s, "ffn_gate", l), model_linear(m, s, "ffn_up", l)};
    val u[2] = {{0}};
    prog_pieces(s->p, h);
    site_linears(s, h, 2, w, u);
    return down(m, s, u, l, act);
}

val block_gated_fused(const struct model *m, struct site *s, val h, int l, enum activation act) {
    struct linear w = model_linear(m, s, "ffn_up", l);
    val u[2];
    prog_pieces(s->p, h);
    split(s, site_linear(s, h, &w), 2, (int[]){(int)m->shape.ffn, (int)m->shape.ffn}, u);
    return down(m, s, u, l, act);
}

val block_mlp(const struct model *m, struct site *s, val h, int l, enum activation act) {
    struct linear w = model_linear(m, s, "ffn_up", l);
    prog_pieces(s->p, h);
    return down(m, s, (val[]){site_linear(s, h, &w), {0}}, l, act);
}

/* --- the Llama block ------------------------------------------------------------------------------------------------ */
val block_llama(const struct model *m, struct site *s, val x, int l) { /* x [N, C] */
    val q[3]; /* [N, H*D], [N, K*D], [N, K*D] */
    block_qkv(m, s, block_norm(m, s, x, "attn_norm", l), l, q);
    block_rotate(m, s, l, q);
    x = block_join(m, s, l, AFTER_ATTENTION, x, block_attend(m, s, l, q));
    return block_join(m, s, l, AFTER_FFN, x, block_gated(m, s, block_norm(m, s, x, "ffn_norm", l), l, ACT_SILU));
}

err llama_tensors(struct model *m) {
    const struct shape *z = &m->shape;
    const int64_t C = z->width, q = z->heads * z->head_dim, kv = z->kv_heads * z->head_dim, F = z->ffn, H = z->heads, K = z->kv_heads;
    const struct part whole[] = {MATRIX("token_embd", "model.embed_tokens", z->vocab, C), VECTOR("output_norm", "model.norm", C), MATRIX("output", "lm_head", z->vocab, C)};
    const struct part layer[] = {
        VECTOR("attn_norm", "input_layernorm", C),
        ROTATED("attn_q", "self_attn.q_proj", q, C, z->qkv_bias, H),
        ROTATED("attn_k", "self_attn.k_proj", kv, C, z->qkv_bias, K),
        BIASED("attn_v", "self_attn.v_proj", kv, C, z->qkv_bias),
        BIASED("attn_output", "self_attn.o_proj", C, q, z->out_bias),
        VECTOR("ffn_norm", "post_attention_layernorm", C),
        BIASED("ffn_gate", "mlp.gate_proj", F, C, z->mlp_bias),
        BIASED("ffn_up", "mlp.up_proj", F, C, z->mlp_bias),
        BIASED("ffn_down", "mlp.down_proj", C, F, z->mlp_bias),
    };
    TRY(model_parts(m, NULL, -1, whole, z->tied ? 2 : 3));
    for (int l = 0; l < z->layers; l++) TRY(model_parts(m, "model.layers", l, layer, sizeof layer / sizeof *layer));
    return OK;
}
