/* What is wrong with data files, record by record, before a run is spent on them (`cyclora data check`).
 *
 * A file's shape is what most of its records have. Each record is then read as training reads it, and its texts are looked at. Bad is what
 * training would refuse, or learn wrongly:
 *   record   it cannot be read, or lacks what its shape wants (data/shapes.h): no JSON, a missing or empty field, an unknown role, no UTF-8, a NUL
 *   roles    a system turn that is not the first, two of one speaker in a row, an assistant that begins, nothing after the last question
 *   control  a conversation holds text that a model reads as the end of a turn
 *   row      with a tokenizer: what its chat template or the rows of training refuse; nothing left to learn within max_length
 * Warned of is what training takes and a person should see:
 *   long     with a tokenizer: more tokens than max_length, so the end of the answer is lost
 *   cut      the last answer stops inside a code fence, or behind a comma, a colon or an opening bracket
 *   symbols  U+FFFD (text that was decoded wrongly before), control characters; control tokens in plain texts and pairs
 * A file in which records cannot be told apart (a quote that is never closed) is an error, as everywhere.
 *
 * Streamed: kept are the troubles that are listed. Called by api. */
#ifndef CYC_DATA_CHECK_H
#define CYC_DATA_CHECK_H
#include "data/source.h"
#include "io/tokenizer.h"

struct check_options {
    const tokenizer *tk; /* NULL: without tokens */
    int max_length;
    int limit; /* of the troubles that are listed, 0: all; all are counted */
};
/* Adds to `out`: {"files": [{"path", "container", "shape", "packing", "bytes", "rows", "fit", "fields": [{"name", "rows"}], "byte_order_mark",
 * "crlf"}], "rows", "bad", "warned" (records), "kinds": [{"kind", "bad", "count"}], "troubles": [{"path", "line", "kind", "bad", "what"}]}. */
err data_check(const struct source_file *files, int n, const struct check_options *o, struct json_t *out);

#endif
