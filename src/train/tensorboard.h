/* TensorBoard's event files, as far as numbers over steps need them. See tensorboard.c. */
#ifndef CYC_TRAIN_TENSORBOARD_H
#define CYC_TRAIN_TENSORBOARD_H
#include "base/err.h"
#include "base/str.h"
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *bytes, size_t n); /* Castagnoli's, as iSCSI has it: "123456789" gives e3069283 */
void tfrecord_add(str *file, const str *payload);

/* Begins a file below folder (made where it is missing), named as TensorBoard wants it; *path is the caller's to free. restart >= 0: readers drop
 * what other files there say of this step and later ones. */
err events_begin(const char *folder, int64_t restart, char **path);
/* A line of metrics.jsonl: its numbers under train/, eval/ or test/, at its step. */
err events_append(const char *path, const json_t *line);

#endif
