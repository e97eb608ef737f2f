/* The table of optimizers, states by parts, and the two ways through a part. See optim.h. */
#include "optim/optim.h"
#include <string.h>

static const struct optimizer *const optimizers[] = {
#define OPTIMIZER(name) &optimizer_##name,
#include "optim/optimizers.def"
#undef OPTIMIZER
};
enum { N_OPTIMIZERS = sizeof optimizers / sizeof *optimizers };

const struct optimizer *optimizer_find(const char *name) {
    for (int i = 0; i < N_OPTIMIZERS; i++)
        if (!strcmp(optimizers[i]->name, name)) return optimizers[i];
    return NULL;
}

void optimizer_names(str *out) {
    for (int i = 0; i < N_OPTIMIZERS; i++) str_addf(out, "%s%s", i ? ", " : "", optimizers[i]->name);
}

size_t optim_bytes(const struct optimizer *z, const struct optim_settings *how, const struct param_set *set) {
    struct optim_state state[OPTIM_STATES];
    size_t bytes = 0;
    for (int i = optim_states(z, how, set, state) - 1; i >= 0; i--) bytes += state[i].bytes;
    return bytes;
}

int optim_states(const struct optimizer *z, const struct optim_settings *how, const struct param_set *set, struct optim_state *out) {
    const struct optim_part all = optim_whole(set);
    const int n = z->states(how, &all, out);
    for (int i = 0; i < n; i++) {
        const size_t unit = dtype_row_bytes(out[i].dt, 1);
        out[i].bytes = (out[i].bytes + unit - 1) / unit * unit;
    }
    return n;
}

int optim_states_take(const struct optimizer *z, const struct optim_settings *how, const struct optim_part *part, struct optim_state *from,
                      int n, struct optim_state *out) {
    const int own = z->states(how, part, out);
    for (int i = 0; i < own; i++)
        for (int k = 0; k < n; k++) {
            if (strcmp(from[k].name, out[i].name) != 0) continue;
            out[i].p = from[k].p;
            from[k].p = (char *)from[k].p + out[i].bytes;
        }
    return own;
}

size_t optim_page(const struct optimizer *z, const struct optim_part *of, size_t most) {
    const size_t cut = of->end - of->first > most ? of->first + most : of->end;
    if (z->elementwise || cut == of->end) return cut;
    size_t last = of->first, next = of->end; /* starts of parameters: the last one up to the cut, the first one behind it */
    for (int i = 0; i < of->set->n; i++) {
        const size_t off = of->set->p[i].off;
        if (off <= cut && off > last) last = off;
        if (off > cut && off < next) next = off;
    }
    return last > of->first ? last : next;
}

struct cost optim_cost(const struct optimizer *z, const struct optim_settings *how, const struct param_set *set) {
    struct cost c = z->beyond ? z->beyond(how, set) : (struct cost){0};
    const size_t weights = set->narrow ? param_weight_bytes(set) : set->trained;
    c.bytes += (double)set->trained + 2.0 * (double)(weights + optim_bytes(z, how, set));
    return c;
}

int optim_list(struct optim_state *out, int n, const char *name, dtype dt, size_t bytes) {
    if (!bytes) return n;
    out[n] = (struct optim_state){.name = name, .dt = dt, .bytes = bytes};
    return n + 1;
}

/* Weight decay is for matrices: a norm's weight, a bias, a scale have no reason to be near 0 (transformers' Trainer leaves norms and biases
 * out too). */
bool optim_stretch(const struct optim_step *o, size_t *at, struct optim_stretch *out) {
    const size_t from = o->of.first + *at * sizeof(float);
    if (from >= o->of.end) return false;
    const struct param_stretch t = param_stretch(o->of.set, from);
    const size_t n = ((t.end < o->of.end ? t.end : o->of.end) - from) / sizeof(float);
    *out = (struct optim_stretch){*at, (int64_t)n, o->w + *at, o->g + *at, o->lr * (double)t.rate, t.vectors ? 0 : o->how->weight_decay};
    *at += n;
    return true;
}

/* Do the slices follow each other from the first row to the last? Else the parameter is one tensor. */
static bool sliced(const struct param *p) {
    int64_t row = 0;
    for (int i = 0; i < p->n_slices; i++) {
        if (p->slice[i].row0 != row || p->slice[i].rows < 1) return false;
        row += p->slice[i].rows;
    }
    return row == p->d[0];
}

struct optim_walk optim_walk(const struct optim_part *of) {
    const bool some = of->first < of->end;
    return (struct optim_walk){
        .of = *of, .stretch = some ? param_stretch(of->set, of->first) : (struct param_stretch){0}, .from = of->first};
}

/* Stretches lie in the arena's order, the parameters of one in that of their making. */
bool optim_next(struct optim_walk *w, struct optim_tensor *out) {
    const struct param_set *set = w->of.set;
    while (w->from < w->of.end) {
        for (; w->param < set->n; w->param++, w->slice = 0) {
            const struct param *p = &set->p[w->param];
            if (p->off < w->from || p->off >= w->stretch.end || p->off >= w->of.end) continue;
            const bool parts = p->nd > 1 && sliced(p);
            if (w->slice >= (parts ? p->n_slices : 1)) continue;
            const int64_t columns = p->nd > 1 ? p->d[1] : 0, rows = parts ? p->slice[w->slice].rows : p->d[0];
            const int64_t row0 = parts ? p->slice[w->slice].row0 : 0;
            *out = (struct optim_tensor){.at = (p->off - w->of.first) / sizeof(float) + (size_t)(row0 * columns),
                                         .rows = rows,
                                         .columns = columns,
                                         .n = rows * (columns ? columns : 1),
                                         .turned = p->n_slices && p->slice[0].turned,
                                         .of_layer = strstr(p->name, "blk.") != NULL,
                                         .rate = w->stretch.rate};
            w->slice++;
            return true;
        }
        w->param = 0;
        w->from = w->stretch.end;
        if (w->from < w->of.end) w->stretch = param_stretch(set, w->from);
    }
    return false;
}
