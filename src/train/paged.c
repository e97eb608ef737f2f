/* The step of an adapter whose states lie in the host's memory while it waits (offload_optimizer: idle). It goes over the weights a page at
 * a time (optim_page): while the states of the next page are on their way to the card those of the one before are on their way back
 * (mem_ops.set_out, a way each), so that the card needs two slots of the largest page, at the end of the arena of activations.
 *
 * Nobody needs that arena between a backward pass and the next forward: the slots take memory only where they are larger than all of it.
 * An update in the backward pass (fused.c) finds them behind what that pass has in use. Pages and their order hang on the configuration
 * alone, and a step by pages is the step of the whole to the bit, since pages end where the optimizer's own look ends. Called by learner.c,
 * and by recipe.c for the plan. */
#include "train/learner.h"
#include <string.h>

enum { ALIGNED = 256 };

static size_t room_of(size_t bytes) { return (bytes + ALIGNED - 1) & ~(size_t)(ALIGNED - 1); }

/* What the largest page of a part wants. */
static size_t largest(const struct recipe *r, struct optim_part part) {
    const struct optimizer *z = recipe_optimizer(r);
    const struct optim_settings how = recipe_settings(r);
    size_t most = 0;
    for (const size_t end = part.end; part.first < end; part.first = part.end) {
        struct optim_state state[OPTIM_STATES];
        size_t bytes = 0;
        part.end = end;
        part.end = optim_page(z, &part, r->page);
        for (int i = z->states(&how, &part, state) - 1; i >= 0; i--) bytes += room_of(state[i].bytes);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* A step is of all parameters, or of one. */
size_t paged_room(const struct recipe *r, const struct param_set *set) {
    if (!r->page) return 0;
    size_t most = largest(r, optim_whole(set));
    for (int i = 0; i < set->n; i++) {
        const struct param *p = &set->p[i];
        const size_t own = p->frozen ? 0 : largest(r, (struct optim_part){set, p->off, param_end(p)});
        if (own > most) most = own;
    }
    return 2 * most;
}

struct page {
    struct optim_part of;
    int n;
    struct optim_state host[OPTIM_STATES], here[OPTIM_STATES];
};

/* What a step has still to go over. */
struct rest {
    struct optim_part of;
    struct optim_state state[OPTIM_STATES];
    int n;
};

/* The first page of the rest, and its states' places in a slot. */
static void turn_to(struct page *p, const struct learner *l, struct rest *rest, char *slot) {
    p->of = rest->of;
    p->of.end = rest->of.first = optim_page(l->optim, &rest->of, l->recipe.page);
    p->n = optim_states_take(l->optim, &l->how, &p->of, rest->state, rest->n, p->host);
    for (int i = 0; i < p->n; i++) {
        p->here[i] = p->host[i];
        p->here[i].p = slot;
        slot += room_of(p->host[i].bytes);
    }
}

static err bring(const struct mem_ops *mem, const struct page *p) {
    for (int i = 0; i < p->n; i++) TRY(mem->set_out(WAY_HERE, p->here[i].p, p->host[i].p, p->host[i].bytes));
    return OK;
}

static err send(const struct mem_ops *mem, const struct page *p) {
    for (int i = 0; i < p->n; i++) TRY(mem->set_out(WAY_HOST, p->host[i].p, p->here[i].p, p->host[i].bytes));
    return OK;
}

static err step(const struct learner *l, const struct optim_step *whole, struct page *p) {
    struct optim_step o = *whole;
    o.of = p->of;
    o.g = whole->g + (p->of.first - whole->of.first) / sizeof(float);
    o.state = p->here, o.states = p->n;
    return learner_take_here(l, &o);
}

/* Each copy sets out behind all that was launched before it: the next page's behind the step of this one and behind the way back of the one
 * before, which had its slot. The last goes back by a download, which waits for all of them: from then on the host may read. */
err paged_take(const struct learner *l, const struct workbench *b, const struct optim_step *o) {
    const struct mem_ops *mem = l->backend->mem;
    char *slots = b->mem.act + ((b->mem.act_bytes - l->slots) & ~(size_t)(ALIGNED - 1));
    struct page page[2], *now = page;
    struct rest rest = {.of = o->of, .n = o->states};
    memcpy(rest.state, o->state, (size_t)o->states * sizeof *rest.state);
    turn_to(now, l, &rest, slots);
    TRY(bring(mem, now));
    for (int k = 1;; k ^= 1) {
        TRY(mem->await(WAY_HERE));
        TRY(step(l, o, now));
        if (now->of.end == o->of.end) break;
        TRY(mem->await(WAY_HOST));
        turn_to(&page[k], l, &rest, slots + (size_t)k * (l->slots / 2));
        TRY(bring(mem, &page[k]));
        TRY(send(mem, now));
        now = &page[k];
    }
    for (int i = 0; i < now->n; i++) TRY(mem->download(now->host[i].p, now->here[i].p, now->host[i].bytes));
    return OK;
}
