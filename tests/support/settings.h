/* Settings of runs, and of adapters that are taken or refused: a text as adapter_config.json of a folder in the test program's own (support/folder.h), read and
 * laid down on a base. */
#ifndef TESTS_SETTINGS_H
#define TESTS_SETTINGS_H
#include "train/config.h"

/* The defaults, with `n` sets of "key=value" over them, and then those of a NULL-terminated list (NULL: none). */
void config_with(struct config *c, const char *const *sets, size_t n, const char *const *more);

err settings_read(const char *json, const char *base);
void settings_refused(const char *json, const char *base, err code, const char *why); /* why: a part of the message */

#endif
