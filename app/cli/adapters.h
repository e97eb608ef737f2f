/* --adapter DIR, or several at once: --adapter NAME=DIR[:WEIGHT], once for each. */
#ifndef CYC_CLI_ADAPTERS_H
#define CYC_CLI_ADAPTERS_H
#include "args.h"
#include <cyclora/cyclora.h>

struct adapters {
    cyc_adapter *a;     /* NULL: none */
    cyc_member *member; /* [n], as the command line has them */
    int n;              /* 0: it is one alone, or none */
    void *texts;
};

/* rows: rows will name adapters, so that even one is one of several. off: all are opened with weight 0, rows say which they want. Says what
 * is wrong and returns the status; adapters_close() follows either way. */
int adapters_open(const char *command, cyc_model *m, const struct arg_list *list, bool rows, bool off, struct adapters *out);
void adapters_close(struct adapters *s);
/* A row's word on adapters (a jansson value) as its weights [n]: NULL: the command line's (off: none); null: none; a name: this one alone;
 * {"name": weight, ...}. where: file:line, for messages. */
int adapters_row(const struct adapters *s, const json_t *word, bool off, const char *where, float *weight);

#endif
