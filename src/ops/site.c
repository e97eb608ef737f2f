/* Sites emit ops, so their code lives with the ops. See core/site.h. */
#include "core/site.h"
#include "ops/ops.h"

err site_emit_linear(struct site *s, val x, int n, const struct linear *w, const struct op_attr *attr, const struct low_rank *low, val *out) {
    struct op_attr a = attr ? *attr : (struct op_attr){0};
    val in[LIN_IN] = {{0}};
    if (s->under && !low) return s->under->linears(s->under, s, x, n, w, out);
    if (s->under) TRY(s->under->alone(s->under, s, n, w));
    a.n = n;
    a.site = s->next_site++;
    in[LIN_X] = x;
    for (int i = 0; i < n; i++) {
        in[LIN_W + i] = w[i].w;
        in[LIN_BIAS + i] = w[i].bias;
        if (low) in[LIN_B + i] = low->b[i];
    }
    if (low) in[LIN_A] = low->a, in[LIN_MIX] = low->mix;
    if (s->mode != MODE_TRAIN) a.dropout = 0;
    if (a.dropout > 0) in[LIN_SAMPLE] = s->sample, in[LIN_POS] = s->pos;
    struct inst *i = prog_emit(s->p, &op_linear, in, LIN_IN, &a);
    for (int k = 0; k < n; k++) out[k] = i ? i->out[k] : (val){0};
    return s->p->failed;
}

err site_linears(struct site *s, val x, int n, const struct linear *w, val *out) {
    if (s->method && s->method->linears) return s->method->linears(s, x, n, w, out);
    return site_emit_linear(s, x, n, w, NULL, NULL, out);
}

val site_linear(struct site *s, val x, const struct linear *w) {
    val out = {0};
    site_linears(s, x, 1, w, &out);
    return out;
}

void site_block(struct site *s, int segment, val x) {
    struct prog *p = s->p;
    p->segment = segment;
    if (!p->offload) return;
    if (has(p->leaving)) {
        const val h = emit1(p, &op_await, (val[]){p->left, p->leaving}, 2, NULL);
        if (p->failed) return;
        prog_v(p, h)->segment = prog_v(p, p->left)->segment; /* of the block that reads it */
        prog_v(p, p->leaving)->host = h;
    }
    p->leaving = x;
    p->left = emit1(p, &op_stash, &x, 1, NULL);
}

val site_dropout(struct site *s, val x, double p) {
    if (s->mode != MODE_TRAIN || !(p > 0)) return x;
    return emit1(s->p, &op_dropout, (val[]){x, s->sample, s->pos}, 3, &(struct op_attr){.dropout = (float)p, .site = s->next_site++});
}

val site_noise(struct site *s, val x) {
    if (!(s->noise > 0)) return x;
    return emit1(s->p, &op_noise, (val[]){x, s->cu, s->sample, s->pos}, 4, &(struct op_attr){.alpha = {s->noise}, .n = s->before});
}

struct head_delta site_head(struct site *s, const struct linear *w) {
    return s->method && s->method->head ? s->method->head(s, w) : (struct head_delta){.scale = 0};
}

val site_head_low(struct site *s, val x, const struct head_delta *d) {
    const struct linear a = {.w = d->a};
    val t = {0};
    if (has(d->a)) site_emit_linear(s, site_dropout(s, x, d->dropout), 1, &a, NULL, NULL, &t);
    return t;
}

val site_sublayer(struct site *s, const struct sublayer *at) {
    val own = s->method && s->method->sublayer ? s->method->sublayer(s, at) : (val){0};
    return has(own) ? own : at->made;
}

val site_vector(struct site *s, const struct base_vector *v) {
    val own = s->method && s->method->vector ? s->method->vector(s, v) : (val){0};
    return has(own) ? own : v->base;
}

val site_matrix(struct site *s, const struct base_matrix *m) { return s->method && s->method->matrix ? s->method->matrix(s, m) : (val){0}; }

val site_tokens(struct site *s, const struct base_matrix *table) { return s->method && s->method->tokens ? s->method->tokens(s, table) : (val){0}; }

val site_embed(struct site *s, const struct embedding *e, val table) {
    const val x = emit1(s->p, &op_embed, (val[]){s->ids, table}, 2, &(struct op_attr){.scale = (float)e->scale});
    return s->method && s->method->embed ? s->method->embed(s, e, x) : x;
}

val site_attention(struct site *s, const val projected[3], val bias, int layer, const struct op_attr *a) {
    val q[3] = {projected[0], projected[1], projected[2]};
    struct op_attr cached = *a;
    cached.slot_rows = s->extends;
    if (s->method && s->method->kv) s->method->kv(s, layer, &q[1], &q[2]);
    if (s->mode == MODE_PREFILL || s->mode == MODE_DECODE)
        prog_emit(s->p, &op_kv_append, (val[]){q[1], q[2], s->slot, s->pos, s->cache_k[layer], s->cache_v[layer]}, 6, &cached);
    if (s->mode == MODE_DECODE)
        return emit1(s->p, &op_attention_cached, (val[]){q[0], s->cache_k[layer], s->cache_v[layer], s->slot, s->pos, bias}, 6, &cached);
    return emit1(s->p, &op_attention, (val[]){q[0], q[1], q[2], s->cu, {0}, bias}, 6, a);
}

val site_attended(struct site *s, const struct attending *a) { return site_attends(s) ? s->method->attention(s, a) : site_linear(s, a->y, &a->out); }

struct site site_of_source(const struct site *s) {
    struct site source = *s;
    source.ids = s->src_ids, source.pos = s->src_pos, source.cu = s->src_cu, source.sample = s->src_sample, source.mix = s->src_mix;
    source.noise = s->src_noise, source.before = 0;
    return source;
}

val site_attention_source(struct site *s, const val q[3], val bias, const struct op_attr *a) {
    return emit1(s->p, &op_attention, (val[]){q[0], q[1], q[2], s->cu, {0}, bias}, 6, a);
}

err site_source_linears(struct site *s, val x, int n, const struct linear *w, val *out) {
    struct site source = site_of_source(s);
    err e = site_linears(&source, x, n, w, out);
    s->next_site = source.next_site;
    return e;
}

val site_attention_cross(struct site *s, const val q[3], int layer, const struct op_attr *a) {
    if (s->mode == MODE_PREFILL)
        prog_emit(s->p, &op_kv_append, (val[]){q[1], q[2], s->src_slot, s->src_pos, s->cross_k[layer], s->cross_v[layer]}, 6, a);
    if (s->mode == MODE_DECODE)
        return emit1(s->p, &op_attention_cached, (val[]){q[0], s->cross_k[layer], s->cross_v[layer], s->src_slot, s->src_last, {0}}, 6, a);
    return emit1(s->p, &op_attention, (val[]){q[0], q[1], q[2], s->cu, s->src_cu, {0}}, 6, a);
}
