/* See mix.h. */
#include "peft/mix.h"
#include "peft/targets.h"
#include <stdio.h>
#include <string.h>

static enum summed summed(const struct peft_method *m, const void *settings) { return m->summed ? m->summed(settings) : SUMMED_NOT; }

bool mix_weighs(const struct peft_method *m, const void *settings) { return summed(m, settings) == SUMMED_ALL; }

bool mix_sums(const struct peft_method *m, const void *settings) { return summed(m, settings) != SUMMED_NOT; }

static bool sums(const struct mix_member *m) { return mix_sums(m->method, m->settings); }

/* A hook that came after this file would be passed over in silence: what is left of a method beyond the known must be nothing. */
err mix_takes(const struct peft_method *m, const char *name) {
    struct peft_method known;
    memset(&known, 0, sizeof known);
    known.name = m->name, known.peft_type = m->peft_type, known.settings = m->settings, known.check = m->check, known.same = m->same;
    known.read = m->read, known.write = m->write, known.agrees = m->agrees, known.describe = m->describe, known.targets = m->targets;
    known.mark = m->mark, known.table_mark = m->table_mark, known.linears = m->linears, known.summed = m->summed, known.deltas = m->deltas;
    known.sublayer = m->sublayer, known.saved = m->saved, known.called = m->called, known.states = m->states;
    known.before_step = m->before_step, known.after_step = m->after_step, known.finished = m->finished, known.adopt = m->adopt, known.pair = m->pair;
    known.vector = m->vector, known.matrix = m->matrix, known.own_tokens = m->own_tokens, known.tokens = m->tokens;
    known.whole = m->whole, known.ours = m->ours, known.fit = m->fit, known.virtual_tokens = m->virtual_tokens;
    known.embed = m->embed, known.head = m->head, known.kv = m->kv, known.bare = m->bare, known.apart = m->apart, known.made = m->made;
    if (!memcmp(&known, m, sizeof known)) return OK;
    return fail(E_UNSUPPORTED, "adapter '%s' (%s) does not go with others at once yet: use it alone", name, m->name);
}

static bool takes_any(const struct mix_member *m, int n, const struct linear *w) {
    const struct targets *t = m->method->targets ? m->method->targets(m->settings) : NULL;
    bool any = !t;
    for (int i = 0; i < n && !any; i++) any = targets_take(t, &w[i].of);
    return m->method->linears && any;
}

/* --- members' hooks ---------------------------------------------------------------------------------------------------- */
/* The site as a member sees it; its parameters are borrowed from now on. */
static struct site enter(const struct site *s, const struct mix_member *m) {
    struct site own = *s;
    own.method = m->method;
    own.settings = m->settings;
    own.under = NULL;
    s->params->lender = (struct param_lender){m->name, m->params, m->numbers};
    return own;
}

static void leave(struct site *s, const struct site *own, struct param_lender before) {
    s->params->lender = before;
    s->next_site = own->next_site;
}

/* Asks a member for what it puts at a place of the base; absent: nothing. */
typedef val (*question)(const struct peft_method *m, struct site *s, const void *place);

static val vector_of(const struct peft_method *m, struct site *s, const void *place) { return m->vector ? m->vector(s, place) : (val){0}; }

static val matrix_of(const struct peft_method *m, struct site *s, const void *place) { return m->matrix ? m->matrix(s, place) : (val){0}; }

static val sublayer_of(const struct peft_method *m, struct site *s, const void *place) { return m->sublayer ? m->sublayer(s, place) : (val){0}; }

/* The answer of the one member that has one. */
static val from_one(struct site *s, question ask, const void *place, const char *module) {
    const struct mix *x = s->settings;
    const struct mix_member *by = NULL;
    val one = {0};
    for (int i = 0; i < x->n && !s->p->failed; i++) {
        const struct mix_member *m = &x->member[i];
        if (m->off) continue;
        struct site own = enter(s, m);
        val got = ask(m->method, &own, place);
        leave(s, &own, (struct param_lender){0});
        if (!has(got)) continue;
        if (by) {
            prog_fail(s->p, E_USAGE, "adapters '%s' and '%s' both put something in the place of %s: they cannot be on at once", by->name,
                      m->name, module);
            return (val){0};
        }
        one = got, by = m;
    }
    return one;
}

static val vector(struct site *s, const struct base_vector *v) { return from_one(s, vector_of, v, v->of.module); }

static val matrix(struct site *s, const struct base_matrix *w) { return from_one(s, matrix_of, w, w->of.module); }

static val sublayer(struct site *s, const struct sublayer *at) { return from_one(s, sublayer_of, at, at->of.module); }

/* check() has seen that there is one at most. */
static const struct mix_member *with_tokens(const struct mix *x) {
    for (int i = 0; i < x->n; i++)
        if (x->member[i].method->own_tokens) return &x->member[i];
    return NULL;
}

static const int32_t *own_tokens(const void *settings, int *n) {
    const struct mix_member *m = with_tokens(settings);
    *n = 0;
    return m ? m->method->own_tokens(m->settings, n) : NULL;
}

static val tokens(struct site *s, const struct base_matrix *table) {
    const struct mix_member *m = with_tokens(s->settings);
    if (!m) return (val){0};
    struct site own = enter(s, m);
    val got = m->method->tokens(&own, table);
    leave(s, &own, (struct param_lender){0});
    return got;
}

static val embed(struct site *s, const struct embedding *e, val x) {
    const struct mix *mix = s->settings;
    for (int i = 0; i < mix->n && !s->p->failed; i++) {
        if (!mix->member[i].method->embed || mix->member[i].off) continue;
        struct site own = enter(s, &mix->member[i]);
        x = own.method->embed(&own, e, x);
        leave(s, &own, (struct param_lender){0});
    }
    return x;
}

/* Of one member at most: such a one has no weights, it is there for every row (mix_weighs). */
static struct head_delta head(struct site *s, const struct linear *w) {
    const struct mix *x = s->settings;
    const struct mix_member *by = NULL;
    struct head_delta one = {.scale = 0};
    for (int i = 0; i < x->n && !s->p->failed; i++) {
        const struct mix_member *m = &x->member[i];
        if (m->off) continue;
        struct site own = enter(s, m);
        const struct head_delta got = site_head(&own, w);
        leave(s, &own, (struct param_lender){0});
        if (!has(got.a)) continue;
        if (by)
            prog_fail(s->p, E_USAGE, "adapters '%s' and '%s' both have a product beside the output projection (%s): they cannot be on at once",
                      by->name, m->name, w->of.module);
        one = got, by = m;
    }
    return one;
}

static err kv(struct site *s, int layer, val *k, val *v) {
    const struct mix *x = s->settings;
    for (int i = 0; i < x->n && !s->p->failed; i++) {
        if (!x->member[i].method->kv) continue;
        struct site own = enter(s, &x->member[i]);
        own.method->kv(&own, layer, k, v);
        leave(s, &own, (struct param_lender){0});
    }
    return s->p->failed;
}

static int virtual_of(const struct mix_member *m) { return m->method->virtual_tokens ? m->method->virtual_tokens(m->settings) : 0; }

static int virtual_tokens(const void *settings) {
    const struct mix *x = settings;
    int n = 0;
    for (int i = 0; i < x->n; i++) n += virtual_of(&x->member[i]);
    return n;
}

/* --- linears: the sum ----------------------------------------------------------------------------------------------------- */
/* The members' B of one output, side by side, each times its scale. */
struct beside { int n; struct { const float *from; int rank; float scale; } of[MAX_MEMBERS]; };

static err side_by_side(const struct param_slice *s, int64_t columns, uint64_t key, float *rows) {
    const struct beside *b = s->how;
    (void)key;
    for (int64_t r = 0; r < s->rows; r++) {
        float *to = rows + r * columns;
        for (int m = 0; m < b->n; m++)
            for (int j = 0; j < b->of[m].rank; j++) *to++ = b->of[m].from[r * b->of[m].rank + j] * b->of[m].scale;
    }
    return OK;
}

/* The group as the family has it, and what the members add to it: one around them may ask for a part of it at a time. */
struct group {
    const struct mix *mix;
    int n;
    const struct linear *w;
    struct group_delta d[MAX_MEMBERS];
};

static int place_in(const struct group *g, const struct linear *w) {
    int k = 0;
    while (k + 1 < g->n && strcmp(g->w[k].of.name, w->of.name)) k++;
    return k;
}

static int rank_of(const struct group *g, int member, const struct linear *w) { return g->d[member].rank[place_in(g, w)]; }

static const float *numbers_of(const struct mix_member *m, int param) { return m->numbers + m->params->p[param].off / 4; }

/* A member's rows of A for a linear. */
static const float *rows_of_a(const struct group *g, int member, const struct linear *w) {
    int64_t before = 0;
    for (int k = 0; k < place_in(g, w); k++) before += g->d[member].rank[k];
    return numbers_of(&g->mix->member[member], g->d[member].a) + before * w->in;
}

/* All A of the whole group, the rows of an output together and in them the members in turn; these rows begin at `row0` of its `rows`. */
static val stacked_a(struct site *s, const struct group *g, int64_t row0, int64_t wanted) {
    struct param_slice slice[MAX_GROUP * MAX_MEMBERS];
    int64_t rows = 0;
    int slices = 0;
    char name[256];
    snprintf(name, sizeof name, "%s.mix_A", g->w[0].of.name);
    for (int k = 0; k < g->n; k++)
        for (int m = 0; m < g->mix->n; m++) {
            const int r = g->d[m].rank[k];
            if (r && !s->params->sealed)
                slice[slices++] =
                    (struct param_slice){.name = name, .row0 = rows, .rows = r, .from = rows_of_a(g, m, &g->w[k]), .stored = DT_F32};
            rows += r;
        }
    const int a = param_get(s->params, name, 2, (int64_t[]){rows, g->w[0].in}, INIT_COPY, 0, slice, slices);
    return wanted == rows ? prog_param(s->p, s->params, a) : prog_param_rows(s->p, s->params, a, row0, wanted);
}

static val joined_b(struct site *s, const struct group *g, const struct linear *w, int rank) {
    const int k = place_in(g, w);
    char name[256];
    snprintf(name, sizeof name, "%s.mix_B", w->of.name);
    struct beside *b = s->params->sealed ? NULL : arena_alloc(&s->params->mem, sizeof *b);
    if (!b && !s->params->sealed) return prog_fail(s->p, E_MEMORY, "out of memory while building a program"), (val){0};
    for (int m = 0; b && m < g->mix->n; m++) {
        const struct group_delta *d = &g->d[m];
        if (!d->rank[k]) continue;
        b->of[b->n].from = numbers_of(&g->mix->member[m], d->b[k]), b->of[b->n].rank = d->rank[k], b->of[b->n++].scale = d->scale[k];
    }
    const struct param_slice slice = {.name = name, .rows = w->out, .make = side_by_side, .how = b};
    return prog_param(s->p, s->params, param_get(s->params, name, 2, (int64_t[]){w->out, rank}, INIT_MADE, 0, &slice, 1));
}

/* What the members that are products add to the group. Their own sets are sealed: they are only looked into. */
static err find_deltas(struct site *s, struct group *g) {
    for (int i = 0; i < g->mix->n; i++) {
        const struct mix_member *m = &g->mix->member[i];
        if (!sums(m)) continue;
        struct site own = *s;
        own.method = m->method, own.settings = m->settings, own.params = (struct param_set *)m->params;
        TRY(m->method->deltas(&own, g->n, g->w, &g->d[i]));
    }
    return OK;
}

/* Does any that is on add to one of these? */
static bool any_live(const struct group *g, int n, const struct linear *w) {
    bool any = false;
    for (int k = 0; k < n; k++)
        for (int m = 0; m < g->mix->n; m++) any |= !g->mix->member[m].off && rank_of(g, m, &w[k]);
    return any;
}

/* The base and the products of all members that are products. Of those that are off too: their weight is 0, and what is stacked is so whoever is on. */
static err sum(struct site *s, const struct group *g, val in, int n, const struct linear *w, val *out) {
    struct op_attr a = {.members = g->mix->n};
    struct low_rank low = {.mix = s->mix};
    int64_t total = 0, before = 0;
    if (!any_live(g, n, w)) return site_emit_linear(s, in, n, w, NULL, NULL, out);
    if (n > 1 && n < g->n) { /* their rows of A need not lie together */
        for (int k = 0; k < n; k++) TRY(sum(s, g, in, 1, &w[k], &out[k]));
        return OK;
    }
    for (int k = 0; k < n; k++)
        for (int m = 0; m < g->mix->n; m++) a.rank[k] += a.member_rank[k][m] = (uint16_t)rank_of(g, m, &w[k]), total += a.member_rank[k][m];
    for (int k = 0; k < place_in(g, w); k++)
        for (int m = 0; m < g->mix->n; m++) before += g->d[m].rank[k];
    low.a = stacked_a(s, g, before, total);
    for (int k = 0; k < n; k++) {
        a.alpha[k] = 1;
        if (a.rank[k]) low.b[k] = joined_b(s, g, &w[k], a.rank[k]);
    }
    return site_emit_linear(s, in, n, w, &a, &low, out);
}

/* --- linears: one around the other ------------------------------------------------------------------------------------------ */
struct layer { struct site_under under; const struct group *group; int member; };

static bool wraps(const struct mix_member *m, int n, const struct linear *w) { return !sums(m) && takes_any(m, n, w); }

static err linears_below(struct site *s, const struct group *g, int top, val in, int n, const struct linear *w, val *out);

static err no_sum(struct site *s, const struct mix_member *m, const struct mix_member *other, const struct linear *w) {
    return prog_fail(s->p, E_USAGE,
                     "adapters '%s' and '%s' both change %s, and what '%s' (%s) makes of it is no sum: they cannot be on at once", m->name,
                     other->name, w->of.module, m->name, m->method->name);
}

/* Products of the whole group (DoRA's) are not to be had for a part of it. */
static err under_linears(const struct site_under *u, struct site *s, val x, int n, const struct linear *w, val *out) {
    const struct layer *l = (const struct layer *)u;
    const struct mix_member *all = l->group->mix->member;
    for (int i = 0; i < l->member && n != l->group->n; i++)
        if (all[i].method->deltas && wraps(&all[i], n, w)) return no_sum(s, &all[i], &all[l->member], w);
    return linears_below(s, l->group, l->member, x, n, w, out);
}

/* A group carries one sum of products: who brings its own (DoRA, biases beside deltas) has the linears to itself. */
static err under_alone(const struct site_under *u, struct site *s, int n, const struct linear *w) {
    const struct layer *l = (const struct layer *)u;
    const struct mix_member *all = l->group->mix->member, *m = &all[l->member];
    for (int i = 0; i < l->group->mix->n; i++)
        if (i != l->member && !all[i].off && takes_any(&all[i], n, w) && (i < l->member || !wraps(&all[i], n, w)))
            return no_sum(s, m, &all[i], w);
    return OK;
}

static err linears_below(struct site *s, const struct group *g, int top, val in, int n, const struct linear *w, val *out) {
    const struct mix *x = g->mix;
    const struct param_lender before = s->params->lender;
    while (top > 0 && !wraps(&x->member[top - 1], n, w)) top--;
    struct layer l = {{under_linears, under_alone}, g, top - 1};
    struct site own = *s;
    err e;
    if (top) {
        own = enter(s, &x->member[top - 1]);
        own.under = &l.under;
        e = own.method->linears(&own, in, n, w, out);
    } else {
        own.under = NULL;
        s->params->lender = (struct param_lender){0};
        e = sum(&own, g, in, n, w, out);
    }
    leave(s, &own, before);
    return e;
}

static err linears(struct site *s, val in, int n, const struct linear *w, val *out) {
    struct group g = {.mix = s->settings, .n = n, .w = w};
    TRY(find_deltas(s, &g));
    return linears_below(s, &g, g.mix->n, in, n, w, out);
}

/* --- settings ------------------------------------------------------------------------------------------------------------- */
static int members(const void *settings, const float **weights) {
    const struct mix *x = settings;
    bool any = false;
    for (int i = 0; i < x->n; i++) any |= sums(&x->member[i]) && !x->member[i].off;
    *weights = x->weights;
    return any ? x->n : 0;
}

static err check(const void *settings) {
    const struct mix *x = settings;
    for (int i = 0; i < x->n; i++)
        for (int k = 0; k < i; k++) {
            const struct mix_member *a = &x->member[k], *b = &x->member[i];
            if (!strcmp(a->name, b->name)) return fail(E_USAGE, "two adapters are called '%s': give each a name of its own", a->name);
            if (virtual_of(a) && virtual_of(b))
                return fail(E_USAGE, "adapters '%s' and '%s' both put virtual tokens before a text: they cannot be on at once", a->name,
                            b->name);
            if (a->method->own_tokens && b->method->own_tokens)
                return fail(E_USAGE, "adapters '%s' and '%s' both have rows of tokens: they cannot be on at once", a->name, b->name);
        }
    return OK;
}

static void describe(const void *settings, str *out) { str_addf(out, "%d adapters at once (", ((const struct mix *)settings)->n); }

const struct peft_method method_mix = {.name = "mix",
                                       .peft_type = "",
                                       .settings = sizeof(struct mix),
                                       .check = check,
                                       .describe = describe,
                                       .mark = "",
                                       .linears = linears,
                                       .members = members,
                                       .sublayer = sublayer,
                                       .vector = vector,
                                       .matrix = matrix,
                                       .own_tokens = own_tokens,
                                       .tokens = tokens,
                                       .virtual_tokens = virtual_tokens,
                                       .embed = embed,
                                       .head = head,
                                       .kv = kv};
