/* Learning rates by step, with transformers' names and values (its get_*_schedule functions): constant, constant_with_warmup, linear, cosine,
 * cosine_with_min_lr, inverse_sqrt, warmup_stable_decay (WSD). */
#ifndef CYC_TRAIN_SCHEDULE_H
#define CYC_TRAIN_SCHEDULE_H
#include "base/err.h"
#include <stdint.h>

enum schedule {
    SCHEDULE_CONSTANT,
    SCHEDULE_CONSTANT_WITH_WARMUP,
    SCHEDULE_LINEAR,
    SCHEDULE_COSINE,
    SCHEDULE_COSINE_WITH_MIN_LR,
    SCHEDULE_INVERSE_SQRT,
    SCHEDULE_WSD
};
enum decay { DECAY_COSINE, DECAY_LINEAR, DECAY_1_SQRT };

struct curve {
    enum schedule schedule;
    int64_t warmup, total; /* steps: of linear warm-up, in all */
    int64_t decay_steps;   /* WSD: the last so many fall */
    double min_ratio;      /* WSD, cosine_with_min_lr: where they end, as a share of the peak */
    enum decay decay;      /* WSD: how they fall */
};
err schedule_parse(const char *name, enum schedule *out);
err decay_parse(const char *name, enum decay *out);
/* The factor on the peak rate for update `step` (0 is the first). */
double schedule_at(const struct curve *c, int64_t step);

#endif
