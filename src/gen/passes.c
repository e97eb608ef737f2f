/* See passes.h. */
#include "gen/passes.h"
#include <stdlib.h>

int pass_tokens(const struct model *m) { return m->shape.context < PASS_TOKENS ? (int)m->shape.context : PASS_TOKENS; }

struct capacity pass_capacity(const struct model *m) {
    const int cap = pass_tokens(m);
    return (struct capacity){cap, cap / PASS_FEWEST + 1, 0, 0, DT_F32, DT_NONE, 0};
}

err pass_open(struct text_pass *p, int cap) {
    const size_t each = (size_t)(cap + 1);
    *p = (struct text_pass){.cap = cap, .ids = calloc(5 * each, sizeof *p->ids), .weight = calloc(each, sizeof *p->weight)};
    if (!p->ids || !p->weight) return fail(E_MEMORY, "out of memory");
    p->pos = p->ids + each, p->sample = p->pos + each, p->cu = p->sample + each, p->label = p->cu + each;
    return OK;
}

void pass_close(struct text_pass *p) {
    free(p->ids);
    free(p->weight);
    *p = (struct text_pass){0};
}

struct feed pass_feed(const struct text_pass *p) {
    return (struct feed){
        .ids = p->ids, .pos = p->pos, .cu = p->cu, .sample = p->sample, .label = p->label, .weight = p->weight, .n = p->n, .s = p->s};
}

static void add_row(struct text_pass *p, const int32_t *ids, int n) {
    for (int i = 0; i < n; i++, p->n++) {
        p->ids[p->n] = ids[i];
        p->pos[p->n] = i;
        p->sample[p->n] = p->s;
        p->label[p->n] = i + 1 < n ? ids[i + 1] : 0;
        p->weight[p->n] = i + 1 < n;
    }
    p->cu[++p->s] = p->n;
}

static err run_one(struct text_pass *p, const struct pass_run *r) {
    if (r->stop && *r->stop) return fail(E_INTERRUPTED, "interrupted while %s", r->doing);
    TRY(r->run(r->ctx, p));
    p->n = p->s = 0;
    return OK;
}

err passes_run(struct text_pass *p, const struct ids *text, int n, int64_t most, const struct pass_run *r) {
    for (int k = 0; k < n; k++)
        for (int64_t at = 0, rest; (rest = (int64_t)text[k].n - at) >= PASS_FEWEST && most >= PASS_FEWEST;) {
            int take = (int)(rest < p->cap ? rest : p->cap);
            if (take > most) take = (int)most;
            if (p->n + take > p->cap) TRY(run_one(p, r));
            add_row(p, text[k].v + at, take);
            at += take, most -= take;
        }
    return p->n ? run_one(p, r) : OK;
}
