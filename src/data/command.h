/* A user's own command as part of a run: JSONL in, JSONL out (base/pipe.h).
 *
 *   processor  {"text": what was generated, "source": what it was generated from}  ->  {"text": what is to stand in its place}
 *              one line for one line, in order. The command stays for the whole run: it must not keep answers back (python -u, flush).
 *   metric     {"source", "hypothesis", "reference", "direction"} for each row of an evaluation, then the input ends  ->  one object of
 *              names and numbers. It is started for each direction of each evaluation.
 *
 * Refused, with the row where there is one: a command that ends, is silent for longer than `timeout`, answers too few or too many lines,
 * or says something that is not what is wanted (a number must be finite; booleans and texts are none). All of that is E_IO, a failure
 * and not bad input. With `skip` it is a warning: texts stay as they were written, numbers are left out, and the next batch starts the
 * command anew. Called by evaluation and the cycles (train). */
#ifndef CYC_DATA_COMMAND_H
#define CYC_DATA_COMMAND_H
#include "base/pipe.h"
#include <jansson.h>

struct command {      /* zeroed but for the first four, it has not been started */
    const char *line; /* for the shell */
    const char *what; /* "processor of side A", for messages */
    double timeout;   /* seconds */
    bool skip;
    struct pipe pipe;
    bool open;
};
/* text[n] are replaced (malloc'd strings); those that could not be stay. */
err command_process(struct command *c, char **text, const char *const *source, int n);
struct command_rows {
    const char *const *source, *const *hyp, *const *ref;
    const char *direction;
    int n;
};
/* *numbers: an object of reals, to be released; NULL where it was skipped. */
err command_measure(struct command *c, const struct command_rows *rows, json_t **numbers);
void command_close(struct command *c);

#endif
