/* `cyclora data prepare`: see prepare.c. */
#ifndef CYC_CLI_PREPARE_H
#define CYC_CLI_PREPARE_H
#include "args.h"
#include <stdint.h>

struct prepare { /* what is asked for beside the files, the first of which is the recipe */
    const char *out, *names;
    uint64_t seed;
    double warm, dev, test; /* shares */
};
/* files: RECIPE IN...; field and model as `data` has them, NULL where they were not given. Returns the exit status. */
int data_prepare(const struct prepare *p, const struct arg_list *files, const char *field, const char *model, bool json);

#endif
