/* Ready configurations: the files of examples/, compiled in (cmake/embed.cmake), so that what `cyclora init` writes and what the project
 * runs are one text. Users call them recipes; here the word is an adapter's way of learning (train/run.h) and a way of preparing data
 * (data/recipes.h). One row of examples.def each.
 *
 * An example is YAML of one key a line, nested by two spaces, each line with a comment that says why (tests/unit/test_examples.c holds
 * them to it). That is what lets values be replaced in the text, with comments and places kept. Data of a user's own leave what belongs
 * to the example's (held-out files, pairs) commented out, unless they are given too.
 *
 * Refused: an unknown recipe, one that is a command and has no configuration, a key that the example does not set, data for more sides
 * than it has, an output that exists; and whatever config_parse() and config_check() refuse of the result, which is read before it is put
 * in its place. Called by api. */
#ifndef CYC_TRAIN_EXAMPLES_H
#define CYC_TRAIN_EXAMPLES_H
#include "train/config.h"

struct example {
    const char *name, *text; /* text NULL: a command alone */
    const char *page, *command, *about;
};
const struct example *examples_all(int *n);
err example_find(const char *name, const struct example **out); /* E_USAGE names the nearest, or all */

/* What goes over an example; NULL and 0: its own. */
struct example_edits {
    const char *model;
    struct strs data;                /* of one side a list; of several each side's, in their order */
    const char *eval, *test, *pairs; /* eval.data, test.data, warmup_pairs.data */
    struct strs sets;                /* "key=value", the value as YAML has it; only keys that the example sets */
};
/* The edited text, appended to `out`, and what it says (c: after config_init(); checked). where: its name in messages. */
err example_edit(const struct example *x, const struct example_edits *edits, const char *where, str *out, struct config *c);

#endif
