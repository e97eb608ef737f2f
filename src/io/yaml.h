/* A YAML file as JSON, for files that are others' (a task of the lm-evaluation-harness): mappings, sequences, and scalars as PyYAML reads
 * them, so that an unquoted `no` is false and 1.0 a number. Places are kept in messages only.
 *
 * Refused, as file:line: anchors and aliases, tags (among them the harness's !function), several documents, a key given twice or that is
 * no text, nesting beyond 32, files of more than 1 MiB. Called by data/task.c; the configuration has a reader of its own (train/config_yaml.c). */
#ifndef CYC_IO_YAML_H
#define CYC_IO_YAML_H
#include "base/err.h"
#include <jansson.h>

struct yaml_event_s; /* libyaml's yaml_event_t */

err yaml_read(const char *path, json_t **out); /* the caller's; NULL after an error. An empty file is JSON's null */
err yaml_parse(const char *path, const void *bytes, size_t n, json_t **out);

/* What no file of ours uses, of an event: not NULL where it is an alias or has an anchor; its tag. */
void yaml_marks(const struct yaml_event_s *e, const void **anchor, const char **tag);

#endif
