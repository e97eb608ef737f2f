/* What is learnt of a row, and of what its loss is made, against the objective. See config_internal.h. */
#include "train/config_internal.h"
#include <string.h>

err config_check_loss(const struct config *c) {
    const bool regression = !strcmp(c->objective, "regression"), heads = config_has_head(c), text = !strcmp(c->objective, "text"),
               cycles = !strcmp(c->objective, "macct") || !strcmp(c->objective, "dmcct");
    const char *idle = c->label_smoothing > 0 ? "label_smoothing_factor" : c->z_loss > 0 ? "z_loss" : NULL;
    if (regression && idle) return fail(E_USAGE, "'%s' has no use with objective regression, whose loss is a squared error", idle);
    if ((heads || cycles || text) && strcmp(c->loss_on, "answers") != 0)
        return fail(E_USAGE, "'loss_on' has no use with objective %s: it is about conversations and prompts with completions (sft)",
                    c->objective);
    if (heads && c->neftune_alpha > 0 && c->features_once && !strcmp(c->side[0].method, "none"))
        return fail(E_USAGE, "'neftune_noise_alpha' has no use with method none, whose base reads each text once: leave it out, or set "
                             "features.once: false");
    return OK;
}
