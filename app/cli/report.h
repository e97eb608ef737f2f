/* How the objects that the library returns as JSON look on paper: the plan, the sums that explain it, an evaluation, the milestones of a run.
 * Fields that are missing are left out. Used by train, plan and eval. */
#ifndef CYC_CLI_REPORT_H
#define CYC_CLI_REPORT_H
#include <jansson.h>
#include <stdbool.h>

void report_run(const json_t *plan);         /* model and sides, a line each */
void report_servers(const json_t *plan); /* who will not serve what is about to be trained; nothing where nobody refuses */
void report_memory(const json_t *plan);      /* the memory table, planned and (where there) measured, and its sums */
void report_phases(const json_t *plan, bool chart); /* what each phase has in use, the phase with the most, and a chart of that */
void report_forecast(const json_t *plan);    /* the least time of a step, and (where there) the measured one */
void report_profile(const json_t *profile);  /* where the time of the profiled steps went, op by op; to stderr, beside the result */
void report_explain(const json_t *explain, const char *topic); /* the static sums, of the example and (where there) of the run; or one topic's */
void report_eval(const json_t *eval);        /* one evaluation with its samples */
void report_milestones(const json_t *evals); /* before, after, test: one under the other */
/* Is this number of a side what a comparison is about? Perplexity says what the loss says; of tokens the accuracy is none of a task's. */
bool report_compares(const json_t *side, const char *name, const json_t *number);

#endif
