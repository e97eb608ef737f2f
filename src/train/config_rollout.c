/* What is asked for between generating and training in a cycle (rollout.c) goes together. See config_internal.h. */
#include "train/config_internal.h"
#include <string.h>

err config_check_no_rollouts(const struct config *c) {
    const struct side_config *s = &c->side[0];
    const struct {
        bool asked;
        const char *name;
    } list[] = {{strcmp(s->filter_kind, "none") != 0, "filter.kind"}, {s->replay_size > 0, "replay.size"},
                {s->supervised_share > 0, "supervised.share"},        {s->denoise_share > 0, "denoise.share"},
                {s->curriculum_steps > 0, "curriculum.steps"},        {c->rollout_refresh > 1, "rollout_refresh"}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].asked)
            return fail(E_USAGE, "'%s' has no use with objective %s: nothing is generated while it trains", list[i].name, c->objective);
    return OK;
}

static err check_side(const struct config *c, const struct side_config *s, const char *name) {
    const bool judges = s->filter_logprob < 0 || s->filter_length_ratio > 0 || s->filter_copy_rate < 1;
    if (judges && !strcmp(s->filter_kind, "none"))
        return fail(E_USAGE, "'%s.filter' has limits that nothing heeds: set filter.kind to threshold or weight", name);
    if (s->filter_length_ratio > 0 && s->filter_length_ratio < 1)
        return fail(E_USAGE, "'%s.filter.length_ratio' is the longer text over the shorter one, so at least 1 (0 = any); found %g", name,
                    s->filter_length_ratio);
    if ((s->replay_size > 0) != (s->replay_share > 0))
        return fail(E_USAGE, "'%s.replay' wants both: size, of what is kept, and share, of a step's rows", name);
    if (s->supervised_share > 0 && !*c->warmup_pairs)
        return fail(E_USAGE, "'%s.supervised.share' takes pairs of 'warmup_pairs.data', which names no file", name);
    if (s->replay_share + s->supervised_share + s->denoise_share >= 1)
        return fail(
            E_USAGE,
            "'%s': the shares of replay (%g), supervised (%g) and denoise (%g) leave no row for the cycle: their sum must be below 1", name,
            s->replay_share, s->supervised_share, s->denoise_share);
    if (s->curriculum_steps > 0 && (s->curriculum_start < 1 || s->curriculum_end < s->curriculum_start))
        return fail(E_USAGE, "'%s.curriculum' wants 1 <= start <= end, found start %lld and end %lld", name, (long long)s->curriculum_start,
                    (long long)s->curriculum_end);
    if (!s->curriculum_steps && (s->curriculum_start || s->curriculum_end))
        return fail(E_USAGE, "'%s.curriculum' wants steps: until when texts are put off", name);
    return OK;
}

err config_check_rollouts(const struct config *c) {
    bool mixed = false;
    for (int i = 0; i < config_sides(c); i++) {
        TRY(check_side(c, &c->side[i], config_side_name(i)));
        mixed |= c->side[i].supervised_share > 0;
    }
    if (*c->warmup_pairs && !c->warmup_epochs && !mixed)
        return fail(E_USAGE, "'warmup_pairs.data' has no use: neither warmup_pairs.epochs nor supervised.share trains on them");
    return OK;
}
