/* Shell lines in tests of the command: $C is the program, $D the test program's own folder, $G the cipher fixture. */
#ifndef TESTS_SHELL_H
#define TESTS_SHELL_H
#include "support/support.h"
#include <jansson.h>

struct ran { int status; str out, err; };
extern struct ran ran; /* the last line's exit status and what it wrote */

int shell_begin(void **state); /* makes $D; for cmocka_run_group_tests */
int shell_end(void **state);
void sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void ok(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* the same, and it must end with 0 */
/* Status 2, nothing on stdout, one line of error on stderr that holds each part. */
void refused_(const char *line, ...);
#define refused(...) refused_(__VA_ARGS__, NULL)
void says(const char *text, const char *part);
json_t *json_of(const char *name); /* of a file in $D; the caller's */
/* $D/train.jsonl and dev.jsonl: texts of the letters s, l, e and their class, which the last letter tells. */
void labelled_letters(void);

#endif
