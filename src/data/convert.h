/* Records of any shape as messages, or as prompt and completion (`cyclora data convert`). What the shape does not hold (other fields) is left out.
 *
 * A pair becomes a user's and an assistant's turn. A conversation becomes a pair where it has one answer and that is its end: of strings where nothing
 * but a user's turn is before it, else of lists of messages. One of several answers has no such form and is refused with its line, and so is a plain
 * text, which answers nothing. Called by api. */
#ifndef CYC_DATA_CONVERT_H
#define CYC_DATA_CONVERT_H
#include "data/rewrite.h"

err data_convert(const struct rewriting *w, const char *to); /* "messages", "prompt_completion" */

#endif
