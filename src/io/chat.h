/* Conversations as a model was taught to read them, and which of their bytes it is trained to write.
 *
 * A conversation is rendered by the model's own template (jinja.h), as transformers' apply_chat_template does: with the
 * tokenizer's bos_token and eos_token, tools and documents none. The result is cut into segments, each supervised or not,
 * to be encoded one by one with special tokens recognised.
 *
 * What is supervised is read off the template's structure, never searched for in the text:
 * - where the template has {% generation %} blocks, what they wrote;
 * - else, for each assistant's message, by provenance: the interpreter knows for each byte whether it is the template's or
 *   which message's content. The span ends with the first control token that the template itself writes behind the
 *   content (<|im_end|>, <|eot_id|>, </s>, ...; not the line end behind it). It begins where the generation prompt ends:
 *   the messages before it are rendered with add_generation_prompt, and what the template writes behind the last content
 *   there is compared with what it writes between the two contents here. As far as both agree it is prompt, what follows
 *   (a leading space, an empty <think> block that the prompt lacks) is what a model has to write, so that training sees
 *   the tokens that generation does. A prompt with more than the training text has (a forced "<think>") is told once, as
 *   a warning. Where no prompt can be made (the conversation begins with the assistant) the span begins with the content.
 * A turn that the template leaves out has no span (all of them left out is E_INPUT). A turn that ends without a control token is
 * E_UNSUPPORTED: a model could not learn to stop.
 *
 * Refused (E_INPUT, naming the message): a content of which a byte would become part of a control token; what the template
 * itself refuses, in its own words with line and column. Not an object for several threads at once. Called by data/rows.c
 * and the API. */
#ifndef CYC_IO_CHAT_H
#define CYC_IO_CHAT_H
#include "base/err.h"
#include "base/str.h"
#include "io/jinja.h"
#include "io/tokenizer.h"

struct chat_segment {
    size_t start, end; /* bytes of the text */
    bool supervised;
};
struct chat_text { /* zero-initialise; each render starts anew; chat_text_free */
    str text;
    struct chat_segment *seg;
    size_t n, cap;
};

/* A parsed template and the tokenizer's control tokens. The tokenizer outlives it. A tokenizer without a template is
 * E_UNSUPPORTED, with the way out. strftime_now says today's date, or that of SOURCE_DATE_EPOCH where that is set. */
struct chat;
err chat_open(const tokenizer *tk, struct chat **out);
void chat_close(struct chat *c);

/* With `prompt` the text ends with the head of an assistant's turn and nothing in it is supervised. */
err chat_render(struct chat *c, const struct chat_message *m, size_t n, bool prompt, struct chat_text *out);
void chat_text_free(struct chat_text *c);

/* The template that a configuration names: a file, or a built-in one (chatml), appended to `out`. */
err chat_template_load(const char *name, str *out);

#endif
