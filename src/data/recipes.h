/* Ready recipes that make the data of cycle training from what people have (`cyclora data prepare`). One row of recipes.def each: how
 * the input is read into pairs of texts A and B, and, where one of them is a structure, the form in which it is written
 * (data/listing.h), whose reading gives the structure back; what is written is read again here, and must be the same.
 *
 *   entities    CoNLL files, or JSONL of tokens and tags (IOB, IOBES): a sentence <-> its entities "type: mention | ..." in their order
 *   records     JSONL of an object of fields and a text: "name: value | ..." <-> text
 *   triples     JSONL of triples and a text (WebNLG): "subject | predicate | object && ..." <-> text
 *   languages, style   two files of as many lines, a TSV of two columns without a header, or one JSONL, CSV or other file with named fields
 *
 * Which part a pair belongs to is a function of its A-text and the seed, so it does not depend on what else is in the files, and equal
 * A-texts are never in two parts. Equal pairs count once. Refused, as file:line: what the readers of files refuse, tags that mark no
 * entities, files of different length, an empty text. Called by api. */
#ifndef CYC_DATA_RECIPES_H
#define CYC_DATA_RECIPES_H
#include "data/listing.h"
#include <stdint.h>

struct recipe;
struct text_pair {
    const char *a, *b;
};
struct text_pairs { /* zeroed: empty */
    arena mem;
    struct text_pair *v;
    int n, cap, duplicates;
};
struct recipe_input {
    const char *const *files;
    int n;
    const char *field, *field2; /* NULL: the recipe's own */
};
struct recipe {
    const char *name, *a, *b; /* what the sides are called in prompts */
    err (*read)(const struct recipe *r, const struct recipe_input *in, struct text_pairs *out);
    const struct listing_form *form;          /* of the structured side; NULL: both are plain text */
    bool structure_first;                     /* it is A */
    const char *metrics_a, *metrics_b, *best; /* of what adapters A and B write; metric_for_best_model */
};
const struct recipe *recipe_find(const char *name); /* NULL: there is none */
err recipe_unknown(const char *name);
err recipe_read(const struct recipe *r, const struct recipe_input *in, struct text_pairs *out); /* on error nothing is left to free */
void text_pairs_free(struct text_pairs *p);

enum part { PART_A, PART_B, PART_WARM, PART_DEV, PART_TEST, PARTS };
struct shares {
    double warm, dev, test;
}; /* of the pairs; half of the others give their A-text, the other half their B-text */
enum part recipe_part(const char *a, uint64_t seed, const struct shares *shares);

#endif
