/* Conversations as a model was taught to read them.
 *
 * A chat template is a Jinja program inside the tokenizer's files. There is no interpreter here: the one family of
 * templates that is recognised is plain ChatML (SmolLM2, Qwen 2 and 2.5 without tools), anything else is E_UNSUPPORTED.
 *
 * A conversation becomes segments of text, each with a flag that says whether a model is trained to produce it: an
 * assistant's words and the <|im_end|> after them are, all else is not. Segments are meant to be encoded one by one,
 * special tokens recognised: then training sees the same tokens as generation, whose prompt ends where a supervised
 * segment begins. */
#ifndef CYC_IO_CHAT_H
#define CYC_IO_CHAT_H
#include "base/err.h"
#include "base/str.h"

struct chat_message {
    const char *role, *content;
};

struct chat_segment {
    size_t start, end; /* bytes of the text */
    bool supervised;
};
struct chat_text { /* zero-initialise; each render starts anew; chat_text_free */
    str text;
    struct chat_segment *seg;
    size_t n, cap;
};

struct chat_template {
    str system; /* the turn put before a conversation without a system message */
    bool has_system;
};

/* Recognises a template's source (tokenizer_template(); NULL is E_UNSUPPORTED too). */
err chat_template_read(const char *source, struct chat_template *out);
void chat_template_free(struct chat_template *t);

/* With `prompt` the text ends with the head of an assistant's turn. */
err chat_render(const struct chat_template *t, const struct chat_message *m, size_t n, bool prompt,
                struct chat_text *out);
void chat_text_free(struct chat_text *c);

#endif
