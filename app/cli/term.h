/* Output for people: colours and widths where there is a terminal, tables, sizes, one line that is rewritten in place.
 *
 * Colours are used on a terminal unless NO_COLOR is set or TERM is dumb. Everything printed through here goes to
 * stdout. */
#ifndef CYC_CLI_TERM_H
#define CYC_CLI_TERM_H
#include "base/str.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

bool term_tty(void); /* stdout is a terminal that can rewrite a line */
bool term_colour(void);
int term_width(void); /* columns; 100 where unknown */
/* Wrap text in these; empty strings where there are no colours. */
const char *term_bold(void), *term_dim(void), *term_good(void), *term_off(void);

/* "98.4 MB" (decimal units), "1:02:03", "134.5M"; the last `out` of a few calls stays valid. */
const char *show_bytes(double n);
const char *show_time(double seconds);
const char *show_count(double n);

/* The progress line: shown in place of the last one, cut to the width; cleared before anything else is printed. */
void progress_show(const char *line);
void progress_clear(void);

/* A text for one line: control characters as escapes, cut after `columns` with an ellipsis (0: not cut). */
void text_one_line(str *out, const char *text, int columns);

/* Words of one line, broken where the terminal ends. */
void print_wrapped(const char *text);

/* A table: heads first, then cells row by row. A head that starts with '>' aligns to the right; a column without any
 * text is not shown. table_print() releases it. */
enum { TABLE_COLUMNS = 24 };
struct table {
    str cells; /* each ended by a NUL */
    const char *head[TABLE_COLUMNS];
    int columns;
};
void table_head(struct table *t, const char *head);
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_text(struct table *t, const char *text);                                    /* one line of it */
void table_number(struct table *t, const json_t *o, const char *key, const char *fmt); /* empty where absent */
void table_bytes(struct table *t, const json_t *o, const char *key);
void table_print(struct table *t, const char *indent);

#endif
