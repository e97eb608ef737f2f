/* `cyclora eval --task`: a task with zero, few and no examples before it, by the base and by adapters, in one table. Used by eval. */
#ifndef CYC_CLI_SHOTS_H
#define CYC_CLI_SHOTS_H
#include "args.h"
#include <stdint.h>

struct shots_ask {
    const char *model, *task, *shot_data, *shots, *draw, *text, *choice, *target, *description, *device, *dtype;
    struct arg_list adapter; /* on the model for every row */
    struct arg_list compare; /* a row each */
    struct arg_list until;
    int max_new, limit, batch;
    uint64_t seed;
    bool chat, json;
};
int eval_task(const struct shots_ask *q);   /* the exit status */
bool shots_asks(const struct shots_ask *q); /* anything that has no meaning without a task */

#endif
