/* distill: a student learns what a teacher (teacher.h) would write, on the rows that sft has. A row's loss is
 *
 *     (1 - alpha) * cross-entropy of its label + alpha * (T^2 * D(teacher, student at T) + hidden * mean square of the rows' difference)
 *
 * with D as `distill.loss` says (op head_loss has the formulas). Evaluations say the student's loss and perplexity as sft does, and
 * "kl", which is KL(teacher || student) at temperature 1 whatever is trained.
 *
 * With distill.on_policy a share of each step's rows has answers that the student writes there and then, from the row's prompt (of a
 * conversation all before its last answer), as on-policy distillation has it (GKD, Agarwal et al. 2023): it learns where it goes
 * itself, not where the data go. A share need not be whole rows: it is right over all steps. Nothing of them is kept, so a run that
 * resumes has the same ones.
 *
 * The student is the run's model with any method. Called by the loop (run.h). */
#include "train/one_side.h"
#include <math.h>
#include <stdlib.h>

static err make(struct run *r, struct source *from, struct rows *to) {
    return rows_sft(r->base[0].tok, from, (int)r->side[0].cfg->max_length, to); /* no encoder-decoder comes so far (teacher.c) */
}

/* What comes before a row's last answer; a token at least. */
static int prompt_of(const struct row *r) {
    int n = r->n;
    while (n && !r->supervised[n - 1]) n--;
    while (n && r->supervised[n - 1]) n--;
    return n ? n : 1;
}

/* Rows that the student writes are as long as it may make them, within max_length. */
static err make_room(struct run *r) {
    struct side *s = &r->side[0];
    const int new = (int)s->cfg->max_new_tokens, most = (int)s->cfg->max_length;
    if (s->rows.stream) return fail(E_USAGE, "'distill.on_policy' needs to know all prompts before it begins: set streaming: false");
    for (int i = 0; i < s->rows.n; i++) {
        const int prompt = prompt_of(&s->rows.r[i]), longest = prompt + new + 1 < most ? prompt + new + 1 : most;
        if (longest > s->longest) s->longest = longest;
        if (prompt + new > r->cap.length) r->cap.length = prompt + new;
    }
    return OK;
}

static err load(struct run *r) {
    TRY(data_open(r, r->side[0].cfg, WANT_SFT, false, &r->side[0].source));
    TRY(one_side_load(r, &(struct row_maker){WANT_SFT, "rows", make, NULL}));
    return r->cfg->distill_on_policy > 0 ? make_room(r) : OK;
}

/* How many of a step's n rows the student writes. */
static int share_of(const struct run *r, int n) {
    const double each = n * r->cfg->distill_on_policy;
    return (int)(floor((double)(r->step + 1) * each + 1e-9) - floor((double)r->step * each + 1e-9));
}

/* [prompt][what was written][EOS, where it ended], within max_length. */
static err add_row(const struct run *r, struct rows *to, const struct ids *prompt, struct generation *g) {
    const int most = (int)r->side[0].cfg->max_length - (int)prompt->n;
    int n = g->n;
    if (g->stopped) {
        int32_t *ids = realloc(g->ids, (size_t)(n + 1) * sizeof *ids);
        if (!ids) return fail(E_MEMORY, "out of memory");
        g->ids = ids, ids[n++] = r->base[0].eos;
    }
    return rows_add(to, prompt->v, prompt->n, g->ids, (size_t)(n < most ? n : most));
}

/* The first rows of a step, which are in no order, get answers of the student's. */
static err write_answers(struct run *r, const struct row **rows, int all, struct step_info *info) {
    struct rows *made = &r->teacher.made;
    const int n = share_of(r, all);
    struct ids *prompt = calloc((size_t)n + 1, sizeof *prompt);
    struct generation *out = calloc((size_t)n + 1, sizeof *out);
    const double t0 = seconds_now();
    err e = prompt && out ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n && !e; i++) prompt[i] = (struct ids){rows[i]->ids, (size_t)prompt_of(rows[i]), 0};
    const struct side_config *c = r->side[0].cfg;
    if (!e && n) e = generate_texts(r, 0, prompt, n, (int)c->max_new_tokens, c->temperature, (uint64_t)r->step, out, NULL);
    rows_free(made);
    for (int i = 0; i < n && !e; i++) info->generated += out[i].n, e = add_row(r, made, &prompt[i], &out[i]);
    for (int i = 0; i < n; i++) {
        if (!e) rows[i] = &made->r[i];
        if (out) free(out[i].ids);
    }
    free(prompt);
    free(out);
    info->generate_s = seconds_now() - t0;
    return e;
}

static err step(struct run *r, struct step_info *info) {
    struct teacher *t = &r->teacher;
    struct step_result *q = &info->side[0];
    const double alpha = r->cfg->distill_alpha;
    t->heard[0] = t->heard[1] = 0;
    TRY(one_side_step_on(r, info, r->cfg->distill_on_policy > 0 ? write_answers : NULL));
    q->taught = true;
    q->ce = t->heard[0] / t->heard[1];
    q->kd = (q->loss - (1 - alpha) * q->ce) / alpha;
    return OK;
}

const struct objective objective_distill = {.name = "distill", .sides = 1, .load = load, .step = step, .evaluate = one_side_evaluate};
