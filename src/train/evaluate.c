/* Evaluation and generation inside a run: the adapter that is asked for, in this run's memory. */
#include "train/run.h"
#include <string.h>

err generate_texts(struct run *r, int side, const struct ids *prompts, int n, int max_new, double temperature, uint64_t key,
                   struct generation *out, struct generate_stats *stats) {
    struct side *s = &r->side[side];
    struct generate_request rq = {.prompt = prompts, .n = n, .max_new = max_new, .eos = s->base->eos, .stop = r->evaluating ? r->stop : NULL};
    rq.run = (struct run_ctx){.seed = (uint64_t)r->cfg->seed,
                              .step = key,
                              .temperature = (float)temperature,
                              .top_p = (float)s->cfg->top_p,
                              .top_k = (int)s->cfg->top_k,
                              .threads = r->threads,
                              .int_activations = !r->evaluating && !strcmp(s->cfg->activations, "int15")};
    TRY(generate(&s->plans->gen, &r->wb.mem, s->learner.w, &rq, out, stats));
    if (!r->evaluating) phase_seen(r, PHASE_GENERATE);
    return OK;
}

err run_evaluate(struct run *r, const struct pairs *on, const char *tag, json_t **out) {
    json_t *j = json_pack("{s:s, s:I}", "tag", tag, "step", (json_int_t)r->step);
    if (!j) return fail(E_MEMORY, "out of memory");
    double t0 = seconds_now();
    r->evaluating = true;
    err e = r->objective->evaluate(r, on, j);
    r->evaluating = false;
    json_object_set_new(j, "seconds", json_real(seconds_now() - t0));
    if (e) json_decref(j);
    else *out = j;
    return e;
}
