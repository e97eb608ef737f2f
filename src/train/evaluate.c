/* Evaluation and generation inside a run: the adapter that is asked for, in this run's memory. */
#include "train/run.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sampling side_sampling(const struct side_config *c, double temperature) {
    return (struct sampling){.penalty = (float)c->repetition_penalty,
                             .min_new = (int)c->min_new_tokens,
                             .temperature = (float)temperature,
                             .top_k = (int)c->top_k,
                             .top_p = (float)c->top_p,
                             .min_p = (float)c->min_p};
}

static struct beaming beaming_of(const struct config *c) {
    static const char *const word[] = {[BEAM_HEURISTIC] = "false", [BEAM_EARLY] = "true", [BEAM_NEVER] = "never"};
    struct beaming b = {.length_penalty = (float)c->eval_length_penalty};
    while (strcmp(word[b.stopping], c->eval_early_stopping) != 0) b.stopping++; /* one of these, by config.def */
    return b;
}

static struct generate_request request(const struct run *r, const struct side *s, const struct ids *prompts, int n) {
    struct generate_request rq = {.prompt = prompts,
                                  .n = n,
                                  .max_new = (int)s->cfg->max_new_tokens,
                                  .eos = s->base->eos,
                                  .beaming = beaming_of(r->cfg),
                                  .stop = r->evaluating ? r->stop : NULL};
    rq.run = (struct run_ctx){.seed = (uint64_t)r->cfg->seed,
                              .sampling = side_sampling(s->cfg, s->cfg->temperature),
                              .threads = r->threads,
                              .int_activations = !r->evaluating && !strcmp(s->cfg->activations, "int15")};
    return rq;
}

err generate_texts(struct run *r, int side, const struct ids *prompts, int n, int max_new, double temperature, uint64_t key,
                   struct generation *out, struct generate_stats *stats) {
    const struct side *s = &r->side[side];
    const struct generator *gen = r->evaluating && s->plans->beam.choosing.beams ? &s->plans->beam : &s->plans->gen;
    struct generate_request rq = request(r, s, prompts, n);
    rq.max_new = max_new, rq.run.sampling.temperature = (float)temperature, rq.run.step = key;
    TRY(generate(gen, &r->wb.mem, s->learner.w, &rq, out, stats));
    if (!r->evaluating) phase_seen(r, PHASE_GENERATE);
    return OK;
}

err generate_texts_of_all(struct run *r, const struct ids *prompts, const struct crowd *of, uint64_t key, struct generation *out) {
    struct generate_request rq = request(r, &r->side[0], prompts, of->end[of->n - 1]);
    rq.run.step = key;
    rq.crowd = of;
    TRY(generate(&r->side[0].plans->gen, &r->wb.mem, NULL, &rq, out, NULL));
    phase_seen(r, PHASE_GENERATE);
    return OK;
}

const struct program *rows_scorer(const struct run *r, const struct side *s) {
    return r->objective->heading ? &s->plans->beneath : &s->plans->score;
}

err rows_figures(struct run *r, const struct side *s, const struct rows *rows, json_t *to) {
    const struct row **list = malloc((size_t)rows->n * sizeof *list);
    double sums[4];
    if (!list) return fail(E_MEMORY, "out of memory");
    struct teacher *t = &r->teacher;
    const struct program *score = rows_scorer(r, s);
    for (int i = 0; i < rows->n; i++) list[i] = &rows->r[i];
    t->heard[0] = t->heard[1] = 0;
    err e = rows_loss(score, &r->wb, s->learner.w, list, rows->n, sums);
    free(list);
    if (e) return e;
    const bool taught = score->lesson; /* then the sums are of the distance from the teacher */
    const double loss = taught ? t->heard[0] / t->heard[1] : sums[0] / sums[1];
    json_object_update_new(
        to, json_pack("{s:f, s:f, s:f, s:i}", "loss", loss, "perplexity", exp(loss), "accuracy", sums[2] / sums[1], "rows", rows->n));
    if (taught && answers_know(&t->answers, rows)) json_object_set_new(to, "kl", json_real(sums[0] / sums[1]));
    if (rows->text_bytes)
        json_object_set_new(to, "bits_per_byte", json_real(loss / log(2) * (double)rows->text_tokens / (double)rows->text_bytes));
    return OK;
}

err run_evaluate(struct run *r, const struct pairs *on, const char *tag, json_t **out) {
    json_t *j = json_pack("{s:s, s:I}", "tag", tag, "step", (json_int_t)r->step);
    if (!j) return fail(E_MEMORY, "out of memory");
    double t0 = seconds_now();
    r->evaluating = true;
    err e = r->objective->evaluate(r, on, j);
    if (!e) e = guards_evaluate(r, j);
    r->evaluating = false;
    json_object_set_new(j, "seconds", json_real(seconds_now() - t0));
    if (e) json_decref(j);
    else *out = j;
    return e;
}
