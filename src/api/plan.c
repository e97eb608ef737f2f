/* Plans of the public API: what a run would take, before a weight is read, and what a memory limit leaves room for. */
#include "api/api.h"
#include "export/export.h"
#include "export/takers.h"
#include "train/run.h"

/* Has an adapter of this structure a place in the base's tensors? *rank: of the products that it adds to them, 0: it replaces them. */
static bool merges(const struct structure *st, int64_t *rank) {
    const struct peft_method *m = st->method;
    *rank = 0;
    if (st->head.classes || !m || !(m->deltas || m->pair || m->whole)) return false;
    for (int i = 0; i < st->params.n && !m->whole; i++) {
        const struct param *p = &st->params.p[i];
        const int64_t r = p->nd != 2 ? 0 : p->d[0] < p->d[1] ? p->d[0] : p->d[1];
        if (r > *rank) *rank = r;
    }
    return true;
}

/* `cyclora merge` afterwards, a process of its own on the processor: the last column of the table. */
static err add_merge(struct run *r, json_t *phases) {
    struct merge_plan p = {0};
    for (int i = 0; i < r->n_plans; i++) {
        struct merge_plan one;
        int64_t rank;
        if (!merges(&r->plans[i].st, &rank)) return OK;
        TRY(export_merge_plan(&r->plans[i].base->model, &r->plans[i].st, rank, &one));
        if (one.kept + one.write + one.check > p.kept + p.write + p.check) p = one;
    }
    const bool checking = p.check > p.write;
    const size_t more = checking ? p.check : p.write;
    json_t *lines = json_pack("{s:I, s:I}", checking ? "activations" : "file buffers", (json_int_t)more, "runtime", (json_int_t)p.kept);
    json_array_append_new(
        phases, json_pack("{s:s, s:o, s:I, s:b}", "name", "merge", "lines", lines, "total", (json_int_t)(p.kept + more), "apart", 1));
    return OK;
}

/* Of each side's adapter who will not serve it is told before it is trained, not when it is to be served. */
struct json_t *api_plan_json(struct run *r) {
    json_t *plan = run_plan_json(r, PLANNED), *side, *phases = json_object_get(plan, "phases");
    size_t i;
    json_array_foreach(json_object_get(plan, "sides"), i, side) {
        const struct structure *st = &r->side[i].plans->st;
        json_t *config = json_copy(json_object_get(side, "settings"));
        json_object_set_new(config, "peft_type", json_string(st->method->peft_type));
        if (st->head_module) json_object_set_new(config, "modules_to_save", json_pack("[s]", st->head_module));
        json_object_set_new(side, "not_served_by", takers_refusing(config));
        json_decref(config);
    }
    if (phases && add_merge(r, phases)) json_object_set_new(plan, "merge_unknown", json_string(err_text()));
    return (struct json_t *)plan;
}

/* Opens for a plan, and makes the JSON of it; solve: NULL, or what is to be solved for. */
static err plan_of(cyc_config *c, const char *solve, bool explain, json_t **out) {
    struct run r = {0};
    json_t *solved = NULL;
    err e = run_plan(&r, &c->c, &(struct plan_ask){.unlimited = solve != NULL});
    if (!e && solve) e = budget_solve(&r, solve, &solved);
    if (!e) *out = (json_t *)api_plan_json(&r);
    if (!e && solved) json_object_set_new(*out, "solved", solved);
    if (!e && explain) json_object_set_new(*out, "explain", explain_json(&r));
    run_close(&r);
    return e;
}

static int as_text(err e, json_t *j, char **json) { return e ? api_code(e) : api_json((struct json_t *)j, json); }

int cyc_plan(cyc_config *c, char **json) {
    json_t *j = NULL;
    *json = NULL;
    const err e = plan_of(c, NULL, false, &j);
    return as_text(e, j, json);
}

int cyc_plan_solve(cyc_config *c, const char *what, char **json) {
    json_t *j = NULL;
    *json = NULL;
    const err e = plan_of(c, what, false, &j);
    return as_text(e, j, json);
}

int cyc_explain(cyc_config *c, char **json) {
    json_t *j = NULL;
    *json = NULL;
    const err e = c ? plan_of(c, NULL, true, &j) : OK;
    if (!c) j = json_pack("{s:o}", "explain", explain_json(NULL));
    return as_text(e, j, json);
}

int cyc_plan_dump(cyc_config *c, char **text) {
    struct run r = {0};
    str s = {0};
    err e = run_plan(&r, &c->c, &(struct plan_ask){.unlimited = true});
    if (!e) run_dump(&r, &s);
    if (!e && s.failed) e = fail(E_MEMORY, "out of memory");
    run_close(&r);
    if (e) str_free(&s);
    *text = s.p;
    return api_code(e);
}
