/* distill: a student learns what a teacher (teacher.h) would write, on the rows that sft has. A row's loss is
 *
 *     (1 - alpha) * cross-entropy of its label + alpha * T^2 * D(teacher, student at temperature T)
 *
 * with D as `distill.loss` says (op head_loss has the formulas). Evaluations say the student's loss and perplexity as sft does, and "kl", which is
 * KL(teacher || student) at temperature 1 whatever is trained.
 *
 * The student is the run's model with any method. Called by the loop (run.h). */
#include "train/one_side.h"
#include <math.h>
#include <stdlib.h>

static err make(struct run *r, struct source *from, struct rows *to) {
    return rows_sft(r->base[0].tok, from, (int)r->side[0].cfg->max_length, to);
}

static err load(struct run *r) {
    TRY(data_open(r, r->side[0].cfg, WANT_SFT, false, &r->side[0].source));
    return one_side_load(r, &(struct row_maker){WANT_SFT, "rows", make});
}

static err step(struct run *r, struct step_info *info) {
    struct teacher *t = &r->teacher;
    struct step_result *q = &info->side[0];
    const double alpha = r->cfg->distill_alpha;
    t->heard[0] = t->heard[1] = 0;
    TRY(one_side_step(r, info));
    q->taught = true;
    q->ce = t->heard[0] / t->heard[1];
    q->kd = (q->loss - (1 - alpha) * q->ce) / alpha;
    return OK;
}

static err evaluate(struct run *r, const struct pairs *on, json_t *out) {
    struct teacher *t = &r->teacher;
    double sums[4];
    const int n = on->rows[0].n;
    if (!n) return OK;
    t->heard[0] = t->heard[1] = 0;
    TRY(one_side_loss(r, &on->rows[0], sums));
    const double loss = t->heard[0] / t->heard[1];
    json_object_set_new(out, "sides",
                        json_pack("[{s:s, s:f, s:f, s:f, s:f, s:i}]", "name", "", "loss", loss, "perplexity", exp(loss), "kl",
                                  sums[0] / sums[1], "accuracy", sums[2] / sums[1], "rows", n));
    return OK;
}

const struct objective objective_distill = {.name = "distill", .sides = 1, .load = load, .step = step, .evaluate = evaluate};
