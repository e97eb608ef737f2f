/* Lists of items as one line of text, for models to read and write: what lies between a structure and a text.
 *
 *   entities   LOC: New York | PER: Ada Lovelace          type, mention (a record's fields: name, value)
 *   triples    Ada | bornIn | London && Ada | field | mathematics     subject, predicate, object
 *
 * An empty list is "none". What listing_render() writes, listing_parse() reads back as it was, whatever the fields hold:
 *   \n \r \t   line ends and tabs; \xHH any other control character; \s a space at a field's beginning or end; \e an empty field
 *   \\         a backslash; and a backslash before a separator's first sign where the field has one that would be read as such
 * Nothing else is escaped, so "AT&T", "12:30" and "a|b" stay as they are.
 *
 * Parsing takes any text, since models write any: spaces around fields are dropped, a backslash before anything else means that character,
 * what follows the last field's beginning belongs to it, and an item with too few fields is kept with those that it has.
 * Called by recipes (data/recipes.c) and by metrics of items. */
#ifndef CYC_DATA_LISTING_H
#define CYC_DATA_LISTING_H
#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"
#include <stdbool.h>

enum { ITEM_FIELDS = 3 };
struct listing_form {
    const char *name, *between, *within; /* what stands between items, and between an item's fields */
    int fields;
};
extern const struct listing_form listing_entities, listing_triples;

struct item {
    int n; /* fields; fewer than the form's: it could not be read */
    const char *field[ITEM_FIELDS];
};
struct listing { /* zeroed: empty */
    arena mem;
    struct item *v;
    int n, cap;
};
err listing_add(struct listing *l, const struct item *item); /* its strings are copied */
void listing_render(const struct listing_form *f, const struct listing *l, str *out);
err listing_parse(const struct listing_form *f, const char *text, struct listing *out); /* out: emptied first */
void listing_clear(struct listing *l); /* keeps the memory of the list, not of its strings */
void listing_free(struct listing *l);
bool item_equal(const struct item *a, const struct item *b);

#endif
