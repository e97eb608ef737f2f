/* A step on weights that are kept in bf16 (core/params.h, narrow): a piece at a time becomes f32 in scratch, the optimizer takes its step there as it
 * always does, and what comes of it is rounded back, at random unless told otherwise. So no optimizer and none of its kernels knows of it; what a
 * piece passes through is small enough for a cache. Vectors are f32 in such an arena and are stepped in place.
 *
 * Only optimizers whose step may be of a part of the arena (elementwise); the caller has refused the others. Which way a number is rounded
 * hangs on its place in the arena and the step, so pieces, threads and updates in the backward pass (train/fused.c) give the same bits. */
#include "optim/optim.h"
#include <string.h>

enum { PIECE = 1 << 19 /* floats */ };

size_t narrow_scratch(const struct param_set *set) { return set->vectors < PIECE * sizeof(float) ? set->vectors : PIECE * sizeof(float); }

/* Byte of the arena of f32, in an arena whose matrices are bf16. */
static char *place(const struct optim_step *o, size_t at) {
    const size_t vectors = o->of.set->vectors;
    return (char *)o->w + (at < vectors ? at / 2 : vectors / 2 + at - vectors);
}

/* `left`: the states from here on. */
static err piece_step(const struct optimizer *z, const struct optim_step *whole, const struct optim_rounding *r, struct optim_state *left,
                      size_t from, size_t end) {
    const struct flat_ops *flat = whole->backend->flat;
    const bool matrix = from < whole->of.set->vectors;
    const int64_t n = (int64_t)((end - from) / sizeof(float));
    uint16_t *kept = (uint16_t *)place(whole, from);
    struct optim_state state[OPTIM_STATES];
    struct optim_step o = *whole;
    o.of.first = from, o.of.end = end;
    o.states = optim_states_take(z, o.how, &o.of, left, whole->states, state);
    o.w = matrix ? whole->scratch : (float *)kept;
    o.g = whole->g + (from - whole->of.first) / sizeof(float);
    o.state = state;
    if (matrix) TRY(flat->widen(kept, o.w, n, o.threads));
    TRY(z->step(&o));
    if (!matrix) return OK;
    if (r->nearest) return flat->cast(o.w, kept, DT_BF16, n, o.threads);
    return flat->round(&(struct rounding){r->key, (uint64_t)o.t, from / sizeof(float)}, o.w, kept, n, o.threads);
}

err narrow_step(const struct optimizer *z, const struct optim_step *o, const struct optim_rounding *r) {
    const size_t last = o->of.end, vectors = o->of.set->vectors;
    struct optim_state left[OPTIM_STATES];
    memcpy(left, o->state, (size_t)o->states * sizeof *left);
    for (size_t from = o->of.first, end; from < last; from = end) {
        end = last - from < PIECE * sizeof(float) || from >= vectors ? last : from + PIECE * sizeof(float);
        if (from < vectors && end > vectors) end = vectors;
        TRY(piece_step(z, o, r, left, from, end));
    }
    return OK;
}
