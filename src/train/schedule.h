/* Learning rates by step, with transformers' names and values: constant, constant_with_warmup, linear, cosine. */
#ifndef CYC_TRAIN_SCHEDULE_H
#define CYC_TRAIN_SCHEDULE_H
#include "base/err.h"
#include <stdint.h>

enum schedule { SCHEDULE_CONSTANT, SCHEDULE_CONSTANT_WITH_WARMUP, SCHEDULE_LINEAR, SCHEDULE_COSINE };
err schedule_parse(const char *name, enum schedule *out);
/* The factor on the peak rate for update `step` (0 is the first) of `total`, with `warmup` steps of linear warm-up. */
double schedule_at(enum schedule s, int64_t step, int64_t warmup, int64_t total);

#endif
