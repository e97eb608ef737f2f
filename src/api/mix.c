/* Several adapters on one model as one handle (peft/mix.h has what they do to each other). Each is read as it would be alone, with all its
 * checks; together they are a structure of method_mix, whose numbers are copies of theirs.
 *
 * Adapters with weights are always in the structure, so that to switch is to write a number. The others are in it while they are on: the
 * next run after a change lays it down anew. */
#include "api/api.h"
#include "peft/mix.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)CYC_MOST_MEMBERS == (int)MAX_MEMBERS, "the public limit is the op's");

struct part {
    arena mem;
    struct structure st;
    float *numbers; /* on the host */
    const char *name;
    float weight;
    bool weighs; /* any weight, row by row; else 0 or 1 for all */
    int at;      /* in the structure; -1: not there */
};

struct mixed {
    int n;
    struct part part[MAX_MEMBERS];
    struct mix mix; /* the structure's settings */
    struct mix_member member[MAX_MEMBERS];
    float weights[MAX_MEMBERS];
};

void api_mixed_free(struct mixed *x) {
    for (int i = 0; x && i < x->n; i++) {
        struct part *p = &x->part[i];
        if (p->numbers) arena_f32_free(p->numbers, p->st.params.bytes);
        structure_free(&p->st);
        arena_free(&p->mem);
    }
    free(x);
}

/* --- the structure ------------------------------------------------------------------------------------------------------- */
static bool wanted(const struct part *p) { return p->weighs || p->weight != 0; }

static void let_go(cyc_adapter *a) {
    if (a->w) api_backend(a->model)->mem->give(a->w, a->st.params.bytes);
    structure_free(&a->st);
    a->w = NULL;
    a->st = (struct structure){0};
    for (int i = 0; i < a->mix->n; i++) a->mix->part[i].at = -1;
}

static err lay_down(cyc_adapter *a) {
    struct mixed *x = a->mix;
    let_go(a);
    x->mix = (struct mix){0, x->member, x->weights};
    for (int i = 0; i < x->n; i++) {
        struct part *p = &x->part[i];
        if (!wanted(p)) continue;
        p->at = x->mix.n;
        x->weights[p->at] = p->weight;
        x->member[x->mix.n++] = (struct mix_member){p->name, p->st.method, p->st.settings, &p->st.params, p->numbers};
    }
    if (!x->mix.n) return OK;
    err e = structure_init(&a->st, &a->model->m, &method_mix, &x->mix, NULL);
    if (e) return let_go(a), e;
    float *numbers = arena_f32(a->st.params.bytes);
    e = numbers ? param_fill(&a->st.params, 0, numbers) : fail(E_MEMORY, "out of memory");
    if (!e) e = api_adapter_place(a, numbers);
    else if (numbers) arena_f32_free(numbers, a->st.params.bytes);
    if (e) let_go(a);
    return e;
}

err api_adapter_ready(cyc_adapter **a, bool rows) {
    if (!*a || !(*a)->mix) return OK;
    const struct mixed *x = (*a)->mix;
    bool on = false, as_wanted = true;
    for (int i = 0; i < x->n; i++) {
        on |= x->part[i].weight != 0;
        as_wanted &= wanted(&x->part[i]) == (x->part[i].at >= 0);
    }
    if (!as_wanted) TRY(lay_down(*a));
    if ((!on && !rows) || !x->mix.n) *a = NULL;
    return OK;
}

/* --- weights ------------------------------------------------------------------------------------------------------------- */
static err whole_batch(const struct part *p) {
    return fail(E_USAGE, "adapter '%s' (%s) is on or off for the whole batch: its weight is 1 or 0, the same in each row", p->name,
                p->st.method->name);
}

err api_row_weights(const cyc_adapter *a, const float *weight, int n, float **out) {
    *out = NULL;
    if (!weight) return OK;
    if (!a || !a->mix) return fail(E_USAGE, "rows have weights of several adapters, but there are not several (cyc_mix_open)");
    const struct mixed *x = a->mix;
    float *w = *out = calloc((size_t)n * (size_t)x->mix.n + 1, sizeof *w);
    if (!w) return fail(E_MEMORY, "out of memory");
    for (int r = 0; r < n; r++)
        for (int i = 0; i < x->n; i++, weight++) {
            const struct part *p = &x->part[i];
            if (!p->weighs && *weight != p->weight) return whole_batch(p);
            if (!isfinite(*weight)) return fail(E_USAGE, "row %d: the weight of adapter '%s' is not a number", r + 1, p->name);
            if (p->at >= 0) w[r * x->mix.n + p->at] = *weight;
        }
    return OK;
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
    if (!e) return *out = a, CYC_OK;
    if (a && a->mix) cyc_adapter_close(a);
    else free(a), free(x);
    return api_code(e);
}
