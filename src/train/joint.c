/* schedule: joint. Both directions of a cycle at once: one generation batch in which each row is written by its own adapter, then one training
 * pass over the rows of all sides, in which each row's low-rank products, forward and backward, are its adapter's (run_ctx.adapters). The base is
 * read once for all of them. What comes of it is, up to rounding, what a step of each side gives from the same weights; the alternating schedule
 * differs in that its second half is written by the adapter that the first has just updated.
 *
 * No program is another one: those that the sides share are told at run time whose a row is. That is enough where an adapter is nothing but the
 * A and B of linears. Whatever else of an adapter a program reads (a bias, a magnitude, rows of tokens) would be the first side's for all rows, so
 * joint_allowed() looks for it in the programs and refuses it by its name. Refused too: sides of different structure, that choose tokens
 * differently or have models of their own, rings of more than two, encoder-decoders, and what needs the gradient of one side at a time
 * (optimizer_in_bwd, check_accumulation).
 *
 * Memory: gradients of all sides at once, and in 16 bits their working copies. Called by run.c and cycle.c. */
#include "ops/ops.h"
#include "train/run.h"
#include <string.h>

bool run_joins(const struct run *r) { return !strcmp(r->cfg->schedule, "joint"); }

/* --- what it goes with -------------------------------------------------------------------------------------------------- */
_Static_assert((int)MAX_ADAPTERS >= (int)CONFIG_SIDES, "a run has room for every side's rows");

/* One batch has one way of choosing tokens. */
static err same_generation(const struct run *r) {
    const struct side_config *a = r->side[0].cfg;
    for (int k = 1; k < r->n_sides; k++) {
        const struct side_config *b = r->side[k].cfg;
        const char *other = a->max_new_tokens != b->max_new_tokens           ? "max_new_tokens"
                            : a->min_new_tokens != b->min_new_tokens         ? "min_new_tokens"
                            : a->repetition_penalty != b->repetition_penalty ? "generation.repetition_penalty"
                            : a->temperature != b->temperature               ? "generation.temperature"
                            : a->top_p != b->top_p                           ? "generation.top_p"
                            : a->top_k != b->top_k                           ? "generation.top_k"
                            : a->min_p != b->min_p                           ? "generation.min_p"
                            : strcmp(a->activations, b->activations) != 0    ? "generation.activations"
                                                                             : NULL;
        if (other)
            return fail(E_UNSUPPORTED,
                        "schedule: joint generates for all sides in one batch, and '%s' of sides %s and %s differ: make them alike, or say "
                        "schedule: alternating",
                        other, r->side[0].name, r->side[k].name);
    }
    return OK;
}

err joint_open(const struct run *r) {
    if (!run_joins(r)) return OK;
    if (r->n_bases > 1)
        return fail(E_UNSUPPORTED, "schedule: joint reads one base for all sides, and here they have %d: say schedule: alternating",
                    r->n_bases);
    if (r->base[0].model.family->seq2seq)
        return fail(E_UNSUPPORTED, "schedule: joint is for decoders so far, and %s is an encoder-decoder (%s): say schedule: alternating",
                    r->base[0].model.path, model_arch(&r->base[0].model));
    if (r->cfg->optimizer_in_bwd)
        return fail(E_USAGE,
                    "schedule: joint has the gradients of all sides at once, which optimizer_in_bwd never has: leave one of them out");
    if (r->cfg->check_accumulation)
        return fail(E_USAGE, "check_accumulation compares one side's gradients, and schedule: joint makes those of all at once: check with "
                             "schedule: alternating");
    for (int k = 0; k < r->n_sides; k++)
        if (r->side[k].next != r->side[k].from)
            return fail(
                E_UNSUPPORTED,
                "schedule: joint is for cycles of two sides, back and forth; side %s is in a ring of more: say schedule: alternating",
                r->side[k].name);
    return same_generation(r);
}

/* A's and B's places among the operands. */
static bool is_low_rank(const struct inst *i, int k) {
    if (i->op == &op_linear) return k >= LIN_A && k < LIN_B + MAX_GROUP;
    return i->op == &op_linear_bwd && k >= LB_A && k < LB_B + MAX_GROUP;
}

/* The first parameter that a program reads otherwise; NULL: none. */
static const char *read_otherwise(const struct prog *p) {
    for (int i = 0; i < p->ni; i++)
        for (int k = 0; k < p->in[i].op->n_in; k++) {
            const val v = p->in[i].in[k];
            if (has(v) && prog_v(p, v)->role == ROLE_PARAM && !is_low_rank(&p->in[i], k)) return prog_v(p, v)->name;
        }
    return NULL;
}

err joint_allowed(const struct run *r) {
    if (!run_joins(r)) return OK;
    if (r->n_plans > 1)
        return fail(
            E_UNSUPPORTED,
            "schedule: joint is for adapters of one structure, and those of sides %s and %s differ (method, rank, scale, dropout or "
            "modules): make them alike, or say schedule: alternating",
            r->side[0].name, r->side[1].name);
    const char *other = read_otherwise(&r->plans[0].train.p);
    if (!other) return OK;
    return fail(
        E_UNSUPPORTED,
        "schedule: joint is for adapters that are low-rank products of linear layers alone, and method %s also has %s: say schedule: "
        "alternating",
        r->plans[0].st.method->name, other);
}

/* --- a step ---------------------------------------------------------------------------------------------------------------- */
struct crowd joint_crowd(const struct run *r) {
    struct crowd of = {.n = r->n_sides};
    for (int k = 0; k < of.n; k++) of.weights[k] = r->side[k].learner.w;
    return of;
}

/* In f16 there is one loss scale in a pass: the least that a side has come to. */
static void share_scale(struct run *r) {
    double least = r->side[0].learner.scaler.scale;
    for (int k = 1; k < r->n_sides; k++)
        if (r->side[k].learner.scaler.scale < least) least = r->side[k].learner.scaler.scale;
    for (int k = 0; k < r->n_sides; k++) r->side[k].learner.scaler.scale = least;
}

err joint_gradient(struct run *r, const struct crowd *of, const struct row *const *rows, uint64_t step, double sums[][4]) {
    const struct plans *p = r->side[0].plans;
    share_scale(r);
    struct rows_run x = {.program = &p->train, .of = *of, .grad = r->wb.grad, .rows = rows};
    x.run = (struct run_ctx){
        .seed = (uint64_t)r->cfg->seed, .step = step, .threads = r->wb.threads, .loss_scale = (float)r->side[0].learner.scaler.scale};
    TRY(r->backend->mem->fill(r->wb.grad, 0, (size_t)of->n * p->st.params.trained));
    TRY(rows_run(&r->wb, &x));
    memcpy(sums, x.sums, (size_t)of->n * sizeof *sums);
    return OK;
}

err joint_step(struct run *r, const struct crowd *of, const struct row *const *rows, uint64_t step, struct step_result *out) {
    double sums[MAX_ADAPTERS][4];
    TRY(joint_gradient(r, of, rows, step, sums));
    for (int k = 0, i = 0; k < of->n; k++) {
        struct step_sums all = {.grad = r->wb.grad + (size_t)k * r->side[k].plans->st.params.trained / sizeof(float), .step = step};
        memcpy(all.sums, sums[k], sizeof all.sums);
        for (; i < of->end[k]; i++) all.tokens += rows[i]->n;
        if (all.tokens) TRY(learner_update(&r->side[k].learner, &r->wb, &all, &out[k]));
    }
    return OK;
}
