/* Fuzz target for data/listing.c: any text as a list of entities (first byte e) or of triples. Whatever it says can be read, and where
 * every item has all its parts, what is written of it is the same list when it is read again. tools/fuzz.sh runs it;
 * tests/unit/test_score.c replays the corpus. */
#include "data/listing.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size || memchr(data, 0, size)) return 0;
    const struct listing_form *form = data[0] == 'e' ? &listing_entities : &listing_triples;
    struct listing l = {0}, back = {0};
    str text = {0}, again = {0};
    str_add(&text, (const char *)data + 1, size - 1);
    if (listing_parse(form, text.p ? text.p : "", &l)) abort();
    bool whole = true; /* an item with too few parts has no form of its own */
    for (int i = 0; i < l.n; i++) whole &= l.v[i].n == form->fields;
    listing_render(form, &l, &again);
    if (listing_parse(form, again.p ? again.p : "", &back)) abort();
    if (whole && back.n != l.n) abort();
    for (int i = 0; whole && i < l.n; i++)
        if (!item_equal(&l.v[i], &back.v[i])) abort();
    str_free(&text);
    str_free(&again);
    listing_free(&l);
    listing_free(&back);
    return 0;
}
