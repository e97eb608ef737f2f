/* See derived.h. */
#include "model/derived.h"
#include <stdio.h>

struct derived_part {
    struct derived_part *next;
    const struct weight *w;
    struct derivation how;
    bool there;
    _Alignas(16) float out[];
};

static struct derived_part *find_or_add(struct derived *n, const struct weight *w, const struct derivation *d) {
    for (struct derived_part *p = n->first; p; p = p->next)
        if (p->w == w && p->how.make == d->make && p->how.floats == d->floats && p->how.rank == d->rank &&
            p->how.iterations == d->iterations)
            return p;
    struct derived_part *p = arena_alloc(&n->mem, sizeof *p + d->floats * sizeof *p->out);
    if (!p) return NULL;
    *p = (struct derived_part){.next = n->first, .w = w, .how = *d};
    n->bytes += d->floats * sizeof *p->out;
    return n->first = p;
}

const float *derived_place(struct site *s, const struct linear *w, const struct derivation *d) {
    const struct model *m = s->model;
    char name[96];
    snprintf(name, sizeof name, "%s.weight", w->of.name);
    const struct weight *matrix = model_weight(m, name);
    if (!matrix) return prog_fail(s->p, E_INTERNAL, "tensor %s is missing", name), NULL;
    struct derived_part *p = find_or_add(m->derived, matrix, d);
    if (!p) return prog_fail(s->p, E_MEMORY, "out of memory while building a program"), NULL;
    return p->out;
}

err derived_fill(struct derived *n, const struct residents *base) {
    for (struct derived_part *p = n->first; p; p = p->next) {
        const struct matrix w = {p->w->name, p->w->dt, p->w->data, p->w->d[0], p->w->d[1]};
        if (!p->there && base->make) TRY(base->make(base->ctx, w.data));
        if (!p->there) TRY(p->how.make(&w, &p->how, p->out));
        p->there = true;
    }
    return OK;
}

void derived_free(struct derived *n) {
    arena_free(&n->mem);
    *n = (struct derived){0};
}
