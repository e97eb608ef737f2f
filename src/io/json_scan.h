/* The long parts of a tokenizer.json (a vocabulary of 262,144 texts, half a million merges), read where they lie: as
 * jansson's values they would take some hundred bytes each. Private to src/io.
 *
 * scan_outline finds the values of some keys and hands back the rest of the document, which jansson reads; a cursor
 * then walks such a value. Both check what they walk over; errors name line and column. */
#ifndef CYC_IO_JSON_SCAN_H
#define CYC_IO_JSON_SCAN_H
#include "base/err.h"
#include "base/str.h"

struct scan_span {
    size_t start, end; /* of the value in the document; both 0 when the key is absent */
};
/* Finds keys of the object under root key `object`. `rest` becomes the document with null for their values, lines
 * kept. Only brackets and strings are looked at, so a damaged document passes on to jansson, which says where. */
err scan_outline(const char *name, const char *bytes, size_t n, const char *object, const char *const *keys,
                 struct scan_span *spans, str *rest);

struct scan_cursor {
    const char *name, *doc;
    size_t at, end;
    str text; /* the last string, where it had escapes */
};
void scan_open(struct scan_cursor *c, const char *name, const char *doc, struct scan_span span);
void scan_close(struct scan_cursor *c);
char scan_peek(struct scan_cursor *c); /* the next character that is not white space; 0 at the end */
err scan_take(struct scan_cursor *c, char want);
/* After an opening bracket or a value: the next value or key follows (true), or the closing bracket (taken). */
err scan_more(struct scan_cursor *c, char close, bool *first, bool *more);
err scan_string(struct scan_cursor *c, const char **text, size_t *n); /* valid until the next */
err scan_number(struct scan_cursor *c, double *value, bool *integer);
err scan_fail(const struct scan_cursor *c, const char *what); /* E_INPUT with the place */
const char *scan_kind(struct scan_cursor *c);                 /* "an object", "a string", ...: of the next value */

#endif
