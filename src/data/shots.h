/* Zero and few shots: which examples stand before a record, the prompt that they make, and how options are laid behind it as ids.
 *
 * A prompt is description, then of each example question, target_delimiter, answer, shot_delimiter, then the record's own question; in a
 * chat the description is the system's message, each question the user's and each answer the assistant's (the harness's
 * fewshot_as_multiturn, its default), and options follow without the delimiter.
 *
 * Tokens, as the harness (lm_eval/api/model.py, _encode_pair): white space at a prompt's end belongs to the option; the prompt is encoded,
 * then prompt and option as one text, and the option's ids are those behind as many as the prompt has alone. So a merge across the
 * boundary is lost to neither training's rule (data/rows.h joins segments as ids) nor to other programs' figures: here it is theirs that
 * are to be met. An empty prompt is the BOS, or where there is none the EOS.
 *
 * Called by the api. */
#ifndef CYC_DATA_SHOTS_H
#define CYC_DATA_SHOTS_H
#include "data/task.h"
#include "io/chat.h"

/* SAME: drawn once, for all records; EACH: anew for each; FIRST: the first of the file; TASK: FIRST where the task says so, else SAME.
 * Of k examples the first k - 1 are those of k - 1. */
enum shot_order { SHOTS_TASK, SHOTS_SAME, SHOTS_EACH, SHOTS_FIRST };
/* k different examples for record `item`, none equal to it: which[k] among task_examples(). E_INPUT where there are too few. */
err shots_draw(const struct task *t, enum shot_order order, uint64_t seed, int item, int k, int *which);
/* Appends the prompt; chat NULL: as plain text. */
err shots_prompt(const struct task *t, const struct item *it, const int *which, int k, struct chat *chat, str *out);

/* ids of a prompt, with what the model expects before a text; options: behind which options come (else a text is written). */
err prompt_encode(const tokenizer *tk, const str *prompt, bool options, struct ids *out);
/* Those of `text` behind it, given the prompt's own. E_INPUT where nothing is left of it. */
err option_encode(const tokenizer *tk, const str *prompt, const struct ids *prompt_ids, const char *delimiter, const char *text,
                  struct ids *out);

#endif
