/* Several adapters on one model as one handle (peft/mix.h has what they do to each other). Each is read as it would be alone, with all its
 * checks; together they are a structure of method_mix, whose numbers are copies of theirs.
 *
 * All that can ever be on lies in that one arena from the start, so that to switch, of whatever method they are, is to write weights and to say who is
 * on: no number moves, no parameter is laid down anew. Whether those that are on go together is found where a program of them is built: here for the
 * first ones, at the next run for others. */
#include "api/api.h"
#include "peft/mix.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)CYC_MOST_MEMBERS == (int)MAX_MEMBERS, "the public limit is the op's");

struct part {
    arena mem;
    struct structure st;
    float *numbers; /* on the host, until the common arena is filled */
    const char *name;
    float weight;
    bool weighs; /* any weight, row by row; else 0 or 1 for all */
    bool sums;   /* its products have a place among the members whether it is on or not */
    int at;      /* among the members; -1: not there */
};

struct mixed {
    int n;
    struct part part[MAX_MEMBERS];
    struct mix mix; /* the structure's settings */
    struct mix_member member[MAX_MEMBERS];
    float weights[MAX_MEMBERS];
    uint32_t on; /* a bit for each part: as the structure was last turned */
};

_Static_assert(MAX_MEMBERS <= 32, "a bit for each");

/* --- the structure ------------------------------------------------------------------------------------------------------- */
static bool is_on(uint32_t on, int i) { return on >> i & 1; }

/* The members while these are on. */
static void list_members(struct mixed *x, uint32_t on) {
    x->mix = (struct mix){0, x->member, x->weights};
    for (int i = 0; i < x->n; i++) {
        struct part *p = &x->part[i];
        p->at = -1;
        if (!p->sums && !is_on(on, i)) continue;
        p->at = x->mix.n;
        x->weights[p->at] = p->weight;
        x->member[x->mix.n++] = (struct mix_member){p->name, p->st.method, p->st.settings, &p->st.params, p->numbers, !is_on(on, i)};
    }
    x->on = on;
}

static err add(cyc_adapter *a, uint32_t on) {
    list_members(a->mix, on);
    return structure_add(&a->st, &a->model->m, &a->mix->mix);
}

/* All parameters that any of the parts has, whatever is on: what lies in a stack depends on no other part, what a part has beside is its own. */
static err lay_down(cyc_adapter *a) {
    const struct mixed *x = a->mix;
    uint32_t weigh = 0;
    structure_begin(&a->st, &a->model->m, &method_mix, NULL);
    for (int i = 0; i < x->n; i++) weigh |= (uint32_t)x->part[i].weighs << i;
    if (weigh) TRY(add(a, weigh));
    for (int i = 0; i < x->n; i++)
        if (!x->part[i].weighs) TRY(add(a, 1u << i));
    return OK;
}

static void numbers_free(struct part *p) {
    if (p->numbers) arena_f32_free(p->numbers, p->st.params.bytes);
    p->numbers = NULL;
}

void api_mixed_free(struct mixed *x) {
    for (int i = 0; x && i < x->n; i++) {
        struct part *p = &x->part[i];
        numbers_free(p);
        structure_free(&p->st);
        arena_free(&p->mem);
    }
    free(x);
}

static err fill(cyc_adapter *a) {
    param_seal(&a->st.params);
    float *numbers = arena_f32(a->st.params.bytes);
    if (!numbers) return fail(E_MEMORY, "out of memory");
    err e = param_fill(&a->st.params, 0, numbers);
    if (e) arena_f32_free(numbers, a->st.params.bytes);
    for (int i = 0; i < a->mix->n; i++) numbers_free(&a->mix->part[i]);
    return e ? e : api_adapter_place(a, numbers);
}

/* --- weights ------------------------------------------------------------------------------------------------------------- */
static err whole_batch(const struct part *p) {
    return fail(E_USAGE, "adapter '%s' (%s) is on or off for the whole batch: its weight is 1 or 0, the same in each row", p->name,
                p->st.method->name);
}

static err check_rows(const struct mixed *x, const float *weight, int n) {
    for (int r = 0; r < n; r++)
        for (int i = 0; i < x->n; i++, weight++) {
            if (!isfinite(*weight)) return fail(E_USAGE, "row %d: the weight of adapter '%s' is not a number", r + 1, x->part[i].name);
            if (!x->part[i].weighs && *weight != x->part[i].weight) return whole_batch(&x->part[i]);
        }
    return OK;
}

/* Who is on: for all rows, or for any that has weights of its own. */
static uint32_t who_is_on(const struct mixed *x, const float *weight, int n) {
    uint32_t on = 0;
    for (int i = 0; i < x->n; i++) {
        bool any = x->part[i].weight != 0;
        if (weight && x->part[i].weighs) any = false;
        for (int r = 0; r < n && weight; r++) any |= weight[r * x->n + i] != 0;
        on |= (uint32_t)any << i;
    }
    return on;
}

static err weights_of_rows(const struct mixed *x, const float *weight, int n, float **out) {
    float *w = *out = calloc((size_t)n * (size_t)x->mix.n + 1, sizeof *w);
    for (int r = 0; w && r < n; r++)
        for (int i = 0; i < x->n; i++)
            if (x->part[i].at >= 0) w[r * x->mix.n + x->part[i].at] = weight[r * x->n + i];
    return w ? OK : fail(E_MEMORY, "out of memory");
}

err api_adapter_ready(cyc_adapter **a, const float *weight, int n, float **rows) {
    struct mixed *x = *a ? (*a)->mix : NULL;
    if (rows) *rows = NULL;
    if (!x) return weight ? fail(E_USAGE, "rows have weights of several adapters, but there are not several (cyc_mix_open)") : OK;
    if (weight) TRY(check_rows(x, weight, n));
    const uint32_t on = who_is_on(x, weight, n);
    if (!on) return *a = NULL, OK;
    if (on != x->on) {
        list_members(x, on);
        err e = structure_turn(&(*a)->st, &(*a)->model->m, &x->mix);
        if (e) return x->on = 0, e;
    }
    return weight ? weights_of_rows(x, weight, n, rows) : OK;
}

static err set_weight(struct mixed *x, int i, float weight) {
    struct part *p = &x->part[i];
    if (!isfinite(weight)) return fail(E_USAGE, "the weight of adapter '%s' is not a number", p->name);
    if (!p->weighs && weight != 0 && weight != 1) return whole_batch(p);
    p->weight = weight;
    if (p->at >= 0) x->weights[p->at] = weight;
    return OK;
}

static err several(const cyc_adapter *a) { return a->mix ? OK : fail(E_USAGE, "this adapter is one, not several (cyc_mix_open)"); }

int cyc_mix_weight(cyc_adapter *a, int index, float weight) {
    err e = several(a);
    if (!e && (index < 0 || index >= a->mix->n)) e = fail(E_USAGE, "there is no adapter %d: there are %d", index, a->mix->n);
    return api_code(e ? e : set_weight(a->mix, index, weight));
}

int cyc_mix_index(const cyc_adapter *a, const char *name, int *index) {
    err e = several(a);
    if (e) return api_code(e);
    str known = {0};
    for (int i = 0; i < a->mix->n; i++) {
        if (!strcmp(a->mix->part[i].name, name)) return str_free(&known), *index = i, CYC_OK;
        str_addf(&known, "%s%s", i ? ", " : "", a->mix->part[i].name);
    }
    e = fail(E_USAGE, "no adapter is called '%.80s' (there are: %s)", name, known.p);
    str_free(&known);
    return api_code(e);
}

/* --- opening --------------------------------------------------------------------------------------------------------------- */
static err open_part(cyc_adapter *a, const cyc_member *m) {
    struct mixed *x = a->mix;
    struct part *p = &x->part[x->n];
    for (int i = 0; i < x->n; i++)
        if (!strcmp(x->part[i].name, m->name)) return fail(E_USAGE, "two adapters are called '%s': give each a name of its own", m->name);
    p->at = -1;
    x->n++; /* from here on it is freed with the others */
    if (!(p->name = arena_str(&p->mem, m->name))) return fail(E_MEMORY, "out of memory");
    TRY(api_adapter_read(a->model, m->folder, &p->mem, &p->st, &p->numbers));
    if (p->st.head.classes) return fail(E_UNSUPPORTED, "adapter '%s' holds a head: it does not go with others", p->name);
    TRY(mix_takes(p->st.method, p->name));
    p->weighs = mix_weighs(p->st.method, p->st.settings);
    p->sums = mix_sums(p->st.method, p->st.settings);
    return set_weight(x, x->n - 1, m->weight);
}

int cyc_mix_open(cyc_model *m, const cyc_member *member, int n, cyc_adapter **out) {
    *out = NULL;
    if (!m->weights) return api_code(fail(E_USAGE, "this handle is a tokenizer alone"));
    if (n < 1 || n > MAX_MEMBERS) return api_code(fail(E_USAGE, "%d adapters at once; there may be 1 to %d", n, MAX_MEMBERS));
    cyc_adapter *a = calloc(1, sizeof *a);
    struct mixed *x = calloc(1, sizeof *x);
    err e = a && x ? OK : fail(E_MEMORY, "out of memory");
    if (!e) a->model = m, a->mix = x;
    for (int i = 0; i < n && !e; i++) e = open_part(a, &member[i]);
    if (!e) e = lay_down(a);
    const uint32_t on = e ? 0 : who_is_on(x, NULL, 0);
    if (on) e = add(a, on);
    if (!e) e = fill(a);
    if (!e) return *out = a, CYC_OK;
    if (a && a->mix) cyc_adapter_close(a);
    else free(a), free(x);
    return api_code(e);
}
