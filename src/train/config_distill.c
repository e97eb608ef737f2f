/* What is asked of a teacher goes together, and with objective distill alone. See config_internal.h. */
#include "train/config_internal.h"
#include <string.h>

static err check_others(const struct config *c) {
    const struct {
        bool asked;
        const char *name;
    } list[] = {{*c->teacher_model, "teacher.model"},         {*c->teacher_adapter, "teacher.adapter"},
                {*c->teacher_tokenizer, "teacher.tokenizer"}, {*c->distill_cache, "distill.cache"},
                {c->distill_top_k > 0, "distill.top_k"},      {c->distill_on_policy > 0, "distill.on_policy"},
                {c->distill_hidden > 0, "distill.hidden"}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].asked)
            return fail(E_USAGE, "'%s' has no use with objective %s: it is for objective distill", list[i].name, c->objective);
    return OK;
}

err config_check_distill(const struct config *c) {
    if (strcmp(c->objective, "distill") != 0) return check_others(c);
    if (!*c->teacher_model && !*c->teacher_adapter)
        return fail(E_USAGE, "'teacher.model' is missing: objective distill learns from a model (a .gguf file or a Hugging Face folder), "
                             "or from the student's own base with "
                             "'teacher.adapter'");
    if (*c->teacher_tokenizer && !*c->teacher_model)
        return fail(E_USAGE, "'teacher.tokenizer' has no use without 'teacher.model': the student's own base has the student's");
    if (*c->distill_cache && !c->distill_top_k)
        return fail(E_USAGE,
                    "'distill.cache' keeps the teacher's best ids: say how many of each token as 'distill.top_k' (16 to 64 are usual)");
    const char *idle = c->label_smoothing > 0 ? "label_smoothing_factor" : c->z_loss > 0 ? "z_loss" : NULL;
    if (idle) return fail(E_USAGE, "'%s' has no use with objective distill: what the teacher says is what softens the labels", idle);
    if (c->distill_hidden > 0 && c->distill_top_k)
        return fail(
            E_USAGE,
            "'distill.hidden' compares the teacher's rows, of which 'distill.top_k' keeps nothing but the best ids: leave one of them out");
    if (c->distill_on_policy > 0 && c->distill_alpha < 1)
        return fail(E_USAGE, "'distill.on_policy' goes with distill.alpha 1: what the student writes itself has no labels that the rest of "
                             "the loss could learn");
    if (c->distill_on_policy > 0 && *c->distill_cache)
        return fail(E_USAGE, "'distill.cache' has what the teacher says of the data's answers, 'distill.on_policy' asks it about others: "
                             "leave one of them out");
    if (c->distill_beta != 0.5 && strcmp(c->distill_loss, "jsd") != 0)
        return fail(E_USAGE, "'distill.beta' has no use with distill.loss %s: it is of jsd", c->distill_loss);
    return OK;
}
