/* What the commands that write models and adapters share: what they print of a plan, of progress and of what was written (the JSON
 * that the library's callbacks get), how a signal stops them, and the size of a shard. Called by export.c and prune.c. */
#ifndef CYC_CLI_EXPORTED_H
#define CYC_CLI_EXPORTED_H
#include <stddef.h>
#include <stdint.h>

void exported_signals(void); /* SIGINT and SIGTERM stop the library's call */
void exported_plan(void *ctx, const char *json);
void exported_progress(void *ctx, size_t done, size_t total);
void exported_done(void *ctx, const char *json);
/* "5GB", "500MB", "1.5 GiB", bytes. -1 to go on, or the exit status after a complaint. */
int exported_shard(const char *text, int64_t *bytes);

#endif
