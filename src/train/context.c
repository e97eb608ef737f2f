/* How long a run's sequences may be: RoPE stretched as the configuration asks for it (rope_scaling), and lengths held against the context that
 * comes of it. Frequencies that depend on a length (dynamic, LongRoPE) are those of the longest sequence that the configuration allows,
 * max_length + max_new_tokens: one table for all sequences, however short, and the same whatever the data are.
 *
 * Refused: sequences beyond the context. Called by run.c. */
#include "base/log.h"
#include "train/run.h"
#include <stdlib.h>
#include <string.h>

static int64_t longest_allowed(const struct run *r, const struct base *b) {
    int64_t most = 0;
    for (int i = 0; i < r->n_sides; i++) {
        const int64_t n = r->side[i].cfg->max_length + r->side[i].cfg->max_new_tokens;
        if (r->side[i].base == b && n > most) most = n;
    }
    return most;
}

static void set_real(json_t *j, const char *name, double x) {
    if (x > 0) json_object_set_new(j, name, json_real(x));
}

static err set_list(json_t *j, const char *name, const struct strs *l) {
    json_t *list = l->n ? json_array() : NULL;
    for (int i = 0; i < l->n; i++) {
        char *end;
        const double x = strtod(l->v[i], &end);
        if (end == l->v[i] || *end || !(x > 0)) {
            json_decref(list);
            return fail(E_USAGE, "'rope_scaling.%s' wants positive numbers, found '%.40s'", name, l->v[i]);
        }
        json_array_append_new(list, json_real(x));
    }
    if (list) json_object_set_new(j, name, list);
    return OK;
}

/* The keys as config.json has them, with those alone that the type reads. */
static err asked_json(const struct config *c, json_t **out) {
    const char *type = c->rope_type;
    if (!strcmp(type, "default") && c->rope_factor > 0)
        return fail(E_USAGE, "'rope_scaling.factor' has no use with rope_type default, whose positions run on as they are");
    json_t *j = *out = json_pack("{s:s}", "rope_type", type);
    if (!j) return fail(E_MEMORY, "out of memory");
    set_real(j, "factor", c->rope_factor);
    set_real(j, "original_max_position_embeddings", (double)c->rope_original);
    set_real(j, "rope_theta", c->rope_theta);
    if (!strcmp(type, "yarn")) set_real(j, "beta_fast", c->rope_beta_fast), set_real(j, "beta_slow", c->rope_beta_slow);
    if (!strcmp(type, "llama3")) set_real(j, "low_freq_factor", c->rope_low), set_real(j, "high_freq_factor", c->rope_high);
    if (!strcmp(type, "yarn") || !strcmp(type, "longrope")) set_real(j, "attention_factor", c->rope_attention);
    err e = set_list(j, "short_factor", &c->rope_short);
    if (!e) e = set_list(j, "long_factor", &c->rope_long);
    if (e) json_decref(j), *out = NULL;
    return e;
}

static err no_type(const struct config *c) {
    const char *given = c->rope_factor > 0     ? "factor"
                        : c->rope_original > 0 ? "original_max_position_embeddings"
                        : c->rope_theta > 0    ? "rope_theta"
                                               : NULL;
    return given ? fail(E_USAGE,
                        "'rope_scaling.%s' without rope_scaling.rope_type: yarn, linear, ntk, dynamic, llama3, longrope or default", given)
                 : OK;
}

err base_stretch(const struct run *r, struct base *b) {
    const struct config *c = r->cfg;
    const bool asks = strcmp(c->rope_type, "none") != 0;
    json_t *asked = NULL;
    if (asks) TRY(asked_json(c, &asked));
    else TRY(no_type(c));
    err e = model_stretch(&b->model, asked, longest_allowed(r, b));
    json_decref(asked);
    return e;
}

json_t *base_positions_json(const struct run *r, const struct base *b) {
    const struct rope_table *t = &b->model.rope[0];
    const struct rope_scaling *s = &t->scaling;
    json_t *j = json_pack("{s:s, s:f, s:I, s:f, s:I}", "type", s->type ? s->type : "default", "base", t->base, "length",
                          (json_int_t)longest_allowed(r, b), "scale", t->scale, "context", (json_int_t)b->model.shape.context);
    if (s->type) json_object_update_new(j, json_pack("{s:f, s:f}", "factor", s->factor, "original", s->original));
    return j;
}

static err within_context(const struct run *r, const struct base *b, int longest, int virtual_tokens) {
    const struct model *m = &b->model;
    const long long context = m->shape.context;
    const char *among = virtual_tokens ? " (virtual ones among them)" : "";
    if (longest <= context || !(m->shape.hard_context || model_rotates(m))) return OK;
    if (r->assumes && !m->shape.hard_context) return OK; /* a plan of rows that nobody has seen */
    if (!model_rotates(m))
        return fail(E_USAGE, "sequences of up to %d tokens%s, but %s has no positions from %lld on: lower max_length (and max_new_tokens)",
                    longest, among, b->cfg->model, context);
    return fail(E_USAGE,
                "sequences of up to %d tokens%s, but %s has a context of %lld: lower max_length (and max_new_tokens), or stretch its "
                "positions, such as "
                "rope_scaling.rope_type: yarn, rope_scaling.factor: %lld (rope_type: default lets them run on as they are)",
                longest, among, b->cfg->model, context, (longest + context - 1) / context);
}

err run_within_context(const struct run *r, int longest, int virtual_tokens) {
    for (int i = 0; i < r->n_bases; i++) TRY(within_context(r, &r->base[i], longest, virtual_tokens));
    return OK;
}

void base_heed_adapter(const struct base *b, const char *folder) {
    arena mem = {0};
    const char *text = NULL, *own = b->model.stretched;
    if (!adapter_stretching(folder, &mem, &text) && text && (!own || strcmp(own, text)))
        log_warn("%s was trained with RoPE stretched (its rope_scaling.json), this run %s", folder,
                 own ? "stretches it otherwise" : "does not: rope_scaling says how");
    arena_free(&mem);
}
