/* See schedule.h; the formulas are those of transformers' get_*_schedule functions. */
#include "train/schedule.h"
#include "base/str.h"
#include <math.h>
#include <string.h>

enum { TIMESCALE = 10000 /* of inverse_sqrt without warm-up, in steps */ };

static const char *const names[] = {"constant",     "constant_with_warmup", "linear", "cosine", "cosine_with_min_lr",
                                    "inverse_sqrt", "warmup_stable_decay",  NULL};
static const char *const decays[] = {"cosine", "linear", "1-sqrt", NULL};

/* The place of `name` in a list, as an error of `key` where it has none. */
static err find(const char *key, const char *name, const char *const *list, int *out) {
    for (*out = 0; list[*out]; ++*out)
        if (!strcmp(name, list[*out])) return OK;
    const char *near = str_nearest(name, list);
    return fail(E_USAGE, "%s '%s' is not known%s%s", key, name, near ? "; did you mean " : "", near ? near : "");
}

err schedule_parse(const char *name, enum schedule *out) {
    int at;
    TRY(find("lr_scheduler_type", name, names, &at));
    return *out = (enum schedule)at, OK;
}

err decay_parse(const char *name, enum decay *out) {
    int at;
    TRY(find("lr_scheduler_kwargs.decay_type", name, decays, &at));
    return *out = (enum decay)at, OK;
}

static double at_least(double x, double ratio) { return x * (1 - ratio) + ratio; }
static double half_wave(double done) { return 0.5 * (1 + cos(3.14159265358979323846 * done)); }

static double stable_decay(const struct curve *c, int64_t step) {
    const int64_t stable = c->total - c->warmup - c->decay_steps, falling = step - c->warmup - stable;
    if (falling < 0) return 1;
    if (falling >= c->decay_steps) return c->min_ratio;
    const double done = (double)falling / (double)c->decay_steps;
    return at_least(c->decay == DECAY_LINEAR ? 1 - done : c->decay == DECAY_1_SQRT ? 1 - sqrt(done) : half_wave(done), c->min_ratio);
}

double schedule_at(const struct curve *c, int64_t step) {
    if (c->schedule == SCHEDULE_CONSTANT) return 1;
    if (step < c->warmup) {
        const double up = (double)step / (double)(c->warmup > 1 ? c->warmup : 1);
        return c->schedule == SCHEDULE_WSD ? at_least(up, c->min_ratio) : up;
    }
    const double rest = (double)(c->total - c->warmup > 1 ? c->total - c->warmup : 1), done = (double)(step - c->warmup) / rest;
    switch (c->schedule) {
    case SCHEDULE_LINEAR: return done < 1 ? 1 - done : 0;
    case SCHEDULE_COSINE: return done < 1 ? half_wave(done) : 0;
    case SCHEDULE_COSINE_WITH_MIN_LR: return at_least(done < 1 ? half_wave(done) : 0, c->min_ratio);
    case SCHEDULE_INVERSE_SQRT: {
        const double scale = (double)(c->warmup ? c->warmup : TIMESCALE);
        return 1 / sqrt(((double)step + scale - (double)c->warmup) / scale);
    }
    case SCHEDULE_WSD: return stable_decay(c, step);
    default: return 1;
    }
}
