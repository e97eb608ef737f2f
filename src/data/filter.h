/* Records that pass every rule (`cyclora data filter`). The rules are tried in the order of this struct; a record counts for the first one that it
 * fails. What is 0 or NULL is no rule, so that a run without any is refused, and so is one that leaves nothing.
 *
 * Characters are code points of all that a record says; letters are letters and marks. Lengths in tokens are those of the row that training would make,
 * template and end tokens and all. The ratio is the answers' characters over those of what they answer; plain texts have none. A repeated line is one
 * that an earlier line of the same record equals; blank lines do not count. Called by api. */
#ifndef CYC_DATA_FILTER_H
#define CYC_DATA_FILTER_H
#include "data/rewrite.h"
#include "io/tokenizer.h"

struct filter_options {
    const tokenizer *tk; /* for tokens */
    int min_tokens, max_tokens, min_chars, max_chars;
    double min_ratio, max_ratio;
    double min_letters;      /* share of the characters that are not white space */
    double max_repeated;     /* share of the lines; 0: no rule */
    const char *alphabet;    /* "Latin,Greek": Unicode's names of scripts; letters of others are foreign */
    double max_foreign;      /* share of the letters */
    const char *const *keep; /* [n_keep] "FIELD=REGEX" (PCRE2): the field must match; "=REGEX": all that the record says */
    int n_keep;
    const char *const *drop; /* [n_drop] likewise: it may not */
    int n_drop;
};
err data_filter(const struct rewriting *w, const struct filter_options *o);

#endif
