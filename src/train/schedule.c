/* See schedule.h; the formulas are those of transformers' get_*_schedule functions. */
#include "train/schedule.h"
#include "base/str.h"
#include <math.h>
#include <string.h>

static const char *const names[] = {"constant", "constant_with_warmup", "linear", "cosine", NULL};

err schedule_parse(const char *name, enum schedule *out) {
    for (int i = 0; names[i]; i++)
        if (!strcmp(name, names[i])) return *out = (enum schedule)i, OK;
    const char *near = str_nearest(name, names);
    return fail(E_USAGE, "lr_scheduler_type '%s' is not known%s%s (constant, constant_with_warmup, linear, cosine)", name,
                near ? "; did you mean " : "", near ? near : "");
}

double schedule_at(enum schedule s, int64_t step, int64_t warmup, int64_t total) {
    if (s == SCHEDULE_CONSTANT) return 1;
    if (step < warmup) return (double)step / (double)(warmup > 1 ? warmup : 1);
    if (s == SCHEDULE_CONSTANT_WITH_WARMUP) return 1;
    double rest = (double)(total - warmup > 1 ? total - warmup : 1), done = (double)(step - warmup) / rest;
    if (s == SCHEDULE_LINEAR) return done < 1 ? 1 - done : 0;
    return done < 1 ? 0.5 * (1 + cos(3.14159265358979323846 * done)) : 0;
}
