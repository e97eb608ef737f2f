/* text: continued pretraining of one adapter on raw text, so that a model comes to know a domain.
 *
 * A record is a document (a line, a JSON record's field, with format: document a whole file). It is learnt from its first token to an EOS behind it; one
 * that is longer than max_length goes on in the next row (rows_documents). Rows lie end to end in a pass and see nothing of each other.
 *
 * What is held out is measured without the EOS, so that perplexity and bits for each byte are of the text, and of any other text's too: the guards'
 * (guard.c), and `cyclora eval --text`. Before the first step those of the base say how far the text is from what the base was trained on:
 * an adapter changes how a model writes more easily than it teaches a language, so text far away is warned of.
 *
 * Refused: encoder-decoders, which have nothing to read before such a text. Called by run.c through objectives.def. */
#include "base/log.h"
#include "train/one_side.h"
#include <string.h>

static err make(struct run *r, struct source *from, struct rows *to) {
    return rows_documents(r->base[0].tok, from, (int)r->side[0].cfg->max_length, true, to);
}

static err make_held_out(struct run *r, struct source *from, struct rows *to) {
    return rows_documents(r->base[0].tok, from, (int)r->side[0].cfg->max_length, false, to);
}

static err load(struct run *r) {
    if (r->base[0].model.family->seq2seq)
        return fail(E_UNSUPPORTED,
                    "%s is an encoder-decoder (%s): objective text has nothing for its encoder to read; use sft with prompts",
                    r->side[0].cfg->model, model_arch(&r->base[0].model));
    TRY(data_open(r, r->side[0].cfg, WANT_TEXT, false, &r->side[0].source));
    return one_side_load(r, &(struct row_maker){WANT_TEXT, "documents", make, make_held_out});
}

static err evaluate(struct run *r, const struct pairs *on, json_t *out) {
    TRY(one_side_evaluate(r, on, out));
    json_t *side = json_array_get(json_object_get(out, "sides"), 0);
    const double bits = json_number_value(json_object_get(side, "bits_per_byte")), far = r->cfg->text_far;
    const char *tag = json_string_value(json_object_get(out, "tag")); /* of the base: before a run, or asked for */
    if ((strcmp(tag, "before") && strcmp(tag, "base")) || far <= 0 || bits <= far) return OK;
    json_object_set_new(side, "far", json_true());
    log_warn("the held-out text costs the base %.2f bits for each byte, more than text.far_bits_per_byte (%g): it is far from what the "
             "base was trained on. "
             "An adapter will learn its look sooner than what it says; a base that knows such text is the better start",
             bits, far);
    return OK;
}

const struct objective objective_text = {.name = "text", .sides = 1, .load = load, .step = one_side_step, .evaluate = evaluate};
