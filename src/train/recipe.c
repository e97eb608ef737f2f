/* How an adapter learns: a side's configuration as a recipe, what its optimizer is told, and what that takes of memory. The states of an optimizer
 * are arenas of the backend, or (offload) of the host; then a step has two pages of them on the card, among the activations or behind those of the
 * backward pass (paged.c), and the plan's arena is as large as the larger of the two. Called by run.c, which plans and starts, report.c, which
 * tells, and learner.c. */
#include "train/run.h"
#include "base/philox.h"
#include "ops/ops.h"
#include <math.h>
#include <string.h>

enum { PAGE = 4 << 20 /* bytes of the weights: what takes a copy longer than its launch */ };

const struct optimizer *recipe_optimizer(const struct recipe *r) { return r->optim ? r->optim : &optimizer_adamw_torch; }

struct optim_settings recipe_settings(const struct recipe *r) {
    struct optim_settings how = r->how;
    how.beta1 = r->beta1, how.beta2 = r->beta2, how.epsilon = r->epsilon, how.weight_decay = r->weight_decay;
    return how;
}

struct recipe run_recipe(const struct run *r, const struct side_config *c) {
    struct recipe q = {
        .learning_rate = c->learning_rate,
        .weight_decay = c->weight_decay,
        .beta1 = c->adam_beta1,
        .beta2 = c->adam_beta2,
        .epsilon = c->adam_epsilon,
        .max_grad_norm = c->max_grad_norm,
        .optim = optimizer_find(c->optim),
        .page = strcmp(r->cfg->offload_optimizer, "none") != 0 ? PAGE : 0,
        .curve = {.warmup = c->warmup_steps, .total = run_total(r), .decay_steps = c->decay_steps, .min_ratio = c->min_lr_ratio}};
    q.rounding =
        (struct optim_rounding){philox_key((uint64_t)(r->cfg->seed + (c - r->cfg->side)), PURPOSE_ROUND), !r->cfg->stochastic_rounding};
    schedule_parse(c->scheduler, &q.curve.schedule); /* checked by config_check, as the next */
    decay_parse(c->decay_type, &q.curve.decay);
    if (!q.curve.warmup) q.curve.warmup = (int64_t)ceil(c->warmup_ratio * (double)q.curve.total);
    if (!q.curve.decay_steps) q.curve.decay_steps = (q.curve.total + 9) / 10;
    q.how = (struct optim_settings){.momentum = q.optim == &optimizer_muon ? c->muon_momentum : c->sgd_momentum,
                                    .nesterov = c->sgd_nesterov,
                                    .scale_parameter = c->adafactor_scale,
                                    .relative_step = c->adafactor_relative,
                                    .match_rms = !strcmp(c->muon_adjust, "match_rms_adamw")};
    return q;
}

err recipe_narrow(const struct structure *st, const struct recipe *q, dtype compute) {
    if (strcmp(st->method->name, "full") != 0)
        return fail(E_USAGE, "trained_dtype: bfloat16 is for method full: what %s trains is small and stays in float32: leave it out",
                    st->method->name);
    if (compute != DT_BF16)
        return fail(E_USAGE, "trained_dtype: bfloat16 goes with dtype: bfloat16, whose programs read the weights where they lie");
    if (!recipe_optimizer(q)->elementwise)
        return fail(E_USAGE, "trained_dtype: bfloat16 goes with optim adamw_torch, lion_32bit and sgd, not %s", recipe_optimizer(q)->name);
    return OK;
}

/* What pages of states need of the arena of activations: an update in the backward pass has them behind what that pass has in use. */
static size_t room_for_pages(const struct run *r, const struct side *s, const struct recipe *q) {
    const size_t room = paged_room(q, &s->plans->st.params), used = r->cfg->optimizer_in_bwd ? s->plans->train.plan.act : 0;
    return room ? room + ((used + 255) & ~(size_t)255) : 0;
}

struct needs recipe_needs(const struct run *r, const struct side *s) {
    const struct recipe q = run_recipe(r, s->cfg);
    const struct optim_settings how = recipe_settings(&q);
    const struct optimizer *z = recipe_optimizer(&q);
    const struct param_set *set = &s->plans->st.params;
    const size_t states = optim_bytes(z, &how, set);
    return (struct needs){.here = (q.page ? 0 : states) + (size_t)learner_states(&s->plans->st) * set->trained,
                          .away = q.page ? states : 0,
                          .act = room_for_pages(r, s, &q),
                          .scratch = set->narrow  ? narrow_scratch(set)
                                     : z->scratch ? z->scratch(set, r->backend->flat)
                                                  : 0};
}

int recipe_arenas(const struct run *r, const struct side *s, size_t out[RECIPE_ARENAS]) {
    const struct recipe q = run_recipe(r, s->cfg);
    const struct optim_settings how = recipe_settings(&q);
    struct optim_state states[OPTIM_STATES];
    int n = 0;
    const int k = optim_states(recipe_optimizer(&q), &how, &s->plans->st.params, states);
    for (int i = 0; i < k && !q.page; i++) out[n++] = states[i].bytes;
    for (int i = 0; i < learner_states(&s->plans->st); i++) out[n++] = s->plans->st.params.trained;
    return n;
}

void recipe_widen(const struct run *r, size_t *act, size_t *scratch) {
    for (int i = 0; i < r->n_sides; i++) {
        const struct needs q = recipe_needs(r, &r->side[i]);
        if (q.act > *act) *act = q.act;
        if (q.scratch > *scratch) *scratch = q.scratch;
    }
}

void recipe_describe(const struct run *r, str *out) {
    int own = 0;
    size_t pages = 0;
    for (int i = 0; i < r->n_sides; i++) {
        const struct recipe a = run_recipe(r, r->side[i ? i - 1 : 0].cfg), b = run_recipe(r, r->side[i].cfg);
        const struct optim_settings how = recipe_settings(&b);
        if (!i || recipe_optimizer(&a) != recipe_optimizer(&b)) {
            if (i) str_addf(out, "; %s: ", r->side[i].name);
            recipe_optimizer(&b)->describe(&how, out);
        }
        const struct structure *st = &r->side[i].plans->st;
        const size_t room = paged_room(&b, &st->params);
        if (learner_states(st) > own) own = learner_states(st);
        if (room > pages) pages = room;
    }
    if (own) str_addf(out, "; the method's own, %d in f32", own);
    if (r->foot.away)
        str_addf(out, "; in the host's memory (%.1f MB), for a step on the card page by page (%.1f MB of the arena of activations)",
                 (double)r->foot.away / 1e6, (double)pages / 1e6);
}
