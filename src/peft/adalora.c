/* AdaLoRA (Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning"): y = W x + s B (E * (A x)), a delta in the form
 * of a singular value decomposition: A [r, in], E [r], B [out, r]. A and B are held near orthonormal by a term of the loss; while training
 * goes on, the least important triplets (a row of A, a number of E, a column of B) of the whole model lose their E, from init_r of them a
 * module down to target_r on average. E begins at zero, so step 0 is the base.
 *
 * All numbers are PEFT's (tuners/adalora): s = lora_alpha / (init_r + 1e-5); orth_reg_weight times the mean of ||A A^T - I|| and ||B^T B - I||;
 * importances from |p g| after the step; the budget falls with the cube of what is left of the schedule; from step total_step - tfinal on the
 * triplets that were pruned stay so. A step is counted from 0. The reported loss is without the term, its gradient is in the norm.
 *
 * The term and the importances go by f32 arenas wherever these lie (core/flat.h); the allocation itself is the host's, on a card with a copy of
 * the importances. State: the first arena has importances, and once the allocation is final what is left of E (1) or not (0); the second how unsure
 * importances are.
 *
 * A finished adapter holds the triplets that are left, at least one a module (PEFT's rank_pattern says which); one in training, and a
 * checkpoint, all of them. A triplet whose E is zero adds nothing, so both say the same. Trained further, a finished one has the pruned
 * triplets as zeros, which no gradient reaches. With dropout (lora_dropout) each target drops its own input, as in PEFT. */
#include "peft/adalora.h"
#include "core/rope_rows.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char E_END[] = ".lora_E";

/* --- settings ------------------------------------------------------------------------------------------------------------ */
static const struct kept *kept_of(const struct adalora *a, const char *module) {
    for (int i = 0; i < a->n_kept; i++)
        if (!strcmp(a->kept[i].module, module)) return &a->kept[i];
    return NULL;
}

static int rank_of(const struct adalora *a, const char *module) {
    const struct kept *k = kept_of(a, module);
    return k ? k->rank : a->init_r;
}

static double scale_of(const struct adalora *a) { return (a->alpha > 0 ? a->alpha : a->init_r) / (a->init_r + 1e-5); }

static bool same(const void *one, const void *other) {
    const struct adalora *a = one, *b = other;
    bool equal = a->init_r == b->init_r && a->target_r == b->target_r && a->alpha == b->alpha && a->dropout == b->dropout && a->beta1 == b->beta1 &&
                 a->beta2 == b->beta2 && a->orthogonal == b->orthogonal && a->first == b->first && a->last == b->last &&
                 a->every == b->every && a->total == b->total && a->n_kept == b->n_kept && targets_same(&a->targets, &b->targets);
    for (int i = 0; i < a->n_kept && equal; i++) {
        const struct kept *k = kept_of(b, a->kept[i].module);
        equal = k && !memcmp(k->yes, a->kept[i].yes, (size_t)a->init_r * sizeof *k->yes);
    }
    return equal;
}

static err check(const void *settings) {
    const struct adalora *a = settings;
    if (a->init_r < 1 || a->init_r > ORTHOGONAL_MOST) return fail(E_USAGE, "adalora.init_r is %d; it must be 1 to %d", a->init_r, ORTHOGONAL_MOST);
    if (a->target_r < 1 || a->target_r > a->init_r)
        return fail(E_USAGE, "adalora.target_r is %d; it must be 1 to init_r, %d", a->target_r, a->init_r);
    if (!isfinite(a->alpha)) return fail(E_USAGE, "adalora.lora_alpha is not a number");
    if (!(a->dropout >= 0 && a->dropout < 1))
        return fail(E_USAGE, "adalora.lora_dropout is %g; it must be at least 0 and below 1", a->dropout);
    if (!(a->beta1 > 0 && a->beta1 < 1 && a->beta2 > 0 && a->beta2 < 1))
        return fail(E_USAGE, "adalora.beta1 and beta2 are %g and %g; both must be above 0 and below 1", a->beta1, a->beta2);
    if (!(a->orthogonal >= 0) || !isfinite(a->orthogonal))
        return fail(E_USAGE, "adalora.orth_reg_weight is %g; it must be at least 0", a->orthogonal);
    if (a->every < 1) return fail(E_USAGE, "adalora.deltaT is %lld; it must be at least 1", (long long)a->every);
    if (a->total < 1) return fail(E_USAGE, "adalora.total_step is %lld; it must be at least 1", (long long)a->total);
    if (a->first < 0 || a->last < 0 || a->last > a->total || a->first >= a->total - a->last)
        return fail(E_USAGE, "adalora.tinit %lld and tfinal %lld leave no step of total_step %lld to allocate ranks in",
                    (long long)a->first, (long long)a->last, (long long)a->total);
    return targets_check(&a->targets, "adalora");
}

static int64_t integer(const json_t *j, const char *key, int64_t otherwise) {
    const json_t *v = json_object_get(j, key);
    return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

static double real(const json_t *j, const char *key, double otherwise) {
    const json_t *v = json_object_get(j, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

static int small(int64_t x) { return x < 0 || x > INT_MAX ? 0 : (int)x; }

/* {"MODULE.lora_E": [true, false, ...]} */
static err read_kept(const json_t *pattern, const char *where, arena *mem, struct adalora *a) {
    const char *key;
    json_t *v;
    if (!pattern || json_is_null(pattern)) return OK;
    if (!json_is_object(pattern)) return fail(E_INPUT, "%s: rank_pattern is no object", where);
    struct kept *all = arena_alloc(mem, json_object_size(pattern) * sizeof *all + 1);
    if (!all) return fail(E_MEMORY, "out of memory");
    a->kept = all;
    json_object_foreach((json_t *)pattern, key, v) {
        if (!str_ends(key, E_END) || !json_is_array(v) || json_array_size(v) != (size_t)a->init_r)
            return fail(E_INPUT, "%s: rank_pattern's '%.120s' is not a module's lora_E with true or false for each of init_r, %d", where,
                        key, a->init_r);
        bool *yes = arena_alloc(mem, (size_t)a->init_r * sizeof *yes);
        struct kept *k = &all[a->n_kept++];
        *k = (struct kept){.module = arena_strn(mem, key, strlen(key) - strlen(E_END)), .yes = yes};
        if (!yes || !k->module) return fail(E_MEMORY, "out of memory");
        for (int i = 0; i < a->init_r; i++) k->rank += yes[i] = json_is_true(json_array_get(v, (size_t)i));
    }
    return OK;
}

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct adalora *a = settings;
    static const char *const refused[] = {"trainable_token_indices", "layer_replication", "alpha_pattern", "target_parameters"};
    const char *bias = json_string_value(json_object_get(json, "bias"));
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const json_t *v = json_object_get(json, refused[i]);
        if (json_object_size(v) || json_array_size(v)) return fail(E_UNSUPPORTED, "%s: '%s' is not supported with AdaLoRA", where, refused[i]);
    }
    if (bias && strcmp(bias, "none")) return fail(E_UNSUPPORTED, "%s: bias '%.40s' beside AdaLoRA is not supported", where, bias);
    *a = (struct adalora){.init_r = small(integer(json, "init_r", 12)),
                          .target_r = small(integer(json, "target_r", 8)),
                          .alpha = real(json, "lora_alpha", 8),
                          .dropout = real(json, "lora_dropout", 0),
                          .beta1 = real(json, "beta1", 0.85),
                          .beta2 = real(json, "beta2", 0.85),
                          .orthogonal = real(json, "orth_reg_weight", 0.5),
                          .first = integer(json, "tinit", 0),
                          .last = integer(json, "tfinal", 0),
                          .every = integer(json, "deltaT", 1),
                          .total = integer(json, "total_step", 0)};
    TRY(targets_read(json, where, mem, &a->targets));
    err e = check(a);
    return e ? fail_in(e, "%s", where) : read_kept(json_object_get(json, "rank_pattern"), where, mem, a);
}

static json_t *kept_json(const struct adalora *a) {
    json_t *all = json_object();
    for (int i = 0; i < a->n_kept; i++) {
        char key[300];
        json_t *list = json_array();
        snprintf(key, sizeof key, "%s%s", a->kept[i].module, E_END);
        for (int k = 0; k < a->init_r; k++) json_array_append_new(list, json_boolean(a->kept[i].yes[k]));
        json_object_set_new(all, key, list);
    }
    return all;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct adalora *a = settings;
    json_t *j = json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:s, s:n}", "init_r", a->init_r, "target_r", a->target_r,
                          "lora_alpha", a->alpha, "lora_dropout", a->dropout, "beta1", a->beta1, "beta2", a->beta2, "orth_reg_weight",
                          a->orthogonal, "tinit", (json_int_t)a->first, "tfinal", (json_int_t)a->last, "deltaT", (json_int_t)a->every,
                          "total_step", (json_int_t)a->total, "bias", "none", "modules_to_save");
    if (!j || json_object_update_new(json, j)) return fail(E_MEMORY, "out of memory");
    if (json_object_set_new(json, "rank_pattern", a->n_kept ? kept_json(a) : json_null())) return fail(E_MEMORY, "out of memory");
    return targets_write(&a->targets, named, json);
}

static err agrees(const void *one, const void *other, const char *module, const char *folder) {
    const struct adalora *have = one, *want = other;
    if (!targets_take(&have->targets, &(struct module){.name = "", .module = module})) return fail(E_USAGE, "%s does not train %s, which is among the configuration's target_modules", folder, module);
    if (have->init_r != want->init_r)
        return fail(E_USAGE, "%s was made with adalora.init_r %d, the configuration says %d", folder, have->init_r, want->init_r);
    if (fabs(scale_of(have) - scale_of(want)) > 1e-6 * fabs(scale_of(want)))
        return fail(E_USAGE, "%s was made with adalora.lora_alpha %g, the configuration says %g", folder, have->alpha, want->alpha);
    return OK;
}

static void describe(const void *settings, str *out) {
    const struct adalora *a = settings;
    int left = 0;
    for (int i = 0; i < a->n_kept; i++) left += a->kept[i].rank;
    if (a->n_kept) str_addf(out, "AdaLoRA adapter (r %.1f on average, of %d", (double)left / a->n_kept, a->init_r);
    else str_addf(out, "AdaLoRA adapter (r %d, to be %d on average", a->init_r, a->target_r);
}

static const struct targets *targets_of(const void *settings) { return &((const struct adalora *)settings)->targets; }

/* --- in a program -------------------------------------------------------------------------------------------------------- */
/* A module's parameters, which lie one after the other in the set: A, E, B. */
struct triplets { int a, e, b; };

static struct triplets params_of(struct site *s, const struct linear *w, int r) {
    char name[256], file[256];
    const int64_t rank = r;
    struct triplets t;
    snprintf(name, sizeof name, "%s.lora_A", w->of.name);
    snprintf(file, sizeof file, "%s.lora_A", w->of.module);
    struct param_slice slice = {.name = file, .rows = r, .init_scale = 0.02f};
    t.a = param_get(s->params, name, 2, (int64_t[]){r, w->in}, INIT_NORMAL_SLICES, 0, &slice, 1);
    snprintf(name, sizeof name, "%s.lora_E", w->of.name);
    snprintf(file, sizeof file, "%s%s", w->of.module, E_END);
    slice = (struct param_slice){.name = file, .rows = r, .form = {.shape = FILE_COLUMN}};
    t.e = param_get(s->params, name, 1, &rank, INIT_ZERO, 0, &slice, 1);
    snprintf(name, sizeof name, "%s.lora_B", w->of.name);
    snprintf(file, sizeof file, "%s.lora_B", w->of.module);
    slice = (struct param_slice){.name = file, .rows = w->out, .rope_heads = w->rope_heads, .init_scale = 0.02f};
    t.b = param_get(s->params, name, 2, (int64_t[]){w->out, r}, INIT_NORMAL_SLICES, 0, &slice, 1);
    return t;
}

/* A x of m targets: one product, or where each drops its own x one for each. */
static err down(struct site *s, val x, int m, const struct triplets *t, val *low) {
    const double p = ((const struct adalora *)s->settings)->dropout;
    const bool apart = s->mode == MODE_TRAIN && p > 0;
    for (int k = 0; k < m; k += apart ? 1 : m) {
        const int together = apart ? 1 : m;
        val in[LIN_IN] = {[LIN_X] = site_dropout(s, x, p)};
        for (int i = 0; i < together; i++) in[LIN_W + i] = prog_param(s->p, s->params, t[k + i].a);
        const struct inst *i = prog_emit(s->p, &op_linear, in, LIN_IN, &(struct op_attr){.n = together});
        for (int j = 0; j < together; j++) low[k + j] = i ? i->out[j] : (val){0}; /* the next instruction may move this one */
    }
    return s->p->failed;
}

static err linears(struct site *s, val x, int n, const struct linear *w, val *out) {
    const struct adalora *a = s->settings;
    struct triplets t[MAX_GROUP];
    int of[MAX_GROUP], m = 0;
    TRY(site_emit_linear(s, x, n, w, NULL, NULL, out));
    for (int i = 0; i < n; i++) {
        if (!targets_take(&a->targets, &w[i].of)) continue;
        const int r = rank_of(a, w[i].of.module);
        if (!r) continue; /* PEFT prunes whole modules */
        t[m] = params_of(s, &w[i], r);
        of[m++] = i;
    }
    val low[MAX_GROUP];
    if (!m || s->p->failed || down(s, x, m, t, low)) return s->p->failed;
    for (int k = 0; k < m && !s->p->failed; k++) {
        const val e = prog_param(s->p, s->params, t[k].e), b = prog_param(s->p, s->params, t[k].b);
        const val u = emit1(s->p, &op_scale, (val[]){low[k], e}, 2, &(struct op_attr){.scale = (float)scale_of(a)});
        const val z = emit1(s->p, &op_linear, (val[LIN_IN]){[LIN_X] = u, [LIN_W] = b}, LIN_IN, &(struct op_attr){.n = 1});
        out[of[k]] = emit1(s->p, &op_add, (val[]){out[of[k]], z}, 2, NULL);
    }
    return s->p->failed;
}

/* --- training ------------------------------------------------------------------------------------------------------------ */
/* The next module's parameters from index `from` on; false: no more. */
static bool next_module(const struct param_set *set, int from, struct triplets *t) {
    while (from < set->n && !str_ends(set->p[from].name, ".lora_A")) from++;
    *t = (struct triplets){from, from + 1, from + 2};
    return from < set->n;
}

static int modules_in(const struct param_set *set) {
    int n = 0;
    struct triplets t;
    for (int i = 0; next_module(set, i, &t); i = t.b) n++;
    return n;
}

/* The orthogonality of A's rows and B's columns. */
static err before_step(const void *settings, const struct tuning *t) {
    const struct adalora *a = settings;
    const double weight = t->weight * a->orthogonal / (2 * modules_in(t->set));
    struct triplets m;
    for (int i = 0; a->orthogonal > 0 && next_module(t->set, i, &m); i = m.b) {
        const struct param *pa = &t->set->p[m.a], *pb = &t->set->p[m.b];
        const struct orthogonal rows = {(int)pa->d[0], pa->d[1], pa->d[1], 1, weight}, columns = {(int)pb->d[1], pb->d[0], 1, pb->d[1], weight};
        TRY(t->backend->flat->orthogonal(&rows, t->w + pa->off / 4, t->grad + pa->off / 4, t->threads));
        TRY(t->backend->flat->orthogonal(&columns, t->w + pb->off / 4, t->grad + pb->off / 4, t->threads));
    }
    return OK;
}

/* An arena from byte `from` on to the end of what is trained, on the host: itself, or a copy. Its first float is element from / 4. */
static err fetch(const struct tuning *t, float *there, size_t from, float **host) {
    const size_t bytes = t->set->trained - from;
    *host = t->backend->mem->host ? there + from / 4 : malloc(bytes + 1);
    if (!*host) return fail(E_MEMORY, "out of memory");
    return t->backend->mem->host ? OK : t->backend->mem->download(*host, there + from / 4, bytes);
}

static err put_back(const struct tuning *t, float *there, size_t from, const float *host) {
    return t->backend->mem->host ? OK : t->backend->mem->upload(there + from / 4, host, t->set->trained - from);
}

static void let_go(const struct tuning *t, float *host) {
    if (!t->backend->mem->host) free(host);
}

/* Importance times uncertainty of elements from, from + step, ...: the mean of n. */
static double mean_score(const float *mean, const float *spread, size_t from, int64_t n, int64_t step) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)mean[from + (size_t)(i * step)] * spread[from + (size_t)(i * step)];
    return n ? sum / (double)n : 0;
}

static void scores(const struct param_set *set, const float *mean, const float *spread, double *to) {
    struct triplets m;
    for (int i = 0; next_module(set, i, &m); i = m.b) {
        const struct param *a = &set->p[m.a], *e = &set->p[m.e], *b = &set->p[m.b];
        const int64_t r = e->d[0];
        for (int64_t k = 0; k < r; k++)
            *to++ = mean_score(mean, spread, e->off / 4 + (size_t)k, 1, 1) + mean_score(mean, spread, a->off / 4 + (size_t)(k * a->d[1]), a->d[1], 1) +
                    mean_score(mean, spread, b->off / 4 + (size_t)k, b->d[0], r);
    }
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* E times 0 where a triplet's score is at most the limit. The flags (NULL: not wanted) are 1 where it stays. */
static void prune(const struct param_set *set, const double *score, double limit, float *e, float *flags) {
    struct triplets m;
    for (int i = 0; next_module(set, i, &m); i = m.b) {
        const struct param *p = &set->p[m.e];
        const size_t at = (p->off - set->vectors) / 4;
        for (int64_t k = 0; k < p->d[0]; k++) {
            const bool stays = *score++ > limit;
            if (!stays) e[at + (size_t)k] = 0;
            if (flags) flags[at + (size_t)k] = stays;
        }
    }
}

/* `budget` triplets stay (fewer where scores are equal). */
static err allocate(const struct tuning *t, int64_t budget, bool for_good) {
    const struct param_set *set = t->set;
    struct triplets m;
    int64_t all = 0;
    for (int i = 0; next_module(set, i, &m); i = m.b) all += set->p[m.e].d[0];
    double *score = malloc((size_t)all * 2 * sizeof *score + 1), *sorted = score + all;
    float *mean = NULL, *spread = NULL, *e = NULL;
    err bad = score ? fetch(t, t->own[0], 0, &mean) : fail(E_MEMORY, "out of memory");
    if (!bad) bad = fetch(t, t->own[1], 0, &spread);
    if (!bad) bad = fetch(t, t->w, set->vectors, &e);
    if (!bad) {
        scores(set, mean, spread, score);
        memcpy(sorted, score, (size_t)all * sizeof *score);
        qsort(sorted, (size_t)all, sizeof *sorted, by_value);
        prune(set, score, all > budget ? sorted[all - budget - 1] : -1, e, for_good ? mean + set->vectors / 4 : NULL);
        bad = put_back(t, t->w, set->vectors, e);
    }
    if (!bad && for_good) bad = put_back(t, t->own[0], 0, mean);
    if (mean) let_go(t, mean);
    if (spread) let_go(t, spread);
    if (e) let_go(t, e);
    free(score);
    return bad;
}

/* What was pruned for good stays so. */
static err mask(const struct tuning *t) {
    const struct param_set *set = t->set;
    float *flags = NULL, *e = NULL;
    struct triplets m;
    err bad = fetch(t, t->own[0], set->vectors, &flags);
    if (!bad) bad = fetch(t, t->w, set->vectors, &e);
    for (int i = 0; !bad && next_module(set, i, &m); i = m.b)
        for (size_t at = (set->p[m.e].off - set->vectors) / 4, k = at; k < at + (size_t)set->p[m.e].d[0]; k++)
            if (flags[k] == 0) e[k] = 0;
    if (!bad) bad = put_back(t, t->w, set->vectors, e);
    if (flags) let_go(t, flags);
    if (e) let_go(t, e);
    return bad;
}

static int64_t budget_at(const struct adalora *a, const struct tuning *t) {
    const int64_t modules = modules_in(t->set), all = modules * a->init_r, target = modules * a->target_r;
    const double left = 1 - (double)(t->step - a->first) / (double)(a->total - a->last - a->first);
    return (int64_t)((double)(all - target) * (left * left * left) + (double)target);
}

static err after_step(const void *settings, const struct tuning *t) {
    const struct adalora *a = settings;
    const int64_t final = a->total - a->last;
    if (t->step > final) return mask(t);
    if (t->step < final) {
        const struct importance how = {a->beta1, a->beta2, t->grad_scale};
        TRY(t->backend->flat->importance(&how, &(struct importance_state){t->w, t->grad, t->own[0], t->own[1]}, (int64_t)(t->set->trained / 4), t->threads));
    }
    const bool due = t->step == final || (t->step > a->first && t->step % a->every == 0);
    return due ? allocate(t, budget_at(a, t), t->step == final) : OK;
}

/* --- finished adapters ---------------------------------------------------------------------------------------------------- */
/* Which triplets are left: those whose E is not zero, and the first where there is none. */
static err keep_module(const struct adalora *a, const struct numbers *n, const struct param *e, arena *mem, struct kept *k) {
    const char *name = e->slice->name;
    bool *yes = arena_alloc(mem, (size_t)a->init_r * sizeof *yes);
    *k = (struct kept){.module = arena_strn(mem, name, strlen(name) - strlen(E_END)), .yes = yes};
    if (!yes || !k->module) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < a->init_r; i++) k->rank += yes[i] = n->w[e->off / 4 + (size_t)i] != 0;
    if (!k->rank) yes[0] = true, k->rank = 1;
    return OK;
}

static err finished(const struct numbers *n, arena *mem, const void **out) {
    const struct adalora *a = n->settings;
    struct adalora *done = arena_alloc(mem, sizeof *done);
    struct kept *kept = arena_alloc(mem, (size_t)modules_in(n->set) * sizeof *kept + 1);
    if (!done || !kept) return fail(E_MEMORY, "out of memory");
    *done = *a;
    *out = done;
    if (a->n_kept) return OK; /* it was finished before */
    struct triplets m;
    int64_t left = 0, all = 0;
    for (int i = 0; next_module(n->set, i, &m); i = m.b) {
        const struct param *e = &n->set->p[m.e];
        for (int64_t k = 0; k < e->d[0]; k++) left += n->w[e->off / 4 + (size_t)k] != 0;
        all += e->d[0];
        TRY(keep_module(a, n, e, mem, &kept[done->n_kept++]));
    }
    done->kept = kept;
    if (!left || left == all) done->n_kept = 0; /* nothing was learnt yet, or nothing pruned */
    return OK;
}

static int param_named(const struct param_set *set, const char *name) {
    for (int i = 0; i < set->n; i++)
        if (!strcmp(set->p[i].name, name)) return i;
    return -1;
}

/* Where triplet k of all is among those that there are; -1: it is not. */
static int place_of(const struct kept *kept, int k) {
    int at = 0;
    for (int i = 0; i < k && kept; i++) at += kept->yes[i];
    return !kept ? k : kept->yes[k] ? at : -1;
}

static void adopt_module(const struct numbers *from, const struct triplets *f, const struct numbers *to, const struct triplets *t) {
    const struct param *const old[] = {&from->set->p[f->a], &from->set->p[f->e], &from->set->p[f->b]}, *const new[] = {&to->set->p[t->a], &to->set->p[t->e], &to->set->p[t->b]};
    char module[256];
    snprintf(module, sizeof module, "%.*s", (int)(strlen(old[1]->slice->name) - strlen(E_END)), old[1]->slice->name);
    const struct kept *had = kept_of(from->settings, module), *has_now = kept_of(to->settings, module);
    for (int k = 0; k < ((const struct adalora *)to->settings)->init_r; k++) {
        const int i = place_of(had, k), j = place_of(has_now, k);
        if (i < 0 || j < 0) continue;
        const float *a = from->w + old[0]->off / 4, *b = from->w + old[2]->off / 4;
        memcpy(to->w + new[0]->off / 4 + j * new[0]->d[1], a + i * old[0]->d[1], (size_t)new[0]->d[1] * sizeof *a);
        to->w[new[1]->off / 4 + (size_t)j] = from->w[old[1]->off / 4 + (size_t)i];
        for (int64_t o = 0; o < new[2]->d[0]; o++) to->w[new[2]->off / 4 + (size_t)(o * new[2]->d[1] + j)] = b[o * old[2]->d[1] + i];
    }
}

/* What lies beside the method (a head) is copied as it is. */
static void adopt(const struct numbers *from, const struct numbers *to) {
    memset(to->w, 0, to->set->bytes);
    for (int i = 0; i < to->set->n; i++) {
        const struct param *p = &to->set->p[i];
        const int at = param_named(from->set, p->name);
        if (at < 0) continue;
        if (str_ends(p->name, ".lora_A")) adopt_module(from, &(struct triplets){at, at + 1, at + 2}, to, &(struct triplets){i, i + 1, i + 2}), i += 2;
        else memcpy(to->w + p->off / 4, from->w + from->set->p[at].off / 4, (size_t)(p->d[0] * (p->nd > 1 ? p->d[1] : 1)) * sizeof *to->w);
    }
}

/* --- as a product of two matrices ---------------------------------------------------------------------------------------- */
static err pair(const struct numbers *n, const char *module, const struct matrix *w, arena *mem, struct pair *out) {
    char name[256];
    snprintf(name, sizeof name, "%s%s", module, E_END);
    const int at = param_of_slice(n->set, name);
    if (at < 0) return fail(E_INTERNAL, "%s has no AdaLoRA", module);
    const struct param *a = &n->set->p[at - 1], *e = &n->set->p[at], *b = &n->set->p[at + 1];
    const int64_t r = e->d[0], heads = b->slice->rope_heads;
    const float scale = (float)scale_of(n->settings);
    float *made = arena_alloc(mem, (size_t)(w->rows * r) * sizeof *made);
    if (!made) return fail(E_MEMORY, "out of memory");
    for (int64_t o = 0; o < w->rows; o++) {
        const float *row = n->w + b->off / 4 + r * (heads ? rope_row_in_pairs(o, w->rows / heads) : o);
        for (int64_t k = 0; k < r; k++) made[o * r + k] = row[k] * (scale * n->w[e->off / 4 + (size_t)k]);
    }
    *out = (struct pair){r, n->w + a->off / 4, made};
    return OK;
}

const struct peft_method method_adalora = {.name = "adalora",
                                           .peft_type = "ADALORA",
                                           .settings = sizeof(struct adalora),
                                           .check = check,
                                           .same = same,
                                           .read = read_json,
                                           .write = write_json,
                                           .agrees = agrees,
                                           .describe = describe,
                                           .targets = targets_of,
                                           .mark = ".lora_E",
                                           .linears = linears,
                                           .pair = pair,
                                           .states = 2,
                                           .before_step = before_step,
                                           .after_step = after_step,
                                           .finished = finished,
                                           .adopt = adopt};
