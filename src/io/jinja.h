/* An interpreter of the Jinja subset that chat templates are written in, with the provenance of every byte it writes.
 *
 * A chat template is a program of its own inside a model's files. What it renders must be what Python's jinja2 renders
 * in transformers' set-up (sandboxed and immutable, trim_blocks, lstrip_blocks, loopcontrols, the {% generation %} tag,
 * raise_exception, strftime_now, a tojson that does not escape for HTML). Supported: text, comments, raw, print, if,
 * for (unpacking, filter, else, break, continue, loop.*), set (also into a namespace, also as a block), with, macro,
 * filter blocks, generation; all operators; filters, tests and methods as listed in jinja_filters.c and
 * jinja_methods.c. An unknown filter, test or method is an error when it is reached, so that a branch about tools that
 * no conversation takes does no harm. Refused when parsed: include, import, extends, block, call, recursive loops,
 * *args and **kwargs.
 *
 * Provenance: a tag travels with each byte through slices, strips, replacements, concatenation, captures and macros. 0
 * is the template's own text and everything computed; i + 1 is the content of message i; JINJA_GENERATION is set beside
 * it inside {% generation %}. chat.c makes supervised spans of it.
 *
 * A template is hostile: steps, output, memory and nesting are bounded, each with a message; errors are
 * "NAME:LINE:COLUMN: ...". A parsed template is read-only and may be rendered by many threads.
 *
 * A task's templates (data/task_items.c) are rendered over a record's fields instead of messages.
 *
 * Called by chat.c and data/task_items.c. The room: jinja_lex.c (source to tokens), jinja_parse.c (tokens to a tree), jinja_eval.c (walks it), jinja_fields.c (JSON as values),
 * jinja_value.c (strings with tags, Python's repr, equality, order), jinja_filters.c, jinja_methods.c. */
#ifndef CYC_IO_JINJA_H
#define CYC_IO_JINJA_H
#include "base/err.h"
#include "base/str.h"
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef struct jinja jinja;

/* name is what messages call it ("chat template", or a file). */
err jinja_parse(const char *name, const char *source, size_t n, jinja **out);
/* The same as jinja2 is by itself: blocks take nothing of the text around them, and the last line end stays. */
err jinja_parse_plain(const char *name, const char *source, size_t n, jinja **out);
void jinja_free(jinja *t);
bool jinja_has_generation(const jinja *t); /* does it have a {% generation %} block? */

struct chat_message {
    const char *role, *content; /* UTF-8 */
};
struct jinja_limits {
    uint64_t steps; /* nodes visited and, at sixteen to a step, bytes handled */
    size_t output;  /* bytes of the longest string */
    size_t memory;  /* bytes of all values together */
    int depth;      /* of expressions, blocks, macros and values inside one another */
};
extern const struct jinja_limits jinja_default_limits;

/* What a template sees: messages, bos_token, eos_token, pad_token (undefined where NULL), add_generation_prompt; tools
 * and documents are none, as in transformers. */
struct jinja_context {
    const struct chat_message *message;
    size_t n;
    const char *bos, *eos, *pad;
    bool add_generation_prompt;
    const struct tm *now;              /* of strftime_now; NULL: this moment */
    const struct json_t *fields;       /* an object (jansson): a variable for each of its keys, and printing one that is not there is
                                          refused, as jinja2's StrictUndefined does; NULL: none, and it prints nothing */
    const struct jinja_limits *limits; /* NULL: jinja_default_limits */
};

#define JINJA_GENERATION 0x80000000u
struct jinja_text { /* zero-initialise; each render starts anew; jinja_text_free */
    str text;
    uint32_t *tag; /* [text.n] */
    size_t cap;
};
err jinja_render(const jinja *t, const struct jinja_context *c, struct jinja_text *out);
void jinja_text_free(struct jinja_text *t);

#endif
