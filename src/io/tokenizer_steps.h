/* The pipeline around the model, from tokenizer.json: normalizer, pre_tokenizer, post_processor, decoder; and the
 * field readers that it shares with tokenizer_json.c. Private to src/io.
 *
 * A step that is not known is E_UNSUPPORTED by its name and place: to skip it would give other ids. */
#ifndef CYC_IO_TOKENIZER_STEPS_H
#define CYC_IO_TOKENIZER_STEPS_H
#include "io/tokenizer_internal.h"
#include <jansson.h>

/* Where in the file a value is, for messages: "pre_tokenizer.pretokenizers[1]". */
struct place {
    const char *name; /* the file */
    char path[96];
};
struct place place_in(const struct place *at, const char *key, int index); /* index -1: no list */

bool field_null(const json_t *v); /* absent or null */
err field_wrong(const struct place *at, const char *key, const json_t *v, const char *wanted);
err field_bool(const struct place *at, const json_t *o, const char *key, bool fallback, bool *out);
/* A text; where it may be absent, `out` keeps its value. */
err field_text(const struct place *at, const json_t *o, const char *key, bool needed, const char **out, size_t *n);
err field_count(const struct place *at, const json_t *o, const char *key, size_t fallback, size_t *out);

err steps_normalizer(tokenizer *t, const json_t *step);
err steps_pre_tokenizer(tokenizer *t, const json_t *step);
err steps_decoder(tokenizer *t, const json_t *step);
/* Reads what goes around a text into t->prefix and t->suffix. */
err steps_post_processor(tokenizer *t, const json_t *step);
/* Does a pre_tokenizer spell texts in GPT-2's byte alphabet? */
bool steps_byte_level(const json_t *step);

#endif
