/* Texts from files: JSONL (one object per line) or plain lines, as lists of records in memory with their origin, so
 * that every later complaint can say file:line.
 *
 * A record is what the line holds, not yet tokens: {"text"}, {"prompt","completion"}, {"messages"}, or any pair of
 * string fields ({"a","b"}). Other fields are allowed and ignored.
 *
 * Refused, always as file:line: a line that is not one JSON object, a key given twice, a missing, blank or non-string
 * field, an unknown role, a conversation without an assistant's turn, a NUL, invalid UTF-8. A file that yields no
 * record is refused too. Accepted: a byte order mark, CRLF, blank lines (skipped, but counted), a last line without
 * its newline, lines of any length.
 *
 * Called by data/rows.c's users (train, api). Strings live as long as the source. A caller that wants fewer records
 * ("limit: 64") lowers `n`. */
#ifndef CYC_DATA_SOURCE_H
#define CYC_DATA_SOURCE_H
#include "base/arena.h"
#include "base/err.h"
#include "io/chat.h"

struct record {
    const char *text;                 /* {"text"}, a named field, or a plain line */
    const char *prompt, *completion;  /* {"prompt","completion"} or the two named fields of a pair */
    const struct chat_message *turns; /* {"messages"}; role: system, user, assistant, tool */
    int n_turns;
    int line; /* 1-based */
};

enum source_want { WANT_TEXT, WANT_PAIR, WANT_SFT /* prompt/completion or messages, per line */ };

struct source {
    arena mem;
    const char *path;
    int n;
    struct record *r;
    char hash[33]; /* XXH3 128 of the file */
};

/* field/field2 name the JSON fields (WANT_TEXT: "text" when NULL; WANT_PAIR and WANT_SFT: "prompt", "completion" when
 * NULL). A file not ending in .jsonl or .json is plain lines (WANT_TEXT only; they have no fields, so
 * none is asked for). On error nothing is left to close. */
err source_open(const char *path, enum source_want want, const char *field, const char *field2, struct source *s);
/* The same from memory; path is the name for messages, and its ending says which of the two formats. */
err source_parse(const char *path, const void *bytes, size_t n, enum source_want want, const char *field,
                 const char *field2, struct source *s);
void source_close(struct source *s);

#endif
