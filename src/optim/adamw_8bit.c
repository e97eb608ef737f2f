/* AdamW with both moments in 8 bits (Dettmers et al. 2022), as bitsandbytes' AdamW8bit: a byte of an element for each, and an f32 number for
 * each block of 256. Tensors of fewer than 4096 elements (its min_8bit_size) keep f32 moments, and so does every vector (bitsandbytes rounds
 * those of 4096 elements and more). Blocks begin at the start of each tensor of the files, so they are bitsandbytes' blocks.
 *
 * States lie one tensor after the other, without gaps: codes, the blocks' numbers, and the f32 moments of the rest. Neighbours in the arena whose
 * blocks end where they end are one launch. Called through its row of optimizers.def. */
#include "optim/adamw.h"

enum { LEAST = 4096 };

/* So many tensors as one: of one kind, next to each other. */
struct span {
    size_t at;
    int64_t n;
    float rate;
    bool coded, vector;
};
/* Where its states lie: floats, codes and blocks of what comes before. */
struct place {
    int64_t floats, codes, blocks;
};

static bool coded(const struct optim_tensor *t) { return t->columns && t->n >= LEAST; }

static bool joins(const struct span *s, const struct optim_tensor *t) {
    return s->at + (size_t)s->n == t->at && s->rate == t->rate && s->vector == !t->columns && s->coded == coded(t) &&
           (!s->coded || s->n % STATE_BLOCK == 0);
}

static void pass(struct place *p, const struct span *s) {
    if (s->coded) p->codes += s->n, p->blocks += state_blocks(s->n);
    else p->floats += s->n;
}

/* The next span; `t` is the tensor that has been looked at and not taken (n 0: none). */
static bool next_span(struct optim_walk *w, struct optim_tensor *t, struct span *s) {
    if (!t->n && !optim_next(w, t)) return false;
    *s = (struct span){t->at, t->n, t->rate, coded(t), !t->columns};
    for (t->n = 0; optim_next(w, t) && joins(s, t); t->n = 0) s->n += t->n;
    return true;
}

static int states(const struct optim_settings *how, const struct optim_part *of, struct optim_state *out) {
    (void)how;
    struct optim_walk w = optim_walk(of);
    struct optim_tensor t = {0};
    struct span s;
    struct place p = {0};
    while (next_span(&w, &t, &s)) pass(&p, &s);
    int n = optim_list(out, 0, "state1", DT_I32, (size_t)p.codes);
    n = optim_list(out, n, "state2", DT_I32, (size_t)p.codes);
    n = optim_list(out, n, "absmax1", DT_F32, (size_t)p.blocks * sizeof(float));
    n = optim_list(out, n, "absmax2", DT_F32, (size_t)p.blocks * sizeof(float));
    n = optim_list(out, n, "exp_avg", DT_F32, (size_t)p.floats * sizeof(float));
    return optim_list(out, n, "exp_avg_sq", DT_F32, (size_t)p.floats * sizeof(float));
}

/* The state arenas by what they hold; those that a set has no use for are not listed. */
struct arenas {
    uint8_t *codes[2];
    float *most[2], *moment[2];
};

static struct arenas arenas_of(const struct optim_step *o) {
    struct optim_state list[OPTIM_STATES];
    struct arenas a = {0};
    const int n = states(o->how, &o->of, list);
    const int coded_states = n == 2 ? 0 : 4; /* of the small ones alone */
    for (int i = 0; i < coded_states; i++) {
        if (i < 2) a.codes[i] = o->state[i].p;
        else a.most[i - 2] = o->state[i].p;
    }
    for (int i = coded_states; i < n; i++) a.moment[i - coded_states] = o->state[i].p;
    return a;
}

static err step(const struct optim_step *o) {
    const struct arenas a = arenas_of(o);
    struct optim_walk w = optim_walk(&o->of);
    struct optim_tensor t = {0};
    struct span s;
    for (struct place p = {0}; next_span(&w, &t, &s); pass(&p, &s)) {
        const struct adamw k = adamw_of_step(o, o->lr * (double)s.rate, s.vector ? 0 : o->how->weight_decay);
        float *x = o->w + s.at;
        const float *g = o->g + s.at;
        const struct adamw_8bit_state small = {
            x, g, a.codes[0] + p.codes, a.codes[1] + p.codes, a.most[0] + p.blocks, a.most[1] + p.blocks};
        const struct adamw_state whole = {x, a.moment[0] + p.floats, a.moment[1] + p.floats, g};
        TRY(s.coded ? o->backend->flat->adamw_8bit(&k, &small, s.n, o->threads) : o->backend->flat->adamw(&k, &whole, s.n, o->threads));
    }
    return OK;
}

static void describe(const struct optim_settings *how, str *out) {
    (void)how, str_adds(out, "AdamW, two states in 8 bits, a number for each block of 256; small tensors and vectors in f32");
}

const struct optimizer optimizer_adamw_8bit = {.name = "adamw_8bit", .states = states, .step = step, .describe = describe};
