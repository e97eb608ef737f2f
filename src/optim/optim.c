/* The table of optimizers, and the two ways through a parameter set. See optim.h. */
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
    for (int i = z->states(how, set, state) - 1; i >= 0; i--) bytes += state[i].bytes;
    return bytes;
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
    const size_t from = *at ? *at * sizeof(float) : o->first, last = o->end ? o->end : o->set->trained;
    if (from >= last) return false;
    const struct param_stretch t = param_stretch(o->set, from);
    const size_t end = t.end < last ? t.end : last;
    const size_t in = (from - o->first) / sizeof(float);
    *out = (struct optim_stretch){from / 4,  (int64_t)(end - from) / 4, o->w + in,
                                  o->g + in, o->lr * (double)t.rate,    t.vectors ? 0 : o->how->weight_decay};
    *at = end / sizeof(float);
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

struct optim_walk optim_walk(const struct param_set *set) {
    return (struct optim_walk){.set = set, .stretch = set->trained ? param_stretch(set, 0) : (struct param_stretch){0}};
}

/* Stretches lie in the arena's order, the parameters of one in that of their making. */
bool optim_next(struct optim_walk *w, struct optim_tensor *out) {
    const struct param_set *set = w->set;
    while (w->from < set->trained) {
        for (; w->param < set->n; w->param++, w->slice = 0) {
            const struct param *p = &set->p[w->param];
            if (p->off < w->from || p->off >= w->stretch.end) continue;
            const bool parts = p->nd > 1 && sliced(p);
            if (w->slice >= (parts ? p->n_slices : 1)) continue;
            const int64_t columns = p->nd > 1 ? p->d[1] : 0, rows = parts ? p->slice[w->slice].rows : p->d[0];
            const int64_t row0 = parts ? p->slice[w->slice].row0 : 0;
            *out = (struct optim_tensor){.at = p->off / sizeof(float) + (size_t)(row0 * columns),
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
        if (w->from < set->trained) w->stretch = param_stretch(set, w->from);
    }
    return false;
}
