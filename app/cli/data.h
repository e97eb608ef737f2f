/* What the subcommands of `cyclora data` share: which files are asked for, and how their fields are called. */
#ifndef CYC_CLI_DATA_H
#define CYC_CLI_DATA_H
#include "args.h"
#include <cyclora/cyclora.h>

struct data_in { /* options as they were given, NULL where they were not */
    struct arg_list files;
    const char *model, *format, *field;
    int max_length;
    char *own; /* the names in `field`, apart */
};
/* The library's request; -1, or says which argument is missing and returns the status. data_in_free() follows either way. */
int data_request(struct data_in *in, const char *command, cyc_data_request *q);
void data_in_free(struct data_in *in);
/* The end of a command that wrote OUT: its card is shown, or what went wrong is said; the status. Takes text. */
int data_written(int code, char *text, const char *out, bool json);
void print_card(const json_t *card);

#endif
